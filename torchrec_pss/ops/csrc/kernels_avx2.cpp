// The kernels for x86 with AVX2; lookup_cpu.cpp asks the processor before it calls them.
#include "problem.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#include <immintrin.h>

#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,f16c")
#define PSS_ISA avx2
#define PSS_FIND_KEY(keys, key)                                                       \
  __builtin_ctz(                                                                      \
      _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpeq_epi32(                      \
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys)), _mm256_set1_epi32(key)))) | \
      256)
#define PSS_STREAM(to, v)                                                    \
  do {                                                                       \
    __m256 halves[2];                                                        \
    __builtin_memcpy(halves, &(v), sizeof(halves));                          \
    _mm256_stream_ps(to, halves[0]);                                         \
    _mm256_stream_ps((to) + 8, halves[1]);                                   \
  } while (0)
#include "kernels.h"
#pragma GCC pop_options

namespace torchrec_pss {
extern const Kernels* const kAvx2Kernels = &avx2::kKernels;
} // namespace torchrec_pss
#endif
