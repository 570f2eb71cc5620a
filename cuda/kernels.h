/* The kernels of the CUDA backend, each behind a C function that puts it on a stream and returns at once.
 *
 * Pointers are device memory; matrices are row-major; a batch is `rows` users with the items of row r at
 * start[r] .. start[r + 1] - 1. What a kernel computes is told in src/backend.h at the function of the same
 * name. No kernel adds floating-point numbers with atomics: every sum has an order that depends on the data
 * alone, so the same input gives the same bits. kernels.cu compiles for the GPU by nvcc and, for tests, for
 * the host by a C++ compiler against tests/cuda_host. */
#ifndef VAECF_KERNELS_H
#define VAECF_KERNELS_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How numbers are stored that enter matrix products. */
enum number { NUMBER_FP32, NUMBER_BF16, NUMBER_FP16 };

/* Adam's constants as the kernel wants them. */
struct kernel_adam {
    float beta1, beta2, rest1, rest2; /* rest: 1 - beta */
    float rate, unbias, epsilon;      /* learning rate / correction1; 1 / sqrt(correction2) */
    float coupled, shrink, unscale;   /* weight decay in the gradient; factor of p; factor of the gradient */
};

/* values[nonzeros]; dropout with probability p > 0 by the draw (seed, epoch). */
void kernel_input_values(cudaStream_t stream, int64_t rows, const int32_t *start, const int32_t *items,
                         const int64_t *users, uint64_t seed, uint32_t epoch, float p, float *values);
/* y[rows, h] = act(sum of values * rows of w + b). */
void kernel_input_forward(cudaStream_t stream, int64_t rows, int h, const int32_t *start,
                          const int32_t *items, const float *values, const float *w, const float *b, int act,
                          float *y);
/* dw row item[i] = the sum over its entries e of values[at[e]] * dy row row[e]; entries of i start at
 * item_start[i]. */
void kernel_input_backward(cudaStream_t stream, int64_t n_touched, int h, const int32_t *item,
                           const int32_t *item_start, const int32_t *row, const int32_t *at,
                           const float *values, const float *dy, float *dw);

/* y = act(y + b). */
void kernel_activate(cudaStream_t stream, int64_t rows, int64_t n, const float *b, int act, float *y);
/* dy *= the slope of act where its value is y; copy (unless NULL) gets it rounded to `type`. */
void kernel_deactivate(cudaStream_t stream, enum number type, int64_t n, int act, const float *y, float *dy,
                       void *copy);
/* to[n] of type `type`, which is not fp32. */
void kernel_convert(cudaStream_t stream, enum number type, int64_t n, const float *from, void *to);
void kernel_widen(cudaStream_t stream, enum number type, int64_t n, const void *from, float *to);
/* sums[cols] = (add ? sums : 0) + the sum of the rows of a matrix of type `type`. */
void kernel_sum_rows(cudaStream_t stream, enum number type, int64_t rows, int64_t cols, const void *matrix,
                     int add, float *sums);
/* sum[0] = the sum of values[n]. */
void kernel_total(cudaStream_t stream, int64_t n, const double *values, double *sum);

/* is_drawn 0: z = mu. */
void kernel_latent_forward(cudaStream_t stream, int64_t rows, int n, int is_drawn, uint64_t seed,
                           uint32_t epoch, const int64_t *users, const float *stats, float *noise, float *z);
/* kl[rows]; weight = beta * scale. */
void kernel_latent_backward(cudaStream_t stream, int64_t rows, int n, float weight, const float *stats,
                            const float *noise, const float *dz, float *dstats, double *kl);

/* Softmax, likelihood and its gradient in one: nll[rows] of logits[rows, n] + b; gradient[rows, n] of type
 * `type`, times scale, of smoothed labels (see output_train in backend.h). Of type fp32 gradient is logits. A
 * row is read twice; where it fits into the GPU's cache, once from memory. start is of these rows. */
void kernel_softmax(cudaStream_t stream, enum number type, int64_t rows, int64_t n, const float *b,
                    const int32_t *start, const int32_t *items, float scale, float smoothing, float *logits,
                    void *gradient, double *nll);

/* scores of the batch's items become -infinity. */
void kernel_mask(cudaStream_t stream, int64_t rows, int64_t n, const int32_t *start, const int32_t *items,
                 float *scores);
/* The k best of each row, ties to the lower index, in the order of their indices: top[rows, k] and
 * top_scores[rows, k]; -1 and -infinity after the end of a short list. -infinity and NaN are left out. */
void kernel_top_k(cudaStream_t stream, int64_t rows, int64_t n, int64_t k, const float *scores, int32_t *top,
                  float *top_scores);
/* rank[rows]: the 1-based rank of the best target in the whole row; 0: none. */
void kernel_best_rank(cudaStream_t stream, int64_t rows, int64_t n, const int32_t *start,
                      const int32_t *targets, const float *scores, int64_t *rank);

/* buffer[i] = row item[i] of matrix[., h], and back. */
void kernel_gather_rows(cudaStream_t stream, int64_t n, int h, const int32_t *item, const float *matrix,
                        float *buffer);
void kernel_scatter_rows(cudaStream_t stream, int64_t n, int h, const int32_t *item, const float *buffer,
                         float *matrix);

/* *flag = 1 if a number of g is not finite; otherwise it stays. */
void kernel_guard(cudaStream_t stream, int64_t n, const float *g, int *flag);
/* One update, unless *skip (skip may be NULL); copy (unless NULL) gets p rounded to `type`. */
void kernel_adam(cudaStream_t stream, const struct kernel_adam *step, enum number type, int64_t n, float *p,
                 const float *g, float *m, float *v, void *copy, const int *skip);

/* Is there machine code for the current device in this program? */
cudaError_t kernel_probe(void);

#ifdef __cplusplus
}
#endif

#endif
