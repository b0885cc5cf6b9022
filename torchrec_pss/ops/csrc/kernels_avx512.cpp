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
// Masked, for GCC 12 warns of the other's own variables.
#define PSS_WIDEN_16_BYTES(from) _mm512_maskz_cvtepu8_epi32(0xFFFF, _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)))
#define PSS_AVX2
#include "kernels.h"
#pragma GCC pop_options

namespace torchrec_pss {
extern const Kernels* const kAvx512Kernels = &avx512::kKernels;
} // namespace torchrec_pss
#endif
