/* The ranks as a grid of data x items, for catalogues that are too large for data parallelism.
 *
 * Of D x M ranks rank r is data rank r / M and item rank r % M. The M item ranks of a row of the grid, which
 * are neighbours and best share a machine, train the same users, each with a range of the items; the D ranks
 * of a column train the same items, each with other users. An item rank holds its items' rows of the first
 * layer's weights and of the last layer's weights and biases, with gradients and moments, and these columns
 * of the data; what lies between is on all ranks. In a row a step exchanges what grows with users and hidden
 * units alone (see backend.h), in a column the gradients of a range.
 *
 * Everything that depends on an item's number (initial weights, dropout) knows it by its number in the whole
 * catalogue, so that all grids compute the same up to rounding. Ranges begin at multiples of four items,
 * which share a block of random words. */
#ifndef VAECF_GRID_H
#define VAECF_GRID_H

#include <stdint.h>

#include "comm.h"

enum { GRID_ALIGNED = 4 };

struct grid {
    struct comm data;      /* the ranks with this one's items */
    struct comm items;     /* the ranks with this one's users */
    int is_split;          /* these two are ours to free */
    int64_t n_items;       /* of the whole catalogue */
    int64_t first, count;  /* this rank's items: [first, first + count) */
    int64_t largest_count; /* of any range */
    int64_t *start;        /* [items.size + 1] where the ranges begin; owned */
};

/* comm_agree over the item ranks that compute together; of no grid the code itself. */
static inline int grid_agree(const struct grid *grid, int code) {
    return grid ? comm_agree(&grid->items, code) : code;
}

/* Makes the grid of `data` x `item` ranks out of all; data 0: as many as there are. Collective. EX_CONFIG
 * with a message if their number is another one. */
int grid_create(const struct comm *world, int64_t data, int64_t item, struct grid *grid);
void grid_free(struct grid *grid);

/* Cuts the catalogue into ranges of about the same cost. count[n_items] is world rank 0's: the training users
 * of each item, of n_users in all. Collective. EX_CONFIG if there are fewer items than four a range. */
int grid_cut(const struct comm *world, int64_t n_items, int64_t n_users, const int64_t *count,
             struct grid *grid);

/* The cut itself, into start[parts + 1]: an item costs a user a logit, and an interaction about as much as 16
 * logits. Not collective. */
void grid_ranges(int64_t n_items, int64_t n_users, const int64_t *count, int parts, int64_t *start);

/* Each row's k best: on entry of this rank's range, in order, with items counted from its first one (-1 after
 * the end of a short list); on return of all ranges, with items as the catalogue counts them, on every item
 * rank. Ties go to the lower item. Collective over the item ranks. EX_OSERR on all of them. */
int grid_merge(const struct grid *grid, int64_t rows, int k, int32_t *top, real *scores);

#endif
