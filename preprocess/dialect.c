/* See dialect.h. Delimiter and quotes are found in syntax.c, columns in columns.c and keys.c; here are the
 * format and what else a file may begin with. */
#define _GNU_SOURCE /* memrchr */
#include "dialect.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "columns.h"
#include "error.h"
#include "events.h"
#include "foreign.h"
#include "ids.h"
#include "keys.h"
#include "preview.h"
#include "syntax.h"
#include "values.h"

enum { COMMENTS_MAX = 200, LIST_ROWS = 5000 };

void dialect_note(struct dialect *d, const char *format, ...) {
    size_t used = strlen(d->notes);
    va_list args;
    va_start(args, format);
    if (used && used + 3 < sizeof d->notes)
        used += (size_t)snprintf(d->notes + used, sizeof d->notes - used, "; ");
    vsnprintf(d->notes + used, sizeof d->notes - used, format, args);
    va_end(args);
}

/* What speaks for lists: each first field is there once, all fields are alike, and lines differ in length. */
struct list_look {
    int64_t rows;
    bool once;     /* no first field is there twice */
    bool integers; /* all fields are whole numbers */
    bool pairs;    /* all but the first are like 12:0.5 */
    int lengths;   /* different ones, of 3 at most */
    int longest;
};

static int look_at_lists(const struct preview *s, const struct syntax *syntax, struct list_look *look) {
    uint64_t *hash = malloc(LIST_ROWS * sizeof *hash);
    int seen[3];
    if (!hash) return error_memory("a sample of the file", LIST_ROWS * sizeof *hash);
    *look = (struct list_look){.once = true, .integers = true, .pairs = true};
    for (const char *at = s->at; look->rows < LIST_ROWS && preview_next(s, syntax, &at);) {
        const struct fields *f = s->fields;
        if (f->bad) continue;
        hash[look->rows++] = ids_hash(IDS_HASH_START, f->field[0], f->length[0]);
        for (int i = 0; i < f->n_kept; i++) {
            const char *field = f->field[i], *colon = memchr(field, ':', f->length[i]);
            for (size_t c = 0; c < f->length[i]; c++) look->integers &= isdigit((unsigned char)field[c]) != 0;
            if (!i) continue;
            look->pairs &= colon && colon > field &&
                           !isnan(value_number(field, (size_t)(colon - field), false)) &&
                           !isnan(value_number(colon + 1, f->length[i] - (size_t)(colon + 1 - field), false));
        }
        if (f->n > look->longest) look->longest = f->n;
        int k = 0;
        while (k < look->lengths && seen[k] != f->n) k++;
        if (k == look->lengths && k < 3) seen[look->lengths++] = f->n;
    }
    qsort(hash, (size_t)look->rows, sizeof *hash, preview_compare_hashes);
    for (int64_t i = 1; i < look->rows; i++) look->once &= hash[i] != hash[i - 1];
    look->pairs &= look->longest > 1;
    free(hash);
    return 0;
}

