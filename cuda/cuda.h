/* The state of the CUDA backend, which its files share: memory.c faults and memory, batch.c the rows of a
 * batch, input.c the sparse layer, graph.c steps that are recorded and replayed, range.c the item ranks of a
 * grid and tiles of items, backend_cuda.c the rest.
 *
 * One stream computes; a second one brings batches to the GPU, a third one sums over the ranks. The host runs
 * ahead: a function puts work on a stream and returns. */
#ifndef VAECF_CUDA_H
#define VAECF_CUDA_H

#include <cuda_runtime_api.h>

#include "backend.h"
#include "comm_nccl.h"
#include "kernels.h"
#include "matmul.h"
#include "span.h"
#include "spmm.h"
#include "trace.h"
#include "tuning.h"

/* Device or pinned memory that grows. */
struct room {
    void *at;
    size_t bytes;
    int is_host;
};

/* A batch from the host: pinned memory and its image on the device. */
struct slot {
    struct room host, device;
    cudaEvent_t copied, used; /* the copy has arrived; its batch is computed */
};

/* What alloc has given away, with its copy in 16 bits if it was an operand of a product. */
struct block {
    float *at;
    size_t n;
    void *copy;
    enum number type; /* of the copy */
    int is_fresh;     /* the copy is of what is there now */
    int is_short;     /* the numbers are in the copy alone */
    int64_t born;     /* the how-many-eth block it is */
};

/* The training set on the GPU, by row and by item, and an epoch's order. */
struct kept {
    struct room memory, values, rows; /* rows: of a batch */
    const int32_t *start, *items;     /* CSR */
    const int64_t *users;
    int32_t *at, *count, *row_at, *place, *step_first; /* see kernel_order */
    int32_t *step_entries;                             /* of each step */
    int32_t *host_first;                               /* host [steps + 1]: step_first */
    int32_t *host_entries; /* host [steps], in host_first's memory; with cuSPARSE */
    int64_t n_entries;     /* of the step that is issued; with cuSPARSE */
    int32_t *begin, *end;  /* of a batch, in rows */
    struct kernel_columns columns;
    struct room sorted_memory; /* with the switch sorted_steps, if there is room */
    struct kernel_sorted sorted;
    int32_t longest;                                 /* entries of a row, at most */
    int64_t n_nonzeros;                              /* entries of all rows */
    int64_t n_all, first, n_rows, batch, n_partials; /* first: of this rank's rows in all */
    uint64_t seed;                                   /* of the order that is drawn */
    uint32_t epoch;
    int is_drawn, is_warm; /* is_warm: there was a step */
};

/* What computes the sparse layer in training. */
enum sparse {
    SPARSE_GATHER,   /* the kernels of sparse.cu */
    SPARSE_CUSPARSE, /* steps are issued, not recorded: the host tells cuSPARSE how many entries there are */
    SPARSE_AUTO      /* not known before both are timed */
};

enum { CUDA_SLOTS = 2, CUDA_RECORDINGS = 32, CUDA_AHEAD = 8 /* steps */ };

/* A part of a recorded step, and the gradients whose sum over the ranks may begin after it. */
struct part {
    cudaGraphExec_t graph;
    float *ready;
    size_t n_ready;
};

/* The steps of so many rows in a turn. */
struct recording {
    int64_t rows;
    uint64_t seed;
    int turn;
    int seen;       /* steps */
    int64_t used;   /* the last one's number */
    int64_t memory; /* cuda.memory when it was recorded: its addresses are good */
    int n_parts;    /* 0: not recorded yet */
    struct part *part;
};

struct cuda {
    int64_t n_items;
    enum number type; /* of operands in training */
    int use_tf32;
    int compute_sum; /* gradients travel in that type */
    struct tuning tuning;
    struct trace *trace;     /* NULL: no step is traced */
    size_t logits_max;       /* bytes */
    const struct grid *grid; /* with several item ranks; NULL: these are all items */
    const struct comm *comm; /* the ranks with the same items */
    struct nccl *nccl;       /* NULL: sums go over MPI */
    struct nccl *items_nccl; /* the same of the item ranks */
    cudaStream_t compute, copy, exchange;
    struct matmul *matmul;
    enum sparse sparse;
    struct spmm *spmm;            /* NULL: the sparse layer does without */
    struct room csr, spmm_buffer; /* the batch or its transpose; cuSPARSE's own */
    struct block *block;
    int n_blocks;
    int64_t born, recorded; /* blocks, ever; before the last recording */
    int64_t memory;         /* counts changes of addresses that are recorded, and of weights by the host */

