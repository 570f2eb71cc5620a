/* See scorer.h.
 *
 * Weights of a layer lie in panels: of PANEL outputs, the weights for the first input, for the second, ... So
 * a panel is read from front to back, and the sums of PANEL outputs for up to BLOCK users stay in registers.
 */
#include "scorer.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

#include "candidate.h"
#include "error.h"
#include "layer_norm.h"
#include "vector.h"

/* as many sums as there are registers for */
#if defined(__AVX512F__)
enum { LANES = 16, BLOCK = 12 };
#elif defined(__AVX__)
enum { LANES = 8, BLOCK = 6 };
#elif defined(__ARM_NEON)
enum { LANES = 4, BLOCK = 12 };
#else
enum { LANES = 4, BLOCK = 6 };
#endif

/* Makes the compiler hold a vector in a register, where it would rather load it again for each use. */
#if defined(__x86_64__) && defined(__AVX__)
#define KEEP(vector) __asm__("" : "+v"(vector))
#else
#define KEEP(vector) (void)(vector)
#endif

enum {
    PANEL = 2 * LANES,
    ROWS = 144,          /* users that share a panel in the cache, at most: a multiple of BLOCK */
    AHEAD = 16,          /* inputs for which a panel is fetched ahead */
    SPLIT_ROWS = 128,    /* with fewer rows than that a thread, threads split the catalogue instead */
    PARTS = 4,           /* into so many parts a thread, */
    HEAPS_MAX = 1 << 22, /* but not so many that there would be more candidates than that */
    GATHER = 8,          /* vectors of the first layer's sum that are taken at a time */
    HUGE_PAGE = 1 << 21, /* bytes */
    RESCALE = 20,        /* a sum of exponentials is taken relative to a logit at most this far below */
};

typedef float vec __attribute__((vector_size(LANES * sizeof(float)), may_alias));
typedef uint32_t words __attribute__((vector_size(LANES * sizeof(uint32_t))));
typedef uint16_t halves __attribute__((vector_size(LANES * sizeof(uint16_t)), may_alias));

struct layer {
    int n_in;
    int64_t n_out, panels;
    enum activation act;
    int is_normalized;
    void *weight; /* [panels, n_in, PANEL] */
    float *bias;  /* [panels * PANEL] */
};

/* The k best so far of one user in one part of the catalogue. */
struct best {
    struct candidate *heap; /* [k]; the first is the one furthest behind */
    int size;
    float threshold; /* what is not above it cannot get in */
    float reference; /* sum is of exp(logit - reference) */
    double sum;
};

/* A model of those whose scores are added. */
struct member {
    enum precision precision;
    size_t width; /* bytes of a weight */
    int64_t n_items;
    float factor; /* of its scores: of the numbers that go into the last layer, and in its bias */
    int first_width, first_stride;
    enum activation first_act;
    int first_is_normalized;
    int is_direct; /* ease: the first layer's numbers, not normalised, are the logits */
    void *first;   /* [n_items, first_stride] */
    float *first_bias;
    int n_layers; /* after the first */
    struct layer layer[MODEL_LAYERS_MAX];
    /* workspace */
    int64_t stride;
    float *x, *y;    /* [rows, stride] */
    size_t panel_at; /* where its panel is among those of a thread */
};

struct scorer {
    int64_t n_items;
    int n_members;
    struct member *member;
    float *closed; /* [panels * PANEL] of the catalogue: 0, or -INFINITY for items that may be in no list */
    /* workspace */
    int64_t rows_room, best_room, heap_room;
    struct best *best;
    struct candidate *heap;
    int threads;
    size_t panel_size; /* numbers of a thread */
    float *panel;      /* [threads, panel_size] */
};

/* Of which the outputs are the catalogue. */
static const struct layer *last_layer(const struct member *s) {
    return &s->layer[s->n_layers - 1];
}

/* ---- memory ---- */

