/* Values of options, paths of outputs, variables: what is taken, what is refused, and with which words. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "blend.h"
#include "environment.h"
#include "error.h"
#include "options.h"
#include "path.h"

static void refuses(int code, const char *message) {
    assert_int_equal(code, EX_USAGE);
    assert_string_equal(error_message(), message);
}

static void test_whole(void **state) {
    static const char *const wrong[] = {"", "x", "1x", "1.5", "0", "11", "99999999999999999999", "1e1"};
    int64_t value;
    char message[128];
    (void)state;
    assert_int_equal(option_whole("n", "10", 1, 10, &value), 0);
    assert_int_equal(value, 10);
    assert_int_equal(option_whole("n", "-9223372036854775808", INT64_MIN, 0, &value), 0);
    assert_true(value == INT64_MIN);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        snprintf(message, sizeof message, "--n %s: want a whole number from 1 to 10", wrong[i]);
        refuses(option_whole("n", wrong[i], 1, 10, &value), message);
    }
}

static void test_number(void **state) {
    double value;
    (void)state;
    assert_int_equal(option_number("x", "-2.5e-1", -INFINITY, INFINITY, &value), 0);
    assert_true(value == -0.25);
    assert_int_equal(option_number("x", "1", 0, 1, &value), 0);
    refuses(option_number("x", "1.01", 0, 1, &value), "--x 1.01: want a number from 0 to 1");
    refuses(option_number("x", "nan", 0, 1, &value), "--x nan: want a number from 0 to 1");
    refuses(option_number("x", "inf", -INFINITY, INFINITY, &value), "--x inf: want a number");
    refuses(option_number("x", "1e999", -INFINITY, INFINITY, &value), "--x 1e999: want a number");
    refuses(option_number("x", "", -INFINITY, INFINITY, &value), "--x : want a number");
}

static void test_choice(void **state) {
    static const char *const words[] = {"red", "green", "blue", NULL}, *const two[] = {"yes", "no", NULL};
    int choice = -1;
    (void)state;
    assert_int_equal(option_choice("color", "blue", words, &choice), 0);
    assert_int_equal(choice, 2);
    refuses(option_choice("color", "gree", words, &choice), "--color gree: want red, green or blue");
    refuses(option_choice("sure", "", two, &choice), "--sure : want yes or no");
    assert_int_equal(choice, 2);
}

static void test_blend(void **state) {
    char good[] = "a:b/best.h5:-2.5e-1", plain[] = "best.h5";
    struct blend blend = {.n = 1};
    (void)state;
    assert_int_equal(blend_add(&blend, good), 0);
    assert_int_equal(blend.n, 2);
    assert_string_equal(blend.path[1], "a:b/best.h5");
    assert_true(blend.weight[1] == -0.25);
    refuses(blend_add(&blend, plain), "--blend best.h5: want FILE:WEIGHT, for example other/best.h5:0.05");
    assert_int_equal(blend.n, 2);
}

static void test_output_path(void **state) {
    static const char *const good[] = {"-", "x", "./~x", "./$x", "a~", "a$b", "/h/~", ""};
    (void)state;
    assert_int_equal(path_check(NULL), 0);
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(path_check(good[i]), 0);
        assert_string_equal(path_hint(good[i]), "");
    }
    refuses(path_check("~/x"),
            "~/x: the shell has left the ~ as it is: write $HOME/x for ~/x, or ./ before it if "
            "that is its name");
    refuses(path_check("$HOME/x"),
            "$HOME/x: the shell has left the $ as it is: write it without single quotes, "
            "or ./ before it if that is its name");
}

static void test_environment(void **state) {
    static const struct {
        const char *value;
        int is_set, has_threads;
    } cases[] = {{"", 0, 0},     {" \t", 0, 0}, {"4", 1, 1},  {" 4 ", 1, 1}, {"4,2", 1, 1},
                 {"four", 1, 0}, {"0", 1, 0},   {"-1", 1, 0}, {"4x", 1, 0},  {"999999999999999999999", 1, 0}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setenv("OMP_NUM_THREADS", cases[i].value, 1);
        assert_int_equal(environment("OMP_NUM_THREADS") != NULL, cases[i].is_set);
        assert_int_equal(environment_has_threads(), cases[i].has_threads);
    }
    unsetenv("OMP_NUM_THREADS");
    assert_null(environment("OMP_NUM_THREADS"));
    assert_false(environment_has_threads());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole), cmocka_unit_test(test_number),      cmocka_unit_test(test_choice),
        cmocka_unit_test(test_blend), cmocka_unit_test(test_output_path), cmocka_unit_test(test_environment)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
