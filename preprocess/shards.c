/* The HDF5 files of a dataset. */
#include "shards.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "comm.h"
#include "dataset.h"
#include "errno_code.h"
#include "error.h"
#include "file.h"
#include "h5.h"
#include "output.h"
#include "records.h"
#include "scratch.h"

enum { NAME_MAX_ = DATASET_PATH_MAX + 64, OBJECT_MAX = 64 };

static const char *const split_name[SPLITS] = {"train", "validation", "test"};

static void dataset_name(const char *dir, char name[NAME_MAX_]) {
    snprintf(name, NAME_MAX_, "%s/dataset.h5", dir);
}

enum kind { OTHER, PART, UNFINISHED };

/* Is it a file of a dataset besides dataset.h5, whatever its number, or an unfinished one of ours? */
static enum kind kind_of(const char *name) {
    char shard[64];
    int end = 0;
    sscanf(name, "shard-%*5[0-9]-of-%*5[0-9].h5%n", &end);
    snprintf(shard, sizeof shard, "%.*s", end, name);
    if ((end && !name[end]) || strcmp(name, "report.csv") == 0) return PART;
    if (output_is_left(name, end ? shard : "dataset.h5") || output_is_left(name, "report.csv"))
        return UNFINISHED;
    return OTHER;
}

/* Every file of this kind in a directory: removed, or, where there is `to`, moved there. */
static int clear(const char *dir, enum kind kind, const char *to) {
    DIR *list = opendir(dir);
    if (!list) return error_set(EX_IOERR, "%s: cannot read: %s", dir, strerror(errno));
    int code = 0;
    while (!code) {
        char name[NAME_MAX_ + 256], target[NAME_MAX_ + 256];
        struct stat status;
        errno = 0;
        struct dirent *entry = readdir(list);
        if (!entry && errno) code = error_set(EX_IOERR, "%s: cannot read: %s", dir, strerror(errno));
        if (!entry) break;
        if (kind_of(entry->d_name) != kind) continue;
        snprintf(name, sizeof name, "%s/%s", dir, entry->d_name);
        if (lstat(name, &status) || !S_ISREG(status.st_mode)) continue;
        snprintf(target, sizeof target, "%s/%s", to ? to : "", entry->d_name);
        if ((to ? rename(name, target) : unlink(name)) && errno != ENOENT) {
            code = error_set(EX_IOERR, "%s: cannot %s: %s", name, to ? "move" : "remove", strerror(errno));
        }
    }
    closedir(list);
    return code;
}

/* dataset.h5 of one directory into another, as far as it is there. */
static int move_dataset(const char *from, const char *to) {
    char name[NAME_MAX_], target[NAME_MAX_];
    dataset_name(from, name);
    dataset_name(to, target);
    if (!rename(name, target) || errno == ENOENT) return 0;
    return error_set(EX_IOERR, "%s: cannot move: %s", name, strerror(errno));
}

/* Where the old dataset goes while the new one takes its place: the first while it is moved, the second, by
 * another name of that directory, when all of it is there. */
static void aside_names(const char *dir, char moving[NAME_MAX_], char replaced[NAME_MAX_]) {
    snprintf(moving, NAME_MAX_, "%s/replacing.tmp", dir);
    snprintf(replaced, NAME_MAX_, "%s/replaced.tmp", dir);
}

static int remove_directory(const char *name) {
    return rmdir(name) ? error_set(EX_IOERR, "%s: cannot remove: %s", name, strerror(errno)) : 0;
}

/* Puts an old dataset back, or, where the new one is whole, removes it: after a failure or a crash. */
static int end_replacing(const char *dir) {
    char moving[NAME_MAX_], replaced[NAME_MAX_], name[NAME_MAX_];
    int code = 0;
    aside_names(dir, moving, replaced);
    if (access(moving, F_OK) == 0) {
        code = clear(moving, PART, dir);
        if (!code) code = move_dataset(moving, dir);
        return code ? code : remove_directory(moving);
    }
    if (access(replaced, F_OK)) return 0;
    dataset_name(dir, name);
    if (access(name, F_OK) == 0) {
        dataset_name(replaced, name);
        code = clear(replaced, PART, NULL);
        if (!code && unlink(name) && errno != ENOENT) {
            code = error_set(EX_IOERR, "%s: cannot remove: %s", name, strerror(errno));
        }
    } else {
        code = clear(dir, PART, NULL); /* of the new one */
        if (!code) code = clear(replaced, PART, dir);
        if (!code) code = move_dataset(replaced, dir);
    }
    return code ? code : remove_directory(replaced);
}

