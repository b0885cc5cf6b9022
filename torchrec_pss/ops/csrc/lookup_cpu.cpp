// CPU implementation of torchrec_pss::lookup and torchrec_pss::lookup_backward, and of their kin for packed elements.
//
// The schemas stand in schemas.h, the meaning of every argument in torchrec_pss/ops/lookup.py, and the results to reproduce in
// torchrec_pss/ops/reference.py. No index tensor is written: addresses are computed, tile by tile,
// where they are used.

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <numeric>
#include <optional>
#include <tuple>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

#include "inputs.h"
#include "sharing.h"

namespace torchrec_pss {

extern const Kernels* const kPortableKernels;
extern const KernelsOf<double, double>* const kFp64Kernels;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
extern const Kernels* const kAvx2Kernels;
extern const Kernels* const kAvx512Kernels;
#endif

[[noreturn]] void out_of_memory(uint64_t bytes) {
  TORCH_CHECK(false, "the lookup could not allocate ", bytes, " bytes of working memory");
}

namespace {

// The best that the processor runs; TORCHREC_PSS_ISA=portable, avx2 or avx512 asks for less.
const Kernels& best_kernels() {
  static const Kernels* const chosen = [] {
    const char* wanted = std::getenv("TORCHREC_PSS_ISA");
    const auto allowed = [&](const char* name) { return wanted == nullptr || *wanted == 0 || std::strcmp(wanted, name) == 0; };
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    if (allowed("avx512") && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512cd")) {
      return kAvx512Kernels;
    }
    if ((allowed("avx2") || allowed("avx512")) && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
        __builtin_cpu_supports("f16c")) {
      return kAvx2Kernels;
    }
#endif
    return kPortableKernels;
  }();
  return *chosen;
}

const char* isa() {
  const Kernels* const kernels = &best_kernels();
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
  if (kernels == kAvx512Kernels) {
    return "avx512";
  }
  if (kernels == kAvx2Kernels) {
    return "avx2";
  }
#endif
  return kernels == kPortableKernels ? "portable" : nullptr;
}

// Indices of a chunk: the more, the more of them repeat, but their hash table stays in the second cache, and there are chunks for
// many threads. What results may depend on chunks, so that they must not on the number of threads.
constexpr int64_t kLeastChunk = 2048, kMostChunk = 16384, kChunks = 16;

struct Rows {
  int64_t feature, first, last;
};

int64_t indices_of(const Problem& p, const Rows& rows) {
  const int64_t* const offsets = p.offsets + rows.feature * p.batch_size;
  return p.pooling_mode == kNone ? rows.last - rows.first : offsets[rows.last] - offsets[rows.first];
}

// The rows of all features, in runs of whole tiles.
std::vector<Rows> chunks_of(const Inputs& inputs) {
  const Problem& p = inputs.problem;
  const int64_t indices = std::clamp(inputs.num_indices / kChunks, kLeastChunk, kMostChunk);
  std::vector<Rows> chunks;
  for (int64_t f = 0; f < inputs.num_features(); ++f) {
    const int64_t last = p.end_row(f);
    const auto index_of = [&](int64_t row) { return p.pooling_mode == kNone ? row : p.offsets[f * p.batch_size + row]; };
    for (int64_t row = p.first_row(f), first = row; row < last; first = row) {
      do {
        row = std::min(row + kTileRows, last);
      } while (row < last && index_of(row) - index_of(first) < indices);
      chunks.push_back({f, first, row});
    }
  }
  return chunks;
}

// Features that hash first: their tasks are the longest, and the last task is waited for.
template <typename Items, typename FeatureOf>
void longest_first(const Inputs& inputs, Items& items, FeatureOf&& feature_of) {
  std::stable_partition(
      items.begin(), items.end(), [&](const auto& item) { return inputs.features[feature_of(item)].num_blocks() > 0; });
}

// Calls run(task) for tasks 0 .. count - 1, each as soon as a thread is free. The first id out of range is raised.
template <typename Run>
void run_tasks(int64_t count, bool parallel, Run&& run) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  BadId bad;
  const int64_t threads = parallel ? std::min<int64_t>(at::get_num_threads(), count) : 1;
  at::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < count; task = next++) {
      const BadId found = run(task);
      if (found.feature >= 0) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (bad.feature < 0 || found.feature < bad.feature) {
          bad = found;
        }
        next = count;
      }
    }
  });
  TORCH_CHECK_INDEX(
      bad.feature < 0, "feature ", bad.feature, ": id ", bad.id, " is out of range [0, ", bad.rows, ")");
}

