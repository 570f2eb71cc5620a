/* See matmul.h. cuBLASLt is column-major: it is asked for c^T = op(b)^T op(a)^T. */
#include "matmul.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "choices.h"
#include "environment.h"
#include "error.h"
#include "trace.h"

enum {
    PLANS = 256,
    WORKSPACE = 32 << 20, /* bytes */
    ALIGNMENT_MAX = 256,
    CANDIDATES = 16,
    REPEATS = 5 /* of each candidate that is timed */
};

/* All that a plan depends on. */
struct key {
    struct product product; /* without its pointers */
    uint32_t align_a, align_b, align_c, align_bias;
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
    char gpu[64];
    struct choices *choices; /* NULL: nothing is timed */
    cudaEvent_t begin, end;
};

/* Where a product's matrices are, for timing it. */
struct operands {
    const void *a, *b;
    void *c;
    cudaStream_t stream;
};

static int fault(const char *what, cublasStatus_t status) {
    return error_set(EX_OSERR, "cuBLASLt: cannot %s: %s", what, cublasLtGetStatusString(status));
}

static int open_choices(struct matmul *matmul) {
    const char *path = environment("VAECF_GEMM_CACHE");
    if (!path) return 0;
    int code = choices_open(path, &matmul->choices);
    if (code) return code;
    if (cudaEventCreateWithFlags(&matmul->begin, cudaEventDefault) ||
        cudaEventCreateWithFlags(&matmul->end, cudaEventDefault)) {
        return error_set(EX_OSERR, "GPU: cannot time products");
    }
    return 0;
}

int matmul_create(const char *gpu, struct matmul **matmul) {
    *matmul = calloc(1, sizeof **matmul);
    if (!*matmul) return error_memory("cuBLASLt", sizeof **matmul);
    snprintf((*matmul)->gpu, sizeof(*matmul)->gpu, "%s", gpu);
    cublasStatus_t status = cublasLtCreate(&(*matmul)->handle);
    if (!status && cudaMalloc(&(*matmul)->workspace, WORKSPACE)) status = CUBLAS_STATUS_ALLOC_FAILED;
    int code = status ? fault("start", status) : open_choices(*matmul);
    if (!code) return 0;
    matmul_destroy(*matmul);
    *matmul = NULL;
    return code;
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
    if (matmul->begin) cudaEventDestroy(matmul->begin);
    if (matmul->end) cudaEventDestroy(matmul->end);
    choices_close(matmul->choices);
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
           p->is_fast == q->is_fast && p->n == q->n && p->k == q->k && p->accumulate == q->accumulate &&
           p->epilogue == q->epilogue && x->align_a == y->align_a && x->align_b == y->align_b &&
           x->align_c == y->align_c && x->align_bias == y->align_bias;
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
        [NUMBER_FP32] = CUDA_R_32F,
        [NUMBER_BF16] = CUDA_R_16BF,
        [NUMBER_FP16] = CUDA_R_16F,
#if CUDART_VERSION >= 11080
        [NUMBER_FP8] = CUDA_R_8F_E4M3,
#endif
    };
    static const cublasLtEpilogue_t epilogues[] = {[EPILOGUE_NONE] = CUBLASLT_EPILOGUE_DEFAULT,
                                                   [EPILOGUE_BIAS] = CUBLASLT_EPILOGUE_BIAS,
                                                   [EPILOGUE_BIAS_RELU] = CUBLASLT_EPILOGUE_RELU_BIAS,
                                                   [EPILOGUE_SUM_A] = CUBLASLT_EPILOGUE_BGRADB,
                                                   [EPILOGUE_SUM_B] = CUBLASLT_EPILOGUE_BGRADA};
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

/* The scales of fp8; and how it is summed. */
static cublasStatus_t set_scales(struct plan *plan, const struct product *product) {
    cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
#if CUDART_VERSION >= 11080
    const void *first = product->scale_b, *second = product->scale_a;
    int8_t is_fast = (int8_t)product->is_fast;
    if (product->type != NUMBER_FP8) return status;
    status = cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &first,
                                            sizeof first);
    if (!status) {
        status = cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &second,
                                                sizeof second);
    }
    if (!status) {
        status = cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &is_fast,
                                                sizeof is_fast);
    }
#else
    (void)plan, (void)product;
#endif
    return status;
}

/* What may differ from one use of the plan to the next. */
static cublasStatus_t set_pointers(struct plan *plan, const struct product *product) {
    cublasStatus_t status = set_scales(plan, product);
    if (status || product->epilogue == EPILOGUE_NONE) return status;
    return cublasLtMatmulDescSetAttribute(plan->what, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product->bias,
                                          sizeof product->bias);
}

/* ---- which algorithm ---- */

static cublasStatus_t start(const struct matmul *matmul, const struct plan *plan,
                            const cublasLtMatmulAlgo_t *algorithm, const struct operands *at) {
    const float one = 1, beta = plan->key.product.accumulate ? 1 : 0;
    return cublasLtMatmul(matmul->handle, plan->what, &one, at->b, plan->b, at->a, plan->a, &beta, at->c,
                          plan->c, at->c, plan->c, algorithm, matmul->workspace, WORKSPACE, at->stream);
}

/* What cuBLASLt proposes, the fastest by its own estimate first; returns their number in `found`. */
static cublasStatus_t propose(const struct matmul *matmul, const struct plan *plan, int wanted,
                              cublasLtMatmulHeuristicResult_t *result, int *found) {
    const size_t workspace = WORKSPACE;
    cublasLtMatmulPreference_t preference = NULL;
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
                                                plan->c, preference, wanted, result, found);
    }
    if (preference) cublasLtMatmulPreferenceDestroy(preference);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) *found = 0;
    return status == CUBLAS_STATUS_NOT_SUPPORTED ? CUBLAS_STATUS_SUCCESS : status;
}

