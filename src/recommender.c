/* See recommender.h. */
#include "recommender.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

enum {
    ROWS_MAX = 1024,
    LISTS_SIZE = 1 << 22, /* items in a batch's lists */
    DEPTH = 2,            /* batches that a rank has or is about to have */
    READER_ONLY = 4,      /* from so many ranks on, rank 0 has enough to do with reading and writing */
    MESSAGE_SIZE = 1024,
    TAG_HEAD = 1,
    TAG_BODY = 2,
};

int recommender_create(const struct catalogue *catalogue, const uint8_t *marks, struct ranker *ranker, int k,
                       int flags, struct recommender *r) {
    *r = (struct recommender){.ranker = ranker, .k = k, .flags = flags};
    r->popular = malloc((size_t)k * sizeof *r->popular);
    r->popular_scores = malloc((size_t)k * sizeof *r->popular_scores);
    if (!r->popular || !r->popular_scores) {
        recommender_free(r);
        return error_memory("the popularity list", (size_t)k * sizeof *r->popular);
    }
    for (int64_t i = 0; i < catalogue->items.n && r->n_popular < k; i++) {
        if (marks && marks[i]) continue;
        r->popular_scores[r->n_popular] = (float)catalogue->items.count[i];
        r->popular[r->n_popular++] = (int32_t)i;
    }
    return 0;
}

void recommender_free(struct recommender *r) {
    free(r->popular);
    free(r->popular_scores);
    *r = (struct recommender){0};
}

int64_t recommender_batch(const struct recommender *r) {
    int64_t rows = LISTS_SIZE / r->k;
    return rows < ROWS_MAX ? rows : ROWS_MAX;
}

/* A batch under way. */
struct batch {
    struct users users;
    int owner; /* the rank that has it */
    int64_t head[2];
    MPI_Request request[3];
    int32_t *top;  /* [rows, k] */
    float *scores; /* [rows, k] */
};

static int batch_create(const struct recommender *r, struct batch *b) {
    size_t n = (size_t)recommender_batch(r) * (size_t)r->k;
    b->top = malloc(n * sizeof *b->top);
    b->scores = malloc(n * sizeof *b->scores);
    return b->top && b->scores ? 0 : error_memory("a batch's lists", n * 2 * sizeof *b->top);
}

static void batch_free(struct batch *b) {
    users_free(&b->users);
    free(b->top);
    free(b->scores);
}

/* ---- the other ranks ---- */

static int64_t receive_users(const struct comm *comm, struct csr *m, int64_t *rows_room, int64_t *items_room,
                             int *code) {
    int64_t head[2];
    MPI_Recv(head, 2, MPI_INT64_T, 0, TAG_HEAD, comm->mpi, MPI_STATUS_IGNORE);
    if (head[0] == 0) return 0;
    if (head[0] >= *rows_room) {
        free(m->indptr);
        *rows_room = head[0] + 1;
        m->indptr = malloc((size_t)*rows_room * sizeof *m->indptr);
    }
    if (head[1] >= *items_room) {
        free(m->indices);
        *items_room = head[1] + 1;
        m->indices = malloc((size_t)*items_room * sizeof *m->indices);
    }
    if (!m->indptr || !m->indices) {
        *code = error_memory("a batch of users", (unsigned long long)(head[0] * 8 + head[1] * 4));
        comm_abort(comm, *code); /* the batch cannot be taken in */
    }
    MPI_Recv(m->indptr, (int)head[0] + 1, MPI_INT64_T, 0, TAG_BODY, comm->mpi, MPI_STATUS_IGNORE);
    MPI_Recv(m->indices, (int)head[1], MPI_INT32_T, 0, TAG_BODY, comm->mpi, MPI_STATUS_IGNORE);
    m->rows = head[0];
    return head[0];
}

/* Scores what rank 0 sends until it sends nothing. */
static void work(const struct recommender *r, const struct comm *comm, struct batch *b) {
    struct csr m = {0};
    int64_t rows_room = 0, items_room = 0;
    int code = 0;
    while (receive_users(comm, &m, &rows_room, &items_room, &code)) {
        code = ranker_top_k(r->ranker, &m, r->k, r->flags, b->top, b->scores);
        MPI_Send(&code, 1, MPI_INT, 0, TAG_HEAD, comm->mpi);
        if (code) {
            char message[MESSAGE_SIZE] = "";
            strncpy(message, error_message(), sizeof message - 1);
            MPI_Send(message, sizeof message, MPI_CHAR, 0, TAG_BODY, comm->mpi);
            continue;
        }
        MPI_Send(b->top, (int)(m.rows * r->k), MPI_INT32_T, 0, TAG_BODY, comm->mpi);
        MPI_Send(b->scores, (int)(m.rows * r->k), MPI_FLOAT, 0, TAG_BODY, comm->mpi);
    }
    csr_free(&m);
}

/* ---- rank 0 ---- */

