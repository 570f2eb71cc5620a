/* Layers and the update; see kernels.h. */
#include "../src/layer_norm.h"
#include "../src/philox.h"
#include "device.cuh"

namespace {

constexpr int LATENT_THREADS = 64;

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
__global__ void activate(int64_t size, int64_t n, const float *b, int act, const float *x, float *y,
                         T *copy) {
    for (int64_t i = flat_first() * N; i < size; i += flat_step() * N) {
        pack<float, N> value = *reinterpret_cast<const pack<float, N> *>(x + i);
        int64_t column = i % n;
#pragma unroll
        for (int j = 0; j < N; j++) value.of[j] = activated(act, value.of[j] + b[column + j]);
        if (y) *reinterpret_cast<pack<float, N> *>(y + i) = value;
        if (copy) store_all<T, N>(copy + i, value.of);
    }
}

template <typename T, typename Y, int N>
__global__ void deactivate(int64_t n, int act, const Y *y, const float *dy, float *dx, T *copy) {
    for (int64_t i = flat_first() * N; i < n; i += flat_step() * N) {
        pack<float, N> d = *reinterpret_cast<const pack<float, N> *>(dy + i);
        if (act != NONE) {
            pack<Y, N> x = *reinterpret_cast<const pack<Y, N> *>(y + i);
#pragma unroll
            for (int j = 0; j < N; j++) d.of[j] *= slope(act, load(x.of + j));
            if (dx) *reinterpret_cast<pack<float, N> *>(dx + i) = d;
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

__global__ void add_weighted(int64_t n, float weight, const float *x, float *y) {
    for (int64_t i = flat_first(); i < n; i += flat_step()) y[i] += weight * x[i];
}

__global__ void step_is(struct kernel_step step, struct kernel_step *to) {
    *to = step;
}

__global__ void guard(int64_t n, const float *g, int *flag) {
    int bad = 0;
    for (int64_t i = flat_first(); i < n; i += flat_step()) bad |= !isfinite(g[i]);
    if (bad) *flag = 1; /* whoever writes, writes the same */
}

/* All bits of the result depend on all bits of x. */
__device__ inline uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

/* x, or for bf16 one of its two neighbours, by 16 random bits. */
__device__ inline void store_by(float *p, float x, uint32_t) {
    *p = x;
}
__device__ inline void store_by(__nv_bfloat16 *p, float x, uint32_t chance) {
    uint32_t bits = __float_as_uint(x);
    store(p, isfinite(x) ? __uint_as_float((bits + chance) & 0xffff0000u) : x);
}

/* Kingma and Ba 2015, algorithm 1; see adam in src/backend_cpu.c. N numbers at a time. */
template <typename T, typename M, int N>
__device__ inline void update(const struct kernel_adam &s, const struct kernel_step &step, int64_t i,
                              float *p, const float *g, M *m, M *v, T *copy) {
    auto was = *reinterpret_cast<pack<float, N> *>(p + i);
    auto first = *reinterpret_cast<pack<M, N> *>(m + i), second = *reinterpret_cast<pack<M, N> *>(v + i);
    auto slopes = *reinterpret_cast<const pack<float, N> *>(g + i);
#pragma unroll
    for (int j = 0; j < N; j++) {
        float gradient = step.unscale * slopes.of[j] + s.coupled * was.of[j];
        float mean = s.beta1 * load(first.of + j) + s.rest1 * gradient;
        float square = s.beta2 * load(second.of + j) + s.rest2 * gradient * gradient;
        uint32_t chance = mixed(__float_as_uint(gradient) ^ mixed(__float_as_uint(square) ^ mixed(s.step)));
        store_by(first.of + j, mean, chance & 0xffff);
        store_by(second.of + j, square, chance >> 16);
        was.of[j] = (1 - step.learning_rate * s.decoupled) * was.of[j] -
                    step.rate * mean / (sqrtf(square) * step.unbias + s.epsilon);
    }
    *reinterpret_cast<pack<float, N> *>(p + i) = was;
    *reinterpret_cast<pack<M, N> *>(m + i) = first;
    *reinterpret_cast<pack<M, N> *>(v + i) = second;
    if (copy) store_all<T, N>(copy + i, was.of);
}

template <typename T, typename M, int N>
__global__ void adam(struct kernel_adam s, const struct kernel_step *numbers, int64_t n, float *p,
                     const float *g, M *m, M *v, T *copy, const int *skip) {
    if (skip && *skip) return;
    const struct kernel_step step = *numbers;
    int64_t whole = n / N * N;
    for (int64_t i = flat_first() * N; i < whole; i += flat_step() * N) {
        update<T, M, N>(s, step, i, p, g, m, v, copy);
    }
    int64_t rest = whole + flat_first();
    if (rest < n) update<T, M, 1>(s, step, rest, p, g, m, v, copy);
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
            if (z) z[r * n + j + l] = x;
            if (copy) store(copy + r * n + j + l, x);
        }
    }
}

__global__ void latent_backward(int n, const int32_t *begin, const int32_t *end, const int32_t *whole,
                                const struct kernel_step *step, const float *stats, const float *noise,
                                const float *dz, float *dstats, double *kl, double *penalty) {
    int64_t r = blockIdx.x;
    double own = step->gamma * (double)(whole ? whole[r] : end[r] - begin[r]);
    float weight = step->gamma > 0 ? (float)(own * (double)step->scale) : step->kl_weight;
    const float *mu = stats + r * 2 * n, *logvar = mu + n, *eps = noise + r * n, *from = dz + r * n;
    float *dmu = dstats + r * 2 * n, *dlogvar = dmu + n;
    double sum = 0;
    bool is_row = r < step->rows;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        if (!is_row) {
            dmu[j] = dlogvar[j] = 0;
            continue;
        }
        float deviation = expf(logvar[j] / 2), variance = deviation * deviation;
        dmu[j] = from[j] + weight * mu[j];
        dlogvar[j] = from[j] * eps[j] * deviation / 2 + weight * (variance - 1) / 2;
        sum += (double)(mu[j] * mu[j] + variance - logvar[j] - 1);
    }
    sum = block_reduce(sum, add());
    if (threadIdx.x == 0) {
        kl[r] = sum / 2;
        penalty[r] = own * (sum / 2);
    }
}

/* ---- layer normalisation: a block a row ---- */

/* As layer_norm_factor in src/layer_norm.h. */
template <typename Y> __device__ inline float normalizing_factor(int n, const Y *y, float *mean) {
    float sum = 0, squares = 0;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) sum += load(y + j);
    *mean = block_reduce(sum, add()) / (float)n;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        float deviation = load(y + j) - *mean;
        squares += deviation * deviation;
    }
    return 1 / sqrtf(block_reduce(squares, add()) / (float)n + (float)LAYER_NORM_EPSILON);
}

