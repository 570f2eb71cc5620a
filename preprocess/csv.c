/* Interactions from delimited text.
 *
 * The buffer is refilled so that it always holds a whole record of the largest size from `position` on, or
 * all that is left of the file; so a record is parsed in place, and rows ahead can be looked at. */
#define _GNU_SOURCE /* memmem */
#include "csv.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "stream.h"

enum { BUFFER_SIZE = 4 * CSV_RECORD_MAX, FIELDS_MAX = 1024, ROWS_AHEAD = 100, TEXT_MAX = 512 };
enum column { USER, ITEM, RATING, COLUMNS };

static const char nul_byte[] = "a NUL byte; want text in UTF-8 or another extension of ASCII";
static const char *const column_name[COLUMNS] = {"user", "item", "rating"};

struct record {
    int n; /* fields; as many as were asked for if there are more */
    const char *field[FIELDS_MAX];
    size_t length[FIELDS_MAX];
    size_t next;     /* where the next record starts */
    int64_t lines;   /* that the record takes up */
    bool overlong;   /* the first line does not end within CSV_RECORD_MAX */
    const char *bad; /* what is wrong, or NULL */
};

struct csv {
    struct stream *stream;
    const char *name;
    bool skip_bad_rows;
    char delimiter[CSV_DELIMITER_MAX + 1];
    size_t delimiter_length;
    int column[COLUMNS]; /* from 0; -1: none */
    int n_needed;        /* fields of a row that matter */
    int64_t skipped, line;
    bool end; /* the buffer holds the last of the file */
    size_t position, filled;
    struct record record;
    char columns[TEXT_MAX], first_skipped[TEXT_MAX];
    char unquoted[CSV_RECORD_MAX]; /* fields of the record that had doubled quotes */
    char buffer[BUFFER_SIZE];
};

static int refill(struct csv *csv) {
    if (csv->end || csv->filled - csv->position >= CSV_RECORD_MAX) return 0;
    memmove(csv->buffer, csv->buffer + csv->position, csv->filled - csv->position);
    csv->filled -= csv->position;
    csv->position = 0;
    size_t got, wanted = BUFFER_SIZE - csv->filled;
    int code = stream_read(csv->stream, csv->buffer + csv->filled, wanted, &got);
    csv->filled += got;
    csv->end = got < wanted;
    return code;
}

/* Parsing: [at, limit) is what the record may take up. */

static const char *find_delimiter(const struct csv *csv, const char *at, const char *end) {
    size_t size = (size_t)(end - at);
    if (csv->delimiter_length == 1) return memchr(at, csv->delimiter[0], size);
    return memmem(at, size, csv->delimiter, csv->delimiter_length);
}

static bool starts_with_delimiter(const struct csv *csv, const char *at, const char *limit) {
    return (size_t)(limit - at) >= csv->delimiter_length &&
           memcmp(at, csv->delimiter, csv->delimiter_length) == 0;
}

/* The end of a line's text: before its LF or CRLF. */
static const char *trim_line_end(const char *start, const char *end) {
    return end > start && end[-1] == '\r' ? end - 1 : end;
}

static void add_field(struct record *r, int n_wanted, const char *text, size_t length) {
    if (r->n == n_wanted) return;
    r->field[r->n] = text;
    r->length[r->n++] = length;
}

/* A quoted field whose opening quote is at `at`. Returns what follows the closing one, NULL if there is none.
 */
static const char *parse_quoted(struct record *r, int n_wanted, const char *at, const char *limit,
                                char **room) {
    const char *start = ++at;
    char *copy = *room, *out = copy;
    bool doubled = false;
    for (;;) {
        const char *quote = memchr(at, '"', (size_t)(limit - at));
        if (!quote) return NULL;
        bool again = quote + 1 < limit && quote[1] == '"';
        if (again || doubled) {
            size_t size = (size_t)(quote - at) + again;
            memcpy(out, at, size);
            out += size;
        }
        if (!again) {
            add_field(r, n_wanted, doubled ? copy : start, (size_t)(doubled ? out - copy : quote - start));
            *room = out;
            return quote + 1;
        }
        doubled = true;
        at = quote + 2;
    }
}

