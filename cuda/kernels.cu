/* Layers, ranking and the update; see kernels.h. */
#include "../src/philox.h"
#include "device.cuh"

namespace {

constexpr int COLUMN_THREADS = 128; /* of a block that has columns of a row */
constexpr int LATENT_THREADS = 64;
constexpr int BYTE = 256; /* values of a radix digit */

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

/* ---- element by element ---- */

/* N numbers at a time; each row has n of them. */
template <typename T, int N>
__global__ void activate(int64_t size, int64_t n, const float *b, int act, float *y, T *copy) {
    for (int64_t i = flat_first() * N; i < size; i += flat_step() * N) {
        pack<float, N> x = *reinterpret_cast<const pack<float, N> *>(y + i);
        int64_t column = i % n;
#pragma unroll
        for (int j = 0; j < N; j++) x.of[j] = activated(act, x.of[j] + b[column + j]);
        *reinterpret_cast<pack<float, N> *>(y + i) = x;
        if (copy) store_all<T, N>(copy + i, x.of);
    }
}

template <typename T, int N>
__global__ void deactivate(int64_t n, int act, const float *y, float *dy, T *copy) {
    for (int64_t i = flat_first() * N; i < n; i += flat_step() * N) {
        pack<float, N> d = *reinterpret_cast<const pack<float, N> *>(dy + i);
        if (act != NONE) {
            pack<float, N> x = *reinterpret_cast<const pack<float, N> *>(y + i);
#pragma unroll
            for (int j = 0; j < N; j++) d.of[j] *= slope(act, x.of[j]);
            *reinterpret_cast<pack<float, N> *>(dy + i) = d;
        }
        if (copy) store_all<T, N>(copy + i, d.of);
    }
}

template <typename T> __global__ void add_bias(int64_t n, int64_t stride, const float *b, T *y) {
    T *row = y + (int64_t)blockIdx.x * stride;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) store(row + i, load(row + i) + b[i]);
}

template <typename T> __global__ void convert(int64_t n, const float *from, T *to) {
    for (int64_t i = flat_first(); i < n; i += flat_step()) store(to + i, from[i]);
}

template <typename T> __global__ void widen(int64_t n, const T *from, float *to) {
    for (int64_t i = flat_first(); i < n; i += flat_step()) to[i] = load(from + i);
}

__global__ void step_is(struct kernel_step step, struct kernel_step *to) {
    *to = step;
}

__global__ void guard(int64_t n, const float *g, int *flag) {
    int bad = 0;
    for (int64_t i = flat_first(); i < n; i += flat_step()) bad |= !isfinite(g[i]);
    if (bad) *flag = 1; /* whoever writes, writes the same */
}

/* Kingma and Ba 2015, algorithm 1; see adam in src/backend_cpu.c. N numbers at a time. */
template <typename T, int N>
__device__ inline void update(const struct kernel_adam &s, const struct kernel_step &step, int64_t i,
                              float *p, const float *g, float *m, float *v, T *copy) {
    auto was = *reinterpret_cast<pack<float, N> *>(p + i), first = *reinterpret_cast<pack<float, N> *>(m + i),
         second = *reinterpret_cast<pack<float, N> *>(v + i);
    auto slopes = *reinterpret_cast<const pack<float, N> *>(g + i);
#pragma unroll
    for (int j = 0; j < N; j++) {
        float gradient = step.unscale * slopes.of[j] + s.coupled * was.of[j];
        first.of[j] = s.beta1 * first.of[j] + s.rest1 * gradient;
        second.of[j] = s.beta2 * second.of[j] + s.rest2 * gradient * gradient;
        was.of[j] = (1 - step.learning_rate * s.decoupled) * was.of[j] -
                    step.rate * first.of[j] / (sqrtf(second.of[j]) * step.unbias + s.epsilon);
    }
    *reinterpret_cast<pack<float, N> *>(p + i) = was;
    *reinterpret_cast<pack<float, N> *>(m + i) = first;
    *reinterpret_cast<pack<float, N> *>(v + i) = second;
    if (copy) store_all<T, N>(copy + i, was.of);
}

