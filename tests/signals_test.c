/* Signals that come while matrices are multiplied, thousands of them: they are noticed, and harm no product.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "gemm.h"
#include "signals.h"

enum { ROWS = 500, COLS = 200, DEPTH = 1000, PRODUCTS = 100, PAUSE_US = 50 };

static atomic_int is_over;

static void *send_signals(void *nothing) {
    while (!is_over) {
        kill(getpid(), SIGUSR1);
        usleep(PAUSE_US);
    }
    return nothing;
}

static void harm_no_product(void **state) {
    (void)state;
    static const int kind[][2] = {{0, 0}, {0, 1}, {1, 0}}; /* transposed: a, b */
    real *a = malloc(sizeof *a * ROWS * DEPTH), *b = malloc(sizeof *b * DEPTH * COLS);
    real *c = malloc(sizeof *c * ROWS * COLS), *want = malloc(sizeof *want * ROWS * COLS);
    assert_true(a && b && c && want);
    for (int i = 0; i < ROWS * DEPTH; i++) a[i] = (real)(i % 17 - 8) / 8;
    for (int i = 0; i < DEPTH * COLS; i++) b[i] = (real)(i % 13 - 6) / 8;
    for (int k = 0; k < 3; k++) {
        pthread_t sender;
        assert_int_equal(gemm(kind[k][0], kind[k][1], ROWS, COLS, DEPTH, a, b, 0, want), 0);
        is_over = 0;
        assert_int_equal(pthread_create(&sender, NULL, send_signals, NULL), 0);
        for (int i = 0; i < PRODUCTS; i++) {
            assert_int_equal(gemm(kind[k][0], kind[k][1], ROWS, COLS, DEPTH, a, b, 0, c), 0);
            assert_memory_equal(c, want, sizeof *c * ROWS * COLS);
        }
        is_over = 1;
        pthread_join(sender, NULL);
    }
    free(a);
    free(b);
    free(c);
    free(want);
}

static void are_noticed(void **state) {
    (void)state;
    for (int i = 0; i < 1000 && !signals_came(); i++)
        usleep(1000); /* the thread that takes them may be slow */
    assert_true(signals_came());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(harm_no_product),
        cmocka_unit_test(are_noticed),
    };
    if (signals_catch()) return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
