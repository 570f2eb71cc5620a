/* The output layer's softmax, and sums over rows; see kernels.h. */
#include "fp8.cuh"

namespace {

constexpr int SUM_ROWS = 8; /* threads that share a column's sum */

/* exp(x - from), of which T keeps a few digits: the special function unit's power of two is good enough; for
 * fp32 it is not. */
template <typename T> __device__ inline float exponential(float x, float from) {
    constexpr float LOG2_E = 1.44269504f;
    return power_of_two(fmaf(x, LOG2_E, -from * LOG2_E));
}
template <> __device__ inline float exponential<float>(float x, float from) {
    return expf(x - from);
}

/* The logits of a pack of which the first `valid` are of items. */
template <typename T, int N> __device__ inline void widen(const pack<T, N> &x, int valid, float *value) {
#pragma unroll
    for (int j = 0; j < N; j++) value[j] = load(x.of + j);
    if (valid >= N) return;
#pragma unroll
    for (int j = 0; j < N; j++) value[j] = j < valid ? value[j] : -INFINITY;
}

/* from[N] * factor to `to`. */
template <int N> __device__ inline void store_eighths(fp8 *to, const float *from, float factor) {
    pack<fp8, N> x;
#pragma unroll
    for (int j = 0; j < N; j += 2) store_two(x.of + j, from[j] * factor, from[j + 1] * factor);
    *reinterpret_cast<pack<fp8, N> *>(to) = x;
}

/* A block a row. Each thread keeps the largest logit it has met and the sum of exponentials relative to it
 * (Milakov and Gimelshein 2018), so that one pass finds both; the second writes the gradient in their place.
 * Between the two the row is in shared memory, if it fits. */
template <typename T, bool IS_SHARED, bool IS_FP8 = false>
__global__ void __launch_bounds__(ROW_THREADS)
    softmax(int64_t n, int64_t stride, const int32_t *begin, const int32_t *end, const int32_t *items,
            const struct kernel_step *step, float smoothing, T *logits, double *nll, fp8 *gradient,
            float *row_factor) {
    constexpr int N = PACK<T>;
    DYNAMIC_SHARED(T, kept);
    int64_t r = blockIdx.x;
    int first = begin[r], last = end[r], size = (int)((n + N - 1) / N), full = (int)(stride / N);
    auto *row = reinterpret_cast<pack<T, N> *>(logits + r * stride);
    auto *again = IS_SHARED ? reinterpret_cast<pack<T, N> *>(kept) : row;
    float mine = -INFINITY, sum = 0;
    if (IS_SHARED) { /* all of the row is under way before any of it is waited for */
        for (int c = (int)threadIdx.x; c < size; c += (int)blockDim.x) copy_async(again + c, row + c);
        copy_async_wait();
    }
    for (int c = (int)threadIdx.x; c < size; c += (int)blockDim.x) {
        pack<T, N> x = again[c];
        float value[N];
        widen<T, N>(x, (int)n - c * N, value);
        float most = value[0];
#pragma unroll
        for (int j = 1; j < N; j++) most = fmaxf(most, value[j]);
        if (most > mine) {
            sum *= exponential<T>(mine, most);
            mine = most;
        }
#pragma unroll
        for (int j = 0; j < N; j++) sum += exponential<T>(value[j], mine);
    }
    float largest = block_reduce(mine, larger());
    sum = block_reduce(mine > -INFINITY || isnan(sum) ? sum * exponential<T>(mine, largest) : 0.0f, add());
    const T *logit = reinterpret_cast<const T *>(again);
    double hits = 0;
    for (int k = first + (int)threadIdx.x; k < last; k += (int)blockDim.x) {
        hits += (double)(load(logit + items[k]) - largest);
    }
    hits = block_reduce(hits, add()); /* and all have read what is overwritten now */
    if (threadIdx.x == 0) nll[r] = (double)(last - first) * log((double)sum) - hits;
    float scale = step->scale * (float)(last - first), factor = scale / sum;
    float all = scale * smoothing / (float)n, own = step->scale * (1 - smoothing);
    float largest8 = fmaxf(factor, own + all) / FP8_MAX; /* no gradient of the row is larger */
    if (IS_FP8 && threadIdx.x == 0) row_factor[r] = largest8;
    for (int c = (int)threadIdx.x; c < full; c += (int)blockDim.x) {
        int valid = (int)n - c * N;
        float value[N] = {};
        if (c < size) widen<T, N>(again[c], valid, value);
#pragma unroll
        for (int j = 0; j < N; j++) value[j] = factor * exponential<T>(value[j], largest) - all;
        if (valid < N) {
#pragma unroll
            for (int j = 0; j < N; j++) value[j] = j < valid ? value[j] : 0;
        }
        store_all<T, N>(reinterpret_cast<T *>(row + c), value);
        if constexpr (IS_FP8) store_eighths<N>(gradient + r * stride + c * N, value, 1 / largest8);
    }
    __syncthreads(); /* what others of the block have written is seen */
    T *to = logits + r * stride;
    for (int k = first + (int)threadIdx.x; k < last; k += (int)blockDim.x) {
        float value = load(to + items[k]) - own;
        store(to + items[k], value);
        if constexpr (IS_FP8) store(gradient + r * stride + items[k], value / largest8);
    }
}

template <typename T, bool IS_FP8 = false>
void start_softmax(cudaStream_t stream, int64_t n, int64_t stride, const struct kernel_rows *rows,
                   const struct kernel_step *step, float smoothing, void *logits, double *nll,
                   void *gradient = nullptr, float *factor = nullptr) {
    size_t bytes = (size_t)stride * sizeof(T);
    T *at = static_cast<T *>(logits);
    fp8 *to = static_cast<fp8 *>(gradient);
    if (may_share(reinterpret_cast<const void *>(&softmax<T, true, IS_FP8>), bytes)) {
        LAUNCH_SHARED((softmax<T, true, IS_FP8>), (unsigned)rows->rows, ROW_THREADS, bytes, stream, n, stride,
                      rows->begin, rows->end, rows->items, step, smoothing, at, nll, to, factor);
    } else {
        LAUNCH((softmax<T, false, IS_FP8>), (unsigned)rows->rows, ROW_THREADS, stream, n, stride, rows->begin,
               rows->end, rows->items, step, smoothing, at, nll, to, factor);
    }
}

/* ---- sums ---- */

/* A block has a slab of rows and WARP * N columns; SUM_ROWS threads share each of them, rows in turn. */
template <typename T, int N>
__global__ void sum_slab(int64_t rows, int64_t cols, int64_t stride, const T *matrix, int is_added,
                         float *to) {
    __shared__ float partial[SUM_ROWS][WARP * N];
    int64_t column = ((int64_t)blockIdx.x * WARP + threadIdx.x) * N,
            first = (int64_t)blockIdx.y * KERNEL_SLAB;
    int64_t last = first + KERNEL_SLAB < rows ? first + KERNEL_SLAB : rows;
    float sum[N] = {};
    if (column < cols) {
#pragma unroll 8
        for (int64_t r = first + threadIdx.y; r < last; r += SUM_ROWS) {
            pack<T, N> x = *reinterpret_cast<const pack<T, N> *>(matrix + r * stride + column);
#pragma unroll
            for (int j = 0; j < N; j++) sum[j] += load(x.of + j);
        }
    }
#pragma unroll
    for (int j = 0; j < N; j++) partial[threadIdx.y][threadIdx.x * N + (unsigned)j] = sum[j];
    __syncthreads();
    for (int i = (int)(threadIdx.y * WARP + threadIdx.x); i < WARP * N; i += WARP * SUM_ROWS) {
        int64_t at = (int64_t)blockIdx.x * WARP * N + i;
        if (at >= cols) break;
        float total = is_added ? to[(int64_t)blockIdx.y * cols + at] : 0;
        for (int y = 0; y < SUM_ROWS; y++) total += partial[y][i];
        to[(int64_t)blockIdx.y * cols + at] = total;
    }
}

__global__ void sum_slabs(int64_t slabs, int64_t cols, const float *partial, int is_added, float *sums) {
    for (int64_t c = flat_first(); c < cols; c += flat_step()) {
        float sum = is_added ? sums[c] : 0;
#pragma unroll 8
        for (int64_t s = 0; s < slabs; s++) sum += partial[s * cols + c];
        sums[c] = sum;
    }
}

template <typename T, int N>
void start_sum(cudaStream_t stream, int64_t rows, int64_t cols, int64_t stride, const void *matrix,
               int is_added, float *to) {
    dim3 grid((unsigned)((cols + WARP * N - 1) / (WARP * N)),
              (unsigned)((rows + KERNEL_SLAB - 1) / KERNEL_SLAB));
    LAUNCH((sum_slab<T, N>), grid, dim3(WARP, SUM_ROWS), stream, rows, cols, stride,
           static_cast<const T *>(matrix), is_added, to);
}

__global__ void add_losses(const struct kernel_step *step, const double *sums, double *totals) {
    totals[0] += sums[0];
    totals[1] += sums[1];
    totals[2] += sums[0] + (step->gamma > 0 ? sums[2] : step->beta * sums[1]);
}

/* One block. */
__global__ void total(int64_t n, const double *values, double *sum) {
    double mine = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) mine += values[i];
    mine = block_reduce(mine, add());
    if (threadIdx.x == 0) *sum = mine;
}

} // namespace

