/* The CPU backend: OpenMP around a GEMM library; see backend.h.
 *
 * Every sum is taken in an order that depends on the data alone, so results do not change from run to run. */
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend.h"
#include "candidate.h"
#include "comm.h"
#include "error.h"
#include "fp16.h"
#include "gemm.h"
#include "grid.h"
#include "layer_norm.h"
#include "philox.h"
#include "vector.h"

enum {
    LOGITS_MAX = 1 << 24,   /* numbers of a block of rows in the output layer */
    BLOCK_ROWS_MIN = 16,    /* a block of fewer rows is cut into tiles of items instead */
    BLOCK_ROWS_MAX = 1024,  /* at most */
    EXCHANGE_MAX = 1 << 22, /* numbers of one piece of the input layer's all-reduce */
    HUGE_PAGE = 1 << 21,    /* bytes */
    COLUMNS = 512,          /* of a matrix, that a thread sums at a time */
};

enum half { HALF_A, HALF_B, HALF_WEIGHTS, HALF_GRADIENT, HALVES };

/* What a user's softmax needs of logits that have gone by. */
struct logit_sums {
    double largest, sum; /* of exp(logit - largest) */
    double hits;         /* sum of the logits of the user's own items */
};

struct cpu {
    int64_t n_items;
    const struct grid *grid; /* with several item ranks; NULL: these are all items */
    int32_t first_item;      /* in the whole catalogue */
    /* the loaded batch */
    const struct csr *rows;
    const int64_t *users;
    real *values;        /* [nonzeros] of the input */
    int64_t values_room; /* numbers that fit into values, by_item */
    /* the same by item (compressed columns), for the gradient */
    uint64_t *touched;   /* [words] a bit an item of the batch */
    int64_t *place;      /* [n_items] where the item is in item[] */
    int32_t *item;       /* [n_touched] ascending */
    int64_t *item_start; /* [n_touched + 1] into by_item */
    int64_t n_touched, items_room;
    struct entry {
        int32_t row;
        int64_t at; /* into values */
    } * by_item;
    /* input_all_reduce */
    uint64_t *filled, *all; /* [words] rows of dw that are not zero; of some rank's batch */
    real *dw;               /* whose rows they are */
    real *exchange;         /* [EXCHANGE_MAX] or a row */
    size_t exchange_room;
    int data_ranks; /* that sum up their gradients */
    /* the output layer */
    real *logits;                       /* [block, tile] */
    int64_t logits_max, logits_room;    /* numbers */
    int64_t block, tile;                /* rows and items of a piece of them */
    struct logit_sums *sums, *all_sums; /* [block], [item ranks, block] */
    /* operands rounded to bf16: [room] each */
    bf16 *half[HALVES];
    int64_t half_room[HALVES];
    /* the items that the output layer computes: all, or a sample of them */
    int64_t n_logits;
    const struct csr *labels; /* the loaded batch's items among them */
    int64_t sampled;          /* wanted; 0: all. The rest is for a sample: */
    struct sample_key sample_key;
    float *probability;         /* [n_items] of being drawn, */
    int64_t probability_wanted; /* when so many are wanted */
    uint64_t *drawn;            /* [words] */
    int32_t *column;            /* [n_items] where an item is among the drawn ones */
    struct csr own_labels;      /* with */
    int32_t *label_items;       /* [label_room] */
    int64_t label_room;
    int32_t *sample; /* [n_logits] ascending */
    real *sample_b;  /* the bias less log probability, */
    real *sample_db;
    real *sample_w, *sample_dw; /* [n_logits, h] */
    int64_t sample_room, sample_numbers;
    const real *weights; /* of the output layer, that half[HALF_WEIGHTS] holds as they are now; NULL: none */
    int use_bf16;        /* asked for, and there */
    int use_fp16;        /* the same by program: operands rounded to fp16, as `real` */
    real *in_fp16[2];    /* [fp16_room] each */
    int64_t fp16_room[2];
    int overflow;    /* of the gradients, as guard has found */
    int is_training; /* the loaded batch is for training */
    double *nll;     /* [rows] */
    int64_t rows_room;
    struct candidate *heap; /* [threads, heap_room] */
    int64_t heap_room;
    int fault; /* of a function that cannot fail */
    char fault_message[256];
};

static int64_t words_of(int64_t n_items) {
    return (n_items + 63) / 64;
}

/* ---- memory ---- */

