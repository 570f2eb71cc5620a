/* Matrix products by any CBLAS (OpenBLAS, BLIS, MKL, ...); see gemm.h. */
#include <cblas.h>
#include <stdio.h>

#include "gemm.h"

void gemm(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const real *a, const real *b,
          real beta, real *c) {
    if (m == 0 || n == 0) return;
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, a,
                (int)(transpose_a ? m : k), b, (int)(transpose_b ? k : n), beta, c, (int)n);
}

void gemm_describe(char *text, int size) {
    snprintf(text, (size_t)size, "CBLAS");
}
