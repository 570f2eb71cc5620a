/* Writes a dataset directory, in the layout of dataset.h.
 *
 * Files get temporary names first; they take their places when all are whole and on the disk, dataset.h5
 * last. Meanwhile a dataset that was there is in DIR/replaced.tmp (DIR/replacing.tmp), from where it comes
 * back if this fails, or at the next start. So a run that is stopped leaves no directory that looks like a
 * dataset, or the one that was there before. */
#ifndef VAECF_SHARDS_H
#define VAECF_SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "ids.h"
#include "lock.h"
#include "split.h"

enum { SHARDS_MAX = 99999 };

/* An attribute of dataset.h5: a text, or if that is NULL, a number. */
struct shards_attribute {
    const char *name;
    const char *text;
    bool is_double;
    int64_t integer;
    double number;
};

/* Makes the directory, its parents too, and takes its lock, which is the caller's to release. EX_CANTCREAT if
 * it cannot be made, if another process writes there, or if it holds a dataset and force is not set. note:
 * see lock.h. made becomes true if there was no such directory: after an error it is the caller's to remove.
 * To be called before the long work. */
int shards_prepare(const char *dir, bool force, void (*note)(const char *line), bool *made,
                   struct lock **lock);

/* Writes all files, replacing the dataset that was there: each rank those of its shards (comm_part), from the
 * rows that split_run made. lock: rank 0's. Collective. EX_CANTCREAT, EX_IOERR, EX_OSERR; then the dataset
 * that was there is there. */
int shards_write(const struct comm *comm, const char *dir, const struct lock *lock, int64_t n_shards,
                 const struct split *split, const struct ids *items, const struct spool *rows,
                 const struct shards_attribute *attributes, int n_attributes);

#endif
