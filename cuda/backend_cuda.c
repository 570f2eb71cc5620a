/* The CUDA backend: layers, ranking, sums over the ranks, birth and death; see backend.h and cuda.h.
 *
 * `losses` waits for the step's losses alone, so that the next batch is sorted, copied and started while the
 * GPU is still busy with the gradients and Adam of this one. */
#include "cuda.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "candidate.h"
#include "error.h"

enum {
    LOGITS_MAX = 1 << 30,   /* bytes of a block of rows in the output layer, at least one row */
    CAPABILITY_MIN = 70,    /* Volta: what kernels say to a warp */
    CAPABILITY_CUDA13 = 75, /* Turing: CUDA 13 compiles for no older one */
    CAPABILITY_BF16 = 80,   /* Ampere: bf16 and tf32 */
    BF16_RANKS = 16,        /* of more a rank's part would be less than bf16 keeps of the sum */
};

static const char *const precision_names[] = {"fp32", "tf32", "bf16", "fp16"};

static int check(struct backend *backend) {
    return cuda_wait_all(backend->state);
}

/* ---- products ---- */

/* A product of operands, whose result is fp32. */
static struct product product_of(const struct cuda *cuda, int transpose_a, int transpose_b, int64_t m,
                                 int64_t n, int64_t k) {
    return (struct product){.type = cuda_operand_type(cuda),
                            .result = NUMBER_FP32,
                            .use_tf32 = cuda->use_tf32 && cuda->is_training,
                            .transpose_a = transpose_a,
                            .transpose_b = transpose_b,
                            .m = m,
                            .n = n,
                            .k = k};
}

void cuda_multiply(struct cuda *cuda, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                   const void *a, const void *b, int accumulate, float *c) {
    struct product product = product_of(cuda, transpose_a, transpose_b, m, n, k);
    product.accumulate = accumulate;
    if (a && b) cuda_keep_fault(cuda, matmul_run(cuda->matmul, cuda->compute, &product, a, b, c));
}

/* c = the product + bias in its epilogue. 0: done, or a fault is kept; EX_UNAVAILABLE: cuBLASLt has no such
 * epilogue. */
static int multiply_with(struct cuda *cuda, struct product product, enum epilogue epilogue, const void *a,
                         const void *b, const void *bias, void *c) {
    product.epilogue = epilogue;
    product.bias = bias;
    int code = matmul_run(cuda->matmul, cuda->compute, &product, a, b, c);
    if (code == EX_UNAVAILABLE) return code;
    cuda_keep_fault(cuda, code);
    return 0;
}

int cuda_multiply_summed(struct cuda *cuda, enum epilogue epilogue, int64_t m, int64_t n, int64_t k,
                         const void *a, const void *b, float *dw, float *db) {
    if (!cuda->tuning.bias_epilogue || !a || !b) return 0;
    return multiply_with(cuda, product_of(cuda, 1, 0, m, n, k), epilogue, a, b, db, dw) == 0;
}

/* c = act(a op(b) + bias): in the product's epilogue where cuBLASLt has one, else after it. */
static void multiply_add(struct cuda *cuda, int transpose_b, int64_t m, int64_t n, int64_t k, const void *a,
                         const void *b, const float *bias, enum activation act, float *c) {
    struct product product = product_of(cuda, 0, transpose_b, m, n, k);
    if (!a || !b) return;
    if (act == ACTIVATION_NONE && multiply_with(cuda, product, EPILOGUE_BIAS, a, b, bias, c) == 0) {
        cuda_is_changed(cuda, c);
        return;
    }
    float *kept = c;
    void *copy = act == ACTIVATION_NONE ? cuda_copy_of(cuda, c) : cuda_short_copy_of(cuda, c, &kept);
    if (act == ACTIVATION_RELU) {
        const void *operand = kept ? bias : cuda_operand(cuda, bias); /* of the type of the result */
        product.result = kept ? NUMBER_FP32 : product.type;
        if (operand &&
            multiply_with(cuda, product, EPILOGUE_BIAS_RELU, a, b, operand, kept ? kept : copy) == 0) {
            if (kept) cuda_is_changed(cuda, c);
            return;
        }
    }
    cuda_multiply(cuda, 0, transpose_b, m, n, k, a, b, 0, c);
    kernel_activate(cuda->compute, cuda->type, m, n, bias, (int)act, c, kept, copy);
}

/* ---- layers ---- */

static void dense_forward(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                          const real *w, const real *b, enum activation act, real *y) {
    struct cuda *cuda = backend->state;
    SPAN("hidden layer");
    multiply_add(cuda, 0, rows, n_out, n_in, cuda_operand(cuda, x), cuda_operand(cuda, w), b, act, y);
}

void *cuda_deactivate(struct cuda *cuda, int64_t n, enum activation act, const float *y, float *dy) {
    enum number type_y;
    const void *numbers = cuda_numbers_of(cuda, y, &type_y);
    float *kept;
    void *copy = cuda_short_copy_of(cuda, dy, &kept);
    kernel_deactivate(cuda->compute, cuda_operand_type(cuda), type_y, n, (int)act, numbers, dy, kept, copy);
    return copy;
}

