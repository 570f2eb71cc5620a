/* The dataset directory that vaecf-preprocess writes and training reads.
 *
 * dataset.h5
 *   attributes  format "vaecf-dataset", format_version 2, n_users, n_items, n_interactions, n_shards, seed,
 *               fingerprint (16 hex digits of what was split how; independent of the number of shards), and
 *               every preprocessing option under its own name
 *   /items/id     strings [n_items], the catalogue in index order
 *   /items/count  int64 [n_items], training users of each item; index order is by falling count
 *   /shards/rows, /shards/nonzeros   int64 [n_shards, 5], columns as enum dataset_part
 *
 * shard-00000-of-00008.h5 ...
 *   attributes  format "vaecf-shard", format_version 2, shard, n_shards, n_items, fingerprint
 *   /train, /validation/input, /validation/target, /test/input, /test/target: CSR matrices
 *       indptr int64 [rows + 1], indices int32 [nonzeros] ascending in a row, attribute shape [rows, n_items]
 *   /train/user, /validation/user, /test/user        int64 [rows]: index of the user, unique over the dataset
 *   /train/user_id, ...                              strings [rows]: the id as it was in the CSV
 *
 * A split's rows lie in order over the shards, so a row's position is the same whatever their number. Input
 * and target of a split have the same rows. Every file is sealed, see h5.h. */
#ifndef VAECF_DATASET_H
#define VAECF_DATASET_H

#include <stdint.h>

#include "comm.h"
#include "csr.h"

#define DATASET_FORMAT "vaecf-dataset"
#define DATASET_SHARD_FORMAT "vaecf-shard"
#define DATASET_FORMAT_VERSION 2

enum dataset_part {
    DATASET_TRAIN,
    DATASET_VALIDATION_INPUT,
    DATASET_VALIDATION_TARGET,
    DATASET_TEST_INPUT,
    DATASET_TEST_TARGET,
    DATASET_PARTS
};

/* "train", "validation/input", ... */
extern const char *const dataset_part_name[DATASET_PARTS];

enum { DATASET_PATH_MAX = 1024, DATASET_FINGERPRINT_SIZE = 17 };

struct dataset {
    char path[DATASET_PATH_MAX];
    char fingerprint[DATASET_FINGERPRINT_SIZE];
    int64_t n_users, n_items, n_interactions, n_shards;
    int64_t rows[DATASET_PARTS];     /* over all shards */
    int64_t nonzeros[DATASET_PARTS]; /* over all shards */
    int64_t *shard_rows;             /* [n_shards, DATASET_PARTS], owned */
};

/* Writes "DIR/shard-00003-of-00008.h5" into name. */
void dataset_shard_path(const char *dir, int64_t shard, int64_t n_shards, char *name, int size);

/* Collective: rank 0 reads dataset.h5, all ranks get it. EX_NOINPUT (also of a path of DATASET_PATH_MAX bytes
 * or more), EX_DATAERR. */
int dataset_open(const char *path, const struct comm *comm, struct dataset *dataset);
void dataset_close(struct dataset *dataset);

/* Collective: reads every shard once, dealt out over the ranks, and tests its seal (see h5.h). To be called
 * before dataset_read, which trusts the shards. EX_NOINPUT, EX_DATAERR. */
int dataset_verify(const struct dataset *dataset, const struct comm *comm);

/* Rows [first, first + count) of a part, with their users' indices in *users ([count], malloced). Tests that
 * the rows are whole: ascending, within the catalogue. Not collective. EX_DATAERR, EX_NOINPUT, EX_OSERR. */
int dataset_read(const struct dataset *dataset, enum dataset_part part, int64_t first, int64_t count,
                 struct csr *matrix, int64_t **users);

/* The same of the columns [first_item, first_item + n_items) alone, with `whole` (csr.h) unless they are all.
 * What lies outside is read in pieces and not kept. */
int dataset_read_range(const struct dataset *dataset, enum dataset_part part, int64_t first, int64_t count,
                       int64_t first_item, int64_t n_items, struct csr *matrix, int64_t **users);

/* The catalogue. Not collective. What it holds is owned by the caller: items_free. */
struct items {
    int64_t n;
    size_t width;   /* bytes of one id, NUL-padded */
    char *ids;      /* [n, width] */
    int64_t *count; /* [n] */
};
int dataset_read_items(const struct dataset *dataset, struct items *items);
void items_free(struct items *items);

#endif
