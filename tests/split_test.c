/* preprocess/interactions.c and preprocess/split.c: which rows count, who is held out, what is to be
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

#include "error.h"
#include "ids.h"
#include "interactions.h"
#include "split.h"

/* Ids and interactions of up to all parts; matrices come out of it. */
struct data {
    struct ids users, items;
    struct interactions interactions[DATASET_PARTS];
    struct csr matrix[DATASET_PARTS];
    int64_t duplicates, unwanted;
};

static void add(struct data *d, int part, const char *user, const char *item, bool wanted) {
    int32_t u, i;
    assert_int_equal(ids_add(&d->users, user, strlen(user), &u), 0);
    assert_int_equal(ids_add(&d->items, item, strlen(item), &i), 0);
    assert_int_equal(interactions_add(&d->interactions[part], u, i, wanted), 0);
}

static void make_matrices(struct data *d) {
    for (int p = 0; p < DATASET_PARTS; p++) {
        assert_int_equal(interactions_matrix(&d->interactions[p], d->users.n, d->items.n, &d->matrix[p],
                                             &d->duplicates, &d->unwanted),
                         0);
        assert_null(d->interactions[p].first);
    }
}

static void data_free(struct data *d) {
    ids_free(&d->users);
    ids_free(&d->items);
    for (int p = 0; p < DATASET_PARTS; p++) {
        csr_free(&d->matrix[p]);
        interactions_free(&d->interactions[p]);
    }
}

/* Splits part 0's interactions and returns the code. */
static int split_here(struct data *d, const struct split_options *options, struct split *split) {
    make_matrices(d);
    return split_users(&d->matrix[0], &d->users, &d->items, options, split);
}

static const struct split_options keep_all = {.seed = 1, .target_fraction = 0.2};

/* "user: item item; ..." of a part, in its order. */
static const char *show(const struct data *d, const struct split *split, enum dataset_part part) {
    static char text[4096];
    size_t used = 0, length;
    const struct csr *m = &split->part[part];
    text[0] = '\0';
    for (int64_t r = 0; r < m->rows; r++) {
        const char *user = ids_text(&d->users, split->user[split_of(part)][r], &length);
        used += (size_t)snprintf(text + used, sizeof text - used, "%.*s:", (int)length, user);
        for (int64_t i = m->indptr[r]; i < m->indptr[r + 1]; i++) {
            const char *item = ids_text(&d->items, split->item[m->indices[i]], &length);
            used += (size_t)snprintf(text + used, sizeof text - used, " %.*s", (int)length, item);
        }
        used += (size_t)snprintf(text + used, sizeof text - used, ";");
    }
    return text;
}

static void last_row_stands(void **state) {
    (void)state;
    struct data d = {0};
    add(&d, 0, "a", "x", true);
    add(&d, 0, "a", "y", false);
    add(&d, 0, "b", "x", true);
    add(&d, 0, "a", "x", false); /* a no longer likes x */
    add(&d, 0, "a", "y", true);  /* but y */
    add(&d, 0, "b", "x", true);
    add(&d, 0, "c", "z", false);
    make_matrices(&d);
    const struct csr *m = &d.matrix[0];
    assert_int_equal(m->rows, 3);
    assert_int_equal(m->cols, 3);
    const int64_t indptr[] = {0, 1, 2, 2};
    const int32_t indices[] = {1, 0};
    assert_memory_equal(m->indptr, indptr, sizeof indptr);
    assert_memory_equal(m->indices, indices, sizeof indices);
    assert_int_equal(d.duplicates, 3);
    assert_int_equal(d.unwanted, 2);
    data_free(&d);
}

