/* The HDF5 files of a dataset. */
#include "shards.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm.h"
#include "dataset.h"
#include "error.h"
#include "h5.h"

enum { NAME_MAX_ = DATASET_PATH_MAX + 64, OBJECT_MAX = 64 };

static const char *const split_name[SPLITS] = {"train", "validation", "test"};
static const char temporary[] = ".tmp";

static void dataset_name(const char *dir, char name[NAME_MAX_]) {
    snprintf(name, NAME_MAX_, "%s/dataset.h5", dir);
}

int shards_prepare(const char *dir, bool force) {
    char name[NAME_MAX_];
    struct stat status;
    size_t length = strlen(dir);
    if (!length || length >= DATASET_PATH_MAX - 32) {
        return error_set(EX_CANTCREAT, "--output: want a path of 1 to %d bytes", DATASET_PATH_MAX - 33);
    }
    for (size_t i = 1; i <= length; i++) {
        if (dir[i] != '/' && dir[i]) continue;
        snprintf(name, sizeof name, "%.*s", (int)i, dir);
        if (mkdir(name, 0777) && errno != EEXIST && !(dir[i] && errno == EACCES)) {
            return error_set(EX_CANTCREAT, "%s: cannot make the directory: %s", name, strerror(errno));
        }
    }
    if (stat(dir, &status) || !S_ISDIR(status.st_mode)) {
        return error_set(EX_CANTCREAT, "%s: is no directory", dir);
    }
    if (access(dir, W_OK)) return error_set(EX_CANTCREAT, "%s: %s", dir, strerror(errno));
    dataset_name(dir, name);
    if (!force && access(name, F_OK) == 0) {
        return error_set(EX_CANTCREAT, "%s: there is a dataset already; replace it with --force", name);
    }
    return 0;
}

/* Is it the name of a shard, whatever its number, or of a temporary file of ours? */
static bool is_shard(const char *name, bool *is_temporary) {
    char rest[8] = "";
    int end = -1;
    sscanf(name, "shard-%*5[0-9]-of-%*5[0-9].h5%n", &end);
    if (end < 0 && strncmp(name, "dataset.h5", 10) == 0 && name[10]) end = 10;
    if (end < 0) return false;
    snprintf(rest, sizeof rest, "%s", name + end);
    *is_temporary = strcmp(rest, temporary) == 0;
    return *is_temporary || !*rest;
}

/* Removes the shards of a dataset, or the temporary files. */
static int remove_files(const char *dir, bool temporaries) {
    DIR *list = opendir(dir);
    if (!list) return error_set(EX_IOERR, "%s: %s", dir, strerror(errno));
    int code = 0;
    for (struct dirent *entry; !code && (entry = readdir(list));) {
        char name[NAME_MAX_ + 256];
        bool is_temporary = false;
        if (!is_shard(entry->d_name, &is_temporary) || is_temporary != temporaries) continue;
        snprintf(name, sizeof name, "%s/%s", dir, entry->d_name);
        if (unlink(name)) code = error_set(EX_IOERR, "%s: cannot remove: %s", name, strerror(errno));
    }
    closedir(list);
    return code;
}

/* Waits until a directory is on the disk. */
static int flush(const char *name) {
    int file = open(name, O_RDONLY), code = 0;
    if (file < 0 || (fsync(file) && errno != EINVAL)) {
        code = error_set(EX_IOERR, "%s: cannot write: %s", name, strerror(errno));
    }
    if (file >= 0) close(file);
    return code;
}

