/* Every rank asks NCCL for the same sums in the same order, and every gradient is in one sum of a step: over
 * random networks, batches and ways to compute.
 *
 *   mpirun -n RANKS sums_test SHAPES [FIRST]
 *
 * A rank issues its steps or replays them by a chance of its own. The NCCL here only writes down what it is
 * asked for, so that ranks that differ are told and do not hang. Ends with 1 and a line if something differs.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <nccl.h>

#include "backend.h"
#include "comm.h"
#include "error.h"
#include "model.h"
#include "philox.h"

enum { SUMS_MAX = 100000, EPOCHS = 3, WIDTHS_MAX = 24 };

/* ---- NCCL ---- */

struct ncclComm {
    int unused;
};

static struct {
    struct {
        const float *values;
        size_t n;
        ncclDataType_t type;
    } of[SUMS_MAX];
    int n;
} asked;

ncclResult_t ncclGetVersion(int *version) {
    *version = 22809;
    return ncclSuccess;
}
ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    memset(id, 0, sizeof *id);
    return ncclSuccess;
}
const char *ncclGetErrorString(ncclResult_t result) {
    return result ? "error" : "none";
}
const char *ncclGetLastError(ncclComm_t comm) {
    (void)comm;
    return "";
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t *config) {
    static struct ncclComm only;
    (void)size, (void)id, (void)rank, (void)config;
    *comm = &only;
    return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result) {
    (void)comm;
    *result = ncclSuccess;
    return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    (void)comm;
    return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    (void)comm;
    return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    (void)comm;
    return ncclSuccess;
}
ncclResult_t ncclAllReduce(const void *from, void *to, size_t n, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream) {
    (void)to, (void)op, (void)comm, (void)stream;
    if (asked.n == SUMS_MAX) return ncclInternalError;
    asked.of[asked.n].values = from;
    asked.of[asked.n].n = n;
    asked.of[asked.n++].type = type;
    return ncclSuccess;
}

/* ---- a shape ---- */

struct shape {
    int number;
    struct model_config model;
    int64_t items, users, batch, sum_min;
    int turns, is_kept, is_early, is_short; /* is_short: sums travel in 16 bits */
};

static struct {
    uint64_t row;
    uint32_t block;
} dice;

static void throw_for(int64_t number, int rank) {
    dice.row = (uint64_t)(number * 1000 + rank);
    dice.block = 0;
}

/* 0 .. n - 1 */
static int64_t any_of(int64_t n) {
    return philox(5, PHILOX_SWEEP, 0, dice.row, dice.block++).lane[0] % n;
}

static struct shape draw_shape(int number) {
    throw_for(number, 999);
    struct shape s = {.number = number,
                      .model = {.type = any_of(4) ? MODEL_VAE : MODEL_DAE,
                                .n_hidden = (int)any_of(8),
                                .latent = 1 + (int)any_of(9),
                                .layer_norm = any_of(4) == 0,
                                .decoder = any_of(4) ? DECODER_MIRROR : DECODER_LINEAR,
                                .activation = ACTIVATION_TANH,
                                .dropout = 0.5},
                      .items = 4 + any_of(30),
                      .users = 1 + any_of(60),
                      .sum_min = 1 + any_of(any_of(2) ? 100 : 3000),
                      .turns = any_of(4) == 0,
                      .is_kept = any_of(4) > 0,
                      .is_early = any_of(3) > 0,
                      .is_short = any_of(3) == 0};
    for (int i = 0; i < s.model.n_hidden; i++) s.model.hidden[i] = 1 + (int)any_of(WIDTHS_MAX);
    s.batch = 1 + any_of(s.users);
    if (s.users > 5 * s.batch) s.batch = s.users / 5 + 1;
    return s;
}

static void fail(const struct comm *comm, const struct shape *s, const char *what) {
    fprintf(stderr, "sums_test: shape %d, rank %d: %s (%d hidden layers, %lld users, batches of %lld)\n",
            s->number, comm->rank, what, s->model.n_hidden, (long long)s->users, (long long)s->batch);
    error_set(EX_SOFTWARE, "%s", what);
    comm_abort(comm, 1);
}

/* Of a step's sums since the first-th: each gradient that learns is in one. */
static void check_cover(const struct comm *comm, const struct shape *s, const struct model *model,
                        int first) {
    size_t begin, n;
    unsigned char *times = calloc(model->n_params, 1);
    model_learning_range(model, &begin, &n);
    for (int i = first; i < asked.n; i++) {
        const float *at = asked.of[i].values;
        if (at < model->grads || at >= model->grads + model->n_params) continue;
        size_t offset = (size_t)(at - model->grads);
        for (size_t j = offset; j < offset + asked.of[i].n; j++) times[j]++;
    }
    size_t own =
        !s->is_kept && begin == 0 ? model->tensor[1].offset : begin; /* rows of items go by another way */
    for (int t = 0; t < model->n_tensors; t++) {
        const struct tensor *tensor = &model->tensor[t];
        int is_learning = tensor->offset >= own && tensor->offset < begin + n;
        for (size_t j = tensor->offset; j < tensor->offset + tensor->size; j++) {
            if (times[j] != is_learning) fail(comm, s, "a gradient is not in one sum");
        }
    }
    free(times);
}

/* Every rank's words are those of rank 0. */
static void check_alike(const struct comm *comm, const struct shape *s) {
    uint64_t hash = 14695981039346656037u, *all = calloc((size_t)comm->size, sizeof *all);
    for (int i = 0; i < asked.n; i++) {
        hash = (hash ^ asked.of[i].n) * 1099511628211u;
        hash = (hash ^ (uint64_t)asked.of[i].type) * 1099511628211u;
    }
    comm_all_gather(comm, &hash, sizeof hash, all);
    for (int r = 0; r < comm->size; r++) {
        if (all[r] == all[0]) continue;
        for (int i = 0; i < asked.n; i++)
            fprintf(stderr, "rank %d: sum %d of %zu\n", comm->rank, i, asked.of[i].n);
        comm_max(comm, 0);
        fail(comm, s, "the ranks ask for different sums");
    }
    free(all);
}

