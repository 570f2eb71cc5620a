/* See read.h. */
#include "read.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "block.h"
#include "dialect.h"
#include "error.h"
#include "records.h"
#include "split.h"
#include "values.h"

/* Item ids that are whole numbers below DIRECT are found in a table by their value; other short ones in a
 * small cache; the rest in the ids themselves, one thread at a time. */
enum { DIRECT = 1 << 22, DIRECT_DIGITS = 7, CACHE = 1 << 14, CACHE_TEXT = 27, BATCH = 64 };

struct cached {
    int32_t number_plus_1;
    uint8_t length;
    char text[CACHE_TEXT];
};

struct worker {
    struct csv_chunk chunk;
    struct spool_out *out;              /* [bins], owned */
    int32_t *direct;                    /* [DIRECT]: number + 1, owned */
    struct cached *cache;               /* [CACHE], owned */
    char user[CSV_ID_MAX + CSV_BEHIND]; /* the last one */
};

/* A chunk in which rows are bad. */
struct bad_chunk {
    int64_t number;
    struct csv_counts counts;
};

/* One pass over this rank's part of a file. */
struct pass {
    struct reader *reader;
    struct csv *csv;
    enum dataset_part part;
    int64_t key;         /* of the file's first byte */
    int64_t n, capacity; /* chunks */
    int64_t *lines;      /* [n], owned */
    int64_t rows, bytes;
    struct csv_counts counts; /* but for the bad rows, which are in the first chunks that have some: */
    struct bad_chunk bad[CSV_BAD_SHOWN];
    int n_bad;
    bool stop;
    struct failure failure;
};

/* How a part went, as ranks tell each other. */
struct outcome {
    int64_t first, end; /* where it began and where the next begins */
    int64_t code, lines, rows, bytes;
    bool bad_row;             /* is what `code` is about: the first of `counts`, */
    struct csv_counts counts; /* whose lines count from the part's first, which is 0 */
    char message[1024];       /* else this is */
};

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int read_start(struct reader *r) {
    r->start = r->last_progress = seconds();
    r->n_workers = omp_get_max_threads();
    r->worker = calloc((size_t)r->n_workers, sizeof *r->worker);
    if (!r->worker) return error_memory("threads", (unsigned long long)r->n_workers * sizeof *r->worker);
    for (int i = 0; i < r->n_workers; i++) {
        struct worker *w = &r->worker[i];
        w->out = calloc((size_t)r->spool->n_bins, sizeof *w->out);
        w->direct = calloc(DIRECT, sizeof *w->direct);
        w->cache = calloc(CACHE, sizeof *w->cache);
        if (!w->out || !w->direct || !w->cache)
            return error_memory("a thread's items", DIRECT * sizeof(int32_t));
    }
    return 0;
}

/* ---- rows ---- */

static int add_item(struct reader *r, const char *text, size_t length, int32_t *number) {
    int code;
#pragma omp critical(items)
    {
        code = ids_add(&r->items, text, length, number);
        if (!code && *number > RECORD_ITEMS_MAX) {
            code = error_set(EX_DATAERR, "more than %d distinct items", RECORD_ITEMS_MAX);
        }
    }
    return code;
}

/* The value of up to DIRECT_DIGITS digits, without a zero in front; -1 if the text is anything else. */
static inline int32_t small_number(const char *text, size_t length) {
    if (length > DIRECT_DIGITS || (text[0] == '0' && length > 1)) return -1;
    const unsigned zeros =
        64 - 8 * (unsigned)length; /* bits of them go in front; what is behind the id goes */
    return (int32_t)value_eight(value_bytes(text) << zeros | UINT64_C(0x3030303030303030) >> (8 * length));
}

static inline int find_item(struct reader *r, struct worker *w, const char *text, size_t length,
                            int32_t *number) {
    int32_t value = small_number(text, length);
    if (value >= 0 && value < DIRECT) {
        *number = w->direct[value] - 1;
        if (*number >= 0) return 0;
        int code = add_item(r, text, length, number);
        w->direct[value] = *number + 1;
        return code;
    }
    if (length > CACHE_TEXT) return add_item(r, text, length, number);
    uint64_t hash = ids_hash(IDS_HASH_START, text, length);
    struct cached *c = &w->cache[(hash ^ hash >> 32) % CACHE];
    *number = c->number_plus_1 - 1;
    if (*number >= 0 && c->length == length && memcmp(c->text, text, length) == 0) return 0;
    int code = add_item(r, text, length, number);
    if (code) return code;
    c->number_plus_1 = *number + 1;
    c->length = (uint8_t)length;
    memcpy(c->text, text, length);
    return 0;
}

