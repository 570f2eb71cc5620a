/* Rows (user, item) in any order -> users in the order of their first rows, each with all items, in bounded
 * memory: beyond a limit the rows go to temporary files by user, which are grouped one after the other and
 * merged again. */
#ifndef VAECF_GROUPING_H
#define VAECF_GROUPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct grouping;

/* What a row says: an index of the catalogue, GROUPING_UNWANTED(index) if the rating is too low, or that the
 * item is not known. */
#define GROUPING_UNKNOWN INT32_MIN
#define GROUPING_UNWANTED(item) (~(item))

/* memory: bytes, about, that rows may take before they go to files in $TMPDIR (/tmp). EX_OSERR. */
int grouping_create(int64_t n_items, int64_t memory, struct grouping **grouping);
void grouping_free(struct grouping *grouping); /* NULL is fine */

int grouping_add(struct grouping *grouping, const char *id, size_t length, int32_t item);

/* No more rows come: groups them. EX_OSERR, EX_CANTCREAT, EX_IOERR. */
int grouping_finish(struct grouping *grouping);

/* Users in all; known only after grouping_finish. */
int64_t grouping_users(const struct grouping *grouping);

/* The next user: id (not terminated; NULL after the last), items ascending, each once, and rows with unknown
 * items; valid until the next call. EX_IOERR. */
int grouping_next(struct grouping *grouping, const char **id, size_t *length, const int32_t **items,
                  int64_t *n, int64_t *unknown);

/* A user's rows in the order they were read -> the wanted items, ascending, each once, in place; an item is
 * wanted if the last row that names it is. marks[n_items] is zero before and after. Returns how many. */
int64_t grouping_settle(int32_t *rows, int64_t n, uint8_t *marks, int64_t *unknown);

#endif
