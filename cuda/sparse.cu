/* The batch: its rows, its values, and the sparse first layer; see kernels.h. */
#include "../src/order.h"
#include "device.cuh"

namespace {

constexpr int VALUE_THREADS = 128;
constexpr int SPARSE_THREADS = 256; /* at most, of a block that sums rows */

/* ---- the rows that stay on the GPU ---- */

/* at[position] = row and, unless NULL, place[row] = position. */
__global__ void place_rows(uint64_t seed, uint32_t epoch, int64_t n, int64_t first, int64_t rows, int32_t *at,
                           int32_t *place) {
    for (int64_t r = flat_first(); r < rows; r += flat_step()) {
        int64_t position = order_at(seed, epoch, n, first + r, 1);
        at[position] = (int32_t)r;
        if (place) place[r] = (int32_t)position;
    }
}

/* A block has a piece of at[n], in which positions of other ranks' rows have -1: how many are this one's? */
__global__ void count_rows(int64_t n, const int32_t *at, int32_t *count) {
    int64_t begin = (int64_t)blockIdx.x * KERNEL_PIECE,
            end = begin + KERNEL_PIECE < n ? begin + KERNEL_PIECE : n;
    int mine = 0;
    for (int64_t p = begin + threadIdx.x; p < end; p += blockDim.x) mine += at[p] >= 0;
    mine = block_reduce(mine, add());
    if (threadIdx.x == 0) count[blockIdx.x] = mine;
}

/* Lays the rows in the pieces of at[n] together. */
__global__ void lay_together(int64_t n, int64_t batch, const int32_t *at, const int32_t *count,
                             int32_t *row_at, int32_t *place, int32_t *step_first) {
    int64_t first = (int64_t)blockIdx.x * KERNEL_PIECE,
            end = first + KERNEL_PIECE < n ? first + KERNEL_PIECE : n;
    int32_t before = 0; /* so many are before this round */
    for (int i = (int)threadIdx.x; i < (int)blockIdx.x; i += (int)blockDim.x) before += count[i];
    before = block_reduce(before, add());
    for (int64_t begin = first; begin < end; begin += blockDim.x) {
        int64_t p = begin + threadIdx.x;
        int32_t row = p < end ? at[p] : -1;
        int count_here, mine = before + block_place(row >= 0, &count_here);
        before += count_here;
        if (p < end && p % batch == 0) step_first[p / batch] = mine;
        if (row >= 0) {
            row_at[mine] = row;
            place[row] = mine;
        }
    }
    if (end == n && threadIdx.x == 0) step_first[(n + batch - 1) / batch] = before;
}

__global__ void take_rows(int64_t rows, const struct kernel_step *step, const int32_t *row_at,
                          const int32_t *start, const int64_t *all_users, int32_t *begin, int32_t *end,
                          int64_t *users) {
    for (int64_t r = flat_first(); r < rows; r += flat_step()) {
        int32_t row = r < step->rows ? row_at[step->first + r] : -1;
        begin[r] = row < 0 ? 0 : start[row];
        end[r] = row < 0 ? 0 : start[row + 1];
        users[r] = row < 0 ? 0 : all_users[row];
    }
}

/* A block a row. */
__global__ void input_values(struct kernel_rows rows, const struct kernel_step *step, uint64_t seed, float p,
                             float *values) {
    int64_t r = blockIdx.x;
    int begin = rows.begin[r], end = rows.end[r];
    float value = (float)(1 / sqrt((double)(rows.whole ? rows.whole[r] : end - begin)));
    for (int k = begin + (int)threadIdx.x; k < end; k += (int)blockDim.x) {
        float kept = value;
        if (p > 0) {
            int item = rows.first_item + rows.items[k];
            struct philox_block block =
                philox(seed, PHILOX_DROPOUT, step->epoch, (uint64_t)rows.users[r], (uint32_t)(item / 4));
            kept = philox_uniform(block.lane[item % 4]) >= p ? value / (1 - p) : 0;
        }
        values[k] = kept;
    }
}

/* ---- sums of rows ---- */

/* A row of a matrix and its factor. */
struct entry {
    int32_t row;
    float value;
};

/* A block's entries, of which those that are not zero lie together, in their order. */
struct list {
    struct entry of[SPARSE_THREADS];
};

/* Fills the list with one entry of each thread; returns how many there are. For the whole block. */
__device__ int fill(struct list *list, struct entry mine) {
    int count, at = block_place(mine.value != 0, &count); /* then the last use's entries are read */
    if (mine.value != 0) list->of[at] = mine;
    __syncthreads();
    return count;
}

/* sum[N] += the factors times the N numbers at `column` of their rows of matrix[., h]. */
template <typename T, int N>
__device__ void add_rows(const struct list *list, int count, const T *matrix, int h, int column, float *sum) {
    if (column >= h) return;
#pragma unroll 4
    for (int i = 0; i < count; i++) {
        struct entry e = list->of[i];
        pack<T, N> x = *reinterpret_cast<const pack<T, N> *>(matrix + (int64_t)e.row * h + column);
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += e.value * load(x.of + j);
    }
}

/* sum[N] += that of the row's entries begin .. end - 1, for the N columns that this thread has. For the whole
 * block. */
template <typename T, int N>
__device__ void add_entries(struct list *list, const struct kernel_rows &rows, const float *values, int begin,
                            int end, const T *w, int h, int column, float *sum) {
    for (int first = begin; first < end; first += (int)blockDim.x) {
        int k = first + (int)threadIdx.x;
        struct entry mine = {};
        if (k < end) mine = {rows.items[k], values[k]};
        add_rows<T, N>(list, fill(list, mine), w, h, column, sum);
    }
}

template <typename T, int N>
__device__ void finish(int64_t r, int h, int column, const float *b, int act, float *sum, float *y, T *copy) {
#pragma unroll
    for (int j = 0; j < N; j++) sum[j] = activated(act, sum[j] + b[column + j]);
    if (y) store_all<float, N>(y + r * h + column, sum);
    if (copy) store_all<T, N>(copy + r * h + column, sum);
}

/* A block has a row; a thread N columns that lie together. */
template <typename T, int N>
__global__ void input_forward(int h, struct kernel_rows rows, const float *values, const T *w, const float *b,
                              int act, float *y, T *copy) {
    __shared__ struct list list;
    int64_t r = blockIdx.x;
    int column = (int)(blockIdx.y * blockDim.x + threadIdx.x) * N;
    float sum[N] = {};
    add_entries<T, N>(&list, rows, values, rows.begin[r], rows.end[r], w, h, column, sum);
    if (column < h) finish<T, N>(r, h, column, b, act, sum, y, copy);
}

/* A block has a part of a row, if there is one; a row of several parts is left to add_parts. */
template <typename T, int N>
__global__ void input_part(int h, struct kernel_rows rows, int parts, const float *values, const T *w,
                           const float *b, int act, float *partial, float *y, T *copy) {
    __shared__ struct list list;
    int64_t r = blockIdx.x / (unsigned)parts;
    int part = (int)(blockIdx.x % (unsigned)parts), first = rows.begin[r], end = rows.end[r];
    int column = (int)(blockIdx.y * blockDim.x + threadIdx.x) * N;
    int begin = first + part * KERNEL_PART, stop = end - begin < KERNEL_PART ? end : begin + KERNEL_PART;
    float sum[N] = {};
    if (part > 0 && begin >= end) return;
    add_entries<T, N>(&list, rows, values, begin, stop, w, h, column, sum);
    if (column >= h) return;
    if (end - first <= KERNEL_PART) {
        finish<T, N>(r, h, column, b, act, sum, y, copy);
    } else {
        store_all<float, N>(partial + (int64_t)blockIdx.x * h + column, sum);
    }
}

template <typename T, int N>
__global__ void add_parts(int h, struct kernel_rows rows, int parts, const float *partial, const float *b,
                          int act, float *y, T *copy) {
    int64_t r = blockIdx.x;
    int column = (int)(blockIdx.y * blockDim.x + threadIdx.x) * N;
    int n = (rows.end[r] - rows.begin[r] + KERNEL_PART - 1) / KERNEL_PART;
    float sum[N] = {};
    if (n <= 1 || column >= h) return;
#pragma unroll 4
    for (int part = 0; part < n; part++) {
        pack<float, N> x =
            *reinterpret_cast<const pack<float, N> *>(partial + (r * parts + part) * h + column);
#pragma unroll
        for (int j = 0; j < N; j++) sum[j] += x.of[j];
    }
    finish<T, N>(r, h, column, b, act, sum, y, copy);
}

/* The same for a segment of an item's entries: those in the batch, in the order in which they are kept. */
template <typename T, int N>
__global__ void input_backward(int h, struct kernel_columns columns, const struct kernel_step *step,
                               const float *values, const T *dy, float *partial, float *dw) {
    __shared__ struct list list;
    struct kernel_segment s = columns.segment[blockIdx.x];
    int column = (int)(blockIdx.y * blockDim.x + threadIdx.x) * N;
    float sum[N] = {};
    for (int first = s.begin; first < s.end; first += (int)blockDim.x) {
        int e = first + (int)threadIdx.x;
        struct entry mine = {};
        if (e < s.end) {
            mine.row = columns.row[e];
            if (columns.place) mine.row = columns.place[mine.row] - step->first;
            if (mine.row >= 0 && mine.row < step->rows) mine.value = values[columns.at[e]];
        }
        add_rows<T, N>(&list, fill(&list, mine), dy, h, column, sum);
    }
    if (column >= h) return;
    store_all<float, N>((s.to < 0 ? dw + (int64_t)s.item * h : partial + (int64_t)s.to * h) + column, sum);
}

/* The same for a head of the sorted entries, if the step has so many. */
template <typename T, int N>
__global__ void backward_sorted(int h, struct kernel_sorted sorted, const struct kernel_step *step,
                                const float *values, const T *dy, float *dw) {
    __shared__ struct list list;
    int64_t head = sorted.step_head[step->number] + (int64_t)blockIdx.x;
    if (head >= sorted.step_head[step->number + 1]) return;
    int begin = sorted.head[head], end = sorted.head[head + 1], item = sorted.item[begin];
    int column = (int)(blockIdx.y * blockDim.x + threadIdx.x) * N;
    float sum[N] = {};
    for (int first = begin; first < end; first += (int)blockDim.x) {
        int e = first + (int)threadIdx.x;
        struct entry mine = {};
        if (e < end) mine = {sorted.row[e], values[sorted.at[e]]};
        add_rows<T, N>(&list, fill(&list, mine), dy, h, column, sum);
    }
    if (column < h) store_all<float, N>(dw + (int64_t)(item < 0 ? ~item : item) * h + column, sum);
}

/* dw row `item` = the sum of the rows begin .. end - 1 of partial. */
__global__ void add_segments(int h, const struct kernel_segment *group, const float *partial, float *dw) {
    struct kernel_segment g = group[blockIdx.x];
    for (int column = (int)threadIdx.x; column < h; column += (int)blockDim.x) {
        float sum = 0;
#pragma unroll 4
        for (int i = g.begin; i < g.end; i++) sum += partial[(int64_t)i * h + column];
        dw[(int64_t)g.item * h + column] = sum;
    }
}

/* ---- the batch as CSR, for cuSPARSE ---- */

/* A block has a step. */
__global__ void step_entries(int64_t batch, int64_t n, const int32_t *step_first, const int32_t *row_at,
                             const int32_t *start, int32_t *entries) {
    int64_t s = blockIdx.x, first = step_first ? step_first[s] : s * batch,
            end = step_first            ? step_first[s + 1]
                  : (s + 1) * batch < n ? (s + 1) * batch
                                        : n;
    int sum = 0;
    for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
        sum += start[row_at[i] + 1] - start[row_at[i]];
    }
    sum = block_reduce(sum, add());
    if (threadIdx.x == 0) entries[s] = sum;
}

