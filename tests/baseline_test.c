/* popularity and EASE against NumPy (tests/reference/baseline.h5, made by make_baseline.py): the model's
 * weights, its scores, and the scorer's. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "baseline.h"
#include "error.h"
#include "h5.h"
#include "scorer.h"

enum { USERS = 150, ITEMS = 70, NONZEROS_MAX = USERS * ITEMS };

static struct comm comm;
static int64_t indptr[USERS + 1];
static int32_t indices[NONZEROS_MAX];
static double weights[2][ITEMS][ITEMS], scores_wanted[2][USERS][ITEMS], counts[ITEMS]; /* [1]: with powers */
static struct model_config reference;

static int read_reference(void **state) {
    hid_t file;
    (void)state;
    if (h5_open("tests/reference/baseline.h5", &file)) fail_msg("%s", error_message());
    assert_int_equal(h5_read(file, "/indptr", H5T_NATIVE_INT64, 0, USERS + 1, indptr), 0);
    assert_int_equal(h5_read(file, "/indices", H5T_NATIVE_INT32, 0, indptr[USERS], indices), 0);
    assert_int_equal(h5_read(file, "/ease", H5T_NATIVE_DOUBLE, 0, ITEMS, weights[0]), 0);
    assert_int_equal(h5_read(file, "/ease_scores", H5T_NATIVE_DOUBLE, 0, USERS, scores_wanted[0]), 0);
    assert_int_equal(h5_read(file, "/ease_powers", H5T_NATIVE_DOUBLE, 0, ITEMS, weights[1]), 0);
    assert_int_equal(h5_read(file, "/ease_powers_scores", H5T_NATIVE_DOUBLE, 0, USERS, scores_wanted[1]), 0);
    assert_int_equal(h5_read(file, "/popularity", H5T_NATIVE_DOUBLE, 0, ITEMS, counts), 0);
    assert_int_equal(h5_get_double(file, "/", "l2", &reference.l2), 0);
    assert_int_equal(h5_get_double(file, "/", "user_power", &reference.user_power), 0);
    assert_int_equal(h5_get_double(file, "/", "item_power", &reference.item_power), 0);
    assert_int_equal(h5_get_double(file, "/", "popularity_power", &reference.popularity_power), 0);
    H5Fclose(file);
    return 0;
}

static void near(double is, double want, const char *what, int i, int j) {
    if (!(fabs(is - want) <= 2e-5)) fail_msg("%s[%d, %d] is %.9g, want %.9g", what, i, j, is, want);
}

static void create(int type, int with_powers, struct backend *backend, struct model *model) {
    struct model_config config = {.l2 = reference.l2};
    if (with_powers) config = reference;
    config.type = type;
    struct csr rows = {.rows = USERS, .cols = ITEMS, .indptr = indptr, .indices = indices};
    assert_int_equal(backend_cpu_create(ITEMS, PRECISION_FP32, backend), 0);
    assert_int_equal(model_create(&config, ITEMS, backend, 0, model), 0);
    if (baseline_fit(model, &rows, &comm)) fail_msg("%s", error_message());
}

/* The scores of all users by the model and by the scorer. */
static void check_scores(struct backend *backend, struct model *model, double want[USERS][ITEMS]) {
    static real scores[USERS * ITEMS];
    static float of_scorer[USERS * ITEMS];
    static int32_t top[USERS * ITEMS];
    struct csr rows = {.rows = USERS, .cols = ITEMS, .indptr = indptr, .indices = indices};
    struct scorer *scorer;
    assert_int_equal(model_score(model, &rows, scores), 0);
    assert_int_equal(scorer_create(model, PRECISION_FP32, &scorer), 0);
    assert_int_equal(scorer_top_k(scorer, &rows, ITEMS, SCORER_SEEN, top, of_scorer), 0);
    for (int u = 0; u < USERS; u++) {
        for (int i = 0; i < ITEMS; i++) {
            near((double)scores[u * ITEMS + i], want[u][i], "score", u, i);
            int item = top[u * ITEMS + i];
            assert_in_range(item, 0, ITEMS - 1);
            near((double)of_scorer[u * ITEMS + i], want[u][item], "the scorer's score", u, item);
            assert_true(i == 0 || of_scorer[u * ITEMS + i] <= of_scorer[u * ITEMS + i - 1]);
        }
    }
    scorer_destroy(scorer);
    model_free(model);
    backend->destroy(backend);
}

static void test_ease(void **state) {
    struct model_config config = {.type = MODEL_EASE};
    struct backend backend;
    struct model model;
    (void)state;
    if (baseline_check(&config)) {
        assert_non_null(strstr(error_message(), "LAPACK"));
        return;
    }
    for (int powers = 0; powers < 2; powers++) {
        create(MODEL_EASE, powers, &backend, &model);
        for (int i = 0; i < ITEMS; i++) {
            for (int j = 0; j < ITEMS; j++) {
                near((double)model.params[i * ITEMS + j], weights[powers][i][j], "B", i, j);
            }
            assert_true(model.params[i * ITEMS + i] == 0);
        }
        check_scores(&backend, &model, scores_wanted[powers]);
    }
}

static void test_popularity(void **state) {
    static double want[USERS][ITEMS];
    struct backend backend;
    struct model model;
    (void)state;
    create(MODEL_POPULARITY, 0, &backend, &model);
    for (int u = 0; u < USERS; u++) memcpy(want[u], counts, sizeof counts);
    check_scores(&backend, &model, want);
}

static void test_memory(void **state) {
    struct model_config config = {.type = MODEL_EASE};
    int64_t needed, available;
    (void)state;
    baseline_memory(&config, 100000, &comm, &needed, &available);
    assert_true(needed > 40000000000 && needed < 40100000000);
    assert_true(available >= 0);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ease), cmocka_unit_test(test_popularity),
                                       cmocka_unit_test(test_memory)};
    comm = comm_start(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, read_reference, NULL);
    comm_stop();
    return failed;
}
