/* The rows of a batch, from the host or from what stays on the GPU; see cuda.h. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cuda.h"
#include "error.h"

enum {
    ALIGNED = 64, /* bytes: arrays of a batch begin there */
#ifndef VAECF_SMALL_PIECES
    ROUND = 64 /* rows of a step: what chance gives to a rank falls on few numbers, each recorded once */
#else
    ROUND = 8
#endif
};

/* Cuts arrays from a block of memory, on host and device alike. */
struct cutter {
    char *host; /* NULL: only counts */
    const char *device;
    size_t used;
};

static void *cut(struct cutter *cutter, size_t bytes, const void *on_device) {
    void *host = cutter->host ? cutter->host + cutter->used : NULL;
    const char *device = cutter->host ? cutter->device + cutter->used : NULL;
    memcpy((void *)(uintptr_t)on_device, &device, sizeof device);
    cutter->used += (bytes + ALIGNED - 1) / ALIGNED * ALIGNED;
    return host;
}

/* ---- by item ---- */

int64_t cuda_words(int64_t n_items) {
    return (n_items + 63) / 64;
}

/* Marks the batch's items; returns how many there are. */
static int64_t mark_items(struct cuda *cuda, const struct csr *m) {
    int64_t words = cuda_words(cuda->n_items), n = 0;
    memset(cuda->touched, 0, (size_t)words * sizeof *cuda->touched);
    for (int64_t k = 0; k < cuda->nonzeros; k++) {
        cuda->touched[m->indices[k] >> 6] |= (uint64_t)1 << (m->indices[k] & 63);
    }
    for (int64_t w = 0; w < words; w++) n += __builtin_popcountll(cuda->touched[w]);
    return n;
}

int64_t cuda_list_items(const struct cuda *cuda, const uint64_t *marks, int32_t *item, int32_t *place) {
    int64_t n = 0;
    for (int64_t w = 0; w < cuda_words(cuda->n_items); w++) {
        for (uint64_t rest = marks[w]; rest; rest &= rest - 1) {
            int32_t i = (int32_t)(w * 64 + __builtin_ctzll(rest));
            if (place) place[i] = (int32_t)n;
            item[n++] = i;
        }
    }
    return n;
}

/* The matrix by item: arrays of host memory, and where they will be on the device. */
struct by_item {
    struct kernel_segment *segment, *group;
    int32_t *row, *at;
};

/* Segments that n items with so many entries may have, at most; groups; rows of partial sums. */
static size_t segments_max(int64_t n, int64_t nonzeros) {
    return (size_t)(n + nonzeros / KERNEL_SEGMENT);
}
static size_t groups_max(int64_t nonzeros) {
    return (size_t)(nonzeros / KERNEL_SEGMENT);
}

static struct by_item cut_columns(struct cutter *cutter, int64_t n, int64_t nonzeros,
                                  struct kernel_columns *c) {
    struct by_item host;
    host.segment = cut(cutter, segments_max(n, nonzeros) * sizeof *host.segment, &c->segment);
    host.group = cut(cutter, groups_max(nonzeros) * sizeof *host.group, &c->group);
    host.row = cut(cutter, (size_t)nonzeros * sizeof *host.row, &c->row);
    host.at = cut(cutter, (size_t)nonzeros * sizeof *host.at, &c->at);
    return host;
}

/* Sorts the matrix by item: of each of the n items item[] the rows that have it, ascending, in segments.
 * place[i] is where item i is in item[], start[n + 1] is for scratch. Returns the rows of partial sums. */
static int64_t sort_by_item(const struct csr *m, int64_t n, const int32_t *item, const int32_t *place,
                            int32_t *start, struct by_item *to, struct kernel_columns *c) {
    int64_t nonzeros = csr_nonzeros(m), partials = 0;
    memset(start, 0, (size_t)(n + 1) * sizeof *start);
    for (int64_t k = 0; k < nonzeros; k++) start[place[m->indices[k]] + 1]++;
    for (int64_t i = 0; i < n; i++) start[i + 1] += start[i];
    for (int64_t r = 0; r < m->rows; r++) {
        for (int64_t k = m->indptr[r]; k < m->indptr[r + 1]; k++) {
            int32_t at = start[place[m->indices[k]]]++;
            to->row[at] = (int32_t)r;
            to->at[at] = (int32_t)k;
        }
    }
    c->n_segments = c->n_groups = 0;
    for (int64_t i = 0; i < n; i++) { /* each start has become the next one's */
        int32_t begin = i > 0 ? start[i - 1] : 0, end = start[i];
        int is_whole = end - begin <= KERNEL_SEGMENT;
        int64_t first = partials;
        for (int32_t at = begin; at < end || at == begin; at += KERNEL_SEGMENT) {
            int32_t stop = end - at < KERNEL_SEGMENT ? end : at + KERNEL_SEGMENT;
            to->segment[c->n_segments++] =
                (struct kernel_segment){item[i], at, stop, is_whole ? -1 : (int32_t)partials++};
        }
        if (is_whole) continue;
        to->group[c->n_groups++] = (struct kernel_segment){item[i], (int32_t)first, (int32_t)partials, -1};
    }
    return partials;
}

