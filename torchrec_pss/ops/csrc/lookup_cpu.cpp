// CPU implementation of torchrec_pss::lookup and torchrec_pss::lookup_backward.
//
// The schema and the checks that need no data stand in torchrec_pss/ops/lookup.py; the meaning of every
// argument, and the results to reproduce, in torchrec_pss/ops/reference.py. No index tensor is
// written: addresses are computed where they are used.

#include <algorithm>
#include <vector>

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <c10/util/Exception.h>
#include <torch/library.h>
#include <Python.h>

#include "hashing.h"

namespace torchrec_pss {
namespace {

enum PoolingMode { kSum = 0, kMean = 1, kNone = 2 };
enum HashKind { kMix64 = 0, kRobe = 1 };

// Bags a thread takes at a time, below which a second thread costs more than it saves.
constexpr int64_t kBagGrain = 256;

std::vector<Feature> read_features(const at::Tensor& features) {
  const at::Tensor rows = features.contiguous();
  std::vector<Feature> result;
  for (int64_t f = 0; f < rows.size(0); ++f) {
    result.emplace_back(rows.const_data_ptr<int64_t>() + f * kNumColumns);
  }
  return result;
}

// Everything a kernel needs, with offsets as int64 and bags checked.
struct Bags {
  std::vector<Feature> features;
  std::vector<int64_t> column; // first output column of each feature
  at::Tensor offsets;
  const int64_t* begin = nullptr;
  at::Tensor hot_keys_;
  const int32_t* hot_keys = nullptr;
  int64_t num_hot = 0;
  int64_t batch_size = 0;
  int64_t num_bags = 0;
  int64_t num_indices = 0;

  Bags(const at::Tensor& feature_rows, const at::Tensor& hot, const at::Tensor& offsets_, int64_t num_indices_)
      : features(read_features(feature_rows)),
        offsets(offsets_.to(at::kLong).contiguous()),
        hot_keys_(hot.contiguous()),
        hot_keys(hot_keys_.const_data_ptr<int32_t>()),
        num_hot(hot_keys_.numel()),
        num_indices(num_indices_) {
    begin = offsets.const_data_ptr<int64_t>();
    num_bags = offsets.numel() - 1;
    batch_size = features.empty() ? 0 : num_bags / static_cast<int64_t>(features.size());
    int64_t next = 0;
    for (const Feature& f : features) {
      column.push_back(next);
      next += f.width;
    }
    TORCH_CHECK_INDEX(begin[0] == 0, "offsets must start at 0, got ", begin[0]);
    for (int64_t bag = 0; bag < num_bags; ++bag) {
      TORCH_CHECK_INDEX(
          begin[bag] <= begin[bag + 1], "offsets must not decrease: offsets[", bag, "] = ", begin[bag],
          ", offsets[", bag + 1, "] = ", begin[bag + 1]);
    }
    TORCH_CHECK_INDEX(
        begin[num_bags] == num_indices, "offsets end at ", begin[num_bags], ", but there are ", num_indices,
        " indices");
  }

