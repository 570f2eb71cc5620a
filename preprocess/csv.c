/* Interactions from delimited text.
 *
 * A chunk is cut where a row ends: at a line end, or, where there are quotes, at the end of a record found by
 * going through them. Behind the cut the chunk holds what is needed to judge its last record, so that every
 * record is parsed in place, whatever the sizes of chunks. Ordinary rows take the fast way through
 * parse_fast; whatever is unusual about a row is left to parse. */
#define _GNU_SOURCE /* memmem, memrchr */
#include "csv.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "error.h"
#include "options.h"
#include "stream.h"

enum { START_SIZE = 4 * CSV_RECORD_MAX, FIELDS_MAX = 1024, ROWS_AHEAD = 100, TEXT_MAX = 512, BLOCK = 64 };
enum column { USER, ITEM, RATING, COLUMNS };

static const char nul_byte[] = "a NUL byte; want text in UTF-8 or another extension of ASCII";
static const char *const column_name[COLUMNS] = {"user", "item", "rating"};

struct csv_record {
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
    int column[COLUMNS];   /* from 0; -1: none */
    int n_needed;          /* fields of a row that matter */
    int64_t skipped, line; /* line: of the first chunk */
    size_t chunk_size;
    char *pending; /* text that was read and is in no chunk yet, owned */
    size_t pending_begin, pending_end, pending_capacity;
    int64_t offset, first_offset,
        end_offset;         /* of pending; of the first row; rows from there on are not ours */
    bool end;               /* pending is the last of the file */
    struct csv_chunk chunk; /* of csv_next; at first the beginning of the file */
    char columns[TEXT_MAX], first_skipped[TEXT_MAX + 256];
};

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

static void add_field(struct csv_record *r, int n_wanted, const char *text, size_t length) {
    if (r->n == n_wanted) return;
    r->field[r->n] = text;
    r->length[r->n++] = length;
}

/* A quoted field whose opening quote is at `at`. Returns what follows the closing one, NULL if there is none.
 */
static const char *parse_quoted(struct csv_record *r, int n_wanted, const char *at, const char *limit,
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
static const char *parse_with_quotes(const struct csv *csv, const struct csv_chunk *chunk, int n_wanted,
                                     const char *at, const char *limit, bool last) {
    struct csv_record *r = chunk->record;
    char *room = chunk->unquoted;
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
        r->next = (size_t)(at - chunk->text) + (at < limit);
        return NULL;
    }
}

/* Puts the record at a position of the chunk into chunk->record, its first n_wanted fields. One that is bad
 * takes up its first line. */