int shards_prepare(const char *dir, bool force, void (*note)(const char *line), bool *made,
                   struct lock **lock) {
    char name[NAME_MAX_];
    struct stat status;
    int is_new = 0;
    *lock = NULL;
    if (!*dir || strlen(dir) >= DATASET_PATH_MAX - 32) {
        return error_set(EX_CANTCREAT, "--output: want a path of 1 to %d bytes", DATASET_PATH_MAX - 33);
    }
    int code = file_make_directory(dir, &is_new);
    *made = is_new;
    if (!code) code = lock_take(dir, note, lock);
    if (code) return code;
    code = end_replacing(dir);
    dataset_name(dir, name);
    if (!code && !force && access(name, F_OK) == 0) {
        code = error_set(EX_CANTCREAT, "%s: there is a dataset already; replace it with --force", name);
    }
    snprintf(name, sizeof name, "%s/report.csv", dir);
    if (!code && !lstat(name, &status) && S_ISDIR(status.st_mode)) {
        code = error_set(EX_CANTCREAT, "%s: is a directory; want to write a file of that name", name);
    }
    return code;
}

/* Waits until a directory is on the disk. */
static int flush(const char *name) {
    return file_flush_directory(name) ? error_set(EX_IOERR, "%s: cannot write: %s", name, strerror(errno))
                                      : 0;
}

/* The `indices` of a part, written in pieces of one size, whatever the sizes of what is added. */
struct indices {
    hid_t set;
    int64_t written, filled, piece;
    int32_t *data; /* [piece], owned */
};

static int indices_begin(hid_t file, enum dataset_part part, int64_t n, struct indices *x) {
    char name[OBJECT_MAX];
    *x = (struct indices){.set = H5I_INVALID_HID, .piece = h5_piece(H5T_NATIVE_INT32)};
    x->data = malloc((size_t)x->piece * sizeof *x->data);
    if (!x->data) return error_memory("a shard", (unsigned long long)x->piece * sizeof *x->data);
    snprintf(name, sizeof name, "/%s/indices", dataset_part_name[part]);
    return h5_begin(file, name, H5T_NATIVE_INT32, n, &x->set);
}

static int indices_flush(hid_t file, struct indices *x) {
    int code = h5_write_piece(file, x->set, H5T_NATIVE_INT32, x->written, x->filled, x->data);
    x->written += x->filled;
    x->filled = 0;
    return code;
}

static int indices_add(hid_t file, struct indices *x, const char *items, int64_t n) {
    int code = 0;
    while (n && !code) {
        int64_t count = n < x->piece - x->filled ? n : x->piece - x->filled;
        memcpy(x->data + x->filled, items, (size_t)count * sizeof *x->data);
        x->filled += count;
        items += (size_t)count * sizeof *x->data;
        n -= count;
        if (x->filled == x->piece) code = indices_flush(file, x);
    }
    return code;
}

static int indices_end(hid_t file, struct indices *x, int code) {
    if (!code) code = indices_flush(file, x);
    int end_code = x->set >= 0 ? h5_end(file, x->set) : 0;
    free(x->data);
    return code ? code : end_code;
}

/* What lies beside the indices of a split's rows in one shard. */
struct side {
    int64_t n, *indptr[2], *user; /* owned */
    size_t width;
    char *ids; /* [n, width], owned */
};

