/* The items of a sampled softmax: each is drawn by itself, step by step, with a probability that falls with
 * its index, as popularity does (the catalogue is in the order of its training users).
 *
 * With logits less the logarithms of these probabilities, the sum of exponentials over the drawn items is on
 * average that over all of them (the logQ correction: Bengio and Senecal 2008; Yi et al. 2019). Its
 * logarithm, the loss, is not: on average it is a little less, and the gradient is biased by as much; the
 * more items are drawn, the less. A draw is keyed by epoch, step and item, so it is the same for any grid. */
#ifndef VAECF_SAMPLE_H
#define VAECF_SAMPLE_H

#include <stdint.h>

/* The probability of an item, of which there are n_items: so that about `wanted` are drawn, at most. One half
 * goes by 1 / rank (the log-uniform distribution), the other one is equal for all. */
double sample_probability(int64_t item, int64_t wanted, int64_t n_items);

/* Which step it is for. */
struct sample_key {
    uint64_t seed;
    uint32_t epoch;
    int64_t step;
};

/* Sets the marks (a bit an item, [(count + 63) / 64] words) of those drawn of the items first .. first +
 * count - 1; first is a multiple of four. Marks that are set stay. probability[count]: of each. */
void sample_draw(const struct sample_key *key, int64_t first, int64_t count, const float *probability,
                 uint64_t *marks);

#endif