static void dense_backward(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                           const real *w, const real *y, enum activation act, real *dy, real *dx, real *dw,
                           real *db) {
    struct cuda *cuda = backend->state;
    SPAN("hidden layer backward");
    void *copy = cuda_deactivate(cuda, rows * n_out, act, y, dy);
    const void *from = copy ? copy : dy, *x_operand = cuda_operand(cuda, x);
    if (dw && !cuda_multiply_summed(cuda, EPILOGUE_SUM_B, n_in, n_out, rows, x_operand, from, dw, db)) {
        enum number type_dy;
        const void *numbers = cuda_numbers_of(cuda, dy, &type_dy);
        cuda_sum_rows(cuda, type_dy, rows, n_out, n_out, numbers, 0, db);
        cuda_multiply(cuda, 1, 0, n_in, n_out, rows, x_operand, from, 0, dw);
    }
    if (!dx) return;
    cuda_multiply(cuda, 0, 1, rows, n_in, n_out, from, cuda_operand(cuda, w), 0, dx);
    cuda_is_changed(cuda, dx);
}

static void normalize(struct backend *backend, int64_t rows, int n, const real *y, real *x) {
    struct cuda *cuda = backend->state;
    SPAN("hidden layer");
    enum number type_y;
    const void *numbers = cuda_numbers_of(cuda, y, &type_y);
    float *kept;
    void *copy = cuda_short_copy_of(cuda, x, &kept);
    kernel_normalize(cuda->compute, cuda->type, type_y, rows, n, numbers, kept, copy);
}

static void normalize_backward(struct backend *backend, int64_t rows, int n, const real *y, const real *x,
                               real *dx) {
    struct cuda *cuda = backend->state;
    SPAN("hidden layer backward");
    enum number type_y, type_x;
    const void *from = cuda_numbers_of(cuda, y, &type_y), *to = cuda_numbers_of(cuda, x, &type_x);
    kernel_normalize_backward(cuda->compute, type_y, type_x, rows, n, from, to, dx);
    cuda_is_changed(cuda, dx);
}

/* ---- the latent layer ---- */

static void latent_forward(struct backend *backend, int64_t rows, int n, const struct draw *draw,
                           const real *stats, real *noise, real *z) {
    struct cuda *cuda = backend->state;
    SPAN("latent layer");
    if (draw) {
        cuda->step.epoch = draw->epoch;
        cuda_tell(cuda);
    }
    float *kept;
    void *copy = cuda_short_copy_of(cuda, z, &kept);
    kernel_latent_forward(cuda->compute, cuda->type, rows, n, draw != NULL, cuda->device_step,
                          draw ? draw->seed : 0, cuda->batch.users, stats, noise, kept, copy);
}

/* sums[which] on its way to the host. */
static void sum_losses(struct cuda *cuda, int64_t rows, int which) {
    kernel_total(cuda->compute, rows, cuda->nll.at, cuda->sums + which);
    if (cuda->current) return; /* step_losses asks */
    TRY(cuda, trace_copy(cuda->host_sums, cuda->sums, 3 * sizeof *cuda->sums, cudaMemcpyDeviceToHost,
                         cuda->compute));
    TRY(cuda, cudaEventRecord(cuda->summed, cuda->compute));
}

static double latent_backward(struct backend *backend, int64_t rows, int n, double beta, double gamma,
                              double scale, const real *stats, const real *noise, const real *dz,
                              real *dstats, double *penalty) {
    struct cuda *cuda = backend->state;
    SPAN("latent layer backward");
    double *kl = cuda->nll.at, *own = kl + rows;
    *penalty = 0;
    cuda->step.scale = (float)scale;
    cuda->step.kl_weight = (float)(beta * scale);
    cuda->step.gamma = gamma;
    cuda_tell(cuda);
    kernel_latent_backward(cuda->compute, &cuda->batch, n, cuda->device_step, stats, noise, dz, dstats, kl,
                           own);
    cuda_is_changed(cuda, dstats);
    if (gamma > 0) kernel_total(cuda->compute, rows, own, cuda->sums + 2);
    sum_losses(cuda, rows, 1);
    return 0;
}

/* ---- the output layer ---- */

/* Memory for a block of rows of logits of so many bytes each: for as many rows as there is room for. Returns
 * their number; 0 and a fault if there is none even for one. */
static int64_t prepare_output(struct cuda *cuda, int64_t rows, size_t row_bytes) {
    int64_t block = (int64_t)(cuda->logits_max / row_bytes);
    if (block > rows) block = rows;
    if (block < 1) block = 1;
    if (block <= cuda->logits_rows) return block;
    if (cuda->logits_rows > 0 && cuda->logits_is_short) return cuda->logits_rows;
    cuda->logits_rows = 0;
    for (; !cuda->fault && block >= 1; block /= 2) {
        cuda_room(cuda, &cuda->logits, (size_t)block * row_bytes);
        if (!cuda->fault) return cuda->logits_rows = block;
        if (block > 1) cuda->fault = 0; /* half of it, then */
        cuda->logits_is_short = 1;
    }
    return 0;
}

