/* The seam between the model and the hardware: one struct of functions at the grain of layers.
 *
 * Callers never ask which device they are on. `real *` here is memory of the backend (alloc/free; copy_in and
 * copy_out to reach it from the host), matrices are row-major. B is the number of users (rows) of the loaded
 * batch, I the number of items. Functions cannot fail unless they return int; a fault of the device inside
 * one is kept and returned by `check`. A backend that runs asynchronously orders its calls itself.
 *
 * On a grid of ranks (grid.h) with several item ranks, I is the items of this rank's range; items of the
 * loaded batch are counted from its first one. Functions whose result takes the whole catalogue are
 * collective over the item ranks, each of which has the same users: they exchange sums of [B, h]
 * (input_forward; dx of output_train) and [B, 3] (its softmax), the k best (top_k) and whether there was an
 * overflow (guard). */
#ifndef VAECF_BACKEND_H
#define VAECF_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "config.h"
#include "csr.h"
#include "grid.h"
#include "real.h"
#include "sample.h"

/* The keys of a random draw: see philox.h. */
struct draw {
    uint64_t seed;
    uint32_t epoch;
};

/* What one Adam update needs besides the tensors. */
struct adam_step {
    double learning_rate, beta1, beta2, epsilon;
    double weight_decay;
    int decoupled;                   /* AdamW */
    double correction1, correction2; /* 1 - beta^step */
    double unscale;                  /* the gradients come times 1 / this */
    int64_t step;                    /* how many-eth update it is */
};

/* A step of training on kept rows: what changes from one to the next. */
struct step {
    struct draw draw;
    int64_t first; /* the batch is at the positions from here on of the epoch's order (see sampler_row_at) */
    double beta, gamma, scale;
    int turn;     /* enum turn of model.h; 0 all layers: steps of one turn make the same calls */
    int64_t rows; /* set by step_begin: of the batch that load gets, this rank's part and maybe empty rows */
};

/* Rows of the output layer's w, b, dw, db that there is memory for: up to the next multiple of 16, so that
 * rows of logits lie well. Those beyond the items are zero. */
static inline int64_t backend_whole_rows(int64_t n_items) {
    return (n_items + 15) / 16 * 16;
}

/* Cuts the output layer's logits, of which there is memory for so many numbers, where the longest row of a
 * rank has `longest` and this rank's n: returns the rows of a block, and in *tile the items of a piece of
 * them. A block is of whole rows, or, if that were fewer than `least`, of up to `most` rows in tiles. All
 * item ranks get the same blocks, between which they wait for each other. */
static inline int64_t backend_cut_logits(int64_t numbers, int64_t longest, int64_t n, int64_t rows,
                                         int64_t least, int64_t most, int64_t *tile) {
    enum { ALIGNED = 64 /* items */ };
    int64_t block = numbers / (longest > 0 ? longest : 1);
    *tile = n;
    if (block < least && block < rows) {
        block = rows < most ? rows : most;
        *tile = numbers / block / ALIGNED * ALIGNED;
        if (*tile < ALIGNED) *tile = ALIGNED;
        if (*tile > n) *tile = n;
    }
    return block < rows ? block : rows;
}

struct backend {
    const char *name;         /* "cpu", "cuda" */
    char describe[512];       /* one line: GEMM library, threads, instruction set */
    enum precision precision; /* of the products of training, which may be less than what was asked for */
    void *state;              /* the backend's own */

    void (*destroy)(struct backend *backend);
    /* The fault that has happened since the start, if any: 0 or EX_OSERR with a message. Waits for the
     * device. */
    int (*check)(struct backend *backend);

    /* Zeroed memory for n numbers; NULL with a message if there is none. */
    real *(*alloc)(struct backend *backend, size_t n);
    void (*release)(struct backend *backend, real *memory);
    void (*copy_in)(struct backend *backend, real *to, const real *from_host, size_t n);
    void (*copy_out)(struct backend *backend, real *to_host, const real *from, size_t n);
    void (*zero)(struct backend *backend, real *memory, size_t n);

    /* Makes this the loaded batch: B rows of user interactions, users[B] their indices (for random draws).
     * The caller keeps rows and users alive and unchanged until the next load. for_training: the gradient of
     * the input layer will be asked for. EX_OSERR. */
    int (*load)(struct backend *backend, const struct csr *rows, const int64_t *users, int for_training);

    /* Values of the loaded batch's input: each row 1/sqrt(its non-zeros) (L2-normalised), then dropout: kept
     * with probability 1 - p and divided by it (draw NULL or p 0: none). */
    void (*input_values)(struct backend *backend, const struct draw *draw, double p);

    /* Or values of one. NULL where the baselines do not run. */
    void (*input_ones)(struct backend *backend);

