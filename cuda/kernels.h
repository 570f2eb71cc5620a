/* The kernels of the CUDA backend, each behind a C function that puts it on a stream and returns at once.
 *
 * Pointers are device memory; matrices are row-major. What a kernel computes is told in src/backend.h at the
 * function of the same name. No kernel adds floating-point numbers with atomics: every sum has an order that
 * depends on the data alone, so the same input gives the same bits. `copy` (unless NULL) gets what is
 * written, rounded to `type`. The files *.cu here compile for the GPU by nvcc and, for tests, for the host by
 * a C++ compiler against tests/cuda_host. */
#ifndef VAECF_KERNELS_H
#define VAECF_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How numbers are stored that enter matrix products. */
enum number { NUMBER_FP32, NUMBER_BF16, NUMBER_FP16, NUMBER_FP8 /* e4m3: of products alone */ };

/* What changes from step to step. Kernels read it from device memory, so that a graph of them can be
 * replayed. */
struct kernel_step {
    uint32_t epoch;  /* of the draws */
    int32_t first;   /* of kept rows: where this rank's part of the batch begins in its order */
    int32_t rows;    /* of the batch; those beyond are there for a round number, and empty */
    float scale;     /* of the loss */
    float kl_weight; /* beta * scale */
    float learning_rate, rate, unbias, unscale; /* Adam: rate: learning rate / correction1; unbias: 1 /
                                                   sqrt(correction2); unscale: of the gradient */
    int32_t number;                             /* of the step in its epoch, of kept rows */
    double beta;
    double gamma; /* > 0: the weight of KL is not beta but gamma times the row's items */
};

/* Adam's constants. */
struct kernel_adam {
    float beta1, beta2, rest1, rest2, epsilon; /* rest: 1 - beta */
    float coupled, decoupled;                  /* weight decay in the gradient, or of the weight itself */
    uint32_t step;                             /* of random rounding */
};

/* The rows of a batch: row r has items[begin[r]] .. items[end[r] - 1]; of CSR end is begin + 1. Of a range of
 * the catalogue (src/grid.h) items are counted from first_item, and whole[r] is how many the row has in all.
 */
struct kernel_rows {
    int64_t rows;
    const int32_t *begin, *end, *items;
    const int64_t *users;
    const int32_t *whole; /* NULL: these are all */
    int32_t first_item;
};

/* What a row's softmax needs of logits that have gone by: see struct logit_sums in src/backend_cpu.c. */
struct kernel_sums {
    float largest, sum, hits;
};

/* A piece of an item's entries, begin .. end - 1: their sum is the item's gradient (to < 0) or row `to` of
 * the partial sums. As a group: the rows begin .. end - 1 of the partial sums are the item's. */
struct kernel_segment {
    int32_t item, begin, end, to;
};

/* A batch, or what all batches are taken from, by item. */
struct kernel_columns {
    int64_t n_segments, n_groups;
    const struct kernel_segment *segment, *group;
    const int32_t *row, *at; /* of each entry: its row; where its value is */
    const int32_t *place;    /* NULL: row is of the batch; else it has place[row] in this rank's order */
};

/* A sparse matrix as CSR of its own memory: start[rows + 1], index and value [entries], the values of some
 * type of number. What it takes to make it: count[n] and first[n + 1] of n rows or segments, piece[], one for
 * each KERNEL_PIECE of n. */
struct kernel_csr {
    int32_t *start, *index;
    void *value;
    int32_t *count, *first, *piece;
};

/* The kept entries by step, within a step by item, within an item in the order in which they are kept: row
 * (of the step's rows), at (where the value is) and item [entries]; an item's first entry in a step is a
 * head: head[k] is its number, and step s has the heads step_head[s] .. step_head[s + 1] - 1. A step's first
 * entry has ~item. For scratch, with P pieces of KERNEL_SORTED entries: step_of[rows], count[steps P],
 * first[steps P
 * + 1], piece[steps P / KERNEL_PIECE + 1], before[P + 1]. */
struct kernel_sorted {
    int32_t *row, *at, *item, *head, *step_head; /* head: [entries + 1] */
    int32_t *step_of, *count, *first, *piece, *before;
};