/* More than a block of interactions. */
static void many_interactions(void **state) {
    (void)state;
    struct data d = {0};
    int32_t n_users = 1000, n_items = 1009;
    for (int32_t i = 0; i < 600000; i++) {
        assert_int_equal(interactions_add(&d.interactions[0], i % n_users, i % n_items, true), 0);
    }
    assert_int_equal(
        interactions_matrix(&d.interactions[0], n_users, n_items, &d.matrix[0], &d.duplicates, &d.unwanted),
        0);
    assert_int_equal(csr_nonzeros(&d.matrix[0]), 600000); /* 1000 and 1009 have no common factor */
    assert_int_equal(d.duplicates, 0);
    for (int u = 0; u < n_users; u++) assert_int_equal(d.matrix[0].indptr[u], 600 * u);
    data_free(&d);
}

static void interactions_only_some_freed(void **state) {
    (void)state;
    struct data d = {0};
    add(&d, 0, "a", "x", true);
    data_free(&d);
    data_free(&d);
}

/* Items are filtered before users, and once: users with too few of the items that are left go, and items that
 * lose their users by that stay. */
static void filters(void **state) {
    (void)state;
    struct data d = {0};
    static const char *const pairs[][2] = {{"a", "1"}, {"a", "2"}, {"b", "1"}, {"b", "2"}, {"b", "3"},
                                           {"c", "3"}, {"c", "4"}, {"d", "4"}, {"d", "5"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) add(&d, 0, pairs[i][0], pairs[i][1], true);
    struct split split;
    struct split_options options = keep_all;
    options.min_item_users = 2;
    options.min_user_items = 2; /* item 5 goes; then d, who has one item left; item 4 stays */
    assert_int_equal(split_here(&d, &options, &split), 0);
    assert_int_equal(split.n_users, 3);
    assert_int_equal(split.n_items, 4);
    assert_int_equal(split.n_interactions, 7);
    assert_int_equal(split.dropped_items, 1);
    assert_int_equal(split.dropped_users, 1);
    const int64_t count[] = {2, 2, 2, 1};
    assert_memory_equal(split.item_count, count, sizeof count);
    const char *text = show(&d, &split, DATASET_TRAIN);
    assert_non_null(strstr(text, "a: 1 2;"));
    assert_non_null(strstr(text, "b: 1 2 3;"));
    assert_non_null(strstr(text, "c: 3 4;"));
    split_free(&split);
    data_free(&d);
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
        struct data d = {0};
        struct split split;
        add(&d, 0, "a", "x", true);
        add(&d, 0, "b", "x", true);
        add(&d, 0, "b", "y", true);
        struct split_options options = {.min_item_users = cases[i].min_item_users,
                                        .min_user_items = cases[i].min_user_items,
                                        .heldout_users = cases[i].heldout_users};
        assert_int_equal(split_here(&d, &options, &split), cases[i].code);
        assert_non_null(strstr(error_message(), cases[i].words));
        data_free(&d);
    }
    struct data d = {0};
    struct split split;
    assert_int_equal(split_here(&d, &keep_all, &split), EX_DATAERR);
    data_free(&d);
}

/* Items lie by falling count, then by value if all ids of the catalogue are digits, else by bytes. */
static void item_order(void **state) {
    (void)state;
    for (int text_id = 0; text_id < 2; text_id++) {
        struct data d = {0};
        struct split split;
        static const char *const items[] = {"100", "9", "20", "007", "7"};
        for (int i = 0; i < 5; i++) add(&d, 0, "a", items[i], true);
        add(&d, 0, "b", "20", true);
        if (text_id) add(&d, 0, "a", "x", true);
        assert_int_equal(split_here(&d, &keep_all, &split), 0);
        assert_non_null(
            strstr(show(&d, &split, DATASET_TRAIN), text_id ? "a: 20 007 100 7 9 x;" : "a: 20 7 007 9 100;"));
        split_free(&split);
        data_free(&d);
    }
}

