/* The kept entries of an epoch laid together by step, once an epoch: see struct kernel_sorted in kernels.h.
 *
 * A counting sort that keeps the order of what has the same step. Each piece of the entries counts its steps;
 * the sums of all counts before, by step and then by piece, say where a piece's entries go. */
#include "device.cuh"

namespace {

/* step_of[place] of each kept row; a block has a step. */
__global__ void name_steps(int64_t batch, int64_t n, const int32_t *step_first, int32_t *step_of) {
    int64_t s = blockIdx.x, first = step_first ? step_first[s] : s * batch,
            end = step_first            ? step_first[s + 1]
                  : (s + 1) * batch < n ? (s + 1) * batch
                                        : n;
    for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) step_of[i] = (int32_t)s;
}

/* count[s * pieces + piece] of entries; a block has a piece. */
__global__ void count_steps(int64_t n, int steps, struct kernel_columns columns, const int32_t *step_of,
                            int32_t *count) {
    __shared__ int of[KERNEL_STEPS];
    int64_t begin = (int64_t)blockIdx.x * KERNEL_SORTED,
            end = begin + KERNEL_SORTED < n ? begin + KERNEL_SORTED : n;
    for (int s = (int)threadIdx.x; s < steps; s += (int)blockDim.x) of[s] = 0;
    __syncthreads();
    for (int64_t e = begin + threadIdx.x; e < end; e += blockDim.x) {
        atomicAdd(&of[step_of[columns.place[columns.row[e]]]], 1);
    }
    __syncthreads();
    for (int s = (int)threadIdx.x; s < steps; s += (int)blockDim.x) {
        count[(int64_t)s * gridDim.x + blockIdx.x] = of[s];
    }
}

/* Puts the entries of a piece where they belong; a block is one warp. */
__global__ void sort_piece(int64_t n, int steps, int64_t batch, struct kernel_columns columns,
                           const int32_t *items, const int32_t *step_of, const int32_t *step_first,
                           struct kernel_sorted to) {
    __shared__ int next[KERNEL_STEPS];
    int64_t begin = (int64_t)blockIdx.x * KERNEL_SORTED,
            end = begin + KERNEL_SORTED < n ? begin + KERNEL_SORTED : n;
    unsigned below = (1u << threadIdx.x) - 1;
    for (int s = (int)threadIdx.x; s < steps; s += WARP) {
        next[s] = to.first[(int64_t)s * gridDim.x + blockIdx.x];
    }
    __syncthreads();
    for (int64_t round = begin; round < end; round += WARP) {
        int64_t e = round + threadIdx.x;
        int32_t place = e < end ? columns.place[columns.row[e]] : 0;
        int s = e < end ? step_of[place] : -1, at = s < 0 ? 0 : next[s];
        unsigned alike = __match_any_sync(ALL_LANES, s);
        __syncthreads(); /* all have read */
        if (s >= 0 && (alike & below) == 0) next[s] = at + __popc(alike);
        __syncthreads();
        if (s < 0) continue;
        at += __popc(alike & below);
        to.row[at] = place - (int32_t)(step_first ? step_first[s] : s * batch);
        to.at[at] = columns.at[e];
        to.item[at] = items[columns.at[e]];
    }
}

/* The first entry of a step has ~item. */
__global__ void mark_steps(int steps, int64_t pieces, struct kernel_sorted to) {
    for (int64_t s = flat_first(); s < steps; s += flat_step()) {
        int32_t begin = to.first[s * pieces];
        if (begin < to.first[(s + 1) * pieces]) to.item[begin] = ~to.item[begin];
    }
}

/* Is entry e the first of an item in its step? */
__device__ bool is_head(const int32_t *item, int64_t e) {
    int32_t before = e > 0 ? item[e - 1] : 0;
    return item[e] < 0 || item[e] != (before < 0 ? ~before : before);
}

/* count[piece]: its heads. */
__global__ void count_heads(int64_t n, struct kernel_sorted of) {
    int64_t begin = (int64_t)blockIdx.x * KERNEL_SORTED,
            end = begin + KERNEL_SORTED < n ? begin + KERNEL_SORTED : n;
    int mine = 0;
    for (int64_t e = begin + threadIdx.x; e < end; e += blockDim.x) mine += is_head(of.item, e);
    mine = block_reduce(mine, add());
    if (threadIdx.x == 0) of.count[blockIdx.x] = mine;
}

/* head[], and behind the last one the end of all entries; before[piece]: heads of earlier pieces. */
__global__ void place_heads(int64_t n, const int32_t *before, struct kernel_sorted to) {
    int64_t begin = (int64_t)blockIdx.x * KERNEL_SORTED,
            end = begin + KERNEL_SORTED < n ? begin + KERNEL_SORTED : n;
    int32_t first = before[blockIdx.x];
    for (int64_t round = begin; round < end; round += blockDim.x) {
        int64_t e = round + threadIdx.x;
        bool is_one = e < end && is_head(to.item, e);
        int count, at = first + block_place(is_one, &count);
        first += count;
        if (is_one) to.head[at] = (int32_t)e;
    }
    if (end == n && threadIdx.x == 0) to.head[first] = (int32_t)n;
}

/* step_head[s]: the first head of step s or of a later one. begin[s * pieces] is the step's first entry. */
__global__ void find_steps(int steps, int64_t pieces, const int32_t *begin, const int32_t *n_heads,
                           struct kernel_sorted to) {
    for (int64_t s = flat_first(); s <= steps; s += flat_step()) {
        int32_t low = 0, high = *n_heads;
        while (low < high) {
            int32_t middle = low + (high - low) / 2;
            if (to.head[middle] < begin[s * pieces]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        to.step_head[s] = low;
    }
}

} // namespace

void kernel_sort_steps(cudaStream_t stream, int64_t n, int64_t rows, int steps, int64_t batch,
                       const int32_t *step_first, const struct kernel_columns *columns, const int32_t *items,
                       const struct kernel_sorted *to) {
    if (n == 0) return;
    int64_t pieces = (n + KERNEL_SORTED - 1) / KERNEL_SORTED;
    unsigned blocks = (unsigned)pieces;
    int32_t *before = to->before;
    LAUNCH(name_steps, (unsigned)steps, FLAT_THREADS, stream, batch, rows, step_first, to->step_of);
    LAUNCH(count_steps, blocks, FLAT_THREADS, stream, n, steps, *columns, to->step_of, to->count);
    kernel_scan(stream, steps * pieces, to->count, to->piece, to->first);
    LAUNCH(sort_piece, blocks, WARP, stream, n, steps, batch, *columns, items, to->step_of, step_first, *to);
    LAUNCH(mark_steps, flat_blocks(steps), FLAT_THREADS, stream, steps, pieces, *to);
    LAUNCH(count_heads, blocks, FLAT_THREADS, stream, n, *to);
    kernel_scan(stream, pieces, to->count, to->piece, before);
    LAUNCH(place_heads, blocks, FLAT_THREADS, stream, n, before, *to);
    LAUNCH(find_steps, flat_blocks(steps + 1), FLAT_THREADS, stream, steps, pieces, to->first,
           before + pieces, *to);
}
