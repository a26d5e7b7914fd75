// Attention of one token over keys and values in halves. Heads that share keys are the rows of one
// product, so that every key is read once; a block is such a set of heads and a share of the keys, and
// a warp takes sixteen keys at a time from memory to registers. The order of channels does not matter
// to a sum, nor which column of a result is which channel: so lanes load sixteen bytes that lie
// together, and no one has to put anything in order.
#include "attention.cuh"

constexpr u32 WARPS = 4, HEADS = 16, KEYS = 16;
// Keys of a share are a multiple of it.
constexpr u32 ROUND = WARPS * KEYS;
constexpr u32 MOST_SHARES = 64;

__device__ inline u32 pair_low(u32 a, u32 b) { return __byte_perm(a, b, 0x5410); }
__device__ inline u32 pair_high(u32 a, u32 b) { return __byte_perm(a, b, 0x7632); }

template <class T, u32 DIM> __device__ void attention_step(const Attention& a, const u32* rows) {
    // Channel 64d + 8k + j of a head is at 64d + 8j + k, as products have them side by side.
    constexpr u32 PITCH = DIM + 8;
    __shared__ float2 mixed[WARPS][HEADS][PITCH / 2];
    __shared__ float tops[WARPS][HEADS], masses[WARPS][HEADS];
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    const u32 group = a.heads / a.kv_heads, sets = (group + HEADS - 1) / HEADS;
    const u32 kv = blockIdx.x / sets, share = blockIdx.y;
    const u32 first_head = kv * group + blockIdx.x % sets * HEADS;
    const u32 heads = min(kv * group + group - first_head, HEADS);
    begin();
    const u32 position = *rows - 1;
    const u32 first = first_key(a.window, a.window_size, position), seen = position + 1 - first;
    const u32 size = ((seen + gridDim.y - 1) / gridDim.y + ROUND - 1) / ROUND * ROUND;
    const u32 shares = (seen + size - 1) / size;
    if (share >= shares) return;
    const u32 start = first + share * size, end = first + min((share + 1) * size, seen);

    // Of 32 channels, lane t has 8t to 8t + 7, for two products.
    u32 q[DIM / 16][4];
#pragma unroll
    for (u32 d = 0; d < DIM / 16; d++)
#pragma unroll
        for (u32 r = 0; r < 4; r++) {
            const u32 head = g + r % 2 * 8, channel = d / 2 * 32 + 8 * t + d % 2 * 4 + r / 2 * 2;
            const float* at = a.q + u64(first_head + head) * DIM + channel;
            q[d][r] = head < heads ? T::pair(at[0], at[1]) : 0;
        }

    const u64 row = u64(a.kv_heads) * DIM; // numbers from one key to the next
    const u16* k = reinterpret_cast<const u16*>(a.k) + u64(kv) * DIM;
    const u16* v = reinterpret_cast<const u16*>(a.v) + u64(kv) * DIM;
    auto load = [](const u16* from) { return *reinterpret_cast<const uint4*>(from); };
    float out[DIM / 8][4] = {}, top[2] = {-INFINITE, -INFINITE}, mass[2] = {0, 0};
    for (u32 base = start + warp * KEYS; base < end; base += ROUND) {
        uint4 keys[2][DIM / 32], values[DIM / 64][4];
#pragma unroll
        for (u32 n = 0; n < 2; n++)
#pragma unroll
            for (u32 d = 0; d < DIM / 32; d++)
                keys[n][d] = load(k + min(base + n * 8 + g, end - 1) * row + d * 32 + 8 * t);
#pragma unroll
        for (u32 d = 0; d < DIM / 64; d++)
#pragma unroll
            for (u32 i = 0; i < 4; i++)
                values[d][i] = load(v + min(base + 2 * t + i % 2 + i / 2 * 8, end - 1) * row + d * 64 + 8 * g);

        float scores[2][4] = {};
#pragma unroll
        for (u32 n = 0; n < 2; n++) {
#pragma unroll
            for (u32 d = 0; d < DIM / 32; d++) {
                T::mma(scores[n], q[2 * d], keys[n][d].x, keys[n][d].y);
                T::mma(scores[n], q[2 * d + 1], keys[n][d].z, keys[n][d].w);
            }
#pragma unroll
            for (u32 r = 0; r < 4; r++) {
                const u32 key = base + n * 8 + 2 * t + r % 2, head = min(g + r / 2 * 8, heads - 1);
                scores[n][r] = key < end ? score_of(a, scores[n][r], first_head + head, key) : -INFINITE;
            }
        }
        weigh(scores, out, top, mass);
        const u32 weights[4] = {T::pair(scores[0][0], scores[0][1]), T::pair(scores[0][2], scores[0][3]),
                                T::pair(scores[1][0], scores[1][1]), T::pair(scores[1][2], scores[1][3])};
#pragma unroll
        for (u32 d = 0; d < DIM / 64; d++) {
            const uint4(&of)[4] = values[d];
            const u32 words[4][4] = {{of[0].x, of[0].y, of[0].z, of[0].w},
                                     {of[1].x, of[1].y, of[1].z, of[1].w},
                                     {of[2].x, of[2].y, of[2].z, of[2].w},
                                     {of[3].x, of[3].y, of[3].z, of[3].w}};
            // Column g of product j is channel 8g + j of these 64.
#pragma unroll
            for (u32 w = 0; w < 4; w++) {
                T::mma(out[d * 8 + 2 * w], weights, pair_low(words[0][w], words[1][w]),
                       pair_low(words[2][w], words[3][w]));
                T::mma(out[d * 8 + 2 * w + 1], weights, pair_high(words[0][w], words[1][w]),
                       pair_high(words[2][w], words[3][w]));
            }
        }
    }

    // Warps first, then shares: each had its own largest score.
#pragma unroll
    for (u32 n = 0; n < DIM / 8; n++)
#pragma unroll
        for (u32 r = 0; r < 4; r += 2)
            if (g + r / 2 * 8 < heads)
                mixed[warp][g + r / 2 * 8][n * 4 + t] = {out[n][r], out[n][r + 1]};
    if (t < 2) {
        tops[warp][g + 8 * t] = t == 0 ? top[0] : top[1];
        masses[warp][g + 8 * t] = t == 0 ? mass[0] : mass[1];
    }
    __syncthreads();
    // A warp may have had no keys.
    auto part = [](float of, float highest) { return of == -INFINITE ? 0.0f : expf(of - highest); };
    auto top_of = [&](u32 head) {
        float highest = -INFINITE;
        for (u32 w = 0; w < WARPS; w++) highest = fmaxf(highest, tops[w][head]);
        return highest;
    };
    // [set of heads][share][head][2 + DIM]
    constexpr u32 PART = HEADS * (2 + DIM);
    float* parts = a.partials + u64(blockIdx.x) * gridDim.y * PART;
    auto write = [&](u32 head, u32 channel, float y) {
        const u64 at = u64(first_head + head) * DIM + channel;
        a.out[at] = y;
        store_half(a.halves, at, y, a.kind);
    };
    for (u32 i = threadIdx.x; i < heads * DIM; i += WARPS * WARP) {
        const u32 head = i / DIM, channel = i % DIM;
        const u32 place = channel / 64 * 64 + channel % 8 * 8 + channel / 8 % 8;
        const float highest = top_of(head);
        float all = 0, sum = 0;
        for (u32 w = 0; w < WARPS; w++) {
            const float factor = part(tops[w][head], highest);
            all += masses[w][head] * factor;
            sum += reinterpret_cast<const float*>(mixed[w][head])[place] * factor;
        }
        if (shares == 1) {
            const float sink = a.sinks ? a.sinks[first_head + head] : -INFINITE;
            const float most = fmaxf(highest, sink), scaled = part(highest, most);
            write(head, channel, sum * scaled / (all * scaled + part(sink, most)));
            continue;
        }
        float* own = parts + share * PART + head * (2 + DIM);
        own[2 + channel] = sum;
        if (channel == 0) own[0] = highest, own[1] = all;
    }
    if (shares == 1 || !last_of(a.counters + blockIdx.x, shares)) return;

    // How much of each share there is of a head, and of the sum of all.
    __shared__ float factors[HEADS][MOST_SHARES];
    for (u32 head = warp; head < heads; head += WARPS) {
        const float* own = parts + head * (2 + DIM);
        const float sink = a.sinks ? a.sinks[first_head + head] : -INFINITE;
        float most = sink, total = 0;
        for (u32 s = lane; s < shares; s += WARP) most = fmaxf(most, load_fresh(own + s * PART));
        most = warp_max(most);
        for (u32 s = lane; s < shares; s += WARP) {
            const float factor = part(load_fresh(own + s * PART), most);
            factors[head][s] = factor;
            total += load_fresh(own + s * PART + 1) * factor;
        }
        total = warp_sum(total) + part(sink, most);
        __syncwarp();
        for (u32 s = lane; s < shares; s += WARP) factors[head][s] /= total;
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < heads * DIM; i += WARPS * WARP) {
        const u32 head = i / DIM, channel = i % DIM;
        const float* own = parts + head * (2 + DIM) + 2 + channel;
        float sum = 0;
        for (u32 s = 0; s < shares; s += 8) {
            // Eight on their way at a time, added in their order.
            float of[8];
#pragma unroll
            for (u32 q = 0; q < 8; q++) of[q] = s + q < shares ? load_fresh(own + (s + q) * PART) : 0.0f;
#pragma unroll
            for (u32 q = 0; q < 8; q++)
                if (s + q < shares) sum += of[q] * factors[head][s + q];
        }
        write(head, channel, sum);
    }
}

#define ATTENTION_STEP(DIM, T, NAME)                                                               \
    KERNEL __launch_bounds__(WARPS* WARP, 2)                                                       \
        attention_step_##DIM##_##NAME(const __grid_constant__ Attention a, const u32* rows) {      \
        attention_step<T, DIM>(a, rows);                                                           \
    }

ATTENTION_STEP(64, F16, f16)
ATTENTION_STEP(64, BF16, bf16)
ATTENTION_STEP(128, F16, f16)
ATTENTION_STEP(128, BF16, bf16)
