/* See dialect.h.
 *
 * Text is split in every way that its characters allow, and the way in which the rows agree wins. Columns go
 * by their names where there is a header, else by position as far as what is in them fits. Wherever two
 * readings are left, or none, the user is asked. */
#define _GNU_SOURCE /* memmem, memrchr */
#include "dialect.h"

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "error.h"
#include "events.h"
#include "foreign.h"
#include "ids.h"
#include "json.h"
#include "values.h"

enum {
    LOOK_ROWS = 1000,
    LOOK_FIELDS = 64,
    KEYS_MAX = 128,
    COMMENTS_MAX = 200,
    LIST_ROWS = 5000,
    SHOWN_FIELDS = 8
};

/* The sample and what is needed to go through it. [at, end) are whole lines, unless the file ends at `end`.
 */
struct sample {
    const char *start, *at, *end;
    bool whole;
    const char *name;
    const struct csv_options *options;
    struct fields *fields;
    char *room; /* [FIELDS_RECORD_MAX] */
};

/* How well a syntax fits. */
struct score {
    int n; /* fields of most rows */
    int64_t rows;
    int64_t wrong;                /* that cannot be read or have another number of fields */
    int64_t quoted;               /* with a quoted field */
    bool last_wrong;              /* the last one is, */
    int64_t n_bad;                /* and so many cannot be read */
    int64_t continued, swallowed; /* lines that go on in quotes; of these, those of records whose lines are
                                     all rows by themselves */
};

/* What the rows below the first have in a column. A few values that do not fit are rows to be told by their
 * line, so most of them decide. */
struct look {
    int64_t n; /* values that are not missing; of these are */
    int64_t n_numbers, n_fractions, n_dates, n_epochs, n_digits; /* n_digits: have a digit in them */
    bool numbers, fractions, dates, epochs;                      /* at least half of them are */
    bool digits;                                                 /* all of them have one */
};

static bool is_one_of(char c, const char *set) {
    return c && strchr(set, c);
}

/* ---- going through the sample ---- */

/* The next record from *at on, past blank lines; false at the end. */
static bool next_record(const struct sample *s, const struct syntax *syntax, const char **at) {
    while (*at < s->end) {
        fields_split(syntax, *at, s->end, s->whole, FIELDS_MAX, s->room, s->fields);
        *at = s->fields->next;
        if (s->fields->bad || s->fields->n > 1 || s->fields->length[0]) return true;
    }
    return false;
}

static int64_t line_of(const struct sample *s, char newline, const char *at) {
    int64_t line = 1;
    for (const char *p = s->start; p < at && (p = memchr(p, newline, (size_t)(at - p))); p++) line++;
    return line;
}

/* A field as messages have it: short, without control bytes. */
static size_t show(char *text, size_t size, const char *field, size_t length) {
    char copy[28];
    size_t n = length < 20 ? length : 20;
    for (size_t i = 0; i < n; i++)
        copy[i] = fields_is_control(field[i]) || field[i] == '\n' || field[i] == '\r' ? '?' : field[i];
    memcpy(copy + n, length > n ? "..." : "", length > n ? 4 : 1);
    int used = snprintf(text, size, "%s", copy);
    return (size_t)used < size ? (size_t)used : size - 1;
}

/* The rows at `at`, as they would be split: "line 1: 1 'u1', 2 'i1'; line 2: ...". */
static void show_rows(const struct sample *s, const struct syntax *syntax, const char *at, int rows,
                      char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (int row = 0; row < rows && at < s->end; row++) {
        const char *start = at;
        if (!next_record(s, syntax, &at)) break;
        const struct fields *f = s->fields;
        used += (size_t)snprintf(text + used, size - used, "%sline %lld:", row ? "; " : "",
                                 (long long)line_of(s, syntax->newline, start));
        for (int i = 0; i < f->n_kept && i < SHOWN_FIELDS && used + 64 < size; i++) {
            used += (size_t)snprintf(text + used, size - used, "%s %d '", i ? "," : "", i + 1);
            used += show(text + used, size - used, f->field[i], f->length[i]);
            used += (size_t)snprintf(text + used, size - used, "'");
        }
        if (f->n > SHOWN_FIELDS) used += (size_t)snprintf(text + used, size - used, ", ... (%d)", f->n);
        if (used + 64 >= size) break;
    }
}

/* The user is to say what the sample does not. */
__attribute__((format(printf, 4, 5))) static int
undecided(const struct sample *s, const struct syntax *syntax, const char *at, const char *format, ...) {
    char rows[700], text[500];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    show_rows(s, syntax, at, 2, rows, sizeof rows);
    return error_set(EX_DATAERR, "%s: %s; %s", s->name, text, rows);
}

__attribute__((format(printf, 2, 3))) static void add_note(struct dialect *d, const char *format, ...) {
    size_t used = strlen(d->notes);
    va_list args;
    va_start(args, format);
    if (used && used + 3 < sizeof d->notes)
        used += (size_t)snprintf(d->notes + used, sizeof d->notes - used, "; ");
    vsnprintf(d->notes + used, sizeof d->notes - used, format, args);
    va_end(args);
}

/* ---- delimiter and quotes ---- */

static struct score score(const struct sample *s, const struct syntax *syntax) {
    int64_t rows[FIELDS_MAX + 2] = {0}; /* by their number of fields */
    struct score score = {0};
    int first = 0;
    for (const char *at = s->at; next_record(s, syntax, &at);) {
        const struct fields *f = s->fields;
        int n = f->n < FIELDS_MAX + 1 ? f->n : FIELDS_MAX + 1;
        score.rows++;
        score.quoted += f->quoted;
        score.n_bad += f->bad != NULL;
        score.last_wrong = f->bad != NULL;
        if (f->bad) continue;
        rows[n]++;
        if (!first) first = n;
        score.continued += f->lines - 1;
    }
    score.n = first; /* with as many rows of another number, the first row counts, if it has a delimiter */
    for (int n = 1; n < FIELDS_MAX + 2; n++) {
        if (rows[n] > rows[score.n] || (first == 1 && rows[n] && rows[n] == rows[score.n])) score.n = n;
    }
    score.wrong = score.rows - (score.rows ? rows[score.n] : 0);
    if (!score.continued) return score;
    struct syntax raw = *syntax;
    raw.quoting = QUOTING_NONE;
    for (const char *at = s->at, *start = at; next_record(s, syntax, &at); start = at) {
        if (s->fields->bad || s->fields->lines == 1) continue;
        bool rows_all = true; /* is each of its lines a row by itself? */
        int64_t lines = s->fields->lines;
        for (const char *line = start, *end = at; line < end && next_record(s, &raw, &line);) {
            rows_all &= !s->fields->bad && s->fields->n == score.n;
        }
        score.swallowed += rows_all ? lines - 1 : 0;
    }
    return score;
}

