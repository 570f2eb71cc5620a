/* The ranks of a job: an MPI communicator and the few collective operations training needs.
 *
 * A communicator is always a parameter, never a global: the grid of ranks (grid.h) passes rows and columns of
 * itself. All functions are collective unless they say otherwise. */
#ifndef VAECF_COMM_H
#define VAECF_COMM_H

#include <mpi.h>
#include <stddef.h>
#include <stdint.h>

#include "real.h"

struct comm {
    MPI_Comm mpi;
    int rank; /* 0 .. size - 1 */
    int size;
};

/* Starts MPI (with threads that only the main one speaks for) and the watchdog (watchdog.h), and returns the
 * world. If a launcher started several ranks and MPI does not know of it, each would do all the work for
 * itself, into the same files: then one line is printed and the process exits with EX_OSERR. */
struct comm comm_start(int *argc, char ***argv);

/* The number of ranks that mpirun, srun or their like have started, as they say in the environment, and which
 * of them this is; 1 and 0 if nothing is said. Does not take MPI. Not collective. */
int comm_launched(int *rank);

/* This rank's number among those on the same machine, and how many they are. */
void comm_machine(const struct comm *comm, int *rank, int *ranks);

/* Gives each rank's OpenMP as many threads as it has cores for itself on its machine, unless OMP_NUM_THREADS
 * says how many. */
void comm_share_threads(const struct comm *comm);

/* Ends MPI in an orderly way; every rank must come here. */
void comm_stop(void);

/* Prints error_message() and ends the whole job at once with this exit code; for a failure that the other
 * ranks do not know of while they may be waiting in a collective operation. Not collective; does not return.
 */
void comm_abort(const struct comm *comm, int code) __attribute__((noreturn));

/* Have all ranks succeeded? Every rank gives its own code (0: fine). Returns 0 if all are 0; otherwise every
 * rank gets the code and the message of the lowest failing rank. Call it after work that any rank may fail
 * at and before the next collective operation. */
int comm_agree(const struct comm *comm, int code);

/* Sums over the ranks, in place, the same bits on every rank. count may exceed 2^31. */
void comm_sum_real(const struct comm *comm, real *values, size_t count);
void comm_sum_double(const struct comm *comm, double *values, size_t count);
void comm_sum_int(const struct comm *comm, int64_t *values, size_t count);

/* Bitwise or over the ranks, in place. */
void comm_or(const struct comm *comm, uint64_t *words, size_t count);

/* The largest value of any rank. */
int64_t comm_max(const struct comm *comm, int64_t value);

/* Copies bytes from rank 0 to all. */
void comm_broadcast(const struct comm *comm, void *data, size_t bytes);

/* Each rank gives `bytes` bytes of its own; every rank gets those of all, in the order of the ranks, in
 * all[size, bytes]. */
void comm_all_gather(const struct comm *comm, const void *own, size_t bytes, void *all);

/* Splits the ranks into one communicator for each colour, in the order of the ranks. comm_free ends it. */
struct comm comm_split(const struct comm *comm, int colour);
void comm_free(struct comm *comm);

/* The part [*first, *first + *count) of n things that falls to part `part` of `parts`: contiguous, in order,
 * sizes differing by at most one. Not collective. */
void comm_part(int64_t n, int part, int parts, int64_t *first, int64_t *count);

#endif
