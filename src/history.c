/* See history.h. */
#include "history.h"

#include <stdlib.h>
#include <string.h>

#include "dialect.h"
#include "error.h"
#include "grouping.h"
#include "h5.h"

enum {
    BATCH_ITEMS = 1 << 22, /* a batch ends with the user who reaches so many items */
    RECENT = 1 << 20,      /* users that are remembered, to tell if one is back */
    PIECE = 4096,          /* rows that are read from a data set at a time */
    READING = 1 << 18,     /* rows between two calls of options.reading */
    NAME_SIZE = 256
};

struct history {
    struct history_options options;
    const struct catalogue *catalogue;
    struct history_counts counts;
    /* CSV */
    struct csv *csv;
    int next_path;
    struct dialect *first; /* of the first file, owned */
    struct csv_row row;    /* the next one, if has_row */
    int has_row, at_end;
    struct duplicates duplicates; /* from the first row on */
    struct grouping *grouping;
    uint64_t *recent; /* [RECENT] hashes of users that have been passed on */
    struct settler settler;
    double *values; /* [values_room] of one user's rows, if the rule needs them */
    int64_t values_room;
    /* a data set */
    struct dataset dataset;
    enum dataset_part part;
    int64_t next_row;
};

/* ---- a batch ---- */

void users_free(struct users *users) {
    csr_free(&users->matrix);
    free(users->unknown);
    free(users->text);
    free(users->text_start);
    *users = (struct users){0};
}

/* Makes *array hold at least n things. */
static int grow(void *array, int64_t *room, int64_t n, size_t size) {
    void **to = array;
    if (n <= *room) return 0;
    int64_t larger = n > 2 * *room ? n : 2 * *room;
    void *p = realloc(*to, (size_t)larger * size);
    if (!p) return error_memory("a batch of users", (unsigned long long)larger * size);
    *to = p;
    *room = larger;
    return 0;
}

/* Room for so many rows in all arrays that have a number a row. */
static int grow_rows(struct users *u, int64_t rows) {
    int64_t room = u->rows_room;
    int code = grow(&u->matrix.indptr, &room, rows + 1, sizeof *u->matrix.indptr);
    room = u->rows_room;
    if (!code) code = grow(&u->text_start, &room, rows + 1, sizeof *u->text_start);
    room = u->rows_room;
    if (!code) code = grow(&u->unknown, &room, rows + 1, sizeof *u->unknown);
    if (!code) u->rows_room = room;
    return code;
}

/* Begins a row of the batch. */
static int add_user(struct users *u, const char *id, size_t length) {
    int64_t row = u->matrix.rows;
    int code = grow_rows(u, row + 2);
    if (!code) {
        code = grow(&u->text, &u->text_room, u->text_start[row] + (int64_t)length + 1, sizeof *u->text);
    }
    if (code) return code;
    memcpy(u->text + u->text_start[row], id, length);
    u->text_start[row + 1] = u->text_start[row] + (int64_t)length;
    u->matrix.indptr[row + 1] = u->matrix.indptr[row];
    u->unknown[row] = 0;
    u->matrix.rows++;
    return 0;
}

/* Adds items to the last row. */
static int add_items(struct users *u, const int32_t *items, int64_t n) {
    int64_t end = u->matrix.indptr[u->matrix.rows];
    int code = grow(&u->matrix.indices, &u->indices_room, end + n + 1, sizeof *u->matrix.indices);
    if (code) return code;
    if (n) memcpy(u->matrix.indices + end, items, (size_t)n * sizeof *items);
    u->matrix.indptr[u->matrix.rows] += n;
    return 0;
}

static int is_full(const struct users *u, int64_t max_rows) {
    return u->matrix.rows >= max_rows || u->matrix.indptr[u->matrix.rows] >= BATCH_ITEMS;
}

/* ---- rows of CSV files ---- */

