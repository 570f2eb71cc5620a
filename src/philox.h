/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011). One header for the CPU and the CUDA backend.
 *
 * A number depends on what it is for and on nothing else: key = the run's seed; counter = (block, stream and
 * epoch, row), where row is a user's index or a tensor's number, never a rank or a thread. So any rank count,
 * any batch order and any device draws the same samples, and a resumed run needs no generator state. */
#ifndef VAECF_PHILOX_H
#define VAECF_PHILOX_H

#include <math.h>
#include <stdint.h>

#ifdef __CUDACC__
#define PHILOX_FUNCTION static inline __host__ __device__
#else
#define PHILOX_FUNCTION static inline
#endif

/* What a number is for. Values are part of the promise "same seed, same bits": never renumber. */
enum philox_stream {
    PHILOX_INIT = 0,        /* initial weights:  row = tensor, block = element / 4 */
    PHILOX_SHUFFLE = 1,     /* order of users:   row = round input */
    PHILOX_DROPOUT = 2,     /* input dropout:    row = user, block = item / 4, lane = item % 4 */
    PHILOX_NOISE = 3,       /* latent noise:     row = user, block = dimension / 4, lane = dimension % 4 */
    PHILOX_SPLIT = 4,       /* target items:     row = user, block = item / 4, lane = item % 4 */
    PHILOX_SWEEP = 5,       /* random search:    row = run, block = parameter */
    PHILOX_SAMPLE = 6,      /* sampled softmax:  row = step, block = item / 4, lane = item % 4 */
    PHILOX_SYNTHESIZE = 16, /* made-up data: row = user, block = draw */
};

struct philox_block {
    uint32_t lane[4];
};

/* Four random 32-bit words. epoch < 2^24. */
PHILOX_FUNCTION struct philox_block philox(uint64_t seed, uint32_t stream, uint32_t epoch, uint64_t row,
                                           uint32_t block) {
    uint32_t c0 = block, c1 = (epoch << 8) | stream;
    uint32_t c2 = (uint32_t)row, c3 = (uint32_t)(row >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    struct philox_block out = {{c0, c1, c2, c3}};
    return out;
}

/* A word as a float in [0, 1): 24 bits, exact. */
PHILOX_FUNCTION float philox_uniform(uint32_t word) {
    return (float)(word >> 8) * (1.0f / 16777216.0f);
}

/* Four standard normal numbers from one block, by Box and Muller's transform of the pairs (0,1) and (2,3). */
PHILOX_FUNCTION void philox_normal(struct philox_block block, float out[4]) {
    for (int pair = 0; pair < 4; pair += 2) {
        float u = 1.0f - philox_uniform(block.lane[pair]); /* (0, 1]: the logarithm is finite */
        float angle = 6.28318530717958648f * philox_uniform(block.lane[pair + 1]);
        float radius = sqrtf(-2.0f * logf(u));
        out[pair] = radius * cosf(angle);
        out[pair + 1] = radius * sinf(angle);
    }
}

#endif
