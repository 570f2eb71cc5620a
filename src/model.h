/* Mult-VAE and Mult-DAE (Liang et al. 2018): parameters, forward, backward; and what they are compared with,
 * see baseline.h: their scores.
 *
 *   x (L2-normalised, dropped out) -> encoder hidden layers -> latent -> decoder hidden layers -> logits
 * VAE: the encoder's last layer gives mu and log variance without activation, z is drawn (training) or mu
 * (scoring). DAE: the latent layer has the activation too. The decoder mirrors the encoder's widths, or is
 * linear: one layer from latent to logits. With layer_norm the output of each hidden layer of the encoder is
 * normalised (layer_norm.h) on its way to the next one.
 *
 * All parameters are one block of memory (gradients and Adam's moments likewise), cut into tensors: the first
 * and the last weight are [n_items, width] (a row an item), the ones between [n_in, n_out]. Each begins at a
 * multiple of 64 numbers; the gap before it stays zero.
 *
 * ease has one weight, [n_items, n_items]: a user's scores are the sum of the rows of the items that he has.
 * popularity has a bias alone: everybody's scores.
 *
 * The scores of several models may be added (blend.h): they are a list through `next`.
 *
 * On a grid of ranks (grid.h) with several item ranks, n_items is the items of this rank's range, and the
 * first and the last layer have these alone. The layers between are the same bits on the ranks of a row. */
#ifndef VAECF_MODEL_H
#define VAECF_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "backend.h"
#include "config.h"
#include "csr.h"
#include "grid.h"

enum {
    MODEL_LAYERS_MAX = 2 * CONFIG_LAYERS_MAX + 2,
    MODEL_TENSORS_MAX = 2 * MODEL_LAYERS_MAX,
    MODELS_MAX = 8 /* whose scores are added */
};

struct tensor {
    char name[40];      /* "encoder/0/weight": also its path in a checkpoint */
    int64_t rows, cols; /* a bias: 1 row */
    size_t offset;      /* into the block */
    size_t size;        /* rows * cols */
    int is_bias;
    int is_range; /* rows (of a bias: columns) are items */
};

/* Which half a batch is for. The encoder alone learns with dropout, the decoder alone without, and from a
 * latent layer that is drawn all the same (Shenbin et al. 2020). */
enum turn { TURN_BOTH, TURN_ENCODER, TURN_DECODER };

struct model {
    struct model_config config;
    int64_t n_items;         /* this rank's */
    const struct grid *grid; /* not owned; NULL: this rank has all items */
    struct backend *backend; /* not owned */
    int n_layers;            /* weights; tensor 2l is layer l's weight, 2l + 1 its bias; 0: a baseline */
    int n_encoder;           /* the first so many are the encoder */
    int width[MODEL_LAYERS_MAX + 1]; /* of layer l's input; [0] and [n_layers] unused: n_items */
    int n_tensors;
    struct tensor tensor[MODEL_TENSORS_MAX];
    size_t n_params;     /* with the gaps */
    real *params;        /* [n_params], backend memory, owned */
    real *grads;         /* [n_params] or NULL when only scoring */
    double smoothing;    /* of the labels, see output_train in backend.h; 0 unless the trainer sets it */
    double gamma;        /* of the KL term, see latent_backward in backend.h; likewise */
    enum turn turn;      /* likewise */
    int64_t sampled;     /* items of a sampled softmax; 0 unless the trainer sets it, with */
    int64_t sample_step; /* which step of the epoch it is */
    struct model *next;  /* of the same items and backend, not owned; NULL unless the caller sets it, with */
    double weight;       /* of its scores in the sum over a list; the first one's is not used */
    real *added;         /* [capacity, n_items], of the first of a list: another one's scores */
    /* workspace for batches of up to `capacity` rows */
    int64_t capacity;
    real *out[MODEL_LAYERS_MAX];  /* layer l's output [capacity, width of it]; NULL for the last */
    real *norm[MODEL_LAYERS_MAX]; /* the same normalised; NULL if it is not */
    real *noise, *z;              /* [capacity, latent] (VAE); popularity: z[capacity] is zero */
    real *grad_a, *grad_b;        /* [capacity, widest] */
};

/* Lays out the tensors and allocates parameters, and gradients if for_training. EX_OSERR, EX_CONFIG. */
int model_create(const struct model_config *config, int64_t n_items, struct backend *backend,
                 int for_training, struct model *model);
/* The same for the items that are this rank's on a grid, on the backend that was created for it. */
int model_create_range(const struct model_config *config, const struct grid *grid, struct backend *backend,
                       int for_training, struct model *model);
void model_free(struct model *model);

/* What layer l's numbers go through: the activation, and whether they are normalised then (layer_norm.h). */
enum activation model_activation(const struct model *model, int l);
int model_is_normalized(const struct model *model, int l);

/* Items of the whole catalogue, and parameters with all of them. */
int64_t model_all_items(const struct model *model);
int64_t model_all_parameters(const struct model *model);

/* Fresh weights from the seed: Glorot uniform; biases normal, standard deviation 0.001, cut at two of them
 * (as Liang et al.'s code). EX_OSERR. */
int model_init(struct model *model, uint64_t seed);

/* Sums over the users of a batch; the caller divides. */
struct loss {
    double nll, kl;
    double penalty; /* of weight * KL, with gamma */
};

/* The layers that learn in this turn, [first, end), and where their parameters are in the block. */
void model_learning(const struct model *model, int *first, int *end);
void model_learning_range(const struct model *model, size_t *begin, size_t *n);

/* Gradients of scale * sum over the batch of (nll + beta * kl) into model->grads (all but untouched rows of
 * encoder/0/weight are set; those of layers that do not learn in this turn stay), and the unscaled sums; the
 * decoder's turn has no kl. Of an asynchronous backend the gradients may still be
 * under way. Collective over the item ranks of a grid. EX_OSERR. */
int model_train_batch(struct model *model, const struct csr *rows, const int64_t *users,
                      const struct draw *draw, double beta, double scale, struct loss *loss);

/* scores[rows, n_items] (backend memory) for users' inputs, without dropout or noise: logits of a network.
 * With `next`, the sum over the list. Collective over the item ranks of a grid. EX_OSERR. */
int model_score(struct model *model, const struct csr *rows, real *scores);

#endif