static int side_make(struct side *side, int64_t n, size_t width) {
    *side = (struct side){.n = n, .width = width ? width : 1};
    side->indptr[0] = calloc((size_t)n + 1, sizeof(int64_t));
    side->indptr[1] = calloc((size_t)n + 1, sizeof(int64_t));
    side->user = calloc((size_t)n + 1, sizeof(int64_t));
    side->ids = calloc((size_t)n + 1, side->width);
    if (side->indptr[0] && side->indptr[1] && side->user && side->ids) return 0;
    return error_memory("a shard's users", (24 + side->width) * ((unsigned long long)n + 1));
}

static void side_free(struct side *side) {
    free(side->indptr[0]);
    free(side->indptr[1]);
    free(side->user);
    free(side->ids);
}

static int side_write(hid_t file, enum split_rows s, const struct side *side, int64_t n_items) {
    char name[OBJECT_MAX];
    int code = 0;
    for (int t = 0; t < (s ? 2 : 1) && !code; t++) {
        const char *part = dataset_part_name[s ? 2 * (int)s - 1 + t : 0];
        int64_t shape[2] = {side->n, n_items};
        snprintf(name, sizeof name, "/%s/indptr", part);
        code = h5_write(file, name, H5T_NATIVE_INT64, side->n + 1, 0, side->indptr[t], 0);
        snprintf(name, sizeof name, "/%s", part);
        if (!code) code = h5_set_ints(file, name, "shape", shape, 2);
    }
    snprintf(name, sizeof name, "/%s/user", split_name[s]);
    if (!code) code = h5_write(file, name, H5T_NATIVE_INT64, side->n, 0, side->user, 0);
    snprintf(name, sizeof name, "/%s/user_id", split_name[s]);
    if (!code) code = h5_write_strings(file, name, side->n, side->width, side->ids);
    return code;
}

/* All rows of a bin: indices into the file, the rest into `side`. */
static int write_rows(hid_t file, const struct spool *rows, int bin, struct indices indices[2],
                      struct side *side) {
    struct spool_out buffer = {0};
    int64_t n = 0;
    int code = 0;
    for (int64_t b = 0; b < rows->n && !code; b++) {
        const char *at, *id, *items[2];
        size_t size;
        code = spool_get(rows, b, bin, &buffer, &at, &size);
        if (!code) code = stop_check();
        for (const char *end = at + size; !code && at < end; n++) {
            struct row_head head = row_get(&at, &id, &items[0], &items[1]);
            side->user[n] = head.user_index;
            memcpy(side->ids + (size_t)n * side->width, id, (size_t)head.id_length);
            side->indptr[0][n + 1] = side->indptr[0][n] + head.n_input;
            side->indptr[1][n + 1] = side->indptr[1][n] + head.n_target;
            code = indices_add(file, &indices[0], items[0], head.n_input);
            if (!code && head.n_target) code = indices_add(file, &indices[1], items[1], head.n_target);
        }
    }
    free(buffer.data);
    return code;
}

static int write_split(hid_t file, int64_t shard, int64_t n_shards, enum split_rows s,
                       const struct split *split, const struct spool *rows) {
    struct indices indices[2] = {{.set = H5I_INVALID_HID}, {.set = H5I_INVALID_HID}};
    struct side side;
    int64_t first, count;
    comm_part(split->rows[s], (int)shard, (int)n_shards, &first, &count);
    int code = side_make(&side, count, split->id_width[s]), n_parts = s ? 2 : 1;
    for (int t = 0; t < n_parts && !code; t++) {
        enum dataset_part part = (enum dataset_part)(s ? 2 * (int)s - 1 + t : 0);
        code =
            indices_begin(file, part, split->shard_nonzeros[shard * DATASET_PARTS + (int)part], &indices[t]);
    }
    if (!code) code = write_rows(file, rows, split_bin(shard, s), indices, &side);
    for (int t = 0; t < n_parts; t++) code = indices_end(file, &indices[t], code);
    if (!code) code = side_write(file, s, &side, split->n_items);
    side_free(&side);
    return code;
}

