/* The CUDA runtime on the host, for tests; see cuda_runtime_api.h and cuda_runtime.h.
 *
 * Threads of a block are fibers that run one after the other, each until it waits for the others: in the
 * order of their numbers, or with VAECF_HOST_ORDER=reverse in the reverse order (blocks too), by which a
 * missing barrier shows. A barrier that some thread never comes to ends the program.
 *
 * A stream that is captured keeps its work in a graph, with that of streams that wait for its events; what
 * CUDA forbids meanwhile (memory, waiting) is an error here too. A graph does its work in an order that its
 * dependencies allow and that is as unlike the order of the calls as may be: what was put there last comes
 * first.
 *
 * Device memory is a range of addresses that the host has no access to, but for what runs on a stream.
 *
 *   VAECF_HOST_GPUS        number of GPUs (1)
 *   VAECF_HOST_GPU_MB      memory of each (4096)
 *   VAECF_HOST_GPU         old, volta, turing: compute capability 6.1, 7.0, 7.5; unknown: one without code;
 *                          driver: it is too old
 *   VAECF_HOST_SHARED_KB   shared memory that a block may ask for (227; volta: 96, turing: 64)
 *   VAECF_HOST_GRAPHS      issued: graphs do their work in the order of the calls */
#undef _FORTIFY_SOURCE /* its longjmp does not know of fibers */
#include <deque>
#include <map>
#include <memory>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include "cuda_runtime.h"

#ifdef __SANITIZE_ADDRESS__
#include <dlfcn.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
/* The C library's own: ASan's takes every jump for the end of the frames below, and clears the marks of the
 * whole stack. */
static void (*const switch_to)(jmp_buf, int) =
    reinterpret_cast<void (*)(jmp_buf, int)>(dlsym(dlopen("libc.so.6", RTLD_NOW), "_longjmp"));
#define BEFORE_SWITCH(save, bottom, size) __sanitizer_start_switch_fiber(save, bottom, size)
#define AFTER_SWITCH(save, bottom, size) __sanitizer_finish_switch_fiber(save, bottom, size)
#else
#define switch_to _longjmp
#define ASAN_POISON_MEMORY_REGION(p, bytes) ((void)(p), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(p, bytes) ((void)(p), (void)(bytes))
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

/* ---- shared memory ---- */

void *cuda_host_shared;
extern "C" { /* of the kernels' static shared variables; see the Makefile */
extern uint64_t __start_cuda_shared[] __attribute__((weak)), __stop_cuda_shared[] __attribute__((weak));
}

namespace {

constexpr uint64_t UNTOUCHED = ~(uint64_t)0; /* NaN */
constexpr size_t SHARED_ALWAYS = 48 << 10;   /* what a block may have without asking */

/* By kernel: bytes of dynamic shared memory that it may have, if it was asked; and whether it has been seen
 * to fit. */
std::map<const void *, size_t> may_have;
std::map<const void *, bool> fits;

/* No call of memset, which would be stopped at the gaps that ASan leaves between variables. */
__attribute__((no_sanitize("address"))) void fill_static_shared(void) {
    for (volatile uint64_t *p = __start_cuda_shared; p < __stop_cuda_shared; p++) *p = UNTOUCHED;
}

/* Bytes of it that have been written. */
__attribute__((no_sanitize("address"))) size_t used_static_shared(void) {
    size_t used = 0;
    for (const uint64_t *p = __start_cuda_shared; p < __stop_cuda_shared; p++) used += *p != UNTOUCHED;
    return used * sizeof(uint64_t);
}

bool is_kind(const char *kind) {
    const char *text = getenv("VAECF_HOST_GPU");
    return text && strcmp(text, kind) == 0;
}

size_t shared_limit(void) {
    const char *text = getenv("VAECF_HOST_SHARED_KB");
    return text ? (size_t)atoi(text) << 10
                : (size_t)(is_kind("volta")    ? 96
                           : is_kind("turing") ? 64
                                               : 227)
                      << 10;
}

size_t shared_of(const void *kernel) {
    auto asked = may_have.find(kernel);
    return asked == may_have.end() || asked->second < SHARED_ALWAYS ? SHARED_ALWAYS : asked->second;
}

/* A launch counts a kernel's static shared memory as well, which is known here after a block. */
void check_shared(cuda_host_kernel kernel, size_t dynamic) {
    if (!dynamic || !fits.emplace(kernel.at, true).second) return;
    size_t used = used_static_shared(),
           most = shared_of(kernel.at) > SHARED_ALWAYS ? shared_limit() : SHARED_ALWAYS;
    if (used + dynamic <= most) return;
    fprintf(stderr, "%s: %zu + %zu bytes of shared memory, static and dynamic: more than %zu\n", kernel.name,
            used, dynamic, most);
    abort();
}

} // namespace

