/* Loss scaling for fp16: gradients are computed times a scale, so that small ones do not vanish in 16 bits.
 *
 * A dynamic scale starts at 2^16. A step whose gradients are not all finite is skipped and halves it; 2000
 * good steps in a row double it. A scale that is given stays, and such steps are skipped all the same.
 * Whether a step overflowed is read off the gradients summed over the ranks, which are the same bits on every
 * rank: so all ranks decide alike. For other precisions the scale is 1 and no step is skipped. */
#ifndef VAECF_LOSS_SCALE_H
#define VAECF_LOSS_SCALE_H

#include "checkpoint.h"
#include "config.h"

/* Of a fresh run. */
double loss_scale_start(const struct train_config *config);

/* After a resume: the checkpoint's own, if it was made with fp16 and a dynamic scale, and is to go on so. */
void loss_scale_resume(const struct train_config *was, const struct train_config *is,
                       struct train_state *state);

/* After a step: counts it in good_steps or epoch_skipped, and changes loss_scale if it is due. EX_SOFTWARE if
 * steps keep overflowing however small the scale. */
int loss_scale_update(const struct train_config *config, int overflowed, struct train_state *state);

#endif