/* Are these lists, or rows? */
static int find_lists(const struct preview *s, struct dialect *d, const struct score *score) {
    struct list_look look = {0};
    const char *delimiter = d->syntax.delimiter;
    bool blanks = strcmp(delimiter, " ") == 0 || strcmp(delimiter, "\t") == 0;
    d->format = CSV_FORMAT_TEXT;
    if (s->options->content != CSV_INTERACTIONS || s->options->header == CSV_HEADER_YES ||
        s->options->user_column || s->options->item_column || s->options->rating_column ||
        s->options->time_column || s->options->events)
        return 0;
    bool ragged = 3 * score->wrong > score->rows || score->n < 2;
    bool ids = !ragged && strcmp(delimiter, " ") == 0 && score->n > 2 && !s->options->delimiter;
    if (!ragged && !ids) return 0;
    int code = look_at_lists(s, &d->syntax, &look);
    if (code) return code;
    if (blanks && look.pairs) {
        return preview_undecided(
            s, &d->syntax, s->at,
            "looks like libsvm's sparse rows, a label and index:value pairs, which are not read; want user "
            "and item a row");
    }
    if (ids && score->n <= 4) { /* are there times at the end? */
        struct look column[LOOK_FIELDS];
        d->n_fields = score->n;
        preview_look(s, d, s->at, false, column);
        if (column[score->n - 1].epochs || column[score->n - 1].dates) return 0;
    }
    bool varied = look.lengths > 2 || (look.lengths == 2 && look.longest > 5);
    bool endless = score->n > FIELDS_MAX; /* more fields than text may have */
    if (blanks && look.once && (endless || (ragged && varied && look.rows > 2))) {
        d->format = CSV_FORMAT_LISTS;
    } else if (ragged && look.longest > 2 && look.once && look.lengths > 1 &&
               (blanks || (varied && look.rows > 2))) {
        return preview_undecided(
            s, &d->syntax, s->at,
            "rows differ in their numbers of fields: --input-format lists reads a user and all "
            "of their items "
            "a line%s, --input-format text rows of as many fields each",
            blanks ? "" : ", --delimiter says what is between them");
    } else if (ids && look.once && look.integers && look.rows < LIST_ROWS && score->n > 2) {
        return preview_undecided(
            s, &d->syntax, s->at,
            "may be rows of user, item, rating ..., or lists of a user and all of their items: say "
            "--input-format text or --input-format lists");
    }
    return 0;
}

/* What is said about events. */
static int check_events(const struct preview *s, struct dialect *d) {
    const struct csv_options *o = s->options;
    if (o->events && d->column[NAME_EVENT] < 0 && !d->name[NAME_EVENT][0]) {
        return error_set(EX_USAGE, "%s: --events wants --event-column: no column has a usual name for it",
                         s->name);
    }
    struct events events = {0};
    int code = o->events ? events_parse(o->events, &events) : 0;
    if (!code && events.weighted) { /* these are the ratings */
        d->column[NAME_RATING] = -1;
        d->name[NAME_RATING][0] = '\0';
    }
    if (!o->events && (d->column[NAME_EVENT] >= 0 || d->name[NAME_EVENT][0])) {
        if (!columns_is_none(o->event_column)) {
            dialect_note(
                d,
                "events are not told apart: every row is an interaction, whatever '%s' says; --events "
                "view=1,buy=5 or "
                "--events buy tells them",
                d->name[NAME_EVENT]);
        }
        d->column[NAME_EVENT] = -1;
        d->name[NAME_EVENT][0] = '\0';
    }
    return code;
}

/* ---- blocks ---- */

bool dialect_is_block_head(const char *text, size_t length) {
    return length > 1 && length <= CSV_ID_MAX + 1 && text[length - 1] == ':' && !memchr(text, ',', length) &&
           !memchr(text, '\t', length) && !memchr(text, ' ', length) && !memchr(text, ':', length - 1) &&
           !memchr(text, '{', length);
}

/* Are the first two lines those of a block? */
static bool looks_like_blocks(const struct preview *s, const struct syntax *syntax) {
    struct syntax lines = {.newline = syntax->newline};
    const char *at = s->at;
    if (!preview_next(s, &lines, &at) || s->fields->bad ||
        !dialect_is_block_head(s->fields->field[0], s->fields->length[0]))
        return false;
    return preview_next(s, &lines, &at) && !s->fields->bad &&
           !dialect_is_block_head(s->fields->field[0], s->fields->length[0]);
}

static int find_block_columns(const struct preview *s, struct dialect *d) {
    struct look look[LOOK_FIELDS];
    syntax_set_delimiter(&d->syntax, s->options->delimiter  ? s->options->delimiter
                                     : preview_has(s, "\t") ? "\t"
                                                            : ",");
    struct score rows = syntax_score(s, &d->syntax); /* heads have one field */
    d->n_fields = rows.n;
    if (rows.n == 1) {
        const char *at = s->at;
        while (preview_next(s, &d->syntax, &at)) {
            if (!s->fields->bad && s->fields->n > 1) d->n_fields = s->fields->n;
        }
    }
    preview_look(s, d, s->at, false, look);
    d->column[NAME_USER] = 0;
    for (int i = 1; i < d->n_fields && i < 3; i++) {
        if (look[i].dates || look[i].epochs) {
            d->column[NAME_TIME] = i;
            d->dates = look[i].dates && !look[i].numbers;
        } else if (look[i].numbers && i == 1) {
            d->column[NAME_RATING] = i;
        }
    }
    return 0;
}

