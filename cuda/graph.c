/* The gradients of a step, recorded once as CUDA graphs and replayed; see cuda.h.
 *
 * The first step of so many rows is issued as ever: it takes the memory and finds the products' plans. The
 * second one is recorded while it is issued, and the others are replays, which cost the host one call, or one
 * for each part after which a sum over the ranks begins. What changes from step to step the kernels read from
 * device memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "environment.h"
#include "error.h"

void cuda_tell(struct cuda *cuda) {
    if (memcmp(&cuda->step, &cuda->told, sizeof cuda->step) == 0) return;
    if (cuda->is_recording) { /* it would be the same in every replay */
        cuda_keep_fault(cuda, error_set(EX_SOFTWARE, "GPU: a step differs from what it was said to be"));
    }
    kernel_step_is(cuda->compute, &cuda->step, cuda->device_step);
    cuda->told = cuda->step;
}

void cuda_tell_adam(struct cuda *cuda, const struct adam_step *step) {
    cuda->step.learning_rate = (float)step->learning_rate;
    cuda->step.rate = (float)(step->learning_rate / step->correction1);
    cuda->step.unbias = (float)(1 / sqrt(step->correction2));
    cuda->step.unscale = (float)step->unscale;
}

static void forget(struct recording *r) {
    for (int i = 0; i < r->n_parts; i++) {
        if (r->part[i].graph) cudaGraphExecDestroy(r->part[i].graph);
    }
    free(r->part);
    *r = (struct recording){0};
}

void cuda_forget_recordings(struct cuda *cuda) {
    for (int i = 0; i < CUDA_RECORDINGS; i++) forget(&cuda->recording[i]);
}

/* Is it of steps that make the same calls with the same sizes? */
static int is_of(const struct recording *r, const struct step *step) {
    return r->seen && r->rows == step->rows && r->seed == step->draw.seed && r->turn == step->turn;
}

/* The recording of such steps; if there is none yet, a new one in the place of the one that was not used for
 * longest. */
static struct recording *recording_of(struct cuda *cuda, const struct step *step) {
    struct recording *found = &cuda->recording[0];
    for (int i = 1; i < CUDA_RECORDINGS && !is_of(found, step); i++) {
        struct recording *r = &cuda->recording[i];
        if (is_of(r, step) || r->used < found->used) found = r;
    }
    if (!is_of(found, step) || found->memory != cuda->memory) { /* or its addresses are no longer good */
        forget(found);
        *found = (struct recording){
            .rows = step->rows, .seed = step->draw.seed, .turn = step->turn, .memory = cuda->memory};
    }
    found->seen++;
    found->used = cuda->n_steps;
    return found;
}

int cuda_is_allowed(const char *variable) {
    const char *text = environment(variable);
    return !text || strcmp(text, "no") != 0;
}

/* Starts a part; the sum of what is ready after it begins, or, after the last part, waits for all_reduce. */
static void start_part(struct cuda *cuda, const struct recording *r, int i) {
    TRY(cuda, cudaGraphLaunch(r->part[i].graph, cuda->compute));
    cuda->pending = r->part[i].ready;
    cuda->n_pending = r->part[i].n_ready;
    if (cuda->n_pending && i < r->n_parts - 1) cuda_begin_pending(cuda);
}

static void begin_part(struct cuda *cuda) {
    TRY(cuda, cudaStreamBeginCapture(cuda->compute, cudaStreamCaptureModeThreadLocal));
}

/* Ends a part of what is recorded and starts it. */
static void end_part(struct cuda *cuda) {
    struct recording *r = cuda->current;
    struct part part = {.ready = cuda->pending, .n_ready = cuda->n_pending};
    cudaGraph_t graph = NULL;
    TRY(cuda, cudaStreamEndCapture(cuda->compute, &graph));
    if (graph && !cuda->fault) TRY(cuda, cudaGraphInstantiate(&part.graph, graph, 0));
    if (graph) cudaGraphDestroy(graph);
    struct part *grown = realloc(r->part, (size_t)(r->n_parts + 1) * sizeof *grown);
    if (!grown) cuda_keep_fault(cuda, error_memory("a recorded step", sizeof *grown));
    if (part.graph && !cuda->fault) TRY(cuda, cudaGraphLaunch(part.graph, cuda->compute));
    if (grown) {
        r->part = grown;
        r->part[r->n_parts++] = part;
    } else if (part.graph) {
        cudaGraphExecDestroy(part.graph);
    }
}

void cuda_cut_recording(struct cuda *cuda) {
    end_part(cuda);
    cuda_begin_pending(cuda);
    begin_part(cuda);
}

int cuda_step_begin(struct backend *backend, struct step *step) {
    struct cuda *cuda = backend->state;
    cudaEvent_t before = cuda->ahead[cuda->n_steps++ % CUDA_AHEAD];
    int64_t begin, count;
    SPAN("step");
    cuda_trace_step(cuda);
    cuda_settle_sums(cuda);
    cuda_wait_for(cuda, before); /* a rank that is lost is noticed here, not when the queue is full */
    TRY(cuda, cudaEventRecord(before, cuda->compute));
    cuda_draw_order(cuda, &step->draw);
    cuda_kept_rows(cuda, step->first, &begin, &count, &step->rows);
    cuda->step.epoch = step->draw.epoch;
    cuda->step.first = (int32_t)begin;
    cuda->step.rows = (int32_t)count;
    cuda->step.scale = (float)step->scale;
    cuda->step.kl_weight = (float)(step->beta * step->scale);
    cuda->step.beta = step->beta;
    cuda->step.gamma = step->gamma;
    cuda_tell(cuda);
    struct recording *r = recording_of(cuda, step);
    if (r->n_parts > 0 && !cuda->fault && !cuda_is_traced(cuda)) {
        cuda_set_kept(cuda, step->rows); /* another batch may have been loaded meanwhile */
        for (int i = 0; i < r->n_parts; i++) start_part(cuda, r, i);
        return 1;
    }
    cuda->current = r;
    cuda->is_recording = r->seen > 1 && cuda->sparse != SPARSE_CUSPARSE && cuda_is_allowed("VAECF_GRAPHS") &&
                         !cuda->fault && !cuda_is_traced(cuda);
    if (cuda->is_recording) begin_part(cuda);
    return 0;
}

int cuda_step_end(struct backend *backend) {
    struct cuda *cuda = backend->state;
    kernel_add_losses(cuda->compute, cuda->device_step, cuda->sums, cuda->totals);
    if (cuda->is_recording) end_part(cuda);
    cuda->is_recording = 0;
    cuda->recorded = cuda->born;
    cuda->current->memory = cuda->memory; /* what it took is there for the next one */
    cuda->current = NULL;
    return cuda_told(cuda);
}

int cuda_step_losses(struct backend *backend, double sums[3]) {
    struct cuda *cuda = backend->state;
    size_t bytes = 3 * sizeof *sums;
    cuda_trace_pause(cuda);
    TRY(cuda, trace_copy(cuda->host_sums, cuda->totals, bytes, cudaMemcpyDeviceToHost, cuda->compute));
    TRY(cuda, trace_set(cuda->totals, 0, bytes, cuda->compute));
    int code = cuda_wait_all(cuda);
    for (int i = 0; i < 3; i++) sums[i] = code ? 0 : cuda->host_sums[i];
    return code;
}
