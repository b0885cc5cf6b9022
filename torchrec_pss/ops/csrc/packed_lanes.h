// Several packed elements at once. Included once for each instruction set, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// What eight codes in a word are shifted by.
constexpr uint32_t kShifts[5][8] = {
    {}, {}, {0, 2, 4, 6, 8, 10, 12, 14}, {0, 3, 6, 9, 12, 15, 18, 21}, {0, 4, 8, 12, 16, 20, 24, 28}};

// e consecutive elements in one register, e up to sixteen. The types are parameters, for GCC makes no vectors of others whose length is one.
template <int e, typename Float = float, typename Int = int32_t, typename Word = uint32_t, typename Byte = uint8_t>
struct PackedPart {
  typedef Float Floats __attribute__((vector_size(e * sizeof(Float))));
  typedef Int Ints __attribute__((vector_size(e * sizeof(Int))));
  typedef Word Words __attribute__((vector_size(e * sizeof(Word))));
  typedef Byte Bytes __attribute__((vector_size(e * sizeof(Byte))));

  PSS_INLINE static Words codes(const Packed& from, int64_t address) {
    if (from.bits == 8) {
      Bytes bytes;
      __builtin_memcpy(&bytes, from.codes + address, e);
      return __builtin_convertvector(bytes, Words);
    }
    Words words, shifts;
    const uint32_t first = static_cast<uint32_t>(from.word(address));
    if constexpr (e > 8) {
      const uint32_t second = static_cast<uint32_t>(from.word(address + 8));
#pragma GCC unroll 16
      for (int k = 0; k < e; ++k) {
        words[k] = k < 8 ? first : second;
      }
      __builtin_memcpy(&shifts, kShifts[from.bits], 32);
      __builtin_memcpy(reinterpret_cast<char*>(&shifts) + 32, kShifts[from.bits], 32);
    } else {
      words = Words{} + first;
      __builtin_memcpy(&shifts, kShifts[from.bits], e * 4);
    }
    return (words >> shifts) & from.mask;
  }

  PSS_INLINE static Floats values(const Packed& from, int64_t address) {
    const Ints whole = reinterpret_cast<Ints>(codes(from, address));
    const Floats levels = __builtin_convertvector(whole, Floats) - from.middle;
    const int64_t group = address / kGroup, left = (group + 1) * kGroup - address; // elements of the group from `address` on
    Floats scales = Floats{} + from.scale(group);
    if (__builtin_expect(left < e, 0)) {
      const Floats next = Floats{} + from.scale(group + 1);
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

// Single elements of `count` rows: of row c the i-th is at addresses[i * count + c], or with its sign changed at ~ that; to[c * each + i] = it, for
// i below `each`. What must be loaded one by one is loaded apart from arithmetic, which is of whole registers then.
constexpr int64_t kMostRows = 64, kMostEach = 8;
PSS_INLINE void load_singles(const Packed& from, const int64_t* addresses, int64_t count, int64_t each, float* to) {
  uint32_t words[kMostRows * kMostEach], scales[kMostRows * kMostEach];
  for (int64_t i = 0; i < each; ++i, addresses += count) {
    int64_t bytes[kMostRows], groups[kMostRows];
    uint32_t shifts[kMostRows], signs[kMostRows];
    for (int64_t c = 0; c < count; ++c) {
      const int64_t sign = addresses[c] >> 63, a = addresses[c] ^ sign, bit = a * from.bits;
      bytes[c] = bit >> 3;
      groups[c] = a / kGroup;
      shifts[c] = static_cast<uint32_t>(bit & 7);
      signs[c] = static_cast<uint32_t>(sign) & 0x80000000U;
    }
    for (int64_t c = 0; c < count; ++c) {
      uint16_t word;
      __builtin_memcpy(&word, from.codes + bytes[c], sizeof word);
      words[c * each + i] = static_cast<uint32_t>(word) >> shifts[c];
      scales[c * each + i] = static_cast<uint32_t>(from.scales[groups[c]]) << 16 | signs[c];
    }
  }
  for (int64_t k = 0; k < count * each; ++k) {
    float scale;
    __builtin_memcpy(&scale, scales + k, sizeof scale);
    to[k] = (static_cast<float>(static_cast<int32_t>(words[k] & from.mask)) - from.middle) * scale;
  }
}

} // namespace PSS_ISA
} // namespace torchrec_pss
