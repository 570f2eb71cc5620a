/* See csv.h.
 *
 * A chunk is cut where a row ends: at a line end, or, where quoted fields go over several lines, at the end
 * of a record found by going through them. Behind the cut the chunk holds what is needed to judge its last
 * record, so that every record is parsed in place, whatever the sizes of chunks. Ordinary rows take the fast
 * way through parse_fast; whatever is unusual about a row is left to fields_split. */
#define _GNU_SOURCE /* memrchr */
#include "csv.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "dialect.h"
#include "error.h"
#include "events.h"
#include "json.h"
#include "stream.h"
#include "syntax.h"
#include "values.h"

enum { START_SIZE = 4 * FIELDS_RECORD_MAX, TEXT_MAX = 512, BLOCK = 64, FAST_FIELDS = 16 };

struct csv {
    struct stream *stream;
    const char *name;
    struct dialect dialect;
    bool known; /* the dialect is */
    bool skip_bad_rows;
    double max_bad;
    struct events events;
    char quote;         /* what is special about a line; the line end where quotes are not */
    double tenths[100]; /* 0.0, 0.1 ... 9.9 */
    int n_needed;       /* fields of a row that matter */
    int n_keys;         /* of JSON, as key_of has them */
    struct json_key key[NAMES];
    int key_of[NAMES];        /* -1: none */
    size_t header_length;     /* of the user's column's name; 0: there is no header */
    bool no_headers;          /* names of columns are data, as the user says */
    int64_t rows, line;       /* rows passed on by csv_next; the line of the first chunk, or of csv_next's */
    struct csv_counts counts; /* of csv_next */
    size_t chunk_size;
    char *pending; /* text that was read and is in no chunk yet, owned */
    size_t pending_begin, pending_end, pending_capacity;
    int64_t offset, first_offset,
        end_offset;            /* of pending; of the first row; rows from there on are not ours */
    bool end;                  /* pending is the last of the file */
    char item[CSV_ID_MAX + 1]; /* the block's that the next chunk begins in */
    size_t item_length;
    struct csv_chunk chunk; /* of csv_next; at first the beginning of the file */
    char description[2 * TEXT_MAX];
};

void csv_counts_add(struct csv_counts *sum, const struct csv_counts *more, int64_t lines) {
    sum->skipped += more->skipped;
    sum->missing += more->missing;
    sum->negative += more->negative;
    sum->other_events += more->other_events;
    for (int i = 0; i < more->n_bad && sum->n_bad < CSV_BAD_SHOWN; i++) {
        sum->bad_line[sum->n_bad] = lines + more->bad_line[i];
        memcpy(sum->bad[sum->n_bad++], more->bad[i], sizeof more->bad[i]);
    }
}

/* ---- chunks ---- */

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

/* Where the record after chunk->record starts; with an overlong line, where that ends in the chunk. */
static const char *next_record(const struct csv *csv, const struct csv_chunk *chunk) {
    const struct fields *r = chunk->record;
    const char *end = chunk->text + chunk->filled;
    if (!r->overlong) return r->next;
    const char *newline = memchr(r->next, csv->dialect.syntax.newline, (size_t)(end - r->next));
    return newline ? newline + 1 : end;
}

/* The end of the last row that is whole within the chunk, or of the first one that ends at `room` or later; 0
 * if there is none yet. */
static size_t find_cut(const struct csv *csv, const struct csv_chunk *chunk, size_t room) {
    const char *text = chunk->text, *found;
    const char newline = csv->dialect.syntax.newline;
    size_t filled = chunk->filled;
    if (!filled) return 0;
    if (!csv->known || !csv->dialect.syntax.multiline || !memchr(text, '"', filled)) { /* by lines */
        found = memrchr(text, newline, filled);
        size_t cut = chunk->last ? filled : found ? (size_t)(found - text) + 1 : 0;
        if (room >= cut) return cut;
        found = memchr(text + room - 1, newline, cut - (room - 1));
        return found ? (size_t)(found - text) + 1 : cut;
    }
    const char *at = text, *end = text + filled;
    while (at < end && (size_t)(at - text) < room && (chunk->last || end - at >= FIELDS_RECORD_MAX)) {
        fields_split(&csv->dialect.syntax, at, end, chunk->last, 0, chunk->room, chunk->record);
        const char *next = next_record(csv, chunk);
        if (next == end && next[-1] != newline && !chunk->last) break; /* an overlong line goes on */
        at = next;
    }
    return (size_t)(at - text);
}

