// Gathers the kernels of one ISA level.
#include "cpu/simd.h"
#include "instances.h"

#define TW_QUOTE(name) #name
#define TW_TEXT(name) TW_QUOTE(name)

namespace tilewright::TILEWRIGHT_ISA_NAMESPACE {

extern const MatmulKernel kGemm[];
extern const MatmulKernel kGemv[];
extern const Conv2dKernel kDirect[];
extern const Conv2dKernel kGrouped[];
extern const Conv2dKernel kPlanes[];
extern const Conv2dKernel kWeightGradient[];
extern const Conv2dKernel kWinograd[];
extern const Probe kProbe;

constinit const IsaKernels kKernels = {TW_TEXT(TILEWRIGHT_ISA_NAMESPACE),
                                       kLanes,
                                       kGemm,
                                       kGemv,
                                       {kDirect, kGrouped, kPlanes, kWeightGradient, kWinograd},
                                       &kProbe};

}  // namespace tilewright::TILEWRIGHT_ISA_NAMESPACE
