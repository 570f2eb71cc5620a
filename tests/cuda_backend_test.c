/* The CUDA backend against the CPU's: every function of the seam on the same random numbers. Shapes are odd,
 * rows are empty, alone, or longer than a block of threads.
 *
 * The plain test runs on a GPU, if there is one; tests/cuda_host_test.sh runs the same on the host emulation.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backend.h"
#include "comm.h"
#include "error.h"
#include "model.h"
#include "philox.h"
#include "sampler.h"

struct shape {
    int64_t rows, items;
    int h;       /* width of the layer under test */
    int density; /* of a row's items: one in so many */
};

static const struct shape shapes[] = {
    {1, 5, 3, 2},      {1, 1, 1, 1},     {7, 33, 8, 3},   {3, 2100, 20, 2},
    {33, 257, 129, 5}, {9, 600, 260, 1}, {70, 65, 52, 9}, {150, 40, 16, 2},
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* A way to compute the sparse layer, as the environment names it. */
struct way {
    const char *variable, *value;
    int is_issued; /* its steps are not recorded */
};
static const struct way ways[] = {
    {"VAECF_SPARSE", "cusparse", 1},
    {"VAECF_CUDA_TUNING", "split_rows", 0},
    {"VAECF_CUDA_TUNING", "sorted_steps", 0},
};
enum { WAYS = sizeof ways / sizeof *ways };

/* Both backends with the same batch. */
struct pair {
    struct backend backend[2]; /* CPU, CUDA */
    struct csr rows;
    int64_t *users;
};

static uint64_t counter;      /* of the random numbers */
static int64_t logit_memory;  /* of the CUDA backend */
static const struct way *way; /* of the CUDA backend; NULL: by default */
static int are_both_cuda;     /* the other one is not the CPU but CUDA by default */

static float uniform(void) {
    struct philox_block block = philox(77, PHILOX_SWEEP, 0, counter++, 0);
    return philox_uniform(block.lane[0]);
}

static real *random_numbers(size_t n, double size) {
    real *to = malloc((n + 1) * sizeof *to);
    for (size_t i = 0; i < n; i++) to[i] = (real)(size * (2 * (double)uniform() - 1));
    return to;
}

static int there_is_a_gpu(void) {
    return backend_probe(DEVICE_CUDA) == 0;
}

static int create_precision(struct pair *p, const struct shape *s, enum precision precision) {
    const struct backend_options options = {.n_items = s->items,
                                            .logit_memory = logit_memory,
                                            .device = DEVICE_CUDA,
                                            .precision = precision,
                                            .comm_kind = COMM_MPI};
    memset(p, 0, sizeof *p);
    if (!there_is_a_gpu()) return 0;
    if (way) setenv(way->variable, way->value, 1);
    if (backend_create(&options, &p->backend[1])) fail_msg("%s", error_message());
    if (way) unsetenv(way->variable);
    assert_string_equal(p->backend[1].name, "cuda");
    if (are_both_cuda) {
        assert_int_equal(backend_create(&options, &p->backend[0]), 0);
    } else {
        assert_int_equal(backend_cpu_create(s->items, precision, &p->backend[0]), 0);
    }
    p->rows = (struct csr){.rows = s->rows, .cols = s->items};
    p->rows.indptr = calloc((size_t)s->rows + 1, sizeof *p->rows.indptr);
    p->rows.indices = calloc((size_t)(s->rows * s->items) + 1, sizeof *p->rows.indices);
    p->users = calloc((size_t)s->rows, sizeof *p->users);
    for (int64_t r = 0, n = 0; r < s->rows; r++) {
        p->users[r] = 1000 * r + ((int64_t)1 << 33);
        /* every fourth row is empty */
        for (int32_t i = 0; i < s->items && r % 4 != 3; i++) {
            if (uniform() < 1.0f / (float)s->density) p->rows.indices[n++] = i;
        }
        p->rows.indptr[r + 1] = n;
    }
    return 1;
}

static int create(struct pair *p, const struct shape *s) {
    return create_precision(p, s, PRECISION_FP32);
}

static void destroy(struct pair *p) {
    for (int d = 0; d < 2; d++) p->backend[d].destroy(&p->backend[d]);
    csr_free(&p->rows);
    free(p->users);
}

/* The numbers in the memory of backend d. */
static real *up(struct pair *p, int d, const real *host, size_t n) {
    struct backend *b = &p->backend[d];
    real *to = b->alloc(b, n);
    if (!to) fail_msg("%s", error_message());
    if (host) b->copy_in(b, to, host, n);
    return to;
}

static void load(struct pair *p, int training) {
    for (int d = 0; d < 2; d++) {
        struct backend *b = &p->backend[d];
        if (b->load(b, &p->rows, p->users, training)) fail_msg("%s", error_message());
    }
}

/* Both have the same in them, up to `error` of the largest number; frees both. */
static void same(struct pair *p, const char *what, real *memory[2], size_t n, double error) {
    real *host[2];
    double largest = 0;
    for (int d = 0; d < 2; d++) {
        struct backend *b = &p->backend[d];
        host[d] = malloc((n + 1) * sizeof **host);
        b->copy_out(b, host[d], memory[d], n);
        if (b->check(b)) fail_msg("%s: %s", what, error_message());
        b->release(b, memory[d]);
    }
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)host[0][i]));
    for (size_t i = 0; i < n; i++) {
        if (fabs((double)host[0][i] - (double)host[1][i]) <= error * largest) continue;
        fail_msg("%s[%zu] of %lld rows x %lld items is %.9g, want %.9g", what, i, (long long)p->rows.rows,
                 (long long)p->rows.cols, (double)host[1][i], (double)host[0][i]);
    }
    free(host[0]);
    free(host[1]);
}

