/* A model's items by id: their counts, titles, and lists of them in files. */
#ifndef VAECF_CATALOGUE_H
#define VAECF_CATALOGUE_H

#include <stddef.h>
#include <stdint.h>

#include "dataset.h"
#include "ids.h"

struct catalogue {
    struct items items; /* in order of falling count */
    struct ids index;   /* id -> index */
    char **title;       /* [items.n], NULL where there is none; NULL before catalogue_read_titles */
};

/* The catalogue of a checkpoint. EX_NOINPUT, EX_DATAERR, EX_OSERR. */
int catalogue_read(const char *checkpoint, int64_t n_items, struct catalogue *catalogue);
void catalogue_free(struct catalogue *catalogue); /* harmless on a zeroed struct */

/* The id of item i, not terminated. */
const char *catalogue_id(const struct catalogue *catalogue, int64_t i, size_t *length);

/* Sets marks[i] of the items whose ids are in a file: an id a line, or in a column with one of its usual
 * names. An empty file marks nothing. *known, *unknown: how many are in the catalogue, and are not.
 * EX_NOINPUT, EX_IOERR, EX_DATAERR. */
int catalogue_mark(const struct catalogue *catalogue, const char *path, uint8_t *marks, int64_t *known,
                   int64_t *unknown);

/* Titles from a file with an id and a title a row (csv.h). EX_NOINPUT, EX_DATAERR, EX_IOERR, EX_OSERR. */
int catalogue_read_titles(struct catalogue *catalogue, const char *path);

#endif