static void parse(const struct csv *csv, const struct csv_chunk *chunk, size_t position, int n_wanted) {
    struct csv_record *r = chunk->record;
    const char *start = chunk->text + position, *limit = chunk->text + chunk->filled;
    bool last = chunk->last;
    if (limit - start > CSV_RECORD_MAX) {
        limit = start + CSV_RECORD_MAX;
        last = false;
    }
    const char *newline = memchr(start, '\n', (size_t)(limit - start));
    const char *end = newline ? newline : limit;
    r->n = 0;
    r->lines = 1;
    r->next = (size_t)(end - chunk->text) + (newline != NULL);
    r->overlong = !newline && !last;
    r->bad = r->overlong ? "the line is longer than 1 MiB" : NULL;
    if (r->bad) return;
    if (memchr(start, '"', (size_t)(end - start))) {
        r->bad = parse_with_quotes(csv, chunk, n_wanted, start, limit, last);
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

/* Where the record after chunk->record starts; with an overlong line, where that ends in the chunk. */
static size_t next_record(const struct csv_chunk *chunk) {
    const struct csv_record *r = chunk->record;
    if (!r->overlong) return r->next;
    const char *newline = memchr(chunk->text + r->next, '\n', chunk->filled - r->next);
    return newline ? (size_t)(newline - chunk->text) + 1 : chunk->filled;
}

static void consume(struct csv_chunk *chunk) {
    chunk->position = next_record(chunk);
    chunk->lines += chunk->record->lines;
}

/* Moves past blank lines. */
static void skip_blank_lines(struct csv_chunk *chunk) {
    bool last = chunk->last && chunk->size == chunk->filled;
    for (;;) {
        const char *start = chunk->text + chunk->position, *end = chunk->text + chunk->size, *at = start;
        while (at < end && at - start < CSV_RECORD_MAX && *at == ' ') at++;
        if (at < end && *at == '\r' && (at + 1 < end ? at[1] == '\n' : last)) at++;
        bool newline = at < end && *at == '\n';
        if (newline || (at == end && last)) chunk->position = (size_t)(at - chunk->text) + newline;
        if (!newline) return;
        chunk->lines++;
    }
}

/* Counts a bad row that starts in the chunk's current line; fails, unless bad rows are skipped. */
__attribute__((format(printf, 3, 4))) static int bad_row(const struct csv *csv, struct csv_chunk *chunk,
                                                         const char *format, ...) {
    char text[TEXT_MAX];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!*chunk->bad || !csv->skip_bad_rows) {
        snprintf(chunk->bad, sizeof chunk->bad, "%s", text);
        chunk->bad_line = chunk->lines;
    }
    if (!csv->skip_bad_rows) return error_set(EX_DATAERR, "%s", text);
    chunk->skipped++;
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

int csv_set_option(struct csv_options *o, const char *name, const char *text) {
    static const char *const headers[] = {"auto", "yes", "no", NULL}; /* as enum csv_header */
    static const char *const bad_rows[] = {"error", "skip", NULL};
    int choice = 0, code = 0;
    if (strcmp(name, "delimiter") == 0) o->delimiter = text;
    if (strcmp(name, "user-column") == 0) o->user_column = text;
    if (strcmp(name, "item-column") == 0) o->item_column = text;
    if (strcmp(name, "rating-column") == 0) o->rating_column = text;
    if (strcmp(name, "header") == 0) {
        code = option_choice(name, text, headers, &choice);
        o->header = (enum csv_header)choice;
    }
    if (strcmp(name, "bad-rows") == 0) {
        code = option_choice(name, text, bad_rows, &choice);
        o->skip_bad_rows = choice == 1;
    }
    return code;
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
    const struct csv_chunk *chunk = &csv->chunk;
    const char *at = chunk->text + chunk->position, *limit = chunk->text + chunk->filled;
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

/* "FILE:LINE: what is wrong" with the first bad row of csv's own chunk. */
static int fail_at_row(const struct csv *csv) {
    const struct csv_chunk *chunk = &csv->chunk;
    return error_set(EX_DATAERR, "%s:%lld: %s", csv->name, (long long)(csv->line + chunk->bad_line),
                     chunk->bad);
}

/* Adds up what the own chunk has come across. */
static void settle(struct csv *csv) {
    struct csv_chunk *chunk = &csv->chunk;
    if (chunk->skipped && !csv->skipped) {
        snprintf(csv->first_skipped, sizeof csv->first_skipped, "%s:%lld: %s", csv->name,
                 (long long)(csv->line + chunk->bad_line), chunk->bad);
    }
    csv->skipped += chunk->skipped;
    csv->line += chunk->lines;
    chunk->skipped = chunk->lines = chunk->bad_line = 0;
    chunk->bad[0] = '\0';
}

/* Moves the chunk to the first record that can be read, with the delimiter known from there on. */
static int find_first_record(struct csv *csv, const char *delimiter) {
    struct csv_chunk *chunk = &csv->chunk;
    if (delimiter) strcpy(csv->delimiter, strcmp(delimiter, "\\t") == 0 ? "\t" : delimiter);
    csv->delimiter_length = strlen(csv->delimiter);
    for (;;) {
        skip_blank_lines(chunk);
        if (chunk->position >= chunk->size) {
            settle(csv);
            int code = csv_read(csv, chunk);
            if (code || !chunk->size) return code;
            continue;
        }
        bool found = delimiter || detect_delimiter(csv);
        parse(csv, chunk, chunk->position, FIELDS_MAX);
        if (found && !chunk->record->bad) return 0;
        int code = bad_row(csv, chunk, "%s",
                           chunk->record->bad
                               ? chunk->record->bad
                               : "no tab, ',' or '::' between fields; name the delimiter with --delimiter");
        if (code) return fail_at_row(csv);
        consume(chunk);
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
    const struct csv_chunk *chunk = &csv->chunk;
    const struct csv_record *r = chunk->record;
    bool text[COLUMNS] = {false};
    parse(csv, chunk, chunk->position, FIELDS_MAX);
    for (int c = 0; c < COLUMNS; c++) {
        if (columns[c] < 0 || columns[c] >= r->n) continue;
        const char *field = r->field[columns[c]];
        size_t length = r->length[columns[c]];
        if (c != RATING && is_usual_name((enum column)c, field, length)) return true;
        text[c] = !is_number(field, length);
    }
    size_t position = r->next;
    int rows = 0;
    while (rows < ROWS_AHEAD && position < chunk->filled) {
        parse(csv, chunk, position, FIELDS_MAX);
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

/* The column of that name in the header that the record holds; -1 if there is none. */
static int find_name(const struct csv *csv, const char *name) {
    const struct csv_record *r = csv->chunk.record;
    for (int i = 0; i < r->n; i++) {
        if (r->length[i] == strlen(name) && memcmp(r->field[i], name, r->length[i]) == 0) return i;
    }
    return -1;
}

static int unknown_column(const struct csv *csv, enum column column, const char *name) {
    const struct csv_record *r = csv->chunk.record;
    char names[TEXT_MAX] = "";
    size_t used = 0;
    for (int i = 0; i < r->n && used < sizeof names - 64; i++) {
        used += (size_t)snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "",
                                 quote(r->field[i], r->length[i]).text);
    }
    return error_set(EX_DATAERR, "%s:%lld: --%s-column %s: no such column; there are: %s", csv->name,
                     (long long)(csv->line + csv->chunk.lines), column_name[column], name, names);
}

static void describe_columns(struct csv *csv, bool header) {
    const struct csv_record *r = csv->chunk.record;
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
    struct csv_chunk *chunk = &csv->chunk;
    const struct csv_record *r = chunk->record;
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
    parse(csv, chunk, chunk->position, FIELDS_MAX);
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
    if (header) consume(chunk);
    return 0;
}

/* Chunks */

/* Up to size bytes of the text. */
static int take(struct csv *csv, char *to, size_t size, size_t *got) {
    size_t n = csv->pending_end - csv->pending_begin;
    if (n > size) n = size;
    if (n) memcpy(to, csv->pending + csv->pending_begin, n);
    csv->pending_begin += n;
    *got = n;
    if (n == size || csv->end) return 0;
    size_t more;
    int code = stream_read(csv->stream, to + n, size - n, &more);
    *got += more;
    csv->end = *got < size;
    return code;
}

/* Puts bytes before what is pending. */
static int put_back(struct csv *csv, const char *text, size_t size) {
    if (size > csv->pending_begin) {
        size_t left = csv->pending_end - csv->pending_begin;
        if (size + left > csv->pending_capacity) {
            char *grown = realloc(csv->pending, size + left);
            if (!grown) return error_memory("a file's buffer", size + left);
            csv->pending = grown;
            csv->pending_capacity = size + left;
        }
        if (left) memmove(csv->pending + size, csv->pending + csv->pending_begin, left);
        csv->pending_begin = size;
        csv->pending_end = size + left;
    }
    csv->pending_begin -= size;
    if (size) memcpy(csv->pending + csv->pending_begin, text, size);
    return 0;
}

/* Makes the chunk `size` bytes long, or as long as the text is. */
static int fill(struct csv *csv, struct csv_chunk *chunk, size_t size) {
    if (size + BLOCK > chunk->capacity) {
        char *grown = realloc(chunk->text, size + BLOCK);
        if (!grown) return error_memory("a file's buffer", size);
        chunk->text = grown;
        chunk->capacity = size + BLOCK;
    }
    size_t got = 0;
    int code = size > chunk->filled ? take(csv, chunk->text + chunk->filled, size - chunk->filled, &got) : 0;
    chunk->filled += got;
    chunk->last = csv->end && csv->pending_begin == csv->pending_end;
    return code;
}

/* The end of the last row that is whole within the chunk, or of the first one that ends at `room` or later; 0
 * if there is none yet. */
static size_t find_cut(const struct csv *csv, const struct csv_chunk *chunk, size_t room) {
    const char *text = chunk->text, *newline;
    size_t filled = chunk->filled, position = 0;
    if (!filled) return 0;
    if (!csv->delimiter_length || !memchr(text, '"', filled)) { /* not known yet: by lines */
        newline = memrchr(text, '\n', filled);
        size_t cut = chunk->last ? filled : newline ? (size_t)(newline - text) + 1 : 0;
        if (room >= cut) return cut;
        newline = memchr(text + room - 1, '\n', cut - (room - 1));
        return newline ? (size_t)(newline - text) + 1 : cut;
    }
    while (position < filled && position < room && (chunk->last || filled - position >= CSV_RECORD_MAX)) {
        parse(csv, chunk, position, 0);
        size_t next = next_record(chunk);
        if (next == filled && text[next - 1] != '\n' && !chunk->last) break; /* an overlong line goes on */
        position = next;
    }
    return position;
}

/* Of an overlong line that fills the chunk what the chunk needs to tell that, and its end. */
static int cut_line_short(struct csv *csv, struct csv_chunk *chunk) {
    int64_t dropped = 0;
    size_t got = 1;
    while (got) {
        char piece[4096], *newline;
        int code = take(csv, piece, sizeof piece, &got);
        if (code) return code;
        newline = memchr(piece, '\n', got);
        dropped += (int64_t)got;
        if (!newline) continue;
        size_t after = got - (size_t)(newline + 1 - piece);
        code = put_back(csv, newline + 1, after);
        if (code) return code;
        csv->offset = chunk->offset + (int64_t)chunk->filled + dropped - (int64_t)after;
        chunk->filled = CSV_RECORD_MAX + 1;
        chunk->text[chunk->filled++] = '\n';
        break;
    }
    if (!got) {
        csv->offset = chunk->offset + (int64_t)chunk->filled + dropped;
        chunk->filled = CSV_RECORD_MAX + 1; /* the file ends in it */
    }
    chunk->last = csv->end && csv->pending_begin == csv->pending_end;
    chunk->size = chunk->filled;
    return 0;
}

int csv_read(struct csv *csv, struct csv_chunk *chunk) {
    if (!chunk->record) chunk->record = malloc(sizeof *chunk->record);
    if (!chunk->unquoted) chunk->unquoted = malloc(CSV_RECORD_MAX);
    if (!chunk->record || !chunk->unquoted) return error_memory("a file's buffer", CSV_RECORD_MAX);
    chunk->offset = csv->offset;
    chunk->size = chunk->filled = chunk->position = 0;
    chunk->block = SIZE_MAX - BLOCK;
    chunk->lines = chunk->skipped = chunk->bad_line = 0;
    chunk->bad[0] = '\0';
    if (csv->offset >= csv->end_offset) return 0;
    size_t want = csv->chunk_size;
    uint64_t room = (uint64_t)(csv->end_offset - csv->offset);
    for (;;) {
        int code = fill(csv, chunk, want);
        if (code) return code;
        chunk->size = find_cut(csv, chunk, room < SIZE_MAX ? (size_t)room : SIZE_MAX);
        if (chunk->size || chunk->last) break;
        if (chunk->filled > CSV_RECORD_MAX + 1 && !memchr(chunk->text, '\n', chunk->filled)) {
            code = cut_line_short(csv, chunk);
            memset(chunk->text + chunk->filled, 0, BLOCK);
            return code;
        }
        want += CSV_RECORD_MAX;
    }
    csv->offset += (int64_t)chunk->size;
    memset(chunk->text + chunk->filled, 0, BLOCK);
    return put_back(csv, chunk->text + chunk->size, chunk->filled - chunk->size);
}

void csv_chunk_free(struct csv_chunk *chunk) {
    free(chunk->text);
    free(chunk->record);
    free(chunk->unquoted);
    *chunk = (struct csv_chunk){0};
}

bool csv_is_plain(const struct csv *csv, int64_t *size) {
    return stream_is_plain(csv->stream, size);
}

int csv_seek(struct csv *csv, int64_t begin, int64_t end, bool exact, int64_t *first) {
    if (begin <= csv->first_offset) {
        begin = csv->first_offset;
        exact = true;
    }
    csv->pending_begin = csv->pending_end = 0;
    csv->end = false;
    csv->end_offset = end;
    csv->offset = exact ? begin : begin - 1;
    int code = stream_seek(csv->stream, csv->offset);
    size_t got = exact ? 0 : 1;
    while (!code && got) {
        char piece[4096];
        code = take(csv, piece, sizeof piece, &got);
        if (code || !got) break;
        const char *newline = memchr(piece, '\n', got);
        size_t line = newline ? (size_t)(newline + 1 - piece) : got;
        csv->offset += (int64_t)line;
        if (!newline) continue;
        code = put_back(csv, piece + line, got - line);
        break;
    }
    *first = csv->offset;
    return code;
}

/* Opening */

int csv_open(const char *path, const struct csv_options *options, struct csv **result) {
    int code = csv_check_options(options);
    *result = NULL;
    if (code) return code;
    struct csv *csv = calloc(1, sizeof *csv);
    if (!csv) return error_memory("a file's buffer", sizeof *csv);
    struct csv_chunk *chunk = &csv->chunk;
    csv->line = 1;
    csv->skip_bad_rows = options->skip_bad_rows;
    csv->column[RATING] = -1;
    csv->end_offset = INT64_MAX;
    csv->chunk_size = START_SIZE;
    code = stream_open(path, &csv->stream);
    if (code) goto cleanup;
    csv->name = stream_name(csv->stream);
    code = csv_read(csv, chunk);
    if (!code && chunk->size >= 3 && memcmp(chunk->text, "\xef\xbb\xbf", 3) == 0) chunk->position = 3;
    if (!code && chunk->size) code = find_first_record(csv, options->delimiter);
    if (!code && chunk->size) code = find_columns(csv, options);
    if (code) goto cleanup;
    settle(csv);
    if (chunk->position < chunk->size) { /* the rest is to be read once more */
        code = put_back(csv, chunk->text + chunk->position, chunk->size - chunk->position);
        csv->offset -= (int64_t)(chunk->size - chunk->position);
    }
    csv->first_offset = csv->offset;
    csv->chunk_size = options->chunk_size ? options->chunk_size : CSV_CHUNK;
    chunk->size = chunk->position = 0;
cleanup:
    if (code) {
        csv_close(csv);
    } else {
        *result = csv;
    }
    return code;
}

/* Rows */

/* Which of 64 bytes are the delimiter, a line end, a quote or NUL. */
static uint64_t find_special(const char *text, char delimiter) {
    uint64_t mask = 0;
#if defined __AVX2__
    const __m256i d = _mm256_set1_epi8(delimiter), n = _mm256_set1_epi8('\n'), q = _mm256_set1_epi8('"');
    for (int i = 0; i < 2; i++) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(text + 32 * i));
        __m256i any = _mm256_or_si256(
            _mm256_or_si256(_mm256_cmpeq_epi8(x, d), _mm256_cmpeq_epi8(x, n)),
            _mm256_or_si256(_mm256_cmpeq_epi8(x, q), _mm256_cmpeq_epi8(x, _mm256_setzero_si256())));
        mask |= (uint64_t)(uint32_t)_mm256_movemask_epi8(any) << 32 * i;
    }
#elif defined __SSE2__
    const __m128i d = _mm_set1_epi8(delimiter), n = _mm_set1_epi8('\n'), q = _mm_set1_epi8('"');
    for (int i = 0; i < 4; i++) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(text + 16 * i));
        __m128i any =
            _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(x, d), _mm_cmpeq_epi8(x, n)),
                         _mm_or_si128(_mm_cmpeq_epi8(x, q), _mm_cmpeq_epi8(x, _mm_setzero_si128())));
        mask |= (uint64_t)(uint32_t)_mm_movemask_epi8(any) << 16 * i;
    }
