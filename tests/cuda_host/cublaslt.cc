/* cuBLASLt on the host, by the CPU's own matrix products. Column-major. What the library's guide says that it
 * does not support, or is an error, is so here; of what is unsaid the stricter is taken. Why something is an
 * error goes to stderr.
 *
 *   VAECF_HOST_NO_EPILOGUE        it has none; "gradient": none that makes a bias' gradient
 *   VAECF_HOST_ALGORITHMS=N       proposes N algorithms at most (16): see algorithms[]
 *   VAECF_HOST_MATMUL_FAIL=R:N    the N-th product of rank R fails on the GPU */
#include <math.h>
#include <stdio.h>
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
    cublasComputeType_t compute;
    cudaDataType_t scale;
    cublasOperation_t a, b;
    cublasLtEpilogue_t epilogue;
    const void *bias;
    int bias_type; /* -1: that of D */
    const float *a_scale, *b_scale;
    char is_fast;
};
struct cublasLtMatrixLayout {
    cudaDataType_t type;
    int64_t rows, cols, ld;
};
struct cublasLtMatmulPreference {
    size_t workspace;
    uint32_t align[4]; /* of A, B, C, D */
};

namespace {

/* The proposals, the best first. */
struct algorithm {
    bool does_run;
    cublasStatus_t state;
    size_t workspace; /* it needs */
    uint32_t align;   /* of pointers and columns, it needs */
};
constexpr algorithm algorithms[] = {
    {true, CUBLAS_STATUS_SUCCESS, 0, 1},       {false, CUBLAS_STATUS_SUCCESS, 0, 1},
    {true, CUBLAS_STATUS_NOT_SUPPORTED, 0, 1}, {true, CUBLAS_STATUS_SUCCESS, 1 << 16, 1},
    {true, CUBLAS_STATUS_SUCCESS, 1 << 30, 1}, {true, CUBLAS_STATUS_SUCCESS, 1 << 12, 16},
};
constexpr int N_ALGORITHMS = sizeof algorithms / sizeof *algorithms;
constexpr uintptr_t WORKSPACE_ALIGN = 256;
constexpr int64_t FP8_MULTIPLE = 16; /* of bytes and of numbers */

/* What is in an algorithm's data. */
enum { ALIGN, BIAS_ALIGN, PRODUCT, NUMBER = 4 };

struct product {
    cublasLtMatmulDesc what;
    cublasLtMatrixLayout a, b, c, d;
};

cublasStatus_t wrong(const char *why) {
    fprintf(stderr, "cuBLASLt stand-in: %s\n", why);
    return CUBLAS_STATUS_INVALID_VALUE;
}

size_t size_of(cudaDataType_t type) {
    return type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}

uint32_t alignment(const void *p) {
    uintptr_t address = (uintptr_t)p, lowest = address & (~address + 1);
    return lowest == 0 || lowest > 256 ? 256 : (uint32_t)lowest;
}

/* ---- numbers ---- */

float e4m3_to_float(unsigned char x) {
    int exponent = x >> 3 & 15, digits = x & 7;
    float size = exponent ? ldexpf((float)(8 + digits), exponent - 10) : ldexpf((float)digits, -9);
    if ((x & 0x7f) == 0x7f) size = NAN;
    return x & 0x80 ? -size : size;
}

/* Rounded to the ten digits of tf32; ties away from zero. */
float tf32_round(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000) != 0x7f800000) bits += 0x1000;
    bits &= ~0x1fffu;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The numbers of a matrix without the gaps between its columns. */
std::vector<float> widened(const void *from, const cublasLtMatrixLayout &l) {
    std::vector<float> to((size_t)(l.rows * l.cols));
    for (size_t i = 0; i < to.size(); i++) {
        size_t rows = (size_t)l.rows, at = i / rows * (size_t)l.ld + i % rows;
        if (l.type == CUDA_R_32F) to[i] = static_cast<const float *>(from)[at];
        if (l.type == CUDA_R_16F) to[i] = fp16_to_float(static_cast<const fp16 *>(from)[at]);
        if (l.type == CUDA_R_16BF) to[i] = bf16_to_float(static_cast<const bf16 *>(from)[at]);
        if (l.type == CUDA_R_8F_E4M3) to[i] = e4m3_to_float(static_cast<const unsigned char *>(from)[at]);
    }
    return to;
}

