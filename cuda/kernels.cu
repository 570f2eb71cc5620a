/* See kernels.h. */
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>

#include "../src/philox.h"
#include "kernels.h"

#ifdef __CUDACC__
#define LAUNCH(kernel, grid, block, stream, ...) kernel<<<(grid), (block), 0, (stream)>>>(__VA_ARGS__)
#endif /* tests/cuda_host/cuda_runtime.h has its own */

namespace {

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;
#ifdef VAECF_ROW_THREADS /* a test's */
constexpr int ROW_THREADS = VAECF_ROW_THREADS;
#else
constexpr int ROW_THREADS = 512; /* of a block that has a row of logits or scores */
#endif
constexpr int COLUMN_THREADS = 128; /* of one that has columns of a layer */
constexpr int FLAT_THREADS = 256;   /* of one that has a piece of an array */
constexpr int FLAT_BLOCKS = 4096;   /* at most: each then takes several pieces */
constexpr int SUM_ROWS = 8;         /* threads that share a column's sum */
constexpr int LATENT_THREADS = 64;
constexpr int BYTE = 256; /* values of a radix digit */

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

/* Four numbers that lie together and are read at once. */
struct alignas(16) four {
    float of[4];
};

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

__device__ inline float slope(int act, float y) {
    switch (act) {
    case TANH:
        return 1 - y * y;
    case RELU:
        return y > 0 ? 1.0f : 0.0f;
    case SIGMOID:
        return y * (1 - y);
    default:
        return 1;
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

/* ---- the sparse layer ---- */

/* A block a row. */
__global__ void input_values(const int32_t *start, const int32_t *items, const int64_t *users, uint64_t seed,
                             uint32_t epoch, float p, float *values) {
    int64_t r = blockIdx.x;
    int begin = start[r], end = start[r + 1];
    float value = (float)(1 / sqrt((double)(end - begin)));
    for (int k = begin + (int)threadIdx.x; k < end; k += (int)blockDim.x) {
        float kept = value;
        if (p > 0) {
            int item = items[k];
            struct philox_block block =
                philox(seed, PHILOX_DROPOUT, epoch, (uint64_t)users[r], (uint32_t)(item / 4));
            kept = philox_uniform(block.lane[item % 4]) >= p ? value / (1 - p) : 0;
        }
        values[k] = kept;
    }
}

/* A block has a row and COLUMN_THREADS * N columns; a thread N columns that lie together. Dropped items are
 * passed over by the whole block at once. */
template <int N>
__global__ void input_forward(int h, const int32_t *start, const int32_t *items, const float *values,
                              const float *w, const float *b, int act, float *y) {
    int64_t r = blockIdx.x;
    int column = ((int)(blockIdx.y * blockDim.x + threadIdx.x)) * N;
    if (column >= h) return;
    int begin = start[r], end = start[r + 1];
    float sum[N] = {};
#pragma unroll 4
    for (int k = begin; k < end; k++) {
        float v = values[k];
        if (v == 0) continue;
        const float *from = w + (int64_t)items[k] * h + column;
        if constexpr (N == 4) {
            four x = *reinterpret_cast<const four *>(from);
#pragma unroll
            for (int j = 0; j < 4; j++) sum[j] += v * x.of[j];
        } else {
            sum[0] += v * *from;
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) y[r * h + column + j] = activated(act, sum[j] + b[column + j]);
}

/* The same with an item of the batch in place of a row: its entries are in the order of the rows. */
template <int N>
__global__ void input_backward(int h, const int32_t *item, const int32_t *item_start, const int32_t *row,
                               const int32_t *at, const float *values, const float *dy, float *dw) {
    int64_t i = blockIdx.x;
    int column = ((int)(blockIdx.y * blockDim.x + threadIdx.x)) * N;
    if (column >= h) return;
    float sum[N] = {};
#pragma unroll 4
    for (int e = item_start[i]; e < item_start[i + 1]; e++) {
        float v = values[at[e]];
        if (v == 0) continue;
        const float *from = dy + (int64_t)row[e] * h + column;
        if constexpr (N == 4) {
            four x = *reinterpret_cast<const four *>(from);
#pragma unroll
            for (int j = 0; j < 4; j++) sum[j] += v * x.of[j];
        } else {
            sum[0] += v * *from;
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) dw[(int64_t)item[i] * h + column + j] = sum[j];
}

/* ---- element by element ---- */

__device__ inline int64_t flat_first(void) {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ inline int64_t flat_step(void) {
    return (int64_t)gridDim.x * blockDim.x;
}

__global__ void activate(int64_t size, int64_t n, const float *b, int act, float *y) {
    for (int64_t i = flat_first(); i < size; i += flat_step()) y[i] = activated(act, y[i] + b[i % n]);
}

template <typename T> __global__ void deactivate(int64_t n, int act, const float *y, float *dy, T *copy) {
    for (int64_t i = flat_first(); i < n; i += flat_step()) {
        float d = act == NONE ? dy[i] : dy[i] * slope(act, y[i]);
        dy[i] = d;
        if (copy) store(copy + i, d);
    }
}

template <typename T> __global__ void convert(int64_t n, const float *from, T *to) {
    for (int64_t i = flat_first(); i < n; i += flat_step()) store(to + i, from[i]);
}

template <typename T> __global__ void widen(int64_t n, const T *from, float *to) {
    for (int64_t i = flat_first(); i < n; i += flat_step()) to[i] = load(from + i);
}

__global__ void guard(int64_t n, const float *g, int *flag) {
    int bad = 0;
    for (int64_t i = flat_first(); i < n; i += flat_step()) bad |= !isfinite(g[i]);
    if (bad) *flag = 1; /* whoever writes, writes the same */
}

/* Kingma and Ba 2015, algorithm 1; see adam in src/backend_cpu.c. */
template <typename T>
__global__ void adam(struct kernel_adam s, int64_t n, float *p, const float *g, float *m, float *v, T *copy,
                     const int *skip) {
    if (skip && *skip) return;
    for (int64_t i = flat_first(); i < n; i += flat_step()) {
        float was = p[i], gradient = s.unscale * g[i] + s.coupled * was;
        float first = s.beta1 * m[i] + s.rest1 * gradient;
        float second = s.beta2 * v[i] + s.rest2 * gradient * gradient;
        float now = s.shrink * was - s.rate * first / (sqrtf(second) * s.unbias + s.epsilon);
        m[i] = first;
        v[i] = second;
        p[i] = now;
        if (copy) store(copy + i, now);
    }
}

__global__ void gather_rows(int64_t size, int h, const int32_t *item, const float *matrix, float *buffer) {
    for (int64_t i = flat_first(); i < size; i += flat_step()) {
        buffer[i] = matrix[(int64_t)item[i / h] * h + i % h];
    }
}

__global__ void scatter_rows(int64_t size, int h, const int32_t *item, const float *buffer, float *matrix) {
    for (int64_t i = flat_first(); i < size; i += flat_step()) {
        matrix[(int64_t)item[i / h] * h + i % h] = buffer[i];
    }
}

/* ---- sums ---- */

/* A block has WARP columns; SUM_ROWS threads share each, rows in turn. */
template <typename T>
__global__ void sum_rows(int64_t rows, int64_t cols, const T *matrix, int is_added, float *sums) {
    __shared__ float partial[SUM_ROWS][WARP];
    int64_t column = (int64_t)blockIdx.x * WARP + threadIdx.x;
    float sum = 0;
    if (column < cols) {
#pragma unroll 4
        for (int64_t r = threadIdx.y; r < rows; r += SUM_ROWS) sum += load(matrix + r * cols + column);
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y > 0 || column >= cols) return;
    sum = is_added ? sums[column] : 0;
    for (int y = 0; y < SUM_ROWS; y++) sum += partial[y][threadIdx.x];
    sums[column] = sum;
}

/* One block. */
__global__ void total(int64_t n, const double *values, double *sum) {
    double mine = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) mine += values[i];
    mine = block_reduce(mine, add());
    if (threadIdx.x == 0) *sum = mine;
}

/* ---- the latent layer: a block a row ---- */

__global__ void latent_forward(int n, int is_drawn, uint64_t seed, uint32_t epoch, const int64_t *users,
                               const float *stats, float *noise, float *z) {
    int64_t r = blockIdx.x;
    const float *mu = stats + r * 2 * n, *logvar = mu + n;
    for (int j = (int)threadIdx.x * 4; j < n; j += (int)blockDim.x * 4) {
        float drawn[4] = {};
        if (is_drawn) {
            philox_normal(philox(seed, PHILOX_NOISE, epoch, (uint64_t)users[r], (uint32_t)(j / 4)), drawn);
        }
        for (int l = 0; l < 4 && j + l < n; l++) {
            if (is_drawn) noise[r * n + j + l] = drawn[l];
            z[r * n + j + l] = is_drawn ? mu[j + l] + drawn[l] * expf(logvar[j + l] / 2) : mu[j + l];
        }
    }
}

__global__ void latent_backward(int n, float weight, const float *stats, const float *noise, const float *dz,
                                float *dstats, double *kl) {
    int64_t r = blockIdx.x;
    const float *mu = stats + r * 2 * n, *logvar = mu + n, *eps = noise + r * n, *from = dz + r * n;
    float *dmu = dstats + r * 2 * n, *dlogvar = dmu + n;
    double sum = 0;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        float deviation = expf(logvar[j] / 2), variance = deviation * deviation;
        dmu[j] = from[j] + weight * mu[j];
        dlogvar[j] = from[j] * eps[j] * deviation / 2 + weight * (variance - 1) / 2;
        sum += (double)(mu[j] * mu[j] + variance - logvar[j] - 1);
    }
    sum = block_reduce(sum, add());
    if (threadIdx.x == 0) kl[r] = sum / 2;
}

/* ---- the output layer: a block a row ---- */

/* Each thread keeps the largest logit it has met and the sum of exponentials relative to it (Milakov and
 * Gimelshein 2018), so that one pass finds both; the second writes the gradient. */
template <typename T>
__global__ void softmax(int64_t n, const float *b, const int32_t *start, const int32_t *items, float scale,
                        float smoothing, float *logits, T *gradient, double *nll) {
    int64_t r = blockIdx.x;
    int begin = start[r], end = start[r + 1];
    float *row = logits + r * n;
    T *to = gradient + r * n;
    float mine = -INFINITY, sum = 0;
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        float x = row[i] + b[i];
        if (x > mine) {
            sum = sum * expf(mine - x) + 1;
            mine = x;
        } else {
            sum += expf(x - mine);
        }
    }
    float largest = block_reduce(mine, larger());
    sum = block_reduce(mine > -INFINITY || isnan(sum) ? sum * expf(mine - largest) : 0.0f, add());
    double hits = 0;
    for (int k = begin + (int)threadIdx.x; k < end; k += (int)blockDim.x) {
        hits += (double)(row[items[k]] + b[items[k]] - largest);
    }
    hits = block_reduce(hits, add()); /* and all have read what is overwritten now, if gradient is logits */
    if (threadIdx.x == 0) nll[r] = (double)(end - begin) * log((double)sum) - hits;
    float factor = scale * (float)(end - begin) / sum;
    float all = scale * smoothing * (float)(end - begin) / (float)n, own = scale * (1 - smoothing);
    constexpr bool in_place = sizeof(T) == sizeof(float);
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        store(to + i, factor * expf(row[i] + b[i] - largest) - all);
    }
    __syncthreads(); /* what others of the block have written is seen */
    for (int k = begin + (int)threadIdx.x; k < end; k += (int)blockDim.x) {
        int item = items[k];
        float p = in_place ? load(to + item) : factor * expf(row[item] + b[item] - largest) - all;
        store(to + item, p - own); /* rounded once */
    }
}

/* ---- ranking: a block a row ---- */

__global__ void mask(int64_t n, const int32_t *start, const int32_t *items, float *scores) {
    int64_t r = blockIdx.x;
    for (int k = start[r] + (int)threadIdx.x; k < start[r + 1]; k += (int)blockDim.x) {
        scores[r * n + items[k]] = -INFINITY;
    }
}

/* An integer that orders as the score does; 0: not to be ranked. */
__device__ inline uint32_t order_key(float score) {
    if (!(score > -INFINITY)) return 0;
    score += 0.0f; /* no negative zero */
    uint32_t bits = __float_as_uint(score);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}

/* The k-th largest key is found digit by digit; then those above it, and of its equals the first ones, are
 * written in the order of their indices. */
__global__ void top_k(int64_t n, int64_t k, const float *scores, int32_t *top, float *top_scores) {
    __shared__ int count[BYTE];
    __shared__ int warp_above[WARP], warp_equal[WARP];
    __shared__ uint32_t shared_key;
    __shared__ int64_t shared_want;
    const float *row = scores + (int64_t)blockIdx.x * n;
    int32_t *to = top + (int64_t)blockIdx.x * k;
    float *to_scores = top_scores + (int64_t)blockIdx.x * k;
    int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, warps = (int)blockDim.x / WARP;
    uint32_t key = 0, known = 0; /* digits of the k-th key; which bits of it are known */
    int64_t want = k;            /* so many with these digits are still to be had */
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int d = (int)threadIdx.x; d < BYTE; d += (int)blockDim.x) count[d] = 0;
        __syncthreads();
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t x = order_key(row[i]);
            if ((x & known) == key) atomicAdd(&count[x >> shift & 0xff], 1);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int digit = BYTE - 1;
            int64_t rest = want;
            while (digit > 0 && count[digit] < rest) rest -= count[digit--];
            shared_key = key | (uint32_t)digit << shift;
            shared_want = rest;
        }
        __syncthreads();
        key = shared_key;
        want = shared_want;
        known |= 0xffu << shift;
        __syncthreads(); /* before count is cleared */
    }
    int64_t above = 0, equal = 0; /* so many are before this piece */
    for (int64_t first = 0; first < n; first += blockDim.x) {
        int64_t i = first + threadIdx.x;
        uint32_t x = i < n ? order_key(row[i]) : 0;
        unsigned lanes_above = __ballot_sync(ALL_LANES, x > key);
        unsigned lanes_equal = __ballot_sync(ALL_LANES, x == key && x > 0);
        if (lane == 0) {
            warp_above[warp] = __popc(lanes_above);
            warp_equal[warp] = __popc(lanes_equal);
        }
        __syncthreads();
        unsigned before = (1u << lane) - 1;
        int64_t my_above = above + __popc(lanes_above & before);
        int64_t my_equal = equal + __popc(lanes_equal & before);
        for (int w = 0; w < warps; w++) {
            if (w < warp) {
                my_above += warp_above[w];
                my_equal += warp_equal[w];
            }
            above += warp_above[w];
            equal += warp_equal[w];
        }
        if (x > key || (x == key && x > 0 && my_equal < want)) {
            int64_t at = my_above + (my_equal < want ? my_equal : want);
            to[at] = (int32_t)i;
            to_scores[at] = row[i];
        }
        __syncthreads();
    }
    for (int64_t at = above + (equal < want ? equal : want) + threadIdx.x; at < k; at += blockDim.x) {
        to[at] = -1;
        to_scores[at] = -INFINITY;
    }
}

