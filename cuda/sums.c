/* Sums of gradients over the ranks; see cuda.h.
 *
 * Every rank has to ask NCCL for the same sums in the same order, whether it issues a step, records it or
 * replays it. So one rule cuts the gradients: they are told from the last layer to the first, and a sum
 * begins when VAECF_SUM_MIN numbers are together, or when the next ones do not lie right before them. A
 * recording keeps the cuts as they came. What is left then goes with the input layer's weights, which come
 * last. */
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "environment.h"
#include "error.h"

enum {
    EXCHANGE_MAX = 1 << 24, /* numbers of one piece of the input layer's sum over the ranks */
    STAGE = 1 << 22,        /* numbers that go over MPI at a time */
    ALIGNED = 64,           /* numbers: so many at most lie between two tensors */
#ifndef VAECF_SMALL_PIECES
    SUM_MIN = 1 << 20
#else
    SUM_MIN = 1 << 12
#endif
};

size_t cuda_sum_min(void) {
    const char *text = environment("VAECF_SUM_MIN");
    long long n = text ? atoll(text) : 0;
    return n > 0 ? (size_t)n : SUM_MIN;
}

void cuda_sum_over_mpi(struct cuda *cuda, const struct comm *comm, float *values, size_t n) {
    float *stage = cuda_room(cuda, &cuda->stage, STAGE * sizeof *stage);
    if (!stage) comm_abort(comm, cuda->fault); /* the others wait for our part */
    for (size_t i = 0; i < n; i += STAGE) {
        size_t count = n - i < STAGE ? n - i : STAGE, bytes = count * sizeof *stage;
        TRY(cuda, trace_copy(stage, values + i, bytes, cudaMemcpyDeviceToHost, cuda->compute));
        cuda_wait_all(cuda);
        comm_sum_real(comm, stage, count);
        TRY(cuda, trace_copy(values + i, stage, bytes, cudaMemcpyHostToDevice, cuda->compute));
        cuda_wait_all(cuda);
    }
}

/* Begins the sum of values[n], which the compute stream has been told to set, on the exchange stream. After a
 * fault nothing more is asked of the others: they are told at the end of the step. */
static void begin_sum(struct cuda *cuda, float *values, size_t n) {
    enum number type = cuda->compute_sum ? cuda->type : NUMBER_FP32;
    void *travels = values;
    if (n == 0 || cuda->fault) return;
    TRY(cuda, cudaEventRecord(cuda->ready, cuda->compute));
    TRY(cuda, cudaStreamWaitEvent(cuda->exchange, cuda->ready, 0));
    if (type != NUMBER_FP32) {
        travels = cuda_room(cuda, &cuda->exchange16, n * 2);
        if (!travels) return;
        kernel_convert(cuda->exchange, type, (int64_t)n, values, travels);
    }
    cuda_keep_fault(cuda, nccl_sum(cuda->nccl, cuda->exchange, travels, n, type));
    if (type != NUMBER_FP32) kernel_widen(cuda->exchange, type, (int64_t)n, travels, values);
}

/* A fault after the ranks have told each other that the step is well: the others wait for our part of its
 * sums, and the host may wait with them. The job ends here, with the reason. */
static void end_if_failed(struct cuda *cuda) {
    if (cuda->fault && cuda->comm->size > 1) comm_abort(cuda->comm, cuda_told(cuda));
}

/* From here on the compute stream has what was begun. */
static void end_sums(struct cuda *cuda, cudaEvent_t event) {
    TRY(cuda, cudaEventRecord(event, cuda->exchange));
    TRY(cuda, cudaStreamWaitEvent(cuda->compute, event, 0));
}

/* ---- the pieces ---- */

void cuda_begin_pending(struct cuda *cuda) {
    begin_sum(cuda, cuda->pending, cuda->n_pending);
    cuda->n_pending = 0;
}

static void cut(struct cuda *cuda) {
    if (cuda->is_recording) {
        cuda_cut_recording(cuda);
    } else {
        cuda_begin_pending(cuda);
    }
}

static void add(struct cuda *cuda, float *values, size_t n) {
    SPAN("sum over the ranks");
    if (!cuda->nccl || n == 0) return;
    if (cuda->n_pending && values + n != cuda->pending) cut(cuda);
    cuda->pending = values;
    cuda->n_pending += n;
    if (cuda->n_pending >= cuda->sum_min) cut(cuda);
}

void cuda_gradient_ready(struct backend *backend, real *values, size_t n) {
    add(backend->state, values, n);
}

