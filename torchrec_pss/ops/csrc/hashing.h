// The address specification of docs/how/hashing.md, version 2, for the CPU kernels.
#pragma once

#include <cstdint>

// Into callers of any instruction set, which then vectorise it.
#define PSS_INLINE inline __attribute__((always_inline))

namespace torchrec_pss {

constexpr uint64_t kGolden = 0x9E3779B97F4A7C15ULL;

PSS_INLINE uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// Columns of the op's `features` matrix; torchrec_pss/ops/features.py holds the same list.
enum FeatureColumn {
  kKey, kRows, kWidth, kPrefix, kBase, kBlock, kSlots, kFirst, kHotBegin, kHotEnd, kHotBase, kHotDirectory, kHotShift,
  kHotDrop, kProjection, kInner, kDim, kNumColumns
};

// More is no row of a table (ops/features.py), and the kernels' buffers are by the width.
constexpr int64_t kMostWidth = int64_t(1) << 20, kMostRobeRows = int64_t(1) << 32;

struct Feature {
  int64_t key, rows, width, prefix, base, block, slots, first, hot_begin, hot_end, hot_base, hot_directory, hot_shift,
      hot_drop, projection, inner, dim;

  explicit Feature(const int64_t* row)
      : key(row[kKey]), rows(row[kRows]), width(row[kWidth]), prefix(row[kPrefix]),
        base(row[kBase]), block(row[kBlock]), slots(row[kSlots]), first(row[kFirst]),
        hot_begin(row[kHotBegin]), hot_end(row[kHotEnd]), hot_base(row[kHotBase]),
        hot_directory(row[kHotDirectory]), hot_shift(row[kHotShift]), hot_drop(row[kHotDrop]),
        projection(row[kProjection]), inner(row[kInner]), dim(row[kDim]) {}

  int64_t num_blocks() const { return prefix == width ? 0 : (width - prefix) / block; }
  int64_t num_hot() const { return hot_end - hot_begin; }
  bool is_projected() const { return inner > 0; }
};

// Section 2: the state of a row, the hash of its block b, and the block's slot. The slot's two products are of 32-bit
// numbers, for `slots` is below 2^32.
PSS_INLINE uint64_t row_hash(int64_t key, int64_t id) {
  return mix64(static_cast<uint64_t>(id) ^ static_cast<uint64_t>(key));
}

PSS_INLINE uint64_t block_hash(uint64_t row, int64_t b) { return mix64(row + static_cast<uint64_t>(b + 1) * kGolden); }

PSS_INLINE uint64_t slot_of(uint64_t hash, uint32_t slots) {
  const uint64_t high = static_cast<uint64_t>(static_cast<uint32_t>(hash >> 32)) * slots;
  const uint64_t low = (static_cast<uint64_t>(static_cast<uint32_t>(hash)) * slots) >> 32;
  return (high + low) >> 32;
}

// Section 1, hot rows: the unsigned number that `hot_keys` holds with its first bit turned over.
PSS_INLINE uint32_t hot_key(uint64_t row) { return static_cast<uint32_t>(row >> 32); }
PSS_INLINE uint32_t unsigned_key(int32_t key) { return static_cast<uint32_t>(key) ^ 0x80000000U; }

// Section 4: the authors' released mapping. `row` counts from the first table, `places` is N - Z + 1.
PSS_INLINE int64_t robe_address(uint64_t row, int64_t b, uint64_t places) {
  const uint64_t mixed = 871205356ULL * row + 1825252241ULL * static_cast<uint64_t>(b) + 634329019ULL;
  return static_cast<int64_t>(mixed % 2038074743ULL % places);
}

} // namespace torchrec_pss
