/* Matrix products of the library against the definition, and the rounding to bf16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bf16.h"
#include "gemm.h"
#include "philox.h"

enum { MOST = 70 };

static const int shape[][3] = {{1, 1, 1}, {1, 5, 3}, {7, 1, 2}, {3, 70, 65}, {64, 33, 17}, {70, 66, 70}};

static void fill(float *to, int n, uint32_t which) {
    for (int i = 0; i < n; i++) {
        to[i] = philox_uniform(philox(1, PHILOX_INIT, which, 0, (uint32_t)i).lane[0]) - 0.5f;
    }
}

static double element(int ta, int tb, int m, int n, int k, const float *a, const float *b, int i, int j) {
    double sum = 0;
    for (int l = 0; l < k; l++) {
        sum += (double)(ta ? a[l * m + i] : a[i * k + l]) * (double)(tb ? b[j * k + l] : b[l * n + j]);
    }
    return sum;
}

/* Every shape and transposition, over zero and added to what is there; in bf16 of values that it holds. */
static void check(int in_bf16) {
    static float a[MOST * MOST], b[MOST * MOST], c[MOST * MOST];
    static bf16 a16[MOST * MOST], b16[MOST * MOST];
    fill(a, MOST * MOST, 1);
    fill(b, MOST * MOST, 2);
    for (int i = 0; i < MOST * MOST && in_bf16; i++) {
        a[i] = bf16_to_float(a16[i] = bf16_from_float(a[i]));
        b[i] = bf16_to_float(b16[i] = bf16_from_float(b[i]));
    }
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        for (int way = 0; way < 8; way++) {
            int ta = way & 1, tb = way >> 1 & 1, add = way >> 2, m = shape[s][0], n = shape[s][1],
                k = shape[s][2];
            for (int i = 0; i < m * n; i++) c[i] = add ? 1.0f : NAN;
            float beta = add ? 1.0f : 0.0f;
            assert_int_equal(in_bf16 ? gemm_bf16(ta, tb, m, n, k, a16, b16, beta, c)
                                     : gemm(ta, tb, m, n, k, a, b, beta, c),
                             0);
            for (int i = 0; i < m * n; i++) {
                double want = element(ta, tb, m, n, k, a, b, i / n, i % n) + add;
                if (!(fabs((double)c[i] - want) <= 1e-5)) {
                    fail_msg("%d x %d x %d, way %d: element %d is %g, not %g", m, n, k, way, i, (double)c[i],
                             want);
                }
            }
        }
    }
}

static void test_gemm(void **state) {
    (void)state;
    check(0);
}

static void test_gemm_bf16(void **state) {
    (void)state;
    if (!gemm_has_bf16()) {
        puts("# skipped: this processor does not multiply bf16");
        skip();
    }
    check(1);
}

static void test_rounding(void **state) {
    (void)state;
    static const struct {
        float from, to;
    } known[] = {
        {0, 0},
        {1, 1},
        {-1.5f, -1.5f},
        {1.00390625f, 1},         /* halfway between 1 and 1 + 2^-7: to even */
        {1.01171875f, 1.015625f}, /* halfway: to even, upwards */
        {1.00390637f, 1.0078125f},
        {3.4e38f, INFINITY},
        {INFINITY, INFINITY},
        {1e-40f, 0x1p-133f}, /* subnormal */
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        float got = bf16_to_float(bf16_from_float(known[i].from));
        assert_true(got == known[i].to || fabsf(got - known[i].to) < 1e-44f);
    }
    uint32_t low_nan = 0x7f800001; /* its upper half alone would be infinity */
    float nan;
    memcpy(&nan, &low_nan, sizeof nan);
    assert_true(isnan(bf16_to_float(bf16_from_float(nan))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),
        cmocka_unit_test(test_gemm_bf16),
        cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
