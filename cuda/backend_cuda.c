/* The CUDA backend; see backend.h.
 *
 * One stream computes; a second one brings batches to the GPU, a third one sums over the ranks. The host runs
 * ahead: a function puts work on a stream and returns, `losses` waits for the step's losses alone, so that
 * the next batch is sorted, copied and started while the GPU is still busy with the gradients and Adam of
 * this one. A batch has one of two slots, each with pinned host memory and its image on the device. */
#include <cuda_runtime_api.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "comm.h"
#include "comm_nccl.h"
#include "error.h"
#include "kernels.h"
#include "matmul.h"

enum {
    SLOTS = 2,
    ALIGNED = 64,           /* numbers: arrays of a batch begin there */
    LOGITS_MAX = 1 << 28,   /* numbers of a block of rows in the output layer */
    EXCHANGE_MAX = 1 << 24, /* numbers of one piece of the input layer's sum over the ranks */
    BUCKET_MIN = 1 << 20,   /* numbers of gradients whose sum begins before the rest is there */
    STAGE = 1 << 22,        /* numbers that go over MPI at a time */
    CAPABILITY_MIN = 80,    /* bf16 and tf32 */
};

/* Device or pinned memory that grows. */
struct room {
    void *at;
    size_t bytes;
    int is_host;
};

struct slot {
    struct room host, device;
    cudaEvent_t copied, used; /* the copy has arrived; its batch is computed */
};

/* What alloc has given away, with its copy in 16 bits if its numbers are weights. */
struct block {
    float *at;
    size_t n;
    void *copy;
    int is_fresh; /* the copy is of what is there now */
};

struct cuda {
    int64_t n_items;
    enum number type; /* of operands in training */
    int use_tf32;
    int compute_sum; /* gradients travel in that type */
    const struct comm *comm;
    struct nccl *nccl; /* NULL: sums go over MPI */
    cudaStream_t compute, copy, exchange;
    struct matmul *matmul;
    struct block *block;
    int n_blocks;

    /* the loaded batch */
    struct slot slot[SLOTS];
    int at; /* which slot */
    int64_t rows, nonzeros, n_touched;
    int is_training;
    const int64_t *users;             /* device memory, as the rest: */
    const int32_t *start, *items;     /* [rows + 1], [nonzeros] */
    const int32_t *item, *item_start; /* [n_touched], [n_touched + 1]: the same by item */
    const int32_t *entry_row, *entry_at;
    uint64_t *touched, *all; /* host: a bit an item of the batch; of some rank's batch */
    int32_t *place;          /* host [n_items]: where a touched item is in item[] */

    struct room values, logits, gradient; /* the input's; a block of rows of the output layer */
    int64_t logits_rows;
    struct room x16, dy16; /* operands in 16 bits */
    struct room nll;       /* [rows] double: a loss of each row */
    struct room top, top_scores, targets, rank;
    struct room exchange16, gathered, gathered_items, gathered_items_host, stage;
    double *sums, *host_sums; /* nll, kl: device; pinned */
    int *overflow, *host_overflow;
    cudaEvent_t summed, guarded, ready, reduced, finished;
    int is_guarded;

    float *pending; /* gradients whose sum is to begin: [n_pending] */
    size_t n_pending, n_begun;

    int fault;
    char fault_message[512];
};

/* ---- faults ---- */

static void keep_fault(struct cuda *cuda, int code) {
    if (!code || cuda->fault) return;
    cuda->fault = code;
    snprintf(cuda->fault_message, sizeof cuda->fault_message, "%s", error_message());
}

static int told(struct cuda *cuda) {
    return cuda->fault ? error_set(cuda->fault, "%s", cuda->fault_message) : 0;
}

/* Keeps a fault of a call; returns its code. */
static int kept(struct cuda *cuda, cudaError_t status, const char *call) {
    if (status == cudaSuccess) return 0;
    int code = error_set(EX_OSERR, "GPU: %.60s: %s", call, cudaGetErrorString(status));
    keep_fault(cuda, code);
    return code;
}
#define TRY(cuda, call) kept(cuda, call, #call)

/* Waits for an event; a rank that is lost, or that a sum failed, ends the wait too. */
static int wait_for(struct cuda *cuda, cudaEvent_t event) {
    if (cuda->fault) return told(cuda);
    if (!cuda->nccl) {
        TRY(cuda, cudaEventSynchronize(event));
    } else {
        keep_fault(cuda, nccl_wait(cuda->nccl, event));
    }
    TRY(cuda, cudaGetLastError()); /* of starting kernels */
    return told(cuda);
}

static int wait_all(struct cuda *cuda) {
    TRY(cuda, cudaEventRecord(cuda->finished, cuda->compute));
    return wait_for(cuda, cuda->finished);
}

static int check(struct backend *backend) {
    return wait_all(backend->state);
}

/* ---- memory ---- */

static int no_memory(const struct cuda *cuda, size_t bytes) {
    size_t is_free = 0, total = 0;
    char advice[128] = "";
    cudaGetLastError(); /* it is told here */
    cudaMemGetInfo(&is_free, &total);
    if (cuda->rows > 0) {
        int64_t fits = (int64_t)((double)cuda->rows * 0.5 * (double)is_free / (double)bytes);
        if (fits > cuda->rows / 2) fits = cuda->rows / 2;
        snprintf(advice, sizeof advice, ", for %lld users a rank; about %lld would fit: train.batch_size",
                 (long long)cuda->rows, (long long)(fits < 1 ? 1 : fits));
    } else {
        snprintf(advice, sizeof advice, ", for the model: smaller model.hidden or a larger GPU are wanted");
    }
    return error_set(EX_OSERR, "no GPU memory: %.1f MB asked for, %.1f MB of %.1f MB are free%s",
                     1e-6 * (double)bytes, 1e-6 * (double)is_free, 1e-6 * (double)total, advice);
}

