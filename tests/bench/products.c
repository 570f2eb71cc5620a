/* What the dense products of a training step take by themselves: the ceiling of what training can reach.
 *
 *   build/tests/bench/products ITEMS HIDDEN LATENT BATCH fp32|bf16
 *
 * Prints one line, "milliseconds,gflops,users_per_second": the fastest round of all products of a step of
 * Mult-VAE items-hidden-latent-hidden-items but the sparse first layer's, each on operands of its own. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "error.h"
#include "gemm.h"

enum { ROUNDS = 9, PRODUCTS = 9 };

struct product {
    int transpose_a, transpose_b;
    int64_t m, n, k;
    void *a, *b; /* float or bf16 */
    float *c;
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *filled(int64_t n, int in_bf16) {
    float *to = malloc((size_t)n * sizeof *to);
    for (int64_t i = 0; to && i < n; i++) {
        float value = (float)((i * 2654435761LL) % 1000) / 1000 - 0.5f;
        if (in_bf16) ((bf16 *)to)[i] = bf16_from_float(value);
        if (!in_bf16) to[i] = value;
    }
    return to;
}

static int prepare(struct product *p, int in_bf16) {
    p->a = filled(p->m * p->k, in_bf16);
    p->b = filled(p->k * p->n, in_bf16);
    p->c = filled(p->m * p->n, 0);
    return p->a && p->b && p->c ? 0 : error_memory("a product", (unsigned long long)(p->m * p->n) * 4);
}

static int multiply(const struct product *p, int in_bf16) {
    if (in_bf16) return gemm_bf16(p->transpose_a, p->transpose_b, p->m, p->n, p->k, p->a, p->b, 0, p->c);
    return gemm(p->transpose_a, p->transpose_b, p->m, p->n, p->k, p->a, p->b, 0, p->c);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: products ITEMS HIDDEN LATENT BATCH fp32|bf16\n");
        return EX_USAGE;
    }
    int64_t items = atoll(argv[1]), h = atoll(argv[2]), latent = atoll(argv[3]), users = atoll(argv[4]);
    int in_bf16 = strcmp(argv[5], "bf16") == 0, code = 0;
    if (in_bf16 && !gemm_has_bf16()) {
        fprintf(stderr, "error: this processor does not multiply bf16\n");
        return EX_UNAVAILABLE;
    }
    /* forward, gradient of the weights, gradient of the input: output layer, decoder's, encoder's second */
    const int64_t shape[PRODUCTS][5] = {
        {0, 1, users, items, h},      {1, 0, items, h, users},      {0, 0, users, h, items},
        {0, 0, users, h, latent},     {1, 0, latent, h, users},     {0, 1, users, latent, h},
        {0, 0, users, 2 * latent, h}, {1, 0, h, 2 * latent, users}, {0, 1, users, h, 2 * latent},
    };
    struct product p[PRODUCTS] = {0};
    double best = 1e30, operations = 0;
    for (int i = 0; i < PRODUCTS && !code; i++) {
        const int64_t *s = shape[i];
        p[i] = (struct product){(int)s[0], (int)s[1], s[2], s[3], s[4], NULL, NULL, NULL};
        code = prepare(&p[i], in_bf16);
        operations += 2.0 * (double)p[i].m * (double)p[i].n * (double)p[i].k;
    }
    for (int round = 0; round < ROUNDS && !code; round++) {
        double begin = now();
        for (int i = 0; i < PRODUCTS && !code; i++) code = multiply(&p[i], in_bf16);
        if (now() - begin < best) best = now() - begin;
    }
    for (int i = 0; i < PRODUCTS; i++) {
        free(p[i].a);
        free(p[i].b);
        free(p[i].c);
    }
    if (code) {
        fprintf(stderr, "error: %s\n", error_message());
        return code;
    }
    printf("%.3f,%.1f,%.0f\n", 1e3 * best, 1e-9 * operations / best, (double)users / best);
    return 0;
}