static void *memory(size_t bytes) {
    void *p = NULL;
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 64;
    if (posix_memalign(&p, alignment, bytes ? bytes : 64)) return NULL;
    if (alignment == HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

static void zero(struct backend *backend, real *memory_, size_t n) {
    (void)backend;
    enum { PIECE = 1 << 16 };
#pragma omp parallel for schedule(static) if (n > PIECE)
    for (size_t i = 0; i < n; i += PIECE) {
        memset(memory_ + i, 0, (n - i < PIECE ? n - i : PIECE) * sizeof *memory_);
    }
}

static real *alloc(struct backend *backend, size_t n) {
    real *p = memory(n * sizeof *p);
    if (p) {
        zero(backend, p, n);
    } else {
        error_memory("the model", n * sizeof *p);
    }
    return p;
}

static void release(struct backend *backend, real *memory_) {
    (void)backend;
    free(memory_);
}

static void copy_in(struct backend *backend, real *to, const real *from, size_t n) {
    struct cpu *cpu = backend->state;
    cpu->weights = NULL; /* these may be new ones */
    memcpy(to, from, n * sizeof *to);
}

static void copy_out(struct backend *backend, real *to, const real *from, size_t n) {
    (void)backend;
    memcpy(to, from, n * sizeof *to);
}

/* Makes *p hold n things of `size` bytes; what was in it is lost. */
static int make_room(void *p, int64_t n, size_t size) {
    void **to = p;
    free(*to);
    *to = memory((size_t)n * size);
    return *to ? 0 : error_memory("a batch", (unsigned long long)n * size);
}

static int check(struct backend *backend) {
    struct cpu *cpu = backend->state;
    return cpu->fault ? error_set(cpu->fault, "%s", cpu->fault_message) : 0;
}

static void keep_fault(struct cpu *cpu, int code) {
    if (cpu->fault) return;
    cpu->fault = code;
    snprintf(cpu->fault_message, sizeof cpu->fault_message, "%s", error_message());
}

/* ---- the batch ---- */

static int is_set(const uint64_t *words, int64_t i) {
    return (int)(words[i >> 6] >> (i & 63) & 1);
}

static void set(uint64_t *words, int64_t i) {
    words[i >> 6] |= (uint64_t)1 << (i & 63);
}

/* Lists the batch's items and, for each, the rows that have it, ascending. Cost: non-zeros + n_items / 64. */
static int sort_by_item(struct cpu *cpu) {
    const struct csr *m = cpu->rows;
    int64_t words = words_of(cpu->n_items), nonzeros = csr_nonzeros(m), n = 0;
    memset(cpu->touched, 0, (size_t)words * sizeof *cpu->touched);
    for (int64_t k = 0; k < nonzeros; k++) set(cpu->touched, m->indices[k]);
    for (int64_t w = 0; w < words; w++) n += __builtin_popcountll(cpu->touched[w]);
    if (n > cpu->items_room || !cpu->item_start) {
        cpu->items_room = 0;
        if (make_room(&cpu->item, n, sizeof *cpu->item)) return EX_OSERR;
        if (make_room(&cpu->item_start, n + 1, sizeof *cpu->item_start)) return EX_OSERR;
        cpu->items_room = n;
    }
    cpu->n_touched = 0;
    for (int64_t w = 0; w < words; w++) {
        for (uint64_t rest = cpu->touched[w]; rest; rest &= rest - 1) {
            int64_t item = w * 64 + __builtin_ctzll(rest);
            cpu->place[item] = cpu->n_touched;
            cpu->item[cpu->n_touched++] = (int32_t)item;
        }
    }
    int64_t *start = cpu->item_start;
    memset(start, 0, (size_t)(n + 1) * sizeof *start);
    for (int64_t k = 0; k < nonzeros; k++) start[cpu->place[m->indices[k]] + 1]++;
    for (int64_t i = 0; i < n; i++) start[i + 1] += start[i];
    for (int64_t r = 0; r < m->rows; r++) {
        for (int64_t k = m->indptr[r]; k < m->indptr[r + 1]; k++) {
            cpu->by_item[start[cpu->place[m->indices[k]]]++] = (struct entry){(int32_t)r, k};
        }
    }
    for (int64_t i = n; i > 0; i--) start[i] = start[i - 1];
    start[0] = 0;
    return 0;
}

/* Cuts the output layer's work and makes room for a piece of logits. */
static int prepare_output(struct cpu *cpu, int64_t rows) {
    int64_t largest = cpu->n_logits;
    if (cpu->grid) largest = cpu->sampled ? comm_max(&cpu->grid->items, largest) : cpu->grid->largest_count;
    int64_t tile, block = backend_cut_logits(cpu->logits_max, largest, cpu->n_logits, rows, BLOCK_ROWS_MIN,
                                             BLOCK_ROWS_MAX, &tile);
    if (block > BLOCK_ROWS_MAX) block = BLOCK_ROWS_MAX;
    cpu->block = block;
    cpu->tile = tile;
    if (rows > cpu->rows_room) {
        int64_t ranks = cpu->grid ? cpu->grid->items.size : 1;
        cpu->rows_room = 0;
        if (make_room(&cpu->nll, rows, sizeof *cpu->nll)) return EX_OSERR;
        if (make_room(&cpu->sums, rows, sizeof *cpu->sums)) return EX_OSERR;
        if (make_room(&cpu->all_sums, rows * ranks, sizeof *cpu->all_sums)) return EX_OSERR;
        cpu->rows_room = rows;
    }
    if (block * tile <= cpu->logits_room) return 0;
    cpu->logits_room = 0;
    if (make_room(&cpu->logits, block * tile, sizeof *cpu->logits)) return EX_OSERR;
    cpu->logits_room = block * tile;
    return 0;
}

static int load(struct backend *backend, const struct csr *rows, const int64_t *users, int for_training) {
    struct cpu *cpu = backend->state;
    cpu->rows = rows;
    cpu->users = users;
    cpu->is_training = for_training;
    int64_t nonzeros = csr_nonzeros(rows);
    if (nonzeros > cpu->values_room) {
        cpu->values_room = 0;
        if (make_room(&cpu->values, nonzeros, sizeof *cpu->values)) return EX_OSERR;
        if (make_room(&cpu->by_item, nonzeros, sizeof *cpu->by_item)) return EX_OSERR;
        cpu->values_room = nonzeros;
    }
    if (!for_training) return 0;
    cpu->n_logits = cpu->n_items;
    cpu->labels = rows;
    cpu->sampled = 0;
    if (cpu->data_ranks > 1 && !cpu->exchange) { /* here, where a failure is not yet waited for by others */
        if (make_room(&cpu->exchange, EXCHANGE_MAX, sizeof *cpu->exchange)) return EX_OSERR;
        cpu->exchange_room = EXCHANGE_MAX;
    }
    int code = sort_by_item(cpu);
    return code ? code : prepare_output(cpu, rows->rows);
}

/* The draws of a row's items, counted from first_item: items of four share a block of random words. */
static void drop_out(const struct draw *draw, double p, uint64_t user, int32_t first_item,
                     const int32_t *items, int64_t n, real *values) {
    const real keep = (real)(1 - p);
    const float threshold = (float)p;
    struct philox_block block = {{0}};
    int32_t have = -1;
    for (int64_t k = 0; k < n; k++) {
        int32_t item = first_item + items[k], want = item / 4;
        if (want != have) block = philox(draw->seed, PHILOX_DROPOUT, draw->epoch, user, (uint32_t)want);
        have = want;
        values[k] = philox_uniform(block.lane[item % 4]) >= threshold ? values[k] / keep : 0;
    }
}

static void input_values(struct backend *backend, const struct draw *draw, double p) {
    struct cpu *cpu = backend->state;
    const struct csr *m = cpu->rows;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < m->rows; r++) {
        int64_t begin = m->indptr[r], n = m->indptr[r + 1] - begin;
        real *values = cpu->values + begin;
        real value = (real)(1 / sqrt((double)csr_row_size(m, r)));
        for (int64_t k = 0; k < n; k++) values[k] = value;
        if (draw && p > 0) {
            drop_out(draw, p, (uint64_t)cpu->users[r], cpu->first_item, m->indices + begin, n, values);
        }
    }
}

static void input_ones(struct backend *backend) {
    struct cpu *cpu = backend->state;
    for (int64_t k = 0; k < csr_nonzeros(cpu->rows); k++) cpu->values[k] = 1;
}

/* ---- products ---- */

/* half[which] with room for n; NULL and a fault if there is no memory. */
static bf16 *half_room(struct cpu *cpu, enum half which, int64_t n) {
    if (n <= cpu->half_room[which]) return cpu->half[which];
    cpu->half_room[which] = 0;
    int code = make_room(&cpu->half[which], n, sizeof **cpu->half);
    if (code) {
        keep_fault(cpu, code);
        return NULL;
    }
    cpu->half_room[which] = n;
    return cpu->half[which];
}

static void round_to_half(int64_t n, const real *restrict from, bf16 *restrict to) {
    for (int64_t i = 0; i < n; i++) to[i] = bf16_from_float((float)from[i]);
}

/* from[n] rounded, in half[which]; NULL and a fault if there is no memory. */
static const bf16 *rounded(struct cpu *cpu, enum half which, const real *from, int64_t n) {
    bf16 *to = half_room(cpu, which, n);
    if (!to) return NULL;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] = bf16_from_float((float)from[i]);
    return to;
}

/* The output layer's weights rounded: adam keeps them so from one step to the next. */
static const bf16 *rounded_weights(struct cpu *cpu, const real *w, int64_t n) {
    if (cpu->weights == w) return cpu->half[HALF_WEIGHTS];
    const bf16 *to = rounded(cpu, HALF_WEIGHTS, w, n);
    cpu->weights = to ? w : NULL;
    return to;
}

static void round_all(int64_t n, const real *from, real *to) {
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) to[i] = (real)fp16_round((float)from[i]);
}

/* from[n] rounded to fp16, in in_fp16[which]; NULL and a fault if there is no memory. */
static const real *round_to_fp16(struct cpu *cpu, int which, const real *from, int64_t n) {
    if (n > cpu->fp16_room[which]) {
        cpu->fp16_room[which] = 0;
        int code = make_room(&cpu->in_fp16[which], n, sizeof **cpu->in_fp16);
        if (code) {
            keep_fault(cpu, code);
            return NULL;
        }
        cpu->fp16_room[which] = n;
    }
    round_all(n, from, cpu->in_fp16[which]);
    return cpu->in_fp16[which];
}

