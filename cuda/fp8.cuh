/* Numbers of 8 bits, e4m3: what is beyond 448 becomes 448, NaN stays. */
#ifndef VAECF_FP8_CUH
#define VAECF_FP8_CUH

#include "device.cuh"

#if CUDART_VERSION >= 11080
#include <cuda_fp8.h>
#endif

namespace {

constexpr float FP8_MAX = 448;

struct fp8 {
    unsigned char bits;
};

#if CUDART_VERSION >= 11080
__device__ inline void store(fp8 *p, float x) {
    p->bits = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
__device__ inline void store_two(fp8 *p, float x, float y) {
    unsigned two = __nv_cvt_float2_to_fp8x2(make_float2(x, y), __NV_SATFINITE, __NV_E4M3);
    p[0].bits = (unsigned char)two;
    p[1].bits = (unsigned char)(two >> 8);
}
#else /* never started: see cuda_check_fp8 */
__device__ inline void store(fp8 *, float) {}
__device__ inline void store_two(fp8 *, float, float) {}
#endif

} // namespace

#endif
