// Rows and columns by index.
#include "common.cuh"

__device__ u64 place() { return u64(blockIdx.x) * blockDim.x + threadIdx.x; }

// out[r] = table[index[r]].
KERNEL gather(const float* table, const u32* index, float* out, u64 many, u32 columns) {
    begin();
    u64 i = place();
    if (i < many) out[i] = table[u64(index[i / columns]) * columns + i % columns];
}

KERNEL copy(float* to, const float* from, u64 many) {
    begin();
    u64 i = place();
    if (i < many) to[i] = from[i];
}

// The columns of one of several matrices that stand side by side, of which this one begins at
// `first`: out[r][c] = part[r][index[c] − first], where that is one of its own. Without an index,
// columns are runs of this length, the first from `start` on and each `step` behind the one before.
KERNEL columns(const float* part, const u32* index, u32 start, u32 run, u32 step, float* out,
               u64 many, u32 out_columns, u32 first, u32 part_columns) {
    begin();
    u64 i = place();
    if (i >= many) return;
    u32 at = u32(i % out_columns);
    u32 column = index ? index[at] : start + at / run * step + at % run;
    if (column < first || column - first >= part_columns) return;
    out[i] = part[i / out_columns * part_columns + column - first];
}

// x[rows[i]] += weights[i] · y[i], in the order of i: a thread has a column.
KERNEL scatter_add(float* x, const u32* rows, const float* weights, const float* y, u32 many,
                   u32 columns) {
    begin();
    u32 column = u32(place());
    if (column >= columns) return;
    for (u32 i = 0; i < many; i++)
        x[u64(rows[i]) * columns + column] += weights[i] * y[u64(i) * columns + column];
}

// Rows come to stand from row *at on, in one matrix, or in two: keys and values, in f32 or in halves.
// The place is read on the device, because it is another for every token while the launch stays the
// same.
KERNEL write_rows(float* target, const u32* at, const float* rows, u64 many, u32 columns, u32 kept,
                  float* also, const u32* also_at, const float* also_rows, u64 also_many,
                  u32 also_columns, u32 also_kept) {
    begin();
    u64 i = place();
    if (i < many) {
        keep(target, u64(*at) * columns + i, rows[i], kept);
    } else if (i - many < also_many) {
        keep(also, u64(*also_at) * also_columns + i - many, also_rows[i - many], also_kept);
    }
}

// The place of the largest number of a row, the first of several. A block is a row.
KERNEL __launch_bounds__(1024, 1)
argmax(const float* x, u32* out, u32 columns) {
    begin();
    __shared__ float tops[WARP];
    __shared__ u32 places[WARP];
    const float* row = x + u64(blockIdx.x) * columns;
    float top = -INFINITE;
    u32 at = 0;
    for_each_of_row<16>(row, columns, [&](u32 i, float x) {
        if (x > top) top = x, at = i;
    });
    auto take = [&](float other, u32 place) {
        if (other > top || (other == top && place < at)) top = other, at = place;
    };
    for (u32 step = WARP / 2; step > 0; step /= 2)
        take(__shfl_xor_sync(0xffffffff, top, step), __shfl_xor_sync(0xffffffff, at, step));
    if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = top, places[threadIdx.x / WARP] = at;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (u32 w = 1; w < blockDim.x / WARP; w++) take(tops[w], places[w]);
    out[blockIdx.x] = at;
}
