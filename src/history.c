/* See history.h. */
#include "history.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "interactions.h"

/* The catalogue's ids as a set, so that they can be found. */
static int index_items(const struct items *items, struct ids *ids) {
    for (int64_t i = 0; i < items->n; i++) {
        const char *id = items->ids + (size_t)i * items->width;
        int32_t number;
        int code = ids_add(ids, id, strnlen(id, items->width), &number);
        if (code) return code;
        if (number != i)
            return error_set(EX_DATAERR, "item %lld of the catalogue is there twice", (long long)i);
    }
    return 0;
}

static int read_file(const char *path, const struct csv_options *options, double min_rating,
                     const struct ids *catalogue, struct history *h, struct interactions *interactions) {
    struct csv *csv;
    struct csv_row row;
    int32_t user;
    int code = csv_open(path, options, &csv);
    if (code) return code;
    while (!(code = csv_next(csv, &row)) && row.user) {
        int32_t item = ids_find(catalogue, row.item, row.item_length);
        code = ids_add(&h->users, row.user, row.user_length, &user);
        if (code) break;
        if (item < 0) {
            h->unknown++;
            continue;
        }
        h->known++;
        code = interactions_add(interactions, user, item, !csv_has_ratings(csv) || row.rating >= min_rating);
        if (code) break;
    }
    h->skipped += csv_skipped(csv);
    csv_close(csv);
    return code;
}

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

int history_read(const char *const *paths, int n_paths, const struct csv_options *options, double min_rating,
                 const struct items *items, struct history *history) {
    struct ids catalogue = {0};
    struct interactions interactions = {0};
    int64_t duplicates = 0, unwanted = 0;
    *history = (struct history){0};
    int code = index_items(items, &catalogue);
    for (int i = 0; i < n_paths && !code; i++) {
        code = read_file(paths[i], options, min_rating, &catalogue, history, &interactions);
    }
    if (!code && history->users.n == 0) {
        code = error_set(EX_DATAERR, "%s: has no rows; want a user and an item in each", paths[0]);
    }
    if (!code) {
        code = interactions_matrix(&interactions, history->users.n, (int32_t)items->n, &history->matrix,
                                   &duplicates, &unwanted);
    }
    const struct csr *m = &history->matrix;
    for (int64_t r = 0; r < m->rows && !code; r++) {
        qsort(m->indices + m->indptr[r], (size_t)(m->indptr[r + 1] - m->indptr[r]), sizeof *m->indices,
              ascending);
    }
    interactions_free(&interactions);
    ids_free(&catalogue);
    if (code) history_free(history);
    return code;
}

void history_free(struct history *history) {
    ids_free(&history->users);
    csr_free(&history->matrix);
    *history = (struct history){0};
}
