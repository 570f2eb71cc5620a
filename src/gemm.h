/* Dense matrix products for the CPU backend, from a library: gemm_onednn.c or gemm_cblas.c is compiled.
 *
 * Both functions compute c[m, n] = op(a) op(b) + beta c, row-major and without gaps between rows: op(a) is
 * [m, k] and op(b) is [k, n]; a transposed one is stored as [k, m], [n, k]. beta is 0 (c is not read) or 1.
 * They use OpenMP's threads, are called by one thread, and return 0 or EX_OSERR with error_message() set. */
#ifndef VAECF_GEMM_H
#define VAECF_GEMM_H

#include <stdint.h>

#include "bf16.h"
#include "real.h"

int gemm(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const real *a, const real *b,
         real beta, real *c);

/* Operands of 16 bits, sums in float. Only where gemm_has_bf16(). */
int gemm_bf16(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const bf16 *a, const bf16 *b,
              real beta, real *c);

/* Do the library and the processor multiply bf16 in hardware (AVX512-BF16, AMX)? */
int gemm_has_bf16(void);

/* The library and its version: "oneDNN 2.6.3". */
void gemm_describe(char *text, int size);

#endif