/* A record with a quote in its first line; it may go on over several lines. Returns what is wrong, or NULL.
 */
static const char *parse_with_quotes(struct csv *csv, struct record *r, int n_wanted, const char *at,
                                     const char *limit, bool last) {
    char *room = csv->unquoted;
    const char *start = at;
    for (;;) {
        bool quoted = at < limit && *at == '"';
        if (quoted) {
            at = parse_quoted(r, n_wanted, at, limit, &room);
            if (!at) return "a quoted field is not closed within the file and 1 MiB";
        } else {
            const char *newline = memchr(at, '\n', (size_t)(limit - at));
            const char *line_end = newline ? newline : limit;
            const char *end = find_delimiter(csv, at, line_end);
            if (!end) end = trim_line_end(at, line_end);
            add_field(r, n_wanted, at, (size_t)(end - at));
            at = end;
        }
        if (starts_with_delimiter(csv, at, limit)) {
            at += csv->delimiter_length;
            continue;
        }
        if (at + 1 < limit && at[0] == '\r' && at[1] == '\n') at++;
        if (at == limit - 1 && *at == '\r') at++;
        if (at == limit && !last) return "the record is longer than 1 MiB";
        if (at < limit && *at != '\n')
            return "text follows a closing quote; double the quotes within a field";
        if (memchr(start, '\0', (size_t)(at - start))) return nul_byte;
        for (const char *p = start; (p = memchr(p, '\n', (size_t)(at - p))); p++) r->lines++;
        r->next = (size_t)(at - csv->buffer) + (at < limit);
        return NULL;
    }
}

/* The record at a position of the buffer, its first n_wanted fields. One that is bad takes up its first line.
 */
static void parse(struct csv *csv, size_t position, int n_wanted, struct record *r) {
    const char *start = csv->buffer + position, *limit = csv->buffer + csv->filled;
    bool last = csv->end;
    if (limit - start > CSV_RECORD_MAX) {
        limit = start + CSV_RECORD_MAX;
        last = false;
    }
    const char *newline = memchr(start, '\n', (size_t)(limit - start));
    const char *end = newline ? newline : limit;
    r->n = 0;
    r->lines = 1;
    r->next = (size_t)(end - csv->buffer) + (newline != NULL);
    r->overlong = !newline && !last;
    r->bad = r->overlong ? "the line is longer than 1 MiB" : NULL;
    if (r->bad) return;
    if (memchr(start, '"', (size_t)(end - start))) {
        r->bad = parse_with_quotes(csv, r, n_wanted, start, limit, last);
        return;
    }
    if (memchr(start, '\0', (size_t)(end - start))) {
        r->bad = nul_byte;
        return;
    }
    end = trim_line_end(start, end);
    while (r->n < n_wanted) {
        const char *delimiter = find_delimiter(csv, start, end);
        add_field(r, n_wanted, start, (size_t)((delimiter ? delimiter : end) - start));
        if (!delimiter) break;
        start = delimiter + csv->delimiter_length;
    }
}

/* Moves past the record. */
static int consume(struct csv *csv, const struct record *r) {
    bool in_line = r->overlong;
    csv->position = r->next;
    csv->line += r->lines;
    while (in_line) {
        int code = refill(csv);
        if (code) return code;
        const char *at = csv->buffer + csv->position;
        const char *newline = memchr(at, '\n', csv->filled - csv->position);
        csv->position = newline ? (size_t)(newline - csv->buffer) + 1 : csv->filled;
        in_line = !newline && !csv->end;
    }
    return 0;
}

