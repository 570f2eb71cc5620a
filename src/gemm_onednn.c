/* Matrix products by oneDNN; see gemm.h.
 *
 * Two ways lead there: dnnl_sgemm, and the matmul primitive, which is made for one shape and kept. The
 * primitive is faster where b is transposed (the logits: 480 against 400 GFLOP/s on two Zen 5 cores), sgemm
 * elsewhere; bf16 exists as a primitive only. */
#include <dnnl.h>
#include <stdio.h>

#include "error.h"
#include "gemm.h"

enum { KEPT = 64 }; /* primitives: layers x products x sizes of blocks */

/* All that a primitive is made for. */
struct shape {
    int64_t m, n, k;
    int transpose_a, transpose_b, accumulate;
    dnnl_data_type_t type; /* of a and b */
};

/* A primitive with the memory objects that its operands' addresses are put into. */
static struct product {
    struct shape shape;
    dnnl_primitive_t primitive;
    dnnl_memory_t a, b, c;
} kept[KEPT];
static int next; /* the place of the one that is kept next */
static dnnl_engine_t engine;
static dnnl_stream_t stream;

static int is_same(const struct shape *a, const struct shape *b) {
    return a->m == b->m && a->n == b->n && a->k == b->k && a->transpose_a == b->transpose_a &&
           a->transpose_b == b->transpose_b && a->accumulate == b->accumulate && a->type == b->type;
}

static void forget(struct product *p) {
    if (p->primitive) dnnl_primitive_destroy(p->primitive);
    if (p->a) dnnl_memory_destroy(p->a);
    if (p->b) dnnl_memory_destroy(p->b);
    if (p->c) dnnl_memory_destroy(p->c);
    *p = (struct product){0};
}

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t description;

static dnnl_status_t describe(description *d, int64_t rows, int64_t cols, int transpose,
                              dnnl_data_type_t type) {
    dnnl_dims_t dims = {rows, cols}, strides = {transpose ? 1 : cols, transpose ? rows : 1};
    return dnnl_memory_desc_create_with_strides(d, 2, dims, type, strides);
}

static dnnl_status_t plan(dnnl_primitive_desc_t *plan_, description a, description b, description c,
                          const_dnnl_primitive_attr_t attributes) {
    return dnnl_matmul_primitive_desc_create(plan_, engine, a, b, NULL, c, attributes);
}

static dnnl_status_t hold(dnnl_memory_t *memory, description d) {
    return dnnl_memory_create(memory, d, engine, DNNL_MEMORY_NONE);
}

static void drop(description d) {
    dnnl_memory_desc_destroy(d);
}

static dnnl_status_t add_to_c(dnnl_post_ops_t operations) {
    return dnnl_post_ops_append_sum(operations, 1, 0, dnnl_data_type_undef);
}
#else
typedef dnnl_memory_desc_t description;

static dnnl_status_t describe(description *d, int64_t rows, int64_t cols, int transpose,
                              dnnl_data_type_t type) {
    dnnl_dims_t dims = {rows, cols}, strides = {transpose ? 1 : cols, transpose ? rows : 1};
    return dnnl_memory_desc_init_by_strides(d, 2, dims, type, strides);
}

static dnnl_status_t plan(dnnl_primitive_desc_t *plan_, description a, description b, description c,
                          const_dnnl_primitive_attr_t attributes) {
    dnnl_matmul_desc_t matmul;
    dnnl_status_t status = dnnl_matmul_desc_init(&matmul, &a, &b, NULL, &c);
    return status ? status : dnnl_primitive_desc_create(plan_, &matmul, attributes, engine, NULL);
}

static dnnl_status_t hold(dnnl_memory_t *memory, description d) {
    return dnnl_memory_create(memory, &d, engine, DNNL_MEMORY_NONE);
}

static void drop(description d) {
    (void)d;
}

static dnnl_status_t add_to_c(dnnl_post_ops_t operations) {
    return dnnl_post_ops_append_sum(operations, 1);
}
#endif

