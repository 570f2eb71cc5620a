/* Order of the users and exchange of their rows; see sampler.h. */
#include "sampler.h"

#include <limits.h>
#include <string.h>

#include "error.h"
#include "order.h"

/* ---- the order ---- */

int64_t sampler_row_at(uint64_t seed, uint32_t epoch, int64_t n, int64_t position) {
    return order_at(seed, epoch, n, position, 0);
}

int64_t sampler_position_of(uint64_t seed, uint32_t epoch, int64_t n, int64_t row) {
    return order_at(seed, epoch, n, row, 1);
}

/* ---- who has what ---- */

/* Which of the parts of comm_part has thing i. */
static int part_of(int64_t n, int parts, int64_t i) {
    int64_t base = n / parts, rest = n % parts, in_longer = rest * (base + 1);
    if (i < in_longer) return (int)(i / (base + 1));
    return (int)(rest + (i - in_longer) / base);
}

int64_t sampler_steps(const struct sampler *s) {
    return (s->n_rows + s->batch_size - 1) / s->batch_size;
}

int64_t sampler_step_users(const struct sampler *s, int64_t step) {
    int64_t left = s->n_rows - step * s->batch_size;
    return left < s->batch_size ? left : s->batch_size;
}

/* The rank that computes a position of the order. */
static int rank_of_position(const struct sampler *s, int64_t position) {
    int64_t step = position / s->batch_size;
    return part_of(sampler_step_users(s, step), s->comm->size, position - step * s->batch_size);
}

int sampler_create(const struct comm *comm, struct csr *base, int64_t *users, int64_t n_rows,
                   int64_t batch_size, uint64_t seed, struct sampler *sampler) {
    *sampler = (struct sampler){.comm = comm,
                                .base = *base,
                                .base_users = users,
                                .n_rows = n_rows,
                                .batch_size = batch_size,
                                .seed = seed};
    *base = (struct csr){0};
    int64_t steps = sampler_steps(sampler), first, largest;
    comm_part(batch_size < n_rows ? batch_size : n_rows, 0, comm->size, &first, &largest);
    sampler->step_first = calloc((size_t)steps + 1, sizeof *sampler->step_first);
    sampler->indptr = calloc((size_t)largest + 1, sizeof *sampler->indptr);
    if (!sampler->step_first || !sampler->indptr) {
        return error_memory("the sampler", ((size_t)steps + (size_t)largest) * sizeof *sampler->indptr);
    }
    for (int64_t step = 0; step < steps; step++) {
        int64_t count;
        comm_part(sampler_step_users(sampler, step), comm->rank, comm->size, &first, &count);
        sampler->step_first[step + 1] = sampler->step_first[step] + count;
    }
    return 0;
}

void sampler_free(struct sampler *sampler) {
    csr_free(&sampler->base);
    csr_free(&sampler->rows);
    free(sampler->base_users);
    free(sampler->users);
    free(sampler->step_first);
    free(sampler->indptr);
    *sampler = (struct sampler){0};
}

/* ---- the exchange ---- */

struct place {
    int64_t position, row;
};

static int by_position(const void *a, const void *b) {
    const struct place *p = a, *q = b;
    return (p->position > q->position) - (p->position < q->position);
}

/* What goes between this rank and each other: counts and where they begin, as MPI wants them. */
struct traffic {
    int *send, *send_at, *receive, *receive_at;
};

static int traffic_create(struct traffic *t, int size) {
    t->send = calloc((size_t)size * 4, sizeof *t->send);
    if (!t->send) return error_memory("the exchange of rows", (size_t)size * 4 * sizeof *t->send);
    t->send_at = t->send + size;
    t->receive = t->send + 2 * size;
    t->receive_at = t->send + 3 * size;
    return 0;
}

/* Starts of the blocks from their lengths; returns the total. */
static int64_t starts(const int *counts, int *at, int size) {
    int64_t total = 0;
    for (int i = 0; i < size; i++) {
        at[i] = (int)total;
        total += counts[i];
    }
    return total;
}