/* At least so many bytes; what was in it is lost. NULL and a fault if there are none. */
static void *room(struct cuda *cuda, struct room *r, size_t bytes) {
    if (bytes <= r->bytes && r->at) return r->at;
    if (r->at) TRY(cuda, r->is_host ? cudaFreeHost(r->at) : cudaFree(r->at));
    r->at = NULL;
    r->bytes = 0;
    size_t wanted = bytes + bytes / 8 + 256; /* the next batch is a little larger */
    cudaError_t status = r->is_host ? cudaMallocHost(&r->at, wanted) : cudaMalloc(&r->at, wanted);
    if (status) {
        keep_fault(cuda, r->is_host ? error_memory("a batch (pinned)", wanted) : no_memory(cuda, wanted));
        r->at = NULL;
        return NULL;
    }
    r->bytes = wanted;
    return r->at;
}

static void free_room(struct room *r) {
    if (r->at && r->is_host) cudaFreeHost(r->at);
    if (r->at && !r->is_host) cudaFree(r->at);
    *r = (struct room){0};
}

static real *alloc(struct backend *backend, size_t n) {
    struct cuda *cuda = backend->state;
    size_t bytes = (n ? n : 1) * sizeof(float);
    void *p = NULL;
    struct block *grown = realloc(cuda->block, (size_t)(cuda->n_blocks + 1) * sizeof *grown);
    if (!grown) {
        error_memory("the list of GPU memory", sizeof *grown);
        return NULL;
    }
    cuda->block = grown;
    if (cudaMalloc(&p, bytes)) {
        no_memory(cuda, bytes);
        return NULL;
    }
    TRY(cuda, cudaMemsetAsync(p, 0, bytes, cuda->compute));
    cuda->block[cuda->n_blocks++] = (struct block){.at = p, .n = n};
    return p;
}

/* The memory that alloc gave, in which p is. */
static struct block *block_of(const struct cuda *cuda, const float *p) {
    for (int i = 0; i < cuda->n_blocks; i++) {
        struct block *b = &cuda->block[i];
        if (p >= b->at && p < b->at + b->n) return b;
    }
    return NULL;
}

static void release(struct backend *backend, real *memory) {
    struct cuda *cuda = backend->state;
    for (int i = 0; i < cuda->n_blocks; i++) {
        if (cuda->block[i].at != memory) continue;
        if (cuda->block[i].copy) cudaFree(cuda->block[i].copy);
        cuda->block[i] = cuda->block[--cuda->n_blocks];
        break;
    }
    TRY(cuda, cudaFree(memory)); /* waits for the device */
}

static void is_changed(struct cuda *cuda, const float *p) {
    struct block *b = block_of(cuda, p);
    if (b) b->is_fresh = 0;
}

static void copy_in(struct backend *backend, real *to, const real *from, size_t n) {
    struct cuda *cuda = backend->state;
    TRY(cuda, cudaMemcpyAsync(to, from, n * sizeof *to, cudaMemcpyHostToDevice, cuda->compute));
    wait_all(cuda); /* the caller's memory is his again */
    is_changed(cuda, to);
}

static void copy_out(struct backend *backend, real *to, const real *from, size_t n) {
    struct cuda *cuda = backend->state;
    if (wait_all(cuda)) return; /* a rank that is lost is noticed here, not below */
    TRY(cuda, cudaMemcpyAsync(to, from, n * sizeof *to, cudaMemcpyDeviceToHost, cuda->compute));
    wait_all(cuda);
}

static void zero(struct backend *backend, real *memory, size_t n) {
    struct cuda *cuda = backend->state;
    TRY(cuda, cudaMemsetAsync(memory, 0, n * sizeof *memory, cuda->compute));
    is_changed(cuda, memory);
}

/* ---- the batch ---- */

/* Cuts arrays from a block of memory, on host and device alike. */
struct cutter {
    char *host;
    const char *device;
    size_t used;
};

static void *cut(struct cutter *cutter, size_t bytes, const void *on_device) {
    void *host = cutter->host ? cutter->host + cutter->used : NULL;
    const char *device = cutter->host ? cutter->device + cutter->used : NULL;
    memcpy((void *)(uintptr_t)on_device, &device, sizeof device);
    cutter->used += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return host;
}

static int64_t words_of(int64_t n_items) {
    return (n_items + 63) / 64;
}

/* Marks the batch's items; returns how many there are. */
static int64_t mark_items(struct cuda *cuda, const struct csr *m) {
    int64_t words = words_of(cuda->n_items), n = 0;
    memset(cuda->touched, 0, (size_t)words * sizeof *cuda->touched);
    for (int64_t k = 0; k < cuda->nonzeros; k++) {
        cuda->touched[m->indices[k] >> 6] |= (uint64_t)1 << (m->indices[k] & 63);
    }
    for (int64_t w = 0; w < words; w++) n += __builtin_popcountll(cuda->touched[w]);
    return n;
}

/* The marked items ascending; place[] unless NULL. */
static int64_t list_items(const struct cuda *cuda, const uint64_t *marks, int32_t *item, int32_t *place) {
    int64_t n = 0;
    for (int64_t w = 0; w < words_of(cuda->n_items); w++) {
        for (uint64_t rest = marks[w]; rest; rest &= rest - 1) {
            int32_t i = (int32_t)(w * 64 + __builtin_ctzll(rest));
            if (place) place[i] = (int32_t)n;
            item[n++] = i;
        }
    }
    return n;
}

