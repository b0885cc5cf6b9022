#include "inputs.h"

#include <algorithm>
#include <atomic>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <c10/util/Exception.h>

namespace torchrec_pss {

Elements::Elements(const at::Tensor& array_) : array(array_.contiguous()), numel(array_.numel()), type(array_.scalar_type()) {
  TORCH_CHECK_VALUE(
      array_.dim() == 1 && array_.is_floating_point(), "array must be a floating-point vector, got ", type, " ", array_.sizes());
}

Elements::Elements(const at::Tensor& codes_, const at::Tensor& scales_, int64_t numel_, int64_t bits_)
    : codes(codes_.contiguous()), scales(scales_.contiguous()), numel(numel_), bits(bits_), type(at::kFloat) {
  TORCH_CHECK_VALUE(bits == 8 || (bits >= 2 && bits <= 4), "bits must be one of (8, 4, 3, 2), got ", bits);
  TORCH_CHECK_VALUE(numel >= 0 && numel < int64_t(1) << 48, "numel must be from 0 to 2^48, got ", numel);
  const int64_t groups = (numel + kGroup - 1) / kGroup, bytes = groups * (kGroup / 8) * bits + kCodesBehind;
  TORCH_CHECK_VALUE(
      codes.dim() == 1 && codes.scalar_type() == at::kByte && codes.device().is_cpu() && codes.numel() >= bytes,
      "codes must be a uint8 vector of at least ", bytes, " bytes for ", numel, " elements of ", bits, " bits, got ", codes.scalar_type(), " ",
      codes.sizes());
  TORCH_CHECK_VALUE(
      scales.dim() == 1 && scales.scalar_type() == at::kBFloat16 && scales.device().is_cpu() && scales.numel() == groups,
      "scales must be bf16 [", groups, "] for ", numel, " elements, got ", scales.scalar_type(), " ", scales.sizes());
}

// ops/arguments.py has the same rules, for those who do not call the op itself.
static void check_arguments(
    const Elements& elements, const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& projections,
    const at::Tensor& indices, const at::Tensor& offsets, const std::optional<at::Tensor>& weights, int64_t pooling_mode,
    int64_t hash) {
  const at::ScalarType accumulator = elements.type == at::kDouble ? at::kDouble : at::kFloat;
  const auto is = [](const at::Tensor& tensor, int64_t dim, at::ScalarType type) {
    return tensor.dim() == dim && tensor.scalar_type() == type && tensor.device().is_cpu();
  };
  const auto is_integers = [&](const at::Tensor& t) { return is(t, 1, at::kInt) || is(t, 1, at::kLong); };
  TORCH_CHECK_VALUE(
      is(features, 2, at::kLong) && features.size(1) == kNumColumns, "features must be int64 [F, ", int64_t(kNumColumns), "], got ",
      features.scalar_type(), " ", features.sizes());
  TORCH_CHECK_VALUE(
      is(hot_keys, 1, at::kInt), "hot_keys must be an int32 vector, got ", hot_keys.scalar_type(), " ", hot_keys.sizes());
  TORCH_CHECK_VALUE(
      is(projections, 1, accumulator), "projections must be a ", accumulator, " vector, got ", projections.scalar_type(), " ",
      projections.sizes());
  TORCH_CHECK_VALUE(
      is_integers(indices), "indices must be an int32 or int64 vector, got ", indices.scalar_type(), " ", indices.sizes());
  TORCH_CHECK_VALUE(
      is_integers(offsets), "offsets must be an int32 or int64 vector, got ", offsets.scalar_type(), " ", offsets.sizes());
  TORCH_CHECK_VALUE(
      offsets.numel() > 0 && (offsets.numel() - 1) % std::max<int64_t>(features.size(0), 1) == 0,
      "offsets must hold F * B + 1 values, got ", offsets.numel(), " for ", features.size(0), " features");
  TORCH_CHECK_VALUE(
      !weights || (is(*weights, 1, accumulator) && weights->numel() == indices.numel()), "per_sample_weights must be ", accumulator,
      " of shape ", indices.sizes(), ", got ", weights ? weights->scalar_type() : accumulator, " ",
      weights ? weights->sizes() : indices.sizes());
  TORCH_CHECK_VALUE(
      pooling_mode == kSum || pooling_mode == kMean || pooling_mode == kNone, "pooling_mode must be SUM, MEAN or NONE, got ",
      pooling_mode);
  TORCH_CHECK_VALUE(hash == kMix64 || hash == kRobe, "hash must be 0 (mix64) or 1 (robe), got ", hash);
}

Inputs::Inputs(
    const Elements& elements_, const at::Tensor& feature_rows, const at::Tensor& hot_keys_,
    const at::Tensor& projections_, const at::Tensor& indices_, const at::Tensor& offsets_,
    const std::optional<at::Tensor>& per_sample_weights, int64_t total_width, int64_t pooling_mode, int64_t hash,
    bool sign)
    : elements(elements_), hot_keys(hot_keys_.contiguous()), projections(projections_.contiguous()),
      indices(indices_.contiguous()), num_indices(indices_.numel()) {
  check_arguments(elements, feature_rows, hot_keys_, projections_, indices_, offsets_, per_sample_weights, pooling_mode, hash);
  if (per_sample_weights) {
    weights = per_sample_weights->contiguous();
  }
  const at::Tensor rows = feature_rows.contiguous();
  for (int64_t f = 0; f < rows.size(0); ++f) {
    features.emplace_back(rows.const_data_ptr<int64_t>() + f * kNumColumns);
  }
  take_offsets(offsets_.contiguous());
  const int64_t num_bags = offsets.numel() - 1;
  TORCH_CHECK_VALUE(!features.empty() || num_bags == 0, "there are bags, but no features");
  problem.features = features.data();
  problem.offsets = offsets.const_data_ptr<int64_t>();
  problem.indices = indices.const_data_ptr();
  problem.narrow_indices = indices.scalar_type() == at::kInt;
  problem.hot_keys = hot_keys.const_data_ptr<int32_t>();
  problem.batch_size = features.empty() ? 0 : num_bags / num_features();
  problem.pooling_mode = static_cast<int>(pooling_mode);
  problem.hash = static_cast<int>(hash);
  problem.sign = sign;
  problem.numel = elements.numel;
  problem.prefetch = elements.nbytes() > kNearBytes;
  check_features();
  lay_out(total_width);
  lay_out_reads();
}

int64_t Inputs::read_width() const {
  int64_t sum = 0, most = 0;
  for (const FeatureWork& f : features) {
    const int64_t columns = f.is_projected() ? f.room : 0;
    sum += columns;
    most = std::max(most, columns);
  }
  return problem.pooling_mode == kNone ? most : sum;
}

// Whether they are not negative and do not decrease; they are widened to `to`, where that is not null.
template <typename Offset>
static bool ascend(const Offset* from, int64_t num_bags, int64_t* to) {
  using Bits = std::make_unsigned_t<Offset>;
  std::atomic<bool> all{true};
  at::parallel_for(0, num_bags, 1 << 18, [&](int64_t first, int64_t last) {
    Bits signs = 0; // no comparison: the least instruction set compares no 64-bit numbers
    for (int64_t bag = first; bag < last; ++bag) {
      const Bits next = static_cast<Bits>(from[bag + 1]);
      signs |= next | (next - static_cast<Bits>(from[bag]));
    }
    if (static_cast<Offset>(signs) < 0) {
      all = false;
    }
    if (to != nullptr) {
      std::copy(from + first, from + last, to + first);
    }
  });
  if (to != nullptr) {
    to[num_bags] = from[num_bags];
  }
  return all;
}

void Inputs::take_offsets(const at::Tensor& given) {
  const int64_t num_bags = given.numel() - 1;
  const bool narrow = given.scalar_type() == at::kInt;
  offsets = narrow ? at::empty({num_bags + 1}, given.options().dtype(at::kLong)) : given;
  const bool ascending = narrow ? ascend(given.const_data_ptr<int32_t>(), num_bags, offsets.mutable_data_ptr<int64_t>())
                                : ascend(given.const_data_ptr<int64_t>(), num_bags, nullptr);
  const int64_t* const begin = offsets.const_data_ptr<int64_t>();
  TORCH_CHECK_INDEX(begin[0] == 0, "offsets must start at 0, got ", begin[0]);
  for (int64_t bag = 0; !ascending && bag < num_bags; ++bag) {
    TORCH_CHECK_INDEX(
        begin[bag] <= begin[bag + 1], "offsets must not decrease: offsets[", bag, "] = ", begin[bag], ", offsets[",
        bag + 1, "] = ", begin[bag + 1]);
  }
  TORCH_CHECK_INDEX(
      begin[num_bags] == num_indices, "offsets end at ", begin[num_bags], ", but there are ", num_indices,
      " indices");
}

// Its entries and one more, by the upper bits of the keys.
static bool has_sane_directory(const Feature& f, int64_t num_hot) {
  return f.hot_shift == 0 || (f.hot_shift > 0 && f.hot_shift < 32 && f.hot_directory >= 0 &&
                              f.hot_directory < num_hot - (int64_t(1) << (32 - f.hot_shift)));
}

// Whether what a row of metadata says lies inside an array of `numel` elements and `num_hot` keys; no product here can overflow.
// ops/features.py holds the same rule.
static bool is_layout(const Feature& f, int64_t numel, int64_t num_hot, bool robe) {
  if (f.width < 1 || f.width > kMostWidth || f.prefix < 0 || f.prefix > f.width || f.rows < 0) {
    return false;
  }
  const int64_t shared = f.width - f.prefix;
  const bool prefix_fits = f.prefix == 0 || (f.base >= 0 && f.base <= numel && f.rows <= (numel - f.base) / f.prefix);
  const bool keys_fit = f.hot_begin >= 0 && f.hot_begin <= f.hot_end && f.hot_end <= num_hot && has_sane_directory(f, num_hot) &&
      f.hot_drop >= 0 && f.hot_drop < 32;
  // Section 4's products are exact below 2^32 rows in all.
  const bool robe_fits = !robe || (f.key >= 0 && f.rows <= kMostRobeRows && f.key <= kMostRobeRows - f.rows);
  if (!prefix_fits || !keys_fit || !robe_fits || shared == 0) {
    return prefix_fits && keys_fit && robe_fits;
  }
  return f.block >= 1 && f.block <= numel && shared % f.block == 0 && f.slots >= 1 && f.slots < (int64_t(1) << 32) &&
      f.first >= 0 && f.first <= numel && f.slots <= (robe ? numel - f.block + 1 : (numel - f.first) / f.block) &&
      (f.num_hot() == 0 || (f.hot_base >= 0 && f.hot_base <= numel && f.num_hot() <= (numel - f.hot_base) / shared));
}

void Inputs::check_features() const {
  const int64_t numel = elements.numel, num_projected = projections.numel();
  for (int64_t i = 0; i < num_features(); ++i) {
    const FeatureWork& f = features[i];
    TORCH_CHECK_VALUE(
        is_layout(f, numel, hot_keys.numel(), problem.hash == kRobe), "row ", i, " of `features` does not fit an array of ", numel,
        " elements and ", hot_keys.numel(), " hot keys");
    TORCH_CHECK_VALUE(
        f.inner == 0 || f.inner == f.width || f.inner == f.width + 1, "feature ", i, " has width ", f.width,
        ", but its projection has ", f.inner, " rows");
    TORCH_CHECK_VALUE(
        !f.is_projected() || (f.dim >= 1 && f.projection >= 0 && f.projection <= num_projected &&
                              f.dim <= (num_projected - f.projection) / f.inner),
        "feature ", i, ": ", f.inner, " x ", f.dim, " numbers from ", f.projection, " on are not within projections of ",
        num_projected);
  }
}

void Inputs::lay_out(int64_t total_width) {
  const bool pooled = problem.pooling_mode != kNone;
  int64_t out = 0;
  for (int64_t i = 0; i < num_features(); ++i) {
    FeatureWork& f = features[i];
    f.out_width = f.width;
    if (f.is_projected()) {
      f.bias = f.inner > f.width;
      f.out_width = f.dim;
      f.grad_projection = grad_projections;
      grad_projections += f.inner * f.dim;
    }
    f.room = f.is_projected() ? (f.inner + 7) / 8 * 8 : f.out_width;
    TORCH_CHECK_VALUE(
        pooled || f.out_width == total_width, "unpooled features must all have width ", total_width, ", feature ", i,
        " has ", f.out_width);
    f.out_column = pooled ? out : 0;
    out += f.out_width;
  }
  TORCH_CHECK_VALUE(
      !pooled || out == total_width, "the features' widths add up to ", out, ", not ", total_width);
  problem.out_stride = total_width;
}

// One feature's after the other's where bags are pooled, else by index.
void Inputs::lay_out_reads() {
  const bool pooled = problem.pooling_mode != kNone;
  const int64_t widest = pooled ? 0 : read_width();
  int64_t next = 0;
  for (FeatureWork& f : features) {
    if (f.is_projected()) {
      f.read_begin = next;
      f.read_stride = pooled ? f.room : widest;
      next += pooled ? problem.batch_size * f.room : 0;
    }
  }
}

} // namespace torchrec_pss
