/* The sparse first layer, by the kernels of sparse.cu or by cuSPARSE; see cuda.h.
 *
 * The kernels gather the rows of weights that a user's items have, leave out what is dropped, and add bias
 * and activation while they are at it. cuSPARSE takes the batch as CSR, which is laid together first, and for
 * the gradient its transpose. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "choices.h"
#include "cuda.h"
#include "environment.h"
#include "error.h"

enum {
    ALIGNED = 64,       /* numbers: arrays of a CSR matrix begin there */
    REPEATS = 5,        /* of what is timed */
    PARTS_MAX = 1 << 28 /* bytes of partial sums of long rows */
};

int cuda_read_sparse(enum sparse *sparse) {
    static const char *const words[] = {
        [SPARSE_GATHER] = "gather", [SPARSE_CUSPARSE] = "cusparse", [SPARSE_AUTO] = "auto"};
    const char *text = environment("VAECF_SPARSE");
    *sparse = SPARSE_GATHER;
    if (!text) return 0;
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, words[i]) != 0) continue;
        *sparse = (enum sparse)i;
        return 0;
    }
    return error_set(EX_CONFIG, "VAECF_SPARSE=%s: want gather, cusparse or auto", text);
}

/* ---- by cuSPARSE ---- */

/* Memory for the batch or its transpose. EX_OSERR. */
static int lay_out(struct cuda *cuda, struct kernel_csr *csr) {
    size_t rows = (size_t)(cuda->batch.rows > cuda->n_items ? cuda->batch.rows : cuda->n_items) + 1,
           counted = (size_t)(cuda->batch.rows > cuda->columns.n_segments ? cuda->batch.rows
                                                                          : cuda->columns.n_segments);
    const struct {
        int32_t **at;
        size_t n;
    } arrays[] = {{&csr->start, rows},
                  {&csr->index, (size_t)cuda->nonzeros},
                  {(int32_t **)&csr->value, (size_t)cuda->nonzeros},
                  {&csr->count, counted},
                  {&csr->first, counted + 1},
                  {&csr->piece, counted / KERNEL_PIECE + 1}};
    enum { ARRAYS = sizeof arrays / sizeof *arrays };
    size_t all = 0;
    for (int i = 0; i < ARRAYS; i++) all += (arrays[i].n + ALIGNED - 1) / ALIGNED * ALIGNED;
    int32_t *at = cuda_room(cuda, &cuda->csr, all * sizeof *at);
    if (!at) return cuda_told(cuda);
    for (int i = 0; i < ARRAYS; i++) {
        *arrays[i].at = at;
        at += (arrays[i].n + ALIGNED - 1) / ALIGNED * ALIGNED;
    }
    return 0;
}

static int multiply(struct cuda *cuda, struct sparse_product product, const struct kernel_csr *csr) {
    size_t bytes;
    product.start = csr->start;
    product.index = csr->index;
    product.value = csr->value;
    product.nonzeros = cuda->nonzeros;
    int code = spmm_prepare(cuda->spmm, cuda->compute, &product, &bytes);
    if (code) return code;
    void *buffer = cuda_room(cuda, &cuda->spmm_buffer, bytes);
    return buffer ? spmm_run(cuda->spmm, buffer) : cuda_told(cuda);
}

/* y[rows, h] = the batch times w. */
static int times_batch(struct cuda *cuda, const void *w, int h, float *y) {
    enum number type = cuda_operand_type(cuda);
    const struct sparse_product product = {
        .type = type, .m = cuda->batch.rows, .n = h, .k = cuda->n_items, .b = w, .c = y};
    struct kernel_csr csr;
    int code = lay_out(cuda, &csr);
    if (code) return code;
    if (cuda->nonzeros > 0) kernel_lay_rows(cuda->compute, type, &cuda->batch, cuda->value, &csr);
    return multiply(cuda, product, &csr);
}

/* dw[n_items, h] = the transpose of the batch times dy. */
static int times_transpose(struct cuda *cuda, const void *dy, int h, float *dw) {
    enum number type = cuda_operand_type(cuda);
    const struct sparse_product product = {
        .type = type, .m = cuda->n_items, .n = h, .k = cuda->batch.rows, .b = dy, .c = dw};
    struct kernel_csr csr;
    int code = lay_out(cuda, &csr);
    if (code) return code;
    if (cuda->nonzeros > 0) {
        kernel_lay_columns(cuda->compute, type, cuda->n_items, &cuda->columns, cuda->device_step, cuda->value,
                           &csr);
    }
    return multiply(cuda, product, &csr);
}

/* ---- either way ---- */

/* Parts of the longest row, if long rows are to be split and there is room; else 0. */
static int parts_of(struct cuda *cuda, int h, float **partial) {
    int64_t parts = (cuda->longest + KERNEL_PART - 1) / KERNEL_PART,
            bytes = cuda->batch.rows * parts * h * (int64_t)sizeof **partial;
    if (!cuda->tuning.split_rows || parts <= 1 || bytes > PARTS_MAX) return 0;
    *partial = cuda_room(cuda, &cuda->partials, (size_t)bytes);
    return *partial ? (int)parts : 0;
}