static dnnl_status_t make(const struct shape *s, struct product *p) {
    description a, b, c;
    dnnl_primitive_desc_t planned = NULL;
    dnnl_primitive_attr_t attributes = NULL;
    dnnl_post_ops_t operations = NULL;
    dnnl_status_t status = dnnl_success;
    if (!engine) status = dnnl_engine_create(&engine, dnnl_cpu, 0);
    if (!status && !stream) status = dnnl_stream_create(&stream, engine, dnnl_stream_default_flags);
    if (!status) status = describe(&a, s->m, s->k, s->transpose_a, s->type);
    if (status) return status;
    status = describe(&b, s->k, s->n, s->transpose_b, s->type);
    if (status) goto drop_a;
    status = describe(&c, s->m, s->n, 0, dnnl_f32);
    if (status) goto drop_b;
    status = dnnl_primitive_attr_create(&attributes);
    if (!status) status = dnnl_post_ops_create(&operations);
    if (!status && s->accumulate) status = add_to_c(operations);
    if (!status) status = dnnl_primitive_attr_set_post_ops(attributes, operations);
    if (!status) status = plan(&planned, a, b, c, attributes);
    if (!status) status = dnnl_primitive_create(&p->primitive, planned);
    if (!status) status = hold(&p->a, a);
    if (!status) status = hold(&p->b, b);
    if (!status) status = hold(&p->c, c);
    p->shape = *s;
    if (planned) dnnl_primitive_desc_destroy(planned);
    if (operations) dnnl_post_ops_destroy(operations);
    if (attributes) dnnl_primitive_attr_destroy(attributes);
    drop(c);
drop_b:
    drop(b);
drop_a:
    drop(a);
    return status;
}

static int run(const struct shape *shape, const void *a, const void *b, float *c) {
    struct product *p = NULL;
    for (int i = 0; i < KEPT && !p; i++) {
        if (kept[i].primitive && is_same(&kept[i].shape, shape)) p = &kept[i];
    }
    dnnl_status_t status = dnnl_success;
    if (!p) {
        p = &kept[next];
        next = (next + 1) % KEPT;
        forget(p);
        status = make(shape, p);
    }
    /* oneDNN takes addresses it only reads from as void * too */
    if (!status) status = dnnl_memory_set_data_handle(p->a, (void *)(uintptr_t)a);
    if (!status) status = dnnl_memory_set_data_handle(p->b, (void *)(uintptr_t)b);
    if (!status) status = dnnl_memory_set_data_handle(p->c, c);
    if (!status) {
        const dnnl_exec_arg_t operand[] = {
            {DNNL_ARG_SRC, p->a}, {DNNL_ARG_WEIGHTS, p->b}, {DNNL_ARG_DST, p->c}};
        status = dnnl_primitive_execute(p->primitive, stream, 3, operand);
    }
    if (!status) status = dnnl_stream_wait(stream);
    if (!status) return 0;
    forget(p);
    return error_set(EX_OSERR, "oneDNN cannot multiply matrices of %lld x %lld x %lld (status %d)%s",
                     (long long)shape->m, (long long)shape->n, (long long)shape->k, (int)status,
                     status == dnnl_out_of_memory ? ": out of memory" : "");
}

int gemm(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const real *a, const real *b,
         real beta, real *c) {
    if (m == 0 || n == 0) return 0;
    if (transpose_b && !transpose_a) {
        const struct shape shape = {m, n, k, 0, 1, beta != 0, dnnl_f32};
        return run(&shape, a, b, c);
    }
    dnnl_status_t status = dnnl_sgemm(transpose_a ? 'T' : 'N', transpose_b ? 'T' : 'N', m, n, k, 1.0f, a,
                                      transpose_a ? m : k, b, transpose_b ? k : n, beta, c, n);
    return status ? error_set(EX_OSERR, "oneDNN cannot multiply matrices (status %d)", (int)status) : 0;
}

int gemm_has_bf16(void) {
    return (dnnl_get_effective_cpu_isa() & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
}

int gemm_bf16(int transpose_a, int transpose_b, int64_t m, int64_t n, int64_t k, const bf16 *a, const bf16 *b,
              real beta, real *c) {
    const struct shape shape = {m, n, k, transpose_a, transpose_b, beta != 0, dnnl_bf16};
    return m == 0 || n == 0 ? 0 : run(&shape, a, b, c);
}

void gemm_describe(char *text, int size) {
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, (size_t)size, "oneDNN %d.%d.%d", v->major, v->minor, v->patch);
}
