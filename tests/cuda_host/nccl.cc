/* NCCL on the host, for ranks that are processes of one machine, with the answers of a non-blocking
 * communicator.
 *
 * A call is under way until the communicator has been asked twice how it is; a sum comes onto its stream only
 * then. It begins when its stream comes to it, reads nothing before, and needs the same sum of every rank: of
 * one that a rank does not come to, or that has another size or type there, nobody sees the end (of the
 * latter a line tells). Where a rank aborts, its own sums end, without a result; those of the others do not.
 * A communicator's end is waited for by all its ranks.
 *
 * The GPU of a rank that waits in MPI or asks a communicator goes on with what sums wait for: see progress.
 *
 *   VAECF_HOST_NCCL=lost     from the third sum on, none of rank 1's comes: the others' do not end
 *   VAECF_HOST_NCCL=error    the third sum fails
 *   VAECF_HOST_NCCL=late     the communicator is never ready */
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <atomic>
#include <fcntl.h>
#include <memory>
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#include "../../src/bf16.h"
#include "../../src/fp16.h"
#include "cuda_runtime.h"
#include "nccl.h"

namespace {

constexpr int RANKS_MAX = 64;
constexpr size_t PIECE = 1 << 18; /* bytes that a rank shows the others at a time */

/* What a rank shows the others, in shared memory that is zero at first. */
struct place {
    std::atomic<int> size; /* of the communicator, as this rank knows it; 0: it is not there yet */
    std::atomic<bool> is_finalized;
    std::atomic<uint64_t> posted, taken; /* pieces: set by this rank; read by it of all ranks */
    size_t n;                            /* of the sum that the piece is of */
    ncclDataType_t type;
    alignas(64) char piece[PIECE];
};
static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free,
              "atomics that processes share");

struct sum {
    const char *from;
    char *to;
    size_t n;
    ncclDataType_t type;
    cudaStream_t stream;
    size_t at;      /* numbers that are done */
    bool is_posted; /* the piece behind them */
};

enum call { NONE, START, SUM, FINALIZE };

} // namespace

struct ncclComm {
    int rank, size;
    place *places; /* [RANKS_MAX] */
    char name[64]; /* of the shared memory */
    call under_way;
    int questions; /* that are still answered by "in progress" */
    std::shared_ptr<sum> next;
    int sums, done; /* on a stream */
    uint64_t pieces;
    cudaStream_t stream; /* of the last sum */
    cudaEvent_t behind;  /* it */
    ncclResult_t fault;
    bool is_aborted, is_finalized, is_told_of;
    const char *message;
};

