/* MPI; see comm.h. */
#include "comm.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
/* What MPI leaves behind is its own; its plug-ins are unloaded before the end, when their leaks have no names
 * by which they could be told from ours. */
#define LEAKS_OF_OTHERS(on) ((on) ? __lsan_disable() : __lsan_enable())
#define LEAKS_OF_OURS() __lsan_do_leak_check()
#else
#define LEAKS_OF_OTHERS(on) ((void)(on))
#define LEAKS_OF_OURS() ((void)0)
#endif

#include "environment.h"
#include "error.h"
#include "watchdog.h"

enum { PIECE = 1 << 26 /* numbers of one MPI call */, MESSAGE_MAX = 1024 };

#ifdef VAECF_DOUBLE
#define COMM_REAL MPI_DOUBLE
#else
#define COMM_REAL MPI_FLOAT
#endif

/* What launchers tell the ranks; the first whose variables are both there counts. Those of Slurm come last:
 * they also come from the srun by which an mpirun started its daemons. SLURM_NTASKS is none of them: it is
 * the allocation's, and so in every batch script. */
static const struct {
    const char *ranks, *rank;
} launcher[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
    {"PMI_SIZE", "PMI_RANK"},
    {"MPI_LOCALNRANKS", "MPI_LOCALRANKID"}, /* these two: on this machine alone */
    {"PALS_LOCAL_SIZE", "PALS_RANKID"},
    {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID"},
};

int comm_launched(int *rank) {
    for (size_t i = 0; i < sizeof launcher / sizeof *launcher; i++) {
        const char *ranks = environment(launcher[i].ranks), *own = environment(launcher[i].rank);
        if (!ranks || !own) continue;
        *rank = atoi(own);
        return atoi(ranks);
    }
    *rank = 0;
    return 1;
}

/* Each process is a world of its own, though a launcher started several. */
static void refuse_singletons(void) {
    int rank, ranks = comm_launched(&rank);
    if (ranks <= 1) return;
    if (rank == 0) {
        fprintf(stderr,
                "vaecf: error: %d processes were started, but MPI makes each a job of 1 rank: start them by "
                "the mpirun of the MPI that vaecf was built with, or by srun --mpi=pmix if srun --mpi=list "
                "has it\n",
                ranks);
    }
    comm_stop();
    exit(EX_OSERR);
}

struct comm comm_start(int *argc, char ***argv) {
    struct comm comm = {.mpi = MPI_COMM_WORLD};
    int provided;
    LEAKS_OF_OTHERS(1);
    MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
    LEAKS_OF_OTHERS(0);
    MPI_Comm_rank(comm.mpi, &comm.rank);
    MPI_Comm_size(comm.mpi, &comm.size);
    if (comm.size == 1) refuse_singletons();
    watchdog_start(&comm);
    return comm;
}

void comm_machine(const struct comm *comm, int *rank, int *ranks) {
    MPI_Comm machine;
    MPI_Comm_split_type(comm->mpi, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &machine);
    MPI_Comm_rank(machine, rank);
    MPI_Comm_size(machine, ranks);
    MPI_Comm_free(&machine);
}

void comm_share_threads(const struct comm *comm) {
    int rank, ranks, bound = omp_get_num_procs();
    comm_machine(comm, &rank, &ranks);
    if (environment_has_threads()) return;
    int share = (int)sysconf(_SC_NPROCESSORS_ONLN) / ranks;
    if (share > bound) share = bound;
    omp_set_num_threads(share > 1 ? share : 1);
}

void comm_stop(void) {
    LEAKS_OF_OURS();
    MPI_Finalize();
    watchdog_stop(); /* at last: finalising waits for the others as well */
}

void comm_abort(const struct comm *comm, int code) {
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    fprintf(stderr, "vaecf: error: rank %d: %s\n", rank, error_message());
    fflush(NULL);
    watchdog_ends_job();
    MPI_Abort(comm->mpi, code);
    _Exit(code);
}

int comm_agree(const struct comm *comm, int code) {
    char message[MESSAGE_MAX] = "";
    if (comm->size == 1) return code;
    int first = code ? comm->rank : comm->size;
    MPI_Allreduce(MPI_IN_PLACE, &first, 1, MPI_INT, MPI_MIN, comm->mpi);
    if (first == comm->size) return 0;
    if (comm->rank == first) snprintf(message, sizeof message, "%s", error_message());
    MPI_Bcast(&code, 1, MPI_INT, first, comm->mpi);
    MPI_Bcast(message, sizeof message, MPI_CHAR, first, comm->mpi);
    return error_set(code, "%s", message);
}

/* In pieces: an MPI count is an int. */
static void all_reduce(const struct comm *comm, void *values, size_t count, size_t width, MPI_Datatype type,
                       MPI_Op op) {
    if (comm->size == 1) return;
    for (size_t i = 0; i < count; i += PIECE) {
        size_t n = count - i < PIECE ? count - i : PIECE;
        MPI_Allreduce(MPI_IN_PLACE, (char *)values + i * width, (int)n, type, op, comm->mpi);
    }
}

void comm_sum_real(const struct comm *comm, real *values, size_t count) {
    all_reduce(comm, values, count, sizeof *values, COMM_REAL, MPI_SUM);
}

void comm_sum_double(const struct comm *comm, double *values, size_t count) {
    all_reduce(comm, values, count, sizeof *values, MPI_DOUBLE, MPI_SUM);
}

void comm_sum_int(const struct comm *comm, int64_t *values, size_t count) {
    all_reduce(comm, values, count, sizeof *values, MPI_INT64_T, MPI_SUM);
}

void comm_or(const struct comm *comm, uint64_t *words, size_t count) {
    all_reduce(comm, words, count, sizeof *words, MPI_UINT64_T, MPI_BOR);
}

int64_t comm_max(const struct comm *comm, int64_t value) {
    all_reduce(comm, &value, 1, sizeof value, MPI_INT64_T, MPI_MAX);
    return value;
}

void comm_broadcast(const struct comm *comm, void *data, size_t bytes) {
    if (comm->size == 1) return;
    for (size_t i = 0; i < bytes; i += PIECE) {
        size_t n = bytes - i < PIECE ? bytes - i : PIECE;
        MPI_Bcast((char *)data + i, (int)n, MPI_BYTE, 0, comm->mpi);
    }
}

void comm_all_gather(const struct comm *comm, const void *own, size_t bytes, void *all) {
    MPI_Allgather(own, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, comm->mpi);
}

struct comm comm_split(const struct comm *comm, int colour) {
    struct comm part;
    MPI_Comm_split(comm->mpi, colour, comm->rank, &part.mpi);
    MPI_Comm_rank(part.mpi, &part.rank);
    MPI_Comm_size(part.mpi, &part.size);
    return part;
}

void comm_free(struct comm *comm) {
    MPI_Comm_free(&comm->mpi);
}

void comm_part(int64_t n, int part, int parts, int64_t *first, int64_t *count) {
    int64_t base = n / parts, rest = n % parts;
    *first = part * base + (part < rest ? part : rest);
    *count = base + (part < rest);
}
