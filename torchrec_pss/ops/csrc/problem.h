// One call of the lookup as plain numbers and pointers: what the kernels see. No ATen here, for the kernels are compiled
// once for each instruction set.
#pragma once

#include <cstdint>
#include <type_traits>

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include "hashing.h"
#include "packed.h"

namespace torchrec_pss {

enum PoolingMode { kSum = 0, kMean = 1, kNone = 2 };
enum HashKind { kMix64 = 0, kRobe = 1 };

struct FeatureWork : Feature {
  using Feature::Feature;

  int64_t out_width = 0; // columns of the output: of the projection, or the read width
  int64_t out_column = 0;
  int64_t room = 0; // columns of the row that is read to: of a projected feature width and bias, rounded up to eight
  int64_t read_begin = 0, read_stride = 0; // of a projected feature's rows in what forward keeps
  int64_t grad_projection = 0; // where the gradient of its projection begins: features of one table have one each
  bool bias = false;
};

// Raises RuntimeError. Not inline, for its code would be that of one instruction set.
[[noreturn]] void out_of_memory(uint64_t bytes);

// A "row" is a row of the output's batch: a bag where bags are pooled, else an index.
struct Problem {
  const FeatureWork* features = nullptr;
  const int64_t* offsets = nullptr;
  const void* indices = nullptr;
  bool narrow_indices = false; // int32
  const int32_t* hot_keys = nullptr;
  int64_t numel = 0; // of the array
  int64_t batch_size = 0;
  int64_t out_stride = 0;
  int pooling_mode = kSum;
  int hash = kMix64;
  bool sign = false;
  bool prefetch = false; // the array is larger than the nearest caches
  bool stream = false; // the output is, and is written past them

  int64_t first_row(int64_t f) const { return pooling_mode == kNone ? offsets[f * batch_size] : 0; }
  int64_t end_row(int64_t f) const { return pooling_mode == kNone ? offsets[(f + 1) * batch_size] : batch_size; }
};

// The first id found out of an exact table's range.
struct BadId {
  int64_t feature = -1, id = 0, rows = 0;
};

// What a fused optimizer makes of an element and the sum of its gradients: the formulas of ops/update_kinds.py.
enum UpdateKind { kNoUpdate = 0, kSgd = 1, kAdagrad = 2, kAdam = 3, kAdamW = 4 };

struct Update {
  int kind = kNoUpdate;
  double rate = 0;
  double eps = 0;
  double beta1 = 0;
  double beta2 = 0;
  double decay = 0;
  double correction1 = 1;
  double correction2 = 1;
};

// Tensors of one element type `T`, `Code` of packed elements, and its accumulator `Acc` (float, or double for double).
template <typename T, typename Acc>
struct Tensors {
  typename SourceOf<T>::Type array{}; // or packed elements
  const Acc* weights = nullptr; // of the indices, or null
  const Acc* projections = nullptr;
  Acc* out = nullptr;
  Acc* reads = nullptr; // of projected features, as they were pooled, or those of the chunk's distinct ids: forward leaves them to backward
  int32_t* numbers = nullptr; // of the indices among the distinct ids of their chunk (distinct.h): forward leaves them to backward
  // Backward only.
  const Acc* grad = nullptr;
  Acc* sink = nullptr; // takes `sink_scale` times the array's gradient
  Acc sink_scale = 1;
  Acc* grad_projections = nullptr;
  Acc* grad_weights = nullptr; // or null
  // Fused optimizer only.
  typename SourceOf<T>::Stepped* updated = nullptr; // the array
  Acc* state = nullptr; // Adagrad's sums of squares, Adam's means
  Acc* second = nullptr; // Adam's means of squares
  Update update;
};

// Where the kept reads of a projected feature's output row begin.
template <typename T, typename Acc>
PSS_INLINE Acc* reads_of(const Tensors<T, Acc>& t, const FeatureWork& f, int64_t row) {
  return t.reads + f.read_begin + row * f.read_stride;
}

// Elements that one of several threads owns, by page: it alone adds to them.
struct Share {
  int64_t part = 0;
  int64_t parts = 1;
  static constexpr int kPageBits = 12;

  bool owns(int64_t address) const {
    const uint32_t page = static_cast<uint32_t>(address >> kPageBits) * 0x9E3779B1U; // spread over all 32 bits: no division
    return (static_cast<uint64_t>(page) * static_cast<uint32_t>(parts)) >> 32 == static_cast<uint64_t>(part);
  }
};

// In the place of an index's number among the distinct ids of its chunk, where those are not told apart.
constexpr int32_t kFewRepeat = -1;

// Backward's view of the rows [first, last) of a feature, whose gradients are prepared before they are added to the array's.
template <typename Acc>
struct Chunk {
  int64_t feature, first, last;
  int64_t* ids = nullptr; // room for the chunk's indices, or the distinct ids among them
  Acc* row_grads = nullptr; // room for their gradients, or its rows', of `FeatureWork::room` numbers each
  int64_t num_ids = kFewRepeat; // in `ids`, each with a row of `row_grads`; kFewRepeat: each of the chunk's rows has one, or that of the output
  int64_t begin = 0; // its first index
  bool unit = false; // one index a row
};

// Forward, of a chunk of a feature's rows.
template <typename T, typename Acc>
using Forward = BadId (*)(const Problem&, const Tensors<T, Acc>&, int64_t feature, int64_t first, int64_t last);
// Backward in two passes: what needs the array (gradients of projections and weights, and of the rows as they were read), by
// chunk, a feature's in order; then what changes it, or its gradient, by group of features (sharing.h).
template <typename T, typename Acc>
using Prepare = BadId (*)(const Problem&, const Tensors<T, Acc>&, Chunk<Acc>&);
template <typename T, typename Acc>
using Add = BadId (*)(const Problem&, const Tensors<T, Acc>&, const Chunk<Acc>&, Share share);
// After all of a group's gradients: updates the elements that the chunk read, and sets their gradients to zero.
template <typename T, typename Acc>
using Apply = void (*)(const Problem&, const Tensors<T, Acc>&, const Chunk<Acc>&, Share share);
// The same for kinds that move every element, of the elements [first, last).
template <typename T, typename Acc>
using ApplyToAll = void (*)(const Tensors<T, Acc>&, int64_t first, int64_t last);

// Of an array of few bits, groups [first, last) of kGroup elements, as they are read: largest element times `factor` is a group's scale, levels
// go from `-half` to `half - 1`, and a half.
using Quantize = void (*)(const float* from, float* to, int64_t numel, float factor, float half, int64_t first, int64_t last);
// The same groups packed: codes, and scales as the bits of bf16.
using Pack = void (*)(
    const float* from, int64_t numel, int64_t bits, float factor, float half, int64_t first, int64_t last, uint8_t* codes, uint16_t* scales);

constexpr int64_t kTileRows = 64;

// The kernels for one element type.
template <typename T, typename Acc>
struct KernelsOf {
  Forward<T, Acc> forward;
  Prepare<T, Acc> prepare;
  Add<T, Acc> add;
  Apply<T, Acc> apply;
  ApplyToAll<T, Acc> apply_to_all;
};

// Those of one instruction set. fp64, which no table has and gradients are checked in, has the portable ones alone.
struct Kernels {
  KernelsOf<float, float> fp32;
  KernelsOf<c10::Half, float> fp16;
  KernelsOf<c10::BFloat16, float> bf16;
  KernelsOf<Code, float> packed;
  Quantize quantize;
  Pack pack;
};

} // namespace torchrec_pss
