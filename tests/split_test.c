/* preprocess/interactions.c, block.c, spool.c and split.c: which rows count, who is held out, what is to be
 * predicted. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <omp.h>

#include "error.h"
#include "ids.h"
#include "interactions.h"
#include "world.h"

static const struct split_options keep_all = {.seed = 1, .target_fraction = 0.2, .n_shards = 1};
static const struct duplicates last = {DUPLICATES_LAST, 0};
static const int64_t plenty = 1 << 30; /* bytes of memory */

static void add(struct world *w, int part, const char *user, const char *item, bool wanted) {
    world_add(w, (enum dataset_part)part, user, item, wanted);
}

static void add_row(struct interactions *rows, int32_t user, int32_t item, bool wanted, double value) {
    assert_int_equal(interactions_reserve(rows, user, 1), 0);
    interactions_add(rows, item, wanted, value);
}

static void last_row_stands(void **state) {
    (void)state;
    struct interactions interactions = {0};
    struct csr m;
    struct settler settler;
    const struct duplicates_counts *counts = &settler.counts;
    const int32_t order[] = {0, 1, 2};
    static const struct {
        int32_t user, item;
        bool wanted;
    } rows[] = {{0, 0, true}, {0, 1, false}, {1, 0, true}, {0, 0, false}, /* 0 no longer likes 0 */
                {0, 1, true},                                             /* but 1 */
                {1, 0, true}, {2, 2, false}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        add_row(&interactions, rows[i].user, rows[i].item, rows[i].wanted, 0);
    }
    assert_int_equal(settler_open(&settler, &last, 3), 0);
    assert_int_equal(interactions_matrix(&interactions, &settler, order, 3, 3, &m), 0);
    assert_int_equal(interactions.n, 0);
    assert_int_equal(m.rows, 3);
    assert_int_equal(m.cols, 3);
    const int64_t indptr[] = {0, 1, 2, 2};
    const int32_t indices[] = {1, 0};
    assert_memory_equal(m.indptr, indptr, sizeof indptr);
    assert_memory_equal(m.indices, indices, sizeof indices);
    assert_int_equal(counts->duplicates, 3);
    assert_int_equal(counts->unwanted, 2);
    assert_int_equal(counts->disputed, 2);
    csr_free(&m);
    interactions_free(&interactions);
    settler_close(&settler);
}

/* Users' rows together or not, in one order of users or another, with the memory of those before. */
static void many_interactions(void **state) {
    (void)state;
    struct interactions interactions = {0};
    struct csr m;
    struct settler settler;
    enum { USERS = 1000, ITEMS = 1009, EACH = 600 };
    int32_t order[USERS + 1];
    assert_int_equal(settler_open(&settler, &last, ITEMS), 0);
    for (int apart = 0; apart < 2; apart++) {
        for (int values = 0; values < 2; values++) {
            interactions.with_values = values;
            for (int32_t i = 0; i < USERS * EACH; i++) {
                int32_t user = apart ? i % USERS : i / EACH;
                int32_t item = (apart ? i : user + 7 * (i % EACH)) % ITEMS;
                add_row(&interactions, user, item, item > user, i);
            }
            for (int32_t u = 0; u <= USERS; u++) order[u] = USERS - u; /* the first of them has no rows */
            settler_begin(&settler, &last);
            assert_int_equal(interactions_matrix(&interactions, &settler, order, USERS + 1, ITEMS, &m), 0);
            assert_int_equal(settler.counts.duplicates, 0); /* 1000 and 1009 have no common factor */
            assert_int_equal(settler.counts.unwanted, USERS * EACH - csr_nonzeros(&m));
            assert_int_equal(m.indptr[1], 0);
            for (int r = 1; r <= USERS; r++) {
                int64_t n = 0;
                for (int32_t k = 0; k < EACH; k++) {
                    int32_t u = order[r], item = (u + (apart ? USERS : 7) * k) % ITEMS;
                    if (item <= u) continue;
                    assert_int_equal(m.indices[m.indptr[r] + n], item); /* here they stay in their order */
                    n++;
                }
                assert_int_equal(m.indptr[r + 1] - m.indptr[r], n);
            }
            csr_free(&m);
        }
    }
    interactions_free(&interactions);
    settler_close(&settler);
}