/* An exchange under way. */
struct exchange {
    struct place *places; /* [base.rows] this rank's rows by position */
    int *owner;           /* [n_own] where the rows that this rank will compute are now */
    int64_t n_own;
    struct traffic rows, items;
    int64_t *send_users, *send_lengths, *send_whole;          /* [base.rows] by rank, then position */
    int64_t *receive_users, *receive_lengths, *receive_whole; /* [n_own] */
    int32_t *send_items, *receive_items;
};

static void exchange_free(struct exchange *x) {
    free(x->places);
    free(x->owner);
    free(x->rows.send);
    free(x->items.send);
    free(x->send_users);
    free(x->send_lengths);
    free(x->send_whole);
    free(x->receive_users);
    free(x->receive_lengths);
    free(x->receive_whole);
    free(x->send_items);
    free(x->receive_items);
}

/* Who sends how many rows to whom. */
static int plan(const struct sampler *s, uint32_t epoch, struct exchange *x) {
    const struct comm *comm = s->comm;
    int64_t first, count, n = s->base.rows, own = s->step_first[sampler_steps(s)];
    size_t bytes = ((size_t)n + 1) * sizeof *x->places + ((size_t)own + 1) * sizeof *x->owner;
    x->n_own = own;
    x->places = malloc(((size_t)n + 1) * sizeof *x->places);
    x->owner = malloc(((size_t)own + 1) * sizeof *x->owner);
    x->send_users = malloc(((size_t)n + 1) * sizeof *x->send_users);
    x->send_lengths = malloc(((size_t)n + 1) * sizeof *x->send_lengths);
    x->receive_users = malloc(((size_t)own + 1) * sizeof *x->receive_users);
    x->receive_lengths = malloc(((size_t)own + 1) * sizeof *x->receive_lengths);
    x->send_items = malloc(((size_t)csr_nonzeros(&s->base) + 1) * sizeof *x->send_items);
    if (s->base.whole) {
        x->send_whole = malloc(((size_t)n + 1) * sizeof *x->send_whole);
        x->receive_whole = malloc(((size_t)own + 1) * sizeof *x->receive_whole);
    }
    if ((s->base.whole && (!x->send_whole || !x->receive_whole)) || !x->places || !x->owner ||
        !x->send_users || !x->send_lengths || !x->receive_users || !x->receive_lengths || !x->send_items) {
        return error_memory("the exchange of rows", bytes);
    }
    if (csr_nonzeros(&s->base) > INT_MAX) {
        return error_set(EX_OSERR, "%lld interactions on one rank: use more ranks, at most %d fit on one",
                         (long long)csr_nonzeros(&s->base), INT_MAX);
    }
    comm_part(s->n_rows, comm->rank, comm->size, &first, &count);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++) {
        x->places[r] = (struct place){sampler_position_of(s->seed, epoch, s->n_rows, first + r), r};
    }
    qsort(x->places, (size_t)n, sizeof *x->places, by_position);
    for (int64_t step = 0; step < sampler_steps(s); step++) {
        int64_t begin, part;
        comm_part(sampler_step_users(s, step), comm->rank, comm->size, &begin, &part);
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < part; i++) {
            int64_t row = sampler_row_at(s->seed, epoch, s->n_rows, step * s->batch_size + begin + i);
            x->owner[s->step_first[step] + i] = part_of(s->n_rows, comm->size, row);
        }
    }
    int code = traffic_create(&x->rows, comm->size);
    return code ? code : traffic_create(&x->items, comm->size);
}

/* Puts this rank's rows in order of rank, then position. */
static void pack(const struct sampler *s, struct exchange *x) {
    int size = s->comm->size;
    const struct csr *base = &s->base;
    for (int64_t i = 0; i < base->rows; i++) {
        int to = rank_of_position(s, x->places[i].position);
        int64_t row = x->places[i].row;
        x->rows.send[to]++;
        x->items.send[to] += (int)(base->indptr[row + 1] - base->indptr[row]);
    }
    starts(x->rows.send, x->rows.send_at, size);
    starts(x->items.send, x->items.send_at, size);
    for (int64_t i = 0; i < base->rows; i++) { /* the starts run ahead and are set back below */
        int to = rank_of_position(s, x->places[i].position);
        int64_t row = x->places[i].row, length = base->indptr[row + 1] - base->indptr[row];
        x->send_users[x->rows.send_at[to]] = s->base_users[row];
        if (base->whole) x->send_whole[x->rows.send_at[to]] = base->whole[row];
        x->send_lengths[x->rows.send_at[to]++] = length;
        memcpy(x->send_items + x->items.send_at[to], base->indices + base->indptr[row],
               (size_t)length * sizeof *x->send_items);
        x->items.send_at[to] += (int)length;
    }
    starts(x->rows.send, x->rows.send_at, size);
    starts(x->items.send, x->items.send_at, size);
    for (int64_t i = 0; i < x->n_own; i++) x->rows.receive[x->owner[i]]++;
    starts(x->rows.receive, x->rows.receive_at, size);
}