/* A random set: user i has about 3 + i % 40 of 120 items. Rows are added in an order that `stride` makes. */
enum { USERS = 997, ITEMS = 120 };
static void add_random(struct data *d, int64_t stride) {
    for (int64_t n = 0; n < USERS; n++) {
        int64_t u = n * stride % USERS; /* USERS is a prime number */
        for (int64_t k = 0; k < 3 + u % 40; k++) {
            char user[16], item[16];
            int64_t i = stride == 1 ? k : 2 + u % 40 - k;
            snprintf(user, sizeof user, "u%" PRId64, u);
            snprintf(item, sizeof item, "%" PRId64, (u * u + i * i * 7) % ITEMS);
            add(d, 0, user, item, true);
        }
    }
}

static void strong_generalisation(void **state) {
    (void)state;
    struct data d = {0};
    struct split split;
    struct split_options options = {
        .seed = 5, .min_user_items = 2, .heldout_users = 101, .target_fraction = 0.3};
    add_random(&d, 1);
    make_matrices(&d);
    struct csr *m = &d.matrix[0], copy = {m->rows, m->cols, NULL, NULL};
    copy.indptr = malloc((size_t)(m->rows + 1) * sizeof *copy.indptr);
    copy.indices = malloc((size_t)csr_nonzeros(m) * sizeof *copy.indices);
    assert_true(copy.indptr && copy.indices);
    memcpy(copy.indptr, m->indptr, (size_t)(m->rows + 1) * sizeof *copy.indptr);
    memcpy(copy.indices, m->indices, (size_t)csr_nonzeros(m) * sizeof *copy.indices);
    assert_int_equal(split_users(m, &d.users, &d.items, &options, &split), 0);
    assert_null(m->indices); /* used up */

    assert_int_equal(split.rows[SPLIT_VALIDATION], 101);
    assert_int_equal(split.rows[SPLIT_TEST], 101);
    assert_int_equal(split.n_users, USERS - split.dropped_users);
    assert_int_equal(split.rows[SPLIT_TRAIN], split.n_users - 202);

    /* every user once, every index once */
    bool seen_user[USERS] = {false}, seen_index[USERS] = {false};
    for (int s = 0; s < SPLITS; s++) {
        for (int64_t r = 0; r < split.rows[s]; r++) {
            int32_t user = split.user[s][r];
            int64_t index = split.user_index[s][r];
            assert_false(seen_user[user]);
            seen_user[user] = true;
            assert_in_range(index, 0, split.n_users - 1);
            assert_false(seen_index[index]);
            seen_index[index] = true;
        }
    }

    /* the catalogue: all items of training users, by falling count */
    int64_t count[ITEMS] = {0};
    int32_t index_of[ITEMS];
    int n_items = 0;
    memset(index_of, -1, sizeof index_of);
    for (int64_t r = 0; r < split.rows[SPLIT_TRAIN]; r++) {
        int32_t u = split.user[SPLIT_TRAIN][r];
        for (int64_t i = copy.indptr[u]; i < copy.indptr[u + 1]; i++) count[copy.indices[i]]++;
    }
    for (int i = 0; i < ITEMS; i++) n_items += count[i] > 0;
    assert_int_equal(split.n_items, n_items);
    for (int i = 0; i < n_items; i++) {
        assert_int_equal(split.item_count[i], count[split.item[i]]);
        if (i) assert_true(split.item_count[i] <= split.item_count[i - 1]);
        index_of[split.item[i]] = i;
    }

    /* every row is the user's catalogue items, ascending; the target's size is as asked for */
    for (int p = 0; p < DATASET_PARTS; p = p ? p + 2 : 1) {
        const struct csr *input = &split.part[p], *target = p ? &split.part[p + 1] : NULL;
        for (int64_t r = 0; r < input->rows; r++) {
            bool wanted[ITEMS] = {false};
            int64_t n = 0, got = 0, n_target = 0;
            int32_t u = split.user[split_of((enum dataset_part)p)][r];
            for (int64_t i = copy.indptr[u]; i < copy.indptr[u + 1]; i++) {
                int32_t index = index_of[copy.indices[i]];
                if (index >= 0) wanted[index] = ++n;
            }
            for (int t = 0; t < (target ? 2 : 1); t++) {
                const struct csr *part = t ? target : input;
                for (int64_t i = part->indptr[r]; i < part->indptr[r + 1]; i++, got++) {
                    assert_true(wanted[part->indices[i]]);
                    wanted[part->indices[i]] = false;
                    if (i > part->indptr[r]) assert_true(part->indices[i] > part->indices[i - 1]);
                    n_target += t;
                }
            }
            assert_int_equal(got, n);
            if (target) assert_int_equal(n_target, n < 5 ? 0 : n * 3 / 10);
        }
    }
    assert_int_equal(split.n_overlap, 0);
    csr_free(&copy);
    split_free(&split);
    data_free(&d);
}

