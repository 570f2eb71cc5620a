/* Does the host emulation of CUDA (tests/cuda_host) notice what a GPU would refuse, or do wrongly? A case
 * plants a fault and sees it caught; next to it stands what is right, which has to pass. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

#include "../cuda/device.cuh"

/* Compiled as the kernels are: static variables without a value would be shared memory. */
namespace {

cudaStream_t new_stream(void) {
    cudaStream_t stream;
    assert_int_equal(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), 0);
    return stream;
}

cudaEvent_t new_event(unsigned flags) {
    cudaEvent_t event;
    assert_int_equal(cudaEventCreateWithFlags(&event, flags), 0);
    return event;
}

/* n numbers of device memory, each of them NaN. */
float *new_numbers(size_t n) {
    void *p;
    assert_int_equal(cudaMalloc(&p, n * sizeof(float)), 0);
    return static_cast<float *>(p);
}

void wait(cudaStream_t stream) {
    cudaEvent_t event = new_event(cudaEventDisableTiming);
    assert_int_equal(cudaEventRecord(event, stream), 0);
    assert_int_equal(cudaEventSynchronize(event), 0);
    assert_int_equal(cudaEventDestroy(event), 0);
}

float number_at(cudaStream_t stream, const float *p) {
    float x = -1;
    assert_int_equal(cudaMemcpyAsync(&x, p, sizeof x, cudaMemcpyDeviceToHost, stream), 0);
    wait(stream);
    return x;
}

/* It ends the program, which says so. */
void dies(const std::function<void()> &fault, const char *text) {
    int ends[2], status;
    std::string said;
    char piece[512];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        void *p;
        signal(SIGSEGV, SIG_DFL); /* cmocka has its own */
        signal(SIGABRT, SIG_DFL);
        alarm(30);
        dup2(ends[1], STDERR_FILENO);
        if (cudaMalloc(&p, 1 << 20) == cudaSuccess) fault(); /* too large for what has been freed */
        _exit(0);
    }
    close(ends[1]);
    for (ssize_t n; (n = read(ends[0], piece, sizeof piece)) > 0;) said.append(piece, (size_t)n);
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) fail_msg("it lives: %s", text);
    if (said.find(text) == std::string::npos) fail_msg("want \"%s\", it says: %s", text, said.c_str());
}

__global__ void set(float x, float *to) {
    to[threadIdx.x] = x;
}
__global__ void copy(const float *from, float *to) {
    to[threadIdx.x] = from[threadIdx.x];
}

/* ---- memory ---- */

void test_host_touches_device_memory(void **) {
    float *p = new_numbers(4);
    dies([=] { *(volatile float *)p = 1; }, "host code touches device memory");
    dies([=] { fprintf(stderr, "%g", (double)*(volatile float *)(p + 1)); },
         "host code touches device memory");
    dies(
        [=] {
            LAUNCH(set, 1, 4, new_stream(), 1.0f, p);
            memset(p, 0, 4);
        },
        "host code touches device memory");
    cudaFree(p);
}

void test_kernels_get_host_memory(void **) {
    static float host[4] = {1, 2, 3, 4};
    static const int32_t begin[2] = {0, 1};
    cudaStream_t stream = new_stream();
    float *freed = new_numbers(4), *p = new_numbers(4), *pinned;
    assert_int_equal(cudaFree(freed), 0);
    assert_int_equal(cudaMallocHost((void **)&pinned, 16), 0);
    dies([=] { LAUNCH(set, 1, 4, stream, 1.0f, host); }, "set gets a pointer that is not to device memory");
    dies([=] { LAUNCH(copy, 1, 4, stream, pinned, p); }, "copy gets a pointer");
    dies([=] { LAUNCH(copy, 1, 4, stream, freed, p); }, "copy gets a pointer");
    dies([=] { LAUNCH(copy, 1, 4, stream, p + 5, p); }, "copy gets a pointer");
    const struct kernel_rows rows = {.rows = 1,
                                     .begin = begin,
                                     .end = begin + 1,
                                     .items = nullptr,
                                     .users = nullptr,
                                     .whole = nullptr,
                                     .first_item = 0};
    struct kernel_columns columns = {};
    columns.row = begin;
    auto takes_rows = [](struct kernel_rows) {};
    auto takes_columns = [](struct kernel_columns) {};
    dies([=] { LAUNCH(+takes_rows, 1, 1, stream, rows); }, "gets a pointer");
    dies([=] { LAUNCH(+takes_columns, 1, 1, stream, columns); }, "gets a pointer");
    LAUNCH(set, 1, 4, stream, 1.0f, p);
    assert_true(number_at(stream, p + 3) == 1);
    cudaFree(p);
    cudaFreeHost(pinned);
    cudaStreamDestroy(stream);
}

