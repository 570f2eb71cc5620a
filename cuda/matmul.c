/* See matmul.h. cuBLASLt is column-major: it is asked for c^T = op(b)^T op(a)^T. */
#include "matmul.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>

#include "error.h"

enum { PLANS = 64, WORKSPACE = 32 << 20 /* bytes */, ALIGNMENT_MAX = 256 };

/* All that a plan depends on. */
struct key {
    struct product product; /* without the bias */
    uint32_t align_a, align_b, align_c;
};

struct plan {
    struct key key;
    cublasLtMatmulDesc_t what;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    int is_missing; /* there is no such algorithm */
};

struct matmul {
    cublasLtHandle_t handle;
    void *workspace;
    struct plan plan[PLANS];
    int n_plans, next; /* the one that is forgotten next */
};

static int fault(const char *what, cublasStatus_t status) {
    return error_set(EX_OSERR, "cuBLASLt: cannot %s: %s", what, cublasLtGetStatusString(status));
}

int matmul_create(struct matmul **matmul) {
    *matmul = calloc(1, sizeof **matmul);
    if (!*matmul) return error_memory("cuBLASLt", sizeof **matmul);
    cublasStatus_t status = cublasLtCreate(&(*matmul)->handle);
    if (!status && cudaMalloc(&(*matmul)->workspace, WORKSPACE)) status = CUBLAS_STATUS_ALLOC_FAILED;
    if (!status) return 0;
    matmul_destroy(*matmul);
    *matmul = NULL;
    return fault("start", status);
}

static void forget(struct plan *p) {
    if (p->what) cublasLtMatmulDescDestroy(p->what);
    if (p->a) cublasLtMatrixLayoutDestroy(p->a);
    if (p->b) cublasLtMatrixLayoutDestroy(p->b);
    if (p->c) cublasLtMatrixLayoutDestroy(p->c);
    *p = (struct plan){0};
}

void matmul_destroy(struct matmul *matmul) {
    if (!matmul) return;
    for (int i = 0; i < matmul->n_plans; i++) forget(&matmul->plan[i]);
    if (matmul->workspace) cudaFree(matmul->workspace);
    if (matmul->handle) cublasLtDestroy(matmul->handle);
    free(matmul);
}

void matmul_describe(char *text, int size) {
    size_t v = cublasLtGetVersion(); /* 130002: 13.0.2 */
    snprintf(text, (size_t)size, "cuBLASLt %zu.%zu.%zu", v / 10000, v / 100 % 100, v % 100);
}

static int is_same(const struct key *x, const struct key *y) {
    const struct product *p = &x->product, *q = &y->product;
    return p->type == q->type && p->result == q->result && p->use_tf32 == q->use_tf32 &&
           p->transpose_a == q->transpose_a && p->transpose_b == q->transpose_b && p->m == q->m &&
           p->n == q->n && p->k == q->k && p->accumulate == q->accumulate && p->epilogue == q->epilogue &&
           x->align_a == y->align_a && x->align_b == y->align_b && x->align_c == y->align_c;
}

static uint32_t alignment(const void *p) {
    uintptr_t address = (uintptr_t)p, lowest = address & (~address + 1);
    return lowest == 0 || lowest > ALIGNMENT_MAX ? ALIGNMENT_MAX : (uint32_t)lowest;
}

/* A stored matrix of so many rows and columns: for cuBLASLt its transpose. */
static cublasStatus_t lay_out(cublasLtMatrixLayout_t *layout, cudaDataType_t type, int64_t rows,
                              int64_t cols) {
    return cublasLtMatrixLayoutCreate(layout, type, (uint64_t)cols, (uint64_t)rows, cols);
}