/* Rows [first, first + count) of a part. */
static int write_part(hid_t file, enum dataset_part part, const struct csr *m, int64_t first, int64_t count) {
    char name[OBJECT_MAX];
    int64_t shape[2] = {count, m->cols}, begin = m->indptr[first];
    int64_t *indptr = malloc(((size_t)count + 1) * sizeof *indptr);
    if (!indptr) return error_memory("a shard", ((unsigned long long)count + 1) * sizeof *indptr);
    for (int64_t r = 0; r <= count; r++) indptr[r] = m->indptr[first + r] - begin;
    snprintf(name, sizeof name, "/%s/indptr", dataset_part_name[part]);
    int code = h5_write(file, name, H5T_NATIVE_INT64, count + 1, 0, indptr, 0);
    snprintf(name, sizeof name, "/%s/indices", dataset_part_name[part]);
    if (!code) code = h5_write(file, name, H5T_NATIVE_INT32, indptr[count], 0, m->indices + begin, 0);
    snprintf(name, sizeof name, "/%s", dataset_part_name[part]);
    if (!code) code = h5_set_ints(file, name, "shape", shape, 2);
    free(indptr);
    return code;
}

/* Writes ids as strings of one length, the longest of all n_all. */
static int write_ids(hid_t file, const char *name, const struct ids *ids, const int32_t *all, int64_t n_all,
                     int64_t first, int64_t count) {
    size_t width = 1, length;
    for (int64_t i = 0; i < n_all; i++) {
        ids_text(ids, all[i], &length);
        if (length > width) width = length;
    }
    char *text = calloc((size_t)count + 1, width);
    if (!text) return error_memory("a shard's ids", ((unsigned long long)count + 1) * width);
    for (int64_t i = 0; i < count; i++) {
        const char *id = ids_text(ids, all[first + i], &length);
        memcpy(text + (size_t)i * width, id, length);
    }
    int code = h5_write_strings(file, name, count, width, text);
    free(text);
    return code;
}

static int write_shard(const char *name, int64_t shard, int64_t n_shards, const struct split *split,
                       const struct ids *users, const char *fingerprint) {
    hid_t file;
    char object[OBJECT_MAX];
    int64_t first, count;
    int code = h5_create(name, &file);
    if (code) return code;
    code = h5_set_text(file, "/", "format", DATASET_SHARD_FORMAT);
    if (!code) code = h5_set_int(file, "/", "format_version", DATASET_FORMAT_VERSION);
    if (!code) code = h5_set_int(file, "/", "shard", shard);
    if (!code) code = h5_set_int(file, "/", "n_shards", n_shards);
    if (!code) code = h5_set_int(file, "/", "n_items", split->n_items);
    if (!code) code = h5_set_text(file, "/", "fingerprint", fingerprint);
    for (int p = 0; p < DATASET_PARTS && !code; p++) {
        comm_part(split->part[p].rows, (int)shard, (int)n_shards, &first, &count);
        code = write_part(file, (enum dataset_part)p, &split->part[p], first, count);
    }
    for (int s = 0; s < SPLITS && !code; s++) {
        comm_part(split->rows[s], (int)shard, (int)n_shards, &first, &count);
        snprintf(object, sizeof object, "/%s/user", split_name[s]);
        code = h5_write(file, object, H5T_NATIVE_INT64, count, 0, split->user_index[s] + first, 0);
        snprintf(object, sizeof object, "/%s/user_id", split_name[s]);
        if (!code) code = write_ids(file, object, users, split->user[s], split->rows[s], first, count);
    }
    return h5_close(file, name, code);
}

static int set_attribute(hid_t file, const struct shards_attribute *a) {
    if (a->text) return h5_set_text(file, "/", a->name, a->text);
    if (a->is_double) return h5_set_double(file, "/", a->name, a->number);
    return h5_set_int(file, "/", a->name, a->integer);
}

/* How much of each part is in each shard. */
static int write_sizes(hid_t file, int64_t n_shards, const struct split *split) {
    int64_t *rows = calloc((size_t)n_shards * DATASET_PARTS * 2, sizeof *rows);
    if (!rows) return error_memory("the table of shards", (unsigned long long)n_shards * DATASET_PARTS * 16);
    int64_t *nonzeros = rows + n_shards * DATASET_PARTS;
    for (int64_t i = 0; i < n_shards * DATASET_PARTS; i++) {
        const struct csr *m = &split->part[i % DATASET_PARTS];
        int64_t first;
        comm_part(m->rows, (int)(i / DATASET_PARTS), (int)n_shards, &first, &rows[i]);
        nonzeros[i] = m->indptr[first + rows[i]] - m->indptr[first];
    }
    int code = h5_write(file, "/shards/rows", H5T_NATIVE_INT64, n_shards, DATASET_PARTS, rows, 0);
    if (!code) {
        code = h5_write(file, "/shards/nonzeros", H5T_NATIVE_INT64, n_shards, DATASET_PARTS, nonzeros, 0);
    }
    free(rows);
    return code;
}