/* The batch by item: for each the rows that have it, ascending, and where in the batch. */
static void sort_by_item(struct cuda *cuda, const struct csr *m, int32_t *item, int32_t *start, int32_t *row,
                         int32_t *at) {
    int64_t n = list_items(cuda, cuda->touched, item, cuda->place);
    memset(start, 0, (size_t)(n + 1) * sizeof *start);
    for (int64_t k = 0; k < cuda->nonzeros; k++) start[cuda->place[m->indices[k]] + 1]++;
    for (int64_t i = 0; i < n; i++) start[i + 1] += start[i];
    for (int64_t r = 0; r < m->rows; r++) {
        for (int64_t k = m->indptr[r]; k < m->indptr[r + 1]; k++) {
            int32_t to = start[cuda->place[m->indices[k]]]++;
            row[to] = (int32_t)r;
            at[to] = (int32_t)k;
        }
    }
    for (int64_t i = n; i > 0; i--) start[i] = start[i - 1];
    start[0] = 0;
}

/* Lays the batch out in the slot; with memory, fills it. Returns its size. */
static size_t pack(struct cuda *cuda, struct slot *slot, const struct csr *m, const int64_t *users,
                   int is_filled) {
    struct cutter cutter = {is_filled ? slot->host.at : NULL, slot->device.at, 0};
    size_t rows = (size_t)m->rows, nonzeros = (size_t)cuda->nonzeros, touched = (size_t)cuda->n_touched;
    int64_t *host_users = cut(&cutter, rows * sizeof *host_users, &cuda->users);
    int32_t *start = cut(&cutter, (rows + 1) * sizeof *start, &cuda->start);
    int32_t *items = cut(&cutter, nonzeros * sizeof *items, &cuda->items);
    int32_t *item = cut(&cutter, touched * sizeof *item, &cuda->item);
    int32_t *item_start = cut(&cutter, (touched + 1) * sizeof *item_start, &cuda->item_start);
    int32_t *row = cut(&cutter, cuda->is_training ? nonzeros * sizeof *row : 0, &cuda->entry_row);
    int32_t *at = cut(&cutter, cuda->is_training ? nonzeros * sizeof *at : 0, &cuda->entry_at);
    if (!is_filled) return cutter.used;
    for (size_t r = 0; r <= rows; r++) start[r] = (int32_t)m->indptr[r];
    if (users) memcpy(host_users, users, rows * sizeof *users);
    if (nonzeros) memcpy(items, m->indices, nonzeros * sizeof *items);
    if (cuda->is_training) sort_by_item(cuda, m, item, item_start, row, at);
    return cutter.used;
}

static int load(struct backend *backend, const struct csr *rows, const int64_t *users, int for_training) {
    struct cuda *cuda = backend->state;
    /* the kernels of the last batch are all on the stream: behind them its slot is free */
    TRY(cuda, cudaEventRecord(cuda->slot[cuda->at].used, cuda->compute));
    cuda->at = (cuda->at + 1) % SLOTS;
    struct slot *slot = &cuda->slot[cuda->at];
    cuda->rows = rows->rows;
    cuda->nonzeros = csr_nonzeros(rows);
    cuda->is_training = for_training;
    if (cuda->nonzeros > INT32_MAX - 1) {
        return error_set(EX_OSERR,
                         "%lld interactions in the batch of a rank; want fewer than 2^31: a smaller "
                         "train.batch_size",
                         (long long)cuda->nonzeros);
    }
    cuda->n_touched = for_training ? mark_items(cuda, rows) : 0;
    size_t bytes = pack(cuda, slot, rows, users, 0);
    /* the last copy from this host memory, and the last use of this device memory */
    if (wait_for(cuda, slot->copied)) return told(cuda);
    TRY(cuda, cudaStreamWaitEvent(cuda->copy, slot->used, 0));
    if (!room(cuda, &slot->host, bytes) || !room(cuda, &slot->device, bytes)) return told(cuda);
    pack(cuda, slot, rows, users, 1);
    TRY(cuda, cudaMemcpyAsync(slot->device.at, slot->host.at, bytes, cudaMemcpyHostToDevice, cuda->copy));
    TRY(cuda, cudaEventRecord(slot->copied, cuda->copy));
    TRY(cuda, cudaStreamWaitEvent(cuda->compute, slot->copied, 0));
    room(cuda, &cuda->values, (size_t)cuda->nonzeros * sizeof(float));
    if (for_training) room(cuda, &cuda->nll, (size_t)cuda->rows * sizeof(double));
    return told(cuda);
}

static void input_values(struct backend *backend, const struct draw *draw, double p) {
    struct cuda *cuda = backend->state;
    kernel_input_values(cuda->compute, cuda->rows, cuda->start, cuda->items, cuda->users,
                        draw ? draw->seed : 0, draw ? draw->epoch : 0, draw ? (float)p : 0, cuda->values.at);
}

/* ---- products ---- */

/* The type of operands for the loaded batch's work. */
static enum number operand_type(const struct cuda *cuda) {
    return cuda->is_training ? cuda->type : NUMBER_FP32;
}

/* x[n] as an operand: itself, or in 16 bits. NULL and a fault if there is no memory. */
static const void *operand(struct cuda *cuda, struct room *r, const float *x, int64_t n) {
    enum number type = operand_type(cuda);
    if (type == NUMBER_FP32) return x;
    void *to = room(cuda, r, (size_t)n * 2);
    if (to) kernel_convert(cuda->compute, type, n, x, to);
    return to;
}

