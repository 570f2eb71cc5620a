/* The stand-ins for cuBLASLt and NCCL refuse what the real ones do: one case a refusal. Runs on the host
 * emulation, in tests/cuda_host_test.sh. With "mpi", under mpirun: what takes MPI. */
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <functional>
#include <math.h>
#include <mpi.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

extern "C" {
#include <cmocka.h>
}

#include "cublasLt.h"
#include "cuda_runtime_api.h"
#include "nccl.h"

namespace {

cudaStream_t stream;

/* Device memory with a copy of what is given. */
void *on_device(const void *from, size_t bytes) {
    void *p = nullptr;
    if (cudaMalloc(&p, bytes + 512)) abort();
    cudaMemsetAsync(p, 0, bytes + 512, stream);
    if (from) cudaMemcpyAsync(p, from, bytes, cudaMemcpyHostToDevice, stream);
    return p;
}

/* Waits for the stream. */
void wait_for_stream() {
    cudaEvent_t event;
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaEventRecord(event, stream);
    cudaEventSynchronize(event);
    cudaEventDestroy(event);
}

std::vector<float> to_host(const void *from, size_t n) {
    std::vector<float> to(n);
    cudaMemcpyAsync(to.data(), from, n * sizeof(float), cudaMemcpyDeviceToHost, stream);
    wait_for_stream();
    return to;
}

/* ---- cuBLASLt ---- */

/* A product D = op(A) op(B) of zeros, and how it is asked for. */
struct question {
    cudaDataType_t in = CUDA_R_32F, out = CUDA_R_32F, in_b = CUDA_R_32F, scale = CUDA_R_32F;
    cublasComputeType_t compute = CUBLAS_COMPUTE_32F;
    cublasOperation_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
    int64_t m = 64, n = 32, k = 48, k_b = 0, lda = 0, ldd = 0; /* 0: as the others say */
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    int bias_type = -1;
    bool has_scales = false;
    uint32_t align = 256;        /* that is told */
    size_t off_a = 0, off_d = 0; /* bytes that the matrices lie behind such an address */
    size_t off_bias = 0, off_workspace = 0;
    bool is_null = false, is_in_place = false;
    size_t max_workspace = 1 << 20, workspace = 1 << 20;
    int number = 0; /* of the proposal that is taken */
};

struct answer {
    cublasStatus_t planned, multiplied;
};

/* Big enough for all questions: A, B, D, the bias, the scales, the workspace. */
struct places {
    char *a, *b, *d, *bias, *workspace;
    float *scale;
} places;

cublasStatus_t set(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t name, const void *value,
                   size_t size) {
    return cublasLtMatmulDescSetAttribute(desc, name, value, size);
}

answer ask(const question &q) {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulPreference_t preference;
    cublasLtMatmulHeuristicResult_t result[8];
    answer answer = {CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_SUCCESS};
    int found = 0;
    int64_t k_b = q.k_b ? q.k_b : q.k, rows_a = q.op_a == CUBLAS_OP_T ? q.k : q.m;
    const float one = 1, zero = 0;
    const void *bias = places.bias;
    cublasLtMatmulDescCreate(&desc, q.compute, q.scale);
    set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &q.op_a, sizeof q.op_a);
    set(desc, CUBLASLT_MATMUL_DESC_TRANSB, &q.op_b, sizeof q.op_b);
    set(desc, CUBLASLT_MATMUL_DESC_EPILOGUE, &q.epilogue, sizeof q.epilogue);
    set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
    if (q.bias_type >= 0) {
        set(desc, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &q.bias_type, sizeof q.bias_type);
    }
    if (q.has_scales) {
        set(desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &places.scale, sizeof places.scale);
        set(desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &places.scale, sizeof places.scale);
    }
    cublasLtMatrixLayoutCreate(&a, q.in, (uint64_t)rows_a, (uint64_t)(q.op_a == CUBLAS_OP_T ? q.m : q.k),
                               q.lda ? q.lda : rows_a);
    if (q.op_b == CUBLAS_OP_T) {
        cublasLtMatrixLayoutCreate(&b, q.in_b, (uint64_t)q.n, (uint64_t)k_b, q.n);
    } else {
        cublasLtMatrixLayoutCreate(&b, q.in_b, (uint64_t)k_b, (uint64_t)q.n, k_b);
    }
    cublasLtMatrixLayoutCreate(&d, q.out, (uint64_t)q.m, (uint64_t)q.n, q.ldd ? q.ldd : q.m);
    cublasLtMatmulPreferenceCreate(&preference);
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &q.max_workspace, sizeof q.max_workspace);
    for (int i = 0; i < 4; i++) {
        auto name = (cublasLtMatmulPreferenceAttributes_t)(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES + i);
        cublasLtMatmulPreferenceSetAttribute(preference, name, &q.align, sizeof q.align);
    }
    answer.planned = cublasLtMatmulAlgoGetHeuristic(nullptr, desc, a, b, d, d, preference, 8, result, &found);
    if (answer.planned) assert_int_equal(found, 0);
    if (!answer.planned) {
        assert_true(q.number < found);
        bias = places.bias + q.off_bias;
        set(desc, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias);
        char *to = q.is_in_place ? places.a : places.d + q.off_d;
        answer.multiplied = cublasLtMatmul(nullptr, desc, &one, q.is_null ? nullptr : places.a + q.off_a, a,
                                           places.b, b, &zero, to, d, to, d, &result[q.number].algo,
                                           places.workspace + q.off_workspace, q.workspace, stream);
    }
    cublasLtMatmulPreferenceDestroy(preference);
    cublasLtMatrixLayoutDestroy(a);
    cublasLtMatrixLayoutDestroy(b);
    cublasLtMatrixLayoutDestroy(d);
    cublasLtMatmulDescDestroy(desc);
    wait_for_stream();
    return answer;
}

