/* The grid: how ranks and items are cut; and with the ranks that mpirun gives this test as item ranks (one,
 * if it is run alone), what they compute together against the whole catalogue on one: layers in blocks and
 * tiles, top lists, initial weights, checkpoints. tests/grid_test.sh runs it on several. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "checkpoint.h"
#include "error.h"
#include "grid.h"
#include "model.h"

enum { ITEMS = 1003, ROWS = 37, K = 30, HIDDEN = 12 };

static struct comm world;
static struct grid grid;
static struct csr whole, part, targets; /* of all items; of this rank's; in all items' numbers */
static int64_t users[ROWS], count[ITEMS];
static const int64_t not_sampled[2];

/* ---- how things are cut ---- */

static void test_ranks(void **state) {
    (void)state;
    struct grid g;
    struct comm six = {MPI_COMM_SELF, 0, 6};
    assert_int_equal(grid_create(&six, 2, 2, &g), EX_CONFIG);
    assert_non_null(strstr(error_message(), "data 2 x item 2 is a grid of 4 ranks, but there are 6"));
    assert_int_equal(grid_create(&six, 0, 4, &g), EX_CONFIG);
    assert_int_equal(grid_create(&six, 0, 7, &g), EX_CONFIG);
    assert_int_equal(grid_create(&six, 0, 1, &g), 0);
    assert_int_equal(g.data.size, 6);
    assert_int_equal(g.items.size, 1);
    grid_free(&g);
}

/* The cost of a range as the header tells it. */
static double cost_of(const int64_t *counts, int64_t n_users, int64_t begin, int64_t end) {
    double cost = 0;
    for (int64_t i = begin; i < end; i++) cost += (double)(n_users + 16 * counts[i]);
    return cost;
}

static void test_ranges(void **state) {
    (void)state;
    int64_t start[9], counts[1000];
    for (int i = 0; i < 1000; i++) counts[i] = 900 / (1 + i); /* the first items are most of it */
    for (int parts = 1; parts <= 8; parts++) {
        double all = cost_of(counts, 1000, 0, 1000), block = 4 * (1000 + 16 * 900);
        grid_ranges(1000, 1000, counts, parts, start);
        assert_int_equal(start[0], 0);
        assert_int_equal(start[parts], 1000);
        for (int p = 0; p < parts; p++) {
            assert_int_equal(start[p] % 4, 0);
            assert_true(start[p + 1] > start[p]);
            double cost = cost_of(counts, 1000, start[p], start[p + 1]);
            assert_true(fabs(cost - all / parts) < block);
        }
        if (parts > 1) assert_true(start[1] < 1000 / parts);
    }
    /* all interactions in the first item: each other range has a block nevertheless */
    memset(counts, 0, sizeof counts);
    counts[0] = 1000000;
    grid_ranges(13, 1, counts, 3, start);
    assert_int_equal(start[1], 4);
    assert_int_equal(start[2], 8);
    assert_int_equal(start[3], 13);
    struct grid g = {.items = {MPI_COMM_SELF, 0, 4}};
    struct comm alone = {MPI_COMM_SELF, 0, 1};
    assert_int_equal(grid_cut(&alone, 15, 3, counts, &g), EX_CONFIG);
    assert_non_null(strstr(error_message(), "want at most 3"));
}

/* ---- the same by ranges and whole ---- */

static int is_in(int64_t row, int64_t item) {
    return (row * 7919 + item * 104729 + row * item) % 97 < 3 + row % 5;
}

static void make_rows(void) {
    struct csr *m[] = {&whole, &part, &targets};
    for (int i = 0; i < 3; i++) {
        *m[i] = (struct csr){.rows = ROWS, .cols = i == 1 ? grid.count : ITEMS};
        m[i]->indptr = calloc(ROWS + 1, sizeof *m[i]->indptr);
        m[i]->indices = calloc(ROWS * ITEMS, sizeof *m[i]->indices);
    }
    if (world.size > 1) part.whole = calloc(ROWS, sizeof *part.whole);
    for (int64_t r = 0; r < ROWS; r++) {
        int64_t n = whole.indptr[r], mine = part.indptr[r], n_targets = targets.indptr[r];
        for (int32_t i = 0; i < ITEMS && r != 5; i++) { /* row 5 is empty */
            if (r % 9 && (i + r) % 83 == 0) targets.indices[n_targets++] = i;
            if (!is_in(r, i)) continue;
            whole.indices[n++] = i;
            if (i >= grid.first && i < grid.first + grid.count)
                part.indices[mine++] = i - (int32_t)grid.first;
        }
        if (part.whole) part.whole[r] = n - whole.indptr[r];
        whole.indptr[r + 1] = n;
        part.indptr[r + 1] = mine;
        targets.indptr[r + 1] = n_targets;
        users[r] = 1000 + r;
    }
}

