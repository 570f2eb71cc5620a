/* Ranking metrics; see metrics.h. */
#include "metrics.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

static const char *const kind_name[METRIC_KINDS] = {"recall", "recall_all", "precision", "hitrate",
                                                    "ndcg",   "map",        "mrr",       "coverage"};

int metric_parse(const char *name, struct metric *metric) {
    const char *at = strchr(name, '@');
    size_t length = at ? (size_t)(at - name) : strlen(name);
    for (int kind = 0; kind < METRIC_KINDS; kind++) {
        if (strlen(kind_name[kind]) != length || strncmp(kind_name[kind], name, length) != 0) continue;
        char *end = NULL;
        long cut = at ? strtol(at + 1, &end, 10) : 0;
        int is_plain = at && at[1] >= '1' && at[1] <= '9' && *end == '\0';
        if (kind == METRIC_MRR ? at != NULL : !is_plain || cut > METRIC_AT_MAX) break;
        *metric = (struct metric){(enum metric_kind)kind, (int)cut};
        return 0;
    }
    return error_set(
        EX_USAGE,
        "metric \"%s\": want recall@R, recall_all@R, precision@R, hitrate@R, ndcg@R, map@R, coverage@R "
        "with R from 1 to %d, or mrr",
        name, METRIC_AT_MAX);
}

void metric_name(struct metric metric, char name[METRIC_NAME_MAX]) {
    if (metric.at) {
        snprintf(name, METRIC_NAME_MAX, "%s@%d", kind_name[metric.kind], metric.at);
    } else {
        snprintf(name, METRIC_NAME_MAX, "%s", kind_name[metric.kind]);
    }
}

static size_t words_of(int64_t n_items) {
    return (size_t)(n_items + 63) / 64;
}

int metrics_init(struct metrics *metrics, const struct metric *wanted, int n, int64_t n_items) {
    *metrics = (struct metrics){.n_items = n_items, .largest_at = 1};
    if (n > METRICS_MAX) return error_set(EX_USAGE, "%d metrics: want at most %d", n, METRICS_MAX);
    metrics->n = n;
    for (int i = 0; i < n; i++) {
        metrics->metric[i] = wanted[i];
        if (wanted[i].at > metrics->largest_at) metrics->largest_at = wanted[i].at;
        if (wanted[i].kind != METRIC_COVERAGE) continue;
        metrics->seen[i] = calloc(words_of(n_items), sizeof **metrics->seen);
        if (!metrics->seen[i]) goto no_memory;
    }
    size_t size = (size_t)metrics->largest_at + 1;
    metrics->discount = calloc(size, sizeof *metrics->discount);
    metrics->ideal = calloc(size, sizeof *metrics->ideal);
    if (!metrics->discount || !metrics->ideal) goto no_memory;
    for (size_t rank = 1; rank < size; rank++) {
        metrics->discount[rank] = 1 / log2((double)rank + 1);
        metrics->ideal[rank] = metrics->ideal[rank - 1] + metrics->discount[rank];
    }
    return 0;
no_memory:
    metrics_free(metrics);
    return error_memory("metrics", words_of(n_items) * 8);
}

void metrics_free(struct metrics *metrics) {
    for (int i = 0; i < METRICS_MAX; i++) free(metrics->seen[i]);
    free(metrics->discount);
    free(metrics->ideal);
    *metrics = (struct metrics){0};
}

void metrics_reset(struct metrics *metrics) {
    memset(metrics->sum, 0, sizeof metrics->sum);
    memset(metrics->sum_squares, 0, sizeof metrics->sum_squares);
    metrics->users = 0;
    for (int i = 0; i < metrics->n; i++) {
        if (metrics->seen[i])
            memset(metrics->seen[i], 0, words_of(metrics->n_items) * sizeof **metrics->seen);
    }
}

static int is_target(int32_t item, const int32_t *targets, int64_t n) {
    int64_t low = 0, high = n;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (targets[middle] < item) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < n && targets[low] == item;
}

/* What a user's list has down to a rank. */
struct hits {
    double n, gain, precisions; /* number, sum of discounts, sum of the precisions at hits */
};

/* A metric at a cut-off from the hits above it. */
static double value_at(const struct metrics *m, struct metric metric, const struct hits *hits,
                       int64_t n_targets, int64_t first_hit) {
    double at = metric.at, all = (double)n_targets, few = all < at ? all : at;
    switch (metric.kind) {
    case METRIC_RECALL:
        return hits->n / few;
    case METRIC_RECALL_ALL:
        return hits->n / all;
    case METRIC_PRECISION:
        return hits->n / at;
    case METRIC_HITRATE:
        return hits->n > 0;
    case METRIC_NDCG:
        return hits->gain / m->ideal[(int)few];
    case METRIC_MAP:
        return hits->precisions / few;
    case METRIC_MRR:
        return first_hit > 0 ? 1 / (double)first_hit : 0;
    default:
        return 0;
    }
}

void metrics_add(struct metrics *m, const int32_t *top, int n_top, const int32_t *targets, int64_t n_targets,
                 int64_t first_hit) {
    /* hits of the list down to each metric's cut-off: one walk, metrics answered when it passes them */
    struct hits hits = {0};
    struct hits at[METRICS_MAX];
    for (int i = 0; i < m->n; i++) at[i] = (struct hits){-1, 0, 0};
    for (int rank = 1; rank <= m->largest_at; rank++) {
        int32_t item = rank <= n_top ? top[rank - 1] : -1;
        if (item >= 0 && is_target(item, targets, n_targets)) {
            hits.n++;
            hits.gain += m->discount[rank];
            hits.precisions += hits.n / rank;
        }
        for (int i = 0; i < m->n; i++) {
            if (m->metric[i].at == rank) at[i] = hits;
            if (m->seen[i] && item >= 0 && rank <= m->metric[i].at) {
                m->seen[i][item >> 6] |= (uint64_t)1 << (item & 63);
            }
        }
    }
    for (int i = 0; i < m->n; i++) {
        double value = value_at(m, m->metric[i], &at[i], n_targets, first_hit);
        m->sum[i] += value;
        m->sum_squares[i] += value * value;
    }
    m->users++;
}

void metrics_reduce(struct metrics *metrics, const struct comm *comm) {
    comm_sum_double(comm, metrics->sum, (size_t)metrics->n);
    comm_sum_double(comm, metrics->sum_squares, (size_t)metrics->n);
    comm_sum_int(comm, &metrics->users, 1);
    for (int i = 0; i < metrics->n; i++) {
        if (metrics->seen[i]) comm_or(comm, metrics->seen[i], words_of(metrics->n_items));
    }
}

double metrics_value(const struct metrics *metrics, int i) {
    if (metrics->users == 0) return NAN;
    if (!metrics->seen[i]) return metrics->sum[i] / (double)metrics->users;
    int64_t seen = 0;
    for (size_t w = 0; w < words_of(metrics->n_items); w++) seen += __builtin_popcountll(metrics->seen[i][w]);
    return (double)seen / (double)metrics->n_items;
}

double metrics_stderr(const struct metrics *metrics, int i) {
    double n = (double)metrics->users;
    if (metrics->users == 0) return NAN;
    if (metrics->seen[i] || metrics->users == 1) return 0;
    double mean = metrics->sum[i] / n, squares = metrics->sum_squares[i] - n * mean * mean;
    /* below that it is rounding: all values are equal */
    return squares > 1e-13 * metrics->sum_squares[i] ? sqrt(squares / (n - 1) / n) : 0;
}