void cuda_compute_logits(struct cuda *cuda, int64_t rows, int64_t n, int64_t stride, int h, const void *x,
                         const void *w, const real *b, void *logits) {
    struct product product = product_of(cuda, 0, 1, rows, stride, h);
    const void *bias = cuda_operand(cuda, b); /* of the type of the result */
    product.result = product.type;
    if (!bias || multiply_with(cuda, product, EPILOGUE_BIAS, x, w, bias, logits) == 0) return;
    cuda_keep_fault(cuda, matmul_run(cuda->matmul, cuda->compute, &product, x, w, logits));
    kernel_add_bias(cuda->compute, product.type, rows, n, stride, b, logits);
}

static double output_train(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                           const real *b, double scale, double smoothing, real *dx, real *dw, real *db) {
    struct cuda *cuda = backend->state;
    SPAN("output layer");
    enum number type = cuda->type;
    int64_t n = cuda->n_items, stride = backend_whole_rows(n);
    size_t size = type == NUMBER_FP32 ? sizeof(float) : 2;
    int is_tiled = cuda_wants_tiles(cuda, rows, (size_t)stride * size);
    int64_t block = is_tiled ? rows : prepare_output(cuda, rows, (size_t)stride * size);
    const void *w_operand = cuda_operand(cuda, w);
    const char *x_operand = cuda_operand(cuda, x);
    void *logits = cuda->logits.at;
    if (cuda->fault && !cuda->grid) return 0;
    cuda->step.scale = (float)scale;
    cuda_tell(cuda);
    TRY(cuda, trace_set(cuda->sums, 0, 3 * sizeof *cuda->sums, cuda->compute));
    if (is_tiled) {
        cuda_output_in_tiles(cuda, rows, h, x, w, b, smoothing, dx, dw, db);
        cuda_gradient_is_there(cuda);
    }
    struct fp8_operands fp8;
    int is_fp8 = !is_tiled && cuda_fp8_operands(cuda, rows, block, stride, h, x_operand, w_operand, &fp8);
    for (int64_t first = 0; first < rows && !is_tiled; first += block) {
        int64_t count = rows - first < block ? rows - first : block;
        const void *from = x_operand + (size_t)(first * h) * size;
        struct kernel_rows part = cuda_part_of(&cuda->batch, first, count);
        double *nll = (double *)cuda->nll.at + first;
        if (!is_fp8 || !cuda_fp8_logits(cuda, &fp8, first, count, b, logits)) {
            cuda_compute_logits(cuda, count, n, stride, h, from, w_operand, b, logits);
        }
        if (is_fp8 && dx) {
            kernel_softmax_fp8(cuda->compute, n, stride, &part, cuda->device_step, (float)smoothing, logits,
                               nll, fp8.gradient, fp8.factor);
        } else {
            kernel_softmax(cuda->compute, type, n, stride, &part, cuda->device_step, (float)smoothing, logits,
                           nll);
        }
        int is_summed = dw && first == 0 &&
                        cuda_multiply_summed(cuda, EPILOGUE_SUM_A, stride, h, count, logits, from, dw, db);
        if (dw && !is_summed) {
            cuda_sum_rows(cuda, type, count, n, stride, logits, first > 0, db);
            cuda_multiply(cuda, 1, 0, stride, h, count, logits, from, first > 0, dw);
        }
        if (first + count == rows && cuda->tuning.early_sum) cuda_gradient_is_there(cuda);
        if (!dx || (is_fp8 && cuda_fp8_dx(cuda, &fp8, count, dx + first * h))) continue;
        cuda_multiply(cuda, 0, 0, count, h, stride, logits, w_operand, 0, dx + first * h);
    }
    cuda_gradient_is_there(cuda);
    if (dx) cuda_is_changed(cuda, dx);
    sum_losses(cuda, rows, 0);
    return 0;
}

static int losses(struct backend *backend, double *nll, double *kl, double *penalty) {
    struct cuda *cuda = backend->state;
    *nll = *kl = *penalty = 0;
    if (cuda->current) return cuda_told(cuda); /* step_losses has them */
    int code = cuda_wait_for(cuda, cuda->summed);
    *nll = code ? 0 : cuda->host_sums[0];
    *kl = code ? 0 : cuda->host_sums[1];
    *penalty = code ? 0 : cuda->host_sums[2];
    return code;
}

static void output_scores(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                          const real *b, real *scores) {
    struct cuda *cuda = backend->state;
    SPAN("scores");
    multiply_add(cuda, 1, rows, cuda->n_items, h, cuda_operand(cuda, x), cuda_operand(cuda, w), b,
                 ACTIVATION_NONE, scores);
}

static void add(struct backend *backend, size_t n, double weight, const real *x, real *y) {
    struct cuda *cuda = backend->state;
    kernel_add(cuda->compute, (int64_t)n, (float)weight, x, y);
}

/* ---- ranking ---- */