static void *memory(size_t bytes) {
    void *p = NULL;
    size_t alignment = bytes >= 2 * HUGE_PAGE ? HUGE_PAGE : 128;
    if (posix_memalign(&p, alignment, bytes ? bytes : 128)) return NULL;
    if (alignment == HUGE_PAGE) madvise(p, bytes, MADV_HUGEPAGE);
    return p;
}

/* Makes *p hold so many bytes; what was in it is lost. */
static int make_room(void *p, size_t bytes) {
    void **to = p;
    free(*to);
    *to = memory(bytes);
    return *to ? 0 : error_memory("a batch of users", bytes);
}

static int64_t round_up(int64_t n, int64_t to) {
    return (n + to - 1) / to * to;
}

/* ---- numbers of 16 bits ---- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static uint16_t to_bf16(float x) {
    uint32_t bits = bits_of(x);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* To the nearest, ties to even; |x| below 65520. */
static uint16_t to_fp16(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000;
    float size = fabsf(x);
    if (size < 0x1p-14f) return (uint16_t)(sign | (uint32_t)lrintf(size * 0x1p24f));
    bits &= 0x7fffffff;
    return (uint16_t)(sign | (bits + 0xfff + (bits >> 13 & 1) - (112u << 23)) >> 13);
}

/* LANES weights from number `at` on, as float. */
static inline __attribute__((always_inline)) vec load(enum precision precision, const void *weight,
                                                      int64_t at) {
    if (precision == PRECISION_FP32) return *(const vec *)((const float *)weight + at);
    words w = __builtin_convertvector(*(const halves *)((const uint16_t *)weight + at), words);
    if (precision == PRECISION_BF16) return (vec)(w << 16);
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps(*(const __m256i *)((const uint16_t *)weight + at));
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps(*(const __m128i *)((const uint16_t *)weight + at));
#endif
    vec size = (vec)((w & 0x7fff) << 13) * 0x1p112f; /* exponents differ by 112; subnormal ones come right */
    return (vec)((words)size | (w & 0x8000) << 16);
}

/* Stores a weight; nonzero if it does not fit. */
static int store(enum precision precision, void *weight, int64_t at, float value) {
    if (precision == PRECISION_FP32) ((float *)weight)[at] = value;
    if (precision == PRECISION_BF16) ((uint16_t *)weight)[at] = to_bf16(value);
    if (precision == PRECISION_FP16) ((uint16_t *)weight)[at] = to_fp16(value);
    return precision == PRECISION_FP16 && !(fabsf(value) < 65520);
}

/* ---- birth and death ---- */

/* Layer l of the model, of whose outputs n_out are wanted; w[n_in, cols], or [n_out, n_in] if transposed. */
static int pack(const struct member *s, const float *w, const float *bias, int64_t cols, int transposed,
                struct layer *to) {
    size_t n = (size_t)(to->panels * PANEL);
    to->weight = memory(n * (size_t)to->n_in * s->width);
    to->bias = memory(n * sizeof *to->bias);
    if (!to->weight || !to->bias) return error_memory("the weights", n * (size_t)to->n_in * s->width);
    int unfit = 0;
#pragma omp parallel for schedule(static) reduction(| : unfit)
    for (int64_t p = 0; p < to->panels; p++) {
        for (int64_t k = 0; k < to->n_in; k++) {
            for (int64_t j = 0; j < PANEL; j++) {
                int64_t i = p * PANEL + j;
                float value = i >= to->n_out ? 0 : transposed ? w[i * to->n_in + k] : w[k * cols + i];
                unfit |= store(s->precision, to->weight, (p * to->n_in + k) * PANEL + j, value);
            }
        }
        for (int64_t i = p * PANEL; i < (p + 1) * PANEL; i++) to->bias[i] = i < to->n_out ? bias[i] : 0;
    }
    return unfit ? error_set(EX_DATAERR, "a weight is too large for fp16; want bf16 or fp32") : 0;
}