question fp8() {
    question q;
    q.in = q.in_b = CUDA_R_8F_E4M3;
    q.out = CUDA_R_16BF;
    q.op_a = CUBLAS_OP_T;
    q.has_scales = true;
    return q;
}

question bf16() {
    question q;
    q.in = q.in_b = q.out = CUDA_R_16BF;
    return q;
}

question bias(question q) {
    q.epilogue = CUBLASLT_EPILOGUE_BIAS;
    return q;
}

question with(question q, const std::function<void(question &)> &change) {
    change(q);
    return q;
}

void test_products(void **) {
    constexpr cublasStatus_t FINE = CUBLAS_STATUS_SUCCESS, NONE = CUBLAS_STATUS_NOT_SUPPORTED,
                             WRONG = CUBLAS_STATUS_INVALID_VALUE;
    const question plain;
    const struct {
        const char *name;
        question q;
        cublasStatus_t planned, multiplied;
    } cases[] = {
        {"fp32", plain, FINE, FINE},
        {"bf16, a bias", bias(bf16()), FINE, FINE},
        {"bf16 to fp32", with(bf16(), [](question &q) { q.out = CUDA_R_32F; }), FINE, FINE},
        {"fp32 to bf16", with(plain, [](question &q) { q.out = CUDA_R_16BF; }), NONE, FINE},
        {"bf16 times fp16", with(bf16(), [](question &q) { q.in_b = CUDA_R_16F; }), NONE, FINE},
        {"bf16 to fp16", with(bf16(), [](question &q) { q.out = CUDA_R_16F; }), NONE, FINE},
        {"tf32", with(plain, [](question &q) { q.compute = CUBLAS_COMPUTE_32F_FAST_TF32; }), FINE, FINE},
        {"tf32 of bf16", with(bf16(), [](question &q) { q.compute = CUBLAS_COMPUTE_32F_FAST_TF32; }), NONE,
         FINE},
        {"alpha in bf16", with(bf16(), [](question &q) { q.scale = CUDA_R_16BF; }), NONE, FINE},
        {"another k", with(plain, [](question &q) { q.k_b = 49; }), WRONG, FINE},
        {"no rows", with(plain, [](question &q) { q.m = 0; }), WRONG, FINE},
        {"columns with gaps", with(plain, [](question &q) { q.lda = q.ldd = 80; }), FINE, FINE},
        {"overlapping columns", with(plain, [](question &q) { q.lda = 63; }), WRONG, FINE},
        {"2^31 rows", with(plain, [](question &q) { q.m = (int64_t)1 << 31; }), NONE, FINE},
        {"scales of fp32", with(plain, [](question &q) { q.has_scales = true; }), WRONG, FINE},
        {"said to be aligned", with(plain, [](question &q) { q.off_a = 16; }), FINE, WRONG},
        {"D said to be aligned", with(plain, [](question &q) { q.off_d = 16; }), FINE, WRONG},
        {"aligned as said", with(plain, [](question &q) { q.align = q.off_a = q.off_d = 4; }), FINE, FINE},
        {"half a number aside", with(plain, [](question &q) { q.align = 2; }), NONE, FINE},
        {"A is NULL", with(plain, [](question &q) { q.is_null = true; }), FINE, WRONG},
        {"D is A", with(plain, [](question &q) { q.is_in_place = true; }), FINE, WRONG},
        {"an odd workspace", with(plain, [](question &q) { q.off_workspace = 64; }), FINE, WRONG},
        {"an algorithm that fails", with(plain, [](question &q) { q.number = 1; }), FINE, NONE},
        {"an algorithm in a bad state", with(plain, [](question &q) { q.number = 2; }), FINE, NONE},
        {"one that takes workspace", with(plain, [](question &q) { q.number = 3; }), FINE, FINE},
        {"and has too little",
         with(plain,
              [](question &q) {
                  q.number = 3;
                  q.workspace = 1 << 12;
              }),
         FINE, WRONG},
        {"a bias of another type", with(bias(bf16()), [](question &q) { q.bias_type = CUDA_R_32F; }), NONE,
         FINE},
        {"a bias less aligned", with(bias(plain), [](question &q) { q.off_bias = 4; }), FINE, WRONG},
        {"sums of A", with(plain, [](question &q) { q.epilogue = CUBLASLT_EPILOGUE_BGRADA; }), FINE, FINE},
        {"sums of A's columns",
         with(plain,
              [](question &q) {
                  q.epilogue = CUBLASLT_EPILOGUE_BGRADA;
                  q.op_a = CUBLAS_OP_T;
              }),
         NONE, FINE},
        {"fp8", fp8(), FINE, FINE},
        {"fp8, a bias", bias(fp8()), FINE, FINE},
        {"fp8 without scales", with(fp8(), [](question &q) { q.has_scales = false; }), FINE, FINE},
        {"fp8, A not transposed", with(fp8(), [](question &q) { q.op_a = CUBLAS_OP_N; }), NONE, FINE},
        {"fp8, B transposed", with(fp8(), [](question &q) { q.op_b = CUBLAS_OP_T; }), NONE, FINE},
        {"fp8, k = 600", with(fp8(), [](question &q) { q.k = 600; }), NONE, FINE},
        {"fp8, k = 608", with(fp8(), [](question &q) { q.k = 608; }), FINE, FINE},
        {"fp8, m = 40", with(fp8(), [](question &q) { q.m = 40; }), NONE, FINE},
        {"fp8, n = 33", with(fp8(), [](question &q) { q.n = 33; }), FINE, FINE},
        {"fp8 at 8 bytes", with(fp8(), [](question &q) { q.align = 8; }), NONE, FINE},
        {"fp8, sums of B", with(fp8(), [](question &q) { q.epilogue = CUBLASLT_EPILOGUE_BGRADB; }), NONE,
         FINE},
        {"fp8 to fp32, a bias in fp32", with(bias(fp8()), [](question &q) { q.out = CUDA_R_32F; }), NONE,
         FINE},
        {"fp8 to fp32, a bias in bf16",
         with(bias(fp8()),
              [](question &q) {
                  q.out = CUDA_R_32F;
                  q.bias_type = CUDA_R_16BF;
              }),
         FINE, FINE},
    };
    for (const auto &c : cases) {
        answer answer = ask(c.q);
        if (answer.planned != c.planned || answer.multiplied != c.multiplied) {
            fail_msg("%s: planned %d, want %d; multiplied %d, want %d", c.name, answer.planned, c.planned,
                     answer.multiplied, c.multiplied);
        }
    }
}

