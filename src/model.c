/* The network: its tensors, forward and backward; see model.h. */
#include "model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "philox.h"

enum {
    INIT_PIECE = 1 << 20 /* numbers drawn at a time */,
    ALIGNED = 64 /* numbers: a tensor begins there */
};

/* ---- layout ---- */

static void add_tensor(struct model *m, const char *half, int layer, int is_bias, int is_range, int64_t rows,
                       int64_t cols) {
    struct tensor *t = &m->tensor[m->n_tensors++];
    snprintf(t->name, sizeof t->name, "%s/%d/%s", half, layer, is_bias ? "bias" : "weight");
    t->rows = rows;
    t->cols = cols;
    t->size = (size_t)rows * (size_t)cols;
    t->offset = m->n_params;
    t->is_bias = is_bias;
    t->is_range = is_range;
    /* the backend may write whole blocks of rows: see backend_whole_rows */
    size_t whole = is_bias ? t->size : (size_t)backend_whole_rows(rows) * (size_t)cols;
    m->n_params += (whole + ALIGNED - 1) / ALIGNED * ALIGNED;
}

/* Numbers that layer l puts out for a user. */
static int out_width(const struct model *m, int l) {
    return (int)m->tensor[2 * l + 1].cols;
}

static void lay_out(struct model *m) {
    const struct model_config *c = &m->config;
    if (!model_is_network(c)) {
        if (c->type == MODEL_EASE) add_tensor(m, "items", 0, 0, 1, m->n_items, m->n_items);
        add_tensor(m, "items", 0, 1, 1, 1, m->n_items);
        return;
    }
    m->n_encoder = c->n_hidden + 1;
    m->n_layers = c->decoder == DECODER_LINEAR ? m->n_encoder + 1 : 2 * m->n_encoder;
    for (int i = 0; i < c->n_hidden; i++) {
        m->width[i + 1] = c->hidden[i];
        if (c->decoder == DECODER_MIRROR) m->width[m->n_layers - 1 - i] = c->hidden[i];
    }
    m->width[m->n_encoder] = c->latent;
    for (int l = 0; l < m->n_layers; l++) {
        const char *half = l < m->n_encoder ? "encoder" : "decoder";
        int number = l < m->n_encoder ? l : l - m->n_encoder, is_last = l == m->n_layers - 1;
        int out = m->width[l + 1] * (c->type == MODEL_VAE && l == m->n_encoder - 1 ? 2 : 1);
        if (l == 0) add_tensor(m, half, number, 0, 1, m->n_items, out);
        if (l > 0 && !is_last) add_tensor(m, half, number, 0, 0, m->width[l], out);
        if (is_last) add_tensor(m, half, number, 0, 1, m->n_items, m->width[l]);
        add_tensor(m, half, number, 1, is_last, 1, is_last ? m->n_items : out);
    }
}

static int create(int for_training, struct model *model) {
    struct backend *backend = model->backend;
    lay_out(model);
    model->params = backend->alloc(backend, model->n_params);
    if (model->params && for_training) model->grads = backend->alloc(backend, model->n_params);
    if (!model->params || (for_training && !model->grads)) {
        model_free(model);
        return EX_OSERR;
    }
    return 0;
}

int model_create(const struct model_config *config, int64_t n_items, struct backend *backend,
                 int for_training, struct model *model) {
    *model = (struct model){.config = *config, .n_items = n_items, .backend = backend};
    return create(for_training, model);
}

int model_create_range(const struct model_config *config, const struct grid *grid, struct backend *backend,
                       int for_training, struct model *model) {
    *model = (struct model){.config = *config, .n_items = grid->count, .grid = grid, .backend = backend};
    return create(for_training, model);
}

int64_t model_all_items(const struct model *model) {
    return model->grid ? model->grid->n_items : model->n_items;
}

int64_t model_all_parameters(const struct model *model) {
    int64_t n = 0;
    for (int t = 0; t < model->n_tensors; t++) {
        const struct tensor *tensor = &model->tensor[t];
        n += (int64_t)tensor->size;
        if (tensor->is_range) {
            n += (model_all_items(model) - model->n_items) * (tensor->is_bias ? 1 : tensor->cols);
        }
    }
    return n;
}

