/* Rows in any order -> users in the order of their first rows; the same through temporary files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "error.h"
#include "grouping.h"

enum { ITEMS = 50 };
static const struct duplicates last = {DUPLICATES_LAST, 0};

static void test_settle(void **state) {
    (void)state;
    struct settler settler;
    int64_t unknown, kept;
    assert_int_equal(settler_open(&settler, &last, 10), 0);
    /* 3 twice; 5 liked, then not; 7 not liked, then liked; 9 not liked */
    int32_t rows[] = {
        7, 3, GROUPING_UNKNOWN, 5, GROUPING_UNWANTED(7), 3, GROUPING_UNWANTED(5), GROUPING_UNWANTED(9),
        7, 0, GROUPING_UNKNOWN};
    assert_int_equal(grouping_settle(&settler, rows, NULL, 11, &kept, &unknown), 0);
    assert_int_equal(kept, 3);
    assert_int_equal(rows[0], 0);
    assert_int_equal(rows[1], 3);
    assert_int_equal(rows[2], 7);
    assert_int_equal(unknown, 2);
    assert_int_equal(grouping_settle(&settler, rows, NULL, 0, &kept, &unknown), 0);
    assert_int_equal(kept, 0);
    settler_close(&settler);
}

/* Rows of n_users users, mixed, some unknown or unwanted. */
static struct grouping *fill(int64_t memory, int64_t n_users, int64_t n_rows) {
    struct grouping *g;
    uint64_t random = 5;
    char id[64];
    assert_int_equal(grouping_create(ITEMS, &last, memory, &g), 0);
    for (int64_t i = 0; i < n_rows; i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        int32_t item = (int32_t)(random >> 40) % ITEMS;
        if (random >> 33 & 1) item = GROUPING_UNWANTED(item);
        if (i % 11 == 0) item = GROUPING_UNKNOWN;
        int length =
            snprintf(id, sizeof id, "user \"%lld\"", (long long)((random >> 20) % (uint64_t)n_users));
        assert_int_equal(grouping_add(g, id, (size_t)length, item, 0), 0);
    }
    assert_int_equal(grouping_finish(g), 0);
    return g;
}

static void test_through_files(void **state) {
    (void)state;
    struct grouping *a = fill(INT64_C(1) << 40, 700, 30000), *b = fill(100000, 700, 30000);
    assert_int_equal(grouping_users(a), 700);
    assert_int_equal(grouping_users(b), 700);
    int64_t users = 0;
    for (;; users++) {
        const char *id_a, *id_b;
        size_t length_a, length_b;
        const int32_t *items_a, *items_b;
        int64_t n_a, n_b, unknown_a, unknown_b;
        assert_int_equal(grouping_next(a, &id_a, &length_a, &items_a, &n_a, &unknown_a), 0);
        assert_int_equal(grouping_next(b, &id_b, &length_b, &items_b, &n_b, &unknown_b), 0);
        assert_int_equal(!id_a, !id_b);
        if (!id_a) break;
        assert_int_equal(length_a, length_b);
        assert_memory_equal(id_a, id_b, length_a);
        assert_int_equal(n_a, n_b);
        assert_int_equal(unknown_a, unknown_b);
        if (n_a) assert_memory_equal(items_a, items_b, (size_t)n_a * sizeof *items_a);
        for (int64_t i = 1; i < n_a; i++) assert_true(items_a[i - 1] < items_a[i]);
    }
    assert_int_equal(users, 700);
    grouping_free(a);
    grouping_free(b);
}

static void test_no_rows(void **state) {
    (void)state;
    struct grouping *g = fill(1 << 20, 1, 0);
    const char *id;
    size_t length;
    const int32_t *items;
    int64_t n, unknown;
    assert_int_equal(grouping_users(g), 0);
    assert_int_equal(grouping_next(g, &id, &length, &items, &n, &unknown), 0);
    assert_null(id);
    grouping_free(g);
}

static void test_no_place(void **state) {
    (void)state;
    struct grouping *g;
    char *before = getenv("TMPDIR"), kept[4096] = "";
    if (before) snprintf(kept, sizeof kept, "%s", before);
    setenv("TMPDIR", "/no/such/place", 1);
    assert_int_equal(grouping_create(ITEMS, &last, 0, &g), 0);
    assert_int_equal(grouping_add(g, "u", 1, 3, 0), EX_CANTCREAT);
    assert_non_null(strstr(error_message(), "/no/such/place"));
    assert_non_null(strstr(error_message(), "TMPDIR"));
    grouping_free(g);
    if (before) {
        setenv("TMPDIR", kept, 1);
    } else {
        unsetenv("TMPDIR");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_settle),
        cmocka_unit_test(test_through_files),
        cmocka_unit_test(test_no_rows),
        cmocka_unit_test(test_no_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
