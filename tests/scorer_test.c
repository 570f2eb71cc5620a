/* The k best items: exactly those of brute force, the same bits whatever the batch and the threads. */
#include <math.h>
#include <omp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "error.h"
#include "scorer.h"

enum { USERS = 1000 };

static struct backend backend;
static struct model model;
static struct csr users;

static uint32_t next_random(uint64_t *state) {
    *state = *state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* Users with 0, 1, 4 or 16 items: the square roots are whole. */
static void make_users(int64_t n_items) {
    static const int64_t sizes[] = {4, 1, 16, 0};
    uint64_t state = 7;
    users = (struct csr){.rows = USERS, .cols = n_items};
    users.indptr = calloc(USERS + 1, sizeof *users.indptr);
    users.indices = malloc(USERS * 16 * sizeof *users.indices);
    for (int64_t r = 0; r < USERS; r++) {
        int64_t n = sizes[r % 4], have = 0, at = users.indptr[r];
        if (n > n_items) n = n_items >= 4 ? 4 : 1;
        for (int64_t i = 0; i < n_items && have < n; i++) { /* n of the items, each as likely */
            if ((int64_t)(next_random(&state) % (uint64_t)(n_items - i)) < n - have) {
                users.indices[at + have++] = (int32_t)i;
            }
        }
        users.indptr[r + 1] = at + n;
    }
}

static void make_model(const struct model_config *config, int64_t n_items, int on_grid) {
    uint64_t state = 1;
    assert_int_equal(backend_cpu_create(n_items, PRECISION_FP32, &backend), 0);
    assert_int_equal(model_create(config, n_items, &backend, 0, &model), 0);
    assert_int_equal(model_init(&model, 1), 0);
    for (size_t i = 0; i < model.n_params && on_grid; i++) {
        model.params[i] = (real)((int)(next_random(&state) % 9) - 4) / 4;
    }
    make_users(n_items);
}

static void clear(void) {
    csr_free(&users);
    model_free(&model);
    backend.destroy(&backend);
}

/* ---- brute force ---- */

static double act(int activation, double x) {
    if (activation == ACTIVATION_TANH) return tanh(x);
    if (activation == ACTIVATION_SIGMOID) return 1 / (1 + exp(-x));
    return activation == ACTIVATION_RELU && x < 0 ? 0 : x;
}

/* logits += weight * a network's for a user, from the definition. */
static void add_brute_logits(const struct model *m, double weight, int64_t user, double *logits) {
    double x[64] = {0}, y[64];
    int64_t n = users.indptr[user + 1] - users.indptr[user];
    for (int l = 0; l < m->n_layers; l++) {
        const struct tensor *t = &m->tensor[2 * l];
        const real *w = m->params + t->offset, *b = m->params + t[1].offset;
        int is_last = l == m->n_layers - 1;
        int is_stats = m->config.type == MODEL_VAE && l == m->n_encoder - 1;
        int64_t outs = is_last ? m->n_items : m->width[l + 1];
        for (int64_t j = 0; j < outs; j++) {
            double sum = 0;
            for (int64_t i = 0; l == 0 && i < n; i++) {
                sum += (double)w[users.indices[users.indptr[user] + i] * t->cols + j] / sqrt((double)n);
            }
            for (int64_t i = 0; l > 0 && i < m->width[l]; i++) {
                sum += x[i] * (double)(is_last ? w[j * t->cols + i] : w[i * t->cols + j]);
            }
            sum += (double)b[j];
            if (is_last) {
                logits[j] += weight * sum;
            } else {
                y[j] = is_stats ? sum : act(m->config.activation, sum);
            }
        }
        if (m->config.layer_norm && l < m->n_encoder - 1) {
            double mean = 0, variance = 0;
            for (int64_t j = 0; j < outs; j++) mean += y[j] / (double)outs;
            for (int64_t j = 0; j < outs; j++) variance += (y[j] - mean) * (y[j] - mean) / (double)outs;
            for (int64_t j = 0; j < outs; j++) y[j] = (y[j] - mean) / sqrt(variance + 0.1);
        }
        memcpy(x, y, sizeof x);
    }
}

static void brute_logits(int64_t user, double *logits) {
    memset(logits, 0, (size_t)model.n_items * sizeof *logits);
    add_brute_logits(&model, 1, user, logits);
}

static const double *sorted_logits;

static int by_rank(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sorted_logits[i] != sorted_logits[j]) return sorted_logits[i] < sorted_logits[j] ? 1 : -1;
    return i < j ? -1 : 1;
}

