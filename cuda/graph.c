/* Steps that are recorded once, as a CUDA graph, and replayed; see cuda.h.
 *
 * The first step of so many rows is issued as ever: it takes the memory and finds the products' plans. The
 * second one is recorded while it is issued, and the others are replays, which cost the host one call. What
 * changes from step to step the kernels read from device memory. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
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
    if (r->replayed) cudaGraphExecDestroy(r->replayed);
    *r = (struct recording){0};
}

void cuda_forget_recordings(struct cuda *cuda) {
    for (int i = 0; i < CUDA_RECORDINGS; i++) forget(&cuda->recording[i]);
}

/* The recording of such steps; if there is none yet, a new one in the place of the least used. */
static struct recording *recording_of(struct cuda *cuda, const struct step *step) {
    struct recording *least = &cuda->recording[0];
    for (int i = 0; i < CUDA_RECORDINGS; i++) {
        struct recording *r = &cuda->recording[i];
        if (r->seen && r->rows == step->rows && r->seed == step->draw.seed) return r;
        if (r->seen < least->seen) least = r;
    }
    forget(least);
    least->rows = step->rows;
    least->seed = step->draw.seed;
    return least;
}

static int is_allowed(void) {
    const char *text = getenv("VAECF_GRAPHS");
    return !text || strcmp(text, "no") != 0;
}

static void replay(struct cuda *cuda, struct recording *r) {
    TRY(cuda, cudaGraphLaunch(r->replayed, cuda->compute));
    if (cuda->is_guarded) TRY(cuda, cudaEventRecord(cuda->guarded, cuda->compute));
}

int cuda_step_begin(struct backend *backend, const struct step *step) {
    struct cuda *cuda = backend->state;
    cuda->step.epoch = step->draw.epoch;
    cuda->step.first = (int32_t)step->first;
    cuda->step.scale = (float)step->scale;
    cuda->step.kl_weight = (float)(step->beta * step->scale);
    cuda->step.beta = step->beta;
    cuda_tell_adam(cuda, &step->adam);
    cuda_draw_order(cuda, &step->draw);
    cuda_tell(cuda);
    struct recording *r = recording_of(cuda, step);
    if (r->memory != cuda->memory && r->seen) {
        struct recording again = {.rows = r->rows, .seed = r->seed};
        forget(r);
        *r = again;
    }
    r->memory = cuda->memory;
    r->seen++;
    if (r->replayed) {
        replay(cuda, r);
        return 1;
    }
    cuda->current = r;
    cuda->is_recording = r->seen > 1 && is_allowed();
    if (cuda->is_recording)
        TRY(cuda, cudaStreamBeginCapture(cuda->compute, cudaStreamCaptureModeThreadLocal));
    return 0;
}

int cuda_step_end(struct backend *backend) {
    struct cuda *cuda = backend->state;
    struct recording *r = cuda->current;
    cudaGraph_t graph = NULL;
    kernel_add_losses(cuda->compute, cuda->device_step, cuda->sums, cuda->totals);
    cuda->current = NULL;
    cuda->recorded = cuda->born;
    if (!cuda->is_recording) {
        r->memory = cuda->memory; /* what it took is there for the next one */
        return cuda_told(cuda);
    }
    cuda->is_recording = 0;
    TRY(cuda, cudaStreamEndCapture(cuda->compute, &graph));
    if (graph && !TRY(cuda, cudaGraphInstantiate(&r->replayed, graph, 0))) replay(cuda, r);
    if (graph) cudaGraphDestroy(graph);
    return cuda_told(cuda);
}

int cuda_step_losses(struct backend *backend, double sums[3]) {
    struct cuda *cuda = backend->state;
    size_t bytes = 3 * sizeof *sums;
    TRY(cuda, cudaMemcpyAsync(cuda->host_sums, cuda->totals, bytes, cudaMemcpyDeviceToHost, cuda->compute));
    TRY(cuda, cudaMemsetAsync(cuda->totals, 0, bytes, cuda->compute));
    int code = cuda_wait_all(cuda);
    for (int i = 0; i < 3; i++) sums[i] = code ? 0 : cuda->host_sums[i];
    return code;
}
