/* Fuzzes the reader of all formats, with decompression: row by row; then in chunks of another size, and in
 * two parts where the file is plain, which must give the same rows. The first two bytes choose the options,
 * the rest is the file. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "csv.h"
#include "error.h"
#include "ids.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "csv_fuzz: %s\n", what);
    abort();
}

/* What came out: the rows, as a sum, and how it ended. */
struct result {
    int code;
    int64_t rows, skipped, lines;
    uint64_t hash;
    char message[2048];
};

static bool same(const struct result *a, const struct result *b) {
    return a->code == b->code && a->rows == b->rows && a->skipped == b->skipped && a->hash == b->hash &&
           strcmp(a->message, b->message) == 0;
}

static void add_row(struct result *r, const struct csv_row *row, int64_t line) {
    r->rows++;
    require(line >= r->lines, "lines do not rise");
    r->lines = line;
    require(row->user_length >= 1 && row->user_length <= CSV_ID_MAX, "length of the user's id");
    require(row->item_length >= 1 && row->item_length <= CSV_ID_MAX, "length of the item's id");
    require(!memchr(row->user, 0, row->user_length) && !memchr(row->item, 0, row->item_length),
            "a NUL in an id");
    require(row->rating - row->rating == 0 || row->rating != row->rating, "the rating is infinite");
    require(row->time - row->time == 0, "the time is not finite");
    r->hash = ids_hash(r->hash, row->user, row->user_length);
    double rating = row->rating == row->rating ? row->rating : -1e300;
    r->hash = ids_hash(r->hash, &rating, sizeof rating);
    r->hash = ids_hash(r->hash, &row->time, sizeof row->time);
    r->hash = ids_hash(r->hash, row->item, row->item_length);
    r->hash = ids_hash(r->hash, &line, sizeof line);
}

static void end_result(struct result *r, int code) {
    r->code = code;
    require(code == 0 || code == EX_DATAERR || code == EX_USAGE || code == EX_OSERR, "an unexpected code");
    if (!code) return;
    snprintf(r->message, sizeof r->message, "%s", error_message());
    require(*r->message && !strchr(r->message, '\n'), "the message is not one line");
}

static struct result read_rows(const char *path, const struct csv_options *options) {
    struct result result = {.hash = IDS_HASH_START};
    struct csv *csv;
    struct csv_row row;
    int code = csv_open(path, options, &csv);
    while (!code && !(code = csv_next(csv, &row)) && row.user) add_row(&result, &row, row.line);
    if (csv) result.skipped = csv_counts(csv)->skipped;
    end_result(&result, code);
    csv_close(csv);
    return result;
}

/* Two parts, the second from `middle` on if what the first says about it is right. */
static struct result read_chunks(const char *path, const struct csv_options *options, int64_t middle) {
    struct result result = {.hash = IDS_HASH_START};
    struct csv *csv;
    struct csv_row rows[3];
    int n;
    struct csv_chunk chunk = {0};
    int64_t size, first = 0, line = 0;
    int code = csv_open(path, options, &csv);
    int parts = !code && csv_is_plain(csv, &size) ? 2 : 1;
    if (!code) line = csv_first_line(csv);
    for (int part = 0; part < parts && !code; part++) {
        if (parts == 2) {
            int64_t begin = part ? middle : 0, end = part ? INT64_MAX : middle, before = csv_offset(csv);
            code = csv_seek(csv, begin, end, false, &first);
            if (!code && part && first != before) code = csv_seek(csv, before, end, true, &first);
        }
        while (!code && !(code = csv_read(csv, &chunk)) && chunk.size) {
            while (!(code = csv_parse(csv, &chunk, rows, 3, &n)) && n) {
                for (int i = 0; i < n; i++) add_row(&result, &rows[i], line + rows[i].line);
            }
            result.skipped += chunk.counts.skipped;
            if (code) {
                int last = chunk.counts.n_bad - 1;
                require(last >= 0, "an error without a bad row");
                error_set(code, "%s:%lld: %s", csv_name(csv), (long long)(line + chunk.counts.bad_line[last]),
                          chunk.counts.bad[last]);
                break;
            }
            line += chunk.lines;
        }
    }
    end_result(&result, code);
    csv_chunk_free(&chunk);
    csv_close(csv);
    return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const delimiters[] = {NULL, "\\t", "::", ";"};
    static const char *const columns[][3] = {
        {NULL, NULL, NULL}, {"2", "1", "none"}, {"user", "item", NULL}, {NULL, "3", NULL}};
    static int file = -1;
    static char path[64];
    if (file < 0) {
        file = memfd_create("csv", 0);
        require(file >= 0, "memfd_create failed");
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    if (size < 2) return 0;
    static const enum csv_format formats[8] = {
        [4] = CSV_FORMAT_TEXT, CSV_FORMAT_LISTS, CSV_FORMAT_JSON, CSV_FORMAT_BLOCKS};
    static const char *const quotes[8] = {[5] = "none", "\"", "backslash"};
    struct csv_options options = {.format = formats[data[0] >> 4 & 7],
                                  .quote = quotes[data[1] >> 3 & 7],
                                  .max_bad = 1,
                                  .delimiter = delimiters[data[0] & 3],
                                  .header = (enum csv_header)((data[0] >> 2 & 3) % 3),
                                  .user_column = columns[data[1] & 3][0],
                                  .item_column = columns[data[1] & 3][1],
                                  .rating_column = columns[data[1] & 3][2],
                                  .skip_bad_rows = data[1] >> 2 & 1};
    data += 2;
    size -= 2;
    require(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size,
            "cannot write the input");

    struct result rows = read_rows(path, &options);
    options.chunk_size = 1 + (size_t)(data[-2] >> 4) * (size_t)(data[-1] >> 3);
    struct result small = read_rows(path, &options);
    require(same(&rows, &small), "the size of the chunks changes the rows");
    struct result chunks = read_chunks(path, &options, (int64_t)size * (data[-1] >> 3) / 32);
    require(same(&rows, &chunks), "chunks give other rows");
    return 0;
}