#ifndef VAECF_SMALL_PIECES /* a test's, which has few entries and rows */
enum {
    KERNEL_SEGMENT = 2048, /* entries of a segment, at most */
    KERNEL_SLAB = 128,     /* rows that are added at a time */
    KERNEL_PIECE = 2048,   /* positions of the order that a block looks through */
    KERNEL_PART = 256,     /* entries of a long row that a block adds */
    KERNEL_SORTED = 4096   /* entries that a block sorts by step */
};
#else
enum { KERNEL_SEGMENT = 16, KERNEL_SLAB = 32, KERNEL_PIECE = 64, KERNEL_PART = 24, KERNEL_SORTED = 80 };
#endif
enum { KERNEL_STEPS = 1024 }; /* of an epoch, at most, with kept rows */

void kernel_step_is(cudaStream_t stream, const struct kernel_step *step, struct kernel_step *to);

/* A rank's part of the epoch's order (src/order.h) of all n rows, of which it has `rows` from `first` on:
 * row_at[rows] by position and place[row] in it. Unless it has all: step_first[], how many of them have a
 * position before s * batch, for each step s and the end; at[n], of -1, and count[], one for each
 * KERNEL_PIECE of n, are for scratch. */
void kernel_order(cudaStream_t stream, uint64_t seed, uint32_t epoch, int64_t n, int64_t first, int64_t rows,
                  int64_t batch, int32_t *at, int32_t *count, int32_t *row_at, int32_t *place,
                  int32_t *step_first);
/* A batch of the rows row_at[step->first] ..: begin, end, users [rows], of a CSR matrix with start[]; rows
 * beyond step->rows are empty. */
void kernel_take_rows(cudaStream_t stream, int64_t rows, const struct kernel_step *step,
                      const int32_t *row_at, const int32_t *start, const int64_t *all_users, int32_t *begin,
                      int32_t *end, int64_t *users);
/* values[], one for each of items[]; dropout with probability p > 0. */
void kernel_input_values(cudaStream_t stream, const struct kernel_rows *rows, const struct kernel_step *step,
                         uint64_t seed, float p, float *values);
/* y[rows, h] = act(sum of values * rows of w + b); w of type `type`; y may be NULL. */
void kernel_input_forward(cudaStream_t stream, enum number type, int h, const struct kernel_rows *rows,
                          const float *values, const void *w, const float *b, int act, float *y, void *copy);
/* The same by a block for every KERNEL_PART entries of a row: no row has more than `parts` of these. partial:
 * a row of h for each of the rows' parts. A row of one part gets the same bits. */
void kernel_input_forward_parts(cudaStream_t stream, enum number type, int h, const struct kernel_rows *rows,
                                int parts, const float *values, const void *w, const float *b, int act,
                                float *partial, float *y, void *copy);
/* dw row of an item = the sum over its entries in the batch of value * row of dy, which is of type `type`;
 * rows of items without a segment stay. partial: a row of h for each segment that does not go to dw. */
void kernel_input_backward(cudaStream_t stream, enum number type, int h, const struct kernel_columns *columns,
                           const struct kernel_step *step, const float *values, const void *dy,
                           float *partial, float *dw);

/* The same of the step of that number; items that it does not have stay. */
void kernel_input_backward_sorted(cudaStream_t stream, enum number type, int h, int64_t n_items,
                                  const struct kernel_sorted *sorted, const struct kernel_step *step,
                                  const float *values, const void *dy, float *dw);

/* first[i] = the sum of count[0 .. i - 1], i = 0 .. n; piece[n / KERNEL_PIECE + 1] is for scratch. */
void kernel_scan(cudaStream_t stream, int64_t n, const int32_t *count, int32_t *piece, int32_t *first);
/* Sorts the n entries of kept rows in this epoch's order; items[] are those of the rows. step_first as
 * kernel_order has it, NULL: this rank has all the rows. */
void kernel_sort_steps(cudaStream_t stream, int64_t n, int64_t rows, int steps, int64_t batch,
                       const int32_t *step_first, const struct kernel_columns *columns, const int32_t *items,
                       const struct kernel_sorted *to);
/* entries[steps]: how many each step of an epoch has, of rows in this rank's order, row_at[]; step_first as
 * kernel_order has it, NULL: this rank has all n rows. */
void kernel_step_entries(cudaStream_t stream, int64_t steps, int64_t batch, int64_t n,
                         const int32_t *step_first, const int32_t *row_at, const int32_t *start,
                         int32_t *entries);