static void near(const char *what, double a, double b, double error) {
    if (!(fabs(a - b) <= error * fabs(b))) fail_msg("%s is %.12g, want %.12g", what, a, b);
}

/* ---- the sparse layer ---- */

static void sparse_in(const struct shape *s, enum precision precision, enum activation act, double dropout,
                      double error) {
    struct pair p;
    if (!create_precision(&p, s, precision)) skip();
    const struct draw draw = {5, 3};
    size_t w_size = (size_t)(s->items * s->h), y_size = (size_t)(s->rows * s->h);
    real *w = random_numbers(w_size, 1), *b = random_numbers((size_t)s->h, 1),
         *gradient = random_numbers(y_size, 1);
    real *y[2], *dy[2], *dw[2], *db[2];
    for (int round = 0; round < 2;
         round++) { /* what a batch leaves behind must not be seen in the next one */
        load(&p, 1);
        for (int d = 0; d < 2; d++) {
            struct backend *k = &p.backend[d];
            const struct comm alone = {.rank = 0, .size = 1};
            real *weights = up(&p, d, w, w_size), *bias = up(&p, d, b, (size_t)s->h);
            y[d] = up(&p, d, NULL, y_size);
            dy[d] = up(&p, d, gradient, y_size);
            dw[d] = up(&p, d, d ? w : NULL, w_size); /* on the GPU something that is not zero */
            db[d] = up(&p, d, NULL, (size_t)s->h);
            k->input_values(k, dropout > 0 ? &draw : NULL, dropout);
            k->input_forward(k, weights, bias, s->h, act, y[d]);
            k->input_backward(k, s->h, act, y[d], dy[d], dw[d], db[d]);
            k->input_all_reduce(k, &alone, s->h, dw[d]);
            if (k->check(k)) fail_msg("%s", error_message());
            k->release(k, weights);
            k->release(k, bias);
        }
        same(&p, "y", y, y_size, error);
        same(&p, "dy", dy, y_size, error);
        same(&p, "dw", dw, w_size, error);
        same(&p, "db", db, (size_t)s->h, error);
    }
    free(w);
    free(b);
    free(gradient);
    destroy(&p);
}

static void sparse(const struct shape *s, enum activation act, double dropout) {
    sparse_in(s, PRECISION_FP32, act, dropout, 1e-5);
}

static void test_sparse_layer(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) sparse(&shapes[i], (enum activation)(i % 4), i % 2 ? 0.5 : 0);
    sparse(&shapes[3], ACTIVATION_TANH, 0.3);
}

/* Each way beside the CPU, and beside the default in 16 bits: rows of which all is dropped, a batch without
 * an entry. */
static void ways_of_sparse_layer(void **state) {
    (void)state;
    const struct shape none = {5, 40, 8, 1 << 30};
    for (way = ways; way < ways + WAYS; way++) {
        for (int i = 0; i < SHAPES; i++) sparse(&shapes[i], (enum activation)(i % 4), i % 2 ? 0.5 : 0);
        sparse(&shapes[3], ACTIVATION_TANH, 0.95);
        sparse(&shapes[4], ACTIVATION_NONE, 1 - 1.0 / 128);
        sparse(&none, ACTIVATION_SIGMOID, 0.5);
        are_both_cuda = 1;
        for (int i = 2; i < SHAPES; i += 2) {
            sparse_in(&shapes[i], i % 4 ? PRECISION_BF16 : PRECISION_FP16, (enum activation)(i % 3), 0.5,
                      i % 4 ? 1e-2 : 2e-3);
        }
        are_both_cuda = 0;
    }
    way = NULL;
}

/* ---- dense layers ---- */

static void dense(const struct shape *s, int n_in, enum activation act, int wants_dx) {
    struct pair p;
    if (!create(&p, s)) skip();
    int n_out = s->h;
    size_t in = (size_t)(s->rows * n_in), out = (size_t)(s->rows * n_out), w_size = (size_t)(n_in * n_out);
    real *x = random_numbers(in, 1), *w = random_numbers(w_size, 1), *b = random_numbers((size_t)n_out, 1);
    real *gradient = random_numbers(out, 1), *memory[2][7];
    load(&p, 1);
    for (int d = 0; d < 2; d++) {
        struct backend *k = &p.backend[d];
        real **m = memory[d];
        real *weights = up(&p, d, w, w_size), *bias = up(&p, d, b, (size_t)n_out), *from = up(&p, d, x, in);
        m[0] = up(&p, d, NULL, out); /* y */
        m[1] = up(&p, d, gradient, out);
        m[2] = up(&p, d, NULL, in);
        m[3] = up(&p, d, NULL, w_size);
        m[4] = up(&p, d, NULL, (size_t)n_out);
        k->dense_forward(k, s->rows, n_in, n_out, from, weights, bias, act, m[0]);
        k->dense_backward(k, s->rows, n_in, n_out, from, weights, m[0], act, m[1], wants_dx ? m[2] : NULL,
                          m[3], m[4]);
        if (k->check(k)) fail_msg("%s", error_message());
        k->release(k, weights);
        k->release(k, bias);
        k->release(k, from);
    }
    const size_t sizes[] = {out, out, in, w_size, (size_t)n_out};
    const char *const names[] = {"y", "dy", "dx", "dw", "db"};
    for (int i = 0; i < 5; i++) {
        real *both[2] = {memory[0][i], memory[1][i]};
        same(&p, names[i], both, sizes[i], 1e-5);
    }
    free(x);
    free(w);
    free(b);
    free(gradient);
    destroy(&p);
}

