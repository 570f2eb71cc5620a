/* Matrix products in double precision for the gradient test, by the definition; see src/gemm.h. */
#include "gemm.h"

#include <stdio.h>

#include "error.h"

int gemm(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const real *a, const real *b,
         real beta, real *c) {
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            real sum = 0;
            for (int64_t l = 0; l < k; l++) {
                sum +=
                    (transpose_a ? a[l * m + i] : a[i * k + l]) * (transpose_b ? b[j * k + l] : b[l * n + j]);
            }
            c[i * n + j] = sum + (beta == 0 ? 0 : beta * c[i * n + j]);
        }
    }
    return 0;
}

int gemm_has_bf16(void) {
    return 0;
}

int gemm_bf16(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const bf16 *a, const bf16 *b,
              real beta, real *c) {
    (void)transpose_a, (void)transpose_b, (void)m, (void)n, (void)k, (void)a, (void)b, (void)beta, (void)c;
    return EX_SOFTWARE;
}

void gemm_describe(char *text, int size) {
    snprintf(text, (size_t)size, "loops in double precision");
}
