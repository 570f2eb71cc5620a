/* The best items of users, from a model's weights in host memory: made for answering, not for training.
 *
 * The output layer and the choice of the k best are one pass over panels of the catalogue, so a row of scores
 * never exists as a whole; a single user costs one reading of the weights, at the speed of memory. A score is
 * summed in the same order whatever the batch, the threads and the item's place: a user's list has the same
 * bits alone and among others, and items with equal weights have equal scores. */
#ifndef VAECF_SCORER_H
#define VAECF_SCORER_H

#include <stddef.h>
#include <stdint.h>

#include "csr.h"
#include "model.h"

struct scorer;

/* Copies the weights out of a model, and of those whose scores are added to it (model->next, MODELS_MAX in
 * all); they are not needed afterwards. precision: PRECISION_FP32, or PRECISION_BF16 and PRECISION_FP16,
 * which halve the memory read for a user; sums are float always. EX_OSERR, EX_DATAERR if a weight is too
 * large for fp16. */
int scorer_create(const struct model *model, enum precision precision, struct scorer **scorer);
void scorer_destroy(struct scorer *scorer); /* NULL is fine */

/* From now on items with a nonzero mark are in no list; marks[n_items], NULL: all items may be. */
void scorer_close_items(struct scorer *scorer, const uint8_t *marks);

enum {
    SCORER_SEEN = 1 /* a user's own items too */,
    SCORER_PROBABILITY = 2 /* softmax over the catalogue */
};

/* For each row of items, ascending: the k best by falling score, ties to the lower index, in top[rows, k] and
 * scores[rows, k] (unless NULL); -1 beyond the end of a short list. Scores are model_score's: logits of a
 * network; or probabilities.
 * Memory grows to the largest batch so far and is then kept. EX_OSERR. */
int scorer_top_k(struct scorer *scorer, const struct csr *rows, int k, int flags, int32_t *top,
                 float *scores);

/* Bytes of weights that every batch reads: all but the first layer's, of which only the users' items are. */
size_t scorer_bytes(const struct scorer *scorer);

#endif
