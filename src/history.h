/* What users have had so far: interactions from CSV files, told by a catalogue's indices. */
#ifndef VAECF_HISTORY_H
#define VAECF_HISTORY_H

#include <stdint.h>

#include "csr.h"
#include "csv.h"
#include "dataset.h"
#include "ids.h"

struct history {
    struct ids users;  /* in order of their first row */
    struct csr matrix; /* [users.n, items]: known items, ascending, each once */
    int64_t known;     /* rows whose item is in the catalogue */
    int64_t unknown;   /* rows whose item is not */
    int64_t skipped;   /* rows that could not be read (only with csv_options.skip_bad_rows) */
};

/* Reads files ("-": standard input). Rows with a rating below min_rating name the user but do not count.
 * EX_NOINPUT, EX_DATAERR (also if there is no row at all), EX_IOERR, EX_OSERR. */
int history_read(const char *const *paths, int n_paths, const struct csv_options *options, double min_rating,
                 const struct items *items, struct history *history);

/* Frees what the history owns; harmless on a zeroed struct. */
void history_free(struct history *history);

#endif
