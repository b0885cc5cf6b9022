// The kernels of one instruction set. Included once for each, which PSS_ISA names; no include guard.
#include "lanes.h"
#include "packed_lanes.h"
#include "gemm.h"
#include "tile.h"
#include "distinct.h"
#include "pooling.h"
#include "forward.h"
#include "backward.h"
#include "update.h"
#include "quantize.h"
#include "pack.h"

namespace torchrec_pss {
namespace PSS_ISA {

template <typename T, typename Acc>
constexpr KernelsOf<T, Acc> kKernelsOf{forward<T, Acc>, prepare<T, Acc>, add<T, Acc>, apply<T, Acc>, apply_to_all<T, Acc>};

const Kernels kKernels = {
    kKernelsOf<float, float>, kKernelsOf<c10::Half, float>, kKernelsOf<c10::BFloat16, float>, kKernelsOf<Code, float>, quantize, pack};

} // namespace PSS_ISA
} // namespace torchrec_pss