/* ---- a batch from the host ---- */

/* The most entries of a row. */
static int32_t longest_row(const struct csr *m) {
    int64_t longest = 0;
    for (int64_t r = 0; r < m->rows; r++) {
        int64_t entries = m->indptr[r + 1] - m->indptr[r];
        if (entries > longest) longest = entries;
    }
    return (int32_t)longest;
}

/* Lays the batch out in the slot; with memory, fills it. Returns its size. */
static size_t pack(struct cuda *cuda, struct slot *slot, const struct csr *m, const int64_t *users,
                   int is_filled) {
    struct cutter cutter = {is_filled ? slot->host.at : NULL, slot->device.at, 0};
    struct kernel_rows *batch = &cuda->batch;
    size_t rows = (size_t)m->rows, nonzeros = (size_t)cuda->nonzeros;
    int64_t n = cuda->n_touched, counted = cuda->is_training ? cuda->nonzeros : 0;
    int64_t *host_users = cut(&cutter, rows * sizeof *host_users, &batch->users);
    int32_t *start = cut(&cutter, (rows + 1) * sizeof *start, &batch->begin);
    int32_t *items = cut(&cutter, nonzeros * sizeof *items, &batch->items);
    int32_t *whole = cut(&cutter, m->whole ? rows * sizeof *whole : 0, &batch->whole);
    struct by_item by_item = cut_columns(&cutter, n, counted, &cuda->columns);
    if (!is_filled) return cutter.used;
    batch->end = batch->begin + 1;
    for (size_t r = 0; r <= rows; r++) start[r] = (int32_t)m->indptr[r];
    if (!m->whole) batch->whole = NULL;
    for (size_t r = 0; r < rows && m->whole; r++) whole[r] = (int32_t)m->whole[r];
    if (users) memcpy(host_users, users, rows * sizeof *users);
    if (nonzeros) memcpy(items, m->indices, nonzeros * sizeof *items);
    if (cuda->is_training) {
        cuda_list_items(cuda, cuda->touched, cuda->item, cuda->place);
        cuda->n_partials =
            sort_by_item(m, n, cuda->item, cuda->place, cuda->item_start, &by_item, &cuda->columns);
    }
    return cutter.used;
}

int cuda_set_kept(struct cuda *cuda, int64_t rows) {
    struct kept *kept = &cuda->kept;
    size_t n = (size_t)rows;
    int64_t *users = cuda_room(cuda, &kept->rows, n * (sizeof *users + 2 * sizeof(int32_t)));
    if (!users) return cuda_told(cuda);
    kept->begin = (int32_t *)(users + n);
    kept->end = kept->begin + n;
    cuda->batch = (struct kernel_rows){
        .rows = rows, .begin = kept->begin, .end = kept->end, .items = kept->items, .users = users};
    cuda->columns = kept->columns;
    cuda->n_partials = kept->n_partials;
    cuda->nonzeros = kept->n_entries;
    cuda->longest = kept->longest;
    cuda->sorted = kept->sorted_memory.at ? &kept->sorted : NULL;
    cuda->value = kept->values.at;
    cuda->is_training = 1;
    cuda_room(cuda, &cuda->nll, 2 * n * sizeof(double));
    return cuda_told(cuda);
}

/* The batch of this step: kept rows from step.first on; rows beyond step.rows are empty. */
static int take_kept(struct cuda *cuda, int64_t rows) {
    struct kept *kept = &cuda->kept;
    int code = cuda_set_kept(cuda, rows);
    if (code) return code;
    kernel_take_rows(cuda->compute, rows, cuda->device_step, kept->row_at, kept->start, kept->users,
                     kept->begin, kept->end, kept->rows.at);
    return cuda_told(cuda);
}