  int64_t feature_of(int64_t bag) const { return bag / batch_size; }
};

// Refuses metadata that would read or write outside the array or the output.
void check_features(
    const Bags& bags, int64_t total_width, int64_t pooling_mode, int64_t hash, int64_t numel) {
  TORCH_CHECK_VALUE(!bags.features.empty() || bags.num_bags == 0, "there are bags, but no features");
  int64_t sum = 0;
  for (int64_t i = 0; i < static_cast<int64_t>(bags.features.size()); ++i) {
    const Feature& f = bags.features[i];
    const bool exact = f.prefix == f.width;
    const bool sane = f.width >= 1 && f.prefix >= 0 && f.prefix <= f.width && f.rows >= 0 &&
        (f.prefix == 0 || (f.base >= 0 && f.base <= numel && f.rows <= (numel - f.base) / f.prefix)) &&
        (exact || (f.block >= 1 && f.block <= numel && (f.width - f.prefix) % f.block == 0 && f.slots >= 1 &&
                   f.slots < (int64_t(1) << 32) && f.first >= 0 && f.first <= numel &&
                   f.slots <= (hash == kRobe ? numel - f.block + 1 : (numel - f.first) / f.block))) &&
        f.hot_begin >= 0 && f.hot_begin <= f.hot_end && f.hot_end <= bags.num_hot &&
        (f.hot_begin == f.hot_end || exact ||
         (f.hot_base >= 0 && f.hot_base <= numel &&
          f.hot_end - f.hot_begin <= (numel - f.hot_base) / (f.width - f.prefix)));
    TORCH_CHECK_VALUE(sane, "row ", i, " of `features` does not fit an array of ", numel, " elements");
    TORCH_CHECK_VALUE(
        pooling_mode != kNone || f.width == total_width, "unpooled features must all have width ", total_width,
        ", feature ", i, " has ", f.width);
    sum += f.width;
  }
  TORCH_CHECK_VALUE(
      pooling_mode == kNone || sum == total_width, "the features' widths add up to ", sum, ", not ", total_width);
}

// First output row and column of a bag, or, unpooled, of an index.
struct Output {
  int64_t stride; // elements between output rows
  bool pooled;

