// Small kernels that the emulator's tests run. Built with NVRTC for compute_80.

typedef unsigned int u32;
typedef unsigned long long u64;

extern "C" __global__ void saxpy(int n, float a, const float* __restrict__ x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i] + y[i];
}

// One sum per block: shuffles in a warp, shared memory between warps.
extern "C" __global__ void block_sum(const float* x, int n, float* sums) {
    __shared__ float parts[32];
    float sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        sum += x[i];
    for (int by = 16; by > 0; by /= 2) sum += __shfl_xor_sync(~0u, sum, by);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x < 32) {
        sum = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
        for (int by = 16; by > 0; by /= 2) sum += __shfl_down_sync(~0u, sum, by);
        if (threadIdx.x == 0) sums[blockIdx.x] = sum;
    }
}

// Every block adds to the same counters.
extern "C" __global__ void count(const u32* x, int n, u32* bins, float* total, u32* greatest) {
    __shared__ u32 mine[16];
    if (threadIdx.x < 16) mine[threadIdx.x] = 0;
    __syncthreads();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        atomicAdd(&mine[x[i] % 16], 1u);
        atomicAdd(total, (float)x[i]);
        atomicMax(greatest, x[i]);
    }
    __syncthreads();
    if (threadIdx.x < 16) atomicAdd(&bins[threadIdx.x], mine[threadIdx.x]);
}

// The last block to finish is the one whose number the counter shows.
extern "C" __global__ void last_block(u32* counter, u32* last) {
    if (threadIdx.x == 0) {
        __threadfence();
        if (atomicInc(counter, gridDim.x - 1) == gridDim.x - 1) *last = blockIdx.x;
    }
}

extern "C" __global__ void math(const float* x, float* out) {
    int i = threadIdx.x;
    float v = x[i];
    float* o = out + 12 * i;
    o[0] = sqrtf(v);
    o[1] = rsqrtf(v);
    o[2] = expf(v);
    o[3] = logf(v);
    o[4] = __expf(v);
    o[5] = 1.0f / v;
    o[6] = __fdividef(2.0f, v);
    o[7] = sinf(v);
    o[8] = tanhf(v);
    o[9] = floorf(v) + rintf(v) + truncf(v) + ceilf(v);
    o[10] = fminf(v, 1.5f) + fmaxf(v, 0.25f);
    o[11] = powf(v, 1.25f);
}

extern "C" __global__ void integers(const int* x, const int* y, long long* out) {
    int i = threadIdx.x;
    int a = x[i], b = y[i];
    long long* o = out + 16 * i;
    o[0] = a / b;
    o[1] = a % b;
    o[2] = (u32)a / (u32)b;
    o[3] = (u32)a % 7u;
    o[4] = __mulhi(a, b);
    o[5] = (long long)a * b;
    o[6] = __popc(a) + __clz(b);
    o[7] = __brev(a);
    o[8] = __funnelshift_l(a, b, 5);
    o[9] = __byte_perm(a, b, 0x5172);
    o[10] = a >> 3;
    o[11] = (u32)a >> 3;
    o[12] = ((long long)a << 20) / (b | 1);
    o[13] = (signed char)a + (unsigned short)b;
    o[14] = min(a, b) - max(a, b);
    o[15] = (u64)a * 0x123456789abcdefULL >> 7;
}

// A switch becomes a table of branches, an indexed array local memory.
extern "C" __global__ void branches(const int* x, int* out) {
    int stack[8];
    for (int i = 0; i < 8; i++) stack[i] = i * i + x[0];
    int v = x[threadIdx.x];
    int r;
    switch (v) {
        case 0: r = 7; break;
        case 1: r = stack[(v + x[1]) & 7]; break;
        case 2: r = x[2] * 3; break;
        case 3: r = -x[3]; break;
        case 4: r = x[4] ^ 0x55; break;
        case 5: r = x[5] << 4; break;
        default: r = 1000 + stack[v & 7];
    }
    u32 ballot = __ballot_sync(~0u, v & 1);
    out[threadIdx.x] = r + (int)(__popc(ballot) * 100000);
}

__constant__ float table[4] = {1.0f, 2.5f, -3.0f, 4.0f};
__device__ int calls = 40;

extern "C" __global__ void variables(float* out) {
    out[threadIdx.x] = table[threadIdx.x & 3];
    if (threadIdx.x == 0) calls += 2;
    __syncthreads();
    if (threadIdx.x == 1) out[1] = (float)calls;
}

extern "C" __global__ void votes(const int* x, int* out) {
    int v = x[threadIdx.x];
    out[3 * threadIdx.x] = __syncthreads_count(v > 3);
    out[3 * threadIdx.x + 1] = __syncthreads_or(v == 5);
    out[3 * threadIdx.x + 2] = __any_sync(~0u, v > 6) + 2 * __all_sync(~0u, v < 9);
}

// Work for measuring speed.
extern "C" __global__ void spin(float* out, int rounds) {
    float a = threadIdx.x, b = 1.0f;
    u32 h = threadIdx.x;
    for (int i = 0; i < rounds; i++) {
        a = a * 0.999f + b;
        h = (h ^ (h >> 3)) * 2654435761u + i;
        b = b + (float)(h & 15);
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = a + b;
}
