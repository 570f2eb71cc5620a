/* Checkpoints: HDF5 files from which a run goes on as if nothing had happened, and recommendations are made.
 *
 *   attributes   format "vaecf-checkpoint", format_version 2, program version, n_items, dataset fingerprint,
 *                config (the YAML text)
 *   /model/encoder/0/weight ...       float32, shapes as in model.h
 *   /optimizer/m/..., /optimizer/v/...  Adam's moments (not in best.h5)
 *   /state       attributes: struct train_state's fields
 *   /items/id, /items/count           the catalogue
 *
 * Saved as all outputs are (see output.h) and sealed (see h5.h): a reader never sees half a file, and
 * checkpoint_read_info knows one that was damaged later. */
#ifndef VAECF_CHECKPOINT_H
#define VAECF_CHECKPOINT_H

#include <stdint.h>

#include "comm.h"
#include "config.h"
#include "dataset.h"
#include "model.h"

/* Everything besides weights and moments that decides the future. */
struct train_state {
    int64_t epoch;         /* finished epochs */
    int64_t epoch_step;    /* finished steps of the epoch under way */
    int64_t step;          /* finished steps in all */
    int64_t encoder_steps; /* of these, in turns of the encoder */
    double loss_scale;     /* 1 unless fp16 */
    int64_t good_steps;    /* since the loss scale last changed */
    double best_value;     /* of the validation metric so far; NAN: none yet */
    int64_t best_epoch;
    int64_t bad_rounds; /* validations since then */
    /* sums of the epoch under way */
    double epoch_loss, epoch_nll, epoch_kl, epoch_seconds;
    int64_t epoch_users, epoch_skipped;
};

/* What a checkpoint holds besides tensors. */
struct checkpoint_info {
    struct config config;
    struct train_state state;
    int64_t n_items;
    char fingerprint[DATASET_FINGERPRINT_SIZE];
    int has_optimizer;
};

/* Writes path. m, v: backend memory [n_params], or NULL for a model alone. EX_CANTCREAT, EX_IOERR; the file
 * that was there stays whole on any failure. Rank 0 does it; of a grid all item ranks of its row: item rank 0
 * writes, and the others, whose code tells nothing, hand it their parts a piece at a time. */
int checkpoint_save(const char *path, const struct config *config, const struct train_state *state,
                    const struct model *model, const real *m, const real *v, const struct items *items,
                    const char *fingerprint);

/* Tests the seal, which reads the whole file, and reads all but the tensors and items. To be called before
 * the two below, which trust the file. EX_NOINPUT, EX_DATAERR, EX_CONFIG. */
int checkpoint_read_info(const char *path, struct checkpoint_info *info);

/* Collective: rank 0 does it, all ranks get it. */
int checkpoint_share_info(const char *path, const struct comm *comm, struct checkpoint_info *info);

/* Reads the weights into a model created with the checkpoint's configuration, and the moments unless NULL; of
 * a grid this rank's items alone, whatever grid has written them. EX_DATAERR. */
int checkpoint_read_model(const char *path, struct model *model, real *m, real *v);

/* The catalogue in it. Owned by the caller: items_free. */
int checkpoint_read_items(const char *path, struct items *items);

/* "DIR/checkpoints/step-000000123.h5" */
void checkpoint_path(const char *dir, int64_t step, char *path, int size);

/* The steps of DIR/checkpoints/step-*.h5, the newest first: regular files of exactly such a name. *steps is
 * the caller's to free. EX_IOERR, EX_OSERR; no directory is an empty list. */
int checkpoint_list(const char *dir, int64_t **steps, int *n);

/* The newest checkpoint under DIR/checkpoints that is whole (its seal tested), into path; "" if there
 * is none. Each damaged one that was passed over is told through warn. EX_DATAERR if there are some and none
 * is whole, EX_IOERR if one cannot be read. */
int checkpoint_newest(const char *dir, char *path, int size, void (*warn)(const char *line));

/* Those of later steps than `above` are damaged: "step-000000123.h5.damaged" from now on. */
int checkpoint_mark_damaged(const char *dir, int64_t above);

/* Deletes all but the newest `keep` under DIR/checkpoints. */
int checkpoint_prune(const char *dir, int64_t keep);

#endif
