/* Faults and memory of the CUDA backend; see cuda.h. */
#include <stdio.h>
#include <stdlib.h>

#include "cuda.h"
#include "error.h"

/* ---- faults ---- */

void cuda_keep_fault(struct cuda *cuda, int code) {
    if (!code || cuda->fault) return;
    cuda->fault = code;
    snprintf(cuda->fault_message, sizeof cuda->fault_message, "%s", error_message());
}

int cuda_told(struct cuda *cuda) {
    return cuda->fault ? error_set(cuda->fault, "%s", cuda->fault_message) : 0;
}

int cuda_kept(struct cuda *cuda, cudaError_t status, const char *call) {
    if (status == cudaSuccess) return 0;
    if (cuda->fault) return cuda_told(cuda); /* this one may come of it */
    int code = error_set(EX_OSERR, "GPU: %.60s: %s", call, cudaGetErrorString(status));
    cuda_keep_fault(cuda, code);
    return code;
}

int cuda_wait_for(struct cuda *cuda, cudaEvent_t event) {
    if (cuda->fault) return cuda_told(cuda);
    struct nccl *nccl = cuda->nccl ? cuda->nccl : cuda->items_nccl;
    if (!nccl) {
        TRY(cuda, cudaEventSynchronize(event));
    } else {
        cuda_keep_fault(cuda, nccl_wait(nccl, event));
    }
    TRY(cuda, cudaGetLastError()); /* of starting kernels */
    return cuda_told(cuda);
}

int cuda_wait_all(struct cuda *cuda) {
    TRY(cuda, cudaEventRecord(cuda->finished, cuda->compute));
    return cuda_wait_for(cuda, cuda->finished);
}

int cuda_no_memory(const struct cuda *cuda, size_t bytes) {
    size_t is_free = 0, total = 0;
    char advice[128] = "";
    int64_t rows = cuda->batch.rows;
    cudaGetLastError(); /* it is told here */
    cudaMemGetInfo(&is_free, &total);
    if (rows > 0) {
        int64_t fits = (int64_t)((double)rows * 0.5 * (double)is_free / (double)bytes);
        if (fits > rows / 2) fits = rows / 2;
        snprintf(advice, sizeof advice, ", for %lld users a rank; about %lld would fit: train.batch_size",
                 (long long)rows, (long long)(fits < 1 ? 1 : fits));
    } else {
        snprintf(advice, sizeof advice, ", for the model: smaller model.hidden or a larger GPU are wanted");
    }
    return error_set(EX_OSERR, "no GPU memory: %.1f MB asked for, %.1f MB of %.1f MB are free%s",
                     1e-6 * (double)bytes, 1e-6 * (double)is_free, 1e-6 * (double)total, advice);
}

/* ---- memory ---- */

/* cudaFree waits for the device, and a sum that another rank never comes to would keep it for ever: sums are
 * waited for with patience first. After a fault memory stays: freeing it is the end's, when they are given
 * up. */
static void free_memory(struct cuda *cuda, void *p, int is_host) {
    if (cuda->nccl || cuda->items_nccl) {
        cuda_wait_all(cuda);
        if (cuda->nccl) {
            TRY(cuda, cudaEventRecord(cuda->reduced, cuda->exchange));
            cuda_wait_for(cuda, cuda->reduced);
        }
        if (cuda->fault) return;
    }
    TRY(cuda, is_host ? cudaFreeHost(p) : cudaFree(p));
}

void *cuda_room(struct cuda *cuda, struct room *r, size_t bytes) {
    if (bytes <= r->bytes && r->at) return r->at;
    cuda->memory++;
    if (r->at) free_memory(cuda, r->at, r->is_host);
    r->at = NULL;
    r->bytes = 0;
    size_t wanted = bytes + bytes / 8 + 256; /* the next batch is a little larger */
    cudaError_t status = r->is_host ? cudaMallocHost(&r->at, wanted) : cudaMalloc(&r->at, wanted);
    if (status) {
        cuda_keep_fault(cuda,
                        r->is_host ? error_memory("a batch (pinned)", wanted) : cuda_no_memory(cuda, wanted));
        r->at = NULL;
        return NULL;
    }
    r->bytes = wanted;
    return r->at;
}

void cuda_free_room(struct room *r) {
    if (r->at && r->is_host) cudaFreeHost(r->at);
    if (r->at && !r->is_host) cudaFree(r->at);
    *r = (struct room){0};
}

real *cuda_alloc(struct backend *backend, size_t n) {
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
        cuda_no_memory(cuda, bytes);
        return NULL;
    }
    TRY(cuda, trace_set(p, 0, bytes, cuda->compute));
    cuda->block[cuda->n_blocks++] = (struct block){.at = p, .n = n, .born = cuda->born++};
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

/* The numbers of a block are in its own memory again, too. */
static void widen(struct cuda *cuda, struct block *b) {
    if (!b || !b->is_short) return;
    kernel_widen(cuda->compute, b->type, (int64_t)b->n, b->copy, b->at);
    b->is_short = 0;
}