void round_to(const std::vector<float> &from, const cublasLtMatrixLayout &l, void *to) {
    for (size_t i = 0; i < from.size(); i++) {
        size_t rows = (size_t)l.rows, at = i / rows * (size_t)l.ld + i % rows;
        if (l.type == CUDA_R_32F) static_cast<float *>(to)[at] = from[i];
        if (l.type == CUDA_R_16F) static_cast<fp16 *>(to)[at] = fp16_from_float(from[i]);
        if (l.type == CUDA_R_16BF) static_cast<bf16 *>(to)[at] = bf16_from_float(from[i]);
    }
}

/* ---- what there is ---- */

bool has_bias(cublasLtEpilogue_t epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_RELU_BIAS;
}

bool has_gradient(cublasLtEpilogue_t epilogue) {
    return epilogue == CUBLASLT_EPILOGUE_BGRADA || epilogue == CUBLASLT_EPILOGUE_BGRADB;
}

cudaDataType_t bias_type(const product &p) {
    return p.what.bias_type < 0 ? p.d.type : static_cast<cudaDataType_t>(p.what.bias_type);
}

/* Shapes that fit. */
cublasStatus_t check_shapes(const product &p) {
    bool ta = p.what.a == CUBLAS_OP_T, tb = p.what.b == CUBLAS_OP_T;
    int64_t m = ta ? p.a.cols : p.a.rows, k = ta ? p.a.rows : p.a.cols;
    int64_t n = tb ? p.b.rows : p.b.cols, kb = tb ? p.b.cols : p.b.rows;
    const cublasLtMatrixLayout *layouts[] = {&p.a, &p.b, &p.c, &p.d};
    for (const cublasLtMatrixLayout *l : layouts) {
        if (l->rows < 1 || l->cols < 1) return wrong("a matrix of nothing");
        if (l->ld < l->rows) return wrong("a leading dimension that is less than the rows");
        if (l->rows > INT32_MAX || l->cols > INT32_MAX) return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (k != kb) return wrong("A and B do not fit");
    if (m != p.d.rows || n != p.d.cols) return wrong("A, B and D do not fit");
    if (p.c.rows != p.d.rows || p.c.cols != p.d.cols) return wrong("C and D do not fit");
    return CUBLAS_STATUS_SUCCESS;
}

/* On Hopper: op(A) is transposed, op(B) not; columns of 16 bytes. */
bool is_fp8_supported(const product &p) {
    bool is_tn = p.what.a == CUBLAS_OP_T && p.what.b == CUBLAS_OP_N;
    bool is_wide = p.a.rows % FP8_MULTIPLE == 0 && p.d.rows % FP8_MULTIPLE == 0;
    const cublasLtMatrixLayout *layouts[] = {&p.a, &p.b, &p.c, &p.d};
    for (const cublasLtMatrixLayout *l : layouts) {
        if (l->ld * (int64_t)size_of(l->type) % FP8_MULTIPLE) is_wide = false;
    }
    cudaDataType_t bias = p.d.type == CUDA_R_32F ? CUDA_R_16BF : p.d.type;
    return is_tn && is_wide && p.what.compute == CUBLAS_COMPUTE_32F && p.d.type != CUDA_R_8F_E4M3 &&
           !has_gradient(p.what.epilogue) && (!has_bias(p.what.epilogue) || bias_type(p) == bias);
}

bool are_types_supported(const product &p) {
    cudaDataType_t in = p.a.type, out = p.d.type;
    if (p.b.type != in || p.c.type != out || p.what.scale != CUDA_R_32F) return false;
    if (p.what.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && in != CUDA_R_32F) return false;
    if (in == CUDA_R_8F_E4M3) return is_fp8_supported(p);
    return (out == in || out == CUDA_R_32F) && bias_type(p) == out;
}

bool is_new_enough(const product &p) {
    cudaDeviceProp gpu;
    cudaGetDeviceProperties(&gpu, 0);
    int capability = gpu.major * 10 + gpu.minor;
    bool is_tf32 = p.what.compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    if (p.a.type == CUDA_R_8F_E4M3) return capability >= 89;
    return capability >= 80 || (p.a.type != CUDA_R_16BF && !is_tf32);
}

bool is_epilogue_supported(const product &p) {
    const char *none = getenv("VAECF_HOST_NO_EPILOGUE");
    if (p.what.epilogue == CUBLASLT_EPILOGUE_DEFAULT) return true;
    if (none && (strcmp(none, "gradient") != 0 || has_gradient(p.what.epilogue))) return false;
    if (p.what.epilogue == CUBLASLT_EPILOGUE_BGRADA) return p.what.a == CUBLAS_OP_N;
    if (p.what.epilogue == CUBLASLT_EPILOGUE_BGRADB) return p.what.b == CUBLAS_OP_T;
    return has_bias(p.what.epilogue);
}

cublasStatus_t check(const product &p) {
    cublasStatus_t status = check_shapes(p);
    if (status) return status;
    if ((p.what.a_scale || p.what.b_scale) && p.a.type != CUDA_R_8F_E4M3) {
        return wrong("a scale of numbers that have none");
    }
    return are_types_supported(p) && is_new_enough(p) && is_epilogue_supported(p)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}

/* What an algorithm is chosen for, but for the alignments. */
uint64_t product_id(const product &p) {
    int64_t all[] = {p.what.compute, p.what.a, p.what.b, p.what.epilogue, p.a.type, p.d.type, p.a.rows,
                     p.a.cols,       p.b.rows, p.b.cols, p.d.ld,          p.a.ld,   p.b.ld,   p.c.ld};
    uint64_t id = 14695981039346656037u;
    for (int64_t x : all) id = (id ^ (uint64_t)x) * 1099511628211u;
    return id;
}

bool is_aligned(const algorithm &of, const product &p, const uint32_t align[4]) {
    const cublasLtMatrixLayout *layouts[] = {&p.a, &p.b, &p.c, &p.d};
    for (int i = 0; i < 4; i++) {
        if (align[i] % of.align || (size_t)layouts[i]->ld * size_of(layouts[i]->type) % of.align)
            return false;
    }
    return true;
}

int most_proposals(void) {
    const char *text = getenv("VAECF_HOST_ALGORITHMS");
    return text ? atoi(text) : 16;
}

/* Is it this rank's turn to fail? */
bool does_fail(void) {
    static int calls;
    const char *text = getenv("VAECF_HOST_MATMUL_FAIL");
    int rank = 0, at;
    calls++;
    if (!text || sscanf(text, "%d:%d", &rank, &at) != 2 || at != calls) return false;
    for (const char *name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
        if (getenv(name)) return atoi(getenv(name)) == rank;
    }
    return rank == 0;
}

/* The gradient of a bias: the sums over k of op(A)'s rows, or of op(B)'s columns. */
std::vector<float> sums_over_k(const product &p, const std::vector<float> &a, const std::vector<float> &b) {
    const std::vector<float> &from = p.what.epilogue == CUBLASLT_EPILOGUE_BGRADA ? a : b;
    const cublasLtMatrixLayout &l = p.what.epilogue == CUBLASLT_EPILOGUE_BGRADA ? p.a : p.b;
    std::vector<float> sums((size_t)l.rows); /* A as it is, B transposed: so over the columns */
    for (size_t i = 0; i < from.size(); i++) sums[i % sums.size()] += from[i];
    return sums;
}

void multiply(const product &p, float alpha, const void *a, const void *b, float beta, void *d) {
    std::vector<float> x = widened(a, p.a), y = widened(b, p.b), to((size_t)(p.d.rows * p.d.cols));
    int64_t k = p.what.a == CUBLAS_OP_T ? p.a.rows : p.a.cols;
    if (p.what.compute == CUBLAS_COMPUTE_32F_FAST_TF32) {
        for (float &v : x) v = tf32_round(v);
        for (float &v : y) v = tf32_round(v);
    }
    if (p.what.a_scale) alpha *= *p.what.a_scale;
    if (p.what.b_scale) alpha *= *p.what.b_scale;
    if (beta != 0) to = widened(d, p.d);
    if (alpha != 1) {
        for (float &v : x) v *= alpha;
    }
    /* row-major: the transpose of all that */
    gemm(p.what.b == CUBLAS_OP_T, p.what.a == CUBLAS_OP_T, p.d.cols, p.d.rows, k, y.data(), x.data(), beta,
         to.data());
    cublasLtMatrixLayout vector = {bias_type(p), p.d.rows, 1, p.d.rows};
    if (has_bias(p.what.epilogue)) {
        std::vector<float> bias = widened(p.what.bias, vector);
        for (size_t i = 0; i < to.size(); i++) to[i] += bias[i % bias.size()];
    }
    for (float &v : to) {
        if (p.what.epilogue == CUBLASLT_EPILOGUE_RELU_BIAS && v < 0) v = 0;
    }
    if (has_gradient(p.what.epilogue)) {
        std::vector<float> sums = sums_over_k(p, x, y);
        vector.rows = vector.ld = (int64_t)sums.size();
        round_to(sums, vector, const_cast<void *>(p.what.bias));
    }
    round_to(to, p.d, d);
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
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return "success";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "the resource allocation failed";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "the GPU program failed to execute";
    default:
        return "the functionality requested is not supported";
    }
}

