/* Ranking: a block a row; see kernels.h. */
#include "device.cuh"

namespace {

constexpr int MASK_THREADS = 128;
constexpr int BYTE = 256; /* values of a radix digit */

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

/* Counts the keys x by the digit at `shift`, of those whose known bits are key's. The keys of a row have few
 * first digits: threads of a warp with the same one count as one. For whole warps. */
__device__ inline void count_digit(int *count, uint32_t x, uint32_t known, uint32_t key, int shift,
                                   bool is_one) {
    int digit = is_one && (x & known) == key ? (int)(x >> shift & 0xff) : BYTE, n = 1;
    if (known == 0) {
        unsigned peers = __match_any_sync(ALL_LANES, digit);
        n = peers & ((1u << threadIdx.x % WARP) - 1) ? 0 : __popc(peers);
    }
    if (digit < BYTE && n > 0) atomicAdd(&count[digit], n);
}

/* The k-th largest key is found digit by digit; then those above it, and of its equals the first ones, are
 * written in the order of their indices. IS_SHARED: a row's keys are kept in shared memory. */
template <bool IS_SHARED>
__global__ void __launch_bounds__(ROW_THREADS)
    top_k(int64_t n, int64_t k, const float *scores, int32_t *top, float *top_scores) {
    DYNAMIC_SHARED(uint32_t, kept);
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
    if (IS_SHARED) {             /* each thread reads only what it has written itself */
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) kept[i] = order_key(row[i]);
    }
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int d = (int)threadIdx.x; d < BYTE; d += (int)blockDim.x) count[d] = 0;
        __syncthreads();
        for (int64_t first = 0; first < n; first += blockDim.x) {
            int64_t i = first + threadIdx.x;
            uint32_t x = i >= n ? 0 : IS_SHARED ? kept[i] : order_key(row[i]);
            count_digit(count, x, known, key, shift, i < n);
        }
        __syncthreads();
        for (int d = (int)threadIdx.x; d < BYTE; d += (int)blockDim.x) {
            int64_t above = 0;
            for (int e = d + 1; e < BYTE; e++) above += count[e];
            if (above >= want || (d > 0 && above + count[d] < want))
                continue; /* for one digit alone it is not */
            shared_key = key | (uint32_t)d << shift;
            shared_want = want - above;
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
        uint32_t x = i >= n ? 0 : IS_SHARED ? kept[i] : order_key(row[i]);
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

/* Does item i of score x come before item j of score y? */
__device__ inline bool is_ahead(float x, int64_t i, float y, int64_t j) {
    return x > y || (x == y && i < j);
}

/* A thread a row: it has few targets. */
__global__ void best_target(int64_t rows, int64_t n, const int32_t *start, const int32_t *targets,
                            const float *scores, int32_t *best, float *best_scores) {
    for (int64_t r = flat_first(); r < rows; r += flat_step()) {
        int32_t item = -1;
        float score = -INFINITY;
        for (int k = start[r]; k < start[r + 1]; k++) {
            float x = scores[r * n + targets[k]];
            if (!(x > -INFINITY) || (item >= 0 && !is_ahead(x, targets[k], score, item))) continue;
            item = targets[k];
            score = x;
        }
        best[r] = item;
        best_scores[r] = score;
    }
}

/* A block a row. */
__global__ void count_ahead(int64_t n, const float *scores, const int32_t *best, const float *best_scores,
                            int64_t first, int64_t *ahead) {
    int64_t r = blockIdx.x;
    unsigned long long count = 0;
    for (int64_t i = threadIdx.x; i < n && best[r] >= 0; i += blockDim.x) {
        count += is_ahead(scores[r * n + i], i + first, best_scores[r], best[r]);
    }
    count = block_reduce(count, add());
    if (threadIdx.x == 0) ahead[r] = (int64_t)count;
}

} // namespace

void kernel_mask(cudaStream_t stream, int64_t n, const struct kernel_rows *rows, float *scores) {
    if (rows->rows == 0) return;
    LAUNCH(mask, (unsigned)rows->rows, MASK_THREADS, stream, n, *rows, scores);
}

void kernel_top_k(cudaStream_t stream, int64_t rows, int64_t n, int64_t k, const float *scores, int32_t *top,
                  float *top_scores) {
    if (rows == 0) return;
    size_t bytes = (size_t)n * sizeof(uint32_t);
    if (may_share(reinterpret_cast<const void *>(&top_k<true>), bytes)) {
        LAUNCH_SHARED((top_k<true>), (unsigned)rows, ROW_THREADS, bytes, stream, n, k, scores, top,
                      top_scores);
    } else {
        LAUNCH((top_k<false>), (unsigned)rows, ROW_THREADS, stream, n, k, scores, top, top_scores);
    }
}

void kernel_best_target(cudaStream_t stream, int64_t rows, int64_t n, const int32_t *start,
                        const int32_t *targets, const float *scores, int32_t *best, float *best_scores) {
    if (rows == 0) return;
    LAUNCH(best_target, flat_blocks(rows), FLAT_THREADS, stream, rows, n, start, targets, scores, best,
           best_scores);
}

void kernel_count_ahead(cudaStream_t stream, int64_t rows, int64_t n, const float *scores,
                        const int32_t *best, const float *best_scores, int64_t first, int64_t *ahead) {
    if (rows == 0) return;
    LAUNCH(count_ahead, (unsigned)rows, ROW_THREADS, stream, n, scores, best, best_scores, first, ahead);
}
