/* preprocess/duplicates.c, and the two ways to it: the blocks of vaecf-preprocess and the grouping of
 * vaecf-recommend give what a plain reading of each rule gives, for rows in any order. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "duplicates.h"
#include "error.h"
#include "grouping.h"
#include "world.h"

enum { USERS = 50, ITEMS = 30, ROWS = 5000, MISSING = INT32_MIN };
static const int64_t plenty = 1 << 30; /* bytes of memory */

static const enum duplicates_rule rules[] = {DUPLICATES_NEWEST, DUPLICATES_LAST,  DUPLICATES_MAX,
                                             DUPLICATES_MIN,    DUPLICATES_FIRST, DUPLICATES_SUM};
enum { RULES = sizeof rules / sizeof *rules };

struct row {
    int user, item, tenths; /* of the rating, or MISSING */
    double time;
};

static uint64_t state;
static uint32_t draw(uint32_t n) {
    state = state * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

/* Rows with many equal pairs, equal times and missing ratings. */
static void make_rows(uint64_t seed, struct row rows[ROWS]) {
    static const double times[] = {0, -5, 7, 7.25, 1.2e9, 1.2e9 + 1, 4e9, 1.7e12, 1e300, -1e300};
    state = seed;
    for (int i = 0; i < ROWS; i++) {
        rows[i] = (struct row){(int)draw(USERS), (int)draw(ITEMS), (int)draw(60) - 5, times[draw(10)]};
        if (draw(8) == 0) rows[i].tenths = MISSING;
    }
}

static void shuffle(struct row rows[ROWS]) {
    for (uint32_t i = ROWS - 1; i > 0; i--) {
        uint32_t j = draw(i + 1);
        struct row row = rows[i];
        rows[i] = rows[j];
        rows[j] = row;
    }
}

/* Is a pair with these rows wanted? In tenths, so that sums are exact. MISSING is below any. */
static bool reference(enum duplicates_rule rule, const struct row *const *row, int n, int min_tenths) {
    int value = row[0]->tenths;
    double newest = row[0]->time;
    for (int i = 1; i < n; i++) {
        int next = row[i]->tenths;
        switch (rule) {
        case DUPLICATES_NEWEST:
            if (row[i]->time > newest || (row[i]->time == newest && next > value)) value = next;
            if (row[i]->time > newest) newest = row[i]->time;
            break;
        case DUPLICATES_MAX:
            if (next > value) value = next;
            break;
        case DUPLICATES_MIN:
            if (next < value) value = next;
            break;
        case DUPLICATES_SUM:
            if (next != MISSING) value = value == MISSING ? next : value + next;
            break;
        case DUPLICATES_FIRST:
            break;
        default:
            value = next;
        }
    }
    return value >= min_tenths;
}

struct expected {
    bool wanted[USERS][ITEMS];
    struct duplicates_counts counts;
};

static void expect(enum duplicates_rule rule, const struct row rows[ROWS], int min_tenths,
                   struct expected *expected) {
    *expected = (struct expected){0};
    for (int u = 0; u < USERS; u++) {
        for (int i = 0; i < ITEMS; i++) {
            const struct row *pair[ROWS];
            int n = 0, high = 0;
            for (int r = 0; r < ROWS; r++) {
                if (rows[r].user != u || rows[r].item != i) continue;
                pair[n++] = &rows[r];
                high += rows[r].tenths >= min_tenths;
            }
            if (!n) continue;
            expected->wanted[u][i] = reference(rule, pair, n, min_tenths);
            expected->counts.duplicates += n - 1;
            expected->counts.unwanted += !expected->wanted[u][i];
            expected->counts.disputed += high && high < n;
        }
    }
}

static struct csv_row row_of(const struct row *row) {
    return (struct csv_row){.rating = row->tenths == MISSING ? (double)NAN : row->tenths / 10.0,
                            .time = row->time};
}

/* ---- vaecf-preprocess ---- */

static void split_rows(const struct row rows[ROWS], const struct duplicates *d, int64_t memory,
                       const struct expected *expected, char fingerprint[DATASET_FINGERPRINT_SIZE]) {
    struct world w;
    bool wanted[USERS][ITEMS] = {{false}};
    world_make(&w, 1, memory);
    for (int r = 0; r < ROWS; r++) {
        char user[16], item[16];
        struct csv_row row = row_of(&rows[r]);
        double value = duplicates_value(d, &row);
        snprintf(user, sizeof user, "%d", rows[r].user);
        snprintf(item, sizeof item, "%d", rows[r].item);
        world_add_value(&w, DATASET_TRAIN, user, item, duplicates_wanted(d, true, &row),
                        duplicates_need_values(d) ? &value : NULL);
        if (r % 700 == 0) world_next_batch(&w);
    }
    struct split_options options = {.seed = 1, .target_fraction = 0.2, .n_shards = 1, .duplicates = *d};
    assert_int_equal(world_split(&w, &options), 0);
    for (int64_t r = 0; r < w.split.rows[SPLIT_TRAIN]; r++) {
        const struct world_row *row = &w.row[SPLIT_TRAIN][r];
        for (int32_t i = 0; i < row->head.n_input; i++) {
            int length;
            const char *item = world_item(&w, row->items[0][i], &length);
            char text[16];
            snprintf(text, sizeof text, "%.*s", length, item);
            wanted[atoi(row->id)][atoi(text)] = true;
        }
    }
    assert_memory_equal(wanted, expected->wanted, sizeof wanted);
    assert_int_equal(w.split.duplicates, expected->counts.duplicates);
    assert_int_equal(w.split.unwanted, expected->counts.unwanted);
    assert_int_equal(w.split.disputed, expected->counts.disputed);
    memcpy(fingerprint, w.split.fingerprint, DATASET_FINGERPRINT_SIZE);
    world_free(&w);
}

/* ---- vaecf-recommend ---- */

static void group_rows(const struct row rows[ROWS], const struct duplicates *d, int64_t memory,
                       const struct expected *expected) {
    struct grouping *g;
    bool wanted[USERS][ITEMS] = {{false}};
    assert_int_equal(grouping_create(ITEMS, d, memory, &g), 0);
    for (int r = 0; r < ROWS; r++) {
        char user[16];
        struct csv_row row = row_of(&rows[r]);
        int length = snprintf(user, sizeof user, "%d", rows[r].user);
        int32_t entry =
            duplicates_wanted(d, true, &row) ? rows[r].item : GROUPING_UNWANTED((int32_t)rows[r].item);
        assert_int_equal(grouping_add(g, user, (size_t)length, entry, duplicates_value(d, &row)), 0);
        if (r % 10) continue;
        assert_int_equal(grouping_add(g, user, (size_t)length, GROUPING_UNKNOWN, duplicates_value(d, &row)),
                         0);
    }
    assert_int_equal(grouping_finish(g), 0);
    int64_t all_unknown = 0;
    for (;;) {
        const char *id;
        char text[16];
        size_t length;
        const int32_t *items;
        int64_t n, unknown;
        assert_int_equal(grouping_next(g, &id, &length, &items, &n, &unknown), 0);
        if (!id) break;
        snprintf(text, sizeof text, "%.*s", (int)length, id);
        for (int64_t i = 0; i < n; i++) {
            if (i) assert_true(items[i - 1] < items[i]);
            wanted[atoi(text)][items[i]] = true;
        }
        all_unknown += unknown;
    }
    assert_int_equal(all_unknown, ROWS / 10);
    assert_memory_equal(wanted, expected->wanted, sizeof wanted);
    grouping_free(g);
}

static void as_the_rule_says(void **unused) {
    (void)unused;
    static struct row rows[ROWS];
    for (uint64_t seed = 1; seed <= 3; seed++) {
        int min_tenths = seed == 1 ? 30 : seed == 2 ? 10 : -2;
        for (int k = 0; k < RULES; k++) {
            char first[DATASET_FINGERPRINT_SIZE] = "", fingerprint[DATASET_FINGERPRINT_SIZE];
            const bool by_order = rules[k] == DUPLICATES_LAST || rules[k] == DUPLICATES_FIRST;
            const struct duplicates d = duplicates_stored(rules[k], min_tenths / 10.0);
            make_rows(seed, rows);
            for (int again = 0; again < 3; again++) {
                struct expected expected;
                expect(rules[k], rows, min_tenths, &expected);
                assert_in_range(expected.counts.unwanted, 20, ROWS);
                split_rows(rows, &d, again ? 0 : plenty, &expected, fingerprint);
                group_rows(rows, &d, again ? 50000 : plenty, &expected);
                if (again) assert_int_equal(strcmp(first, fingerprint) != 0, by_order);
                if (!again) memcpy(first, fingerprint, sizeof first);
                shuffle(rows);
            }
        }
    }
}

static void without_a_rating_every_pair_is_wanted(void **unused) {
    (void)unused;
    static struct row rows[ROWS];
    make_rows(4, rows);
    for (int k = 0; k < RULES; k++) {
        struct expected expected;
        char fingerprint[DATASET_FINGERPRINT_SIZE];
        const struct duplicates d = duplicates_stored(rules[k], -(double)INFINITY);
        expect(rules[k], rows, MISSING, &expected);
        assert_int_equal(expected.counts.unwanted, 0);
        assert_false(duplicates_need_values(&d)); /* nothing more is stored */
        split_rows(rows, &d, plenty, &expected, fingerprint);
        group_rows(rows, &d, plenty, &expected);
    }
}

/* ---- parts ---- */

static void sums(void **unused) {
    (void)unused;
    /* min_rating, values of one pair; is it wanted? */
    static const struct {
        double min_rating, value[12];
        int n;
        bool wanted;
    } cases[] = {
        {1,
         {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1},
         10,
         true}, /* one by one: 0.99999999999999989 */
        {1, {0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1}, 9, false},
        {7, {0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7}, 10, true},
        {0.3, {0.5, -0.2}, 2, true},
        {0, {(double)NAN, (double)NAN}, 2, false}, /* missing is not 0 */
        {0, {(double)NAN, 0}, 2, true},
        {0, {5, -5}, 2, true},
        {0, {5, -5.5}, 2, false},
        {1e300, {DBL_MAX, DBL_MAX}, 2, true},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct settler settler;
        const struct duplicates d = {DUPLICATES_SUM, cases[c].min_rating};
        int32_t rows[12];
        double values[12];
        int64_t kept;
        for (int i = 0; i < cases[c].n; i++) {
            rows[i] = cases[c].value[i] >= d.min_rating ? 2 : ~2;
            values[i] = cases[c].value[i];
        }
        assert_int_equal(settler_open(&settler, &d, 3), 0);
        assert_int_equal(settler_run(&settler, rows, values, cases[c].n, &kept), 0);
        assert_int_equal(kept, cases[c].wanted);
        if (kept) assert_int_equal(rows[0], 2);
        settler_close(&settler);
    }
}

/* What comes back is what was put, also where no whole number leads from one value to the next. */
static void values_of_records(void **unused) {
    (void)unused;
    static const double values[] = {0,
                                    5,
                                    5.5,
                                    1.2e9,
                                    1.2e9 + 3,
                                    1.7e12,
                                    1.7e12 + 86400000.0,
                                    -1,
                                    1e300,
                                    -1e300,
                                    DBL_MAX,
                                    -DBL_MAX,
                                    0.1,
                                    0.1 + 1,
                                    3e9,
                                    3e9,
                                    3e9 - 2147483648.0,
                                    3e9 - 1,
                                    (double)NAN,
                                    2,
                                    4503599627370497.0,
                                    0.5};
    enum { N = sizeof values / sizeof *values };
    struct spool_out out = {0};
    double before = 0, value = 0;
    assert_int_equal(spool_out_reserve(&out, N * 12), 0);
    for (int i = 0; i < N; i++) {
        record_put_value(&out, before, values[i]);
        before = values[i];
    }
    const char *at = out.data;
    for (int i = 0; i < N; i++) {
        record_get_value(&at, &value);
        assert_true(value == values[i] || (isnan(value) && isnan(values[i])));
    }
    assert_ptr_equal(at, out.data + out.used);
    out.used = 0;
    record_put_value(&out, 1.2e9, 1.3e9);
    assert_int_equal(out.used, 4);
    free(out.data);
}

static void names(void **unused) {
    (void)unused;
    enum duplicates_rule rule;
    for (int k = 0; k < RULES; k++) {
        assert_int_equal(duplicates_parse(duplicates_name(rules[k]), &rule), 0);
        assert_int_equal(rule, rules[k]);
    }
    assert_int_equal(duplicates_parse("auto", &rule), EX_USAGE);
    assert_non_null(strstr(error_message(), "--duplicates auto: want newest, last, max, min, first or sum"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_the_rule_says),
        cmocka_unit_test(without_a_rating_every_pair_is_wanted),
        cmocka_unit_test(sums),
        cmocka_unit_test(values_of_records),
        cmocka_unit_test(names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
