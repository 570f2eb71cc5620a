/* What a rank does with a range of the items, together with the other item ranks of its row of the grid; and
 * the output layer in tiles of items, where whole rows of logits are too long. See cuda.h. */
#include "cuda.h"
#include "error.h"

enum {
    ROWS_MIN = 64, /* a block of fewer rows is cut into tiles of items: a tile reads the weights once */
    ROWS_MAX = 4096
};

void cuda_sum_items(struct cuda *cuda, float *values, size_t n) {
    const struct comm *items = &cuda->grid->items;
    if (cuda->fault) comm_abort(items, cuda_told(cuda)); /* the others wait for our part */
    if (cuda->items_nccl) {
        cuda_keep_fault(cuda, nccl_sum(cuda->items_nccl, cuda->compute, values, n, NUMBER_FP32));
    } else {
        cuda_sum_over_mpi(cuda, items, values, n);
    }
}

void cuda_agree_overflow(struct cuda *cuda) {
    int *flag = cuda->host_overflow;
    size_t bytes = sizeof *flag;
    TRY(cuda, trace_copy(flag, cuda->overflow, bytes, cudaMemcpyDeviceToHost, cuda->compute));
    cuda_wait_all(cuda);
    *flag = (int)comm_max(&cuda->grid->items, *flag);
    TRY(cuda, trace_copy(cuda->overflow, flag, bytes, cudaMemcpyHostToDevice, cuda->compute));
}

/* ---- the output layer ---- */

int cuda_wants_tiles(const struct cuda *cuda, int64_t rows, size_t row_bytes) {
    int64_t block = (int64_t)(cuda->logits_max / row_bytes);
    return cuda->grid || (block < ROWS_MIN && block < rows);
}

/* The output layer's work. */
struct output {
    int h;
    size_t size; /* of an operand's number */
    const char *x, *w;
    const real *b;
    float smoothing;
    int64_t tile;
    void *logits;
    struct kernel_sums *sums, *all_sums; /* [block], [item ranks, block] */
    real *dx, *dw, *db;
};

/* Items of the tile from `first` on, and the length of its rows. */
static int64_t tile_size(const struct cuda *cuda, const struct output *o, int64_t first, int64_t *stride) {
    int64_t n = cuda->n_items - first < o->tile ? cuda->n_items - first : o->tile;
    *stride = backend_whole_rows(n);
    return n;
}

static void tile_logits(struct cuda *cuda, const struct output *o, int64_t first_row, int64_t rows,
                        int64_t first) {
    int64_t stride, n = tile_size(cuda, o, first, &stride);
    cuda_compute_logits(cuda, rows, n, stride, o->h, o->x + (size_t)(first_row * o->h) * o->size,
                        o->w + (size_t)(first * o->h) * o->size, o->b + first, o->logits);
}

/* The sums of all ranges, and the nll. */
static void finish_sums(struct cuda *cuda, const struct output *o, const struct kernel_rows *rows,
                        double *nll) {
    int parts = 1;
    size_t n = (size_t)rows->rows, bytes = n * sizeof *o->sums;
    const struct kernel_sums *all = o->sums;
    if (cuda->grid) { /* each adds its own to zeros: so all have those of all */
        parts = cuda->grid->items.size;
        size_t own = n * (size_t)cuda->grid->items.rank;
        all = o->all_sums;
        TRY(cuda, trace_set(o->all_sums, 0, bytes * (size_t)parts, cuda->compute));
        TRY(cuda, trace_copy(o->all_sums + own, o->sums, bytes, cudaMemcpyDeviceToDevice, cuda->compute));
        cuda_sum_items(cuda, (float *)o->all_sums, (size_t)parts * bytes / sizeof(float));
    }
    kernel_finish_sums(cuda->compute, parts, rows, all, o->sums, nll);
}