/* y = act(the batch times w, + b), left in y unless `kept` is NULL. */
static int forward(struct cuda *cuda, enum sparse way, const void *w, const real *b, int h,
                   enum activation act, real *y, real *kept, void *copy) {
    enum number type = cuda_operand_type(cuda);
    if (way != SPARSE_CUSPARSE) {
        float *partial;
        int parts = parts_of(cuda, h, &partial);
        if (parts > 0) {
            kernel_input_forward_parts(cuda->compute, type, h, &cuda->batch, parts, cuda->value, w, b,
                                       (int)act, partial, kept, copy);
        } else {
            kernel_input_forward(cuda->compute, type, h, &cuda->batch, cuda->value, w, b, (int)act, kept,
                                 copy);
        }
        return 0;
    }
    int code = times_batch(cuda, w, h, y);
    if (!code) kernel_activate(cuda->compute, type, cuda->batch.rows, h, b, (int)act, y, kept, copy);
    return code;
}

/* dw of dy, an operand. */
static int backward(struct cuda *cuda, enum sparse way, int h, const void *dy, real *dw) {
    if (way == SPARSE_CUSPARSE) return times_transpose(cuda, dy, h, dw);
    if (!cuda->columns.place || cuda->sorted) { /* not every item has a segment */
        TRY(cuda, trace_set(dw, 0, (size_t)cuda->n_items * (size_t)h * sizeof *dw, cuda->compute));
    }
    if (cuda->sorted) {
        kernel_input_backward_sorted(cuda->compute, cuda_operand_type(cuda), h, cuda->n_items, cuda->sorted,
                                     cuda->device_step, cuda->value, dy, dw);
        return 0;
    }
    float *partial = cuda_room(cuda, &cuda->partials, (size_t)cuda->n_partials * (size_t)h * sizeof *partial);
    if (!partial) return cuda_told(cuda);
    kernel_input_backward(cuda->compute, cuda_operand_type(cuda), h, &cuda->columns, cuda->device_step,
                          cuda->value, dy, partial, dw);
    return 0;
}

/* ---- which way ---- */

/* What is timed: the layer of a training step, there and back. y stands for its own gradient. */
struct trial {
    const void *w;
    const real *b;
    int h;
    enum activation act;
    real *y, *dw;
    void *copy;
    cudaEvent_t begin, end;
};

static int try_once(struct cuda *cuda, enum sparse way, const struct trial *t) {
    int code = forward(cuda, way, t->w, t->b, t->h, t->act, t->y, t->y, t->copy);
    return code ? code : backward(cuda, way, t->h, t->copy ? t->copy : t->y, t->dw);
}

/* Milliseconds; negative: it cannot be done this way. */
static double time_of(struct cuda *cuda, enum sparse way, const struct trial *t) {
    float milliseconds = -1;
    int code = try_once(cuda, way, t); /* to warm up */
    cudaEventRecord(t->begin, cuda->compute);
    for (int i = 0; i < REPEATS && !code; i++) code = try_once(cuda, way, t);
    cudaEventRecord(t->end, cuda->compute);
    if (cudaEventSynchronize(t->end) || code) return -1;
    if (cudaEventElapsedTime(&milliseconds, t->begin, t->end)) return -1;
    return (double)milliseconds / REPEATS;
}

/* The faster way. What there is no memory for is not the faster one. */
static enum sparse faster(struct cuda *cuda, struct trial *t) {
    double gather = -1, cusparse = -1;
    int is_ready = !cudaEventCreateWithFlags(&t->begin, cudaEventDefault) &&
                   !cudaEventCreateWithFlags(&t->end, cudaEventDefault) &&
                   !cudaMalloc((void **)&t->dw, (size_t)cuda->n_items * (size_t)t->h * sizeof *t->dw);
    cudaGetLastError();
    if (is_ready) gather = time_of(cuda, SPARSE_GATHER, t);
    if (is_ready && !cuda->fault) {
        cusparse = time_of(cuda, SPARSE_CUSPARSE, t);
        cuda->fault = 0;
    }
    if (t->dw) cudaFree(t->dw);
    if (t->begin) cudaEventDestroy(t->begin);
    if (t->end) cudaEventDestroy(t->end);
    enum sparse way = cusparse >= 0 && cusparse < gather ? SPARSE_CUSPARSE : SPARSE_GATHER;
    if (gather >= 0 && (cuda->comm == NULL || cuda->comm->rank == 0)) {
        printf("the sparse layer takes %.3f ms by its own kernels, ", gather);
        if (cusparse < 0) {
            printf("cuSPARSE cannot do it\n");
        } else {
            printf("%.3f ms by cuSPARSE\n", cusparse);
        }
    }
    return way;
}

/* The choice of an earlier run, or the faster way, which is then kept. Ranks choose alike by the file,
 * without which several of them take the kernels. No sum over them here: one may have no rows in this batch.
 */
