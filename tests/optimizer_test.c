/* Adam and AdamW against torch.optim, step by step (tests/reference/optimizer.h5, made by make_optimizer.py).
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "error.h"
#include "h5.h"
#include "optimizer.h"

enum { N = 23, STEPS = 5 };

static void compare(const char *group, int decoupled) {
    struct backend backend;
    hid_t file;
    char path[64];
    double p0[N], g[STEPS][N], want[STEPS][N], decay, rate;
    real p[N], gradient[N], m[N] = {0}, v[N] = {0};
    if (h5_open("tests/reference/optimizer.h5", &file)) fail_msg("%s", error_message());
    snprintf(path, sizeof path, "/%s/p0", group);
    assert_int_equal(h5_read(file, path, H5T_NATIVE_DOUBLE, 0, N, p0), 0);
    snprintf(path, sizeof path, "/%s/g", group);
    assert_int_equal(h5_read(file, path, H5T_NATIVE_DOUBLE, 0, STEPS, g), 0);
    snprintf(path, sizeof path, "/%s/p", group);
    assert_int_equal(h5_read(file, path, H5T_NATIVE_DOUBLE, 0, STEPS, want), 0);
    assert_int_equal(h5_get_double(file, "/", "weight_decay", &decay), 0);
    assert_int_equal(h5_get_double(file, "/", "learning_rate", &rate), 0);
    H5Fclose(file);
    assert_int_equal(backend_cpu_create(N, PRECISION_FP32, &backend), 0);
    for (int i = 0; i < N; i++) p[i] = (real)p0[i];
    for (int step = 0; step < STEPS; step++) {
        struct adam_step adam = {.learning_rate = rate,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .epsilon = 1e-8,
                                 .weight_decay = decay,
                                 .decoupled = decoupled,
                                 .correction1 = 1 - pow(0.9, step + 1),
                                 .correction2 = 1 - pow(0.999, step + 1),
                                 .unscale = 1};
        for (int i = 0; i < N; i++) gradient[i] = (real)g[step][i];
        backend.adam(&backend, &adam, N, p, gradient, m, v);
        for (int i = 0; i < N; i++) {
            if (fabs((double)p[i] - want[step][i]) <= 1e-6 * fmax(fabs(want[step][i]), 1e-1)) continue;
            fail_msg("%s: step %d: [%d] is %.9g, want %.9g", group, step + 1, i, (double)p[i], want[step][i]);
        }
    }
    backend.destroy(&backend);
}

static void test_adam(void **state) {
    (void)state;
    compare("adam", 0);
}

static void test_adamw(void **state) {
    (void)state;
    compare("adamw", 1);
}

static void test_warmup(void **state) {
    (void)state;
    struct train_config config = {.learning_rate = 0.4, .warmup_steps = 4};
    const double want[] = {0.1, 0.2, 0.3, 0.4, 0.4};
    for (int step = 1; step <= 5; step++) {
        assert_true(fabs(optimizer_learning_rate(&config, step) - want[step - 1]) < 1e-15);
    }
    config.warmup_steps = 0;
    assert_true(optimizer_learning_rate(&config, 1) == 0.4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_adam), cmocka_unit_test(test_adamw),
                                       cmocka_unit_test(test_warmup)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
