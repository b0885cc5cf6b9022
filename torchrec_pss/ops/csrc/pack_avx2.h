// A group's codes by AVX2: what pack.h makes for any processor, to the bit. Included for each instruction set that has it, see lanes.h.
namespace torchrec_pss {
namespace PSS_ISA {

// The whole numbers below sixteen elements times `inverse`, in 16 bits each: four of the first half, four of the second, and so on. A NaN's is the least.
PSS_INLINE __m256i floor_sixteen(const float* from, float inverse) {
  const auto part = [&](int i) __attribute__((always_inline)) {
    return _mm256_cvttps_epi32(_mm256_floor_ps(_mm256_mul_ps(_mm256_loadu_ps(from + i), _mm256_set1_ps(inverse))));
  };
  return _mm256_packs_epi32(part(0), part(8));
}

// Codes of 32 elements, a byte each. None is too large, for a scale is at most a part of 2^8 too small; what is less than zero is a NaN's.
template <int b>
PSS_INLINE __m256i codes_of(const float* from, float inverse) {
  const __m256i half = _mm256_set1_epi16(1 << (b - 1));
  const __m256i low = _mm256_add_epi16(floor_sixteen(from, inverse), half), high = _mm256_add_epi16(floor_sixteen(from + 16, inverse), half);
  return _mm256_permutevar8x32_epi32(_mm256_packus_epi16(low, high), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

// Two codes in a number of 16 bits; four in one of 32.
template <int b>
PSS_INLINE __m256i twos_of(const float* from, float inverse) {
  return _mm256_maddubs_epi16(codes_of<b>(from, inverse), _mm256_set1_epi16(1 | 0x100 << b));
}
template <int b>
PSS_INLINE __m256i fours_of(const float* from, float inverse) {
  return _mm256_madd_epi16(twos_of<b>(from, inverse), _mm256_set1_epi32(1 | 0x10000 << 2 * b));
}

template <int b>
PSS_INLINE void pack_elements(const float* from, float inverse, uint8_t* to) {
  __m256i* const all = reinterpret_cast<__m256i*>(to);
  if constexpr (b == 8) {
    _mm256_storeu_si256(all, codes_of<b>(from, inverse));
    _mm256_storeu_si256(all + 1, codes_of<b>(from + 32, inverse));
  } else if constexpr (b == 4) {
    const __m256i mixed = _mm256_packus_epi16(twos_of<b>(from, inverse), twos_of<b>(from + 32, inverse));
    _mm256_storeu_si256(all, _mm256_permute4x64_epi64(mixed, 0xD8));
  } else if constexpr (b == 2) {
    const __m256i words = _mm256_packus_epi32(fours_of<b>(from, inverse), fours_of<b>(from + 32, inverse));
    const __m256i mixed = _mm256_packus_epi16(words, words);
    const __m256i in_order = _mm256_permutevar8x32_epi32(mixed, _mm256_setr_epi32(0, 4, 1, 5, 0, 4, 1, 5));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_castsi256_si128(in_order));
  } else {
    const __m256i close = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1));
    for (int i = 0; i < 2; ++i, from += 32, to += 12) {
      const __m256i fours = fours_of<b>(from, inverse), eights = _mm256_or_si256(fours, _mm256_srli_epi64(fours, 32 - 4 * b));
      const __m256i sixteens = _mm256_shuffle_epi8(eights, close);
      const int64_t first = _mm256_extract_epi64(sixteens, 0), second = _mm256_extract_epi64(sixteens, 2);
      __builtin_memcpy(to, &first, 6);
      __builtin_memcpy(to + 6, &second, 6);
    }
  }
}

} // namespace PSS_ISA
} // namespace torchrec_pss
