/* A training step on a GPU, kernel by kernel, beside what the GPU copies and multiplies.
 *
 *   build/tests/bench/gpu DATA HIDDEN LATENT BATCH fp32|tf32|bf16|fp16 KERNELS.csv [SIDE MEGABYTES]
 *
 * Trains a few steps on the data set, prints users a second of steps that are replays and the milliseconds
 * that the host takes for one; then times each kernel and product of a step by itself, on the step's own
 * memory, with a cold cache, and sets bytes and operations against the rates that were measured before: a
 * copy of MEGABYTES (2048), and a product of square matrices of SIDE (8192) random numbers. Adds its rows to
 * KERNELS.csv; prints the line
 * "step,gpu,precision,batch,users_per_second,host_milliseconds,copy_tb_s,gemm_tflop_s". */
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
    STEPS = 20,
    REPEATS = 9,
    KERNELS_MAX = 40,
    COLD = 256 << 20 /* bytes: more than any cache */
};

struct bench {
    const char *precision, *csv;
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

static int time_steps(struct bench *b, double *users_per_second, double *host_milliseconds) {
    float milliseconds = 0;
    double sums[3], begin, host;
    int code = 0;
    for (int i = 0; i < WARM_STEPS && !code; i++) code = step_of(b, i);
    if (!code) code = b->backend.step_losses(&b->backend, sums);
    if (code) return code;
    cudaEventRecord(b->begin, b->cuda->compute);
    begin = now();
    for (int i = 0; i < STEPS && !code; i++) code = step_of(b, WARM_STEPS + i);
    host = now() - begin;
    cudaEventRecord(b->end, b->cuda->compute);
    if (!code) code = b->backend.step_losses(&b->backend, sums);
    cudaEventElapsedTime(&milliseconds, b->begin, b->end);
    *users_per_second = (double)(STEPS * b->batch) / (1e-3 * (double)milliseconds);
    *host_milliseconds = 1e3 * host / STEPS;
    return code;
}

/* ---- a kernel ---- */

struct kernel {
    const char *name;
    void (*run)(struct bench *b, int which);
    int which;
    double bytes, operations;
};

static int by_size(const void *a, const void *b) {
    return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

/* Seconds: the median of cold runs. */
static double seconds_of(struct bench *b, const struct kernel *k) {
    float milliseconds[REPEATS] = {0};
    k->run(b, k->which); /* memory, plans */
    for (int i = 0; i < REPEATS; i++) {
        cudaMemsetAsync(b->cold, i, COLD, b->cuda->compute);
        cudaEventRecord(b->begin, b->cuda->compute);
        k->run(b, k->which);
        cudaEventRecord(b->end, b->cuda->compute);
        cudaEventSynchronize(b->end);
        cudaEventElapsedTime(&milliseconds[i], b->begin, b->end);
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
    list[n++] = (struct kernel){"rows of the batch", run_rows, 0, rows * 40, 0};
    list[n++] = (struct kernel){"dropout and values", run_values, 0, b->nonzeros * 8 + rows * 16, 0};
    list[n++] = (struct kernel){"input layer", run_input, 0,
                                kept * h * size + b->nonzeros * 8 + rows * h * (4 + copy), 0};
    for (int l = 1; l < last; l++) {
        double in = m->width[l], out = out_width(b, l);
        list[n++] = (struct kernel){"dense layer: product", run_product, l * KINDS + FORWARD,
                                    size * (rows * in + in * out) + 4 * rows * out, 2 * rows * in * out};
        list[n++] =
            l == m->n_encoder - 1
                ? (struct kernel){"latent layer", run_latent, 0, rows * latent * (8 + 8 + copy), 0}
                : (struct kernel){"dense layer: activation", run_activate, l, rows * out * (8 + copy), 0};
    }
    double in = m->width[last], product = 2 * rows * in * items;
    list[n++] = (struct kernel){"output layer: logits", run_product, last * KINDS + FORWARD,
                                size * (rows * in + in * items + rows * items), product};
    list[n++] = (struct kernel){"output layer: softmax", run_softmax, 0,
                                2 * size * rows * items + b->nonzeros * 4, 0};
    list[n++] = (struct kernel){"output layer: gradient of bias", run_sum, last, size * rows * items, 0};
    list[n++] = (struct kernel){"output layer: gradient of weights", run_product, last * KINDS + OF_WEIGHTS,
                                size * (rows * items + rows * in) + 4 * in * items, product};
    list[n++] = (struct kernel){"output layer: gradient of input", run_product, last * KINDS + OF_INPUT,
                                size * (rows * items + in * items) + 4 * rows * in, product};
    for (int l = last - 1; l >= 0; l--) {
        double from = m->width[l], out = out_width(b, l), operations = 2 * rows * from * out;
        if (l == m->n_encoder - 1) {
            list[n++] = (struct kernel){"latent layer: gradient", run_latent, 1, rows * latent * (16 + 8), 0};
        }
        list[n++] =
            (struct kernel){"slope of the activation", run_deactivate, l, rows * out * (12 + copy), 0};
        list[n++] = (struct kernel){"gradient of bias", run_sum, l, rows * out * 4, 0};
        if (l == 0) continue;
        list[n++] = (struct kernel){"dense layer: gradient of weights", run_product, l * KINDS + OF_WEIGHTS,
                                    size * rows * (from + out) + 4 * from * out, operations};
        list[n++] = (struct kernel){"dense layer: gradient of input", run_product, l * KINDS + OF_INPUT,
                                    size * (rows * out + from * out) + 4 * rows * from, operations};
    }
    list[n++] = (struct kernel){"input layer: gradient", run_input, 1,
                                all * 8 + b->nonzeros * 36 + kept * h * size + (double)c->n_items * h * 4, 0};
    list[n++] = (struct kernel){"losses", run_losses, 0, rows * 16, 0};
    list[n++] = (struct kernel){"Adam", run_adam, 0, (double)m->n_params * (28 + copy), 0};
    return n;
}

/* ---- the table ---- */

/* Of the GPU's name, with which a description begins: "NVIDIA H200 (sm_90, ..." */
static int name_length(const char *describe) {
    const char *end = strstr(describe, " (");
    return end ? (int)(end - describe) : (int)strlen(describe);
}

static int report(struct bench *b, double users_per_second) {
    struct kernel list[KERNELS_MAX];
    int n = list_kernels(b, list);
    double sum = 0, step = (double)b->batch / users_per_second;
    FILE *csv = fopen(b->csv, "a");
    if (!csv) return error_set(EX_CANTCREAT, "%s: cannot be written", b->csv);
    if (ftell(csv) == 0) {
        fprintf(csv, "gpu,precision,batch,kernel,microseconds,megabytes,gigaoperations,fraction_of_copy_rate,"
                     "fraction_of_gemm_rate\n");
    }
    printf("%-36s %10s %10s %12s %8s %8s\n", "kernel", "us", "MB", "GFLOP", "of copy", "of GEMM");
    for (int i = 0; i < n; i++) {
        const struct kernel *k = &list[i];
        double seconds = seconds_of(b, k), of_copy = k->bytes / b->copy_rate / seconds,
               of_gemm = k->operations / b->gemm_rate / seconds;
        sum += seconds;
        printf("%-36s %10.1f %10.1f %12.1f %8.2f %8.2f\n", k->name, 1e6 * seconds, 1e-6 * k->bytes,
               1e-9 * k->operations, of_copy, of_gemm);
        fprintf(csv, "%.*s,%s,%lld,%s,%.2f,%.3f,%.3f,%.4f,%.4f\n", name_length(b->backend.describe),
                b->backend.describe, b->precision, (long long)b->batch, k->name, 1e6 * seconds,
                1e-6 * k->bytes, 1e-9 * k->operations, of_copy, of_gemm);
    }
    printf("%-36s %10.1f\n%-36s %10.1f (replayed: %.0f users/s)\n", "sum", 1e6 * sum, "a step", 1e6 * step,
           users_per_second);
    const struct kernel order = {"order of an epoch", run_order, 0, (double)b->rows.rows * 8, 0};
    printf("%-36s %10.1f (once an epoch)\n", order.name, 1e6 * seconds_of(b, &order));
    int failed = fclose(csv) != 0;
    return failed ? error_set(EX_IOERR, "%s: cannot be written", b->csv) : b->backend.check(&b->backend);
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
    if (cudaMalloc(&b->cold, COLD) || cudaMalloc(&b->random, bytes) || cudaMalloc(&b->product, square)) {
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
    if (argc != 7 && argc != 9) {
        fprintf(stderr,
                "usage: gpu DATA HIDDEN LATENT BATCH fp32|tf32|bf16|fp16 KERNELS.csv [SIDE MEGABYTES]\n");
        return EX_USAGE;
    }
    struct bench b = {.precision = argv[5],
                      .csv = argv[6],
                      .batch = atoll(argv[4]),
                      .side = argc > 7 ? atoll(argv[7]) : 8192,
                      .megabytes = argc > 7 ? atof(argv[8]) : 2048};
    struct comm comm = comm_start(&argc, &argv);
    double users_per_second = 0, host_milliseconds = 0;
    int code = set_up(&b, argv[1], atoi(argv[2]), atoi(argv[3]), &comm);
    if (!code) code = measure_rates(&b);
    if (!code) {
        printf("%s\ncopy: %.2f TB/s (read and written); product of %lld: %.0f TFLOP/s\n", b.backend.describe,
               1e-12 * b.copy_rate, (long long)b.side, 1e-12 * b.gemm_rate);
        code = time_steps(&b, &users_per_second, &host_milliseconds);
    }
    if (!code) code = report(&b, users_per_second);
    if (!code) {
        printf("step,%.*s,%s,%lld,%.0f,%.4f,%.3f,%.1f\n", name_length(b.backend.describe), b.backend.describe,
               b.precision, (long long)b.batch, users_per_second, host_milliseconds, 1e-12 * b.copy_rate,
               1e-12 * b.gemm_rate);
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
