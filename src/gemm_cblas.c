/* Matrix products by any CBLAS (OpenBLAS, BLIS, MKL, ...); see gemm.h. */
#include <cblas.h>
#include <stdio.h>

#include "error.h"
#include "gemm.h"

int gemm(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const real *a, const real *b,
         real beta, real *c) {
    if (m == 0 || n == 0) return 0;
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans,
                transpose_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k, 1.0f, a,
                (int)(transpose_a ? m : k), b, (int)(transpose_b ? k : n), beta, c, (int)n);
    return 0;
}

/* CBLAS has no such function that all libraries share. */
int gemm_has_bf16(void) {
    return 0;
}

int gemm_bf16(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const bf16 *a, const bf16 *b,
              real beta, real *c) {
    (void)transpose_a, (void)transpose_b, (void)m, (void)n, (void)k, (void)a, (void)b, (void)beta, (void)c;
    return error_set(EX_SOFTWARE, "a CBLAS does not multiply bf16");
}

void gemm_describe(char *text, int size) {
    snprintf(text, (size_t)size, "CBLAS");
}
