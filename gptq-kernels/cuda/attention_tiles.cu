// Attention of many tokens: 64 queries of one head at a time meet 64 keys, on tensor cores, with
// factors in halves. A warp has 16 queries; what it has seen of their softmax it keeps in registers.
#include "attention.cuh"

constexpr u32 WARPS = 4, QUERIES = 16 * WARPS, KEYS = 64;

// Four 8 × 8 matrices, a row at each lane's address, turned over.
__device__ inline void load_matrices_turned(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// Keys and values from a row of the cache on, as halves to shared memory.
template <class T, u32 DIM, bool HALVES>
__device__ void fill(const Attention& a, u16* k_tile, u16* v_tile, u64 row, u32 last, u32 kv) {
    constexpr u32 PITCH = DIM + 8;
    for (u32 i = threadIdx.x; i < KEYS * DIM / 4; i += WARPS * WARP) {
        const u32 key = i / (DIM / 4), channel = i % (DIM / 4) * 4;
        const u64 at = ((row + min(key, last)) * a.kv_heads + kv) * DIM + channel;
        const float4 k = four_kept_at<HALVES>(a.k, at, a.kept), v = four_kept_at<HALVES>(a.v, at, a.kept);
        u32* to_k = reinterpret_cast<u32*>(k_tile + key * PITCH + channel);
        u32* to_v = reinterpret_cast<u32*>(v_tile + key * PITCH + channel);
        to_k[0] = T::pair(k.x, k.y), to_k[1] = T::pair(k.z, k.w);
        to_v[0] = T::pair(v.x, v.y), to_v[1] = T::pair(v.z, v.w);
    }
}

template <class T, u32 DIM> __device__ void attention_tiles(const Attention& a, const u32* rows) {
    constexpr u32 PITCH = DIM + 8; // halves; off the banks
    __shared__ __align__(16) u16 k_tile[KEYS * PITCH], v_tile[KEYS * PITCH];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 g = lane / 4, t = lane % 4;
    const u32 head = blockIdx.x, text = blockIdx.z;
    const u32 kv = head * a.kv_heads / a.heads;
    const u32 keys = *rows, past = keys - a.length;
    const u32 first_query = blockIdx.y * QUERIES;
    const u32 queries = min(a.length - first_query, QUERIES);
    // The two rows of this lane's accumulators.
    const u32 query[2] = {first_query + warp * 16 + g, first_query + warp * 16 + g + 8};

    // Queries as left factors, once.
    u32 q[DIM / 16][4];
#pragma unroll
    for (u32 d = 0; d < DIM / 16; d++)
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
            const u32 of = query[r % 2], channel = d * 16 + r / 2 * 8 + 2 * t;
            const u64 at = ((u64(text) * a.length + of) * a.heads + head) * DIM + channel;
            q[d][r] = of < a.length ? T::pair(a.q[at], a.q[at + 1]) : 0;
        }

    float out[DIM / 8][4] = {}, top[2] = {-INFINITE, -INFINITE}, mass[2] = {0, 0};
    const u32 begin = first_key(a.window, a.window_size, past + first_query) / KEYS * KEYS;
    const u32 end = past + first_query + queries;
    for (u32 base = begin; base < end; base += KEYS) {
        __syncthreads();
        const u64 row = u64(text) * keys + base;
        if (a.kept == NONE)
            fill<T, DIM, false>(a, k_tile, v_tile, row, end - 1 - base, kv);
        else
            fill<T, DIM, true>(a, k_tile, v_tile, row, end - 1 - base, kv);
        __syncthreads();

        float scores[KEYS / 8][4];
#pragma unroll
        for (u32 n = 0; n < KEYS / 8; n++) {
            float sums[4] = {};
#pragma unroll
            for (u32 d = 0; d < DIM / 32; d++) {
                // Keys 8n to 8n + 7, of 32 channels.
                u32 b[4];
                load_matrices(b, shared_address(k_tile + (n * 8 + lane % 8) * PITCH + d * 32 + lane / 8 * 8));
                T::mma(sums, q[2 * d], b[0], b[1]);
                T::mma(sums, q[2 * d + 1], b[2], b[3]);
            }
#pragma unroll
            for (u32 r = 0; r < 4; r++) {
                const u32 key = base + n * 8 + 2 * t + r % 2, position = past + query[r / 2];
                const bool seen = key <= position && key >= first_key(a.window, a.window_size, position);
                // Rows past the last query see nothing, and no one sees them.
                scores[n][r] = seen && key < end ? score_of(a, sums[r], head, key) : -INFINITE;
            }
        }
        weigh(scores, out, top, mass);
#pragma unroll
        for (u32 step = 0; step < KEYS / 16; step++) {
            // What was a result is a left factor now: 16 keys.
            const float(&low)[4] = scores[2 * step], (&high)[4] = scores[2 * step + 1];
            const u32 weights[4] = {T::pair(low[0], low[1]), T::pair(low[2], low[3]),
                                    T::pair(high[0], high[1]), T::pair(high[2], high[3])};
#pragma unroll
            for (u32 n = 0; n < DIM / 16; n++) {
                u32 b[4];
                load_matrices_turned(b, shared_address(v_tile + (step * 16 + lane % 16) * PITCH + n * 16 + lane / 16 * 8));
                T::mma(out[2 * n], weights, b[0], b[1]);
                T::mma(out[2 * n + 1], weights, b[2], b[3]);
            }
        }
    }

    const float sink = a.sinks ? a.sinks[head] : -INFINITE;
#pragma unroll
    for (u32 half = 0; half < 2; half++) {
        if (query[half] >= a.length) continue;
        const float most = fmaxf(top[half], sink);
        const float share = expf(top[half] - most);
        const float factor = share / (mass[half] * share + (a.sinks ? expf(sink - most) : 0.0f));
        const u64 row = ((u64(text) * a.length + query[half]) * a.heads + head) * DIM;
#pragma unroll
        for (u32 n = 0; n < DIM / 8; n++)
#pragma unroll
            for (u32 r = 0; r < 2; r++) {
                const u64 at = row + n * 8 + 2 * t + r;
                const float y = out[n][2 * half + r] * factor;
                a.out[at] = y;
                store_half(a.halves, at, y, a.kind);
            }
    }
}

#define ATTENTION_TILES(DIM, T, NAME)                                                              \
    KERNEL __launch_bounds__(WARPS* WARP, 2)                                                       \
        attention_tiles_##DIM##_##NAME(const __grid_constant__ Attention a, const u32* rows) {     \
        attention_tiles<T, DIM>(a, rows);                                                          \
    }

ATTENTION_TILES(64, F16, f16)
ATTENTION_TILES(64, BF16, bf16)
ATTENTION_TILES(128, F16, f16)
ATTENTION_TILES(128, BF16, bf16)
