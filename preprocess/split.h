/* From interactions to the parts of a dataset: filters, held-out users, catalogue, targets.
 *
 * Strong generalisation as in Liang et al. 2018, or parts that were split elsewhere. The result depends on
 * ids, seed and options only, not on the order of rows, nor on the number of ranks, threads or bins: users
 * lie in the order of a seeded hash of their id (block.h); items by falling count of training users, then by
 * id (by value where all ids are digits).
 *
 * Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_SPLIT_H
#define VAECF_SPLIT_H

#include <stdbool.h>
#include <stdint.h>

#include "comm.h"
#include "dataset.h"
#include "duplicates.h"
#include "ids.h"
#include "spool.h"

enum split_rows { SPLIT_TRAIN, SPLIT_VALIDATION, SPLIT_TEST, SPLITS };

/* A held-out user with fewer catalogue items has no target. */
enum { SPLIT_TARGET_MIN = 5 };

/* The rows that a part has: DATASET_TEST_INPUT's are SPLIT_TEST's. */
static inline enum split_rows split_of(enum dataset_part part) {
    return (enum split_rows)((part + 1) / 2);
}

struct split_options {
    uint64_t seed;
    bool given;             /* the parts were split elsewhere: of the rest only n_shards counts */
    int64_t min_item_users; /* filtered first, in one pass */
    int64_t min_user_items; /* filtered then */
    int64_t heldout_users;  /* each for validation and test; -1: a tenth of the users, at most 10000 */
    double target_fraction;
    int64_t n_shards;
    struct duplicates duplicates; /* as the interactions are stored for it */
};

/* How many have how much: percentiles of interactions a user or an item. */
enum split_stage { SPLIT_READ, SPLIT_FILTERED, SPLIT_STAGES };
enum { SPLIT_PERCENTILES = 7 };
extern const int split_percentile[SPLIT_PERCENTILES]; /* 0 1 25 50 75 99 100 */
struct split_counts {
    int64_t users, items, interactions;
    int64_t per_user[SPLIT_PERCENTILES], per_item[SPLIT_PERCENTILES];
};

struct split {
    int64_t n_users, n_interactions; /* over all parts; a user in several splits counts once */
    int32_t n_items;
    int32_t *item;       /* [n_items]: the catalogue, in index order, as numbers of `items`, owned */
    int64_t *item_count; /* [n_items]: training users of each, owned */
    int64_t rows[SPLITS];
    int64_t nonzeros[DATASET_PARTS];
    int64_t *shard_nonzeros;                /* [n_shards, DATASET_PARTS], owned */
    size_t id_width[SPLITS];                /* bytes of the longest user id */
    int64_t duplicates, unwanted, disputed; /* rows and pairs that did not count: see duplicates.h */
    int64_t dropped_items;                  /* items with too few users */
    int64_t dropped_users;                  /* users with too few items */
    int64_t dropped_interactions;           /* of held-out users, with items outside the catalogue */
    int64_t n_overlap;                      /* target items that are input too: none but in given splits */
    struct split_counts counts[SPLIT_STAGES];
    char fingerprint[DATASET_FINGERPRINT_SIZE]; /* 16 hex digits of all that the split holds */
};

/* The bin of a shard's rows of a split, and which bins of n are whose: first[size + 1]. */
static inline int split_bin(int64_t shard, enum split_rows split) {
    return (int)(shard * SPLITS + split);
}
void split_bins_of_ranks(const struct comm *comm, int64_t n, int width, int *first);

/* Splits the interactions, which are used up. Collective. `rows` (opened, split_bin bins) gets every user's
 * row as row_put writes it, the bins of this rank. `items` is the same on all ranks. EX_DATAERR if nothing is
 * left, EX_USAGE if too many users are to be held out, EX_OSERR, EX_IOERR. The caller frees the split. */
int split_run(const struct comm *comm, struct spool *interactions, const struct ids *items,
              const struct split_options *options, struct split *split, struct spool *rows);

void split_free(struct split *split);

#endif
