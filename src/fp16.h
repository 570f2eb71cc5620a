/* The 16-bit float of IEEE 754 in software, rounded to nearest, ties to even: the same numbers on any
 * processor. */
#ifndef VAECF_FP16_H
#define VAECF_FP16_H

#include <math.h>
#include <stdint.h>
#include <string.h>

typedef uint16_t fp16;

/* x rounded to fp16, as a float; above 65504 (and half a unit) infinity. No branches: loops become vectors.
 */
static inline float fp16_round(float x) {
    uint32_t bits, sign;
    memcpy(&bits, &x, sizeof bits);
    sign = bits & 0x80000000u;
    bits = (bits & 0x7fffffffu) + 0xfff + (bits >> 13 & 1); /* 13 bits fewer, if it is normal */
    bits &= ~0x1fffu;
    float size = fabsf(x), normal;
    memcpy(&normal, &bits, sizeof normal);
    float small =
        (size + 0.5f) - 0.5f; /* below 2^-14: a multiple of 2^-24, the last digit of numbers at 0.5 */
    float rounded = size < 6.103515625e-5f ? small : normal;
    rounded = rounded > 65504.0f ? INFINITY : rounded;
    rounded = x != x ? size : rounded;
    memcpy(&bits, &rounded, sizeof bits);
    bits |= sign;
    memcpy(&rounded, &bits, sizeof rounded);
    return rounded;
}

static inline fp16 fp16_from_float(float x) {
    float rounded = fp16_round(x), size = fabsf(rounded);
    uint32_t bits;
    memcpy(&bits, &rounded, sizeof bits);
    uint32_t sign = bits >> 16 & 0x8000;
    if (x != x) return (fp16)(sign | 0x7e00);
    if (size > 65504.0f) return (fp16)(sign | 0x7c00);
    if (size < 6.103515625e-5f) return (fp16)(sign | (uint32_t)(size * 16777216.0f));
    return (fp16)(sign | ((bits & 0x7fffffff) - 0x38000000) >> 13);
}

static inline float fp16_to_float(fp16 x) {
    uint32_t exponent = x >> 10 & 0x1f, digits = x & 0x3ff, bits = 0x7f800000 | digits << 13;
    float size = (float)digits * 5.9604644775390625e-8f; /* 2^-24 */
    if (exponent > 0) {
        if (exponent < 31) bits = (exponent + 112) << 23 | digits << 13;
        memcpy(&size, &bits, sizeof size);
    }
    return x & 0x8000 ? -size : size;
}

#endif
