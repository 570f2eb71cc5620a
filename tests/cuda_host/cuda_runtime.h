/* What kernels.cu is written in, as C++ for the host: see runtime.cc. */
#ifndef CUDA_HOST_RUNTIME_H
#define CUDA_HOST_RUNTIME_H

#include <functional>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "../../cuda/kernels.h"
#include "cuda_runtime_api.h"

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

#define __global__
#define __device__
#define __host__
/* Blocks run one after the other. The Makefile gathers these variables of the kernels in a section of their
 * own, which is filled with NaN before each block. It finds those in anonymous namespaces. */
#define __shared__ static
#define __launch_bounds__(...)

/* Memory that a launch asks for: filled with NaN before each block. */
extern void *cuda_host_shared;
#define DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(cuda_host_shared)

static inline void copy_async(void *to, const void *from) {
    memcpy(to, from, 16);
}
static inline void copy_async_wait(void) {}

/* ---- where the running thread is ---- */

extern dim3 cuda_host_thread, cuda_host_block, cuda_host_block_size, cuda_host_grid_size;
#define threadIdx cuda_host_thread
#define blockIdx cuda_host_block
#define blockDim cuda_host_block_size
#define gridDim cuda_host_grid_size

/* ---- threads that wait for each other ---- */

void __syncthreads(void);

/* Every thread of the warp gives a value of at most 16 bytes; afterwards slots[lane] has them all. */
typedef unsigned char cuda_host_slots[32][16];
const cuda_host_slots *cuda_host_exchange(const void *value, size_t size);

template <typename T> T __shfl_xor_sync(unsigned, T value, int mask) {
    unsigned lane = (threadIdx.y * blockDim.x + threadIdx.x) % 32;
    const cuda_host_slots *slots = cuda_host_exchange(&value, sizeof value);
    memcpy(&value, (*slots)[lane ^ (unsigned)mask], sizeof value);
    return value;
}

static inline unsigned __match_any_sync(unsigned, int value) {
    const cuda_host_slots *slots = cuda_host_exchange(&value, sizeof value);
    unsigned peers = 0;
    for (int lane = 0; lane < 32; lane++) {
        int of_lane;
        memcpy(&of_lane, (*slots)[lane], sizeof of_lane);
        peers |= (unsigned)(of_lane == value) << lane;
    }
    return peers;
}
static inline unsigned __ballot_sync(unsigned lanes, int predicate) {
    unsigned alike = __match_any_sync(lanes, predicate != 0);
    return predicate ? alike : ~alike;
}

static inline float power_of_two(float x) {
    return exp2f(x);
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int atomicAdd(int *p, int x) {
    return (*p += x) - x;
}
static inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- device memory ---- */

/* Host code cannot read or write device memory; what runs on a stream can, as can code with one of these. */
struct cuda_host_access {
    cuda_host_access();
    ~cuda_host_access();
    cuda_host_access(const cuda_host_access &) = delete;
    cuda_host_access &operator=(const cuda_host_access &) = delete;
};
/* Do these bytes lie in one block of device memory? */
bool cuda_host_is_device(const void *p, size_t bytes);

/* Ends the program if a kernel gets a pointer that is neither NULL nor to device memory. */
void cuda_host_check_pointer(const char *kernel, const void *p);
template <typename T> void cuda_host_check(const char *, const T &) {}
template <typename T> void cuda_host_check(const char *kernel, T *const &p) {
    cuda_host_check_pointer(kernel, p);
}
static inline void cuda_host_check(const char *kernel, const struct kernel_rows &rows) {
    const void *pointers[] = {rows.begin, rows.end, rows.items, rows.users, rows.whole};
    for (const void *p : pointers) cuda_host_check_pointer(kernel, p);
}
static inline void cuda_host_check(const char *kernel, const struct kernel_columns &columns) {
    const void *pointers[] = {columns.segment, columns.group, columns.row, columns.at, columns.place};
    for (const void *p : pointers) cuda_host_check_pointer(kernel, p);
}
static inline void cuda_host_check(const char *kernel, const struct kernel_csr &csr) {
    const void *pointers[] = {csr.start, csr.index, csr.value, csr.count, csr.first, csr.piece};
    for (const void *p : pointers) cuda_host_check_pointer(kernel, p);
}
static inline void cuda_host_check(const char *kernel, const struct kernel_sorted &s) {
    const void *pointers[] = {s.row,     s.at,    s.item,  s.head,  s.step_head,
                              s.step_of, s.count, s.first, s.piece, s.before};
    for (const void *p : pointers) cuda_host_check_pointer(kernel, p);
}

/* ---- starting kernels ---- */

/* Puts work on the stream: it returns whether it is done, and is asked again if not. */
void cuda_host_put(cudaStream_t stream, std::function<bool()> work);
/* Does what is on the stream now; false if something is not to be done yet. */
bool cuda_host_drain(cudaStream_t stream);
/* A kernel as LAUNCH names it, and by its address. */
struct cuda_host_kernel {
    const char *name;
    const void *at;
};
/* Is it a launch that the device can do? If not, cudaGetLastError tells. */
bool cuda_host_may_launch(cuda_host_kernel kernel, dim3 grid, dim3 block, size_t shared);
void cuda_host_grid(cuda_host_kernel kernel, dim3 grid, dim3 block, size_t shared,
                    const std::function<void()> &thread);

template <typename... P, typename... A>
void cuda_host_launch(const char *name, void (*function)(P...), dim3 grid, dim3 block, size_t shared,
                      cudaStream_t stream, A... args) {
    const cuda_host_kernel kernel = {name, reinterpret_cast<const void *>(function)};
    if (!cuda_host_may_launch(kernel, grid, block, shared)) return;
    (cuda_host_check(name, args), ...);
    cuda_host_put(stream, [=] {
        (cuda_host_check(name, args), ...); /* in a replay memory may be gone */
        cuda_host_grid(kernel, grid, block, shared, [&] { function(args...); });
        return true;
    });
}
#define START_KERNEL(kernel, grid, block, bytes, stream, ...)                                                \
    cuda_host_launch(#kernel, (kernel), (grid), (block), (bytes), (stream), __VA_ARGS__)

#endif
