/* Named spans of a run, for who looks at where its time goes: ranges of NVTX, which Nsight Systems draws, and
 * the words before the names of kernels in trace.csv (cuda/trace.h). They cost next to nothing when nobody
 * looks. */
#ifndef VAECF_SPAN_H
#define VAECF_SPAN_H

/* The innermost span; NULL outside of all. Of the thread that computes: no other one has spans. */
extern const char *span_now;

/* Begins a span; returns the one around it, which span_end wants. The name stays the caller's. */
const char *span_begin(const char *name);
void span_end(const char **around);

/* SPAN("Adam"); begins one that ends with the block. */
#define SPAN(name) __attribute__((cleanup(span_end), unused)) const char *span_around = span_begin(name)

#endif