/* The environment's planted faults. */
void test_planted(void **) {
    question q;
    setenv("VAECF_HOST_NO_EPILOGUE", "gradient", 1);
    assert_int_equal(ask(bias(q)).planned, CUBLAS_STATUS_SUCCESS);
    q.epilogue = CUBLASLT_EPILOGUE_BGRADA;
    assert_int_equal(ask(q).planned, CUBLAS_STATUS_NOT_SUPPORTED);
    setenv("VAECF_HOST_NO_EPILOGUE", "1", 1);
    assert_int_equal(ask(bias(q)).planned, CUBLAS_STATUS_NOT_SUPPORTED);
    unsetenv("VAECF_HOST_NO_EPILOGUE");
    setenv("VAECF_HOST_ALGORITHMS", "0", 1);
    assert_int_equal(ask(question()).planned, CUBLAS_STATUS_NOT_SUPPORTED);
    unsetenv("VAECF_HOST_ALGORITHMS");
    setenv("VAECF_HOST_GPU", "old", 1);
    assert_int_equal(ask(question()).planned, CUBLAS_STATUS_SUCCESS);
    assert_int_equal(ask(bf16()).planned, CUBLAS_STATUS_NOT_SUPPORTED);
    unsetenv("VAECF_HOST_GPU");
}