/* The batch's rows laid together, with values of type `type`; those that are dropped stay, as zeros. */
void kernel_lay_rows(cudaStream_t stream, enum number type, const struct kernel_rows *rows,
                     const float *values, const struct kernel_csr *to);
/* Its transpose, of n_items rows. */
void kernel_lay_columns(cudaStream_t stream, enum number type, int64_t n_items,
                        const struct kernel_columns *columns, const struct kernel_step *step,
                        const float *values, const struct kernel_csr *to);

/* y = act(x + b); in place or NULL. */
void kernel_activate(cudaStream_t stream, enum number type, int64_t rows, int64_t n, const float *b, int act,
                     const float *x, float *y, void *copy);
/* dx = dy * the slope of act where its value is y, of type `type_y`: fp32 or that of the copy; dx is dy or
 * NULL. */
void kernel_deactivate(cudaStream_t stream, enum number type, enum number type_y, int64_t n, int act,
                       const void *y, const float *dy, float *dx, void *copy);
/* y[rows, stride] of type `type` += b[n]. */
void kernel_add_bias(cudaStream_t stream, enum number type, int64_t rows, int64_t n, int64_t stride,
                     const float *b, void *y);
/* to[n] of type `type`, which is not fp32. */
void kernel_convert(cudaStream_t stream, enum number type, int64_t n, const float *from, void *to);
void kernel_widen(cudaStream_t stream, enum number type, int64_t n, const void *from, float *to);
/* y += weight * x */
void kernel_add(cudaStream_t stream, int64_t n, float weight, const float *x, float *y);
/* sums[cols] = (add ? sums : 0) + the sum of the rows of matrix[rows, stride] of type `type`; partial: a row
 * of cols for every KERNEL_SLAB rows. */
void kernel_sum_rows(cudaStream_t stream, enum number type, int64_t rows, int64_t cols, int64_t stride,
                     const void *matrix, int add, float *partial, float *sums);
/* sum[0] = the sum of values[n]. */
void kernel_total(cudaStream_t stream, int64_t n, const double *values, double *sum);
/* totals[3] += (nll, kl, nll + beta kl, or nll + penalty with gamma), of sums[3] = (nll, kl, penalty). */
void kernel_add_losses(cudaStream_t stream, const struct kernel_step *step, const double *sums,
                       double *totals);

/* is_drawn 0: z = mu. z may be NULL. */
void kernel_latent_forward(cudaStream_t stream, enum number type, int64_t rows, int n, int is_drawn,
                           const struct kernel_step *step, uint64_t seed, const int64_t *users,
                           const float *stats, float *noise, float *z, void *copy);
/* kl[rows], and penalty[rows]: its weight with gamma times it */
void kernel_latent_backward(cudaStream_t stream, const struct kernel_rows *rows, int n,
                            const struct kernel_step *step, const float *stats, const float *noise,
                            const float *dz, float *dstats, double *kl, double *penalty);

/* x = y normalised (x may be NULL), and dx, the gradient at x, becomes that at y: see src/layer_norm.h.
 * type_y, type_x: fp32 or that of copies; y is of the latter only if x is. */
void kernel_normalize(cudaStream_t stream, enum number type, enum number type_y, int64_t rows, int n,
                      const void *y, float *x, void *copy);
void kernel_normalize_backward(cudaStream_t stream, enum number type_y, enum number type_x, int64_t rows,
                               int n, const void *y, const void *x, float *dx);

/* Softmax, likelihood and its gradient in one: nll[rows] of logits[rows, stride] of type `type`, in the place
 * of which comes the gradient, times step->scale, of smoothed labels (see output_train in backend.h); columns
 * from n on become zero. stride is a multiple of 16. A row of up to 96 KB is read once, a longer one twice.
 */
void kernel_softmax(cudaStream_t stream, enum number type, int64_t n, int64_t stride,
                    const struct kernel_rows *rows, const struct kernel_step *step, float smoothing,
                    void *logits, double *nll);

/* The same of bf16; gradient[rows, stride] gets it in fp8 too, each row divided by its factor[rows]. */
void kernel_softmax_fp8(cudaStream_t stream, int64_t n, int64_t stride, const struct kernel_rows *rows,
                        const struct kernel_step *step, float smoothing, void *logits, double *nll,
                        void *gradient, float *factor);

