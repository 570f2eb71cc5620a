/* Equal (user, item) rows: a rule makes one of them, or one value of all, and that decides whether the pair
 * is wanted, i.e. whether the value is at least --min-rating.
 *
 * `last` and `first` depend on the order of files and rows; the others give the same for any order. Without
 * --min-rating every pair is wanted, whatever the rule. */
#ifndef VAECF_DUPLICATES_H
#define VAECF_DUPLICATES_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "csv.h"

enum duplicates_rule {
    DUPLICATES_AUTO,   /* not given: the first file with rows decides; where rows are settled, `last` */
    DUPLICATES_NEWEST, /* the row with the highest time; of several such rows, the highest rating */
    DUPLICATES_LAST,   /* the last row */
    DUPLICATES_MAX,    /* the highest rating, missing ones apart */
    DUPLICATES_MIN,    /* the lowest rating; a missing one is lower than any */
    DUPLICATES_FIRST,  /* the first row */
    DUPLICATES_SUM     /* the sum of the ratings, missing ones apart; of rows without ratings, their number */
};

struct duplicates {
    enum duplicates_rule rule;
    double min_rating; /* -INFINITY: every pair is wanted */
};

/* The text of --duplicates. EX_USAGE. */
int duplicates_parse(const char *text, enum duplicates_rule *rule);
const char *duplicates_name(enum duplicates_rule rule); /* AUTO: "auto" */

/* The rule, if none was given and this is the first file: `newest` with a time column, `max` of weights of
 * events, else `last`. */
enum duplicates_rule duplicates_default(const struct csv *csv);

/* The rule as rows are stored for it: `last` where every pair is wanted. */
static inline struct duplicates duplicates_stored(enum duplicates_rule rule, double min_rating) {
    bool all = min_rating == -(double)INFINITY;
    return (struct duplicates){all || rule == DUPLICATES_AUTO ? DUPLICATES_LAST : rule, min_rating};
}

/* EX_DATAERR if the file has no times and they are needed: `newest` was asked for, or is the default and
 * makes a difference. Not to be called for a file without rows, which has no columns either. */
int duplicates_check(enum duplicates_rule asked, const struct duplicates *stored, const struct csv *csv);

/* What has to be kept of a row: whether its rating is high enough, and for some rules a value beside it. */
static inline bool duplicates_need_values(const struct duplicates *d) {
    return d->rule == DUPLICATES_NEWEST || d->rule == DUPLICATES_SUM;
}
static inline double duplicates_value(const struct duplicates *d, const struct csv_row *row) {
    return d->rule == DUPLICATES_SUM ? row->rating : row->time;
}
static inline bool duplicates_wanted(const struct duplicates *d, bool has_ratings,
                                     const struct csv_row *row) {
    if (d->min_rating == -(double)INFINITY) return true;
    return (!has_ratings && d->rule != DUPLICATES_SUM) || row->rating >= d->min_rating;
}

struct duplicates_counts {
    int64_t duplicates; /* rows beyond the first of each pair */
    int64_t unwanted;   /* pairs that are not wanted */
    int64_t disputed;   /* pairs with rows on both sides of --min-rating */
};

/* Settles the rows of one user after another. */
struct settler {
    struct duplicates duplicates;
    struct duplicates_counts counts;
    uint32_t *place; /* private, [items], owned */
    uint64_t *seen;  /* private: a bit an item, all 0 between calls, owned */
    struct settler_row *sorted;
    int64_t room;
};

/* EX_OSERR. */
int settler_open(struct settler *settler, const struct duplicates *duplicates, int64_t n_items);

/* Settles by this rule from here on, counting from 0. */
void settler_begin(struct settler *settler, const struct duplicates *duplicates);

/* A user's rows, in order: items, ~item if the row's rating is too low, with values[n] if the rule needs them
 * (else NULL; they are overwritten). Leaves the wanted items at the front of `rows`, each once, in no
 * particular order; *kept: how many. EX_OSERR. */
int settler_run(struct settler *settler, int32_t *rows, double *values, int64_t n, int64_t *kept);

void settler_close(struct settler *settler);

#endif