namespace {

/* Those that are over too: a call with one of them is noticed. */
std::vector<std::unique_ptr<ncclComm>> comms;

bool is_told(const char *what) {
    const char *text = getenv("VAECF_HOST_NCCL");
    return text && strcmp(text, what) == 0;
}

float load(const char *from, size_t i, ncclDataType_t type) {
    if (type == ncclFloat16) return fp16_to_float(reinterpret_cast<const fp16 *>(from)[i]);
    if (type == ncclBfloat16) return bf16_to_float(reinterpret_cast<const bf16 *>(from)[i]);
    return reinterpret_cast<const float *>(from)[i];
}

void store(char *to, size_t i, ncclDataType_t type, float x) {
    if (type == ncclFloat16) reinterpret_cast<fp16 *>(to)[i] = fp16_from_float(x);
    if (type == ncclBfloat16) reinterpret_cast<bf16 *>(to)[i] = bf16_from_float(x);
    if (type == ncclFloat32) reinterpret_cast<float *>(to)[i] = x;
}

size_t size_of(ncclDataType_t type) {
    return type == ncclFloat32 ? 4 : 2;
}

bool is_open(const ncclComm *comm) {
    return comm && comm->places;
}

ncclResult_t refuse(ncclComm *comm, ncclResult_t result, const char *message) {
    if (comm) comm->message = message;
    fprintf(stderr, "NCCL stand-in: %s\n", message);
    return result;
}

template <typename F> bool all_ranks(const ncclComm *comm, F is_so) {
    for (int r = 0; r < comm->size; r++) {
        if (!is_so(comm->places[r])) return false;
    }
    return true;
}

/* Is the same sum under way on every rank? */
bool is_same(ncclComm *comm, const sum *s) {
    for (int r = 0; r < comm->size; r++) {
        const place &other = comm->places[r];
        if (other.n == s->n && other.type == s->type) continue;
        if (!comm->is_told_of) {
            fprintf(stderr,
                    "NCCL stand-in: rank %d's sum %d has %zu numbers of type %d, rank %d's %zu of type %d\n",
                    comm->rank, comm->done + 1, s->n, (int)s->type, r, other.n, (int)other.type);
        }
        comm->is_told_of = true;
        return false;
    }
    return true;
}

/* Goes on with a sum, piece by piece: every rank shows its own one, adds all of them up in the order of the
 * ranks, rounding to the type each time, and shows the next when all have seen this. */
bool step(ncclComm *comm, sum *s) {
    place &own = comm->places[comm->rank];
    do {
        size_t size = size_of(s->type), count = s->n - s->at < PIECE / size ? s->n - s->at : PIECE / size;
        if (!s->is_posted) {
            uint64_t before = comm->pieces;
            if (!all_ranks(comm, [=](const place &p) { return p.taken >= before; })) return false;
            own.n = s->n;
            own.type = s->type;
            if (count) memcpy(own.piece, s->from + s->at * size, count * size);
            own.posted = ++comm->pieces;
            s->is_posted = true;
        }
        uint64_t now = comm->pieces;
        if (!all_ranks(comm, [=](const place &p) { return p.posted >= now; })) return false;
        if (!is_same(comm, s)) return false;
        for (size_t i = 0; i < count; i++) {
            store(s->to, s->at + i, s->type, load(comm->places[0].piece, i, s->type));
            for (int r = 1; r < comm->size; r++) {
                float x = load(s->to, s->at + i, s->type) + load(comm->places[r].piece, i, s->type);
                store(s->to, s->at + i, s->type, x);
            }
        }
        own.taken = now;
        s->is_posted = false;
        s->at += count;
    } while (s->at < s->n);
    return true;
}

/* Puts the sum that was asked for onto its stream, behind all others of the communicator. */
void launch(ncclComm *comm) {
    std::shared_ptr<sum> s = std::move(comm->next);
    if (comm->stream && comm->stream != s->stream) cudaStreamWaitEvent(s->stream, comm->behind, 0);
    comm->sums++;
    comm->stream = s->stream;
    if (comm->sums >= 3 && is_told("error")) comm->fault = ncclRemoteError;
    bool is_lost = comm->fault || (comm->sums >= 3 && comm->rank == 1 && is_told("lost"));
    cuda_host_put(s->stream, [=] {
        if (comm->is_aborted) {
            if (s->n) memset(s->to, 0xff, s->n * size_of(s->type)); /* NaN */
            return true;
        }
        if (is_lost || !step(comm, s.get())) return false;
        comm->done++;
        return true;
    });
    cudaEventRecord(comm->behind, s->stream);
}

/* A GPU needs no host to go on; here the host has to. So far as sums wait for it, and not more: what nobody
 * waits for is done as late as it may. */
void progress(void) {
    for (size_t i = 0; i < comms.size(); i++) {
        const ncclComm *comm = comms[i].get();
        if (is_open(comm) && comm->done < comm->sums) cudaEventQuery(comm->behind);
    }
}

void close_memory(ncclComm *comm) {
    shm_unlink(comm->name); /* if it still has the name */
    munmap(comm->places, RANKS_MAX * sizeof *comm->places);
    comm->places = nullptr;
    cudaEventDestroy(comm->behind);
}

/* Is the call under way done? */
bool is_settled(ncclComm *comm) {
    if (comm->questions > 0) {
        comm->questions--;
        return false;
    }
    if (comm->under_way == START) {
        if (!all_ranks(comm, [=](const place &p) { return p.size == 0 || p.size == comm->size; })) {
            comm->fault = refuse(comm, ncclInvalidUsage, "the ranks do not agree on their number");
            return true;
        }
        if (is_told("late") || !all_ranks(comm, [](const place &p) { return p.size > 0; })) return false;
        shm_unlink(comm->name);
    }
    if (comm->under_way == SUM) launch(comm);
    if (comm->under_way == FINALIZE) {
        progress();
        if (comm->done < comm->sums) return false;
        comm->places[comm->rank].is_finalized = true;
        if (!all_ranks(comm, [](const place &p) { return p.is_finalized.load(); })) return false;
    }
    return true;
}

ncclResult_t begin(ncclComm *comm, call what) {
    comm->under_way = what;
    comm->questions = 1;
    return ncclInProgress;
}

/* Sums that are captured are not what this can do. */
bool is_capturing(cudaStream_t stream) {
    cudaGraph_t graph;
    if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal)) return true;
    if (cudaStreamEndCapture(stream, &graph) == cudaSuccess) cudaGraphDestroy(graph);
    return false;
}

} // namespace