/* The sum of `value` over the threads of the block before this one, and in *total over all; every thread of
 * it has to come here. */
__device__ int block_before(int value, int *total) {
    __shared__ int sum[ROW_THREADS];
    int t = (int)threadIdx.x;
    __syncthreads(); /* the last use's sums are read */
    sum[t] = value;
    __syncthreads();
    for (int step = 1; step < (int)blockDim.x; step *= 2) {
        int before = t >= step ? sum[t - step] : 0;
        __syncthreads();
        sum[t] += before;
        __syncthreads();
    }
    *total = sum[blockDim.x - 1];
    return sum[t] - value;
}

/* piece[i] = the sum of the i-th piece of count[n], of which a block has one. */
__global__ void sum_pieces(int64_t n, const int32_t *count, int32_t *piece) {
    int64_t begin = (int64_t)blockIdx.x * KERNEL_PIECE,
            end = begin + KERNEL_PIECE < n ? begin + KERNEL_PIECE : n;
    int sum = 0;
    for (int64_t i = begin + threadIdx.x; i < end; i += blockDim.x) sum += count[i];
    sum = block_reduce(sum, add());
    if (threadIdx.x == 0) piece[blockIdx.x] = sum;
}

/* first[i] = the sum of count[0 .. i - 1]. */
__global__ void add_before(int64_t n, const int32_t *count, const int32_t *piece, int32_t *first) {
    int64_t begin = (int64_t)blockIdx.x * KERNEL_PIECE,
            end = begin + KERNEL_PIECE < n ? begin + KERNEL_PIECE : n;
    int before = 0;
    for (int i = (int)threadIdx.x; i < (int)blockIdx.x; i += (int)blockDim.x) before += piece[i];
    before = block_reduce(before, add());
    for (int64_t round = begin; round < end; round += blockDim.x) {
        int64_t i = round + threadIdx.x;
        int total, at = before + block_before(i < end ? count[i] : 0, &total);
        before += total;
        if (i < end) first[i] = at;
    }
    if (end == n && threadIdx.x == 0) first[n] = before;
}

