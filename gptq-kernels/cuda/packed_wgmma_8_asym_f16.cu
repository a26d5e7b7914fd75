// 8-bit asymmetric weights in f16 on Hopper, for more than 16 tokens. In files of two, because the driver
// compiles a file as a whole and takes a second for these.
#include "packed_wgmma.cuh"

PACKED_WGMMA(8, asym, true, F16, f16, 8, 4)
PACKED_WGMMA(8, asym, true, F16, f16, 16, 3)