/* ---- NCCL ---- */

ncclResult_t ncclGetVersion(int *version) {
    *version = 22809;
    return ncclSuccess;
}

/* Makes the memory that the ranks share. */
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    static int number;
    snprintf(id->internal, sizeof id->internal, "/nccl-%ld-%d", (long)getpid(), number++);
    shm_unlink(id->internal); /* of a process that had our number and died */
    int file = shm_open(id->internal, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (file < 0) return ncclSystemError;
    int failed = ftruncate(file, RANKS_MAX * sizeof(place));
    close(file);
    return failed ? ncclSystemError : ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    switch (result) {
    case ncclSuccess:
        return "no error";
    case ncclSystemError:
        return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInvalidArgument:
        return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
        return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclInProgress:
        return "NCCL operation in progress";
    default:
        return "internal error - please report this issue to the NCCL developers";
    }
}

const char *ncclGetLastError(ncclComm_t comm) {
    return comm && comm->message ? comm->message : "";
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    *comm = nullptr;
    if (config->magic != NCCL_CONFIG_MAGIC || config->size != sizeof *config) {
        return refuse(nullptr, ncclInvalidArgument, "ncclConfig_t wants NCCL_CONFIG_INITIALIZER");
    }
    if (config->blocking != 0) return refuse(nullptr, ncclInvalidArgument, "blocking: not emulated");
    if (size < 1 || size > RANKS_MAX || rank < 0 || rank >= size) {
        return refuse(nullptr, ncclInvalidArgument, "no such rank");
    }
    int file = shm_open(id.internal, O_RDWR, 0600);
    if (file < 0) return refuse(nullptr, ncclInvalidUsage, "an id that is not new");
    void *memory = mmap(nullptr, RANKS_MAX * sizeof(place), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (memory == MAP_FAILED) return ncclSystemError;
    comms.push_back(std::make_unique<ncclComm>());
    ncclComm *c = *comm = comms.back().get();
    c->rank = rank;
    c->size = size;
    c->places = static_cast<place *>(memory);
    snprintf(c->name, sizeof c->name, "%.60s", id.internal);
    cudaEventCreateWithFlags(&c->behind, cudaEventDisableTiming);
    if (c->places[rank].size.exchange(size)) {
        c->fault = refuse(c, ncclInvalidUsage, "two processes are the same rank");
    }
    return begin(c, START);
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result) {
    if (!is_open(comm)) return refuse(comm, ncclInvalidArgument, "a communicator that is over");
    if (comm->under_way == NONE) progress();
    if (comm->under_way != NONE && is_settled(comm)) {
        comm->is_finalized = comm->under_way == FINALIZE;
        comm->under_way = NONE;
    }
    *result = comm->fault ? comm->fault : comm->under_way == NONE ? ncclSuccess : ncclInProgress;
    return ncclSuccess;
}

/* May it be told something new? */
static ncclResult_t check(ncclComm_t comm) {
    if (!is_open(comm)) return refuse(comm, ncclInvalidArgument, "a communicator that is over");
    if (comm->fault) return comm->fault;
    if (comm->under_way != NONE) {
        return refuse(comm, ncclInvalidArgument,
                      "Attempt to use communicator before the previous operation returned ncclSuccess");
    }
    if (comm->is_finalized) return refuse(comm, ncclInvalidArgument, "a communicator that is finalized");
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t result = check(comm);
    if (result) return result;
    bool is_type = type == ncclFloat16 || type == ncclFloat32 || type == ncclBfloat16;
    if (!is_type || op != ncclSum || (n && (!from || !to))) {
        return refuse(comm, ncclInvalidArgument, "a sum of nothing");
    }
    if ((uintptr_t)from % size_of(type) || (uintptr_t)to % size_of(type)) {
        return refuse(comm, ncclInvalidArgument, "a sum of numbers at an odd address");
    }
    if (is_capturing(stream)) return refuse(comm, ncclInvalidUsage, "a sum is captured: not emulated");
    sum s = {static_cast<const char *>(from), static_cast<char *>(to), n, type, stream, 0, false};
    comm->next = std::make_shared<sum>(s);
    return begin(comm, SUM);
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    ncclResult_t result = check(comm);
    return result ? result : begin(comm, FINALIZE);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!is_open(comm)) return refuse(comm, ncclInvalidArgument, "a communicator that is over");
    if (!comm->is_finalized) {
        ncclResult_t result = check(comm);
        if (result) return result;
        begin(comm, FINALIZE);
        while (!is_settled(comm)) sched_yield();
    }
    close_memory(comm);
    return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (!is_open(comm)) return refuse(comm, ncclInvalidArgument, "a communicator that is over");
    comm->is_aborted = true;
    close_memory(comm);
    return ncclSuccess;
}