static int write_dataset(const char *name, int64_t n_shards, const struct split *split,
                         const struct ids *items, const char *fingerprint,
                         const struct shards_attribute *attributes, int n_attributes) {
    hid_t file;
    int code = h5_create(name, &file);
    if (code) return code;
    code = h5_set_text(file, "/", "format", DATASET_FORMAT);
    if (!code) code = h5_set_int(file, "/", "format_version", DATASET_FORMAT_VERSION);
    if (!code) code = h5_set_int(file, "/", "n_users", split->n_users);
    if (!code) code = h5_set_int(file, "/", "n_items", split->n_items);
    if (!code) code = h5_set_int(file, "/", "n_interactions", split->n_interactions);
    if (!code) code = h5_set_int(file, "/", "n_shards", n_shards);
    if (!code) code = h5_set_text(file, "/", "fingerprint", fingerprint);
    for (int i = 0; i < n_attributes && !code; i++) code = set_attribute(file, &attributes[i]);
    if (!code) code = write_ids(file, "/items/id", items, split->item, split->n_items, 0, split->n_items);
    if (!code) {
        code = h5_write(file, "/items/count", H5T_NATIVE_INT64, split->n_items, 0, split->item_count, 0);
    }
    if (!code) code = write_sizes(file, n_shards, split);
    return h5_close(file, name, code);
}

/* Gives a temporary file its place. */
static int place(const char *name) {
    char from[NAME_MAX_ + sizeof temporary];
    snprintf(from, sizeof from, "%s%s", name, temporary);
    if (rename(from, name)) return error_set(EX_IOERR, "%s: cannot rename: %s", from, strerror(errno));
    return 0;
}

int shards_write(const char *dir, int64_t n_shards, const struct split *split, const struct ids *users,
                 const struct ids *items, const char *fingerprint, const struct shards_attribute *attributes,
                 int n_attributes) {
    char name[NAME_MAX_], temporary_name[NAME_MAX_ + sizeof temporary];
    int code = remove_files(dir, true);
    for (int64_t i = 0; i < n_shards && !code; i++) {
        dataset_shard_path(dir, i, n_shards, name, sizeof name);
        snprintf(temporary_name, sizeof temporary_name, "%s%s", name, temporary);
        code = write_shard(temporary_name, i, n_shards, split, users, fingerprint);
    }
    dataset_name(dir, name);
    snprintf(temporary_name, sizeof temporary_name, "%s%s", name, temporary);
    if (!code) {
        code = write_dataset(temporary_name, n_shards, split, items, fingerprint, attributes, n_attributes);
    }
    if (code) goto cleanup;

    /* From here on what was there is no dataset any more, and the new one is not yet. */
    if (unlink(name) && errno != ENOENT) {
        code = error_set(EX_IOERR, "%s: cannot remove: %s", name, strerror(errno));
        goto cleanup;
    }
    code = remove_files(dir, false);
    for (int64_t i = 0; i < n_shards && !code; i++) {
        dataset_shard_path(dir, i, n_shards, name, sizeof name);
        code = place(name);
    }
    dataset_name(dir, name);
    if (!code) code = flush(dir);
    if (!code) code = place(name);
    if (!code) code = flush(dir);
cleanup:
    if (code) {
        char message[1024];
        snprintf(message, sizeof message, "%s", error_message());
        remove_files(dir, true);
        error_set(code, "%s", message);
    }
    return code;
}