void cuda_host_grid(cuda_host_kernel kernel, dim3 grid, dim3 block, size_t shared,
                    const std::function<void()> &thread) {
    static std::unique_ptr<char[]> memory;
    static size_t size;
    if (shared > size) memory.reset(new char[(size = shared) + 16]);
    cuda_host_shared = (void *)(((uintptr_t)memory.get() + 15) / 16 * 16);
    size_t n = (size_t)grid.x * grid.y;
    cuda_host_grid_size = grid;
    cuda_host_block_size = block;
    body = &thread;
    for (size_t i = 0; i < n; i++) {
        size_t at = is_reverse() ? n - 1 - i : i;
        cuda_host_block = dim3((unsigned)(at % grid.x), (unsigned)(at / grid.x));
        if (shared) memset(cuda_host_shared, 0xff, shared);
        fill_static_shared();
        run_block();
        check_shared(kernel, shared);
    }
}

/* ---- streams ---- */

struct node {
    std::function<bool()> work;
    std::vector<size_t> after; /* nodes that come before it */
};
struct CUgraph_st {
    std::vector<node> nodes;
    bool is_over, is_invalid; /* its capture; something forbidden was called meanwhile */
};
struct CUgraphExec_st {
    std::shared_ptr<CUgraph_st> graph;
    std::vector<size_t> order;
};

struct CUstream_st {
    std::deque<std::function<bool()>> work;
    unsigned long done, put;
    std::shared_ptr<CUgraph_st> graph; /* being captured */
    std::vector<size_t> last;          /* nodes of it that the next one waits for */
    bool is_origin;
};

struct CUevent_st {
    cudaStream_t stream;               /* NULL: not recorded yet */
    unsigned long at;                  /* so much of its work has to be done */
    std::shared_ptr<CUgraph_st> graph; /* recorded in that, after these nodes: */
    std::vector<size_t> last;
    bool is_timed;
};

