/* A checkpoint with edits, as edit.h has them: read, or refused in one line. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "edit.h"
#include "error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { N_ITEMS = 7, WIDTH_MAX = 64 };

static const char *const name[] = {
    "/@format",
    "/@format_version",
    "/@n_items",
    "/@fingerprint",
    "/@config",
    "/@has_optimizer",
    "/state@epoch",
    "/state@epoch_step",
    "/state@step",
    "/state@loss_scale",
    "/state@best_value",
    "/state@epoch_loss",
    "/state",
    "/items",
    "/items/id",
    "/items/count",
    "/model",
    "/model/encoder/0/weight",
    "/model/encoder/0/bias",
    "/model/decoder/1/weight",
    "/optimizer",
    "/optimizer/m/encoder/0/weight",
    "/optimizer/v/decoder/1/bias",
};
static const struct edit_names names = {name, sizeof name / sizeof *name};

static char path[128];
static struct edit_base base;

static void make_base(void) {
    static char ids[N_ITEMS][4] = {"a", "b", "c", "d", "e", "f", "long"};
    int64_t counts[N_ITEMS] = {7, 6, 5, 4, 3, 2, 1};
    const struct items items = {.n = N_ITEMS, .width = 4, .ids = ids[0], .count = counts};
    const struct train_state state = {.epoch = 1, .step = 3, .loss_scale = 1, .best_value = 0.5};
    struct config config;
    struct backend backend;
    struct model model;
    snprintf(path, sizeof path, "%s/checkpoint.h5", edit_directory());
    config_defaults(&config);
    snprintf(config.data_path, sizeof config.data_path, "x");
    snprintf(config.output_path, sizeof config.output_path, "y");
    config.model.hidden[0] = 3;
    config.model.latent = 2;
    require(!backend_cpu_create(N_ITEMS, PRECISION_FP32, &backend) &&
                !model_create(&config.model, N_ITEMS, &backend, 0, &model) && !model_init(&model, 1) &&
                !checkpoint_save(path, &config, &state, &model, model.params, model.params, &items,
                                 "0123456789abcdef"),
            "cannot make a checkpoint");
    model_free(&model);
    backend.destroy(&backend);
    edit_remember(path, &base);
}

/* Files may describe models of any size: those that fit are tried. */
static int is_small(const struct checkpoint_info *info) {
    const struct model_config *m = &info->config.model;
    for (int i = 0; i < m->n_hidden; i++) {
        if (m->hidden[i] > WIDTH_MAX) return 0;
    }
    return info->n_items <= 1000 && m->latent <= WIDTH_MAX;
}

static void read_tensors(const struct checkpoint_info *info) {
    struct backend backend;
    struct model model;
    require(!backend_cpu_create(info->n_items, PRECISION_FP32, &backend), "no backend");
    if (!model_create(&info->config.model, info->n_items, &backend, 0, &model)) {
        real *m = backend.alloc(&backend, model.n_params), *v = backend.alloc(&backend, model.n_params);
        require(m && v, "no memory");
        require_told(checkpoint_read_model(path, &model, m, v));
        backend.release(&backend, m);
        backend.release(&backend, v);
        model_free(&model);
    }
    backend.destroy(&backend);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct bytes bytes = {data, size};
    struct checkpoint_info info;
    struct items items;
    if (!base.bytes) make_base();
    edit_file(path, &base, &names, &bytes);
    int code = checkpoint_read_info(path, &info);
    require_told(code);
    if (code) return 0;
    require(info.n_items > 0 && info.state.epoch_step >= 0 && info.state.loss_scale > 0, "a bad state");
    code = checkpoint_read_items(path, &items);
    require_told(code);
    if (!code) require(items.n == info.n_items, "another number of items");
    if (!code) items_free(&items);
    if (is_small(&info)) read_tensors(&info);
    return 0;
}
