/* Several checkpoints as one model: the scores of the first, plus a weight times those of each other one.
 *
 * What is added are model_score's: logits of a network, which are its log softmax but for a number that is
 * the same for all items of a user; for ease the sums over a user's items. */
#ifndef VAECF_BLEND_H
#define VAECF_BLEND_H

#include "backend.h"
#include "checkpoint.h"
#include "comm.h"
#include "model.h"

struct blend {
    int n;                                   /* checkpoints; without --blend 1 */
    const char *path[MODELS_MAX];            /* the program's --checkpoint, then the others; not owned */
    double weight[MODELS_MAX];               /* the first one's is not used */
    struct checkpoint_info info[MODELS_MAX]; /* after blend_read_info */
};

/* Adds what follows --blend, "FILE:WEIGHT", which is cut in two and kept. EX_USAGE. */
int blend_add(struct blend *blend, char *option);

/* Collective: checkpoint_share_info of each. They must be of one data set: EX_DATAERR. */
int blend_read_info(struct blend *blend, const struct comm *comm);

/* Are the scores logits of a likelihood? */
int blend_has_chances(const struct blend *blend);

/* Where it is computed when `device` was asked for: the baselines know the CPU alone. EX_CONFIG if the user
 * wants another. */
int blend_device(const struct blend *blend, enum device device, enum device *chosen);

/* The weights, into models[MODELS_MAX] on the backend, zeroed before: the first of them is the whole blend.
 * Not collective. model_create's and checkpoint_read_model's codes; blend_free in any case. */
int blend_read(const struct blend *blend, struct backend *backend, struct model *models);
void blend_free(struct model *models); /* harmless on zeroed ones */

#endif