// Elements of the output from which it is written past the caches.
constexpr int64_t kStreamed = 1 << 20;

// Elements of an optimizer's pass over the array from which a second thread is worth it: some .2 ms of one.
constexpr int64_t kUpdateGrain = 1 << 17;

// Elements read from which a second thread is worth it: some .3 ms of one. Alone it saves time from a half of that on, but threads
// that meet wait busily, and where another process has a core, for milliseconds (docs/results/performance.md). So that tests meet threads in
// small cases too, TORCHREC_PSS_PARALLEL_ELEMENTS asks for another number.
constexpr int64_t kParallelElements = 1 << 18;

bool is_worth_threads(const Inputs& inputs) {
  static const int64_t least = [] {
    const char* wanted = std::getenv("TORCHREC_PSS_PARALLEL_ELEMENTS");
    return wanted == nullptr ? kParallelElements : std::max<int64_t>(std::strtoll(wanted, nullptr, 10), 1);
  }();
  const Problem& p = inputs.problem;
  const int64_t widths = p.pooling_mode == kNone ? 1 : std::max<int64_t>(inputs.num_features(), 1);
  return inputs.num_indices * (p.out_stride / widths) >= least;
}

Packed packed_of(const Elements& elements) {
  Packed packed;
  packed.codes = elements.codes.const_data_ptr<uint8_t>();
  packed.scales = reinterpret_cast<const uint16_t*>(elements.scales.const_data_ptr<at::BFloat16>());
  packed.bits = elements.bits;
  packed.mask = (1U << elements.bits) - 1;
  packed.middle = static_cast<float>(1 << (elements.bits - 1)) - 0.5F;
  return packed;
}

// Calls run(kernels, tensors) for the array's element type.
template <typename Run>
void dispatch(const Inputs& inputs, Run&& run) {
  const auto with = [&](const auto& kernels_of, auto element, auto accumulator) {
    using T = decltype(element);
    using Acc = decltype(accumulator);
    Tensors<T, Acc> tensors;
    if constexpr (std::is_same_v<T, Code>) {
      tensors.array = packed_of(inputs.elements);
    } else {
      tensors.array = inputs.elements.array.const_data_ptr<T>();
    }
    tensors.weights = inputs.weights.defined() ? inputs.weights.const_data_ptr<Acc>() : nullptr;
    tensors.projections = inputs.projections.const_data_ptr<Acc>();
    run(kernels_of, tensors);
  };
  if (inputs.elements.is_packed()) {
    return with(best_kernels().packed, Code{}, float{});
  }
  switch (inputs.elements.type) {
    case at::kFloat:
      return with(best_kernels().fp32, float{}, float{});
    case at::kDouble:
      return with(*kFp64Kernels, double{}, double{});
    case at::kHalf:
      return with(best_kernels().fp16, c10::Half{}, float{});
    case at::kBFloat16:
      return with(best_kernels().bf16, c10::BFloat16{}, float{});
    default:
      TORCH_CHECK_TYPE(false, "the array must be fp32, fp16, bf16 or fp64, got ", inputs.elements.type);
  }
}