/* Of an overlong line that fills the chunk what the chunk needs to tell that, and its end. */
static int cut_line_short(struct csv *csv, struct csv_chunk *chunk) {
    int64_t dropped = 0;
    size_t got = 1;
    while (got) {
        char piece[4096], *newline;
        int code = take(csv, piece, sizeof piece, &got);
        if (code) return code;
        newline = memchr(piece, csv->dialect.syntax.newline, got);
        dropped += (int64_t)got;
        if (!newline) continue;
        size_t after = got - (size_t)(newline + 1 - piece);
        code = put_back(csv, newline + 1, after);
        if (code) return code;
        csv->offset = chunk->offset + (int64_t)chunk->filled + dropped - (int64_t)after;
        chunk->filled = FIELDS_RECORD_MAX + 1;
        chunk->text[chunk->filled++] = csv->dialect.syntax.newline;
        break;
    }
    if (!got) {
        csv->offset = chunk->offset + (int64_t)chunk->filled + dropped;
        chunk->filled = FIELDS_RECORD_MAX + 1; /* the file ends in it */
    }
    chunk->last = csv->end && csv->pending_begin == csv->pending_end;
    chunk->size = chunk->filled;
    return 0;
}

/* Of the last block that begins in the chunk, for the chunk after it. */
static void keep_block(struct csv *csv, struct csv_chunk *chunk) {
    struct fields *r = chunk->record;
    memcpy(chunk->item, csv->item, csv->item_length);
    chunk->item_length = csv->item_length;
    chunk->item_at = chunk->item;
    const char *end = chunk->text + chunk->size;
    while (end > chunk->text) {
        const char *stop = end - (end[-1] == csv->dialect.syntax.newline);
        const char *newline = memrchr(chunk->text, csv->dialect.syntax.newline, (size_t)(stop - chunk->text));
        const char *start = newline ? newline + 1 : chunk->text;
        while (stop > start && (stop[-1] == '\r' || fields_is_blank(stop[-1]))) stop--;
        if (stop > start && stop[-1] == ':') { /* does csv_parse take it for one? */
            fields_split(&csv->dialect.syntax, start, chunk->text + chunk->filled, chunk->last, FIELDS_MAX,
                         chunk->room, r);
            if (!r->bad && r->n == 1 && dialect_is_block_head(r->field[0], r->length[0])) {
                csv->item_length = r->length[0] - 1;
                memcpy(csv->item, r->field[0], csv->item_length);
                return;
            }
        }
        end = start;
    }
}

int csv_read(struct csv *csv, struct csv_chunk *chunk) {
    if (!chunk->record) chunk->record = malloc(sizeof *chunk->record);
    if (!chunk->room) chunk->room = malloc(FIELDS_RECORD_MAX + CSV_BEHIND);
    if (!chunk->record || !chunk->room) return error_memory("a file's buffer", FIELDS_RECORD_MAX);
    chunk->offset = csv->offset;
    chunk->size = chunk->filled = chunk->position = 0;
    chunk->block = SIZE_MAX - BLOCK;
    chunk->lines = 0;
    chunk->counts = (struct csv_counts){0};
    chunk->list_at = NULL;
    if (csv->offset >= csv->end_offset) return 0;
    size_t want = csv->chunk_size;
    uint64_t room = (uint64_t)(csv->end_offset - csv->offset);
    for (;;) {
        int code = fill(csv, chunk, want);
        if (code) return code;
        chunk->size = find_cut(csv, chunk, room < SIZE_MAX ? (size_t)room : SIZE_MAX);
        if (chunk->size || chunk->last) break;
        if (chunk->filled > FIELDS_RECORD_MAX + 1 &&
            !memchr(chunk->text, csv->dialect.syntax.newline, chunk->filled)) {
            code = cut_line_short(csv, chunk);
            memset(chunk->text + chunk->filled, 0, BLOCK);
            return code;
        }
        want += FIELDS_RECORD_MAX;
    }
    csv->offset += (int64_t)chunk->size;
    memset(chunk->text + chunk->filled, 0, BLOCK);
    if (csv->known && csv->dialect.format == CSV_FORMAT_BLOCKS) keep_block(csv, chunk);
    return put_back(csv, chunk->text + chunk->size, chunk->filled - chunk->size);
}

void csv_chunk_free(struct csv_chunk *chunk) {
    free(chunk->text);
    free(chunk->record);
    free(chunk->room);
    *chunk = (struct csv_chunk){0};
}

bool csv_is_plain(const struct csv *csv, int64_t *size) {
    return stream_is_plain(csv->stream, size) && csv->dialect.format != CSV_FORMAT_BLOCKS;
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
        const char *newline = memchr(piece, csv->dialect.syntax.newline, got);
        size_t line = newline ? (size_t)(newline + 1 - piece) : got;
        csv->offset += (int64_t)line;
        if (!newline) continue;
        code = put_back(csv, piece + line, got - line);
        break;
    }
    *first = csv->offset;
    return code;
}

/* ---- rows ---- */

/* Counts a bad row that starts in the chunk's current line; fails, unless bad rows are skipped. */
__attribute__((format(printf, 3, 4))) static int bad_row(const struct csv *csv, struct csv_chunk *chunk,
                                                         const char *format, ...) {
    char text[TEXT_MAX];
    struct csv_counts *c = &chunk->counts;
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    int place = c->n_bad < CSV_BAD_SHOWN ? c->n_bad++ : CSV_BAD_SHOWN - 1;
    if (c->skipped < CSV_BAD_SHOWN || !csv->skip_bad_rows) {
        c->bad_line[place] = chunk->lines;
        snprintf(c->bad[place], sizeof c->bad[place], "%.*s", (int)sizeof c->bad[place] - 1, text);
    }
    if (!csv->skip_bad_rows) return error_set(EX_DATAERR, "%s", text);
    c->skipped++;
    return 0;
}

