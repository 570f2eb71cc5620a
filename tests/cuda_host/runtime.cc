/* The CUDA runtime on the host, for tests; see cuda_runtime_api.h and cuda_runtime.h.
 *
 * Threads of a block are fibers that run one after the other, each until it waits for the others: in the
 * order of their numbers, or with VAECF_HOST_ORDER=reverse in the reverse order (blocks too), by which a
 * missing barrier shows. A barrier that some thread never comes to ends the program.
 *
 * A stream that is captured keeps its work in a graph, with that of streams that wait for its events; what
 * CUDA forbids meanwhile (memory, waiting) is an error here too.
 *
 *   VAECF_HOST_GPUS      number of GPUs (1)
 *   VAECF_HOST_GPU_MB    memory of each (4096)
 *   VAECF_HOST_GPU       old: compute capability 7.0; unknown: one without code; driver: it is too old */
#undef _FORTIFY_SOURCE /* its longjmp does not know of fibers */
#include <deque>
#include <memory>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>
#include <unordered_map>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <dlfcn.h>
#include <sanitizer/common_interface_defs.h>
/* The C library's own: ASan's takes every jump for the end of the frames below, and clears the marks of the
 * whole stack. */
static void (*const switch_to)(jmp_buf, int) =
    reinterpret_cast<void (*)(jmp_buf, int)>(dlsym(dlopen("libc.so.6", RTLD_NOW), "_longjmp"));
#define BEFORE_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define AFTER_SWITCH(save, bottom, size) __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define switch_to _longjmp
#define BEFORE_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#define AFTER_SWITCH(save, bottom, size) ((void)(save), (void)(bottom), (void)(size))
#endif

/* ---- threads ---- */

dim3 cuda_host_thread, cuda_host_block, cuda_host_block_size, cuda_host_grid_size;

namespace {

constexpr size_t STACK = 128 * 1024;
constexpr unsigned LANES = 32;

/* A place where threads wait until all of them are there. */
struct barrier {
    unsigned here, generation;
};

struct warp {
    barrier wait;
    unsigned threads; /* that have not returned */
    cuda_host_slots slots[2];
};

struct fiber {
    ucontext_t start;
    jmp_buf at;
    void *stack, *asan;
    unsigned thread;
    const barrier *waits; /* for a generation other than this: */
    unsigned generation;
    bool is_started, is_done;
};

/* Those in use first. */
struct all_fibers : std::vector<fiber *> {
    ~all_fibers() {
        for (fiber *f : *this) {
            free(f->stack);
            delete f;
        }
    }
} fibers;
fiber *running;
jmp_buf scheduler;
void *scheduler_asan;
const void *scheduler_stack;
size_t scheduler_stack_size;

const std::function<void()> *body;
unsigned n_threads, next_thread, threads_left;
barrier block_barrier;
warp warps[LANES];

bool is_reverse(void) {
    static const char *const order = getenv("VAECF_HOST_ORDER");
    return order && strcmp(order, "reverse") == 0;
}

void place(unsigned thread) {
    cuda_host_thread = dim3(thread % cuda_host_block_size.x, thread / cuda_host_block_size.x);
}

void to_scheduler(fiber *f) {
    BEFORE_SWITCH(&f->asan, scheduler_stack, scheduler_stack_size);
    if (_setjmp(f->at) == 0) switch_to(scheduler, 1);
    AFTER_SWITCH(f->asan, &scheduler_stack, &scheduler_stack_size);
}

void release_if_full(barrier *b, unsigned threads) {
    if (b->here == 0 || b->here < threads) return;
    b->here = 0;
    b->generation++;
}

void wait_at(barrier *b, unsigned threads) {
    fiber *f = running;
    unsigned generation = b->generation;
    b->here++;
    release_if_full(b, threads);
    if (b->generation != generation) return;
    f->waits = b;
    f->generation = generation;
    to_scheduler(f);
    running = f;
    f->waits = nullptr;
    place(f->thread);
}

/* A fiber runs thread after thread; one that never waits leaves it free for the next. */
void run_threads(void) {
    AFTER_SWITCH(nullptr, &scheduler_stack, &scheduler_stack_size);
    for (;;) {
        fiber *f = running;
        while (next_thread < n_threads) {
            unsigned t = next_thread++;
            f->thread = is_reverse() ? n_threads - 1 - t : t;
            place(f->thread);
            (*body)();
            running = f;
            threads_left--;
            warp *w = &warps[f->thread / LANES];
            w->threads--;
            release_if_full(&block_barrier, threads_left);
            release_if_full(&w->wait, w->threads);
        }
        f->is_done = true;
        to_scheduler(f);
    }
}

void resume(fiber *f) {
    running = f;
    BEFORE_SWITCH(&scheduler_asan, f->stack, STACK);
    if (_setjmp(scheduler) == 0) {
        if (f->is_started) switch_to(f->at, 1);
        f->is_started = true;
        setcontext(&f->start);
    }
    AFTER_SWITCH(scheduler_asan, nullptr, nullptr);
}

fiber *new_fiber(void) {
    fiber *f = new fiber();
    f->stack = aligned_alloc(4096, STACK);
    getcontext(&f->start);
    f->start.uc_stack.ss_sp = f->stack;
    f->start.uc_stack.ss_size = STACK;
    f->start.uc_link = nullptr;
    makecontext(&f->start, run_threads, 0);
    return f;
}

void run_block(void) {
    size_t used = 0;
    n_threads = threads_left = cuda_host_block_size.x * cuda_host_block_size.y;
    next_thread = 0;
    block_barrier = {};
    for (unsigned w = 0; w * LANES < n_threads; w++) {
        warps[w].wait = {};
        warps[w].threads = n_threads - w * LANES < LANES ? n_threads - w * LANES : LANES;
    }
    while (threads_left > 0) {
        bool is_stuck = true;
        if (next_thread < n_threads) {
            if (used == fibers.size()) fibers.push_back(new_fiber());
            fibers[used]->is_done = false;
            resume(fibers[used++]);
            is_stuck = false;
        }
        for (size_t i = 0; i < used; i++) {
            size_t at = is_reverse() ? used - 1 - i : i;
            fiber *f = fibers[at];
            if (f->is_done || !f->waits || f->waits->generation == f->generation) continue;
            resume(f);
            is_stuck = false;
        }
        if (is_stuck) {
            fprintf(stderr, "a barrier that %u of %u threads have not come to\n",
                    threads_left - block_barrier.here, n_threads);
            abort();
        }
    }
}

} // namespace