    /* y[B, h] = act(x w + b) for the sparse input x of the loaded batch; w[I, h], b[h]. Cost: non-zeros x h.
     */
    void (*input_forward)(struct backend *backend, const real *w, const real *b, int h, enum activation act,
                          real *y);
    /* Given y and dy[B, h] (which it overwrites by the gradient before the activation): dw rows of the items
     * in the batch and db are set; other rows of dw must not be read (input_clear, input_sum know which). */
    void (*input_backward)(struct backend *backend, int h, enum activation act, const real *y, real *dy,
                           real *dw, real *db);

    /* y[B, n_out] = act(x w + b); x[B, n_in], w[n_in, n_out]. */
    void (*dense_forward)(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                          const real *w, const real *b, enum activation act, real *y);
    /* dw, db set unless NULL; dx[B, n_in] set unless NULL; dy overwritten by the gradient before the
     * activation. */
    void (*dense_backward)(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                           const real *w, const real *y, enum activation act, real *dy, real *dx, real *dw,
                           real *db);

    /* x[B, n] = the rows of y normalised, as layer_norm.h says; and dx, the gradient at x, becomes that at y.
     */
    void (*normalize)(struct backend *backend, int64_t rows, int n, const real *y, real *x);
    void (*normalize_backward)(struct backend *backend, int64_t rows, int n, const real *y, const real *x,
                               real *dx);

    /* z[B, n] = mu + eps * exp(logvar / 2), stats[B, 2n] = (mu, logvar); draw NULL: z = mu. eps is kept in
     * noise[B, n]. */
    void (*latent_forward)(struct backend *backend, int64_t rows, int n, const struct draw *draw,
                           const real *stats, real *noise, real *z);
    /* dstats from dz and from scale * beta * KL; returns the sum over rows of
     * KL = 1/2 sum(mu^2 + exp(logvar) - logvar - 1) (Kingma and Welling 2014, appendix B), unscaled. With
     * gamma > 0 the weight is not beta but gamma times the items of the row's user (Shenbin et al. 2020), and
     * *penalty the sum of weight * KL; else 0. */
    double (*latent_backward)(struct backend *backend, int64_t rows, int n, double beta, double gamma,
                              double scale, const real *stats, const real *noise, const real *dz,
                              real *dstats, double *penalty);

    /* The output layer and the multinomial likelihood (Liang et al. 2018, eq. 2) in one: logits = x w^T + b
     * with x[B, h], w[I, h], b[I]; returns the sum over users of nll = -sum over their items of log
     * softmax(logits), unscaled; gradients of scale * that sum: dx[B, h], dw[I, h], db[I], all set but for
     * dx, or dw and db, that are NULL; they are of smoothed labels if smoothing > 0: (1 - smoothing) of each
     * of a user's n items and smoothing n / I of every item (Szegedy et al. 2016), the nll is not. w, b, dw
     * and db go on: see backend_whole_rows. The backend goes through the rows in blocks, and where these are
     * few through the items in tiles, so that logits take no more than logit_memory. */
    double (*output_train)(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                           const real *b, double scale, double smoothing, real *dx, real *dw, real *db);
    /* scores[B, I] = x w^T + b. */
    void (*output_scores)(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                          const real *b, real *scores);
    /* y += weight * x, n numbers each. */
    void (*add)(struct backend *backend, size_t n, double weight, const real *x, real *y);

    /* For each row of scores[B, I]: the items of the loaded batch's row left out, the k best by falling
     * score, ties to the lower index, into top[B, k] (host memory); -1 beyond the end of a short list.
     * top_scores[B, k] unless NULL. With targets, first_hit[B] becomes the 1-based rank of the best target in
     * the whole list (0: no target). Items in top and targets are counted in the whole catalogue. Changes
     * scores. */
    void (*top_k)(struct backend *backend, int64_t rows, real *scores, int k, const struct csr *targets,
                  int32_t *top, real *top_scores, int64_t *first_hit);

    /* Sum of the dense gradients over the ranks, in place, behind input_all_reduce; where there is a
     * gradient_ready, of those that were told to it. */
    void (*all_reduce)(struct backend *backend, const struct comm *comm, real *values, size_t n);
    /* The same for dw[I, h] of the input layer: afterwards every row is valid on every rank (rows of items
     * that no rank had are zero). Cost: the rows that some rank had. */
    void (*input_all_reduce)(struct backend *backend, const struct comm *comm, int h, real *dw);

    /* One update of n parameters p with gradient g and moments m, v. */
    void (*adam)(struct backend *backend, const struct adam_step *step, size_t n, real *p, const real *g,
                 real *m, real *v);

    /* Are all of the n gradients finite? If not, adam does nothing until the next call; so the step is
     * skipped without waiting for the answer, which overflowed gives. */
    void (*guard)(struct backend *backend, const real *g, size_t n);
    int (*overflowed)(struct backend *backend);