static void assert_near(const char *what, double tolerance, const real *a, const real *b, size_t n) {
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs((double)b[i]));
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)(a[i] - b[i])) <= tolerance * largest)) {
            fail_msg("rank %d: %s[%zu] is %.9g, want %.9g of up to %.9g", world.rank, what, i, (double)a[i],
                     (double)b[i], largest);
        }
    }
}

/* The same network of the whole catalogue [0] and of this rank's range [1]. */
struct pair {
    struct backend backend[2];
    struct model model[2];
};

static void make_pair(enum precision precision, int64_t logit_memory, struct pair *p) {
    const struct model_config config = {.type = MODEL_VAE,
                                        .n_hidden = 1,
                                        .hidden = {HIDDEN},
                                        .latent = 5,
                                        .activation = ACTIVATION_TANH,
                                        .dropout = 0.4};
    struct backend_options options = {
        .n_items = grid.count, .grid = &grid, .precision = precision, .logit_memory = logit_memory};
    assert_int_equal(backend_cpu_create(ITEMS, precision, &p->backend[0]), 0);
    assert_int_equal(backend_cpu_create_with(&options, &p->backend[1]), 0);
    assert_int_equal(model_create(&config, ITEMS, &p->backend[0], 1, &p->model[0]), 0);
    assert_int_equal(model_create_range(&config, &grid, &p->backend[1], 1, &p->model[1]), 0);
    for (int i = 0; i < 2; i++) {
        struct model *m = &p->model[i];
        assert_int_equal(model_init(m, 11), 0);
        for (size_t j = 0; j < m->n_params; j++) m->params[j] *= 2;
        m->smoothing = 0.1;
    }
}

static void free_pair(struct pair *p) {
    for (int i = 0; i < 2; i++) {
        model_free(&p->model[i]);
        p->backend[i].destroy(&p->backend[i]);
    }
}

/* Where this rank's part of a tensor begins in the whole one. */
static size_t part_begin(const struct tensor *t) {
    return t->is_range ? (size_t)grid.first * (size_t)(t->is_bias ? 1 : t->cols) : 0;
}

static void compare_blocks(const struct pair *p, double tolerance, const real *a, const real *b) {
    for (int t = 0; t < p->model[0].n_tensors; t++) {
        const struct tensor *mine = &p->model[1].tensor[t], *all = &p->model[0].tensor[t];
        assert_near(mine->name, tolerance, a + mine->offset, b + all->offset + part_begin(mine), mine->size);
    }
}

static void test_parameters(void **state) {
    (void)state;
    struct pair p;
    make_pair(PRECISION_FP32, 0, &p);
    compare_blocks(&p, 0, p.model[1].params, p.model[0].params);
    assert_int_equal(model_all_parameters(&p.model[1]), model_all_parameters(&p.model[0]));
    assert_int_equal(model_all_parameters(&p.model[0]),
                     2 * HIDDEN * ITEMS + ITEMS + HIDDEN + 10 * HIDDEN + 10 + 5 * HIDDEN + HIDDEN);
    free_pair(&p);
}

