/* See spool.h. */
#include "spool.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

void spool_open(struct spool *s, int n_bins, struct scratch *scratch, double share) {
    *s = (struct spool){.n_bins = n_bins, .scratch = scratch, .share = share};
}

int spool_out_reserve(struct spool_out *out, size_t size) {
    if (out->used + size <= out->room) return 0;
    size_t room = out->room ? out->room : 4096;
    while (room < out->used + size) room *= 2;
    char *data = realloc(out->data, room);
    if (!data) return error_memory("a buffer", room);
    out->data = data;
    out->room = room;
    return 0;
}

static size_t batch_size(const struct spool *s, const struct spool_batch *b) {
    return (size_t)b->end[s->n_bins - 1];
}

static void free_batch(struct spool *s, struct spool_batch *b) {
    if (b->data && b->end) scratch_release(s->scratch, batch_size(s, b));
    free(b->data);
    free(b->end);
}

/* Keeps a batch, whose data is in memory, there or on disk; it is used up. */
static int keep(struct spool *s, struct spool_batch b) {
    size_t size = batch_size(s, &b);
    int code = 0;
    if (!scratch_reserve(s->scratch, size, s->share)) {
        code = scratch_allocate(s->scratch, size, &b.at);
        if (!code) code = scratch_write(s->scratch, b.data, size, b.at);
        free(b.data);
        b.data = NULL;
    }
#pragma omp critical(spool)
    {
        if (!code && s->n == s->capacity) {
            int64_t capacity = s->capacity ? 2 * s->capacity : 256;
            struct spool_batch *batch = realloc(s->batch, (size_t)capacity * sizeof *batch);
            if (batch) {
                s->batch = batch;
                s->capacity = capacity;
            } else {
                code = error_memory("batches", (unsigned long long)capacity * sizeof *batch);
            }
        }
        if (!code) s->batch[s->n++] = b;
    }
    if (code) free_batch(s, &b);
    return code;
}

int spool_add(struct spool *s, int64_t key, struct spool_out *out) {
    size_t size = 0;
    struct spool_batch b = {.key = key, .end = malloc((size_t)s->n_bins * sizeof *b.end)};
    for (int i = 0; i < s->n_bins; i++) size += out[i].used;
    b.data = malloc(size + 1);
    if (!b.data || !b.end) {
        free(b.data);
        free(b.end);
        return error_memory("interactions", size);
    }
    size = 0;
    for (int i = 0; i < s->n_bins; i++) {
        if (out[i].used) memcpy(b.data + size, out[i].data, out[i].used);
        size += out[i].used;
        b.end[i] = (int64_t)size;
        out[i].used = 0;
    }
    return keep(s, b);
}

void spool_drop(struct spool *s, int64_t key) {
    int64_t n = 0;
    for (int64_t i = 0; i < s->n; i++) {
        if (s->batch[i].key < key) {
            s->batch[n++] = s->batch[i];
        } else {
            free_batch(s, &s->batch[i]);
        }
    }
    s->n = n;
}

static int compare(const void *pa, const void *pb) {
    const struct spool_batch *a = pa, *b = pb;
    return (a->key > b->key) - (a->key < b->key);
}

void spool_sort(struct spool *s) {
    if (s->n) qsort(s->batch, (size_t)s->n, sizeof *s->batch, compare);
}

/* Bytes [begin, end) of a batch. */
static int get(const struct spool *s, const struct spool_batch *b, int64_t begin, int64_t end,
               struct spool_out *buffer, const char **data) {
    if (b->data || begin == end) {
        *data = b->data ? b->data + begin : NULL;
        return 0;
    }
    buffer->used = 0;
    int code = spool_out_reserve(buffer, (size_t)(end - begin));
    if (!code) code = scratch_read(s->scratch, buffer->data, (size_t)(end - begin), b->at + begin);
    *data = buffer->data;
    return code;
}

int spool_get(const struct spool *s, int64_t batch, int bin, struct spool_out *buffer, const char **data,
              size_t *size) {
    const struct spool_batch *b = &s->batch[batch];
    int64_t begin = bin ? b->end[bin - 1] : 0;
    *size = (size_t)(b->end[bin] - begin);
    return get(s, b, begin, b->end[bin], buffer, data);
}

/* Batches are sent one after the other, each rank one at a time: its key, then the ends of the receiver's
 * bins, then their bytes. A rank that has no more sends none. */
struct round {
    int64_t *send_ends, *ends;                                   /* [n_bins], [ranks * own bins] */
    int64_t key, *keys;                                          /* keys: [ranks], -1: nothing comes */
    int *send_count, *send_at, *count, *at, *end_count, *end_at; /* [ranks]: bytes; ends */
};

static int receive(struct spool *to, const struct comm *comm, const int *first, const struct round *r,
                   const char *bytes) {
    int own = first[comm->rank + 1] - first[comm->rank];
    for (int p = 0; p < comm->size; p++) {
        if (r->keys[p] < 0 || !r->count[p]) continue;
        struct spool_batch b = {.key = r->keys[p],
                                .end = calloc((size_t)to->n_bins, sizeof *b.end),
                                .data = malloc((size_t)r->count[p])};
        if (!b.end || !b.data) {
            free(b.end);
            free(b.data);
            return error_memory("a batch", (unsigned long long)r->count[p]);
        }
        memcpy(b.data, bytes + r->at[p], (size_t)r->count[p]);
        for (int i = 0; i < own; i++)
            b.end[first[comm->rank] + i] = r->ends[(size_t)p * (size_t)own + (size_t)i];
        for (int i = first[comm->rank + 1]; i < to->n_bins; i++) b.end[i] = r->count[p];
        int code = keep(to, b);
        if (code) return code;
    }
    return 0;
}

