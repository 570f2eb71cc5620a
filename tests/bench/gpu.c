/* A training step on a GPU, kernel by kernel, beside what the GPU copies and multiplies.
 *
 *   build/tests/bench/gpu kernels|steps DATA HIDDEN LATENT BATCH fp32|tf32|bf16|fp16 [SIDE MEGABYTES]
 *
 * Trains a few steps on the data set and prints the line
 * "step,precision,batch,users_per_second,host_milliseconds,copy_tb_s,gemm_tflop_s": the median of rounds of
 * steps that are replays, the milliseconds that the host takes for one, and two rates measured before: a
 * copy of MEGABYTES (2048), and a product of square matrices of SIDE (8192) random numbers. With "kernels"
 * it then times each kernel and product of a step by itself, on the step's own memory, with a cold cache:
 * "kernel,precision,batch,name,microseconds,megabytes,gigaoperations,fraction_of_copy_rate,
 * fraction_of_gemm_rate", each line as soon as it is measured. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "../../cuda/cuda.h"
#include "dataset.h"
#include "error.h"
#include "model.h"
#include "optimizer.h"
#include "philox.h"

enum {
    WARM_STEPS = 4,
    ROUNDS = 5,
    STEPS = 20, /* of a round */
    REPEATS = 9,
    KERNELS_MAX = 40,
    COLD = 256 /* megabytes: more than any cache */
};

