/* Reads the input files into a spool of interactions (records.h), by all threads of all ranks: of a plain
 * file each rank takes a part, other files are dealt out over the ranks. Functions return 0 or a code of
 * <sysexits.h> with error_message() set; all are collective. */
#ifndef VAECF_READ_H
#define VAECF_READ_H

#include "comm.h"
#include "csv.h"
#include "dataset.h"
#include "duplicates.h"
#include "ids.h"
#include "spool.h"

struct reader {
    const struct comm *comm;
    struct csv_options csv;
    double min_rating;
    enum duplicates_rule asked, rule; /* asked: by the user; rule: from the first file on */
    uint64_t seed;
    struct spool *spool;
    struct ids items;              /* of this rank; after read_finish of all */
    int64_t rows, bytes;           /* over all ranks; bytes of text */
    struct csv_counts counts;      /* over all ranks and files, but for the bad rows: */
    char bad[CSV_BAD_SHOWN][1024]; /* the first, with file and line */
    int n_bad;
    struct dialect *first; /* of the first file, owned */
    char first_name[1024];
    int64_t total_bytes, done_bytes; /* of all files, for the progress; 0: unknown */
    int n_files;                     /* read so far */
    double start, last_progress;
    struct worker *worker; /* [threads], owned */
    int n_workers;
};

/* Makes the reader ready; total_bytes: of all the files that are to come. */
int read_start(struct reader *reader);

/* Reads one file as a part's. EX_DATAERR names file and line, in any part of it; EX_NOINPUT, EX_IOERR ... */
int read_file(struct reader *reader, const char *path, enum dataset_part part);

/* After the last file: gives items the same numbers on all ranks and each rank the bins that are its own. */
int read_finish(struct reader *reader);

void read_free(struct reader *reader);

#endif
