/* The dynamic loss scale, step by step; fp16 in software against the processor's own. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "error.h"
#include "fp16.h"
#include "loss_scale.h"

static struct train_config fp16_config(double scale) {
    return (struct train_config){.precision = PRECISION_FP16, .loss_scale = scale};
}

static void test_start(void **state) {
    (void)state;
    struct train_config dynamic = fp16_config(0), given = fp16_config(128), bf16 = fp16_config(0);
    bf16.precision = PRECISION_BF16;
    assert_true(loss_scale_start(&dynamic) == 65536 && loss_scale_start(&given) == 128);
    assert_true(loss_scale_start(&bf16) == 1);
}

static void test_dynamic(void **state) {
    (void)state;
    struct train_config config = fp16_config(0);
    struct train_state s = {.loss_scale = 65536};
    assert_int_equal(loss_scale_update(&config, 1, &s), 0);
    assert_int_equal(loss_scale_update(&config, 1, &s), 0);
    assert_true(s.loss_scale == 16384);
    assert_int_equal(s.epoch_skipped, 2);
    for (int i = 0; i < 1999; i++) assert_int_equal(loss_scale_update(&config, 0, &s), 0);
    assert_true(s.loss_scale == 16384);
    assert_int_equal(loss_scale_update(&config, 0, &s), 0);
    assert_true(s.loss_scale == 32768);
    assert_int_equal(s.good_steps, 0);
    /* an overflow begins the count anew */
    for (int i = 0; i < 1999; i++) loss_scale_update(&config, 0, &s);
    loss_scale_update(&config, 1, &s);
    loss_scale_update(&config, 0, &s);
    assert_true(s.loss_scale == 16384);
    assert_int_equal(s.good_steps, 1);
    assert_int_equal(s.epoch_skipped, 3);
    /* it stops growing */
    for (int i = 0; i < 40 * 2000; i++) loss_scale_update(&config, 0, &s);
    assert_true(s.loss_scale == 16777216);
}

static void test_given(void **state) {
    (void)state;
    struct train_config config = fp16_config(128);
    struct train_state s = {.loss_scale = 128};
    for (int i = 0; i < 5000; i++) assert_int_equal(loss_scale_update(&config, i % 100 == 0, &s), 0);
    assert_true(s.loss_scale == 128);
    assert_int_equal(s.epoch_skipped, 50);
}

/* Gradients that never become finite end the run. */
static void test_endless_overflow(void **state) {
    (void)state;
    struct train_config config = fp16_config(0);
    struct train_state s = {.loss_scale = 65536, .step = 7};
    int code = 0, steps = 0;
    for (; !code && steps < 100; steps++) code = loss_scale_update(&config, 1, &s);
    assert_int_equal(code, EX_SOFTWARE);
    assert_int_equal(steps, 41); /* from 2^16 below 2^-24 */
    assert_non_null(strstr(error_message(), "step 8"));
    assert_non_null(strstr(error_message(), "bf16"));
}

static void test_resume(void **state) {
    (void)state;
    struct train_config dynamic = fp16_config(0), given = fp16_config(128),
                        fp32 = {.precision = PRECISION_FP32};
    const struct {
        const struct train_config *was, *is;
        double scale;
        int64_t good_steps;
    } cases[] = {
        {&dynamic, &dynamic, 512, 77}, {&fp32, &dynamic, 65536, 0},  {&dynamic, &fp32, 1, 0},
        {&dynamic, &given, 128, 0},    {&given, &dynamic, 65536, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct train_state s = {.loss_scale = 512, .good_steps = 77};
        loss_scale_resume(cases[i].was, cases[i].is, &s);
        assert_true(s.loss_scale == cases[i].scale);
        assert_int_equal(s.good_steps, cases[i].good_steps);
    }
}

/* Every number of fp16 there and back, and what lies between two of them. */
static void test_rounding(void **state) {
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float x = fp16_to_float((fp16)bits);
        if ((bits & 0x7fff) > 0x7c00) {
            assert_true(isnan(x) && isnan(fp16_round(x)));
            continue;
        }
        assert_int_equal(fp16_from_float(x), bits);
        assert_memory_equal(&(float){fp16_round(x)}, &x, sizeof x);
        if ((bits & 0x7fff) >= 0x7bff) continue;
        float next = fp16_to_float((fp16)(bits + 1)), middle = x + (next - x) / 2;
        float even = bits & 1 ? next : x;
        assert_true(fp16_round(middle) == even);
        assert_true(fp16_round(nextafterf(middle, x)) == x);
        assert_true(fp16_round(nextafterf(middle, next)) == next);
    }
    assert_true(fp16_round(65519.996f) == 65504.0f);
    assert_true(isinf(fp16_round(65520.0f)) && fp16_round(-1e30f) == -INFINITY);
    assert_true(isinf(fp16_round(INFINITY)) && fp16_from_float(-INFINITY) == 0xfc00);
#ifdef __FLT16_MAX__
    for (uint32_t i = 0; i < 1u << 20; i++) {
        uint32_t pattern = i * 4093u;
        float x;
        memcpy(&x, &pattern, sizeof x);
        if (isnan(x)) continue;
        float want = (float)(_Float16)x;
        if (fp16_round(x) != want)
            fail_msg("%.9g is rounded to %.9g, want %.9g", (double)x, (double)fp16_round(x), (double)want);
    }
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_start),  cmocka_unit_test(test_dynamic),
        cmocka_unit_test(test_given),  cmocka_unit_test(test_endless_overflow),
        cmocka_unit_test(test_resume), cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
