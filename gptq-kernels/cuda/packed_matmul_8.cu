// 8-bit weights. Which of these a product takes is decided in src/cuda/kernels.rs.
#include "packed_matmul.cuh"

PACKED_MATMUL(8, asym, true, F16, f16, 1, 2, 4, 2)
PACKED_MATMUL(8, asym, true, F16, f16, 2, 4, 2, 2)
PACKED_MATMUL(8, asym, true, F16, f16, 8, 4, 2, 1)
PACKED_MATMUL(8, asym, true, BF16, bf16, 1, 2, 4, 2)
PACKED_MATMUL(8, asym, true, BF16, bf16, 2, 4, 2, 2)
PACKED_MATMUL(8, asym, true, BF16, bf16, 8, 4, 2, 1)
