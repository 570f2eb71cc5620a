/* The 16-bit numbers of CUDA, on the host. */
#ifndef CUDA_HOST_FP16_H
#define CUDA_HOST_FP16_H

#include "../../src/fp16.h"

struct __half {
    fp16 bits;
};
static inline float __half2float(__half x) {
    return fp16_to_float(x.bits);
}
static inline __half __float2half_rn(float x) {
    return {fp16_from_float(x)};
}

#endif