/* c = op(a) op(b) as gemm.h says, in the precision of the loaded batch's work. */
static void product(struct cpu *cpu, int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k,
                    const real *a, const real *b, real *c) {
    int code = 0;
    if (cpu->use_bf16 && cpu->is_training) {
        const bf16 *a16 = rounded(cpu, HALF_A, a, m * k), *b16 = rounded(cpu, HALF_B, b, k * n);
        if (a16 && b16) code = gemm_bf16(transpose_a, transpose_b, m, n, k, a16, b16, 0, c);
    } else if (cpu->use_fp16 && cpu->is_training) {
        a = round_to_fp16(cpu, 0, a, m * k);
        b = round_to_fp16(cpu, 1, b, k * n);
        if (a && b) code = gemm(transpose_a, transpose_b, m, n, k, a, b, 0, c);
    } else {
        code = gemm(transpose_a, transpose_b, m, n, k, a, b, 0, c);
    }
    if (code) keep_fault(cpu, code);
}

/* ---- layers ---- */

static void activate(enum activation act, int n, const real *restrict bias, real *restrict y) {
    switch (act) {
    case ACTIVATION_NONE:
        for (int j = 0; j < n; j++) y[j] = y[j] + bias[j];
        break;
    case ACTIVATION_TANH:
        for (int j = 0; j < n; j++) y[j] = vector_tanh(y[j] + bias[j]);
        break;
    case ACTIVATION_RELU:
        for (int j = 0; j < n; j++) y[j] = y[j] + bias[j] > 0 ? y[j] + bias[j] : 0;
        break;
    case ACTIVATION_SIGMOID:
        for (int j = 0; j < n; j++) y[j] = 1 / (1 + vector_exp(-(y[j] + bias[j])));
        break;
    }
}

/* dy becomes the gradient before the activation, whose value was y. */
static void deactivate(enum activation act, int64_t n, const real *restrict y, real *restrict dy) {
    if (act == ACTIVATION_NONE) return;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) {
        real slope = act == ACTIVATION_TANH ? 1 - y[i] * y[i] : y[i] * (1 - y[i]);
        if (act == ACTIVATION_RELU) slope = y[i] > 0 ? 1 : 0;
        dy[i] *= slope;
    }
}

/* sums[n_cols] = (add ? sums : 0) + the sum of the rows. */
static void sum_rows(const real *matrix, int64_t rows, int64_t cols, int add, real *sums) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < cols; first += COLUMNS) {
        int64_t n = cols - first < COLUMNS ? cols - first : COLUMNS;
        real *to = sums + first;
        if (!add) memset(to, 0, (size_t)n * sizeof *to);
        for (int64_t r = 0; r < rows; r++) {
            const real *from = matrix + r * cols + first;
            for (int64_t j = 0; j < n; j++) to[j] += from[j];
        }
    }
}

/* y += v w */
static void add_scaled(int n, real v, const real *restrict w, real *restrict y) {
    for (int j = 0; j < n; j++) y[j] += v * w[j];
}

static void input_forward(struct backend *backend, const real *w, const real *b, int h, enum activation act,
                          real *y) {
    struct cpu *cpu = backend->state;
    const struct csr *m = cpu->rows;
#pragma omp parallel for schedule(dynamic, 8)
    for (int64_t r = 0; r < m->rows; r++) {
        real *to = y + r * h;
        memset(to, 0, (size_t)h * sizeof *to);
        for (int64_t k = m->indptr[r]; k < m->indptr[r + 1]; k++) {
            if (cpu->values[k] != 0) add_scaled(h, cpu->values[k], w + (int64_t)m->indices[k] * h, to);
        }
        if (!cpu->grid) activate(act, h, b, to);
    }
    if (!cpu->grid) return;
    comm_sum_real(&cpu->grid->items, y, (size_t)(m->rows * h));
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < m->rows; r++) activate(act, h, b, y + r * h);
}

static void input_backward(struct backend *backend, int h, enum activation act, const real *y, real *dy,
                           real *dw, real *db) {
    struct cpu *cpu = backend->state;
    deactivate(act, cpu->rows->rows * h, y, dy);
    sum_rows(dy, cpu->rows->rows, h, 0, db);
#pragma omp parallel for schedule(dynamic, 32)
    for (int64_t i = 0; i < cpu->n_touched; i++) {
        real *to = dw + (int64_t)cpu->item[i] * h;
        memset(to, 0, (size_t)h * sizeof *to);
        for (int64_t e = cpu->item_start[i]; e < cpu->item_start[i + 1]; e++) {
            real v = cpu->values[cpu->by_item[e].at];
            if (v != 0) add_scaled(h, v, dy + (int64_t)cpu->by_item[e].row * h, to);
        }
    }
}

static void dense_forward(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                          const real *w, const real *b, enum activation act, real *y) {
    product(backend->state, 0, 0, rows, n_out, n_in, x, w, y);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) activate(act, n_out, b, y + r * n_out);
}

static void dense_backward(struct backend *backend, int64_t rows, int n_in, int n_out, const real *x,
                           const real *w, const real *y, enum activation act, real *dy, real *dx, real *dw,
                           real *db) {
    struct cpu *cpu = backend->state;
    deactivate(act, rows * n_out, y, dy);
    if (dw) {
        sum_rows(dy, rows, n_out, 0, db);
        product(cpu, 1, 0, n_in, n_out, rows, x, dy, dw);
    }
    if (dx) product(cpu, 0, 1, rows, n_in, n_out, dy, w, dx);
}

static void normalize(struct backend *backend, int64_t rows, int n, const real *y, real *x) {
    (void)backend;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) layer_norm_row(n, y + r * n, x + r * n);
}

static void normalize_backward(struct backend *backend, int64_t rows, int n, const real *y, const real *x,
                               real *dx) {
    (void)backend;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) layer_norm_row_backward(n, y + r * n, x + r * n, dx + r * n);
}

/* ---- the latent layer ---- */

static void draw_noise(const struct draw *draw, uint64_t user, int n, real *noise) {
    float four[4];
    for (int j = 0; j < n; j += 4) {
        philox_normal(philox(draw->seed, PHILOX_NOISE, draw->epoch, user, (uint32_t)(j / 4)), four);
        for (int l = 0; l < 4 && j + l < n; l++) noise[j + l] = (real)four[l];
    }
}

static void latent_forward(struct backend *backend, int64_t rows, int n, const struct draw *draw,
                           const real *stats, real *noise, real *z) {
    struct cpu *cpu = backend->state;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const real *mu = stats + r * 2 * n, *logvar = mu + n;
        real *eps = noise + r * n, *to = z + r * n;
        memcpy(to, mu, (size_t)n * sizeof *to);
        if (!draw) continue;
        draw_noise(draw, (uint64_t)cpu->users[r], n, eps);
        for (int j = 0; j < n; j++) to[j] += eps[j] * vector_exp(logvar[j] / 2);
    }
}

static double latent_backward(struct backend *backend, int64_t rows, int n, double beta, double gamma,
                              double scale, const real *stats, const real *noise, const real *dz,
                              real *dstats, double *penalty) {
    struct cpu *cpu = backend->state;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const real *mu = stats + r * 2 * n, *logvar = mu + n, *eps = noise + r * n, *from = dz + r * n;
        real *dmu = dstats + r * 2 * n, *dlogvar = dmu + n, sum = 0;
        real weight = (real)((gamma > 0 ? gamma * (double)csr_row_size(cpu->rows, r) : beta) * scale);
#pragma omp simd reduction(+ : sum)
        for (int j = 0; j < n; j++) {
            real deviation = vector_exp(logvar[j] / 2), variance = deviation * deviation;
            dmu[j] = from[j] + weight * mu[j];
            dlogvar[j] = from[j] * eps[j] * deviation / 2 + weight * (variance - 1) / 2;
            sum += mu[j] * mu[j] + variance - logvar[j] - 1;
        }
        cpu->nll[r] = sum / 2;
    }
    double kl = 0;
    *penalty = 0;
    for (int64_t r = 0; r < rows; r++) {
        kl += cpu->nll[r];
        *penalty += gamma * (double)csr_row_size(cpu->rows, r) * cpu->nll[r];
    }
    return kl;
}

