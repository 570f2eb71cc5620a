/* The network against PyTorch: loss, every gradient tensor and the scores of small cases, whose inputs and
 * results are in tests/reference/gradients_*.h5 (made by make_gradients.py in double precision). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "error.h"
#include "gemm.h"
#include "h5.h"
#include "model.h"

struct fixture {
    hid_t file;
    struct model_config config;
    struct csr rows;
    int64_t *users;
    struct draw draw;
    double beta, gamma, scale, nll, kl, penalty;
};

static int64_t get_int(hid_t file, const char *name) {
    int64_t value = 0;
    assert_int_equal(h5_get_int(file, "/", name, &value), 0);
    return value;
}

static double get_double(hid_t file, const char *name) {
    double value = 0;
    assert_int_equal(h5_get_double(file, "/", name, &value), 0);
    return value;
}

static void open_fixture(const char *name, struct fixture *f) {
    char path[256], text[16];
    int64_t rows, cols, hidden[CONFIG_LAYERS_MAX];
    memset(f, 0, sizeof *f);
    snprintf(path, sizeof path, "tests/reference/gradients_%s.h5", name);
    if (h5_open(path, &f->file)) fail_msg("%s", error_message());
    assert_int_equal(h5_get_text(f->file, "/", "type", text, sizeof text), 0);
    f->config.type = strcmp(text, "vae") == 0 ? MODEL_VAE : MODEL_DAE;
    assert_int_equal(h5_get_text(f->file, "/", "activation", text, sizeof text), 0);
    f->config.activation = strcmp(text, "tanh") == 0   ? ACTIVATION_TANH
                           : strcmp(text, "relu") == 0 ? ACTIVATION_RELU
                                                       : ACTIVATION_SIGMOID;
    f->config.n_hidden = (int)get_int(f->file, "n_hidden");
    if (f->config.n_hidden > 0) {
        assert_int_equal(h5_get_ints(f->file, "/", "hidden", hidden, f->config.n_hidden), 0);
    }
    for (int i = 0; i < f->config.n_hidden; i++) f->config.hidden[i] = (int)hidden[i];
    f->config.latent = (int)get_int(f->file, "latent");
    f->config.dropout = get_double(f->file, "dropout");
    if (H5Aexists(f->file, "gamma") > 0) { /* layer norm, a linear decoder, weights of KL by user */
        f->config.layer_norm = 1;
        f->config.decoder = DECODER_LINEAR;
        f->gamma = get_double(f->file, "gamma");
        f->penalty = get_double(f->file, "penalty");
    }
    f->draw = (struct draw){(uint64_t)get_int(f->file, "seed"), (uint32_t)get_int(f->file, "epoch")};
    f->beta = get_double(f->file, "beta");
    f->scale = get_double(f->file, "scale");
    f->nll = get_double(f->file, "nll");
    f->kl = get_double(f->file, "kl");
    assert_int_equal(h5_shape(f->file, "/users", &rows, &cols), 0);
    f->rows = (struct csr){.rows = rows, .cols = get_int(f->file, "n_items")};
    f->users = calloc((size_t)rows, sizeof *f->users);
    f->rows.indptr = calloc((size_t)rows + 1, sizeof *f->rows.indptr);
    assert_int_equal(h5_read(f->file, "/users", H5T_NATIVE_INT64, 0, rows, f->users), 0);
    assert_int_equal(h5_read(f->file, "/indptr", H5T_NATIVE_INT64, 0, rows + 1, f->rows.indptr), 0);
    f->rows.indices = calloc((size_t)csr_nonzeros(&f->rows) + 1, sizeof *f->rows.indices);
    assert_int_equal(
        h5_read(f->file, "/indices", H5T_NATIVE_INT32, 0, csr_nonzeros(&f->rows), f->rows.indices), 0);
}

static void close_fixture(struct fixture *f) {
    H5Fclose(f->file);
    free(f->users);
    csr_free(&f->rows);
}