template <typename T, int N>
__global__ void adam(struct kernel_adam s, const struct kernel_step *numbers, int64_t n, float *p,
                     const float *g, float *m, float *v, T *copy, const int *skip) {
    if (skip && *skip) return;
    const struct kernel_step step = *numbers;
    int64_t whole = n / N * N;
    for (int64_t i = flat_first() * N; i < whole; i += flat_step() * N) {
        update<T, N>(s, step, i, p, g, m, v, copy);
    }
    int64_t rest = whole + flat_first();
    if (rest < n) update<T, 1>(s, step, rest, p, g, m, v, copy);
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

/* ---- the latent layer: a block a row ---- */

template <typename T>
__global__ void latent_forward(int n, int is_drawn, const struct kernel_step *step, uint64_t seed,
                               const int64_t *users, const float *stats, float *noise, float *z, T *copy) {
    int64_t r = blockIdx.x;
    const float *mu = stats + r * 2 * n, *logvar = mu + n;
    for (int j = (int)threadIdx.x * 4; j < n; j += (int)blockDim.x * 4) {
        float drawn[4] = {};
        if (is_drawn) {
            philox_normal(philox(seed, PHILOX_NOISE, step->epoch, (uint64_t)users[r], (uint32_t)(j / 4)),
                          drawn);
        }
        for (int l = 0; l < 4 && j + l < n; l++) {
            if (is_drawn) noise[r * n + j + l] = drawn[l];
            float x = is_drawn ? mu[j + l] + drawn[l] * expf(logvar[j + l] / 2) : mu[j + l];
            z[r * n + j + l] = x;
            if (copy) store(copy + r * n + j + l, x);
        }
    }
}

__global__ void latent_backward(int n, const struct kernel_step *step, const float *stats, const float *noise,
                                const float *dz, float *dstats, double *kl) {
    int64_t r = blockIdx.x;
    float weight = step->kl_weight;
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

/* ---- ranking: a block a row ---- */

__global__ void mask(int64_t n, struct kernel_rows rows, float *scores) {
    int64_t r = blockIdx.x;
    for (int k = rows.begin[r] + (int)threadIdx.x; k < rows.end[r]; k += (int)blockDim.x) {
        scores[r * n + rows.items[k]] = -INFINITY;
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

} // namespace

void kernel_step_is(cudaStream_t stream, const struct kernel_step *step, struct kernel_step *to) {
    LAUNCH(step_is, 1, 1, stream, *step, to);
}

void kernel_activate(cudaStream_t stream, enum number type, int64_t rows, int64_t n, const float *b, int act,
                     float *y, void *copy) {
    if (rows * n == 0) return;
    bool by_four = n % 4 == 0 && is_aligned(y) && is_aligned(copy);
    FOR_NUMBER(
        type,
        if (by_four) {
            LAUNCH((activate<T, 4>), flat_blocks(rows * n / 4), FLAT_THREADS, stream, rows * n, n, b, act, y,
                   static_cast<T *>(copy));
        } else {
            LAUNCH((activate<T, 1>), flat_blocks(rows * n), FLAT_THREADS, stream, rows * n, n, b, act, y,
                   static_cast<T *>(copy));
        });
}

void kernel_deactivate(cudaStream_t stream, enum number type, int64_t n, int act, const float *y, float *dy,
                       void *copy) {
    if (n == 0 || (type == NUMBER_FP32 && act == NONE)) return;
    bool by_four = n % 4 == 0 && is_aligned(y) && is_aligned(dy) && is_aligned(copy);
    FOR_NUMBER(
        type,
        if (by_four) {
            LAUNCH((deactivate<T, 4>), flat_blocks(n / 4), FLAT_THREADS, stream, n, act, y, dy,
                   static_cast<T *>(copy));
        } else {
            LAUNCH((deactivate<T, 1>), flat_blocks(n), FLAT_THREADS, stream, n, act, y, dy,
                   static_cast<T *>(copy));
        });
}

void kernel_add_bias(cudaStream_t stream, enum number type, int64_t rows, int64_t n, int64_t stride,
                     const float *b, void *y) {
    if (rows == 0) return;
    FOR_NUMBER(type,
               LAUNCH((add_bias<T>), (unsigned)rows, ROW_THREADS, stream, n, stride, b, static_cast<T *>(y)));
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

void kernel_latent_forward(cudaStream_t stream, enum number type, int64_t rows, int n, int is_drawn,
                           const struct kernel_step *step, uint64_t seed, const int64_t *users,
                           const float *stats, float *noise, float *z, void *copy) {
    if (rows == 0) return;
    FOR_NUMBER(type, LAUNCH((latent_forward<T>), (unsigned)rows, LATENT_THREADS, stream, n, is_drawn, step,
                            seed, users, stats, noise, z, static_cast<T *>(copy)));
}

void kernel_latent_backward(cudaStream_t stream, int64_t rows, int n, const struct kernel_step *step,
                            const float *stats, const float *noise, const float *dz, float *dstats,
                            double *kl) {
    if (rows == 0) return;
    LAUNCH(latent_backward, (unsigned)rows, LATENT_THREADS, stream, n, step, stats, noise, dz, dstats, kl);
}

void kernel_mask(cudaStream_t stream, int64_t n, const struct kernel_rows *rows, float *scores) {
    if (rows->rows == 0) return;
    LAUNCH(mask, (unsigned)rows->rows, COLUMN_THREADS, stream, n, *rows, scores);
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

void kernel_adam(cudaStream_t stream, const struct kernel_adam *constants, const struct kernel_step *step,
                 enum number type, int64_t n, float *p, const float *g, float *m, float *v, void *copy,
                 const int *skip) {
    if (n == 0) return;
    bool by_four = is_aligned(p) && is_aligned(g) && is_aligned(m) && is_aligned(v) && is_aligned(copy);
    FOR_NUMBER(
        type,
        if (by_four) {
            LAUNCH((adam<T, 4>), flat_blocks((n + 3) / 4), FLAT_THREADS, stream, *constants, step, n, p, g, m,
                   v, static_cast<T *>(copy), skip);
        } else {
            LAUNCH((adam<T, 1>), flat_blocks(n), FLAT_THREADS, stream, *constants, step, n, p, g, m, v,
                   static_cast<T *>(copy), skip);
        });
}

cudaError_t kernel_probe(void) {
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(&guard));
}