// The output, and what backward needs.
std::tuple<at::Tensor, std::vector<at::Tensor>> forward(const Inputs& inputs, int64_t total_width, int64_t read_width) {
  TORCH_CHECK_VALUE(
      read_width == inputs.read_width(), "read_width is ", read_width, ", but the projected features are read ",
      inputs.read_width(), " columns wide");
  Problem problem = inputs.problem;
  problem.stream = inputs.rows() * total_width > kStreamed;
  const auto options = inputs.projections.options();
  const at::Tensor out = at::empty({inputs.rows(), total_width}, options);
  std::vector<Rows> tasks = chunks_of(inputs);
  longest_first(inputs, tasks, [](const Rows& rows) { return rows.feature; });
  const at::Tensor reads = at::empty({inputs.rows(), read_width}, options);
  const at::Tensor numbers = at::empty({inputs.num_indices}, options.dtype(at::kInt));
  dispatch(inputs, [&](const auto& kernels, auto& tensors) {
    using Acc = std::remove_const_t<std::remove_pointer_t<decltype(tensors.out)>>;
    tensors.out = out.template mutable_data_ptr<Acc>();
    tensors.reads = reads.template mutable_data_ptr<Acc>();
    tensors.numbers = numbers.mutable_data_ptr<int32_t>();
    run_tasks(static_cast<int64_t>(tasks.size()), is_worth_threads(inputs), [&](int64_t task) {
      return kernels.forward(problem, tensors, tasks[task].feature, tasks[task].first, tasks[task].last);
    });
  });
  return {out, {reads, numbers}};
}

std::tuple<at::Tensor, std::vector<at::Tensor>> lookup_cpu(
    const at::Tensor& array, const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& projections,
    const at::Tensor& indices, const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights,
    int64_t total_width, int64_t read_width, int64_t pooling_mode, int64_t hash, bool sign) {
  const Inputs inputs(
      array, features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, pooling_mode, hash,
      sign);
  return forward(inputs, total_width, read_width);
}

// The array, which takes the gradient alone, is not read.
std::tuple<at::Tensor, std::vector<at::Tensor>> lookup_packed_cpu(
    const at::Tensor& codes, const at::Tensor& scales, const std::optional<at::Tensor>&, int64_t numel, int64_t bits,
    const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& projections, const at::Tensor& indices,
    const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights, int64_t total_width, int64_t read_width,
    int64_t pooling_mode, int64_t hash, bool sign) {
  const Inputs inputs(
      Elements(codes, scales, numel, bits), features, hot_keys, projections, indices, offsets, per_sample_weights, total_width,
      pooling_mode, hash, sign);
  return forward(inputs, total_width, read_width);
}

// For those who train nothing.
at::Tensor read_cpu(
    const at::Tensor& elements, const std::optional<at::Tensor>& scales, int64_t numel, int64_t bits, const at::Tensor& features,
    const at::Tensor& hot_keys, const at::Tensor& projections, const at::Tensor& indices, const at::Tensor& offsets,
    const std::optional<at::Tensor>& per_sample_weights, int64_t total_width, int64_t read_width, int64_t pooling_mode, int64_t hash,
    bool sign) {
  TORCH_CHECK_VALUE(
      scales.has_value() == (bits < 32), "elements of ", bits, " bits have ", bits < 32 ? "scales, and none were given" : "no scales");
  const Inputs inputs(
      scales ? Elements(elements, *scales, numel, bits) : Elements(elements), features, hot_keys, projections, indices, offsets,
      per_sample_weights, total_width, pooling_mode, hash, sign);
  TORCH_CHECK_VALUE(inputs.elements.numel == numel, "numel is ", numel, ", and there are ", inputs.elements.numel, " elements");
  return std::get<0>(forward(inputs, total_width, read_width));
}

// Elements that the gradients of a chunk's rows take: one for each distinct id, or, if those are not told apart, for each row that is
// projected.
int64_t room_of(const Inputs& inputs, const Rows& rows, const int32_t* numbers) {
  const int64_t n = indices_of(inputs.problem, rows);
  int32_t most = -1;
  for (int64_t i = 0; i < n; ++i) {
    most = std::max(most, numbers[i]);
  }
  const FeatureWork& f = inputs.features[rows.feature];
  const int64_t distinct = std::min(int64_t(most) + 1, n), projected = f.is_projected() ? rows.last - rows.first : 0;
  return std::max(distinct, projected) * f.room;
}