static void all_to_all(const struct comm *comm, const struct traffic *t, MPI_Datatype type, const void *send,
                       void *receive) {
    MPI_Alltoallv(send, t->send, t->send_at, type, receive, t->receive, t->receive_at, type, comm->mpi);
}

/* Rows as they came, by rank, into the order of this rank's steps. */
static int unpack(struct sampler *s, struct exchange *x, int64_t n_items) {
    struct csr *m = &s->rows;
    csr_free(m);
    free(s->users);
    m->rows = x->n_own;
    m->cols = s->base.cols;
    m->indptr = calloc((size_t)x->n_own + 1, sizeof *m->indptr);
    m->indices = malloc(((size_t)n_items + 1) * sizeof *m->indices);
    if (s->base.whole) m->whole = malloc(((size_t)x->n_own + 1) * sizeof *m->whole);
    s->users = malloc(((size_t)x->n_own + 1) * sizeof *s->users);
    if (!m->indptr || !m->indices || (s->base.whole && !m->whole) || !s->users) {
        return error_memory("an epoch's rows", (size_t)n_items * sizeof *m->indices);
    }
    for (int64_t i = 0; i < x->n_own; i++) {
        int from = x->owner[i], at = x->rows.receive_at[from]++;
        int64_t length = x->receive_lengths[at];
        s->users[i] = x->receive_users[at];
        if (m->whole) m->whole[i] = x->receive_whole[at];
        m->indptr[i + 1] = m->indptr[i] + length;
        memcpy(m->indices + m->indptr[i], x->receive_items + x->items.receive_at[from],
               (size_t)length * sizeof *m->indices);
        x->items.receive_at[from] += (int)length;
    }
    return 0;
}

int sampler_begin(struct sampler *sampler, uint32_t epoch) {
    const struct comm *comm = sampler->comm;
    struct exchange x = {0};
    int64_t n_items = 0;
    int code = comm_agree(comm, plan(sampler, epoch, &x));
    if (code) goto cleanup;
    pack(sampler, &x);
    all_to_all(comm, &x.rows, MPI_INT64_T, x.send_users, x.receive_users);
    all_to_all(comm, &x.rows, MPI_INT64_T, x.send_lengths, x.receive_lengths);
    if (x.send_whole) all_to_all(comm, &x.rows, MPI_INT64_T, x.send_whole, x.receive_whole);
    for (int64_t i = 0, rank = 0; i < x.n_own; i++) { /* lengths came in order of rank */
        while (rank + 1 < comm->size && i >= x.rows.receive_at[rank + 1]) rank++;
        n_items += x.receive_lengths[i];
        if (n_items <= INT_MAX) x.items.receive[rank] += (int)x.receive_lengths[i];
    }
    starts(x.items.receive, x.items.receive_at, comm->size);
    x.receive_items = malloc(((size_t)n_items + 1) * sizeof *x.receive_items);
    if (!x.receive_items || n_items > INT_MAX) {
        code = error_memory("an epoch's rows", (size_t)n_items * sizeof *x.receive_items);
    }
    code = comm_agree(comm, code);
    if (code) goto cleanup;
    all_to_all(comm, &x.items, MPI_INT32_T, x.send_items, x.receive_items);
    code = comm_agree(comm, unpack(sampler, &x, n_items));
cleanup:
    exchange_free(&x);
    return code;
}

void sampler_batch(struct sampler *s, int64_t step, struct csr *rows, const int64_t **users) {
    int64_t first = s->step_first[step], count = s->step_first[step + 1] - first;
    *rows = csr_slice(&s->rows, first, count, s->indptr);
    *users = s->users + first;
}