static int by_rank(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    return candidate_is_behind(*x, *y) - candidate_is_behind(*y, *x);
}

/* The GPU has chosen each row's best ones; here they get their order. */
static int sort_rows(int64_t rows, int k, int32_t *top, real *scores) {
    int is_short = 0;
#pragma omp parallel for schedule(dynamic, 8) reduction(| : is_short)
    for (int64_t r = 0; r < rows; r++) {
        struct candidate *list = malloc((size_t)k * sizeof *list);
        if (!list) {
            is_short = 1;
            continue;
        }
        for (int j = 0; j < k; j++) list[j] = (struct candidate){scores[r * k + j], top[r * k + j]};
        qsort(list, (size_t)k, sizeof *list, by_rank);
        for (int j = 0; j < k; j++) {
            scores[r * k + j] = list[j].score;
            top[r * k + j] = list[j].item;
        }
        free(list);
    }
    return is_short ? error_memory("a ranking", (size_t)k * sizeof(struct candidate)) : 0;
}

/* The targets of this rank's items, counted from its first one, as starts[rows + 1] and items: in host and on
 * the device. */
static void copy_targets(struct cuda *cuda, int64_t rows, const struct csr *targets, int32_t *host,
                         int32_t *device) {
    int32_t n = 0;
    for (int64_t r = 0; r < rows; r++) {
        host[r] = n;
        for (int64_t k = targets->indptr[r]; k < targets->indptr[r + 1]; k++) {
            int64_t item = targets->indices[k] - cuda->batch.first_item;
            if (item >= 0 && item < cuda->n_items) host[rows + 1 + n++] = (int32_t)item;
        }
    }
    host[rows] = n;
    TRY(cuda, trace_copy(device, host, (size_t)(rows + 1 + n) * sizeof *host, cudaMemcpyHostToDevice,
                         cuda->compute));
}

/* first_hit of each row: the best target, of all ranges on a grid, and how many items come before it. */
static int rank_targets(struct cuda *cuda, int64_t rows, const real *scores, const struct csr *targets,
                        int64_t *first_hit) {
    const struct grid *grid = cuda->grid;
    size_t n = (size_t)rows, bytes = n * (sizeof(float) + sizeof(int32_t)), counts = n * sizeof *first_hit;
    size_t entries = n + 1 + (size_t)csr_nonzeros(targets), copied = entries * sizeof(int32_t);
    int32_t *host_targets = malloc(copied), *device_targets = cuda_room(cuda, &cuda->targets, copied);
    int64_t *ahead = cuda_room(cuda, &cuda->rank, counts + bytes);
    float *host = calloc(2 * n + 1, sizeof *host), *device_scores = (float *)(ahead + n);
    int32_t *best = (int32_t *)(host + n), *device_best = (int32_t *)(device_scores + n);
    if (!host || !host_targets) cuda_keep_fault(cuda, error_memory("the targets", copied + bytes));
    int code = grid_agree(grid, cuda_told(cuda));
    if (code) goto cleanup;
    copy_targets(cuda, rows, targets, host_targets, device_targets);
    kernel_best_target(cuda->compute, rows, cuda->n_items, device_targets, device_targets + rows + 1, scores,
                       device_best, device_scores);
    TRY(cuda, trace_copy(host, device_scores, bytes, cudaMemcpyDeviceToHost, cuda->compute));
    if (grid) {
        cuda_wait_all(cuda);
        code = grid_merge(grid, rows, 1, best, host);
        if (code) goto cleanup;
        TRY(cuda, trace_copy(device_scores, host, bytes, cudaMemcpyHostToDevice, cuda->compute));
    }
    kernel_count_ahead(cuda->compute, rows, cuda->n_items, scores, device_best, device_scores,
                       cuda->batch.first_item, ahead);
    TRY(cuda, trace_copy(first_hit, ahead, counts, cudaMemcpyDeviceToHost, cuda->compute));
    cuda_wait_all(cuda);
    if (grid) comm_sum_int(&grid->items, first_hit, n);
    for (int64_t r = 0; r < rows; r++) first_hit[r] += best[r] >= 0;
cleanup:
    free(host_targets);
    free(host);
    return code;
}