/* The same for weights, whose copy in 16 bits Adam keeps up to date. */
static const void *weights(struct cuda *cuda, const float *w) {
    enum number type = operand_type(cuda);
    struct block *b = block_of(cuda, w);
    if (type == NUMBER_FP32 || !b) return w;
    if (!b->copy && cudaMalloc(&b->copy, b->n * 2)) {
        keep_fault(cuda, no_memory(cuda, b->n * 2));
        b->copy = NULL;
        return NULL;
    }
    if (!b->is_fresh) kernel_convert(cuda->compute, type, (int64_t)b->n, b->at, b->copy);
    b->is_fresh = 1;
    return (const char *)b->copy + 2 * (w - b->at);
}

/* c = op(a) op(b) or c += that, from operands. */
static void multiply(struct cuda *cuda, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                     const void *a, const void *b, int accumulate, float *c) {
    const struct product product = {.type = operand_type(cuda),
                                    .use_tf32 = cuda->use_tf32 && cuda->is_training,
                                    .transpose_a = transpose_a,
                                    .transpose_b = transpose_b,
                                    .m = m,
                                    .n = n,
                                    .k = k,
                                    .accumulate = accumulate};
    if (a && b) keep_fault(cuda, matmul_run(cuda->matmul, cuda->compute, &product, a, b, c));
}

/* c = act(a op(b) + bias): in the product's epilogue where cuBLASLt has one, else after it. */
static void multiply_add(struct cuda *cuda, int transpose_b, int64_t m, int64_t n, int64_t k, const void *a,
                         const void *b, const float *bias, enum activation act, float *c) {
    struct product product = {.type = operand_type(cuda),
                              .use_tf32 = cuda->use_tf32 && cuda->is_training,
                              .transpose_b = transpose_b,
                              .m = m,
                              .n = n,
                              .k = k,
                              .bias = bias};
    if (!a || !b) return;
    if (act == ACTIVATION_NONE || act == ACTIVATION_RELU) {
        product.epilogue = act == ACTIVATION_NONE ? EPILOGUE_BIAS : EPILOGUE_BIAS_RELU;
        int code = matmul_run(cuda->matmul, cuda->compute, &product, a, b, c);
        if (code != EX_UNAVAILABLE) {
            keep_fault(cuda, code);
            return;
        }
    }
    multiply(cuda, 0, transpose_b, m, n, k, a, b, 0, c);
    kernel_activate(cuda->compute, m, n, bias, (int)act, c);
}

/* ---- layers ---- */

static void input_forward(struct backend *backend, const real *w, const real *b, int h, enum activation act,
                          real *y) {
    struct cuda *cuda = backend->state;
    kernel_input_forward(cuda->compute, cuda->rows, h, cuda->start, cuda->items, cuda->values.at, w, b,
                         (int)act, y);
}

static void input_backward(struct backend *backend, int h, enum activation act, const real *y, real *dy,
                           real *dw, real *db) {
    struct cuda *cuda = backend->state;
    kernel_deactivate(cuda->compute, NUMBER_FP32, cuda->rows * h, (int)act, y, dy, NULL);
    kernel_sum_rows(cuda->compute, NUMBER_FP32, cuda->rows, h, dy, 0, db);
    TRY(cuda, cudaMemsetAsync(dw, 0, (size_t)cuda->n_items * (size_t)h * sizeof *dw, cuda->compute));
    kernel_input_backward(cuda->compute, cuda->n_touched, h, cuda->item, cuda->item_start, cuda->entry_row,
                          cuda->entry_at, cuda->values.at, dy, dw);
}

static void dense_forward(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                          const real *w, const real *b, enum activation act, real *y) {
    struct cuda *cuda = backend->state;
    multiply_add(cuda, 0, rows, n_out, n_in, operand(cuda, &cuda->x16, x, rows * n_in), weights(cuda, w), b,
                 act, y);
}

static void dense_backward(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                           const real *w, const real *y, enum activation act, real *dy, real *dx, real *dw,
                           real *db) {
    struct cuda *cuda = backend->state;
    enum number type = operand_type(cuda);
    const void *dy_operand = dy, *x_operand = operand(cuda, &cuda->x16, x, rows * n_in);
    void *copy = type == NUMBER_FP32 ? NULL : room(cuda, &cuda->dy16, (size_t)(rows * n_out) * 2);
    kernel_deactivate(cuda->compute, type, rows * n_out, (int)act, y, dy, copy);
    if (type != NUMBER_FP32) dy_operand = copy;
    kernel_sum_rows(cuda->compute, NUMBER_FP32, rows, n_out, dy, 0, db);
    multiply(cuda, 1, 0, n_in, n_out, rows, x_operand, dy_operand, 0, dw);
    if (dx) multiply(cuda, 0, 1, rows, n_in, n_out, dy_operand, weights(cuda, w), 0, dx);
}

/* ---- the latent layer ---- */

static void latent_forward(struct backend *backend, int64_t rows, int n, const struct draw *draw,
                           const real *stats, real *noise, real *z) {
    struct cuda *cuda = backend->state;
    kernel_latent_forward(cuda->compute, rows, n, draw != NULL, draw ? draw->seed : 0, draw ? draw->epoch : 0,
                          cuda->users, stats, noise, z);
}

/* sums[which] on its way to the host. */
static void sum_losses(struct cuda *cuda, int64_t rows, int which) {
    kernel_total(cuda->compute, rows, cuda->nll.at, cuda->sums + which);
    TRY(cuda, cudaMemcpyAsync(cuda->host_sums, cuda->sums, 2 * sizeof *cuda->sums, cudaMemcpyDeviceToHost,
                              cuda->compute));
    TRY(cuda, cudaEventRecord(cuda->summed, cuda->compute));
}

