/* preprocess/ids.c: strings as numbers, and their order. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "ids.h"

static int32_t add(struct ids *ids, const char *text) {
    int32_t number = -1;
    assert_int_equal(ids_add(ids, text, strlen(text), &number), 0);
    return number;
}

static void few(void **state) {
    (void)state;
    struct ids ids = {0};
    size_t length;
    assert_int_equal(ids_find(&ids, "a", 1), -1);
    assert_int_equal(add(&ids, "a"), 0);
    assert_int_equal(add(&ids, "b"), 1);
    assert_int_equal(add(&ids, "a"), 0);
    assert_int_equal(add(&ids, ""), 2);
    assert_int_equal(add(&ids, ""), 2);
    assert_int_equal(add(&ids, "aa"), 3);
    assert_int_equal(ids.n, 4);
    assert_int_equal(ids_find(&ids, "b", 1), 1);
    assert_int_equal(ids_find(&ids, "ab", 2), -1);
    assert_memory_equal(ids_text(&ids, 3, &length), "aa", 2);
    assert_int_equal(length, 2);
    ids_free(&ids);
    assert_int_equal(ids.n, 0);
    ids_free(&ids);
}

static void many(void **state) {
    (void)state;
    enum { N = 200000 };
    struct ids ids = {0};
    char text[32];
    size_t length;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            snprintf(text, sizeof text, "user-%d", i);
            assert_int_equal(add(&ids, text), i);
        }
    }
    assert_int_equal(ids.n, N);
    for (int i = 0; i < N; i += 17) {
        snprintf(text, sizeof text, "user-%d", i);
        assert_int_equal(ids_find(&ids, text, strlen(text)), i);
        assert_memory_equal(ids_text(&ids, i, &length), text, strlen(text));
        assert_int_equal(length, strlen(text));
    }
    ids_free(&ids);
}

static int bytes(const char *a, const char *b) {
    return ids_compare_bytes(a, strlen(a), b, strlen(b));
}

static int numbers(const char *a, const char *b) {
    return ids_compare_numbers(a, strlen(a), b, strlen(b));
}

static void order(void **state) {
    (void)state;
    assert_true(bytes("a", "b") < 0 && bytes("b", "a") > 0 && bytes("a", "a") == 0);
    assert_true(bytes("a", "ab") < 0 && bytes("ab", "a") > 0 && bytes("", "a") < 0);
    assert_true(bytes("10", "9") < 0 && bytes("z", "\xc3\xa4") < 0); /* bytes are not signed */
    assert_true(numbers("9", "10") < 0 && numbers("10", "9") > 0 && numbers("10", "10") == 0);
    assert_true(numbers("123456789012345678901234567890", "123456789012345678901234567891") < 0);
    assert_true(numbers("7", "07") < 0 && numbers("07", "8") < 0 && numbers("007", "07") > 0);
    assert_true(numbers("0", "00") < 0 && numbers("0", "1") < 0);
}

/* The published test vectors of FNV-1a. */
static void hash(void **state) {
    (void)state;
    assert_true(ids_hash(IDS_HASH_START, "", 0) == UINT64_C(0xcbf29ce484222325));
    assert_true(ids_hash(IDS_HASH_START, "a", 1) == UINT64_C(0xaf63dc4c8601ec8c));
    assert_true(ids_hash(IDS_HASH_START, "foobar", 6) == UINT64_C(0x85944171f73967e8));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(few), cmocka_unit_test(many), cmocka_unit_test(order),
                                       cmocka_unit_test(hash)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