/* Are two ids of the same length the same? */
static inline bool is_same(const char *a, const char *b, size_t length) {
    if (length > 8) return memcmp(a, b, length) == 0;
    return (value_bytes(a) ^ value_bytes(b)) << (64 - 8 * length) == 0;
}

/* All rows of the worker's chunk into its buffers. Stops at a bad row, which is no failure here: *bad. */
static int take_chunk(struct pass *pass, struct worker *w, int64_t *rows, bool *bad) {
    struct reader *r = pass->reader;
    struct csv_row batch[BATCH];
    struct spool_out *out = NULL;
    const bool rated = csv_has_ratings(pass->csv);
    const struct duplicates duplicates = duplicates_stored(r->rule, r->min_rating);
    const bool with_values = duplicates_need_values(&duplicates);
    size_t user_length = 0;
    double value_before = 0;
    int n;
    *bad = false;
    for (;;) {
        int code = csv_parse(pass->csv, &w->chunk, batch, BATCH, &n);
        *bad = code != 0;
        if (code || !n) return 0;
        if (!*rows) code = duplicates_check(r->asked, &duplicates, pass->csv);
        for (int i = 0; i < n && !code; i++) {
            const struct csv_row *row = &batch[i];
            int32_t item;
            code = find_item(r, w, row->item, row->item_length, &item);
            bool same = row->user_length == user_length && is_same(row->user, w->user, user_length);
            if (!same) {
                user_length = row->user_length;
                memcpy(w->user, row->user, user_length);
                out = &w->out[block_bin(block_user_hash(r->seed, row->user, user_length), r->spool->n_bins)];
            }
            if (!code && out->room - out->used < RECORD_MAX) code = spool_out_reserve(out, RECORD_MAX);
            if (code) break;
            record_put(out, item, duplicates_wanted(&duplicates, rated, row), same, pass->part, row->user,
                       user_length);
            if (with_values) {
                double value = duplicates_value(&duplicates, row);
                record_put_value(out, same ? value_before : 0, value);
                value_before = value;
            }
        }
        if (code) return code;
        *rows += n;
    }
}

static void show_progress(struct reader *r, struct csv *csv) {
    double now = seconds(), passed = now - r->start;
    if (now - r->last_progress < 2 || r->comm->rank) return;
    r->last_progress = now;
    int64_t done, total;
    csv_progress(csv, &done, &total);
    done += r->done_bytes;
    if (!total || !r->total_bytes || done <= 0) {
        fprintf(stderr, "vaecf-preprocess: %s: %.0f MB read, %.0f MB/s\n", csv_name(csv), 1e-6 * (double)done,
                1e-6 * (double)done / passed);
        return;
    }
    double part = (double)done * (csv_is_plain(csv, &total) ? r->comm->size : 1) / (double)r->total_bytes;
    if (part > 1) part = 1;
    fprintf(stderr, "vaecf-preprocess: %s: %.0f%% read, %.0f s left\n", csv_name(csv), 100 * part,
            passed * (1 - part) / part);
}

/* The next chunk for a worker and its number; false if there is none. */
static bool next_chunk(struct pass *pass, struct worker *w, int64_t *number) {
    bool more = false;
#pragma omp critical(read)
    if (!pass->stop) {
        int code = stop_check();
        if (!code) code = csv_read(pass->csv, &w->chunk);
        if (!code && pass->n == pass->capacity) {
            int64_t capacity = pass->capacity ? 2 * pass->capacity : 256;
            int64_t *lines = realloc(pass->lines, (size_t)capacity * sizeof *lines);
            if (lines) {
                pass->lines = lines;
                pass->capacity = capacity;
            } else {
                code = error_memory("chunks", (unsigned long long)capacity * sizeof *lines);
            }
        }
        if (code && stop_signal()) code = stop_check(); /* a read that was interrupted */
        failure_keep(&pass->failure, code);
        more = !code && w->chunk.size;
        pass->stop = !more;
        if (more) {
            *number = pass->n++;
            pass->bytes += (int64_t)w->chunk.size;
            show_progress(pass->reader, pass->csv);
        }
    }
    return more;
}

