/* Ranking metrics over held-out users, as the field defines them.
 *
 * For a user with targets T and the list of all items by falling score (input items left out, ties to the
 * lower item index), let hit ranks be the 1-based places of T's items in the list: recall@R      hits in the
 * top R / min(R, |T|)                       (Liang et al. 2018) recall_all@R  hits in the top R / |T| (He et
 * al. 2020) precision@R   hits in the top R / R hitrate@R     1 if there is a hit in the top R ndcg@R sum
 * over hits of 1/log2(rank + 1) / the same sum over ranks 1..min(R, |T|) map@R         sum over hits of (hits
 * up to it / its rank) / min(R, |T|) mrr           1 / the first hit's rank, in the whole list coverage@R
 * part of the catalogue that is in the top R of at least one user All but coverage are means over the users,
 * with stderr = standard deviation / sqrt(users). */
#ifndef VAECF_METRICS_H
#define VAECF_METRICS_H

#include <stdint.h>

#include "comm.h"

enum metric_kind {
    METRIC_RECALL,
    METRIC_RECALL_ALL,
    METRIC_PRECISION,
    METRIC_HITRATE,
    METRIC_NDCG,
    METRIC_MAP,
    METRIC_MRR,
    METRIC_COVERAGE,
    METRIC_KINDS
};

struct metric {
    enum metric_kind kind;
    int at; /* the cut-off R; 0 for mrr */
};

enum { METRIC_NAME_MAX = 24, METRIC_AT_MAX = 10000, METRICS_MAX = 128 };

/* "ndcg@100" and back. Returns 0, or EX_USAGE with a message that lists what there is. */
int metric_parse(const char *name, struct metric *metric);
void metric_name(struct metric metric, char name[METRIC_NAME_MAX]);

/* Sums over users. */
struct metrics {
    int n;
    struct metric metric[METRICS_MAX];
    double sum[METRICS_MAX], sum_squares[METRICS_MAX];
    int64_t users;
    int64_t n_items;
    int largest_at;              /* the top list must be this long */
    double *discount;            /* [largest_at + 1]: 1/log2(rank + 1) of rank 1.. */
    double *ideal;               /* [largest_at + 1]: sum of the first r discounts */
    uint64_t *seen[METRICS_MAX]; /* for coverage: a bit an item; NULL for others */
};

/* EX_OSERR if there is no memory. metrics_free releases what it holds. */
int metrics_init(struct metrics *metrics, const struct metric *wanted, int n, int64_t n_items);
void metrics_free(struct metrics *metrics);
void metrics_reset(struct metrics *metrics);

/* One user. top: the first n_top items of the list (n_top >= largest_at, or the whole list if it is shorter);
 * targets: [n_targets] ascending, at least one; first_hit: 1-based rank of the first target in the whole
 * list, 0 if no target is in it. */
void metrics_add(struct metrics *metrics, const int32_t *top, int n_top, const int32_t *targets,
                 int64_t n_targets, int64_t first_hit);

/* Collective: after it every rank has the sums over all ranks. */
void metrics_reduce(struct metrics *metrics, const struct comm *comm);

/* The i-th metric's mean and its standard error (coverage: 0). NAN if no user was scored. */
double metrics_value(const struct metrics *metrics, int i);
double metrics_stderr(const struct metrics *metrics, int i);

#endif
