/* cuBLASLt on the host, by the CPU's own matrix products. Column-major; shapes, types and alignments that
 * would be an error on the GPU are one here. VAECF_HOST_NO_EPILOGUE: it has none. It proposes as many
 * algorithms as are wanted, of which it can do all but the second. */
#include <stdlib.h>
#include <vector>

#include "cublasLt.h"
#include "cuda_runtime.h"

extern "C" {
#include "../../src/gemm.h"
}
#include "../../src/fp16.h"

struct cublasLtContext {};
struct cublasLtMatmulDesc {
    cublasOperation_t a, b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
};
struct cublasLtMatrixLayout {
    cudaDataType_t type;
    int64_t rows, cols, ld;
};
struct cublasLtMatmulPreference {
    uint32_t align[4];
};

namespace {

constexpr int NUMBER = 4; /* in an algorithm's data: which of the proposals it is */

std::vector<float> widened(const void *from, cudaDataType_t type, int64_t n) {
    std::vector<float> to((size_t)n);
    for (size_t i = 0; i < to.size(); i++) {
        if (type == CUDA_R_32F) to[i] = static_cast<const float *>(from)[i];
        if (type == CUDA_R_16F) to[i] = fp16_to_float(static_cast<const fp16 *>(from)[i]);
        if (type == CUDA_R_16BF) to[i] = bf16_to_float(static_cast<const bf16 *>(from)[i]);
    }
    return to;
}

void round_to(const std::vector<float> &from, cudaDataType_t type, void *to) {
    for (size_t i = 0; i < from.size(); i++) {
        if (type == CUDA_R_32F) static_cast<float *>(to)[i] = from[i];
        if (type == CUDA_R_16F) static_cast<fp16 *>(to)[i] = fp16_from_float(from[i]);
        if (type == CUDA_R_16BF) static_cast<bf16 *>(to)[i] = bf16_from_float(from[i]);
    }
}

bool fits(const cublasLtMatmulDesc &what, const cublasLtMatrixLayout &a, const cublasLtMatrixLayout &b,
          const cublasLtMatrixLayout &c) {
    int64_t m = what.a == CUBLAS_OP_T ? a.cols : a.rows, k = what.a == CUBLAS_OP_T ? a.rows : a.cols;
    int64_t n = what.b == CUBLAS_OP_T ? b.rows : b.cols, kb = what.b == CUBLAS_OP_T ? b.cols : b.rows;
    return m == c.rows && n == c.cols && k == kb && a.type == b.type &&
           (c.type == CUDA_R_32F || c.type == a.type) && a.ld == a.rows && b.ld == b.rows && c.ld == c.rows;
}

} // namespace

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = new cublasLtContext();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

size_t cublasLtGetVersion(void) {
    return 130000;
}

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "invalid value";
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t, cudaDataType_t) {
    *desc = new cublasLtMatmulDesc{CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT, nullptr};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t size) {
    void *to = name == CUBLASLT_MATMUL_DESC_TRANSA     ? (void *)&desc->a
               : name == CUBLASLT_MATMUL_DESC_TRANSB   ? (void *)&desc->b
               : name == CUBLASLT_MATMUL_DESC_EPILOGUE ? (void *)&desc->epilogue
                                                       : (void *)&desc->bias;
    if (size != (name == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? sizeof desc->bias : sizeof(int))) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(to, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    *layout = new cublasLtMatrixLayout{type, (int64_t)rows, (int64_t)cols, ld};
    return ld >= (int64_t)rows ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new cublasLtMatmulPreference();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t size) {
    if (name == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        return size == sizeof(size_t) ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
    }
    if (size != sizeof(uint32_t)) return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(&preference->align[name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, size);
    return CUBLAS_STATUS_SUCCESS;
}

/* The algorithm remembers the alignments that it was chosen for. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t result[], int *found) {
    *found = 0;
    if (!fits(*desc, *a, *b, *c)) return CUBLAS_STATUS_INVALID_VALUE;
    if (desc->epilogue != CUBLASLT_EPILOGUE_DEFAULT && getenv("VAECF_HOST_NO_EPILOGUE")) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    *found = wanted;
    for (int r = 0; r < wanted; r++) {
        result[r] = {};
        for (int i = 0; i < 4; i++) result[r].algo.data[i] = preference->align[i];
        result[r].algo.data[NUMBER] = (uint64_t)r;
    }
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *result) {
    *result = {};
    bool is_one = fits(*desc, *a, *b, *c) && algorithm->data[0] && algorithm->data[NUMBER] != 1;
    return is_one ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t *algorithm, void *, size_t,
                              cudaStream_t stream) {
    cublasLtMatmulDesc what = *desc;
    cublasLtMatrixLayout la = *a_layout, lb = *b_layout, lc = *c_layout;
    float add = *static_cast<const float *>(beta), times = *static_cast<const float *>(alpha);
    const void *of[4] = {a, b, c, d};
    if (algorithm->data[NUMBER] == 1) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (!fits(what, la, lb, lc) || c != d || times != 1) return CUBLAS_STATUS_INVALID_VALUE;
    if (what.epilogue != CUBLASLT_EPILOGUE_DEFAULT && !what.bias) return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < 4; i++) {
        if ((uintptr_t)of[i] % algorithm->data[i]) return CUBLAS_STATUS_INVALID_VALUE;
    }
    cuda_host_put(stream, [=] {
        int64_t n = lc.rows * lc.cols, k = what.a == CUBLAS_OP_T ? la.rows : la.cols;
        std::vector<float> x = widened(a, la.type, la.rows * la.cols),
                           y = widened(b, lb.type, lb.rows * lb.cols);
        std::vector<float> to = add != 0 ? widened(d, lc.type, n) : std::vector<float>((size_t)n), bias;
        if (what.epilogue != CUBLASLT_EPILOGUE_DEFAULT) bias = widened(what.bias, lc.type, lc.rows);
        /* row-major: the transpose of all that */
        gemm(what.b == CUBLAS_OP_T, what.a == CUBLAS_OP_T, lc.cols, lc.rows, k, y.data(), x.data(), add,
             to.data());
        for (int64_t i = 0; i < n && !bias.empty(); i++) {
            float &sum = to[(size_t)i];
            sum += bias[(size_t)(i % lc.rows)];
            if (what.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS && sum < 0) sum = 0;
        }
        round_to(to, lc.type, d);
        return true;
    });
    return CUBLAS_STATUS_SUCCESS;
}