/* The same in tiles: the columns first .. first + n - 1, of this rank's items, are in logits[rows, stride].
 * First the sums of no logits; then each tile's are added; then those of the parts, all[parts, rows], become
 * one, and nll; then each tile's logits become gradients. */
void kernel_no_sums(cudaStream_t stream, int64_t n, struct kernel_sums *sums);
void kernel_tile_sums(cudaStream_t stream, enum number type, int64_t n, int64_t stride, int64_t first,
                      const struct kernel_rows *rows, const void *logits, struct kernel_sums *sums);
void kernel_finish_sums(cudaStream_t stream, int parts, const struct kernel_rows *rows,
                        const struct kernel_sums *all, struct kernel_sums *sums, double *nll);
void kernel_tile_gradients(cudaStream_t stream, enum number type, int64_t n, int64_t stride, int64_t first,
                           int64_t all_items, const struct kernel_rows *rows, const struct kernel_step *step,
                           float smoothing, const struct kernel_sums *sums, void *logits);

enum { KERNEL_FP8_PARTS = 256 };
/* *scale = what numbers[n] of bf16 are to be divided by, so that fp8 can have the largest of them;
 * parts[KERNEL_FP8_PARTS]: for scratch. */
void kernel_fp8_scale(cudaStream_t stream, int64_t n, const void *numbers, float *parts, float *scale);
/* to[rows, stride] = numbers[rows, cols] of bf16 / *scale in fp8, with zeros at the ends of rows; and
 * transposed[stride, rows] unless NULL. */
void kernel_to_fp8(cudaStream_t stream, int64_t rows, int64_t cols, int64_t stride, const void *numbers,
                   const float *scale, void *to, void *transposed);
/* y[rows, cols] = factor[rows] * x[rows, stride]; y may be x if the stride is cols. */
void kernel_scale_rows(cudaStream_t stream, int64_t rows, int64_t cols, int64_t stride, const float *factor,
                       const float *x, float *y);

/* scores of the batch's items become -infinity. */
void kernel_mask(cudaStream_t stream, int64_t n, const struct kernel_rows *rows, float *scores);
/* The k best of each row, ties to the lower index, in the order of their indices: top[rows, k] and
 * top_scores[rows, k]; -1 and -infinity after the end of a short list. -infinity and NaN are left out. */
void kernel_top_k(cudaStream_t stream, int64_t rows, int64_t n, int64_t k, const float *scores, int32_t *top,
                  float *top_scores);
/* The best of each row's targets, and its score; -1: there is none. */
void kernel_best_target(cudaStream_t stream, int64_t rows, int64_t n, const int32_t *start,
                        const int32_t *targets, const float *scores, int32_t *best, float *best_scores);
/* How many items of the row, counted from `first`, come before the best target, which may be another rank's.
 */
void kernel_count_ahead(cudaStream_t stream, int64_t rows, int64_t n, const float *scores,
                        const int32_t *best, const float *best_scores, int64_t first, int64_t *ahead);

/* buffer[i] = row item[i] of matrix[., h], and back. */
void kernel_gather_rows(cudaStream_t stream, int64_t n, int h, const int32_t *item, const float *matrix,
                        float *buffer);
void kernel_scatter_rows(cudaStream_t stream, int64_t n, int h, const int32_t *item, const float *buffer,
                         float *matrix);

/* *flag = 1 if a number of g is not finite; otherwise it stays. */
void kernel_guard(cudaStream_t stream, int64_t n, const float *g, int *flag);
/* One update, unless *skip (skip may be NULL). m and v are fp32 or, with are_short, bf16: rounded up or down
 * by chance, so that on average nothing is lost, though an update of v is less than half of its last digit.
 * Chance is a hash of the gradient, the moment and the step, and so the same for the same parameter anywhere.
 */
void kernel_adam(cudaStream_t stream, const struct kernel_adam *constants, const struct kernel_step *step,
                 enum number type, int64_t n, float *p, const float *g, int are_short, void *m, void *v,
                 void *copy, const int *skip);

/* Is there machine code for the current device in this program? */
cudaError_t kernel_probe(void);

#ifdef __cplusplus
}
#endif

#endif
