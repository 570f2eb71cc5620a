/* See columns.h. */
#include "columns.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "error.h"
#include "ids.h"
#include "syntax.h"
#include "values.h"

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
static int look_at_recurrence(const struct preview *s, const struct dialect *d, bool *again, int64_t *rows,
                              double *part) {
    enum { ROWS_MAX = 20000 };
    uint64_t(*hash)[2] = malloc(ROWS_MAX * sizeof *hash), *sorted = malloc(ROWS_MAX * sizeof *sorted);
    uint8_t *unique = calloc(ROWS_MAX, 1);
    int code = hash && sorted && unique ? 0 : error_memory("a sample of the file", ROWS_MAX * sizeof *hash);
    int64_t n = 0, uniques = 0;
    for (const char *at = s->at; !code && n < ROWS_MAX && preview_next(s, &d->syntax, &at);) {
        const struct fields *f = s->fields;
        if (f->bad || f->n != d->n_fields) continue;
        for (int c = 0; c < 2; c++) hash[n][c] = ids_hash(IDS_HASH_START, f->field[c], f->length[c]);
        n++;
    }
    for (int c = 0; c < 2 && !code; c++) {
        for (int64_t i = 0; i < n; i++) sorted[i] = hash[i][c];
        qsort(sorted, (size_t)n, sizeof *sorted, preview_compare_hashes);
        for (int64_t i = 0; i < n; i++) {
            uint64_t *found = bsearch(&hash[i][c], sorted, (size_t)n, sizeof *sorted, preview_compare_hashes);
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

enum name columns_item(const struct preview *s) {
    return s->options->content == CSV_TITLES ? NAME_TITLE : NAME_ITEM;
}

enum name columns_user(const struct preview *s) {
    return s->options->content == CSV_INTERACTIONS ? NAME_USER : NAME_ITEM;
}

/* Is the first record, at s->at, a header? */
static int find_header(const struct preview *s, struct dialect *d, bool named) {
    const struct csv_options *o = s->options;
    const struct fields *f = s->fields;
    struct look look[LOOK_FIELDS];
    bool taken[FIELDS_MAX] = {false}, words = true, again = false;
    const char *at = s->at;
    d->header = named || o->header == CSV_HEADER_YES;
    if (d->header || o->header == CSV_HEADER_NO || !preview_next(s, &d->syntax, &at) || f->bad ||
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
    int64_t rows = preview_look(s, d, s->at, true, look), all;
    at = s->at;
    preview_next(s, &d->syntax, &at);
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
    return preview_undecided(s, &d->syntax, s->at, "is line %lld a header? Say --header yes or --header no",
                             (long long)preview_line(s, d->syntax.newline, s->at));
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

static int unknown_column(const struct preview *s, const struct fields *f, enum name name,
                          const char *given) {
    char names[600] = "";
    size_t used = 0;
    for (int i = 0; i < f->n_kept && used + 40 < sizeof names; i++) {
        if (i) used += (size_t)snprintf(names + used, sizeof names - used, ", ");
        used += fields_show(names + used, sizeof names - used, f->field[i], f->length[i]);
    }
    return error_set(EX_DATAERR, "%s: --%s-column %s: no such column; there are: %s", s->name, name_of[name],
                     given, names);
}

void columns_keep(struct dialect *d, enum name name, const char *text, size_t length) {
    size_t n = length < DIALECT_NAME_MAX ? length : DIALECT_NAME_MAX;
    memcpy(d->name[name], text, n);
    d->name[name][n] = '\0';
}

void columns_given(const struct csv_options *o, const char *given[NAMES]) {
    given[NAME_USER] = o->user_column;
    given[NAME_ITEM] = o->item_column;
    given[NAME_RATING] = o->rating_column;
    given[NAME_TIME] = o->time_column;
    given[NAME_EVENT] = o->event_column;
    given[NAME_TITLE] = NULL;
    if (o->content == CSV_INTERACTIONS) return;
    given[NAME_RATING] = given[NAME_TIME] = given[NAME_EVENT] = "none";
}

bool columns_is_none(const char *given) {
    return given && strcmp(given, "none") == 0;
}

/* Which columns of the header, now in s->fields, are what. */
static int columns_by_name(const struct preview *s, struct dialect *d, const char *const given[NAMES]) {
    const struct fields *f = s->fields;
    bool taken[FIELDS_MAX] = {false};
    int left[3], n_left = 0, n = f->n_kept;
    for (int c = NAME_USER; c <= NAME_EVENT; c++) {
        if (!given[c] || columns_is_none(given[c])) continue;
        d->column[c] = csv_column_number(given[c]);
        if (d->column[c] < 0) d->column[c] = find_name(f, given[c]);
        if (d->column[c] < 0) return unknown_column(s, f, (enum name)c, given[c]);
        if (d->column[c] < n) taken[d->column[c]] = true;
    }
    for (int c = NAME_USER; c <= NAME_EVENT; c++) {
        enum name name = c == NAME_USER ? columns_user(s) : c == NAME_ITEM ? columns_item(s) : (enum name)c;
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
        bool second = *user < 0
                          ? name_rank(columns_item(s), name, length) >= 0 ||
                                (columns_user(s) == NAME_USER && name_rank(NAME_TITLE, name, length) >= 0)
                          : name_rank(columns_user(s), name, length) >= 0;
        if (!second) *(*user < 0 ? user : item) = left[0];
    }
    if (*user < 0 || *item < 0) {
        return preview_undecided(
            s, &d->syntax, s->at,
            "the header has no usual name for the %s; say --user-column and --item-column, by name or number",
            *user < 0 && *item < 0 ? "user and the item"
            : *user < 0            ? "user"
                                   : "item");
    }
    for (int c = NAME_USER; c <= NAME_EVENT; c++) {
        if (d->column[c] >= 0 && d->column[c] < n)
            columns_keep(d, (enum name)c, f->field[d->column[c]], f->length[d->column[c]]);
    }
    return 0;
}

/* Where no column has a usual name for the rating, but just one is left that holds numbers: says so. */
static void note_rating(const struct preview *s, struct dialect *d, const struct look look[LOOK_FIELDS]) {
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
    fields_show(name, sizeof name, f->field[left], f->length[left]);
    dialect_note(d, "no column is taken for the rating; if '%s' is it, say --rating-column %d", name,
                 left + 1);
}

/* The columns by their places, as far as the first rows fit. */
static int columns_by_place(const struct preview *s, struct dialect *d, const char *const given[NAMES],
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
        return preview_undecided(s, &d->syntax, s->at,
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
        return preview_undecided(
            s, &d->syntax, s->at,
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
            return preview_undecided(
                s, &d->syntax, s->at,
                "column 3 is not the rating, for it holds text; say which is by --rating-column, or "
                "--rating-column none, and see that user and item are columns 1 and 2");
        }
        bool behind = false; /* times further back than they should be: columns lie in another way */
        for (int i = 4; i < n; i++) behind |= look[i].epochs || look[i].dates;
        if (behind && !look[3].epochs && !look[3].dates && !given[NAME_TIME]) {
            return preview_undecided(
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
static int check_times(const struct preview *s, struct dialect *d, bool given,
                       const struct look look[LOOK_FIELDS]) {
    int column = d->column[NAME_TIME];
    if (column < 0 || column >= LOOK_FIELDS || !look[column].n) return 0;
    d->dates = look[column].dates && look[column].n_dates > look[column].n_numbers;
    if (d->dates || look[column].numbers) return 0;
    if (given) {
        return preview_undecided(
            s, &d->syntax, s->at,
            "the times in column %d are neither numbers nor dates like 2005-09-06 12:30:59", column + 1);
    }
    dialect_note(d, "'%s' is not used as the time: it holds neither numbers nor dates like 2005-09-06",
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
static int check_items(const struct preview *s, const struct dialect *d) {
    int rows = 0, lists = 0, column = d->column[NAME_ITEM];
    for (const char *at = s->start + d->begin; rows < LOOK_ROWS && preview_next(s, &d->syntax, &at);) {
        const struct fields *f = s->fields;
        if (f->bad || f->n != d->n_fields || column >= f->n_kept) continue;
        rows++;
        lists += is_list(f->field[column], f->length[column]);
    }
    if (2 * lists < rows || rows < 2) return 0;
    return preview_undecided(s, &d->syntax, s->start + d->begin,
                             "column %d seems to hold lists of items: make lines 'user item item ...' of it "
                             "(docs/inputs.md shows how); if it holds ids, say --item-column %d",
                             column + 1, column + 1);
}

int columns_find(const struct preview *s, struct dialect *d) {
    const char *given[NAMES];
    struct look look[LOOK_FIELDS];
    const char *at = s->at;
    bool named = false;
    columns_given(s->options, given);
    for (int c = 0; c < NAMES; c++)
        named |= given[c] && !columns_is_none(given[c]) && csv_column_number(given[c]) < 0;
    d->comma = strcmp(d->syntax.delimiter, ",") != 0;
    const struct csv_options *o = s->options;
    if (preview_next(s, &d->syntax, &at) && !s->fields->bad && s->fields->n != d->n_fields &&
        !o->skip_bad_rows && o->content == CSV_INTERACTIONS) {
        return error_set(EX_DATAERR,
                         "%s:%lld: fields: %d, the others have %d; the delimiter is '%s' (--delimiter)",
                         s->name, (long long)preview_line(s, d->syntax.newline, s->at), s->fields->n,
                         d->n_fields, syntax_delimiter_name(d->syntax.delimiter));
    }
    at = s->at;
    int code = find_header(s, d, named);
    if (code) return code;
    preview_look(s, d, s->at, d->header, look);
    preview_next(s, &d->syntax, &at);
    if (d->header && s->fields->bad) {
        return error_set(EX_DATAERR, "%s:%lld: the header cannot be read: %s", s->name,
                         (long long)preview_line(s, d->syntax.newline, s->at), s->fields->bad);
    }
    if (s->options->content == CSV_IDS) {
        d->column[NAME_ITEM] = 0;
        if (d->header) {
            bool taken[FIELDS_MAX] = {false};
            d->column[NAME_ITEM] = find_usual(NAME_ITEM, s->fields, taken, s->fields->n_kept);
            columns_keep(d, NAME_ITEM, s->fields->field[d->column[NAME_ITEM]],
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
            return preview_undecided(s, &d->syntax, s->at, "--%s-column %d: there are %d columns", name_of[c],
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
        preview_next(s, &d->syntax, &at);
        d->begin = (size_t)(at - s->start);
    }
    return o->content == CSV_INTERACTIONS && !given[NAME_ITEM] ? check_items(s, d) : 0;
}
