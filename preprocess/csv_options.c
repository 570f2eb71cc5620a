/* The options of csv.h, and the events among them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "csv.h"
#include "error.h"
#include "events.h"
#include "fields.h"
#include "options.h"
#include "values.h"

int events_parse(const char *text, struct events *e) {
    *e = (struct events){0};
    for (const char *at = text, *next; at; at = next) {
        at += strspn(at, " ");
        size_t length = strcspn(at, ",");
        next = at[length] ? at + length + 1 : NULL;
        const char *equal = memchr(at, '=', length);
        size_t name_length = equal ? (size_t)(equal - at) : length;
        double weight = equal ? value_number(equal + 1, length - name_length - 1, false) : 1;
        while (name_length && at[name_length - 1] == ' ') name_length--;
        if (!name_length || e->n == CSV_EVENTS_MAX || isnan(weight) || events_find(e, at, name_length) >= 0 ||
            (e->n && e->weighted != (equal != NULL))) {
            return error_set(
                EX_USAGE,
                "--events %s: want up to %d different names of events, like buy,cart, or each with its "
                "weight, like view=1,cart=3,buy=5",
                text, CSV_EVENTS_MAX);
        }
        e->weighted = equal != NULL;
        e->name[e->n] = at;
        e->length[e->n] = name_length;
        e->weight[e->n++] = weight;
    }
    return 0;
}

int events_find(const struct events *e, const char *name, size_t length) {
    for (int i = 0; i < e->n; i++) {
        if (e->length[i] == length && memcmp(e->name[i], name, length) == 0) return i;
    }
    return -1;
}

int csv_column_number(const char *column) {
    if (!column || !*column || strspn(column, "0123456789") != strlen(column)) return -1;
    long number = strtol(column, NULL, 10);
    return number > FIELDS_MAX ? FIELDS_MAX : (int)number - 1;
}

/* "0.01" or "1%". */
static int parse_part(const char *name, const char *text, double *part) {
    char *end;
    double number = strtod(text, &end);
    bool percent = *end == '%';
    if (percent) number /= 100;
    if (end == text || end[percent] || !(number >= 0 && number <= 1)) {
        return error_set(EX_USAGE, "--%s %s: want a part of the rows, like 0.01 or 1%%", name, text);
    }
    *part = number > 0 ? number : 1e-300; /* 0 says that it is not given */
    return 0;
}

int csv_set_option(struct csv_options *o, const char *name, const char *text) {
    static const char *const formats[] = {"auto",  "text",   "lists",
                                          "jsonl", "blocks", NULL}; /* as the enums have them */
    static const char *const headers[] = {"auto", "yes", "no", NULL};
    static const char *const bad_rows[] = {"error", "skip", NULL};
    const struct {
        const char *name, **text;
    } texts[] = {{"delimiter", &o->delimiter},
                 {"user-column", &o->user_column},
                 {"item-column", &o->item_column},
                 {"rating-column", &o->rating_column},
                 {"time-column", &o->time_column},
                 {"event-column", &o->event_column},
                 {"events", &o->events}};
    int choice = 0, code = 0;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (strcmp(name, texts[i].name) == 0) *texts[i].text = text;
    }
    if (strcmp(name, "quote") == 0) o->quote = strcmp(text, "auto") ? text : NULL;
    if (strcmp(name, "max-bad") == 0) code = parse_part(name, text, &o->max_bad);
    if (strcmp(name, "input-format") == 0) {
        code = option_choice(name, text, formats, &choice);
        o->format = (enum csv_format)choice;
    }
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

static int check_columns(const struct csv_options *o) {
    const struct {
        const char *name, *column;
        bool may_be_none;
    } columns[] = {{"user", o->user_column, false},
                   {"item", o->item_column, false},
                   {"rating", o->rating_column, true},
                   {"time", o->time_column, true},
                   {"event", o->event_column, true}};
    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
        const char *column = columns[c].column;
        if (!column) continue;
        int number = csv_column_number(column);
        bool none = strcmp(column, "none") == 0, by_name = number < 0 && !none;
        if (!*column || number == FIELDS_MAX || (number < 0 && *column == '0') ||
            (none && !columns[c].may_be_none)) {
            return error_set(EX_USAGE, "--%s-column %s: want a column's name or its number, 1 to %d",
                             columns[c].name, column, FIELDS_MAX);
        }
        if (by_name && o->header == CSV_HEADER_NO) {
            return error_set(EX_USAGE,
                             "--%s-column %s is a name, but --header no says that columns have none",
                             columns[c].name, column);
        }
        if (!by_name && !none && o->format == CSV_FORMAT_JSON) {
            return error_set(EX_USAGE, "--%s-column %s: JSON has no numbered columns; want a key",
                             columns[c].name, column);
        }
        if (o->format == CSV_FORMAT_LISTS || o->format == CSV_FORMAT_BLOCKS) {
            return error_set(EX_USAGE, "--%s-column does not go with --input-format lists or blocks",
                             columns[c].name);
        }
    }
    return 0;
}

int csv_check_options(const struct csv_options *o) {
    struct events events;
    if (o->delimiter) {
        size_t length = strlen(o->delimiter);
        if (!length || length > FIELDS_DELIMITER_MAX || strpbrk(o->delimiter, "\"\r\n")) {
            return error_set(EX_USAGE, "--delimiter: want 1 to %d characters without quotes or line ends",
                             FIELDS_DELIMITER_MAX);
        }
        if (o->format == CSV_FORMAT_JSON) return error_set(EX_USAGE, "--delimiter does not go with JSON");
    }
    if (o->quote && strcmp(o->quote, "none") && strcmp(o->quote, "\"") && strcmp(o->quote, "backslash")) {
        return error_set(
            EX_USAGE,
            "--quote %s: want auto, none, \" (doubled within a field), or backslash (before quotes "
            "within a field)",
            o->quote);
    }
    if (o->event_column && strcmp(o->event_column, "none") && !o->events) {
        return error_set(EX_USAGE, "--event-column wants --events, like view=1,cart=3,buy=5 or buy,cart");
    }
    if (o->events && o->event_column && strcmp(o->event_column, "none") == 0) {
        return error_set(EX_USAGE, "--events wants an --event-column");
    }
    int code = o->events ? events_parse(o->events, &events) : 0;
    if (!code && o->events && events.weighted && o->rating_column && strcmp(o->rating_column, "none")) {
        code = error_set(EX_USAGE,
                         "--rating-column does not go with weights of --events: those are the ratings");
    }
    return code ? code : check_columns(o);
}