/* ---- the whole ---- */

/* Text that has no rows, or none that can be read: what it is instead. */
static int check_rows(const struct preview *s, const struct syntax *syntax, const struct score *score) {
    const char *at = s->at;
    if (s->options->delimiter || s->options->content != CSV_INTERACTIONS) return 0;
    if (score->n < 2 && preview_next(s, syntax, &at) && !s->fields->bad && *s->at == '"' &&
        s->fields->n == 1 && memchr(s->fields->field[0], ',', s->fields->length[0])) {
        return error_set(EX_DATAERR,
                         "%s: each row is in quotes as a whole; take these off: sed 's/^\"//; s/\"\\r*$//; "
                         "s/\"\"/\"/g' FILE | ... --input -",
                         s->name);
    }
    int rows = 0, keys = 0; /* "key: value" */
    for (at = s->at; rows < 20 && preview_next(s, syntax, &at); rows++) {
        const struct fields *f = s->fields;
        keys += f->n_kept && f->length[0] > 1 && f->field[0][f->length[0] - 1] == ':';
    }
    if (rows > 2 && keys == rows && strcmp(syntax->delimiter, " ") == 0) {
        return preview_undecided(
            s, syntax, s->at,
            "lines are a key and its value; want user and item in a row (docs/inputs.md shows "
            "how to make it so)");
    }
    return 0;
}

/* Past lines that say something about the file: Excel's "sep=;", comments. */
static void skip_preamble(struct preview *s, struct dialect *d, char *delimiter, size_t size) {
    struct syntax lines = {.newline = d->syntax.newline};
    const char *at = s->at;
    if (preview_next(s, &lines, &at) && s->fields->length[0] >= 5 && s->fields->length[0] < 5 + size - 1 &&
        memcmp(s->fields->field[0], "sep=", 4) == 0) {
        memcpy(delimiter, s->fields->field[0] + 4, s->fields->length[0] - 4);
        s->at = at;
    }
    int comments = 0;
    const char *after = s->at;
    for (at = s->at; comments <= COMMENTS_MAX && preview_next(s, &lines, &at); after = at) {
        const char *line = s->fields->field[0];
        if (s->fields->bad || (*line != '#' && *line != '%')) break;
        size_t mark = 1;
        while (mark < s->fields->length[0] && is_one_of(line[mark], "#% ")) mark++;
        bool user = false, item = false; /* a header behind a mark */
        for (const char *word = line + mark, *end = line + s->fields->length[0]; word < end;) {
            size_t n = 0;
            while (word + n < end && !is_one_of(word[n], ",;|\t ")) n++;
            user |= name_rank(NAME_USER, word, n) >= 0;
            item |= name_rank(NAME_ITEM, word, n) >= 0;
            word += n + 1;
        }
        if (user && item) {
            after = line + mark;
            comments++;
            break;
        }
        comments++;
    }
    if (!comments || comments > COMMENTS_MAX || after >= s->end) return;
    s->at = after;
    dialect_note(d, "%d line%s of comments at the top %s passed over", comments, comments == 1 ? "" : "s",
                 comments == 1 ? "is" : "are");
}

/* Past blank lines. */
static void skip_blank(struct preview *s) {
    while (s->at < s->end && is_one_of(*s->at, " \t\r\n")) {
        const char *line = s->at;
        while (line < s->end && is_one_of(*line, " \t")) line++;
        if (line < s->end && *line == '\r') line++;
        if (line < s->end && *line == '\n') line++;
        if (line == s->at || (line[-1] != '\n' && line[-1] != '\r')) return;
        s->at = line;
    }
}