/* A kernel that reads behind an array: far away, and with ASan right behind it. */
void test_kernels_read_elsewhere(void **) {
    cudaStream_t stream = new_stream();
    float *p = new_numbers(4);
    auto read = +[](int64_t i, float *numbers) { numbers[0] = numbers[i]; };
    dies(
        [=] {
            LAUNCH(read, 1, 1, stream, (int64_t)1 << 26, p);
            wait(stream);
        },
        "device code leaves device memory");
#ifdef __SANITIZE_ADDRESS__
    dies(
        [=] {
            LAUNCH(read, 1, 1, stream, 4, p);
            wait(stream);
        },
        "use-after-poison");
    dies(
        [=] {
            LAUNCH(read, 1, 1, stream, -1, p);
            wait(stream);
        },
        "use-after-poison");
#endif
    cudaFree(p);
    cudaStreamDestroy(stream);
}

void test_copies(void **) {
    static float host[4] = {1, 2, 3, 4};
    cudaStream_t stream = new_stream();
    float *p = new_numbers(4), *q = new_numbers(4);
    assert_int_equal(cudaMemcpyAsync(p, q, 16, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(host, p, 16, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(p, host, 16, cudaMemcpyDeviceToHost, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(p, q, 16, cudaMemcpyDeviceToHost, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(p, host, 16, cudaMemcpyDeviceToDevice, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(p, host, 20, cudaMemcpyHostToDevice, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(host, p + 1, 16, cudaMemcpyDeviceToHost, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemsetAsync(host, 0, 16, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaMemsetAsync(p + 1, 0, 16, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(p, host, 16, cudaMemcpyHostToDevice, stream), 0);
    assert_int_equal(cudaMemcpyAsync(q + 1, p + 1, 12, cudaMemcpyDeviceToDevice, stream), 0);
    assert_true(number_at(stream, q + 3) == 4);
    assert_int_equal(cudaMemsetAsync(q, 0, 16, stream), 0);
    assert_true(number_at(stream, q + 3) == 0);
    cudaFree(p);
    assert_int_equal(cudaMemsetAsync(p, 0, 16, stream), cudaErrorInvalidValue);
    assert_int_equal(cudaFree(p), cudaErrorInvalidValue);
    assert_int_equal(cudaFreeHost(host), cudaErrorInvalidValue);
    cudaGetLastError();
    cudaFree(q);
    cudaStreamDestroy(stream);
}

/* What is copied is there when somebody has waited. */
void test_host_reads_early(void **) {
    cudaStream_t stream = new_stream();
    float *p = new_numbers(1), *pinned, pageable = -1;
    assert_int_equal(cudaMallocHost((void **)&pinned, sizeof *pinned), 0);
    *pinned = -1;
    LAUNCH(set, 1, 1, stream, 1.0f, p);
    assert_int_equal(cudaMemcpyAsync(pinned, p, sizeof *p, cudaMemcpyDeviceToHost, stream), 0);
    assert_true(*pinned == -1);
    assert_int_equal(cudaMemcpyAsync(&pageable, p, sizeof *p, cudaMemcpyDeviceToHost, stream), 0);
    assert_true(*pinned == 1 && pageable == -1); /* that call waits for what was there before it */
    wait(stream);
    assert_true(pageable == 1);
    cudaFree(p);
    cudaFreeHost(pinned);
    cudaStreamDestroy(stream);
}

/* ---- launches ---- */

void test_launches(void **) {
    cudaStream_t stream = new_stream();
    float *p = new_numbers(1);
    const struct {
        dim3 grid, block;
        bool is_right;
    } launches[] = {
        {dim3(1, 70000), 1, false}, {dim3(1, 65536), 1, false}, {dim3(1, 2), 1, true},
        {dim3(0), 1, false},        {dim3(2, 0), 1, false},     {dim3(0x80000000u), 1, false},
        {dim3(1), 1025, false},     {dim3(1), 0, false},        {dim3(1), dim3(64, 17), false},
    };
    for (const auto &l : launches) {
        assert_int_equal(cudaMemsetAsync(p, 0, sizeof *p, stream), 0);
        auto first = +[](float *to) { *to = 1; };
        LAUNCH(first, l.grid, l.block, stream, p);
        assert_int_equal(cudaGetLastError(), l.is_right ? cudaSuccess : cudaErrorInvalidConfiguration);
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        assert_true(number_at(stream, p) == (l.is_right ? 1 : 0));
    }
    cudaFree(p);
    cudaStreamDestroy(stream);
}

__global__ void use_dynamic(float *to) {
    DYNAMIC_SHARED(float, shared);
    shared[threadIdx.x] = 1;
    to[threadIdx.x] = shared[threadIdx.x];
}
__global__ void use_both(float *to) {
    DYNAMIC_SHARED(float, shared);
    __shared__ float more[512];
    for (int i = 0; i < 512; i++) more[i] = 1;
    __syncthreads();
    shared[threadIdx.x] = more[threadIdx.x];
    to[threadIdx.x] = shared[threadIdx.x];
}

cudaError_t allow(const void *kernel, int bytes) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

void test_dynamic_shared_memory(void **) {
    cudaStream_t stream = new_stream();
    float *p = new_numbers(8);
    auto kernel = reinterpret_cast<const void *>(&use_dynamic);
    START_KERNEL(use_dynamic, 1, 8, 49 << 10, stream, p);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_true(isnan(number_at(stream, p)));
    assert_int_equal(allow(kernel, 228 << 10), cudaErrorInvalidValue);
    setenv("VAECF_HOST_SHARED_KB", "100", 1);
    assert_int_equal(allow(kernel, 101 << 10), cudaErrorInvalidValue);
    unsetenv("VAECF_HOST_SHARED_KB");
    setenv("VAECF_HOST_GPU", "turing", 1);
    assert_int_equal(allow(kernel, 65 << 10), cudaErrorInvalidValue);
    unsetenv("VAECF_HOST_GPU");
    assert_int_equal(allow(kernel, 50 << 10), 0);
    cudaGetLastError();
    START_KERNEL(use_dynamic, 1, 8, 51 << 10, stream, p);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    START_KERNEL(use_dynamic, 1, 8, 50 << 10, stream, p);
    assert_int_equal(cudaGetLastError(), 0);
    assert_true(number_at(stream, p) == 1);
    /* static shared memory counts too */
    dies([=] { START_KERNEL(use_both, 1, 8, 47 << 10, stream, p), wait(stream); }, "more than 49152");
    START_KERNEL(use_both, 1, 8, 46 << 10, stream, p);
    assert_true(number_at(stream, p) == 1);
    cudaFree(p);
    cudaStreamDestroy(stream);
}

/* ---- shared memory ---- */

/* The first block writes, the second one reads what the first has left. */
__global__ void read_unwritten(float *to) {
    __shared__ float shared[2];
    DYNAMIC_SHARED(float, dynamic);
    bool is_second = blockIdx.x == gridDim.x - 1;
    if (!is_second) shared[0] = dynamic[0] = 1;
    to[2 * blockIdx.x] = shared[0];
    to[2 * blockIdx.x + 1] = dynamic[0];
}
template <typename T> __global__ void read_unwritten_template(T *to) {
    __shared__ T shared;
    if (blockIdx.x == 0) shared = 1;
    to[blockIdx.x] = shared;
}

void test_shared_memory_is_not_kept(void **) {
    cudaStream_t stream = new_stream();
    float *p = new_numbers(4);
    START_KERNEL(read_unwritten, 2, 1, 4, stream, p);
    assert_true(number_at(stream, p) == 1 && number_at(stream, p + 1) == 1);
    assert_true(isnan(number_at(stream, p + 2)) && isnan(number_at(stream, p + 3)));
    LAUNCH(read_unwritten_template<float>, 2, 1, stream, p);
    assert_true(number_at(stream, p) == 1 && isnan(number_at(stream, p + 1)));
    cudaFree(p);
    cudaStreamDestroy(stream);
}

/* Each thread reads what its neighbour has written. */
template <bool IS_RIGHT> __global__ void neighbours(int step, float *to) {
    __shared__ float shared[64];
    unsigned t = threadIdx.x;
    shared[t] = (float)t;
    if (IS_RIGHT) __syncthreads();
    to[t] = shared[(t + (unsigned)step) % 64];
}
__global__ void stuck(float *to) {
    if (threadIdx.x < 16) __syncthreads();
    to[threadIdx.x] = __shfl_xor_sync(ALL_LANES, 1.0f, 1);
}

void test_barriers(void **) {
    const char *order = getenv("VAECF_HOST_ORDER");
    bool is_reverse = order && strcmp(order, "reverse") == 0;
    cudaStream_t stream = new_stream();
    float *p = new_numbers(64);
    int step = is_reverse ? 63 : 1; /* to one that comes later */
    LAUNCH(neighbours<true>, 1, 64, stream, step, p);
    assert_true(number_at(stream, p + 8) == (float)((8 + step) % 64));
    LAUNCH(neighbours<false>, 1, 64, stream, step, p);
    assert_true(isnan(number_at(stream, p + 8)));
    dies(
        [=] {
            LAUNCH(stuck, 1, 32, stream, p);
            wait(stream);
        },
        "a barrier that");
    cudaFree(p);
    cudaStreamDestroy(stream);
}

/* ---- streams and graphs ---- */

struct two_streams {
    cudaStream_t first = new_stream(), second = new_stream();
    cudaEvent_t fork = new_event(cudaEventDisableTiming), made = new_event(cudaEventDisableTiming),
                join = new_event(cudaEventDisableTiming);
    float *x = new_numbers(1), *y = new_numbers(1);
    ~two_streams() {
        cudaFree(x);
        cudaFree(y);
        for (cudaEvent_t event : {fork, made, join}) cudaEventDestroy(event);
        for (cudaStream_t stream : {first, second}) cudaStreamDestroy(stream);
    }
};

/* The second stream copies x, which the first one makes. */
void test_missing_waits(void **) {
    for (int waits = 0; waits < 2; waits++) {
        two_streams s;
        LAUNCH(set, 1, 1, s.first, 1.0f, s.x);
        cudaEventRecord(s.made, s.first);
        if (waits) cudaStreamWaitEvent(s.second, s.made, 0);
        LAUNCH(copy, 1, 1, s.second, s.x, s.y);
        assert_true(waits ? number_at(s.second, s.y) == 1 : isnan(number_at(s.second, s.y)));
    }
}

void test_missing_waits_in_graphs(void **) {
    for (int waits = 0; waits < 2; waits++) {
        two_streams s;
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        assert_int_equal(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal), 0);
        cudaEventRecord(s.fork, s.first);
        assert_int_equal(cudaStreamWaitEvent(s.second, s.fork, 0), 0);
        LAUNCH(set, 1, 1, s.first, 1.0f, s.x);
        cudaEventRecord(s.made, s.first);
        if (waits) cudaStreamWaitEvent(s.second, s.made, 0);
        LAUNCH(copy, 1, 1, s.second, s.x, s.y);
        cudaEventRecord(s.join, s.second);
        assert_int_equal(cudaStreamWaitEvent(s.first, s.join, 0), 0);
        assert_int_equal(cudaStreamEndCapture(s.first, &graph), 0);
        assert_int_equal(cudaGraphInstantiate(&exec, graph, 0), 0);
        assert_true(isnan(number_at(s.first, s.x))); /* nothing is done yet */
        assert_int_equal(cudaGraphLaunch(exec, s.first), 0);
        assert_true(waits ? number_at(s.first, s.y) == 1 : isnan(number_at(s.first, s.y)));
        assert_int_equal(cudaGraphLaunch(exec, s.first), 0);
        assert_true(number_at(s.first, s.y) == 1);
        assert_int_equal(cudaGraphExecDestroy(exec), 0);
        assert_int_equal(cudaGraphDestroy(graph), 0);
    }
}

void test_what_captures_forbid(void **) {
    two_streams s;
    cudaGraph_t graph;
    void *p;
    auto begin = [&] {
        assert_int_equal(cudaStreamBeginCapture(s.first, cudaStreamCaptureModeThreadLocal), 0);
    };
    begin();
    assert_int_equal(cudaMalloc(&p, 1), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(s.first, &graph), cudaErrorStreamCaptureInvalidated);
    assert_null(graph);
    begin();
    assert_int_equal(cudaEventQuery(s.made), cudaErrorStreamCaptureUnsupported);
    assert_int_equal(cudaStreamEndCapture(s.first, &graph), cudaErrorStreamCaptureInvalidated);
    cudaEventRecord(s.made, s.second);
    begin();
    assert_int_equal(cudaStreamWaitEvent(s.first, s.made, 0), cudaErrorStreamCaptureIsolation);
    cudaEventRecord(s.fork, s.first);
    cudaStreamWaitEvent(s.second, s.fork, 0);
    LAUNCH(set, 1, 1, s.second, 1.0f, s.x);
    assert_int_equal(cudaStreamEndCapture(s.first, &graph), cudaErrorStreamCaptureUnjoined);
    assert_int_equal(cudaStreamWaitEvent(s.second, s.fork, 0), cudaErrorCapturedEvent);
    assert_int_equal(cudaEventQuery(s.fork), cudaErrorCapturedEvent);
    begin();
    assert_int_equal(cudaStreamEndCapture(s.first, &graph), 0);
    assert_int_equal(cudaGraphDestroy(graph), 0);
    cudaGetLastError();
}

void test_events(void **) {
    cudaStream_t stream;
    int least, greatest;
    float milliseconds;
    assert_int_equal(cudaDeviceGetStreamPriorityRange(&least, &greatest), 0);
    assert_int_equal(least, 0);
    assert_int_equal(greatest, -5);
    assert_int_equal(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest), 0);
    cudaEvent_t timed[2] = {new_event(cudaEventDefault), new_event(cudaEventDefault)},
                untimed = new_event(cudaEventDisableTiming);
    float *p = new_numbers(1);
    assert_int_equal(cudaEventQuery(timed[0]), 0); /* never recorded */
    assert_int_equal(cudaEventElapsedTime(&milliseconds, timed[0], timed[1]), cudaErrorInvalidResourceHandle);
    cudaEventRecord(timed[0], stream);
    LAUNCH(set, 1, 1, stream, 1.0f, p);
    cudaEventRecord(timed[1], stream);
    cudaEventRecord(untimed, stream);
    assert_int_equal(cudaEventElapsedTime(&milliseconds, timed[0], timed[1]), cudaErrorNotReady);
    wait(stream);
    assert_int_equal(cudaEventElapsedTime(&milliseconds, timed[0], timed[1]), 0);
    assert_true(milliseconds > 0);
    assert_int_equal(cudaEventElapsedTime(&milliseconds, timed[0], untimed), cudaErrorInvalidResourceHandle);
    cudaGetLastError();
    for (cudaEvent_t event : {timed[0], timed[1], untimed}) cudaEventDestroy(event);
    cudaFree(p);
    cudaStreamDestroy(stream);
}

} // namespace

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_touches_device_memory),
        cmocka_unit_test(test_kernels_get_host_memory),
        cmocka_unit_test(test_kernels_read_elsewhere),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_host_reads_early),
        cmocka_unit_test(test_launches),
        cmocka_unit_test(test_dynamic_shared_memory),
        cmocka_unit_test(test_shared_memory_is_not_kept),
        cmocka_unit_test(test_barriers),
        cmocka_unit_test(test_missing_waits),
        cmocka_unit_test(test_missing_waits_in_graphs),
        cmocka_unit_test(test_what_captures_forbid),
        cmocka_unit_test(test_events),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
