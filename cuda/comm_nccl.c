/* See comm_nccl.h. */
#include "comm_nccl.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "environment.h"
#include "error.h"
#include "trace.h"

#ifdef VAECF_NCCL
#include <nccl.h>

enum { PATIENCE = 50 /* seconds, for a sum or a start: all ranks come to each within moments */ };

struct nccl {
    ncclComm_t comm;
    int is_aborted;
    double patience;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int nccl_is_there(void) {
    return 1;
}

void nccl_describe(char *text, int size) {
    int v = 0;
    ncclGetVersion(&v);
    snprintf(text, (size_t)size, "NCCL %d.%d.%d", v / 10000, v / 100 % 100, v % 100);
}

/* Ends the communicator at once: what is under way on the GPU ends too. */
static void abort_comm(struct nccl *nccl) {
    if (!nccl->is_aborted && nccl->comm) ncclCommAbort(nccl->comm);
    nccl->is_aborted = 1;
}

static int fail(struct nccl *nccl, const char *what, ncclResult_t result) {
    const char *detail = nccl->comm ? ncclGetLastError(nccl->comm) : "";
    int code = error_set(EX_OSERR, "NCCL: %s: %s%s%.200s", what, ncclGetErrorString(result),
                         *detail ? "; " : "", detail);
    abort_comm(nccl);
    return code;
}

static int lost(struct nccl *nccl, const char *what) {
    int code = error_set(EX_OSERR, "NCCL: %s is not done after %.0f s: a rank is lost", what, nccl->patience);
    abort_comm(nccl);
    return code;
}

/* Waits until the communicator has taken what it was told. */
static int settle(struct nccl *nccl, const char *what, ncclResult_t result) {
    double begin = now();
    while (result == ncclInProgress) {
        if (ncclCommGetAsyncError(nccl->comm, &result)) result = ncclInternalError;
        if (result != ncclInProgress) break;
        if (now() - begin > nccl->patience) return lost(nccl, what);
        sched_yield();
    }
    return result ? fail(nccl, what, result) : 0;
}

int nccl_start(const struct comm *comm, struct nccl **nccl) {
    ncclUniqueId id = {{0}};
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    const char *patience = environment("VAECF_NCCL_PATIENCE"); /* for tests */
    *nccl = calloc(1, sizeof **nccl);
    int code = *nccl ? 0 : error_memory("NCCL", sizeof **nccl);
    if (!code) (*nccl)->patience = patience ? atof(patience) : PATIENCE;
    if (!code && comm->rank == 0) {
        ncclResult_t result = ncclGetUniqueId(&id);
        if (result) code = fail(*nccl, "cannot start", result);
    }
    code = comm_agree(comm, code);
    if (!code) {
        comm_broadcast(comm, &id, sizeof id);
        config.blocking = 0;
        code = settle(*nccl, "the start",
                      ncclCommInitRankConfig(&(*nccl)->comm, comm->size, id, comm->rank, &config));
        code = comm_agree(comm, code);
    }
    if (!code) return 0;
    nccl_stop(*nccl, 1);
    *nccl = NULL;
    return code;
}

int nccl_sum(struct nccl *nccl, cudaStream_t stream, void *values, size_t n, enum number type) {
    static const ncclDataType_t types[] = {
        [NUMBER_FP32] = ncclFloat32, [NUMBER_BF16] = ncclBfloat16, [NUMBER_FP16] = ncclFloat16};
    if (nccl->is_aborted) return error_set(EX_OSERR, "NCCL: the ranks are not connected any more");
    TRACE_BEFORE(stream, "NCCL");
    int code =
        settle(nccl, "a sum", ncclAllReduce(values, values, n, types[type], ncclSum, nccl->comm, stream));
    TRACE_AFTER(stream);
    return code;
}

int nccl_wait(struct nccl *nccl, cudaEvent_t event) {
    double begin = now();
    cudaError_t status;
    while ((status = cudaEventQuery(event)) == cudaErrorNotReady) {
        ncclResult_t result = ncclSuccess;
        if (nccl->is_aborted) break; /* the message is there */
        if (ncclCommGetAsyncError(nccl->comm, &result)) result = ncclInternalError;
        if (result != ncclSuccess && result != ncclInProgress) return fail(nccl, "a sum", result);
        if (now() - begin > nccl->patience) return lost(nccl, "a sum");
        sched_yield();
    }
    return status ? error_set(EX_OSERR, "GPU: %s", cudaGetErrorString(status)) : 0;
}

void nccl_stop(struct nccl *nccl, int is_failed) {
    if (!nccl) return;
    if (!is_failed && !nccl->is_aborted && nccl->comm) {
        if (settle(nccl, "the end", ncclCommFinalize(nccl->comm)) == 0) ncclCommDestroy(nccl->comm);
    } else {
        abort_comm(nccl);
    }
    free(nccl);
}

#else

int nccl_is_there(void) {
    return 0;
}

void nccl_describe(char *text, int size) {
    snprintf(text, (size_t)size, "NCCL: no");
}

int nccl_start(const struct comm *comm, struct nccl **nccl) {
    (void)comm;
    *nccl = NULL;
    return error_set(EX_CONFIG, "comm: nccl: this program was built without NCCL; want auto or mpi");
}

int nccl_sum(struct nccl *nccl, cudaStream_t stream, void *values, size_t n, enum number type) {
    (void)nccl, (void)stream, (void)values, (void)n, (void)type;
    return error_set(EX_SOFTWARE, "NCCL is not in this program");
}

int nccl_wait(struct nccl *nccl, cudaEvent_t event) {
    (void)nccl, (void)event;
    return error_set(EX_SOFTWARE, "NCCL is not in this program");
}

void nccl_stop(struct nccl *nccl, int is_failed) {
    (void)nccl, (void)is_failed;
}

#endif
