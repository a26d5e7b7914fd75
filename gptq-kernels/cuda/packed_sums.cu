// What blocks of packed_matmul.cuh and packed_wgmma.cuh have of their columns, added. A thread is one
// number of the result.
#include "stages.cuh"

template <u32 NB, u32 WIDE> __device__ void packed_sums(const Job& job) {
    using Of = Sums<NB, WIDE>;
    const u32 column = blockIdx.y, row = blockIdx.z;
    const u32 at = blockIdx.x * THREADS + threadIdx.x;
    const u32 lane = at % WARP, wide = at / WARP % WIDE, i = at / WARP / WIDE;
    const u32 token = row * 8 * NB + Of::token(i, lane);
    const Stages stages(job);
    const u32 first = stages.first_owner(column), last = stages.last_owner(column);
    const u32 linear = linear_of(job, column);
    const u32 output = (place_in(job, linear, column) * WIDE + wide) * 64 + Of::output(i, lane);
    begin();
    if (token >= job.tokens) return;
    float sum = 0;
    for (u32 block = first; block <= last; block += 8) {
        // Eight on their way at a time, added in their order.
        float parts[8];
#pragma unroll
        for (u32 q = 0; q < 8; q++)
            parts[q] = block + q <= last ? Of::part(stages, row, block + q, column)[at] : 0.0f;
#pragma unroll
        for (u32 q = 0; q < 8; q++) sum += parts[q];
    }
    write_sum(job.linears[linear], token, output, sum);
}

#define PACKED_SUMS(NB, WIDE)                                                                      \
    KERNEL __launch_bounds__(THREADS) packed_sums_##NB(const __grid_constant__ Job job) {          \
        packed_sums<NB, WIDE>(job);                                                                \
    }

PACKED_SUMS(1, 2)
PACKED_SUMS(2, 4)
PACKED_SUMS(8, 4)
PACKED_SUMS(16, 4)
