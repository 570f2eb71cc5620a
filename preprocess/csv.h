/* Interactions from files of the formats that they come in, in one pass and with little memory: row by row,
 * or in chunks that threads parse side by side.
 *
 * Text     a row a line: user, item, perhaps rating and time, in any order of columns
 * Lists    a user and all of their items a line
 * JSON     a line an object
 * Blocks   an item's id and a colon on a line, then a line for each of its users
 *
 * What a file is, is found at its beginning (dialect.h). It may be compressed (stream.h). Lines end with LF,
 * CRLF or CR; a UTF-8 byte order mark and blank lines are passed over. Ids are any text without control
 * bytes, 1 to CSV_ID_MAX bytes, as given but for blanks around those that are not quoted. A record is at most
 * FIELDS_RECORD_MAX bytes long.
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
 *         while (!(code = csv_parse(csv, &chunk, &row, 1, &n)) && n) use(row.user, row.user_length);
 *     csv_chunk_free(&chunk);
 *
 * Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_CSV_H
#define VAECF_CSV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CSV_ID_MAX = 1023, CSV_BEHIND = 8, CSV_CHUNK = 4 << 20, CSV_BAD_SHOWN = 3, CSV_EVENTS_MAX = 32 };

enum csv_header { CSV_HEADER_AUTO, CSV_HEADER_YES, CSV_HEADER_NO };
enum csv_format { CSV_FORMAT_AUTO, CSV_FORMAT_TEXT, CSV_FORMAT_LISTS, CSV_FORMAT_JSON, CSV_FORMAT_BLOCKS };

/* What the rows are: users' interactions with items; items (as `user`) and their titles (as `item`); or items
 * alone (as both), by the line, or by their column where there is a header. */
enum csv_content { CSV_INTERACTIONS, CSV_TITLES, CSV_IDS };

/* All zero: what the file itself tells. A column is a name, which says that there is a header, or a number
 * from 1. */
struct csv_options {
    enum csv_content content;
    enum csv_format format;
    const char *delimiter; /* "\\t" is a tab, " " runs of blanks; NULL: as found, like what follows */
    const char *quote;     /* "none", "\"", "backslash" */
    enum csv_header header;
    const char *user_column, *item_column;
    const char *rating_column, *time_column; /* or "none" */
    const char *event_column;
    const char *events; /* "view=1,buy=5": these are the ratings; "buy,cart": only such rows count */
    bool skip_bad_rows; /* count rows that cannot be read instead of failing at the first */
    double max_bad;     /* the part of a file's rows that may be bad even then; 0: 0.01 */
    size_t chunk_size;  /* bytes of a chunk, about; 0: CSV_CHUNK. The rows are the same with any */
};

struct csv_row {
    const char *user, *item; /* not terminated; CSV_BEHIND bytes behind the id may be read. NULL: no row */
    size_t user_length, item_length;
    double rating; /* finite, or NAN where it is missing; 1 if there are no ratings */
    double time;   /* seconds or whatever the file counts in; finite; 0 if there are no times */
    int64_t line;  /* where the row starts, from 1 */
};

/* What readers come across beside rows. */
struct csv_counts {
    int64_t skipped;      /* rows that cannot be read */
    int64_t missing;      /* rows without a rating, in files that have ratings */
    int64_t negative;     /* rows with a negative rating */
    int64_t other_events; /* rows of events that are not asked for; they are not passed on */
    int n_bad;            /* of the first CSV_BAD_SHOWN bad rows: */
    int64_t bad_line[CSV_BAD_SHOWN];
    char bad[CSV_BAD_SHOWN][256]; /* what is wrong */
};

/* Adds what was found `lines` lines further on. */
void csv_counts_add(struct csv_counts *sum, const struct csv_counts *more, int64_t lines);

