/* Reading a dataset directory; see dataset.h. */
#include "dataset.h"

#include <stdio.h>
#include <string.h>

#include "error.h"
#include "h5.h"

const char *const dataset_part_name[DATASET_PARTS] = {"train", "validation/input", "validation/target",
                                                      "test/input", "test/target"};

/* Where a part's users are: its split's group. */
static const char *const part_split[DATASET_PARTS] = {"train", "validation", "validation", "test", "test"};

enum {
    FILE_NAME_MAX = DATASET_PATH_MAX + 64,
    SHARDS_MAX = 99999,
    PIECE = 1 << 20 /* entries of which some columns are kept */
};

static const int64_t SHARD_MAX = (int64_t)1 << 40; /* rows or entries */

void dataset_shard_path(const char *dir, int64_t shard, int64_t n_shards, char *name, int size) {
    snprintf(name, (size_t)size, "%s/shard-%05d-of-%05d.h5", dir, (int)shard, (int)n_shards);
}

/* Opens a file of this format, whose version this program reads, with h5_open or h5_open_sealed. */
static int open_file(const char *name, const char *format, int (*open)(const char *, hid_t *), hid_t *file) {
    char have[32];
    int64_t version;
    int code = open(name, file);
    if (code) return code;
    code = h5_get_text(*file, "/", "format", have, sizeof have);
    if (!code) code = h5_get_int(*file, "/", "format_version", &version);
    if (!code && strcmp(have, format) != 0) {
        code = error_set(EX_DATAERR, "%s: format is \"%s\", want \"%s\"", name, have, format);
    }
    if (!code && version != DATASET_FORMAT_VERSION) {
        code = error_set(EX_DATAERR, "%s: format version %lld, this program reads %d", name,
                         (long long)version, DATASET_FORMAT_VERSION);
    }
    if (code) H5Fclose(*file);
    return code;
}

/* ---- dataset.h5 ---- */

static void sum_shards(const int64_t *table, int64_t n_shards, int64_t sums[DATASET_PARTS]) {
    memset(sums, 0, DATASET_PARTS * sizeof *sums);
    for (int64_t i = 0; i < n_shards * DATASET_PARTS; i++) sums[i % DATASET_PARTS] += table[i];
}

static int read_header(const char *name, hid_t file, struct dataset *d) {
    int code = h5_get_int(file, "/", "n_users", &d->n_users);
    if (!code) code = h5_get_int(file, "/", "n_items", &d->n_items);
    if (!code) code = h5_get_int(file, "/", "n_interactions", &d->n_interactions);
    if (!code) code = h5_get_int(file, "/", "n_shards", &d->n_shards);
    if (!code) code = h5_get_text(file, "/", "fingerprint", d->fingerprint, sizeof d->fingerprint);
    if (code) return code;
    if (d->n_shards < 1 || d->n_shards > SHARDS_MAX || d->n_items < 1 || d->n_items > INT32_MAX) {
        return error_set(EX_DATAERR, "%s: %lld shards, %lld items: out of range", name,
                         (long long)d->n_shards, (long long)d->n_items);
    }
    size_t size = (size_t)d->n_shards * DATASET_PARTS;
    int64_t *table = calloc(size, 2 * sizeof *table);
    if (!table) return error_memory("the table of shards", size * 2 * sizeof *table);
    code = h5_read_columns(file, "/shards/rows", H5T_NATIVE_INT64, DATASET_PARTS, 0, d->n_shards, table);
    if (!code) {
        code = h5_read_columns(file, "/shards/nonzeros", H5T_NATIVE_INT64, DATASET_PARTS, 0, d->n_shards,
                               table + size);
    }
    for (size_t i = 0; i < 2 * size && !code; i++) {
        if (table[i] >= 0 && table[i] <= SHARD_MAX) continue;
        code = error_set(EX_DATAERR, "%s: /shards: %lld rows or entries: out of range", name,
                         (long long)table[i]);
    }
    if (!code) {
        sum_shards(table, d->n_shards, d->rows);
        sum_shards(table + size, d->n_shards, d->nonzeros);
        if (d->rows[DATASET_VALIDATION_INPUT] != d->rows[DATASET_VALIDATION_TARGET] ||
            d->rows[DATASET_TEST_INPUT] != d->rows[DATASET_TEST_TARGET]) {
            code = error_set(EX_DATAERR, "%s: /shards/rows: want as many rows of input as of target", name);
        }
    }
    if (code) {
        free(table);
        return code;
    }
    d->shard_rows = table;
    return 0;
}

