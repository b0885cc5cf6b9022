// Elements of few bits, as they are stored: docs/hashing.md, section 6, "Packed". What the kernels take in the place of a pointer to elements:
// it is added to and read from as one. lanes.h reads several at once.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hashing.h"

namespace torchrec_pss {

constexpr int64_t kGroup = 64; // elements of one scale
// Bytes that codes have behind their groups, which are whole: so many are loaded at once.
constexpr int64_t kCodesBehind = 8;

struct Packed {
  const uint8_t* codes = nullptr; // q + half, `bits` each, the first in the lowest bits
  const uint16_t* scales = nullptr; // bf16
  int64_t bits = 8; // 8, 4, 3 or 2
  int64_t at = 0; // element
  uint32_t mask = 0xFF;
  float middle = 127.5F; // what a code of value zero would be

  PSS_INLINE Packed operator+(int64_t number) const {
    Packed there = *this;
    there.at += number;
    return there;
  }

  // The codes from element `address` on, in the lowest bits: eight of up to four bits, or of eight bits.
  PSS_INLINE uint64_t word(int64_t address) const {
    uint64_t found;
    const int64_t bit = address * bits;
    __builtin_memcpy(&found, codes + (bit >> 3), sizeof found);
    return found >> (bit & 7);
  }

  PSS_INLINE float scale(int64_t group) const {
    const uint32_t wide = static_cast<uint32_t>(scales[group]) << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
  }

  // Exact, but for the product's rounding: the difference has nine bits.
  PSS_INLINE float operator[](int64_t j) const {
    const int32_t code = static_cast<int32_t>(static_cast<uint32_t>(word(at + j)) & mask);
    return (static_cast<float>(code) - middle) * scale((at + j) / kGroup);
  }
};

struct Code {}; // stands for the element type where elements are packed

// Where elements of a type are read from.
template <typename T>
struct SourceOf {
  using Type = const T*;
};
template <>
struct SourceOf<Code> {
  using Type = Packed;
};

template <typename Source>
constexpr bool kIsPacked = std::is_same_v<std::remove_cv_t<Source>, Packed>;

} // namespace torchrec_pss