/* a/b against c/d. */
static bool is_less(int64_t a, int64_t b, int64_t c, int64_t d) {
    return (double)a * (double)d < (double)c * (double)b;
}

static bool has(const struct sample *s, const char *text) {
    return memmem(s->at, (size_t)(s->end - s->at), text, strlen(text)) != NULL;
}

/* Sets what quotes mean with this delimiter. *asks: what the user has to decide, if anything. */
static struct score choose_quoting(const struct sample *s, struct syntax *syntax, const char **asks) {
    const char *given = s->options->quote;
    *asks = NULL;
    syntax->quoting = QUOTING_DOUBLED;
    syntax->multiline = given != NULL;
    if (given && strcmp(given, "none") == 0) syntax->quoting = QUOTING_NONE;
    if (given && strcmp(given, "backslash") == 0) syntax->quoting = QUOTING_BACKSLASH;
    if (given || !has(s, "\"")) return score(s, syntax);
    static const struct {
        enum quoting quoting;
        bool multiline;
    } ways[] = {{QUOTING_DOUBLED, false},
                {QUOTING_BACKSLASH, false},
                {QUOTING_DOUBLED, true},
                {QUOTING_BACKSLASH, true},
                {QUOTING_NONE, false}};
    struct syntax raw = *syntax, best = *syntax;
    raw.quoting = QUOTING_NONE;
    struct score none = score(s, &raw), least = {.rows = 1, .wrong = 2};
    bool escapes = has(s, "\\\"");
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct syntax way = *syntax;
        way.quoting = ways[i].quoting;
        way.multiline = ways[i].multiline;
        if (way.quoting == QUOTING_BACKSLASH && !escapes) continue;
        if (way.multiline && !none.wrong) continue; /* all lines are rows as they are */
        struct score here = way.quoting == QUOTING_NONE ? none : score(s, &way);
        if (way.quoting == QUOTING_NONE && !none.wrong && least.wrong) {
            /* Lines agree without quotes, but some quotes do not fit: are there such as do? */
            if (10 * least.wrong <= least.quoted) continue; /* a few bad rows */
            if (least.n_bad == 1 && least.last_wrong && least.rows < 8 && *syntax->delimiter != '\t')
                continue; /* the end of a field was cut off */
            if (2 * least.wrong <= least.quoted)
                *asks = "some quotes close in their line and some do not; say --quote none or --quote '\"'";
        } else if (!is_less(here.wrong, here.rows, least.wrong, least.rows)) {
            continue;
        }
        if (here.swallowed && 2 * here.swallowed > here.continued && is_less(none.wrong, none.rows, 1, 2)) {
            *asks = "quoted fields go over line ends, and swallow what would be rows; say --quote none or "
                    "--quote '\"'";
        } else if (way.quoting != QUOTING_NONE) {
            *asks = NULL;
        }
        least = here;
        best = way;
    }
    *syntax = best;
    return least;
}

static const char *delimiter_name(const char *delimiter) {
    return strcmp(delimiter, "\t") == 0  ? "tab"
           : strcmp(delimiter, " ") == 0 ? "blanks"
           : *delimiter                  ? delimiter
                                         : "none";
}

static void set_delimiter(struct syntax *syntax, const char *delimiter) {
    strcpy(syntax->delimiter, strcmp(delimiter, "\\t") == 0 ? "\t" : delimiter);
    syntax->delimiter_length = strlen(syntax->delimiter);
}

/* Have most of the first rows no other delimiter within a field that is neither number nor date? */
static bool is_clean(const struct sample *s, const struct syntax *syntax, const char *other) {
    const char *at = s->at;
    int rows = 0, odd = 0;
    for (; rows < LOOK_ROWS && next_record(s, syntax, &at); rows++) {
        bool within = false;
        for (int i = 0; i < s->fields->n_kept && !within; i++) {
            const char *field = s->fields->field[i];
            size_t length = s->fields->length[i];
            within = memmem(field, length, other, strlen(other)) &&
                     isnan(value_number(field, length, true)) && isnan(value_date(field, length));
        }
        odd += within;
    }
    return 2 * odd < rows;
}

/* Finds delimiter and quotes. Lists have any number of fields: *s is what the best way has. */
static int find_syntax(const struct sample *s, struct syntax *syntax, struct score *least) {
    static const char *const delimiters[] = {"\t", ";", "|", "::", ",", " "};
    enum { N = sizeof delimiters / sizeof *delimiters, BLANK = N - 1 };
    struct syntax way[N];
    struct score scores[N];
    const char *asks[N];
    bool fits[N] = {false};
    int best = -1;
    if (s->options->delimiter) {
        set_delimiter(syntax, s->options->delimiter);
        *least = choose_quoting(s, syntax, &asks[0]);
        return asks[0] ? undecided(s, syntax, s->at, "%s", asks[0]) : 0;
    }
    for (int i = 0; i < N; i++) {
        if (!has(s, delimiters[i])) continue;
        way[i] = *syntax;
        set_delimiter(&way[i], delimiters[i]);
        scores[i] = choose_quoting(s, &way[i], &asks[i]);
        fits[i] = scores[i].n > 1 &&
                  (2 * scores[i].wrong < scores[i].rows || (scores[i].rows == 2 && scores[i].wrong == 1));
        /* blanks are within fields, too */
        if (i == BLANK && best >= 0)
            fits[i] = !scores[i].wrong && ((scores[i].quoted && way[i].quoting != QUOTING_NONE) ||
                                           is_clean(s, &way[i], delimiters[best]));
        if (!fits[i] || (i == BLANK && best >= 0)) continue;
        if (best < 0 || is_less(scores[i].wrong, scores[i].rows, scores[best].wrong, scores[best].rows))
            best = i;
    }
    if (best < 0) { /* a line is one field, or a list */
        set_delimiter(syntax, has(s, " ") || has(s, "\t") ? " " : has(s, ",") ? "," : "");
        *least = choose_quoting(s, syntax, &asks[0]);
        return 0;
    }
    for (int i = 0; i < N;
         i++) { /* another that fits, too: do its fields look whole, and those of the best not? */
        if (!fits[i] || i == best) continue;
        const bool tabs = best == 0 && scores[0].rows > 1;                /* no id has a tab in it */
        bool quotes = way[i].quoting != QUOTING_NONE && scores[i].quoted, /* are there, with a meaning */
            best_quotes = way[best].quoting != QUOTING_NONE && scores[best].quoted, clean, best_clean;
        if (quotes != best_quotes) {
            clean = quotes;
            best_clean = best_quotes;
        } else {
            clean = !tabs && is_clean(s, &way[i], delimiters[best]);
            best_clean = tabs || is_clean(s, &way[best], delimiters[i]);
        }
        if (clean && !best_clean) {
            best = i;
        } else if (clean == best_clean && i != BLANK &&
                   scores[i].wrong * scores[best].rows == scores[best].wrong * scores[i].rows) {
            char one[400], two[400];
            show_rows(s, &way[best], s->at, 1, one, sizeof one);
            show_rows(s, &way[i], s->at, 1, two, sizeof two);
            return error_set(
                EX_DATAERR,
                "%s: fields may be separated by '%s' (%s) or by '%s' (%s); say --delimiter '%s' or "
                "--delimiter '%s'",
                s->name, delimiters[best], one, delimiters[i], two, delimiters[best], delimiters[i]);
        }
    }
    *syntax = way[best];
    *least = scores[best];
    return asks[best] ? undecided(s, syntax, s->at, "%s", asks[best]) : 0;
}

