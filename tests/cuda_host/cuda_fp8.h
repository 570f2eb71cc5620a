/* The 8-bit floats of CUDA, on the host: e4m3, rounded to nearest, ties to even; beyond 448 is 448. */
#ifndef CUDA_HOST_FP8_H
#define CUDA_HOST_FP8_H

#include <math.h>
#include <stdint.h>

enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };
typedef unsigned char __nv_fp8_storage_t;
typedef unsigned short __nv_fp8x2_storage_t;
struct float2 {
    float x, y;
};
static inline float2 make_float2(float x, float y) {
    return {x, y};
}

/* seeeemmm, of bias 7; 0x7f is NaN, and there is no infinity. */
static inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t,
                                                       __nv_fp8_interpretation_t) {
    int sign = signbit(x) ? 0x80 : 0, exponent = 0;
    float size = fabsf(x);
    if (x != x) return (__nv_fp8_storage_t)(sign | 0x7f);
    if (size >= 448) return (__nv_fp8_storage_t)(sign | 0x7e);
    frexpf(size, &exponent); /* size < 2^exponent */
    if (exponent < -5) exponent = -5;
    int eighths = (int)lrintf(ldexpf(size, 4 - exponent)); /* 8 .. 16, or fewer of the smallest */
    int bits = eighths < 8 ? eighths : (exponent + 6) * 8 + eighths - 8; /* 16 carries into the exponent */
    return (__nv_fp8_storage_t)(sign | bits);
}
static inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 v, __nv_saturation_t saturation,
                                                            __nv_fp8_interpretation_t type) {
    return (__nv_fp8x2_storage_t)(__nv_cvt_float_to_fp8(v.x, saturation, type) |
                                  __nv_cvt_float_to_fp8(v.y, saturation, type) << 8);
}
static inline float cuda_host_from_fp8(__nv_fp8_storage_t bits) {
    int exponent = bits >> 3 & 15, eighths = bits & 7;
    float size = exponent ? ldexpf((float)(8 + eighths), exponent - 10) : ldexpf((float)eighths, -9);
    if ((bits & 0x7f) == 0x7f) size = NAN;
    return bits & 0x80 ? -size : size;
}

#endif