/* Keeps the bad rows of the first chunks that have some. */
static void keep_bad(struct pass *pass, int64_t number, const struct csv_counts *counts) {
    int place = pass->n_bad;
    while (place && pass->bad[place - 1].number > number) place--;
    if (place == CSV_BAD_SHOWN) return;
    if (pass->n_bad < CSV_BAD_SHOWN) pass->n_bad++;
    memmove(&pass->bad[place + 1], &pass->bad[place], (size_t)(pass->n_bad - 1 - place) * sizeof *pass->bad);
    pass->bad[place] = (struct bad_chunk){number, *counts};
}

static void run_worker(struct pass *pass, struct worker *w) {
    int64_t number = 0;
    while (next_chunk(pass, w, &number)) {
        int64_t rows = 0;
        bool bad;
        int code = take_chunk(pass, w, &rows, &bad);
        if (!code) code = spool_add(pass->reader->spool, pass->key + w->chunk.offset, w->out);
        failure_keep(&pass->failure, code);
#pragma omp critical(read)
        {
            struct csv_counts sums = w->chunk.counts;
            pass->lines[number] = w->chunk.lines;
            pass->rows += rows;
            if (sums.n_bad) keep_bad(pass, number, &sums);
            sums.n_bad = 0;
            csv_counts_add(&pass->counts, &sums, 0);
            pass->stop = pass->stop || bad || code;
        }
    }
}

/* Reads this rank's part. *o has its code, if any, with what is wrong. */
static void read_part(struct reader *r, struct csv *csv, enum dataset_part part, int64_t key,
                      struct outcome *o) {
    struct pass pass = {.reader = r, .csv = csv, .part = part, .key = key};
#pragma omp parallel num_threads(r->n_workers)
    run_worker(&pass, &r->worker[omp_get_thread_num()]);
    o->end = csv_offset(csv);
    o->bad_row = pass.n_bad && !r->csv.skip_bad_rows;
    o->code = o->bad_row ? EX_DATAERR : failure_code(&pass.failure);
    o->rows = pass.rows;
    o->bytes = pass.bytes;
    o->counts = pass.counts;
    o->lines = 0;
    for (int64_t i = 0, b = 0; i < pass.n; o->lines += pass.lines[i++]) {
        if (b == pass.n_bad || i != pass.bad[b].number) continue;
        struct csv_counts bad = {.n_bad = pass.bad[b].counts.n_bad};
        memcpy(bad.bad_line, pass.bad[b].counts.bad_line, sizeof bad.bad_line);
        memcpy(bad.bad, pass.bad[b++].counts.bad, sizeof bad.bad);
        csv_counts_add(&o->counts, &bad, o->lines);
    }
    if (o->code && !o->bad_row) snprintf(o->message, sizeof o->message, "%s", error_message());
    free(pass.lines);
}

/* ---- files ---- */

/* The rule for equal rows, as rank 0 sees it, who has opened every file. */
static void choose_rule(struct reader *r, const struct csv *csv) {
    r->rule = r->asked;
    if (!r->rule && csv) r->rule = duplicates_default(csv);
    if (r->comm->size > 1) MPI_Bcast(&r->rule, sizeof r->rule, MPI_BYTE, 0, r->comm->mpi);
}

/* Adds up what the ranks say about their parts of a file, in order. csv: NULL where another rank reads it. */
static int conclude(struct reader *r, const struct csv *csv, const char *name, int64_t line,
                    const struct outcome *o, int size) {
    struct csv_counts counts = {0};
    int64_t rows = 0;
    for (int p = 0; p < size; p++) {
        if (o[p].code && o[p].bad_row) {
            return error_set(EX_DATAERR, "%s:%" PRId64 ": %s", name, line + o[p].counts.bad_line[0],
                             o[p].counts.bad[0]);
        }
        if (o[p].code) return error_set((int)o[p].code, "%s", o[p].message);
        csv_counts_add(&counts, &o[p].counts, line);
        line += o[p].lines;
        rows += o[p].rows;
        r->bytes += o[p].bytes;
    }
    for (int i = 0; i < counts.n_bad && r->n_bad < CSV_BAD_SHOWN; i++) {
        snprintf(r->bad[r->n_bad++], sizeof r->bad[0], "%s:%" PRId64 ": %s", name, counts.bad_line[i],
                 counts.bad[i]);
    }
    r->rows += rows;
    int code = csv ? csv_check_bad(csv, rows, &counts) : 0;
    counts.n_bad = 0;
    csv_counts_add(&r->counts, &counts, 0);
    return code;
}

/* The parts of a plain file: they fit if each begins where the one before ended, and if not, because a line
 * end was one between quotes, that rank reads anew. */
