/* What a run writes besides checkpoints: config.yaml, metrics.csv, train.log, and lines on the terminal.
 *
 * Rank 0's business. metrics.csv has a row an epoch; timing columns apart, it is the same for the same seed
 * and number of ranks, also across stops. */
#ifndef VAECF_REPORT_H
#define VAECF_REPORT_H

#include <stdint.h>
#include <stdio.h>

#include "config.h"
#include "metrics.h"

enum { REPORT_METRICS_MAX = 4 };

struct report {
    FILE *log, *table;
    char table_path[CONFIG_PATH_MAX + 32];
    int log_failed; /* errno of the first line that train.log did not take */
    int is_live;    /* standard output is a terminal that somebody looks at */
};

/* A row of metrics.csv. */
struct report_row {
    int64_t epoch;              /* from 1 */
    int64_t step;               /* updates so far */
    double seconds;             /* of the epoch's steps */
    double users_per_second;    /* in them, over all ranks */
    double loss, nll, kl;       /* means over the epoch's users; loss = nll + beta kl */
    double beta, learning_rate; /* of the last step; with train.kl.gamma beta is the mean weight of kl */
    double loss_scale;
    int64_t skipped_steps; /* of the epoch */
    int n_metrics;
    const struct metrics *validation; /* their values; NULL: not validated, the columns stay empty */
};

/* The metrics of the table: recall@20, recall@50, ndcg@100 and, if it is another, the one that chooses
 * best.h5. Returns their number; *chosen is the place of the one that chooses. */
int report_metrics(const struct config *config, struct metric metric[REPORT_METRICS_MAX], int *chosen);

/* Makes the run directory and its checkpoints/, writes config.yaml, opens train.log to go on with it and
 * metrics.csv with the rows up to epoch `keep` of what is there (0: none). EX_CANTCREAT, EX_IOERR, EX_DATAERR
 * if what is there has other columns. */
int report_open(struct report *report, const struct config *config, int64_t keep);
void report_close(struct report *report);

/* A line to the terminal and to train.log. */
void report_line(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line to the terminal that the next line takes the place of; nothing if is_live is not set. */
void report_live(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A line to train.log alone. */
void report_log(struct report *report, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* EX_IOERR if the row could not be written. */
int report_epoch(struct report *report, const struct report_row *row);

/* Waits until metrics.csv is on the disk: before the checkpoint whose run has these rows behind it. EX_IOERR,
 * also if train.log is not whole. */
int report_sync(struct report *report);

/* Tells the job script that the run has got further than where it began and that its slowest save took so
 * many seconds, by the file that the environment's VAECF_SAVED names, if it does. */
void report_saved(double seconds);

/* "1 h 05 min", "3 min 20 s", "12 s"; "?" if it is not a finite number. */
void report_duration(double seconds, char text[32]);

#endif