/* Key and index in one number, larger for what comes earlier in the ranking. */
__device__ inline uint64_t place_of(uint32_t key, int64_t item) {
    return key ? (uint64_t)key << 32 | (0xffffffffu - (uint32_t)item) : 0;
}

__global__ void best_rank(int64_t n, const int32_t *start, const int32_t *targets, const float *scores,
                          int64_t *rank) {
    int64_t r = blockIdx.x;
    const float *row = scores + r * n;
    unsigned long long best = 0;
    for (int k = start[r] + (int)threadIdx.x; k < start[r + 1]; k += (int)blockDim.x) {
        unsigned long long place = place_of(order_key(row[targets[k]]), targets[k]);
        best = place > best ? place : best;
    }
    best = block_reduce(best, larger());
    unsigned long long ahead = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) ahead += place_of(order_key(row[i]), i) > best;
    ahead = block_reduce(ahead, add());
    if (threadIdx.x == 0) rank[r] = best ? (int64_t)ahead + 1 : 0;
}

/* ---- starting them ---- */

unsigned flat_blocks(int64_t n) {
    int64_t blocks = (n + FLAT_THREADS - 1) / FLAT_THREADS;
    return (unsigned)(blocks < FLAT_BLOCKS ? blocks : FLAT_BLOCKS);
}

