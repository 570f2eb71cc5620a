/* See preview.h. */
#define _GNU_SOURCE /* memmem */
#include "preview.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "error.h"
#include "values.h"

enum { SHOWN_FIELDS = 8 };

bool preview_next(const struct preview *s, const struct syntax *syntax, const char **at) {
    while (*at < s->end) {
        fields_split(syntax, *at, s->end, s->whole, FIELDS_MAX, s->room, s->fields);
        *at = s->fields->next;
        if (s->fields->bad || s->fields->n > 1 || s->fields->length[0]) return true;
    }
    return false;
}

int64_t preview_line(const struct preview *s, char newline, const char *at) {
    int64_t line = 1;
    for (const char *p = s->start; p < at && (p = memchr(p, newline, (size_t)(at - p))); p++) line++;
    return line;
}

void preview_show_rows(const struct preview *s, const struct syntax *syntax, const char *at, int rows,
                       char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (int row = 0; row < rows && at < s->end; row++) {
        const char *start = at;
        if (!preview_next(s, syntax, &at)) break;
        const struct fields *f = s->fields;
        used += (size_t)snprintf(text + used, size - used, "%sline %lld:", row ? "; " : "",
                                 (long long)preview_line(s, syntax->newline, start));
        for (int i = 0; i < f->n_kept && i < SHOWN_FIELDS && used + 64 < size; i++) {
            used += (size_t)snprintf(text + used, size - used, "%s %d '", i ? "," : "", i + 1);
            used += fields_show(text + used, size - used, f->field[i], f->length[i]);
            used += (size_t)snprintf(text + used, size - used, "'");
        }
        if (f->n > SHOWN_FIELDS) used += (size_t)snprintf(text + used, size - used, ", ... (%d)", f->n);
        if (used + 64 >= size) break;
    }
}

__attribute__((format(printf, 4, 5))) int preview_undecided(const struct preview *s,
                                                            const struct syntax *syntax, const char *at,
                                                            const char *format, ...) {
    char rows[700], text[500];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    preview_show_rows(s, syntax, at, 2, rows, sizeof rows);
    return error_set(EX_DATAERR, "%s: %s; %s", s->name, text, rows);
}

bool preview_has(const struct preview *s, const char *text) {
    return memmem(s->at, (size_t)(s->end - s->at), text, strlen(text)) != NULL;
}

static bool is_epoch(double x) {
    return (x >= 6e8 && x < 4.2e9) || (x >= 6e11 && x < 4.2e12) || (x >= 6e14 && x < 4.2e15) ||
           (x >= 6e17 && x < 4.2e18);
}

int64_t preview_look(const struct preview *s, const struct dialect *d, const char *at, bool skip_first,
                     struct look look[LOOK_FIELDS]) {
    int64_t rows = 0;
    memset(look, 0, LOOK_FIELDS * sizeof *look);
    if (skip_first) preview_next(s, &d->syntax, &at);
    while (rows < LOOK_ROWS && preview_next(s, &d->syntax, &at)) {
        const struct fields *f = s->fields;
        if (f->bad || f->n != d->n_fields) continue;
        rows++;
        for (int i = 0; i < f->n_kept && i < LOOK_FIELDS; i++) {
            if (value_is_missing(f->field[i], f->length[i])) continue;
            double number = value_number(f->field[i], f->length[i], d->comma);
            bool digits = false;
            for (size_t c = 0; c < f->length[i]; c++) digits |= isdigit((unsigned char)f->field[i][c]) != 0;
            look[i].n++;
            look[i].n_digits += digits;
            look[i].n_numbers += !isnan(number);
            look[i].n_fractions +=
                !memchr(f->field[i], ',', f->length[i]) && (number < 0 || number > floor(number));
            look[i].n_epochs += is_epoch(number);
            look[i].n_dates += isnan(number) && !isnan(value_date(f->field[i], f->length[i]));
        }
    }
    for (int i = 0; i < LOOK_FIELDS; i++) {
        struct look *l = &look[i];
        if (!l->n) continue;
        l->numbers = 2 * l->n_numbers >= l->n;
        l->fractions = 2 * l->n_fractions >= l->n;
        l->epochs = 2 * l->n_epochs >= l->n;
        l->dates = 2 * l->n_dates >= l->n;
        l->digits = l->n_digits == l->n;
    }
    return rows;
}

int preview_compare_hashes(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}
