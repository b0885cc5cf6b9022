// The address specification of docs/hashing.md, version 2, for the CPU kernel.
#pragma once

#include <algorithm>
#include <cstdint>

namespace torchrec_pss {

inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// Columns of the op's `features` matrix; torchrec_pss/ops/features.py holds the same list.
enum FeatureColumn {
  kKey, kRows, kWidth, kPrefix, kBase, kBlock, kSlots, kFirst, kHotBegin, kHotEnd, kHotBase, kNumColumns
};

struct Feature {
  int64_t key, rows, width, prefix, base, block, slots, first, hot_begin, hot_end, hot_base;

  explicit Feature(const int64_t* row)
      : key(row[kKey]), rows(row[kRows]), width(row[kWidth]), prefix(row[kPrefix]),
        base(row[kBase]), block(row[kBlock]), slots(row[kSlots]), first(row[kFirst]),
        hot_begin(row[kHotBegin]), hot_end(row[kHotEnd]), hot_base(row[kHotBase]) {}

  int64_t num_blocks() const { return prefix == width ? 0 : (width - prefix) / block; }
};

// One block's place in the array, and the sign of its coordinates.
struct Place {
  int64_t offset;
  bool negative;
};

// Section 2. `kSigned` is false when signs are turned off.
template <bool kSigned>
struct Mix64Hash {
  static constexpr bool kNeedsRows = false;
  uint64_t state;

  Mix64Hash(const Feature& f, int64_t id)
      : state(mix64(static_cast<uint64_t>(id) ^ static_cast<uint64_t>(f.key))) {}

  Place operator()(const Feature& f, int64_t b) const {
    const uint64_t h = mix64(state + static_cast<uint64_t>(b + 1) * 0x9E3779B97F4A7C15ULL);
    const uint64_t n = static_cast<uint64_t>(f.slots);
    const uint64_t slot = ((h >> 32) * n + (((h & 0xFFFFFFFFULL) * n) >> 32)) >> 32;
    return {f.first + static_cast<int64_t>(slot) * f.block, kSigned && (h & 1)};
  }

  // Section 1, hot rows: place of the row's own coordinates, or -1 for a row that is not hot.
  int64_t own(const Feature& f, const int32_t* hot_keys) const {
    if (f.hot_begin == f.hot_end) {
      return -1;
    }
    const int32_t key = static_cast<int32_t>(static_cast<uint32_t>(state >> 32) ^ 0x80000000U);
    const int32_t* begin = hot_keys + f.hot_begin;
    const int32_t* end = hot_keys + f.hot_end;
    const int32_t* found = std::lower_bound(begin, end, key);
    return found != end && *found == key ? f.hot_base + (found - begin) * (f.width - f.prefix) : -1;
  }
};

// Section 4: the authors' released mapping. `key` is the first row of the table, `slots` N - Z + 1.
struct RobeHash {
  static constexpr bool kNeedsRows = true;
  uint64_t row;

  RobeHash(const Feature& f, int64_t id) : row(static_cast<uint64_t>(f.key + id)) {}

  Place operator()(const Feature& f, int64_t b) const {
    const uint64_t mixed = 871205356ULL * row + 1825252241ULL * static_cast<uint64_t>(b) + 634329019ULL;
    return {static_cast<int64_t>(mixed % 2038074743ULL % static_cast<uint64_t>(f.slots)), false};
  }

  int64_t own(const Feature&, const int32_t*) const { return -1; }
};

} // namespace torchrec_pss
