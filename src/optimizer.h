/* Adam and AdamW over a model's tensors, with learning-rate warm-up. */
#ifndef VAECF_OPTIMIZER_H
#define VAECF_OPTIMIZER_H

#include "config.h"
#include "model.h"

struct optimizer {
    real *m, *v;    /* [n_params] first and second moments, backend memory, owned */
    double unscale; /* the model's gradients come times 1 / this: 1, or for fp16 1 / the loss scale */
};

/* Zero moments. EX_OSERR. */
int optimizer_create(const struct model *model, struct optimizer *optimizer);
void optimizer_free(const struct model *model, struct optimizer *optimizer);

/* The learning rate of the step-th update (from 1): rises linearly over warmup_steps, then stays. */
double optimizer_learning_rate(const struct train_config *config, int64_t step);

/* The step-th update (from 1) of the parameters from the model's gradients: of the layers that learn in the
 * model's turn, of which it is the step-th. Biases have no weight decay. */
void optimizer_update(const struct optimizer *optimizer, struct model *model,
                      const struct train_config *config, int64_t step);

#endif
