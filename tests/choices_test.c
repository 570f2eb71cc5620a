/* Choices that are kept in a file. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "choices.h"
#include "error.h"

static char path[] = "/tmp/vaecf-choices-XXXXXX";

static int set_up(void **state) {
    (void)state;
    int file = mkstemp(path);
    return file < 0 ? -1 : close(file);
}

static int tear_down(void **state) {
    (void)state;
    return unlink(path);
}

static struct choice some(const char *key, uint64_t first) {
    struct choice c = {.word = {first, 0, ~(uint64_t)0, 3, 4, 5, 6, 0x123456789abcdef0}};
    snprintf(c.key, sizeof c.key, "%s", key);
    return c;
}

static void test_kept(void **state) {
    (void)state;
    struct choices *c;
    struct choice a = some("NVIDIA H200,13.0,m 7", 1), b = some("other", 2), again = some("other", 9);
    assert_int_equal(choices_open(path, &c), 0);
    assert_null(choices_find(c, a.key));
    assert_int_equal(choices_add(c, &a), 0);
    assert_int_equal(choices_add(c, &b), 0);
    assert_memory_equal(choices_find(c, a.key)->word, a.word, sizeof a.word);
    choices_close(c);
    assert_int_equal(choices_open(path, &c), 0);
    assert_memory_equal(choices_find(c, b.key), &b, sizeof b);
    assert_int_equal(choices_add(c, &again), 0);
    assert_int_equal(choices_find(c, b.key)->word[0], 9);
    choices_close(c);
    assert_int_equal(choices_open(path, &c), 0);
    assert_int_equal(choices_find(c, b.key)->word[0], 9);
    assert_memory_equal(choices_find(c, a.key), &a, sizeof a);
    choices_close(c);
}

/* Of two that share the file the first one to choose chooses for both. */
static void test_shared(void **state) {
    (void)state;
    struct choices *mine, *yours;
    struct choice a = some("shared", 1), b = some("shared", 2), c = some("shared", 3);
    assert_int_equal(choices_open(path, &mine), 0);
    assert_int_equal(choices_open(path, &yours), 0);
    assert_int_equal(choices_add(mine, &a), 0);
    assert_int_equal(choices_add(yours, &b), 0);
    assert_int_equal(b.word[0], 1);
    assert_int_equal(choices_find(yours, "shared")->word[0], 1);
    /* who knew the old one may choose anew */
    assert_int_equal(choices_add(yours, &c), 0);
    assert_int_equal(c.word[0], 3);
    choices_close(mine);
    choices_close(yours);
    assert_int_equal(choices_open(path, &mine), 0);
    assert_int_equal(choices_find(mine, "shared")->word[0], 3);
    choices_close(mine);
}

/* What is not a whole line is not a choice, and does no harm to the others. */
static void test_damaged(void **state) {
    (void)state;
    struct choices *c;
    struct choice choice, a = some("a", 1);
    const char word[] = "00000000000000ff", *const bad[] = {"", "\n", "a;12\n", ";", "a;xx\n"};
    char line[400] = "k;";
    for (int i = 0; i < CHOICE_WORDS; i++) strcat(line, word);
    assert_false(choice_read(line, &choice)); /* its end may be missing */
    strcat(line, "\n");
    assert_true(choice_read(line, &choice));
    assert_int_equal(choice.word[7], 0xff);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_false(choice_read(bad[i], &choice));
    line[4] = 'G';
    assert_false(choice_read(line, &choice));
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 3000; i++) fprintf(file, "%s", i % 100 == 50 ? "\n" : "long ");
    fprintf(file, "\n");
    fclose(file);
    assert_int_equal(choices_open(path, &c), 0);
    assert_int_equal(choices_add(c, &a), 0);
    choices_close(c);
    assert_int_equal(choices_open(path, &c), 0);
    assert_non_null(choices_find(c, "a"));
    choices_close(c);
    assert_int_equal(choices_open("/no/such/directory/file", &c), EX_CANTCREAT);
    choices_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_kept), cmocka_unit_test(test_shared),
                                       cmocka_unit_test(test_damaged)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
