/* See syntax.h. */
#define _GNU_SOURCE /* memmem */
#include "syntax.h"

#include <math.h>
#include <string.h>

#include "error.h"
#include "values.h"

struct score syntax_score(const struct preview *s, const struct syntax *syntax) {
    int64_t rows[FIELDS_MAX + 2] = {0}; /* by their number of fields */
    struct score score = {0};
    int first = 0;
    for (const char *at = s->at; preview_next(s, syntax, &at);) {
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
    for (const char *at = s->at, *start = at; preview_next(s, syntax, &at); start = at) {
        if (s->fields->bad || s->fields->lines == 1) continue;
        bool rows_all = true; /* is each of its lines a row by itself? */
        int64_t lines = s->fields->lines;
        for (const char *line = start, *end = at; line < end && preview_next(s, &raw, &line);) {
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

/* Sets what quotes mean with this delimiter. *asks: what the user has to decide, if anything. */
static struct score choose_quoting(const struct preview *s, struct syntax *syntax, const char **asks) {
    const char *given = s->options->quote;
    *asks = NULL;
    syntax->quoting = QUOTING_DOUBLED;
    syntax->multiline = given != NULL;
    if (given && strcmp(given, "none") == 0) syntax->quoting = QUOTING_NONE;
    if (given && strcmp(given, "backslash") == 0) syntax->quoting = QUOTING_BACKSLASH;
    if (given || !preview_has(s, "\"")) return syntax_score(s, syntax);
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
    struct score none = syntax_score(s, &raw), least = {.rows = 1, .wrong = 2};
    bool escapes = preview_has(s, "\\\"");
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        struct syntax way = *syntax;
        way.quoting = ways[i].quoting;
        way.multiline = ways[i].multiline;
        if (way.quoting == QUOTING_BACKSLASH && !escapes) continue;
        if (way.multiline && !none.wrong) continue; /* all lines are rows as they are */
        struct score here = way.quoting == QUOTING_NONE ? none : syntax_score(s, &way);
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

const char *syntax_delimiter_name(const char *delimiter) {
    return strcmp(delimiter, "\t") == 0  ? "tab"
           : strcmp(delimiter, " ") == 0 ? "blanks"
           : *delimiter                  ? delimiter
                                         : "none";
}

void syntax_set_delimiter(struct syntax *syntax, const char *delimiter) {
    strcpy(syntax->delimiter, strcmp(delimiter, "\\t") == 0 ? "\t" : delimiter);
    syntax->delimiter_length = strlen(syntax->delimiter);
}

/* Have most of the first rows no other delimiter within a field that is neither number nor date? */
static bool is_clean(const struct preview *s, const struct syntax *syntax, const char *other) {
    const char *at = s->at;
    int rows = 0, odd = 0;
    for (; rows < LOOK_ROWS && preview_next(s, syntax, &at); rows++) {
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

int syntax_find(const struct preview *s, struct syntax *syntax, struct score *least) {
    static const char *const delimiters[] = {"\t", ";", "|", "::", ",", " "};
    enum { N = sizeof delimiters / sizeof *delimiters, BLANK = N - 1 };
    struct syntax way[N];
    struct score scores[N];
    const char *asks[N];
    bool fits[N] = {false};
    int best = -1;
    if (s->options->delimiter) {
        syntax_set_delimiter(syntax, s->options->delimiter);
        *least = choose_quoting(s, syntax, &asks[0]);
        return asks[0] ? preview_undecided(s, syntax, s->at, "%s", asks[0]) : 0;
    }
    for (int i = 0; i < N; i++) {
        if (!preview_has(s, delimiters[i])) continue;
        way[i] = *syntax;
        syntax_set_delimiter(&way[i], delimiters[i]);
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
        syntax_set_delimiter(syntax, preview_has(s, " ") || preview_has(s, "\t") ? " "
                                     : preview_has(s, ",")                       ? ","
                                                                                 : "");
        *least = choose_quoting(s, syntax, &asks[0]);
        return 0;
    }
    /* Another may fit, too: do its fields look whole, and those of the best not? */
    for (int i = 0; i < N; i++) {
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
            preview_show_rows(s, &way[best], s->at, 1, one, sizeof one);
            preview_show_rows(s, &way[i], s->at, 1, two, sizeof two);
            return error_set(
                EX_DATAERR,
                "%s: fields may be separated by '%s' (%s) or by '%s' (%s); say --delimiter '%s' or "
                "--delimiter '%s'",
                s->name, delimiters[best], one, delimiters[i], two, delimiters[best], delimiters[i]);
        }
    }
    *syntax = way[best];
    *least = scores[best];
    return asks[best] ? preview_undecided(s, syntax, s->at, "%s", asks[best]) : 0;
}