    /* the loaded batch */
    struct slot slot[CUDA_SLOTS];
    int at; /* which slot */
    struct kernel_rows batch;
    struct kernel_columns columns;
    float *value; /* of each entry */
    int64_t nonzeros, n_touched, n_partials;
    int32_t longest;                    /* entries of a row, at most; with the switch split_rows */
    const struct kernel_sorted *sorted; /* NULL: not by step */
    int is_training;
    uint64_t *touched, *all;            /* host: a bit an item of the batch; of some rank's batch */
    int32_t *place, *item, *item_start; /* host [n_items + 1]: for sorting by item */

    struct kept kept;
    struct recording recording[CUDA_RECORDINGS], *current; /* current: of the step that is issued; or NULL */
    int is_recording;
    cudaEvent_t ahead[CUDA_AHEAD]; /* where the last steps began: the host is no further ahead */
    int64_t n_steps;

    struct kernel_step step, told, *device_step; /* what kernels are to know; what they do */
    struct room values, logits; /* the input's; a block of rows of the output layer, later their gradient */
    int64_t logits_rows;
    int logits_is_short;  /* there was no memory for more */
    struct room nll;      /* [2 rows] double: a loss of each row, and its penalty */
    struct room partials; /* of sums over rows */
    struct room logit_sums, zeros, fp8;
    struct room top, top_scores, targets, rank;
    struct room exchange16, gathered, gathered_items, gathered_items_host, stage;
    double *sums, *totals, *host_sums; /* nll, kl, penalty: device; over steps; pinned */
    int *overflow, *host_overflow;
    void *small, *host_small; /* all these are in them */
    cudaEvent_t summed, guarded, ready, reduced, late, finished;
    int is_guarded;

    /* sums over the ranks: see sums.c */
    size_t sum_min;              /* numbers; of which a sum is worth while */
    float *pending, *follows;    /* [n_pending] gradients whose sum is to begin; [n_follows] that are */
    size_t n_pending, n_follows; /* to be set next */
    const float *late_values;    /* [n_late] whose sum the compute stream does not wait for yet */
    size_t n_late;

    int fault;
    char fault_message[512];
};

/* Unless the environment's variable says no. */
int cuda_is_allowed(const char *variable);

/* ---- faults and memory ---- */

void cuda_keep_fault(struct cuda *cuda, int code);
/* The fault that was kept, as error_set does; or 0. */
int cuda_told(struct cuda *cuda);
/* Keeps the fault of a call; returns its code. */
int cuda_kept(struct cuda *cuda, cudaError_t status, const char *call);
#define TRY(cuda, call) cuda_kept(cuda, call, #call)
/* EX_OSERR, with what may help. */
int cuda_no_memory(const struct cuda *cuda, size_t bytes);

/* Waits for an event; a rank that is lost, or that a sum failed, ends the wait too. */
int cuda_wait_for(struct cuda *cuda, cudaEvent_t event);
int cuda_wait_all(struct cuda *cuda);

/* At least so many bytes; what was in it is lost. NULL and a fault if there are none. */
void *cuda_room(struct cuda *cuda, struct room *room, size_t bytes);
void cuda_free_room(struct room *room);

/* The backend's alloc, release, copy_in, copy_out, zero. */
real *cuda_alloc(struct backend *backend, size_t n);
void cuda_release(struct backend *backend, real *memory);
void cuda_copy_in(struct backend *backend, real *to, const real *from, size_t n);
void cuda_copy_out(struct backend *backend, real *to, const real *from, size_t n);
void cuda_zero(struct backend *backend, real *memory, size_t n);

/* The type of operands for the loaded batch's work. */
enum number cuda_operand_type(const struct cuda *cuda);
/* x, which alloc gave, as an operand: itself, or its copy in 16 bits, made now if it is not fresh. NULL and a
 * fault if there is no memory. */
const void *cuda_operand(struct cuda *cuda, const float *x);
/* Before x is written: where its copy is to be written too; NULL: nowhere, and the old copy is no longer
 * fresh. */