/* ---- descriptions ---- */

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute,
                                        cudaDataType_t scale) {
    *desc = new cublasLtMatmulDesc{compute, scale, CUBLAS_OP_N, CUBLAS_OP_N, CUBLASLT_EPILOGUE_DEFAULT,
                                   nullptr, -1,    nullptr,     nullptr,     0};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t name,
                                              const void *value, size_t size) {
    const struct {
        cublasLtMatmulDescAttributes_t name;
        void *at;
        size_t size;
    } attributes[] = {
        {CUBLASLT_MATMUL_DESC_TRANSA, &desc->a, sizeof desc->a},
        {CUBLASLT_MATMUL_DESC_TRANSB, &desc->b, sizeof desc->b},
        {CUBLASLT_MATMUL_DESC_EPILOGUE, &desc->epilogue, sizeof desc->epilogue},
        {CUBLASLT_MATMUL_DESC_BIAS_POINTER, &desc->bias, sizeof desc->bias},
        {CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &desc->a_scale, sizeof desc->a_scale},
        {CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &desc->b_scale, sizeof desc->b_scale},
        {CUBLASLT_MATMUL_DESC_FAST_ACCUM, &desc->is_fast, sizeof desc->is_fast},
        {CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &desc->bias_type, sizeof desc->bias_type},
    };
    for (const auto &attribute : attributes) {
        if (attribute.name != name) continue;
        if (size != attribute.size) return wrong("an attribute of another size");
        memcpy(attribute.at, value, size);
        return CUBLAS_STATUS_SUCCESS;
    }
    return wrong("an attribute that is not emulated");
}