/* A field as messages have it. */
struct shown {
    char text[40];
};
static struct shown shown(const char *field, size_t length) {
    struct shown s;
    fields_show(s.text, sizeof s.text, field, length);
    return s;
}

/* An id is to be there, and not too long. */
static int check_id(const struct csv *csv, struct csv_chunk *chunk, enum name name, const char *text,
                    size_t length) {
    if (!length) return bad_row(csv, chunk, "the %s is empty", name_of[name]);
    if (length == 2 && memcmp(text, "\\N", 2) == 0)
        return bad_row(csv, chunk, "the %s is \\N, none", name_of[name]);
    if (length > CSV_ID_MAX) {
        return bad_row(csv, chunk, "the %s's id has %zu bytes, at most %d are allowed", name_of[name], length,
                       CSV_ID_MAX);
    }
    for (size_t i = 0; i < length; i++) {
        if (fields_is_control(text[i]))
            return bad_row(csv, chunk, "a control byte in the %s's id", name_of[name]);
    }
    return 0;
}

/* What a row says, by column; NULL: it has no such column. */
struct values {
    const char *text[NAMES];
    size_t length[NAMES];
};

static bool is_text(const struct values *v, enum name name, const char *text) {
    return v->length[name] == strlen(text) && memcmp(v->text[name], text, v->length[name]) == 0;
}

static int read_rating(const struct csv *csv, struct csv_chunk *chunk, const char *text, size_t length,
                       struct csv_row *row) {
    row->rating = value_number(text, length, csv->dialect.comma);
    if (!isnan(row->rating)) {
        chunk->counts.negative += row->rating < 0;
        return 0;
    }
    if (value_is_missing(text, length)) {
        chunk->counts.missing++;
        return 0;
    }
    char where[32] = "";
    if (csv->dialect.column[NAME_RATING] >= 0) {
        snprintf(where, sizeof where, " in column %d", csv->dialect.column[NAME_RATING] + 1);
    }
    return bad_row(
        csv, chunk,
        "the rating '%s'%s is not a finite number%s; give --rating-column, or --rating-column none if there "
        "are no ratings",
        shown(text, length).text, where, memchr(text, ',', length) ? " (1,234 may be read in two ways)" : "");
}

/* Takes the row from its values; leaves row->user NULL if it is bad, or of another event. */
static int take_values(const struct csv *csv, struct csv_chunk *chunk, const struct values *v,
                       struct csv_row *row) {
    for (int c = NAME_USER; c <= NAME_ITEM; c++) {
        int64_t skipped = chunk->counts.skipped;
        int code = check_id(csv, chunk, (enum name)c, v->text[c], v->length[c]);
        if (code || chunk->counts.skipped > skipped) return code;
    }
    if (csv->events.n) {
        int event =
            v->text[NAME_EVENT] ? events_find(&csv->events, v->text[NAME_EVENT], v->length[NAME_EVENT]) : -1;
        if (event < 0) {
            chunk->counts.other_events++;
            return 0;
        }
        if (csv->events.weighted) row->rating = csv->events.weight[event];
    }
    if (v->text[NAME_RATING]) {
        int64_t skipped = chunk->counts.skipped;
        int code = read_rating(csv, chunk, v->text[NAME_RATING], v->length[NAME_RATING], row);
        if (code || chunk->counts.skipped > skipped) return code;
    }
    if (v->text[NAME_TIME]) {
        const char *text = v->text[NAME_TIME];
        size_t length = v->length[NAME_TIME];
        row->time =
            csv->dialect.dates ? value_date(text, length) : value_number(text, length, csv->dialect.comma);
        if (isnan(row->time)) {
            return bad_row(csv, chunk, "the time '%s' is not a %s; --time-column none does without",
                           shown(text, length).text,
                           csv->dialect.dates ? "date like 2005-09-06 12:30:59" : "number");
        }
    }
    row->user = v->text[NAME_USER];
    row->user_length = v->length[NAME_USER];
    row->item = v->text[NAME_ITEM];
    row->item_length = v->length[NAME_ITEM];
    return 0;
}

/* Which of 64 bytes are the delimiter, the quote or a control byte. */
static uint64_t find_special(const char *text, char delimiter, char quote_mark) {
    uint64_t mask = 0;
#if defined __AVX2__
    const __m256i d = _mm256_set1_epi8(delimiter), q = _mm256_set1_epi8(quote_mark),
                  c = _mm256_set1_epi8(0x1f), e = _mm256_set1_epi8(0x7f);
    for (int i = 0; i < 2; i++) {
        __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(text + 32 * i));
        __m256i any = _mm256_or_si256(
            _mm256_or_si256(_mm256_cmpeq_epi8(x, d), _mm256_cmpeq_epi8(x, q)),
            _mm256_or_si256(_mm256_cmpeq_epi8(_mm256_min_epu8(x, c), x), _mm256_cmpeq_epi8(x, e)));
        mask |= (uint64_t)(uint32_t)_mm256_movemask_epi8(any) << 32 * i;
    }
