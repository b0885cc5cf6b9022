// The kernels for x86 with AVX2; lookup_cpu.cpp asks the processor before it calls them.
#include "problem.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,f16c")
#define PSS_ISA avx2
#define PSS_REGISTERS 16
#define PSS_REGISTER_BYTES 32
#define PSS_FIND_KEY(keys, key)                                                       \
  __builtin_ctz(                                                                      \
      _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(                      \
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys)), _mm256_set1_epi32(key)))) | \
      256)
#define PSS_STREAM(to, v) _mm256_stream_ps(to, (__m256)(v))
#define PSS_WIDEN_BYTES(from) _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))
#define PSS_AVX2
#include "kernels.h"
#pragma GCC pop_options

namespace torchrec_pss {
extern const Kernels* const kAvx2Kernels = &avx2::kKernels;
} // namespace torchrec_pss
#endif