/* Tells what the file is taken for. Its columns have to go together with the first one's. */
static int begin_file(struct history *h) {
    if (!h->first) {
        h->first = malloc(sizeof *h->first);
        if (!h->first) return error_memory("a file's columns", sizeof *h->first);
        *h->first = *csv_dialect(h->csv);
    }
    if (h->options.opened) h->options.opened(h->csv);
    return dialect_compare(h->first, h->options.paths[0], csv_dialect(h->csv), csv_name(h->csv));
}

/* Of the first row: what is to be done about equal ones. Of any: does its file have what that needs? */
static int check_row(struct history *h) {
    const struct history_options *o = &h->options;
    if (!h->duplicates.rule) {
        h->duplicates =
            duplicates_stored(o->duplicates ? o->duplicates : duplicates_default(h->csv), o->min_rating);
    }
    return duplicates_check(o->duplicates, &h->duplicates, h->csv);
}

/* Puts the next row of all files into h->row. */
static int read_row(struct history *h) {
    h->has_row = 0;
    for (;;) {
        if (!h->csv) {
            if (h->next_path == h->options.n_paths) return 0;
            int code = csv_open(h->options.paths[h->next_path], &h->options.csv, &h->csv);
            if (code) return code;
            h->next_path++;
            code = begin_file(h);
            if (code) return code;
        }
        int code = csv_next(h->csv, &h->row);
        if (code) return code;
        h->has_row = h->row.user != NULL;
        if (h->has_row) return check_row(h);
        h->counts.skipped += csv_counts(h->csv)->skipped;
        csv_close(h->csv);
        h->csv = NULL;
    }
}

/* What the row says, as grouping.h has it; counts it. */
static int32_t entry_of(struct history *h) {
    int32_t item = ids_find(&h->catalogue->index, h->row.item, h->row.item_length);
    if (item < 0) {
        h->counts.unknown++;
        return GROUPING_UNKNOWN;
    }
    h->counts.known++;
    return duplicates_wanted(&h->duplicates, csv_has_ratings(h->csv), &h->row) ? item
                                                                               : GROUPING_UNWANTED(item);
}

static int no_rows(const struct history *h) {
    if (h->options.csv.events) {
        return error_set(EX_DATAERR, "%s: has no rows of --events %s", h->options.paths[0],
                         h->options.csv.events);
    }
    return error_set(EX_DATAERR, "%s: has no rows; want a user and an item in each", h->options.paths[0]);
}

/* The part of the files that has been read; -1 if that is not known. */
static double part_read(const struct history *h) {
    double here = h->csv ? csv_fraction(h->csv) : 0;
    int files = h->next_path - (h->csv != NULL);
    return here < 0 ? -1 : (files + here) / h->options.n_paths;
}

/* ---- rows in any order ---- */

static int group(struct history *h) {
    int code = read_row(h);
    if (!code && !h->has_row) code = no_rows(h);
    if (!code) {
        code = grouping_create(h->catalogue->items.n, &h->duplicates, h->options.memory, &h->grouping);
    }
    for (int64_t rows = 1; !code && h->has_row; rows++) {
        code = grouping_add(h->grouping, h->row.user, h->row.user_length, entry_of(h),
                            duplicates_value(&h->duplicates, &h->row));
        if (h->options.reading && rows % READING == 0) h->options.reading(rows, part_read(h));
        if (!code) code = read_row(h);
    }
    if (!code) code = grouping_finish(h->grouping);
    return code;
}

static int next_of_grouping(struct history *h, int64_t max_rows, struct users *u) {
    int code = h->grouping ? 0 : group(h);
    while (!code && !is_full(u, max_rows)) {
        const char *id;
        const int32_t *items;
        size_t length;
        int64_t n, unknown;
        code = grouping_next(h->grouping, &id, &length, &items, &n, &unknown);
        if (code || !id) break;
        code = add_user(u, id, length);
        if (!code) code = add_items(u, items, n);
        if (!code) u->unknown[u->matrix.rows - 1] = unknown;
    }
    return code;
}

/* ---- rows of a user lie together ---- */