static void interactions_only_some_freed(void **state) {
    (void)state;
    struct interactions interactions = {0};
    add_row(&interactions, 0, 0, true, 0);
    interactions_free(&interactions);
    interactions_free(&interactions);
}

/* The same over batches, in whatever order they come in: their keys say what is last. */
static void last_batch_stands(void **state) {
    (void)state;
    struct world w;
    world_make(&w, 1, plenty);
    w.keys = 10;
    add(&w, 0, "a", "x", true);
    add(&w, 0, "a", "y", false);
    add(&w, 0, "b", "z", true);
    world_next_batch(&w);
    w.keys = 5;
    add(&w, 0, "a", "y", true);
    add(&w, 0, "a", "x", false);
    world_next_batch(&w);
    w.keys = 20;
    assert_int_equal(world_split(&w, &keep_all), 0);
    const char *text = world_show(&w, DATASET_TRAIN);
    assert_non_null(strstr(text, "a: x;"));
    assert_non_null(strstr(text, "b: z;"));
    assert_int_equal(w.split.duplicates, 2);
    assert_int_equal(w.split.unwanted, 1);
    assert_int_equal(w.split.disputed, 2);
    world_free(&w);
}

/* Items are filtered before users, and once: users with too few of the items that are left go, and items that
 * lose their users by that stay. */