template <typename T, typename Y> __global__ void normalize(int n, const Y *y, float *x, T *copy) {
    int64_t at = (int64_t)blockIdx.x * n;
    float mean, factor = normalizing_factor(n, y + at, &mean);
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        float value = (load(y + at + j) - mean) * factor;
        if (x) x[at + j] = value;
        if (copy) store(copy + at + j, value);
    }
}

template <typename Y, typename X>
__global__ void normalize_backward(int n, const Y *y, const X *x, float *dx) {
    int64_t at = (int64_t)blockIdx.x * n;
    float mean, factor = normalizing_factor(n, y + at, &mean), sum = 0, along = 0;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        sum += dx[at + j];
        along += dx[at + j] * load(x + at + j);
    }
    sum = block_reduce(sum, add()) / (float)n;
    along = block_reduce(along, add()) / (float)n;
    for (int j = (int)threadIdx.x; j < n; j += (int)blockDim.x) {
        dx[at + j] = factor * (dx[at + j] - sum - along * load(x + at + j));
    }
}

template <typename T, typename Y>
void start_deactivate(cudaStream_t stream, int64_t n, int act, const void *y, const float *dy, float *dx,
                      void *copy) {
    bool by_four = n % 4 == 0 && is_aligned(y) && is_aligned(dy) && is_aligned(copy);
    if (by_four) {
        LAUNCH((deactivate<T, Y, 4>), flat_blocks(n / 4), FLAT_THREADS, stream, n, act,
               static_cast<const Y *>(y), dy, dx, static_cast<T *>(copy));
    } else {
        LAUNCH((deactivate<T, Y, 1>), flat_blocks(n), FLAT_THREADS, stream, n, act, static_cast<const Y *>(y),
               dy, dx, static_cast<T *>(copy));
    }
}

template <typename T, typename Y>
void start_normalize(cudaStream_t stream, int64_t rows, int n, const void *y, float *x, void *copy) {
    LAUNCH((normalize<T, Y>), (unsigned)rows, LATENT_THREADS, stream, n, static_cast<const Y *>(y), x,
           static_cast<T *>(copy));
}

template <typename Y, typename X>
void start_normalize_backward(cudaStream_t stream, int64_t rows, int n, const void *y, const void *x,
                              float *dx) {
    LAUNCH((normalize_backward<Y, X>), (unsigned)rows, LATENT_THREADS, stream, n, static_cast<const Y *>(y),
           static_cast<const X *>(x), dx);
}

