/* See fields.h. */
#define _GNU_SOURCE /* memmem */
#include "fields.h"

#include <stdio.h>
#include <string.h>

static bool by_blanks(const struct syntax *s) {
    return s->delimiter_length == 1 && s->delimiter[0] == ' ';
}

static bool at_delimiter(const struct syntax *s, const char *at, const char *limit) {
    return s->delimiter_length && (size_t)(limit - at) >= s->delimiter_length &&
           memcmp(at, s->delimiter, s->delimiter_length) == 0;
}

/* Where the field at `at` ends: at a delimiter, or with the line. */
static const char *field_end(const struct syntax *s, const char *at, const char *end) {
    const char *found = NULL;
    size_t size = (size_t)(end - at);
    if (by_blanks(s)) {
        while (at < end && !fields_is_blank(*at)) at++;
        return at;
    }
    if (s->delimiter_length == 1) found = memchr(at, s->delimiter[0], size);
    if (s->delimiter_length > 1) found = memmem(at, size, s->delimiter, s->delimiter_length);
    return found ? found : end;
}

static void add(struct fields *f, int most, const char *text, size_t length) {
    f->n++;
    if (f->n_kept == most || f->n_kept == FIELDS_MAX) return;
    f->field[f->n_kept] = text;
    f->length[f->n_kept++] = length;
}

static void add_unquoted(struct fields *f, int most, const char *text, const char *end) {
    while (text < end && fields_is_blank(*text)) text++;
    while (text < end && fields_is_blank(end[-1])) end--;
    if (memchr(text, '\r', (size_t)(end - text))) f->bad = "a carriage return within the line";
    add(f, most, text, (size_t)(end - text));
}

/* A quoted field whose opening quote is at `at`. Returns what follows the closing one, NULL if there is none.
 */
static const char *add_quoted(const struct syntax *s, struct fields *f, int most, const char *at,
                              const char *limit, char **room) {
    const char *start = ++at;
    char *copy = *room, *out = copy;
    bool copied = false;
    for (;;) {
        const char *quote = memchr(at, '"', (size_t)(limit - at)), *stop = quote;
        if (!quote) return NULL;
        bool escaped = false;
        if (s->quoting == QUOTING_BACKSLASH) {
            const char *backslash = memchr(at, '\\', (size_t)(quote - at));
            escaped = backslash != NULL;
            if (escaped) stop = backslash;
        }
        if (escaped && stop + 1 == limit) return NULL;
        bool doubled = !escaped && s->quoting == QUOTING_DOUBLED && quote + 1 < limit && quote[1] == '"';
        if (escaped || doubled || copied) {
            memcpy(out, at, (size_t)(stop - at));
            out += stop - at;
        }
        if (!escaped && !doubled) {
            add(f, most, copied ? copy : start, (size_t)(copied ? out - copy : quote - start));
            *room = out;
            return quote + 1;
        }
        if (escaped && stop[1] != '"' && stop[1] != '\\') *out++ = '\\'; /* one that escapes nothing */
        *out++ = stop[1];
        copied = true;
        at = stop + 2;
    }
}

/* The end of the line at `at`, before its line end; *next is behind that. NULL: it does not end before limit.
 */
static const char *line_end(const struct syntax *s, const char *at, const char *limit, const char **next) {
    const char *newline = memchr(at, s->newline, (size_t)(limit - at)), *end = newline ? newline : limit;
    *next = newline ? newline + 1 : limit;
    if (s->newline == '\n' && end > at && end[-1] == '\r') end--;
    return end;
}

static const char *find_control(const struct syntax *s, const char *at, const char *end) {
    for (; at < end; at++) {
        if (fields_is_control(*at) && *at != s->delimiter[0]) return at;
    }
    return NULL;
}

void fields_split(const struct syntax *s, const char *at, const char *limit, bool last, int most, char *room,
                  struct fields *f) {
    const char *start = at, *next;
    if (limit - at > FIELDS_RECORD_MAX) {
        limit = at + FIELDS_RECORD_MAX;
        last = false;
    }
    const char *end = line_end(s, at, limit, &next);
    f->n = f->n_kept = 0;
    f->lines = 1;
    f->quoted = false;
    f->next = next;
    f->overlong = next == limit && limit[-1] != s->newline && !last;
    f->bad = f->overlong ? "the line is longer than 1 MiB" : NULL;
    if (f->bad) return;
    const char *quoted_limit = s->multiline ? limit : end;
    for (;;) {
        while (at < end && fields_is_blank(*at) && !(at_delimiter(s, at, end) && !by_blanks(s))) at++;
        if (s->quoting != QUOTING_NONE && at < end && *at == '"') {
            f->quoted = true;
            at = add_quoted(s, f, most, at, quoted_limit, &room);
            if (!at) {
                f->bad = s->multiline
                             ? "a quoted field is not closed within the file and 1 MiB"
                             : "a quoted field is not closed in its line; --quote none takes quotes as they "
                               "are, --quote '\"' lets fields go over several lines";
                return;
            }
            if (at > end) end = line_end(s, at, limit, &next);
            while (at < end && fields_is_blank(*at) && !at_delimiter(s, at, end)) at++;
            if (at < end && !at_delimiter(s, at, end)) {
                f->bad = "text follows a closing quote; double the quotes within a field, or --quote none "
                         "takes quotes "
                         "as they are";
                return;
            }
        } else {
            const char *stop = field_end(s, at, end);
            add_unquoted(f, most, at, stop);
            at = stop;
        }
        if (by_blanks(s)) {
            while (at < end && fields_is_blank(*at)) at++;
            if (at == end) break;
        } else {
            if (at == end) break;
            at += s->delimiter_length;
        }
    }
    if (next == limit && limit[-1] != s->newline && !last) {
        f->bad = "the record is longer than 1 MiB";
        return;
    }
    if (next > f->next) {
        for (const char *p = start; p < end && (p = memchr(p, s->newline, (size_t)(end - p))); p++)
            f->lines++;
    }
    f->next = next;
    const char *control = most ? find_control(s, start, end) : NULL;
    if (control) {
        f->bad = *control ? "a control byte; want text in UTF-8 or another extension of ASCII"
                          : "a NUL byte; want text in UTF-8 or another extension of ASCII";
    }
}

size_t fields_show(char *text, size_t size, const char *field, size_t length) {
    char copy[36];
    size_t n = length < 32 ? length : 32;
    for (size_t i = 0; i < n; i++)
        copy[i] = (unsigned char)field[i] < 0x20 || field[i] == 0x7f ? '?' : field[i];
    memcpy(copy + n, length > n ? "..." : "", length > n ? 4 : 1);
    int used = snprintf(text, size, "%s", copy);
    return (size_t)used < size ? (size_t)used : size - 1;
}