void *cuda_copy_of(struct cuda *cuda, float *x);
/* The same with the switch short_activations: *kept is x, or NULL: the copy alone is to be written. */
void *cuda_short_copy_of(struct cuda *cuda, float *x, float **kept);
/* With the switch short_moments: the numbers of x are kept in bf16 alone from now on, here; else x. NULL and
 * a fault if there is no memory. */
void *cuda_moments_of(struct cuda *cuda, float *x);
/* Where the numbers of x are, and their type: x itself, or its copy if they are in that alone. */
const void *cuda_numbers_of(const struct cuda *cuda, const float *x, enum number *type);
/* The fresh copy of weights that are about to be updated; NULL: there is none. */
void *cuda_fresh_copy(const struct cuda *cuda, const float *x);
void cuda_is_changed(struct cuda *cuda, const float *x);

/* ---- the batch ---- */

int cuda_load(struct backend *backend, const struct csr *rows, const int64_t *users, int for_training);
int cuda_keep(struct backend *backend, const struct csr *rows, const int64_t *users, int64_t n_all,
              int64_t first, int64_t batch);
/* The rows first .. first + rows - 1 of a batch, in the output layer, which asks for no users. */
static inline struct kernel_rows cuda_part_of(const struct kernel_rows *batch, int64_t first, int64_t rows) {
    struct kernel_rows part = *batch;
    part.rows = rows;
    part.begin += first;
    part.end += first;
    if (part.whole) part.whole += first;
    return part;
}
/* The order of this epoch, if it is not drawn yet. */
void cuda_draw_order(struct cuda *cuda, const struct draw *draw);
/* Rows of a step for this rank: where they begin in its order, how many, and how many are computed. */
void cuda_kept_rows(struct cuda *cuda, int64_t first, int64_t *begin, int64_t *count, int64_t *computed);
/* Makes kept rows the loaded batch, of so many rows; what is in it is taken by a kernel. */
int cuda_set_kept(struct cuda *cuda, int64_t rows);
/* The marked items ascending; place[] unless NULL. Returns their number. */
int64_t cuda_list_items(const struct cuda *cuda, const uint64_t *marks, int32_t *item, int32_t *place);
int64_t cuda_words(int64_t n_items);

/* ---- the sparse layer ---- */

/* Which way the environment's VAECF_SPARSE asks for: gather, cusparse or auto, the faster one, which is timed
 * at the first step and, if VAECF_GEMM_CACHE names a file, kept there. EX_CONFIG. */
int cuda_read_sparse(enum sparse *sparse);
/* y[rows, h] = the batch times w, an operand. */
void cuda_multiply_batch(struct cuda *cuda, const void *w, int h, real *y);
void cuda_input_values(struct backend *backend, const struct draw *draw, double p);
void cuda_input_forward(struct backend *backend, const real *w, const real *b, int h, enum activation act,
                        real *y);
void cuda_input_backward(struct backend *backend, int h, enum activation act, const real *y, real *dy,
                         real *dw, real *db);

/* sums[cols] of a matrix that has fp32 numbers, or what `type` says. */
void cuda_sum_rows(struct cuda *cuda, enum number type, int64_t rows, int64_t cols, int64_t stride,
                   const void *matrix, int is_added, float *sums);

/* ---- the parts of backend_cuda.c that range.c calls ---- */

/* c = op(a) op(b) or c += that, of operands. */
void cuda_multiply(struct cuda *cuda, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                   const void *a, const void *b, int accumulate, float *c);
/* dw[m, n] = a^T b of operands a[k, m] and b[k, n], and db: the sums of a's columns (EPILOGUE_SUM_A) or of
 * b's. 0: nothing is done, as this is switched off or cuBLASLt has no such epilogue. */
int cuda_multiply_summed(struct cuda *cuda, enum epilogue epilogue, int64_t m, int64_t n, int64_t k,
                         const void *a, const void *b, float *dw, float *db);
/* dy[n] becomes the gradient before the activation, whose value is y. Returns its copy, or NULL. */
void *cuda_deactivate(struct cuda *cuda, int64_t n, enum activation act, const float *y, float *dy);
/* logits[rows, stride] = x w^T + b in the type of the operands, of n items. */
void cuda_compute_logits(struct cuda *cuda, int64_t rows, int64_t n, int64_t stride, int h, const void *x,
                         const void *w, const real *b, void *logits);