/* All items that may be in the user's list, best first; returns how many. */
static int64_t brute_list(int64_t user, const double *logits, int with_seen, const uint8_t *closed,
                          int32_t *list) {
    int64_t n = 0, at = users.indptr[user], end = users.indptr[user + 1];
    for (int32_t i = 0; i < model.n_items; i++) {
        int seen = at < end && users.indices[at] == i;
        at += seen;
        if ((!seen || with_seen) && !(closed && closed[i])) list[n++] = i;
    }
    sorted_logits = logits;
    qsort(list, (size_t)n, sizeof *list, by_rank);
    return n;
}

/* ---- tests ---- */

/* Weights and inputs are multiples of powers of two, so that every sum is exact and many scores are equal:
 * list and scores must be brute force's to the last bit, in each precision. */
static void check_exact(const struct model_config *config, int64_t n_items, int k, int flags, int closing) {
    make_model(config, n_items, 1);
    double *logits = malloc((size_t)n_items * sizeof *logits);
    int32_t *list = malloc((size_t)n_items * sizeof *list), *top = malloc(USERS * (size_t)k * sizeof *top);
    float *scores = malloc(USERS * (size_t)k * sizeof *scores);
    uint8_t *closed = calloc((size_t)n_items, 1);
    for (int64_t i = 0; closing && i < n_items; i += 3) closed[i] = 1;
    const enum precision precisions[] = {PRECISION_FP32, PRECISION_BF16, PRECISION_FP16};
    for (int p = 0; p < 3; p++) {
        struct scorer *scorer;
        assert_int_equal(scorer_create(&model, precisions[p], &scorer), 0);
        scorer_close_items(scorer, closing ? closed : NULL);
        assert_int_equal(scorer_top_k(scorer, &users, k, flags, top, scores), 0);
        for (int64_t r = 0; r < USERS; r++) {
            brute_logits(r, logits);
            int64_t n = brute_list(r, logits, flags & SCORER_SEEN, closing ? closed : NULL, list);
            for (int64_t j = 0; j < k; j++) {
                assert_int_equal(top[r * k + j], j < n ? list[j] : -1);
                if (j < n) assert_true((double)scores[r * k + j] == logits[list[j]]);
            }
        }
        scorer_destroy(scorer);
    }
    free(logits);
    free(list);
    free(top);
    free(scores);
    free(closed);
    clear();
}

static void test_exact(void **state) {
    (void)state;
    struct model_config vae = {.type = MODEL_VAE, .n_hidden = 1, .hidden = {12}, .latent = 5};
    vae.activation = ACTIVATION_RELU;
    struct model_config dae = {.type = MODEL_DAE, .n_hidden = 2, .hidden = {9, 7}, .latent = 3};
    dae.activation = ACTIVATION_RELU;
    struct model_config flat = {.type = MODEL_VAE, .n_hidden = 0, .latent = 20};
    flat.activation = ACTIVATION_RELU;
    check_exact(&vae, 300, 20, 0, 0);
    check_exact(&vae, 97, 120, SCORER_SEEN, 1);
    check_exact(&vae, 1, 3, 0, 0);
    check_exact(&dae, 129, 7, 0, 1);
    check_exact(&flat, 64, 1, SCORER_SEEN, 0);
}

static int64_t same_list(const int32_t *a, const int32_t *b, int k) {
    return memcmp(a, b, (size_t)k * sizeof *a) == 0;
}

static void test_against_double(void **state) {
    (void)state;
    enum { ITEMS = 500, K = 20 };
    static double logits[ITEMS];
    static int32_t top[USERS * K], list[ITEMS];
    static float scores[USERS * K];
    for (int a = ACTIVATION_TANH; a <= ACTIVATION_SIGMOID + 1; a++) {
        struct model_config config = {.type = MODEL_VAE, .n_hidden = 1, .hidden = {60}, .latent = 20};
        config.activation = a;
        if (a >
            ACTIVATION_SIGMOID) { /* as RecVAE, but for the activation: of widths that are no whole panels */
            config =
                (struct model_config){.type = MODEL_VAE, .n_hidden = 2, .hidden = {60, 43}, .latent = 20};
            config.activation = ACTIVATION_SIGMOID;
            config.layer_norm = 1;
            config.decoder = DECODER_LINEAR;
        }
        make_model(&config, ITEMS, 0);
        struct scorer *scorer;
        assert_int_equal(scorer_create(&model, PRECISION_FP32, &scorer), 0);
        assert_int_equal(scorer_top_k(scorer, &users, K, 0, top, scores), 0);
        int64_t same = 0;
        for (int64_t r = 0; r < USERS; r++) {
            brute_logits(r, logits);
            brute_list(r, logits, 0, NULL, list);
            same += same_list(top + r * K, list, K);
            for (int j = 0; j < K; j++) { /* rounding may exchange what is nearly equal */
                double got = logits[top[r * K + j]];
                assert_true(fabs(got - (double)scores[r * K + j]) < 1e-5);
                assert_true(fabs(got - logits[list[j]]) < 1e-5);
            }
        }
        print_message("activation %d: %d of %d lists are double precision's\n", a, (int)same, USERS);
        assert_true(same > USERS * 98 / 100);
        scorer_destroy(scorer);
        clear();
    }
}