void cuda_gradient_follows(struct backend *backend, real *values, size_t n) {
    struct cuda *cuda = backend->state;
    cuda->follows = values;
    cuda->n_follows = n;
}

void cuda_gradient_is_there(struct cuda *cuda) {
    add(cuda, cuda->follows, cuda->n_follows);
    cuda->n_follows = 0;
}

/* ---- the end of a step ---- */

void cuda_settle_sums(struct cuda *cuda) {
    if (cuda->n_late) TRY(cuda, cudaStreamWaitEvent(cuda->compute, cuda->late, 0));
    cuda->n_late = 0;
}

size_t cuda_late_sums(struct cuda *cuda, const float *values, size_t n) {
    if (cuda->late_values != values) cuda_settle_sums(cuda);
    return cuda->n_late < n ? cuda->n_late : n;
}

/* The last piece's sum is waited for by Adam, which has other gradients to begin with. */
void cuda_all_reduce(struct backend *backend, const struct comm *comm, real *values, size_t n) {
    struct cuda *cuda = backend->state;
    SPAN("sum over the ranks");
    if (!cuda->nccl) {
        if (comm->size > 1) cuda_sum_over_mpi(cuda, comm, values, n);
        return;
    }
    end_if_failed(cuda);
    end_sums(cuda, cuda->reduced);
    cuda->late_values = cuda->pending;
    cuda->n_late = cuda->n_pending;
    cuda_begin_pending(cuda);
    TRY(cuda, cudaEventRecord(cuda->late, cuda->exchange));
    if (!cuda->tuning.overlap_adam) cuda_settle_sums(cuda);
    end_if_failed(cuda);
}

/* The rows that some rank has are laid together, summed and put back; all others are zero already. */
static void sum_touched(struct cuda *cuda, const struct comm *comm, int h, real *dw) {
    size_t words = (size_t)cuda_words(cuda->n_items);
    memcpy(cuda->all, cuda->touched, words * sizeof *cuda->all);
    comm_or(comm, cuda->all, words);
    int64_t n = 0, piece = EXCHANGE_MAX / h;
    for (size_t w = 0; w < words; w++) n += __builtin_popcountll(cuda->all[w]);
    if (piece < 1) piece = 1;
    if (piece > n) piece = n;
    size_t bytes = (size_t)n * sizeof(int32_t);
    int32_t *host = cuda_room(cuda, &cuda->gathered_items_host, bytes),
            *item = cuda_room(cuda, &cuda->gathered_items, bytes);
    float *buffer = cuda_room(cuda, &cuda->gathered, (size_t)(piece * h) * sizeof *buffer);
    if (!host || !item || !buffer) comm_abort(comm, cuda->fault); /* the others wait for our part */
    cuda_list_items(cuda, cuda->all, host, NULL);
    TRY(cuda, trace_copy(item, host, bytes, cudaMemcpyHostToDevice, cuda->compute));
    for (int64_t first = 0; first < n; first += piece) {
        int64_t count = n - first < piece ? n - first : piece;
        kernel_gather_rows(cuda->compute, count, h, item + first, dw, buffer);
        if (cuda->nccl) {
            begin_sum(cuda, buffer, (size_t)(count * h));
            end_sums(cuda, cuda->reduced);
        } else {
            cuda_sum_over_mpi(cuda, comm, buffer, (size_t)(count * h));
        }
        kernel_scatter_rows(cuda->compute, count, h, item + first, buffer, dw);
    }
}

void cuda_input_all_reduce(struct backend *backend, const struct comm *comm, int h, real *dw) {
    struct cuda *cuda = backend->state;
    SPAN("sum over the ranks");
    size_t n = (size_t)cuda->n_items * (size_t)h;
    if (comm->size == 1) return;
    end_if_failed(cuda);
    if (!cuda->columns.place) {
        sum_touched(cuda, comm, h, dw);
    } else if (cuda->nccl) { /* of kept rows all of dw is set */
        /* with what lies behind it, in one sum: the padding between is zero on every rank */
        const real *end = dw + backend_whole_rows(cuda->n_items) * h + ALIGNED;
        if (cuda->n_pending && cuda->pending > dw && cuda->pending < end) {
            n = (size_t)(cuda->pending - dw) + cuda->n_pending;
            cuda->n_pending = 0;
        }
        if (cuda->n_pending) cut(cuda);
        cuda->pending = dw;
        cuda->n_pending = n;
    } else {
        cuda_sum_over_mpi(cuda, comm, dw, n);
    }
    end_if_failed(cuda);
}
