/* Ranking and metrics: by hand, and against NumPy's on lists with many ties (tests/reference/metrics.h5, made
 * by make_metrics.py). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backend.h"
#include "error.h"
#include "h5.h"
#include "metrics.h"

static void read_csr(hid_t file, const char *group, int64_t cols, struct csr *m) {
    char path[64];
    int64_t n, unused;
    snprintf(path, sizeof path, "/%s/indptr", group);
    assert_int_equal(h5_shape(file, path, &n, &unused), 0);
    *m = (struct csr){.rows = n - 1, .cols = cols};
    m->indptr = malloc((size_t)n * sizeof *m->indptr);
    assert_int_equal(h5_read(file, path, H5T_NATIVE_INT64, 0, n, m->indptr), 0);
    m->indices = malloc((size_t)(csr_nonzeros(m) + 1) * sizeof *m->indices);
    snprintf(path, sizeof path, "/%s/indices", group);
    assert_int_equal(h5_read(file, path, H5T_NATIVE_INT32, 0, csr_nonzeros(m), m->indices), 0);
}

static void test_against_numpy(void **state) {
    (void)state;
    enum { ROWS_MAX = 100, K = 100 };
    static const int cuts[] = {1, 5, 10, 20, 100};
    hid_t file;
    struct csr input, target;
    struct backend backend;
    struct metrics metrics;
    struct metric wanted[METRICS_MAX];
    int64_t rows, cols, first_hit[ROWS_MAX], want_first[ROWS_MAX];
    static int32_t top[ROWS_MAX * K], want_top[ROWS_MAX * K];
    int n = 0;
    if (h5_open("tests/reference/metrics.h5", &file)) fail_msg("%s", error_message());
    assert_int_equal(h5_shape(file, "/scores", &rows, &cols), 0);
    assert_true(rows <= ROWS_MAX);
    real *scores = malloc((size_t)(rows * cols) * sizeof *scores);
    assert_int_equal(h5_read(file, "/scores", H5T_NATIVE_FLOAT, 0, rows, scores), 0);
    assert_int_equal(h5_read(file, "/top", H5T_NATIVE_INT32, 0, rows, want_top), 0);
    assert_int_equal(h5_read(file, "/first_hit", H5T_NATIVE_INT64, 0, rows, want_first), 0);
    read_csr(file, "input", cols, &input);
    read_csr(file, "target", cols, &target);
    assert_int_equal(backend_cpu_create(cols, PRECISION_FP32, &backend), 0);
    assert_int_equal(backend.load(&backend, &input, NULL, 0), 0);
    backend.top_k(&backend, rows, scores, K, &target, top, NULL, first_hit);
    assert_memory_equal(top, want_top, (size_t)rows * K * sizeof *top);
    for (int kind = 0; kind < METRIC_KINDS; kind++) {
        for (int c = 0; c < 5 && kind != METRIC_MRR; c++)
            wanted[n++] = (struct metric){(enum metric_kind)kind, cuts[c]};
    }
    wanted[n++] = (struct metric){METRIC_MRR, 0};
    assert_int_equal(metrics_init(&metrics, wanted, n, cols), 0);
    for (int64_t r = 0; r < rows; r++) {
        int64_t n_targets = target.indptr[r + 1] - target.indptr[r];
        if (n_targets == 0) continue;
        assert_int_equal(first_hit[r], want_first[r]);
        metrics_add(&metrics, top + r * K, K, target.indices + target.indptr[r], n_targets, first_hit[r]);
    }
    for (int i = 0; i < n; i++) {
        char name[METRIC_NAME_MAX], path[64];
        double want[2];
        metric_name(wanted[i], name);
        snprintf(path, sizeof path, "/values/%s", name);
        if (h5_read(file, path, H5T_NATIVE_DOUBLE, 0, 2, want)) fail_msg("%s", error_message());
        if (fabs(metrics_value(&metrics, i) - want[0]) > 1e-12 ||
            fabs(metrics_stderr(&metrics, i) - want[1]) > 1e-12) {
            fail_msg("%s: %.15g +- %.15g, want %.15g +- %.15g", name, metrics_value(&metrics, i),
                     metrics_stderr(&metrics, i), want[0], want[1]);
        }
    }
    metrics_free(&metrics);
    backend.destroy(&backend);
    csr_free(&input);
    csr_free(&target);
    free(scores);
    H5Fclose(file);
}

/* One user, list 4 2 0, targets 0 2 7 9: hits at ranks 2 and 3. */
static void test_by_hand(void **state) {
    (void)state;
    const struct metric wanted[] = {{METRIC_RECALL, 2},    {METRIC_RECALL, 100}, {METRIC_RECALL_ALL, 2},
                                    {METRIC_PRECISION, 3}, {METRIC_HITRATE, 1},  {METRIC_HITRATE, 2},
                                    {METRIC_NDCG, 3},      {METRIC_MAP, 3},      {METRIC_MRR, 0},
                                    {METRIC_COVERAGE, 3}};
    const double want[] = {1.0 / 2,
                           2.0 / 4,
                           1.0 / 4,
                           2.0 / 3,
                           0,
                           1,
                           (1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3) + 1 / log2(4)),
                           (1.0 / 2 + 2.0 / 3) / 3,
                           1.0 / 2,
                           3.0 / 10};
    const int32_t top[] = {4, 2, 0, -1, -1}, targets[] = {0, 2, 7, 9};
    struct metrics metrics;
    int n = (int)(sizeof want / sizeof *want);
    assert_int_equal(metrics_init(&metrics, wanted, n, 10), 0);
    assert_true(isnan(metrics_value(&metrics, 0)));
    metrics_add(&metrics, top, 5, targets, 4, 2);
    for (int i = 0; i < n; i++) {
        assert_true(fabs(metrics_value(&metrics, i) - want[i]) < 1e-15);
        assert_true(metrics_stderr(&metrics, i) == 0);
    }
    metrics_reset(&metrics);
    assert_int_equal(metrics.users, 0);
    metrics_add(&metrics, top, 5, (int32_t[]){8}, 1, 0);
    for (int i = 0; i < n - 1; i++) assert_true(metrics_value(&metrics, i) == 0);
    metrics_free(&metrics);
}

