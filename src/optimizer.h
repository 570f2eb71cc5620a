/* Adam and AdamW over a model's tensors, with warm-up and decay of the learning rate and an average of the
 * weights. */
#ifndef VAECF_OPTIMIZER_H
#define VAECF_OPTIMIZER_H

#include "config.h"
#include "model.h"

struct optimizer {
    real *m, *v;         /* [n_params] first and second moments, backend memory, owned */
    double unscale;      /* the model's gradients come times 1 / this: 1, or for fp16 1 / the loss scale */
    int64_t total_steps; /* of the whole training, for the schedule */
};

/* Zero moments. EX_OSERR. */
int optimizer_create(const struct model *model, struct optimizer *optimizer);
void optimizer_free(const struct model *model, struct optimizer *optimizer);

/* The learning rate of the step-th update (from 1) of so many: rises linearly over warmup_steps, then stays,
 * or falls along a line or half a cosine (Loshchilov and Hutter 2017) that would be 0 after the last. */
double optimizer_learning_rate(const struct train_config *config, int64_t total_steps, int64_t step);

/* The step-th update (from 1) of the parameters from the model's gradients. Biases have no weight decay. */
void optimizer_update(const struct optimizer *optimizer, struct model *model,
                      const struct train_config *config, int64_t step);

/* After the step-th update: model->average, unless NULL, becomes d average + (1 - d) weights, with d =
 * train.average or, early on, (step - 1) / (step + 9), so that the initial weights have no part in it (Polyak
 * and Juditsky 1992; Izmailov et al. 2018). */
void optimizer_average(const struct optimizer *optimizer, struct model *model,
                       const struct train_config *config, int64_t step);

#endif
