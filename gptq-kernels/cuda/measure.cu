// What the memory gives at most.
#include "common.cuh"

// Reads everything, and writes nothing that anyone expects.
KERNEL read_all(const uint4* from, u64 many, u32* out) {
    u32 all = 0;
#pragma unroll 4
    for (u64 i = u64(blockIdx.x) * blockDim.x + threadIdx.x; i < many; i += u64(gridDim.x) * blockDim.x) {
        uint4 x = __ldg(from + i);
        all ^= x.x ^ x.y ^ x.z ^ x.w;
    }
    if (all == 0x9e3779b9) *out = all;
}
