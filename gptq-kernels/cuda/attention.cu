// Causal attention over cached keys and values, for any family: heads of any size, windows, ALiBi,
// caps and sinks. A block is one query of one head and a share of its keys.
#include "attention.cuh"

constexpr u32 WARPS = 4;

// A text's cache has *rows rows: on the device, because it grows while the launch stays the same.
// A lane has `VALUES` channels of a head of values.
template <u32 VALUES, bool HALVES> __device__ void attention(const Attention& a, const u32* rows) {
    extern __shared__ float shared[];
    __shared__ float tops[WARPS], masses[WARPS];
    float* query = shared;
    float* mixed = shared + a.head_dim; // [warp][value_dim]
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 head = blockIdx.x, token = blockIdx.y, share = blockIdx.z, shares = gridDim.z;
    const u32 kv = head * a.kv_heads / a.heads;
    const u32 keys = *rows;
    const u32 position = keys - a.length + token % a.length;
    const u64 text = u64(token / a.length) * keys;
    const u32 first = first_key(a.window, a.window_size, position);
    const u32 seen = position + 1 - first;
    const u32 size = ((seen + shares - 1) / shares + WARP - 1) / WARP * WARP;
    const u32 start = first + min(share * size, seen), end = first + min((share + 1) * size, seen);

    for (u32 i = threadIdx.x; i < a.head_dim; i += blockDim.x)
        query[i] = a.q[(u64(token) * a.heads + head) * a.head_dim + i];
    __syncthreads();

    float top = -INFINITE, mass = 0, values[VALUES] = {};
    for (u32 base = start + warp * WARP; base < end; base += WARPS * WARP) {
        const u32 key = base + lane;
        float score = -INFINITE;
        if (key < end) {
            const u64 row = ((text + key) * a.kv_heads + kv) * a.head_dim;
            float dot = 0;
            if (a.head_dim % 4 == 0) {
                for (u32 i = 0; i < a.head_dim / 4; i++) {
                    float4 k = four_kept_at<HALVES>(a.k, row + 4 * i, a.kept);
                    dot += query[4 * i] * k.x + query[4 * i + 1] * k.y;
                    dot += query[4 * i + 2] * k.z + query[4 * i + 3] * k.w;
                }
            } else {
                for (u32 i = 0; i < a.head_dim; i++) dot += query[i] * kept_at<HALVES>(a.k, row + i, a.kept);
            }
            score = score_of(a, dot, head, key);
        }
        const float higher = fmaxf(top, warp_max(score));
        const float weight = expf(score - higher), shrink = expf(top - higher);
        mass = mass * shrink + warp_sum(weight);
        top = higher;
#pragma unroll
        for (u32 i = 0; i < VALUES; i++) values[i] *= shrink;
        for (u32 j = 0; j < min(end - base, WARP); j += 8) {
            // Rows of eight keys are on their way at a time; those past the end weigh nothing.
#pragma unroll
            for (u32 q = 0; q < 8; q++) {
                const float w = __shfl_sync(0xffffffff, weight, j + q);
                const u32 key = min(base + j + q, end - 1);
                const u64 row = ((text + key) * a.kv_heads + kv) * a.value_dim;
#pragma unroll
                for (u32 i = 0; i < VALUES; i++)
                    if (i * WARP + lane < a.value_dim) values[i] += w * kept_at<HALVES>(a.v, row + i * WARP + lane, a.kept);
            }
        }
    }

    // Warps first, then shares: each had its own largest score.
#pragma unroll
    for (u32 i = 0; i < VALUES; i++)
        if (i * WARP + lane < a.value_dim) mixed[warp * a.value_dim + i * WARP + lane] = values[i];
    if (lane == 0) tops[warp] = top, masses[warp] = mass;
    __syncthreads();
    float highest = -INFINITE, all = 0;
    for (u32 w = 0; w < WARPS; w++) highest = fmaxf(highest, tops[w]);
    // A share may be empty.
    auto part = [&](float of, float highest) { return of == -INFINITE ? 0.0f : expf(of - highest); };
    for (u32 w = 0; w < WARPS; w++) all += masses[w] * part(tops[w], highest);
    auto mix = [&](u32 i) {
        float sum = 0;
        for (u32 w = 0; w < WARPS; w++) sum += mixed[w * a.value_dim + i] * part(tops[w], highest);
        return sum;
    };
    const float sink = a.sinks ? a.sinks[head] : -INFINITE;
    auto write = [&](u32 i, float y) {
        const u64 at = (u64(token) * a.heads + head) * a.value_dim + i;
        a.out[at] = y;
        store_half(a.halves, at, y, a.kind);
    };
    if (shares == 1) {
        const float most = fmaxf(highest, sink);
        const float total = all * part(highest, most) + part(sink, most);
        for (u32 i = threadIdx.x; i < a.value_dim; i += blockDim.x)
            write(i, mix(i) * part(highest, most) / total);
        return;
    }
    const u64 row = u64(token) * a.heads + head;
    float* parts = a.partials + row * shares * (2 + a.value_dim);
    float* own = parts + share * (2 + a.value_dim);
    if (threadIdx.x == 0) own[0] = highest, own[1] = all;
    for (u32 i = threadIdx.x; i < a.value_dim; i += blockDim.x) own[2 + i] = mix(i);
    if (!last_of(a.counters + row, shares)) return;
    float most = sink;
    for (u32 s = 0; s < shares; s++) most = fmaxf(most, load_fresh(parts + s * (2 + a.value_dim)));
    float total = part(sink, most);
    for (u32 s = 0; s < shares; s++) {
        const float* of = parts + s * (2 + a.value_dim);
        total += load_fresh(of + 1) * part(load_fresh(of), most);
    }
    for (u32 i = threadIdx.x; i < a.value_dim; i += blockDim.x) {
        float sum = 0;
        for (u32 s = 0; s < shares; s++) {
            const float* of = parts + s * (2 + a.value_dim);
            sum += load_fresh(of + 2 + i) * part(load_fresh(of), most);
        }
        write(i, sum / total);
    }
}

#define ATTENTION(VALUES)                                                                          \
    KERNEL __launch_bounds__(WARPS* WARP, 1)                                                       \
        attention_##VALUES(const __grid_constant__ Attention a, const u32* rows) {                 \
        begin();                                                                                   \
        if (a.kept == NONE)                                                                        \
            attention<VALUES, false>(a, rows);                                                     \
        else                                                                                       \
            attention<VALUES, true>(a, rows);                                                      \
    }

ATTENTION(2)
ATTENTION(4)
ATTENTION(8)
ATTENTION(16)
