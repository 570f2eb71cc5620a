/* Bytes on their way to numbered bins: added in batches, one for each piece of work, and read back bin by bin
 * in the order of the batches' keys. In memory as far as the budget goes, then on disk; over ranks by
 * exchange. Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_SPOOL_H
#define VAECF_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "comm.h"
#include "scratch.h"

/* What a piece of work has for one bin. */
struct spool_out {
    char *data; /* owned */
    size_t used, room;
};

struct spool_batch {
    int64_t key;
    int64_t *end; /* [n_bins]: where each bin's bytes end, owned */
    char *data;   /* owned; NULL: on disk, */
    int64_t at;   /* there */
};

struct spool {
    int n_bins;
    double share; /* of the budget, that may be in use when a batch is kept in memory */
    struct scratch *scratch;
    int64_t n, capacity;
    struct spool_batch *batch; /* [n], owned */
};

void spool_open(struct spool *spool, int n_bins, struct scratch *scratch, double share);

/* Makes room for `size` more bytes. */
int spool_out_reserve(struct spool_out *out, size_t size);

/* Adds a batch, out[n_bins], and empties that. Keys differ. Threads may add at the same time. */
int spool_add(struct spool *spool, int64_t key, struct spool_out *out);

/* Takes away the batches with keys from `key` on. */
void spool_drop(struct spool *spool, int64_t key);

/* Puts the batches into the order of their keys: after the last spool_add, before the first spool_get. */
void spool_sort(struct spool *spool);

/* A bin's bytes in a batch. Those from disk come into *buffer, which grows and is the caller's to free. */
int spool_get(const struct spool *spool, int64_t batch, int bin, struct spool_out *buffer, const char **data,
              size_t *size);

/* Collective: bins first[r] .. first[r + 1] - 1 of all ranks' batches go to rank r. `translate`, where given,
 * rewrites bytes of a bin before they leave. Sorts. */
int spool_exchange(struct spool *spool, const struct comm *comm, const int *first,
                   void (*translate)(char *data, size_t size, const void *context), const void *context);

void spool_close(struct spool *spool);

#endif