static int choose(struct cuda *cuda, const char *gpu, struct trial *t) {
    enum { NONE, GATHER, CUSPARSE }; /* in the file */
    const char *path = environment("VAECF_GEMM_CACHE");
    struct choices *choices = NULL;
    struct choice choice = {.word = {NONE}};
    int code = path ? choices_open(path, &choices) : 0;
    snprintf(choice.key, sizeof choice.key, "sparse layer,%.180s,%d,%lld %lld %d", gpu,
             (int)cuda_operand_type(cuda), (long long)cuda->batch.rows, (long long)cuda->n_items, t->h);
    const struct choice *before = choices && !code ? choices_find(choices, choice.key) : NULL;
    enum sparse way = before && before->word[0] == CUSPARSE ? SPARSE_CUSPARSE : SPARSE_GATHER;
    int is_alone = !cuda->grid && (!cuda->comm || cuda->comm->size == 1);
    if (!before && !code && !cuda->fault && (path || is_alone)) way = faster(cuda, t);
    choice.word[0] = way == SPARSE_CUSPARSE ? CUSPARSE : GATHER;
    if (choices && !code && !before) code = choices_add(choices, &choice);
    if (choice.word[0] == CUSPARSE) way = SPARSE_CUSPARSE;
    if (choice.word[0] == GATHER) way = SPARSE_GATHER;
    choices_close(choices);
    cuda->sparse = way;
    if (cuda->comm == NULL || cuda->comm->rank == 0) {
        printf("VAECF_SPARSE=%s is taken, and gives the same bits again\n",
               way == SPARSE_CUSPARSE ? "cusparse" : "gather");
        fflush(stdout);
    }
    return code;
}

/* How the loaded batch's work is done. */
static enum sparse way_of(const struct cuda *cuda) {
    return cuda->is_training ? cuda->sparse : SPARSE_GATHER;
}

/* ---- the layer ---- */

void cuda_input_values(struct backend *backend, const struct draw *draw, double p) {
    struct cuda *cuda = backend->state;
    SPAN("input layer");
    if (draw) {
        cuda->step.epoch = draw->epoch;
        cuda_tell(cuda);
    }
    kernel_input_values(cuda->compute, &cuda->batch, cuda->device_step, draw ? draw->seed : 0,
                        draw ? (float)p : 0, cuda->value);
}

void cuda_multiply_batch(struct cuda *cuda, const void *w, int h, real *y) {
    float *zeros = cuda_room(cuda, &cuda->zeros, (size_t)h * sizeof *zeros);
    if (!zeros || !w) return;
    if (way_of(cuda) == SPARSE_CUSPARSE) {
        cuda_keep_fault(cuda, times_batch(cuda, w, h, y));
        return;
    }
    TRY(cuda, trace_set(zeros, 0, (size_t)h * sizeof *zeros, cuda->compute));
    cuda_keep_fault(cuda, forward(cuda, SPARSE_GATHER, w, zeros, h, ACTIVATION_NONE, y, y, NULL));
}

void cuda_input_forward(struct backend *backend, const real *w, const real *b, int h, enum activation act,
                        real *y) {
    struct cuda *cuda = backend->state;
    SPAN("input layer");
    const void *operand = cuda_operand(cuda, w);
    float *kept = y;
    void *copy = act == ACTIVATION_NONE ? cuda_copy_of(cuda, y) : cuda_short_copy_of(cuda, y, &kept);
    if (way_of(cuda) == SPARSE_AUTO) {
        struct trial trial = {.w = operand, .b = b, .h = h, .act = act, .y = y, .copy = copy};
        cuda_keep_fault(cuda, choose(cuda, backend->describe, &trial));
    }
    if (cuda->grid) {
        cuda_input_of_ranges(cuda, operand, b, h, act, y, kept, copy);
        return;
    }
    if (operand) cuda_keep_fault(cuda, forward(cuda, way_of(cuda), operand, b, h, act, y, kept, copy));
}

void cuda_sum_rows(struct cuda *cuda, enum number type, int64_t rows, int64_t cols, int64_t stride,
                   const void *matrix, int is_added, float *sums) {
    size_t slabs = (size_t)((rows + KERNEL_SLAB - 1) / KERNEL_SLAB);
    float *partial = cuda_room(cuda, &cuda->partials, slabs * (size_t)cols * sizeof *partial);
    if (partial) kernel_sum_rows(cuda->compute, type, rows, cols, stride, matrix, is_added, partial, sums);
}

void cuda_input_backward(struct backend *backend, int h, enum activation act, const real *y, real *dy,
                         real *dw, real *db) {
    struct cuda *cuda = backend->state;
    SPAN("input layer backward");
    enum number type = cuda_operand_type(cuda), type_dy;
    int64_t rows = cuda->batch.rows;
    void *copy = cuda_deactivate(cuda, rows * h, act, y, dy);
    const void *numbers = cuda_numbers_of(cuda, dy, &type_dy);
    cuda_sum_rows(cuda, type_dy, rows, h, h, numbers, 0, db);
    if (type != NUMBER_FP32 && !copy) return;
    cuda_keep_fault(cuda, backward(cuda, way_of(cuda), h, copy ? copy : dy, dw));
}