// What a fused optimizer changes: the array, by the gradients that `sink` holds for the time being.
struct FusedUpdate {
  Update update;
  at::Tensor array, state, second;

  bool moves_all() const { return update.kind == kAdam || update.kind == kAdamW; }
};

struct Gradients {
  at::Tensor projections;
  at::Tensor weights;
};

// The features' gradients of their projections, as that of `projections`: features of one table add up.
template <typename Acc>
void add_projections(const Inputs& inputs, const Acc* of_features, Acc* to) {
  for (const FeatureWork& f : inputs.features) {
    const int64_t n = f.inner * f.dim;
    for (int64_t i = 0; i < n; ++i) {
      to[f.projection + i] += of_features[f.grad_projection + i];
    }
  }
}

// Gradients of projections and weights, and, in `sink`, of the array; with an update that is applied, and `sink` is zero as before.
Gradients backward(
    const Inputs& inputs, const at::Tensor& grad_, at::TensorList saved, const at::Tensor& sink,
    const FusedUpdate& fused) {
  const at::Tensor grad = grad_.contiguous();
  const Problem& problem = inputs.problem;
  TORCH_CHECK_VALUE(
      grad.size(0) == inputs.rows(), "gradient ", grad.sizes(), " does not belong to ", inputs.rows(), " rows");
  TORCH_CHECK_VALUE(
      saved.size() == 2 && saved[0].sizes() == at::IntArrayRef({inputs.rows(), inputs.read_width()}) &&
          saved[0].scalar_type() == inputs.accumulator() && saved[1].scalar_type() == at::kInt &&
          saved[1].sizes() == inputs.indices.sizes(),
      "what forward left is ", inputs.accumulator(), " [", inputs.rows(), ", ", inputs.read_width(), "], and int32, a number for each of ",
      inputs.num_indices, " indices");
  const at::Tensor reads = saved[0].contiguous(), numbers = saved[1].contiguous();
  Gradients gradients;
  gradients.projections = at::zeros_like(inputs.projections);
  const at::Tensor of_features = at::zeros({inputs.grad_projections}, grad.options()); // gradients of their projections
  gradients.weights = inputs.weights.defined() ? at::zeros_like(inputs.weights) : at::empty({0}, grad.options());
  const bool parallel = is_worth_threads(inputs);
  const std::vector<Rows> rows = chunks_of(inputs);
  // The chunks' working memory.
  const at::Tensor ids = at::empty({inputs.num_indices}, at::kLong);
  std::vector<int64_t> rooms; // of row_gradients
  const int32_t* next_number = numbers.const_data_ptr<int32_t>();
  for (const Rows& r : rows) {
    rooms.push_back(room_of(inputs, r, next_number));
    next_number += indices_of(problem, r);
  }
  const at::Tensor row_gradients = at::empty({std::accumulate(rooms.begin(), rooms.end(), int64_t(0))}, grad.options());
  const std::vector<FeatureGroup> groups = groups_of(inputs, parallel ? at::get_num_threads() : 1);
  struct Task {
    const FeatureGroup* group;
    int64_t part;
  };
  std::vector<Task> tasks;
  for (const FeatureGroup& group : groups) {
    for (int64_t part = 0; part < group.parts; ++part) {
      tasks.push_back({&group, part});
    }
  }
  std::vector<int64_t> order(inputs.num_features()); // of the first pass, by feature
  std::iota(order.begin(), order.end(), 0);
  longest_first(inputs, order, [](int64_t feature) { return feature; });
  longest_first(inputs, tasks, [](const Task& task) { return task.group->features.front(); });
  dispatch(inputs, [&](const auto& kernels, auto& tensors) {
    using Acc = std::remove_const_t<std::remove_pointer_t<decltype(tensors.out)>>;
    using T = std::remove_pointer_t<decltype(tensors.updated)>; // fp32 where elements are packed
    std::vector<std::vector<Chunk<Acc>>> chunks(inputs.num_features()); // of each feature
    int64_t* next_id = ids.mutable_data_ptr<int64_t>();
    Acc* next_row = row_gradients.template mutable_data_ptr<Acc>();
    for (size_t i = 0; i < rows.size(); ++i) {
      const Rows& r = rows[i];
      chunks[r.feature].push_back({r.feature, r.first, r.last, next_id, next_row});
      next_id += indices_of(problem, r);
      next_row += rooms[i];
    }
    tensors.grad = grad.template const_data_ptr<Acc>();
    tensors.reads = const_cast<Acc*>(reads.template const_data_ptr<Acc>());
    tensors.numbers = const_cast<int32_t*>(numbers.const_data_ptr<int32_t>());
    tensors.grad_projections = of_features.template mutable_data_ptr<Acc>();
    tensors.grad_weights = inputs.weights.defined() ? gradients.weights.template mutable_data_ptr<Acc>() : nullptr;
    run_tasks(inputs.num_features(), parallel, [&](int64_t task) {
      BadId bad;
      for (Chunk<Acc>& chunk : chunks[order[task]]) {
        bad = bad.feature < 0 ? kernels.prepare(problem, tensors, chunk) : bad;
      }
      return bad;
    });
    add_projections(inputs, tensors.grad_projections, gradients.projections.template mutable_data_ptr<Acc>());
    bool apply = fused.update.kind != kNoUpdate && !fused.moves_all();
    tensors.sink = sink.template mutable_data_ptr<Acc>();
    tensors.updated = fused.array.defined() ? fused.array.template mutable_data_ptr<T>() : nullptr;
    if (fused.update.kind != kNoUpdate) {
      tensors.update = fused.update;
      tensors.state = fused.state.defined() ? fused.state.template mutable_data_ptr<Acc>() : nullptr;
      tensors.second = fused.second.defined() ? fused.second.template mutable_data_ptr<Acc>() : nullptr;
    }
    if constexpr (std::is_same_v<T, Acc>) {
      if (fused.update.kind == kSgd) { // straight into the array
        tensors.sink = tensors.updated;
        tensors.sink_scale = static_cast<Acc>(-fused.update.rate);
        apply = false;
      }
    }
    run_tasks(static_cast<int64_t>(tasks.size()), parallel, [&](int64_t task) {
      const auto& [group, part] = tasks[task];
      const Share share{part, group->parts};
      for (const int64_t feature : group->features) {
        for (const Chunk<Acc>& chunk : chunks[feature]) {
          const BadId bad = kernels.add(problem, tensors, chunk, share);
          if (bad.feature >= 0) {
            return bad;
          }
        }
      }
      for (const int64_t feature : group->features) {
        for (const Chunk<Acc>& chunk : chunks[feature]) {
          if (apply) {
            kernels.apply(problem, tensors, chunk, share);
          }
        }
      }
      return BadId{};
    });
    if (fused.moves_all()) {
      at::parallel_for(0, problem.numel, kUpdateGrain, [&](int64_t first, int64_t last) {
        kernels.apply_to_all(tensors, first, last);
      });
    }
  });
  return gradients;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lookup_backward_cpu(
    const at::Tensor& grad, at::TensorList saved, const at::Tensor& array, const at::Tensor& features,
    const at::Tensor& hot_keys, const at::Tensor& projections, const at::Tensor& indices, const at::Tensor& offsets,
    const std::optional<at::Tensor>& per_sample_weights, int64_t pooling_mode, int64_t hash, bool sign) {
  const Inputs inputs(
      array, features, hot_keys, projections, indices, offsets, per_sample_weights, grad.size(1), pooling_mode, hash,
      sign);
  const at::Tensor sink = at::zeros_like(array, array.options().dtype(inputs.accumulator()));
  const Gradients gradients = backward(inputs, grad, saved, sink, {});
  return {sink.to(array.scalar_type()), gradients.projections, gradients.weights};
}

// What is added to is larger than what was read. Moved to the caller, never copied: `problem` points into its vectors.
Inputs of_packed_backward(
    const Elements& elements, const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& projections, const at::Tensor& indices,
    const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights, int64_t total_width, int64_t pooling_mode, int64_t hash,
    bool sign) {
  Inputs inputs(elements, features, hot_keys, projections, indices, offsets, per_sample_weights, total_width, pooling_mode, hash, sign);
  inputs.problem.prefetch = elements.numel * static_cast<int64_t>(sizeof(float)) > kNearBytes;
  return inputs;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> lookup_packed_backward_cpu(
    const at::Tensor& grad, at::TensorList saved, const at::Tensor& codes, const at::Tensor& scales, int64_t numel, int64_t bits,
    const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& projections, const at::Tensor& indices,
    const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights, int64_t pooling_mode, int64_t hash, bool sign) {
  const Inputs inputs = of_packed_backward(
      Elements(codes, scales, numel, bits), features, hot_keys, projections, indices, offsets, per_sample_weights, grad.size(1), pooling_mode,
      hash, sign);
  const at::Tensor sink = at::zeros({numel}, projections.options());
  const Gradients gradients = backward(inputs, grad, saved, sink, {});
  return {sink, gradients.projections, gradients.weights};
}

// Checks the step's tensors, and takes it.
std::tuple<at::Tensor, at::Tensor> backward_and_step(
    const Inputs& inputs, const at::Tensor& grad, at::TensorList saved, const at::Tensor& array, const at::Tensor& sink,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& second, int64_t update, at::ArrayRef<double> numbers) {
  TORCH_CHECK_VALUE(
      update == kNoUpdate || update == kSgd || (update == kAdagrad && state) ||
          ((update == kAdam || update == kAdamW) && state && second),
      "update must be 0 (none), 1 (SGD), 2 (Adagrad, with its state), 3 or 4 (Adam or AdamW, with their two), got ", update);
  TORCH_CHECK_VALUE(numbers.size() == 7, "an update takes 7 numbers, got ", numbers.size());
  const auto beside_array = [&](const at::Tensor& tensor) {
    return tensor.is_contiguous() && tensor.numel() == array.numel() && tensor.scalar_type() == inputs.accumulator();
  };
  TORCH_CHECK_VALUE(
      array.is_contiguous() && beside_array(sink) && (!state || beside_array(*state)) && (!second || beside_array(*second)),
      "array, gradient and states must be contiguous, of one length, the latter of ", inputs.accumulator());
  const Update chosen{
      static_cast<int>(update), numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]};
  const FusedUpdate fused{chosen, array, state ? *state : at::Tensor(), second ? *second : at::Tensor()};
  const Gradients gradients = backward(inputs, grad, saved, sink, fused);
  return {gradients.projections, gradients.weights};
}

std::tuple<at::Tensor, at::Tensor> lookup_backward_update_cpu(
    const at::Tensor& grad, at::TensorList saved, at::Tensor array, at::Tensor sink,
    const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& second, const at::Tensor& features,
    const at::Tensor& hot_keys,
    const at::Tensor& projections, const at::Tensor& indices, const at::Tensor& offsets,
    const std::optional<at::Tensor>& per_sample_weights, int64_t pooling_mode, int64_t hash, bool sign, int64_t update,
    at::ArrayRef<double> numbers) {
  const Inputs inputs(
      array, features, hot_keys, projections, indices, offsets, per_sample_weights, grad.size(1), pooling_mode, hash,
      sign);
  return backward_and_step(inputs, grad, saved, array, sink, state, second, update, numbers);
}

std::tuple<at::Tensor, at::Tensor> lookup_packed_backward_update_cpu(
    const at::Tensor& grad, at::TensorList saved, const at::Tensor& codes, const at::Tensor& scales, int64_t bits, at::Tensor array,
    at::Tensor sink, const std::optional<at::Tensor>& state, const std::optional<at::Tensor>& second, const at::Tensor& features,
    const at::Tensor& hot_keys, const at::Tensor& projections, const at::Tensor& indices, const at::Tensor& offsets,
    const std::optional<at::Tensor>& per_sample_weights, int64_t pooling_mode, int64_t hash, bool sign, int64_t update,
    at::ArrayRef<double> numbers) {
  TORCH_CHECK_VALUE(array.scalar_type() == at::kFloat, "array must be fp32, got ", array.scalar_type());
  const Inputs inputs = of_packed_backward(
      Elements(codes, scales, array.numel(), bits), features, hot_keys, projections, indices, offsets, per_sample_weights, grad.size(1),
      pooling_mode, hash, sign);
  return backward_and_step(inputs, grad, saved, array, sink, state, second, update, numbers);
}

at::Tensor quantize_cpu(const at::Tensor& array, int64_t bits) {
  TORCH_CHECK_VALUE(
      array.dim() == 1 && array.scalar_type() == at::kFloat, "array must be an fp32 vector, got ", array.scalar_type(), " ", array.sizes());
  TORCH_CHECK_VALUE(bits >= 2 && bits <= 8, "bits must be from 2 to 8, got ", bits);
  const at::Tensor from = array.contiguous(), to = at::empty_like(from);
  const float half = static_cast<float>(1 << (bits - 1)), factor = static_cast<float>(1 / (half - 0.5));
  at::parallel_for(0, (from.numel() + kGroup - 1) / kGroup, kUpdateGrain / kGroup, [&](int64_t first, int64_t last) {
    best_kernels().quantize(from.const_data_ptr<float>(), to.mutable_data_ptr<float>(), from.numel(), factor, half, first, last);
  });
  return to;
}

// ops/packed.py: `pack`.
std::tuple<at::Tensor, at::Tensor> pack_cpu(const at::Tensor& array, int64_t bits) {
  TORCH_CHECK_VALUE(
      array.dim() == 1 && array.scalar_type() == at::kFloat, "array must be an fp32 vector, got ", array.scalar_type(), " ", array.sizes());
  TORCH_CHECK_VALUE(bits == 8 || (bits >= 2 && bits <= 4), "bits must be one of (8, 4, 3, 2), got ", bits);
  const at::Tensor from = array.contiguous();
  const int64_t groups = (from.numel() + kGroup - 1) / kGroup, bytes = groups * (kGroup / 8) * bits;
  const at::Tensor codes = at::empty({bytes + kCodesBehind}, from.options().dtype(at::kByte));
  const at::Tensor scales = at::empty({groups}, from.options().dtype(at::kBFloat16));
  uint8_t* const to = codes.mutable_data_ptr<uint8_t>();
  const auto scale_bits = reinterpret_cast<uint16_t*>(scales.mutable_data_ptr<at::BFloat16>());
  const float half = static_cast<float>(1 << (bits - 1)), factor = static_cast<float>(1 / (half - 0.5));
  at::parallel_for(0, groups, kUpdateGrain / kGroup, [&](int64_t first, int64_t last) {
    best_kernels().pack(from.const_data_ptr<float>(), from.numel(), bits, factor, half, first, last, to, scale_bits);
  });
  std::fill_n(to + bytes, kCodesBehind, uint8_t(0));
  return {codes, scales};
}

} // namespace

TORCH_LIBRARY_IMPL(torchrec_pss, CPU, m) {
  m.impl("lookup", lookup_cpu);
  m.impl("lookup_backward", lookup_backward_cpu);
  m.impl("lookup_backward_update_", lookup_backward_update_cpu);
  m.impl("quantize", quantize_cpu);
  m.impl("pack", pack_cpu);
  m.impl("lookup_packed", lookup_packed_cpu);
  m.impl("lookup_packed_backward", lookup_packed_backward_cpu);
  m.impl("lookup_packed_backward_update_", lookup_packed_backward_update_cpu);
  m.impl("read", read_cpu);
}

} // namespace torchrec_pss

// The instruction set that lookups have on this processor, for who asks by dlsym.
extern "C" __attribute__((visibility("default"))) const char* torchrec_pss_isa() {
  return torchrec_pss::isa();
}