#elif defined __SSE2__
    const __m128i d = _mm_set1_epi8(delimiter), q = _mm_set1_epi8(quote_mark), c = _mm_set1_epi8(0x1f),
                  e = _mm_set1_epi8(0x7f);
    for (int i = 0; i < 4; i++) {
        __m128i x = _mm_loadu_si128((const __m128i *)(const void *)(text + 16 * i));
        __m128i any = _mm_or_si128(_mm_or_si128(_mm_cmpeq_epi8(x, d), _mm_cmpeq_epi8(x, q)),
                                   _mm_or_si128(_mm_cmpeq_epi8(_mm_min_epu8(x, c), x), _mm_cmpeq_epi8(x, e)));
        mask |= (uint64_t)(uint16_t)_mm_movemask_epi8(any) << 16 * i;
    }
#else
    for (int i = 0; i < 64; i++) {
        char c = text[i];
        mask |= (uint64_t)(c == delimiter || c == quote_mark || (unsigned char)c < 0x20 || c == 0x7f) << i;
    }
#endif
    return mask;
}

/* Is an id to be looked at: empty, long, with blanks around it, or \N? Other bytes below 0x20 are gone
 * already. */
static inline bool is_odd_id(const char *text, size_t length) {
    return length - 1 >= CSV_ID_MAX || (unsigned char)text[0] <= ' ' ||
           (unsigned char)text[length - 1] <= ' ' || (length == 2 && text[0] == '\\');
}

/* May it be a column's name? That is asked of every row, so it is a quick look. */
static inline bool is_like_name(const char *text, size_t length) {
    if (length < 3) return false;
    const char first = text[0] | 0x20, before = text[length - 2] | 0x20, last = text[length - 1] | 0x20;
    return (before == 'i' && last == 'd') ||
           (length == 4 && ((first == 'u' && last == 'r') || (first == 'i' && last == 'm')));
}

/* Do two fields of a row say user and item, in either order? */
static bool are_names(const char *one, size_t one_length, const char *two, size_t two_length) {
    return (name_rank(NAME_USER, one, one_length) >= 0 && name_rank(NAME_ITEM, two, two_length) >= 0) ||
           (name_rank(NAME_ITEM, one, one_length) >= 0 && name_rank(NAME_USER, two, two_length) >= 0);
}

/* A rating as most are written, else as value_number has it. */
static inline double fast_rating(const struct csv *csv, const char *text, size_t length) {
    const unsigned whole = (unsigned)(text[0] - '0');
    if (length == 1 && whole <= 9) return whole;
    const unsigned tenths = (unsigned)(text[2] - '0');
    if (length == 3 && text[1] == '.' && whole <= 9 && tenths <= 9) return csv->tenths[10 * whole + tenths];
    return value_number(text, length, csv->dialect.comma);
}

static inline double fast_time(const struct csv *csv, const char *text, size_t length) {
    if (csv->dialect.dates) return value_date(text, length);
    int64_t whole = value_whole(text, length);
    return whole >= 0 ? (double)whole : value_number(text, length, csv->dialect.comma);
}

/* The next rows, as long as they are ordinary ones: a line each, no quote, no control byte, as many fields as
 * the others, nothing to count. Returns how many; the position is behind them. */