/* Moves to the next line that is not blank. */
static int skip_blank_lines(struct csv *csv) {
    for (;;) {
        int code = refill(csv);
        if (code) return code;
        const char *start = csv->buffer + csv->position, *end = csv->buffer + csv->filled, *at = start;
        while (at < end && at - start < CSV_RECORD_MAX && *at == ' ') at++;
        if (at < end && *at == '\r' && (at + 1 < end ? at[1] == '\n' : csv->end)) at++;
        bool newline = at < end && *at == '\n';
        if (newline || (at == end && csv->end)) csv->position = (size_t)(at - csv->buffer) + newline;
        if (!newline) return 0;
        csv->line++;
    }
}

static bool at_end(const struct csv *csv) {
    return csv->position == csv->filled;
}

/* "FILE:LINE: message" becomes the error, or, if bad rows are skipped, is counted. */
__attribute__((format(printf, 3, 4))) static int bad_row(struct csv *csv, int64_t line, const char *format,
                                                         ...) {
    char text[TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!csv->skip_bad_rows) return error_set(EX_DATAERR, "%s:%lld: %s", csv->name, (long long)line, text);
    if (!csv->skipped++) {
        snprintf(csv->first_skipped, sizeof csv->first_skipped, "%s:%lld: %s", csv->name, (long long)line,
                 text);
    }
    return 0;
}

/* A field as messages quote it: short, without control characters. */
struct quote {
    char text[48];
};
static struct quote quote(const char *field, size_t length) {
    struct quote q = {""};
    size_t n = length < 40 ? length : 40;
    for (size_t i = 0; i < n; i++) q.text[i] = iscntrl((unsigned char)field[i]) ? '?' : field[i];
    if (length > n) memcpy(q.text + n, "...", 4);
    return q;
}

