/* cuSPARSE's product of a sparse and a dense matrix, on the host. What would be an error on the GPU is one
 * here: index types, orders and leading dimensions, shapes, types of numbers, algorithms, a buffer that is
 * missing or not aligned. A matrix that is not what its description says ends the program: there it would be
 * read outside of memory. Of the algorithms only CSR_ALG3, with the matrix as it is stored, gives the same
 * bits each time: the others add in one order or in the other. The buffer is written to all through.
 *
 *   VAECF_HOST_CUSPARSE  none: it cannot be started; 16: it has no products of 16-bit numbers */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

#include "cuda_runtime.h"
#include "cusparse.h"

#include "../../src/bf16.h"
#include "../../src/fp16.h"

struct cusparseContext {
    cudaStream_t stream;
};
struct cusparseSpMatDescr {
    int64_t rows, cols, nnz;
    const int32_t *start, *index;
    const void *values;
    cudaDataType type;
};
struct cusparseDnMatDescr {
    int64_t rows, cols, ld;
    const void *values;
    cudaDataType type;
    cusparseOrder_t order;
};

namespace {

constexpr size_t ALIGNED = 16; /* bytes: of the buffer */

bool is_told(const char *word) {
    const char *text = getenv("VAECF_HOST_CUSPARSE");
    return text && strcmp(text, word) == 0;
}

size_t size_of(cudaDataType type) {
    return type == CUDA_R_32F ? 4 : 2;
}
bool is_aligned(const void *p, size_t bytes) {
    return (uintptr_t)p % bytes == 0;
}

float number(const void *from, cudaDataType type, int64_t i) {
    if (type == CUDA_R_32F) return static_cast<const float *>(from)[i];
    if (type == CUDA_R_16F) return fp16_to_float(static_cast<const fp16 *>(from)[i]);
    return bf16_to_float(static_cast<const bf16 *>(from)[i]);
}

int64_t place(const cusparseDnMatDescr &m, int64_t row, int64_t column) {
    return m.order == CUSPARSE_ORDER_ROW ? row * m.ld + column : column * m.ld + row;
}

size_t buffer_size(const cusparseSpMatDescr &a) {
    return (size_t)(a.rows + a.nnz / 32 + 1) * sizeof(int32_t);
}

cusparseStatus_t check(cusparseOperation_t operation_a, cusparseOperation_t operation_b,
                       const cusparseSpMatDescr &a, const cusparseDnMatDescr &b, const cusparseDnMatDescr &c,
                       cudaDataType compute, cusparseSpMMAlg_t algorithm) {
    bool is_transposed = operation_a != CUSPARSE_OPERATION_NON_TRANSPOSE;
    int64_t m = is_transposed ? a.cols : a.rows, k = is_transposed ? a.rows : a.cols;
    if (operation_b != CUSPARSE_OPERATION_NON_TRANSPOSE) return CUSPARSE_STATUS_NOT_SUPPORTED;
    if (b.rows != k || c.rows != m || b.cols != c.cols || b.order != c.order) {
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    bool is_csr = algorithm == CUSPARSE_SPMM_ALG_DEFAULT || algorithm == CUSPARSE_SPMM_CSR_ALG1 ||
                  algorithm == CUSPARSE_SPMM_CSR_ALG2 || algorithm == CUSPARSE_SPMM_CSR_ALG3;
    if (!is_csr || (algorithm == CUSPARSE_SPMM_CSR_ALG3 && is_transposed)) {
        return CUSPARSE_STATUS_NOT_SUPPORTED;
    }
    /* fp32 throughout, or numbers of 16 bits with a result in fp32 or in theirs */
    if (a.type != b.type || compute != CUDA_R_32F) return CUSPARSE_STATUS_NOT_SUPPORTED;
    if (c.type != CUDA_R_32F && c.type != a.type) return CUSPARSE_STATUS_NOT_SUPPORTED;
    if (a.type != CUDA_R_32F && is_told("16")) return CUSPARSE_STATUS_NOT_SUPPORTED;
    return CUSPARSE_STATUS_SUCCESS;
}

/* The matrix in memory is the one that is described. */
void check_entries(const cusparseSpMatDescr &a) {
    bool is_good = a.start[0] == 0 && a.start[a.rows] == a.nnz;
    for (int64_t r = 0; r < a.rows && is_good; r++) is_good = a.start[r] <= a.start[r + 1];
    for (int64_t i = 0; i < a.nnz && is_good; i++) is_good = a.index[i] >= 0 && a.index[i] < a.cols;
    if (is_good) return;
    fprintf(stderr, "cusparseSpMM: not a matrix of %lld x %lld with %lld entries\n", (long long)a.rows,
            (long long)a.cols, (long long)a.nnz);
    abort();
}

void multiply(const cusparseSpMatDescr &a, bool is_transposed, const cusparseDnMatDescr &b,
              const cusparseDnMatDescr &c, float times, float add, bool is_backward) {
    std::vector<float> sum((size_t)(c.rows * c.cols));
    for (int64_t row = 0; row < a.rows; row++) {
        int64_t r = is_backward ? a.rows - 1 - row : row;
        for (int64_t i = 0, n = a.start[r + 1] - a.start[r]; i < n; i++) {
            int64_t at = is_backward ? a.start[r + 1] - 1 - i : a.start[r] + i;
            int64_t to = is_transposed ? a.index[at] : r, from = is_transposed ? r : a.index[at];
            float value = number(a.values, a.type, at);
            for (int64_t j = 0; j < c.cols; j++) {
                sum[(size_t)(to * c.cols + j)] += value * number(b.values, b.type, place(b, from, j));
            }
        }
    }
    for (int64_t r = 0; r < c.rows; r++) {
        for (int64_t j = 0; j < c.cols; j++) {
            void *values = const_cast<void *>(c.values);
            int64_t at = place(c, r, j);
            float result = times * sum[(size_t)(r * c.cols + j)];
            if (add != 0) result += add * number(c.values, c.type, at);
            if (c.type == CUDA_R_32F) static_cast<float *>(values)[at] = result;
            if (c.type == CUDA_R_16F) static_cast<fp16 *>(values)[at] = fp16_from_float(result);
            if (c.type == CUDA_R_16BF) static_cast<bf16 *>(values)[at] = bf16_from_float(result);
        }
    }
}

} // namespace

cusparseStatus_t cusparseCreate(cusparseHandle_t *handle) {
    if (is_told("none")) return CUSPARSE_STATUS_NOT_SUPPORTED;
    *handle = new cusparseContext();
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroy(cusparseHandle_t handle) {
    delete handle;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseGetProperty(libraryPropertyType type, int *value) {
    const int version[] = {CUSPARSE_VER_MAJOR, CUSPARSE_VER_MINOR, CUSPARSE_VER_PATCH};
    *value = version[type];
    return CUSPARSE_STATUS_SUCCESS;
}

const char *cusparseGetErrorString(cusparseStatus_t status) {
    return status == CUSPARSE_STATUS_NOT_SUPPORTED ? "operation not supported" : "invalid value";
}

cusparseStatus_t cusparseSetStream(cusparseHandle_t handle, cudaStream_t stream) {
    handle->stream = stream;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateConstCsr(cusparseConstSpMatDescr_t *matrix, int64_t rows, int64_t cols,
                                        int64_t nnz, const void *start, const void *index, const void *values,
                                        cusparseIndexType_t start_type, cusparseIndexType_t index_type,
                                        cusparseIndexBase_t base, cudaDataType type) {
    *matrix = nullptr;
    bool is_one = rows > 0 && cols > 0 && nnz > 0 && start && index && values;
    if (!is_one || !is_aligned(start, 4) || !is_aligned(index, 4) || !is_aligned(values, size_of(type)) ||
        base != CUSPARSE_INDEX_BASE_ZERO) {
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    if (start_type != index_type || start_type != CUSPARSE_INDEX_32I) return CUSPARSE_STATUS_NOT_SUPPORTED;
    *matrix = new cusparseSpMatDescr{
        rows,   cols, nnz, static_cast<const int32_t *>(start), static_cast<const int32_t *>(index),
        values, type};
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseDestroySpMat(cusparseConstSpMatDescr_t matrix) {
    delete matrix;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateDnMat(cusparseDnMatDescr_t *matrix, int64_t rows, int64_t cols, int64_t ld,
                                     void *values, cudaDataType type, cusparseOrder_t order) {
    *matrix = nullptr;
    if (rows <= 0 || cols <= 0 || ld < (order == CUSPARSE_ORDER_ROW ? cols : rows) || !values ||
        !is_aligned(values, size_of(type))) {
        return CUSPARSE_STATUS_INVALID_VALUE;
    }
    *matrix = new cusparseDnMatDescr{rows, cols, ld, values, type, order};
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseCreateConstDnMat(cusparseConstDnMatDescr_t *matrix, int64_t rows, int64_t cols,
                                          int64_t ld, const void *values, cudaDataType type,
                                          cusparseOrder_t order) {
    cusparseDnMatDescr_t same;
    cusparseStatus_t status =
        cusparseCreateDnMat(&same, rows, cols, ld, const_cast<void *>(values), type, order);
    *matrix = same;
    return status;
}

cusparseStatus_t cusparseDestroyDnMat(cusparseConstDnMatDescr_t matrix) {
    delete matrix;
    return CUSPARSE_STATUS_SUCCESS;
}

cusparseStatus_t cusparseSpMM_bufferSize(cusparseHandle_t, cusparseOperation_t operation_a,
                                         cusparseOperation_t operation_b, const void *,
                                         cusparseConstSpMatDescr_t a, cusparseConstDnMatDescr_t b,
                                         const void *, cusparseDnMatDescr_t c, cudaDataType compute,
                                         cusparseSpMMAlg_t algorithm, size_t *bytes) {
    *bytes = buffer_size(*a);
    return check(operation_a, operation_b, *a, *b, *c, compute, algorithm);
}

cusparseStatus_t cusparseSpMM(cusparseHandle_t handle, cusparseOperation_t operation_a,
                              cusparseOperation_t operation_b, const void *alpha, cusparseConstSpMatDescr_t a,
                              cusparseConstDnMatDescr_t b, const void *beta, cusparseDnMatDescr_t c,
                              cudaDataType compute, cusparseSpMMAlg_t algorithm, void *buffer) {
    static unsigned calls;
    cusparseStatus_t status = check(operation_a, operation_b, *a, *b, *c, compute, algorithm);
    if (status) return status;
    if (!buffer || !is_aligned(buffer, ALIGNED)) return CUSPARSE_STATUS_INVALID_VALUE;
    bool is_transposed = operation_a != CUSPARSE_OPERATION_NON_TRANSPOSE;
    bool is_backward = algorithm != CUSPARSE_SPMM_CSR_ALG3 && __builtin_parity(calls++);
    cusparseSpMatDescr of_a = *a; /* the caller may destroy his */
    cusparseDnMatDescr of_b = *b, of_c = *c;
    float times = *static_cast<const float *>(alpha), add = *static_cast<const float *>(beta);
    cuda_host_put(handle->stream, [=] {
        check_entries(of_a);
        memset(buffer, 0xff, buffer_size(of_a));
        multiply(of_a, is_transposed, of_b, of_c, times, add, is_backward);
        return true;
    });
    return CUSPARSE_STATUS_SUCCESS;
}