void __syncthreads(void) {
    wait_at(&block_barrier, threads_left);
}

const cuda_host_slots *cuda_host_exchange(const void *value, size_t size) {
    unsigned thread = running->thread;
    warp *w = &warps[thread / LANES];
    cuda_host_slots *slots = &w->slots[w->wait.generation % 2];
    memcpy((*slots)[thread % LANES], value, size);
    wait_at(&w->wait, w->threads);
    return slots;
}

void *cuda_host_shared;

void cuda_host_grid(dim3 grid, dim3 block, size_t shared, const std::function<void()> &thread) {
    static std::unique_ptr<char[]> memory;
    static size_t size;
    if (shared > size) memory.reset(new char[(size = shared) + 16]);
    cuda_host_shared = (void *)(((uintptr_t)memory.get() + 15) / 16 * 16);
    unsigned n = grid.x * grid.y;
    cuda_host_grid_size = grid;
    cuda_host_block_size = block;
    body = &thread;
    for (unsigned i = 0; i < n; i++) {
        unsigned at = is_reverse() ? n - 1 - i : i;
        cuda_host_block = dim3(at % grid.x, at / grid.x);
        if (shared) memset(cuda_host_shared, 0xff, shared);
        run_block();
    }
}

/* ---- streams ---- */

struct CUgraph_st {
    std::vector<std::function<bool()>> work;
};
struct CUgraphExec_st {
    std::shared_ptr<CUgraph_st> graph;
};

struct CUstream_st {
    std::deque<std::function<bool()>> work;
    unsigned long done, put;
    std::shared_ptr<CUgraph_st> graph; /* being captured */
    bool is_origin;
};

struct CUevent_st {
    cudaStream_t stream;               /* NULL: not recorded yet */
    unsigned long at;                  /* so much of its work has to be done */
    std::shared_ptr<CUgraph_st> graph; /* recorded in that */
};

namespace {

std::vector<cudaStream_t> streams;
std::unordered_map<void *, size_t> allocated;
size_t in_use;
cudaError_t last_error;

cudaError_t fails(cudaError_t status) {
    return last_error = status;
}

bool advance(cudaStream_t stream, unsigned long to) {
    while (stream->done < to) {
        std::function<bool()> work = stream->work.front();
        if (!work()) return false;
        stream->work.pop_front();
        stream->done++;
    }
    return true;
}

void drain_all(void) {
    for (cudaStream_t stream : streams) {
        while (!cuda_host_drain(stream)) {
        }
    }
}

bool is_capturing(void) {
    for (cudaStream_t stream : streams) {
        if (stream->graph) return true;
    }
    return false;
}

size_t capacity(void) {
    const char *megabytes = getenv("VAECF_HOST_GPU_MB");
    return (size_t)(megabytes ? atof(megabytes) * 1e6 : 4096e6);
}

bool is_kind(const char *kind) {
    const char *text = getenv("VAECF_HOST_GPU");
    return text && strcmp(text, kind) == 0;
}

} // namespace