/* D[1, 1] of A[2, 1]^T and B[2, 1], in the memory of the questions. */
float product_of(const question &q, const void *a, const void *b, size_t bytes) {
    cudaMemcpyAsync(places.a, a, bytes, cudaMemcpyHostToDevice, stream);
    cudaMemcpyAsync(places.b, b, bytes, cudaMemcpyHostToDevice, stream);
    assert_int_equal(ask(q).multiplied, 0);
    return to_host(places.d, 1)[0];
}

void test_numbers(void **) {
    const float a[2] = {1 + 0x1p-11f, 1}, b[2] = {1, 0x1p-12f}, two = 2;
    question q;
    q.op_a = CUBLAS_OP_T;
    q.m = q.n = 1;
    q.k = 2;
    assert_true(product_of(q, a, b, sizeof a) == 1 + 0x1p-11f + 0x1p-12f);
    q.compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    assert_true(product_of(q, a, b, sizeof a) == 1 + 0x1p-10f + 0x1p-12f);
    /* e4m3: 448, the largest; 2^-9, the smallest; -1.5 */
    const unsigned char x[16] = {0x7e, 0x01, 0xbc}, y[16] = {0x38, 0x38, 0x40};
    q = fp8();
    q.out = CUDA_R_32F;
    q.m = q.k = 16;
    q.n = 1;
    cudaMemcpyAsync(places.scale, &two, sizeof two, cudaMemcpyHostToDevice, stream);
    assert_true(product_of(q, x, y, sizeof x) == 4 * (448 + 0x1p-9f - 3));
}

/* ---- NCCL ---- */

/* What the ranks of a case tell each other. */
struct blackboard {
    volatile int step;
    ncclUniqueId id;
} * blackboard;

#define WANT(condition)                                                                                      \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #condition);                                  \
            _exit(1);                                                                                        \
        }                                                                                                    \
    } while (0)

void reach(int step) {
    __sync_synchronize();
    blackboard->step = step;
}

void await(int step) {
    while (blackboard->step < step) sched_yield();
    __sync_synchronize();
}

ncclResult_t settle(ncclComm_t comm, ncclResult_t result) {
    while (result == ncclInProgress) {
        if (ncclCommGetAsyncError(comm, &result)) return ncclInternalError;
        sched_yield();
    }
    return result;
}

ncclResult_t start(int size, int rank, ncclComm_t *comm) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    ncclResult_t result = ncclCommInitRankConfig(comm, size, blackboard->id, rank, &config);
    return result == ncclInProgress ? settle(*comm, result) : result;
}

/* Is it done within so many questions? */
bool is_done(cudaEvent_t event, ncclComm_t comm, int questions = 2000) {
    ncclResult_t result;
    for (int i = 0; i < questions; i++) {
        if (cudaEventQuery(event) == cudaSuccess) return true;
        if (comm) ncclCommGetAsyncError(comm, &result);
        sched_yield();
    }
    return false;
}

cudaEvent_t behind_all() {
    cudaEvent_t event;
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    cudaEventRecord(event, stream);
    return event;
}

/* Runs two ranks, each in a process of its own, as devices are not shared by a fork. Both have to end well
 * within 30 s. */
void ranks(void (*body)(int rank)) {
    pid_t rank[2];
    blackboard->step = 0;
    assert_int_equal(ncclGetUniqueId(&blackboard->id), ncclSuccess);
    for (int r = 0; r < 2; r++) {
        rank[r] = fork();
        if (rank[r] != 0) continue;
        alarm(30);
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        body(r);
        _exit(0);
    }
    int bad = 0, status;
    for (int r = 0; r < 2; r++) {
        if (waitpid(rank[r], &status, 0) != rank[r] || status) bad++;
    }
    assert_int_equal(bad, 0);
}