/* Fails if the row's user has been passed on; those of the last RECENT users or so are remembered. */
static int remember(struct history *h) {
    uint64_t hash = ids_hash(IDS_HASH_START, h->row.user, h->row.user_length) | 1;
    uint64_t *slot = &h->recent[(hash >> 1) % RECENT];
    if (*slot == hash) {
        return error_set(
            EX_DATAERR,
            "%s:%lld: user \"%.*s\" is back after other users; grouped rows lie together, a user's after "
            "another's",
            h->options.paths[h->next_path - 1], (long long)h->row.line, (int)h->row.user_length, h->row.user);
    }
    *slot = hash;
    return 0;
}

/* Reads the rows of the user whose first row is the next. */
static int read_user(struct history *h, struct users *u) {
    int64_t row = u->matrix.rows, n = 0, kept;
    int with_values = duplicates_need_values(&h->duplicates);
    int code = remember(h);
    if (!code) code = add_user(u, h->row.user, h->row.user_length);
    while (!code) {
        int32_t entry = entry_of(h);
        code = add_items(u, &entry, 1);
        if (!code && with_values) code = grow(&h->values, &h->values_room, n + 1, sizeof *h->values);
        if (code) break;
        if (with_values) h->values[n] = duplicates_value(&h->duplicates, &h->row);
        n++;
        code = read_row(h);
        if (code || !h->has_row) break;
        size_t length;
        const char *id = users_id(u, row, &length);
        if (length != h->row.user_length || memcmp(id, h->row.user, length) != 0) break;
    }
    if (code) return code;
    int64_t *range = u->matrix.indptr + row;
    code = grouping_settle(&h->settler, u->matrix.indices + range[0], with_values ? h->values : NULL, n,
                           &kept, &u->unknown[row]);
    if (!code) range[1] = range[0] + kept;
    return code;
}

static int next_of_grouped(struct history *h, int64_t max_rows, struct users *u) {
    int code = 0;
    if (!h->recent) {
        h->recent = calloc(RECENT, sizeof *h->recent);
        if (!h->recent) return error_memory("the users", RECENT * sizeof *h->recent);
        code = read_row(h);
        if (!code && !h->has_row) code = no_rows(h);
        if (!code) code = settler_open(&h->settler, &h->duplicates, h->catalogue->items.n);
    }
    while (!code && h->has_row && !is_full(u, max_rows)) code = read_user(h, u);
    return code;
}

/* ---- a data set ---- */

/* Is its catalogue the model's? */
static int compare_items(const struct history *h) {
    struct items items;
    int code = dataset_read_items(&h->dataset, &items);
    if (code) return code;
    int same = items.n == h->catalogue->items.n;
    for (int64_t i = 0; i < items.n && same; i++) {
        size_t length;
        const char *id = catalogue_id(h->catalogue, i, &length);
        const char *other = items.ids + (size_t)i * items.width;
        same = strnlen(other, items.width) == length && memcmp(id, other, length) == 0;
    }
    items_free(&items);
    if (same) return 0;
    return error_set(EX_DATAERR, "%s: its items are not the model's; want the data set of the training",
                     h->dataset.path);
}

static int open_dataset(struct history *h) {
    const struct comm alone = {MPI_COMM_SELF, 0, 1};
    int code = dataset_open(h->options.dataset, &alone, &h->dataset);
    if (!code) code = dataset_verify(&h->dataset, &alone);
    if (!code) code = compare_items(h);
    h->part = strcmp(h->options.split, "test") == 0         ? DATASET_TEST_INPUT
              : strcmp(h->options.split, "validation") == 0 ? DATASET_VALIDATION_INPUT
                                                            : DATASET_TRAIN;
    return code;
}

