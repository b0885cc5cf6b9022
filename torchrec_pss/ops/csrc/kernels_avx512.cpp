// The kernels for x86 with AVX512; lookup_cpu.cpp asks the processor before it calls them.
#include "problem.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512cd,avx2,fma,bmi,bmi2,f16c,prefer-vector-width=512")
#define PSS_ISA avx512
#define PSS_REGISTERS 32
#define PSS_REGISTER_BYTES 64
#define PSS_FIND_KEY(keys, key)                                                       \
  __builtin_ctz(                                                                      \
      _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(                      \
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys)), _mm256_set1_epi32(key)))) | \
      256)
#define PSS_STREAM(to, v) _mm512_stream_ps(to, (__m512)(v))
#define PSS_WIDEN_BYTES(from) _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))
#define PSS_WIDEN_16_BYTES(from) _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#define PSS_FLOOR_GROUP(from, inverse) floor_group(from, inverse)

namespace torchrec_pss {
namespace avx512 {

// 64 elements times `inverse`, as whole numbers of 8 bits, saturated; a NaN is the least.
static inline __attribute__((always_inline)) __m512i floor_group(const float* from, float inverse) {
  const auto of = [&](int i) __attribute__((always_inline)) {
    const __m512 level = _mm512_mul_ps(_mm512_loadu_ps(from + i), _mm512_set1_ps(inverse));
    return _mm512_cvtsepi32_epi8(_mm512_cvt_roundps_epi32(level, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC));
  };
  const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(of(0)), of(16), 1);
  const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(of(32)), of(48), 1);
  return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

} // namespace avx512
} // namespace torchrec_pss
#include "kernels.h"
#pragma GCC pop_options

namespace torchrec_pss {
extern const Kernels* const kAvx512Kernels = &avx512::kKernels;
} // namespace torchrec_pss
#endif
