/* From interactions to the parts of a dataset: filters, held-out users, catalogue, targets.
 *
 * Strong generalisation as in Liang et al. 2018 (split_users), or parts that were split elsewhere
 * (split_given). The result depends on ids, seed and options only, not on the order of rows: users lie in the
 * order of a seeded hash of their id; items by falling count of training users, then by id (by value where
 * all ids are digits).
 *
 * Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_SPLIT_H
#define VAECF_SPLIT_H

#include <stdint.h>

#include "csr.h"
#include "dataset.h"
#include "ids.h"

enum split_rows { SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST, SPLITS };

/* A held-out user with fewer catalogue items has no target. */
enum { SPLIT_TARGET_MIN = 5 };

/* The rows that a part has: DATASET_TEST_INPUT's are SPLIT_TEST's. */
static inline enum split_rows split_of(enum dataset_part part) {
    return (enum split_rows)((part + 1) / 2);
}

struct split_options {
    uint64_t seed;
    int64_t min_item_users; /* filtered first, in one pass */
    int64_t min_user_items; /* filtered then */
    int64_t heldout_users;  /* each for validation and test; -1: a tenth of the users, at most 10000 */
    double target_fraction;
};

struct split {
    int64_t n_users, n_interactions; /* over all parts; a user in several splits counts once */
    int32_t n_items;
    int32_t *item;       /* [n_items]: the catalogue, in index order, as numbers of `items` */
    int64_t *item_count; /* [n_items]: training users of each */
    int64_t rows[SPLITS];
    int32_t *user[SPLITS];          /* [rows]: each row's user, as number of `users` */
    int64_t *user_index[SPLITS];    /* [rows]: unique over the dataset, 0 .. n_users - 1 */
    struct csr part[DATASET_PARTS]; /* columns are item indices, ascending in a row */
    int64_t dropped_items;          /* items with too few users */
    int64_t dropped_users;          /* users with too few items */
    int64_t dropped_interactions;   /* of held-out users, with items outside the catalogue */
    int64_t n_overlap;              /* target items that are input too: none but in given splits */
};

/* Splits the users of a matrix, which is used up (freed, also after an error). EX_DATAERR if nothing is left,
 * EX_USAGE if too many users are to be held out, EX_OSERR. The caller frees the split. */
int split_users(struct csr *matrix, const struct ids *users, const struct ids *items,
                const struct split_options *options, struct split *split);

/* Takes the parts as they are; a matrix for each, all over the same numbers of users and items; they are used
 * up. Of the options only the seed counts. */
int split_given(struct csr matrix[DATASET_PARTS], const struct ids *users, const struct ids *items,
                const struct split_options *options, struct split *split);

/* 16 hex digits of all that the split holds: ids, counts, users, parts. */
void split_fingerprint(const struct split *split, const struct ids *users, const struct ids *items,
                       char text[DATASET_FINGERPRINT_SIZE]);

void split_free(struct split *split);

#endif