static int write_shard(const char *name, int64_t shard, int64_t n_shards, const struct split *split,
                       const struct spool *rows) {
    hid_t file;
    int code = h5_create(name, &file);
    if (code) return code;
    code = h5_set_text(file, "/", "format", DATASET_SHARD_FORMAT);
    if (!code) code = h5_set_int(file, "/", "format_version", DATASET_FORMAT_VERSION);
    if (!code) code = h5_set_int(file, "/", "shard", shard);
    if (!code) code = h5_set_int(file, "/", "n_shards", n_shards);
    if (!code) code = h5_set_int(file, "/", "n_items", split->n_items);
    if (!code) code = h5_set_text(file, "/", "fingerprint", split->fingerprint);
    for (int s = 0; s < SPLITS && !code; s++) {
        code = write_split(file, shard, n_shards, (enum split_rows)s, split, rows);
    }
    return h5_close(file, name, code);
}

/* Writes ids as strings of one length, that of the longest. */
static int write_ids(hid_t file, const char *name, const struct ids *ids, const int32_t *number,
                     int64_t count) {
    size_t width = 1, length;
    for (int64_t i = 0; i < count; i++) {
        ids_text(ids, number[i], &length);
        if (length > width) width = length;
    }
    char *text = calloc((size_t)count + 1, width);
    if (!text) return error_memory("the items' ids", ((unsigned long long)count + 1) * width);
    for (int64_t i = 0; i < count; i++) {
        const char *id = ids_text(ids, number[i], &length);
        memcpy(text + (size_t)i * width, id, length);
    }
    int code = h5_write_strings(file, name, count, width, text);
    free(text);
    return code;
}

static int set_attribute(hid_t file, const struct shards_attribute *a) {
    if (a->text) return h5_set_text(file, "/", a->name, a->text);
    if (a->is_double) return h5_set_double(file, "/", a->name, a->number);
    return h5_set_int(file, "/", a->name, a->integer);
}

/* How much of each part is in each shard. */
static int write_sizes(hid_t file, int64_t n_shards, const struct split *split) {
    int64_t *rows = calloc((size_t)n_shards * DATASET_PARTS, sizeof *rows), first;
    if (!rows) return error_memory("the table of shards", (unsigned long long)n_shards * DATASET_PARTS * 8);
    for (int64_t i = 0; i < n_shards * DATASET_PARTS; i++) {
        enum split_rows s = split_of((enum dataset_part)(i % DATASET_PARTS));
        comm_part(split->rows[s], (int)(i / DATASET_PARTS), (int)n_shards, &first, &rows[i]);
    }
    int code = h5_write(file, "/shards/rows", H5T_NATIVE_INT64, n_shards, DATASET_PARTS, rows, 0);
    if (!code) {
        code = h5_write(file, "/shards/nonzeros", H5T_NATIVE_INT64, n_shards, DATASET_PARTS,
                        split->shard_nonzeros, 0);
    }
    free(rows);
    return code;
}

static int write_dataset(const char *name, int64_t n_shards, const struct split *split,
                         const struct ids *items, const struct shards_attribute *attributes,
                         int n_attributes) {
    hid_t file;
    int code = h5_create(name, &file);
    if (code) return code;
    code = h5_set_text(file, "/", "format", DATASET_FORMAT);
    if (!code) code = h5_set_int(file, "/", "format_version", DATASET_FORMAT_VERSION);
    if (!code) code = h5_set_int(file, "/", "n_users", split->n_users);
    if (!code) code = h5_set_int(file, "/", "n_items", split->n_items);
    if (!code) code = h5_set_int(file, "/", "n_interactions", split->n_interactions);
    if (!code) code = h5_set_int(file, "/", "n_shards", n_shards);
    if (!code) code = h5_set_text(file, "/", "fingerprint", split->fingerprint);
    for (int i = 0; i < n_attributes && !code; i++) code = set_attribute(file, &attributes[i]);
    if (!code) code = write_ids(file, "/items/id", items, split->item, split->n_items);
    if (!code) {
        code = h5_write(file, "/items/count", H5T_NATIVE_INT64, split->n_items, 0, split->item_count, 0);
    }
    if (!code) code = write_sizes(file, n_shards, split);
    return h5_close(file, name, code);
}

/* The name of a file until it is in its place; `token` is this run's. */
static void unfinished_name(const char *name, const char *token, char unfinished[NAME_MAX_]) {
    snprintf(unfinished, NAME_MAX_, "%s.%s.tmp", name, token);
}