__global__ void count_row_entries(struct kernel_rows rows, int32_t *count) {
    for (int64_t r = flat_first(); r < rows.rows; r += flat_step()) count[r] = rows.end[r] - rows.begin[r];
}

/* A block has a row. */
template <typename T>
__global__ void lay_rows(struct kernel_rows rows, const float *values, const int32_t *start, int32_t *index,
                         T *value) {
    int begin = rows.begin[blockIdx.x], n = rows.end[blockIdx.x] - begin, to = start[blockIdx.x];
    for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x) {
        index[to + i] = rows.items[begin + i];
        store(value + to + i, values[begin + i]);
    }
}

/* The row of the batch that entry e by item belongs to; -1: it is of no row of this batch. */
__device__ int row_of(const struct kernel_columns &columns, const struct kernel_step *step, int e) {
    int row = columns.row[e];
    if (columns.place) row = columns.place[row] - step->first;
    return row >= 0 && row < step->rows ? row : -1;
}

/* A block has a segment. */
__global__ void count_segment(struct kernel_columns columns, const struct kernel_step *step, int32_t *count) {
    struct kernel_segment s = columns.segment[blockIdx.x];
    int mine = 0;
    for (int e = s.begin + (int)threadIdx.x; e < s.end; e += (int)blockDim.x) {
        mine += row_of(columns, step, e) >= 0;
    }
    mine = block_reduce(mine, add());
    if (threadIdx.x == 0) count[blockIdx.x] = mine;
}