/* Can rows of h numbers be read four at a time? */
bool by_four(int h, const void *p) {
    return h % 4 == 0 && (uintptr_t)p % sizeof(four) == 0;
}

dim3 column_grid(int64_t rows, int h, int n) {
    int columns = COLUMN_THREADS * n;
    return dim3((unsigned)rows, (unsigned)((h + columns - 1) / columns));
}

template <typename T>
void start_sum_rows(cudaStream_t stream, int64_t rows, int64_t cols, const void *matrix, int is_added,
                    float *sums) {
    LAUNCH((sum_rows<T>), (unsigned)((cols + WARP - 1) / WARP), dim3(WARP, SUM_ROWS), stream, rows, cols,
           static_cast<const T *>(matrix), is_added, sums);
}

} // namespace

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

void kernel_input_values(cudaStream_t stream, int64_t rows, const int32_t *start, const int32_t *items,
                         const int64_t *users, uint64_t seed, uint32_t epoch, float p, float *values) {
    if (rows == 0) return;
    LAUNCH(input_values, (unsigned)rows, COLUMN_THREADS, stream, start, items, users, seed, epoch, p, values);
}

void kernel_input_forward(cudaStream_t stream, int64_t rows, int h, const int32_t *start,
                          const int32_t *items, const float *values, const float *w, const float *b, int act,
                          float *y) {
    if (rows == 0) return;
    if (by_four(h, w)) {
        LAUNCH((input_forward<4>), column_grid(rows, h, 4), COLUMN_THREADS, stream, h, start, items, values,
               w, b, act, y);
    } else {
        LAUNCH((input_forward<1>), column_grid(rows, h, 1), COLUMN_THREADS, stream, h, start, items, values,
               w, b, act, y);
    }
}

