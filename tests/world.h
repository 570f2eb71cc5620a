/* For tests: interactions by hand, split as vaecf-preprocess does, and the rows that come out. */
#ifndef VAECF_TEST_WORLD_H
#define VAECF_TEST_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "block.h"
#include "ids.h"
#include "records.h"
#include "split.h"

enum { WORLD_BINS = 16 };

struct world_row {
    struct row_head head;
    const char *id;
    int32_t *items[2]; /* input and target, owned */
};

struct world {
    struct scratch scratch;
    struct spool interactions, rows;
    struct spool_out out[WORLD_BINS];
    int64_t keys;
    uint64_t seed;
    struct ids items;
    struct split split;
    struct world_row *row[SPLITS]; /* [split.rows], owned */
};

static const struct comm world_comm = {.mpi = MPI_COMM_NULL, .size = 1};

static inline void world_make(struct world *w, uint64_t seed, int64_t budget) {
    *w = (struct world){.scratch = {.dir = "/tmp", .budget = budget}, .seed = seed};
    spool_open(&w->interactions, WORLD_BINS, &w->scratch, 0.5);
}

/* Everything so far is earlier than what is added from now on. */
static inline void world_next_batch(struct world *w) {
    assert_int_equal(spool_add(&w->interactions, w->keys++, w->out), 0);
}

/* value: NULL, or what the rule for equal rows needs. */
static inline void world_add_value(struct world *w, enum dataset_part part, const char *user,
                                   const char *item, bool wanted, const double *value) {
    int32_t number;
    struct spool_out *out = &w->out[block_bin(block_user_hash(w->seed, user, strlen(user)), WORLD_BINS)];
    assert_int_equal(ids_add(&w->items, item, strlen(item), &number), 0);
    assert_int_equal(spool_out_reserve(out, RECORD_MAX), 0);
    record_put(out, number, wanted, false, part, user, strlen(user));
    if (value) record_put_value(out, 0, *value);
    if (out->used > 1 << 16) world_next_batch(w);
}

static inline void world_add(struct world *w, enum dataset_part part, const char *user, const char *item,
                             bool wanted) {
    world_add_value(w, part, user, item, wanted, NULL);
}

static inline void world_take_rows(struct world *w, const struct split_options *options) {
    for (int s = 0; s < SPLITS; s++) {
        int64_t n = 0;
        struct spool_out buffer = {0};
        w->row[s] = calloc((size_t)w->split.rows[s] + 1, sizeof *w->row[s]);
        assert_non_null(w->row[s]);
        for (int64_t shard = 0; shard < options->n_shards; shard++) {
            for (int64_t b = 0; b < w->rows.n; b++) {
                const char *at, *id, *items[2];
                size_t size;
                assert_int_equal(
                    spool_get(&w->rows, b, split_bin(shard, (enum split_rows)s), &buffer, &at, &size), 0);
                for (const char *end = at + size; at < end; n++) {
                    struct world_row *row = &w->row[s][n];
                    assert_true(n < w->split.rows[s]);
                    row->head = row_get(&at, &id, &items[0], &items[1]);
                    char *copy = calloc((size_t)row->head.id_length + 1, 1);
                    assert_non_null(copy);
                    row->id = memcpy(copy, id, (size_t)row->head.id_length);
                    for (int i = 0; i < 2; i++) {
                        size_t bytes = (size_t)(i ? row->head.n_target : row->head.n_input) * sizeof(int32_t);
                        row->items[i] = malloc(bytes + 1);
                        assert_non_null(row->items[i]);
                        memcpy(row->items[i], items[i], bytes);
                    }
                }
            }
        }
        assert_int_equal(n, w->split.rows[s]);
        free(buffer.data);
    }
}

/* Splits and returns the code. */
static inline int world_split(struct world *w, const struct split_options *options) {
    world_next_batch(w);
    spool_sort(&w->interactions);
    spool_open(&w->rows, SPLITS * (int)options->n_shards, &w->scratch, 1);
    int code = split_run(&world_comm, &w->interactions, &w->items, options, &w->split, &w->rows);
    if (!code) world_take_rows(w, options);
    return code;
}

/* An item's id. */
static inline const char *world_item(const struct world *w, int32_t index, int *length) {
    size_t size;
    const char *text = ids_text(&w->items, w->split.item[index], &size);
    *length = (int)size;
    return text;
}

/* "user: item item; ..." of a part, in its order. */
static inline const char *world_show(const struct world *w, enum dataset_part part) {
    static char text[1 << 16];
    size_t used = 0;
    int t = part && part % 2 == 0, s = (int)split_of(part);
    text[0] = '\0';
    for (int64_t r = 0; r < w->split.rows[s]; r++) {
        const struct world_row *row = &w->row[s][r];
        used += (size_t)snprintf(text + used, sizeof text - used, "%s:", row->id);
        for (int32_t i = 0; i < (t ? row->head.n_target : row->head.n_input); i++) {
            int length;
            const char *item = world_item(w, row->items[t][i], &length);
            used += (size_t)snprintf(text + used, sizeof text - used, " %.*s", length, item);
        }
        used += (size_t)snprintf(text + used, sizeof text - used, ";");
        assert_true(used < sizeof text);
    }
    return text;
}

static inline void world_free(struct world *w) {
    for (int s = 0; s < SPLITS; s++) {
        for (int64_t r = 0; w->row[s] && r < w->split.rows[s]; r++) {
            free((char *)(uintptr_t)w->row[s][r].id);
            free(w->row[s][r].items[0]);
            free(w->row[s][r].items[1]);
        }
        free(w->row[s]);
    }
    for (int b = 0; b < WORLD_BINS; b++) free(w->out[b].data);
    spool_close(&w->interactions);
    spool_close(&w->rows);
    scratch_close(&w->scratch);
    split_free(&w->split);
    ids_free(&w->items);
}

#endif