/* A finite number, with blanks around it allowed; NAN if it is anything else. */
static double parse_number(const char *text, size_t length) {
    while (length && (*text == ' ' || *text == '\t')) text++, length--;
    while (length && (text[length - 1] == ' ' || text[length - 1] == '\t')) length--;
    static const double power[] = {1,   1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    int64_t digits = 0;
    size_t i = 0, point = 0; /* the short form "3.5", exactly */
    for (; i < length && i < 15; i++) {
        if (text[i] >= '0' && text[i] <= '9') {
            digits = 10 * digits + (text[i] - '0');
        } else if (text[i] == '.' && !point) {
            point = i + 1;
        } else {
            break;
        }
    }
    if (i == length && i > (point > 0)) return (double)digits / power[point ? length - point : 0];
    char copy[64], *end;
    if (!length || length >= sizeof copy) return (double)NAN;
    for (i = 0; i < length; i++) {
        if (!memchr("0123456789+-.eE", text[i], 15)) return (double)NAN;
        copy[i] = text[i];
    }
    copy[length] = '\0';
    double number = strtod(copy, &end);
    return *end || !isfinite(number) ? (double)NAN : number;
}

static bool is_number(const char *text, size_t length) {
    return !isnan(parse_number(text, length));
}

/* Options */

/* A column's number from 0; -1 if it is a name or not given. */
static int column_number(const char *column) {
    if (!column || !*column || strspn(column, "0123456789") != strlen(column)) return -1;
    long number = strtol(column, NULL, 10);
    return number > FIELDS_MAX ? FIELDS_MAX : (int)number - 1;
}

static bool is_none(const char *column) {
    return column && strcmp(column, "none") == 0;
}

static bool is_name(const char *column) {
    return column && !is_none(column) && column_number(column) < 0;
}

int csv_check_options(const struct csv_options *o) {
    const char *columns[COLUMNS] = {o->user_column, o->item_column, o->rating_column};
    if (o->delimiter) {
        size_t length = strlen(o->delimiter);
        if (!length || length > CSV_DELIMITER_MAX || strpbrk(o->delimiter, "\"\r\n")) {
            return error_set(EX_USAGE, "--delimiter: want 1 to %d characters without quotes or line ends",
                             CSV_DELIMITER_MAX);
        }
    }
    for (int c = 0; c < COLUMNS; c++) {
        if (!columns[c]) continue;
        int number = column_number(columns[c]);
        if (!*columns[c] || number == FIELDS_MAX || (number < 0 && columns[c][0] == '0') ||
            (c != RATING && is_none(columns[c]))) {
            return error_set(EX_USAGE, "--%s-column %s: want a column's name or its number, 1 to %d",
                             column_name[c], columns[c], FIELDS_MAX);
        }
        if (is_name(columns[c]) && o->header == CSV_HEADER_NO) {
            return error_set(EX_USAGE,
                             "--%s-column %s is a name, but --header no says that columns have none",
                             column_name[c], columns[c]);
        }
    }
    return 0;
}

/* Finding delimiter, header and columns */

/* Takes the delimiter from the first line at the position; false if it has none. */
static bool detect_delimiter(struct csv *csv) {
    static const char *const candidates[] = {"\t", ",", "::"};
    const char *at = csv->buffer + csv->position, *limit = csv->buffer + csv->filled;
    if (limit - at > CSV_RECORD_MAX) limit = at + CSV_RECORD_MAX;
    if (*at == '"') { /* after the first field */
        do {
            at = memchr(at + 1, '"', (size_t)(limit - at - 1));
            if (!at) at = limit - 1;
        } while (++at < limit && *at == '"');
    }
    const char *newline = memchr(at, '\n', (size_t)(limit - at));
    if (newline) limit = newline;
    for (int i = 0; i < 3; i++) {
        strcpy(csv->delimiter, candidates[i]);
        csv->delimiter_length = strlen(candidates[i]);
        if (find_delimiter(csv, at, limit)) return true;
    }
    return false;
}

/* Moves to the first record that can be read, with the delimiter known from there on. */
static int find_first_record(struct csv *csv, const char *delimiter) {
    if (delimiter) strcpy(csv->delimiter, strcmp(delimiter, "\\t") == 0 ? "\t" : delimiter);
    csv->delimiter_length = strlen(csv->delimiter);
    for (;;) {
        int code = skip_blank_lines(csv);
        if (code || at_end(csv)) return code;
        bool found = delimiter || detect_delimiter(csv);
        parse(csv, csv->position, FIELDS_MAX, &csv->record);
        if (found && !csv->record.bad) return 0;
        code = bad_row(csv, csv->line, "%s",
                       csv->record.bad
                           ? csv->record.bad
                           : "no tab, ',' or '::' between fields; name the delimiter with --delimiter");
        if (!code) code = consume(csv, &csv->record);
        if (code) return code;
    }
}

/* Is a field one of the usual names? Letter case, '_', '-' and blanks do not matter. */
static bool is_usual_name(enum column column, const char *field, size_t length) {
    static const char *const names[COLUMNS] = {
        " user userid uid username usertoken useridtoken customer customerid visitor visitorid session "
        "sessionid "
        "reviewer reviewerid ",
        " item itemid iid itemname itemtoken itemidtoken movie movieid product productid asin book bookid "
        "isbn "
        "song songid track trackid artist artistid business businessid article articleid venue venueid "
        "location locationid ",
        " rating ratings ratingfloat score stars "};
    char name[32] = " ";
    size_t n = 1;
    for (size_t i = 0; i < length; i++) {
        if (!isalnum((unsigned char)field[i])) continue;
        if (n + 2 >= sizeof name) return false;
        name[n++] = (char)tolower((unsigned char)field[i]);
    }
    name[n] = ' ';
    name[n + 1] = '\0';
    return n > 1 && strstr(names[column], name);
}

/* Is the record at the position a header? columns: where user, item and rating would be, -1 for none. */
static bool looks_like_header(struct csv *csv, const int columns[COLUMNS]) {
    struct record *r = &csv->record;
    bool text[COLUMNS] = {false};
    parse(csv, csv->position, FIELDS_MAX, r);
    for (int c = 0; c < COLUMNS; c++) {
        if (columns[c] < 0 || columns[c] >= r->n) continue;
        const char *field = r->field[columns[c]];
        size_t length = r->length[columns[c]];
        if (c != RATING && is_usual_name((enum column)c, field, length)) return true;
        text[c] = !is_number(field, length);
    }
    size_t position = r->next;
    int rows = 0;
    while (rows < ROWS_AHEAD && position < csv->filled) {
        parse(csv, position, FIELDS_MAX, r);
        if (r->overlong) break;
        position = r->next;
        if (r->bad || r->n < 2) continue;
        rows++;
        for (int c = 0; c < COLUMNS; c++) {
            text[c] = text[c] && columns[c] < r->n && is_number(r->field[columns[c]], r->length[columns[c]]);
        }
    }
    return rows && (text[USER] || text[ITEM] || text[RATING]);
}

/* The column of that name in the header that csv->record holds; -1 if there is none. */
static int find_name(const struct csv *csv, const char *name) {
    const struct record *r = &csv->record;
    for (int i = 0; i < r->n; i++) {
        if (r->length[i] == strlen(name) && memcmp(r->field[i], name, r->length[i]) == 0) return i;
    }
    return -1;
}

static int unknown_column(const struct csv *csv, enum column column, const char *name) {
    const struct record *r = &csv->record;
    char names[TEXT_MAX] = "";
    size_t used = 0;
    for (int i = 0; i < r->n && used < sizeof names - 64; i++) {
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 quote(r->field[i], r->length[i]).text);
    }
    return error_set(EX_DATAERR, "%s:%lld: --%s-column %s: no such column; there are: %s", csv->name,
                     (long long)csv->line, column_name[column], name, names);
}