int cuda_load(struct backend *backend, const struct csr *rows, const int64_t *users, int for_training) {
    struct cuda *cuda = backend->state;
    SPAN("batch");
    cuda_settle_sums(cuda);
    if (!rows->indptr) return take_kept(cuda, rows->rows);
    (for_training ? cuda_trace_step : cuda_trace_pause)(cuda);
    /* the kernels of the last batch are all on the stream: behind them its slot is free */
    TRY(cuda, cudaEventRecord(cuda->slot[cuda->at].used, cuda->compute));
    cuda->at = (cuda->at + 1) % CUDA_SLOTS;
    struct slot *slot = &cuda->slot[cuda->at];
    cuda->batch.rows = rows->rows;
    cuda->batch.first_item = cuda->grid ? (int32_t)cuda->grid->first : 0;
    cuda->nonzeros = csr_nonzeros(rows);
    cuda->is_training = for_training;
    if (cuda->nonzeros > INT32_MAX - KERNEL_SEGMENT) {
        return error_set(EX_OSERR,
                         "%lld interactions in the batch of a rank; want fewer than 2^31: a smaller "
                         "train.batch_size",
                         (long long)cuda->nonzeros);
    }
    cuda->n_touched = for_training ? mark_items(cuda, rows) : 0;
    cuda->columns = (struct kernel_columns){0};
    cuda->longest = cuda->tuning.split_rows ? longest_row(rows) : 0;
    cuda->sorted = NULL;
    cuda->step.first = cuda->step.number = 0;
    cuda->step.rows = (int32_t)rows->rows;
    cuda_tell(cuda);
    size_t bytes = pack(cuda, slot, rows, users, 0);
    /* the last copy from this host memory, and the last use of this device memory */
    if (cuda_wait_for(cuda, slot->copied)) return cuda_told(cuda);
    TRY(cuda, cudaStreamWaitEvent(cuda->copy, slot->used, 0));
    if (!cuda_room(cuda, &slot->host, bytes) || !cuda_room(cuda, &slot->device, bytes))
        return cuda_told(cuda);
    pack(cuda, slot, rows, users, 1);
    TRY(cuda, trace_copy(slot->device.at, slot->host.at, bytes, cudaMemcpyHostToDevice, cuda->copy));
    TRY(cuda, cudaEventRecord(slot->copied, cuda->copy));
    TRY(cuda, cudaStreamWaitEvent(cuda->compute, slot->copied, 0));
    cuda->value = cuda_room(cuda, &cuda->values, (size_t)cuda->nonzeros * sizeof(float));
    if (for_training) cuda_room(cuda, &cuda->nll, 2 * (size_t)rows->rows * sizeof(double));
    return cuda_told(cuda);
}

/* ---- rows that stay ---- */

/* What is filled on the host: arrays of the image. */
struct image {
    struct by_item by_item;
    int32_t *start, *items;
    int64_t *users;
};

static int64_t steps_of(const struct kept *kept) {
    return (kept->n_all + kept->batch - 1) / kept->batch;
}

/* Cuts the arrays; returns the bytes of the image and, in *all, of the whole. */
static size_t lay_out_kept(struct kept *kept, const struct csr *m, char *host, struct image *image,
                           size_t *all) {
    struct cutter cutter = {host, kept->memory.at, 0};
    size_t rows = (size_t)m->rows, nonzeros = (size_t)csr_nonzeros(m), n_all = (size_t)kept->n_all;
    image->users = cut(&cutter, rows * sizeof *image->users, &kept->users);
    image->start = cut(&cutter, (rows + 1) * sizeof *image->start, &kept->start);
    image->items = cut(&cutter, nonzeros * sizeof *image->items, &kept->items);
    image->by_item = cut_columns(&cutter, m->cols, csr_nonzeros(m), &kept->columns);
    size_t bytes = cutter.used;
    if (kept->n_rows < kept->n_all) {
        cut(&cutter, n_all * sizeof *kept->at, &kept->at);
        cut(&cutter, (n_all / KERNEL_PIECE + 1) * sizeof *kept->count, &kept->count);
    }
    cut(&cutter, rows * sizeof *kept->row_at, &kept->row_at);
    cut(&cutter, rows * sizeof *kept->place, &kept->place);
    cut(&cutter, ((size_t)steps_of(kept) + 1) * sizeof *kept->step_first, &kept->step_first);
    cut(&cutter, (size_t)steps_of(kept) * sizeof *kept->step_entries, &kept->step_entries);
    *all = cutter.used;
    return bytes;
}

