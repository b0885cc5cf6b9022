// Several packed elements at once. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// What codes in a word of 32 bits are shifted by, for two words: eight each of up to four bits, four of eight.
constexpr uint32_t kShifts[9][16] = {
    {}, {}, {0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14}, {0, 3, 6, 9, 12, 15, 18, 21, 0, 3, 6, 9, 12, 15, 18, 21},
    {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28}, {}, {}, {}, {0, 8, 16, 24}};

// e consecutive elements in one register, e up to sixteen. The types are parameters, for GCC makes no vectors of others whose length is one.
template <int e, typename Float = float, typename Int = int32_t, typename Word = uint32_t, typename Byte = uint8_t>
struct PackedPart {
  typedef Float Floats __attribute__((vector_size(e * sizeof(Float))));
  typedef Int Ints __attribute__((vector_size(e * sizeof(Int))));
  typedef Word Words __attribute__((vector_size(e * sizeof(Word))));
  typedef Byte Bytes __attribute__((vector_size(e * sizeof(Byte))));

  PSS_INLINE static Words codes(const Packed& from, int64_t address) {
    if (e > 4 && from.bits == 8) {
#ifdef PSS_WIDEN_BYTES
      if constexpr (e == 8) {
        return (Words)(PSS_WIDEN_BYTES(from.codes + address));
      }
#endif
#ifdef PSS_WIDEN_16_BYTES
      if constexpr (e == 16) {
        return (Words)(PSS_WIDEN_16_BYTES(from.codes + address));
      }
#endif
      Bytes bytes;
      __builtin_memcpy(&bytes, from.codes + address, e);
      return __builtin_convertvector(bytes, Words);
    }
    Words words, shifts;
    if constexpr (e > 8) {
      const uint32_t first = static_cast<uint32_t>(from.template word<uint64_t>(address));
      const uint32_t second = static_cast<uint32_t>(from.template word<uint64_t>(address + 8));
#pragma GCC unroll 16
      for (int k = 0; k < e; ++k) {
        words[k] = k < 8 ? first : second;
      }
    } else {
      using Loaded = std::conditional_t<(e > 4), uint64_t, std::conditional_t<(e > 2), uint32_t, uint16_t>>;
      words = Words{} + static_cast<uint32_t>(from.template word<Loaded>(address));
    }
    __builtin_memcpy(&shifts, kShifts[from.bits], sizeof shifts);
    return (words >> shifts) & from.mask;
  }

  // Those in a word, of one scale.
  PSS_INLINE static void store_word(const Packed& from, uint32_t word, float scale, float* to) {
    Words shifts;
    __builtin_memcpy(&shifts, kShifts[from.bits], sizeof shifts);
    const Words codes = ((Words{} + word) >> shifts) & from.mask;
    const Floats found = (__builtin_convertvector((Ints)codes, Floats) - from.middle) * scale;
    __builtin_memcpy(to, &found, sizeof found);
  }

  PSS_INLINE static Floats values(const Packed& from, int64_t address) {
    const Ints whole = reinterpret_cast<Ints>(codes(from, address));
    const Floats levels = __builtin_convertvector(whole, Floats) - from.middle;
    const int64_t group = address >> kGroupBits, left = kGroup - (address & (kGroup - 1)); // elements of the group from `address` on
    Floats scales = from.scale(group) - Floats{};
    if (__builtin_expect(left < e, 0)) {
      const Floats next = from.scale(group + 1) - Floats{};
      Ints place;
#pragma GCC unroll 16
      for (int k = 0; k < e; ++k) {
        place[k] = k;
      }
      scales = place < static_cast<int32_t>(left) ? scales : next;
    }
    return levels * scales;
  }
};

template <int n, typename Acc>
PSS_INLINE Lanes<Acc, n> load(const Packed& from) {
  Lanes<Acc, n> v;
#pragma GCC unroll 8
  for (int p = 0; p < v.kParts; ++p) {
    v.part[p] = PackedPart<v.kEach>::values(from, from.at + p * v.kEach);
  }
  return v;
}

// Blocks of kBlock elements, 1 or 4 and within a group each, of `count` rows: row c's i-th is at addresses[i * count + c], or with its sign changed
// at ~ that; they go to to[(c * each + i) * kBlock], for i below `each`. Words are loaded apart from arithmetic: then many misses overlap.
constexpr int64_t kMostRows = 64, kMostEach = 8;
template <int kBlock>
PSS_INLINE void load_blocks(const Packed& from, const int64_t* addresses, int64_t count, int64_t each, float* to) {
  using Word = std::conditional_t<(kBlock > 1), uint32_t, uint16_t>;
  uint32_t words[kMostRows * kMostEach];
  float scales[kMostRows * kMostEach];
  for (int64_t i = 0; i < each; ++i, addresses += count) {
    int64_t bytes[kMostRows], groups[kMostRows];
    uint32_t shifts[kMostRows], signs[kMostRows];
    for (int64_t c = 0; c < count; ++c) {
      const int64_t sign = addresses[c] >> 63, a = addresses[c] ^ sign, bit = a * from.bits;
      bytes[c] = bit >> 3;
      groups[c] = a >> kGroupBits;
      shifts[c] = static_cast<uint32_t>(bit & 7);
      signs[c] = static_cast<uint32_t>(sign) & 0x80000000U;
    }
    for (int64_t c = 0; c < count; ++c) {
      Word word;
      __builtin_memcpy(&word, from.codes + bytes[c], sizeof word);
      words[c * each + i] = static_cast<uint32_t>(word) >> shifts[c];
      const uint32_t scale = static_cast<uint32_t>(from.scales[groups[c]]) << 16 | signs[c];
      __builtin_memcpy(scales + c * each + i, &scale, sizeof scale);
    }
  }
  if constexpr (kBlock == 1) {
    for (int64_t k = 0; k < count * each; ++k) {
      to[k] = (static_cast<float>(static_cast<int32_t>(words[k] & from.mask)) - from.middle) * scales[k];
    }
  } else {
    for (int64_t k = 0; k < count * each; ++k) {
      PackedPart<kBlock>::store_word(from, words[k], scales[k], to + k * kBlock);
    }
  }
}

} // namespace PSS_ISA
} // namespace torchrec_pss
