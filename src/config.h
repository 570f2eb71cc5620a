/* The configuration of a training run: YAML (read with libyaml) plus --set overrides.
 *
 * The struct is plain data without pointers: rank 0 reads it and broadcasts its bytes. The YAML keys are the
 * field names: model.hidden, train.kl.cap, ... Errors name file, line and key and say what would be right. */
#ifndef VAECF_CONFIG_H
#define VAECF_CONFIG_H

#include <stddef.h>
#include <stdint.h>

#include "metrics.h"

enum { CONFIG_PATH_MAX = 1024, CONFIG_LAYERS_MAX = 16, CONFIG_TEXT_MAX = 8192 };

enum model_type { MODEL_VAE, MODEL_DAE, MODEL_EASE, MODEL_POPULARITY };
enum activation { ACTIVATION_NONE, ACTIVATION_TANH, ACTIVATION_RELU, ACTIVATION_SIGMOID };
enum decoder { DECODER_MIRROR, DECODER_LINEAR };
enum optimizer_type { OPTIMIZER_ADAM, OPTIMIZER_ADAMW };
enum precision { PRECISION_FP32, PRECISION_TF32, PRECISION_BF16, PRECISION_FP16 };
enum device { DEVICE_AUTO, DEVICE_CPU, DEVICE_CUDA };
enum comm_kind { COMM_AUTO, COMM_NCCL, COMM_MPI };
enum comm_type { COMM_TYPE_AUTO, COMM_FP32, COMM_COMPUTE };

struct model_config {
    int type;                      /* enum model_type */
    int n_hidden;                  /* may be 0: items - latent - items */
    int hidden[CONFIG_LAYERS_MAX]; /* encoder widths from the input on */
    int latent;
    int activation; /* enum activation, of the hidden layers; not "none" in YAML */
    int layer_norm; /* of the encoder's hidden layers, after the activation; see layer_norm.h */
    int decoder;    /* enum decoder: the encoder's widths mirrored, or none: from latent to items */
    double dropout; /* of the input, [0, 1) */
    double l2;      /* of ease: lambda, added to the diagonal of X'X; the rest of it: see baseline.h */
    double user_power, item_power, popularity_power;
};

/* Is it trained, by steps? Otherwise baseline_fit computes it. */
static inline int model_is_network(const struct model_config *config) {
    return config->type == MODEL_VAE || config->type == MODEL_DAE;
}

struct train_config {
    int64_t seed;       /* >= 0 */
    int64_t epochs;     /* 0 .. 2^24 - 1 */
    int64_t batch_size; /* users in one step over all ranks */
    double learning_rate;
    int optimizer; /* enum optimizer_type */
    double beta1, beta2, epsilon;
    double weight_decay; /* on weights, not biases; adam: added to the gradient, adamw: decoupled */
    int64_t warmup_steps;
    int64_t sampled_softmax; /* items of the output layer in a step, see sample.h; 0: all */
    double label_smoothing;  /* [0, 1), see output_train in backend.h */
    struct {
        double cap;           /* largest weight of the KL term */
        int64_t anneal_steps; /* beta rises linearly to cap over so many steps; 0: at once */
        double gamma;         /* > 0: instead, the weight of a user with n items is gamma n */
    } kl;
    int64_t turns;        /* 0: none; N: N epochs of the encoder alone, then one of the decoder, and again */
    int precision;        /* enum precision */
    double loss_scale;    /* 0: dynamic */
    int64_t logit_memory; /* MB of a rank for logits; 0: as the backend thinks */
    int64_t trace_steps;  /* steps whose time goes into trace.csv; 0: none */
    struct {
        struct metric metric; /* also what chooses best.h5 */
        int64_t patience;     /* validations without a better value before stopping; 0: never stop */
    } early_stopping;
    int64_t validate_every; /* epochs; 0: only after the last */
    struct {
        int64_t every_epochs; /* 0: not by epochs */
        double every_minutes; /* 0: not by the clock */
        int64_t keep;         /* newest so many stay */
    } checkpoint;
};

struct config {
    char data_path[CONFIG_PATH_MAX]; /* data.path */
    struct model_config model;
    struct train_config train;
    struct {
        int64_t data, item; /* the grid of ranks, see grid.h; data 0: as many as there are */
    } parallel;
    int device;                        /* enum device */
    int comm;                          /* enum comm_kind: what sums gradients over GPUs */
    int comm_type;                     /* enum comm_type: their type meanwhile, over GPUs */
    char output_path[CONFIG_PATH_MAX]; /* output.path */
};

/* The defaults that the README lists (no paths). */
void config_defaults(struct config *config);

/* Defaults, then the file (NULL: none), then each of the n_sets texts "train.epochs=50" in turn, then the
 * checks of what must fit together. EX_NOINPUT, EX_CONFIG; a bad --set is EX_USAGE if it has no '=' and
 * EX_CONFIG otherwise. A path in a --set is what stands there, or is refused: what YAML would leave out of it
 * (blanks around it, a # behind a blank) has to be in quotes. Booleans and numbers: see scalar.h; ~ and $ in
 * paths: see path_expand. */
int config_load(const char *path, const char *const *sets, int n_sets, struct config *config);

/* One value as text: "0.5", or a path as it is. config_load without its checks; EX_CONFIG also for no such
 * key, and a path that is not set. */
int config_value(const char *path, const char *const *sets, int n_sets, const char *key,
                 char text[CONFIG_TEXT_MAX]);

/* The same as config_load, from a checkpoint's text; `name` stands for the file in messages. Nothing in a
 * path is replaced but $$, which config_text writes for a $. */
int config_parse(const char *text, const char *name, struct config *config);

/* The resolved configuration as YAML that config_parse reads back to the very same struct. */
void config_text(const struct config *config, char text[CONFIG_TEXT_MAX]);

#endif