void kernel_input_backward(cudaStream_t stream, int64_t n_touched, int h, const int32_t *item,
                           const int32_t *item_start, const int32_t *row, const int32_t *at,
                           const float *values, const float *dy, float *dw) {
    if (n_touched == 0) return;
    if (by_four(h, dy)) {
        LAUNCH((input_backward<4>), column_grid(n_touched, h, 4), COLUMN_THREADS, stream, h, item, item_start,
               row, at, values, dy, dw);
    } else {
        LAUNCH((input_backward<1>), column_grid(n_touched, h, 1), COLUMN_THREADS, stream, h, item, item_start,
               row, at, values, dy, dw);
    }
}

void kernel_activate(cudaStream_t stream, int64_t rows, int64_t n, const float *b, int act, float *y) {
    if (rows * n == 0) return;
    LAUNCH(activate, flat_blocks(rows * n), FLAT_THREADS, stream, rows * n, n, b, act, y);
}

void kernel_deactivate(cudaStream_t stream, enum number type, int64_t n, int act, const float *y, float *dy,
                       void *copy) {
    if (n == 0 || (type == NUMBER_FP32 && act == NONE)) return;
    FOR_NUMBER(type, LAUNCH((deactivate<T>), flat_blocks(n), FLAT_THREADS, stream, n, act, y, dy,
                            static_cast<T *>(copy)));
}