static int parse_fast(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *rows, int max) {
    const struct syntax *syntax = &csv->dialect.syntax;
    const char *const text = chunk->text;
    const size_t limit = chunk->size, more = syntax->delimiter_length, header_length = csv->header_length;
    const char delimiter = syntax->delimiter[0], newline = syntax->newline, quote_mark = csv->quote;
    const bool blanks = delimiter == ' ' && more == 1;
    const int n_needed = csv->n_needed, n_fields = csv->dialect.n_fields;
    const int user_column = csv->dialect.column[NAME_USER], item_column = csv->dialect.column[NAME_ITEM],
              rating_column = csv->dialect.column[NAME_RATING], time_column = csv->dialect.column[NAME_TIME];
    const int64_t line = chunk->lines;
    const char *field[FAST_FIELDS];
    size_t length[FAST_FIELDS], start = chunk->position, block = chunk->block;
    uint64_t mask = chunk->mask;
    int n_rows = 0;
    if (!more || n_needed > FAST_FIELDS || csv->events.n || start >= limit) return 0;
    if (start < block || start >= block + BLOCK) { /* not where the last ordinary row ended */
        block = start & ~(size_t)(BLOCK - 1);
        mask = find_special(text + block, delimiter, quote_mark) & ~UINT64_C(0) << (start - block);
    }
    while (n_rows < max && start < limit) {
        size_t begin = start, at;
        int n = 0;
        for (;; mask &= mask - 1) {
            while (!mask) {
                block += BLOCK;
                if (block >= limit) goto slow;
                mask = find_special(text + block, delimiter, quote_mark);
            }
            at = block + (size_t)__builtin_ctzll(mask);
            const char c = text[at];
            if (c == delimiter) {
                if (more > 1 && (at < begin || memcmp(text + at, syntax->delimiter, more) != 0)) continue;
                if (blanks && at == begin) goto slow;
                if (n < n_needed) {
                    field[n] = text + begin;
                    length[n] = at - begin;
                }
                n++;
                begin = at + more;
            } else if (c == newline) {
                break;
            } else if (c == '\t' ? blanks : c != '\r' || text[at + 1] != '\n' || newline != '\n') {
                goto slow;
            }
        }
        if (at >= limit || n + 1 != n_fields || at - start > FIELDS_RECORD_MAX - 1) goto slow;
        if ((unsigned char)text[start] == 0xef) goto slow; /* a byte order mark? */
        mask &= mask - 1;
        size_t end = newline == '\n' && at > begin && text[at - 1] == '\r' ? at - 1 : at;
        if (end < begin || (blanks && end == begin)) goto slow;
        if (n < n_needed) {
            field[n] = text + begin;
            length[n] = end - begin;
        }
        struct csv_row *row = &rows[n_rows];
        row->user = field[user_column];
        row->item = field[item_column];
        row->user_length = length[user_column];
        row->item_length = length[item_column];
        row->rating = 1;
        row->time = 0;
        row->line = line + n_rows;
        if (is_odd_id(row->user, row->user_length) || is_odd_id(row->item, row->item_length)) goto slow;
        if (row->user_length == header_length && row->user[0] == csv->dialect.name[NAME_USER][0] &&
            memcmp(row->user, csv->dialect.name[NAME_USER], header_length) == 0)
            goto slow;
        if (is_like_name(row->user, row->user_length)) goto slow;
        if (rating_column >= 0) {
            row->rating = fast_rating(csv, field[rating_column], length[rating_column]);
            if (!(row->rating >= 0)) goto slow;
        }
        if (time_column >= 0) {
            row->time = fast_time(csv, field[time_column], length[time_column]);
            if (isnan(row->time)) goto slow;
        }
        start = at + 1;
        n_rows++;
    }
    chunk->mask = mask;
    chunk->block = block;
    goto done;
slow:
    chunk->block = SIZE_MAX - BLOCK; /* its mask is of no use any more */
done:
    chunk->position = start;
    chunk->lines += n_rows;
    return n_rows;
}

/* The row in the record of text or of a block; leaves row->user NULL if there is none. */
static int read_record(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *row) {
    const struct fields *r = chunk->record;
    const struct dialect *d = &csv->dialect;
    struct values v = {{NULL}, {0}};
    if (r->bad) return bad_row(csv, chunk, "%s", r->bad);
    if (d->format == CSV_FORMAT_BLOCKS && r->n == 1 && dialect_is_block_head(r->field[0], r->length[0])) {
        chunk->item_at = r->field[0];
        chunk->item_length = r->length[0] - 1;
        return 0;
    }
    if (r->n != d->n_fields) {
        return bad_row(csv, chunk, "fields: %d, the others have %d; the delimiter is '%s' (--delimiter)",
                       r->n, d->n_fields, syntax_delimiter_name(d->syntax.delimiter));
    }
    for (int c = 0; c < NAMES; c++) {
        if (d->column[c] < 0) continue;
        v.text[c] = r->field[d->column[c]];
        v.length[c] = r->length[d->column[c]];
    }
    if (d->format == CSV_FORMAT_BLOCKS) {
        v.text[NAME_ITEM] = chunk->item_at;
        v.length[NAME_ITEM] = chunk->item_length;
        if (!chunk->item_length)
            return bad_row(csv, chunk, "no line with an item's id and a colon is before it");
    }
    if (r->length[0] >= 3 && memcmp(r->field[0], "\xef\xbb\xbf", 3) == 0) {
        return bad_row(csv, chunk,
                       "a byte order mark within the file, as where two files were put together: give each "
                       "its own --input");
    }
    if (csv->header_length && is_text(&v, NAME_USER, d->name[NAME_USER]) &&
        is_text(&v, NAME_ITEM, d->name[NAME_ITEM])) {
        return bad_row(csv, chunk, "the header is here again");
    }
    if (d->format == CSV_FORMAT_TEXT && !csv->no_headers &&
        is_like_name(v.text[NAME_USER], v.length[NAME_USER]) &&
        are_names(v.text[NAME_USER], v.length[NAME_USER], v.text[NAME_ITEM], v.length[NAME_ITEM])) {
        return bad_row(csv, chunk,
                       "a header within the file, as where two files were put together: give each its own "
                       "--input");
    }
    return take_values(csv, chunk, &v, row);
}