/* start[i] = where the entries of item i and those behind it begin: segments ascend by item. */
__global__ void start_items(int64_t n_items, struct kernel_columns columns, const int32_t *first,
                            int32_t *start) {
    for (int64_t i = flat_first(); i <= n_items; i += flat_step()) {
        int64_t low = 0, high = columns.n_segments;
        while (low < high) {
            int64_t middle = (low + high) / 2;
            if (columns.segment[middle].item < i) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        start[i] = first[low];
    }
}

/* A block has a segment. */
template <typename T>
__global__ void lay_columns(struct kernel_columns columns, const struct kernel_step *step,
                            const float *values, const int32_t *first, int32_t *index, T *value) {
    struct kernel_segment s = columns.segment[blockIdx.x];
    int to = first[blockIdx.x];
    for (int round = s.begin; round < s.end; round += (int)blockDim.x) {
        int e = round + (int)threadIdx.x, row = e < s.end ? row_of(columns, step, e) : -1;
        int count, at = to + block_place(row >= 0, &count);
        to += count;
        if (row < 0) continue;
        index[at] = row;
        store(value + at, values[columns.at[e]]);
    }
}

/* Threads for h columns, n each, and how many such blocks a row takes. */
unsigned sparse_threads(int h, int n) {
    int threads = ((h + n - 1) / n + WARP - 1) / WARP * WARP;
    return (unsigned)(threads < SPARSE_THREADS ? threads : SPARSE_THREADS);
}
dim3 sparse_grid(int64_t rows, int h, int n) {
    int columns = (int)sparse_threads(h, n) * n;
    return dim3((unsigned)rows, (unsigned)((h + columns - 1) / columns));
}

template <typename T, int N>
void start_forward(cudaStream_t stream, int h, const struct kernel_rows *rows, const float *values,
                   const void *w, const float *b, int act, float *y, void *copy) {
    LAUNCH((input_forward<T, N>), sparse_grid(rows->rows, h, N), sparse_threads(h, N), stream, h, *rows,
           values, static_cast<const T *>(w), b, act, y, static_cast<T *>(copy));
}

template <typename T, int N>
void start_parts(cudaStream_t stream, int h, const struct kernel_rows *rows, int parts, const float *values,
                 const void *w, const float *b, int act, float *partial, float *y, void *copy) {
    LAUNCH((input_part<T, N>), sparse_grid(rows->rows * parts, h, N), sparse_threads(h, N), stream, h, *rows,
           parts, values, static_cast<const T *>(w), b, act, partial, y, static_cast<T *>(copy));
    LAUNCH((add_parts<T, N>), sparse_grid(rows->rows, h, N), sparse_threads(h, N), stream, h, *rows, parts,
           partial, b, act, y, static_cast<T *>(copy));
}

template <typename T, int N>
void start_sorted(cudaStream_t stream, int h, int64_t n_items, const struct kernel_sorted *sorted,
                  const struct kernel_step *step, const float *values, const void *dy, float *dw) {
    LAUNCH((backward_sorted<T, N>), sparse_grid(n_items, h, N), sparse_threads(h, N), stream, h, *sorted,
           step, values, static_cast<const T *>(dy), dw);
}

template <typename T, int N>
void start_backward(cudaStream_t stream, int h, const struct kernel_columns *columns,
                    const struct kernel_step *step, const float *values, const void *dy, float *partial,
                    float *dw) {
    LAUNCH((input_backward<T, N>), sparse_grid(columns->n_segments, h, N), sparse_threads(h, N), stream, h,
           *columns, step, values, static_cast<const T *>(dy), partial, dw);
}

} // namespace

