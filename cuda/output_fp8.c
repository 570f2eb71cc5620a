/* The output layer's logits and dx from operands of 8 bits (e4m3), with the switch fp8; see cuda.h.
 *
 * x and w have a scale each, of their largest number. The gradient of the logits has one a row, which the
 * softmax knows before it writes: the rows of dx are multiplied by it afterwards. cuBLASLt wants both
 * operands to lie along the sum, in rows of a multiple of 16 numbers: so w is there twice, and rows of x and
 * w end with zeros. The gradient of w stays in 16 bits. */
#include "cuda.h"
#include "error.h"

enum { ALIGNED = 256 /* bytes */ };

int cuda_check_fp8(const struct cuda *cuda, int capability) {
    if (!cuda->tuning.fp8) return 0;
    if (CUDART_VERSION < 11080) {
        return error_set(EX_CONFIG, "VAECF_CUDA_TUNING: fp8: this program is built with CUDA before 11.8");
    }
    if (cuda->type != NUMBER_BF16) {
        return error_set(EX_CONFIG, "VAECF_CUDA_TUNING: fp8: want train.precision: bf16");
    }
    if (cuda->grid) {
        return error_set(EX_CONFIG, "VAECF_CUDA_TUNING: fp8: want parallel.item: 1");
    }
    if (capability < 89) {
        return error_set(EX_CONFIG,
                         "VAECF_CUDA_TUNING: fp8: the GPU has compute capability %d.%d, want 8.9 or more",
                         capability / 10, capability % 10);
    }
    return 0;
}

/* The next piece of the memory. */
static void *take(char **at, size_t bytes) {
    void *piece = *at;
    *at += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return piece;
}

/* Where the operands are, from `at` on; returns the end. */
static char *lay_out(struct fp8_operands *o, int64_t rows, int64_t block, char *at) {
    size_t width = (size_t)o->width, stride = (size_t)o->stride;
    o->scale_x = take(&at, sizeof(float));
    o->scale_w = take(&at, sizeof(float));
    o->parts = take(&at, KERNEL_FP8_PARTS * sizeof(float));
    o->factor = take(&at, (size_t)block * sizeof(float));
    o->x = take(&at, (size_t)rows * width);
    o->w = take(&at, stride * width);
    o->w_across = take(&at, stride * width);
    o->gradient = take(&at, (size_t)block * stride);
    o->dx = take(&at, (size_t)block * width * sizeof(float));
    return at;
}

int cuda_fp8_operands(struct cuda *cuda, int64_t rows, int64_t block, int64_t stride, int h, const void *x,
                      const void *w, struct fp8_operands *o) {
    *o = (struct fp8_operands){.h = h, .width = backend_whole_rows(h), .stride = stride};
    if (!cuda->tuning.fp8 || !x || !w) return 0;
    size_t bytes = (size_t)(lay_out(o, rows, block, NULL) - (char *)NULL);
    char *memory = cuda_room(cuda, &cuda->fp8, bytes);
    if (!memory) return 0;
    lay_out(o, rows, block, memory);
    kernel_fp8_scale(cuda->compute, rows * h, x, o->parts, o->scale_x);
    kernel_to_fp8(cuda->compute, rows, h, o->width, x, o->scale_x, o->x, NULL);
    kernel_fp8_scale(cuda->compute, stride * h, w, o->parts, o->scale_w);
    kernel_to_fp8(cuda->compute, stride, h, o->width, w, o->scale_w, o->w, o->w_across);
    return 1;
}

/* c[m, n] = a b^T. 0: there is no such product. */
static int multiply(struct cuda *cuda, const struct product *product, const void *a, const void *b, void *c) {
    int code = matmul_run(cuda->matmul, cuda->compute, product, a, b, c);
    if (code == EX_UNAVAILABLE) return 0;
    cuda_keep_fault(cuda, code);
    return 1;
}

int cuda_fp8_logits(struct cuda *cuda, const struct fp8_operands *o, int64_t first, int64_t rows,
                    const real *b, void *logits) {
    const struct product product = {.type = NUMBER_FP8,
                                    .result = NUMBER_BF16,
                                    .is_fast = 1,
                                    .transpose_b = 1,
                                    .m = rows,
                                    .n = o->stride,
                                    .k = o->width,
                                    .epilogue = EPILOGUE_BIAS,
                                    .bias = cuda_operand(cuda, b),
                                    .scale_a = o->scale_x,
                                    .scale_b = o->scale_w};
    if (!product.bias) return 0;
    return multiply(cuda, &product, (const char *)o->x + first * o->width, o->w, logits);
}

int cuda_fp8_dx(struct cuda *cuda, const struct fp8_operands *o, int64_t rows, float *dx) {
    const struct product product = {.type = NUMBER_FP8,
                                    .result = NUMBER_FP32,
                                    .transpose_b = 1,
                                    .m = rows,
                                    .n = o->width,
                                    .k = o->stride,
                                    .scale_b = o->scale_w};
    float *to = o->width == o->h ? dx : o->dx;
    if (!multiply(cuda, &product, o->gradient, o->w_across, to)) return 0;
    kernel_scale_rows(cuda->compute, rows, o->h, o->width, o->factor, to, dx);
    return 1;
}
