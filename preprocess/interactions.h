/* The interactions read so far, and the matrix they make. */
#ifndef VAECF_INTERACTIONS_H
#define VAECF_INTERACTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "csr.h"
#include "duplicates.h"

/* A zeroed struct is empty. Rows of one user that come one after the other are a run: four bytes a row and
 * twelve a run, and eight a row for values. */
struct interactions {
    bool with_values; /* for a rule that needs them; changed only when empty */
    int32_t user;     /* of the last run */
    int64_t n, room, value_room, n_runs, run_room;
    int32_t *item;      /* [room], ~item if unwanted; owned, as the others are */
    double *value;      /* [value_room] */
    int32_t *run_user;  /* [run_room] */
    int64_t *run_begin; /* [run_room + 1] */
};

/* Makes room for n rows of a user. EX_OSERR. */
int interactions_reserve(struct interactions *interactions, int32_t user, int64_t n);

/* Adds a row of that user, with the value that the rule needs (else any). wanted: its rating is high enough.
 */
static inline void interactions_add(struct interactions *a, int32_t item, bool wanted, double value) {
    a->item[a->n] = wanted ? item : ~item;
    if (a->with_values) a->value[a->n] = value;
    a->n++;
}

/* Makes the matrix [n_users, n_items] of the pairs that the settler wants: row r is that of user order[r],
 * its items in no particular order. Empties `interactions`, which keeps its memory. EX_OSERR. The caller
 * frees the matrix. */
int interactions_matrix(struct interactions *interactions, struct settler *settler, const int32_t *order,
                        int32_t n_users, int32_t n_items, struct csr *matrix);

void interactions_free(struct interactions *interactions);

#endif