/* ---- the output layer ---- */

/* A row of logits without bias becomes the gradient of scale * nll of smoothed labels, rounded in half[n]
 * unless NULL, else in place; returns nll. */
static double softmax_row(int64_t n, const real *restrict bias, const int32_t *items, int64_t n_items,
                          real scale, real smoothing, real *restrict logits, bf16 *restrict half) {
    real largest = -INFINITY, sum = 0;
    double hits = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        logits[i] += bias[i];
        largest = logits[i] > largest ? logits[i] : largest;
    }
    for (int64_t k = 0; k < n_items; k++) hits += (double)(logits[items[k]] - largest);
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        logits[i] = vector_exp(logits[i] - largest);
        sum += logits[i];
    }
    real factor = scale * (real)n_items / sum;
    const real all = scale * smoothing * (real)n_items / (real)n, own = scale * (1 - smoothing);
    if (half) {
#pragma omp simd
        for (int64_t i = 0; i < n; i++) half[i] = bf16_from_float((float)(logits[i] * factor - all));
        for (int64_t k = 0; k < n_items; k++) {
            half[items[k]] = bf16_from_float((float)(logits[items[k]] * factor - all - own));
        }
        return (double)n_items * log((double)sum) - hits;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) logits[i] = logits[i] * factor - all;
    for (int64_t k = 0; k < n_items; k++) logits[items[k]] -= own;
    return (double)n_items * log((double)sum) - hits;
}

/* db as sum_rows makes it, of rounded gradients. */
static void sum_rows_half(const bf16 *matrix, int64_t rows, int64_t cols, int add, real *sums) {
#pragma omp parallel for schedule(static)
    for (int64_t first = 0; first < cols; first += COLUMNS) {
        int64_t n = cols - first < COLUMNS ? cols - first : COLUMNS;
        real *to = sums + first;
        if (!add) memset(to, 0, (size_t)n * sizeof *to);
        for (int64_t r = 0; r < rows; r++) {
            const bf16 *from = matrix + r * cols + first;
            for (int64_t j = 0; j < n; j++) to[j] += (real)bf16_to_float(from[j]);
        }
    }
}

/* Rows [first, first + count) of logits become gradients, in half or in place. */
static void softmax_rows(struct cpu *cpu, int64_t first, int64_t count, const real *b, real scale,
                         real smoothing, bf16 *half) {
    const struct csr *m = cpu->labels;
    int64_t n = cpu->n_logits;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t r = 0; r < count; r++) {
        int64_t begin = m->indptr[first + r], end = m->indptr[first + r + 1];
        cpu->nll[first + r] = softmax_row(n, b, m->indices + begin, end - begin, scale, smoothing,
                                          cpu->logits + r * n, half ? half + r * n : NULL);
    }
}

/* One block of rows: logits, losses, gradients (of w, b added to what is there unless it is the first). */
static int output_block(struct cpu *cpu, int64_t first, int64_t count, int h, const real *x, const real *w,
                        const real *b, real scale, real smoothing, real *dx, real *dw, real *db) {
    int64_t n = cpu->n_logits;
    if (cpu->use_fp16) x = round_to_fp16(cpu, 0, x, count * h);
    if (!x) return cpu->fault;
    int code = gemm(0, 1, count, n, h, x, w, 0, cpu->logits);
    if (code) return code;
    softmax_rows(cpu, first, count, b, scale, smoothing, NULL);
    if (dw) sum_rows(cpu->logits, count, n, first > 0, db);
    if (cpu->use_fp16) round_all(count * n, cpu->logits, cpu->logits);
    if (dw) code = gemm(1, 0, n, h, count, cpu->logits, x, first > 0, dw);
    return code || !dx ? code : gemm(0, 0, count, h, n, cpu->logits, w, 0, dx);
}

/* The same with rounded operands. */
static int output_block_half(struct cpu *cpu, int64_t first, int64_t count, int h, const real *x,
                             const real *w, const real *b, real scale, real smoothing, real *dx, real *dw,
                             real *db) {
    int64_t n = cpu->n_logits;
    const bf16 *x16 = rounded(cpu, HALF_A, x, count * h), *w16 = rounded_weights(cpu, w, n * h);
    bf16 *g16 = half_room(cpu, HALF_GRADIENT, count * n);
    if (!x16 || !w16 || !g16) return cpu->fault;
    int code = gemm_bf16(0, 1, count, n, h, x16, w16, 0, cpu->logits);
    if (code) return code;
    softmax_rows(cpu, first, count, b, scale, smoothing, g16);
    if (dw) sum_rows_half(g16, count, n, first > 0, db);
    if (dw) code = gemm_bf16(1, 0, n, h, count, g16, x16, first > 0, dw);
    return code || !dx ? code : gemm_bf16(0, 0, count, h, n, g16, w16, 0, dx);
}

/* ---- the same in tiles of items, and over the item ranks of a grid ---- */

/* A tile: items [first, first + n) of this rank's. */
struct tile {
    int64_t first, n;
};

/* The operands of the output layer: rows of a block, all items. */
struct operands {
    const real *x, *w;
    const bf16 *x16, *w16; /* instead, if not NULL */
};

/* logits[rows, tile.n] without bias. */
static int tile_logits(struct cpu *cpu, const struct operands *o, int64_t rows, int h, struct tile tile) {
    return o->w16 ? gemm_bf16(0, 1, rows, tile.n, h, o->x16, o->w16 + tile.first * h, 0, cpu->logits)
                  : gemm(0, 1, rows, tile.n, h, o->x, o->w + tile.first * h, 0, cpu->logits);
}

/* The entries [*begin, *end) of a row that are in the tile. */
static void entries_in(const struct csr *m, int64_t row, struct tile tile, int64_t *begin, int64_t *end) {
    int64_t bound[2] = {tile.first, tile.first + tile.n}, found[2];
    for (int i = 0; i < 2; i++) {
        int64_t low = m->indptr[row], high = m->indptr[row + 1];
        while (low < high) {
            int64_t middle = low + (high - low) / 2;
            if (m->indices[middle] < bound[i]) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        found[i] = low;
    }
    *begin = found[0];
    *end = found[1];
}

/* Adds b to a (Milakov and Gimelshein 2018). */
static void add_sums(struct logit_sums *a, const struct logit_sums *b) {
    if (b->largest == -INFINITY && b->sum == 0) return; /* a rank without items in a sample */
    double largest = a->largest > b->largest ? a->largest : b->largest;
    a->sum = a->sum * exp(a->largest - largest) + b->sum * exp(b->largest - largest);
    a->largest = largest;
    a->hits += b->hits;
}

/* Of one row; items[n_items] are its own, counted from the tile's first. */
static struct logit_sums sums_of(int64_t n, const real *restrict logits, const real *restrict bias,
                                 const int32_t *items, int64_t n_items, int64_t first) {
    real largest = -INFINITY, sum = 0;
    double hits = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        real logit = logits[i] + bias[i];
        largest = logit > largest ? logit : largest;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += vector_exp(logits[i] + bias[i] - largest);
    for (int64_t k = 0; k < n_items; k++) hits += (double)(logits[items[k] - first] + bias[items[k] - first]);
    return (struct logit_sums){(double)largest, (double)sum, hits};
}

/* Adds the tile's to the sums of each row of the block that begins with row `first`. */
static void add_tile(struct cpu *cpu, int64_t first, int64_t count, struct tile tile, const real *b) {
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t r = 0; r < count; r++) {
        int64_t begin, end;
        entries_in(cpu->labels, first + r, tile, &begin, &end);
        struct logit_sums sums = sums_of(tile.n, cpu->logits + r * tile.n, b + tile.first,
                                         cpu->labels->indices + begin, end - begin, tile.first);
        add_sums(&cpu->sums[r], &sums);
    }
}

