/* A checkpoint with random weights, for measurements of speed.
 *
 *   build/tests/bench/random_checkpoint OUT.h5 ITEMS HIDDEN LATENT     MovieLens-20M: 20108 600 200
 *
 * Items are called 1, 2, ... and have counts that fall like those of real catalogues. */
#include <stdio.h>
#include <stdlib.h>

#include "checkpoint.h"
#include "error.h"

enum { WIDTH = 12, COUNT_MAX = 70000 };

static int make(const char *path, int64_t n_items, int hidden, int latent) {
    struct config config;
    struct train_state state = {.loss_scale = 1};
    struct backend backend = {0};
    struct model model = {0};
    struct items items = {n_items, WIDTH, calloc((size_t)n_items, WIDTH), calloc((size_t)n_items, 8)};
    config_defaults(&config);
    config.model.hidden[0] = hidden;
    config.model.latent = latent;
    snprintf(config.data_path, sizeof config.data_path, "none");
    snprintf(config.output_path, sizeof config.output_path, "none");
    int code = items.ids && items.count ? 0 : error_memory("items", (unsigned long long)n_items * WIDTH);
    for (int64_t i = 0; i < n_items && !code; i++) {
        snprintf(items.ids + i * WIDTH, WIDTH, "%lld", (long long)i + 1);
        items.count[i] = 1 + COUNT_MAX * 100 / (100 + i);
    }
    if (!code) code = backend_cpu_create(n_items, PRECISION_FP32, &backend);
    if (!code) code = model_create(&config.model, n_items, &backend, 0, &model);
    if (!code) code = model_init(&model, 1);
    if (!code) code = checkpoint_save(path, &config, &state, &model, NULL, NULL, &items, "0000000000000000");
    model_free(&model);
    if (backend.destroy) backend.destroy(&backend);
    items_free(&items);
    return code;
}

int main(int argc, char **argv) {
    if (argc != 5 || atoi(argv[2]) < 1 || atoi(argv[3]) < 1 || atoi(argv[4]) < 1) {
        fprintf(stderr, "usage: %s OUT.h5 ITEMS HIDDEN LATENT\n", argv[0]);
        return EX_USAGE;
    }
    int code = make(argv[1], atoi(argv[2]), atoi(argv[3]), atoi(argv[4]));
    if (code) fprintf(stderr, "error: %s\n", error_message());
    return code;
}