/* Sums over ranks, through pinned memory, a piece at a time. */
void cuda_sum_over_mpi(struct cuda *cuda, const struct comm *comm, float *values, size_t n);

/* ---- the output layer in fp8: output_fp8.c ---- */

/* The output layer's operands in fp8, in rows of `width` numbers: h and zeros up to a multiple of 16. */
struct fp8_operands {
    int64_t h, width, stride;   /* stride: of logits */
    float *scale_x, *scale_w;   /* one each */
    float *parts, *factor, *dx; /* scratch; of the rows of the gradient; dx[rows, width] */
    void *x, *w, *w_across;     /* [rows, width], [stride, width], [width, stride] */
    void *gradient;             /* of a block of logits: [block, stride] */
};

/* EX_CONFIG if the switch is on, but this program, precision or GPU (89: capability 8.9) cannot. */
int cuda_check_fp8(const struct cuda *cuda, int capability);
/* Makes the operands of x[rows, h] and w[stride, h], operands in bf16. 0: it is off, or there is no memory, a
 * fault. */
int cuda_fp8_operands(struct cuda *cuda, int64_t rows, int64_t block, int64_t stride, int h, const void *x,
                      const void *w, struct fp8_operands *operands);
/* The logits of the rows from `first` on; dx of the block whose gradient is there. 0: nothing is done, as
 * cuBLASLt has no such product. */
int cuda_fp8_logits(struct cuda *cuda, const struct fp8_operands *operands, int64_t first, int64_t rows,
                    const real *b, void *logits);
int cuda_fp8_dx(struct cuda *cuda, const struct fp8_operands *operands, int64_t rows, float *dx);

/* ---- ranges and tiles of items ---- */

/* The sum over the item ranks, in place, on the compute stream. A fault ends the job: the others wait. */
void cuda_sum_items(struct cuda *cuda, float *values, size_t n);
/* An overflow on one of them is one on all. */
void cuda_agree_overflow(struct cuda *cuda);
/* y = act(the sum over the item ranks of x w, + b), in y unless `kept` is NULL. */
void cuda_input_of_ranges(struct cuda *cuda, const void *w, const real *b, int h, enum activation act,
                          real *y, real *kept, void *copy);
/* Is the output layer to be computed so, with rows of logits of so many bytes? */
int cuda_wants_tiles(const struct cuda *cuda, int64_t rows, size_t row_bytes);
/* The gradients, and nll of each row, of cuda->step.scale. */
void cuda_output_in_tiles(struct cuda *cuda, int64_t rows, int h, const real *x, const real *w, const real *b,
                          double smoothing, real *dx, real *dw, real *db);

/* ---- steps ---- */

/* What kernels know becomes cuda->step. */
void cuda_tell(struct cuda *cuda);
void cuda_tell_adam(struct cuda *cuda, const struct adam_step *step);
int cuda_step_begin(struct backend *backend, struct step *step);
int cuda_step_end(struct backend *backend);
int cuda_step_losses(struct backend *backend, double sums[3]);
void cuda_forget_recordings(struct cuda *cuda);
/* While a step is recorded: its gradients up to here may be summed, so another graph begins. */
void cuda_cut_recording(struct cuda *cuda);

/* ---- sums over the ranks ---- */

/* The backend's functions. */
void cuda_gradient_ready(struct backend *backend, real *values, size_t n);
void cuda_gradient_follows(struct backend *backend, real *values, size_t n);
void cuda_all_reduce(struct backend *backend, const struct comm *comm, real *values, size_t n);
void cuda_input_all_reduce(struct backend *backend, const struct comm *comm, int h, real *dw);

/* Of so many numbers a sum is worth while: VAECF_SUM_MIN, or 1,048,576. */
size_t cuda_sum_min(void);
/* What gradient_follows told of is set. */
void cuda_gradient_is_there(struct cuda *cuda);
/* Begins the sum of cuda->pending. */
void cuda_begin_pending(struct cuda *cuda);
/* How many of the gradients values[n], the first ones, are still being summed. */
size_t cuda_late_sums(struct cuda *cuda, const float *values, size_t n);
/* Makes the compute stream wait for the sums of gradients. */
void cuda_settle_sums(struct cuda *cuda);

#endif
