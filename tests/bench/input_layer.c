/* What the encoder's first layer and its gradient cost, by the non-zeros of a batch and by the size of the
 * catalogue.
 *
 *   build/tests/bench/input_layer [RESULT.csv]     make bench-input
 *
 * The cost should grow with the first and not with the second: the last column is the time relative to the
 * first row of each series, beside what its series' variable has grown by. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backend.h"
#include "comm.h"
#include "error.h"

enum { ROWS = 500, HIDDEN = 600, ROUNDS = 7 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ROWS users with `per_row` items each, spread over the catalogue. */
static int make_batch(int64_t n_items, int64_t per_row, struct csr *m, int64_t *users) {
    *m = (struct csr){.rows = ROWS, .cols = n_items};
    m->indptr = malloc((ROWS + 1) * sizeof *m->indptr);
    m->indices = malloc((size_t)(ROWS * per_row) * sizeof *m->indices);
    if (!m->indptr || !m->indices) return error_memory("a batch", (unsigned long long)(ROWS * per_row) * 4);
    for (int64_t r = 0; r < ROWS; r++) {
        m->indptr[r] = r * per_row;
        users[r] = r;
        int64_t stride = n_items / per_row;
        for (int64_t k = 0; k < per_row; k++) {
            m->indices[r * per_row + k] = (int32_t)(k * stride + (r * 2654435761LL + k * 40503LL) % stride);
        }
    }
    m->indptr[ROWS] = ROWS * per_row;
    return 0;
}

/* Fastest of ROUNDS: seconds of a batch's sparse layer, forward and backward, sum over ranks included. */
static int measure(int64_t n_items, int64_t per_row, double *seconds) {
    const struct comm alone = {MPI_COMM_NULL, 0, 1};
    const struct draw draw = {1, 0};
    int64_t users[ROWS];
    struct backend b = {0};
    struct csr m = {0};
    real *w = NULL, *dw = NULL, *bias = NULL, *y = NULL, *dy = NULL;
    int code = backend_cpu_create(n_items, PRECISION_FP32, &b);
    if (!code) code = make_batch(n_items, per_row, &m, users);
    if (code) goto cleanup;
    w = b.alloc(&b, (size_t)n_items * HIDDEN);
    dw = b.alloc(&b, (size_t)n_items * HIDDEN);
    bias = b.alloc(&b, HIDDEN);
    y = b.alloc(&b, (size_t)ROWS * HIDDEN);
    dy = b.alloc(&b, (size_t)ROWS * HIDDEN);
    if (!w || !dw || !bias || !y || !dy) {
        code = EX_OSERR;
        goto cleanup;
    }
    *seconds = 1e30;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now();
        code = b.load(&b, &m, users, 1);
        if (code) goto cleanup;
        b.input_values(&b, &draw, 0.5);
        b.input_forward(&b, w, bias, HIDDEN, ACTIVATION_TANH, y);
        b.input_backward(&b, HIDDEN, ACTIVATION_TANH, y, dy, dw, bias);
        b.input_all_reduce(&b, &alone, HIDDEN, dw);
        if (now() - begin < *seconds) *seconds = now() - begin;
    }
cleanup:
    free(w);
    free(dw);
    free(bias);
    free(y);
    free(dy);
    csr_free(&m);
    if (b.destroy) b.destroy(&b);
    return code;
}

int main(int argc, char **argv) {
    static const struct {
        const char *series;
        int64_t n_items, per_row;
    } points[] = {
        {"non-zeros", 100000, 10},  {"non-zeros", 100000, 40},  {"non-zeros", 100000, 160},
        {"non-zeros", 100000, 640}, {"catalogue", 10000, 80},   {"catalogue", 50000, 80},
        {"catalogue", 250000, 80},  {"catalogue", 1000000, 80},
    };
    FILE *file = argc > 1 ? fopen(argv[1], "w") : NULL;
    double first = 0;
    printf("%-10s %10s %10s %10s %9s %9s\n", "series", "items", "non-zeros", "ms", "grown", "time");
    if (file) fprintf(file, "series,items,nonzeros,milliseconds,grown,time_ratio\n");
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        double seconds;
        int is_first = i == 0 || points[i].series[0] != points[i - 1].series[0];
        static double from;
        double size = (double)(points[i].series[0] == 'n' ? points[i].per_row : points[i].n_items);
        if (measure(points[i].n_items, points[i].per_row, &seconds)) {
            fprintf(stderr, "error: %s\n", error_message());
            return EX_OSERR;
        }
        if (is_first) first = seconds;
        if (is_first) from = size;
        printf("%-10s %10lld %10lld %10.2f %8.0fx %8.2fx\n", points[i].series, (long long)points[i].n_items,
               (long long)points[i].per_row * ROWS, 1e3 * seconds, size / from, seconds / first);
        if (file) {
            fprintf(file, "%s,%lld,%lld,%.3f,%.0f,%.3f\n", points[i].series, (long long)points[i].n_items,
                    (long long)points[i].per_row * ROWS, 1e3 * seconds, size / from, seconds / first);
        }
    }
    return file && fclose(file) ? EX_IOERR : 0;
}
