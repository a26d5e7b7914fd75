// 4-bit weights, one or two tokens.
#include "packed_matvec.cuh"

PACKED_MATVEC(4, sym, false, F16, f16)
PACKED_MATVEC(4, sym, false, BF16, bf16)
PACKED_MATVEC(4, asym, true, F16, f16)
PACKED_MATVEC(4, asym, true, BF16, bf16)
