/* See block.h. */
#include "block.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "ids.h"
#include "records.h"

/* The finalizer of MurmurHash3 after FNV-1a. */
uint64_t block_user_hash(uint64_t seed, const char *id, size_t length) {
    uint64_t hash = ids_hash(ids_hash(IDS_HASH_START, &seed, sizeof seed), id, length);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ (hash >> 33);
}

struct key {
    uint64_t hash;
    const char *text;
    size_t length;
    int32_t user;
};

static int compare(const void *pa, const void *pb) {
    const struct key *a = pa, *b = pb;
    if (a->hash != b->hash) return a->hash > b->hash ? 1 : -1;
    return ids_compare_bytes(a->text, a->length, b->text, b->length);
}

int builder_open(struct builder *b, const struct duplicates *duplicates, int32_t n_items) {
    *b = (struct builder){.duplicates = *duplicates, .n_items = n_items};
    return settler_open(&b->settler, duplicates, n_items);
}

void builder_close(struct builder *b) {
    for (int p = 0; p < DATASET_PARTS; p++) interactions_free(&b->rows[p]);
    settler_close(&b->settler);
    free(b->buffer.data);
    *b = (struct builder){0};
}

/* The users and rows of a bin. with_values: the rows' values are wanted, which are stored if the rule needs
 * them. */
static int collect(struct builder *builder, const struct spool *spool, int bin, bool with_values,
                   struct ids *users) {
    const bool stored = duplicates_need_values(&builder->duplicates);
    int code = 0;
    for (int p = 0; p < DATASET_PARTS; p++) builder->rows[p].with_values = with_values;
    for (int64_t b = 0; b < spool->n && !code; b++) {
        const char *at, *id = NULL;
        size_t size, length = 0;
        uint32_t word;
        int32_t user = 0;
        enum dataset_part part = DATASET_TRAIN;
        code = spool_get(spool, b, bin, &builder->buffer, &at, &size);
        for (const char *end = at + size; !code && at < end;) { /* a user */
            record_get(&at, &word, &part, &id, &length);
            struct interactions *rows = &builder->rows[part];
            code = ids_add(users, id, length, &user);
            if (!code) code = interactions_reserve(rows, user, (end - at) / (int64_t)sizeof word + 1);
            double value = 0;
            while (!code) {
                if (stored) record_get_value(&at, &value);
                interactions_add(rows, (int32_t)(word >> 2), word >> 1 & 1, value);
                if (at == end || !record_same(at)) break;
                record_get(&at, &word, &part, &id, &length);
            }
        }
    }
    return code;
}

/* One of n, ascending with what is behind the first bits of the hash. */
static int32_t bucket(uint64_t hash, int first_bits, int32_t n) {
    return (int32_t)((hash << first_bits >> 32) * (uint32_t)n >> 32);
}

/* By the hash, which lies evenly over a bin: a counting sort by its next bits, which leaves little to do. */
static int sort_keys(struct key *key, int32_t n, int n_bins) {
    int shift = __builtin_ctz((unsigned)n_bins);
    struct key *from = malloc(((size_t)n + 1) * sizeof *from);
    int32_t *end = calloc((size_t)n + 1, sizeof *end);
    if (!from || !end) {
        free(from);
        free(end);
        return error_memory("users", 36ull * (unsigned)n);
    }
    memcpy(from, key, (size_t)n * sizeof *key);
    for (int32_t i = 0; i < n; i++) end[bucket(from[i].hash, shift, n) + 1]++;
    for (int32_t b = 0; b < n; b++) end[b + 1] += end[b];
    for (int32_t i = 0; i < n; i++) key[end[bucket(from[i].hash, shift, n)]++] = from[i];
    for (int32_t b = 0, begin = 0; b < n; begin = end[b++]) {
        if (end[b] - begin > 1) qsort(key + begin, (size_t)(end[b] - begin), sizeof *key, compare);
    }
    free(from);
    free(end);
    return 0;
}

/* Lays users out in their order: order[n], the caller's to free. */
static int arrange(const struct ids *users, uint64_t seed, int n_bins, struct block *block, int32_t **order) {
    int32_t n = users->n;
    int64_t bytes = n ? users->offset[n] : 0;
    struct key *key = malloc(((size_t)n + 1) * sizeof *key);
    block->n = n;
    block->id_at = malloc(((size_t)n + 1) * sizeof *block->id_at);
    block->id = malloc((size_t)bytes + 1);
    *order = malloc(((size_t)n + 1) * sizeof **order);
    if (!key || !block->id_at || !block->id || !*order) {
        free(key);
        return error_memory("users", 44ull * (unsigned)n);
    }
    for (int32_t u = 0; u < n; u++) {
        key[u].user = u;
        key[u].text = ids_text(users, u, &key[u].length);
        key[u].hash = block_user_hash(seed, key[u].text, key[u].length);
    }
    int code = sort_keys(key, n, n_bins);
    block->id_at[0] = 0;
    for (int32_t u = 0; u < n && !code; u++) {
        (*order)[u] = key[u].user;
        memcpy(block->id + block->id_at[u], key[u].text, key[u].length);
        block->id_at[u + 1] = block->id_at[u] + (int64_t)key[u].length;
    }
    free(key);
    return code;
}