/* JSON and blocks, which their first characters tell; else it is left open. */
static void find_format(const struct preview *s, struct dialect *d) {
    const struct csv_options *o = s->options;
    const char *brace = s->at;
    d->format = o->format;
    if (d->format != CSV_FORMAT_AUTO) return;
    while (brace < s->end && is_one_of(*brace, " \t")) brace++;
    if (brace < s->end && *brace == '{' && o->content != CSV_IDS) {
        d->format = CSV_FORMAT_JSON;
    } else if (o->content == CSV_INTERACTIONS && !o->user_column && looks_like_blocks(s, &d->syntax)) {
        d->format = CSV_FORMAT_BLOCKS;
    }
}

/* A file of ids: by their column, where there is a header with its name, else a line is an id. */
static int find_ids(const struct preview *s, struct dialect *d) {
    bool within = strcmp(d->syntax.delimiter, " ") == 0 || d->n_fields == 0; /* blanks are of the ids */
    if (within && !s->options->delimiter) {
        syntax_set_delimiter(&d->syntax, "");
        d->n_fields = 1;
    }
    int code = columns_find(s, d);
    if (!d->header) {
        syntax_set_delimiter(&d->syntax, "");
        d->n_fields = 1;
    }
    return code;
}

/* Text, or lists, if the user has not said which. */
static int find_text(const struct preview *s, struct dialect *d) {
    struct score score;
    int code = syntax_find(s, &d->syntax, &score);
    if (!code) code = check_rows(s, &d->syntax, &score);
    if (!code && d->format == CSV_FORMAT_AUTO) code = find_lists(s, d, &score);
    if (code || d->format != CSV_FORMAT_TEXT) return code;
    d->n_fields = score.n;
    if (score.n > FIELDS_MAX) {
        return error_set(
            EX_DATAERR,
            "%s: more than %d columns; if it is a matrix with a column an item, write a row for each "
            "user and item",
            s->name, FIELDS_MAX);
    }
    if (s->options->content == CSV_IDS) return find_ids(s, d);
    if (score.n > 1) return columns_find(s, d);
    return preview_undecided(
        s, &d->syntax, s->at,
        s->options->content == CSV_TITLES
            ? "want at least an id and a title in a row, with tab ; | :: or , between them"
            : "want at least a user and an item in a row, with tab ; | :: , or a blank between "
              "fields; --delimiter says what else is");
}

/* The user says that it is lists: what is between the fields, and is there a header? */
static int find_list_syntax(const struct preview *s, struct dialect *d) {
    const struct csv_options *o = s->options;
    struct score score;
    const char *delimiter = o->delimiter                                  ? o->delimiter
                            : preview_has(s, " ") || preview_has(s, "\t") ? " "
                                                                          : ",";
    int code = *delimiter == ',' && !o->delimiter ? syntax_find(s, &d->syntax, &score) : 0;
    syntax_set_delimiter(&d->syntax, delimiter);
    return code;
}