#else
    for (int i = 0; i < 64; i++) {
        char c = text[i];
        mask |= (uint64_t)(c == delimiter || c == '\n' || c == '"' || c == '\0') << i;
    }
#endif
    return mask;
}

/* Sets the record to the row at the position, if it is an ordinary one: one line, no quote, no NUL, enough
 * fields. Else false, and nothing has changed. */
static bool parse_fast(const struct csv *csv, struct csv_chunk *chunk) {
    struct csv_record *r = chunk->record;
    const char *text = chunk->text;
    const size_t start = chunk->position, limit = chunk->size, more = csv->delimiter_length;
    const char delimiter = csv->delimiter[0];
    const int n_needed = csv->n_needed;
    size_t block = chunk->block, field = start;
    uint64_t mask = chunk->mask;
    int n = 0;
    if (start < block || start >= block + BLOCK) { /* not where the last ordinary row ended */
        block = start & ~(size_t)(BLOCK - 1);
        mask = find_special(text + block, delimiter) & ~UINT64_C(0) << (start - block);
    }
    for (;;) {
        while (!mask) {
            block += BLOCK;
            if (block >= limit) return false;
            mask = find_special(text + block, delimiter);
        }
        size_t at = block + (size_t)__builtin_ctzll(mask);
        if (at >= limit) return false;
        mask &= mask - 1;
        char c = text[at];
        if (c == delimiter) {
            if (more > 1 && (at < field || memcmp(text + at, csv->delimiter, more) != 0)) continue;
            if (n < n_needed) {
                r->field[n] = text + field;
                r->length[n++] = at - field;
            }
            field = at + more;
        } else if (c == '\n') {
            size_t end = at > field && text[at - 1] == '\r' ? at - 1 : at;
            if (n < n_needed) {
                if (end < field) return false;
                r->field[n] = text + field;
                r->length[n++] = end - field;
            }
            if (n < n_needed || at - start > CSV_RECORD_MAX - 1) return false;
            chunk->block = block;
            chunk->mask = mask;
            chunk->position = at + 1;
            chunk->lines++;
            return true;
        } else {
            return false;
        }
    }
}

