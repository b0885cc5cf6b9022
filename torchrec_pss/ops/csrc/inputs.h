// The op's tensors, checked, as a `Problem`.
#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include "problem.h"

namespace torchrec_pss {

// Of what is read, or added to: the most that the nearest caches hold.
constexpr int64_t kNearBytes = 1 << 19;

// What is read: an array, or the codes and scales of one.
struct Elements {
  at::Tensor array; // not defined where elements are packed
  at::Tensor codes, scales;
  int64_t numel, bits = 32;
  at::ScalarType type; // fp32 of packed ones

  Elements(const at::Tensor& array); // not explicit: an array is elements
  // Raises ValueError for codes or scales of other dtypes, or of fewer than `numel` elements.
  Elements(const at::Tensor& codes, const at::Tensor& scales, int64_t numel, int64_t bits);

  bool is_packed() const { return bits < 32; }
  int64_t nbytes() const { return is_packed() ? codes.numel() : array.nbytes(); }
};

// Owns what `problem` points to. The meaning of every argument is in torchrec_pss/ops/lookup.py.
struct Inputs {
  Elements elements;
  at::Tensor hot_keys, projections, indices, offsets, weights;
  std::vector<FeatureWork> features;
  Problem problem;
  int64_t num_indices = 0;
  int64_t grad_projections = 0; // elements of the features' gradients of their projections

  // Raises ValueError for metadata that would read or write outside the array, IndexError for offsets that are no bags.
  Inputs(
      const Elements& elements, const at::Tensor& features, const at::Tensor& hot_keys, const at::Tensor& projections,
      const at::Tensor& indices, const at::Tensor& offsets, const std::optional<at::Tensor>& per_sample_weights,
      int64_t total_width, int64_t pooling_mode, int64_t hash, bool sign);

  int64_t num_features() const { return static_cast<int64_t>(features.size()); }
  int64_t read_width() const; // ops/features.py
  int64_t rows() const { return problem.pooling_mode == kNone ? num_indices : problem.batch_size; }
  at::ScalarType accumulator() const { return elements.type == at::kDouble ? at::kDouble : at::kFloat; }

 private:
  void lay_out(int64_t total_width);
  void lay_out_reads();
  void check_features() const;
  void take_offsets(const at::Tensor& given); // int32 or int64
};

} // namespace torchrec_pss
