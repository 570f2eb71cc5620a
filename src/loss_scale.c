/* See loss_scale.h. */
#include "loss_scale.h"

#include "error.h"

enum { GOOD_STEPS = 2000, SMALLEST = -24, LARGEST = 24 /* powers of two */, START = 16 };

static int is_dynamic(const struct train_config *config) {
    return config->precision == PRECISION_FP16 && config->loss_scale == 0;
}

double loss_scale_start(const struct train_config *config) {
    if (config->precision != PRECISION_FP16) return 1;
    return config->loss_scale != 0 ? config->loss_scale : (double)(1 << START);
}

void loss_scale_resume(const struct train_config *was, const struct train_config *is,
                       struct train_state *state) {
    if (is_dynamic(was) && is_dynamic(is)) return;
    state->loss_scale = loss_scale_start(is);
    state->good_steps = 0;
}

int loss_scale_update(const struct train_config *config, int overflowed, struct train_state *state) {
    if (!overflowed) {
        state->good_steps++;
        if (!is_dynamic(config) || state->good_steps < GOOD_STEPS) return 0;
        if (state->loss_scale < 1 << LARGEST) state->loss_scale *= 2;
        state->good_steps = 0;
        return 0;
    }
    state->good_steps = 0;
    state->epoch_skipped++;
    if (!is_dynamic(config)) return 0;
    state->loss_scale /= 2;
    if (state->loss_scale * (double)(1 << -SMALLEST) >= 1) return 0;
    return error_set(
        EX_SOFTWARE,
        "step %lld: gradients overflow fp16 even at a loss scale of 2^%d; train.precision bf16 or a "
        "smaller train.learning_rate may help; the last checkpoint is from before",
        (long long)state->step + 1, SMALLEST);
}
