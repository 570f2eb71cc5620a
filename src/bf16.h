/* The 16-bit brain float: the upper half of a float, rounded to nearest, ties to even. */
#ifndef VAECF_BF16_H
#define VAECF_BF16_H

#include <stdint.h>
#include <string.h>

typedef uint16_t bf16;

/* NaN stays NaN: the lowest bit that is kept is set when only lower ones were. */
static inline bf16 bf16_from_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t rounded = bits + 0x7fff + (bits >> 16 & 1);
    uint32_t nan = bits | 0x10000;
    return (bf16)((x != x ? nan : rounded) >> 16);
}

static inline float bf16_to_float(bf16 x) {
    uint32_t bits = (uint32_t)x << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

#endif