static void free_workspace(struct model *m) {
    struct backend *b = m->backend;
    for (int l = 0; l < MODEL_LAYERS_MAX; l++) {
        if (m->out[l]) b->release(b, m->out[l]);
        if (m->norm[l]) b->release(b, m->norm[l]);
        m->out[l] = m->norm[l] = NULL;
    }
    real **others[] = {&m->noise, &m->z, &m->grad_a, &m->grad_b, &m->added};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        if (*others[i]) b->release(b, *others[i]);
        *others[i] = NULL;
    }
    m->capacity = 0;
}

void model_free(struct model *model) {
    if (!model->backend) return;
    free_workspace(model);
    if (model->params) model->backend->release(model->backend, model->params);
    if (model->grads) model->backend->release(model->backend, model->grads);
    *model = (struct model){0};
}

/* Does layer l give mu and log variance? */
static int is_stats(const struct model *m, int l) {
    return m->config.type == MODEL_VAE && l == m->n_encoder - 1;
}

enum activation model_activation(const struct model *model, int l) {
    int is_linear = is_stats(model, l) || l == model->n_layers - 1;
    return is_linear ? ACTIVATION_NONE : (enum activation)model->config.activation;
}

int model_is_normalized(const struct model *model, int l) {
    return model->config.layer_norm && l < model->n_encoder - 1;
}

/* Workspace for so many rows. */
static int reserve(struct model *m, int64_t rows) {
    struct backend *b = m->backend;
    if (rows <= m->capacity) return 0;
    if (m->capacity > 0) rows += rows / 8; /* it grows: by chance a rank has more rows now and then */
    free_workspace(m);
    size_t n = (size_t)rows, latent = (size_t)m->config.latent;
    int widest = 0, complete = 1;
    for (int l = 0; l < m->n_layers - 1; l++) {
        m->out[l] = b->alloc(b, n * (size_t)out_width(m, l));
        if (model_is_normalized(m, l)) m->norm[l] = b->alloc(b, n * (size_t)out_width(m, l));
        complete = complete && m->out[l] && (m->norm[l] || !model_is_normalized(m, l));
        if (out_width(m, l) > widest) widest = out_width(m, l);
    }
    if (m->config.type == MODEL_VAE) {
        m->noise = b->alloc(b, n * latent);
        m->z = b->alloc(b, n * latent);
        complete = complete && m->noise && m->z;
    }
    if (m->config.type == MODEL_POPULARITY) {
        m->z = b->alloc(b, n);
        complete = m->z != NULL;
    }
    if (m->grads) {
        m->grad_a = b->alloc(b, n * (size_t)widest);
        m->grad_b = b->alloc(b, n * (size_t)widest);
        complete = complete && m->grad_a && m->grad_b;
    }
    if (!complete) {
        free_workspace(m);
        return EX_OSERR;
    }
    m->capacity = rows;
    return 0;
}

/* ---- initial weights ---- */

/* Element `i` of a bias: the first draw within two standard deviations. */
static float draw_bias(uint64_t seed, uint64_t tensor, size_t i) {
    float four[4] = {0};
    for (uint32_t attempt = 0; attempt < 100; attempt++) {
        philox_normal(philox(seed, PHILOX_INIT, attempt, tensor, (uint32_t)(i / 4)), four);
        if (fabsf(four[i % 4]) <= 2) break;
    }
    return 0.001f * four[i % 4];
}