/* |a - b| <= tolerance of the largest of all b. */
static void assert_near(const char *what, double tolerance, const float *a, const double *b, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(b[i]));
    for (size_t i = 0; i < n; i++) {
        if (fabs((double)a[i] - b[i]) <= tolerance * largest) continue;
        fail_msg("%s[%zu] is %.9g, want %.9g", what, i, (double)a[i], b[i]);
    }
}

static void read_tensor(hid_t file, const char *group, const struct tensor *tensor, double *to) {
    char path[128];
    int64_t rows = tensor->is_bias ? tensor->cols : tensor->rows;
    snprintf(path, sizeof path, "/%s/%s", group, tensor->name);
    if (h5_read(file, path, H5T_NATIVE_DOUBLE, 0, rows, to)) fail_msg("%s", error_message());
}

static void compare(const char *name, enum precision precision, double tolerance) {
    struct fixture f;
    struct backend backend;
    struct model model;
    struct loss loss;
    struct comm alone = {.rank = 0, .size = 1};
    open_fixture(name, &f);
    size_t n_scores = (size_t)(f.rows.rows * f.rows.cols);
    assert_int_equal(backend_cpu_create(f.rows.cols, precision, &backend), 0);
    assert_int_equal(model_create(&f.config, f.rows.cols, &backend, 1, &model), 0);
    double *want = calloc(model.n_params > n_scores ? model.n_params : n_scores, sizeof *want);
    for (int t = 0; t < model.n_tensors; t++) {
        read_tensor(f.file, "params", &model.tensor[t], want);
        for (size_t i = 0; i < model.tensor[t].size; i++)
            model.params[model.tensor[t].offset + i] = (float)want[i];
    }
    model.gamma = f.gamma;
    /* twice: what a batch leaves behind must not be seen in the next one */
    for (int round = 0; round < 2; round++) {
        assert_int_equal(model_train_batch(&model, &f.rows, f.users, &f.draw, f.beta, f.scale, &loss), 0);
        backend.input_all_reduce(&backend, &alone, (int)model.tensor[0].cols, model.grads);
        assert_true(fabs(loss.nll - f.nll) <= tolerance * f.nll);
        assert_true(fabs(loss.kl - f.kl) <= tolerance * f.kl);
        assert_true(fabs(loss.penalty - f.penalty) <= tolerance * f.penalty);
        for (int t = 0; t < model.n_tensors; t++) {
            read_tensor(f.file, "grads", &model.tensor[t], want);
            assert_near(model.tensor[t].name, tolerance, model.grads + model.tensor[t].offset, want,
                        model.tensor[t].size);
        }
    }
    real *scores = calloc(n_scores, sizeof *scores);
    assert_int_equal(model_score(&model, &f.rows, scores), 0);
    assert_int_equal(h5_read(f.file, "/logits", H5T_NATIVE_DOUBLE, 0, f.rows.rows, want), 0);
    assert_near("logits", 1e-5, scores, want, n_scores);
    free(scores);
    free(want);
    model_free(&model);
    backend.destroy(&backend);
    close_fixture(&f);
}

static void test_vae_tanh(void **state) {
    (void)state;
    compare("vae_tanh", PRECISION_FP32, 1e-5);
}

static void test_vae_relu(void **state) {
    (void)state;
    compare("vae_relu", PRECISION_FP32, 1e-5);
}

static void test_vae_without_hidden_layer(void **state) {
    (void)state;
    compare("vae_linear", PRECISION_FP32, 1e-5);
}

static void test_dae_tanh(void **state) {
    (void)state;
    compare("dae_tanh", PRECISION_FP32, 1e-5);
}

static void test_dae_sigmoid(void **state) {
    (void)state;
    compare("dae_sigmoid", PRECISION_FP32, 1e-5);
}

static void test_recvae(void **state) {
    (void)state;
    compare("recvae", PRECISION_FP32, 1e-5);
    compare("recvae", PRECISION_FP16, 0.01);
}

