// An array as it is stored where its elements have few bits: ops/packed.py, whose bits these are. Included once for each instruction set,
// see lanes.h.
#ifdef PSS_AVX2
#include "pack_avx2.h"
#endif
namespace torchrec_pss {
namespace PSS_ISA {

// Codes of a group side by side, a byte each, moved together in steps of 16, 32 and 64 bits; then `b` bytes of each eight are left.
template <int b>
PSS_INLINE void store_codes(const uint8_t* codes, uint8_t* to) {
  constexpr int64_t kWords = kGroup / 8;
  constexpr uint64_t kOf16 = ((uint64_t(1) << 2 * b) - 1) * 0x0001000100010001U, kOf32 = ((uint64_t(1) << 4 * b) - 1) * 0x0000000100000001U;
  uint64_t words[kWords];
  __builtin_memcpy(words, codes, kGroup);
  for (int64_t i = 0; b < 8 && i < kWords; ++i) {
    uint64_t w = words[i];
    w = (w | w >> (8 - b)) & kOf16;
    w = (w | w >> (16 - 2 * b)) & kOf32;
    words[i] = w | w >> (32 - 4 * b);
  }
  if constexpr (b == 8) {
    __builtin_memcpy(to, words, kGroup);
  } else if constexpr (b != 3) {
    std::conditional_t<b == 4, uint32_t, uint16_t> kept[kWords];
    for (int64_t i = 0; i < kWords; ++i) {
      kept[i] = words[i];
    }
    __builtin_memcpy(to, kept, sizeof kept);
  } else {
    for (int64_t i = 0; i < kWords; ++i) {
      __builtin_memcpy(to + i * b, words + i, b);
    }
  }
}

// A whole group's.
template <int b>
PSS_INLINE void pack_group(const float* elements, Scale scale, float half, uint8_t* to) {
#ifdef PSS_AVX2
  pack_elements<b>(elements, scale.inverse, to);
#else
  int32_t wide[kGroup];
  each_level(elements, scale, half, [&](int64_t i, Ints q) __attribute__((always_inline)) {
    __builtin_memcpy(wide + i, &q, sizeof q);
  });
  uint8_t codes[kGroup];
  for (int64_t i = 0; i < kGroup; ++i) {
    codes[i] = static_cast<uint8_t>(wide[i] + static_cast<int32_t>(half));
  }
  store_codes<b>(codes, to);
#endif
}

// Groups [first, last). Bits behind the last element's code are zeros.
template <int b>
void pack_bits(const float* from, int64_t numel, float factor, float half, int64_t first, int64_t last, uint8_t* codes, uint16_t* scales) {
  each_group(from, numel, factor, first, last, [&](int64_t group, const float* elements, Scale scale) __attribute__((always_inline)) {
    uint32_t bits;
    __builtin_memcpy(&bits, &scale.value, sizeof bits);
    scales[group] = scale.value == scale.value ? static_cast<uint16_t>(bits >> 16) : uint16_t(0x7FC0);
    pack_group<b>(elements, scale, half, codes + group * (kGroup * b / 8));
  });
  if (first < last && numel < last * kGroup) {
    uint8_t* const byte = codes + (numel * b >> 3);
    *byte &= (1 << (numel * b & 7)) - 1;
    __builtin_memset(byte + 1, 0, codes + last * (kGroup * b / 8) - byte - 1);
  }
}

void pack(
    const float* from, int64_t numel, int64_t bits, float factor, float half, int64_t first, int64_t last, uint8_t* codes, uint16_t* scales) {
  const auto by = bits == 8 ? pack_bits<8> : bits == 4 ? pack_bits<4> : bits == 3 ? pack_bits<3> : pack_bits<2>;
  by(from, numel, factor, half, first, last, codes, scales);
}

} // namespace PSS_ISA
} // namespace torchrec_pss