void cuda_release(struct backend *backend, real *memory) {
    struct cuda *cuda = backend->state;
    for (int i = 0; i < cuda->n_blocks; i++) {
        if (cuda->block[i].at != memory) continue;
        if (cuda->block[i].copy) free_memory(cuda, cuda->block[i].copy, 0);
        if (cuda->block[i].born < cuda->recorded) cuda->memory++;
        cuda->block[i] = cuda->block[--cuda->n_blocks];
        break;
    }
    free_memory(cuda, memory, 0);
}

void cuda_copy_in(struct backend *backend, real *to, const real *from, size_t n) {
    struct cuda *cuda = backend->state;
    widen(cuda, block_of(cuda, to)); /* the rest of it stays */
    TRY(cuda, trace_copy(to, from, n * sizeof *to, cudaMemcpyHostToDevice, cuda->compute));
    cuda_wait_all(cuda); /* the caller's memory is his again */
    cuda_is_changed(cuda, to);
    cuda->memory++; /* a recording does not make copies in 16 bits anew */
}

void cuda_copy_out(struct backend *backend, real *to, const real *from, size_t n) {
    struct cuda *cuda = backend->state;
    cuda_settle_sums(cuda);
    cuda_trace_pause(cuda);
    if (cuda_wait_all(cuda)) return; /* a rank that is lost is noticed here, not below */
    widen(cuda, block_of(cuda, from));
    TRY(cuda, trace_copy(to, from, n * sizeof *to, cudaMemcpyDeviceToHost, cuda->compute));
    cuda_wait_all(cuda);
}

void cuda_zero(struct backend *backend, real *memory, size_t n) {
    struct cuda *cuda = backend->state;
    widen(cuda, block_of(cuda, memory));
    TRY(cuda, trace_set(memory, 0, n * sizeof *memory, cuda->compute));
    cuda_is_changed(cuda, memory);
    cuda->memory++;
}

/* ---- copies in 16 bits ---- */

enum number cuda_operand_type(const struct cuda *cuda) {
    return cuda->is_training ? cuda->type : NUMBER_FP32;
}

/* Where in the copy of its block x is; NULL and a fault if there is no memory for one. */
static void *copy_at(struct cuda *cuda, struct block *b, const float *x) {
    if (!b->copy) {
        b->is_fresh = 0;
        if (cudaMalloc(&b->copy, b->n * 2)) {
            cuda_keep_fault(cuda, cuda_no_memory(cuda, b->n * 2));
            b->copy = NULL;
            return NULL;
        }
    }
    return (char *)b->copy + 2 * (x - b->at);
}

const void *cuda_operand(struct cuda *cuda, const float *x) {
    enum number type = cuda_operand_type(cuda);
    struct block *b = block_of(cuda, x);
    if (type == NUMBER_FP32 || !b) return x;
    void *copy = copy_at(cuda, b, x);
    if (!copy) return NULL;
    if (!b->is_fresh) kernel_convert(cuda->compute, type, (int64_t)b->n, b->at, b->copy);
    b->is_fresh = 1;
    b->type = type;
    return copy;
}

void *cuda_copy_of(struct cuda *cuda, float *x) {
    struct block *b = block_of(cuda, x);
    if (cuda_operand_type(cuda) == NUMBER_FP32 || !b) {
        cuda_is_changed(cuda, x);
        return NULL;
    }
    void *copy = copy_at(cuda, b, x);
    b->is_fresh = copy != NULL;
    b->is_short = 0;
    b->type = cuda->type;
    return copy;
}

void *cuda_short_copy_of(struct cuda *cuda, float *x, float **kept) {
    void *copy = cuda_copy_of(cuda, x);
    *kept = x;
    if (!copy || !cuda->tuning.short_activations) return copy;
    block_of(cuda, x)->is_short = 1;
    *kept = NULL;
    return copy;
}

void *cuda_moments_of(struct cuda *cuda, float *x) {
    struct block *b = block_of(cuda, x);
    if (!cuda->tuning.short_moments || !b) return x;
    void *copy = copy_at(cuda, b, x);
    if (!copy) return NULL;
    if (!b->is_short) kernel_convert(cuda->compute, NUMBER_BF16, (int64_t)b->n, b->at, b->copy);
    b->is_fresh = b->is_short = 1;
    b->type = NUMBER_BF16;
    return copy;
}

const void *cuda_numbers_of(const struct cuda *cuda, const float *x, enum number *type) {
    const struct block *b = block_of(cuda, x);
    *type = b && b->is_short ? b->type : NUMBER_FP32;
    return *type == NUMBER_FP32 ? (const void *)x : (const char *)b->copy + 2 * (x - b->at);
}

void *cuda_fresh_copy(const struct cuda *cuda, const float *x) {
    struct block *b = block_of(cuda, x);
    return b && b->copy && b->is_fresh ? (char *)b->copy + 2 * (x - b->at) : NULL;
}

void cuda_is_changed(struct cuda *cuda, const float *x) {
    struct block *b = block_of(cuda, x);
    if (b) b->is_fresh = b->is_short = 0;
}