/* Fewer items than asked for; nothing but input; ties at the border. */
static void test_short_lists(void **state) {
    (void)state;
    struct backend backend;
    int64_t starts[] = {0, 1, 4, 4}, target_starts[] = {0, 1, 2, 3}, first_hit[3];
    int32_t input_items[] = {1, 0, 1, 2}, target_items[] = {2, 1, 3}, top[3 * 4];
    struct csr input = {.rows = 3, .cols = 4, .indptr = starts, .indices = input_items},
               targets = {.rows = 3, .cols = 4, .indptr = target_starts, .indices = target_items};
    real scores[] = {1, 9, 1, 1, 1, 2, 3, 4, 5, 5, 5, 5}, top_scores[3 * 4];
    const int32_t want[] = {0, 2, 3, -1, 3, -1, -1, -1, 0, 1, 2, 3};
    assert_int_equal(backend_cpu_create(4, PRECISION_FP32, &backend), 0);
    assert_int_equal(backend.load(&backend, &input, NULL, 0), 0);
    backend.top_k(&backend, 3, scores, 4, &targets, top, top_scores, first_hit);
    assert_memory_equal(top, want, sizeof want);
    assert_int_equal(first_hit[0], 2);
    assert_int_equal(first_hit[1], 0); /* the target is in the input */
    assert_int_equal(first_hit[2], 4);
    assert_true(top_scores[8] == 5);
    backend.destroy(&backend);
}

static void test_names(void **state) {
    (void)state;
    static const char *const good[] = {"recall@20", "recall_all@1", "precision@5", "hitrate@10000",
                                       "ndcg@100",  "map@3",        "mrr",         "coverage@50"};
    static const char *const bad[] = {"",        "ndcg",       "ndcg@", "ndcg@0",   "ndcg@-1",
                                      "ndcg@1x", "ndcg@10001", "mrr@5", "Recall@5", "recall@ 5"};
    struct metric metric;
    char name[METRIC_NAME_MAX];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(metric_parse(good[i], &metric), 0);
        metric_name(metric, name);
        assert_string_equal(name, good[i]);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(metric_parse(bad[i], &metric), EX_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_numpy), cmocka_unit_test(test_by_hand),
                                       cmocka_unit_test(test_short_lists), cmocka_unit_test(test_names)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
