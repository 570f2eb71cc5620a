/* See duplicates.h. */
#include "duplicates.h"

#include <stdlib.h>

#include "error.h"
#include "options.h"

static const char *const names[] = {"newest", "last", "max", "min", "first", "sum", NULL};

int duplicates_parse(const char *text, enum duplicates_rule *rule) {
    int choice;
    int code = option_choice("duplicates", text, names, &choice);
    if (!code) *rule = (enum duplicates_rule)(DUPLICATES_NEWEST + choice);
    return code;
}

const char *duplicates_name(enum duplicates_rule rule) {
    return rule == DUPLICATES_AUTO ? "auto" : names[rule - DUPLICATES_NEWEST];
}

enum duplicates_rule duplicates_default(const struct csv *csv) {
    if (csv_has_times(csv)) return DUPLICATES_NEWEST;
    return csv_has_events(csv) ? DUPLICATES_MAX : DUPLICATES_LAST;
}

int duplicates_check(enum duplicates_rule asked, const struct duplicates *stored, const struct csv *csv) {
    if (csv_has_times(csv) || (asked != DUPLICATES_NEWEST && stored->rule != DUPLICATES_NEWEST)) return 0;
    return error_set(EX_DATAERR,
                     "%s: has no times, but the newest of equal rows is to count; --time-column names their "
                     "column, and --duplicates last, max, ... need none",
                     csv_name(csv));
}

/* ---- settling ---- */

struct settler_row {
    double value;
    int32_t item;
    bool wanted;
};

int settler_open(struct settler *s, const struct duplicates *duplicates, int64_t n_items) {
    *s = (struct settler){.duplicates = *duplicates};
    s->place = calloc((size_t)n_items + 1, sizeof *s->place);
    s->seen = calloc((size_t)n_items / 64 + 1, sizeof *s->seen);
    return s->place && s->seen ? 0 : error_memory("the items", 4ull * (unsigned long long)n_items);
}

void settler_begin(struct settler *s, const struct duplicates *duplicates) {
    s->duplicates = *duplicates;
    s->counts = (struct duplicates_counts){0};
}

void settler_close(struct settler *s) {
    free(s->place);
    free(s->seen);
    free(s->sorted);
    *s = (struct settler){0};
}

/* Missing values come first; any order of rows is sorted alike. */
static int compare(const void *pa, const void *pb) {
    const struct settler_row *a = pa, *b = pb;
    if (a->item != b->item) return a->item < b->item ? -1 : 1;
    if (isnan(a->value) || isnan(b->value)) return !!isnan(b->value) - !!isnan(a->value);
    return (a->value > b->value) - (a->value < b->value);
}

/* Does the sum reach the bound? Decimal numbers are rounded to doubles, so a little may be missing: the sum
 * of ten 0.7 reaches 7. */
static bool reaches(long double sum, long double sizes, double bound) {
    return sum + (sizes + fabsl((long double)bound)) * 0x1p-52L >= (long double)bound;
}

/* The sums of sorted values don't depend on the rows' order. */
static int run_sum(struct settler *s, int32_t *rows, const double *values, int64_t n, int64_t *kept) {
    if (n > s->room) {
        struct settler_row *sorted = realloc(s->sorted, 2 * (size_t)n * sizeof *sorted);
        if (!sorted) return error_memory("a user's rows", 2 * (unsigned long long)n * sizeof *sorted);
        s->sorted = sorted;
        s->room = 2 * n;
    }
    for (int64_t i = 0; i < n; i++) {
        bool wanted = rows[i] >= 0;
        s->sorted[i] = (struct settler_row){values[i], wanted ? rows[i] : ~rows[i], wanted};
    }
    if (n) qsort(s->sorted, (size_t)n, sizeof *s->sorted, compare);
    *kept = 0;
    for (int64_t i = 0, first; i < n;) {
        long double sum = 0, sizes = 0;
        int64_t n_wanted = 0, n_values = 0;
        for (first = i; i < n && s->sorted[i].item == s->sorted[first].item; i++) {
            n_wanted += s->sorted[i].wanted;
            if (isnan(s->sorted[i].value)) continue;
            sum += (long double)s->sorted[i].value;
            sizes += fabsl((long double)s->sorted[i].value);
            n_values++;
        }
        s->counts.duplicates += i - first - 1;
        s->counts.disputed += n_wanted && n_wanted < i - first;
        if (n_values > 1 ? reaches(sum, sizes, s->duplicates.min_rating) : n_wanted > 0) {
            rows[(*kept)++] = s->sorted[first].item;
        } else {
            s->counts.unwanted++;
        }
    }
    return 0;
}

/* The row in `at` becomes what the rule makes of it and another one of the same item behind it. */
static void merge(enum duplicates_rule rule, int32_t *at, double *at_value, int32_t row, double value) {
    bool stands = true; /* the other one */
    switch (rule) {
    case DUPLICATES_FIRST:
        stands = false;
        break;
    case DUPLICATES_MAX:
        stands = row >= 0;
        break;
    case DUPLICATES_MIN:
        stands = row < 0;
        break;
    case DUPLICATES_NEWEST:
        stands = value > *at_value || (value == *at_value && row >= 0);
        if (stands) *at_value = value;
        break;
    default:
        break;
    }
    if (stands) *at = row;
}

/* Is each item there once? So it is with most users. */
static bool all_differ(uint64_t *seen, const int32_t *rows, int64_t n) {
    uint64_t twice = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t item = (uint32_t)(rows[i] ^ rows[i] >> 31);
        uint64_t bit = UINT64_C(1) << item % 64;
        twice |= seen[item / 64] & bit;
        seen[item / 64] |= bit;
    }
    for (int64_t i = 0; i < n; i++) seen[(uint32_t)(rows[i] ^ rows[i] >> 31) / 64] = 0;
    return !twice;
}

/* Takes out the unwanted ones of rows that differ. */
static void take_wanted(struct settler *s, int32_t *rows, int64_t n, int64_t *kept) {
    int64_t wanted = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t row = rows[i];
        rows[wanted] = row;
        wanted += row >= 0;
    }
    s->counts.unwanted += n - wanted;
    *kept = wanted;
}

/* place[item] is where among the first m rows, which differ, the item is: if it is there at all, which the
 * row itself tells, so that nothing need be cleared between users. Its lowest bit: the pair is disputed. */
int settler_run(struct settler *s, int32_t *rows, double *values, int64_t n, int64_t *kept) {
    enum duplicates_rule rule = s->duplicates.rule;
    if (all_differ(s->seen, rows, n)) {
        take_wanted(s, rows, n, kept);
        return 0;
    }
    if (rule == DUPLICATES_SUM) return run_sum(s, rows, values, n, kept);
    uint32_t m = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t row = rows[i], item = row < 0 ? ~row : row;
        uint32_t at = s->place[item] >> 1;
        at = at < m ? at : 0;
        if (m && (rows[at] == item || rows[at] == ~item)) {
            s->counts.duplicates++;
            if (rows[at] != row && !(s->place[item] & 1)) {
                s->place[item] |= 1;
                s->counts.disputed++;
            }
            merge(rule, &rows[at], values ? &values[at] : NULL, row, values ? values[i] : 0);
        } else {
            s->place[item] = m << 1;
            if (values) values[m] = values[i];
            rows[m++] = row;
        }
    }
    take_wanted(s, rows, m, kept);
    return 0;
}