/* Memory for the entries by step; what there is none for is not sorted. */
static void lay_out_sorted(struct cuda *cuda, size_t is_free) {
    struct kept *kept = &cuda->kept;
    struct kernel_sorted *sorted = &kept->sorted;
    size_t n = (size_t)kept->n_nonzeros, steps = (size_t)steps_of(kept), pieces = n / KERNEL_SORTED + 1,
           counts = steps * pieces;
    char *host = NULL; /* the first time it is only counted */
    if (!cuda->tuning.sorted_steps || n == 0) return;
    for (;;) {
        struct cutter cutter = {host, kept->sorted_memory.at, 0};
        cut(&cutter, n * sizeof(int32_t), &sorted->row);
        cut(&cutter, n * sizeof(int32_t), &sorted->at);
        cut(&cutter, n * sizeof(int32_t), &sorted->item);
        cut(&cutter, (n + 1) * sizeof(int32_t), &sorted->head);
        cut(&cutter, (steps + 1) * sizeof(int32_t), &sorted->step_head);
        cut(&cutter, (size_t)kept->n_rows * sizeof(int32_t), &sorted->step_of);
        cut(&cutter, counts * sizeof(int32_t), &sorted->count);
        cut(&cutter, (counts + 1) * sizeof(int32_t), &sorted->first);
        cut(&cutter, (counts / KERNEL_PIECE + 1) * sizeof(int32_t), &sorted->piece);
        cut(&cutter, (pieces + 1) * sizeof(int32_t), &sorted->before);
        if (host || cutter.used > is_free / 4) return;
        host = cuda_room(cuda, &kept->sorted_memory, cutter.used);
        if (!host) return;
    }
}

/* Builds the image of what is kept, and copies it. */
static int fill_kept(struct cuda *cuda, const struct csr *m, const int64_t *users, size_t bytes, size_t all) {
    struct kept *kept = &cuda->kept;
    struct image image;
    char *host = malloc(all);
    if (!host) return error_memory("the training set by item", all);
    lay_out_kept(kept, m, host, &image, &all);
    for (int64_t r = 0; r <= m->rows; r++) image.start[r] = m->rows > 0 ? (int32_t)m->indptr[r] : 0;
    if (bytes) memcpy(image.items, m->indices, (size_t)csr_nonzeros(m) * sizeof *image.items);
    memcpy(image.users, users, (size_t)m->rows * sizeof *image.users);
    for (int64_t i = 0; i < cuda->n_items; i++) cuda->item[i] = cuda->place[i] = (int32_t)i;
    kept->n_partials = sort_by_item(m, cuda->n_items, cuda->item, cuda->place, cuda->item_start,
                                    &image.by_item, &kept->columns);
    kept->columns.place = kept->place;
    TRY(cuda, trace_copy(kept->memory.at, host, bytes, cudaMemcpyHostToDevice, cuda->compute));
    int code = cuda_wait_all(cuda);
    free(host);
    return code;
}

int cuda_keep(struct backend *backend, const struct csr *rows, const int64_t *users, int64_t n_all,
              int64_t first, int64_t batch) {
    struct cuda *cuda = backend->state;
    struct kept *kept = &cuda->kept;
    struct image image;
    int64_t nonzeros = csr_nonzeros(rows);
    kept->n_all = n_all;
    kept->first = first;
    kept->n_rows = rows->rows;
    kept->n_nonzeros = nonzeros;
    kept->longest = rows->rows > 0 ? longest_row(rows) : 0;
    kept->batch = batch < n_all ? batch : n_all;
    size_t all, is_free = 0, total = 0, bytes = lay_out_kept(kept, rows, NULL, &image, &all);
    TRY(cuda, cudaMemGetInfo(&is_free, &total));
    if (!cuda_is_allowed("VAECF_KEEP") || cuda->grid || nonzeros > INT32_MAX - KERNEL_SEGMENT ||
        n_all > INT32_MAX || n_all > KERNEL_STEPS * batch ||
        all + (size_t)nonzeros * sizeof(float) > is_free / 2) {
        return EX_UNAVAILABLE;
    }
    free(kept->host_first);
    kept->host_first = calloc(2 * (size_t)steps_of(kept) + 1, sizeof *kept->host_first);
    if (!kept->host_first) return error_memory("the steps of an epoch", (size_t)steps_of(kept) * 8);
    kept->host_entries = kept->host_first + steps_of(kept) + 1;
    if (!cuda_room(cuda, &kept->memory, all) ||
        !cuda_room(cuda, &kept->values, (size_t)nonzeros * sizeof(float))) {
        return cuda_told(cuda);
    }
    cuda_free_room(&kept->sorted_memory);
    cuda->memory++;
    kept->is_drawn = 0;
    lay_out_sorted(cuda, is_free);
    return fill_kept(cuda, rows, users, bytes, all);
}