  int64_t at(const Bags& bags, int64_t bag, int64_t index) const {
    const int64_t f = bags.feature_of(bag);
    return pooled ? (bag - f * bags.batch_size) * stride + bags.column[f] : index * stride;
  }
};

void check_id(const Feature& f, int64_t feature, int64_t id, bool needs_rows) {
  TORCH_CHECK_INDEX(
      (f.prefix == 0 && !needs_rows) || (id >= 0 && id < f.rows), "feature ", feature, ": id ", id,
      " is out of range [0, ", f.rows, ")");
}

template <typename Acc>
Acc bag_scale(int64_t pooling_mode, int64_t length) {
  return pooling_mode == kMean ? Acc(1) / static_cast<Acc>(std::max<int64_t>(length, 1)) : Acc(1);
}

// Calls visit(coordinate, address, negative) for the coordinates of one row; runs of one block are
// contiguous in both.
template <typename Hash, typename Visit>
inline void for_each_run(const Feature& f, const int32_t* hot_keys, int64_t id, Visit&& visit) {
  if (f.prefix > 0) {
    visit(int64_t(0), f.base + id * f.prefix, f.prefix, false);
  }
  const int64_t num_blocks = f.num_blocks();
  if (num_blocks == 0) {
    return;
  }
  const Hash hash(f, id);
  if (const int64_t own = hash.own(f, hot_keys); own >= 0) {
    visit(f.prefix, own, f.width - f.prefix, false);
    return;
  }
  for (int64_t b = 0; b < num_blocks; ++b) {
    const Place place = hash(f, b);
    visit(f.prefix + b * f.block, place.offset, f.block, place.negative);
  }
}

template <typename Hash, typename T, typename Acc, typename Index>
void forward_kernel(
    const T* array, const Bags& bags, const Index* indices, const Acc* weights, int64_t pooling_mode,
    Output output, Acc* out) {
  at::parallel_for(0, bags.num_bags, kBagGrain, [&](int64_t first, int64_t last) {
    for (int64_t bag = first; bag < last; ++bag) {
      const int64_t feature = bags.feature_of(bag);
      const Feature& f = bags.features[feature];
      const int64_t begin = bags.begin[bag], end = bags.begin[bag + 1];
      const Acc scale = bag_scale<Acc>(pooling_mode, end - begin);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t id = static_cast<int64_t>(indices[i]);
        check_id(f, feature, id, Hash::kNeedsRows);
        const Acc factor = weights ? scale * weights[i] : scale;
        Acc* row = out + output.at(bags, bag, i);
        for_each_run<Hash>(f, bags.hot_keys, id, [&](int64_t j, int64_t address, int64_t length, bool negative) {
          const Acc signed_factor = negative ? -factor : factor;
          for (int64_t k = 0; k < length; ++k) {
            row[j + k] += signed_factor * static_cast<Acc>(array[address + k]);
          }
        });
      }
    }
  });
}

// Adds the bags [first, last) to one private gradient, and writes the gradients of their weights.
template <typename Hash, typename T, typename Acc, typename Index>
void backward_range(
    const T* array, const Bags& bags, const Index* indices, const Acc* weights, int64_t pooling_mode,
    Output output, const Acc* grad, Acc* grad_array, Acc* grad_weights, int64_t first, int64_t last) {
  for (int64_t bag = first; bag < last; ++bag) {
    const Feature& f = bags.features[bags.feature_of(bag)];
    const int64_t begin = bags.begin[bag], end = bags.begin[bag + 1];
    const Acc scale = bag_scale<Acc>(pooling_mode, end - begin);
    for (int64_t i = begin; i < end; ++i) {
      const Acc factor = weights ? scale * weights[i] : scale;
      const Acc* row = grad + output.at(bags, bag, i);
      Acc dot = 0;
      for_each_run<Hash>(
          f, bags.hot_keys, static_cast<int64_t>(indices[i]),
          [&](int64_t j, int64_t address, int64_t length, bool negative) {
            const Acc sign = negative ? Acc(-1) : Acc(1);
            for (int64_t k = 0; k < length; ++k) {
              grad_array[address + k] += sign * factor * row[j + k];
            }
            if (grad_weights) {
              for (int64_t k = 0; k < length; ++k) {
                dot += sign * static_cast<Acc>(array[address + k]) * row[j + k];
              }
            }
          });
      if (grad_weights) {
        grad_weights[i] = scale * dot;
      }
    }
  }
}

template <typename Hash, typename T, typename Acc, typename Index>
void backward_kernel(
    const T* array, const Bags& bags, const Index* indices, const Acc* weights, int64_t pooling_mode,
    Output output, const Acc* grad, Acc* grad_weights, T* result, int64_t numel) {
  // A private gradient a thread, added up in thread order: the same bits for the same number of
  // threads. No more of them than the work is worth.
  int64_t work = 0;
  for (int64_t f = 0; f < static_cast<int64_t>(bags.features.size()); ++f) {
    work += bags.features[f].width * (bags.begin[(f + 1) * bags.batch_size] - bags.begin[f * bags.batch_size]);
  }
  const int64_t parts = std::clamp<int64_t>(work / std::max<int64_t>(numel, 1) + 1, 1, at::get_num_threads());
  const at::Tensor partial =
      at::zeros({parts, numel}, at::TensorOptions().dtype(c10::CppTypeToScalarType<Acc>::value));
  Acc* sums = partial.mutable_data_ptr<Acc>();
  at::parallel_for(0, parts, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part) {
      backward_range<Hash>(
          array, bags, indices, weights, pooling_mode, output, grad, sums + part * numel, grad_weights,
          bags.num_bags * part / parts, bags.num_bags * (part + 1) / parts);
    }
  });
  at::parallel_for(0, numel, 1 << 14, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      Acc sum = sums[i];
      for (int64_t part = 1; part < parts; ++part) {
        sum += sums[part * numel + i];
      }
      result[i] = static_cast<T>(sum);
    }
  });
}

// Calls run(hash tag, array element, accumulator, index) with the types that the arguments name.
template <typename Run>
void dispatch(const at::Tensor& array, const at::Tensor& indices, int64_t hash, bool sign, Run&& run) {
  auto with_hash = [&](auto hash_tag) {
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kHalf, at::kBFloat16, array.scalar_type(), "torchrec_pss::lookup", [&] {
          using Acc = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
          if (indices.scalar_type() == at::kInt) {
            run(hash_tag, scalar_t{}, Acc{}, int32_t{});
          } else {
            run(hash_tag, scalar_t{}, Acc{}, int64_t{});
          }
        });
  };
  if (hash == kRobe) {
    with_hash(static_cast<RobeHash*>(nullptr));
  } else if (sign) {
    with_hash(static_cast<Mix64Hash<true>*>(nullptr));
  } else {
    with_hash(static_cast<Mix64Hash<false>*>(nullptr));
  }
}

