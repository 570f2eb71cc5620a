/* See ranker.h. */
#include "ranker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "error.h"
#include "model.h"
#include "vector.h"

enum { ROWS_MAX = 512, SCORES_MAX = 1 << 26 /* numbers of a piece of a batch */ };

struct ranker {
    struct scorer *scorer; /* on the CPU; all else is of a GPU */
    struct backend backend;
    struct model model[MODELS_MAX]; /* the first one's closed items have a bias of -INFINITY */
    int64_t piece;                  /* users scored at a time */
    real *scores;                   /* [piece, n_items], of the backend */
    real *host_scores;              /* the same in host memory; NULL until there is a use for them */
    real *bias;                     /* [2, n_items]: the output layer's, and with closed items */
    int64_t *starts;                /* [2, piece + 1]: of a piece's rows, and of as many rows without items */
    double *log_sum;                /* [piece] */
};

/* ---- birth and death ---- */

static real *output_bias(const struct model *m) {
    return m->params + m->tensor[m->n_tensors - 1].offset;
}

static int prepare_device(struct ranker *r, const uint8_t *closed) {
    struct backend *b = &r->backend;
    size_t n_items = (size_t)r->model->n_items;
    r->piece = SCORES_MAX / r->model->n_items;
    if (r->piece > ROWS_MAX) r->piece = ROWS_MAX;
    if (r->piece < 1) r->piece = 1;
    r->scores = b->alloc(b, (size_t)r->piece * n_items);
    if (!r->scores) return EX_OSERR;
    r->bias = malloc(2 * n_items * sizeof *r->bias);
    r->starts = calloc(2 * (size_t)(r->piece + 1), sizeof *r->starts);
    r->log_sum = malloc((size_t)r->piece * sizeof *r->log_sum);
    if (!r->bias || !r->starts || !r->log_sum)
        return error_memory("the ranking", 2 * n_items * sizeof *r->bias);
    b->copy_out(b, r->bias, output_bias(r->model), n_items);
    for (size_t i = 0; i < n_items; i++) r->bias[n_items + i] = closed[i] ? -INFINITY : r->bias[i];
    b->copy_in(b, output_bias(r->model), r->bias + n_items, n_items);
    return b->check(b);
}

/* The backend and its model. */
static void release_device(struct ranker *r) {
    if (r->scores) r->backend.release(&r->backend, r->scores);
    blend_free(r->model);
    if (r->backend.destroy) r->backend.destroy(&r->backend);
    r->scores = NULL;
    r->backend = (struct backend){0};
}

int ranker_create(const struct blend *blend, const struct comm *comm, enum device device,
                  enum precision precision, const uint8_t *closed, struct ranker **ranker) {
    struct backend_options options = {.n_items = blend->info->n_items, .comm = comm, .comm_kind = COMM_MPI};
    struct ranker *r = *ranker = calloc(1, sizeof *r);
    int code = comm_agree(comm, r ? 0 : error_memory("the model", sizeof *r));
    if (!code) code = blend_device(blend, device, &options.device);
    if (!code) code = backend_create(&options, &r->backend);
    if (!code) code = blend_read(blend, &r->backend, r->model);
    if (!code && strcmp(r->backend.name, "cpu") == 0) {
        code = scorer_create(r->model, precision, &r->scorer);
        if (!code) scorer_close_items(r->scorer, closed);
        release_device(r);
    } else if (!code) {
        code = prepare_device(r, closed);
    }
    if (code) {
        ranker_destroy(r);
        *ranker = NULL;
    }
    return code;
}

void ranker_destroy(struct ranker *r) {
    if (!r) return;
    release_device(r);
    scorer_destroy(r->scorer);
    free(r->host_scores);
    free(r->bias);
    free(r->starts);
    free(r->log_sum);
    free(r);
}

/* ---- on a GPU ---- */

static double log_sum_of(const real *scores, int64_t n) {
    real largest = -INFINITY;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) largest = scores[i] > largest ? scores[i] : largest;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)vector_exp(scores[i] - largest);
    return (double)largest + log(sum);
}

/* The logarithms of the softmax's denominators, of which closed items are a part too: on the host. */
static int sum_exponentials(struct ranker *r, const struct csr *rows) {
    struct backend *b = &r->backend;
    int64_t n_items = r->model->n_items;
    size_t bytes = (size_t)(r->piece * n_items) * sizeof *r->host_scores;
    if (!r->host_scores && !(r->host_scores = malloc(bytes))) return error_memory("scores", bytes);
    b->copy_in(b, output_bias(r->model), r->bias, (size_t)n_items);
    int code = model_score(r->model, rows, r->scores);
    if (!code) b->copy_out(b, r->host_scores, r->scores, (size_t)(rows->rows * n_items));
    b->copy_in(b, output_bias(r->model), r->bias + n_items, (size_t)n_items);
    if (!code) code = b->check(b);
    if (code) return code;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < rows->rows; i++)
        r->log_sum[i] = log_sum_of(r->host_scores + i * n_items, n_items);
    return 0;
}

/* Of at most `piece` users. */
static int rank_piece(struct ranker *r, const struct csr *rows, int k, int flags, int32_t *top,
                      float *scores) {
    struct backend *b = &r->backend;
    int is_probability = scores && flags & SCORER_PROBABILITY;
    int code = is_probability ? sum_exponentials(r, rows) : 0;
    if (!code) code = model_score(r->model, rows, r->scores);
    if (!code && flags & SCORER_SEEN) { /* top_k leaves out what the loaded batch has */
        struct csr nothing = {.rows = rows->rows, .cols = rows->cols, .indptr = r->starts + r->piece + 1};
        code = b->load(b, &nothing, NULL, 0);
    }
    if (code) return code;
    b->top_k(b, rows->rows, r->scores, k, NULL, top, scores, NULL);
    code = b->check(b);
    for (int64_t i = 0; i < rows->rows * k && is_probability && !code; i++) {
        scores[i] = (float)exp((double)scores[i] - r->log_sum[i / k]);
    }
    return code;
}

/* ---- on either ---- */

int ranker_top_k(struct ranker *r, const struct csr *m, int k, int flags, int32_t *top, float *scores) {
    if (r->scorer) return scorer_top_k(r->scorer, m, k, flags, top, scores);
    int code = 0;
    for (int64_t first = 0; first < m->rows && !code; first += r->piece) {
        int64_t rows = m->rows - first < r->piece ? m->rows - first : r->piece;
        struct csr piece = csr_slice(m, first, rows, r->starts);
        code = rank_piece(r, &piece, k, flags, top + first * k, scores ? scores + first * k : NULL);
    }
    return code;
}

const char *ranker_device(const struct ranker *r) {
    return r->scorer ? "cpu" : r->backend.describe;
}

size_t ranker_bytes(const struct ranker *r) {
    return r->scorer ? scorer_bytes(r->scorer) : 0;
}
