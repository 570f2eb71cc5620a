/* The interactions read so far, and the matrix they make. */
#ifndef VAECF_INTERACTIONS_H
#define VAECF_INTERACTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "csr.h"
#include "duplicates.h"

/* A zeroed struct is empty. Eight bytes an interaction, sixteen with values. */
struct interactions {
    int64_t n;
    bool with_values;                        /* for a rule that needs them; set before the first row */
    struct interactions_block *first, *last; /* owned */
};

/* Adds a row, with the value that the rule needs (else any). wanted: its rating is high enough. EX_OSERR. */
int interactions_add(struct interactions *interactions, int32_t user, int32_t item, bool wanted,
                     double value);

/* Makes the matrix [n_users, n_items] of the pairs that the rule wants, the items of a row in no particular
 * order, and empties `interactions` on the way. *counts grows. EX_OSERR. The caller frees the matrix. */
int interactions_matrix(struct interactions *interactions, const struct duplicates *duplicates,
                        int32_t n_users, int32_t n_items, struct csr *matrix,
                        struct duplicates_counts *counts);

void interactions_free(struct interactions *interactions);

#endif