static void describe_columns(struct csv *csv, bool header) {
    const struct record *r = &csv->record;
    size_t used = 0;
    for (int c = 0; c < COLUMNS; c++) {
        char *at = csv->columns + used;
        size_t room = sizeof csv->columns - used;
        int column = csv->column[c], n;
        if (column < 0) {
            n = snprintf(at, room, ", no ratings");
        } else if (header && column < r->n) {
            n = snprintf(at, room, "%s%s '%s'", c ? ", " : "", column_name[c],
                         quote(r->field[column], r->length[column]).text);
        } else {
            n = snprintf(at, room, "%s%s column %d", c ? ", " : "", column_name[c], column + 1);
        }
        used += (size_t)n;
    }
}

/* With the position at the first record: sets the columns and moves past a header. */
static int find_columns(struct csv *csv, const struct csv_options *o) {
    const char *given[COLUMNS] = {o->user_column, o->item_column, o->rating_column};
    struct record *r = &csv->record;
    int columns[COLUMNS] = {0, 1, -1};
    bool named = false, usual = true; /* usual: user and item are columns 1 and 2 */
    for (int c = 0; c < COLUMNS; c++) {
        named |= is_name(given[c]);
        if (given[c]) columns[c] = column_number(given[c]); /* -1 for names and "none" */
        if (c != RATING) usual &= columns[c] == c;
    }
    if (!given[RATING] && usual) columns[RATING] = 2;
    bool header = named || o->header == CSV_HEADER_YES ||
                  (o->header == CSV_HEADER_AUTO && looks_like_header(csv, columns));
    parse(csv, csv->position, FIELDS_MAX, r);
    for (int c = 0; c < COLUMNS; c++) {
        if (!is_name(given[c])) continue;
        columns[c] = find_name(csv, given[c]);
        if (columns[c] < 0) return unknown_column(csv, (enum column)c, given[c]);
        if (c != RATING) usual &= columns[c] == c;
    }
    if (!given[RATING]) {
        columns[RATING] = usual && r->n > 2 ? 2 : -1;
        for (int i = 0; header && !usual && i < r->n; i++) {
            if (is_usual_name(RATING, r->field[i], r->length[i])) columns[RATING] = i;
        }
    }
    for (int a = 0; a < COLUMNS; a++) {
        csv->column[a] = columns[a];
        if (columns[a] >= csv->n_needed) csv->n_needed = columns[a] + 1;
        for (int b = 0; b < a; b++) {
            if (columns[a] != columns[b]) continue;
            return error_set(
                EX_USAGE, "%s: column %d would be both %s and %s; give --%s-column and --%s-column",
                csv->name, columns[a] + 1, column_name[b], column_name[a], column_name[b], column_name[a]);
        }
    }
    describe_columns(csv, header);
    return header ? consume(csv, r) : 0;
}