static void test_dense_layers(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) dense(&shapes[i], 1 + 13 * i, (enum activation)((i + 1) % 4), i % 2);
}

/* ---- layer normalisation ---- */

static void normalize(const struct shape *s) {
    struct pair p;
    if (!create(&p, s)) skip();
    size_t n = (size_t)(s->rows * s->h);
    real *numbers = random_numbers(n, 1), *gradient = random_numbers(n, 1), *x[2], *dx[2];
    load(&p, 1);
    for (int d = 0; d < 2; d++) {
        struct backend *k = &p.backend[d];
        real *y = up(&p, d, numbers, n);
        x[d] = up(&p, d, NULL, n);
        dx[d] = up(&p, d, gradient, n);
        k->normalize(k, s->rows, s->h, y, x[d]);
        k->normalize_backward(k, s->rows, s->h, y, x[d], dx[d]);
        k->release(k, y);
    }
    same(&p, "x", x, n, 5e-6);
    same(&p, "dx", dx, n, 5e-6);
    free(numbers);
    free(gradient);
    destroy(&p);
}

static void test_normalizing(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) normalize(&shapes[i]);
}

/* ---- the latent layer ---- */

static void latent(const struct shape *s, int is_drawn, double gamma) {
    struct pair p;
    if (!create(&p, s)) skip();
    const struct draw draw = {9, 2};
    int n = s->h;
    size_t half = (size_t)(s->rows * n);
    real *stats = random_numbers(2 * half, 2), *gradient = random_numbers(half, 1), *z[2], *noise[2],
         *dstats[2];
    double kl[2], penalty[2];
    load(&p, 1);
    for (int d = 0; d < 2; d++) {
        struct backend *k = &p.backend[d];
        real *from = up(&p, d, stats, 2 * half), *dz = up(&p, d, gradient, half);
        double nll;
        z[d] = up(&p, d, NULL, half);
        noise[d] = up(&p, d, NULL, half);
        dstats[d] = up(&p, d, NULL, 2 * half);
        k->latent_forward(k, s->rows, n, is_drawn ? &draw : NULL, from, noise[d], z[d]);
        kl[d] =
            k->latent_backward(k, s->rows, n, 0.7, gamma, 0.01, from, noise[d], dz, dstats[d], &penalty[d]);
        if (k->losses) assert_int_equal(k->losses(k, &nll, &kl[d], &penalty[d]), 0);
        k->release(k, from);
        k->release(k, dz);
    }
    near("kl", kl[1], kl[0], 1e-5);
    near("penalty", penalty[1], penalty[0], 1e-5);
    same(&p, "z", z, half, 2e-6);
    same(&p, "noise", noise, half, 2e-6);
    same(&p, "dstats", dstats, 2 * half, 2e-6);
    free(stats);
    free(gradient);
    destroy(&p);
}

static void test_latent_layer(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) latent(&shapes[i], 1, i % 2 ? 0.05 : 0);
    latent(&shapes[4], 0, 0);
}

/* ---- the output layer ---- */

static void output(const struct shape *s, double size) {
    struct pair p;
    if (!create(&p, s)) skip();
    size_t x_size = (size_t)(s->rows * s->h), w_size = (size_t)(s->items * s->h),
           whole = (size_t)backend_whole_rows(s->items), whole_size = whole * (size_t)s->h;
    real *x = random_numbers(x_size, size), *w = random_numbers(w_size, 1);
    real *b = random_numbers((size_t)s->items, 1), *memory[2][4];
    double nll[2];
    load(&p, 1);
    for (int d = 0; d < 2; d++) {
        struct backend *k = &p.backend[d];
        real *from = up(&p, d, x, x_size), *weights = up(&p, d, NULL, whole_size);
        real *bias = up(&p, d, NULL, whole), **m = memory[d];
        k->copy_in(k, weights, w, w_size);
        k->copy_in(k, bias, b, (size_t)s->items);
        double kl = 0;
        m[0] = up(&p, d, NULL, x_size);
        m[1] = up(&p, d, NULL, whole_size);
        m[2] = up(&p, d, NULL, whole);
        m[3] = up(&p, d, NULL, (size_t)(s->rows * s->items));
        nll[d] = k->output_train(k, s->rows, s->h, from, weights, bias, 0.01, 0.1, m[0], m[1], m[2]);
        if (k->losses) assert_int_equal(k->losses(k, &nll[d], &kl, &kl), 0);
        assert_true(kl == 0);
        k->output_scores(k, s->rows, s->h, from, weights, bias, m[3]);
        if (k->check(k)) fail_msg("%s", error_message());
        k->release(k, from);
        k->release(k, weights);
        k->release(k, bias);
    }
    near("nll", nll[1], nll[0], 1e-5);
    const size_t sizes[] = {x_size, whole_size, whole, (size_t)(s->rows * s->items)};
    const char *const names[] = {"dx", "dw", "db", "scores"};
    for (int i = 0; i < 4; i++) {
        real *both[2] = {memory[0][i], memory[1][i]};
        same(&p, names[i], both, sizes[i], 2e-5);
    }
    free(x);
    free(w);
    free(b);
    destroy(&p);
}

