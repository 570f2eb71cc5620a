/* See sample.h. */
#include "sample.h"

#include <math.h>

#include "philox.h"

double sample_probability(int64_t item, int64_t wanted, int64_t n_items) {
    double n = (double)n_items;
    double falling = log1p(1 / (double)(item + 1)) / log1p(n), equal = 1 / n;
    double p = (double)wanted * (falling + equal) / 2;
    return p < 1 ? p : 1;
}

void sample_draw(const struct sample_key *key, int64_t first, int64_t count, const float *probability,
                 uint64_t *marks) {
#pragma omp parallel for schedule(static)
    for (int64_t word = 0; word < (count + 63) / 64; word++) {
        for (int64_t i = word * 64; i < word * 64 + 64 && i < count; i += 4) {
            struct philox_block block = philox(key->seed, PHILOX_SAMPLE, key->epoch, (uint64_t)key->step,
                                               (uint32_t)((first + i) / 4));
            for (int64_t j = i; j < i + 4 && j < count; j++) {
                uint64_t is_drawn = philox_uniform(block.lane[j - i]) < probability[j];
                marks[word] |= is_drawn << (j & 63);
            }
        }
    }
}
