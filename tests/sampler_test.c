/* The order of users: a permutation, another one each epoch, and batches that leave nobody out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sampler.h"

static void test_permutation(void **state) {
    (void)state;
    static const int64_t sizes[] = {1, 2, 3, 17, 256, 257, 5000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int64_t n = sizes[s], moved = 0, changed = 0;
        char *seen = calloc((size_t)n, 1);
        for (int64_t i = 0; i < n; i++) {
            int64_t row = sampler_row_at(42, 3, n, i);
            assert_in_range(row, 0, n - 1);
            assert_int_equal(seen[row]++, 0);
            assert_int_equal(sampler_position_of(42, 3, n, row), i);
            moved += row != i;
            changed += row != sampler_row_at(42, 4, n, i);
        }
        if (n > 100) assert_true(moved > n * 9 / 10 && changed > n * 9 / 10);
        free(seen);
    }
}

/* Row r has the items r % 7 and 7 + r % 3; its user is 1000 + r. */
static void make(const struct comm *comm, int64_t n, int64_t batch_size, struct sampler *sampler) {
    struct csr base = {.rows = n, .cols = 10};
    base.indptr = malloc((size_t)(n + 1) * sizeof *base.indptr);
    base.indices = malloc((size_t)(2 * n + 1) * sizeof *base.indices);
    int64_t *users = malloc((size_t)(n + 1) * sizeof *users);
    for (int64_t r = 0; r < n; r++) {
        users[r] = 1000 + r;
        base.indices[2 * r] = (int32_t)(r % 7);
        base.indices[2 * r + 1] = (int32_t)(7 + r % 3);
    }
    for (int64_t r = 0; r <= n; r++) base.indptr[r] = 2 * r;
    assert_int_equal(sampler_create(comm, &base, users, n, batch_size, 42, sampler), 0);
}

static void test_batches(void **state) {
    (void)state;
    enum { N = 103, BATCH = 20 };
    struct comm alone = {MPI_COMM_WORLD, 0, 1};
    struct sampler sampler;
    make(&alone, N, BATCH, &sampler);
    assert_int_equal(sampler_steps(&sampler), 6);
    for (uint32_t epoch = 0; epoch < 3; epoch++) {
        char seen[N] = {0};
        int64_t position = 0;
        assert_int_equal(sampler_begin(&sampler, epoch), 0);
        for (int64_t step = 0; step < 6; step++) {
            struct csr rows;
            const int64_t *users;
            sampler_batch(&sampler, step, &rows, &users);
            assert_int_equal(rows.rows, step < 5 ? BATCH : 3);
            assert_int_equal(rows.rows, sampler_step_users(&sampler, step));
            assert_int_equal(rows.indptr[0], 0);
            for (int64_t r = 0; r < rows.rows; r++, position++) {
                int64_t row = users[r] - 1000;
                assert_int_equal(row, sampler_row_at(42, epoch, N, position));
                assert_int_equal(rows.indices[rows.indptr[r]], row % 7);
                assert_int_equal(rows.indices[rows.indptr[r] + 1], 7 + row % 3);
                assert_int_equal(seen[row]++, 0);
            }
        }
        assert_int_equal(position, N);
    }
    sampler_free(&sampler);
}

static void test_batch_larger_than_all(void **state) {
    (void)state;
    struct comm alone = {MPI_COMM_WORLD, 0, 1};
    struct sampler sampler;
    struct csr rows;
    const int64_t *users;
    make(&alone, 5, 500, &sampler);
    assert_int_equal(sampler_steps(&sampler), 1);
    assert_int_equal(sampler_begin(&sampler, 0), 0);
    sampler_batch(&sampler, 0, &rows, &users);
    assert_int_equal(rows.rows, 5);
    sampler_free(&sampler);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_permutation), cmocka_unit_test(test_batches),
                                       cmocka_unit_test(test_batch_larger_than_all)};
    comm_start(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    comm_stop();
    return failed;
}
