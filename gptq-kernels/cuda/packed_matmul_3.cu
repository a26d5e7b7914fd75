// 3-bit weights. Which of these a product takes is decided in src/cuda/kernels.rs.
#include "packed_matmul.cuh"

PACKED_MATMUL(3, asym, true, F16, f16, 1, 2, 4, 2)
PACKED_MATMUL(3, asym, true, F16, f16, 2, 4, 3, 2)
PACKED_MATMUL(3, asym, true, F16, f16, 8, 4, 3, 1)
PACKED_MATMUL(3, asym, true, BF16, bf16, 1, 2, 4, 2)
PACKED_MATMUL(3, asym, true, BF16, bf16, 2, 4, 3, 2)
PACKED_MATMUL(3, asym, true, BF16, bf16, 8, 4, 3, 1)