static cublasStatus_t describe(struct plan *plan) {
    const struct product *p = &plan->key.product;
    static const cudaDataType_t types[] = {
        [NUMBER_FP32] = CUDA_R_32F, [NUMBER_BF16] = CUDA_R_16BF, [NUMBER_FP16] = CUDA_R_16F};
    static const cublasLtEpilogue_t epilogues[] = {[EPILOGUE_NONE] = CUBLASLT_EPILOGUE_DEFAULT,
                                                   [EPILOGUE_BIAS] = CUBLASLT_EPILOGUE_BIAS,
                                                   [EPILOGUE_BIAS_RELU] = CUBLASLT_EPILOGUE_RELU_BIAS};
    cublasComputeType_t compute = p->use_tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    cublasOperation_t first = p->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
                      second = p->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasLtEpilogue_t epilogue = epilogues[p->epilogue];
    cudaDataType_t type = types[p->type];
    cublasStatus_t status = cublasLtMatmulDescCreate(&plan->what, compute, CUDA_R_32F);
    if (!status) {
        status =
            cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first);
    }
    if (!status) {
        status =
            cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second);
    }
    if (!status) {
        status = cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue,
                                                sizeof epilogue);
    }
    if (!status) status = lay_out(&plan->a, type, p->transpose_a ? p->k : p->m, p->transpose_a ? p->m : p->k);
    if (!status) status = lay_out(&plan->b, type, p->transpose_b ? p->n : p->k, p->transpose_b ? p->k : p->n);
    if (!status) status = lay_out(&plan->c, types[p->result], p->m, p->n);
    return status;
}

/* The fastest algorithm by cuBLASLt's own estimate. */
static cublasStatus_t choose(const struct matmul *matmul, struct plan *plan) {
    const size_t workspace = WORKSPACE;
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    cublasStatus_t status = cublasLtMatmulPreferenceCreate(&preference);
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t size;
    } wishes[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &plan->key.align_b, sizeof plan->key.align_b},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &plan->key.align_a, sizeof plan->key.align_a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &plan->key.align_c, sizeof plan->key.align_c},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &plan->key.align_c, sizeof plan->key.align_c},
    };
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes && !status; i++) {
        status =
            cublasLtMatmulPreferenceSetAttribute(preference, wishes[i].name, wishes[i].value, wishes[i].size);
    }
    if (!status) {
        status = cublasLtMatmulAlgoGetHeuristic(matmul->handle, plan->what, plan->b, plan->a, plan->c,
                                                plan->c, preference, 1, &result, &found);
    }
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    plan->is_missing = status == CUBLAS_STATUS_NOT_SUPPORTED || (!status && (!found || result.state));
    if (plan->is_missing) return CUBLAS_STATUS_SUCCESS;
    if (!status) plan->algorithm = result.algo;
    return status;
}

static int find_plan(struct matmul *matmul, const struct key *key, struct plan **found) {
    for (int i = 0; i < matmul->n_plans; i++) {
        *found = &matmul->plan[i];
        if (is_same(&(*found)->key, key)) return 0;
    }
    if (matmul->n_plans < PLANS) {
        *found = &matmul->plan[matmul->n_plans++];
    } else {
        *found = &matmul->plan[matmul->next];
        matmul->next = (matmul->next + 1) % PLANS;
        forget(*found);
    }
    (*found)->key = *key;
    cublasStatus_t status = describe(*found);
    if (!status) status = choose(matmul, *found);
    if (!status) return 0;
    (*found)->key = (struct key){0}; /* of no product */
    return fault("plan a product", status);
}

int matmul_run(struct matmul *matmul, cudaStream_t stream, const struct product *product, const void *a,
               const void *b, void *c) {
    struct key key = {*product, alignment(a), alignment(b), alignment(c)};
    const float one = 1, beta = product->accumulate ? 1 : 0;
    struct plan *plan;
    key.product.bias = NULL;
    int code = find_plan(matmul, &key, &plan);
    if (code) return code;
    if (plan->is_missing) {
        return error_set(product->epilogue == EPILOGUE_NONE ? EX_OSERR : EX_UNAVAILABLE,
                         "cuBLASLt has no product of %lld x %lld x %lld", (long long)product->m,
                         (long long)product->n, (long long)product->k);
    }
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
    if (product->epilogue != EPILOGUE_NONE) {
        status = cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product->bias,
                                                sizeof product->bias);
    }
    if (!status) {
        status = cublasLtMatmul(matmul->handle, plan->what, &one, b, plan->b, a, plan->a, &beta, c, plan->c,
                                c, plan->c, &plan->algorithm, matmul->workspace, WORKSPACE, stream);
    }
    return status ? fault("multiply", status) : 0;
}
