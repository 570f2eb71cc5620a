/* See spmm.h. */
#include "spmm.h"

#include <stdio.h>
#include <stdlib.h>

#include "error.h"
#include "trace.h"

#ifdef VAECF_CUSPARSE

#include <cusparse.h>

struct spmm {
    cusparseHandle_t handle;
    cudaStream_t stream;
    float *c;
    size_t c_bytes;
    cusparseConstSpMatDescr_t a; /* NULL: a has no entry, so c is zero */
    cusparseConstDnMatDescr_t b;
    cusparseDnMatDescr_t result;
};

static const cusparseOperation_t as_stored = CUSPARSE_OPERATION_NON_TRANSPOSE;
static const cusparseSpMMAlg_t algorithm = CUSPARSE_SPMM_CSR_ALG3;
static const float one = 1, zero = 0;

static int fault(const char *what, cusparseStatus_t status) {
    return error_set(EX_OSERR, "cuSPARSE: cannot %s: %s", what, cusparseGetErrorString(status));
}

int spmm_create(struct spmm **spmm) {
    *spmm = calloc(1, sizeof **spmm);
    if (!*spmm) return error_memory("cuSPARSE", sizeof **spmm);
    cusparseStatus_t status = cusparseCreate(&(*spmm)->handle);
    if (!status) return 0;
    free(*spmm);
    *spmm = NULL;
    return fault("start", status);
}

/* What describes a product is of no use to the next one. */
static void forget(struct spmm *s) {
    if (s->a) cusparseDestroySpMat(s->a);
    if (s->b) cusparseDestroyDnMat(s->b);
    if (s->result) cusparseDestroyDnMat(s->result);
    s->a = NULL;
    s->b = NULL;
    s->result = NULL;
}

void spmm_destroy(struct spmm *spmm) {
    if (!spmm) return;
    forget(spmm);
    cusparseDestroy(spmm->handle);
    free(spmm);
}

void spmm_describe(char *text, int size) {
    int major = 0, minor = 0, patch = 0;
    cusparseGetProperty(MAJOR_VERSION, &major);
    cusparseGetProperty(MINOR_VERSION, &minor);
    cusparseGetProperty(PATCH_LEVEL, &patch);
    snprintf(text, (size_t)size, "cuSPARSE %d.%d.%d", major, minor, patch);
}

int spmm_prepare(struct spmm *s, cudaStream_t stream, const struct sparse_product *p, size_t *bytes) {
    static const cudaDataType types[] = {
        [NUMBER_FP32] = CUDA_R_32F, [NUMBER_BF16] = CUDA_R_16BF, [NUMBER_FP16] = CUDA_R_16F};
    cudaDataType type = types[p->type];
    forget(s);
    s->stream = stream;
    s->c = p->c;
    s->c_bytes = (size_t)(p->m * p->n) * sizeof *p->c;
    *bytes = 0;
    if (p->m == 0 || p->nonzeros == 0) return 0;
    cusparseStatus_t status = cusparseSetStream(s->handle, stream);
    if (!status) {
        status =
            cusparseCreateConstCsr(&s->a, p->m, p->k, p->nonzeros, p->start, p->index, p->value,
                                   CUSPARSE_INDEX_32I, CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, type);
    }
    if (!status) status = cusparseCreateConstDnMat(&s->b, p->k, p->n, p->n, p->b, type, CUSPARSE_ORDER_ROW);
    if (!status) {
        status = cusparseCreateDnMat(&s->result, p->m, p->n, p->n, p->c, CUDA_R_32F, CUSPARSE_ORDER_ROW);
    }
    if (!status) {
        status = cusparseSpMM_bufferSize(s->handle, as_stored, as_stored, &one, s->a, s->b, &zero, s->result,
                                         CUDA_R_32F, algorithm, bytes);
    }
    if (!status) return 0;
    forget(s);
    return fault("plan a product", status);
}

int spmm_run(struct spmm *s, void *buffer) {
    if (!s->a) {
        cudaError_t status = trace_set(s->c, 0, s->c_bytes, s->stream);
        return status ? error_set(EX_OSERR, "GPU: %s", cudaGetErrorString(status)) : 0;
    }
    TRACE_BEFORE(s->stream, "SpMM");
    cusparseStatus_t status = cusparseSpMM(s->handle, as_stored, as_stored, &one, s->a, s->b, &zero,
                                           s->result, CUDA_R_32F, algorithm, buffer);
    TRACE_AFTER(s->stream);
    forget(s);
    return status ? fault("multiply", status) : 0;
}

#else

int spmm_create(struct spmm **spmm) {
    *spmm = NULL;
    return error_set(EX_CONFIG, "this program was built without cuSPARSE: want VAECF_SPARSE=gather");
}

void spmm_destroy(struct spmm *spmm) {
    (void)spmm;
}

void spmm_describe(char *text, int size) {
    snprintf(text, (size_t)size, "no cuSPARSE");
}

int spmm_prepare(struct spmm *spmm, cudaStream_t stream, const struct sparse_product *product,
                 size_t *bytes) {
    *bytes = 0;
    (void)stream, (void)product;
    return spmm_create(&spmm);
}

int spmm_run(struct spmm *spmm, void *buffer) {
    (void)buffer;
    return spmm_create(&spmm);
}

#endif
