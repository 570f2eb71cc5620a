/* Lists for a stream of users, over MPI ranks: rank 0 reads the users and writes the lists, in the users'
 * order; batches in between are dealt out to the ranks, two to each, so that none waits. */
#ifndef VAECF_RECOMMENDER_H
#define VAECF_RECOMMENDER_H

#include <stdint.h>

#include "catalogue.h"
#include "comm.h"
#include "history.h"
#include "lists.h"
#include "ranker.h"

struct recommender {
    struct ranker *ranker; /* not owned; its closed items are the marks' */
    int k;                 /* at most the number of items */
    int flags;             /* of scorer.h */
    int has_chances;       /* are the scores logits of a likelihood? set by the caller */
    /* the list of users without a known item: by falling count */
    int n_popular;
    int32_t *popular;      /* [k], owned */
    float *popular_scores; /* counts */
};

/* Takes the popularity list from the items without a mark (marks NULL: all). EX_OSERR. */
int recommender_create(const struct catalogue *catalogue, const uint8_t *marks, struct ranker *ranker, int k,
                       int flags, struct recommender *recommender);
void recommender_free(struct recommender *recommender); /* harmless on a zeroed struct */

/* Users of a batch: few enough for its lists to be small. */
int64_t recommender_batch(const struct recommender *recommender);

struct recommender_totals {
    int64_t popular;  /* users who got the popularity list */
    int64_t finished; /* users */
};

/* Collective. Passes all users of `history` on to `lists` (both of rank 0). progress, unless NULL, is called
 * after each batch. Every rank gets the same code: history_next's, lists_add's, EX_OSERR. */
int recommender_run(const struct recommender *recommender, const struct comm *comm, struct history *history,
                    struct lists *lists, void (*progress)(const struct history *, int64_t finished),
                    struct recommender_totals *totals);

#endif