static void fingerprint_of(int64_t stride, uint64_t seed, char text[DATASET_FINGERPRINT_SIZE]) {
    struct data d = {0};
    struct split split;
    struct split_options options = {
        .seed = seed, .min_user_items = 5, .heldout_users = -1, .target_fraction = 0.2};
    add_random(&d, stride);
    assert_int_equal(split_here(&d, &options, &split), 0);
    assert_int_equal(split.rows[SPLIT_TEST], split.n_users / 10); /* auto */
    split_fingerprint(&split, &d.users, &d.items, text);
    split_free(&split);
    data_free(&d);
}

static void order_of_rows_does_not_matter(void **state) {
    (void)state;
    char a[DATASET_FINGERPRINT_SIZE], b[DATASET_FINGERPRINT_SIZE], other[DATASET_FINGERPRINT_SIZE];
    fingerprint_of(1, 7, a);
    fingerprint_of(123, 7, b);
    fingerprint_of(1, 8, other);
    assert_string_equal(a, b);
    assert_string_not_equal(a, other);
    assert_int_equal(strspn(a, "0123456789abcdef"), 16);
}

/* Each item of a row is as likely to be a target, and 0.29 of 100 items are 29. */
static void targets(void **state) {
    (void)state;
    struct data d = {0};
    struct split split;
    struct split_options options = {.seed = 3, .heldout_users = 1000, .target_fraction = 0.29};
    int count[100] = {0};
    for (int u = 0; u < 2001; u++) {
        for (int i = 0; i < 100; i++) {
            char user[16], item[16];
            snprintf(user, sizeof user, "%d", u);
            snprintf(item, sizeof item, "%d", i);
            add(&d, 0, user, item, true);
        }
    }
    assert_int_equal(split_here(&d, &options, &split), 0);
    for (int p = DATASET_VALIDATION_TARGET; p <= DATASET_TEST_TARGET; p += 2) {
        const struct csr *target = &split.part[p];
        assert_int_equal(csr_nonzeros(target), 29 * 1000);
        for (int64_t i = 0; i < csr_nonzeros(target); i++) count[target->indices[i]]++;
    }
    for (int i = 0; i < 100; i++)
        assert_in_range(count[i], 580 - 5 * 21, 580 + 5 * 21); /* 5 standard deviations */
    split_free(&split);
    data_free(&d);
}

static void heldout_users_without_catalogue_items(void **state) {
    (void)state;
    struct data d = {0};
    struct split split;
    char user[16], item[16];
    for (int u = 0; u < 30; u++) { /* every user has an item of his own, and 5 that all have */
        snprintf(user, sizeof user, "u%d", u);
        snprintf(item, sizeof item, "own%d", u);
        add(&d, 0, user, item, true);
        for (int i = 0; i < 5; i++) {
            snprintf(item, sizeof item, "all%d", i);
            if (u % 2) add(&d, 0, user, item, true);
        }
    }
    struct split_options options = {.seed = 3, .heldout_users = 10, .target_fraction = 0.2};
    assert_int_equal(split_here(&d, &options, &split), 0);
    assert_int_equal(split.dropped_interactions, 20);
    assert_int_equal(split.n_items, 10 + 5);
    for (int p = DATASET_VALIDATION_INPUT; p < DATASET_PARTS; p += 2) {
        const struct csr *input = &split.part[p], *target = &split.part[p + 1];
        assert_int_equal(input->rows, 10);
        assert_int_equal(target->rows, 10);
        for (int64_t r = 0; r < 10; r++) {
            int64_t n_input = input->indptr[r + 1] - input->indptr[r],
                    n_target = target->indptr[r + 1] - target->indptr[r];
            assert_true((n_input == 0 && n_target == 0) || (n_input == 4 && n_target == 1));
        }
    }
    split_free(&split);
    data_free(&d);
}