static int find(struct preview *s, struct dialect *d) {
    char delimiter[FIELDS_DELIMITER_MAX + 1] = "";
    struct csv_options with = *s->options;
    while (s->end - s->at >= 3 && memcmp(s->at, "\xef\xbb\xbf", 3) == 0) s->at += 3;
    size_t size = (size_t)(s->end - s->at);
    d->syntax =
        (struct syntax){.newline = !memchr(s->at, '\n', size) && memchr(s->at, '\r', size) ? '\r' : '\n'};
    if (!s->whole) { /* whole lines only */
        const char *newline = memrchr(s->at, d->syntax.newline, size);
        if (newline) s->end = newline + 1;
    }
    skip_preamble(s, d, delimiter, sizeof delimiter);
    if (*delimiter && !with.delimiter) with.delimiter = delimiter;
    s->options = &with;
    skip_blank(s);
    d->begin = (size_t)(s->at - s->start);
    const char *at = s->at;
    if (preview_next(s, &(struct syntax){.newline = d->syntax.newline}, &at) && s->fields->overlong) {
        return error_set(EX_DATAERR, "%s:%lld: the line is longer than 1 MiB", s->name,
                         (long long)preview_line(s, d->syntax.newline, s->at));
    }
    find_format(s, d);
    if (s->at >= s->end) {
        if (d->format == CSV_FORMAT_AUTO) d->format = CSV_FORMAT_TEXT;
        syntax_set_delimiter(&d->syntax, with.delimiter ? with.delimiter : ",");
        d->syntax.quoting = QUOTING_DOUBLED;
        d->column[NAME_USER] = 0;
        d->column[NAME_ITEM] = 1;
        return 0;
    }
    int code = d->format == CSV_FORMAT_JSON     ? keys_find(s, d)
               : d->format == CSV_FORMAT_BLOCKS ? find_block_columns(s, d)
               : d->format == CSV_FORMAT_LISTS  ? find_list_syntax(s, d)
                                                : find_text(s, d);
    if (!code && d->format == CSV_FORMAT_LISTS) {
        d->syntax.quoting = QUOTING_NONE;
        d->header = with.header == CSV_HEADER_YES;
        at = s->at;
        if (d->header && preview_next(s, &d->syntax, &at)) d->begin = (size_t)(at - s->start);
    }
    if (!code) code = check_events(s, d);
    d->lines = preview_line(s, d->syntax.newline, s->start + d->begin) - 1;
    return code;
}

int dialect_find(const char *sample, size_t size, bool whole, const char *name,
                 const struct csv_options *options, struct dialect *d) {
    *d = (struct dialect){0};
    for (int c = 0; c < NAMES; c++) d->column[c] = -1;
    const char *foreign = size ? foreign_name(sample, size) : NULL;
    if (foreign) return error_set(EX_DATAERR, "%s %s", name, foreign);
    struct preview s = {.start = sample,
                        .at = sample,
                        .end = sample + size,
                        .whole = whole,
                        .name = name,
                        .options = options,
                        .fields = malloc(sizeof *s.fields),
                        .room = malloc(FIELDS_RECORD_MAX)};
    int code = s.fields && s.room ? find(&s, d) : error_memory("a sample of the file", FIELDS_RECORD_MAX);
    free(s.fields);
    free(s.room);
    return code;
}

static const char *const format_name[] = {"auto", "text", "lists", "jsonl", "blocks"};

/* Can a column's name be printed? Quoted names may have line ends in them. */
static bool is_printable(const char *name) {
    for (const char *c = name; *c; c++) {
        if (iscntrl((unsigned char)*c)) return false;
    }
    return *name != '\0';
}

void dialect_describe(const struct dialect *d, char *text, size_t size) {
    static const char *const kind[] = {"", "text", "lists of a user and all of their items", "JSON lines",
                                       "blocks of an item"};
    static const char *const quoting[] = {"quotes are characters", "quotes as in RFC 4180",
                                          "quotes, with a backslash before those inside"};
    size_t used = (size_t)snprintf(text, size, "%s", kind[d->format]);
    if (d->format != CSV_FORMAT_JSON) {
        used += (size_t)snprintf(text + used, size - used,
                                 *d->syntax.delimiter ? ", delimiter '%s'" : ", a line is an id",
                                 syntax_delimiter_name(d->syntax.delimiter));
    }
    if (d->format == CSV_FORMAT_TEXT && d->syntax.quoting != QUOTING_DOUBLED) {
        used += (size_t)snprintf(text + used, size - used, ", %s", quoting[d->syntax.quoting]);
    }
    if (d->syntax.newline == '\r') used += (size_t)snprintf(text + used, size - used, ", lines end with CR");
    if (d->format == CSV_FORMAT_TEXT)
        used += (size_t)snprintf(text + used, size - used, ", %s", d->header ? "header" : "no header");
    const char *mark = "; ";
    for (int c = NAME_USER; c <= NAME_EVENT && used < size; c++) {
        if (is_printable(d->name[c])) {
            used += (size_t)snprintf(text + used, size - used, "%s%s '%s'", mark, name_of[c], d->name[c]);
        } else if (d->column[c] >= 0 && !(d->format == CSV_FORMAT_TEXT && d->n_fields == 1)) {
            used += (size_t)snprintf(text + used, size - used, "%s%s column %d", mark, name_of[c],
                                     d->column[c] + 1);
        } else if (c == NAME_RATING && d->format != CSV_FORMAT_LISTS) {
            used += (size_t)snprintf(text + used, size - used, "%sno ratings", mark);
        } else {
            continue;
        }
        mark = ", ";
    }
}