struct bench {
    const char *precision;
    int64_t batch, side;
    double megabytes, copy_rate, gemm_rate; /* bytes, operations a second */
    struct dataset data;
    struct csr rows;
    int64_t *users;
    struct backend backend;
    struct cuda *cuda;
    struct model model;
    struct optimizer optimizer;
    struct train_config train;
    double nonzeros; /* of the batch */
    void *cold, *random, *product;
    size_t cold_bytes;
    cudaEvent_t begin, end;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- a step ---- */

static int step_of(struct bench *b, int64_t number) {
    int64_t steps = b->rows.rows / b->batch;
    int code = 0;
    struct step step = {.draw = {1, (uint32_t)(number / steps)},
                        .first = number % steps * b->batch,
                        .beta = 0.1,
                        .scale = 1 / (double)b->batch};
    struct loss none;
    if (!b->backend.step_begin(&b->backend, &step)) {
        const struct csr rows = {.rows = step.rows, .cols = b->rows.cols};
        code = model_train_batch(&b->model, &rows, NULL, &step.draw, step.beta, step.scale, &none);
        if (!code) code = b->backend.step_end(&b->backend);
    }
    optimizer_update(&b->optimizer, &b->model, &b->train, number + 1);
    return code;
}

static int by_size(const void *a, const void *b) {
    return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

static int time_steps(struct bench *b, double *users_per_second, double *host_milliseconds) {
    float milliseconds[ROUNDS] = {0};
    double sums[3], begin;
    int code = 0, number = 0;
    for (; number < WARM_STEPS && !code; number++) code = step_of(b, number);
    if (!code) code = b->backend.step_losses(&b->backend, sums);
    for (int round = 0; round < ROUNDS && !code; round++) {
        cudaEventRecord(b->begin, b->cuda->compute);
        for (int i = 0; i < STEPS && !code; i++) code = step_of(b, number++);
        cudaEventRecord(b->end, b->cuda->compute);
        if (!code) code = b->backend.step_losses(&b->backend, sums);
        cudaEventElapsedTime(&milliseconds[round], b->begin, b->end);
    }
    qsort(milliseconds, ROUNDS, sizeof *milliseconds, by_size);
    *users_per_second = (double)(STEPS * b->batch) / (1e-3 * (double)milliseconds[ROUNDS / 2]);
    /* So many are issued before the host waits for the GPU. */
    begin = now();
    for (int i = 0; i < CUDA_AHEAD && !code; i++) code = step_of(b, number++);
    *host_milliseconds = 1e3 * (now() - begin) / CUDA_AHEAD;
    if (!code) code = b->backend.step_losses(&b->backend, sums);
    return code;
}

/* ---- a kernel ---- */

struct kernel {
    const char *name;
    void (*run)(struct bench *b, int which);
    int which;
    double bytes, operations;
    /* The softmax is in place: what the logits' memory has to hold before each run, as a product of numbers
     * that are nearly the same is faster. */
    enum { LOGITS_ANY, LOGITS, LOGITS_GRADIENT } logits;
};

static void fresh_logits(struct bench *b, int is_gradient);

/* Seconds: the median of cold runs. */
static double seconds_of(struct bench *b, const struct kernel *k) {
    float milliseconds[REPEATS] = {0};
    for (int i = -1; i < REPEATS; i++) { /* the first for memory and plans */
        if (k->logits != LOGITS_ANY) fresh_logits(b, k->logits == LOGITS_GRADIENT);
        cudaMemsetAsync(b->cold, i, b->cold_bytes, b->cuda->compute);
        cudaEventRecord(b->begin, b->cuda->compute);
        k->run(b, k->which);
        cudaEventRecord(b->end, b->cuda->compute);
        cudaEventSynchronize(b->end);
        if (i >= 0) cudaEventElapsedTime(&milliseconds[i], b->begin, b->end);
    }
    qsort(milliseconds, REPEATS, sizeof *milliseconds, by_size);
    return 1e-3 * (double)milliseconds[REPEATS / 2];
}

static int out_width(const struct bench *b, int l) {
    return (int)b->model.tensor[2 * l + 1].cols;
}

static real *weight(const struct bench *b, int l) {
    return b->model.params + b->model.tensor[2 * l].offset;
}

static real *gradient(const struct bench *b, int t) {
    return b->model.grads + b->model.tensor[t].offset;
}

/* What layer l takes in: the one after the statistics takes z. */
static const real *input_of(const struct bench *b, int l) {
    return l == b->model.n_encoder ? b->model.z : b->model.out[l - 1];
}

static void run_copy(struct bench *b, int which) {
    size_t bytes = (size_t)(b->megabytes * 1e6) / 2;
    (void)which;
    cudaMemcpyAsync((char *)b->random + bytes, b->random, bytes, cudaMemcpyDeviceToDevice, b->cuda->compute);
}

static void run_square(struct bench *b, int which) {
    const struct product p = {
        .type = NUMBER_BF16, .result = NUMBER_BF16, .m = b->side, .n = b->side, .k = b->side};
    const char *a = b->random;
    (void)which;
    matmul_run(b->cuda->matmul, b->cuda->compute, &p, a, a + 2 * b->side * b->side, b->product);
}

static void run_order(struct bench *b, int which) {
    struct kept *k = &b->cuda->kept;
    (void)which;
    kernel_order(b->cuda->compute, 1, 0, k->n_all, k->first, k->n_rows, k->batch, k->at, k->count, k->row_at,
                 k->place, k->step_first);
}

static void run_rows(struct bench *b, int which) {
    struct csr rows = {.rows = b->batch, .cols = b->rows.cols};
    (void)which;
    cuda_load(&b->backend, &rows, NULL, 1);
}

static void run_values(struct bench *b, int which) {
    const struct draw draw = {1, b->cuda->step.epoch};
    (void)which;
    cuda_input_values(&b->backend, &draw, 0.5);
}

static void run_input(struct bench *b, int is_backward) {
    int h = out_width(b, 0);
    struct cuda *c = b->cuda;
    enum number type = cuda_operand_type(c);
    if (is_backward) {
        kernel_input_backward(c->compute, type, h, &c->columns, c->device_step, c->value,
                              cuda_operand(c, b->model.grad_a), c->partials.at, gradient(b, 0));
    } else {
        kernel_input_forward(c->compute, type, h, &c->batch, c->value, cuda_operand(c, weight(b, 0)),
                             weight(b, 0), ACTIVATION_TANH, b->model.out[0],
                             cuda_copy_of(c, b->model.out[0]));
    }
}

/* A product of a dense layer: forward, of the weights' gradient, of the input's. */
enum { FORWARD, OF_WEIGHTS, OF_INPUT, KINDS };

static void run_product(struct bench *b, int which) {
    int l = which / KINDS, kind = which % KINDS, is_last = l == b->model.n_layers - 1;
    struct cuda *c = b->cuda;
    int64_t in = b->model.width[l], out = is_last ? backend_whole_rows(c->n_items) : out_width(b, l);
    const void *x = cuda_operand(c, input_of(b, l)), *w = cuda_operand(c, weight(b, l));
    const void *dy = is_last ? c->logits.at : cuda_operand(c, b->model.grad_a);
    struct product p = {.type = cuda_operand_type(c), .use_tf32 = c->use_tf32};
    if (kind == FORWARD) {
        p.transpose_b = is_last;
        p.m = b->batch, p.n = out, p.k = in;
        p.result = is_last ? p.type : NUMBER_FP32;
        matmul_run(c->matmul, c->compute, &p, x, w, is_last ? c->logits.at : b->model.out[l]);
    } else if (kind == OF_WEIGHTS) {
        p.transpose_a = 1;
        p.m = is_last ? out : in, p.n = is_last ? in : out, p.k = b->batch;
        matmul_run(c->matmul, c->compute, &p, is_last ? dy : x, is_last ? x : dy, gradient(b, 2 * l));
    } else {
        p.transpose_b = !is_last;
        p.m = b->batch, p.n = in, p.k = out;
        matmul_run(c->matmul, c->compute, &p, dy, w, b->model.grad_b);
    }
}

static void run_activate(struct bench *b, int l) {
    struct cuda *c = b->cuda;
    float *out = b->model.out[l], *kept;
    void *copy = cuda_short_copy_of(c, out, &kept);
    kernel_activate(c->compute, c->type, b->batch, out_width(b, l), b->model.params, ACTIVATION_TANH, out,
                    kept, copy);
}

static void run_deactivate(struct bench *b, int l) {
    struct cuda *c = b->cuda;
    cuda_deactivate(c, b->batch * out_width(b, l), ACTIVATION_TANH, b->model.out[l], b->model.grad_a);
}

static void run_sum(struct bench *b, int l) {
    struct cuda *c = b->cuda;
    int is_last = l == b->model.n_layers - 1;
    int64_t cols = out_width(b, l), stride = is_last ? backend_whole_rows(cols) : cols;
    cuda_sum_rows(c, is_last ? c->type : NUMBER_FP32, b->batch, cols, stride,
                  is_last ? c->logits.at : b->model.grad_a, 0, gradient(b, 2 * l + 1));
}

static void run_softmax(struct bench *b, int which) {
    struct cuda *c = b->cuda;
    (void)which;
    kernel_softmax(c->compute, c->type, c->n_items, backend_whole_rows(c->n_items), &c->batch, c->device_step,
                   0, c->logits.at, c->nll.at);
}

static void fresh_logits(struct bench *b, int is_gradient) {
    run_product(b, (b->model.n_layers - 1) * KINDS + FORWARD);
    if (is_gradient) run_softmax(b, 0);
}

static void run_latent(struct bench *b, int is_backward) {
    struct cuda *c = b->cuda;
    struct model *m = &b->model;
    int n = m->config.latent;
    const real *stats = m->out[m->n_encoder - 1];
    if (is_backward) {
        kernel_latent_backward(c->compute, &c->batch, n, c->device_step, stats, m->noise, m->grad_a,
                               m->grad_b, c->nll.at, (double *)c->nll.at + b->batch);
    } else {
        kernel_latent_forward(c->compute, c->type, b->batch, n, 1, c->device_step, 1, c->batch.users, stats,
                              m->noise, m->z, cuda_copy_of(c, m->z));
    }
}

static void run_losses(struct bench *b, int which) {
    struct cuda *c = b->cuda;
    (void)which;
    kernel_total(c->compute, b->batch, c->nll.at, c->sums);
    kernel_total(c->compute, b->batch, c->nll.at, c->sums + 1);
    kernel_add_losses(c->compute, c->device_step, c->sums, c->totals);
}

static void run_adam(struct bench *b, int which) {
    (void)which;
    optimizer_update(&b->optimizer, &b->model, &b->train, 1000);
}

/* The kernels of a step, with the bytes that each has to read and write and the operations of products. */
static int list_kernels(const struct bench *b, struct kernel *list) {
    const struct cuda *c = b->cuda;
    const struct model *m = &b->model;
    double rows = (double)b->batch, size = c->type == NUMBER_FP32 ? 4 : 2,
           copy = c->type == NUMBER_FP32 ? 0 : 2;
    double items = (double)backend_whole_rows(c->n_items), h = out_width(b, 0), latent = m->config.latent;
    double all = (double)b->rows.indptr[b->rows.rows], kept = b->nonzeros / 2; /* dropout */
    int n = 0, last = m->n_layers - 1;
    list[n++] = (struct kernel){"rows of the batch", run_rows, 0, rows * 40, 0, LOGITS_ANY};
    list[n++] =
        (struct kernel){"dropout and values", run_values, 0, b->nonzeros * 8 + rows * 16, 0, LOGITS_ANY};
    list[n++] = (struct kernel){
        "input layer", run_input, 0, kept * h * size + b->nonzeros * 8 + rows * h * (4 + copy), 0,
        LOGITS_ANY};
    for (int l = 1; l < last; l++) {
        double in = m->width[l], out = out_width(b, l);
        list[n++] = (struct kernel){"dense layer: product", run_product,
                                    l * KINDS + FORWARD,    size * (rows * in + in * out) + 4 * rows * out,
                                    2 * rows * in * out,    LOGITS_ANY};
        list[n++] =
            l == m->n_encoder - 1
                ? (struct kernel){"latent layer", run_latent, 0, rows * latent * (8 + 8 + copy), 0,
                                  LOGITS_ANY}
                : (struct kernel){
                      "dense layer: activation", run_activate, l, rows * out * (8 + copy), 0, LOGITS_ANY};
    }
    double in = m->width[last], product = 2 * rows * in * items;
    list[n++] = (struct kernel){"output layer: logits",
                                run_product,
                                last * KINDS + FORWARD,
                                size * (rows * in + in * items + rows * items),
                                product,
                                LOGITS_ANY};
    list[n++] = (struct kernel){
        "output layer: softmax", run_softmax, 0, 2 * size * rows * items + b->nonzeros * 4, 0, LOGITS};
    list[n++] = (struct kernel){
        "output layer: gradient of bias", run_sum, last, size * rows * items, 0, LOGITS_GRADIENT};
    list[n++] = (struct kernel){"output layer: gradient of weights",
                                run_product,
                                last * KINDS + OF_WEIGHTS,
                                size * (rows * items + rows * in) + 4 * in * items,
                                product,
                                LOGITS_GRADIENT};
    list[n++] = (struct kernel){"output layer: gradient of input",
                                run_product,
                                last * KINDS + OF_INPUT,
                                size * (rows * items + in * items) + 4 * rows * in,
                                product,
                                LOGITS_GRADIENT};
    for (int l = last - 1; l >= 0; l--) {
        double from = m->width[l], out = out_width(b, l), operations = 2 * rows * from * out;
        if (l == m->n_encoder - 1) {
            list[n++] = (struct kernel){"latent layer: gradient", run_latent, 1,
                                        rows * latent * (16 + 8), 0,          LOGITS_ANY};
        }
        list[n++] = (struct kernel){
            "slope of the activation", run_deactivate, l, rows * out * (12 + copy), 0, LOGITS_ANY};
        list[n++] = (struct kernel){"gradient of bias", run_sum, l, rows * out * 4, 0, LOGITS_ANY};
        if (l == 0) continue;
        list[n++] =
            (struct kernel){"dense layer: gradient of weights",          run_product, l * KINDS + OF_WEIGHTS,
                            size * rows * (from + out) + 4 * from * out, operations,  LOGITS_ANY};
        list[n++] = (struct kernel){"dense layer: gradient of input",
                                    run_product,
                                    l * KINDS + OF_INPUT,
                                    size * (rows * out + from * out) + 4 * rows * from,
                                    operations,
                                    LOGITS_ANY};
    }
    list[n++] = (struct kernel){"input layer: gradient",
                                run_input,
                                1,
                                all * 8 + b->nonzeros * 36 + kept * h * size + (double)c->n_items * h * 4,
                                0,
                                LOGITS_ANY};
    list[n++] = (struct kernel){"losses", run_losses, 0, rows * 16, 0, LOGITS_ANY};
    list[n++] = (struct kernel){"Adam", run_adam, 0, (double)m->n_params * (28 + copy), 0, LOGITS_ANY};
    return n;
}

/* ---- the table ---- */

static double report(const struct bench *b, const char *name, double seconds, double bytes,
                     double operations) {
    printf("kernel,%s,%lld,%s,%.2f,%.3f,%.3f,%.4f,%.4f\n", b->precision, (long long)b->batch, name,
           1e6 * seconds, 1e-6 * bytes, 1e-9 * operations, bytes / b->copy_rate / seconds,
           operations / b->gemm_rate / seconds);
    fflush(stdout);
    return seconds;
}

static int report_kernels(struct bench *b, double users_per_second) {
    const struct kernel order = {.run = run_order, .bytes = (double)b->rows.rows * 8};
    struct kernel list[KERNELS_MAX];
    int n = list_kernels(b, list), code = 0;
    double sum = 0;
    for (int i = 0; i < n && !code; i++) {
        double seconds = seconds_of(b, &list[i]);
        code = b->backend.check(&b->backend);
        if (!code) sum += report(b, list[i].name, seconds, list[i].bytes, list[i].operations);
    }
    if (code) return code;
    report(b, "sum of these", sum, 0, 0);
    report(b, "a step that is replayed", (double)b->batch / users_per_second, 0, 0);
    report(b, "order of the users: once an epoch", seconds_of(b, &order), order.bytes, 0);
    return b->backend.check(&b->backend);
}

/* ---- the whole ---- */

/* Random numbers of 16 bits near 1, by the 2^20. */
static int fill_random(struct bench *b, size_t bytes) {
    enum { PIECE = 1 << 21 };
    uint16_t *host = malloc(PIECE);
    if (!host) return error_memory("random numbers", PIECE);
    for (uint32_t i = 0; i < PIECE / 2; i++) {
        host[i] = (uint16_t)(0x3f00 | (philox(1, PHILOX_SWEEP, 0, 0, i).lane[0] & 0x80ff));
    }
    for (size_t at = 0; at < bytes; at += PIECE) {
        cudaMemcpyAsync((char *)b->random + at, host, bytes - at < PIECE ? bytes - at : PIECE,
                        cudaMemcpyHostToDevice, b->cuda->compute);
    }
    int code = b->backend.check(&b->backend);
    free(host);
    return code;
}

static int measure_rates(struct bench *b) {
    size_t square = (size_t)(b->side * b->side) * 2, bytes = (size_t)(b->megabytes * 1e6);
    const struct kernel copy = {.run = run_copy}, product = {.run = run_square};
    if (bytes < 2 * square) bytes = 2 * square;
    b->cold_bytes = (size_t)(1e6 * (b->megabytes < COLD ? b->megabytes : COLD));
    if (cudaMalloc(&b->cold, b->cold_bytes) || cudaMalloc(&b->random, bytes) ||
        cudaMalloc(&b->product, square)) {
        return error_set(EX_OSERR, "no GPU memory for measuring");
    }
    int code = fill_random(b, bytes);
    if (code) return code;
    b->copy_rate = 1e6 * b->megabytes / seconds_of(b, &copy); /* half of it read, half written */
    b->gemm_rate = 2 * (double)b->side * (double)b->side * (double)b->side / seconds_of(b, &product);
    return b->backend.check(&b->backend);
}

static int set_up(struct bench *b, const char *path, int hidden, int latent, const struct comm *comm) {
    const struct model_config model = {.type = MODEL_VAE,
                                       .n_hidden = 1,
                                       .hidden = {hidden},
                                       .latent = latent,
                                       .activation = ACTIVATION_TANH,
                                       .dropout = 0.5};
    const char *const names[] = {"fp32", "tf32", "bf16", "fp16"};
    struct config config;
    struct backend_options options = {
        .device = DEVICE_CUDA, .precision = PRECISION_FP32, .comm_kind = COMM_MPI};
    for (int i = 0; i < 4; i++) {
        if (strcmp(b->precision, names[i]) == 0) options.precision = (enum precision)i;
    }
    config_defaults(&config);
    b->train = config.train;
    int code = dataset_open(path, comm, &b->data);
    if (!code)
        code = dataset_read(&b->data, DATASET_TRAIN, 0, b->data.rows[DATASET_TRAIN], &b->rows, &b->users);
    options.n_items = b->data.n_items;
    if (!code && b->rows.rows < b->batch)
        code = error_set(EX_USAGE, "the data set has fewer users than the batch");
    if (!code) code = backend_create(&options, &b->backend);
    if (code) return code;
    b->cuda = b->backend.state;
    if (cudaEventCreateWithFlags(&b->begin, cudaEventDefault) ||
        cudaEventCreateWithFlags(&b->end, cudaEventDefault)) {
        return error_set(EX_OSERR, "GPU: no events");
    }
    code = model_create(&model, b->data.n_items, &b->backend, 1, &b->model);
    if (!code) code = model_init(&b->model, 1);
    if (!code) code = optimizer_create(&b->model, &b->optimizer);
    if (!code) code = b->backend.keep(&b->backend, &b->rows, b->users, b->rows.rows, 0, b->batch);
    if (code == EX_UNAVAILABLE) code = error_set(EX_OSERR, "the data set does not fit on the GPU");
    b->nonzeros = (double)b->rows.indptr[b->rows.rows] * (double)b->batch / (double)b->rows.rows;
    return code;
}

int main(int argc, char **argv) {
    if ((argc != 7 && argc != 9) || (strcmp(argv[1], "kernels") != 0 && strcmp(argv[1], "steps") != 0)) {
        fprintf(stderr,
                "usage: gpu kernels|steps DATA HIDDEN LATENT BATCH fp32|tf32|bf16|fp16 [SIDE MEGABYTES]\n");
        return EX_USAGE;
    }
    struct bench b = {.precision = argv[6],
                      .batch = atoll(argv[5]),
                      .side = argc > 7 ? atoll(argv[7]) : 8192,
                      .megabytes = argc > 7 ? atof(argv[8]) : 2048};
    struct comm comm = comm_start(&argc, &argv);
    double users_per_second = 0, host_milliseconds = 0;
    int code = set_up(&b, argv[2], atoi(argv[3]), atoi(argv[4]), &comm);
    if (!code) code = measure_rates(&b);
    if (!code) {
        printf("%s\n", b.backend.describe);
        code = time_steps(&b, &users_per_second, &host_milliseconds);
    }
    if (!code) {
        printf("step,%s,%lld,%.0f,%.4f,%.3f,%.1f\n", b.precision, (long long)b.batch, users_per_second,
               host_milliseconds, 1e-12 * b.copy_rate, 1e-12 * b.gemm_rate);
        fflush(stdout);
        if (strcmp(argv[1], "kernels") == 0) code = report_kernels(&b, users_per_second);
    }
    if (code) fprintf(stderr, "error: %s\n", error_message());
    if (b.model.backend) optimizer_free(&b.model, &b.optimizer);
    model_free(&b.model);
    if (b.cold) cudaFree(b.cold);
    if (b.random) cudaFree(b.random);
    if (b.product) cudaFree(b.product);
    if (b.begin) cudaEventDestroy(b.begin);
    if (b.end) cudaEventDestroy(b.end);
    if (b.backend.destroy) b.backend.destroy(&b.backend);
    dataset_close(&b.data);
    csr_free(&b.rows);
    free(b.users);
    comm_stop();
    return code;
}
