/* What the kernels share: numbers of 16 and 32 bits, what is read at once, sums over a block.
 *
 * Compiles for the GPU by nvcc and, for tests, for the host by a C++ compiler against tests/cuda_host, whose
 * headers have their own of what is under __CUDACC__. */
#ifndef VAECF_DEVICE_CUH
#define VAECF_DEVICE_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

#include "kernels.h"
#include "trace.h"

#ifdef __CUDACC__
#define START_KERNEL(kernel, grid, block, bytes, stream, ...)                                                \
    kernel<<<(grid), (block), (bytes), (stream)>>>(__VA_ARGS__)
#define DYNAMIC_SHARED(type, name)                                                                           \
    extern __shared__ four dynamic_shared[];                                                                 \
    type *name = reinterpret_cast<type *>(dynamic_shared)

/* 16 bytes from global to shared memory, past the registers where the GPU can (Volta and Turing cannot);
 * then: all that this thread asked for is there. */
#if !defined __CUDA_ARCH__ || __CUDA_ARCH__ >= 800
__device__ inline void copy_async(void *to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)),
                 "l"(from));
}
__device__ inline void copy_async_wait(void) {
    asm volatile("cp.async.wait_all;" ::: "memory");
}
#else
__device__ inline void copy_async(void *to, const void *from) {
    *static_cast<float4 *>(to) = *static_cast<const float4 *>(from);
}
__device__ inline void copy_async_wait(void) {}
#endif
__device__ inline float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif
#define LAUNCH_SHARED(kernel, grid, block, bytes, stream, ...)                                               \
    do {                                                                                                     \
        TRACE_BEFORE(stream, "%s", #kernel);                                                                 \
        START_KERNEL(kernel, grid, block, bytes, stream, __VA_ARGS__);                                       \
        TRACE_AFTER(stream);                                                                                 \
    } while (0)
#define LAUNCH(kernel, grid, block, stream, ...) LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)

/* One call for each type of number: T is the type in the code that follows. */
#define FOR_NUMBER(type, ...)                                                                                \
    do {                                                                                                     \
        if ((type) == NUMBER_FP32) {                                                                         \
            using T = float;                                                                                 \
            __VA_ARGS__;                                                                                     \
        } else if ((type) == NUMBER_BF16) {                                                                  \
            using T = __nv_bfloat16;                                                                         \
            __VA_ARGS__;                                                                                     \
        } else {                                                                                             \
            using T = __half;                                                                                \
            __VA_ARGS__;                                                                                     \
        }                                                                                                    \
    } while (0)

namespace {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
#ifdef VAECF_ROW_THREADS /* a test's */
constexpr int ROW_THREADS = VAECF_ROW_THREADS;
#else
constexpr int ROW_THREADS = 512; /* of a block that has a row of logits or scores */
#endif
#ifndef VAECF_SMALL_PIECES
constexpr int SHARED_MAX = 96 << 10; /* bytes of a row that a block keeps: two blocks on an SM of a Hopper */
constexpr int SHARED_FREE =
    44 << 10; /* what a block may have without asking, next to some that kernels always have */
#else
constexpr int SHARED_MAX = 4 << 10, SHARED_FREE = 2 << 10;
#endif
constexpr int FLAT_THREADS = 256; /* of one that has a piece of an array */
constexpr int FLAT_BLOCKS = 4096; /* at most: each then takes several pieces */

/* The activations, in the order of enum activation in src/config.h. */
enum { NONE, TANH, RELU, SIGMOID };

/* ---- numbers ---- */

__device__ inline float load(const float *p) {
    return *p;
}
__device__ inline float load(const __half *p) {
    return __half2float(*p);
}
__device__ inline float load(const __nv_bfloat16 *p) {
    return __bfloat162float(*p);
}
__device__ inline void store(float *p, float x) {
    *p = x;
}
__device__ inline void store(__half *p, float x) {
    *p = __float2half_rn(x);
}
__device__ inline void store(__nv_bfloat16 *p, float x) {
    *p = __float2bfloat16_rn(x);
}

/* N numbers that lie together and are read at once: at most 16 bytes. */
template <typename T, int N> struct alignas(sizeof(T) * N) pack { T of[N]; };
using four = pack<float, 4>;

/* So many numbers are 16 bytes. */
template <typename T> constexpr int PACK = (int)(16 / sizeof(T));

/* from[N] to `to`, in writes of up to 16 bytes. */
template <typename T, int N> __device__ inline void store_all(T *to, const float *from) {
    constexpr int M = N < PACK<T> ? N : PACK<T>;
#pragma unroll
    for (int i = 0; i < N; i += M) {
        pack<T, M> x;
#pragma unroll
        for (int j = 0; j < M; j++) store(x.of + j, from[i + j]);
        *reinterpret_cast<pack<T, M> *>(to + i) = x;
    }
}

/* Can arrays of rows of n numbers be read 16 bytes at a time? */
inline bool is_aligned(const void *p) {
    return (uintptr_t)p % 16 == 0;
}

__device__ inline float activated(int act, float x) {
    switch (act) {
    case TANH:
        return tanhf(x);
    case RELU:
        return x > 0 ? x : 0;
    case SIGMOID:
        return 1 / (1 + expf(-x));
    default:
        return x;
    }
}

/* ---- sums over a block ---- */

struct add {
    template <typename T> __device__ T operator()(T a, T b) const { return a + b; }
};
struct larger {
    template <typename T> __device__ T operator()(T a, T b) const { return a > b ? a : b; }
};

/* op over all threads of the block, the same bits for each; every thread of it has to come here. */
template <typename T, typename Op> __device__ T block_reduce(T value, Op op) {
    __shared__ T partial[WARP];
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        value = op(value, __shfl_xor_sync(ALL_LANES, value, offset));
    }
    __syncthreads(); /* the last use's partials are read */
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = value;
    __syncthreads();
    value = partial[0];
    for (unsigned w = 1; w < blockDim.x / WARP; w++) value = op(value, partial[w]);
    return value;
}

/* How many threads of the block before this one say yes, and in *count how many do in all; every thread of it
 * has to come here. What was written to shared memory before is seen after. */
__device__ inline int block_place(bool is_yes, int *count) {
    __shared__ int warp_count[WARP];
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, before = 0;
    unsigned lanes = __ballot_sync(ALL_LANES, is_yes);
    __syncthreads(); /* the last use's counts are read */
    if (lane == 0) warp_count[warp] = __popc(lanes);
    __syncthreads();
    *count = 0;
    for (int w = 0; w < (int)blockDim.x / WARP; w++) {
        if (w < warp) before += warp_count[w];
        *count += warp_count[w];
    }
    return before + __popc(lanes & ((1u << lane) - 1));
}

/* May a block of the kernel have so many bytes of shared memory? */
inline bool may_share(const void *kernel, size_t bytes) {
    if (bytes > SHARED_MAX) return false;
    if (bytes <= SHARED_FREE) return true;
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes) == cudaSuccess)
        return true;
    cudaGetLastError(); /* this GPU has less */
    return false;
}

/* ---- a piece of an array ---- */

__device__ inline int64_t flat_first(void) {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ inline int64_t flat_step(void) {
    return (int64_t)gridDim.x * blockDim.x;
}
inline unsigned flat_blocks(int64_t n) {
    int64_t blocks = (n + FLAT_THREADS - 1) / FLAT_THREADS;
    return (unsigned)(blocks < FLAT_BLOCKS ? blocks : FLAT_BLOCKS);
}

} // namespace

#endif
