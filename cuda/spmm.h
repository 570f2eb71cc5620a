/* Products of a sparse matrix and a dense one on the GPU by cuSPARSE: row-major, sums in fp32.
 *
 * Only CUSPARSE_SPMM_CSR_ALG3 is asked for, which gives the same bits in every run, and only with the sparse
 * matrix as it is stored: with its transpose cuSPARSE promises no such thing. No matrix is multiplied twice,
 * so cusparseSpMM_preprocess would gain nothing. */
#ifndef VAECF_SPMM_H
#define VAECF_SPMM_H

#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels.h"

struct spmm;

/* EX_OSERR; EX_CONFIG: the program was built without cuSPARSE. */
int spmm_create(struct spmm **spmm);
/* NULL is harmless. */
void spmm_destroy(struct spmm *spmm);

/* "cuSPARSE 12.6.3". */
void spmm_describe(char *text, int size);

/* c[m, n] = a b. a[m, k] is CSR in device memory; start[m] is `nonzeros`, which the host has to know. a and b
 * are of the type, c is fp32. */
struct sparse_product {
    enum number type;
    int64_t m, n, k, nonzeros;
    const int32_t *start, *index;
    const void *value, *b;
    float *c;
};

/* The product that spmm_run is to compute next, and the bytes that it takes meanwhile. EX_OSERR: also where
 * cuSPARSE has no such product. */
int spmm_prepare(struct spmm *spmm, cudaStream_t stream, const struct sparse_product *product, size_t *bytes);
/* Puts it on the stream. buffer: so many bytes of device memory, which the product has to itself until it is
 * computed. EX_OSERR. */
int spmm_run(struct spmm *spmm, void *buffer);

#endif
