/* Users and the items they have had so far, batch by batch, in bounded memory: from files (csv.h) or from a
 * data set's split, told by a catalogue's indices.
 *
 * In files the rows may come in any order: they are grouped by user first (see grouping.h); where the
 * rows of a user lie together, users are passed on as they are read. Either way users keep the order of their
 * first rows. */
#ifndef VAECF_HISTORY_H
#define VAECF_HISTORY_H

#include <stdint.h>

#include "catalogue.h"
#include "csr.h"
#include "csv.h"
#include "duplicates.h"

/* A batch of users. A zeroed struct is empty. */
struct users {
    struct csr matrix;   /* [rows, items]: known items, ascending, each once */
    int64_t *unknown;    /* [rows] rows with items that the catalogue does not have */
    char *text;          /* all ids */
    int64_t *text_start; /* [rows + 1] */
    int64_t rows_room, indices_room, text_room;
};
void users_free(struct users *users);

/* The id of a row's user, not terminated. */
static inline const char *users_id(const struct users *users, int64_t row, size_t *length) {
    *length = (size_t)(users->text_start[row + 1] - users->text_start[row]);
    return users->text + users->text_start[row];
}

struct history_options {
    const char *const *paths; /* files of interactions, "-" is standard input, */
    int n_paths;
    struct csv_options csv;
    double min_rating;               /* rows below it name the user but do not count */
    enum duplicates_rule duplicates; /* AUTO: as the first file with rows says */
    int grouped;                     /* the rows of a user lie together */
    int64_t memory;                  /* bytes before rows go to temporary files (unless grouped) */
    /* called now and then while rows are read to be grouped: how many, what part of the files (-1: unknown)
     */
    void (*reading)(int64_t rows, double part);
    void (*opened)(const struct csv *csv); /* called with each file; NULL: nobody is told */
    const char *dataset, *split; /* or a data set directory; the split's users with their input items */
};

struct history_counts {
    int64_t users;
    int64_t known;   /* rows whose item is in the catalogue */
    int64_t unknown; /* rows whose item is not */
    int64_t skipped; /* rows that could not be read (only with csv_options.skip_bad_rows) */
};

struct history;

/* EX_NOINPUT, EX_DATAERR (also if the data set's items are not the catalogue's), EX_OSERR. The catalogue and
 * what the options point to must outlive the history. */
int history_open(const struct history_options *options, const struct catalogue *catalogue,
                 struct history **history);

/* The next users, at most max_rows; none: that was all. The first call reads everything if rows are to be
 * grouped. EX_DATAERR (a bad row, no row at all, or a user who is back when rows should lie together),
 * EX_NOINPUT, EX_IOERR, EX_CANTCREAT, EX_OSERR. */
int history_next(struct history *history, int64_t max_rows, struct users *users);

/* So far. */
const struct history_counts *history_counts(const struct history *history);

/* The part of the users that has been passed on, 0 .. 1; -1 if that is not known. */
double history_fraction(const struct history *history);

void history_close(struct history *history); /* NULL is fine */

#endif
