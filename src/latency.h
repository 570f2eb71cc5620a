/* How fast a ranker answers: time of a batch by its size, beside the least that it can take. */
#ifndef VAECF_LATENCY_H
#define VAECF_LATENCY_H

#include "history.h"
#include "recommender.h"

/* Prints a table to stdout and, unless path is NULL, writes it as CSV: precision,threads,batch,calls,mean_ms,
 * p50_ms,p90_ms,p95_ms,p99_ms,users_per_second,stream_ms (median time to read as much from memory as the
 * weights take, measured before each call, which also leaves little of them in the cache), times_stream (p50
 * by that); on a GPU, which reads its weights elsewhere, the last two are empty. Users are the first of the
 * history, or, if that is NULL, made up: as many items as MovieLens users have, each as likely as its count
 * says. A size of a batch is timed for `seconds`, or longer, up to ten times, until there are seven calls;
 * once at least. EX_OSERR, EX_CANTCREAT, EX_IOERR, history_next's codes. */
int latency_measure(const struct recommender *recommender, const struct catalogue *catalogue,
                    struct history *history, const char *precision, double seconds, const char *path);

#endif
