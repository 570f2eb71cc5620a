/* Which users are in which step: every epoch a new random order of all training users, cut into batches.
 *
 * The order depends on seed and epoch alone. A batch is the same set of users for any number of ranks; each
 * rank computes a contiguous part of it. A rank keeps its part of the data set (by the order of the shards)
 * and, once an epoch, the ranks exchange rows so that each has what it will compute. The last batch of an
 * epoch may be smaller; no user is left out. */
#ifndef VAECF_SAMPLER_H
#define VAECF_SAMPLER_H

#include <stdint.h>

#include "comm.h"
#include "csr.h"

struct sampler {
    const struct comm *comm; /* not owned */
    struct csr base;         /* this rank's part of all training rows; owned */
    int64_t *base_users;     /* [base.rows]; owned */
    int64_t n_rows;          /* over all ranks */
    int64_t batch_size;      /* over all ranks */
    uint64_t seed;
    /* the epoch's rows that this rank computes, in order */
    struct csr rows;
    int64_t *users;      /* [rows.rows] */
    int64_t *step_first; /* [steps + 1] a step's first row */
    int64_t *indptr;     /* of the batch handed out */
};

/* Takes over what base and users own. base: rows comm_part(n_rows, rank, size). EX_OSERR. */
int sampler_create(const struct comm *comm, struct csr *base, int64_t *users, int64_t n_rows,
                   int64_t batch_size, uint64_t seed, struct sampler *sampler);
void sampler_free(struct sampler *sampler);

int64_t sampler_steps(const struct sampler *sampler);

/* Users of a step, over all ranks. */
int64_t sampler_step_users(const struct sampler *sampler, int64_t step);

/* Collective: draws the epoch's order and exchanges rows. Every rank gets the same code. EX_OSERR. */
int sampler_begin(struct sampler *sampler, uint32_t epoch);

/* This rank's part of a step's batch (it may be empty). What it points to is the sampler's, until the next
 * call. */
void sampler_batch(struct sampler *sampler, int64_t step, struct csr *rows, const int64_t **users);

/* The row at a position of the epoch's order, and back: see order.h. */
int64_t sampler_row_at(uint64_t seed, uint32_t epoch, int64_t n, int64_t position);
int64_t sampler_position_of(uint64_t seed, uint32_t epoch, int64_t n, int64_t row);

#endif