/* ---- what columns hold ---- */

static bool is_epoch(double x) {
    return (x >= 6e8 && x < 4.2e9) || (x >= 6e11 && x < 4.2e12) || (x >= 6e14 && x < 4.2e15) ||
           (x >= 6e17 && x < 4.2e18);
}

/* Looks at the rows behind the first, which starts at `at`. Returns how many there are. */
static int64_t look_at_columns(const struct sample *s, const struct dialect *d, const char *at,
                               bool skip_first, struct look look[LOOK_FIELDS]) {
    int64_t rows = 0;
    memset(look, 0, LOOK_FIELDS * sizeof *look);
    if (skip_first) next_record(s, &d->syntax, &at);
    while (rows < LOOK_ROWS && next_record(s, &d->syntax, &at)) {
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

/* ---- lists ---- */

static int compare_hashes(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
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

static int look_at_lists(const struct sample *s, const struct syntax *syntax, struct list_look *look) {
    uint64_t *hash = malloc(LIST_ROWS * sizeof *hash);
    int seen[3];
    if (!hash) return error_memory("a sample of the file", LIST_ROWS * sizeof *hash);
    *look = (struct list_look){.once = true, .integers = true, .pairs = true};
    for (const char *at = s->at; look->rows < LIST_ROWS && next_record(s, syntax, &at);) {
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
    qsort(hash, (size_t)look->rows, sizeof *hash, compare_hashes);
    for (int64_t i = 1; i < look->rows; i++) look->once &= hash[i] != hash[i - 1];
    look->pairs &= look->longest > 1;
    free(hash);
    return 0;
}

/* Are these lists, or rows? */
static int find_lists(const struct sample *s, struct dialect *d, const struct score *score) {
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
        return undecided(
            s, &d->syntax, s->at,
            "looks like libsvm's sparse rows, a label and index:value pairs, which are not read; want user "
            "and item a row");
    }
    if (ids && score->n <= 4) { /* are there times at the end? */
        struct look column[LOOK_FIELDS];
        d->n_fields = score->n;
        look_at_columns(s, d, s->at, false, column);
        if (column[score->n - 1].epochs || column[score->n - 1].dates) return 0;
    }
    bool varied = look.lengths > 2 || (look.lengths == 2 && look.longest > 5);
    bool endless = score->n > FIELDS_MAX; /* more fields than text may have */
    if (blanks && look.once && (endless || (ragged && varied && look.rows > 2))) {
        d->format = CSV_FORMAT_LISTS;
    } else if (ragged && look.longest > 2 && look.once && look.lengths > 1 &&
               (blanks || (varied && look.rows > 2))) {
        return undecided(s, &d->syntax, s->at,
                         "rows differ in their numbers of fields: --input-format lists reads a user and all "
                         "of their items "
                         "a line%s, --input-format text rows of as many fields each",
                         blanks ? "" : ", --delimiter says what is between them");
    } else if (ids && look.once && look.integers && look.rows < LIST_ROWS && score->n > 2) {
        return undecided(
            s, &d->syntax, s->at,
            "may be rows of user, item, rating ..., or lists of a user and all of their items: say "
            "--input-format text or --input-format lists");
    }
    return 0;
}

/* ---- header and columns of text ---- */

/* May a header say this? A word without digits. */
static bool is_word(const char *text, size_t length) {
    if (!length || length > 64 ||
        !(isalpha((unsigned char)*text) || is_one_of(*text, "_#@$%") || (unsigned char)*text >= 0x80))
        return false;
    for (size_t i = 0; i < length; i++) {
        if (isdigit((unsigned char)text[i])) return false;
    }
    return true;
}

/* Of the rows of the first two columns: is the first row's user or item there again? What part of the others
 * is it of which neither is? */
static int look_at_recurrence(const struct sample *s, const struct dialect *d, bool *again, int64_t *rows,
                              double *part) {
    enum { ROWS_MAX = 20000 };
    uint64_t(*hash)[2] = malloc(ROWS_MAX * sizeof *hash), *sorted = malloc(ROWS_MAX * sizeof *sorted);
    uint8_t *unique = calloc(ROWS_MAX, 1);
    int code = hash && sorted && unique ? 0 : error_memory("a sample of the file", ROWS_MAX * sizeof *hash);
    int64_t n = 0, uniques = 0;
    for (const char *at = s->at; !code && n < ROWS_MAX && next_record(s, &d->syntax, &at);) {
        const struct fields *f = s->fields;
        if (f->bad || f->n != d->n_fields) continue;
        for (int c = 0; c < 2; c++) hash[n][c] = ids_hash(IDS_HASH_START, f->field[c], f->length[c]);
        n++;
    }
    for (int c = 0; c < 2 && !code; c++) {
        for (int64_t i = 0; i < n; i++) sorted[i] = hash[i][c];
        qsort(sorted, (size_t)n, sizeof *sorted, compare_hashes);
        for (int64_t i = 0; i < n; i++) {
            uint64_t *found = bsearch(&hash[i][c], sorted, (size_t)n, sizeof *sorted, compare_hashes);
            bool alone =
                (found == sorted || found[-1] != *found) && (found == sorted + n - 1 || found[1] != *found);
            unique[i] += alone;
        }
    }
    for (int64_t i = 1; i < n && !code; i++) uniques += unique[i] == 2;
    *rows = n;
    *again = !code && n && unique[0] < 2;
    *part = n > 1 ? (double)uniques / (double)(n - 1) : 1;
    free(hash);
    free(sorted);
    free(unique);
    return code;
}

/* The best column for a name, among those that are not taken; -1: none. */
static int find_usual(enum name name, const struct fields *f, const bool *taken, int n) {
    int best = -1, best_rank = 0;
    for (int i = 0; i < n; i++) {
        int rank = taken[i] ? -1 : name_rank(name, f->field[i], f->length[i]);
        if (rank < 0 || (best >= 0 && rank >= best_rank)) continue;
        best = i;
        best_rank = rank;
    }
    return best;
}

/* The names that stand for user and item with this kind of content. */
static enum name item_name(const struct sample *s) {
    return s->options->content == CSV_TITLES ? NAME_TITLE : NAME_ITEM;
}
static enum name user_name(const struct sample *s) {
    return s->options->content == CSV_INTERACTIONS ? NAME_USER : NAME_ITEM;
}

/* Is the first record, at s->at, a header? */
static int find_header(const struct sample *s, struct dialect *d, bool named) {
    const struct csv_options *o = s->options;
    const struct fields *f = s->fields;
    struct look look[LOOK_FIELDS];
    bool taken[FIELDS_MAX] = {false}, words = true, again = false;
    const char *at = s->at;
    d->header = named || o->header == CSV_HEADER_YES;
    if (d->header || o->header == CSV_HEADER_NO || !next_record(s, &d->syntax, &at) || f->bad ||
        f->n != d->n_fields)
        return 0;
    int n = f->n_kept, matches = 0, single = 0;
    for (int i = 0; i < n; i++) {
        bool number = f->length[i] && !isnan(value_number(f->field[i], f->length[i], d->comma));
        if (number || !isnan(value_date(f->field[i], f->length[i]))) return 0;
        words &= is_word(f->field[i], f->length[i]) || (i == 0 && !f->length[0]);
    }
    static const enum name kinds[] = {NAME_USER, NAME_ITEM, NAME_RATING, NAME_TIME, NAME_EVENT, NAME_TITLE};
    bool ids = false;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        if (kinds[k] == NAME_TITLE && o->content != CSV_TITLES) continue;
        int column = find_usual(kinds[k], f, taken, n);
        if (column < 0) continue;
        taken[column] = true;
        matches++;
        single += f->length[column] == 1;
        ids |= kinds[k] <= NAME_ITEM;
    }
    if (o->content == CSV_IDS) {
        d->header = ids;
        return 0;
    }
    if (matches > 1 && ids && (single < matches || matches == n)) {
        d->header = true;
        return 0;
    }
    int64_t rows = look_at_columns(s, d, s->at, true, look), all;
    at = s->at;
    next_record(s, &d->syntax, &at);
    bool named_id = ids && !single;
    if (!rows || !(words || named_id)) {
        d->header = named_id && n == 2 && words;
        return 0;
    }
    for (int i = 0; i < n && i < LOOK_FIELDS && words;
         i++) { /* words over numbers, but for a bad value or two */
        int64_t fit = look[i].n_numbers > look[i].n_dates ? look[i].n_numbers : look[i].n_dates;
        d->header |=
            look[i].n && (fit == look[i].n || (look[i].n > 7 && fit >= look[i].n - 1 - look[i].n / 20));
    }
    d->header |= words && n > 1 && look[0].n > 2 && look[1].n > 2 && look[0].digits && look[1].digits;
    if (d->header) return 0;
    double part;
    int code = look_at_recurrence(s, d, &again, &all, &part);
    if (code || again) return code;
    d->header = words && (named_id || (all > 100 && part <= 0.01));
    if (d->header || (words && part >= 0.5)) return 0;
    return undecided(s, &d->syntax, s->at, "is line %lld a header? Say --header yes or --header no",
                     (long long)line_of(s, d->syntax.newline, s->at));
}

/* The column of that name, with or without the type that RecBole adds; -1 if there is none. */
static int find_name(const struct fields *f, const char *name) {
    for (int i = 0; i < f->n_kept; i++) {
        if (f->length[i] == strlen(name) && memcmp(f->field[i], name, f->length[i]) == 0) return i;
    }
    for (int i = 0; i < f->n_kept; i++) {
        size_t length = name_untyped(f->field[i], f->length[i]);
        if (length == strlen(name) && memcmp(f->field[i], name, length) == 0) return i;
    }
    return -1;
}

static int unknown_column(const struct sample *s, const struct fields *f, enum name name, const char *given) {
    char names[600] = "";
    size_t used = 0;
    for (int i = 0; i < f->n_kept && used + 40 < sizeof names; i++) {
        if (i) used += (size_t)snprintf(names + used, sizeof names - used, ", ");
        used += show(names + used, sizeof names - used, f->field[i], f->length[i]);
    }
    return error_set(EX_DATAERR, "%s: --%s-column %s: no such column; there are: %s", s->name, name_of[name],
                     given, names);
}

static void keep_name(struct dialect *d, enum name name, const char *text, size_t length) {
    size_t n = length < DIALECT_NAME_MAX ? length : DIALECT_NAME_MAX;
    memcpy(d->name[name], text, n);
    d->name[name][n] = '\0';
}

/* What the user said about the columns; sets named and the numbers of those that are numbers. */
static void given_columns(const struct csv_options *o, const char *given[NAMES]) {
    given[NAME_USER] = o->user_column;
    given[NAME_ITEM] = o->item_column;
    given[NAME_RATING] = o->rating_column;
    given[NAME_TIME] = o->time_column;
    given[NAME_EVENT] = o->event_column;
    given[NAME_TITLE] = NULL;
    if (o->content == CSV_INTERACTIONS) return;
    given[NAME_RATING] = given[NAME_TIME] = given[NAME_EVENT] = "none";
}

static bool is_none(const char *given) {
    return given && strcmp(given, "none") == 0;
}

/* Which columns of the header, now in s->fields, are what. */
static int columns_by_name(const struct sample *s, struct dialect *d, const char *const given[NAMES]) {
    const struct fields *f = s->fields;
    bool taken[FIELDS_MAX] = {false};
    int left[3], n_left = 0, n = f->n_kept;
    for (int c = NAME_USER; c <= NAME_EVENT; c++) {
        if (!given[c] || is_none(given[c])) continue;
        d->column[c] = csv_column_number(given[c]);
        if (d->column[c] < 0) d->column[c] = find_name(f, given[c]);
        if (d->column[c] < 0) return unknown_column(s, f, (enum name)c, given[c]);
        if (d->column[c] < n) taken[d->column[c]] = true;
    }
    for (int c = NAME_USER; c <= NAME_EVENT; c++) {
        enum name name = c == NAME_USER ? user_name(s) : c == NAME_ITEM ? item_name(s) : (enum name)c;
        if (given[c]) continue;
        d->column[c] = find_usual(name, f, taken, n);
        if (d->column[c] >= 0) taken[d->column[c]] = true;
    }
    int *user = &d->column[NAME_USER], *item = &d->column[NAME_ITEM];
    for (int i = 0; i < n; i++) {
        if (!taken[i] && f->length[i] && n_left < 3) left[n_left++] = i;
    }
    if (*user < 0 && *item < 0 && n_left == 2) {
        *user = left[0];
        *item = left[1];
    } else if ((*user < 0) + (*item < 0) == 1 && n_left == 1) {
        const char *name = f->field[left[0]]; /* a second one of what is there already? */
        size_t length = f->length[left[0]];
        bool second = *user < 0 ? name_rank(item_name(s), name, length) >= 0 ||
                                      (user_name(s) == NAME_USER && name_rank(NAME_TITLE, name, length) >= 0)
                                : name_rank(user_name(s), name, length) >= 0;
        if (!second) *(*user < 0 ? user : item) = left[0];
    }
    if (*user < 0 || *item < 0) {
        return undecided(
            s, &d->syntax, s->at,
            "the header has no usual name for the %s; say --user-column and --item-column, by name or number",
            *user < 0 && *item < 0 ? "user and the item"
            : *user < 0            ? "user"
                                   : "item");
    }
    for (int c = NAME_USER; c <= NAME_EVENT; c++) {
        if (d->column[c] >= 0 && d->column[c] < n)
            keep_name(d, (enum name)c, f->field[d->column[c]], f->length[d->column[c]]);
    }
    return 0;
}

/* Where no column has a usual name for the rating, but just one is left that holds numbers: says so. */
static void note_rating(const struct sample *s, struct dialect *d, const struct look look[LOOK_FIELDS]) {
    const struct fields *f = s->fields;
    int n_left = 0, left = -1;
    if (d->column[NAME_RATING] >= 0 || s->options->rating_column || s->options->events) return;
    for (int i = 0; i < f->n_kept && i < LOOK_FIELDS; i++) {
        size_t length = name_untyped(f->field[i], f->length[i]);
        bool used = length < 1 || !look[i].numbers || look[i].epochs;
        for (int c = NAME_USER; c <= NAME_EVENT; c++) used |= d->column[c] == i;
        if (used || (length > 1 && strncasecmp(f->field[i] + length - 2, "id", 2) == 0)) continue;
        n_left++;
        left = i;
    }
    if (n_left != 1) return;
    char name[64];
    show(name, sizeof name, f->field[left], f->length[left]);
    add_note(d, "no column is taken for the rating; if '%s' is it, say --rating-column %d", name, left + 1);
}

/* The columns by their places, as far as the first rows fit. */
static int columns_by_place(const struct sample *s, struct dialect *d, const char *const given[NAMES],
                            const struct look look[LOOK_FIELDS]) {
    int n = d->n_fields < LOOK_FIELDS ? d->n_fields : LOOK_FIELDS;
    for (int c = NAME_USER; c <= NAME_EVENT; c++) d->column[c] = csv_column_number(given[c]);
    int *column = d->column;
    if (!given[NAME_USER]) column[NAME_USER] = n == 2 && column[NAME_ITEM] == 0 ? 1 : 0;
    if (!given[NAME_ITEM]) column[NAME_ITEM] = n == 2 && column[NAME_USER] == 1 ? 0 : 1;
    bool usual = column[NAME_USER] + column[NAME_ITEM] == 1; /* the first two */
    if (s->options->content == CSV_TITLES && n > 2 && look[1].numbers && look[2].n && !look[2].numbers) {
        column[NAME_ITEM] = 2; /* Netflix: id, year, title */
    }
    if (s->options->content != CSV_INTERACTIONS) return 0;
    int64_t most = 0; /* values of a column */
    for (int i = 0; i < n; i++) most = look[i].n > most ? look[i].n : most;
    for (int c = NAME_USER; c <= NAME_ITEM; c++) {
        const struct look *l = column[c] < n ? &look[column[c]] : NULL;
        if (given[c] || !l || !(l->dates || l->fractions || (!l->n && n > 2 && most > 1))) continue;
        return undecided(s, &d->syntax, s->at,
                         "column %d holds %s; say --user-column and --item-column, by number%s",
                         column[c] + 1,
                         l->dates ? "dates"
                         : l->n   ? "numbers with fractions or signs, not ids"
                                  : "nothing",
                         l->n ? "" : ", or another --delimiter");
    }
    bool times = false; /* is there a column of times further back? */
    for (int i = 2; i < n; i++) times |= look[i].epochs || look[i].dates;
    if (!given[NAME_USER] && n > 2 && !times && look[0].epochs && !given[NAME_TIME]) {
        return undecided(s, &d->syntax, s->at,
                         "column 1 looks like times; say --user-column and --item-column (or --time-column "
                         "none), by number");
    }
    if (!usual || n < 3) return 0;
    int next = 2;
    bool used = false; /* column 3 is something else by the user's word */
    for (int c = NAME_RATING; c <= NAME_EVENT; c++) used |= column[c] == 2;
    bool rated = !used && !given[NAME_RATING] && !s->options->events;
    if (rated && !look[2].epochs && !look[2].dates) {
        if (look[2].n && !look[2].numbers) {
            return undecided(
                s, &d->syntax, s->at,
                "column 3 is not the rating, for it holds text; say which is by --rating-column, or "
                "--rating-column none, and see that user and item are columns 1 and 2");
        }
        bool behind = false; /* times further back than they should be: columns lie in another way */
        for (int i = 4; i < n; i++) behind |= look[i].epochs || look[i].dates;
        if (behind && !look[3].epochs && !look[3].dates && !given[NAME_TIME]) {
            return undecided(
                s, &d->syntax, s->at,
                "columns are not user, item, rating and time in that order, for the 4th holds no times; say "
                "--rating-column and --time-column, by number or none");
        }
        column[NAME_RATING] = 2;
        next = 3;
    }
    if (given[NAME_TIME]) return 0;
    for (int i = next; i < n && i < 4; i++) {
        used = false;
        for (int c = NAME_RATING; c <= NAME_EVENT; c++) used |= column[c] == i;
        bool fits = look[i].epochs || look[i].dates || (i == 3 && next == 3 && look[i].numbers);
        if (used || !fits) continue;
        column[NAME_TIME] = i;
        break;
    }
    return 0;
}

/* A column of times has to hold numbers or dates. */
static int check_times(const struct sample *s, struct dialect *d, bool given,
                       const struct look look[LOOK_FIELDS]) {
    int column = d->column[NAME_TIME];
    if (column < 0 || column >= LOOK_FIELDS || !look[column].n) return 0;
    d->dates = look[column].dates && look[column].n_dates > look[column].n_numbers;
    if (d->dates || look[column].numbers) return 0;
    if (given) {
        return undecided(s, &d->syntax, s->at,
                         "the times in column %d are neither numbers nor dates like 2005-09-06 12:30:59",
                         column + 1);
    }
    add_note(d, "'%s' is not used as the time: it holds neither numbers nor dates like 2005-09-06",
             d->name[NAME_TIME]);
    d->column[NAME_TIME] = -1;
    d->name[NAME_TIME][0] = '\0';
    return 0;
}

/* Is it a list of ids, such as "i1,i2", "10 20" or "[10, 20]"? All of them have a digit; titles do not. */
static bool is_list(const char *text, size_t length) {
    bool digit = false;
    int ids = 0;
    if (length > 2 && text[0] == '[' && text[length - 1] == ']') return true;
    for (size_t i = 0; i <= length; i++) {
        const char c = i < length ? text[i] : ',';
        if (!is_one_of(c, ",;| ")) {
            if (!isalnum((unsigned char)c) && !is_one_of(c, "_-'\"")) return false;
            digit |= isdigit((unsigned char)c) != 0;
        } else if (i && !is_one_of(text[i - 1], ",;| ")) {
            if (!digit) return false;
            ids++;
            digit = false;
        }
    }
    return ids > 1;
}

/* Rows that have a list of items in a field are not for us. */
static int check_items(const struct sample *s, const struct dialect *d) {
    int rows = 0, lists = 0, column = d->column[NAME_ITEM];
    for (const char *at = s->start + d->begin; rows < LOOK_ROWS && next_record(s, &d->syntax, &at);) {
        const struct fields *f = s->fields;
        if (f->bad || f->n != d->n_fields || column >= f->n_kept) continue;
        rows++;
        lists += is_list(f->field[column], f->length[column]);
    }
    if (2 * lists < rows || rows < 2) return 0;
    return undecided(s, &d->syntax, s->start + d->begin,
                     "column %d seems to hold lists of items: make lines 'user item item ...' of it "
                     "(docs/inputs.md shows how); if it holds ids, say --item-column %d",
                     column + 1, column + 1);
}

static int find_columns(const struct sample *s, struct dialect *d) {
    const char *given[NAMES];
    struct look look[LOOK_FIELDS];
    const char *at = s->at;
    bool named = false;
    given_columns(s->options, given);
    for (int c = 0; c < NAMES; c++)
        named |= given[c] && !is_none(given[c]) && csv_column_number(given[c]) < 0;
    d->comma = strcmp(d->syntax.delimiter, ",") != 0;
    const struct csv_options *o = s->options;
    if (next_record(s, &d->syntax, &at) && !s->fields->bad && s->fields->n != d->n_fields &&
        !o->skip_bad_rows && o->content == CSV_INTERACTIONS) {
        return error_set(EX_DATAERR,
                         "%s:%lld: fields: %d, the others have %d; the delimiter is '%s' (--delimiter)",
                         s->name, (long long)line_of(s, d->syntax.newline, s->at), s->fields->n, d->n_fields,
                         delimiter_name(d->syntax.delimiter));
    }
    at = s->at;
    int code = find_header(s, d, named);
    if (code) return code;
    look_at_columns(s, d, s->at, d->header, look);
    next_record(s, &d->syntax, &at);
    if (d->header && s->fields->bad) {
        return error_set(EX_DATAERR, "%s:%lld: the header cannot be read: %s", s->name,
                         (long long)line_of(s, d->syntax.newline, s->at), s->fields->bad);
    }
    if (s->options->content == CSV_IDS) {
        d->column[NAME_ITEM] = 0;
        if (d->header) {
            bool taken[FIELDS_MAX] = {false};
            d->column[NAME_ITEM] = find_usual(NAME_ITEM, s->fields, taken, s->fields->n_kept);
            keep_name(d, NAME_ITEM, s->fields->field[d->column[NAME_ITEM]],
                      s->fields->length[d->column[NAME_ITEM]]);
        }
        d->column[NAME_USER] = d->column[NAME_ITEM];
    } else {
        code = d->header ? columns_by_name(s, d, given) : columns_by_place(s, d, given, look);
        if (!code && d->header && o->content == CSV_INTERACTIONS) note_rating(s, d, look);
    }
    if (!code) code = check_times(s, d, given[NAME_TIME] != NULL, look);
    if (code) return code;
    for (int c = 0; c <= NAME_EVENT; c++) {
        if (d->column[c] >= d->n_fields) {
            return undecided(s, &d->syntax, s->at, "--%s-column %d: there are %d columns", name_of[c],
                             d->column[c] + 1, d->n_fields);
        }
        for (int b = 0; b < c && o->content != CSV_IDS; b++) {
            if (d->column[b] != d->column[c] || d->column[b] < 0) continue;
            return error_set(EX_USAGE,
                             "%s: column %d would be both %s and %s; give --%s-column and --%s-column",
                             s->name, d->column[c] + 1, name_of[b], name_of[c], name_of[b], name_of[c]);
        }
    }
    if (d->header) {
        at = s->at;
        next_record(s, &d->syntax, &at);
        d->begin = (size_t)(at - s->start);
    }
    return o->content == CSV_INTERACTIONS && !given[NAME_ITEM] ? check_items(s, d) : 0;
}

/* What is said about events. */
static int check_events(const struct sample *s, struct dialect *d) {
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
        if (!is_none(o->event_column)) {
            add_note(d,
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

/* ---- JSON ---- */

/* A key of the first lines: how many have it, and what values they have there. */
struct key_look {
    char name[DIALECT_NAME_MAX + 1];
    size_t length;
    int lines, values, usable, numbers,
        dates;   /* values: that are not null; of these text and numbers are usable */
    bool nested; /* some are objects or arrays */
};

static void look_at_value(struct key_look *k, const struct json_value *value) {
    k->lines++;
    if (value->kind == JSON_NULL) return;
    bool usable = value->kind == JSON_STRING || value->kind == JSON_NUMBER;
    bool number = usable && !isnan(value_number(value->text, value->length, false));
    k->values++;
    k->usable += usable;
    k->numbers += number;
    k->dates += usable && !number && !isnan(value_date(value->text, value->length));
    k->nested |= value->kind == JSON_OTHER;
}

/* The keys of the first lines. *lines: how many lines can be read. look[KEYS_MAX]. */
static int look_at_keys(const struct sample *s, char newline, struct key_look *look, int *n_looks,
                        int *lines) {
    struct json_key keys[KEYS_MAX];
    struct json_value values[KEYS_MAX];
    const struct syntax by_line = {.newline = newline};
    const char *at = s->at, *wrong = "no line can be read";
    int rows = 0;
    *n_looks = *lines = 0;
    for (; rows < LOOK_ROWS && next_record(s, &by_line, &at); rows++) {
        int n;
        if (s->fields->bad) continue;
        const char *bad =
            json_list(s->fields->field[0], s->fields->length[0], keys, values, KEYS_MAX, &n, s->room);
        if (bad && !*lines) wrong = bad;
        if (bad) continue;
        ++*lines;
        for (int i = 0; i < n; i++) {
            int k = 0;
            size_t length = keys[i].length < DIALECT_NAME_MAX ? keys[i].length : DIALECT_NAME_MAX;
            while (k < *n_looks &&
                   (look[k].length != length || memcmp(look[k].name, keys[i].name, length) != 0))
                k++;
            if (k == KEYS_MAX) continue;
            if (k == *n_looks) {
                look[k] = (struct key_look){.length = length};
                memcpy(look[k].name, keys[i].name, length);
                ++*n_looks;
            }
            look_at_value(&look[k], &values[i]);
        }
    }
    if (*lines && 2 * *lines >= rows) return 0;
    return error_set(EX_DATAERR, "%s: lines begin with '{', but are not JSON, an object a line: %s", s->name,
                     wrong);
}

/* The best key for a column: the given one, or one with a usual name whose values fit, which all lines have
 * if there is one; NULL: none. */
static struct key_look *choose_key(struct key_look *look, int n_looks, int lines, enum name name,
                                   const char *given, int column, const bool *taken) {
    int best = -1, best_rank = 0;
    for (int k = 0; k < n_looks; k++) {
        struct key_look *l = &look[k];
        if (given && strcmp(given, l->name) == 0) return l;
        bool fits = !taken[k] && 2 * l->usable >= l->values &&
                    (column != NAME_RATING || 2 * l->numbers >= l->values) &&
                    (column != NAME_TIME || 2 * (l->numbers + l->dates) >= l->values);
        int rank = fits && !given ? name_rank(name, l->name, l->length) : -1;
        if (rank < 0) continue;
        rank += l->lines == lines ? 0 : 2 * l->lines >= lines ? 1000 : 2000;
        if (best >= 0 && rank >= best_rank) continue;
        best = k;
        best_rank = rank;
    }
    return best < 0 ? NULL : &look[best];
}

static int unknown_key(const struct sample *s, const struct key_look *look, int n_looks, int column,
                       const char *given) {
    char names[600] = "", nested[400] = "";
    size_t used = 0;
    for (int k = 0; k < n_looks && used + 40 < sizeof names; k++) {
        if (k) used += (size_t)snprintf(names + used, sizeof names - used, ", ");
        used += show(names + used, sizeof names - used, look[k].name, look[k].length);
        if (look[k].nested && !*nested) {
            snprintf(nested, sizeof nested,
                     "; '%.100s' has objects or arrays: jq makes a line of each interaction", look[k].name);
        }
    }
    if (given) {
        return error_set(EX_DATAERR, "%s: --%s-column %s: no such key; there are: %s%s", s->name,
                         name_of[column], given, names, nested);
    }
    return error_set(EX_DATAERR,
                     "%s: JSON without a usual key for the %s; say --user-column KEY and --item-column KEY; "
                     "there are: %s%s",
                     s->name, name_of[column], names, nested);
}

static int find_keys(const struct sample *s, struct dialect *d) {
    const char *given[NAMES];
    bool taken[KEYS_MAX] = {false};
    int n_looks, lines;
    struct key_look *look = malloc(KEYS_MAX * sizeof *look);
    if (!look) return error_memory("keys", KEYS_MAX * sizeof *look);
    given_columns(s->options, given);
    int code = look_at_keys(s, d->syntax.newline, look, &n_looks, &lines);
    for (int c = NAME_USER; c <= NAME_EVENT && !code; c++) {
        enum name name = c == NAME_USER ? user_name(s) : c == NAME_ITEM ? item_name(s) : (enum name)c;
        if (is_none(given[c])) continue;
        const struct key_look *key = choose_key(look, n_looks, lines, name, given[c], c, taken);
        if (key) taken[key - look] = true;
        if (key || (given[c] && strchr(given[c], '.'))) { /* a path is looked for in each line */
            const char *word = given[c] ? given[c] : key->name;
            keep_name(d, (enum name)c, word, strlen(word));
        } else if (c <= NAME_ITEM || given[c]) {
            code = unknown_key(s, look, n_looks, c, given[c]);
        }
        if (c != NAME_TIME || !key) continue;
        d->dates = key->dates > key->numbers;
        if (given[c] && key->values && !key->numbers && !key->dates) {
            code = error_set(EX_DATAERR,
                             "%s: --time-column %s: neither numbers nor dates like 2005-09-06 12:30:59",
                             s->name, given[c]);
        }
    }
    free(look);
    return code;
}

/* ---- blocks ---- */

bool dialect_is_block_head(const char *text, size_t length) {
    return length > 1 && length <= CSV_ID_MAX + 1 && text[length - 1] == ':' && !memchr(text, ',', length) &&
           !memchr(text, '\t', length) && !memchr(text, ' ', length) && !memchr(text, ':', length - 1) &&
           !memchr(text, '{', length);
}

/* Are the first two lines those of a block? */
static bool looks_like_blocks(const struct sample *s, const struct syntax *syntax) {
    struct syntax lines = {.newline = syntax->newline};
    const char *at = s->at;
    if (!next_record(s, &lines, &at) || s->fields->bad ||
        !dialect_is_block_head(s->fields->field[0], s->fields->length[0]))
        return false;
    return next_record(s, &lines, &at) && !s->fields->bad &&
           !dialect_is_block_head(s->fields->field[0], s->fields->length[0]);
}

static int find_block_columns(const struct sample *s, struct dialect *d) {
    struct look look[LOOK_FIELDS];
    set_delimiter(&d->syntax, s->options->delimiter ? s->options->delimiter : has(s, "\t") ? "\t" : ",");
    struct score rows = score(s, &d->syntax); /* heads have one field */
    d->n_fields = rows.n;
    if (rows.n == 1) {
        const char *at = s->at;
        while (next_record(s, &d->syntax, &at)) {
            if (!s->fields->bad && s->fields->n > 1) d->n_fields = s->fields->n;
        }
    }
    look_at_columns(s, d, s->at, false, look);
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
static int check_rows(const struct sample *s, const struct syntax *syntax, const struct score *score) {
    const char *at = s->at;
    if (s->options->delimiter || s->options->content != CSV_INTERACTIONS) return 0;
    if (score->n < 2 && next_record(s, syntax, &at) && !s->fields->bad && *s->at == '"' &&
        s->fields->n == 1 && memchr(s->fields->field[0], ',', s->fields->length[0])) {
        return error_set(EX_DATAERR,
                         "%s: each row is in quotes as a whole; take these off: sed 's/^\"//; s/\"\\r*$//; "
                         "s/\"\"/\"/g' FILE | ... --input -",
                         s->name);
    }
    int rows = 0, keys = 0; /* "key: value" */
    for (at = s->at; rows < 20 && next_record(s, syntax, &at); rows++) {
        const struct fields *f = s->fields;
        keys += f->n_kept && f->length[0] > 1 && f->field[0][f->length[0] - 1] == ':';
    }
    if (rows > 2 && keys == rows && strcmp(syntax->delimiter, " ") == 0) {
        return undecided(s, syntax, s->at,
                         "lines are a key and its value; want user and item in a row (docs/inputs.md shows "
                         "how to make it so)");
    }
    return 0;
}

/* Past lines that say something about the file: Excel's "sep=;", comments. */
static void skip_preamble(struct sample *s, struct dialect *d, char *delimiter, size_t size) {
    struct syntax lines = {.newline = d->syntax.newline};
    const char *at = s->at;
    if (next_record(s, &lines, &at) && s->fields->length[0] >= 5 && s->fields->length[0] < 5 + size - 1 &&
        memcmp(s->fields->field[0], "sep=", 4) == 0) {
        memcpy(delimiter, s->fields->field[0] + 4, s->fields->length[0] - 4);
        s->at = at;
    }
    int comments = 0;
    const char *after = s->at;
    for (at = s->at; comments <= COMMENTS_MAX && next_record(s, &lines, &at); after = at) {
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
    add_note(d, "%d line%s of comments at the top %s passed over", comments, comments == 1 ? "" : "s",
             comments == 1 ? "is" : "are");
}

static int find(struct sample *s, struct dialect *d) {
    const struct csv_options *o = s->options;
    char delimiter[FIELDS_DELIMITER_MAX + 1] = "";
    struct csv_options with = *o;
    while (s->end - s->at >= 3 && memcmp(s->at, "\xef\xbb\xbf", 3) == 0) s->at += 3;
    size_t size = (size_t)(s->end - s->at);
    d->syntax =
        (struct syntax){.newline = !memchr(s->at, '\n', size) && memchr(s->at, '\r', size) ? '\r' : '\n'};
    if (!s->whole) { /* whole lines only */
        const char *newline = memrchr(s->at, d->syntax.newline, size);
        if (newline) s->end = newline + 1;
    }
    skip_preamble(s, d, delimiter, sizeof delimiter);
    if (*delimiter && !o->delimiter) with.delimiter = delimiter;
    s->options = &with;
    while (s->at < s->end && is_one_of(*s->at, " \t\r\n")) { /* blank lines */
        const char *line = s->at;
        while (line < s->end && is_one_of(*line, " \t")) line++;
        if (line < s->end && *line == '\r') line++;
        if (line < s->end && *line == '\n') line++;
        if (line == s->at || (line[-1] != '\n' && line[-1] != '\r')) break;
        s->at = line;
    }
    d->begin = (size_t)(s->at - s->start);
    d->format = o->format;
    const char *first = s->at;
    if (next_record(s, &(struct syntax){.newline = d->syntax.newline}, &first) && s->fields->overlong) {
        return error_set(EX_DATAERR, "%s:%lld: the line is longer than 1 MiB", s->name,
                         (long long)line_of(s, d->syntax.newline, s->at));
    }
    const char *brace = s->at;
    while (brace < s->end && is_one_of(*brace, " \t")) brace++;
    if (d->format == CSV_FORMAT_AUTO && brace < s->end && *brace == '{' && o->content != CSV_IDS)
        d->format = CSV_FORMAT_JSON;
    if (d->format == CSV_FORMAT_AUTO && o->content == CSV_INTERACTIONS && !o->user_column &&
        looks_like_blocks(s, &d->syntax))
        d->format = CSV_FORMAT_BLOCKS;
    int code = 0;
    if (s->at >= s->end) {
        if (d->format == CSV_FORMAT_AUTO) d->format = CSV_FORMAT_TEXT;
        set_delimiter(&d->syntax, with.delimiter ? with.delimiter : ",");
        d->syntax.quoting = QUOTING_DOUBLED;
        d->column[NAME_USER] = 0;
        d->column[NAME_ITEM] = 1;
        return 0;
    }
    if (d->format == CSV_FORMAT_JSON) code = find_keys(s, d);
    if (d->format == CSV_FORMAT_BLOCKS) code = find_block_columns(s, d);
    if (d->format == CSV_FORMAT_LISTS) {
        struct score score;
        code = with.delimiter || has(s, " ") || has(s, "\t") ? 0 : find_syntax(s, &d->syntax, &score);
        set_delimiter(&d->syntax, with.delimiter ? with.delimiter : has(s, " ") || has(s, "\t") ? " " : ",");
    }
    if (d->format == CSV_FORMAT_AUTO || d->format == CSV_FORMAT_TEXT) {
        struct score score;
        code = find_syntax(s, &d->syntax, &score);
        if (!code) code = check_rows(s, &d->syntax, &score);
        if (!code && d->format == CSV_FORMAT_AUTO) code = find_lists(s, d, &score);
        if (!code && d->format == CSV_FORMAT_TEXT && score.n > FIELDS_MAX) {
            code = error_set(EX_DATAERR,
                             "%s: more than %d columns; if it is a matrix with a column an item, write a row "
                             "for each user and item",
                             s->name, FIELDS_MAX);
        }
        if (!code && d->format == CSV_FORMAT_TEXT) {
            d->n_fields = score.n;
            if (o->content == CSV_IDS && (strcmp(d->syntax.delimiter, " ") == 0 || !score.n) &&
                !with.delimiter) { /* blanks are of the ids */
                set_delimiter(&d->syntax, "");
                d->n_fields = 1;
            }
            if (o->content == CSV_IDS) code = find_columns(s, d);
            if (o->content == CSV_IDS && !d->header) { /* a line is an id */
                set_delimiter(&d->syntax, "");
                d->n_fields = 1;
            } else if (o->content != CSV_IDS && score.n < 2) {
                code = undecided(s, &d->syntax, s->at,
                                 o->content == CSV_TITLES
                                     ? "want at least an id and a title in a row, with tab ; | :: or , "
                                       "between them"
                                     : "want at least a user and an item in a row, with tab ; | :: , or a "
                                       "blank between fields; --delimiter says what else is");
            } else if (o->content != CSV_IDS) {
                code = find_columns(s, d);
            }
        }
    }
    if (!code && d->format == CSV_FORMAT_LISTS) {
        d->syntax.quoting = QUOTING_NONE;
        if (o->header == CSV_HEADER_YES) {
            const char *at = s->at;
            next_record(s, &d->syntax, &at);
            d->header = true;
            d->begin = (size_t)(at - s->start);
        }
    }
    if (!code) code = check_events(s, d);
    d->lines = line_of(s, d->syntax.newline, s->start + d->begin) - 1;
    return code;
}

int dialect_find(const char *sample, size_t size, bool whole, const char *name,
                 const struct csv_options *options, struct dialect *d) {
    *d = (struct dialect){0};
    for (int c = 0; c < NAMES; c++) d->column[c] = -1;
    const char *foreign = size ? foreign_name(sample, size) : NULL;
    if (foreign) return error_set(EX_DATAERR, "%s %s", name, foreign);
    struct sample s = {.start = sample,
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
                                 delimiter_name(d->syntax.delimiter));
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
