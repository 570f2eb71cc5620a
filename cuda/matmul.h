/* Matrix products on the GPU by cuBLASLt: row-major, sums in fp32.
 *
 * What cuBLASLt chooses for a product (a "plan") is kept, so that the same product gives the same bits all
 * through a run and is looked for once. If the environment's VAECF_GEMM_CACHE names a file, the algorithms
 * that cuBLASLt proposes are timed, and the fastest one is kept there for later runs, which so have the same
 * bits again. */
#ifndef VAECF_MATMUL_H
#define VAECF_MATMUL_H

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "kernels.h"

struct matmul;

/* gpu: its name. EX_OSERR; EX_CANTCREAT: the file cannot be written. */
int matmul_create(const char *gpu, struct matmul **matmul);
void matmul_destroy(struct matmul *matmul);

/* "cuBLASLt 13.0.2". */
void matmul_describe(char *text, int size);

/* What is done to c besides. */
enum epilogue {
    EPILOGUE_NONE,
    EPILOGUE_BIAS /* c += bias[n] */,
    EPILOGUE_BIAS_RELU /* c = max(c + bias, 0) */,
    EPILOGUE_SUM_A /* bias[m] = the sums of the rows of op(a), in the type of c */,
    EPILOGUE_SUM_B /* bias[n] = the sums of the columns of op(b) */
};

/* c[m, n] = op(a) op(b), or c += that: op(a) is [m, k] and op(b) is [k, n]; a transposed one is stored as [k,
 * m], [n, k]. */
struct product {
    enum number type;   /* of a and b */
    enum number result; /* of c and the bias: fp32 or the same; of fp8: fp32 or bf16 */
    int use_tf32;       /* of fp32 */
    int is_fast;        /* of fp8: sums with fewer digits */
    int transpose_a, transpose_b;
    int64_t m, n, k;
    int accumulate;
    enum epilogue epilogue;
    const void *bias;              /* device memory; of sums it is written */
    const void *scale_a, *scale_b; /* of fp8: a float in device memory that a, b is multiplied by; NULL: 1 */
};

/* Puts the product on the stream. 0; EX_UNAVAILABLE (and nothing done) if cuBLASLt has none with this
 * epilogue, or of fp8; EX_OSERR. The first time of a product it may be multiplied several times, and waited
 * for.
 */
int matmul_run(struct matmul *matmul, cudaStream_t stream, const struct product *product, const void *a,
               const void *b, void *c);

#endif
