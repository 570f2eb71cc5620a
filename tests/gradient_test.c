/* Analytic gradients against central differences, in double precision (built with -DVAECF_DOUBLE). */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "model.h"

enum { ITEMS = 23, ROWS = 5 };

/* One row is empty, one is full of neighbours, one has the last item. */
static int64_t indptr[ROWS + 1] = {0, 4, 4, 9, 10, 16};
static int32_t indices[16] = {0, 5, 11, 22, 3, 4, 5, 6, 7, 22, 1, 2, 8, 13, 17, 20};
static int64_t users[ROWS] = {7, 1, 100000000007, 4, 9};
static const struct csr rows = {.rows = ROWS, .cols = ITEMS, .indptr = indptr, .indices = indices};
static const struct draw draw = {99, 3};
static const double beta = 0.3, scale = 1.0 / ROWS;

/* What the gradients are of. */
static double loss_of(struct model *model) {
    struct loss loss;
    assert_int_equal(model_train_batch(model, &rows, users, &draw, beta, scale, &loss), 0);
    return scale * (loss.nll + (model->gamma > 0 ? loss.penalty : beta * loss.kl));
}

static void compare(struct model_config config, double gamma) {
    const double step = 1e-5;
    struct backend backend;
    struct model model;
    struct comm alone = {.rank = 0, .size = 1};
    assert_int_equal(backend_cpu_create(ITEMS, PRECISION_FP32, &backend), 0);
    assert_int_equal(model_create(&config, ITEMS, &backend, 1, &model), 0);
    assert_int_equal(model_init(&model, 11), 0);
    model.gamma = gamma;
    for (size_t i = 0; i < model.n_params; i++) model.params[i] *= 1.5; /* away from the linear part */
    loss_of(&model);
    backend.input_all_reduce(&backend, &alone, (int)model.tensor[0].cols, model.grads);
    real *grads = malloc(model.n_params * sizeof *grads);
    memcpy(grads, model.grads, model.n_params * sizeof *grads);
    for (int t = 0; t < model.n_tensors; t++) {
        const struct tensor *tensor = &model.tensor[t];
        double difference = 0, size = 0; /* squared norms, of the whole tensor */
        for (size_t i = tensor->offset; i < tensor->offset + tensor->size; i++) {
            real p = model.params[i];
            model.params[i] = p + step;
            double above = loss_of(&model);
            model.params[i] = p - step;
            double numeric = (above - loss_of(&model)) / (2 * step);
            model.params[i] = p;
            difference += (numeric - grads[i]) * (numeric - grads[i]);
            size += numeric * numeric;
            if (fabs(numeric - grads[i]) > 1e-6 * fmax(fabs(numeric), 1e-3)) {
                fail_msg("%s[%zu]: %.12g, by differences %.12g", tensor->name, i - tensor->offset, grads[i],
                         numeric);
            }
        }
        assert_true(size > 0);
        assert_true(sqrt(difference / size) <= 1e-6);
    }
    free(grads);
    model_free(&model);
    backend.destroy(&backend);
}

static void test_vae(void **state) {
    (void)state;
    compare((struct model_config){.type = MODEL_VAE,
                                  .n_hidden = 1,
                                  .hidden = {6},
                                  .latent = 4,
                                  .activation = ACTIVATION_TANH,
                                  .dropout = 0.5},
            0);
}

static void test_vae_two_hidden_layers(void **state) {
    (void)state;
    compare((struct model_config){.type = MODEL_VAE,
                                  .n_hidden = 2,
                                  .hidden = {7, 5},
                                  .latent = 3,
                                  .activation = ACTIVATION_SIGMOID,
                                  .dropout = 0.25},
            0);
}

static void test_vae_without_hidden_layer(void **state) {
    (void)state;
    compare((struct model_config){.type = MODEL_VAE, .latent = 5, .activation = ACTIVATION_TANH}, 0);
}

static void test_dae(void **state) {
    (void)state;
    compare((struct model_config){.type = MODEL_DAE,
                                  .n_hidden = 1,
                                  .hidden = {6},
                                  .latent = 4,
                                  .activation = ACTIVATION_TANH,
                                  .dropout = 0.5},
            0);
}

static void test_dae_relu(void **state) {
    (void)state;
    compare((struct model_config){.type = MODEL_DAE,
                                  .n_hidden = 1,
                                  .hidden = {9},
                                  .latent = 6,
                                  .activation = ACTIVATION_RELU,
                                  .dropout = 0.1},
            0);
}

/* Each user's own weight of the KL term; of the empty row it is 0. */
static void test_recvae(void **state) {
    (void)state;
    compare((struct model_config){.type = MODEL_VAE,
                                  .n_hidden = 2,
                                  .hidden = {7, 5},
                                  .latent = 3,
                                  .activation = ACTIVATION_TANH,
                                  .layer_norm = 1,
                                  .decoder = DECODER_LINEAR,
                                  .dropout = 0.25},
            0.1);
}

static void test_layer_norm(void **state) {
    (void)state;
    compare((struct model_config){.type = MODEL_DAE,
                                  .n_hidden = 2,
                                  .hidden = {7, 5},
                                  .latent = 3,
                                  .activation = ACTIVATION_SIGMOID,
                                  .layer_norm = 1,
                                  .dropout = 0.25},
            0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vae),
        cmocka_unit_test(test_vae_two_hidden_layers),
        cmocka_unit_test(test_vae_without_hidden_layer),
        cmocka_unit_test(test_dae),
        cmocka_unit_test(test_dae_relu),
        cmocka_unit_test(test_recvae),
        cmocka_unit_test(test_layer_norm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