/* A piece of the text that begins and ends at the end of a row. A zeroed struct is empty. */
struct csv_chunk {
    int64_t offset; /* of its first byte in the (decompressed) text */
    size_t size;    /* bytes; 0: the text has ended */
    /* what csv_parse has come across so far */
    int64_t lines;            /* bad_line counts from the chunk's first, which is 0 */
    struct csv_counts counts; /* also with bad rows that are errors */
    /* private */
    char *text;
    size_t capacity, filled, position, block;
    uint64_t mask;
    bool last;
    struct fields *record;
    char *room;
    const char *list_at, *list_end, *list_user; /* the rest of a list, and whose it is */
    size_t list_user_length;
    char item[CSV_ID_MAX + 1]; /* the block's that the chunk begins in */
    size_t item_length;
    const char *item_at;
};

struct csv;

/* The options of a command line that say it, for getopt_long's table: each gives `value`. */
/* clang-format off */
#define CSV_LONG_OPTIONS(value) \
    {"input-format", required_argument, NULL, value}, \
    {"delimiter", required_argument, NULL, value}, \
    {"quote", required_argument, NULL, value}, \
    {"header", required_argument, NULL, value}, \
    {"user-column", required_argument, NULL, value}, \
    {"item-column", required_argument, NULL, value}, \
    {"rating-column", required_argument, NULL, value}, \
    {"time-column", required_argument, NULL, value}, \
    {"event-column", required_argument, NULL, value}, \
    {"events", required_argument, NULL, value}, \
    {"bad-rows", required_argument, NULL, value}, \
    {"max-bad", required_argument, NULL, value}
/* clang-format on */

/* Sets what the option of this name says. The text is kept. EX_USAGE. */
int csv_set_option(struct csv_options *options, const char *name, const char *text);

/* Do the options make sense in themselves? EX_USAGE. */
int csv_check_options(const struct csv_options *options);

/* A column's number from 0, -1 if it is a name, "none" or NULL. */
int csv_column_number(const char *column);

/* Opens a file ("-": standard input) and finds what it is. EX_NOINPUT, EX_USAGE, EX_IOERR, EX_DATAERR. An
 * empty file is no error: it has no rows. */
int csv_open(const char *path, const struct csv_options *options, struct csv **csv);

/* The next row. EX_DATAERR names file and line; reading can go on after it if the row was bad, but not if the
 * compressed data was, or too many rows were. EX_IOERR. */
int csv_next(struct csv *csv, struct csv_row *row);

/* The next chunk. Not to be mixed with csv_next. EX_IOERR, EX_DATAERR (compressed data), EX_OSERR. */
int csv_read(struct csv *csv, struct csv_chunk *chunk);

/* The next rows of a chunk, up to `max`, which are valid until the next call; *n is 0 after the last. Threads
 * may parse chunks of one file at the same time. row->line counts from the chunk's first line, which is 0.
 * EX_DATAERR for a bad row: the last of counts.bad says what is wrong (the message of the error has no file
 * and line). */
int csv_parse(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *rows, int max, int *n);

void csv_chunk_free(struct csv_chunk *chunk);

/* Are too many of a file's rows bad, even for those who skip them? EX_DATAERR, with the first of them. */
int csv_check_bad(const struct csv *csv, int64_t rows, const struct csv_counts *counts);

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

/* What csv_next has come across so far; lines from 1. */
const struct csv_counts *csv_counts(const struct csv *csv);

/* What was found, for people, with the first row: "text, delimiter ',', header; user 'userId', item
 * 'movieId', ...; first row: ..."; and what is odd about it, "" if nothing is. */
const char *csv_description(const struct csv *csv);
const char *csv_notes(const struct csv *csv);

/* The same as lines: what was found, the first rows, and the options that say it. For --inspect. */
int csv_inspect(const char *path, const struct csv_options *options);

/* What was found, for dialect_compare. */
struct dialect;
const struct dialect *csv_dialect(const struct csv *csv);

/* The part of the file that has been read, 0 .. 1; -1 if its size is not known (a pipe). */
double csv_fraction(const struct csv *csv);

void csv_close(struct csv *csv); /* NULL is fine */

#endif