static void top_k(struct backend *backend, int64_t rows, real *scores, int k, const struct csr *targets,
                  int32_t *top, real *top_scores, int64_t *first_hit) {
    struct cuda *cuda = backend->state;
    SPAN("ranking");
    size_t n = (size_t)rows * (size_t)k;
    int32_t *device_top = cuda_room(cuda, &cuda->top, n * sizeof *device_top);
    float *device_scores = cuda_room(cuda, &cuda->top_scores, n * sizeof *device_scores);
    real *host_scores = top_scores ? top_scores : malloc((n ? n : 1) * sizeof *host_scores);
    if (!host_scores) cuda_keep_fault(cuda, error_memory("a ranking", n * sizeof *host_scores));
    if (!cuda->fault) {
        kernel_mask(cuda->compute, cuda->n_items, &cuda->batch, scores);
        kernel_top_k(cuda->compute, rows, cuda->n_items, k, scores, device_top, device_scores);
        cuda_wait_all(cuda); /* a rank that is lost is noticed here: copies to pageable memory just wait */
    }
    if (!cuda->fault) {
        TRY(cuda, trace_copy(top, device_top, n * sizeof *top, cudaMemcpyDeviceToHost, cuda->compute));
        TRY(cuda, trace_copy(host_scores, device_scores, n * sizeof *host_scores, cudaMemcpyDeviceToHost,
                             cuda->compute));
        if (cuda_wait_all(cuda) == 0) cuda_keep_fault(cuda, sort_rows(rows, k, top, host_scores));
    }
    int code = grid_agree(cuda->grid, cuda_told(cuda));
    if (!code && cuda->grid) code = grid_merge(cuda->grid, rows, k, top, host_scores);
    if (!code && targets && first_hit) code = rank_targets(cuda, rows, scores, targets, first_hit);
    cuda_keep_fault(cuda, code);
    if (!top_scores) free(host_scores);
}

/* ---- the update ---- */

static void guard(struct backend *backend, const real *g, size_t n) {
    struct cuda *cuda = backend->state;
    SPAN("overflow");
    cuda_settle_sums(cuda);
    TRY(cuda, trace_set(cuda->overflow, 0, sizeof *cuda->overflow, cuda->compute));
    kernel_guard(cuda->compute, (int64_t)n, g, cuda->overflow);
    if (cuda->grid) cuda_agree_overflow(cuda);
    TRY(cuda, trace_copy(cuda->host_overflow, cuda->overflow, sizeof *cuda->overflow, cudaMemcpyDeviceToHost,
                         cuda->compute));
    TRY(cuda, cudaEventRecord(cuda->guarded, cuda->compute));
    cuda->is_guarded = 1;
}

static int overflowed(struct backend *backend) {
    struct cuda *cuda = backend->state;
    return cuda->is_guarded && cuda_wait_for(cuda, cuda->guarded) == 0 && *cuda->host_overflow;
}

static void update_part(struct cuda *cuda, const struct kernel_adam *constants, size_t n, real *p,
                        const real *g, real *m, real *v) {
    void *copy = cuda_fresh_copy(cuda, p), *first = cuda_moments_of(cuda, m),
         *second = cuda_moments_of(cuda, v);
    if (!first || !second) return;
    kernel_adam(cuda->compute, constants, cuda->device_step, cuda->type, (int64_t)n, p, g,
                cuda->tuning.short_moments, first, second, copy, cuda->is_guarded ? cuda->overflow : NULL);
    if (!copy) cuda_is_changed(cuda, p);
}

static void adam(struct backend *backend, const struct adam_step *step, size_t n, real *p, const real *g,
                 real *m, real *v) {
    struct cuda *cuda = backend->state;
    SPAN("Adam");
    const struct kernel_adam constants = {
        .beta1 = (float)step->beta1,
        .beta2 = (float)step->beta2,
        .rest1 = (float)(1 - step->beta1),
        .rest2 = (float)(1 - step->beta2),
        .epsilon = (float)step->epsilon,
        .coupled = step->decoupled ? 0 : (float)step->weight_decay,
        .decoupled = step->decoupled ? (float)step->weight_decay : 0,
        .step = (uint32_t)step->step,
    };
    cuda_tell_adam(cuda, step);
    cuda_tell(cuda);
    size_t late = cuda_late_sums(cuda, g, n); /* the first ones, whose sum is still under way */
    if (late < n) update_part(cuda, &constants, n - late, p + late, g + late, m + late, v + late);
    cuda_settle_sums(cuda);
    if (late > 0) update_part(cuda, &constants, late, p, g, m, v);
    cuda_trace_update(cuda);
}

/* ---- birth and death ---- */

/* Both communicators, before any memory is freed: cudaFree waits for the device, and a sum that another rank
 * never comes to would keep it for ever. */
static void stop(struct backend *backend, int is_failed) {
    struct cuda *cuda = backend->state;
    if (!cuda) return;
    is_failed = is_failed || cuda->fault != 0;
    nccl_stop(cuda->nccl, is_failed);
    nccl_stop(cuda->items_nccl, is_failed);
    cuda->nccl = cuda->items_nccl = NULL;
}