at::ScalarType accumulator_type(const at::Tensor& array) {
  return array.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor lookup_cpu(
    const at::Tensor& array_, const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& indices_,
    const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights, int64_t total_width, int64_t pooling_mode, int64_t hash,
    bool sign) {
  const at::Tensor array = array_.contiguous(), indices = indices_.contiguous();
  const at::Tensor weights = per_sample_weights ? per_sample_weights->contiguous() : at::Tensor();
  const Bags bags(features, hot_keys, offsets, indices.numel());
  check_features(bags, total_width, pooling_mode, hash, array.numel());
  const Output output{total_width, pooling_mode != kNone};
  const at::Tensor out = at::zeros(
      {output.pooled ? bags.batch_size : bags.num_indices, total_width},
      array.options().dtype(accumulator_type(array)));
  dispatch(array, indices, hash, sign, [&](auto* hash_tag, auto element, auto acc, auto index) {
    using Hash = std::remove_pointer_t<decltype(hash_tag)>;
    using T = decltype(element);
    using Acc = decltype(acc);
    using Index = decltype(index);
    forward_kernel<Hash>(
        array.const_data_ptr<T>(), bags, indices.const_data_ptr<Index>(),
        weights.defined() ? weights.const_data_ptr<Acc>() : nullptr, pooling_mode, output,
        out.mutable_data_ptr<Acc>());
  });
  return out;
}

std::tuple<at::Tensor, at::Tensor> lookup_backward_cpu(
    const at::Tensor& grad_, const at::Tensor& array_, const at::Tensor& features, const at::Tensor& hot_keys,
    const at::Tensor& indices_, const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights, int64_t pooling_mode,
    int64_t hash, bool sign) {
  const at::Tensor array = array_.contiguous(), indices = indices_.contiguous(), grad = grad_.contiguous();
  const at::Tensor weights = per_sample_weights ? per_sample_weights->contiguous() : at::Tensor();
  const Bags bags(features, hot_keys, offsets, indices.numel());
  check_features(bags, grad.size(1), pooling_mode, hash, array.numel());
  const Output output{grad.size(1), pooling_mode != kNone};
  const at::Tensor grad_array = at::empty_like(array);
  const at::Tensor grad_weights =
      weights.defined() ? at::zeros_like(weights) : at::empty({0}, grad.options());
  dispatch(array, indices, hash, sign, [&](auto* hash_tag, auto element, auto acc, auto index) {
    using Hash = std::remove_pointer_t<decltype(hash_tag)>;
    using T = decltype(element);
    using Acc = decltype(acc);
    using Index = decltype(index);
    backward_kernel<Hash>(
        array.const_data_ptr<T>(), bags, indices.const_data_ptr<Index>(),
        weights.defined() ? weights.const_data_ptr<Acc>() : nullptr, pooling_mode, output,
        grad.const_data_ptr<Acc>(), weights.defined() ? grad_weights.mutable_data_ptr<Acc>() : nullptr,
        grad_array.mutable_data_ptr<T>(), array.numel());
  });
  return {grad_array, grad_weights};
}

} // namespace

TORCH_LIBRARY_IMPL(torchrec_pss, CPU, m) {
  m.impl("lookup", lookup_cpu);
  m.impl("lookup_backward", lookup_backward_cpu);
}

} // namespace torchrec_pss

// Importing torchrec_pss._C as a Python module runs the registrations above.
PyMODINIT_FUNC PyInit__C() {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr};
  return PyModule_Create(&module);
}