/* Milliseconds of one product by the algorithm; negative: it cannot do it. */
static float time_of(const struct matmul *matmul, const struct plan *plan,
                     const cublasLtMatmulAlgo_t *algorithm, const struct operands *at) {
    float milliseconds = -1;
    if (start(matmul, plan, algorithm, at)) return -1; /* to warm up */
    cudaEventRecord(matmul->begin, at->stream);
    for (int i = 0; i < REPEATS; i++) start(matmul, plan, algorithm, at);
    cudaEventRecord(matmul->end, at->stream);
    if (cudaEventSynchronize(matmul->end)) return -1;
    if (cudaEventElapsedTime(&milliseconds, matmul->begin, matmul->end)) return -1;
    return milliseconds / REPEATS;
}

static void key_text(const struct matmul *matmul, const struct key *key, char text[CHOICE_KEY_MAX]) {
    const struct product *p = &key->product;
    snprintf(text, CHOICE_KEY_MAX, "%s,%zu,%d %d %d,%d %d,%lld %lld %lld,%d,%u %u %u %u", matmul->gpu,
             cublasLtGetVersion(), (int)p->type, (int)p->result, p->use_tf32 + 2 * p->is_fast, p->transpose_a,
             p->transpose_b, (long long)p->m, (long long)p->n, (long long)p->k, (int)p->epilogue,
             key->align_a, key->align_b, key->align_c, key->align_bias);
}

/* The algorithm that an earlier run chose, if it is still one. */
static int is_chosen_before(const struct matmul *matmul, struct plan *plan, const char *key) {
    const struct choice *choice = choices_find(matmul->choices, key);
    cublasLtMatmulHeuristicResult_t result;
    if (!choice) return 0;
    memcpy(&plan->algorithm, choice->word, sizeof plan->algorithm);
    return cublasLtMatmulAlgoCheck(matmul->handle, plan->what, plan->b, plan->a, plan->c, plan->c,
                                   &plan->algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE;
}

/* The algorithm of a plan: one that was chosen before, or the fastest of those that are timed, or the first
 * that cuBLASLt proposes. What adds to c is not timed: that would change c. */
static int choose(struct matmul *matmul, struct plan *plan, const struct operands *at) {
    cublasLtMatmulHeuristicResult_t result[CANDIDATES];
    struct choice choice = {0};
    int found = 0, best = 0, is_timed = matmul->choices && !plan->key.product.accumulate;
    _Static_assert(sizeof choice.word == sizeof plan->algorithm, "an algorithm fits into a choice");
    key_text(matmul, &plan->key, choice.key);
    if (is_timed && is_chosen_before(matmul, plan, choice.key)) return 0;
    cublasStatus_t status = propose(matmul, plan, is_timed ? CANDIDATES : 1, result, &found);
    if (status) return fault("plan a product", status);
    int usable = 0;
    for (int i = 0; i < found; i++) {
        if (!result[i].state) result[usable++] = result[i];
    }
    plan->is_missing = usable == 0;
    if (plan->is_missing) return 0;
    float least = -1;
    for (int i = 0; i < usable && is_timed && usable > 1; i++) {
        float time = time_of(matmul, plan, &result[i].algo, at);
        if (time < 0 || (least >= 0 && time >= least)) continue;
        least = time;
        best = i;
    }
    plan->algorithm = result[best].algo;
    if (!is_timed) return 0;
    memcpy(choice.word, &plan->algorithm, sizeof choice.word);
    int code = choices_add(matmul->choices, &choice); /* it may become another rank's */
    memcpy(&plan->algorithm, choice.word, sizeof choice.word);
    return code;
}

/* The plan of a product; a new one is made for these operands. */
static int find_plan(struct matmul *matmul, const struct key *key, const struct product *product,
                     const struct operands *at, struct plan **found) {
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
    if (!status) status = set_pointers(*found, product);
    int code = status ? fault("plan a product", status) : choose(matmul, *found, at);
    if (code) (*found)->key = (struct key){0}; /* of no product */
    return code;
}

int matmul_run(struct matmul *matmul, cudaStream_t stream, const struct product *product, const void *a,
               const void *b, void *c) {
    struct key key = {*product, alignment(a), alignment(b), alignment(c), alignment(product->bias)};
    const struct operands at = {a, b, c, stream};
    struct plan *plan;
    key.product.bias = key.product.scale_a = key.product.scale_b = NULL;
    if (product->epilogue == EPILOGUE_NONE) key.align_bias = 0;
    int code = find_plan(matmul, &key, product, &at, &plan);
    if (code) return code;
    if (plan->is_missing) {
        int is_optional = product->epilogue != EPILOGUE_NONE || product->type == NUMBER_FP8;
        return error_set(is_optional ? EX_UNAVAILABLE : EX_OSERR,
                         "cuBLASLt has no product of %lld x %lld x %lld", (long long)product->m,
                         (long long)product->n, (long long)product->k);
    }
    cublasStatus_t status = set_pointers(plan, product);
    TRACE_BEFORE(stream, "product %lld x %lld x %lld", (long long)product->m, (long long)product->n,
                 (long long)product->k);
    if (!status) status = start(matmul, plan, &plan->algorithm, &at);
    TRACE_AFTER(stream);
    return status ? fault("multiply", status) : 0;
}