/* Rounded operands: eight bits of a number. Scores are fp32 all the same. */
static void test_bf16(void **state) {
    (void)state;
    if (!gemm_has_bf16()) {
        puts("# skipped: this processor does not multiply bf16");
        skip();
    }
    compare("vae_tanh", PRECISION_BF16, 0.02);
    compare("dae_sigmoid", PRECISION_BF16, 0.02);
    compare("recvae", PRECISION_BF16, 0.05);
}

/* Weights depend on the seed alone, within Glorot's limit; biases within two standard deviations. */
static void test_initial_weights(void **state) {
    (void)state;
    struct model_config config = {.type = MODEL_VAE, .n_hidden = 1, .hidden = {30}, .latent = 7};
    struct backend backend;
    struct model a, b;
    assert_int_equal(backend_cpu_create(101, PRECISION_FP32, &backend), 0);
    assert_int_equal(model_create(&config, 101, &backend, 0, &a), 0);
    assert_int_equal(model_create(&config, 101, &backend, 0, &b), 0);
    assert_int_equal(model_init(&a, 5), 0);
    assert_int_equal(model_init(&b, 5), 0);
    assert_memory_equal(a.params, b.params, a.n_params * sizeof *a.params);
    for (int t = 0; t < a.n_tensors; t++) {
        const struct tensor *tensor = &a.tensor[t];
        double limit = tensor->is_bias ? 0.002 : sqrt(6.0 / (double)(tensor->rows + tensor->cols));
        double largest = 0;
        for (size_t i = 0; i < tensor->size; i++)
            largest = fmax(largest, fabs((double)a.params[tensor->offset + i]));
        assert_true(largest <= limit * 1.000001);
        assert_true(largest > limit * 0.4);
    }
    assert_int_equal(model_init(&b, 6), 0);
    assert_memory_not_equal(a.params, b.params, a.n_params * sizeof *a.params);
    model_free(&a);
    model_free(&b);
    backend.destroy(&backend);
}

/* Smoothed labels change the gradients by their difference to the plain ones, whatever the logits: of the
 * output bias by smoothing * scale * (users who have the item - mean over the items). The nll stays. */
static void test_label_smoothing(void **state) {
    (void)state;
    enum { ITEMS = 50, USERS = 40, EACH = 6, LATENT = 8 };
    static int64_t indptr[USERS + 1], users[USERS];
    static int32_t indices[USERS * EACH];
    const struct model_config config = {.type = MODEL_DAE, .latent = LATENT, .activation = ACTIVATION_TANH};
    const struct draw draw = {1, 0};
    struct csr rows = {.rows = USERS, .cols = ITEMS, .indptr = indptr, .indices = indices};
    struct backend backend;
    struct model model;
    struct loss plain, smooth;
    double have[ITEMS] = {0}, before[ITEMS];
    for (int u = 0; u < USERS; u++) {
        users[u] = u;
        indptr[u + 1] = (u + 1) * EACH;
        for (int k = 0; k < EACH; k++) {
            indices[u * EACH + k] = u % 5 + k * (1 + u % 9);
            have[indices[u * EACH + k]]++;
        }
    }
    assert_int_equal(backend_cpu_create(ITEMS, PRECISION_FP32, &backend), 0);
    assert_int_equal(model_create(&config, ITEMS, &backend, 1, &model), 0);
    assert_int_equal(model_init(&model, 1), 0);
    const struct tensor *bias = &model.tensor[model.n_tensors - 1];
    assert_int_equal(model_train_batch(&model, &rows, users, &draw, 0, 0.5, &plain), 0);
    for (int i = 0; i < ITEMS; i++) before[i] = (double)model.grads[bias->offset + (size_t)i];
    model.smoothing = 0.3;
    assert_int_equal(model_train_batch(&model, &rows, users, &draw, 0, 0.5, &smooth), 0);
    assert_true(smooth.nll == plain.nll);
    for (int i = 0; i < ITEMS; i++) {
        double want = before[i] + 0.3 * 0.5 * (have[i] - (double)(USERS * EACH) / ITEMS);
        if (fabs((double)model.grads[bias->offset + (size_t)i] - want) > 1e-5) {
            fail_msg("item %d: %g, want %g", i, (double)model.grads[bias->offset + (size_t)i], want);
        }
    }
    model_free(&model);
    backend.destroy(&backend);
}