static void test_output_layer(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) output(&shapes[i], 0.5);
    output(&shapes[3], 50); /* logits far apart: exponentials that vanish */
}

/* In tiles of 64 items, the least. */
static void test_output_in_tiles(void **state) {
    (void)state;
    logit_memory = 1;
    for (int i = 0; i < SHAPES; i++) output(&shapes[i], 0.5);
    output(&shapes[3], 50);
    logit_memory = 0;
}

/* ---- ranking ---- */

static void ranking(const struct shape *s, int k, int levels) {
    struct pair p;
    if (!create(&p, s)) skip();
    size_t n = (size_t)(s->rows * s->items), n_top = (size_t)(s->rows * k);
    struct csr targets = {.rows = s->rows, .cols = s->items};
    real *scores = random_numbers(n, 3), *top_scores[2];
    int32_t *top[2];
    int64_t *hit[2];
    /* few levels: ties; also what is not to be ranked, and both zeros */
    for (size_t i = 0; i < n && levels; i++) scores[i] = (real)(rint((double)scores[i] * levels) / levels);
    for (size_t i = 0; i < n; i += 7) scores[i] = i % 2 ? -0.0f : 0.0f;
    for (size_t i = 3; i < n; i += 11) scores[i] = i % 2 ? (real)-INFINITY : (real)NAN;
    targets.indptr = calloc((size_t)s->rows + 1, sizeof *targets.indptr);
    targets.indices = calloc(n + 1, sizeof *targets.indices);
    for (int64_t r = 0, at = 0; r < s->rows; r++) {
        for (int32_t i = 0; i < s->items && r % 3 != 1; i++) {
            if (uniform() < 0.1f) targets.indices[at++] = i;
        }
        targets.indptr[r + 1] = at;
    }
    load(&p, 0);
    for (int d = 0; d < 2; d++) {
        struct backend *b = &p.backend[d];
        real *memory = up(&p, d, scores, n);
        top[d] = calloc(n_top, sizeof **top);
        top_scores[d] = calloc(n_top, sizeof **top_scores);
        hit[d] = calloc((size_t)s->rows, sizeof **hit);
        b->top_k(b, s->rows, memory, k, &targets, top[d], top_scores[d], hit[d]);
        if (b->check(b)) fail_msg("%s", error_message());
        b->release(b, memory);
    }
    assert_memory_equal(top[0], top[1], n_top * sizeof **top);
    assert_memory_equal(hit[0], hit[1], (size_t)s->rows * sizeof **hit);
    for (size_t i = 0; i < n_top; i++) assert_true(top_scores[0][i] == top_scores[1][i]);
    for (int d = 0; d < 2; d++) {
        free(top[d]);
        free(top_scores[d]);
        free(hit[d]);
    }
    free(scores);
    csr_free(&targets);
    destroy(&p);
}

static void test_ranking(void **state) {
    (void)state;
    for (int i = 0; i < SHAPES; i++) {
        ranking(&shapes[i], shapes[i].items < 20 ? (int)shapes[i].items : 20, 0);
        ranking(&shapes[i], 1, 2);
        ranking(&shapes[i], (int)shapes[i].items, 4);
    }
}

/* ---- the update ---- */

static void test_update(void **state) {
    (void)state;
    enum { N = 1237 };
    struct pair p;
    real *memory[2][4], *bad[2];
    if (!create(&p, &shapes[2])) skip();
    real *w = random_numbers(N, 1), *g = random_numbers(N, 1);
    for (int d = 0; d < 2; d++) {
        struct backend *b = &p.backend[d];
        real **m = memory[d];
        m[0] = up(&p, d, w, N);
        m[1] = up(&p, d, g, N);
        for (int i = 2; i < 4; i++) m[i] = up(&p, d, NULL, N);
        for (int step = 1; step <= 5; step++) {
            const struct adam_step adam = {.learning_rate = 0.1,
                                           .beta1 = 0.9,
                                           .beta2 = 0.99,
                                           .epsilon = 1e-8,
                                           .weight_decay = 0.01,
                                           .decoupled = step % 2,
                                           .correction1 = 1 - pow(0.9, step),
                                           .correction2 = 1 - pow(0.99, step),
                                           .unscale = step == 3 ? 0.25 : 1};
            b->adam(b, &adam, N, m[0], m[1], m[2], m[3]);
        }
        b->guard(b, m[1], N);
        assert_int_equal(b->overflowed(b), 0);
        /* a single number that is not finite, at the very end: nothing is changed */
        bad[d] = up(&p, d, g, N);
        real last = d ? (real)INFINITY : (real)NAN;
        b->copy_in(b, bad[d] + N - 1, &last, 1);
        b->guard(b, bad[d], N);
        const struct adam_step adam = {.learning_rate = 1, .correction1 = 1, .correction2 = 1, .unscale = 1};
        b->adam(b, &adam, N, m[0], m[1], m[2], m[3]);
        assert_int_equal(b->overflowed(b), 1);
        b->release(b, bad[d]);
    }
    const char *const names[] = {"p", "g", "m", "v"};
    for (int i = 0; i < 4; i++) {
        real *both[2] = {memory[0][i], memory[1][i]};
        same(&p, names[i], both, N, 1e-6);
    }
    free(w);
    free(g);
    destroy(&p);
}

