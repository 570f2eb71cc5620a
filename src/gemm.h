/* Dense matrix products for the CPU backend, from a library: gemm_onednn.c or gemm_cblas.c is compiled. */
#ifndef VAECF_GEMM_H
#define VAECF_GEMM_H

#include <stdint.h>

#include "real.h"

/* c[m, n] = op(a) op(b) + beta c, row-major and without gaps between rows: op(a) is [m, k] and op(b) is [k,
 * n]; a transposed one is stored as [k, m], [n, k]. beta 0 does not read c. Uses OpenMP's threads. */
void gemm(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const real *a, const real *b,
          real beta, real *c);

/* The library and its version: "oneDNN 2.6.3". */
void gemm_describe(char *text, int size);

#endif
