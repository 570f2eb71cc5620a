/* Sums over GPUs by NCCL: one rank a GPU, non-blocking communicators, and an end when a rank is lost.
 *
 * In a program that is built without NCCL nccl_start says so. */
#ifndef VAECF_COMM_NCCL_H
#define VAECF_COMM_NCCL_H

#include <cuda_runtime_api.h>
#include <stddef.h>

#include "comm.h"
#include "kernels.h"

struct nccl;

/* Is NCCL in this program? */
int nccl_is_there(void);

/* The communicator of these ranks on their current devices; its id goes over MPI. Collective. EX_OSERR, also
 * when a rank does not come within a minute. */
int nccl_start(const struct comm *comm, struct nccl **nccl);

/* Puts the sum of values[n] over the ranks, in place, on the stream: every rank in the same order. EX_OSERR.
 */
int nccl_sum(struct nccl *nccl, cudaStream_t stream, void *values, size_t n, enum number type);

/* Waits for the event, behind which there may be sums: EX_OSERR if one failed or has taken so long that a
 * rank must be lost; the communicator is aborted then. */
int nccl_wait(struct nccl *nccl, cudaEvent_t event);

/* Ends it; is_failed: without waiting for what is under way. NULL is harmless. */
void nccl_stop(struct nccl *nccl, int is_failed);

/* "NCCL 2.28.9" or "NCCL: no". */
void nccl_describe(char *text, int size);

#endif