/* ---- the whole network, in every precision, over steps ---- */

/* Three steps; the weights after them, of which two runs have the same bits. */
static real *train(struct pair *p, int d, const struct shape *s, enum precision precision, double nll[3],
                   size_t *n) {
    struct model_config config = {.type = MODEL_VAE,
                                  .n_hidden = 1,
                                  .hidden = {s->h},
                                  .latent = 9,
                                  .activation = ACTIVATION_TANH,
                                  .dropout = 0.5};
    const struct comm alone = {.rank = 0, .size = 1};
    struct backend *b = &p->backend[d];
    struct model model;
    double scale = precision == PRECISION_FP16 ? 1024 : 1;
    if (model_create(&config, s->items, b, 1, &model) || model_init(&model, 3))
        fail_msg("%s", error_message());
    real *m = up(p, d, NULL, model.n_params), *v = up(p, d, NULL, model.n_params);
    for (int step = 1; step <= 3; step++) {
        const struct draw draw = {7, (uint32_t)step};
        const struct adam_step adam = {.learning_rate = 0.01,
                                       .beta1 = 0.9,
                                       .beta2 = 0.99,
                                       .epsilon = 1e-3,
                                       .correction1 = 1 - pow(0.9, step),
                                       .correction2 = 1 - pow(0.99, step),
                                       .unscale = 1 / scale};
        struct loss loss;
        int code = model_train_batch(&model, &p->rows, p->users, &draw, 0.2, scale / (double)s->rows, &loss);
        if (code) fail_msg("%s", error_message());
        b->input_all_reduce(b, &alone, s->h, model.grads);
        b->guard(b, model.grads, model.n_params);
        b->adam(b, &adam, model.n_params, model.params, model.grads, m, v);
        assert_int_equal(b->overflowed(b), 0);
        nll[step - 1] = loss.nll;
    }
    real *weights = malloc(model.n_params * sizeof *weights);
    b->copy_out(b, weights, model.params, model.n_params);
    *n = model.n_params;
    b->release(b, m);
    b->release(b, v);
    model_free(&model);
    return weights;
}

static void network(const struct shape *s, enum precision precision, double error) {
    struct pair p;
    double nll[3][3];
    size_t n;
    if (!create_precision(&p, s, precision)) skip();
    real *cpu = train(&p, 0, s, precision, nll[0], &n), *first = train(&p, 1, s, precision, nll[1], &n);
    real *again = train(&p, 1, s, precision, nll[2], &n);
    assert_memory_equal(nll[1], nll[2], sizeof nll[1]);
    assert_memory_equal(first, again, n * sizeof *first);
    for (int i = 0; i < 3; i++) near("nll", nll[1][i], nll[0][i], error);
    for (size_t i = 0; i < n; i++) {
        if (fabs((double)first[i] - (double)cpu[i]) <= error) continue;
        fail_msg("precision %d: weight %zu is %.9g, want %.9g", precision, i, (double)first[i],
                 (double)cpu[i]);
    }
    free(cpu);
    free(first);
    free(again);
    destroy(&p);
}

static void test_network(void **state) {
    (void)state;
    network(&shapes[4], PRECISION_FP32, 1e-4);
    network(&shapes[5], PRECISION_FP32, 1e-4);
    network(&shapes[4], PRECISION_TF32, 2e-3);
    network(&shapes[4], PRECISION_BF16, 5e-3); /* a CPU without bf16 computes in fp32 */
    network(&shapes[4], PRECISION_FP16, 1e-3);
}

/* ---- steps on rows that stay on the GPU ---- */

/* One side of the comparison. */
struct learner {
    struct model model;
    real *m, *v;
};

static void begin_learning(struct pair *p, int d, struct learner *l, int turns) {
    const struct model_config config = {.type = MODEL_VAE,
                                        .n_hidden = 1,
                                        .hidden = {24},
                                        .latent = 9,
                                        .activation = ACTIVATION_TANH,
                                        .layer_norm = turns,
                                        .decoder = turns ? DECODER_LINEAR : DECODER_MIRROR,
                                        .dropout = 0.5};
    struct backend *b = &p->backend[d];
    if (model_create(&config, p->rows.cols, b, 1, &l->model) || model_init(&l->model, 3)) {
        fail_msg("%s", error_message());
    }
    l->model.gamma = turns ? 0.05 : 0;
    l->m = up(p, d, NULL, l->model.n_params);
    l->v = up(p, d, NULL, l->model.n_params);
}

