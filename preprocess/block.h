/* The users of one bin, in their order, with their interactions: what the passes of a split go through, one
 * block at a time. Between the passes a block rests in memory or on disk.
 *
 * Users lie in the order of a seeded hash of their id, and bins are ranges of that hash, so the blocks one
 * after the other are all users in their order. */
#ifndef VAECF_BLOCK_H
#define VAECF_BLOCK_H

#include "csr.h"
#include "dataset.h"
#include "duplicates.h"
#include "interactions.h"
#include "scratch.h"
#include "spool.h"

struct block {
    int64_t n;                      /* users */
    int64_t *id_at;                 /* [n + 1] into id, owned */
    char *id;                       /* owned */
    struct csr part[DATASET_PARTS]; /* rows: the users; columns: numbers of items, in no order */
    int n_parts;                    /* the others are empty structs */
    bool on_disk;
    size_t reserved;                     /* of the scratch's budget */
    int64_t at, nonzeros[DATASET_PARTS]; /* of a block on disk */
    int64_t id_bytes;
};

/* A user's place: 64 bits that all depend on seed and id. The bin of n (a power of two, at least 2) is in the
 * highest bits. */
uint64_t block_user_hash(uint64_t seed, const char *id, size_t length);
static inline int block_bin(uint64_t hash, int n_bins) {
    return (int)(hash >> (64 - __builtin_ctz((unsigned)n_bins)));
}

/* What one thread needs to make one block after the other; its memory is kept between them. */
struct builder {
    struct duplicates duplicates;
    int32_t n_items;
    struct interactions rows[DATASET_PARTS];
    struct settler settler;
    struct spool_out buffer;
};

/* EX_OSERR. */
int builder_open(struct builder *builder, const struct duplicates *duplicates, int32_t n_items);
void builder_close(struct builder *builder);

/* Makes the block of a bin from its interactions, which have values if the rule needs them: each
 * (user, item) counts once, if at all. *counts grows. EX_OSERR, EX_IOERR. */
int block_build(struct builder *builder, const struct spool *interactions, int bin, uint64_t seed,
                int n_parts, struct block *block, struct duplicates_counts *counts);

/* Lets a block rest, and fetches it. changed: since it was fetched (it can only have become smaller).
 * EX_IOERR, EX_OSERR. */
int block_rest(struct block *block, struct scratch *scratch, double share, bool changed);
int block_fetch(struct block *block, const struct scratch *scratch);

void block_free(struct block *block, struct scratch *scratch);

#endif