int model_init(struct model *model, uint64_t seed) {
    real *host = malloc(INIT_PIECE * sizeof *host);
    if (!host) return error_memory("initial weights", INIT_PIECE * sizeof *host);
    for (int t = 0; t < model->n_tensors; t++) {
        const struct tensor *tensor = &model->tensor[t];
        int64_t rows = tensor->is_range && !tensor->is_bias ? model_all_items(model) : tensor->rows;
        double limit = sqrt(6.0 / (double)(rows + tensor->cols));
        /* elements of other ranks before this one's: a multiple of four */
        size_t before = tensor->is_range && model->grid ? (size_t)model->grid->first : 0;
        if (!tensor->is_bias) before *= (size_t)tensor->cols;
        for (size_t first = 0; first < tensor->size; first += INIT_PIECE) {
            size_t n = tensor->size - first < INIT_PIECE ? tensor->size - first : INIT_PIECE;
#pragma omp parallel for schedule(static)
            for (size_t i = 0; i < n; i += 4) {
                size_t at = before + first + i;
                struct philox_block block =
                    philox(seed, PHILOX_INIT, (uint32_t)(at >> 34), (uint64_t)t, (uint32_t)(at / 4));
                for (size_t j = 0; j < 4 && i + j < n; j++) {
                    double uniform = (double)philox_uniform(block.lane[j]);
                    host[i + j] = (real)(tensor->is_bias ? (double)draw_bias(seed, (uint64_t)t, at + j)
                                                         : (2 * uniform - 1) * limit);
                }
            }
            model->backend->copy_in(model->backend, model->params + tensor->offset + first, host, n);
        }
    }
    free(host);
    return 0;
}

/* ---- forward and backward ---- */

static real *weight(const struct model *m, int l) {
    return m->params + m->tensor[2 * l].offset;
}

static real *bias(const struct model *m, int l) {
    return m->params + m->tensor[2 * l + 1].offset;
}

static real *weight_grad(const struct model *m, int l) {
    return m->grads + m->tensor[2 * l].offset;
}

static real *bias_grad(const struct model *m, int l) {
    return m->grads + m->tensor[2 * l + 1].offset;
}

/* What layer l >= 1 takes in. */
static const real *input_of(const struct model *m, int l) {
    return is_stats(m, l - 1) ? m->z : model_is_normalized(m, l - 1) ? m->norm[l - 1] : m->out[l - 1];
}

/* All layers but the last, for the loaded batch. */
static void forward(struct model *m, int64_t rows, const struct draw *draw) {
    struct backend *b = m->backend;
    b->input_values(b, draw, m->turn == TURN_DECODER ? 0 : m->config.dropout);
    for (int l = 0; l < m->n_layers - 1; l++) {
        if (l == 0) {
            b->input_forward(b, weight(m, 0), bias(m, 0), out_width(m, 0), model_activation(m, 0), m->out[0]);
        } else {
            b->dense_forward(b, rows, m->width[l], out_width(m, l), input_of(m, l), weight(m, l), bias(m, l),
                             model_activation(m, l), m->out[l]);
        }
        if (model_is_normalized(m, l)) b->normalize(b, rows, out_width(m, l), m->out[l], m->norm[l]);
        if (is_stats(m, l)) b->latent_forward(b, rows, m->config.latent, draw, m->out[l], m->noise, m->z);
    }
}

/* Tells of the gradients of layer l, by a function of the backend's that may be missing; those of the first
 * weight go by rows: input_all_reduce. */
static void tell(struct model *m, int l, void (*function)(struct backend *, real *, size_t)) {
    const struct tensor *first = &m->tensor[l > 0 ? 2 * l : 1];
    size_t end = 2 * l + 2 < m->n_tensors ? m->tensor[2 * l + 2].offset : m->n_params;
    if (function) function(m->backend, m->grads + first->offset, end - first->offset);
}

void model_learning(const struct model *model, int *first, int *end) {
    *first = model->turn == TURN_DECODER ? model->n_encoder : 0;
    *end = model->turn == TURN_ENCODER ? model->n_encoder : model->n_layers;
}

void model_learning_range(const struct model *model, size_t *begin, size_t *n) {
    int first, end;
    model_learning(model, &first, &end);
    *begin = model->tensor[2 * first].offset;
    *n = (end < model->n_layers ? model->tensor[2 * end].offset : model->n_params) - *begin;
}

