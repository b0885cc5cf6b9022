// Several packed elements at once. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// What codes in a word of 32 bits are shifted by, for two words: eight each of up to four bits, four of eight.
constexpr uint32_t kShifts[9][16] = {
    {}, {}, {0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14}, {0, 3, 6, 9, 12, 15, 18, 21, 0, 3, 6, 9, 12, 15, 18, 21},
    {0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28}, {}, {}, {}, {0, 8, 16, 24}};

// Those of four codes each, of one word and the next.
constexpr uint32_t kShiftsInFours[9][16] = {
    {}, {}, {0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6, 0, 2, 4, 6}, {0, 3, 6, 9, 0, 3, 6, 9, 0, 3, 6, 9, 0, 3, 6, 9},
    {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12}, {}, {}, {}, {0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24, 0, 8, 16, 24}};
constexpr int32_t kFours[16] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};

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

  // Of e / 4 words, four elements each with their scale, times `factor`. A whole register of words and of scales is loaded.
  PSS_INLINE static void store_fours(const Packed& from, const uint32_t* words, const float* scales, float factor, float* to) {
    Words word, shift;
    Floats scale;
    if constexpr (e == 4) {
      word = Words{} + *words;
      scale = *scales - Floats{};
    } else {
      Ints block;
      __builtin_memcpy(&word, words, sizeof word);
      __builtin_memcpy(&scale, scales, sizeof scale);
      __builtin_memcpy(&block, kFours, sizeof block);
      word = __builtin_shuffle(word, block);
      scale = __builtin_shuffle(scale, block);
    }
    __builtin_memcpy(&shift, kShiftsInFours[from.bits], sizeof shift);
    const Words codes = (word >> shift) & from.mask;
    const Floats found = (__builtin_convertvector((Ints)codes, Floats) - from.middle) * scale * factor;
    __builtin_memcpy(to, &found, sizeof found);
  }

  PSS_INLINE static Floats values(const Packed& from, int64_t address) {
    const Ints whole = reinterpret_cast<Ints>(codes(from, address));
    const Floats levels = __builtin_convertvector(whole, Floats) - from.middle;
    const int64_t group = address >> kGroupBits, left = kGroup - (address & (kGroup - 1)); // elements of the group from `address` on
    Ints place;
#pragma GCC unroll 16
    for (int k = 0; k < e; ++k) {
      place[k] = k;
    }
    Floats scales = from.scale(group) - Floats{};
    if (e <= 8 || __builtin_expect(left < e, 0)) { // short rows lie in two groups too often for a branch
      const Floats last = from.scale((address + e - 1) >> kGroupBits) - Floats{};
      scales = place < static_cast<int32_t>(left) ? scales : last;
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

// Elements [first, last), one after another.
PSS_INLINE void unpack_run(const Packed& from, int64_t first, int64_t last, float* to) {
  constexpr int64_t each = PSS_REGISTER_BYTES / 4;
  typedef PackedPart<each> Part;
  while (first < last) {
    const int64_t group = first >> kGroupBits, end = (group + 1) << kGroupBits < last ? (group + 1) << kGroupBits : last;
    const float scale = from.scale(group), middle = from.middle;
    for (; first + each <= end; first += each, to += each) {
      const typename Part::Floats levels = __builtin_convertvector((typename Part::Ints)Part::codes(from, first), typename Part::Floats);
      const typename Part::Floats values = (levels - middle) * scale;
      __builtin_memcpy(to, &values, sizeof values);
    }
    for (; first < end; ++first) {
      *to++ = from[first];
    }
  }
}

// Blocks of hashed rows: row c's i-th is at addresses[i * count + c], or with its sign changed at ~ that. They are read in passes: where each lies,
// then codes and scales, then numbers. Loads that nothing waits for overlap, and arithmetic takes whole registers.
constexpr int64_t kMostRows = 64, kMostEach = 8;
#ifdef __GNUC__
#define PSS_ONE_BY_ONE(index) __asm__("" : "+r"(index)) // or the compiler scatters or gathers, which processors do slowly
#else
#define PSS_ONE_BY_ONE(index)
#endif

// The i-th blocks of up to kMostRows rows.
struct PackedPlaces {
  int64_t bytes[kMostRows], groups[kMostRows];
  uint32_t shifts[kMostRows], signs[kMostRows];

  PSS_INLINE void take(const Packed& from, const int64_t* addresses, int64_t count) {
    const int64_t bits = from.bits;
    for (int64_t c = 0; c < count; ++c) {
      const int64_t sign = addresses[c] >> 63, a = addresses[c] ^ sign, bit = a * bits;
      bytes[c] = bit >> 3;
      groups[c] = a >> kGroupBits;
      shifts[c] = static_cast<uint32_t>(bit & 7);
      signs[c] = static_cast<uint32_t>(sign) & 0x80000000U;
    }
  }
};

// Blocks of one element: to[rows[c] + i] = factors[c] times row c's i-th, for up to kMostEach of a row.
PSS_INLINE void load_ones(
    const Packed& from, const int64_t* addresses, int64_t count, int64_t each, const float* factors, const int64_t* rows, float* to) {
  const uint32_t mask = from.mask;
  const float middle = from.middle;
  const uint8_t* const codes = from.codes;
  const uint16_t* const scales = from.scales;
  float values[kMostEach * kMostRows];
  for (int64_t i = 0; i < each; ++i, addresses += count) {
    PackedPlaces at;
    uint16_t words[kMostRows], scale[kMostRows];
    at.take(from, addresses, count);
    for (int64_t c = 0; c < count; ++c) {
      __builtin_memcpy(words + c, codes + at.bytes[c], sizeof *words);
      scale[c] = scales[at.groups[c]];
    }
    for (int64_t c = 0; c < count; ++c) {
      const float level = static_cast<float>(static_cast<int32_t>(words[c] >> at.shifts[c] & mask)) - middle;
      const uint32_t wide = static_cast<uint32_t>(scale[c]) << 16 | at.signs[c];
      float signed_scale;
      __builtin_memcpy(&signed_scale, &wide, sizeof wide);
      values[i * kMostRows + c] = level * signed_scale * factors[c];
    }
  }
  const auto write = [&](int64_t length) __attribute__((always_inline)) {
    for (int64_t c = 0; c < count; ++c) {
      float* const row = to + rows[c];
#pragma GCC unroll 8
      for (int64_t i = 0; i < length; ++i) {
        PSS_ONE_BY_ONE(i);
        row[i] = values[i * kMostRows + c];
      }
    }
  };
  with_constant<6, 8>(each, write);
}

// The same of blocks of four elements, within a group each: row c's i-th block is from to[rows[c] + 4 * i] on.
PSS_INLINE void load_fours(
    const Packed& from, const int64_t* addresses, int64_t count, int64_t each, const float* factors, const int64_t* rows, float* to) {
  constexpr int e = PSS_REGISTER_BYTES / 4;
  uint32_t words[kMostRows * kMostEach + e]; // registers are loaded whole
  float scales[kMostRows * kMostEach + e];
  for (int64_t i = 0; i < each; ++i, addresses += count) {
    PackedPlaces at;
    at.take(from, addresses, count);
    for (int64_t c = 0; c < count; ++c) {
      uint32_t word;
      __builtin_memcpy(&word, from.codes + at.bytes[c], sizeof word);
      words[c * each + i] = word >> at.shifts[c];
      const uint32_t scale = static_cast<uint32_t>(from.scales[at.groups[c]]) << 16 | at.signs[c];
      __builtin_memcpy(scales + c * each + i, &scale, sizeof scale);
    }
  }
  for (int64_t c = 0; c < count; ++c) {
    float* const row = to + rows[c];
    const int64_t begin = c * each;
    int64_t i = 0;
    for (; i + e / 4 <= each; i += e / 4) {
      PackedPart<e>::store_fours(from, words + begin + i, scales + begin + i, factors[c], row + 4 * i);
    }
    for (; i < each; ++i) {
      PackedPart<4>::store_fours(from, words + begin + i, scales + begin + i, factors[c], row + 4 * i);
    }
  }
}

#undef PSS_ONE_BY_ONE

} // namespace PSS_ISA
} // namespace torchrec_pss
