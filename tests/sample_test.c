/* The items of a sampled softmax: how many, which, the same for any range of them; sums over them are on
 * average those over all. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "sample.h"

enum { ITEMS = 1003, WORDS = (ITEMS + 63) / 64, WANTED = 100, STEPS = 2000 };

static float probability[ITEMS];

static int is_drawn(const uint64_t *marks, int i) {
    return (int)(marks[i / 64] >> (i % 64) & 1);
}

static void test_probability(void **state) {
    (void)state;
    double sum = 0;
    for (int i = 0; i < ITEMS; i++) {
        probability[i] = (float)sample_probability(i, WANTED, ITEMS);
        assert_true(probability[i] > 0.5 * WANTED / ITEMS && probability[i] <= 1);
        assert_true(i == 0 || probability[i] <= probability[i - 1]);
        sum += (double)probability[i];
    }
    assert_true(probability[0] == 1); /* 100 of 1003 would take it more than once */
    assert_true(sum > 0.8 * WANTED && sum <= WANTED);
    for (int i = 0; i < ITEMS; i++) assert_true(sample_probability(i, 100 * ITEMS, ITEMS) == 1);
}

static void test_draws(void **state) {
    (void)state;
    double n = 0, values = 0, wanted = 0, want = 0;
    int changed = 0;
    uint64_t before[WORDS] = {0};
    for (int i = 0; i < ITEMS; i++) {
        want += sin(i) + 2;
        wanted += (double)probability[i];
    }
    for (int step = 0; step < STEPS; step++) {
        uint64_t marks[WORDS] = {0}, part[WORDS] = {0};
        const struct sample_key key = {7, 3, step};
        sample_draw(&key, 0, ITEMS, probability, marks);
        for (int i = 0; i < ITEMS; i++) {
            if (!is_drawn(marks, i)) continue;
            n += 1. / STEPS;
            values += (sin(i) + 2) / (double)probability[i] / STEPS;
        }
        changed += memcmp(marks, before, sizeof marks) != 0;
        memcpy(before, marks, sizeof marks);
        sample_draw(&key, 404, ITEMS - 404, probability + 404, part); /* a range of the same */
        for (int i = 404; i < ITEMS; i++) assert_int_equal(is_drawn(part, i - 404), is_drawn(marks, i));
    }
    assert_int_equal(changed, STEPS);
    assert_true(fabs(n / wanted - 1) < 0.01);
    assert_true(fabs(values / want - 1) < 0.01); /* its standard error is 0.003 */
}

static void test_marks_stay(void **state) {
    (void)state;
    const float never[70] = {0};
    uint64_t marks[2] = {5, 9};
    sample_draw(&(struct sample_key){1, 2, 3}, 0, 70, never, marks);
    assert_true(marks[0] == 5 && marks[1] == 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_probability), cmocka_unit_test(test_draws),
                                       cmocka_unit_test(test_marks_stay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