int csv_open(const char *path, const struct csv_options *options, struct csv **result) {
    int code = csv_check_options(options);
    *result = NULL;
    if (code) return code;
    struct csv *csv = malloc(sizeof *csv);
    if (!csv) return error_memory("a file's buffer", sizeof *csv);
    memset(csv, 0, offsetof(struct csv, unquoted));
    csv->line = 1;
    csv->skip_bad_rows = options->skip_bad_rows;
    csv->column[RATING] = -1;
    code = stream_open(path, &csv->stream);
    if (code) goto cleanup;
    csv->name = stream_name(csv->stream);
    code = refill(csv);
    if (!code && csv->filled >= 3 && memcmp(csv->buffer, "\xef\xbb\xbf", 3) == 0) csv->position = 3;
    if (!code) code = find_first_record(csv, options->delimiter);
    if (!code && !at_end(csv)) code = find_columns(csv, options);
cleanup:
    if (code) {
        csv_close(csv);
    } else {
        *result = csv;
    }
    return code;
}

/* Takes the row from csv->record; calls bad_row and leaves row->user NULL if it is bad. */
static int read_row(struct csv *csv, struct csv_row *row) {
    const struct record *r = &csv->record;
    const int *column = csv->column;
    row->line = csv->line;
    row->rating = 1;
    if (r->bad) return bad_row(csv, csv->line, "%s", r->bad);
    if (r->n < csv->n_needed) {
        return bad_row(csv, csv->line, "fields: %d, needed: at least %d; the delimiter is '%s'", r->n,
                       csv->n_needed, csv->delimiter[0] == '\t' ? "tab" : csv->delimiter);
    }
    for (int c = USER; c <= ITEM; c++) {
        if (!r->length[column[c]]) return bad_row(csv, csv->line, "the %s is empty", column_name[c]);
        if (r->length[column[c]] > CSV_ID_MAX) {
            return bad_row(csv, csv->line, "the %s's id has %zu bytes, at most %d are allowed",
                           column_name[c], r->length[column[c]], CSV_ID_MAX);
        }
    }
    if (column[RATING] >= 0) {
        const char *text = r->field[column[RATING]];
        size_t length = r->length[column[RATING]];
        row->rating = parse_number(text, length);
        if (isnan(row->rating)) {
            return bad_row(csv, csv->line,
                           "the rating '%s' in column %d is not a finite number; give --rating-column, or "
                           "--rating-column none if there are no ratings",
                           quote(text, length).text, column[RATING] + 1);
        }
    }
    row->user = r->field[column[USER]];
    row->user_length = r->length[column[USER]];
    row->item = r->field[column[ITEM]];
    row->item_length = r->length[column[ITEM]];
    return 0;
}

int csv_next(struct csv *csv, struct csv_row *row) {
    *row = (struct csv_row){0};
    for (;;) {
        int code = skip_blank_lines(csv);
        if (code || at_end(csv)) return code;
        parse(csv, csv->position, csv->n_needed, &csv->record);
        int row_code = read_row(csv, row);
        code = consume(csv, &csv->record);
        if (row_code || code || row->user) return row_code ? row_code : code;
    }
}

bool csv_has_ratings(const struct csv *csv) {
    return csv->column[RATING] >= 0;
}

int64_t csv_skipped(const struct csv *csv) {
    return csv->skipped;
}

const char *csv_first_skipped(const struct csv *csv) {
    return csv->first_skipped;
}

const char *csv_columns(const struct csv *csv) {
    return csv->columns;
}

double csv_fraction(const struct csv *csv) {
    return stream_fraction(csv->stream);
}

void csv_close(struct csv *csv) {
    if (!csv) return;
    stream_close(csv->stream);
    free(csv);
}