/* Sends batch i (none if i >= n), receives into `to`. */
static int exchange_batch(const struct spool *from, int64_t i, struct spool *to, const struct comm *comm,
                          const int *first, struct round *r, struct spool_out *buffer,
                          struct spool_out *bytes, void (*translate)(char *, size_t, const void *),
                          const void *context) {
    int n_bins = from->n_bins, code = 0, own = first[comm->rank + 1] - first[comm->rank];
    const char *data = NULL;
    r->key = -1;
    memset(r->send_count, 0, (size_t)comm->size * sizeof *r->send_count);
    memset(r->send_at, 0, (size_t)comm->size * sizeof *r->send_at);
    memset(r->send_ends, 0, (size_t)n_bins * sizeof *r->send_ends);
    if (i < from->n) {
        const struct spool_batch *b = &from->batch[i];
        r->key = b->key;
        code = get(from, b, 0, b->end[n_bins - 1], buffer, &data);
        if (!code && b->end[n_bins - 1] > INT_MAX)
            code = error_set(EX_SOFTWARE, "a batch is too large to send");
        for (int bin = 0; bin < n_bins && translate && !code; bin++) {
            int64_t begin = bin ? b->end[bin - 1] : 0;
            translate((char *)(uintptr_t)data + begin, (size_t)(b->end[bin] - begin), context);
        }
        for (int p = 0; p < comm->size && !code; p++) {
            int64_t begin = first[p] ? b->end[first[p] - 1] : 0;
            int64_t end = first[p + 1] ? b->end[first[p + 1] - 1] : 0;
            r->send_at[p] = (int)begin;
            r->send_count[p] = (int)(end - begin);
            for (int bin = first[p]; bin < first[p + 1]; bin++) r->send_ends[bin] = b->end[bin] - begin;
        }
    }
    code = comm_agree(comm, code);
    if (code) return code;
    MPI_Allgather(&r->key, 1, MPI_INT64_T, r->keys, 1, MPI_INT64_T, comm->mpi);
    MPI_Alltoall(r->send_count, 1, MPI_INT, r->count, 1, MPI_INT, comm->mpi);
    int64_t total = 0;
    for (int p = 0; p < comm->size; p++) {
        r->at[p] = (int)total;
        total += r->count[p];
        r->end_count[p] = own;
        r->end_at[p] = p * own;
    }
    int send_end_count[comm->size], send_end_at[comm->size];
    for (int p = 0; p < comm->size; p++) {
        send_end_count[p] = first[p + 1] - first[p];
        send_end_at[p] = first[p];
    }
    MPI_Alltoallv(r->send_ends, send_end_count, send_end_at, MPI_INT64_T, r->ends, r->end_count, r->end_at,
                  MPI_INT64_T, comm->mpi);
    bytes->used = 0;
    code = total > INT_MAX ? error_set(EX_SOFTWARE, "batches are too large to send")
                           : spool_out_reserve(bytes, (size_t)total + 1);
    code = comm_agree(comm, code);
    if (code) return code;
    MPI_Alltoallv(data ? data : "", r->send_count, r->send_at, MPI_BYTE, bytes->data, r->count, r->at,
                  MPI_BYTE, comm->mpi);
    return receive(to, comm, first, r, bytes->data);
}

int spool_exchange(struct spool *s, const struct comm *comm, const int *first,
                   void (*translate)(char *, size_t, const void *), const void *context) {
    if (comm->size == 1) {
        spool_sort(s);
        return 0;
    }
    size_t ranks = (size_t)comm->size, own = (size_t)(first[comm->rank + 1] - first[comm->rank]);
    struct spool to;
    struct spool_out buffer = {0}, bytes = {0};
    struct round r = {.send_ends = malloc((size_t)s->n_bins * sizeof(int64_t)),
                      .ends = malloc((ranks * own + 1) * sizeof(int64_t)),
                      .keys = malloc(ranks * sizeof(int64_t)),
                      .send_count = malloc(6 * ranks * sizeof(int))};
    spool_open(&to, s->n_bins, s->scratch, s->share);
    int code = r.send_ends && r.ends && r.keys && r.send_count ? 0 : error_memory("the exchange", 8 * ranks);
    code = comm_agree(comm, code);
    if (!code) {
        r.send_at = r.send_count + ranks;
        r.count = r.send_at + ranks;
        r.at = r.count + ranks;
        r.end_count = r.at + ranks;
        r.end_at = r.end_count + ranks;
    }
    int64_t rounds = comm_max(comm, s->n);
    for (int64_t i = 0; i < rounds && !code; i++) {
        code = exchange_batch(s, i, &to, comm, first, &r, &buffer, &bytes, translate, context);
        if (i < s->n) {
            free_batch(s, &s->batch[i]);
            s->batch[i] = (struct spool_batch){0};
        }
        if (!code) code = stop_check();
        code = comm_agree(comm, code);
    }
    free(r.send_ends);
    free(r.ends);
    free(r.keys);
    free(r.send_count);
    free(buffer.data);
    free(bytes.data);
    spool_close(s);
    *s = to;
    spool_sort(s);
    return code;
}

void spool_close(struct spool *s) {
    /* to give much memory back takes time */
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < s->n; i++) free_batch(s, &s->batch[i]);
    free(s->batch);
    s->batch = NULL;
    s->n = s->capacity = 0;
}
