// The kernels for x86 with AVX2; lookup_cpu.cpp asks the processor before it calls them.
#include "problem.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,f16c")
#define PSS_ISA avx2
#include "kernels.h"
#pragma GCC pop_options

namespace torchrec_pss {
extern const Kernels* const kAvx2Kernels = &avx2::kKernels;
} // namespace torchrec_pss
#endif