/* A turn's gradients are those of the whole, the decoder's without dropout; the other half's are not touched.
 */
static void compare_turn(struct model_config config, enum turn turn, enum precision precision,
                         int64_t sampled, int64_t logit_memory) {
    struct fixture f;
    struct backend backend;
    struct model model[2]; /* both halves; one */
    struct loss loss[2];
    struct comm alone = {.rank = 0, .size = 1};
    open_fixture("vae_tanh", &f);
    const struct backend_options options = {
        .n_items = f.rows.cols, .precision = precision, .logit_memory = logit_memory};
    assert_int_equal(backend_cpu_create_with(&options, &backend), 0);
    for (int i = 0; i < 2; i++) {
        config.dropout = i == 0 && turn == TURN_DECODER ? 0 : 0.5;
        assert_int_equal(model_create(&config, f.rows.cols, &backend, 1, &model[i]), 0);
        assert_int_equal(model_init(&model[i], 5), 0);
        model[i].turn = i == 0 ? TURN_BOTH : turn;
        model[i].gamma = config.type == MODEL_VAE ? 0.1 : 0;
        model[i].sampled = sampled;
        for (size_t j = 0; j < model[i].n_params; j++) model[i].grads[j] = 7;
        assert_int_equal(model_train_batch(&model[i], &f.rows, f.users, &f.draw, 0, f.scale, &loss[i]), 0);
        if (i == 0 || turn == TURN_ENCODER)
            backend.input_all_reduce(&backend, &alone, (int)model[i].tensor[0].cols, model[i].grads);
    }
    size_t begin, n;
    model_learning_range(&model[1], &begin, &n);
    assert_true(n > 0 && n < model[1].n_params && (begin == 0) == (turn == TURN_ENCODER));
    assert_memory_equal(model[1].grads + begin, model[0].grads + begin, n * sizeof(real));
    for (size_t j = 0; j < model[1].n_params; j++) {
        if (j < begin || j >= begin + n) assert_true(model[1].grads[j] == 7);
    }
    assert_true(loss[1].nll == loss[0].nll);
    assert_true(loss[1].kl == (turn == TURN_ENCODER ? loss[0].kl : 0));
    for (int i = 0; i < 2; i++) model_free(&model[i]);
    backend.destroy(&backend);
    close_fixture(&f);
}

static void test_turns(void **state) {
    (void)state;
    const struct model_config recvae = {.type = MODEL_VAE,
                                        .n_hidden = 1,
                                        .hidden = {9},
                                        .latent = 4,
                                        .activation = ACTIVATION_TANH,
                                        .layer_norm = 1,
                                        .decoder = DECODER_LINEAR},
                              dae = {.type = MODEL_DAE,
                                     .n_hidden = 2,
                                     .hidden = {9, 6},
                                     .latent = 4,
                                     .activation = ACTIVATION_RELU};
    for (enum turn turn = TURN_ENCODER; turn <= TURN_DECODER; turn++) {
        for (enum precision precision = PRECISION_FP32; precision <= PRECISION_FP16; precision++) {
            compare_turn(recvae, turn, precision, 0, 0);
            compare_turn(recvae, turn, precision, 0, 1); /* in tiles */
        }
        compare_turn(recvae, turn, PRECISION_FP32, 10, 0);
        compare_turn(dae, turn, PRECISION_FP32, 0, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vae_tanh),
        cmocka_unit_test(test_vae_relu),
        cmocka_unit_test(test_vae_without_hidden_layer),
        cmocka_unit_test(test_dae_tanh),
        cmocka_unit_test(test_dae_sigmoid),
        cmocka_unit_test(test_recvae),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_label_smoothing),
        cmocka_unit_test(test_initial_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