int dataset_open(const char *path, const struct comm *comm, struct dataset *dataset) {
    char name[FILE_NAME_MAX];
    int code = 0;
    *dataset = (struct dataset){0};
    if (strlen(path) >= sizeof dataset->path) {
        code = error_set(EX_NOINPUT, "%.100s...: the path of the dataset has %zu bytes, want at most %zu",
                         path, strlen(path), sizeof dataset->path - 1);
    }
    snprintf(dataset->path, sizeof dataset->path, "%s", path);
    snprintf(name, sizeof name, "%s/dataset.h5", dataset->path);
    if (comm->rank == 0 && !code) {
        hid_t file;
        code = open_file(name, DATASET_FORMAT, h5_open_sealed, &file);
        if (code == EX_NOINPUT) error_prefix(code, "no dataset here (vaecf-preprocess makes one)");
        if (!code) {
            code = read_header(name, file, dataset);
            H5Fclose(file);
        }
    }
    code = comm_agree(comm, code);
    if (code) return code;
    int64_t *table = dataset->shard_rows;
    comm_broadcast(comm, dataset, sizeof *dataset);
    size_t bytes = (size_t)dataset->n_shards * DATASET_PARTS * sizeof *table;
    if (comm->rank != 0) table = malloc(bytes);
    dataset->shard_rows = table;
    code = comm_agree(comm, table ? 0 : error_memory("the table of shards", bytes));
    if (!code) comm_broadcast(comm, table, bytes);
    return code;
}

void dataset_close(struct dataset *dataset) {
    free(dataset->shard_rows);
    *dataset = (struct dataset){0};
}

/* ---- shards ---- */

static int open_shard(const struct dataset *d, int64_t shard, int (*open)(const char *, hid_t *),
                      hid_t *file) {
    char name[FILE_NAME_MAX], fingerprint[DATASET_FINGERPRINT_SIZE];
    dataset_shard_path(d->path, shard, d->n_shards, name, sizeof name);
    int code = open_file(name, DATASET_SHARD_FORMAT, open, file);
    if (code) return code;
    code = h5_get_text(*file, "/", "fingerprint", fingerprint, sizeof fingerprint);
    if (!code && strcmp(fingerprint, d->fingerprint) != 0) {
        code = error_set(EX_DATAERR, "%s: belongs to another dataset than %s/dataset.h5", name, d->path);
    }
    if (code) H5Fclose(*file);
    return code;
}

int dataset_verify(const struct dataset *dataset, const struct comm *comm) {
    int code = 0;
    for (int64_t shard = comm->rank; shard < dataset->n_shards && !code; shard += comm->size) {
        hid_t file;
        code = open_shard(dataset, shard, h5_open_sealed, &file);
        if (!code) H5Fclose(file);
    }
    return comm_agree(comm, code);
}

/* Makes room for so many entries. */
static int reserve(struct csr *m, int64_t entries) {
    size_t bytes = (size_t)(entries + 1) * sizeof *m->indices;
    int32_t *indices = realloc(m->indices, bytes);
    if (!indices) return error_memory("a split's interactions", bytes);
    m->indices = indices;
    return 0;
}

/* Are these rows ascending, and in the catalogue? Row r, the first-th of the part on, is at indptr[r] - base.
 */
static int check_rows(const char *name, const char *object, const struct dataset *d, int64_t first,
                      int64_t count, const int64_t *indptr, int64_t base, const int32_t *indices) {
    for (int64_t r = 0; r < count; r++) {
        for (int64_t k = indptr[r] - base; k < indptr[r + 1] - base; k++) {
            int64_t above = k > indptr[r] - base ? indices[k - 1] : -1;
            if (indices[k] > above && indices[k] < d->n_items) continue;
            return error_set(EX_DATAERR, "%s: %s: row %lld: item %ld: want ascending items below %lld", name,
                             object, (long long)(first + r), (long)indices[k], (long long)d->n_items);
        }
    }
    return 0;
}