/* One block of rows, as block_in_tiles of src/backend_cpu.c. */
static void block_in_tiles(struct cuda *cuda, const struct output *o, int64_t first_row, int64_t rows) {
    enum number type = cuda->type;
    int64_t last = (cuda->n_items - 1) / o->tile * o->tile, stride;
    struct kernel_rows part = cuda_part_of(&cuda->batch, first_row, rows);
    const char *x = o->x + (size_t)(first_row * o->h) * o->size;
    kernel_no_sums(cuda->compute, rows, o->sums);
    for (int64_t i = 0; i <= last; i += o->tile) {
        int64_t n = tile_size(cuda, o, i, &stride);
        tile_logits(cuda, o, first_row, rows, i);
        kernel_tile_sums(cuda->compute, type, n, stride, i, &part, o->logits, o->sums);
    }
    finish_sums(cuda, o, &part, (double *)cuda->nll.at + first_row);
    for (int64_t i = last; i >= 0; i -= o->tile) {
        int64_t n = tile_size(cuda, o, i, &stride), all = cuda->grid ? cuda->grid->n_items : cuda->n_items;
        if (i < last) tile_logits(cuda, o, first_row, rows, i);
        kernel_tile_gradients(cuda->compute, type, n, stride, i, all, &part, cuda->device_step, o->smoothing,
                              o->sums, o->logits);
        int is_summed = o->dw && first_row == 0 &&
                        cuda_multiply_summed(cuda, EPILOGUE_SUM_A, stride, o->h, rows, o->logits, x,
                                             o->dw + i * o->h, o->db + i);
        if (o->dw && !is_summed) {
            cuda_sum_rows(cuda, type, rows, n, stride, o->logits, first_row > 0, o->db + i);
            cuda_multiply(cuda, 1, 0, stride, o->h, rows, o->logits, x, first_row > 0, o->dw + i * o->h);
        }
        if (!o->dx) continue;
        cuda_multiply(cuda, 0, 0, rows, o->h, stride, o->logits, o->w + (size_t)(i * o->h) * o->size,
                      i < last, o->dx + first_row * o->h);
    }
}

void cuda_output_in_tiles(struct cuda *cuda, int64_t rows, int h, const real *x, const real *w, const real *b,
                          double smoothing, real *dx, real *dw, real *db) {
    size_t size = cuda->type == NUMBER_FP32 ? sizeof(float) : 2;
    struct output o = {
        .h = h, .size = size, .b = b, .smoothing = (float)smoothing, .dx = dx, .dw = dw, .db = db};
    int64_t longest = backend_whole_rows(cuda->grid ? cuda->grid->largest_count : cuda->n_items);
    int64_t block = backend_cut_logits((int64_t)(cuda->logits_max / size), longest, cuda->n_items, rows,
                                       ROWS_MIN, ROWS_MAX, &o.tile);
    size_t parts = cuda->grid ? (size_t)cuda->grid->items.size : 0;
    o.x = cuda_operand(cuda, x);
    o.w = cuda_operand(cuda, w);
    o.logits = cuda_room(cuda, &cuda->logits, (size_t)(block * backend_whole_rows(o.tile)) * size);
    o.sums = cuda_room(cuda, &cuda->logit_sums, (size_t)block * (parts + 1) * sizeof *o.sums);
    o.all_sums = o.sums + block;
    cuda->logits_rows = 0; /* of whole rows, that is */
    for (int64_t first = 0; first < rows && !cuda->fault; first += block) {
        block_in_tiles(cuda, &o, first, rows - first < block ? rows - first : block);
    }
    if (cuda->grid && dx) cuda_sum_items(cuda, dx, (size_t)(rows * h));
}

/* ---- the input layer ---- */

void cuda_input_of_ranges(struct cuda *cuda, const void *w, const real *b, int h, enum activation act,
                          real *y, real *kept, void *copy) {
    cuda_multiply_batch(cuda, w, h, y);
    cuda_sum_items(cuda, y, (size_t)(cuda->batch.rows * h));
    kernel_activate(cuda->compute, cuda->type, cuda->batch.rows, h, b, (int)act, y, kept, copy);
}
