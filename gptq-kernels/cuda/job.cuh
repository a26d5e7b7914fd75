// What a product with packed weights is told: up to 4 linears of one input.
#pragma once

#include "codes.cuh"

constexpr u32 THREADS = 256;
constexpr u32 DEPTH = 128;                // inputs of a stage, eight tiles
constexpr u32 MOST_LINEARS = 4;

struct Linear {
    const u32* codes;    // tiles of 128 · BITS bytes, in the order that the steps tell
    const u16* scales;   // [group][n64][g][j], halves
    const u16* zeros;    // the same, or none
    const float* bias;   // [outputs], or none
    float* out;          // [tokens][outputs]
    u32 outputs;
    u32 n_tiles;         // ⌈outputs / 64⌉
    u32 columns_end;     // of all linears so far, columns of tiles
    float rescale;       // scales are held as multiples of it
    u32 n_step, k_step;  // tiles from one to the next along outputs, and along inputs
};

struct Job {
    Linear linears[MOST_LINEARS];
    const u16* x;        // [tokens][k_tiles · 16] halves, zeros where there is no input
    float* partials;     // as the kernel says
    u32* counters;       // [columns], zero, where blocks meet
    u32 tokens;
    u32 k_tiles;         // a multiple of 8
    u32 tiles_per_group;
    u32 groups;
    u32 share, rest;     // stages of a block, and how many blocks have one more, the first ones
};

// Where the stages of a block begin.
__device__ inline u32 begin_of(const Job& job, u32 block) {
    return block * job.share + min(block, job.rest);
}

// Of which linear a column is.
__device__ inline u32 linear_of(const Job& job, u32 column) {
    u32 linear = 0;
    while (linear < MOST_LINEARS - 1 && column >= job.linears[linear].columns_end) linear++;
    return linear;
}

// Which column of its linear it is.
__device__ inline u32 place_in(const Job& job, u32 linear, u32 column) {
    return column - (linear == 0 ? 0 : job.linears[linear - 1].columns_end);
}

// Where a tile begins.
template <u32 BITS> __device__ const u32* tile_at(const Linear& linear, u32 n, u32 k) {
    return linear.codes + (u64(n) * linear.n_step + u64(k) * linear.k_step) * (WARP * BITS);
}

// One number of the result.
__device__ inline void write_sum(const Linear& linear, u32 token, u32 output, float sum) {
    if (output >= linear.outputs) return;
    float bias = linear.bias ? linear.bias[output] : 0.0f;
    linear.out[u64(token) * linear.outputs + output] = sum * linear.rescale + bias;
}