static void destroy(struct backend *backend) {
    struct cuda *cuda = backend->state;
    if (!cuda) return;
    stop(backend, 0);
    cuda_forget_recordings(cuda);
    struct room *rooms[] = {&cuda->values,
                            &cuda->kept.memory,
                            &cuda->kept.values,
                            &cuda->kept.rows,
                            &cuda->kept.sorted_memory,
                            &cuda->logits,
                            &cuda->nll,
                            &cuda->partials,
                            &cuda->logit_sums,
                            &cuda->zeros,
                            &cuda->csr,
                            &cuda->spmm_buffer,
                            &cuda->fp8,
                            &cuda->top,
                            &cuda->top_scores,
                            &cuda->targets,
                            &cuda->rank,
                            &cuda->exchange16,
                            &cuda->gathered,
                            &cuda->gathered_items,
                            &cuda->gathered_items_host,
                            &cuda->stage};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) cuda_free_room(rooms[i]);
    for (int i = 0; i < CUDA_SLOTS; i++) {
        struct slot *slot = &cuda->slot[i];
        cuda_free_room(&slot->host);
        cuda_free_room(&slot->device);
        if (slot->copied) cudaEventDestroy(slot->copied);
        if (slot->used) cudaEventDestroy(slot->used);
    }
    cudaEvent_t events[] = {cuda->summed,  cuda->guarded, cuda->ready,
                            cuda->reduced, cuda->late,    cuda->finished};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (events[i]) cudaEventDestroy(events[i]);
    }
    for (int i = 0; i < CUDA_AHEAD; i++) {
        if (cuda->ahead[i]) cudaEventDestroy(cuda->ahead[i]);
    }
    matmul_destroy(cuda->matmul);
    spmm_destroy(cuda->spmm);
    cuda_trace_destroy(cuda);
    for (int i = 0; i < cuda->n_blocks; i++) {
        cudaFree(cuda->block[i].at);
        if (cuda->block[i].copy) cudaFree(cuda->block[i].copy);
    }
    if (cuda->small) cudaFree(cuda->small);
    if (cuda->host_small) cudaFreeHost(cuda->host_small);
    if (cuda->compute) cudaStreamDestroy(cuda->compute);
    if (cuda->copy) cudaStreamDestroy(cuda->copy);
    if (cuda->exchange) cudaStreamDestroy(cuda->exchange);
    free(cuda->block);
    free(cuda->touched);
    free(cuda->all);
    free(cuda->place);
    free(cuda->item);
    free(cuda->item_start);
    free(cuda->kept.host_first);
    free(cuda);
    *backend = (struct backend){0};
}

static int make_streams(struct cuda *cuda) {
    cudaStream_t *streams[] = {&cuda->compute, &cuda->copy, &cuda->exchange};
    int lowest = 0, highest = 0;
    cudaEvent_t *events[] = {&cuda->summed,         &cuda->guarded,      &cuda->ready,
                             &cuda->reduced,        &cuda->late,         &cuda->finished,
                             &cuda->slot[0].copied, &cuda->slot[0].used, &cuda->slot[1].copied,
                             &cuda->slot[1].used};
    if (TRY(cuda, cudaDeviceGetStreamPriorityRange(&lowest, &highest))) return cuda->fault;
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        int is_first = cuda->tuning.priority && streams[i] == &cuda->exchange;
        if (TRY(cuda, cudaStreamCreateWithPriority(streams[i], cudaStreamNonBlocking,
                                                   is_first ? highest : lowest))) {
            return cuda->fault;
        }
    }
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (TRY(cuda, cudaEventCreateWithFlags(events[i], cudaEventDisableTiming))) return cuda->fault;
    }
    for (int i = 0; i < CUDA_AHEAD; i++) {
        if (TRY(cuda, cudaEventCreateWithFlags(&cuda->ahead[i], cudaEventDisableTiming))) return cuda->fault;
    }
    return 0;
}

/* The few numbers that have a place of their own on the device, and in pinned memory. */
static int make_small(struct cuda *cuda) {
    struct small {
        double sums[3], totals[3];
        struct kernel_step step;
        int overflow;
    } * device, *host;
    if (cudaMalloc(&cuda->small, sizeof *device)) return cuda_no_memory(cuda, sizeof *device);
    if (TRY(cuda, cudaMallocHost(&cuda->host_small, sizeof *host))) return cuda->fault;
    TRY(cuda, trace_set(cuda->small, 0, sizeof *device, cuda->compute));
    device = cuda->small;
    host = cuda->host_small;
    cuda->sums = device->sums;
    cuda->totals = device->totals;
    cuda->device_step = &device->step;
    cuda->overflow = &device->overflow;
    cuda->host_sums = host->totals;
    cuda->host_overflow = &host->overflow;
    return cuda->fault;
}

/* The current GPU: is it new enough, for the precision too, and is there code for it? */
static int check_gpu(enum precision precision, struct backend *backend, int device) {
    struct cudaDeviceProp gpu;
    cudaError_t status = cudaGetDeviceProperties(&gpu, device);
    if (status) return error_set(EX_OSERR, "GPU %d: %s", device, cudaGetErrorString(status));
    int capability = gpu.major * 10 + gpu.minor;
    if (capability < CAPABILITY_MIN) {
        return error_set(EX_OSERR,
                         "GPU %d, %s: too old: compute capability %d.%d, want 7.0; device: cpu does without",
                         device, gpu.name, gpu.major, gpu.minor);
    }
    if (capability < CAPABILITY_BF16 && (precision == PRECISION_TF32 || precision == PRECISION_BF16)) {
        return error_set(
            EX_CONFIG,
            "train.precision: %s wants compute capability 8.0; GPU %d, %s has %d.%d: want fp32 or fp16",
            precision_names[precision], device, gpu.name, gpu.major, gpu.minor);
    }
    status = kernel_probe();
    if (status) {
        cudaGetLastError();
        return error_set(
            EX_OSERR,
            "GPU %d, %s: this program has no code for compute capability %d.%d (%s): build it with "
            "%smake CUDA_ARCH=sm_%d%d",
            device, gpu.name, gpu.major, gpu.minor, cudaGetErrorString(status),
            capability < CAPABILITY_CUDA13 ? "CUDA 12 and " : "", gpu.major, gpu.minor);
    }
    snprintf(backend->describe, sizeof backend->describe, "%s (sm_%d%d, %.0f GB)", gpu.name, gpu.major,
             gpu.minor, 1e-9 * (double)gpu.totalGlobalMem);
    return 0;
}

