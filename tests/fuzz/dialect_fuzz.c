/* Fuzzes recognition: what a file is taken for can be described, and said by options; and with those the file
 * gives the same rows. The first byte chooses what the rows are, the rest is the file. */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dialect.h"
#include "error.h"
#include "ids.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "dialect_fuzz: %s\n", what);
    abort();
}

/* Rows as a sum; *n: how many. */
static int read_rows(const char *path, const struct csv_options *options, struct dialect *dialect,
                     uint64_t *hash, int64_t *n) {
    struct csv *csv;
    struct csv_row row;
    *hash = IDS_HASH_START;
    *n = 0;
    int code = csv_open(path, options, &csv);
    if (code) return code;
    *dialect = *csv_dialect(csv);
    while (!(code = csv_next(csv, &row)) && row.user) {
        double rating = row.rating == row.rating ? row.rating : -1e300;
        *hash = ids_hash(*hash, row.user, row.user_length);
        *hash = ids_hash(*hash, row.item, row.item_length);
        *hash = ids_hash(*hash, &rating, sizeof rating);
        *hash = ids_hash(*hash, &row.time, sizeof row.time);
        ++*n;
    }
    csv_close(csv);
    return code;
}

/* The options that say what the dialect is. text[NAMES][8] takes numbers. */
static struct csv_options said(const struct dialect *d, const struct csv_options *options,
                               char text[NAMES][8]) {
    static const char *const quotes[] = {"none", "\"", "backslash"};
    struct csv_options o = *options;
    o.format = d->format;
    if (d->format != CSV_FORMAT_JSON && *d->syntax.delimiter) o.delimiter = d->syntax.delimiter;
    if (d->format != CSV_FORMAT_TEXT && d->format != CSV_FORMAT_JSON) return o;
    if (d->format == CSV_FORMAT_TEXT) {
        o.quote = quotes[d->syntax.quoting];
        o.header = d->header ? CSV_HEADER_YES : CSV_HEADER_NO;
    }
    const char **columns[] = {&o.user_column, &o.item_column, &o.rating_column, &o.time_column};
    for (int c = NAME_USER; c <= NAME_TIME; c++) {
        *columns[c] = "none";
        if (d->format == CSV_FORMAT_TEXT && d->column[c] >= 0) {
            snprintf(text[c], sizeof text[c], "%d", d->column[c] + 1);
            *columns[c] = text[c];
        } else if (d->format == CSV_FORMAT_JSON && d->name[c][0]) {
            *columns[c] = d->name[c];
        }
    }
    return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static int file = -1;
    static char path[64];
    static struct dialect dialect, again;
    char text[4096], numbers[NAMES][8];
    uint64_t hash, hash_again;
    int64_t n, n_again;
    if (file < 0) {
        file = memfd_create("dialect", 0);
        require(file >= 0, "memfd_create failed");
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    if (!size) return 0;
    enum csv_content content = data[size - 1] == 'T'   ? CSV_TITLES
                               : data[size - 1] == 'I' ? CSV_IDS
                                                       : CSV_INTERACTIONS;
    const struct csv_options options = {.content = content};
    require(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size,
            "cannot write the input");
    int code = read_rows(path, &options, &dialect, &hash, &n);
    require(code == 0 || code == EX_DATAERR || code == EX_USAGE || code == EX_OSERR, "an unexpected code");
    if (code) {
        require(*error_message() && !strchr(error_message(), '\n'), "the message is not one line");
        return 0;
    }
    dialect_describe(&dialect, text, sizeof text);
    require(*text && !strchr(text, '\n'), "the description is not one line");
    dialect_options(&dialect, &options, text, sizeof text);
    require(strlen(text) < sizeof text - 1, "the options do not fit");
    if (options.content != CSV_INTERACTIONS || !n) return 0;
    struct csv_options explicit = said(&dialect, &options, numbers);
    if (csv_check_options(&explicit)) return 0; /* names that no option can say: of digits, "none" */
    for (int c = NAME_USER; c <= NAME_TIME; c++) {
        if (dialect.format == CSV_FORMAT_JSON &&
            (strlen(dialect.name[c]) >= DIALECT_NAME_MAX || strchr(dialect.name[c], '.')))
            return 0;
    }
    code = read_rows(path, &explicit, &again, &hash_again, &n_again);
    if (code) fprintf(stderr, "%s\n", error_message());
    require(!code && n == n_again && hash == hash_again, "the options that were told give other rows");
    return 0;
}
