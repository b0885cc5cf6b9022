// The op's tensors, checked, as a `Problem`.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "problem.h"

namespace torchrec_pss {

// Owns what `problem` points to. The meaning of every argument is in torchrec_pss/ops/lookup.py.
struct Inputs {
  at::Tensor array, hot_keys, projections, indices, offsets, weights;
  std::vector<FeatureWork> features;
  Problem problem;
  int64_t num_indices = 0;
  int64_t grad_projections = 0; // elements of the features' gradients of their projections

  // Raises ValueError for metadata that would read or write outside the array, IndexError for offsets that are no bags.
  Inputs(
      const at::Tensor& array, const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& projections,
      const at::Tensor& indices, const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights,
      int64_t total_width, int64_t pooling_mode, int64_t hash, bool sign);

  int64_t num_features() const { return static_cast<int64_t>(features.size()); }
  int64_t read_width() const; // ops/features.py
  int64_t rows() const { return problem.pooling_mode == kNone ? num_indices : problem.batch_size; }
  at::ScalarType accumulator() const { return array.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

 private:
  void lay_out(int64_t total_width);
  void lay_out_reads();
  void check_features() const;
  void take_offsets(const at::Tensor& given); // int32 or int64
};

} // namespace torchrec_pss
