// 8-bit weights, more than 16 tokens, on Hopper.
#include "packed_wgmma.cuh"

PACKED_WGMMA(8, asym, true, F16, f16, 8, 4)
PACKED_WGMMA(8, asym, true, F16, f16, 16, 3)
PACKED_WGMMA(8, asym, true, BF16, bf16, 8, 4)
PACKED_WGMMA(8, asym, true, BF16, bf16, 16, 3)
