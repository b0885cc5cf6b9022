// An array as it is stored where its elements have few bits: ops/packed.py, whose bits these are. Included once for each instruction set,
// see lanes.h.
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
  for (int64_t i = 0; i < kWords; ++i) {
    __builtin_memcpy(to + i * b, words + i, b);
  }
}

template <int b>
PSS_INLINE void pack_group(const float* from, int64_t length, float factor, uint8_t* codes, uint16_t* scale_bits) {
  constexpr float kHalf = 1 << (b - 1);
  const float scale = scale_of_group(from, length, factor), inverse = 1 / scale;
  uint32_t bits;
  __builtin_memcpy(&bits, &scale, sizeof bits);
  *scale_bits = scale == scale ? static_cast<uint16_t>(bits >> 16) : uint16_t(0x7FC0);
  uint8_t bytes[kGroup] = {}; // a last group's missing elements are zeros
  for (int64_t i = 0; i < length; ++i) {
    bytes[i] = static_cast<uint8_t>(static_cast<int32_t>(floor_of_level(from[i] * inverse, kHalf) + kHalf));
  }
  store_codes<b>(bytes, codes);
}

// Groups [first, last).
template <int b>
void pack_bits(const float* from, int64_t numel, float factor, int64_t first, int64_t last, uint8_t* codes, uint16_t* scales) {
  for (int64_t group = first; group < last; ++group) {
    const int64_t at = group * kGroup;
    uint8_t* const to = codes + group * (kGroup * b / 8);
    if (at + kGroup <= numel) {
      pack_group<b>(from + at, kGroup, factor, to, scales + group);
    } else {
      pack_group<b>(from + at, numel - at, factor, to, scales + group);
    }
  }
}

void pack(
    const float* from, int64_t numel, int64_t bits, float factor, int64_t first, int64_t last, uint8_t* codes, uint16_t* scales) {
  const auto by = bits == 8 ? pack_bits<8> : bits == 4 ? pack_bits<4> : bits == 3 ? pack_bits<3> : pack_bits<2>;
  by(from, numel, factor, first, last, codes, scales);
}

} // namespace PSS_ISA
} // namespace torchrec_pss
