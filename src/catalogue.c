/* See catalogue.h. */
#include "catalogue.h"

#include <stdlib.h>
#include <string.h>

#include "checkpoint.h"
#include "csv.h"
#include "error.h"

const char *catalogue_id(const struct catalogue *c, int64_t i, size_t *length) {
    const char *id = c->items.ids + (size_t)i * c->items.width;
    *length = strnlen(id, c->items.width);
    return id;
}

int catalogue_read(const char *checkpoint, int64_t n_items, struct catalogue *c) {
    *c = (struct catalogue){0};
    int code = checkpoint_read_items(checkpoint, &c->items);
    if (!code && c->items.n != n_items) {
        code = error_set(EX_DATAERR, "%s: %lld ids for %lld items", checkpoint, (long long)c->items.n,
                         (long long)n_items);
    }
    for (int64_t i = 0; i < c->items.n && !code; i++) {
        size_t length;
        int32_t number;
        const char *id = catalogue_id(c, i, &length);
        code = ids_add(&c->index, id, length, &number);
        if (!code && number != i) {
            code = error_set(EX_DATAERR, "%s: /items/id: item %lld is there twice", checkpoint, (long long)i);
        }
    }
    if (code) catalogue_free(c);
    return code;
}

void catalogue_free(struct catalogue *c) {
    for (int64_t i = 0; c->title && i < c->items.n; i++) free(c->title[i]);
    free(c->title);
    ids_free(&c->index);
    items_free(&c->items);
    *c = (struct catalogue){0};
}

int catalogue_mark(const struct catalogue *c, const char *path, uint8_t *marks, int64_t *known,
                   int64_t *unknown) {
    const struct csv_options options = {.content = CSV_IDS};
    struct csv *csv;
    struct csv_row row;
    int code = csv_open(path, &options, &csv);
    *known = *unknown = 0;
    while (!code && !(code = csv_next(csv, &row)) && row.item) {
        int32_t item = ids_find(&c->index, row.item, row.item_length);
        if (item >= 0) marks[item] = 1;
        *known += item >= 0;
        *unknown += item < 0;
    }
    csv_close(csv);
    return code;
}

int catalogue_read_titles(struct catalogue *c, const char *path) {
    const struct csv_options options = {.content = CSV_TITLES, .skip_bad_rows = true, .max_bad = 0.5};
    struct csv *csv;
    struct csv_row row;
    c->title = calloc((size_t)c->items.n + 1, sizeof *c->title);
    if (!c->title) return error_memory("titles", ((size_t)c->items.n + 1) * sizeof *c->title);
    int code = csv_open(path, &options, &csv);
    if (code) return code;
    int64_t known = 0;
    while (!(code = csv_next(csv, &row)) && row.user) {
        int32_t item = ids_find(&c->index, row.user, row.user_length);
        if (item < 0) continue;
        free(c->title[item]);
        c->title[item] = strndup(row.item, row.item_length);
        if (!c->title[item]) {
            code = error_memory("titles", row.item_length);
            break;
        }
        known++;
    }
    csv_close(csv);
    if (!code && !known) {
        code =
            error_set(EX_DATAERR, "%s: has no item of the model's catalogue; want id and title a row", path);
    }
    return code;
}
