/* The 16-bit brain floats of CUDA, on the host. */
#ifndef CUDA_HOST_BF16_H
#define CUDA_HOST_BF16_H

#include "../../src/bf16.h"

struct __nv_bfloat16 {
    bf16 bits;
};
static inline float __bfloat162float(__nv_bfloat16 x) {
    return bf16_to_float(x.bits);
}
static inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    return {bf16_from_float(x)};
}

#endif
