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
        struct adam_step adam = {
            rate, 0.9, 0.999, 1e-8, decay, decoupled, 1 - pow(0.9, step + 1), 1 - pow(0.999, step + 1), 1};
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
        assert_true(fabs(optimizer_learning_rate(&config, 100, step) - want[step - 1]) < 1e-15);
    }
    config.warmup_steps = 0;
    assert_true(optimizer_learning_rate(&config, 100, 1) == 0.4);
}

/* After 4 steps of warm-up, 8 of decay. */
static void test_decay(void **state) {
    (void)state;
    struct train_config config = {.learning_rate = 0.4, .warmup_steps = 4, .schedule = SCHEDULE_LINEAR};
    assert_true(fabs(optimizer_learning_rate(&config, 12, 2) - 0.2) < 1e-15);
    for (int step = 4; step <= 13; step++) {
        double done = step < 5 ? 0 : (step - 5) / 8.0, pi = 3.14159265358979323846;
        config.schedule = SCHEDULE_LINEAR;
        assert_true(fabs(optimizer_learning_rate(&config, 12, step) - 0.4 * (1 - done)) < 1e-15);
        config.schedule = SCHEDULE_COSINE;
        assert_true(fabs(optimizer_learning_rate(&config, 12, step) - 0.2 * (1 + cos(pi * done))) < 1e-15);
    }
    config.schedule = SCHEDULE_COSINE;
    assert_true(optimizer_learning_rate(&config, 4, 4) == 0.4); /* nothing but warm-up */
}

/* The average by its definition; weights, gradients and moments stay as they were. */
static void test_average(void **state) {
    (void)state;
    const struct model_config layers = {.type = MODEL_DAE, .latent = 3, .activation = ACTIVATION_TANH};
    const struct train_config config = {.average = 0.2};
    struct backend backend;
    struct model model;
    struct optimizer optimizer;
    double want[N * 8] = {0};
    assert_int_equal(backend_cpu_create(N, PRECISION_FP32, &backend), 0);
    assert_int_equal(model_create(&layers, N, &backend, 1, &model), 0);
    assert_int_equal(optimizer_create(&model, &optimizer), 0);
    optimizer_average(&optimizer, &model, &config, 1); /* no average: nothing to do */
    model.average = backend.alloc(&backend, model.n_params);
    assert_non_null(model.average);
    const struct tensor *weight = &model.tensor[0];
    for (int step = 1; step <= STEPS; step++) {
        double d = (step - 1) / (step + 9.0);
        if (d > 0.2) d = 0.2;
        for (size_t i = 0; i < weight->size; i++) {
            model.params[i] = (real)((double)step * sin((double)i));
            model.grads[i] = (real)i;
            optimizer.v[i] = (real)(i + 1);
            want[i] = d * want[i] + (1 - d) * (double)model.params[i];
        }
        optimizer_average(&optimizer, &model, &config, step);
        for (size_t i = 0; i < weight->size; i++) {
            assert_true(fabs((double)model.average[i] - want[i]) < 1e-5);
            assert_true(model.params[i] == (real)((double)step * sin((double)i)));
            assert_true(model.grads[i] == (real)i && optimizer.v[i] == (real)(i + 1) && optimizer.m[i] == 0);
        }
    }
    optimizer_free(&model, &optimizer);
    model_free(&model);
    backend.destroy(&backend);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_adam), cmocka_unit_test(test_adamw),
                                       cmocka_unit_test(test_warmup), cmocka_unit_test(test_decay),
                                       cmocka_unit_test(test_average)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