static double latent_backward(struct backend *backend, int64_t rows, int n, double beta, double scale,
                              const real *stats, const real *noise, const real *dz, real *dstats) {
    struct cuda *cuda = backend->state;
    kernel_latent_backward(cuda->compute, rows, n, (float)(beta * scale), stats, noise, dz, dstats,
                           cuda->nll.at);
    sum_losses(cuda, rows, 1);
    return 0;
}

/* ---- the output layer ---- */

/* Memory for a block of rows of logits, and in 16 bits of their gradient: as many rows as there is room for.
 * Returns their number; 0 and a fault if there is none even for one. */
static int64_t prepare_output(struct cuda *cuda, int64_t rows) {
    int64_t block = LOGITS_MAX / cuda->n_items;
    if (block > rows) block = rows;
    if (block < 1) block = 1;
    if (block <= cuda->logits_rows) return block;
    cuda->logits_rows = 0;
    for (; !cuda->fault && block >= 1; block /= 2) {
        size_t n = (size_t)(block * cuda->n_items);
        int is_last = block == 1;
        room(cuda, &cuda->logits, n * sizeof(float));
        if (!cuda->fault && cuda->type != NUMBER_FP32) room(cuda, &cuda->gradient, n * 2);
        if (!cuda->fault) return cuda->logits_rows = block;
        if (!is_last) cuda->fault = 0; /* half of it, then */
    }
    return 0;
}

static double output_train(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                           const real *b, double scale, double smoothing, real *dx, real *dw, real *db) {
    struct cuda *cuda = backend->state;
    int64_t n = cuda->n_items, block = prepare_output(cuda, rows);
    enum number type = cuda->type;
    const void *w_operand = weights(cuda, w);
    const char *x_operand = operand(cuda, &cuda->x16, x, rows * h);
    size_t x_size = type == NUMBER_FP32 ? sizeof(float) : 2;
    if (cuda->fault) return 0;
    if (block > cuda->logits_rows) block = cuda->logits_rows;
    void *gradient = type == NUMBER_FP32 ? cuda->logits.at : cuda->gradient.at;
    TRY(cuda, cudaMemsetAsync(cuda->sums, 0, 2 * sizeof *cuda->sums, cuda->compute));
    for (int64_t first = 0; first < rows; first += block) {
        int64_t count = rows - first < block ? rows - first : block;
        const void *from = x_operand + (size_t)(first * h) * x_size;
        multiply(cuda, 0, 1, count, n, h, from, w_operand, 0, cuda->logits.at);
        kernel_softmax(cuda->compute, type, count, n, b, cuda->start + first, cuda->items, (float)scale,
                       (float)smoothing, cuda->logits.at, gradient, (double *)cuda->nll.at + first);
        kernel_sum_rows(cuda->compute, type, count, n, gradient, first > 0, db);
        multiply(cuda, 1, 0, n, h, count, gradient, from, first > 0, dw);
        multiply(cuda, 0, 0, count, h, n, gradient, w_operand, 0, dx + first * h);
    }
    sum_losses(cuda, rows, 0);
    return 0;
}

static int losses(struct backend *backend, double *nll, double *kl) {
    struct cuda *cuda = backend->state;
    int code = wait_for(cuda, cuda->summed);
    *nll = code ? 0 : cuda->host_sums[0];
    *kl = code ? 0 : cuda->host_sums[1];
    return code;
}

static void output_scores(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                          const real *b, real *scores) {
    struct cuda *cuda = backend->state;
    multiply_add(cuda, 1, rows, cuda->n_items, h, operand(cuda, &cuda->x16, x, rows * h), weights(cuda, w), b,
                 ACTIVATION_NONE, scores);
}

/* ---- ranking ---- */

struct candidate {
    float score;
    int32_t item;
};

static int by_rank(const void *a, const void *b) {
    const struct candidate *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->item < 0 || (y->item >= 0 && x->item > y->item) ? 1 : -1;
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

static void best_ranks(struct cuda *cuda, int64_t rows, const real *scores, const struct csr *targets,
                       int64_t *first_hit) {
    int64_t n = csr_nonzeros(targets);
    size_t starts = (size_t)(rows + 1) * sizeof(int32_t), bytes = starts + (size_t)n * sizeof(int32_t);
    int32_t *host = malloc(bytes), *device = room(cuda, &cuda->targets, bytes);
    int64_t *rank = room(cuda, &cuda->rank, (size_t)rows * sizeof *rank);
    if (!host) keep_fault(cuda, error_memory("the targets", bytes));
    if (host && device && rank) {
        for (int64_t r = 0; r <= rows; r++) host[r] = (int32_t)targets->indptr[r];
        if (n) memcpy(host + rows + 1, targets->indices, (size_t)n * sizeof *host);
        TRY(cuda, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, cuda->compute));
        kernel_best_rank(cuda->compute, rows, cuda->n_items, device, device + rows + 1, scores, rank);
        TRY(cuda, cudaMemcpyAsync(first_hit, rank, (size_t)rows * sizeof *rank, cudaMemcpyDeviceToHost,
                                  cuda->compute));
        wait_all(cuda);
    }
    free(host);
}