/* Ids of rows [first, first + count) of a shard, added to the batch as users without items. */
static int read_ids(const char *name, const char *object, int64_t first, int64_t count, struct users *u) {
    hid_t file;
    char *ids = NULL;
    int code = h5_open(name, &file);
    if (code) return code;
    int64_t rows, cols;
    code = h5_shape(file, object, &rows, &cols);
    hid_t set = code ? H5I_INVALID_HID : H5Dopen2(file, object, H5P_DEFAULT);
    hid_t type = set >= 0 ? H5Dget_type(set) : H5I_INVALID_HID;
    if (!code && (type < 0 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0)) {
        code = error_set(EX_DATAERR, "%s: %s: want strings of fixed length", name, object);
    }
    size_t width = code ? 0 : H5Tget_size(type);
    if (!code && !(ids = malloc((size_t)count * width + 1))) {
        code = error_memory("users' ids", (unsigned long long)count * width);
    }
    if (!code) code = h5_read(file, object, type, first, count, ids);
    for (int64_t i = 0; i < count && !code; i++) {
        const char *id = ids + (size_t)i * width;
        code = add_user(u, id, strnlen(id, width));
    }
    free(ids);
    if (type >= 0) H5Tclose(type);
    if (set >= 0) H5Dclose(set);
    H5Fclose(file);
    return code;
}

static int next_of_dataset(struct history *h, int64_t max_rows, struct users *u) {
    static const char *const objects[] = {"/train/user_id", "/validation/user_id", "/test/user_id"};
    const struct dataset *d = &h->dataset;
    int64_t shard = 0, first = h->next_row, rows = 0;
    if (max_rows > PIECE) max_rows = PIECE;
    while (shard < d->n_shards && first >= (rows = d->shard_rows[shard * DATASET_PARTS + h->part])) {
        first -= rows;
        shard++;
    }
    if (shard == d->n_shards) return 0;
    int64_t count = rows - first < max_rows ? rows - first : max_rows, *numbers = NULL;
    char name[DATASET_PATH_MAX + NAME_SIZE];
    struct csr matrix = {0};
    dataset_shard_path(d->path, shard, d->n_shards, name, sizeof name);
    int code = read_ids(name, objects[(h->part + 1) / 2], first, count, u);
    if (!code) code = dataset_read(d, h->part, h->next_row, count, &matrix, &numbers);
    if (!code) {
        u->matrix.rows = 0; /* their items now come with them */
        code = add_items(u, matrix.indices, csr_nonzeros(&matrix));
    }
    if (!code) {
        memcpy(u->matrix.indptr, matrix.indptr, (size_t)(count + 1) * sizeof *matrix.indptr);
        u->matrix.rows = count;
        h->counts.known += csr_nonzeros(&matrix);
        h->next_row += count;
    }
    free(numbers);
    csr_free(&matrix);
    return code;
}

/* ---- the whole ---- */

int history_open(const struct history_options *options, const struct catalogue *catalogue,
                 struct history **history) {
    struct history *h = calloc(1, sizeof *h);
    *history = h;
    if (!h) return error_memory("the users", sizeof *h);
    h->options = *options;
    h->catalogue = catalogue;
    int code = options->dataset ? open_dataset(h) : 0;
    if (code) {
        history_close(h);
        *history = NULL;
    }
    return code;
}

int history_next(struct history *h, int64_t max_rows, struct users *u) {
    int code = grow_rows(u, 2);
    if (code) return code;
    u->matrix.rows = 0;
    u->matrix.cols = h->catalogue->items.n;
    u->matrix.indptr[0] = 0;
    u->text_start[0] = 0;
    if (h->options.dataset) {
        code = next_of_dataset(h, max_rows, u);
    } else if (h->options.grouped) {
        code = next_of_grouped(h, max_rows, u);
    } else {
        code = next_of_grouping(h, max_rows, u);
    }
    h->counts.users += u->matrix.rows;
    return code;
}

const struct history_counts *history_counts(const struct history *h) {
    return &h->counts;
}

double history_fraction(const struct history *h) {
    if (h->options.dataset) {
        int64_t rows = h->dataset.rows[h->part];
        return rows ? (double)h->next_row / (double)rows : 1;
    }
    if (h->grouping) return (double)h->counts.users / (double)grouping_users(h->grouping);
    return part_read(h);
}

void history_close(struct history *h) {
    if (!h) return;
    csv_close(h->csv);
    free(h->first);
    grouping_free(h->grouping);
    settler_close(&h->settler);
    free(h->values);
    free(h->recent);
    dataset_close(&h->dataset);
    free(h);
}