static void end_learning(struct pair *p, int d, struct learner *l) {
    struct backend *b = &p->backend[d];
    b->release(b, l->m);
    b->release(b, l->v);
    model_free(&l->model);
}

static void find_gradients(struct learner *l, const struct step *step, const struct csr *rows,
                           const int64_t *users, struct loss *loss) {
    if (model_train_batch(&l->model, rows, users, &step->draw, step->beta, step->scale, loss)) {
        fail_msg("%s", error_message());
    }
}

static void apply_gradients(struct learner *l, const struct adam_step *adam, int is_guarded) {
    struct model *model = &l->model;
    struct backend *b = model->backend;
    size_t at, n;
    model_learning_range(model, &at, &n);
    if (at == 0) b->input_all_reduce(b, &(struct comm){.size = 1}, (int)model->tensor[0].cols, model->grads);
    if (is_guarded) b->guard(b, model->grads + at, n);
    b->adam(b, adam, n, model->params + at, model->grads + at, l->m + at, l->v + at);
}

/* The rows and users of a step of n rows as the sampler hands them out, but for those before row `from`. */
static void take(const struct pair *p, const struct step *step, int64_t n, int64_t from, struct csr *rows,
                 int64_t *users) {
    rows->rows = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t row = sampler_row_at(step->draw.seed, step->draw.epoch, p->rows.rows, step->first + i);
        if (row < from) continue;
        int64_t r = rows->rows++;
        int64_t begin = p->rows.indptr[row], size = p->rows.indptr[row + 1] - begin;
        users[r] = p->users[row];
        rows->indptr[r + 1] = rows->indptr[r] + size;
        memcpy(rows->indices + rows->indptr[r], p->rows.indices + begin,
               (size_t)size * sizeof *rows->indices);
    }
}

/* Epochs of full steps and a shorter one: every step after the second of its kind is a replay, and all are as
 * on the CPU. An overflow in one of them is skipped. The rank has the rows from `from` on. In turns: two
 * epochs for the encoder, then one for the decoder. */
static void kept_steps(const struct shape *s, enum precision precision, int64_t from, int turns,
                       double error) {
    struct pair p;
    struct learner learner[2];
    double sums[3] = {0}, fetched[3];
    int epochs = s->rows < 1000 ? 5 : 3; /* on the host they take their time */
    int64_t batch = s->rows * 2 / 5, steps = 3;
    int replays = 0, is_guarded = precision == PRECISION_FP16;
    if (!create_precision(&p, s, precision)) skip();
    struct csr rows = {.cols = s->items, .indptr = calloc((size_t)batch + 1, sizeof *rows.indptr)};
    rows.indices = calloc((size_t)(batch * s->items) + 1, sizeof *rows.indices);
    int64_t *users = calloc((size_t)batch, sizeof *users);
    struct backend *cpu = &p.backend[0], *gpu = &p.backend[1];
    for (int d = 0; d < 2; d++) begin_learning(&p, d, &learner[d], turns);
    int64_t *starts = calloc((size_t)(s->rows - from) + 1, sizeof *starts), skipped = p.rows.indptr[from];
    for (int64_t r = from; r <= s->rows; r++) starts[r - from] = p.rows.indptr[r] - skipped;
    const struct csr own = {s->rows - from, s->items, starts, p.rows.indices + skipped, NULL};
    assert_int_equal(gpu->keep(gpu, &own, p.users + from, s->rows, from, batch), 0);
    for (int at = 0; at < epochs * steps; at++) {
        int64_t first = at % steps * batch, n = at % steps == steps - 1 ? s->rows - first : batch;
        int is_overflow = is_guarded && at == 9;
        struct step step = {.draw = {7, (uint32_t)(at / steps)},
                            .first = first,
                            .beta = 0.02 * at,
                            .gamma = learner[0].model.gamma,
                            .turn = !turns               ? TURN_BOTH
                                    : at / steps % 3 < 2 ? TURN_ENCODER
                                                         : TURN_DECODER,
                            .scale = is_overflow ? 1e38 : 64.0 / (double)batch};
        const struct adam_step adam = {.learning_rate = 0.001 * at,
                                       .beta1 = 0.9,
                                       .beta2 = 0.99,
                                       .epsilon = 1e-3,
                                       .correction1 = 1 - pow(0.9, at + 1),
                                       .correction2 = 1 - pow(0.99, at + 1),
                                       .unscale = 1 / 64.0};
        struct loss loss;
        for (int d = 0; d < 2; d++) learner[d].model.turn = (enum turn)step.turn;
        take(&p, &step, n, from, &rows, users);
        find_gradients(&learner[0], &step, &rows, users, &loss);
        sums[0] += loss.nll;
        sums[1] += loss.kl;
        sums[2] += loss.nll + (turns ? loss.penalty : step.beta * loss.kl);
        if (gpu->step_begin(gpu, &step)) {
            replays++;
        } else {
            const struct csr kept = {.rows = step.rows, .cols = s->items};
            find_gradients(&learner[1], &step, &kept, NULL, &loss);
            if (gpu->step_end(gpu)) fail_msg("%s", error_message());
        }
        assert_true(from ? step.rows >= rows.rows : step.rows == n);
        for (int d = 0; d < 2; d++) apply_gradients(&learner[d], &adam, is_guarded);
        for (int d = 0; d < 2 && is_guarded; d++) {
            assert_int_equal(p.backend[d].overflowed(&p.backend[d]), is_overflow);
        }
        if (at != 4 && at != epochs * steps - 1) continue;
        if (gpu->step_losses(gpu, fetched)) fail_msg("%s", error_message());
        for (int i = 0; i < 3; i++) near("sum of losses", fetched[i], sums[i], error);
        memset(sums, 0, sizeof sums);
    }
    if (way && way->is_issued) {
        assert_int_equal(replays, 0);
    } else {
        assert_true(replays >= epochs * steps - (from || turns ? 8 : 4));
    }
    real *weights[2] = {learner[0].model.params, learner[1].model.params}, *host[2];
    size_t n = learner[0].model.n_params;
    for (int d = 0; d < 2; d++) {
        host[d] = malloc(n * sizeof **host);
        p.backend[d].copy_out(&p.backend[d], host[d], weights[d], n);
    }
    for (size_t i = 0; i < n; i++) {
        if (fabs((double)host[0][i] - (double)host[1][i]) <= error) continue;
        fail_msg("weight %zu is %.9g, want %.9g", i, (double)host[1][i], (double)host[0][i]);
    }
    assert_int_equal(cpu->keep == NULL, 1);
    int64_t *empty = calloc(2001, sizeof *empty); /* a step of one user would look at the entries of 2000 */
    const struct csr many = {.rows = 2000, .cols = s->items, .indptr = empty};
    assert_int_equal(gpu->keep(gpu, &many, empty, 2000, 0, 1), EX_UNAVAILABLE);
    free(empty);
    for (int d = 0; d < 2; d++) {
        end_learning(&p, d, &learner[d]);
        free(host[d]);
    }
    csr_free(&rows);
    free(users);
    free(starts);
    destroy(&p);
}