/* The sums of all ranges, the same bits on every item rank, and from them the block's nll. */
static void finish_sums(struct cpu *cpu, int64_t first, int64_t count) {
    if (cpu->grid) {
        const struct comm *comm = &cpu->grid->items;
        comm_all_gather(comm, cpu->sums, (size_t)count * sizeof *cpu->sums, cpu->all_sums);
        memcpy(cpu->sums, cpu->all_sums, (size_t)count * sizeof *cpu->sums);
        for (int64_t i = count; i < count * comm->size; i++)
            add_sums(&cpu->sums[i % count], &cpu->all_sums[i]);
    }
    for (int64_t r = 0; r < count; r++) {
        const struct logit_sums *s = &cpu->sums[r];
        double n = (double)csr_row_size(cpu->labels, first + r);
        cpu->nll[first + r] = n * (log(s->sum) + s->largest) - s->hits;
    }
}

/* A row of logits becomes the gradient of scale * nll, of which `all` is subtracted everywhere and `own` at
 * the row's own items; rounded in half[n] unless NULL, else in place. */
static void gradient_row(int64_t n, const real *restrict bias, const int32_t *items, int64_t n_items,
                         int64_t first, real largest, real factor, real all, real own, real *restrict logits,
                         bf16 *restrict half) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) logits[i] = vector_exp(logits[i] + bias[i] - largest) * factor - all;
    for (int64_t k = 0; k < n_items; k++) logits[items[k] - first] -= own;
    if (half) round_to_half(n, logits, half);
}

/* Logits of a tile become gradients, in half or in place. */
static void tile_gradients(struct cpu *cpu, int64_t first, int64_t count, struct tile tile, const real *b,
                           real scale, real smoothing, bf16 *half) {
    int64_t all_items = cpu->grid ? cpu->grid->n_items : cpu->n_items;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t r = 0; r < count; r++) {
        int64_t begin, end;
        real weight = scale * (real)csr_row_size(cpu->labels, first + r);
        entries_in(cpu->labels, first + r, tile, &begin, &end);
        gradient_row(tile.n, b + tile.first, cpu->labels->indices + begin, end - begin, tile.first,
                     (real)cpu->sums[r].largest, weight / (real)cpu->sums[r].sum,
                     smoothing * weight / (real)all_items, scale * (1 - smoothing), cpu->logits + r * tile.n,
                     half ? half + r * tile.n : NULL);
    }
}

/* What a tile's gradients add to dx, dw and db, if these are wanted. */
static int tile_backward(struct cpu *cpu, const struct operands *o, int64_t first, int64_t count, int h,
                         struct tile tile, const bf16 *g16, int add_dx, real *dx, real *dw, real *db) {
    int code = 0;
    real *tile_dw = dw ? dw + tile.first * h : NULL, *tile_db = dw ? db + tile.first : NULL;
    if (g16) {
        if (dw) sum_rows_half(g16, count, tile.n, first > 0, tile_db);
        if (dw) code = gemm_bf16(1, 0, tile.n, h, count, g16, o->x16, first > 0, tile_dw);
        if (code || !dx) return code;
        return gemm_bf16(0, 0, count, h, tile.n, g16, o->w16 + tile.first * h, (real)add_dx, dx);
    }
    if (dw) sum_rows(cpu->logits, count, tile.n, first > 0, tile_db);
    if (cpu->use_fp16) round_all(count * tile.n, cpu->logits, cpu->logits);
    if (dw) code = gemm(1, 0, tile.n, h, count, cpu->logits, o->x, first > 0, tile_dw);
    if (code || !dx) return code;
    return gemm(0, 0, count, h, tile.n, cpu->logits, o->w + tile.first * h, (real)add_dx, dx);
}

/* One block of rows. Its logits are computed once for the sums and, but for the last tile's, which are still
 * there, again for the gradients. */
static int block_in_tiles(struct cpu *cpu, int64_t first, int64_t count, int h, const real *x, const real *w,
                          const real *b, real scale, real smoothing, real *dx, real *dw, real *db) {
    int64_t n = cpu->n_logits, last = n > 0 ? (n - 1) / cpu->tile * cpu->tile : -1;
    struct operands o = {.x = x, .w = w};
    bf16 *g16 = NULL;
    if (cpu->use_bf16) {
        o.x16 = rounded(cpu, HALF_A, x, count * h);
        o.w16 = rounded_weights(cpu, w, n * h);
        g16 = half_room(cpu, HALF_GRADIENT, count * cpu->tile);
    } else if (cpu->use_fp16) {
        o.x = round_to_fp16(cpu, 0, x, count * h);
    }
    int code = cpu->fault;
    if (n == 0 && dx) memset(dx, 0, (size_t)(count * h) * sizeof *dx);
    for (int64_t r = 0; r < count; r++) cpu->sums[r] = (struct logit_sums){-INFINITY, 0, 0};
    for (int64_t i = 0; i <= last && !code; i += cpu->tile) {
        struct tile tile = {i, i < last ? cpu->tile : n - i};
        code = tile_logits(cpu, &o, count, h, tile);
        if (!code) add_tile(cpu, first, count, tile, b);
    }
    finish_sums(cpu, first, count); /* whatever has happened: the other item ranks come here */
    for (int64_t i = last; i >= 0 && !code; i -= cpu->tile) {
        struct tile tile = {i, i < last ? cpu->tile : n - i};
        if (i < last) code = tile_logits(cpu, &o, count, h, tile);
        if (code) break;
        tile_gradients(cpu, first, count, tile, b, scale, smoothing, g16);
        code = tile_backward(cpu, &o, first, count, h, tile, g16, i < last, dx, dw, db);
    }
    return code;
}

/* All blocks of rows, of n_logits items. */
static double output_rows(struct cpu *cpu, int64_t rows, int h, const real *x, const real *w, const real *b,
                          double scale, double smoothing, real *dx, real *dw, real *db) {
    int is_tiled = cpu->grid || cpu->tile < cpu->n_logits;
    if (cpu->use_fp16) w = round_to_fp16(cpu, 1, w, cpu->n_logits * h);
    for (int64_t first = 0; first < rows && (!cpu->fault || cpu->grid); first += cpu->block) {
        int64_t count = rows - first < cpu->block ? rows - first : cpu->block;
        int code = (is_tiled        ? block_in_tiles
                    : cpu->use_bf16 ? output_block_half
                                    : output_block)(cpu, first, count, h, x + first * h, w, b, (real)scale,
                                                    (real)smoothing, dx ? dx + first * h : NULL, dw, db);
        if (code) keep_fault(cpu, code);
    }
    if (cpu->grid && dx) comm_sum_real(&cpu->grid->items, dx, (size_t)(rows * h));
    double nll = 0;
    for (int64_t r = 0; r < rows; r++) nll += cpu->nll[r];
    return nll;
}

/* ---- the same of a sample of the items ---- */

static void sample(struct backend *backend, const struct sample_key *key, int64_t wanted) {
    struct cpu *cpu = backend->state;
    cpu->sampled = wanted;
    cpu->sample_key = *key;
}