static void top_k(struct backend *backend, int64_t rows, real *scores, int k, const struct csr *targets,
                  int32_t *top, real *top_scores, int64_t *first_hit) {
    struct cuda *cuda = backend->state;
    size_t n = (size_t)rows * (size_t)k;
    int32_t *device_top = room(cuda, &cuda->top, n * sizeof *device_top);
    float *device_scores = room(cuda, &cuda->top_scores, n * sizeof *device_scores);
    real *host_scores = top_scores ? top_scores : malloc((n ? n : 1) * sizeof *host_scores);
    if (!host_scores) keep_fault(cuda, error_memory("a ranking", n * sizeof *host_scores));
    if (!cuda->fault) {
        kernel_mask(cuda->compute, rows, cuda->n_items, cuda->start, cuda->items, scores);
        kernel_top_k(cuda->compute, rows, cuda->n_items, k, scores, device_top, device_scores);
        TRY(cuda, cudaMemcpyAsync(top, device_top, n * sizeof *top, cudaMemcpyDeviceToHost, cuda->compute));
        TRY(cuda, cudaMemcpyAsync(host_scores, device_scores, n * sizeof *host_scores, cudaMemcpyDeviceToHost,
                                  cuda->compute));
        if (targets && first_hit) best_ranks(cuda, rows, scores, targets, first_hit);
        if (wait_all(cuda) == 0) keep_fault(cuda, sort_rows(rows, k, top, host_scores));
    }
    if (!top_scores) free(host_scores);
}

/* ---- over the ranks ---- */

/* Over MPI: through pinned memory, a piece at a time. */
static void sum_over_mpi(struct cuda *cuda, float *values, size_t n) {
    float *stage = room(cuda, &cuda->stage, STAGE * sizeof *stage);
    if (!stage) comm_abort(cuda->comm, cuda->fault); /* the others wait for our part */
    for (size_t i = 0; i < n; i += STAGE) {
        size_t count = n - i < STAGE ? n - i : STAGE, bytes = count * sizeof *stage;
        TRY(cuda, cudaMemcpyAsync(stage, values + i, bytes, cudaMemcpyDeviceToHost, cuda->compute));
        wait_all(cuda);
        comm_sum_real(cuda->comm, stage, count);
        TRY(cuda, cudaMemcpyAsync(values + i, stage, bytes, cudaMemcpyHostToDevice, cuda->compute));
        wait_all(cuda);
    }
}

/* Begins the sum of values[n], which the compute stream has been told to set, on the exchange stream. */
static void begin_sum(struct cuda *cuda, float *values, size_t n) {
    enum number type = cuda->compute_sum ? cuda->type : NUMBER_FP32;
    void *travels = values;
    if (n == 0) return;
    TRY(cuda, cudaEventRecord(cuda->ready, cuda->compute));
    TRY(cuda, cudaStreamWaitEvent(cuda->exchange, cuda->ready, 0));
    if (type != NUMBER_FP32) {
        travels = room(cuda, &cuda->exchange16, n * 2);
        if (!travels) comm_abort(cuda->comm, cuda->fault);
        kernel_convert(cuda->exchange, type, (int64_t)n, values, travels);
    }
    keep_fault(cuda, nccl_sum(cuda->nccl, cuda->exchange, travels, n, type));
    if (type != NUMBER_FP32) kernel_widen(cuda->exchange, type, (int64_t)n, travels, values);
}

/* From here on the compute stream has what was begun. */
static void end_sums(struct cuda *cuda) {
    TRY(cuda, cudaEventRecord(cuda->reduced, cuda->exchange));
    TRY(cuda, cudaStreamWaitEvent(cuda->compute, cuda->reduced, 0));
}

static void sum(struct cuda *cuda, float *values, size_t n) {
    if (cuda->nccl) {
        begin_sum(cuda, values, n);
        end_sums(cuda);
    } else {
        sum_over_mpi(cuda, values, n);
    }
}

static void begin_pending(struct cuda *cuda) {
    begin_sum(cuda, cuda->pending, cuda->n_pending);
    cuda->n_begun += cuda->n_pending;
    cuda->n_pending = 0;
}

/* The layers come from the last to the first, each right before the one that came before it: small ones are
 * put together. */
static void gradient_ready(struct backend *backend, real *values, size_t n) {
    struct cuda *cuda = backend->state;
    if (!cuda->nccl) return;
    if (cuda->n_pending && values + n != cuda->pending) begin_pending(cuda);
    cuda->pending = values;
    cuda->n_pending += n;
    if (cuda->n_pending >= BUCKET_MIN) begin_pending(cuda);
}

static void all_reduce(struct backend *backend, const struct comm *comm, real *values, size_t n) {
    struct cuda *cuda = backend->state;
    if (!cuda->nccl) {
        if (comm->size > 1) sum_over_mpi(cuda, values, n);
        return;
    }
    begin_pending(cuda);
    if (cuda->n_begun == 0) begin_sum(cuda, values, n);
    cuda->n_begun = 0;
    end_sums(cuda);
}

/* The rows that some rank has are laid together, summed and put back; all others are zero already. */
static void input_all_reduce(struct backend *backend, const struct comm *comm, int h, real *dw) {
    struct cuda *cuda = backend->state;
    if (comm->size == 1) return;
    size_t words = (size_t)words_of(cuda->n_items);
    memcpy(cuda->all, cuda->touched, words * sizeof *cuda->all);
    comm_or(comm, cuda->all, words);
    int64_t n = 0, piece = EXCHANGE_MAX / h;
    for (size_t w = 0; w < words; w++) n += __builtin_popcountll(cuda->all[w]);
    if (piece < 1) piece = 1;
    if (piece > n) piece = n;
    size_t bytes = (size_t)n * sizeof(int32_t);
    int32_t *host = room(cuda, &cuda->gathered_items_host, bytes),
            *item = room(cuda, &cuda->gathered_items, bytes);
    float *buffer = room(cuda, &cuda->gathered, (size_t)(piece * h) * sizeof *buffer);
    if (!host || !item || !buffer) comm_abort(comm, cuda->fault); /* the others wait for our part */
    list_items(cuda, cuda->all, host, NULL);
    TRY(cuda, cudaMemcpyAsync(item, host, bytes, cudaMemcpyHostToDevice, cuda->compute));
    for (int64_t first = 0; first < n; first += piece) {
        int64_t count = n - first < piece ? n - first : piece;
        kernel_gather_rows(cuda->compute, count, h, item + first, dw, buffer);
        sum(cuda, buffer, (size_t)(count * h));
        kernel_scatter_rows(cuda->compute, count, h, item + first, buffer, dw);
    }
}

