/* See optimizer.h. */
#include "optimizer.h"

#include <math.h>

#include "error.h"

int optimizer_create(const struct model *model, struct optimizer *optimizer) {
    struct backend *b = model->backend;
    optimizer->m = b->alloc(b, model->n_params);
    optimizer->v = optimizer->m ? b->alloc(b, model->n_params) : NULL;
    optimizer->unscale = 1;
    if (optimizer->v) return 0;
    optimizer_free(model, optimizer);
    return EX_OSERR;
}

void optimizer_free(const struct model *model, struct optimizer *optimizer) {
    struct backend *b = model->backend;
    if (optimizer->m) b->release(b, optimizer->m);
    if (optimizer->v) b->release(b, optimizer->v);
    *optimizer = (struct optimizer){0};
}

double optimizer_learning_rate(const struct train_config *config, int64_t step) {
    if (step >= config->warmup_steps) return config->learning_rate;
    return config->learning_rate * (double)step / (double)config->warmup_steps;
}

void optimizer_update(const struct optimizer *optimizer, struct model *model,
                      const struct train_config *config, int64_t step) {
    struct adam_step adam = {
        .learning_rate = optimizer_learning_rate(config, step),
        .beta1 = config->beta1,
        .beta2 = config->beta2,
        .epsilon = config->epsilon,
        .decoupled = config->optimizer == OPTIMIZER_ADAMW,
        .correction1 = 1 - pow(config->beta1, (double)step),
        .correction2 = 1 - pow(config->beta2, (double)step),
        .unscale = optimizer->unscale,
        .step = step,
    };
    const struct tensor *tensor = model->tensor;
    int first, last;
    model_learning(model, &first, &last);
    for (int t = 2 * first, next; t < 2 * last; t = next) {
        /* tensors that decay alike are updated in one go */
        for (next = t + 1; next < 2 * last; next++) {
            if (config->weight_decay != 0 && tensor[next].is_bias != tensor[t].is_bias) break;
        }
        size_t at = tensor[t].offset, end = next < model->n_tensors ? tensor[next].offset : model->n_params;
        adam.weight_decay = tensor[t].is_bias ? 0 : config->weight_decay;
        model->backend->adam(model->backend, &adam, end - at, model->params + at, model->grads + at,
                             optimizer->m + at, optimizer->v + at);
    }
}
