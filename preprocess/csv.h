/* Interactions from delimited text, in one pass and with little memory: row by row, or in chunks that threads
 * parse side by side.
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
 * In chunks: one thread at a time reads, each parses its own chunk.
 *
 *     struct csv_chunk chunk = {0};
 *     while (!code && !(code = csv_read(csv, &chunk)) && chunk.size)
 *         while (!(code = csv_parse(csv, &chunk, &row)) && row.user) use(row.user, row.user_length);
 *     csv_chunk_free(&chunk);
 *
 * Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_CSV_H
#define VAECF_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CSV_ID_MAX = 1023, CSV_RECORD_MAX = 1 << 20, CSV_DELIMITER_MAX = 15, CSV_CHUNK = 4 << 20 };

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
    size_t chunk_size;  /* bytes of a chunk, about; 0: CSV_CHUNK. The rows are the same with any */
};

struct csv_row {
    const char *user, *item; /* not terminated, valid until the next call; user is NULL after the last row */
    size_t user_length, item_length;
    double rating; /* finite, or NAN where it is missing; 1 if there are no ratings */
    double time;   /* seconds or whatever the file counts in; finite; 0 if there are no times */
    int64_t line;  /* where the row starts, from 1 */
};

/* A piece of the text that begins and ends at the end of a row. A zeroed struct is empty. */
struct csv_chunk {
    int64_t offset; /* of its first byte in the (decompressed) text */
    size_t size;    /* bytes; 0: the text has ended */
    /* what csv_parse has come across so far */
    int64_t lines, skipped;
    int64_t bad_line; /* the line within the chunk, from 0, of the first bad row */
    char bad[512];    /* what is wrong with it; "" if there is none */
    /* private */
    char *text;
    size_t capacity, filled, position, block;
    uint64_t mask;
    bool last;
    struct csv_record *record;
    char *unquoted;
};

struct csv;

/* The options of a command line that say it, for getopt_long's table: each gives `value`. */
/* clang-format off */
#define CSV_LONG_OPTIONS(value) \
    {"delimiter", required_argument, NULL, value}, \
    {"header", required_argument, NULL, value}, \
    {"user-column", required_argument, NULL, value}, \
    {"item-column", required_argument, NULL, value}, \
    {"rating-column", required_argument, NULL, value}, \
    {"bad-rows", required_argument, NULL, value}
/* clang-format on */

/* Sets what the option of this name says. The text is kept. EX_USAGE. */
int csv_set_option(struct csv_options *options, const char *name, const char *text);

/* Do the options make sense in themselves? EX_USAGE. */
int csv_check_options(const struct csv_options *options);

/* Opens a file ("-": standard input) and finds delimiter, header and columns. EX_NOINPUT, EX_USAGE, EX_IOERR,
 * EX_DATAERR. An empty file is no error: it has no rows. */
int csv_open(const char *path, const struct csv_options *options, struct csv **csv);

/* The next row. EX_DATAERR names file and line; reading can go on after it if the row was bad, but not if the
 * compressed data was. EX_IOERR. */
int csv_next(struct csv *csv, struct csv_row *row);

/* The next chunk. Not to be mixed with csv_next. EX_IOERR, EX_DATAERR (compressed data), EX_OSERR. */
int csv_read(struct csv *csv, struct csv_chunk *chunk);

/* The next row of a chunk; row->user is NULL after the last. Threads may parse chunks of one file at the same
 * time. row->line counts from the chunk's first line, which is 0. EX_DATAERR for a bad row: `bad` and
 * `bad_line` say what is wrong (the message of the error has no file and line). */
int csv_parse(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *row);

void csv_chunk_free(struct csv_chunk *chunk);

/* Where the first chunk begins, after a header, and the line there, from 1. */
int64_t csv_first_offset(const struct csv *csv);
int64_t csv_first_line(const struct csv *csv);

/* Is it a plain file of *size bytes, so that a part of it can be read? */
bool csv_is_plain(const struct csv *csv, int64_t *size);

/* From now on csv_read takes the rows that begin in [begin, end). exact: a row begins at `begin`; else the
 * first one after the next line end is taken, which is no row's end if it lies between quotes: *first is
 * where that is, to be compared with what csv_offset says at the end of the part before. Plain files only. */
int csv_seek(struct csv *csv, int64_t begin, int64_t end, bool exact, int64_t *first);

/* Where the next chunk begins. */
int64_t csv_offset(const struct csv *csv);

/* Bytes of the file, as it is on disk, read so far and in all (0 if that is unknown). */
void csv_progress(const struct csv *csv, int64_t *done, int64_t *total);

bool csv_has_ratings(const struct csv *csv);
bool csv_has_times(const struct csv *csv);
bool csv_has_events(const struct csv *csv); /* the ratings are weights of events */

/* The name for messages. */
const char *csv_name(const struct csv *csv);

/* Rows skipped so far by csv_next, or before the first chunk; and what was wrong with the first of them, with
 * file and line ("" if none was). */
int64_t csv_skipped(const struct csv *csv);
const char *csv_first_skipped(const struct csv *csv);

/* What was found, for people: "user 'userId', item 'movieId', rating 'rating'" or "user column 1, ...". */
const char *csv_columns(const struct csv *csv);

/* The part of the file that has been read, 0 .. 1; -1 if its size is not known (a pipe). */
double csv_fraction(const struct csv *csv);

void csv_close(struct csv *csv); /* NULL is fine */

#endif
