/* See latency.h. */
#include "latency.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "error.h"
#include "file.h"
#include "philox.h"

enum {
    BATCH_MAX = 4096,
    BATCHES = 13,
    CALLS_MIN = 7,
    CALLS_MAX = 2000,
    MEAN_ITEMS = 70, /* of a user that is made up */
    LINE = 256,
    HUGE_PAGE = 1 << 21, /* bytes */
    MEMORY = 1 << 29,    /* bytes to read from, far more than a cache holds, */
    PIECE = 1 << 12,     /* so many at a time */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int by_item(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* The least value that `part` of the values do not exceed. */
static double percentile(const double *sorted, int n, double part) {
    int rank = (int)ceil(part * n);
    return sorted[rank > 0 ? rank - 1 : 0];
}

/* ---- users ---- */

/* The item at a part 0 .. 1 of all interactions. */
static int32_t item_at(const double *cumulative, int64_t n, double part) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (cumulative[middle] > part * cumulative[n - 1]) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return (int32_t)low;
}

static int make_users(const struct catalogue *c, struct csr *m) {
    int64_t n_items = c->items.n, room = (int64_t)BATCH_MAX * MEAN_ITEMS * 8;
    double *cumulative = malloc((size_t)n_items * sizeof *cumulative);
    *m = (struct csr){.rows = BATCH_MAX, .cols = n_items};
    m->indptr = calloc(BATCH_MAX + 1, sizeof *m->indptr);
    m->indices = malloc((size_t)room * sizeof *m->indices);
    if (!cumulative || !m->indptr || !m->indices) {
        free(cumulative);
        return error_memory("users", (unsigned long long)room * sizeof *m->indices);
    }
    for (int64_t i = 0; i < n_items; i++) {
        cumulative[i] = (double)c->items.count[i] + (i ? cumulative[i - 1] : 0) + 1e-9;
    }
    for (int64_t r = 0; r < BATCH_MAX; r++) {
        int32_t *row = m->indices + m->indptr[r];
        double u = (double)philox_uniform(philox(1, 0, 0, (uint64_t)r, 0).lane[0]);
        int64_t n = 1 + (int64_t)(-log(1 - u) * MEAN_ITEMS), kept = 0;
        if (n > MEAN_ITEMS * 8) n = MEAN_ITEMS * 8;
        for (int64_t i = 0; i < n; i++) {
            struct philox_block block = philox(1, 0, 1, (uint64_t)r, (uint32_t)(i / 4));
            row[i] = item_at(cumulative, n_items, (double)philox_uniform(block.lane[i % 4]));
        }
        qsort(row, (size_t)n, sizeof *row, by_item);
        for (int64_t i = 0; i < n; i++) {
            if (i == 0 || row[i] != row[kept - 1]) row[kept++] = row[i];
        }
        m->indptr[r + 1] = m->indptr[r] + kept;
    }
    free(cumulative);
    return 0;
}

/* BATCH_MAX users of the history, from the first again if there are fewer. */
static int take_users(struct history *history, const struct catalogue *c, struct csr *m) {
    struct users u = {0};
    int64_t room = 0, have = 0;
    *m = (struct csr){.rows = BATCH_MAX, .cols = c->items.n};
    m->indptr = calloc(BATCH_MAX + 1, sizeof *m->indptr);
    int code = m->indptr ? 0 : error_memory("users", BATCH_MAX * sizeof *m->indptr);
    while (!code && have < BATCH_MAX && !(code = history_next(history, BATCH_MAX - have, &u)) &&
           u.matrix.rows) {
        int64_t end = m->indptr[have], n = csr_nonzeros(&u.matrix);
        room = 2 * (end + n) + 1;
        int32_t *larger = realloc(m->indices, (size_t)room * sizeof *larger);
        if (!larger) {
            code = error_memory("users", (unsigned long long)room * sizeof *larger);
            break;
        }
        m->indices = larger;
        if (n) memcpy(larger + end, u.matrix.indices, (size_t)n * sizeof *larger);
        for (int64_t r = 0; r < u.matrix.rows; r++) m->indptr[have + r + 1] = end + u.matrix.indptr[r + 1];
        have += u.matrix.rows;
    }
    int64_t n = code ? 0 : m->indptr[have], times = have ? BATCH_MAX / have + 1 : 0;
    if (have && have < BATCH_MAX) {
        int32_t *larger = realloc(m->indices, (size_t)(n * times + 1) * sizeof *larger);
        if (larger) m->indices = larger;
        if (!larger) code = error_memory("users", (unsigned long long)(n * times) * sizeof *larger);
        for (int64_t r = have; r < BATCH_MAX && !code; r++) {
            int64_t length = m->indptr[r - have + 1] - m->indptr[r - have];
            memcpy(m->indices + m->indptr[r], m->indices + m->indptr[r - have],
                   (size_t)length * sizeof *m->indices);
            m->indptr[r + 1] = m->indptr[r] + length;
        }
    }
    users_free(&u);
    return code;
}

/* ---- times ---- */

/* Reads so many bytes with all threads; their sum has no meaning. */
static float read_memory(const float *from, size_t bytes) {
    enum { NUMBERS = PIECE / sizeof(float), LANES = 128 };
    float total = 0;
#pragma omp parallel for schedule(static) reduction(+ : total)
    for (size_t i = 0; i < bytes / PIECE; i++) {
        float sum[LANES] = {0};
        for (int k = 0; k < NUMBERS; k += LANES) {
            for (int j = 0; j < LANES; j++) sum[j] += from[i * NUMBERS + (size_t)(k + j)];
        }
        for (int j = 0; j < LANES; j++) total += sum[j];
    }
    return total;
}

struct times {
    int calls;
    double call[CALLS_MAX], stream[CALLS_MAX], mean;
};

/* Batches of users of the matrix, each call the next users, after a reading of other memory. */
static int measure(const struct recommender *r, const struct csr *m, int64_t rows, const float *memory,
                   double seconds, int32_t *top, float *scores, struct times *t) {
    int64_t indptr[BATCH_MAX + 1], first = 0;
    size_t bytes = ranker_bytes(r->ranker), at = 0;
    volatile float sink = 0;
    double start = now(), passed = 0;
    t->calls = -2; /* the first two warm up */
    t->mean = 0;
    while (t->calls < 1 || (t->calls < CALLS_MIN && passed < 10 * seconds) ||
           (t->calls < CALLS_MAX && passed < seconds)) {
        struct csr batch = csr_slice(m, first, rows, indptr);
        double before = now();
        sink += read_memory(memory + at / sizeof *memory, bytes < MEMORY ? bytes : MEMORY);
        double between = now();
        int code = ranker_top_k(r->ranker, &batch, r->k, r->flags, top, scores);
        double after = now();
        if (code) return code;
        if (t->calls >= 0) {
            t->stream[t->calls] = (between - before) * (bytes < MEMORY ? 1 : (double)bytes / MEMORY);
            t->call[t->calls] = after - between;
            t->mean += after - between;
        }
        at = at + 2 * bytes <= MEMORY ? (at + bytes) / PIECE * PIECE : 0;
        t->calls++;
        passed = now() - start;
        first = first + 2 * rows <= m->rows ? first + rows : 0;
    }
    (void)sink;
    t->mean /= t->calls;
    qsort(t->call, (size_t)t->calls, sizeof *t->call, ascending);
    qsort(t->stream, (size_t)t->calls, sizeof *t->stream, ascending);
    return 0;
}

int latency_measure(const struct recommender *r, const struct catalogue *c, struct history *history,
                    const char *precision, double seconds, const char *path) {
    static struct times t;
    char table[(BATCHES + 1) * LINE];
    struct csr m = {0};
    int32_t *top = malloc((size_t)BATCH_MAX * (size_t)r->k * sizeof *top);
    float *scores = malloc((size_t)BATCH_MAX * (size_t)r->k * sizeof *scores);
    int code = top && scores ? 0 : error_memory("the lists", (unsigned long long)r->k * BATCH_MAX * 8);
    float *memory = NULL;
    if (!code && posix_memalign((void **)&memory, HUGE_PAGE, MEMORY)) {
        code = error_memory("the measurement", MEMORY);
    }
    if (!code) madvise(memory, MEMORY, MADV_HUGEPAGE);
    for (size_t i = 0; i < MEMORY / sizeof *memory && !code; i++) memory[i] = (float)(i % 7);
    if (!code) code = history ? take_users(history, c, &m) : make_users(c, &m);
    size_t used = (size_t)snprintf(table, sizeof table,
                                   "precision,threads,batch,calls,mean_ms,p50_ms,p90_ms,p95_ms,p99_ms,"
                                   "users_per_second,stream_ms,times_stream\n");
    const int threads = omp_get_max_threads();
    const double bytes = (double)ranker_bytes(r->ranker);
    for (int64_t batch = 1; batch <= BATCH_MAX && !code; batch *= 2) {
        code = measure(r, &m, batch, memory, seconds, top, scores, &t);
        if (code) break;
        double p[] = {percentile(t.call, t.calls, 0.5), percentile(t.call, t.calls, 0.9),
                      percentile(t.call, t.calls, 0.95), percentile(t.call, t.calls, 0.99)};
        double stream = percentile(t.stream, t.calls, 0.5), speed = (double)batch / t.mean;
        if (batch == 1) {
            printf("%s: %lld items, %s weights, %d thread%s, %.1f items a user, the best %d\n",
                   ranker_device(r->ranker), (long long)c->items.n, precision, threads,
                   threads == 1 ? "" : "s", (double)csr_nonzeros(&m) / BATCH_MAX, r->k);
            if (bytes > 0) {
                printf("reading %.1f MB, as much as the weights, from memory takes %.3f ms (%.1f GB/s)\n",
                       bytes / 1e6, stream * 1e3, bytes / stream / 1e9);
            }
            printf("\n%5s %6s %9s %9s %9s %9s %9s %11s%s\n", "batch", "calls", "mean ms", "p50 ms", "p90 ms",
                   "p95 ms", "p99 ms", "users/s", bytes > 0 ? "  x reading" : "");
        }
        printf("%5lld %6d %9.3f %9.3f %9.3f %9.3f %9.3f %11.0f", (long long)batch, t.calls, t.mean * 1e3,
               p[0] * 1e3, p[1] * 1e3, p[2] * 1e3, p[3] * 1e3, speed);
        if (bytes > 0) printf(" %10.2f", p[0] / stream);
        putchar('\n');
        fflush(stdout);
        used += (size_t)snprintf(table + used, sizeof table - used,
                                 "%s,%d,%lld,%d,%.4f,%.4f,%.4f,%.4f,%.4f,%.1f,", precision, threads,
                                 (long long)batch, t.calls, t.mean * 1e3, p[0] * 1e3, p[1] * 1e3, p[2] * 1e3,
                                 p[3] * 1e3, speed);
        used += (size_t)(bytes > 0 ? snprintf(table + used, sizeof table - used, "%.4f,%.3f\n", stream * 1e3,
                                              p[0] / stream)
                                   : snprintf(table + used, sizeof table - used, ",\n"));
    }
    if (!code && path) code = file_write(path, table);
    if (!code && ferror(stdout)) code = error_set(EX_IOERR, "standard output: cannot write");
    csr_free(&m);
    free(memory);
    free(top);
    free(scores);
    return code;
}