static void step(const struct comm *comm, const struct shape *s, struct backend *b, struct model *model,
                 const struct csr *own, const int64_t *users, int64_t number, real *m, real *v) {
    int64_t steps = (s->users + s->batch - 1) / s->batch, epoch = number / steps,
            first = number % steps * s->batch;
    struct step step = {.draw = {3, (uint32_t)epoch}, .first = first, .beta = 0.1, .scale = 0.01};
    struct loss loss;
    int before = asked.n, code = 0;
    model->turn = !s->turns ? TURN_BOTH : epoch % 2 ? TURN_DECODER : TURN_ENCODER;
    step.turn = (int)model->turn;
    setenv("VAECF_GRAPHS", any_of(3) ? "yes" : "no", 1);
    if (!s->is_kept) {
        struct csr rows = *own;
        rows.rows = any_of(own->rows + 1);
        code = model_train_batch(model, &rows, users, &step.draw, step.beta, step.scale, &loss);
    } else if (!b->step_begin(b, &step)) {
        const struct csr rows = {.rows = step.rows, .cols = s->items};
        code = model_train_batch(model, &rows, NULL, &step.draw, step.beta, step.scale, &loss);
        if (!code) code = b->step_end(b);
    }
    if (code) fail(comm, s, error_message());
    size_t begin, n, past = 0;
    model_learning_range(model, &begin, &n);
    if (model->turn != TURN_DECODER) {
        b->input_all_reduce(b, comm, (int)model->tensor[0].cols, model->grads);
        past = model->tensor[1].offset;
    }
    b->all_reduce(b, comm, model->grads + begin + past, n - past);
    const struct adam_step adam = {.learning_rate = 1e-3,
                                   .beta1 = 0.9,
                                   .beta2 = 0.99,
                                   .epsilon = 1e-3,
                                   .correction1 = 1,
                                   .correction2 = 1,
                                   .unscale = 1};
    b->adam(b, &adam, n, model->params + begin, model->grads + begin, m + begin, v + begin);
    if (b->check(b)) fail(comm, s, error_message());
    if (!s->is_short) check_cover(comm, s, model, before);
}

static void try_shape(const struct comm *comm, const struct shape *s) {
    char text[32];
    int64_t first, count;
    struct backend b;
    struct model model;
    snprintf(text, sizeof text, "%lld", (long long)s->sum_min);
    setenv("VAECF_SUM_MIN", text, 1);
    setenv("VAECF_CUDA_TUNING", s->is_early ? "" : "-early_sum,-overlap_adam", 1);
    asked.n = 0;
    struct grid grid;
    if (grid_create(comm, comm->size, 1, &grid)) fail(comm, s, error_message());
    grid.n_items = grid.count = grid.largest_count = s->items;
    const struct backend_options options = {.n_items = s->items,
                                            .device = DEVICE_CUDA,
                                            .precision = s->is_short ? PRECISION_BF16 : PRECISION_FP32,
                                            .comm_kind = COMM_NCCL,
                                            .comm_type = s->is_short ? COMM_COMPUTE : COMM_FP32,
                                            .comm = comm};
    if (backend_create(&options, &b)) fail(comm, s, error_message());
    if (model_create(&s->model, s->items, &b, 1, &model) || model_init(&model, 1))
        fail(comm, s, error_message());
    real *m = b.alloc(&b, model.n_params), *v = b.alloc(&b, model.n_params);
    comm_part(s->users, comm->rank, comm->size, &first, &count);
    throw_for(s->number, comm->rank); /* from here on each rank has its own chance */
    struct csr rows = {
        .rows = count, .cols = s->items, .indptr = calloc((size_t)count + 1, sizeof *rows.indptr)};
    rows.indices = calloc((size_t)(count * s->items) + 1, sizeof *rows.indices);
    int64_t *users = calloc((size_t)count + 1, sizeof *users);
    for (int64_t r = 0, n = 0; r < count; r++) {
        users[r] = first + r;
        for (int32_t i = 0; i < s->items; i++) {
            if (any_of(4) == 0) rows.indices[n++] = i;
        }
        rows.indptr[r + 1] = n;
    }
    if (s->is_kept && b.keep(&b, &rows, users, s->users, first, s->batch)) fail(comm, s, "no rows are kept");
    int64_t steps = EPOCHS * ((s->users + s->batch - 1) / s->batch);
    for (int64_t i = 0; i < steps; i++) step(comm, s, &b, &model, &rows, users, i, m, v);
    check_alike(comm, s);
    b.release(&b, m);
    b.release(&b, v);
    model_free(&model);
    b.destroy(&b);
    grid_free(&grid);
    csr_free(&rows);
    free(users);
}

int main(int argc, char **argv) {
    struct comm comm = comm_start(&argc, &argv);
    int shapes = argc > 1 ? atoi(argv[1]) : 10, first = argc > 2 ? atoi(argv[2]) : 0, cut = 0, most = 0;
    for (int i = first; i < first + shapes; i++) {
        struct shape s = draw_shape(i);
        try_shape(&comm, &s);
        cut += asked.n;
        if (asked.n > most) most = asked.n;
    }
    if (comm.rank == 0) {
        printf("%d shapes on %d ranks: the same sums, %d in all, up to %d of a shape\n", shapes, comm.size,
               cut, most);
    }
    comm_stop();
    return 0;
}