static int read_json(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *row) {
    const struct fields *r = chunk->record;
    struct json_value value[NAMES];
    struct values v = {{NULL}, {0}};
    if (r->bad) return bad_row(csv, chunk, "%s", r->bad);
    const char *bad = json_find(r->field[0], r->length[0], csv->key, csv->n_keys, value, chunk->room);
    if (bad) return bad_row(csv, chunk, "%s", bad);
    for (int c = 0; c < NAMES; c++) {
        if (csv->key_of[c] < 0) continue;
        const struct json_value *x = &value[csv->key_of[c]];
        bool none = x->kind == JSON_MISSING || x->kind == JSON_NULL;
        if ((c == NAME_USER || c == NAME_ITEM) && none) {
            return bad_row(csv, chunk, "the %s '%s' is missing", name_of[c], csv->dialect.name[c]);
        }
        if (x->kind == JSON_OTHER) {
            return bad_row(csv, chunk, "the %s '%s' is an object or an array", name_of[c],
                           csv->dialect.name[c]);
        }
        v.text[c] = none ? "" : x->text;
        v.length[c] = none ? 0 : x->length;
    }
    return take_values(csv, chunk, &v, row);
}

/* The next field of a list. */
static void next_of_list(const struct csv *csv, const char **at, const char *end, const char **text,
                         size_t *length) {
    const struct syntax *s = &csv->dialect.syntax;
    const char *stop;
    while (*at < end && fields_is_blank(**at)) ++*at;
    *text = *at;
    if (s->delimiter_length == 1 && s->delimiter[0] == ' ') {
        for (stop = *at; stop < end && !fields_is_blank(*stop);) stop++;
        for (*at = stop; *at < end && fields_is_blank(**at);) ++*at;
    } else {
        stop = memmem(*at, (size_t)(end - *at), s->delimiter, s->delimiter_length);
        if (!stop) stop = end;
        *at = stop < end ? stop + s->delimiter_length : end;
    }
    while (stop > *text && fields_is_blank(stop[-1])) stop--;
    *length = (size_t)(stop - *text);
}

/* Begins the list in the record, or leaves it if its user is bad. */
static int begin_list(const struct csv *csv, struct csv_chunk *chunk) {
    const struct fields *r = chunk->record;
    const char *at = r->field[0], *end = at + r->length[0];
    if (r->bad) return bad_row(csv, chunk, "%s", r->bad);
    next_of_list(csv, &at, end, &chunk->list_user, &chunk->list_user_length);
    int64_t skipped = chunk->counts.skipped;
    int code = check_id(csv, chunk, NAME_USER, chunk->list_user, chunk->list_user_length);
    if (code || chunk->counts.skipped > skipped) return code;
    chunk->list_at = at;
    chunk->list_end = end;
    return 0;
}

/* The next item of the list that the chunk is in, if it has one more. */
static int read_list(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *row) {
    struct values v = {{chunk->list_user}, {chunk->list_user_length}};
    while (chunk->list_at && chunk->list_at < chunk->list_end) {
        next_of_list(csv, &chunk->list_at, chunk->list_end, &v.text[NAME_ITEM], &v.length[NAME_ITEM]);
        int code = take_values(csv, chunk, &v, row);
        if (code || row->user) return code;
    }
    chunk->list_at = NULL;
    return 0;
}

/* Moves past blank lines. */
static void skip_blank_lines(const struct csv *csv, struct csv_chunk *chunk) {
    const char end_mark = csv->dialect.syntax.newline;
    bool last = chunk->last && chunk->size == chunk->filled;
    for (;;) {
        const char *start = chunk->text + chunk->position, *end = chunk->text + chunk->size, *at = start;
        while (at < end && at - start < FIELDS_RECORD_MAX && *at == ' ') at++;
        if (at < end && *at == '\r' && end_mark == '\n' && (at + 1 < end ? at[1] == '\n' : last)) at++;
        bool newline = at < end && *at == end_mark;
        if (newline || (at == end && last)) chunk->position = (size_t)(at - chunk->text) + newline;
        if (!newline) return;
        chunk->lines++;
    }
}

/* Puts the line at the position into the record, as one field. */
static void take_line(const struct csv *csv, struct csv_chunk *chunk) {
    struct fields *r = chunk->record;
    const char *start = chunk->text + chunk->position, *limit = chunk->text + chunk->filled;
    bool last = chunk->last;
    if (limit - start > FIELDS_RECORD_MAX) {
        limit = start + FIELDS_RECORD_MAX;
        last = false;
    }
    const char *newline = memchr(start, csv->dialect.syntax.newline, (size_t)(limit - start));
    const char *end = newline ? newline : limit;
    r->lines = 1;
    r->next = newline ? newline + 1 : limit;
    r->overlong = !newline && !last;
    r->bad = r->overlong ? "the line is longer than 1 MiB" : NULL;
    while (start < end && fields_is_blank(*start)) start++;
    while (start < end && (fields_is_blank(end[-1]) || end[-1] == '\r')) end--;
    r->field[0] = start;
    r->length[0] = (size_t)(end - start);
}