static void test_batches_and_threads(void **state) {
    (void)state;
    enum { ITEMS = 777, K = 10 };
    static int32_t top[USERS * K], other[USERS * K];
    static float scores[USERS * K], others[USERS * K];
    struct model_config config = {.type = MODEL_VAE, .n_hidden = 1, .hidden = {50}, .latent = 30};
    config.activation = ACTIVATION_TANH;
    make_model(&config, ITEMS, 0);
    const int threads = omp_get_max_threads();
    for (int p = 0; p < 2; p++) {
        struct scorer *scorer;
        assert_int_equal(scorer_create(&model, p ? PRECISION_BF16 : PRECISION_FP32, &scorer), 0);
        assert_int_equal(scorer_top_k(scorer, &users, K, 0, top, scores), 0);
        for (int64_t size = 1; size < USERS; size = size * 3 + 1) {
            omp_set_num_threads((int)(1 + size % 5));
            for (int64_t first = 0; first < USERS; first += size) {
                int64_t indptr[USERS + 1], n = USERS - first < size ? USERS - first : size;
                for (int64_t r = 0; r <= n; r++) {
                    indptr[r] = users.indptr[first + r] - users.indptr[first];
                }
                struct csr part = {.rows = n,
                                   .cols = ITEMS,
                                   .indptr = indptr,
                                   .indices = users.indices + users.indptr[first]};
                int code = scorer_top_k(scorer, &part, K, 0, other + first * K, others + first * K);
                assert_int_equal(code, 0);
            }
            assert_memory_equal(other, top, sizeof top);
            assert_memory_equal(others, scores, sizeof scores);
        }
        omp_set_num_threads(threads);
        scorer_destroy(scorer);
    }
    clear();
}

static void test_probability(void **state) {
    (void)state;
    enum { ITEMS = 333 };
    static int32_t top[USERS * ITEMS];
    static float scores[USERS * ITEMS], logits[USERS * ITEMS];
    static uint8_t closed[ITEMS];
    struct model_config config = {.type = MODEL_VAE, .n_hidden = 1, .hidden = {20}, .latent = 5};
    config.activation = ACTIVATION_TANH;
    make_model(&config, ITEMS, 0);
    for (size_t i = 0; i < model.tensor[7].size; i++) { /* spread them out */
        model.params[model.tensor[7].offset + i] = (real)(i % 50) * 2 - 50;
    }
    struct scorer *scorer;
    assert_int_equal(scorer_create(&model, PRECISION_FP32, &scorer), 0);
    assert_int_equal(scorer_top_k(scorer, &users, ITEMS, SCORER_SEEN, top, logits), 0);
    assert_int_equal(scorer_top_k(scorer, &users, ITEMS, SCORER_SEEN | SCORER_PROBABILITY, top, scores), 0);
    for (int64_t r = 0; r < USERS; r++) {
        double sum = 0, largest = (double)logits[r * ITEMS], total = 0;
        for (int j = 0; j < ITEMS; j++) total += exp((double)logits[r * ITEMS + j] - largest);
        for (int j = 0; j < ITEMS; j++) {
            double want = exp((double)logits[r * ITEMS + j] - largest) / total;
            assert_true(fabs((double)scores[r * ITEMS + j] - want) <= 1e-5 * want + 1e-30);
            sum += (double)scores[r * ITEMS + j];
        }
        assert_true(fabs(sum - 1) < 1e-5);
    }
    /* closed items are in no list but in the sum */
    float before = scores[1];
    closed[top[0]] = 1;
    int32_t second = top[1];
    scorer_close_items(scorer, closed);
    assert_int_equal(scorer_top_k(scorer, &users, 1, SCORER_SEEN | SCORER_PROBABILITY, top, scores), 0);
    assert_int_equal(top[0], second);
    assert_true(fabsf(scores[0] - before) <= 1e-6f * before);
    scorer_destroy(scorer);
    clear();
}

/* ease, and half of a network's, and -1/4 of another's, on top of popularity: exact, by the scorer and the
 * backend. A list of the first alone is ease's. */
