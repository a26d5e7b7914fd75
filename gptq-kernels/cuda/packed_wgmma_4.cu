// 4-bit weights, more than 16 tokens, on Hopper.
#include "packed_wgmma.cuh"

PACKED_WGMMA(4, sym, false, F16, f16, 8, 5)
PACKED_WGMMA(4, sym, false, F16, f16, 16, 4)
PACKED_WGMMA(4, sym, false, BF16, bf16, 8, 5)
PACKED_WGMMA(4, sym, false, BF16, bf16, 16, 4)
PACKED_WGMMA(4, asym, true, F16, f16, 8, 5)
PACKED_WGMMA(4, asym, true, F16, f16, 16, 4)
PACKED_WGMMA(4, asym, true, BF16, bf16, 8, 5)
PACKED_WGMMA(4, asym, true, BF16, bf16, 16, 4)