void kernel_convert(cudaStream_t stream, enum number type, int64_t n, const float *from, void *to) {
    if (n == 0) return;
    FOR_NUMBER(type,
               LAUNCH((convert<T>), flat_blocks(n), FLAT_THREADS, stream, n, from, static_cast<T *>(to)));
}

void kernel_widen(cudaStream_t stream, enum number type, int64_t n, const void *from, float *to) {
    if (n == 0) return;
    FOR_NUMBER(type,
               LAUNCH((widen<T>), flat_blocks(n), FLAT_THREADS, stream, n, static_cast<const T *>(from), to));
}

void kernel_sum_rows(cudaStream_t stream, enum number type, int64_t rows, int64_t cols, const void *matrix,
                     int add, float *sums) {
    FOR_NUMBER(type, start_sum_rows<T>(stream, rows, cols, matrix, add, sums));
}

void kernel_total(cudaStream_t stream, int64_t n, const double *values, double *sum) {
    LAUNCH(total, 1, ROW_THREADS, stream, n, values, sum);
}

void kernel_latent_forward(cudaStream_t stream, int64_t rows, int n, int is_drawn, uint64_t seed,
                           uint32_t epoch, const int64_t *users, const float *stats, float *noise, float *z) {
    if (rows == 0) return;
    LAUNCH(latent_forward, (unsigned)rows, LATENT_THREADS, stream, n, is_drawn, seed, epoch, users, stats,
           noise, z);
}