    /* ---- NULL where a backend does without ---- */

    /* The next output_train takes about `wanted` items alone, drawn by the key, and those of the loaded
     * batch: a sampled softmax with logQ correction (sample.h). The rows of the others in dw, db become zero.
     */
    void (*sample)(struct backend *backend, const struct sample_key *key, int64_t wanted);

    /* Of an asynchronous backend, whose output_train and latent_backward return 0: their sums for the loaded
     * batch. Waits for these alone. 0 or EX_OSERR. */
    int (*losses)(struct backend *backend, double *nll, double *kl, double *penalty);
    /* These gradients are final: their sum over the ranks may begin. Every rank calls it for the same ones in
     * the same order. */
    void (*gradient_ready)(struct backend *backend, real *values, size_t n);
    /* The same of the gradients that output_train is to set, right before it: their sum may begin while it
     * computes dx. */
    void (*gradient_follows)(struct backend *backend, real *values, size_t n);
    /* No sum over the ranks comes any more. is_failed: some rank has failed, so that those under way may
     * never end: they are given up. To be called before memory is released. */
    void (*stop)(struct backend *backend, int is_failed);

    /* Keeps these rows on the device, this rank's from `first` on of all n_all: for steps of `batch` of them,
     * over the ranks, that move no data. A rank computes those of a batch that it has. EX_UNAVAILABLE without
     * a message: it does without (no memory, batches that are too small a part); EX_OSERR. */
    int (*keep)(struct backend *backend, const struct csr *rows, const int64_t *users, int64_t n_all,
                int64_t first, int64_t batch);
    /* Begins a step on kept rows. 1: it was recorded before and is on its way. 0: now come the calls of
     * model_train_batch, whose load gets step->rows rows without indptr, then step_end, also after a failure.
     * Neither waits for this step. The sums over the ranks, guard and adam come afterwards in either case. */
    int (*step_begin)(struct backend *backend, struct step *step);
    int (*step_end)(struct backend *backend);
    /* Sums of nll, kl and nll + beta kl, or nll + penalty, of this rank over the steps since the last call;
     * waits for them. EX_OSERR. */
    int (*step_losses)(struct backend *backend, double sums[3]);
};

struct backend_options {
    int64_t n_items;         /* this rank's */
    const struct grid *grid; /* whose range they are; NULL: they are all items */
    int64_t logit_memory;    /* bytes for logits in training; 0: as the backend thinks */
    int64_t trace_steps;     /* to be traced, on all ranks alike; EX_CONFIG without CUDA */
    const char *trace_path;  /* the table of them; NULL: another rank writes it */
    enum device device;
    enum precision precision;
    const struct comm *comm;  /* the ranks that create it together; NULL: this one alone */
    enum comm_kind comm_kind; /* how the backend sums over them */
    enum comm_type comm_type; /* the type of the precision, or fp32; AUTO: see README.md */
};

/* Can this process have the device? Not collective. EX_OSERR: no GPU; EX_CONFIG: the program is built
 * without. */
int backend_probe(enum device device);

/* The backend that the options ask for, collectively. DEVICE_AUTO is CUDA if every rank has a GPU, unless the
 * environment's VAECF_DEVICE says cpu or cuda; likewise VAECF_COMM, nccl or mpi, for COMM_AUTO. EX_OSERR,
 * EX_CONFIG. */
int backend_create(const struct backend_options *options, struct backend *backend);

/* The CPU backend for a catalogue of n_items: OpenMP and oneDNN or a CBLAS. bf16: in training, operands of
 * products are rounded to bf16 where processor and library multiply it in hardware; sums, weights, moments
 * and scores stay fp32. fp16: the same, rounded by program and multiplied in fp32: to test loss scaling
 * without a GPU. tf32, or bf16 on a processor without, is fp32. EX_OSERR. */
int backend_cpu_create(int64_t n_items, enum precision precision, struct backend *backend);
/* The same with the options' grid and logit_memory. */
int backend_cpu_create_with(const struct backend_options *options, struct backend *backend);

/* The CUDA backend, on the GPU with the number of the rank on its machine (only in a program with
 * VAECF_CUDA). In training, operands of products, those of the sparse layer too, and logits are rounded to
 * the precision's type; sums, weights, moments and scores stay fp32. Collective. EX_OSERR with what is wrong:
 * no GPU, driver or GPU too old, no memory; EX_CONFIG: several ranks on a GPU want COMM_MPI; the GPU is too
 * old for the precision. */
int backend_cuda_create(const struct backend_options *options, struct backend *backend);

/* Is there a GPU that works? 0, or EX_OSERR with a message. Not collective. */
int backend_cuda_probe(void);

#endif