int backend_cuda_probe(void) {
    const int built = CUDART_VERSION;
    int n = 0, driver = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    if (status == cudaSuccess && n > 0) return 0;
    cudaGetLastError(); /* forgotten: it is told here */
    cudaDriverGetVersion(&driver);
    if (driver == 0 || status == cudaErrorNoDevice || (status == cudaSuccess && n == 0)) {
        return error_set(EX_OSERR, "device: cuda: no GPU on this machine%s; want auto or cpu",
                         driver == 0 ? " (no NVIDIA driver)" : " that this process may use");
    }
    if (status == cudaErrorInsufficientDriver) {
        return error_set(
            EX_OSERR,
            "device: cuda: the NVIDIA driver is too old: it is for CUDA %d.%d, this program for %d.%d",
            driver / 1000, driver % 1000 / 10, built / 1000, built % 1000 / 10);
    }
    return error_set(EX_OSERR, "device: cuda: %s", cudaGetErrorString(status));
}

/* This rank's GPU: the one with its number on the machine, of those that it may see. */
static int choose_gpu(const struct backend_options *o, struct backend *backend, int *device) {
    int rank = 0, ranks = 1, gpus = 0;
    if (o->comm) comm_machine(o->comm, &rank, &ranks);
    int code = backend_cuda_probe();
    if (code) return code;
    cudaGetDeviceCount(&gpus);
    *device = rank % gpus;
    cudaError_t status = cudaSetDevice(*device);
    if (status) return error_set(EX_OSERR, "GPU %d: %s", *device, cudaGetErrorString(status));
    return check_gpu(o->precision, backend, *device);
}

/* Has another rank the same GPU? Wherever the ranks are, and whatever numbers their GPUs have for them.
 * Collective. */
static int check_sharing(const struct comm *comm, int device) {
    struct cudaDeviceProp gpu;
    size_t size = sizeof gpu.uuid;
    char *all = malloc((size_t)comm->size * size);
    int code = all ? 0 : error_memory("the list of GPUs", (size_t)comm->size * size);
    if (!code && cudaGetDeviceProperties(&gpu, device)) code = error_set(EX_OSERR, "GPU %d is gone", device);
    code = comm_agree(comm, code);
    if (!code) {
        comm_all_gather(comm, &gpu.uuid, size, all);
        int sharing = 0;
        for (int r = 0; r < comm->size; r++) sharing += memcmp(all + (size_t)r * size, &gpu.uuid, size) == 0;
        if (sharing > 1) {
            code = error_set(EX_CONFIG,
                             "%d ranks have the same GPU: want one rank a GPU, or comm: mpi to share it",
                             sharing);
        }
        code = comm_agree(comm, code);
    }
    free(all);
    return code;
}

static int set_up(const struct backend_options *o, int device, struct backend *backend) {
    struct cuda *cuda = calloc(1, sizeof *cuda);
    backend->state = cuda;
    if (!cuda) return error_memory("the CUDA backend", sizeof *cuda);
    static const enum number types[] = {[PRECISION_FP32] = NUMBER_FP32,
                                        [PRECISION_TF32] = NUMBER_FP32,
                                        [PRECISION_BF16] = NUMBER_BF16,
                                        [PRECISION_FP16] = NUMBER_FP16};
    size_t words = (size_t)cuda_words(o->n_items);
    cuda->n_items = o->n_items;
    cuda->type = types[o->precision];
    cuda->use_tf32 = o->precision == PRECISION_TF32;
    cuda->sum_min = cuda_sum_min();
    cuda->grid = o->grid && o->grid->items.size > 1 ? o->grid : NULL;
    cuda->comm = cuda->grid ? &o->grid->data : o->comm;
    int ranks = cuda->comm ? cuda->comm->size : 1;
    cuda->compute_sum =
        o->comm_type == COMM_COMPUTE ||
        (o->comm_type == COMM_TYPE_AUTO && o->precision == PRECISION_BF16 && ranks <= BF16_RANKS);
    cuda->logits_max = o->logit_memory ? (size_t)o->logit_memory : LOGITS_MAX;
    cuda->slot[0].host.is_host = cuda->slot[1].host.is_host = cuda->gathered_items_host.is_host =
        cuda->stage.is_host = 1;
    cuda->touched = calloc(words, sizeof *cuda->touched);
    cuda->all = calloc(words, sizeof *cuda->all);
    cuda->place = calloc((size_t)o->n_items, sizeof *cuda->place);
    cuda->item = calloc((size_t)o->n_items, sizeof *cuda->item);
    cuda->item_start = calloc((size_t)o->n_items + 1, sizeof *cuda->item_start);
    if (!cuda->touched || !cuda->all || !cuda->place || !cuda->item || !cuda->item_start) {
        return error_memory("the CUDA backend", words * 16 + (size_t)o->n_items * 3 * sizeof *cuda->place);
    }
    struct cudaDeviceProp gpu;
    int code = tuning_read(&cuda->tuning);
    if (!code) code = cuda_read_sparse(&cuda->sparse);
    if (!code && cuda->sparse != SPARSE_GATHER) code = spmm_create(&cuda->spmm);
    if (!code && cudaGetDeviceProperties(&gpu, device)) code = error_set(EX_OSERR, "GPU %d is gone", device);
    if (!code) code = cuda_check_fp8(cuda, gpu.major * 10 + gpu.minor);
    if (!code) code = make_streams(cuda);
    if (!code) code = make_small(cuda);
    if (!code && o->trace_steps > 0) code = cuda_trace_create(cuda, o->trace_steps, o->trace_path);
    return code ? code : matmul_create(backend->describe, &cuda->matmul); /* so far the GPU */
}