/* ---- MPI's calls that wait for other ranks ---- */

static int wait_for(int code, MPI_Request *request, MPI_Status *status = MPI_STATUS_IGNORE) {
    int is_done = 0;
    while (!code && !(code = PMPI_Test(request, &is_done, status)) && !is_done) {
        progress();
        sched_yield();
    }
    return code;
}

extern "C" {

int MPI_Allreduce(const void *from, void *to, int n, MPI_Datatype type, MPI_Op op, MPI_Comm comm) {
    MPI_Request request;
    return wait_for(PMPI_Iallreduce(from, to, n, type, op, comm, &request), &request);
}

int MPI_Bcast(void *data, int n, MPI_Datatype type, int root, MPI_Comm comm) {
    MPI_Request request;
    return wait_for(PMPI_Ibcast(data, n, type, root, comm, &request), &request);
}

int MPI_Allgather(const void *from, int n, MPI_Datatype type, void *to, int n_each, MPI_Datatype type_each,
                  MPI_Comm comm) {
    MPI_Request request;
    return wait_for(PMPI_Iallgather(from, n, type, to, n_each, type_each, comm, &request), &request);
}

int MPI_Gather(const void *from, int n, MPI_Datatype type, void *to, int n_each, MPI_Datatype type_each,
               int root, MPI_Comm comm) {
    MPI_Request request;
    return wait_for(PMPI_Igather(from, n, type, to, n_each, type_each, root, comm, &request), &request);
}

int MPI_Alltoall(const void *from, int n, MPI_Datatype type, void *to, int n_each, MPI_Datatype type_each,
                 MPI_Comm comm) {
    MPI_Request request;
    return wait_for(PMPI_Ialltoall(from, n, type, to, n_each, type_each, comm, &request), &request);
}

int MPI_Alltoallv(const void *from, const int *n, const int *first, MPI_Datatype type, void *to,
                  const int *n_each, const int *first_each, MPI_Datatype type_each, MPI_Comm comm) {
    MPI_Request request;
    return wait_for(PMPI_Ialltoallv(from, n, first, type, to, n_each, first_each, type_each, comm, &request),
                    &request);
}

int MPI_Send(const void *data, int n, MPI_Datatype type, int to, int tag, MPI_Comm comm) {
    MPI_Request request;
    return wait_for(PMPI_Isend(data, n, type, to, tag, comm, &request), &request);
}

int MPI_Recv(void *data, int n, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Status *status) {
    MPI_Request request;
    return wait_for(PMPI_Irecv(data, n, type, from, tag, comm, &request), &request, status);
}

int MPI_Wait(MPI_Request *request, MPI_Status *status) {
    return wait_for(MPI_SUCCESS, request, status);
}

int MPI_Waitall(int n, MPI_Request *requests, MPI_Status *statuses) {
    int code = MPI_SUCCESS;
    for (int i = 0; i < n && !code; i++) {
        code = wait_for(MPI_SUCCESS, &requests[i],
                        statuses == MPI_STATUSES_IGNORE ? MPI_STATUS_IGNORE : &statuses[i]);
    }
    return code;
}

} // extern "C"