void kernel_order(cudaStream_t stream, uint64_t seed, uint32_t epoch, int64_t n, int64_t first, int64_t rows,
                  int64_t batch, int32_t *at, int32_t *count, int32_t *row_at, int32_t *place,
                  int32_t *step_first) {
    if (rows == n) {
        LAUNCH(place_rows, flat_blocks(n), FLAT_THREADS, stream, seed, epoch, n, first, n, row_at, place);
        return;
    }
    unsigned pieces = (unsigned)((n + KERNEL_PIECE - 1) / KERNEL_PIECE);
    int32_t *none = nullptr;
    if (rows > 0)
        LAUNCH(place_rows, flat_blocks(rows), FLAT_THREADS, stream, seed, epoch, n, first, rows, at, none);
    LAUNCH(count_rows, pieces, ROW_THREADS, stream, n, at, count);
    LAUNCH(lay_together, pieces, ROW_THREADS, stream, n, batch, at, count, row_at, place, step_first);
}

void kernel_take_rows(cudaStream_t stream, int64_t rows, const struct kernel_step *step,
                      const int32_t *row_at, const int32_t *start, const int64_t *all_users, int32_t *begin,
                      int32_t *end, int64_t *users) {
    LAUNCH(take_rows, flat_blocks(rows), FLAT_THREADS, stream, rows, step, row_at, start, all_users, begin,
           end, users);
}

void kernel_input_values(cudaStream_t stream, const struct kernel_rows *rows, const struct kernel_step *step,
                         uint64_t seed, float p, float *values) {
    if (rows->rows == 0) return;
    LAUNCH(input_values, (unsigned)rows->rows, VALUE_THREADS, stream, *rows, step, seed, p, values);
}

void kernel_input_forward(cudaStream_t stream, enum number type, int h, const struct kernel_rows *rows,
                          const float *values, const void *w, const float *b, int act, float *y, void *copy) {
    if (rows->rows == 0) return;
    FOR_NUMBER(
        type,
        if (h % PACK<T> == 0 && is_aligned(w) && is_aligned(y) && is_aligned(copy)) {
            start_forward<T, PACK<T>>(stream, h, rows, values, w, b, act, y, copy);
        } else { start_forward<T, 1>(stream, h, rows, values, w, b, act, y, copy); });
}