/* The probabilities of this rank's items. */
static int prepare_probabilities(struct cpu *cpu) {
    int64_t n = cpu->n_items, all = cpu->grid ? cpu->grid->n_items : n, words = words_of(n);
    if (cpu->probability_wanted == cpu->sampled) return 0;
    cpu->probability_wanted = 0;
    if (make_room(&cpu->probability, n, sizeof *cpu->probability)) return EX_OSERR;
    if (make_room(&cpu->drawn, words, sizeof *cpu->drawn)) return EX_OSERR;
    if (make_room(&cpu->column, n, sizeof *cpu->column)) return EX_OSERR;
    for (int64_t i = 0; i < n; i++) {
        cpu->probability[i] = (float)sample_probability(cpu->first_item + i, cpu->sampled, all);
    }
    cpu->probability_wanted = cpu->sampled;
    return 0;
}

/* Room for a sample of n_logits items, and for the labels of the batch among them. */
static int prepare_sample(struct cpu *cpu, int h) {
    int64_t n = cpu->n_logits, nonzeros = csr_nonzeros(cpu->rows);
    if (n > cpu->sample_room) {
        cpu->sample_room = 0;
        if (make_room(&cpu->sample, n, sizeof *cpu->sample)) return EX_OSERR;
        if (make_room(&cpu->sample_b, n, sizeof *cpu->sample_b)) return EX_OSERR;
        if (make_room(&cpu->sample_db, n, sizeof *cpu->sample_db)) return EX_OSERR;
        cpu->sample_room = n;
    }
    if (n * h > cpu->sample_numbers) {
        cpu->sample_numbers = 0;
        if (make_room(&cpu->sample_w, n * h, sizeof *cpu->sample_w)) return EX_OSERR;
        if (make_room(&cpu->sample_dw, n * h, sizeof *cpu->sample_dw)) return EX_OSERR;
        cpu->sample_numbers = n * h;
    }
    if (nonzeros > cpu->label_room || !cpu->label_items) {
        cpu->label_room = 0;
        if (make_room(&cpu->label_items, nonzeros, sizeof *cpu->label_items)) return EX_OSERR;
        cpu->label_room = nonzeros;
    }
    return 0;
}

/* Draws the items, and cuts the work of the output layer for them. Collective over the item ranks. */
static int draw_sample(struct cpu *cpu, int64_t rows, int h) {
    int64_t words = words_of(cpu->n_items), n = 0;
    int code = prepare_probabilities(cpu);
    if (!code) {
        memcpy(cpu->drawn, cpu->touched, (size_t)words * sizeof *cpu->drawn);
        sample_draw(&cpu->sample_key, cpu->first_item, cpu->n_items, cpu->probability, cpu->drawn);
        for (int64_t w = 0; w < words; w++) n += __builtin_popcountll(cpu->drawn[w]);
        cpu->n_logits = n;
        code = prepare_sample(cpu, h);
    }
    code = grid_agree(cpu->grid, code);
    if (code) return code;
    n = 0;
    for (int64_t w = 0; w < words; w++) {
        for (uint64_t rest = cpu->drawn[w]; rest; rest &= rest - 1) {
            int64_t item = w * 64 + __builtin_ctzll(rest);
            cpu->column[item] = (int32_t)n;
            cpu->sample[n++] = (int32_t)item;
        }
    }
    const struct csr *m = cpu->rows;
    for (int64_t k = 0; k < csr_nonzeros(m); k++) cpu->label_items[k] = cpu->column[m->indices[k]];
    cpu->own_labels = *m;
    cpu->own_labels.indices = cpu->label_items;
    cpu->labels = &cpu->own_labels;
    return grid_agree(cpu->grid, prepare_output(cpu, rows));
}

static double output_sampled(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                             const real *b, double scale, real *dx, real *dw, real *db) {
    struct cpu *cpu = backend->state;
    size_t bytes = (size_t)h * sizeof *w;
    int code = draw_sample(cpu, rows, h);
    if (code) {
        keep_fault(cpu, code);
        return 0;
    }
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < cpu->n_logits; j++) {
        int64_t item = cpu->sample[j];
        int is_certain = is_set(cpu->touched, item);
        memcpy(cpu->sample_w + j * h, w + item * h, bytes);
        cpu->sample_b[j] = b[item] - (is_certain ? 0 : (real)log((double)cpu->probability[item]));
    }
    cpu->weights = NULL; /* these are new ones in the same place */
    double nll = output_rows(cpu, rows, h, x, cpu->sample_w, cpu->sample_b, scale, 0, dx,
                             dw ? cpu->sample_dw : NULL, cpu->sample_db);
    cpu->weights = NULL;
    if (!dw) return nll;
    zero(backend, dw, (size_t)(cpu->n_items * h));
    zero(backend, db, (size_t)cpu->n_items);
#pragma omp parallel for schedule(static)
    for (int64_t j = 0; j < cpu->n_logits; j++) {
        memcpy(dw + (int64_t)cpu->sample[j] * h, cpu->sample_dw + j * h, bytes);
        db[cpu->sample[j]] = cpu->sample_db[j];
    }
    return nll;
}

static double output_train(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                           const real *b, double scale, double smoothing, real *dx, real *dw, real *db) {
    struct cpu *cpu = backend->state;
    return cpu->sampled ? output_sampled(backend, rows, h, x, w, b, scale, dx, dw, db)
                        : output_rows(cpu, rows, h, x, w, b, scale, smoothing, dx, dw, db);
}

static void output_scores(struct backend *backend, int64_t rows, int h, const real *x, const real *w,
                          const real *b, real *scores) {
    struct cpu *cpu = backend->state;
    int64_t n = cpu->n_items;
    product(cpu, 0, 1, rows, n, h, x, w, scores);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < n; i++) scores[r * n + i] += b[i];
    }
}

static void add(struct backend *backend, size_t n, double weight, const real *x, real *y) {
    const real factor = (real)weight;
    (void)backend;
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) y[i] += factor * x[i];
}

/* ---- ranking ---- */

static void rise(struct candidate *heap, int at) {
    struct candidate moving = heap[at];
    for (int parent; at > 0 && candidate_is_behind(moving, heap[parent = (at - 1) / 2]); at = parent) {
        heap[at] = heap[parent];
    }
    heap[at] = moving;
}

static void top_of_row(const real *scores, int64_t n, int k, struct candidate *heap, int32_t *top,
                       real *top_scores) {
    int size = 0;
    for (int64_t i = 0; i < n; i++) {
        if (size == k && !(scores[i] > heap[0].score)) continue; /* equal: the lower index is in already */
        if (!(scores[i] > -INFINITY)) continue;                  /* left out */
        if (size < k) {
            heap[size] = (struct candidate){scores[i], (int32_t)i};
            rise(heap, size++);
        } else {
            heap[0] = (struct candidate){scores[i], (int32_t)i};
            candidate_sink(heap, size);
        }
    }
    for (int j = k - 1; j >= 0; j--) {
        struct candidate last = {-INFINITY, -1};
        if (j < size) {
            last = heap[0];
            heap[0] = heap[j];
            candidate_sink(heap, j);
        }
        top[j] = last.item;
        if (top_scores) top_scores[j] = last.score;
    }
}