/* The columns of m from first_item on, of rows whose entries are at file_indptr[count + 1] in the file,
 * behind the `done` rows that m has: a piece at a time. */
static int read_columns(const struct dataset *d, hid_t file, const char *name, const char *object,
                        int64_t first, int64_t count, const int64_t *file_indptr, int64_t done,
                        int64_t first_item, struct csr *m) {
    int64_t *indptr = m->indptr + done, room = 0;
    int32_t *piece = NULL;
    int code = 0;
    for (int64_t r = 0, end; r < count && !code; r = end) {
        for (end = r + 1; end < count && file_indptr[end + 1] - file_indptr[r] <= PIECE;) end++;
        int64_t in_piece = file_indptr[end] - file_indptr[r];
        if (in_piece > room || !piece) {
            free(piece);
            room = in_piece > PIECE ? in_piece : PIECE;
            piece = malloc((size_t)room * sizeof *piece);
            if (!piece) return error_memory("a split's interactions", (size_t)room * sizeof *piece);
        }
        code = h5_read(file, object, H5T_NATIVE_INT32, file_indptr[r], in_piece, piece);
        if (!code)
            code = check_rows(name, object, d, first + r, end - r, file_indptr + r, file_indptr[r], piece);
        if (!code) code = reserve(m, indptr[r] + in_piece);
        for (int64_t i = r; i < end && !code; i++) {
            int64_t to = indptr[i];
            for (int64_t k = file_indptr[i]; k < file_indptr[i + 1]; k++) {
                int64_t item = piece[k - file_indptr[r]] - first_item;
                if (item >= 0 && item < m->cols) m->indices[to++] = (int32_t)item;
            }
            m->whole[done + i] = file_indptr[i + 1] - file_indptr[i];
            indptr[i + 1] = to;
        }
    }
    free(piece);
    return code;
}

/* Rows [first, first + count) of one shard's part behind the `done` rows that the matrix has. */
static int read_shard_rows(const struct dataset *d, hid_t file, int64_t shard, enum dataset_part part,
                           int64_t first, int64_t count, int64_t done, int64_t first_item, struct csr *m,
                           int64_t *users) {
    char object[64], name[FILE_NAME_MAX];
    int64_t before = m->indptr[done], *indptr = m->indptr + done, *in_file = indptr;
    if (m->whole) in_file = calloc((size_t)count + 1, sizeof *in_file);
    if (!in_file) return error_memory("a split's rows", ((size_t)count + 1) * sizeof *in_file);
    snprintf(object, sizeof object, "/%s/indptr", dataset_part_name[part]);
    dataset_shard_path(d->path, shard, d->n_shards, name, sizeof name);
    int code = h5_read_columns(file, object, H5T_NATIVE_INT64, 0, first, count + 1, in_file);
    int64_t begin = in_file[0], nonzeros = code ? 0 : in_file[count] - begin, rows, cols;
    for (int64_t r = 0; r < count && !code; r++) {
        if (begin >= 0 && in_file[r + 1] >= in_file[r] && in_file[r + 1] - in_file[r] <= d->n_items) continue;
        code = error_set(EX_DATAERR, "%s: %s: row %lld: from %lld to %lld; want up to %lld items", name,
                         object, (long long)(first + r), (long long)in_file[r], (long long)in_file[r + 1],
                         (long long)d->n_items);
    }
    snprintf(object, sizeof object, "/%s/indices", dataset_part_name[part]);
    if (!code) code = h5_shape(file, object, &rows, &cols);
    if (!code && (begin + nonzeros > rows || cols)) {
        code = error_set(EX_DATAERR, "%s: %s: has %lld entries, indptr wants %lld", name, object,
                         (long long)rows, (long long)(begin + nonzeros));
    }
    if (!code && m->whole) {
        indptr[0] = before;
        code = read_columns(d, file, name, object, first, count, in_file, done, first_item, m);
    } else if (!code) {
        code = reserve(m, before + nonzeros);
        if (!code) code = h5_read(file, object, H5T_NATIVE_INT32, begin, nonzeros, m->indices + before);
        for (int64_t r = 0; r <= count; r++) indptr[r] += before - begin;
        if (!code) code = check_rows(name, object, d, first, count, indptr, 0, m->indices);
    }
    if (in_file != indptr) free(in_file);
    snprintf(object, sizeof object, "/%s/user", part_split[part]);
    return code ? code : h5_read_columns(file, object, H5T_NATIVE_INT64, 0, first, count, users + done);
}

