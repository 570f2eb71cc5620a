/* Interactions from delimited text, row by row, in one pass and with little memory.
 *
 * The text is plain, gzip or zstd (see stream.h), lines end with LF or CRLF, a UTF-8 byte order mark and
 * blank lines are passed over. Fields may be quoted as in RFC 4180: a field that starts with a double quote
 * may hold the delimiter, line ends and, doubled, quotes; a quote elsewhere is an ordinary character. Ids are
 * any bytes but NUL, 1 to CSV_ID_MAX of them, kept as given. A record is at most CSV_RECORD_MAX bytes long.
 *
 *     struct csv *csv;
 *     struct csv_row row;
 *     int code = csv_open("ratings.csv.gz", &(struct csv_options){0}, &csv);
 *     while (!code && !(code = csv_next(csv, &row)) && row.user) use(row.user, row.user_length);
 *     csv_close(csv);
 *
 * Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_CSV_H
#define VAECF_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CSV_ID_MAX = 1023, CSV_RECORD_MAX = 1 << 20, CSV_DELIMITER_MAX = 15 };

enum csv_header { CSV_HEADER_AUTO, CSV_HEADER_YES, CSV_HEADER_NO };

/* All zero: the defaults.
 *
 * A column is a name, which says that there is a header, or a number from 1. Defaults: user 1, item 2; the
 * rating is column 3 if there is one, or, where user or item were given, the column whose name is "rating";
 * "none": there are no ratings.
 *
 * CSV_HEADER_AUTO takes the first row for a header if the user's or the item's column has a usual name
 * (user_id, movieId, ...), or if the user's, item's or rating's column has text there and numbers in the rows
 * after it. */
struct csv_options {
    const char *delimiter; /* NULL: the first of tab, ',' and "::" that the first line has; "\\t" is a tab */
    enum csv_header header;
    const char *user_column, *item_column, *rating_column; /* NULL: the default */
    bool skip_bad_rows; /* count rows that cannot be read instead of failing at the first */
};

struct csv_row {
    const char *user, *item; /* not terminated, valid until the next call; user is NULL after the last row */
    size_t user_length, item_length;
    double rating; /* finite; 1 if there are no ratings */
    int64_t line;  /* where the row starts, from 1 */
};

struct csv;

/* Do the options make sense in themselves? EX_USAGE. */
int csv_check_options(const struct csv_options *options);

/* Opens a file ("-": standard input) and finds delimiter, header and columns. EX_NOINPUT, EX_USAGE, EX_IOERR,
 * EX_DATAERR. An empty file is no error: it has no rows. */
int csv_open(const char *path, const struct csv_options *options, struct csv **csv);

/* The next row. EX_DATAERR names file and line; reading can go on after it if the row was bad, but not if the
 * compressed data was. EX_IOERR. */
int csv_next(struct csv *csv, struct csv_row *row);

bool csv_has_ratings(const struct csv *csv);

/* Rows skipped so far, and what was wrong with the first of them ("" if none was). */
int64_t csv_skipped(const struct csv *csv);
const char *csv_first_skipped(const struct csv *csv);

/* What was found, for people: "user 'userId', item 'movieId', rating 'rating'" or "user column 1, ...". */
const char *csv_columns(const struct csv *csv);

/* The part of the file that has been read, 0 .. 1; -1 if its size is not known (a pipe). */
double csv_fraction(const struct csv *csv);

void csv_close(struct csv *csv); /* NULL is fine */

#endif