/* The best of a row's targets that are in the range of items from first_item on; item -1: there is none. */
static struct candidate best_target(const real *scores, int64_t n, int32_t first_item, const int32_t *targets,
                                    int64_t n_targets) {
    struct candidate best = {-INFINITY, -1};
    for (int64_t k = 0; k < n_targets; k++) {
        int32_t item = targets[k] - first_item;
        if (item < 0 || item >= n) continue;
        struct candidate target = {scores[item], item};
        if (target.score > -INFINITY && (best.item < 0 || candidate_is_behind(best, target))) best = target;
    }
    return best;
}

/* How many items of the row come before `best`, an item of the same range or of another one. */
static int64_t count_ahead(const real *scores, int64_t n, struct candidate best) {
    int64_t ahead = 0;
    for (int64_t i = 0; i < n; i++)
        ahead += scores[i] > best.score || (scores[i] == best.score && i < best.item);
    return ahead;
}

/* The lists of all ranges, and the ranks of the best targets, in place of this range's. first_hit and targets
 * may be NULL. best[rows], best_scores[rows]: this range's best targets. */
static int merge_ranges(struct cpu *cpu, int64_t rows, const real *scores, int k, int32_t *top,
                        real *top_scores, int32_t *best, real *best_scores, int64_t *first_hit) {
    int code = grid_merge(cpu->grid, rows, k, top, top_scores);
    if (code || !first_hit) return code;
    code = grid_merge(cpu->grid, rows, 1, best, best_scores);
    if (code) return code;
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        struct candidate target = {best_scores[r], best[r] - cpu->first_item};
        first_hit[r] = best[r] < 0 ? 0 : count_ahead(scores + r * cpu->n_items, cpu->n_items, target);
    }
    comm_sum_int(&cpu->grid->items, first_hit, (size_t)rows);
    for (int64_t r = 0; r < rows; r++) first_hit[r] += best[r] >= 0;
    return 0;
}

/* Each row's list and best target of this rank's items; in top, unless it is a grid, and first_hit. */
static void rank_rows(struct cpu *cpu, int64_t rows, real *scores, int k, const struct csr *targets,
                      int32_t *top, real *top_scores, int32_t *best, real *best_scores, int64_t *first_hit) {
    const struct csr *m = cpu->rows;
    int64_t n = cpu->n_items;
#pragma omp parallel for schedule(dynamic, 4)
    for (int64_t r = 0; r < rows; r++) {
        real *row = scores + r * n;
        for (int64_t i = m->indptr[r]; i < m->indptr[r + 1]; i++) row[m->indices[i]] = -INFINITY;
        top_of_row(row, n, k, cpu->heap + (int64_t)omp_get_thread_num() * k, top + r * k,
                   top_scores ? top_scores + r * k : NULL);
        if (!targets || !first_hit) continue;
        int64_t begin = targets->indptr[r], n_targets = targets->indptr[r + 1] - begin;
        struct candidate target = best_target(row, n, cpu->first_item, targets->indices + begin, n_targets);
        if (cpu->grid) {
            best[r] = target.item;
            best_scores[r] = target.score;
        } else {
            first_hit[r] = target.item < 0 ? 0 : 1 + count_ahead(row, n, target);
        }
    }
}

static void top_k(struct backend *backend, int64_t rows, real *scores, int k, const struct csr *targets,
                  int32_t *top, real *top_scores, int64_t *first_hit) {
    struct cpu *cpu = backend->state;
    int64_t room = (int64_t)k * omp_get_max_threads();
    size_t n_best = cpu->grid ? (size_t)rows : 0, n_top = cpu->grid && !top_scores ? n_best * (size_t)k : 0;
    real *own_scores = malloc((n_top + n_best + 1) * sizeof *own_scores);
    int32_t *best = malloc((n_best + 1) * sizeof *best);
    int code = own_scores && best ? 0 : error_memory("a ranking", (n_top + n_best) * sizeof *own_scores);
    if (!code && room > cpu->heap_room) {
        cpu->heap_room = 0;
        code = make_room(&cpu->heap, room, sizeof *cpu->heap);
        if (!code) cpu->heap_room = room;
    }
    code = grid_agree(cpu->grid, code);
    if (!code) {
        if (n_top) top_scores = own_scores + n_best;
        if (!targets) first_hit = NULL;
        rank_rows(cpu, rows, scores, k, targets, top, top_scores, best, own_scores, first_hit);
        if (cpu->grid)
            code = merge_ranges(cpu, rows, scores, k, top, top_scores, best, own_scores, first_hit);
    }
    if (code) keep_fault(cpu, code);
    free(own_scores);
    free(best);
}

/* ---- over the ranks, and the update ---- */

static void all_reduce(struct backend *backend, const struct comm *comm, real *values, size_t n) {
    (void)backend;
    comm_sum_real(comm, values, n);
}

/* Sums rows item[0 .. n - 1] of dw over the ranks; those this rank's batch does not have count as zero. */
static void sum_items(struct cpu *cpu, const struct comm *comm, int h, const int32_t *item, int64_t n,
                      real *dw) {
    size_t bytes = (size_t)h * sizeof *dw;
    for (int64_t i = 0; i < n; i++) {
        real *row = cpu->exchange + i * h;
        if (is_set(cpu->touched, item[i])) {
            memcpy(row, dw + (int64_t)item[i] * h, bytes);
        } else {
            memset(row, 0, bytes);
        }
    }
    comm_sum_real(comm, cpu->exchange, (size_t)(n * h));
    for (int64_t i = 0; i < n; i++) memcpy(dw + (int64_t)item[i] * h, cpu->exchange + i * h, bytes);
}

/* The same for all items of `all`, a piece at a time. */
static int sum_all_items(struct cpu *cpu, const struct comm *comm, int h, real *dw) {
    enum { PIECE_ITEMS = 4096 };
    int32_t item[PIECE_ITEMS];
    int64_t piece = EXCHANGE_MAX / h, n = 0;
    if (piece < 1) piece = 1;
    if (piece > PIECE_ITEMS) piece = PIECE_ITEMS;
    size_t room = (size_t)(piece * h);
    if (room > cpu->exchange_room) {
        cpu->exchange_room = 0;
        if (make_room(&cpu->exchange, (int64_t)room, sizeof *cpu->exchange)) return EX_OSERR;
        cpu->exchange_room = room;
    }
    for (int64_t w = 0; w < words_of(cpu->n_items); w++) {
        for (uint64_t rest = cpu->all[w]; rest; rest &= rest - 1) {
            item[n++] = (int32_t)(w * 64 + __builtin_ctzll(rest));
            if (n < piece) continue;
            sum_items(cpu, comm, h, item, n, dw);
            n = 0;
        }
    }
    sum_items(cpu, comm, h, item, n, dw);
    return 0;
}

static void input_all_reduce(struct backend *backend, const struct comm *comm, int h, real *dw) {
    struct cpu *cpu = backend->state;
    int64_t words = words_of(cpu->n_items);
    size_t bytes = (size_t)words * sizeof *cpu->all;
    memcpy(cpu->all, cpu->touched, bytes);
    if (comm->size > 1) {
        comm_or(comm, cpu->all, (size_t)words);
        int code = sum_all_items(cpu, comm, h, dw);
        if (code) {
            keep_fault(cpu, code);
            comm_abort(comm, code); /* the others wait for our part */
        }
    }
    if (cpu->dw != dw) memset(cpu->filled, 0xff, bytes); /* we do not know what is in it */
    cpu->dw = dw;
    for (int64_t w = 0; w < words; w++) {
        for (uint64_t rest = cpu->filled[w] & ~cpu->all[w]; rest; rest &= rest - 1) {
            int64_t item = w * 64 + __builtin_ctzll(rest);
            if (item < cpu->n_items) memset(dw + item * h, 0, (size_t)h * sizeof *dw);
        }
    }
    memcpy(cpu->filled, cpu->all, bytes);
}