void kernel_latent_backward(cudaStream_t stream, int64_t rows, int n, float weight, const float *stats,
                            const float *noise, const float *dz, float *dstats, double *kl) {
    if (rows == 0) return;
    LAUNCH(latent_backward, (unsigned)rows, LATENT_THREADS, stream, n, weight, stats, noise, dz, dstats, kl);
}

void kernel_softmax(cudaStream_t stream, enum number type, int64_t rows, int64_t n, const float *b,
                    const int32_t *start, const int32_t *items, float scale, float smoothing, float *logits,
                    void *gradient, double *nll) {
    if (rows == 0) return;
    FOR_NUMBER(type, LAUNCH((softmax<T>), (unsigned)rows, ROW_THREADS, stream, n, b, start, items, scale,
                            smoothing, logits, static_cast<T *>(gradient), nll));
}

void kernel_mask(cudaStream_t stream, int64_t rows, int64_t n, const int32_t *start, const int32_t *items,
                 float *scores) {
    if (rows == 0) return;
    LAUNCH(mask, (unsigned)rows, COLUMN_THREADS, stream, n, start, items, scores);
}

void kernel_top_k(cudaStream_t stream, int64_t rows, int64_t n, int64_t k, const float *scores, int32_t *top,
                  float *top_scores) {
    if (rows == 0) return;
    LAUNCH(top_k, (unsigned)rows, ROW_THREADS, stream, n, k, scores, top, top_scores);
}

void kernel_best_rank(cudaStream_t stream, int64_t rows, int64_t n, const int32_t *start,
                      const int32_t *targets, const float *scores, int64_t *rank) {
    if (rows == 0) return;
    LAUNCH(best_rank, (unsigned)rows, ROW_THREADS, stream, n, start, targets, scores, rank);
}

void kernel_gather_rows(cudaStream_t stream, int64_t n, int h, const int32_t *item, const float *matrix,
                        float *buffer) {
    if (n == 0) return;
    LAUNCH(gather_rows, flat_blocks(n * h), FLAT_THREADS, stream, n * h, h, item, matrix, buffer);
}

void kernel_scatter_rows(cudaStream_t stream, int64_t n, int h, const int32_t *item, const float *buffer,
                         float *matrix) {
    if (n == 0) return;
    LAUNCH(scatter_rows, flat_blocks(n * h), FLAT_THREADS, stream, n * h, h, item, buffer, matrix);
}

void kernel_guard(cudaStream_t stream, int64_t n, const float *g, int *flag) {
    if (n == 0) return;
    LAUNCH(guard, flat_blocks(n), FLAT_THREADS, stream, n, g, flag);
}

void kernel_adam(cudaStream_t stream, const struct kernel_adam *step, enum number type, int64_t n, float *p,
                 const float *g, float *m, float *v, void *copy, const int *skip) {
    if (n == 0) return;
    FOR_NUMBER(type, LAUNCH((adam<T>), flat_blocks(n), FLAT_THREADS, stream, *step, n, p, g, m, v,
                            static_cast<T *>(copy), skip));
}

cudaError_t kernel_probe(void) {
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(&total));
}
