// Elements of few bits, as they are stored: docs/how/hashing.md, section 6, "Packed". What the kernels take in the place of a pointer to elements:
// it is added to and read from as one. lanes.h reads several at once.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hashing.h"

namespace torchrec_pss {

constexpr int64_t kGroupBits = 6, kGroup = 1 << kGroupBits; // elements of one scale
// Bytes that codes have behind their groups, which are whole: so many are loaded at once.
constexpr int64_t kCodesBehind = 8;

struct Packed {
  const uint8_t* codes = nullptr; // q + half, `bits` each, the first in the lowest bits
  const uint16_t* scales = nullptr; // bf16
  int64_t bits = 8; // 8, 4, 3 or 2
  int64_t at = 0; // element
  uint32_t mask = 0xFF;
  float middle = 127.5F; // what a code of value zero would be
  const float* unpacked = nullptr; // element 0 of the numbers themselves, where a feature's hashed blocks have them (forward.h)

  PSS_INLINE Packed operator+(int64_t number) const {
    Packed there = *this;
    there.at += number;
    return there;
  }

  // The codes from element `address` on, in the lowest bits: in a word of 16 bits one, or two of up to four bits, and so on. No more is loaded
  // than that, for the next line of the cache is far.
  template <typename Word>
  PSS_INLINE Word word(int64_t address) const {
    Word found;
    const int64_t bit = address * bits;
    __builtin_memcpy(&found, codes + (bit >> 3), sizeof found);
    return static_cast<Word>(found >> (bit & 7));
  }

  // Whether blocks of that many elements, from `first` on, have a word and a scale each: packed_lanes.h, `load_ones` and `load_fours`.
  PSS_INLINE static bool has_words(int64_t block, int64_t first) { return block == 1 || (block == 4 && first % 4 == 0); }

  PSS_INLINE float scale(int64_t group) const {
    const uint32_t wide = static_cast<uint32_t>(scales[group]) << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
  }

  // Exact, but for the product's rounding: the difference has nine bits.
  PSS_INLINE float operator[](int64_t j) const {
    const int32_t code = static_cast<int32_t>(word<uint16_t>(at + j) & mask);
    return (static_cast<float>(code) - middle) * scale((at + j) >> kGroupBits);
  }
};

struct Code {}; // stands for the element type where elements are packed

// Where elements of a type are read from, and what an optimizer steps.
template <typename T>
struct SourceOf {
  using Type = const T*;
  using Stepped = T;
};
template <>
struct SourceOf<Code> {
  using Type = Packed;
  using Stepped = float;
};

template <typename Source>
constexpr bool kIsPacked = std::is_same_v<std::remove_cv_t<Source>, Packed>;

} // namespace torchrec_pss
