/* Rows (user, item) in any order -> users in the order of their first rows, each with all items, in bounded
 * memory: beyond a limit the rows go to temporary files by user, which are grouped one after the other and
 * merged again. */
#ifndef VAECF_GROUPING_H
#define VAECF_GROUPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "duplicates.h"

struct grouping;

/* What a row says: an index of the catalogue, GROUPING_UNWANTED(index) if the rating is too low, or that the
 * item is not known. */
#define GROUPING_UNKNOWN INT32_MIN
#define GROUPING_UNWANTED(item) (~(item))

/* duplicates: what makes one of a user's rows with the same item. memory: bytes, about, that rows may take
 * before they go to files in $TMPDIR (/tmp). EX_OSERR. */
int grouping_create(int64_t n_items, const struct duplicates *duplicates, int64_t memory,
                    struct grouping **grouping);
void grouping_free(struct grouping *grouping); /* NULL is fine */

/* value: what the rule needs beside the item (duplicates_value), else any. */
int grouping_add(struct grouping *grouping, const char *id, size_t length, int32_t item, double value);

/* No more rows come: groups them. EX_OSERR, EX_CANTCREAT, EX_IOERR. */
int grouping_finish(struct grouping *grouping);

/* Users in all; known only after grouping_finish. */
int64_t grouping_users(const struct grouping *grouping);

/* The next user: id (not terminated; NULL after the last), items ascending, each once, and rows with unknown
 * items; valid until the next call. EX_IOERR. */
int grouping_next(struct grouping *grouping, const char **id, size_t *length, const int32_t **items,
                  int64_t *n, int64_t *unknown);

/* A user's rows in the order they were read, with values[n] if the rule needs them (else NULL) -> the wanted
 * items, ascending, each once, in place; *kept: how many. The values are overwritten. EX_OSERR. */
int grouping_settle(struct settler *settler, int32_t *rows, double *values, int64_t n, int64_t *kept,
                    int64_t *unknown);

#endif
