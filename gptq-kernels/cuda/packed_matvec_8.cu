// 8-bit weights, one or two tokens.
#include "packed_matvec.cuh"

PACKED_MATVEC(8, asym, true, F16, f16)
PACKED_MATVEC(8, asym, true, BF16, bf16)