static int pack_first(struct member *s, const float *w, const float *bias, int64_t cols) {
    size_t n = (size_t)s->n_items * (size_t)s->first_stride;
    s->first = memory(n * s->width);
    s->first_bias = memory((size_t)s->first_stride * sizeof *s->first_bias);
    if (!s->first || !s->first_bias) return error_memory("the weights", n * s->width);
    int unfit = 0;
#pragma omp parallel for schedule(static) reduction(| : unfit)
    for (int64_t i = 0; i < s->n_items; i++) {
        for (int64_t j = 0; j < s->first_stride; j++) {
            float value = j < s->first_width ? w[i * cols + j] : 0;
            unfit |= store(s->precision, s->first, i * s->first_stride + j, value);
        }
    }
    for (int j = 0; j < s->first_stride; j++) s->first_bias[j] = j < s->first_width ? bias[j] : 0;
    return unfit ? error_set(EX_DATAERR, "a weight is too large for fp16; want bf16 or fp32") : 0;
}

/* ease: its matrix by pieces of rows; popularity: no first layer. The last layer has no inputs: its bias is
 * what everybody gets. */
static int pack_baseline(struct member *s, const struct model *m) {
    const struct tensor *bias = &m->tensor[m->n_tensors - 1];
    struct layer *last = &s->layer[0];
    float *row = memory((size_t)(s->n_items + PANEL) * sizeof *row);
    int code = row ? 0 : error_memory("the weights", (size_t)s->n_items * sizeof *row), unfit = 0;
    *last = (struct layer){.n_out = s->n_items, .panels = round_up(s->n_items, PANEL) / PANEL};
    if (!code) m->backend->copy_out(m->backend, row, m->params + bias->offset, bias->size);
    if (!code) code = pack(s, NULL, row, 0, 0, last);
    s->is_direct = m->config.type == MODEL_EASE;
    if (s->is_direct && !code) {
        s->first_width = (int)s->n_items;
        s->stride = s->first_stride = (int)round_up(s->n_items, GATHER * LANES);
        size_t n = (size_t)s->n_items * (size_t)s->first_stride;
        s->first = memory(n * s->width);
        s->first_bias = memory((size_t)s->first_stride * sizeof *s->first_bias);
        if (!s->first || !s->first_bias) code = error_memory("the weights", n * s->width);
    }
    for (int64_t i = 0; s->is_direct && !code && i < s->n_items; i++) {
        m->backend->copy_out(m->backend, row, m->params + m->tensor[0].offset + i * s->n_items,
                             (size_t)s->n_items);
        for (int64_t j = 0; j < s->first_stride; j++) {
            unfit |= store(s->precision, s->first, i * s->first_stride + j, j < s->n_items ? row[j] : 0);
        }
    }
    for (int j = 0; s->is_direct && !code && j < s->first_stride; j++) s->first_bias[j] = 0;
    free(row);
    return unfit ? error_set(EX_DATAERR, "a weight is too large for fp16; want bf16 or fp32") : code;
}

/* Copies a tensor of the model into *to, which grows. */
static int fetch(const struct model *m, int t, float **to) {
    int code = make_room(to, m->tensor[t].size * sizeof **to);
    if (!code) m->backend->copy_out(m->backend, *to, m->params + m->tensor[t].offset, m->tensor[t].size);
    return code;
}

static int create_member(const struct model *model, enum precision precision, float factor,
                         struct member *s) {
    float *weight = NULL, *bias = NULL;
    s->factor = factor;
    s->precision = precision;
    s->width = precision == PRECISION_FP32 ? sizeof(float) : sizeof(uint16_t);
    s->n_items = model->n_items;
    s->n_layers = model->n_layers > 0 ? model->n_layers - 1 : 1;
    int code = model->n_layers > 0 ? 0 : pack_baseline(s, model);
    for (int l = 0; l < model->n_layers && !code; l++) {
        int is_last = l == model->n_layers - 1;
        enum activation act = model_activation(model, l);
        int is_normalized = model_is_normalized(model, l);
        int64_t n_out = is_last ? model->n_items : model->width[l + 1];
        code = fetch(model, 2 * l, &weight);
        if (!code) code = fetch(model, 2 * l + 1, &bias);
        if (!code && l == 0) {
            s->first_width = (int)n_out; /* mu alone of an encoder that has no other layer */
            s->first_stride = (int)round_up(n_out, GATHER * LANES);
            s->first_act = act;
            s->first_is_normalized = is_normalized;
            s->stride = s->first_stride;
            code = pack_first(s, weight, bias, model->tensor[0].cols);
        } else if (!code) {
            struct layer *to = &s->layer[l - 1];
            to->n_in = model->width[l];
            to->n_out = n_out;
            to->panels = round_up(n_out, PANEL) / PANEL;
            to->act = act;
            to->is_normalized = is_normalized;
            if (!is_last && to->panels * PANEL > s->stride) s->stride = to->panels * PANEL;
            code = pack(s, weight, bias, model->tensor[2 * l].cols, is_last, to);
        }
    }
    const struct layer *last = last_layer(s);
    for (int64_t i = 0; i < last->n_out && !code; i++) last->bias[i] *= factor;
    free(weight);
    free(bias);
    return code;
}

