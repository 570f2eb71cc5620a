/* The output layer in tiles of items, and over the item ranks of a grid; see kernels.h. */
#include "device.cuh"

namespace {

/* A block a row. Adds a tile's logits to what the row's softmax needs of all of them (Milakov and Gimelshein
 * 2018). */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    tile_sums(int64_t n, int64_t stride, int64_t first, const int32_t *begin, const int32_t *end,
              const int32_t *items, const T *logits, struct kernel_sums *sums) {
    int64_t r = blockIdx.x;
    const T *row = logits + r * stride;
    float mine = -INFINITY, sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
        float x = load(row + i);
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
    for (int k = begin[r] + (int)threadIdx.x; k < end[r]; k += (int)blockDim.x) {
        int64_t i = items[k] - first;
        if (i >= 0 && i < n) hits += (double)load(row + i);
    }
    hits = block_reduce(hits, add());
    if (threadIdx.x > 0) return;
    struct kernel_sums s = sums[r];
    float most = s.largest > largest ? s.largest : largest;
    s.sum = s.sum * expf(s.largest - most) + sum * expf(largest - most);
    s.largest = most;
    s.hits += (float)hits;
    sums[r] = s;
}

__global__ void no_sums(int64_t n, struct kernel_sums *sums) {
    for (int64_t i = flat_first(); i < n; i += flat_step()) sums[i] = {-INFINITY, 0, 0};
}

/* Part p of them is item rank p's. */
__global__ void finish_sums(int64_t rows, int parts, const int32_t *begin, const int32_t *end,
                            const int32_t *whole, const struct kernel_sums *all, struct kernel_sums *sums,
                            double *nll) {
    for (int64_t r = flat_first(); r < rows; r += flat_step()) {
        struct kernel_sums s = all[r];
        for (int p = 1; p < parts; p++) {
            struct kernel_sums t = all[p * rows + r];
            float most = s.largest > t.largest ? s.largest : t.largest;
            s.sum = s.sum * expf(s.largest - most) + t.sum * expf(t.largest - most);
            s.largest = most;
            s.hits += t.hits;
        }
        double n = whole ? whole[r] : end[r] - begin[r];
        nll[r] = n * (log((double)s.sum) + (double)s.largest) - (double)s.hits;
        sums[r] = s;
    }
}

/* A block a row: the gradient takes the place of the logits. */
template <typename T>
__global__ void __launch_bounds__(ROW_THREADS)
    tile_gradients(int64_t n, int64_t stride, int64_t first, int64_t all_items, struct kernel_rows rows,
                   const struct kernel_step *step, float smoothing, const struct kernel_sums *sums,
                   T *logits) {
    int64_t r = blockIdx.x;
    int begin = rows.begin[r], end = rows.end[r];
    T *row = logits + r * stride;
    float largest = sums[r].largest, scale = step->scale * (float)(rows.whole ? rows.whole[r] : end - begin);
    float factor = scale / sums[r].sum, all = scale * smoothing / (float)all_items,
          own = step->scale * (1 - smoothing);
    for (int64_t i = threadIdx.x; i < stride; i += blockDim.x) {
        store(row + i, i < n ? factor * expf(load(row + i) - largest) - all : 0.0f);
    }
    __syncthreads(); /* what others of the block have written is seen */
    for (int k = begin + (int)threadIdx.x; k < end; k += (int)blockDim.x) {
        int64_t i = rows.items[k] - first;
        if (i >= 0 && i < n) store(row + i, load(row + i) - own);
    }
}

} // namespace

void kernel_no_sums(cudaStream_t stream, int64_t n, struct kernel_sums *sums) {
    LAUNCH(no_sums, flat_blocks(n), FLAT_THREADS, stream, n, sums);
}

void kernel_tile_sums(cudaStream_t stream, enum number type, int64_t n, int64_t stride, int64_t first,
                      const struct kernel_rows *rows, const void *logits, struct kernel_sums *sums) {
    FOR_NUMBER(type, LAUNCH((tile_sums<T>), (unsigned)rows->rows, ROW_THREADS, stream, n, stride, first,
                            rows->begin, rows->end, rows->items, static_cast<const T *>(logits), sums));
}

void kernel_finish_sums(cudaStream_t stream, int parts, const struct kernel_rows *rows,
                        const struct kernel_sums *all, struct kernel_sums *sums, double *nll) {
    LAUNCH(finish_sums, flat_blocks(rows->rows), FLAT_THREADS, stream, rows->rows, parts, rows->begin,
           rows->end, rows->whole, all, sums, nll);
}

void kernel_tile_gradients(cudaStream_t stream, enum number type, int64_t n, int64_t stride, int64_t first,
                           int64_t all_items, const struct kernel_rows *rows, const struct kernel_step *step,
                           float smoothing, const struct kernel_sums *sums, void *logits) {
    FOR_NUMBER(type, LAUNCH((tile_gradients<T>), (unsigned)rows->rows, ROW_THREADS, stream, n, stride, first,
                            all_items, *rows, step, smoothing, sums, static_cast<T *>(logits)));
}
