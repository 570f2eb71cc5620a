/* A model's ranking of items for held-out users, and the table of what it is worth. */
#ifndef VAECF_RANKING_H
#define VAECF_RANKING_H

#include "csr.h"
#include "metrics.h"
#include "model.h"

/* All metrics of the table: those with a cut-off at 5, 10, 20, 50 and 100, and mrr. As metrics_init. */
int ranking_metrics_init(struct metrics *metrics, int64_t n_items);

/* Scores the users (rows) by their input and adds those who have a target to the metrics. Not collective:
 * each rank gives its own rows, then metrics_reduce; collective over the item ranks of a grid, all of whom
 * give the same rows: their own columns of the input, the whole target. Item rank 0 adds. EX_OSERR. */
int ranking_evaluate(struct model *model, const struct csr *input, const struct csr *target,
                     struct metrics *metrics);

/* Writes "split,users,metric,value,stderr", a row a metric, to a file or (path NULL) to stdout. EX_CANTCREAT,
 * EX_IOERR. */
int ranking_write_table(const char *path, const char *split, const struct metrics *metrics);

#endif