static void free_member(struct member *s) {
    for (int l = 0; l < s->n_layers; l++) {
        free(s->layer[l].weight);
        free(s->layer[l].bias);
    }
    free(s->first);
    free(s->first_bias);
    free(s->x);
    free(s->y);
}

/* What goes into the last layer: forward's last output. */
static float *last_input(const struct member *s) {
    return s->n_layers % 2 ? s->x : s->y;
}

static int64_t catalogue_panels(const struct scorer *s) {
    return last_layer(s->member)->panels;
}

int scorer_create(const struct model *model, enum precision precision, struct scorer **scorer) {
    struct scorer *s = *scorer = calloc(1, sizeof *s);
    int n = 0, code = s ? 0 : error_memory("the scorer", sizeof *s);
    if (code) return code;
    for (const struct model *m = model; m; m = m->next) n++;
    s->n_items = model->n_items;
    s->member = calloc((size_t)n, sizeof *s->member);
    if (!s->member) code = error_memory("the scorer", (size_t)n * sizeof *s->member);
    for (const struct model *m = model; m && !code; m = m->next) {
        struct member *member = &s->member[s->n_members++];
        code = create_member(m, precision, m == model ? 1 : (float)m->weight, member);
        member->panel_at = s->panel_size;
        s->panel_size += (size_t)last_layer(member)->n_in * PANEL;
    }
    if (!code) {
        size_t bytes = (size_t)(catalogue_panels(s) * PANEL) * sizeof *s->closed;
        s->closed = memory(bytes);
        if (!s->closed) code = error_memory("the catalogue", bytes);
    }
    if (!code) scorer_close_items(s, NULL);
    if (code) {
        scorer_destroy(s);
        *scorer = NULL;
    }
    return code;
}

void scorer_destroy(struct scorer *s) {
    if (!s) return;
    for (int i = 0; i < s->n_members; i++) free_member(&s->member[i]);
    free(s->member);
    free(s->closed);
    free(s->best);
    free(s->heap);
    free(s->panel);
    free(s);
}

void scorer_close_items(struct scorer *s, const uint8_t *marks) {
    int64_t room = catalogue_panels(s) * PANEL;
    for (int64_t i = 0; i < room; i++) {
        s->closed[i] = i >= s->n_items || (marks && marks[i]) ? -INFINITY : 0;
    }
}

/* ---- layers ---- */

static void activate(enum activation act, int64_t n, float *y) {
    if (act == ACTIVATION_TANH) {
        for (int64_t j = 0; j < n; j++) y[j] = vector_tanh(y[j]);
    } else if (act == ACTIVATION_RELU) {
        for (int64_t j = 0; j < n; j++) y[j] = y[j] > 0 ? y[j] : 0;
    } else if (act == ACTIVATION_SIGMOID) {
        for (int64_t j = 0; j < n; j++) y[j] = 1 / (1 + vector_exp(-y[j]));
    }
}