template <typename T, typename M>
void start_adam(cudaStream_t stream, const struct kernel_adam &constants, const struct kernel_step *step,
                int64_t n, float *p, const float *g, void *m, void *v, void *copy, const int *skip) {
    M *first = static_cast<M *>(m), *second = static_cast<M *>(v);
    T *to = static_cast<T *>(copy);
    if (is_aligned(p) && is_aligned(g) && is_aligned(m) && is_aligned(v) && is_aligned(copy)) {
        LAUNCH((adam<T, M, 4>), flat_blocks((n + 3) / 4), FLAT_THREADS, stream, constants, step, n, p, g,
               first, second, to, skip);
    } else {
        LAUNCH((adam<T, M, 1>), flat_blocks(n), FLAT_THREADS, stream, constants, step, n, p, g, first, second,
               to, skip);
    }
}

} // namespace

void kernel_step_is(cudaStream_t stream, const struct kernel_step *step, struct kernel_step *to) {
    LAUNCH(step_is, 1, 1, stream, *step, to);
}

void kernel_activate(cudaStream_t stream, enum number type, int64_t rows, int64_t n, const float *b, int act,
                     const float *x, float *y, void *copy) {
    if (rows * n == 0) return;
    bool by_four = n % 4 == 0 && is_aligned(x) && is_aligned(y) && is_aligned(copy);
    FOR_NUMBER(
        type,
        if (by_four) {
            LAUNCH((activate<T, 4>), flat_blocks(rows * n / 4), FLAT_THREADS, stream, rows * n, n, b, act, x,
                   y, static_cast<T *>(copy));
        } else {
            LAUNCH((activate<T, 1>), flat_blocks(rows * n), FLAT_THREADS, stream, rows * n, n, b, act, x, y,
                   static_cast<T *>(copy));
        });
}

void kernel_deactivate(cudaStream_t stream, enum number type, enum number type_y, int64_t n, int act,
                       const void *y, const float *dy, float *dx, void *copy) {
    if (n == 0 || (type == NUMBER_FP32 && act == NONE)) return;
    FOR_NUMBER(
        type,
        if (type_y == NUMBER_FP32) { start_deactivate<T, float>(stream, n, act, y, dy, dx, copy); } else {
            start_deactivate<T, T>(stream, n, act, y, dy, dx, copy);
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

void kernel_add(cudaStream_t stream, int64_t n, float weight, const float *x, float *y) {
    if (n == 0) return;
    LAUNCH(add_weighted, flat_blocks(n), FLAT_THREADS, stream, n, weight, x, y);
}

void kernel_latent_forward(cudaStream_t stream, enum number type, int64_t rows, int n, int is_drawn,
                           const struct kernel_step *step, uint64_t seed, const int64_t *users,
                           const float *stats, float *noise, float *z, void *copy) {
    if (rows == 0) return;
    FOR_NUMBER(type, LAUNCH((latent_forward<T>), (unsigned)rows, LATENT_THREADS, stream, n, is_drawn, step,
                            seed, users, stats, noise, z, static_cast<T *>(copy)));
}

void kernel_latent_backward(cudaStream_t stream, const struct kernel_rows *rows, int n,
                            const struct kernel_step *step, const float *stats, const float *noise,
                            const float *dz, float *dstats, double *kl, double *penalty) {
    if (rows->rows == 0) return;
    LAUNCH(latent_backward, (unsigned)rows->rows, LATENT_THREADS, stream, n, rows->begin, rows->end,
           rows->whole, step, stats, noise, dz, dstats, kl, penalty);
}

void kernel_normalize(cudaStream_t stream, enum number type, enum number type_y, int64_t rows, int n,
                      const void *y, float *x, void *copy) {
    if (rows == 0) return;
    FOR_NUMBER(
        type, if (type_y == NUMBER_FP32) { start_normalize<T, float>(stream, rows, n, y, x, copy); } else {
            start_normalize<T, T>(stream, rows, n, y, x, copy);
        });
}

void kernel_normalize_backward(cudaStream_t stream, enum number type_y, enum number type_x, int64_t rows,
                               int n, const void *y, const void *x, float *dx) {
    if (rows == 0) return;
    FOR_NUMBER(
        type_x,
        if (type_y == NUMBER_FP32) { start_normalize_backward<float, T>(stream, rows, n, y, x, dx); } else {
            start_normalize_backward<T, T>(stream, rows, n, y, x, dx);
        });
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
                 enum number type, int64_t n, float *p, const float *g, int are_short, void *m, void *v,
                 void *copy, const int *skip) {
    if (n == 0) return;
    FOR_NUMBER(
        type,
        if (are_short) {
            start_adam<T, __nv_bfloat16>(stream, *constants, step, n, p, g, m, v, copy, skip);
        } else { start_adam<T, float>(stream, *constants, step, n, p, g, m, v, copy, skip); });
}

cudaError_t kernel_probe(void) {
    struct cudaFuncAttributes attributes;
    return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void *>(&guard));
}
