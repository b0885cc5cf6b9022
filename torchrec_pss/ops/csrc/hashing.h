// The address specification of docs/hashing.md, version 1, for the CPU kernel.
#pragma once

#include <cstdint>

namespace torchrec_pss {

inline uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

// Columns of the op's `features` matrix; torchrec_pss/ops/features.py holds the same list.
enum FeatureColumn { kKey, kRows, kWidth, kPrefix, kBase, kBlock, kSlots, kNumColumns };

struct Feature {
  int64_t key, rows, width, prefix, base, block, slots;

  explicit Feature(const int64_t* row)
      : key(row[kKey]), rows(row[kRows]), width(row[kWidth]), prefix(row[kPrefix]),
        base(row[kBase]), block(row[kBlock]), slots(row[kSlots]) {}

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
    return {static_cast<int64_t>(slot) * f.block, kSigned && (h & 1)};
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
};

} // namespace torchrec_pss