/* Numbers [from, from + GATHER * LANES) of the first layer for a user's items. */
static inline __attribute__((always_inline)) void gather_as(enum precision precision, const struct member *s,
                                                            const int32_t *items, int64_t n, int64_t from,
                                                            float *y) {
    vec sum[GATHER] = {{0}};
    for (int64_t i = 0; i < n; i++) {
        int64_t at = (int64_t)items[i] * s->first_stride + from;
        for (int v = 0; v < GATHER; v++) sum[v] += load(precision, s->first, at + v * LANES);
    }
    float scale = s->is_direct ? 1 : n ? (float)(1 / sqrt((double)n)) : 0;
    for (int v = 0; v < GATHER; v++) {
        *(vec *)(y + from + v * LANES) = sum[v] * scale + *(const vec *)(s->first_bias + from + v * LANES);
    }
    activate(s->first_act, GATHER * LANES, y + from);
}

static void gather(const struct member *s, const int32_t *items, int64_t n, int64_t from, float *y) {
    if (s->precision == PRECISION_FP32) gather_as(PRECISION_FP32, s, items, n, from, y);
    if (s->precision == PRECISION_BF16) gather_as(PRECISION_BF16, s, items, n, from, y);
    if (s->precision == PRECISION_FP16) gather_as(PRECISION_FP16, s, items, n, from, y);
}

/* y[rows, PANEL] = bias + x[rows, n_in] panel, the rows of x and y so far apart; rows is a constant. */
static inline __attribute__((always_inline)) void multiply_as(enum precision precision, int rows,
                                                              int64_t n_in, const float *x, int64_t x_stride,
                                                              const void *panel, const float *bias, float *y,
                                                              int64_t y_stride) {
    const int64_t width = precision == PRECISION_FP32 ? sizeof(float) : sizeof(uint16_t);
    vec sum[BLOCK][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        sum[r][0] = *(const vec *)bias;
        sum[r][1] = *(const vec *)(bias + LANES);
    }
    for (int64_t k = 0; k < n_in; k++) {
        vec low = load(precision, panel, k * PANEL), high = load(precision, panel, k * PANEL + LANES);
        KEEP(low);
        KEEP(high);
        __builtin_prefetch((const char *)panel + (k + AHEAD) * PANEL * width);
        __builtin_prefetch((const char *)panel + (k + AHEAD) * PANEL * width + LANES * sizeof(float));
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            sum[r][0] += x[r * x_stride + k] * low;
            sum[r][1] += x[r * x_stride + k] * high;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        *(vec *)(y + r * y_stride) = sum[r][0];
        *(vec *)(y + r * y_stride + LANES) = sum[r][1];
    }
}

/* The same for up to BLOCK rows. */
static inline __attribute__((always_inline)) void
multiply_block(enum precision precision, int64_t rows, int64_t n_in, const float *x, int64_t x_stride,
               const void *panel, const float *bias, float *y, int64_t y_stride) {
    if (rows == BLOCK) {
        multiply_as(precision, BLOCK, n_in, x, x_stride, panel, bias, y, y_stride);
        return;
    }
    for (; rows >= 4; rows -= 4, x += 4 * x_stride, y += 4 * y_stride) {
        multiply_as(precision, 4, n_in, x, x_stride, panel, bias, y, y_stride);
    }
    for (; rows >= 1; rows--, x += x_stride, y += y_stride) {
        multiply_as(precision, 1, n_in, x, x_stride, panel, bias, y, y_stride);
    }
}

static void multiply(enum precision precision, int64_t rows, int64_t n_in, const float *x, int64_t x_stride,
                     const void *panel, const float *bias, float *y, int64_t y_stride) {
    if (precision == PRECISION_FP32) {
        multiply_block(PRECISION_FP32, rows, n_in, x, x_stride, panel, bias, y, y_stride);
    } else if (precision == PRECISION_BF16) {
        multiply_block(PRECISION_BF16, rows, n_in, x, x_stride, panel, bias, y, y_stride);
    } else {
        multiply_block(PRECISION_FP16, rows, n_in, x, x_stride, panel, bias, y, y_stride);
    }
}

static const char *panel_of(const struct member *s, const struct layer *layer, int64_t p) {
    return (const char *)layer->weight + (size_t)(p * layer->n_in * PANEL) * s->width;
}