static void test_kept_steps(void **state) {
    (void)state;
    kept_steps(&shapes[6], PRECISION_FP32, 0, 0, 1e-4);
    kept_steps(&shapes[7], PRECISION_FP32, 0, 0, 1e-4);
    kept_steps(&shapes[7], PRECISION_FP32, 100, 0, 1e-4);
    kept_steps(&shapes[7], PRECISION_BF16, 60, 0, 5e-3);
    kept_steps(&shapes[7], PRECISION_FP16, 0, 0, 2e-3);
    kept_steps(&shapes[7], PRECISION_FP32, 0, 1, 1e-4);
    kept_steps(&shapes[7], PRECISION_FP16, 0, 1, 2e-3);
}

static void ways_of_kept_steps(void **state) {
    (void)state;
    for (way = ways; way < ways + WAYS; way++) {
        if (way != &ways[1]) kept_steps(&shapes[6], PRECISION_FP32, 0, 0, 1e-4);
        kept_steps(&shapes[7], PRECISION_BF16, 60, 0, 5e-3);
    }
    way = &ways[0];
    kept_steps(&shapes[7], PRECISION_FP16, 0, 1, 2e-3);
    network(&shapes[4], PRECISION_FP32, 1e-4);
    way = NULL;
}

/* ---- ways to compute that are switched on: cuda/tuning.h ---- */

/* The same results within the same tolerances. */
static void ways_bias_epilogue(void **state) {
    setenv("VAECF_CUDA_TUNING", "bias_epilogue", 1);
    test_dense_layers(state);
    test_output_layer(state);
    test_output_in_tiles(state);
    test_network(state);
    kept_steps(&shapes[7], PRECISION_BF16, 60, 0, 5e-3);
    unsetenv("VAECF_CUDA_TUNING");
}

static void ways_short_activations(void **state) {
    (void)state;
    setenv("VAECF_CUDA_TUNING", "short_activations", 1);
    network(&shapes[4], PRECISION_FP32, 1e-4);
    network(&shapes[4], PRECISION_BF16, 5e-3);
    network(&shapes[4], PRECISION_FP16, 2e-3);
    kept_steps(&shapes[7], PRECISION_BF16, 60, 0, 5e-3);
    kept_steps(&shapes[7], PRECISION_FP16, 0, 0, 2e-3);
    kept_steps(&shapes[7], PRECISION_FP16, 0, 1, 2e-3);
    unsetenv("VAECF_CUDA_TUNING");
}

static void ways_fp8(void **state) {
    (void)state;
    setenv("VAECF_CUDA_TUNING", "fp8", 1);
    network(&shapes[4], PRECISION_BF16, 2e-2);
    network(&shapes[6], PRECISION_BF16, 2e-2);
    kept_steps(&shapes[7], PRECISION_BF16, 60, 0, 2e-2);
    kept_steps(&shapes[7], PRECISION_BF16, 0, 1, 2e-2);
    unsetenv("VAECF_CUDA_TUNING");
}

/* ---- batch after batch ---- */

