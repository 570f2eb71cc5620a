/* See trace.h. */
#include "trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "error.h"
#include "file.h"
#include "span.h"

enum {
    FIRST = 10 /* steps before the first one that is traced */,
    NAME_SIZE = 96,
    LINE_SIZE = NAME_SIZE + 64
};

/* What was put on a stream. */
struct work {
    char name[NAME_SIZE];
    cudaStream_t stream;
    cudaEvent_t begin, end;
};

/* All of a name. */
struct row {
    char name[NAME_SIZE];
    int64_t calls;
    double milliseconds;
};

struct trace {
    struct cuda *cuda;
    int64_t steps, seen, traced; /* wanted; begun; timed */
    char *path;
    int is_on, is_new; /* this step is traced; the table lacks a step */
    cudaEvent_t begin, end;
    struct work *work; /* of this step; their events are used again */
    size_t n_work, n_made, n_room;
    size_t n_step; /* so many before the step's end */
    struct row *rows;
    size_t n_rows;
    double total, busy; /* milliseconds: of the steps; of the compute stream's work in them */
};

struct trace *trace_now;

int cuda_trace_create(struct cuda *cuda, int64_t steps, const char *path) {
    struct trace *t = cuda->trace = calloc(1, sizeof *t);
    if (!t) return error_memory("the trace", sizeof *t);
    t->cuda = cuda;
    t->steps = steps;
    if (!path) return 0;
    t->path = strdup(path);
    if (!t->path) return error_memory("the trace", strlen(path));
    TRY(cuda, cudaEventCreateWithFlags(&t->begin, cudaEventDefault));
    TRY(cuda, cudaEventCreateWithFlags(&t->end, cudaEventDefault));
    return cuda_told(cuda);
}

void cuda_trace_destroy(struct cuda *cuda) {
    struct trace *t = cuda->trace;
    if (!t) return;
    if (trace_now == t) trace_now = NULL;
    for (size_t i = 0; i < t->n_made; i++) {
        if (t->work[i].begin) cudaEventDestroy(t->work[i].begin);
        if (t->work[i].end) cudaEventDestroy(t->work[i].end);
    }
    if (t->begin) cudaEventDestroy(t->begin);
    if (t->end) cudaEventDestroy(t->end);
    free(t->work);
    free(t->rows);
    free(t->path);
    free(t);
}

/* ---- what a step does ---- */

/* The next piece of work, with events; NULL and a fault if there are none. */
static struct work *next_work(struct trace *t) {
    if (t->cuda->fault) return NULL;
    if (t->n_work == t->n_room) {
        size_t room = t->n_room ? 2 * t->n_room : 256;
        struct work *grown = realloc(t->work, room * sizeof *grown);
        if (!grown) {
            cuda_keep_fault(t->cuda, error_memory("the trace", room * sizeof *grown));
            return NULL;
        }
        t->work = grown;
        t->n_room = room;
    }
    struct work *w = &t->work[t->n_work];
    if (t->n_work == t->n_made) {
        *w = (struct work){0};
        t->n_made++;
        if (TRY(t->cuda, cudaEventCreateWithFlags(&w->begin, cudaEventDefault)) ||
            TRY(t->cuda, cudaEventCreateWithFlags(&w->end, cudaEventDefault))) {
            return NULL;
        }
    }
    t->n_work++;
    return w;
}

void trace_before(cudaStream_t stream, const char *format, ...) {
    char text[NAME_SIZE];
    struct work *w = next_work(trace_now);
    if (!w) return;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const char *name = text + (*text == '('); /* a kernel: (softmax<T, true>) */
    snprintf(w->name, sizeof w->name, "%.40s%s%.*s", span_now ? span_now : "", span_now ? ": " : "",
             (int)strcspn(name, "<)"), name);
    w->stream = stream;
    TRY(trace_now->cuda, cudaEventRecord(w->begin, stream));
}

/* On a stream one thing ends before the next one begins. */
void trace_after(cudaStream_t stream) {
    struct trace *t = trace_now;
    if (!t->cuda->fault) TRY(t->cuda, cudaEventRecord(t->work[t->n_work - 1].end, stream));
}

cudaError_t trace_copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                       cudaStream_t stream) {
    TRACE_BEFORE(stream, "copy %s",
                 kind == cudaMemcpyHostToDevice   ? "to the GPU"
                 : kind == cudaMemcpyDeviceToHost ? "to the host"
                                                  : "on the GPU");
    cudaError_t status = cudaMemcpyAsync(to, from, bytes, kind, stream);
    TRACE_AFTER(stream);
    return status;
}