static void describe(const struct backend_options *o, struct backend *backend) {
    const struct cuda *cuda = backend->state;
    char matmul[64], nccl[64], tuning[200], spmm[64] = "";
    int driver = 0, is_nccl = cuda->nccl || cuda->items_nccl;
    size_t used = strlen(backend->describe);
    cudaDriverGetVersion(&driver);
    matmul_describe(matmul, sizeof matmul);
    nccl_describe(nccl, sizeof nccl);
    if (cuda->spmm) spmm_describe(spmm, sizeof spmm);
    tuning_describe(&cuda->tuning, tuning, sizeof tuning);
    snprintf(backend->describe + used, sizeof backend->describe - used,
             ", CUDA %d.%d, driver for %d.%d, %s, %s%s%s%s%s%s%s", CUDART_VERSION / 1000,
             CUDART_VERSION % 1000 / 10, driver / 1000, driver % 1000 / 10, matmul,
             precision_names[o->precision], cuda->spmm ? ", " : "", spmm,
             cuda->sparse == SPARSE_AUTO ? " or gather" : "", is_nccl ? ", " : "", is_nccl ? nccl : "",
             tuning);
}

int backend_cuda_create(const struct backend_options *options, struct backend *backend) {
    *backend = (struct backend){
        .name = "cuda",
        .precision = options->precision,
        .destroy = destroy,
        .stop = stop,
        .check = check,
        .alloc = cuda_alloc,
        .release = cuda_release,
        .copy_in = cuda_copy_in,
        .copy_out = cuda_copy_out,
        .zero = cuda_zero,
        .load = cuda_load,
        .input_values = cuda_input_values,
        .input_forward = cuda_input_forward,
        .input_backward = cuda_input_backward,
        .dense_forward = dense_forward,
        .dense_backward = dense_backward,
        .normalize = normalize,
        .normalize_backward = normalize_backward,
        .latent_forward = latent_forward,
        .latent_backward = latent_backward,
        .output_train = output_train,
        .output_scores = output_scores,
        .add = add,
        .top_k = top_k,
        .all_reduce = cuda_all_reduce,
        .input_all_reduce = cuda_input_all_reduce,
        .adam = adam,
        .guard = guard,
        .overflowed = overflowed,
        .losses = losses,
        .gradient_ready = cuda_gradient_ready,
        .gradient_follows = cuda_gradient_follows,
        .keep = cuda_keep,
        .step_begin = cuda_step_begin,
        .step_end = cuda_step_end,
        .step_losses = cuda_step_losses,
    };
    int device = 0, code = choose_gpu(options, backend, &device);
    if (options->comm) code = comm_agree(options->comm, code);
    if (!code && options->comm && options->comm_kind != COMM_MPI) code = check_sharing(options->comm, device);
    if (code) return code;
    code = set_up(options, device, backend);
    if (options->comm) code = comm_agree(options->comm, code);
    struct cuda *cuda = backend->state;
    int use_nccl = options->comm && options->comm_kind != COMM_MPI &&
                   (options->comm_kind == COMM_NCCL || nccl_is_there());
    if (!code && use_nccl && (cuda->comm->size > 1 || (options->comm_kind == COMM_NCCL && !cuda->grid))) {
        code = nccl_start(cuda->comm, &cuda->nccl);
    }
    if (!code && use_nccl && cuda->grid) code = nccl_start(&cuda->grid->items, &cuda->items_nccl);
    if (options->comm && cuda && cuda->grid) code = comm_agree(options->comm, code);
    if (code) {
        if (cuda) destroy(backend);
        *backend = (struct backend){0};
        return code;
    }
    describe(options, backend);
    return 0;
}