/* Weak and strong generalisation, as other people split. */
static void given(void **state) {
    (void)state;
    struct data d = {0};
    struct split split;
    add(&d, DATASET_TRAIN, "a", "1", true);
    add(&d, DATASET_TRAIN, "a", "2", true);
    add(&d, DATASET_TRAIN, "b", "2", true);
    add(&d, DATASET_TRAIN, "gone", "3", false);
    add(&d, DATASET_VALIDATION_INPUT, "v", "1", true);
    add(&d, DATASET_VALIDATION_TARGET, "w", "2", true); /* no input */
    add(&d, DATASET_TEST_INPUT, "a", "1", true);
    add(&d, DATASET_TEST_INPUT, "t", "3", true); /* 3 and 4 are unknown */
    add(&d, DATASET_TEST_INPUT, "t", "1", true);
    add(&d, DATASET_TEST_TARGET, "a", "2", true);
    add(&d, DATASET_TEST_TARGET, "a", "1", true); /* input too */
    add(&d, DATASET_TEST_TARGET, "t", "4", true);
    make_matrices(&d);
    assert_int_equal(split_given(d.matrix, &d.users, &d.items, &keep_all, &split), 0);
    assert_int_equal(split.n_items, 2);
    assert_int_equal(split.n_users, 5);
    assert_int_equal(split.n_interactions, 3 + 1 + 1 + 2 + 2);
    assert_int_equal(split.dropped_interactions, 2);
    assert_int_equal(split.n_overlap, 1);
    assert_int_equal(split.rows[SPLIT_TRAIN], 2);
    assert_int_equal(split.rows[SPLIT_VALIDATION], 2);
    assert_int_equal(split.rows[SPLIT_TEST], 2);
    const struct {
        enum dataset_part part;
        const char *rows[2];
    } expected[] = {{DATASET_TRAIN, {"a: 2 1;", "b: 2;"}},
                    {DATASET_VALIDATION_INPUT, {"v: 1;", "w:;"}},
                    {DATASET_VALIDATION_TARGET, {"v:;", "w: 2;"}},
                    {DATASET_TEST_INPUT, {"a: 1;", "t: 1;"}},
                    {DATASET_TEST_TARGET, {"a: 2 1;", "t:;"}}};
    for (int p = 0; p < DATASET_PARTS; p++) {
        const char *text = show(&d, &split, expected[p].part);
        for (int i = 0; i < 2; i++) assert_non_null(strstr(text, expected[p].rows[i]));
    }
    for (int64_t train = 0; train < 2;
         train++) { /* a's index is the same in both splits, and no one else's */
        for (int64_t test = 0; test < 2; test++) {
            bool same_user = split.user[SPLIT_TRAIN][train] == split.user[SPLIT_TEST][test];
            assert_int_equal(split.user_index[SPLIT_TRAIN][train] == split.user_index[SPLIT_TEST][test],
                             same_user);
        }
    }
    split_free(&split);
    data_free(&d);

    add(&d, DATASET_TEST_INPUT, "a", "1", true);
    make_matrices(&d);
    assert_int_equal(split_given(d.matrix, &d.users, &d.items, &keep_all, &split), EX_DATAERR);
    data_free(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_row_stands),
        cmocka_unit_test(many_interactions),
        cmocka_unit_test(interactions_only_some_freed),
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