/* ---- the k best ---- */

static void offer(struct best *best, int k, struct candidate candidate) {
    struct candidate *heap = best->heap;
    if (best->size == k) {
        if (!candidate_is_behind(heap[0], candidate)) return;
        heap[0] = candidate;
        candidate_sink(heap, k);
    } else {
        int at = best->size++;
        for (int parent; at > 0 && candidate_is_behind(candidate, heap[parent = (at - 1) / 2]); at = parent) {
            heap[at] = heap[parent];
        }
        heap[at] = candidate;
    }
    if (best->size == k) best->threshold = heap[0].score;
}

static int is_among(int32_t item, const int32_t *items, int64_t n) {
    int64_t low = 0;
    while (low < n) {
        int64_t middle = (low + n) / 2;
        if (items[middle] == item) return 1;
        if (items[middle] < item) {
            low = middle + 1;
        } else {
            n = middle;
        }
    }
    return 0;
}

/* A panel's logits for a user, whose items are not wanted in the list. */
static void offer_panel(struct best *best, int k, int64_t first, const float *logits, const float *closed,
                        const int32_t *items, int64_t n) {
    int some = 0;
    const float threshold = best->threshold;
#pragma omp simd reduction(| : some)
    for (int j = 0; j < PANEL; j++) some |= logits[j] + closed[j] > threshold;
    if (!some) return;
    for (int j = 0; j < PANEL; j++) {
        struct candidate candidate = {logits[j] + closed[j], (int32_t)first + j};
        if (candidate.score > best->threshold && !is_among(candidate.item, items, n)) {
            offer(best, k, candidate);
        }
    }
}

/* A panel's part in the sum of exp(logit - reference); items beyond the last do not count. */
static void add_exponentials(struct best *best, const float *logits, int64_t n) {
    float largest = -INFINITY, sum = 0;
    if (n > PANEL) n = PANEL;
    for (int64_t j = 0; j < n; j++) largest = logits[j] > largest ? logits[j] : largest;
    if (largest > best->reference + RESCALE) {
        best->sum *= exp((double)best->reference - (double)largest); /* from -INFINITY: 0 */
        best->reference = largest;
    }
    for (int64_t j = 0; j < n; j++) sum += vector_exp(logits[j] - best->reference);
    best->sum += (double)sum;
}

/* Panel p of a member's last layer as float, where it is for `rows` users: converted once for all of them. */
static const void *unpack(const struct member *s, int64_t p, int64_t rows, float *scratch,
                          enum precision *precision) {
    const struct layer *last = last_layer(s);
    const void *panel = panel_of(s, last, p);
    *precision = s->precision;
    if (s->precision == PRECISION_FP32 || rows <= 4) return panel;
    for (int64_t i = 0; i < last->n_in * PANEL; i += LANES) {
        *(vec *)(scratch + i) =
            s->precision == PRECISION_BF16 ? load(PRECISION_BF16, panel, i) : load(PRECISION_FP16, panel, i);
    }
    *precision = PRECISION_FP32;
    return scratch;
}

/* logits[n, PANEL] = a member's, n <= BLOCK, or += if is_added; x of its last layer. */
static void score_panel(const struct member *s, enum precision precision, const void *panel, int64_t p,
                        int64_t n, const float *x, int is_added, float *logits) {
    const struct layer *last = last_layer(s);
    float own[BLOCK * PANEL] __attribute__((aligned(128)));
    if (!s->is_direct) {
        multiply(precision, n, last->n_in, x, s->stride, panel, last->bias + p * PANEL,
                 is_added ? own : logits, PANEL);
    }
    if (!s->is_direct && !is_added) return;
    for (int64_t r = 0; r < n; r++) {
        const float *from = s->is_direct ? x + r * s->stride + p * PANEL : own + r * PANEL;
        float *to = logits + r * PANEL;
        for (int j = 0; j < PANEL; j++) to[j] = is_added ? to[j] + from[j] : from[j];
    }
}