static void filters(void **state) {
    (void)state;
    struct world w;
    world_make(&w, 1, plenty);
    static const char *const pairs[][2] = {{"a", "1"}, {"a", "2"}, {"b", "1"}, {"b", "2"}, {"b", "3"},
                                           {"c", "3"}, {"c", "4"}, {"d", "4"}, {"d", "5"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) add(&w, 0, pairs[i][0], pairs[i][1], true);
    struct split_options options = keep_all;
    options.min_item_users = 2;
    options.min_user_items = 2; /* item 5 goes; then d, who has one item left; item 4 stays */
    assert_int_equal(world_split(&w, &options), 0);
    assert_int_equal(w.split.n_users, 3);
    assert_int_equal(w.split.n_items, 4);
    assert_int_equal(w.split.n_interactions, 7);
    assert_int_equal(w.split.dropped_items, 1);
    assert_int_equal(w.split.dropped_users, 1);
    const int64_t count[] = {2, 2, 2, 1};
    assert_memory_equal(w.split.item_count, count, sizeof count);
    const char *text = world_show(&w, DATASET_TRAIN);
    assert_non_null(strstr(text, "a: 1 2;"));
    assert_non_null(strstr(text, "b: 1 2 3;"));
    assert_non_null(strstr(text, "c: 3 4;"));
    world_free(&w);
}

static void nothing_left(void **state) {
    (void)state;
    static const struct {
        int64_t min_item_users, min_user_items, heldout_users;
        int code;
        const char *words;
    } cases[] = {
        {3, 0, 0, EX_DATAERR, "--min-item-users 3 leaves none of the 2 items"},
        {0, 3, 0, EX_DATAERR, "--min-user-items 3 leaves none of the 2 users"},
        {0, 0, 1, EX_USAGE, "--heldout-users 1: validation and test would take all 2 users; at most 0"},
        {0, 0, INT32_MAX, EX_USAGE, "--heldout-users"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        world_make(&w, 0, plenty);
        add(&w, 0, "a", "x", true);
        add(&w, 0, "b", "x", true);
        add(&w, 0, "b", "y", true);
        struct split_options options = {.min_item_users = cases[i].min_item_users,
                                        .min_user_items = cases[i].min_user_items,
                                        .heldout_users = cases[i].heldout_users,
                                        .n_shards = 1};
        assert_int_equal(world_split(&w, &options), cases[i].code);
        assert_non_null(strstr(error_message(), cases[i].words));
        world_free(&w);
    }
    struct world w;
    world_make(&w, 1, plenty);
    assert_int_equal(world_split(&w, &keep_all), EX_DATAERR);
    world_free(&w);
}

/* Items lie by falling count, then by value if all ids of the catalogue are digits, else by bytes. */
static void item_order(void **state) {
    (void)state;
    for (int text_id = 0; text_id < 2; text_id++) {
        struct world w;
        world_make(&w, 1, plenty);
        static const char *const items[] = {"100", "9", "20", "007", "7"};
        for (int i = 0; i < 5; i++) add(&w, 0, "a", items[i], true);
        add(&w, 0, "b", "20", true);
        if (text_id) add(&w, 0, "a", "x", true);
        assert_int_equal(world_split(&w, &keep_all), 0);
        assert_non_null(
            strstr(world_show(&w, DATASET_TRAIN), text_id ? "a: 20 007 100 7 9 x;" : "a: 20 7 007 9 100;"));
        world_free(&w);
    }
}

/* A random set: user i has about 3 + i % 40 of 120 items. Rows are added in an order that `stride` makes. */
enum { USERS = 997, ITEMS = 120 };
static void add_random(struct world *w, int64_t stride) {
    for (int64_t n = 0; n < USERS; n++) {
        int64_t u = n * stride % USERS; /* USERS is a prime number */
        for (int64_t k = 0; k < 3 + u % 40; k++) {
            char user[16], item[16];
            int64_t i = stride == 1 ? k : 2 + u % 40 - k;
            snprintf(user, sizeof user, "u%" PRId64, u);
            snprintf(item, sizeof item, "%" PRId64, (u * u + i * i * 7) % ITEMS);
            add(w, 0, user, item, true);
        }
    }
}

/* What add_random adds, by number. */
static void random_items(int64_t u, bool has[ITEMS]) {
    memset(has, 0, ITEMS * sizeof *has);
    for (int64_t k = 0; k < 3 + u % 40; k++) has[(u * u + k * k * 7) % ITEMS] = true;
}

static void strong_generalisation(void **state) {
    (void)state;
    struct world w;
    struct split_options options = {
        .seed = 5, .min_user_items = 2, .heldout_users = 101, .target_fraction = 0.3, .n_shards = 3};
    world_make(&w, 5, plenty);
    add_random(&w, 1);
    assert_int_equal(world_split(&w, &options), 0);
    const struct split *split = &w.split;
    assert_int_equal(split->rows[SPLIT_VALIDATION], 101);
    assert_int_equal(split->rows[SPLIT_TEST], 101);
    assert_int_equal(split->n_users, USERS - split->dropped_users);
    assert_int_equal(split->rows[SPLIT_TRAIN], split->n_users - 202);

    /* every user once, every index once; the catalogue: all items of training users, by falling count */
    bool seen_user[USERS] = {false}, seen_index[USERS] = {false}, has[ITEMS];
    int64_t count[ITEMS] = {0};
    for (int s = 0; s < SPLITS; s++) {
        for (int64_t r = 0; r < split->rows[s]; r++) {
            int64_t user = atoll(w.row[s][r].id + 1), index = w.row[s][r].head.user_index;
            assert_in_range(user, 0, USERS - 1);
            assert_false(seen_user[user]);
            seen_user[user] = true;
            assert_in_range(index, 0, split->n_users - 1);
            assert_false(seen_index[index]);
            seen_index[index] = true;
            random_items(user, has);
            for (int i = 0; i < ITEMS && s == SPLIT_TRAIN; i++) count[i] += has[i];
        }
    }
    int n_items = 0, number[ITEMS];
    for (int i = 0; i < ITEMS; i++) n_items += count[i] > 0;
    assert_int_equal(split->n_items, n_items);
    for (int i = 0; i < n_items; i++) {
        int length;
        char text[16];
        const char *item = world_item(&w, i, &length);
        snprintf(text, sizeof text, "%.*s", length, item);
        number[i] = atoi(text);
        assert_int_equal(split->item_count[i], count[number[i]]);
        if (i) assert_true(split->item_count[i] <= split->item_count[i - 1]);
    }

    /* every row is the user's catalogue items, ascending; the target's size is as asked for */
    for (int s = 0; s < SPLITS; s++) {
        for (int64_t r = 0; r < split->rows[s]; r++) {
            const struct world_row *row = &w.row[s][r];
            int32_t n = 0, n_items_of[2] = {row->head.n_input, row->head.n_target};
            random_items(atoll(row->id + 1), has);
            for (int i = 0; i < ITEMS; i++) n += has[i] && count[i];
            for (int t = 0; t < 2; t++) {
                for (int32_t i = 0; i < n_items_of[t]; i++) {
                    int32_t item = row->items[t][i];
                    assert_true(has[number[item]]);
                    has[number[item]] = false;
                    if (i) assert_true(item > row->items[t][i - 1]);
                }
            }
            assert_int_equal(n_items_of[0] + n_items_of[1], n);
            assert_int_equal(n_items_of[1], s && n >= 5 ? n * 3 / 10 : 0);
        }
    }
    assert_int_equal(split->n_overlap, 0);
    world_free(&w);
}

static void fingerprint_of(int64_t stride, uint64_t seed, int64_t memory, int threads,
                           char text[DATASET_FINGERPRINT_SIZE]) {
    struct world w;
    struct split_options options = {
        .seed = seed, .min_user_items = 5, .heldout_users = -1, .target_fraction = 0.2, .n_shards = 2};
    omp_set_num_threads(threads);
    world_make(&w, seed, memory);
    add_random(&w, stride);
    assert_int_equal(world_split(&w, &options), 0);
    assert_int_equal(w.split.rows[SPLIT_TEST], w.split.n_users / 10); /* auto */
    assert_int_equal(w.scratch.size > 0, memory < plenty);
    memcpy(text, w.split.fingerprint, DATASET_FINGERPRINT_SIZE);
    assert_int_equal(strspn(text, "0123456789abcdef"), 16);
    world_free(&w);
}

/* Nor does where the data lies in the meantime, or how many threads there are. */
static void order_of_rows_does_not_matter(void **state) {
    (void)state;
    char a[DATASET_FINGERPRINT_SIZE], b[DATASET_FINGERPRINT_SIZE];
    fingerprint_of(1, 7, plenty, 1, a);
    fingerprint_of(123, 7, plenty, 1, b);
    assert_string_equal(a, b);
    fingerprint_of(123, 7, plenty, 3, b);
    assert_string_equal(a, b);
    fingerprint_of(1, 7, 0, 2, b);
    assert_string_equal(a, b);
    fingerprint_of(123, 7, 50000, 3, b); /* some here, some there */
    assert_string_equal(a, b);
    fingerprint_of(1, 8, plenty, 2, b);
    assert_string_not_equal(a, b);
}

/* Each item of a row is as likely to be a target, and 0.29 of 100 items are 29. */
static void targets(void **state) {
    (void)state;
    struct world w;
    world_make(&w, 3, plenty);
    struct split_options options = {.seed = 3, .heldout_users = 1000, .target_fraction = 0.29, .n_shards = 1};
    int count[100] = {0};
    for (int u = 0; u < 2001; u++) {
        for (int i = 0; i < 100; i++) {
            char user[16], item[16];
            snprintf(user, sizeof user, "%d", u);
            snprintf(item, sizeof item, "%d", i);
            add(&w, 0, user, item, true);
        }
    }
    assert_int_equal(world_split(&w, &options), 0);
    for (int s = SPLIT_VALIDATION; s <= SPLIT_TEST; s++) {
        for (int64_t r = 0; r < 1000; r++) {
            assert_int_equal(w.row[s][r].head.n_target, 29);
            for (int i = 0; i < 29; i++) count[w.row[s][r].items[1][i]]++;
        }
    }
    for (int i = 0; i < 100; i++)
        assert_in_range(count[i], 580 - 5 * 21, 580 + 5 * 21); /* 5 standard deviations */
    world_free(&w);
}

static void heldout_users_without_catalogue_items(void **state) {
    (void)state;
    struct world w;
    world_make(&w, 3, plenty);
    char user[16], item[16];
    for (int u = 0; u < 30; u++) { /* every user has an item of his own, and 5 that all have */
        snprintf(user, sizeof user, "u%d", u);
        snprintf(item, sizeof item, "own%d", u);
        add(&w, 0, user, item, true);
        for (int i = 0; i < 5; i++) {
            snprintf(item, sizeof item, "all%d", i);
            if (u % 2) add(&w, 0, user, item, true);
        }
    }
    struct split_options options = {.seed = 3, .heldout_users = 10, .target_fraction = 0.2, .n_shards = 1};
    assert_int_equal(world_split(&w, &options), 0);
    assert_int_equal(w.split.dropped_interactions, 20);
    assert_int_equal(w.split.n_items, 10 + 5);
    for (int s = SPLIT_VALIDATION; s <= SPLIT_TEST; s++) {
        assert_int_equal(w.split.rows[s], 10);
        for (int64_t r = 0; r < 10; r++) {
            const struct row_head *head = &w.row[s][r].head;
            assert_true((head->n_input == 0 && head->n_target == 0) ||
                        (head->n_input == 4 && head->n_target == 1));
        }
    }
    world_free(&w);
}

/* Weak and strong generalisation, as other people split. */
static void given(void **state) {
    (void)state;
    struct world w;
    world_make(&w, 1, plenty);
    add(&w, DATASET_TRAIN, "a", "1", true);
    add(&w, DATASET_TRAIN, "a", "2", true);
    add(&w, DATASET_TRAIN, "b", "2", true);
    add(&w, DATASET_TRAIN, "gone", "3", false);
    add(&w, DATASET_VALIDATION_INPUT, "v", "1", true);
    add(&w, DATASET_VALIDATION_TARGET, "w", "2", true); /* no input */
    add(&w, DATASET_TEST_INPUT, "a", "1", true);
    add(&w, DATASET_TEST_INPUT, "t", "3", true); /* 3 and 4 are unknown */
    add(&w, DATASET_TEST_INPUT, "t", "1", true);
    add(&w, DATASET_TEST_TARGET, "a", "2", true);
    add(&w, DATASET_TEST_TARGET, "a", "1", true); /* input too */
    add(&w, DATASET_TEST_TARGET, "t", "4", true);
    struct split_options options = {.seed = 1, .given = true, .n_shards = 1};
    assert_int_equal(world_split(&w, &options), 0);
    assert_int_equal(w.split.n_items, 2);
    assert_int_equal(w.split.n_users, 5);
    assert_int_equal(w.split.n_interactions, 3 + 1 + 1 + 2 + 2);
    assert_int_equal(w.split.dropped_interactions, 2);
    assert_int_equal(w.split.n_overlap, 1);
    assert_int_equal(w.split.rows[SPLIT_TRAIN], 2);
    assert_int_equal(w.split.rows[SPLIT_VALIDATION], 2);
    assert_int_equal(w.split.rows[SPLIT_TEST], 2);
    const struct {
        enum dataset_part part;
        const char *rows[2];
    } expected[] = {{DATASET_TRAIN, {"a: 2 1;", "b: 2;"}},
                    {DATASET_VALIDATION_INPUT, {"v: 1;", "w:;"}},
                    {DATASET_VALIDATION_TARGET, {"v:;", "w: 2;"}},
                    {DATASET_TEST_INPUT, {"a: 1;", "t: 1;"}},
                    {DATASET_TEST_TARGET, {"a: 2 1;", "t:;"}}};
    for (int p = 0; p < DATASET_PARTS; p++) {
        const char *text = world_show(&w, expected[p].part);
        for (int i = 0; i < 2; i++) assert_non_null(strstr(text, expected[p].rows[i]));
    }
    for (int64_t train = 0; train < 2;
         train++) { /* a's index is the same in both splits, and no one else's */
        for (int64_t test = 0; test < 2; test++) {
            const struct world_row *x = &w.row[SPLIT_TRAIN][train], *y = &w.row[SPLIT_TEST][test];
            assert_int_equal(x->head.user_index == y->head.user_index, strcmp(x->id, y->id) == 0);
        }
    }
    world_free(&w);

    world_make(&w, 1, plenty);
    add(&w, DATASET_TEST_INPUT, "a", "1", true);
    assert_int_equal(world_split(&w, &options), EX_DATAERR);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_row_stands),
        cmocka_unit_test(many_interactions),
        cmocka_unit_test(interactions_only_some_freed),
        cmocka_unit_test(last_batch_stands),
        cmocka_unit_test(filters),
        cmocka_unit_test(nothing_left),
        cmocka_unit_test(item_order),
        cmocka_unit_test(strong_generalisation),
        cmocka_unit_test(order_of_rows_does_not_matter),
        cmocka_unit_test(targets),
        cmocka_unit_test(heldout_users_without_catalogue_items),
        cmocka_unit_test(given),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