/* The next row that is not an ordinary one. */
static int parse_slow(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *row) {
    const struct dialect *d = &csv->dialect;
    const bool by_line = d->format == CSV_FORMAT_JSON || d->format == CSV_FORMAT_LISTS;
    chunk->block = SIZE_MAX - BLOCK;
    skip_blank_lines(csv, chunk);
    if (chunk->position >= chunk->size) return 0;
    if (by_line) {
        take_line(csv, chunk);
    } else {
        fields_split(&d->syntax, chunk->text + chunk->position, chunk->text + chunk->filled, chunk->last,
                     FIELDS_MAX, chunk->room, chunk->record);
    }
    row->line = chunk->lines;
    int code = d->format == CSV_FORMAT_JSON    ? read_json(csv, chunk, row)
               : d->format == CSV_FORMAT_LISTS ? begin_list(csv, chunk)
                                               : read_record(csv, chunk, row);
    chunk->position = (size_t)(next_record(csv, chunk) - chunk->text);
    if (!code && chunk->list_at) code = read_list(csv, chunk, row);
    chunk->lines += chunk->record->lines;
    return code;
}

int csv_parse(const struct csv *csv, struct csv_chunk *chunk, struct csv_row *rows, int max, int *n) {
    *n = 0;
    *rows = (struct csv_row){.rating = 1};
    if (chunk->list_at) {
        rows->line = --chunk->lines; /* of the line that was begun */
        int code = read_list(csv, chunk, rows);
        chunk->lines++;
        *n = rows->user != NULL;
        if (code || *n) return code;
    }
    while (chunk->position < chunk->size) {
        if (csv->dialect.format == CSV_FORMAT_TEXT) *n = parse_fast(csv, chunk, rows, max);
        if (*n) return 0;
        *rows = (struct csv_row){.rating = 1};
        int code = parse_slow(csv, chunk, rows);
        *n = rows->user != NULL;
        if (code || *n) return code;
    }
    return 0;
}

/* "FILE:LINE: what is wrong" with the last bad row. */
static int fail_at_row(const struct csv *csv, const struct csv_counts *c) {
    int last = c->n_bad - 1;
    return error_set(EX_DATAERR, "%s:%" PRId64 ": %s", csv->name, csv->line + c->bad_line[last],
                     c->bad[last]);
}

int csv_check_bad(const struct csv *csv, int64_t rows, const struct csv_counts *c) {
    if (!c->skipped || (double)c->skipped <= csv->max_bad * (double)(rows + c->skipped)) return 0;
    return error_set(EX_DATAERR,
                     "%s: %" PRId64 " of %" PRId64
                     " rows are bad, more than --max-bad %g%%; the first, in line %" PRId64 ": %s",
                     csv->name, c->skipped, rows + c->skipped, csv->max_bad < 1e-12 ? 0 : 100 * csv->max_bad,
                     c->bad_line[0], c->bad[0]);
}

int csv_next(struct csv *csv, struct csv_row *row) {
    for (;;) {
        int n, code = csv_parse(csv, &csv->chunk, row, 1, &n);
        if (code) return csv->chunk.counts.n_bad ? fail_at_row(csv, &csv->chunk.counts) : code;
        if (n) {
            row->line += csv->line;
            csv->rows++;
            return 0;
        }
        csv_counts_add(&csv->counts, &csv->chunk.counts, csv->line);
        csv->line += csv->chunk.lines;
        code = csv_read(csv, &csv->chunk);
        if (!code && !csv->chunk.size) return csv_check_bad(csv, csv->rows, &csv->counts);
        if (code) return code;
    }
}

/* ---- opening ---- */

/* What is derived from the dialect. */
static int prepare(struct csv *csv, const struct csv_options *options) {
    struct dialect *d = &csv->dialect;
    csv->known = true;
    for (int i = 0; i < 100; i++) csv->tenths[i] = i / 10.0;
    csv->quote = d->syntax.quoting == QUOTING_NONE ? d->syntax.newline : '"';
    csv->header_length = d->format == CSV_FORMAT_TEXT && d->header ? strlen(d->name[NAME_USER]) : 0;
    csv->no_headers = options->header == CSV_HEADER_NO || options->content != CSV_INTERACTIONS;
    for (int c = 0; c < NAMES; c++) {
        csv->key_of[c] = -1;
        if (d->column[c] >= csv->n_needed) csv->n_needed = d->column[c] + 1;
        if (d->format != CSV_FORMAT_JSON || !d->name[c][0]) continue;
        csv->key_of[c] = csv->n_keys;
        csv->key[csv->n_keys++] = (struct json_key){d->name[c], strlen(d->name[c])};
    }
    return options->events ? events_parse(options->events, &csv->events) : 0;
}

static size_t show_id(char *text, size_t size, const char *name, const char *id, size_t length) {
    return (size_t)snprintf(text, size, "%s '%s'", name, shown(id, length).text);
}