/* A batch in so much memory for logits, of so many sampled items: losses and all gradients. */
static void compare_training(enum precision precision, int64_t logit_memory, const int64_t sampled[2],
                             double tolerance) {
    const struct draw draw = {99, 3};
    const struct comm alone = {MPI_COMM_SELF, 0, 1};
    struct loss loss[2];
    struct pair p;
    make_pair(precision, logit_memory, &p);
    for (int i = 0; i < 2; i++) {
        struct backend *b = &p.backend[i];
        p.model[i].sampled = sampled[i];
        p.model[i].sample_step = 17;
        if (sampled[0] || sampled[1]) p.model[i].smoothing = 0;
        if (model_train_batch(&p.model[i], i ? &part : &whole, users, &draw, 0.3, 0.01, &loss[i]))
            fail_msg("%s", error_message());
        b->input_all_reduce(b, &alone, HIDDEN, p.model[i].grads);
    }
    assert_true(fabs(loss[1].nll - loss[0].nll) <= tolerance * loss[0].nll);
    assert_true(fabs(loss[1].kl - loss[0].kl) <= tolerance * loss[0].kl);
    compare_blocks(&p, tolerance, p.model[1].grads, p.model[0].grads);
    free_pair(&p);
}

static void test_training(void **state) {
    (void)state;
    compare_training(PRECISION_FP32, 0, not_sampled, 2e-6);
    compare_training(PRECISION_BF16, 0, not_sampled, 2e-2);
    compare_training(PRECISION_FP16, 0, not_sampled, 2e-3);
}

static void test_samples(void **state) {
    (void)state;
    const int64_t every[] = {0, 1000 * ITEMS}, some[] = {100, 100};
    compare_training(PRECISION_FP32, 0, every, 2e-6); /* drawn with certainty: the softmax of all */
    compare_training(PRECISION_BF16, 0, every, 2e-2);
    compare_training(PRECISION_FP32, 0, some, 2e-6); /* the same draws for any grid */
    compare_training(PRECISION_FP32, 4 * ROWS * 64, some, 2e-6);
    compare_training(PRECISION_FP16, 0, some, 2e-3);
}

/* Fewer than 16 rows of all items fit: tiles of them. */
static void test_tiles(void **state) {
    (void)state;
    compare_training(PRECISION_FP32, 4 * ROWS * 64, not_sampled, 2e-6);
    compare_training(PRECISION_FP32, 4 * ROWS * 200, not_sampled, 2e-6);
    compare_training(PRECISION_FP32, 1, not_sampled, 2e-6);
    compare_training(PRECISION_BF16, 4 * ROWS * 64, not_sampled, 2e-2);
    compare_training(PRECISION_FP16, 4 * ROWS * 64, not_sampled, 2e-3);
}

/* A gradient that is not finite on one rank alone is told on all. */
static void test_overflow(void **state) {
    (void)state;
    struct pair p;
    make_pair(PRECISION_FP16, 0, &p);
    struct backend *b = &p.backend[1];
    real g[2] = {1, world.rank == world.size - 1 ? INFINITY : 2};
    b->guard(b, g, 2);
    assert_int_equal(b->overflowed(b), 1);
    b->guard(b, g, 1);
    assert_int_equal(b->overflowed(b), 0);
    free_pair(&p);
}

static void compare_lists(struct pair *p, int k) {
    int32_t *top[2];
    real *scores[2], *top_scores[2];
    int64_t first_hit[2][ROWS];
    for (int i = 0; i < 2; i++) {
        struct backend *b = &p->backend[i];
        scores[i] = b->alloc(b, (size_t)(ROWS * p->model[i].n_items));
        top[i] = calloc((size_t)(ROWS * k), sizeof *top[i]);
        top_scores[i] = calloc((size_t)(ROWS * k), sizeof *top_scores[i]);
        assert_int_equal(model_score(&p->model[i], i ? &part : &whole, scores[i]), 0);
        for (int64_t r = 0; r < ROWS; r++) { /* coarse scores: many ties, in all ranges */
            for (int64_t j = 0; j < p->model[i].n_items; j++) {
                int64_t item = j + (i ? grid.first : 0);
                scores[i][r * p->model[i].n_items + j] = (real)((item * 37 + r) % 11);
            }
        }
        b->top_k(b, ROWS, scores[i], k, &targets, top[i], top_scores[i], first_hit[i]);
        assert_int_equal(b->check(b), 0);
    }
    for (int j = 0; j < ROWS * k; j++) {
        assert_int_equal(top[1][j], top[0][j]);
        assert_true(top_scores[1][j] == top_scores[0][j]);
    }
    for (int r = 0; r < ROWS; r++) assert_int_equal(first_hit[1][r], first_hit[0][r]);
    for (int i = 0; i < 2; i++) {
        p->backend[i].release(&p->backend[i], scores[i]);
        free(top[i]);
        free(top_scores[i]);
    }
}