static void guard(struct backend *backend, const real *g, size_t n) {
    struct cpu *cpu = backend->state;
    int overflow = 0;
#pragma omp parallel for simd schedule(static) reduction(| : overflow)
    for (size_t i = 0; i < n; i++) overflow |= !isfinite(g[i]);
    cpu->overflow = cpu->grid ? (int)comm_max(&cpu->grid->items, overflow) : overflow;
}

static int overflowed(struct backend *backend) {
    return ((struct cpu *)backend->state)->overflow;
}

/* What adam computes an element with. */
struct rates {
    real b1, b2, c1, c2, eps, rate, unbias, coupled, shrink, unscale;
};

static void adam_piece(const struct rates *k, size_t n, real *restrict p, const real *restrict g,
                       real *restrict m, real *restrict v) {
    for (size_t i = 0; i < n; i++) {
        real gradient = k->unscale * g[i] + k->coupled * p[i];
        m[i] = k->b1 * m[i] + k->c1 * gradient;
        v[i] = k->b2 * v[i] + k->c2 * gradient * gradient;
        p[i] = k->shrink * p[i] - k->rate * m[i] / ((real)sqrt(v[i]) * k->unbias + k->eps);
    }
}

/* Kingma and Ba 2015, algorithm 1; weight decay as Loshchilov and Hutter 2019 tell the two apart. The output
 * layer's weights are rounded on the way, while they are in the cache. */
static void adam(struct backend *backend, const struct adam_step *step, size_t n, real *p, const real *g,
                 real *m, real *v) {
    enum { PIECE = 4096 };
    struct cpu *cpu = backend->state;
    if (cpu->overflow) return;
    const struct rates rates = {
        .b1 = (real)step->beta1,
        .b2 = (real)step->beta2,
        .c1 = (real)(1 - step->beta1),
        .c2 = (real)(1 - step->beta2),
        .eps = (real)step->epsilon,
        .rate = (real)(step->learning_rate / step->correction1),
        .unbias = (real)(1 / sqrt(step->correction2)),
        .coupled = step->decoupled ? 0 : (real)step->weight_decay,
        .unscale = (real)step->unscale,
        .shrink = (real)(step->decoupled ? 1 - step->learning_rate * step->weight_decay : 1),
    };
    /* where the rounded weights are among p */
    size_t begin = n, end = n;
    if (cpu->weights && cpu->weights >= p && cpu->weights < p + n) {
        begin = (size_t)(cpu->weights - p);
        end = begin + (size_t)cpu->half_room[HALF_WEIGHTS];
    }
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i += PIECE) {
        size_t last = n - i < PIECE ? n : i + PIECE;
        adam_piece(&rates, last - i, p + i, g + i, m + i, v + i);
        size_t from = i > begin ? i : begin, to = last < end ? last : end;
        if (from < to) {
            round_to_half((int64_t)(to - from), p + from, cpu->half[HALF_WEIGHTS] + (from - begin));
        }
    }
}

/* ---- birth and death ---- */

static void destroy(struct backend *backend) {
    struct cpu *cpu = backend->state;
    if (!cpu) return;
    free(cpu->values);
    free(cpu->touched);
    free(cpu->place);
    free(cpu->item);
    free(cpu->item_start);
    free(cpu->by_item);
    free(cpu->filled);
    free(cpu->all);
    free(cpu->exchange);
    free(cpu->logits);
    for (int i = 0; i < HALVES; i++) free(cpu->half[i]);
    for (int i = 0; i < 2; i++) free(cpu->in_fp16[i]);
    free(cpu->sums);
    free(cpu->all_sums);
    free(cpu->probability);
    free(cpu->drawn);
    free(cpu->column);
    free(cpu->label_items);
    free(cpu->sample);
    free(cpu->sample_b);
    free(cpu->sample_db);
    free(cpu->sample_w);
    free(cpu->sample_dw);
    free(cpu->nll);
    free(cpu->heap);
    free(cpu);
    *backend = (struct backend){0};
}

static const char *instruction_set(void) {
#if defined(__AVX512F__)
    return "AVX-512";
#elif defined(__AVX2__)
    return "AVX2";
#elif defined(__SVE__)
    return "SVE";
#elif defined(__ARM_NEON)
    return "NEON";
#else
    return "baseline instructions";
#endif
}

int backend_cpu_create(int64_t n_items, enum precision precision, struct backend *backend) {
    const struct backend_options options = {.n_items = n_items, .precision = precision};
    return backend_cpu_create_with(&options, backend);
}

int backend_cpu_create_with(const struct backend_options *options, struct backend *backend) {
    int64_t n_items = options->n_items;
    enum precision precision = options->precision;
    *backend = (struct backend){
        .name = "cpu",
        .destroy = destroy,
        .check = check,
        .alloc = alloc,
        .release = release,
        .copy_in = copy_in,
        .copy_out = copy_out,
        .zero = zero,
        .load = load,
        .input_values = input_values,
        .input_ones = input_ones,
        .input_forward = input_forward,
        .input_backward = input_backward,
        .dense_forward = dense_forward,
        .dense_backward = dense_backward,
        .normalize = normalize,
        .normalize_backward = normalize_backward,
        .latent_forward = latent_forward,
        .latent_backward = latent_backward,
        .output_train = output_train,
        .output_scores = output_scores,
        .add = add,
        .sample = sample,
        .top_k = top_k,
        .all_reduce = all_reduce,
        .input_all_reduce = input_all_reduce,
        .adam = adam,
        .guard = guard,
        .overflowed = overflowed,
    };
    struct cpu *cpu = calloc(1, sizeof *cpu);
    backend->state = cpu;
    if (!cpu) return error_memory("the CPU backend", sizeof *cpu);
    size_t words = (size_t)words_of(n_items);
    cpu->n_items = n_items;
    cpu->data_ranks = options->grid ? options->grid->data.size : options->comm ? options->comm->size : 1;
    if (options->grid && options->grid->items.size > 1) {
        cpu->grid = options->grid;
        cpu->first_item = (int32_t)options->grid->first;
    }
    cpu->touched = calloc(words, sizeof *cpu->touched);
    cpu->filled = calloc(words, sizeof *cpu->filled);
    cpu->all = calloc(words, sizeof *cpu->all);
    cpu->place = calloc((size_t)n_items, sizeof *cpu->place);
    if (!cpu->touched || !cpu->filled || !cpu->all || !cpu->place) {
        destroy(backend);
        return error_memory("the CPU backend",
                            words * 3 * sizeof *cpu->all + (size_t)n_items * sizeof *cpu->place);
    }
    cpu->use_bf16 = precision == PRECISION_BF16 && gemm_has_bf16();
    cpu->use_fp16 = precision == PRECISION_FP16;
    int64_t bytes = (int64_t)sizeof(real) + (cpu->use_bf16 ? (int64_t)sizeof(bf16) : 0);
    cpu->logits_max = options->logit_memory ? options->logit_memory / bytes : LOGITS_MAX;
    backend->precision = cpu->use_bf16 ? PRECISION_BF16 : cpu->use_fp16 ? PRECISION_FP16 : PRECISION_FP32;
    char library[128];
    gemm_describe(library, sizeof library);
    int threads = omp_get_max_threads();
    snprintf(backend->describe, sizeof backend->describe, "%s%s, %d thread%s, %s", library,
             cpu->use_bf16   ? " in bf16"
             : cpu->use_fp16 ? " rounding to fp16"
                             : "",
             threads, threads == 1 ? "" : "s", instruction_set());
    return 0;
}