namespace {

std::vector<cudaStream_t> streams;
cudaError_t last_error;

cudaError_t fails(cudaError_t status) {
    return last_error = status;
}

bool advance(cudaStream_t stream, unsigned long to) {
    if (stream->done >= to) return true;
    cuda_host_access access;
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

/* A call that is forbidden while a stream is captured spoils the capture. */
bool is_capturing(void) {
    bool is_one = false;
    for (cudaStream_t stream : streams) {
        if (!stream->graph) continue;
        is_one = stream->graph->is_invalid = true;
    }
    return is_one;
}

void add_to(std::vector<size_t> *nodes, const std::vector<size_t> &more) {
    nodes->insert(nodes->end(), more.begin(), more.end());
}

size_t capacity(void) {
    const char *megabytes = getenv("VAECF_HOST_GPU_MB");
    return (size_t)(megabytes ? atof(megabytes) * 1e6 : 4096e6);
}

} // namespace

void cuda_host_put(cudaStream_t stream, std::function<bool()> work) {
    if (stream->graph) {
        stream->graph->nodes.push_back({std::move(work), stream->last});
        stream->last = {stream->graph->nodes.size() - 1};
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

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags) {
    *event = new CUevent_st();
    (*event)->is_timed = !(flags & cudaEventDisableTiming);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    *event = {stream, stream->put, stream->graph, stream->last, event->is_timed};
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (event->graph) return fails(cudaErrorCapturedEvent);
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    return !event->stream || advance(event->stream, event->at) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    cudaError_t status;
    while ((status = cudaEventQuery(event)) == cudaErrorNotReady) {
    }
    return status;
}

/* Every time is shorter than the one before. */
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    static int calls;
    for (cudaEvent_t event : {begin, end}) {
        if (!event->stream || !event->is_timed || event->graph) return fails(cudaErrorInvalidResourceHandle);
        if (event->stream->done < event->at) return cudaErrorNotReady;
    }
    *milliseconds = 1.0f / (float)++calls;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    CUevent_st as_it_is = *event;
    if (as_it_is.graph && as_it_is.graph->is_over) return fails(cudaErrorCapturedEvent);
    if (as_it_is.graph && !stream->graph) stream->graph = as_it_is.graph; /* it joins the capture */
    if (stream->graph != as_it_is.graph) return fails(cudaErrorStreamCaptureIsolation);
    if (stream->graph) {
        add_to(&stream->last, as_it_is.last);
        return cudaSuccess;
    }
    cuda_host_put(stream, [as_it_is] { return !as_it_is.stream || advance(as_it_is.stream, as_it_is.at); });
    return cudaSuccess;
}

/* ---- graphs ---- */

namespace {

/* Each node after those that come before it; of those that may come, the one that was put there last. */
std::vector<size_t> order_of(const std::vector<node> &nodes) {
    const char *text = getenv("VAECF_HOST_GRAPHS");
    bool is_issued = text && strcmp(text, "issued") == 0;
    std::vector<size_t> order;
    std::vector<bool> is_done(nodes.size());
    while (order.size() < nodes.size()) {
        size_t next = nodes.size();
        for (size_t i = 0; i < nodes.size() && (next == nodes.size() || !is_issued); i++) {
            bool may_come = !is_done[i];
            for (size_t before : nodes[i].after) may_come = may_come && is_done[before];
            if (may_come) next = i;
        }
        is_done[next] = true;
        order.push_back(next);
    }
    return order;
}

/* Is there work in the graph that nothing at its end waits for? */
bool is_unjoined(const CUgraph_st &graph, const std::vector<size_t> &last) {
    std::vector<bool> is_waited_for(graph.nodes.size());
    for (const node &n : graph.nodes) {
        for (size_t before : n.after) is_waited_for[before] = true;
    }
    for (size_t end : last) is_waited_for[end] = true;
    for (bool is_one : is_waited_for) {
        if (!is_one) return true;
    }
    return false;
}

} // namespace

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    if (stream->graph) return fails(cudaErrorInvalidValue);
    stream->graph = std::make_shared<CUgraph_st>();
    stream->is_origin = true;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    std::shared_ptr<CUgraph_st> captured = stream->graph;
    *graph = nullptr;
    if (!captured || !stream->is_origin) return fails(cudaErrorInvalidValue);
    bool is_left_out = is_unjoined(*captured, stream->last);
    captured->is_over = true;
    for (cudaStream_t other : streams) {
        if (other->graph != captured) continue;
        other->graph = nullptr;
        other->last.clear();
        other->is_origin = false;
    }
    if (captured->is_invalid) return fails(cudaErrorStreamCaptureInvalidated);
    if (is_left_out) return fails(cudaErrorStreamCaptureUnjoined);
    *graph = new CUgraph_st(*captured);
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new CUgraphExec_st{std::make_shared<CUgraph_st>(*graph), order_of(graph->nodes)};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    if (stream->graph) return fails(cudaErrorStreamCaptureUnsupported); /* CUDA could; vaecf does not */
    for (size_t i : exec->order) cuda_host_put(stream, exec->graph->nodes[i].work);
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

namespace {

constexpr size_t ALIGNED = 256;  /* addresses of blocks, and the least between two of them */
constexpr size_t PAGE = 2 << 20; /* a large one: access to few pages is changed faster */

struct block {
    size_t bytes;
    void *token; /* on the heap, so that a leak checker tells of a block that is not freed */
};

std::map<char *, block> blocks; /* of device memory */
std::map<char *, size_t> pinned;
char *arena;              /* the addresses of device memory */
size_t arena_size, grown; /* so much of it has been in use */
size_t in_use;
int accessing;
struct sigaction faults_before;

size_t whole(size_t bytes, size_t unit) {
    return (bytes + unit - 1) / unit * unit;
}

void protect(int access) {
    if (grown == 0 || mprotect(arena, grown, access) == 0) return;
    perror("mprotect of device memory");
    abort();
}

void on_fault(int, siginfo_t *info, void *) {
    const char *text = accessing ? "device code leaves device memory\n" : "host code touches device memory\n";
    char *at = static_cast<char *>(info->si_addr);
    if (at >= arena && at < arena + arena_size && write(STDERR_FILENO, text, strlen(text)) < 0) abort();
    sigaction(SIGSEGV, &faults_before, nullptr); /* it comes again, and what was there before has it */
}

/* Others may have set theirs meanwhile. */
void tell_faults(void) {
    struct sigaction ours = {}, now;
    ours.sa_sigaction = on_fault;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigaction(SIGSEGV, nullptr, &now);
    if (!(now.sa_flags & SA_SIGINFO) || now.sa_sigaction != on_fault)
        sigaction(SIGSEGV, &ours, &faults_before);
}

/* A gap of so many bytes in the arena; NULL: there is none. */
char *find_gap(size_t bytes) {
    char *at = arena + ALIGNED;
    for (const auto &[begin, b] : blocks) {
        if (begin >= at + bytes) break;
        at = begin + whole(b.bytes + ALIGNED, ALIGNED);
    }
    return at + bytes <= arena + arena_size ? at : nullptr;
}

/* The block that p is in, or right after; blocks.end(): none. */
std::map<char *, block>::iterator block_of(const void *p) {
    char *at = static_cast<char *>(const_cast<void *>(p));
    auto found = blocks.upper_bound(at);
    if (found == blocks.begin()) return blocks.end();
    --found;
    return at <= found->first + found->second.bytes ? found : blocks.end();
}

bool is_pinned(const void *p) {
    char *at = static_cast<char *>(const_cast<void *>(p));
    auto found = pinned.upper_bound(at);
    if (found == pinned.begin()) return false;
    --found;
    return at < found->first + found->second;
}

/* Outside of the range of all device memory, free or not? */
bool is_host(const void *p) {
    const char *at = static_cast<const char *>(p);
    return at < arena || at >= arena + arena_size;
}

} // namespace

cuda_host_access::cuda_host_access() {
    if (accessing++ == 0) protect(PROT_READ | PROT_WRITE);
}
cuda_host_access::~cuda_host_access() {
    if (--accessing == 0) protect(PROT_NONE);
}

bool cuda_host_is_device(const void *p, size_t bytes) {
    auto found = block_of(p);
    return found != blocks.end() &&
           bytes <= (size_t)(found->first + found->second.bytes - static_cast<const char *>(p));
}

void cuda_host_check_pointer(const char *kernel, const void *p) {
    if (!p || cuda_host_is_device(p, 0)) return;
    fprintf(stderr, "%s gets a pointer that is not to device memory: %p\n", kernel, p);
    abort();
}

cudaError_t cudaMalloc(void **p, size_t bytes) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    if (in_use + bytes > capacity()) return fails(cudaErrorMemoryAllocation);
    if (!arena) {
        arena_size = whole(4 * capacity(), PAGE); /* gaps do no harm */
        void *at =
            mmap(nullptr, arena_size + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return fails(cudaErrorMemoryAllocation);
        arena = reinterpret_cast<char *>(whole((uintptr_t)at, PAGE));
        madvise(arena, arena_size, MADV_HUGEPAGE);
    }
    tell_faults();
    char *at = find_gap(whole(bytes + ALIGNED, ALIGNED));
    if (!at) return fails(cudaErrorMemoryAllocation);
    size_t end = whole((size_t)(at - arena) + bytes + ALIGNED, PAGE);
    if (end > grown) {
        ASAN_POISON_MEMORY_REGION(arena + grown, end - grown);
        grown = end;
    }
    ASAN_UNPOISON_MEMORY_REGION(at, bytes);
    cuda_host_access access;
    memset(at, 0xff, bytes);
    blocks[at] = {bytes, malloc(1)};
    in_use += bytes;
    *p = at;
    return cudaSuccess;
}

cudaError_t cudaFree(void *p) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    drain_all();
    if (!p) return cudaSuccess;
    auto found = blocks.find(static_cast<char *>(p));
    if (found == blocks.end()) return fails(cudaErrorInvalidValue);
    in_use -= found->second.bytes;
    ASAN_POISON_MEMORY_REGION(p, found->second.bytes);
    free(found->second.token);
    blocks.erase(found);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **p, size_t bytes) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    *p = malloc(bytes);
    if (!*p) return fails(cudaErrorMemoryAllocation);
    memset(*p, 0xff, bytes);
    pinned[static_cast<char *>(*p)] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p) {
    if (is_capturing()) return fails(cudaErrorStreamCaptureUnsupported);
    drain_all();
    if (p && !pinned.erase(static_cast<char *>(p))) return fails(cudaErrorInvalidValue);
    free(p);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *is_free, size_t *total) {
    *total = capacity();
    *is_free = *total - in_use;
    return cudaSuccess;
}