/* How many rows each step of this epoch has for this rank. */
static void count_rows(struct cuda *cuda) {
    struct kept *kept = &cuda->kept;
    int64_t steps = steps_of(kept);
    size_t bytes = ((size_t)steps + 1) * sizeof *kept->host_first;
    if (kept->n_rows == kept->n_all) { /* alone: the same in every epoch */
        for (int64_t s = 0; s <= steps; s++) {
            kept->host_first[s] = (int32_t)(s < steps ? s * kept->batch : kept->n_all);
        }
        return;
    }
    TRY(cuda, trace_copy(kept->host_first, kept->step_first, bytes, cudaMemcpyDeviceToHost, cuda->compute));
    cuda_wait_all(cuda);
}

/* How many entries each step of this epoch has for this rank. */
static void count_entries(struct cuda *cuda) {
    struct kept *kept = &cuda->kept;
    int64_t steps = steps_of(kept);
    size_t bytes = (size_t)steps * sizeof *kept->host_entries;
    kernel_step_entries(cuda->compute, steps, kept->batch, kept->n_all,
                        kept->n_rows < kept->n_all ? kept->step_first : NULL, kept->row_at, kept->start,
                        kept->step_entries);
    TRY(cuda,
        trace_copy(kept->host_entries, kept->step_entries, bytes, cudaMemcpyDeviceToHost, cuda->compute));
    cuda_wait_all(cuda);
}

void cuda_draw_order(struct cuda *cuda, const struct draw *draw) {
    struct kept *kept = &cuda->kept;
    if (kept->is_drawn && kept->epoch == draw->epoch && kept->seed == draw->seed) return;
    if (kept->n_rows < kept->n_all) {
        TRY(cuda, trace_set(kept->at, 0xff, (size_t)kept->n_all * sizeof *kept->at, cuda->compute));
    }
    kernel_order(cuda->compute, draw->seed, draw->epoch, kept->n_all, kept->first, kept->n_rows, kept->batch,
                 kept->at, kept->count, kept->row_at, kept->place, kept->step_first);
    count_rows(cuda);
    if (cuda->spmm) count_entries(cuda);
    if (kept->sorted_memory.at) {
        kernel_sort_steps(cuda->compute, kept->n_nonzeros, kept->n_rows, (int)steps_of(kept), kept->batch,
                          kept->n_rows < kept->n_all ? kept->step_first : NULL, &kept->columns, kept->items,
                          &kept->sorted);
    }
    kept->is_drawn = 1;
    kept->epoch = draw->epoch;
    kept->seed = draw->seed;
}

void cuda_kept_rows(struct cuda *cuda, int64_t first, int64_t *begin, int64_t *count, int64_t *computed) {
    struct kept *kept = &cuda->kept;
    int64_t s = first / kept->batch, most = 0;
    *begin = kept->host_first[s];
    *count = kept->host_first[s + 1] - *begin;
    kept->n_entries = kept->host_entries[s];
    cuda->step.number = (int32_t)s;
    *computed = *count;
    if (kept->n_rows == kept->n_all) return;
    for (int64_t i = 0; i < steps_of(kept) && !kept->is_warm; i++) { /* memory for the largest step at once */
        int64_t rows = kept->host_first[i + 1] - kept->host_first[i];
        if (rows > most) most = rows;
    }
    if (most < *count) most = *count;
    kept->is_warm = 1;
    /* what chance gives to a rank falls on few numbers, so that each is soon recorded */
    *computed = (most > 0 ? most + ROUND - 1 : ROUND) / ROUND * ROUND;
}
