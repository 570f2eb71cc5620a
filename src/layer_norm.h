/* Layer normalisation of a row (Ba et al. 2016): x = (y - mean) / sqrt(variance + epsilon). Without gain and
 * bias: the layer that takes x in is linear and has them in its weights. */
#ifndef VAECF_LAYER_NORM_H
#define VAECF_LAYER_NORM_H

#include <math.h>
#include <stdint.h>

#include "real.h"

#define LAYER_NORM_EPSILON 0.1 /* as in the code of RecVAE (Shenbin et al. 2020) */

#ifndef __cplusplus /* kernels have the rest in a way of their own */

/* 1 / sqrt(variance + epsilon), and the mean. */
static inline real layer_norm_factor(int64_t n, const real *y, real *mean) {
    real sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) sum += y[j];
    const real middle = sum / (real)n;
#pragma omp simd reduction(+ : squares)
    for (int64_t j = 0; j < n; j++) squares += (y[j] - middle) * (y[j] - middle);
    *mean = middle;
    return (real)(1 / sqrt((double)squares / (double)n + LAYER_NORM_EPSILON));
}

/* x may be y. */
static inline void layer_norm_row(int64_t n, const real *y, real *x) {
    real mean, factor = layer_norm_factor(n, y, &mean);
#pragma omp simd
    for (int64_t j = 0; j < n; j++) x[j] = (y[j] - mean) * factor;
}

/* dx, the gradient at x, becomes that at y. */
static inline void layer_norm_row_backward(int64_t n, const real *y, const real *x, real *dx) {
    real mean, factor = layer_norm_factor(n, y, &mean), sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
    for (int64_t j = 0; j < n; j++) {
        sum += dx[j];
        along += dx[j] * x[j];
    }
    sum /= (real)n;
    along /= (real)n;
#pragma omp simd
    for (int64_t j = 0; j < n; j++) dx[j] = factor * (dx[j] - sum - along * x[j]);
}

#endif

#endif