void cuda_host_put(cudaStream_t stream, std::function<bool()> work) {
    if (stream->graph) {
        stream->graph->work.push_back(std::move(work));
        return;
    }
    stream->work.push_back(std::move(work));
    stream->put++;
}

bool cuda_host_drain(cudaStream_t stream) {
    return advance(stream, stream->put);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    streams.push_back(*stream = new CUstream_st());
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *lowest, int *highest) {
    *lowest = 0;
    *highest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority) {
    if (priority > 0 || priority < -5) return fails(cudaErrorInvalidValue);
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    for (size_t i = 0; i < streams.size(); i++) {
        if (streams[i] == stream) streams.erase(streams.begin() + (long)i);
    }
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    *event = {stream, stream->put, stream->graph};
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (event->graph) return fails(cudaErrorCapturedEvent);
    return !event->stream || advance(event->stream, event->at) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->graph) return fails(cudaErrorCapturedEvent);
    if (event->stream && event->stream->graph) return fails(cudaErrorStreamCaptureUnsupported);
    while (cudaEventQuery(event)) {
    }
    return cudaSuccess;
}

/* Every time is shorter than the one before. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    static int calls;
    *milliseconds = 1.0f / (float)++calls;
    return begin->stream && end->stream ? cudaSuccess : fails(cudaErrorInvalidValue);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    CUevent_st as_it_is = *event;
    if (as_it_is.graph && !stream->graph) stream->graph = as_it_is.graph; /* it joins the capture */
    if (stream->graph != as_it_is.graph) return fails(cudaErrorStreamCaptureIsolation);
    if (stream->graph) return cudaSuccess; /* a graph's work is in the order in which it came */
    cuda_host_put(stream, [as_it_is] { return !as_it_is.stream || advance(as_it_is.stream, as_it_is.at); });
    return cudaSuccess;
}

/* ---- graphs ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    if (stream->graph) return fails(cudaErrorInvalidValue);
    stream->graph = std::make_shared<CUgraph_st>();
    stream->is_origin = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    std::shared_ptr<CUgraph_st> captured = stream->graph;
    if (!captured || !stream->is_origin) return fails(cudaErrorInvalidValue);
    for (cudaStream_t other : streams) {
        if (other->graph == captured) other->graph = nullptr;
    }
    *graph = new CUgraph_st(*captured);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new CUgraphExec_st{std::make_shared<CUgraph_st>(*graph)};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    for (const std::function<bool()> &work : exec->graph->work) cuda_host_put(stream, work);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **p, size_t bytes) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    if (in_use + bytes > capacity()) return fails(cudaErrorMemoryAllocation);
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!*p) return fails(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes);
    allocated[*p] = bytes;
    in_use += bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    drain_all();
    if (p && !allocated.count(p)) return fails(cudaErrorInvalidValue);
    if (p) in_use -= allocated[p];
    allocated.erase(p);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    *p = malloc(bytes);
    if (!*p) return fails(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    drain_all();
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *is_free, size_t *total) {
    *total = capacity();
    *is_free = *total - in_use;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream) {
    cuda_host_put(stream, [=] {
        if (bytes) memcpy(to, from, bytes);
        return true;
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    cuda_host_put(stream, [=] {
        memset(p, value, bytes);
        return true;
    });
    return cudaSuccess;
}

/* ---- the device ---- */

const char *cudaGetErrorString(cudaError_t status) {
    switch (status) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorNoKernelImageForDevice:
        return "no kernel image is available for execution on the device";
    case cudaErrorNotReady:
        return "device not ready";
    case cudaErrorStreamCaptureUnsupported:
        return "operation not permitted when stream is capturing";
    default:
        return "invalid argument";
    }
}

cudaError_t cudaGetLastError(void) {
    cudaError_t status = last_error;
    last_error = cudaSuccess;
    return status;
}

cudaError_t cudaGetDeviceCount(int *n) {
    const char *gpus = getenv("VAECF_HOST_GPUS");
    *n = gpus ? atoi(gpus) : 1;
    if (is_kind("driver")) return fails(cudaErrorInsufficientDriver);
    return *n > 0 ? cudaSuccess : fails(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device) {
    *properties = {};
    snprintf(properties->name, sizeof properties->name, "host emulation");
    properties->uuid.bytes[0] = (char)(1 + device);
    properties->totalGlobalMem = capacity();
    properties->major = is_kind("old") ? 7 : 9;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version) {
    *version = is_kind("driver") ? 12020 : 13000;
    return cudaSuccess;
}

cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attributes, const void *) {
    attributes->binaryVersion = 90;
    return is_kind("unknown") ? fails(cudaErrorNoKernelImageForDevice) : cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *, enum cudaFuncAttribute, int) {
    return cudaSuccess;
}