/* Takes the row from the record; calls bad_row and leaves row->user NULL if it is bad. */
static int read_row(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *row) {
    const struct csv_record *r = chunk->record;
    const int *column = csv->column;
    if (r->bad) return bad_row(csv, chunk, "%s", r->bad);
    if (r->n < csv->n_needed) {
        return bad_row(csv, chunk, "fields: %d, needed: at least %d; the delimiter is '%s'", r->n,
                       csv->n_needed, csv->delimiter[0] == '\t' ? "tab" : csv->delimiter);
    }
    for (int c = USER; c <= ITEM; c++) {
        if (!r->length[column[c]]) return bad_row(csv, chunk, "the %s is empty", column_name[c]);
        if (r->length[column[c]] > CSV_ID_MAX) {
            return bad_row(csv, chunk, "the %s's id has %zu bytes, at most %d are allowed", column_name[c],
                           r->length[column[c]], CSV_ID_MAX);
        }
    }
    if (column[RATING] >= 0) {
        const char *text = r->field[column[RATING]];
        size_t length = r->length[column[RATING]];
        row->rating = parse_number(text, length);
        if (isnan(row->rating)) {
            return bad_row(csv, chunk,
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

/* The row in the record, if there is nothing to say about it. */
static bool read_fast(const struct csv *csv, const struct csv_chunk *chunk, struct csv_row *row) {
    const struct csv_record *r = chunk->record;
    const int user = csv->column[USER], item = csv->column[ITEM], rating = csv->column[RATING];
    if (r->length[user] - 1 >= CSV_ID_MAX || r->length[item] - 1 >= CSV_ID_MAX) return false;
    if (rating >= 0) {
        const char *text = r->field[rating];
        if (r->length[rating] == 3 && text[1] == '.' && text[0] >= '0' && text[0] <= '9' && text[2] >= '0' &&
            text[2] <= '9') {
            row->rating = (double)(10 * (text[0] - '0') + (text[2] - '0')) / 10;
        } else {
            row->rating = parse_number(text, r->length[rating]);
            if (isnan(row->rating)) return false;
        }
    }
    row->user = r->field[user];
    row->user_length = r->length[user];
    row->item = r->field[item];
    row->item_length = r->length[item];
    return true;
}

int csv_parse(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *row) {
    *row = (struct csv_row){.rating = 1};
    while (chunk->position < chunk->size) {
        size_t start = chunk->position;
        row->line = chunk->lines;
        if (parse_fast(csv, chunk)) {
            if (read_fast(csv, chunk, row)) return 0;
            chunk->position = start;
            chunk->lines--;
        }
        chunk->block = SIZE_MAX - BLOCK; /* its mask is of no use any more */
        skip_blank_lines(chunk);
        if (chunk->position >= chunk->size) break;
        parse(csv, chunk, chunk->position, csv->n_needed);
        row->line = chunk->lines;
        int code = read_row(csv, chunk, row);
        consume(chunk);
        if (code || row->user) return code;
    }
    return 0;
}

int csv_next(struct csv *csv, struct csv_row *row) {
    for (;;) {
        int code = csv_parse(csv, &csv->chunk, row);
        if (code) return fail_at_row(csv);
        if (row->user) {
            row->line += csv->line;
            return 0;
        }
        settle(csv);
        code = csv_read(csv, &csv->chunk);
        if (code || !csv->chunk.size) return code;
    }
}

int64_t csv_first_offset(const struct csv *csv) {
    return csv->first_offset;
}

int64_t csv_first_line(const struct csv *csv) {
    return csv->line;
}

int64_t csv_offset(const struct csv *csv) {
    return csv->offset;
}

void csv_progress(const struct csv *csv, int64_t *done, int64_t *total) {
    stream_progress(csv->stream, done, total);
}

const char *csv_name(const struct csv *csv) {
    return csv->name;
}

bool csv_has_ratings(const struct csv *csv) {
    return csv->column[RATING] >= 0;
}

bool csv_has_times(const struct csv *csv) {
    (void)csv;
    return false;
}

bool csv_has_events(const struct csv *csv) {
    (void)csv;
    return false;
}

int64_t csv_skipped(const struct csv *csv) {
    return csv->skipped + csv->chunk.skipped;
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
    csv_chunk_free(&csv->chunk);
    free(csv->pending);
    free(csv);
}
