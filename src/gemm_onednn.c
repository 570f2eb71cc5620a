/* Matrix products by oneDNN; see gemm.h. */
#include <dnnl.h>
#include <stdio.h>

#include "gemm.h"

void gemm(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const real *a, const real *b,
          real beta, real *c) {
    if (m == 0 || n == 0) return;
    dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a, transpose_a ? m : k, b,
               transpose_b ? k : n, beta, c, n);
}

void gemm_describe(char *text, int size) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, (size_t)size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}
