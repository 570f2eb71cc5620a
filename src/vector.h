/* exp and tanh that compilers turn into vector instructions: no branches, no calls, no tables.
 *
 * Polynomials are least-squares fits at Chebyshev nodes, weighted for relative error. Largest relative error
 * in float: exp 1.2e-7, tanh 1.5e-7 (tests/backend_test.c). In double precision they are libm's. */
#ifndef VAECF_VECTOR_H
#define VAECF_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "real.h"

#ifdef VAECF_DOUBLE

static inline real vector_exp(real x) {
    return exp(x);
}

static inline real vector_tanh(real x) {
    return tanh(x);
}

#else

/* e^x for x in [-87, 88]; beyond it the value there. */
static inline float vector_exp(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    const float magic =
        12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits */
    float shifted = x * 1.4426950408889634f + magic, n = shifted - magic;
    float r = (x - n * 0.693359375f) + n * 0.00021219444170128554f; /* x - n ln 2, in two parts */
    float q = 0.001394646125845611f;
    q = q * r + 0.008369161747395992f;
    q = q * r + 0.04166626185178757f;
    q = q * r + 0.16666515171527863f;
    q = q * r + 0.5f;
    float power = 1.0f + r + r * r * q;
    int32_t bits, exponent;
    memcpy(&exponent, &shifted, sizeof exponent);
    memcpy(&bits, &power, sizeof bits);
    bits += (int32_t)((uint32_t)exponent << 23); /* times 2^n */
    memcpy(&power, &bits, sizeof power);
    return power;
}

static inline float vector_tanh(float x) {
    float t = x * x;
    float q = -0.005703992675989866f;
    q = q * t + 0.020637817680835724f;
    q = q * t - 0.053739145398139954f;
    q = q * t + 0.133314311504364f;
    q = q * t - 0.3333328068256378f;
    float near = x + x * t * q;
    float size = fabsf(x), e = vector_exp(2.0f * (size > 10.0f ? 10.0f : size));
    float far = copysignf(1.0f - 2.0f / (e + 1.0f), x);
    return size < 0.625f ? near : far;
}

#endif

#endif