static void test_blend(void **state) {
    enum { ITEMS = 130, MODELS = 4 };
    static struct model others[MODELS - 1];
    static double want[ITEMS];
    static int32_t top[USERS * ITEMS], list[ITEMS];
    static float scores[USERS * ITEMS], of_backend[USERS * ITEMS];
    (void)state;
    const struct model_config configs[MODELS] = {
        {.type = MODEL_EASE},
        {.type = MODEL_DAE, .n_hidden = 1, .hidden = {9}, .latent = 3, .activation = ACTIVATION_RELU},
        {.type = MODEL_VAE, .latent = 40, .activation = ACTIVATION_RELU},
        {.type = MODEL_POPULARITY}};
    const double weights[MODELS] = {1, 0.5, -0.25, 2};
    make_model(&configs[0], ITEMS, 1);
    memset(model.params + model.tensor[1].offset, 0, ITEMS * sizeof *model.params); /* ease's bias: none */
    for (int i = 0; i < MODELS - 1; i++) {
        uint64_t random = (uint64_t)i;
        assert_int_equal(model_create(&configs[i + 1], ITEMS, &backend, 0, &others[i]), 0);
        for (size_t p = 0; p < others[i].n_params; p++) {
            others[i].params[p] = (real)((int)(next_random(&random) % 9) - 4) / 4;
        }
        others[i].weight = weights[i + 1];
    }
    for (int n = MODELS; n >= 1; n--) {
        model.next = n > 1 ? others : NULL;
        for (int i = 0; i < MODELS - 1; i++) others[i].next = i + 2 < n ? &others[i + 1] : NULL;
        for (int p = 0; p < 3; p++) {
            const enum precision precisions[] = {PRECISION_FP32, PRECISION_BF16, PRECISION_FP16};
            struct scorer *scorer;
            assert_int_equal(scorer_create(&model, precisions[p], &scorer), 0);
            assert_int_equal(scorer_top_k(scorer, &users, ITEMS, SCORER_SEEN, top, scores), 0);
            scorer_destroy(scorer);
            assert_int_equal(model_score(&model, &users, of_backend), 0);
            for (int64_t r = 0; r < USERS; r++) {
                for (int j = 0; j < ITEMS; j++) {
                    want[j] = 0;
                    for (int64_t e = users.indptr[r]; e < users.indptr[r + 1]; e++) {
                        want[j] += (double)model.params[users.indices[e] * ITEMS + j];
                    }
                    if (n > 3) want[j] += weights[3] * (double)others[2].params[j];
                }
                for (int i = 0; i < 2 && i < n - 1; i++) {
                    add_brute_logits(&others[i], weights[i + 1], r, want);
                }
                brute_list(r, want, 1, NULL, list);
                for (int j = 0; j < ITEMS; j++) {
                    assert_int_equal(top[r * ITEMS + j], list[j]);
                    assert_true((double)scores[r * ITEMS + j] == want[list[j]]);
                    assert_true((double)of_backend[r * ITEMS + j] == want[j]);
                }
            }
        }
    }
    for (int i = 0; i < MODELS - 1; i++) model_free(&others[i]);
    clear();
}

static void test_precisions(void **state) {
    (void)state;
    struct model_config config = {.type = MODEL_DAE, .n_hidden = 0, .latent = 8};
    config.activation = ACTIVATION_TANH;
    make_model(&config, 40, 0);
    struct scorer *scorer;
    model.params[5] = 65521;
    assert_int_equal(scorer_create(&model, PRECISION_FP16, &scorer), EX_DATAERR);
    assert_null(scorer);
    assert_non_null(strstr(error_message(), "bf16"));
    assert_int_equal(scorer_create(&model, PRECISION_BF16, &scorer), 0);
    scorer_destroy(scorer);
    model.params[5] = 1e-7f; /* subnormal in fp16 */
    assert_int_equal(scorer_create(&model, PRECISION_FP16, &scorer), 0);
    int32_t top[40];
    struct csr one = {.rows = 1, .cols = 40, .indptr = users.indptr, .indices = users.indices};
    static float full[40], half[40];
    assert_int_equal(scorer_top_k(scorer, &one, 40, SCORER_SEEN, top, half), 0);
    scorer_destroy(scorer);
    assert_int_equal(scorer_create(&model, PRECISION_FP32, &scorer), 0);
    assert_int_equal(scorer_top_k(scorer, &one, 40, SCORER_SEEN, top, full), 0);
    for (int j = 0; j < 40; j++) assert_true(fabsf(full[j] - half[j]) < 2e-3f);
    struct csr none = {.rows = 0, .cols = 40, .indptr = users.indptr, .indices = users.indices};
    assert_int_equal(scorer_top_k(scorer, &none, 40, 0, top, full), 0);
    scorer_destroy(scorer);
    clear();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact),       cmocka_unit_test(test_against_double),
        cmocka_unit_test(test_precisions),  cmocka_unit_test(test_batches_and_threads),
        cmocka_unit_test(test_probability), cmocka_unit_test(test_blend),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