/* Makes an empty file under such a name. */
static int make_unfinished(const char *name, const char *token, char unfinished[NAME_MAX_]) {
    unfinished_name(name, token, unfinished);
    int file = file_create_new(unfinished);
    if (file >= 0) {
        close(file);
        return 0;
    }
    return error_set(errno_code(errno, EX_CANTCREAT), "%s: cannot create: %s", name, strerror(errno));
}

/* Gives a file its place. */
static int place(const char *name, const char *token) {
    char from[NAME_MAX_];
    unfinished_name(name, token, from);
    if (rename(from, name)) return error_set(EX_IOERR, "%s: cannot rename: %s", from, strerror(errno));
    return 0;
}

/* From here on what was there is no dataset any more, until the new one is. */
static int place_all(const char *dir, int64_t n_shards, const char *token) {
    char name[NAME_MAX_], moving[NAME_MAX_], replaced[NAME_MAX_];
    int code = 0;
    aside_names(dir, moving, replaced);
    dataset_name(dir, name);
    if (mkdir(moving, 0777)) {
        return error_set(EX_IOERR, "%s: cannot make the directory: %s", moving, strerror(errno));
    }
    code = move_dataset(dir, moving);
    if (!code) code = clear(dir, PART, moving);
    if (!code && rename(moving, replaced)) {
        code = error_set(EX_IOERR, "%s: cannot rename: %s", moving, strerror(errno));
    }
    for (int64_t i = 0; i < n_shards && !code; i++) {
        char shard[NAME_MAX_];
        dataset_shard_path(dir, i, n_shards, shard, sizeof shard);
        code = place(shard, token);
    }
    if (!code) code = flush(dir);
    if (!code) code = place(name, token);
    if (!code) code = flush(dir);
    return code;
}

static int agree(const struct comm *comm, int code) {
    if (!code) code = stop_check();
    return comm->size > 1 ? comm_agree(comm, code) : code;
}

int shards_write(const struct comm *comm, const char *dir, const struct lock *lock, int64_t n_shards,
                 const struct split *split, const struct ids *items, const struct spool *rows,
                 const struct shards_attribute *attributes, int n_attributes) {
    char name[NAME_MAX_], unfinished[NAME_MAX_], token[16];
    int64_t first, count;
    uint64_t number = (uint64_t)getpid();
    bool main_rank = comm->rank == 0;
    comm_part(n_shards, comm->rank, comm->size, &first, &count);
    if (main_rank && getrandom(&number, sizeof number, 0) < 0) number = (uint64_t)getpid();
    comm_broadcast(comm, &number, sizeof number);
    snprintf(token, sizeof token, "%012" PRIx64, number & 0xffffffffffff);
    int code = agree(comm, main_rank ? clear(dir, UNFINISHED, NULL) : 0);
    for (int64_t i = first; i < first + count && !code; i++) {
        dataset_shard_path(dir, i, n_shards, name, sizeof name);
        code = make_unfinished(name, token, unfinished);
        if (!code) code = write_shard(unfinished, i, n_shards, split, rows);
    }
    dataset_name(dir, name);
    if (!code && main_rank) code = make_unfinished(name, token, unfinished);
    if (!code && main_rank) {
        code = write_dataset(unfinished, n_shards, split, items, attributes, n_attributes);
    }
    if (!code && main_rank) code = lock_check(lock);
    code = agree(comm, code);
    if (!code && main_rank) code = place_all(dir, n_shards, token); /* from here on a signal is too late */
    if (comm->size > 1) code = comm_agree(comm, code);
    if (main_rank && (!code || !lock_check(lock))) {
        char message[1024];
        snprintf(message, sizeof message, "%s", error_message());
        int ended = end_replacing(dir);
        if (code) { /* the first failure counts */
            clear(dir, UNFINISHED, NULL);
            code = error_set(code, "%s", message);
        } else if (ended) {
            code = error_prefix(ended, "the data set is complete, but");
        }
    }
    return comm->size > 1 ? comm_agree(comm, code) : code;
}