static void test_lists(void **state) {
    (void)state;
    struct pair p;
    real *scores[2];
    make_pair(PRECISION_FP32, 0, &p);
    for (int i = 0; i < 2; i++) {
        scores[i] = p.backend[i].alloc(&p.backend[i], (size_t)(ROWS * p.model[i].n_items));
        assert_int_equal(model_score(&p.model[i], i ? &part : &whole, scores[i]), 0);
    }
    for (int r = 0; r < ROWS; r++) {
        assert_near("score", 2e-6, scores[1] + r * grid.count, scores[0] + r * ITEMS + grid.first,
                    (size_t)grid.count);
    }
    for (int i = 0; i < 2; i++) p.backend[i].release(&p.backend[i], scores[i]);
    compare_lists(&p, K);
    compare_lists(&p, 1);
    compare_lists(&p, ITEMS); /* longer than any range, and than a row without its items */
    free_pair(&p);
}

/* A checkpoint of all ranks is read by one as a whole, and one of a whole by all in ranges. */
static void test_checkpoints(void **state) {
    (void)state;
    struct config config;
    struct train_state train = {.epoch = 3, .loss_scale = 1};
    char ids[ITEMS], path[2][64];
    struct items items = {.n = ITEMS, .width = 1, .ids = ids, .count = count};
    struct pair p;
    memset(ids, 'x', sizeof ids);
    config_defaults(&config);
    make_pair(PRECISION_FP32, 0, &p);
    int64_t process = getpid();
    comm_broadcast(&world, &process, sizeof process);
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "/tmp/vaecf-grid-%lld-%d.h5", (long long)process, i);
        if (i == 0 && world.rank > 0) continue;
        const struct model *m = &p.model[i]; /* parameters stand for moments too */
        if (checkpoint_save(path[i], &config, &train, m, m->params, m->params, &items, "fingerprint"))
            fail_msg("%s", error_message());
    }
    assert_int_equal(comm_agree(&world, 0), 0); /* written */
    for (int i = 0; i < 2; i++) {
        struct model *m = &p.model[!i]; /* the other one reads */
        struct checkpoint_info info;
        real *v = calloc(m->n_params, sizeof *v);
        assert_int_equal(checkpoint_read_info(path[i], &info), 0);
        assert_int_equal(info.n_items, ITEMS);
        memset(m->params, 0, m->n_params * sizeof *m->params);
        if (checkpoint_read_model(path[i], m, m->grads, v)) fail_msg("%s", error_message());
        compare_blocks(&p, 0, p.model[1].params, p.model[0].params);
        assert_memory_equal(v, m->params, m->n_params * sizeof *v);
        assert_memory_equal(m->grads, m->params, m->n_params * sizeof *v);
        free(v);
    }
    assert_int_equal(comm_agree(&world, 0), 0); /* read */
    if (world.rank == 0) {
        /* where it cannot be written the others are released */
        const struct model *m = &p.model[1];
        unlink(path[0]);
        unlink(path[1]);
        assert_int_equal(
            checkpoint_save("/no/such/directory/x.h5", &config, &train, m, m->params, m->params, &items, "f"),
            EX_CANTCREAT);
    } else {
        assert_int_equal(checkpoint_save(path[1], &config, &train, &p.model[1], NULL, NULL, &items, "f"), 0);
    }
    free_pair(&p);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks),    cmocka_unit_test(test_ranges),  cmocka_unit_test(test_parameters),
        cmocka_unit_test(test_training), cmocka_unit_test(test_samples), cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_overflow), cmocka_unit_test(test_lists),   cmocka_unit_test(test_checkpoints),
    };
    world = comm_start(&argc, &argv);
    for (int i = 0; i < ITEMS; i++) count[i] = 300 / (1 + i);
    if (grid_create(&world, 1, world.size, &grid) || grid_cut(&world, ITEMS, 400, count, &grid)) return 1;
    make_rows();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    csr_free(&whole);
    csr_free(&part);
    csr_free(&targets);
    grid_free(&grid);
    comm_stop();
    return failed;
}