/* A word as a shell takes it. */
static size_t quote_word(char *text, size_t size, const char *word) {
    size_t used = 0;
    if (strcmp(word, "\t") == 0) word = "\\t";
    bool plain = *word != '\0';
    for (const char *c = word; *c; c++) plain &= isalnum((unsigned char)*c) || strchr("_-.,:/%=@+", *c);
    if (plain) return (size_t)snprintf(text, size, "%s", word);
    used += (size_t)snprintf(text, size, "'");
    for (const char *c = word; *c && used + 8 < size; c++)
        used += (size_t)snprintf(text + used, size - used, *c == '\'' ? "'\\''" : "%c", *c);
    return used + (size_t)snprintf(text + used, size - used, "'");
}

void dialect_options(const struct dialect *d, const struct csv_options *o, char *text, size_t size) {
    static const char *const quotes[] = {"none", "\"", "backslash"};
    size_t used = (size_t)snprintf(text, size, "--input-format %s", format_name[d->format]);
    if (d->format != CSV_FORMAT_JSON) {
        used += (size_t)snprintf(text + used, size - used, " --delimiter ");
        used += quote_word(text + used, size - used, d->syntax.delimiter);
    }
    if (d->format == CSV_FORMAT_TEXT) {
        used += (size_t)snprintf(text + used, size - used, " --quote ");
        used += quote_word(text + used, size - used, quotes[d->syntax.quoting]);
        used += (size_t)snprintf(text + used, size - used, " --header %s", d->header ? "yes" : "no");
    }
    for (int c = NAME_USER; c <= NAME_EVENT && used + 300 < size; c++) {
        if (d->format == CSV_FORMAT_LISTS || d->format == CSV_FORMAT_BLOCKS) break;
        if (!d->name[c][0] && d->column[c] < 0) {
            if (c == NAME_RATING || c == NAME_TIME)
                used += (size_t)snprintf(text + used, size - used, " --%s-column none", name_of[c]);
            continue;
        }
        used += (size_t)snprintf(text + used, size - used, " --%s-column ", name_of[c]);
        if (is_printable(d->name[c]) || d->column[c] < 0) {
            used += quote_word(text + used, size - used, d->name[c]);
        } else {
            used += (size_t)snprintf(text + used, size - used, "%d", d->column[c] + 1);
        }
    }
    if (o->events && used + 300 < size) {
        used += (size_t)snprintf(text + used, size - used, " --events ");
        quote_word(text + used, size - used, o->events);
    }
}

int dialect_compare(const struct dialect *a, const char *a_name, const struct dialect *b,
                    const char *b_name) {
    if (a->format != CSV_FORMAT_TEXT || b->format != CSV_FORMAT_TEXT || a->header == b->header) return 0;
    if (!a->n_fields || !b->n_fields ||
        memcmp(a->column, b->column, (NAME_RATING + 1) * sizeof *a->column) == 0)
        return 0; /* without rows, or alike */
    const struct dialect *with = a->header ? a : b;
    return error_set(
        EX_DATAERR,
        "%s has %s header, %s has %s, and by its header user and item would be other columns than by their "
        "places; say --user-column %d --item-column %d and so on, by number, for files without one",
        b_name, b->header ? "a" : "no", a_name, a->header ? "one" : "none", with->column[NAME_USER] + 1,
        with->column[NAME_ITEM] + 1);
}