/* ---- the update ---- */

static void guard(struct backend *backend, const real *g, size_t n) {
    struct cuda *cuda = backend->state;
    TRY(cuda, cudaMemsetAsync(cuda->overflow, 0, sizeof *cuda->overflow, cuda->compute));
    kernel_guard(cuda->compute, (int64_t)n, g, cuda->overflow);
    TRY(cuda, cudaMemcpyAsync(cuda->host_overflow, cuda->overflow, sizeof *cuda->overflow,
                              cudaMemcpyDeviceToHost, cuda->compute));
    TRY(cuda, cudaEventRecord(cuda->guarded, cuda->compute));
    cuda->is_guarded = 1;
}

static int overflowed(struct backend *backend) {
    struct cuda *cuda = backend->state;
    return cuda->is_guarded && wait_for(cuda, cuda->guarded) == 0 && *cuda->host_overflow;
}

static void adam(struct backend *backend, const struct adam_step *step, size_t n, real *p, const real *g,
                 real *m, real *v) {
    struct cuda *cuda = backend->state;
    const struct kernel_adam constants = {
        .beta1 = (float)step->beta1,
        .beta2 = (float)step->beta2,
        .rest1 = (float)(1 - step->beta1),
        .rest2 = (float)(1 - step->beta2),
        .rate = (float)(step->learning_rate / step->correction1),
        .unbias = (float)(1 / sqrt(step->correction2)),
        .epsilon = (float)step->epsilon,
        .coupled = step->decoupled ? 0 : (float)step->weight_decay,
        .shrink = (float)(step->decoupled ? 1 - step->learning_rate * step->weight_decay : 1),
        .unscale = (float)step->unscale,
    };
    const struct block *b = block_of(cuda, p);
    char *copy = b && b->copy && b->is_fresh ? (char *)b->copy + 2 * (p - b->at) : NULL;
    kernel_adam(cuda->compute, &constants, cuda->type, (int64_t)n, p, g, m, v, copy,
                cuda->is_guarded ? cuda->overflow : NULL);
}

/* ---- birth and death ---- */

static void destroy(struct backend *backend) {
    struct cuda *cuda = backend->state;
    if (!cuda) return;
    nccl_stop(cuda->nccl, cuda->fault != 0); /* first: it may be what the device waits for */
    struct room *rooms[] = {&cuda->values,
                            &cuda->logits,
                            &cuda->gradient,
                            &cuda->x16,
                            &cuda->dy16,
                            &cuda->nll,
                            &cuda->top,
                            &cuda->top_scores,
                            &cuda->targets,
                            &cuda->rank,
                            &cuda->exchange16,
                            &cuda->gathered,
                            &cuda->gathered_items,
                            &cuda->gathered_items_host,
                            &cuda->stage};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) free_room(rooms[i]);
    for (int i = 0; i < SLOTS; i++) {
        struct slot *slot = &cuda->slot[i];
        free_room(&slot->host);
        free_room(&slot->device);
        if (slot->copied) cudaEventDestroy(slot->copied);
        if (slot->used) cudaEventDestroy(slot->used);
    }
    cudaEvent_t events[] = {cuda->summed, cuda->guarded, cuda->ready, cuda->reduced, cuda->finished};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (events[i]) cudaEventDestroy(events[i]);
    }
    matmul_destroy(cuda->matmul);
    for (int i = 0; i < cuda->n_blocks; i++) {
        cudaFree(cuda->block[i].at);
        if (cuda->block[i].copy) cudaFree(cuda->block[i].copy);
    }
    if (cuda->sums) cudaFree(cuda->sums);
    if (cuda->overflow) cudaFree(cuda->overflow);
    if (cuda->host_sums) cudaFreeHost(cuda->host_sums);
    if (cuda->host_overflow) cudaFreeHost(cuda->host_overflow);
    if (cuda->compute) cudaStreamDestroy(cuda->compute);
    if (cuda->copy) cudaStreamDestroy(cuda->copy);
    if (cuda->exchange) cudaStreamDestroy(cuda->exchange);
    free(cuda->block);
    free(cuda->touched);
    free(cuda->all);
    free(cuda->place);
    free(cuda);
    *backend = (struct backend){0};
}

static int make_streams(struct cuda *cuda) {
    cudaStream_t *streams[] = {&cuda->compute, &cuda->copy, &cuda->exchange};
    cudaEvent_t *events[] = {&cuda->summed,       &cuda->guarded,        &cuda->ready,
                             &cuda->reduced,      &cuda->finished,       &cuda->slot[0].copied,
                             &cuda->slot[0].used, &cuda->slot[1].copied, &cuda->slot[1].used};
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
        if (TRY(cuda, cudaStreamCreateWithFlags(streams[i], cudaStreamNonBlocking))) return cuda->fault;
    }
    for (size_t i = 0; i < sizeof events / sizeof *events; i++) {
        if (TRY(cuda, cudaEventCreateWithFlags(events[i], cudaEventDisableTiming))) return cuda->fault;
    }
    void **device[] = {(void **)&cuda->sums, (void **)&cuda->overflow},
         **host[] = {(void **)&cuda->host_sums, (void **)&cuda->host_overflow};
    for (size_t i = 0; i < 2; i++) {
        if (cudaMalloc(device[i], 2 * sizeof(double))) return no_memory(cuda, 2 * sizeof(double));
        if (TRY(cuda, cudaMallocHost(host[i], 2 * sizeof(double)))) return cuda->fault;
    }
    return 0;
}

