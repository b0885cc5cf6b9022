#include "inputs.h"

#include <algorithm>
#include <atomic>

#include <ATen/Parallel.h>
#include <c10/util/Exception.h>

namespace torchrec_pss {

Inputs::Inputs(
    const at::Tensor& array_, const at::Tensor& feature_rows, const at::Tensor& hot_keys_,
    at::TensorList projections_, const at::Tensor& indices_, const at::Tensor& offsets_,
    const std::optional<at::Tensor>& per_sample_weights, int64_t total_width, int64_t pooling_mode, int64_t hash,
    bool sign)
    : array(array_.contiguous()), hot_keys(hot_keys_.contiguous()), indices(indices_.contiguous()),
      offsets(offsets_.to(at::kLong).contiguous()), num_indices(indices_.numel()) {
  if (per_sample_weights) {
    weights = per_sample_weights->contiguous();
  }
  for (const at::Tensor& projection : projections_) {
    TORCH_CHECK_VALUE(
        projection.dim() == 2 && projection.scalar_type() == accumulator(), "projections must be matrices of ",
        accumulator(), ", got ", projection.scalar_type(), " ", projection.sizes());
    projections.push_back(projection.contiguous());
  }
  const at::Tensor rows = feature_rows.contiguous();
  for (int64_t f = 0; f < rows.size(0); ++f) {
    features.emplace_back(rows.const_data_ptr<int64_t>() + f * kNumColumns);
  }
  TORCH_CHECK_VALUE(
      projections.empty() || projections.size() == features.size(), "there are ", projections.size(),
      " projections for ", features.size(), " features");
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
  problem.numel = array.numel();
  problem.prefetch = array.nbytes() > (1 << 19);
  check_offsets();
  check_features();
  lay_out(total_width);
}

void Inputs::check_offsets() const {
  const int64_t* const begin = problem.offsets;
  const int64_t num_bags = offsets.numel() - 1;
  TORCH_CHECK_INDEX(begin[0] == 0, "offsets must start at 0, got ", begin[0]);
  std::atomic<bool> all_ascend{true};
  at::parallel_for(0, num_bags, 1 << 15, [&](int64_t first, int64_t last) {
    bool ascend = true;
    for (int64_t bag = first; bag < last; ++bag) {
      ascend &= begin[bag] <= begin[bag + 1];
    }
    if (!ascend) {
      all_ascend = false;
    }
  });
  const bool ascending = all_ascend;
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
static bool has_sane_directory(const Feature& f, int64_t numel) {
  return f.hot_shift == 0 || (f.hot_shift > 0 && f.hot_shift < 32 && f.hot_directory >= 0 &&
                              f.hot_directory + (int64_t(1) << (32 - f.hot_shift)) < numel);
}

void Inputs::check_features() const {
  const int64_t numel = array.numel(), num_hot = hot_keys.numel();
  for (int64_t i = 0; i < num_features(); ++i) {
    const FeatureWork& f = features[i];
    const bool exact = f.prefix == f.width;
    const bool sane = f.width >= 1 && f.prefix >= 0 && f.prefix <= f.width && f.rows >= 0 &&
        (f.prefix == 0 || (f.base >= 0 && f.base <= numel && f.rows <= (numel - f.base) / f.prefix)) &&
        (exact || (f.block >= 1 && f.block <= numel && (f.width - f.prefix) % f.block == 0 && f.slots >= 1 &&
                   f.slots < (int64_t(1) << 32) && f.first >= 0 && f.first <= numel &&
                   f.slots <= (problem.hash == kRobe ? numel - f.block + 1 : (numel - f.first) / f.block))) &&
        f.hot_begin >= 0 && f.hot_begin <= f.hot_end && f.hot_end <= num_hot && has_sane_directory(f, num_hot) &&
        (f.hot_begin == f.hot_end || exact ||
         (f.hot_base >= 0 && f.hot_base <= numel && f.num_hot() <= (numel - f.hot_base) / (f.width - f.prefix)));
    TORCH_CHECK_VALUE(sane, "row ", i, " of `features` does not fit an array of ", numel, " elements");
    const int64_t inner = projections.empty() ? 0 : projections[i].size(0);
    TORCH_CHECK_VALUE(
        inner == 0 || inner == f.width || inner == f.width + 1, "feature ", i, " has width ", f.width,
        ", but its projection has ", inner, " rows");
  }
}

void Inputs::lay_out(int64_t total_width) {
  const bool pooled = problem.pooling_mode != kNone;
  int64_t out = 0;
  for (int64_t i = 0; i < num_features(); ++i) {
    FeatureWork& f = features[i];
    f.out_width = f.width;
    if (!projections.empty() && projections[i].size(0) > 0) {
      const at::Tensor& projection = projections[i];
      f.projected = true;
      f.bias = projection.size(0) > f.width;
      f.out_width = projection.size(1);
    }
    f.room = f.projected ? (projections[i].size(0) + 7) / 8 * 8 : f.out_width;
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

} // namespace torchrec_pss
