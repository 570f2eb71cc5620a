/* The interactions read so far, and the matrix they make. */
#ifndef VAECF_INTERACTIONS_H
#define VAECF_INTERACTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "csr.h"

/* A zeroed struct is empty. Eight bytes an interaction. */
struct interactions {
    int64_t n;
    struct interactions_block *first, *last; /* owned */
};

/* Adds a row. wanted: the rating is high enough. An interaction is wanted if the last row that names it is.
 * EX_OSERR. */
int interactions_add(struct interactions *interactions, int32_t user, int32_t item, bool wanted);

/* Makes the matrix [n_users, n_items] of the wanted interactions, each once, the items of a row in no
 * particular order, and empties `interactions` on the way. *duplicates and *unwanted grow by the rows that do
 * not count. EX_OSERR. The caller frees the matrix. */
int interactions_matrix(struct interactions *interactions, int32_t n_users, int32_t n_items,
                        struct csr *matrix, int64_t *duplicates, int64_t *unwanted);

void interactions_free(struct interactions *interactions);

#endif