/* Sums of many numbers, of none, and of what is there only when the stream comes to it. */
void sums(int rank) {
    ncclComm_t comm;
    const size_t n = 150000;
    WANT(start(2, rank, &comm) == ncclSuccess);
    std::vector<float> x(n);
    void *p = on_device(nullptr, n * sizeof(float));
    cudaMemcpyAsync(p, x.data(), n * sizeof(float), cudaMemcpyHostToDevice, stream);
    WANT(settle(comm, ncclAllReduce(p, p, 0, ncclFloat32, ncclSum, comm, stream)) == ncclSuccess);
    WANT(settle(comm, ncclAllReduce(p, p, n, ncclFloat32, ncclSum, comm, stream)) == ncclSuccess);
    for (size_t i = 0; i < n; i++) x[i] = (float)(rank + 1) * (float)i; /* the copy has not been yet */
    std::vector<float> sum = to_host(p, n);
    for (size_t i = 0; i < n; i++) WANT(sum[i] == 3 * (float)i);
    WANT(settle(comm, ncclCommFinalize(comm)) == ncclSuccess);
    WANT(ncclCommDestroy(comm) == ncclSuccess);
    WANT(ncclCommDestroy(comm) == ncclInvalidArgument);
}

/* A sum that differs is told of, and does not end but by aborting. */
void different(int rank) {
    ncclComm_t comm;
    char text[512] = "";
    FILE *told = tmpfile();
    int own = dup(2);
    WANT(start(2, rank, &comm) == ncclSuccess);
    void *p = on_device(nullptr, 4000);
    WANT(settle(comm, ncclAllReduce(p, p, rank ? 456 : 123, ncclFloat32, ncclSum, comm, stream)) == 0);
    cudaEvent_t event = behind_all();
    dup2(fileno(told), 2);
    while (ftell(told) == 0) { /* the other may not have come to it */
        WANT(!is_done(event, comm, 10));
        fseek(told, 0, SEEK_END);
    }
    WANT(!is_done(event, comm));
    WANT(cudaEventQuery(event) == cudaErrorNotReady);
    dup2(own, 2);
    rewind(told);
    WANT(fread(text, 1, sizeof text - 1, told) > 0);
    WANT(strstr(text, rank ? "rank 1's sum 1 has 456 numbers of type 7, rank 0's 123 of type 7\n"
                           : "rank 0's sum 1 has 123 numbers of type 7, rank 1's 456 of type 7\n"));
    WANT(ncclCommAbort(comm) == ncclSuccess);
    WANT(is_done(event, nullptr));
    WANT(isnan(to_host(p, 1)[0]));
    WANT(ncclAllReduce(p, p, 1, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    ncclResult_t result;
    WANT(ncclCommGetAsyncError(comm, &result) == ncclInvalidArgument);
}

/* One rank's abort does not end the other's sum. */
void aborted(int rank) {
    ncclComm_t comm;
    WANT(start(2, rank, &comm) == ncclSuccess);
    void *p = on_device(nullptr, 4000);
    cudaEvent_t event;
    if (rank == 1) {
        WANT(ncclCommAbort(comm) == ncclSuccess);
        reach(1);
        return;
    }
    WANT(settle(comm, ncclAllReduce(p, p, 10, ncclFloat32, ncclSum, comm, stream)) == ncclSuccess);
    event = behind_all();
    await(1);
    WANT(!is_done(event, comm));
    WANT(ncclCommAbort(comm) == ncclSuccess);
    WANT(is_done(event, nullptr));
}

/* The end is waited for by both; what is told too early is refused, and a sum whose call is under way is not
 * on the stream. */
void finalized(int rank) {
    ncclComm_t comm;
    ncclResult_t result = ncclInProgress;
    WANT(start(2, rank, &comm) == ncclSuccess);
    void *p = on_device(nullptr, 4000);
    WANT(ncclAllReduce(p, p, 1, ncclFloat32, ncclSum, comm, stream) == ncclInProgress);
    WANT(is_done(behind_all(), nullptr));
    WANT(ncclAllReduce(p, p, 1, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    WANT(settle(comm, ncclInProgress) == ncclSuccess);
    WANT(ncclAllReduce(p, p, 1, (ncclDataType_t)2, ncclSum, comm, stream) == ncclInvalidArgument);
    WANT(ncclAllReduce((char *)p + 2, p, 1, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    if (rank == 1) {
        cudaGraph_t graph;
        cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
        WANT(ncclAllReduce(p, p, 1, ncclFloat32, ncclSum, comm, stream) == ncclInvalidUsage);
        cudaStreamEndCapture(stream, &graph);
        cudaGraphDestroy(graph);
        await(1);
    }
    WANT(ncclCommFinalize(comm) == ncclInProgress);
    for (int i = 0; i < 1000 && rank == 0; i++) {
        WANT(ncclCommGetAsyncError(comm, &result) == ncclSuccess);
        WANT(result == ncclInProgress);
    }
    reach(1);
    WANT(settle(comm, ncclInProgress) == ncclSuccess);
    WANT(ncclAllReduce(p, p, 1, ncclFloat32, ncclSum, comm, stream) == ncclInvalidArgument);
    WANT(ncclCommDestroy(comm) == ncclSuccess);
}

/* Ranks that do not agree on how many they are, ids that are used up, what is no configuration. */
void started(int rank) {
    ncclComm_t comm;
    ncclConfig_t config = {};
    WANT(ncclCommInitRankConfig(&comm, 2, blackboard->id, rank, &config) == ncclInvalidArgument);
    WANT(start(2, 2, &comm) == ncclInvalidArgument);
    WANT(start(2 + rank, rank, &comm) == ncclInvalidUsage);
    if (rank == 1) { /* both have been told before one of them takes its place away */
        reach(1);
        await(2);
    } else {
        await(1);
        reach(2);
    }
    WANT(ncclCommAbort(comm) == ncclSuccess); /* its id has no memory any more */
    WANT(start(2, rank, &comm) == ncclInvalidUsage);
}

void test_sums(void **) {
    ranks(sums);
}

void test_different(void **) {
    ranks(different);
}

void test_aborted(void **) {
    ranks(aborted);
}

void test_finalized(void **) {
    ranks(finalized);
}

void test_started(void **) {
    ranks(started);
}

/* Under mpirun: the GPU of a rank that waits in MPI goes on, so that the other rank's sum has an end. */
[[noreturn]] void wait_in_mpi() {
    int rank, size, one = 1;
    ncclComm_t comm;
    struct blackboard own = {};
    alarm(30);
    MPI_Init(nullptr, nullptr);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    blackboard = &own;
    if (rank == 0) WANT(ncclGetUniqueId(&own.id) == ncclSuccess);
    MPI_Bcast(&own.id, sizeof own.id, MPI_BYTE, 0, MPI_COMM_WORLD);
    WANT(start(size, rank, &comm) == ncclSuccess);
    void *p = on_device(nullptr, 4000);
    WANT(settle(comm, ncclAllReduce(p, p, 1000, ncclFloat32, ncclSum, comm, stream)) == ncclSuccess);
    cudaEvent_t event = behind_all();
    while (rank == 0 && cudaEventQuery(event)) sched_yield();
    MPI_Allreduce(MPI_IN_PLACE, &one, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    WANT(one == size && is_done(event, nullptr));
    WANT(settle(comm, ncclCommFinalize(comm)) == ncclSuccess);
    WANT(ncclCommDestroy(comm) == ncclSuccess);
    MPI_Finalize();
    _exit(0); /* without looking for MPI's leaks */
}

int set_up(void **) {
    const size_t size = 1 << 20;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    char **all[] = {&places.a, &places.b, &places.d, &places.bias, &places.workspace};
    for (char **p : all) *p = static_cast<char *>(on_device(nullptr, size));
    places.scale = static_cast<float *>(on_device(nullptr, sizeof(float)));
    void *shared =
        mmap(nullptr, sizeof *blackboard, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    blackboard = static_cast<struct blackboard *>(shared);
    return shared == MAP_FAILED ? -1 : 0;
}

int tear_down(void **) {
    char *all[] = {places.a, places.b, places.d, places.bias, places.workspace, (char *)places.scale};
    for (char *p : all) cudaFree(p);
    cudaStreamDestroy(stream);
    return munmap(blackboard, sizeof *blackboard);
}

} // namespace

int main(int argc, char *argv[]) {
    if (argc > 1 && strcmp(argv[1], "mpi") == 0) wait_in_mpi();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),  cmocka_unit_test(test_planted),   cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_sums),      cmocka_unit_test(test_different), cmocka_unit_test(test_aborted),
        cmocka_unit_test(test_finalized), cmocka_unit_test(test_started),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