static int read_plain(struct reader *r, struct csv *csv, enum dataset_part part, int64_t key, int64_t size,
                      struct outcome *o) {
    const struct comm *comm = r->comm;
    int64_t begin = size / comm->size * comm->rank,
            end = comm->rank + 1 < comm->size ? size / comm->size * (comm->rank + 1) : INT64_MAX;
    struct outcome *mine = &o[comm->rank];
    int code = csv_seek(csv, begin, end, false, &mine->first);
    if (code) {
        mine->code = code;
        snprintf(mine->message, sizeof mine->message, "%s", error_message());
    } else {
        read_part(r, csv, part, key, mine);
    }
    for (;;) {
        int wrong = 1;
        if (comm->size > 1) {
            struct outcome copy = *mine;
            MPI_Allgather(&copy, sizeof copy, MPI_BYTE, o, sizeof copy, MPI_BYTE, comm->mpi);
        }
        while (wrong < comm->size && !o[wrong - 1].code && o[wrong].first == o[wrong - 1].end) wrong++;
        if (wrong >= comm->size || o[wrong - 1].code) return 0;
        if (wrong != comm->rank) continue;
        spool_drop(r->spool, key);
        code = csv_seek(csv, o[wrong - 1].end, end, true, &mine->first);
        if (code) {
            mine->code = code;
            snprintf(mine->message, sizeof mine->message, "%s", error_message());
        } else {
            read_part(r, csv, part, key, mine);
        }
    }
}

/* Do the columns go together with those of the first file? */
static int compare_files(struct reader *r, const struct csv *csv) {
    if (!r->first) {
        r->first = malloc(sizeof *r->first);
        if (!r->first) return error_memory("a file's columns", sizeof *r->first);
        *r->first = *csv_dialect(csv);
        snprintf(r->first_name, sizeof r->first_name, "%s", csv_name(csv));
    }
    return dialect_compare(r->first, r->first_name, csv_dialect(csv), csv_name(csv));
}

int read_file(struct reader *r, const char *path, enum dataset_part part) {
    const struct comm *comm = r->comm;
    struct stat status;
    struct csv *csv = NULL;
    int64_t size = 0, key = (int64_t)r->n_files << 44;
    /* what can be read but once is rank 0's */
    bool regular = strcmp(path, "-") && stat(path, &status) == 0 && S_ISREG(status.st_mode);
    int code = comm->rank == 0 || regular ? csv_open(path, &r->csv, &csv) : 0;
    if (code && stop_signal()) code = stop_check();
    if (!code && csv) code = compare_files(r, csv);
    struct outcome *o = calloc((size_t)comm->size, sizeof *o);
    if (!code && !o) code = error_memory("ranks", (unsigned long long)comm->size * sizeof *o);
    if (comm->size > 1) code = comm_agree(comm, code);
    if (code) goto cleanup;
    if (!r->rows) choose_rule(r, csv); /* by the first file with rows */
    bool plain = csv && csv_is_plain(csv, &size) && regular;
    int reader = regular ? r->n_files % comm->size : 0;
    if (plain) {
        code = read_plain(r, csv, part, key, size, o);
    } else {
        if (comm->rank == reader) read_part(r, csv, part, key, &o[reader]);
        if (comm->size > 1) MPI_Bcast(&o[reader], sizeof *o, MPI_BYTE, reader, comm->mpi);
    }
    int64_t first_line = csv ? csv_first_line(csv) : 0;
    if (comm->size > 1) MPI_Bcast(&first_line, 1, MPI_INT64_T, 0, comm->mpi);
    if (!code) code = conclude(r, csv, csv ? csv_name(csv) : path, first_line, o, comm->size);
    if (comm->size > 1) code = comm_agree(comm, code);
    if (code) goto cleanup;
    if (comm->rank == 0) {
        printf("%s: %s\n", csv_name(csv), csv_description(csv));
        if (*csv_notes(csv)) printf("note: %s: %s\n", csv_name(csv), csv_notes(csv));
        if (!csv_has_ratings(csv) && isfinite(r->min_rating) && r->rule != DUPLICATES_SUM) {
            printf("%s: has no ratings: --min-rating does not count for it\n", csv_name(csv));
        }
    }
    r->n_files++;
    if (csv) {
        int64_t done, total;
        csv_progress(csv, &done, &total);
        r->done_bytes += plain ? size / comm->size : total;
    }
cleanup:
    free(o);
    csv_close(csv);
    return code;
}