/* To host memory that is not pinned CUDA's call waits; what it brings is here as late as ever. */
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream) {
    bool from_host = kind == cudaMemcpyHostToDevice, to_host = kind == cudaMemcpyDeviceToHost;
    if (bytes == 0) return cudaSuccess;
    if (!(from_host ? is_host(from) : cuda_host_is_device(from, bytes)) ||
        !(to_host ? is_host(to) : cuda_host_is_device(to, bytes))) {
        return fails(cudaErrorInvalidValue);
    }
    while (to_host && !is_pinned(to) && !stream->graph && !cuda_host_drain(stream)) {
    }
    cuda_host_put(stream, [=] {
        memcpy(to, from, bytes);
        return true;
    });
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t stream) {
    if (bytes == 0) return cudaSuccess;
    if (!cuda_host_is_device(p, bytes)) return fails(cudaErrorInvalidValue);
    cuda_host_put(stream, [=] {
        memset(p, value, bytes);
        return true;
    });
    return cudaSuccess;
}

/* ---- launches ---- */

bool cuda_host_may_launch(cuda_host_kernel kernel, dim3 grid, dim3 block, size_t shared) {
    constexpr unsigned MOST_X = 0x7fffffff, MOST_Y = 65535, MOST_THREADS = 1024;
    size_t threads = (size_t)block.x * block.y * block.z, blocks_n = (size_t)grid.x * grid.y * grid.z;
    if (threads == 0 || threads > MOST_THREADS || blocks_n == 0 || grid.x > MOST_X || grid.y > MOST_Y ||
        grid.z > MOST_Y) {
        fails(cudaErrorInvalidConfiguration);
        return false;
    }
    if (shared > shared_of(kernel.at)) {
        fails(cudaErrorInvalidValue);
        return false;
    }
    if (grid.z * block.z == 1) return true;
    fprintf(stderr, "%s: three dimensions, which the emulation does not have\n", kernel.name);
    abort();
}

/* ---- the device ---- */

const char *cudaGetErrorString(cudaError_t status) {
    switch (status) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorInvalidConfiguration:
        return "invalid configuration argument";
    case cudaErrorInvalidResourceHandle:
        return "invalid resource handle";
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
    case cudaErrorStreamCaptureInvalidated:
        return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnjoined:
        return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation:
        return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent:
        return "operation not permitted on an event last recorded in a capturing stream";
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
    properties->major = is_kind("old") ? 6 : is_kind("volta") || is_kind("turing") ? 7 : 9;
    properties->minor = is_kind("old") ? 1 : is_kind("turing") ? 5 : 0;
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

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        (size_t)value > shared_limit()) {
        return fails(cudaErrorInvalidValue);
    }
    may_have[function] = (size_t)value;
    fits.erase(function);
    return cudaSuccess;
}