int dataset_read(const struct dataset *dataset, enum dataset_part part, int64_t first, int64_t count,
                 struct csr *matrix, int64_t **users) {
    return dataset_read_range(dataset, part, first, count, 0, dataset->n_items, matrix, users);
}

int dataset_read_range(const struct dataset *dataset, enum dataset_part part, int64_t first, int64_t count,
                       int64_t first_item, int64_t n_items, struct csr *matrix, int64_t **users) {
    int is_range = n_items < dataset->n_items;
    *matrix = (struct csr){.rows = count, .cols = n_items};
    matrix->indptr = calloc((size_t)count + 1, sizeof *matrix->indptr);
    matrix->indices = malloc(sizeof *matrix->indices);
    if (is_range) matrix->whole = calloc((size_t)count + 1, sizeof *matrix->whole);
    *users = malloc(((size_t)count + 1) * sizeof **users);
    int code = 0;
    if (!matrix->indptr || !matrix->indices || (is_range && !matrix->whole) || !*users) {
        code = error_memory("a split's rows", ((size_t)count + 1) * 2 * sizeof **users);
    }
    int64_t row = 0, done = 0; /* of the part: the shard's first row; rows that we have */
    for (int64_t shard = 0; shard < dataset->n_shards && done < count && !code; shard++) {
        int64_t end = row + dataset->shard_rows[shard * DATASET_PARTS + part];
        if (end > first + done) {
            int64_t from = first + done - row, n = end - first - done;
            if (n > count - done) n = count - done;
            hid_t file;
            code = open_shard(dataset, shard, h5_open, &file);
            if (code) break;
            code = read_shard_rows(dataset, file, shard, part, from, n, done, first_item, matrix, *users);
            H5Fclose(file);
            done += n;
        }
        row = end;
    }
    if (!code && done < count) {
        code = error_set(EX_DATAERR, "%s: %s has %lld rows, want at least %lld", dataset->path,
                         dataset_part_name[part], (long long)row, (long long)(first + count));
    }
    if (code) {
        csr_free(matrix);
        free(*users);
        *users = NULL;
    }
    return code;
}

/* ---- catalogue ---- */

int dataset_read_items(const struct dataset *dataset, struct items *items) {
    char name[FILE_NAME_MAX];
    hid_t file;
    *items = (struct items){0};
    snprintf(name, sizeof name, "%s/dataset.h5", dataset->path);
    int code = open_file(name, DATASET_FORMAT, h5_open, &file);
    if (code) return code;
    code = h5_read_strings(file, "/items/id", &items->n, &items->width, &items->ids);
    if (!code && items->n != dataset->n_items) {
        code = error_set(EX_DATAERR, "%s: /items/id: %lld items, want %lld", name, (long long)items->n,
                         (long long)dataset->n_items);
    }
    if (!code) {
        items->count = malloc(((size_t)items->n + 1) * sizeof *items->count);
        if (!items->count) code = error_memory("the catalogue", (size_t)items->n * sizeof *items->count);
    }
    if (!code) code = h5_read_columns(file, "/items/count", H5T_NATIVE_INT64, 0, 0, items->n, items->count);
    H5Fclose(file);
    if (code) items_free(items);
    return code;
}

void items_free(struct items *items) {
    free(items->ids);
    free(items->count);
    *items = (struct items){0};
}