/* ---- the same numbers on all ranks ---- */

struct translation {
    const int32_t *map; /* [items]: from the old numbers to the new ones */
    bool with_values;
};

static void renumber(char *data, size_t size, const void *context) {
    const struct translation *translation = context;
    const char *at = data, *id;
    for (const char *end = data + size; at < end;) {
        uint32_t word;
        size_t length = 0;
        double value = 0;
        enum dataset_part part;
        char *here = data + (at - data);
        record_get(&at, &word, &part, &id, &length);
        if (translation->with_values) record_get_value(&at, &value);
        word = (uint32_t)translation->map[word >> 2] << 2 | (word & 3);
        memcpy(here, &word, sizeof word);
    }
}

/* Sends this rank's ids to rank 0, which puts them together; map: from the old numbers to the new ones. */
static int unify(struct reader *r, int32_t *map) {
    const struct comm *comm = r->comm;
    struct ids all = {0};
    int code = 0;
    for (int p = 0; p < comm->size; p++) { /* rank after rank, so that only one set is held twice */
        int64_t sizes[2] = {r->items.n, r->items.n ? r->items.offset[r->items.n] : 0};
        MPI_Bcast(sizes, 2, MPI_INT64_T, p, comm->mpi);
        int64_t *offset = malloc(((size_t)sizes[0] + 1) * sizeof *offset);
        char *text = malloc((size_t)sizes[1] + 1);
        code = comm_agree(comm, offset && text ? 0 : error_memory("the items", (unsigned long long)sizes[1]));
        if (!code && comm->rank == p && sizes[0]) {
            memcpy(offset, r->items.offset, ((size_t)sizes[0] + 1) * sizeof *offset);
            memcpy(text, r->items.text, (size_t)sizes[1]);
        }
        if (!code && sizes[0]) {
            for (int64_t at = 0; at <= sizes[0]; at += INT_MAX / 16) {
                int64_t n = sizes[0] + 1 - at < INT_MAX / 16 ? sizes[0] + 1 - at : INT_MAX / 16;
                MPI_Bcast(offset + at, (int)n, MPI_INT64_T, p, comm->mpi);
            }
            for (int64_t at = 0; at < sizes[1]; at += INT_MAX / 2) {
                int64_t n = sizes[1] - at < INT_MAX / 2 ? sizes[1] - at : INT_MAX / 2;
                MPI_Bcast(text + at, (int)n, MPI_CHAR, p, comm->mpi);
            }
        }
        for (int64_t i = 0; i < sizes[0] && !code; i++) {
            int32_t number;
            code = ids_add(&all, text + offset[i], (size_t)(offset[i + 1] - offset[i]), &number);
            if (comm->rank == p) map[i] = number;
        }
        free(offset);
        free(text);
        if (!code && all.n > RECORD_ITEMS_MAX)
            code = error_set(EX_DATAERR, "more than %d items", RECORD_ITEMS_MAX);
        code = comm_agree(comm, code);
        if (code) break;
    }
    ids_free(&r->items);
    r->items = all;
    return code;
}

int read_finish(struct reader *r) {
    const struct comm *comm = r->comm;
    int n_bins = r->spool->n_bins, code = 0;
    read_free(r);
    if (comm->size == 1) {
        spool_sort(r->spool);
        return 0;
    }
    int32_t *map = malloc(((size_t)r->items.n + 1) * sizeof *map);
    int *first = malloc(((size_t)comm->size + 1) * sizeof *first);
    code = comm_agree(comm, map && first ? 0 : error_memory("the items", 4ull * (unsigned)r->items.n));
    if (!code) code = unify(r, map);
    if (!code) {
        split_bins_of_ranks(comm, n_bins, 1, first);
        const struct duplicates duplicates = duplicates_stored(r->rule, r->min_rating);
        const struct translation translation = {map, duplicates_need_values(&duplicates)};
        code = spool_exchange(r->spool, comm, first, renumber, &translation);
    }
    free(map);
    free(first);
    return code;
}

void read_free(struct reader *r) {
    for (int i = 0; i < r->n_workers && r->worker; i++) {
        struct worker *w = &r->worker[i];
        csv_chunk_free(&w->chunk);
        for (int b = 0; b < r->spool->n_bins && w->out; b++) free(w->out[b].data);
        free(w->out);
        free(w->direct);
        free(w->cache);
    }
    free(r->worker);
    free(r->first);
    r->first = NULL;
    r->worker = NULL;
    r->n_workers = 0;
}