/* The current GPU: is it new enough, and is there code for it? */
static int check_gpu(struct backend *backend, int device) {
    struct cudaDeviceProp gpu;
    cudaError_t status = cudaGetDeviceProperties(&gpu, device);
    if (status) return error_set(EX_OSERR, "GPU %d: %s", device, cudaGetErrorString(status));
    if (gpu.major * 10 + gpu.minor < CAPABILITY_MIN) {
        return error_set(EX_OSERR,
                         "GPU %d, %s: too old: compute capability %d.%d, tf32 and bf16 want 8.0; device: cpu "
                         "does without",
                         device, gpu.name, gpu.major, gpu.minor);
    }
    status = kernel_probe();
    if (status) {
        cudaGetLastError();
        return error_set(
            EX_OSERR,
            "GPU %d, %s: this program has no code for compute capability %d.%d (%s): build it with "
            "make CUDA_ARCH=sm_%d%d",
            device, gpu.name, gpu.major, gpu.minor, cudaGetErrorString(status), gpu.major, gpu.minor);
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
    return check_gpu(backend, *device);
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
        MPI_Allgather(&gpu.uuid, (int)size, MPI_BYTE, all, (int)size, MPI_BYTE, comm->mpi);
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

static int set_up(const struct backend_options *o, struct backend *backend) {
    struct cuda *cuda = calloc(1, sizeof *cuda);
    backend->state = cuda;
    if (!cuda) return error_memory("the CUDA backend", sizeof *cuda);
    static const enum number types[] = {[PRECISION_FP32] = NUMBER_FP32,
                                        [PRECISION_TF32] = NUMBER_FP32,
                                        [PRECISION_BF16] = NUMBER_BF16,
                                        [PRECISION_FP16] = NUMBER_FP16};
    size_t words = (size_t)words_of(o->n_items);
    cuda->n_items = o->n_items;
    cuda->type = types[o->precision];
    cuda->use_tf32 = o->precision == PRECISION_TF32;
    cuda->compute_sum = o->comm_type == COMM_COMPUTE;
    cuda->comm = o->comm;
    cuda->slot[0].host.is_host = cuda->slot[1].host.is_host = cuda->gathered_items_host.is_host =
        cuda->stage.is_host = 1;
    cuda->touched = calloc(words, sizeof *cuda->touched);
    cuda->all = calloc(words, sizeof *cuda->all);
    cuda->place = calloc((size_t)o->n_items, sizeof *cuda->place);
    if (!cuda->touched || !cuda->all || !cuda->place) {
        return error_memory("the CUDA backend", words * 16 + (size_t)o->n_items * sizeof *cuda->place);
    }
    int code = make_streams(cuda);
    return code ? code : matmul_create(&cuda->matmul);
}

static void describe(const struct backend_options *o, struct backend *backend) {
    static const char *const precisions[] = {"fp32", "tf32", "bf16", "fp16"};
    const struct cuda *cuda = backend->state;
    char matmul[64], nccl[64];
    int driver = 0;
    size_t used = strlen(backend->describe);
    cudaDriverGetVersion(&driver);
    matmul_describe(matmul, sizeof matmul);
    nccl_describe(nccl, sizeof nccl);
    snprintf(backend->describe + used, sizeof backend->describe - used,
             ", CUDA %d.%d, driver for %d.%d, %s, %s%s%s", CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10,
             driver / 1000, driver % 1000 / 10, matmul, precisions[o->precision], cuda->nccl ? ", " : "",
             cuda->nccl ? nccl : "");
}

int backend_cuda_create(const struct backend_options *options, struct backend *backend) {
    *backend = (struct backend){
        .name = "cuda",
        .precision = options->precision,
        .destroy = destroy,
        .check = check,
        .alloc = alloc,
        .release = release,
        .copy_in = copy_in,
        .copy_out = copy_out,
        .zero = zero,
        .load = load,
        .input_values = input_values,
        .input_forward = input_forward,
        .input_backward = input_backward,
        .dense_forward = dense_forward,
        .dense_backward = dense_backward,
        .latent_forward = latent_forward,
        .latent_backward = latent_backward,
        .output_train = output_train,
        .output_scores = output_scores,
        .top_k = top_k,
        .all_reduce = all_reduce,
        .input_all_reduce = input_all_reduce,
        .adam = adam,
        .guard = guard,
        .overflowed = overflowed,
        .losses = losses,
        .gradient_ready = gradient_ready,
    };
    int device = 0, code = choose_gpu(options, backend, &device);
    if (options->comm) code = comm_agree(options->comm, code);
    if (!code && options->comm && options->comm_kind != COMM_MPI) code = check_sharing(options->comm, device);
    if (code) return code;
    code = set_up(options, backend);
    if (options->comm) code = comm_agree(options->comm, code);
    int use_nccl = options->comm && options->comm_kind != COMM_MPI &&
                   (options->comm->size > 1 || options->comm_kind == COMM_NCCL) &&
                   (options->comm_kind == COMM_NCCL || nccl_is_there());
    if (!code && use_nccl) code = nccl_start(options->comm, &((struct cuda *)backend->state)->nccl);
    if (code) {
        struct cuda *cuda = backend->state;
        if (cuda) destroy(backend);
        *backend = (struct backend){0};
        return code;
    }
    describe(options, backend);
    return 0;
}
