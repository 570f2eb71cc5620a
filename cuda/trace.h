/* Where the time of some steps goes: each kernel, product, copy and sum is timed between two events.
 *
 * The steps that are traced are issued by every rank, not replayed, with the same results; rank 0 times its
 * own and writes the table `kernel,calls,milliseconds,share`: means of a step, the longest first, then what
 * is left of the step in "(gaps)", where the compute stream waits for the host or for another stream, and the
 * "(step)" itself. A kernel's name has its span's (src/span.h) before it. */
#ifndef VAECF_TRACE_H
#define VAECF_TRACE_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct cuda;
struct trace;

/* Of the step that is being timed; NULL: none is. */
extern struct trace *trace_now;

/* Around what is put on a stream: its name, as printf has it, of which a kernel's template arguments are
 * dropped. */
void trace_before(cudaStream_t stream, const char *format, ...) __attribute__((format(printf, 2, 3)));
void trace_after(cudaStream_t stream);
#define TRACE_BEFORE(stream, ...) (trace_now ? trace_before((stream), __VA_ARGS__) : (void)0)
#define TRACE_AFTER(stream) (trace_now ? trace_after(stream) : (void)0)

/* cudaMemcpyAsync and cudaMemsetAsync. */
cudaError_t trace_copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                       cudaStream_t stream);
cudaError_t trace_set(void *p, int value, size_t bytes, cudaStream_t stream);

/* To trace so many steps after the tenth; path NULL: to issue them, and no more. EX_OSERR. */
int cuda_trace_create(struct cuda *cuda, int64_t steps, const char *path);
void cuda_trace_destroy(struct cuda *cuda);

/* A step begins. What fails, or cannot be written, is a fault of cuda. */
void cuda_trace_step(struct cuda *cuda);
/* It ends here, unless there is another update. */
void cuda_trace_update(struct cuda *cuda);
/* What comes now is of no step. */
void cuda_trace_pause(struct cuda *cuda);
/* Is this step traced? Then it is neither recorded nor replayed. */
int cuda_is_traced(const struct cuda *cuda);

#ifdef __cplusplus
}
#endif

#endif