/* The host runs ahead of the device: each batch's loss is its own. */
static void test_many_batches(void **state) {
    (void)state;
    enum { BATCHES = 9 };
    struct pair p;
    const struct shape *s = &shapes[6];
    struct model_config config = {
        .type = MODEL_DAE, .n_hidden = 0, .latent = 8, .activation = ACTIVATION_TANH};
    if (!create(&p, s)) skip();
    for (int batch = 0; batch < BATCHES; batch++) {
        static struct model models[2];
        int64_t first = batch * 7, starts[12], count = 1 + batch;
        const struct draw draw = {1, (uint32_t)batch};
        struct loss loss[2];
        for (int64_t r = 0; r <= count; r++) starts[r] = p.rows.indptr[first + r] - p.rows.indptr[first];
        struct csr rows = {.rows = count,
                           .cols = s->items,
                           .indptr = starts,
                           .indices = p.rows.indices + p.rows.indptr[first]};
        for (int d = 0; d < 2; d++) {
            if (batch == 0) {
                assert_int_equal(model_create(&config, s->items, &p.backend[d], 1, &models[d]), 0);
                assert_int_equal(model_init(&models[d], 2), 0);
            }
            if (model_train_batch(&models[d], &rows, p.users + first, &draw, 0, 0.1, &loss[d])) {
                fail_msg("%s", error_message());
            }
            assert_true(loss[d].kl == 0);
        }
        near("nll", loss[1].nll, loss[0].nll, 1e-5);
        for (int d = 0; d < 2 && batch == BATCHES - 1; d++) model_free(&models[d]);
    }
    destroy(&p);
}

static void test_adding(void **state) {
    (void)state;
    enum { N = 4999 };
    struct pair p;
    real *y[2];
    if (!create(&p, &shapes[2])) skip();
    real *x_host = random_numbers(N, 1), *y_host = random_numbers(N, 1);
    for (int d = 0; d < 2; d++) {
        struct backend *b = &p.backend[d];
        real *x = up(&p, d, x_host, N);
        y[d] = up(&p, d, y_host, N);
        b->add(b, N - 1, -0.75, x, y[d]);
        b->add(b, 0, 1, x, y[d]);
        real last = 0;
        b->copy_out(b, &last, y[d] + N - 1, 1);
        assert_true(last == y_host[N - 1]); /* is left alone */
        b->release(b, x);
    }
    same(&p, "y", y, N, 1e-6);
    free(x_host);
    free(y_host);
    destroy(&p);
}

/* ---- what does not fit into one piece ---- */

#ifndef VAECF_SMALL_PIECES /* a test's, whose pieces are so small that the shapes above take several */
static const struct shape tall = {3000, 3, 8, 1}, taller = {4200, 3, 8, 1}, wide = {3, 13000, 12, 40},
                          widest = {2, 50000, 9, 200};

/* An item with more entries than a segment has, rows beyond several slabs. */
static void test_tall_layers(void **state) {
    (void)state;
    sparse(&tall, ACTIVATION_TANH, 0.5);
    dense(&tall, 5, ACTIVATION_SIGMOID, 1);
    latent(&tall, 1, 0.05);
    output(&tall, 0.5);
}

/* Rows of logits that a block may keep only if it asks, and that are too long for it. */
static void test_wide_rows(void **state) {
    (void)state;
    const struct shape *shape[] = {&wide, &widest};
    for (int i = 0; i < 2; i++) {
        sparse(shape[i], ACTIVATION_NONE, 0.5);
        output(shape[i], 0.5);
        ranking(shape[i], 20, 0);
        ranking(shape[i], 100, 4);
        network(shape[i], PRECISION_FP32, 1e-4);
        network(shape[i], PRECISION_BF16, 5e-3);
    }
}

/* An order that is laid together from several pieces, of which an item's entries take two segments. */
static void test_tall_steps(void **state) {
    (void)state;
    kept_steps(&taller, PRECISION_FP32, 1300, 0, 1e-4);
}
#endif

/* With an argument: the tests that match it. */
int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sparse_layer),
        cmocka_unit_test(test_dense_layers),
        cmocka_unit_test(test_latent_layer),
        cmocka_unit_test(test_output_layer),
        cmocka_unit_test(test_output_in_tiles),
        cmocka_unit_test(test_ranking),
        cmocka_unit_test(test_update),
        cmocka_unit_test(test_network),
        cmocka_unit_test(test_normalizing),
        cmocka_unit_test(test_kept_steps),
        cmocka_unit_test(test_many_batches),
        cmocka_unit_test(test_adding),
        cmocka_unit_test(ways_of_sparse_layer),
        cmocka_unit_test(ways_of_kept_steps),
#ifndef VAECF_SMALL_PIECES
        cmocka_unit_test(test_tall_layers),
        cmocka_unit_test(test_wide_rows),
        cmocka_unit_test(test_tall_steps),
#endif
        cmocka_unit_test(ways_bias_epilogue),
        cmocka_unit_test(ways_short_activations),
        cmocka_unit_test(ways_fp8),
    };
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (!there_is_a_gpu()) printf("# skipped: %s\n", error_message());
    return cmocka_run_group_tests(tests, NULL, NULL);
}
