/* Ways to compute of which a measurement on a GPU is to choose: the environment's VAECF_CUDA_TUNING names
 * those that differ from the default, "fp8,-priority": with a minus for off. make bench-gpu turns each. */
#ifndef VAECF_TUNING_H
#define VAECF_TUNING_H

struct tuning {
    int bias_epilogue;     /* gradients of biases come with those of the weights, from cuBLASLt's epilogue */
    int short_activations; /* in bf16 and fp16 activations are not kept in fp32 too */
    int short_moments;     /* Adam's moments in bf16 */
    int fp8;               /* logits, and the gradient of what the output layer takes in, from e4m3 */
    int split_rows;        /* long rows of the input layer are summed by several blocks */
    int sorted_steps;      /* the entries of a step by item are laid together once an epoch */
    int priority;          /* the streams that sum over the ranks come first */
    int early_sum;         /* the output layer's sum over the ranks begins before dx is computed */
    int overlap_adam;      /* Adam of what is summed, while the input layer's gradients are */
};

/* The defaults and what the environment says. EX_CONFIG: a name that is none. */
int tuning_read(struct tuning *tuning);
/* The same of a text, NULL: the defaults. */
int tuning_parse(const char *text, struct tuning *tuning);
/* "" with the defaults, else ", tuning fp8 -priority", for people. */
void tuning_describe(const struct tuning *tuning, char *text, int size);

#endif
