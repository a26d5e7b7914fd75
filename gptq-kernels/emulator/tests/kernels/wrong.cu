// Kernels that do what they must not, each in its own way.

extern "C" __global__ void outside(float* x) {
    x[threadIdx.x + 1] = 1.0f;
}

extern "C" __global__ void misaligned(char* x) {
    *(int*)(x + 4 * threadIdx.x + (threadIdx.x == 3)) = 1;
}

// The other warp's values are read with no barrier between.
extern "C" __global__ void race(int* out) {
    __shared__ int tile[64];
    tile[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = tile[31 - threadIdx.x % 32];
}

// The lanes of one warp are ordered by nothing either.
extern "C" __global__ void warp_race(int* out) {
    __shared__ int tile[32];
    tile[threadIdx.x] = threadIdx.x;
    out[threadIdx.x] = tile[threadIdx.x / 2];
}

// The second round overwrites what slow threads may still read.
extern "C" __global__ void late_race(const int* x, int* out) {
    __shared__ int tile[64];
    int sum = 0;
    for (int round = 0; round < 4; round++) {
        tile[threadIdx.x] = x[threadIdx.x] + round;
        __syncthreads();
        sum += tile[63 - threadIdx.x];
    }
    out[threadIdx.x] = sum;
}

extern "C" __global__ void unwritten(int* out) {
    __shared__ int tile[64];
    if (threadIdx.x < 60) tile[threadIdx.x] = threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}

extern "C" __global__ void missed_barrier(int* out) {
    if (threadIdx.x < 40) asm volatile("bar.sync 0, 64;" ::: "memory");
    out[threadIdx.x] = 1;
}

extern "C" __global__ void missed_shuffle(int* out) {
    int v = threadIdx.x;
    if (threadIdx.x < 16) v = __shfl_xor_sync(~0u, v, 1);
    else __syncthreads();
    out[threadIdx.x] = v;
}

extern "C" __global__ void no_wait(const float4* x, float* out) {
    __shared__ float4 tile[32];
    unsigned to = (unsigned)__cvta_generic_to_shared(&tile[threadIdx.x]);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(x + threadIdx.x) : "memory");
    asm volatile("cp.async.commit_group;" ::: "memory");
    out[threadIdx.x] = tile[threadIdx.x].y;
}

extern "C" __global__ void shared_outside(int* out, int n) {
    extern __shared__ int open[];
    open[threadIdx.x * n] = 1;
    out[threadIdx.x] = open[threadIdx.x * n];
}