static void deal(const struct comm *comm, int owner, struct batch *b) {
    const struct csr *m = &b->users.matrix;
    b->owner = owner;
    if (owner == 0) return;
    b->head[0] = m->rows;
    b->head[1] = csr_nonzeros(m);
    MPI_Isend(b->head, 2, MPI_INT64_T, owner, TAG_HEAD, comm->mpi, &b->request[0]);
    MPI_Isend(m->indptr, (int)m->rows + 1, MPI_INT64_T, owner, TAG_BODY, comm->mpi, &b->request[1]);
    MPI_Isend(m->indices, (int)b->head[1], MPI_INT32_T, owner, TAG_BODY, comm->mpi, &b->request[2]);
}

/* Waits for a batch's lists, or makes them. */
static int collect(const struct recommender *r, const struct comm *comm, struct batch *b) {
    const struct csr *m = &b->users.matrix;
    int code;
    if (b->owner == 0) return ranker_top_k(r->ranker, m, r->k, r->flags, b->top, b->scores);
    MPI_Waitall(3, b->request, MPI_STATUSES_IGNORE);
    MPI_Recv(&code, 1, MPI_INT, b->owner, TAG_HEAD, comm->mpi, MPI_STATUS_IGNORE);
    if (code) {
        char message[MESSAGE_SIZE];
        MPI_Recv(message, sizeof message, MPI_CHAR, b->owner, TAG_BODY, comm->mpi, MPI_STATUS_IGNORE);
        return error_set(code, "%s", message);
    }
    MPI_Recv(b->top, (int)(m->rows * r->k), MPI_INT32_T, b->owner, TAG_BODY, comm->mpi, MPI_STATUS_IGNORE);
    MPI_Recv(b->scores, (int)(m->rows * r->k), MPI_FLOAT, b->owner, TAG_BODY, comm->mpi, MPI_STATUS_IGNORE);
    return 0;
}

static int write_batch(const struct recommender *r, const struct batch *b, struct lists *lists,
                       struct recommender_totals *totals) {
    const struct csr *m = &b->users.matrix;
    int code = 0;
    for (int64_t u = 0; u < m->rows && !code; u++) {
        size_t length;
        const char *id = users_id(&b->users, u, &length);
        if (m->indptr[u] == m->indptr[u + 1]) {
            totals->popular++;
            code =
                lists_add(lists, id, length, LISTS_POPULARITY, r->popular, r->popular_scores, r->n_popular);
            continue;
        }
        int n = 0;
        while (n < r->k && b->top[u * r->k + n] >= 0) n++;
        code = lists_add(lists, id, length, LISTS_MODEL, b->top + u * r->k, b->scores + u * r->k, n);
    }
    totals->finished += m->rows;
    return code;
}

static int lead(const struct recommender *r, const struct comm *comm, struct history *history,
                struct lists *lists, struct batch *batch, int n_batches,
                void (*progress)(const struct history *, int64_t), struct recommender_totals *totals) {
    int first = comm->size >= READER_ONLY ? 1 : 0, code = 0, at_end = 0;
    int64_t dealt = 0, collected = 0;
    for (;;) {
        while (!code && !at_end && dealt - collected < n_batches) {
            struct batch *b = &batch[dealt % n_batches];
            code = history_next(history, recommender_batch(r), &b->users);
            at_end = code || b->users.matrix.rows == 0;
            if (!at_end) deal(comm, first + (int)(dealt++ % (comm->size - first)), b);
        }
        if (collected == dealt) break;
        struct batch *b = &batch[collected++ % n_batches];
        if (code) { /* takes in what is under way, to no purpose */
            char message[MESSAGE_SIZE];
            strncpy(message, error_message(), sizeof message - 1);
            message[sizeof message - 1] = '\0';
            if (b->owner != 0) collect(r, comm, b);
            error_set(code, "%s", message);
            continue;
        }
        code = collect(r, comm, b);
        if (!code) code = write_batch(r, b, lists, totals);
        if (!code && progress) progress(history, totals->finished);
    }
    for (int rank = 1; rank < comm->size; rank++) {
        int64_t nothing[2] = {0, 0};
        MPI_Send(nothing, 2, MPI_INT64_T, rank, TAG_HEAD, comm->mpi);
    }
    return code;
}

int recommender_run(const struct recommender *r, const struct comm *comm, struct history *history,
                    struct lists *lists, void (*progress)(const struct history *, int64_t),
                    struct recommender_totals *totals) {
    int n_batches = comm->rank == 0 && comm->size > 1 ? DEPTH * comm->size : 1, code = 0;
    struct batch *batch = calloc((size_t)n_batches, sizeof *batch);
    if (!batch) code = error_memory("the batches", (size_t)n_batches * sizeof *batch);
    *totals = (struct recommender_totals){0};
    for (int i = 0; i < n_batches && !code; i++) code = batch_create(r, &batch[i]);
    code = comm_agree(comm, code);
    if (!code && comm->rank == 0) {
        code = lead(r, comm, history, lists, batch, n_batches, progress, totals);
    } else if (!code) {
        work(r, comm, batch);
    }
    for (int i = 0; batch && i < n_batches; i++) batch_free(&batch[i]);
    free(batch);
    return comm_agree(comm, code);
}