int model_train_batch(struct model *model, const struct csr *rows, const int64_t *users,
                      const struct draw *draw, double beta, double scale, struct loss *loss) {
    struct backend *b = model->backend;
    int64_t n = rows->rows;
    int last = model->n_layers - 1, first, end;
    model_learning(model, &first, &end);
    *loss = (struct loss){0};
    int code = b->load(b, rows, users, 1);
    if (!code) code = reserve(model, n);
    code = grid_agree(model->grid, code);
    if (code) return code;
    if (n == 0) { /* a rank without a part in this batch */
        size_t begin, size;
        model_learning_range(model, &begin, &size);
        b->zero(b, model->grads + begin, size);
        for (int l = end - 1; l >= first; l--) tell(model, l, b->gradient_ready);
        return b->check(b);
    }
    forward(model, n, draw);
    real *dy = model->grad_a, *dx = model->grad_b;
    if (model->sampled > 0) {
        const struct sample_key key = {draw->seed, draw->epoch, model->sample_step};
        b->sample(b, &key, model->sampled);
    }
    if (last < end) tell(model, last, b->gradient_follows);
    loss->nll = b->output_train(b, n, model->width[last], input_of(model, last), weight(model, last),
                                bias(model, last), scale, model->smoothing, first < last ? dy : NULL,
                                last < end ? weight_grad(model, last) : NULL,
                                last < end ? bias_grad(model, last) : NULL);
    for (int l = last - 1; l >= first; l--) {
        real *swap = dy;
        int is_learning = l < end;
        if (is_stats(model, l)) {
            loss->kl = b->latent_backward(b, n, model->config.latent, beta, model->gamma, scale,
                                          model->out[l], model->noise, dy, dx, &loss->penalty);
            dy = dx;
            dx = swap;
            swap = dy;
        }
        if (model_is_normalized(model, l))
            b->normalize_backward(b, n, out_width(model, l), model->out[l], model->norm[l], dy);
        if (l == 0) {
            b->input_backward(b, out_width(model, 0), model_activation(model, 0), model->out[0], dy,
                              weight_grad(model, 0), bias_grad(model, 0));
        } else {
            b->dense_backward(b, n, model->width[l], out_width(model, l), input_of(model, l),
                              weight(model, l), model->out[l], model_activation(model, l), dy,
                              l > first ? dx : NULL, is_learning ? weight_grad(model, l) : NULL,
                              is_learning ? bias_grad(model, l) : NULL);
            dy = dx;
            dx = swap;
        }
        if (is_learning) tell(model, l, b->gradient_ready);
    }
    return b->losses ? b->losses(b, &loss->nll, &loss->kl, &loss->penalty) : b->check(b);
}

/* ease is the input layer alone, of items that count one each. popularity is a layer whose input is zero. */
static void score_baseline(struct model *m, int64_t rows, real *scores) {
    struct backend *b = m->backend;
    const real *bias = m->params + m->tensor[m->n_tensors - 1].offset;
    if (m->config.type == MODEL_EASE) {
        b->input_ones(b);
        b->input_forward(b, m->params, bias, (int)m->n_items, ACTIVATION_NONE, scores);
    } else {
        b->dense_forward(b, rows, 1, (int)m->n_items, m->z, bias, bias, ACTIVATION_NONE, scores);
    }
}

/* This model's scores of the loaded batch, for which there is workspace. */
static void score_alone(struct model *m, int64_t rows, real *scores) {
    struct backend *b = m->backend;
    int last = m->n_layers - 1;
    if (!model_is_network(&m->config)) {
        score_baseline(m, rows, scores);
        return;
    }
    forward(m, rows, NULL);
    b->output_scores(b, rows, m->width[last], input_of(m, last), weight(m, last), bias(m, last), scores);
}

int model_score(struct model *model, const struct csr *rows, real *scores) {
    struct backend *b = model->backend;
    int code = b->load(b, rows, NULL, 0);
    for (struct model *m = model; m && !code; m = m->next) code = reserve(m, rows->rows);
    if (!code && model->next && !model->added && rows->rows > 0) {
        model->added = b->alloc(b, (size_t)(model->capacity * model->n_items));
        if (!model->added) code = EX_OSERR;
    }
    code = grid_agree(model->grid, code);
    if (code || rows->rows == 0) return code;
    score_alone(model, rows->rows, scores);
    for (struct model *m = model->next; m; m = m->next) {
        score_alone(m, rows->rows, model->added);
        b->add(b, (size_t)(rows->rows * m->n_items), m->weight, model->added, scores);
    }
    return b->losses ? 0 : b->check(b); /* an asynchronous one is asked when somebody waits */
}