cudaError_t trace_set(void *p, int value, size_t bytes, cudaStream_t stream) {
    TRACE_BEFORE(stream, "set memory");
    cudaError_t status = cudaMemsetAsync(p, value, bytes, stream);
    TRACE_AFTER(stream);
    return status;
}

/* ---- the table ---- */

static int add(struct trace *t, const char *name, double milliseconds) {
    size_t i = 0;
    while (i < t->n_rows && strcmp(t->rows[i].name, name) != 0) i++;
    if (i == t->n_rows) {
        struct row *grown = realloc(t->rows, (i + 1) * sizeof *grown);
        if (!grown) return error_memory("the trace", (i + 1) * sizeof *grown);
        t->rows = grown;
        t->rows[t->n_rows++] = (struct row){0};
        memcpy(t->rows[i].name, name, NAME_SIZE);
    }
    t->rows[i].calls++;
    t->rows[i].milliseconds += milliseconds;
    return 0;
}

/* Adds a step, all of whose work is done. */
static void add_step(struct trace *t) {
    float milliseconds = 0;
    TRY(t->cuda, cudaEventElapsedTime(&milliseconds, t->begin, t->end));
    t->total += (double)milliseconds;
    for (size_t i = 0; i < t->n_step && !t->cuda->fault; i++) {
        const struct work *w = &t->work[i];
        TRY(t->cuda, cudaEventElapsedTime(&milliseconds, w->begin, w->end));
        if (w->stream == t->cuda->compute) t->busy += (double)milliseconds;
        cuda_keep_fault(t->cuda, add(t, w->name, (double)milliseconds));
    }
    t->is_new = 1;
}

static int by_time(const void *a, const void *b) {
    const struct row *x = a, *y = b;
    return (x->milliseconds < y->milliseconds) - (x->milliseconds > y->milliseconds);
}

static int write_table(struct trace *t) {
    size_t size = (t->n_rows + 3) * LINE_SIZE, used = 0;
    double steps = (double)t->traced;
    char *text = malloc(size);
    if (!text) return error_memory("the trace", size);
    qsort(t->rows, t->n_rows, sizeof *t->rows, by_time);
    used += (size_t)snprintf(text, size, "kernel,calls,milliseconds,share\n");
    for (size_t i = 0; i < t->n_rows; i++) {
        const struct row *r = &t->rows[i];
        used +=
            (size_t)snprintf(text + used, size - used, "%s,%.4g,%.5f,%.4f\n", r->name,
                             (double)r->calls / steps, r->milliseconds / steps, r->milliseconds / t->total);
    }
    snprintf(text + used, size - used, "(gaps),,%.5f,%.4f\n(step),1,%.5f,1\n", (t->total - t->busy) / steps,
             1 - t->busy / t->total, t->total / steps);
    int code = file_write(t->path, text);
    free(text);
    t->is_new = 0;
    return code;
}

/* ---- steps ---- */

int cuda_is_traced(const struct cuda *cuda) {
    return cuda->trace && cuda->trace->is_on;
}

/* The step that is traced, if one is, ends. */
static void end_step(struct cuda *cuda) {
    struct trace *t = cuda->trace;
    t->traced += t->is_on;
    t->is_on = 0;
    if (!trace_now) return; /* another rank times it */
    trace_now = NULL;
    if (t->n_step > 0 && cuda_wait_for(cuda, t->end) == 0) add_step(t);
    t->n_work = t->n_step = 0;
}

void cuda_trace_update(struct cuda *cuda) {
    if (!trace_now) return;
    TRY(cuda, cudaEventRecord(trace_now->end, cuda->compute));
    trace_now->n_step = trace_now->n_work;
}

void cuda_trace_step(struct cuda *cuda) {
    struct trace *t = cuda->trace;
    if (!t) return;
    end_step(cuda);
    if (t->is_new && t->traced == t->steps) cuda_keep_fault(cuda, write_table(t));
    t->is_on = t->seen++ >= FIRST && t->traced < t->steps && !cuda->fault;
    if (!t->is_on || !t->path) return;
    TRY(cuda, cudaEventRecord(t->begin, cuda->compute));
    trace_now = t;
}

void cuda_trace_pause(struct cuda *cuda) {
    struct trace *t = cuda->trace;
    if (!t) return;
    end_step(cuda);
    if (t->is_new) cuda_keep_fault(cuda, write_table(t));
}
