/* See blend.h. */
#include "blend.h"

#include <math.h>
#include <string.h>

#include "error.h"
#include "options.h"

int blend_add(struct blend *blend, char *option) {
    char *colon = strrchr(option, ':');
    double weight;
    if (!colon || colon == option || option_number("blend", colon + 1, -INFINITY, INFINITY, &weight)) {
        return error_set(EX_USAGE, "--blend %s: want FILE:WEIGHT, for example other/best.h5:0.05", option);
    }
    if (blend->n == MODELS_MAX) return error_set(EX_USAGE, "--blend: want at most %d", MODELS_MAX - 1);
    *colon = '\0';
    blend->path[blend->n] = option;
    blend->weight[blend->n++] = weight;
    return 0;
}

int blend_read_info(struct blend *blend, const struct comm *comm) {
    int code = 0;
    for (int i = 0; i < blend->n && !code; i++) {
        code = checkpoint_share_info(blend->path[i], comm, &blend->info[i]);
        if (!code && strcmp(blend->info[i].fingerprint, blend->info->fingerprint) != 0) {
            code = error_set(EX_DATAERR, "--blend %s: was trained on another data set than %s",
                             blend->path[i], blend->path[0]);
        }
    }
    return code;
}

int blend_has_chances(const struct blend *blend) {
    return blend->n == 1 && model_is_network(&blend->info->config.model);
}

int blend_device(const struct blend *blend, enum device device, enum device *chosen) {
    *chosen = device;
    for (int i = 0; i < blend->n; i++) {
        if (model_is_network(&blend->info[i].config.model)) continue;
        *chosen = DEVICE_CPU;
        if (device != DEVICE_CUDA) continue;
        return error_set(EX_CONFIG,
                         "--device cuda: %s is no network and is scored on the CPU; want --device cpu",
                         blend->path[i]);
    }
    return 0;
}

int blend_read(const struct blend *blend, struct backend *backend, struct model *models) {
    int code = 0;
    for (int i = 0; i < blend->n && !code; i++) {
        code = model_create(&blend->info[i].config.model, blend->info->n_items, backend, 0, &models[i]);
        if (!code) code = checkpoint_read_model(blend->path[i], &models[i], NULL, NULL);
        models[i].weight = blend->weight[i];
        if (i > 0) models[i - 1].next = &models[i];
    }
    return code;
}

void blend_free(struct model *models) {
    for (int i = 0; i < MODELS_MAX; i++) model_free(&models[i]);
}