/* Describes what was found, with the first row. */
static void describe(struct csv *csv, const struct csv_row *row) {
    char *text = csv->description;
    const size_t size = sizeof csv->description;
    dialect_describe(&csv->dialect, text, size);
    size_t used = strlen(text);
    if (!row || used + 256 > size) return;
    used += (size_t)snprintf(text + used, size - used, "; first row: ");
    if (csv->dialect.column[NAME_USER] != csv->dialect.column[NAME_ITEM] ||
        csv->dialect.column[NAME_USER] < 0) {
        used += show_id(text + used, size - used, "user", row->user, row->user_length);
        used += (size_t)snprintf(text + used, size - used, ", ");
    }
    used += show_id(text + used, size - used, "item", row->item, row->item_length);
    if (csv_has_ratings(csv)) {
        used += isnan(row->rating) ? (size_t)snprintf(text + used, size - used, ", no rating")
                                   : (size_t)snprintf(text + used, size - used, ", rating %g", row->rating);
    }
    if (csv_has_times(csv)) snprintf(text + used, size - used, ", time %.15g", row->time);
}

/* Finds what the file is by the text that the chunk has, and goes to the first row. */
static int recognise(struct csv *csv, const struct csv_options *options) {
    struct csv_chunk *chunk = &csv->chunk;
    struct csv_row row = {0};
    int n = 0;
    size_t sample = chunk->filled;
    bool whole = chunk->last;
    if (sample > DIALECT_SAMPLE &&
        (memchr(chunk->text, '\n', DIALECT_SAMPLE) || memchr(chunk->text, '\r', DIALECT_SAMPLE))) {
        sample = DIALECT_SAMPLE;
        whole = false;
    }
    int code = dialect_find(chunk->text, sample, whole, csv->name, options, &csv->dialect);
    if (!code) code = prepare(csv, options);
    if (code) return code;
    chunk->position = csv->dialect.begin;
    chunk->item_at = chunk->item;
    if (csv_parse(csv, chunk, &row, 1, &n)) n = 0;
    describe(csv, n ? &row : NULL);
    chunk->list_at = NULL;
    chunk->item_length = 0;
    csv->line = 1 + csv->dialect.lines;
    if (csv->dialect.begin >= chunk->size) return 0;
    csv->offset -= (int64_t)(chunk->size - csv->dialect.begin);
    return put_back(csv, chunk->text + csv->dialect.begin, chunk->size - csv->dialect.begin);
}

int csv_open(const char *path, const struct csv_options *options, struct csv **result) {
    int code = csv_check_options(options);
    *result = NULL;
    if (code) return code;
    struct csv *csv = calloc(1, sizeof *csv);
    if (!csv) return error_memory("a file's buffer", sizeof *csv);
    csv->skip_bad_rows = options->skip_bad_rows;
    csv->max_bad = options->max_bad > 0 ? options->max_bad : 0.01;
    csv->end_offset = INT64_MAX;
    csv->chunk_size = START_SIZE;
    csv->dialect.syntax.newline = '\n';
    code = stream_open(path, &csv->stream);
    if (code) goto cleanup;
    csv->name = stream_name(csv->stream);
    code = csv_read(csv, &csv->chunk);
    if (!code) code = recognise(csv, options);
    if (code) goto cleanup;
    csv->first_offset = csv->offset;
    csv->chunk_size = options->chunk_size ? options->chunk_size : CSV_CHUNK;
    csv->chunk.size = csv->chunk.position = 0;
    csv->chunk.lines = 0;
    csv->chunk.counts = (struct csv_counts){0};
cleanup:
    if (code) {
        csv_close(csv);
    } else {
        *result = csv;
    }
    return code;
}

int csv_inspect(const char *path, const struct csv_options *options) {
    struct csv *csv;
    struct csv_row row;
    char text[2048];
    int code = csv_open(path, options, &csv);
    if (code) return code;
    const struct dialect *d = &csv->dialect;
    dialect_describe(d, text, sizeof text);
    printf("%s: %s\n", csv->name, text);
    if (d->notes[0]) printf("note: %s\n", d->notes);
    for (int i = 0; i < 5 && !code && !(code = csv_next(csv, &row)) && row.user; i++) {
        printf("line %" PRId64 ": user %.*s, item %.*s", row.line, (int)row.user_length, row.user,
               (int)row.item_length, row.item);
        if (csv_has_ratings(csv)) printf(isnan(row.rating) ? ", no rating" : ", rating %g", row.rating);
        if (csv_has_times(csv)) printf(", time %.15g", row.time);
        putchar('\n');
    }
    dialect_options(d, options, text, sizeof text);
    printf("options: %s\n", text);
    csv_close(csv);
    return code;
}

/* ---- what there is to know ---- */

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
    return csv->dialect.column[NAME_RATING] >= 0 || csv->key_of[NAME_RATING] >= 0 || csv_has_events(csv);
}

bool csv_has_times(const struct csv *csv) {
    return csv->dialect.column[NAME_TIME] >= 0 || csv->key_of[NAME_TIME] >= 0;
}

bool csv_has_events(const struct csv *csv) {
    return csv->events.weighted;
}

const struct csv_counts *csv_counts(const struct csv *csv) {
    return &csv->counts;
}

const char *csv_description(const struct csv *csv) {
    return csv->description;
}

const char *csv_notes(const struct csv *csv) {
    return csv->dialect.notes;
}

const struct dialect *csv_dialect(const struct csv *csv) {
    return &csv->dialect;
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