/* As with the real one a leading dimension is looked at later. */
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
    *layout = new cublasLtMatrixLayout{type, (int64_t)rows, (int64_t)cols, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new cublasLtMatmulPreference{0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t name,
                                                    const void *value, size_t size) {
    int which = name - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES;
    if (name == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES) {
        if (size != sizeof(uint64_t)) return wrong("a preference of another size");
        memcpy(&preference->workspace, value, size);
        return CUBLAS_STATUS_SUCCESS;
    }
    if (which < 0 || which > 3) return wrong("a preference that is not emulated");
    if (size != sizeof(uint32_t)) return wrong("a preference of another size");
    memcpy(&preference->align[which], value, size);
    uint32_t align = preference->align[which];
    return align && (align & (align - 1)) == 0 ? CUBLAS_STATUS_SUCCESS
                                               : wrong("an alignment of no power of 2");
}

/* ---- algorithms ---- */

/* An algorithm remembers what it was chosen for. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t result[], int *found) {
    const product p = {*desc, *a, *b, *c, *d};
    const uint32_t *align = preference->align;
    *found = 0;
    if (wanted < 1) return wrong("no algorithm is wanted");
    cublasStatus_t status = check(p);
    if (status) return status;
    const cublasLtMatrixLayout *layouts[] = {&p.a, &p.b, &p.c, &p.d};
    for (int i = 0; i < 4; i++) {
        bool is_fp8 = p.a.type == CUDA_R_8F_E4M3;
        if (align[i] % (is_fp8 ? FP8_MULTIPLE : size_of(layouts[i]->type)))
            return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    for (int i = 0; i < N_ALGORITHMS && *found < wanted && *found < most_proposals(); i++) {
        if (algorithms[i].workspace > preference->workspace || !is_aligned(algorithms[i], p, align)) continue;
        cublasLtMatmulHeuristicResult_t *r = &result[(*found)++];
        *r = {};
        r->state = algorithms[i].state;
        r->workspaceSize = algorithms[i].workspace;
        for (int m = 0; m < 4; m++) r->algo.data[ALIGN] |= (uint64_t)align[m] << 16 * m;
        r->algo.data[BIAS_ALIGN] = alignment(desc->bias);
        r->algo.data[PRODUCT] = product_id(p);
        r->algo.data[NUMBER] = (uint64_t)i;
    }
    return *found ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                       cublasLtMatrixLayout_t d, const cublasLtMatmulAlgo_t *algo,
                                       cublasLtMatmulHeuristicResult_t *result) {
    const product p = {*desc, *a, *b, *c, *d};
    cublasStatus_t status = check(p);
    *result = {};
    if (status) return status;
    if (algo->data[NUMBER] >= N_ALGORITHMS || algo->data[PRODUCT] != product_id(p)) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const algorithm &it = algorithms[algo->data[NUMBER]];
    result->algo = *algo;
    result->workspaceSize = it.workspace;
    result->state = it.state;
    return it.does_run ? it.state : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo,
                              void *workspace, size_t workspace_size, cudaStream_t stream) {
    const product p = {*desc, *a_layout, *b_layout, *c_layout, *d_layout};
    float add = *static_cast<const float *>(beta), times = *static_cast<const float *>(alpha);
    const void *of[4] = {a, b, c, d};
    if (does_fail()) return CUBLAS_STATUS_EXECUTION_FAILED;
    cublasStatus_t status = check(p);
    if (status) return status;
    if (algo->data[NUMBER] >= N_ALGORITHMS) return wrong("it has no such algorithm");
    const algorithm &it = algorithms[algo->data[NUMBER]];
    if (it.state || !it.does_run) return CUBLAS_STATUS_NOT_SUPPORTED;
    if (algo->data[PRODUCT] != product_id(p)) return wrong("the algorithm was chosen for another product");
    if (workspace_size < it.workspace || (it.workspace && !workspace)) return wrong("too small a workspace");
    if ((uintptr_t)workspace % WORKSPACE_ALIGN) return wrong("a workspace that is not aligned");
    for (int i = 0; i < 4; i++) {
        if (!of[i]) return wrong("a matrix that is NULL");
        if ((uintptr_t)of[i] % (algo->data[ALIGN] >> 16 * i & 0xffff)) {
            return wrong("a matrix that is less aligned than was said");
        }
    }
    if (c != d || c_layout->ld != d_layout->ld) return wrong("C is not D: not emulated");
    if (d == a || d == b) return wrong("D is A or B");
    if (p.what.epilogue != CUBLASLT_EPILOGUE_DEFAULT) {
        if (!p.what.bias) return wrong("a bias that is NULL");
        if (alignment(p.what.bias) < algo->data[BIAS_ALIGN]) {
            return wrong("a bias that is less aligned than the one that the algorithm was chosen for");
        }
    }
    cuda_host_put(stream, [=, bytes = it.workspace] {
        if (bytes) memset(workspace, 0xff, bytes);
        multiply(p, times, a, b, add, d);
        return true;
    });
    return CUBLAS_STATUS_SUCCESS;
}