void kernel_input_backward(cudaStream_t stream, enum number type, int h, const struct kernel_columns *columns,
                           const struct kernel_step *step, const float *values, const void *dy,
                           float *partial, float *dw) {
    if (columns->n_segments == 0) return;
    FOR_NUMBER(
        type,
        if (h % PACK<T> == 0 && is_aligned(dy) && is_aligned(dw) && is_aligned(partial)) {
            start_backward<T, PACK<T>>(stream, h, columns, step, values, dy, partial, dw);
        } else { start_backward<T, 1>(stream, h, columns, step, values, dy, partial, dw); });
    if (columns->n_groups == 0) return;
    LAUNCH(add_segments, (unsigned)columns->n_groups, FLAT_THREADS, stream, h, columns->group, partial, dw);
}

void kernel_input_forward_parts(cudaStream_t stream, enum number type, int h, const struct kernel_rows *rows,
                                int parts, const float *values, const void *w, const float *b, int act,
                                float *partial, float *y, void *copy) {
    if (rows->rows == 0) return;
    FOR_NUMBER(
        type,
        if (h % PACK<T> == 0 && is_aligned(w) && is_aligned(y) && is_aligned(copy) && is_aligned(partial)) {
            start_parts<T, PACK<T>>(stream, h, rows, parts, values, w, b, act, partial, y, copy);
        } else { start_parts<T, 1>(stream, h, rows, parts, values, w, b, act, partial, y, copy); });
}

void kernel_input_backward_sorted(cudaStream_t stream, enum number type, int h, int64_t n_items,
                                  const struct kernel_sorted *sorted, const struct kernel_step *step,
                                  const float *values, const void *dy, float *dw) {
    FOR_NUMBER(
        type,
        if (h % PACK<T> == 0 && is_aligned(dy) && is_aligned(dw)) {
            start_sorted<T, PACK<T>>(stream, h, n_items, sorted, step, values, dy, dw);
        } else { start_sorted<T, 1>(stream, h, n_items, sorted, step, values, dy, dw); });
}

void kernel_scan(cudaStream_t stream, int64_t n, const int32_t *count, int32_t *piece, int32_t *first) {
    unsigned pieces = (unsigned)((n + KERNEL_PIECE - 1) / KERNEL_PIECE);
    LAUNCH(sum_pieces, pieces, ROW_THREADS, stream, n, count, piece);
    LAUNCH(add_before, pieces, ROW_THREADS, stream, n, count, piece, first);
}

void kernel_step_entries(cudaStream_t stream, int64_t steps, int64_t batch, int64_t n,
                         const int32_t *step_first, const int32_t *row_at, const int32_t *start,
                         int32_t *entries) {
    LAUNCH(step_entries, (unsigned)steps, ROW_THREADS, stream, batch, n, step_first, row_at, start, entries);
}

void kernel_lay_rows(cudaStream_t stream, enum number type, const struct kernel_rows *rows,
                     const float *values, const struct kernel_csr *to) {
    LAUNCH(count_row_entries, flat_blocks(rows->rows), FLAT_THREADS, stream, *rows, to->count);
    kernel_scan(stream, rows->rows, to->count, to->piece, to->start);
    FOR_NUMBER(type, LAUNCH(lay_rows<T>, (unsigned)rows->rows, VALUE_THREADS, stream, *rows, values,
                            to->start, to->index, static_cast<T *>(to->value)));
}

void kernel_lay_columns(cudaStream_t stream, enum number type, int64_t n_items,
                        const struct kernel_columns *columns, const struct kernel_step *step,
                        const float *values, const struct kernel_csr *to) {
    unsigned segments = (unsigned)columns->n_segments;
    LAUNCH(count_segment, segments, VALUE_THREADS, stream, *columns, step, to->count);
    kernel_scan(stream, columns->n_segments, to->count, to->piece, to->first);
    LAUNCH(start_items, flat_blocks(n_items + 1), FLAT_THREADS, stream, n_items, *columns, to->first,
           to->start);
    FOR_NUMBER(type, LAUNCH(lay_columns<T>, segments, VALUE_THREADS, stream, *columns, step, values,
                            to->first, to->index, static_cast<T *>(to->value)));
}