void kernel_softmax(cudaStream_t stream, enum number type, int64_t n, int64_t stride,
                    const struct kernel_rows *rows, const struct kernel_step *step, float smoothing,
                    void *logits, double *nll) {
    if (rows->rows == 0) return;
    FOR_NUMBER(type, start_softmax<T>(stream, n, stride, rows, step, smoothing, logits, nll));
}

void kernel_softmax_fp8(cudaStream_t stream, int64_t n, int64_t stride, const struct kernel_rows *rows,
                        const struct kernel_step *step, float smoothing, void *logits, double *nll,
                        void *gradient, float *factor) {
    if (rows->rows == 0) return;
    start_softmax<__nv_bfloat16, true>(stream, n, stride, rows, step, smoothing, logits, nll, gradient,
                                       factor);
}

void kernel_sum_rows(cudaStream_t stream, enum number type, int64_t rows, int64_t cols, int64_t stride,
                     const void *matrix, int add, float *partial, float *sums) {
    int64_t slabs = (rows + KERNEL_SLAB - 1) / KERNEL_SLAB;
    float *to = slabs > 1 ? partial : sums;
    int is_first = slabs > 1 ? 0 : add;
    FOR_NUMBER(
        type,
        if (stride % PACK<T> == 0 && is_aligned(matrix)) {
            start_sum<T, PACK<T>>(stream, rows, cols, stride, matrix, is_first, to);
        } else { start_sum<T, 1>(stream, rows, cols, stride, matrix, is_first, to); });
    if (slabs > 1)
        LAUNCH(sum_slabs, flat_blocks(cols), FLAT_THREADS, stream, slabs, cols, partial, add, sums);
}

void kernel_total(cudaStream_t stream, int64_t n, const double *values, double *sum) {
    LAUNCH(total, 1, ROW_THREADS, stream, n, values, sum);
}

void kernel_add_losses(cudaStream_t stream, const struct kernel_step *step, const double *sums,
                       double *totals) {
    LAUNCH(add_losses, 1, 1, stream, step, sums, totals);
}