static int make_parts(struct builder *b, const struct duplicates *duplicates, const int32_t *order,
                      struct block *block) {
    int code = 0;
    settler_begin(&b->settler, duplicates);
    for (int p = 0; p < block->n_parts && !code; p++) {
        code = interactions_matrix(&b->rows[p], &b->settler, order, (int32_t)block->n, b->n_items,
                                   &block->part[p]);
    }
    return code;
}

/* Values take time and memory and rarely matter: only where a pair's rows disagree or, for a sum, where a
 * pair has several. So they are left aside first. */
int block_build(struct builder *b, const struct spool *spool, int bin, uint64_t seed, int n_parts,
                struct block *block, struct duplicates_counts *counts) {
    const bool stored = duplicates_need_values(&b->duplicates);
    const struct duplicates last = {DUPLICATES_LAST, b->duplicates.min_rating};
    const struct duplicates_counts *own = &b->settler.counts;
    struct ids users = {0};
    int32_t *order = NULL;
    *block = (struct block){.n_parts = n_parts};
    int code = collect(b, spool, bin, false, &users);
    if (!code) code = arrange(&users, seed, spool->n_bins, block, &order);
    if (!code) code = make_parts(b, stored ? &last : &b->duplicates, order, block);
    if (!code && stored && (b->duplicates.rule == DUPLICATES_SUM ? own->duplicates : own->disputed)) {
        for (int p = 0; p < n_parts; p++) csr_free(&block->part[p]);
        code = collect(b, spool, bin, true, &users);
        if (!code) code = make_parts(b, &b->duplicates, order, block);
    }
    ids_free(&users);
    free(order);
    counts->duplicates += own->duplicates;
    counts->unwanted += own->unwanted;
    counts->disputed += own->disputed;
    return code;
}

/* The arrays of a block, as they lie on disk. */
struct array {
    void **data;
    size_t size;
};

static int list_arrays(struct block *b, struct array list[2 + 2 * DATASET_PARTS]) {
    size_t users = ((size_t)b->n + 1) * sizeof(int64_t);
    int n = 0;
    list[n++] = (struct array){(void **)&b->id_at, users};
    list[n++] = (struct array){(void **)&b->id, (size_t)b->id_bytes};
    for (int p = 0; p < b->n_parts; p++) {
        list[n++] = (struct array){(void **)&b->part[p].indptr, users};
        list[n++] = (struct array){(void **)&b->part[p].indices, (size_t)b->nonzeros[p] * sizeof(int32_t)};
    }
    return n;
}

int block_rest(struct block *b, struct scratch *scratch, double share, bool changed) {
    struct array list[2 + 2 * DATASET_PARTS];
    if (b->reserved) return 0;
    b->id_bytes = b->id_at[b->n];
    for (int p = 0; p < b->n_parts; p++) b->nonzeros[p] = csr_nonzeros(&b->part[p]);
    int n = list_arrays(b, list), code = 0;
    size_t bytes = 0;
    for (int i = 0; i < n; i++) bytes += list[i].size;
    if (!b->on_disk && scratch_reserve(scratch, bytes, share)) {
        b->reserved = bytes;
        return 0;
    }
    if (!b->on_disk) code = scratch_allocate(scratch, bytes, &b->at);
    changed = changed || !b->on_disk;
    b->on_disk = true;
    int64_t at = b->at;
    for (int i = 0; i < n; i++) {
        if (!code && changed) code = scratch_write(scratch, *list[i].data, list[i].size, at);
        at += (int64_t)list[i].size;
        free(*list[i].data);
        *list[i].data = NULL;
    }
    return code;
}

int block_fetch(struct block *b, const struct scratch *scratch) {
    struct array list[2 + 2 * DATASET_PARTS];
    if (b->id_at) return 0;
    int n = list_arrays(b, list), code = 0;
    int64_t at = b->at;
    for (int i = 0; i < n && !code; i++) {
        *list[i].data = malloc(list[i].size + 1);
        code = *list[i].data ? scratch_read(scratch, *list[i].data, list[i].size, at)
                             : error_memory("users' rows", list[i].size);
        at += (int64_t)list[i].size;
    }
    return code;
}

void block_free(struct block *b, struct scratch *scratch) {
    scratch_release(scratch, b->reserved);
    free(b->id_at);
    free(b->id);
    for (int p = 0; p < b->n_parts; p++) csr_free(&b->part[p]);
    *b = (struct block){0};
}
