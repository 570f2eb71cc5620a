/* The best items of users, by a checkpoint's model or a blend, on the CPU or a GPU: callers never ask which.
 *
 * The CPU has a program of its own for this, the scorer (scorer.h); on a GPU the backend scores the catalogue
 * for a piece of the batch at a time and takes the best on the device. Logits of the two agree to float's
 * rounding. On a GPU the last bits of a score may depend on the size of the batch. */
#ifndef VAECF_RANKER_H
#define VAECF_RANKER_H

#include <stddef.h>
#include <stdint.h>

#include "blend.h"
#include "comm.h"
#include "csr.h"
#include "scorer.h"

struct ranker;

/* Of a blend whose info was read. Collective up to the choice of the device, which is blend_device's and
 * backend_create's; each rank then reads the models for itself and gets a code of its own. Items with a
 * nonzero mark in closed[n_items] are in no list. precision is of the scorer's weights; other than fp32 it
 * wants DEVICE_CPU. blend_device's, backend_create's, blend_read's and scorer_create's codes. */
int ranker_create(const struct blend *blend, const struct comm *comm, enum device device,
                  enum precision precision, const uint8_t *closed, struct ranker **ranker);
void ranker_destroy(struct ranker *ranker); /* NULL is fine */

/* As scorer_top_k, flags included. EX_OSERR. */
int ranker_top_k(struct ranker *ranker, const struct csr *rows, int k, int flags, int32_t *top,
                 float *scores);

/* Where it computes: "cpu", or the GPU in a line. */
const char *ranker_device(const struct ranker *ranker);

/* Bytes of weights that every batch reads from the host's memory (scorer_bytes); on a GPU 0. */
size_t ranker_bytes(const struct ranker *ranker);

#endif