/* Users [row, row + rows) of the batch against panels [p, end) of the catalogue. */
static void search(const struct scorer *s, const struct csr *m, int64_t row, int64_t rows, int64_t p,
                   int64_t end, int k, int flags, struct best *best, int64_t best_stride, float *scratch) {
    float logits[BLOCK * PANEL] __attribute__((aligned(128)));
    const void *panel[MODELS_MAX];
    enum precision precision[MODELS_MAX];
    for (; p < end; p++) {
        for (int i = 0; i < s->n_members; i++) {
            panel[i] = unpack(&s->member[i], p, rows, scratch + s->member[i].panel_at, &precision[i]);
        }
        for (int64_t from = row; from < row + rows; from += BLOCK) {
            int64_t n = row + rows - from < BLOCK ? row + rows - from : BLOCK;
            for (int i = 0; i < s->n_members; i++) {
                const struct member *member = &s->member[i];
                score_panel(member, precision[i], panel[i], p, n, last_input(member) + from * member->stride,
                            i > 0, logits);
            }
            for (int64_t r = from; r < from + n; r++) {
                const float *of_row = logits + (r - from) * PANEL;
                struct best *b = best + r * best_stride;
                int64_t seen = flags & SCORER_SEEN ? 0 : m->indptr[r + 1] - m->indptr[r];
                offer_panel(b, k, p * PANEL, of_row, s->closed + p * PANEL, m->indices + m->indptr[r], seen);
                if (flags & SCORER_PROBABILITY) add_exponentials(b, of_row, s->n_items - p * PANEL);
            }
        }
    }
}

/* The list of a user from the parts of the catalogue. */
static void finish(struct best *best, int64_t parts, int k, int flags, int32_t *top, float *scores) {
    struct best *all = best;
    double log_sum = 0;
    for (int64_t p = 1; p < parts; p++) {
        for (int i = 0; i < best[p].size; i++) offer(all, k, best[p].heap[i]);
        if (!(flags & SCORER_PROBABILITY)) continue;
        if (best[p].reference > all->reference) {
            all->sum *= exp((double)all->reference - (double)best[p].reference);
            all->reference = best[p].reference;
        }
        all->sum += best[p].sum * exp((double)best[p].reference - (double)all->reference);
    }
    if (flags & SCORER_PROBABILITY) log_sum = (double)all->reference + log(all->sum);
    for (int j = k - 1; j >= 0; j--) {
        struct candidate last = {-INFINITY, -1};
        if (j < all->size) {
            last = all->heap[0];
            all->heap[0] = all->heap[j];
            candidate_sink(all->heap, j);
        }
        top[j] = last.item;
        if (!scores) continue;
        scores[j] = flags & SCORER_PROBABILITY ? (float)exp((double)last.score - log_sum) : last.score;
    }
}

/* ---- a batch ---- */

static int reserve(struct scorer *s, int64_t rows, int64_t parts, int k) {
    int threads = omp_get_max_threads();
    if (rows > s->rows_room) {
        s->rows_room = 0;
        for (int i = 0; i < s->n_members; i++) {
            struct member *member = &s->member[i];
            size_t bytes = (size_t)rows * (size_t)member->stride * sizeof *member->x;
            if (make_room(&member->x, bytes) || make_room(&member->y, bytes)) return EX_OSERR;
        }
        s->rows_room = rows;
    }
    if (rows * parts > s->best_room) {
        s->best_room = 0;
        if (make_room(&s->best, (size_t)(rows * parts) * sizeof *s->best)) return EX_OSERR;
        s->best_room = rows * parts;
    }
    if (rows * parts * k > s->heap_room) {
        s->heap_room = 0;
        if (make_room(&s->heap, (size_t)(rows * parts * k) * sizeof *s->heap)) return EX_OSERR;
        s->heap_room = rows * parts * k;
    }
    if (threads > s->threads) {
        s->threads = 0;
        if (make_room(&s->panel, (size_t)threads * s->panel_size * sizeof *s->panel)) return EX_OSERR;
        s->threads = threads;
    }
    for (int64_t i = 0; i < rows * parts; i++) {
        s->best[i] = (struct best){s->heap + i * k, 0, -INFINITY, -INFINITY, 0};
    }
    return 0;
}

