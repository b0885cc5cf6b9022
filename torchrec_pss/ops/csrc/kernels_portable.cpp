// The kernels for any processor, as the compiler's flags have it.
#include "problem.h"

#define PSS_ISA portable
#define PSS_REGISTERS 16
#define PSS_REGISTER_BYTES 16
#include "kernels.h"

namespace torchrec_pss {
extern const Kernels* const kPortableKernels = &portable::kKernels;
extern const KernelsOf<double, double>* const kFp64Kernels = &portable::kKernelsOf<double, double>;
} // namespace torchrec_pss