/* The first n numbers of each row; the threads of a team share them. */
static void normalize(const struct member *s, int64_t rows, int64_t n, float *y) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) layer_norm_row(n, y + r * s->stride, y + r * s->stride);
}

/* All layers but the last, by the threads of a team, times the factor: into last_input. */
static void forward(const struct member *s, const struct csr *m) {
    float *x = s->x, *y = s->y;
    const int64_t rows = m->rows, chunks = s->first_stride / (GATHER * LANES);
#pragma omp for collapse(2) schedule(dynamic, 4)
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < chunks; c++) {
            gather(s, m->indices + m->indptr[r], m->indptr[r + 1] - m->indptr[r], c * GATHER * LANES,
                   x + r * s->stride);
        }
    }
    if (s->first_is_normalized) normalize(s, rows, s->first_width, x);
    for (int l = 0; l < s->n_layers - 1; l++) {
        const struct layer *layer = &s->layer[l];
#pragma omp for collapse(2) schedule(static)
        for (int64_t r = 0; r < rows; r += BLOCK) {
            for (int64_t p = 0; p < layer->panels; p++) {
                int64_t n = rows - r < BLOCK ? rows - r : BLOCK;
                float *to = y + r * s->stride + p * PANEL;
                multiply(s->precision, n, layer->n_in, x + r * s->stride, s->stride, panel_of(s, layer, p),
                         layer->bias + p * PANEL, to, s->stride);
                for (int64_t i = 0; i < n; i++) activate(layer->act, PANEL, to + i * s->stride);
            }
        }
        if (layer->is_normalized) normalize(s, rows, layer->n_out, y);
        float *swap = x;
        x = y;
        y = swap;
    }
    if (s->factor == 1) return;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < rows * s->stride; i++) x[i] *= s->factor;
}

int scorer_top_k(struct scorer *s, const struct csr *m, int k, int flags, int32_t *top, float *scores) {
    const int64_t panels = catalogue_panels(s);
    const int64_t rows = m->rows, threads = omp_get_max_threads();
    /* a thread's rows, or all of them, in blocks of the same size */
    const int split_rows = rows >= SPLIT_ROWS * threads;
    const int64_t share = split_rows ? (rows + threads - 1) / threads : rows;
    const int64_t pieces = (share + ROWS - 1) / ROWS;
    const int64_t step = pieces ? round_up((share + pieces - 1) / pieces, BLOCK) : BLOCK;
    const int64_t blocks = (rows + step - 1) / step;
    int64_t parts = split_rows ? 1 : PARTS * threads;
    if (rows == 0) return 0;
    if (parts > HEAPS_MAX / (rows * k)) parts = HEAPS_MAX / (rows * k);
    if (parts > panels) parts = panels;
    if (parts < 1) parts = 1;
    int code = reserve(s, rows, parts, k);
    if (code) return code;
#pragma omp parallel
    {
        for (int i = 0; i < s->n_members; i++) forward(&s->member[i], m);
#pragma omp for collapse(2) schedule(dynamic, 1)
        for (int64_t block = 0; block < blocks; block++) {
            for (int64_t part = 0; part < parts; part++) {
                int64_t row = block * step, p = panels * part / parts;
                search(s, m, row, rows - row < step ? rows - row : step, p, panels * (part + 1) / parts, k,
                       flags, s->best + part, parts, s->panel + (size_t)omp_get_thread_num() * s->panel_size);
            }
        }
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            finish(s->best + r * parts, parts, k, flags, top + r * k, scores ? scores + r * k : NULL);
        }
    }
    return 0;
}

/* ---- what a batch reads ---- */

size_t scorer_bytes(const struct scorer *s) {
    size_t bytes = 0;
    for (const struct member *member = s->member; member < s->member + s->n_members; member++) {
        for (int l = 0; l < member->n_layers; l++) {
            bytes += (size_t)(member->layer[l].panels * PANEL * member->layer[l].n_in) * member->width;
        }
    }
    return bytes;
}
