/* See block.h. */
#include "block.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "ids.h"
#include "interactions.h"
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

/* stored: the interactions have values; with_values: they are wanted. */
static int collect(const struct spool *spool, int bin, bool stored, bool with_values, struct ids *users,
                   struct interactions *interactions) {
    struct spool_out buffer = {0};
    int code = 0;
    for (int p = 0; p < DATASET_PARTS; p++) interactions[p].with_values = with_values;
    for (int64_t b = 0; b < spool->n && !code; b++) {
        const char *at, *id = NULL;
        size_t size, length = 0;
        uint32_t word;
        int32_t user = 0;
        double value = 0;
        enum dataset_part part = DATASET_TRAIN;
        code = spool_get(spool, b, bin, &buffer, &at, &size);
        for (const char *end = at + size; !code && at < end;) {
            record_get(&at, &word, &part, &id, &length);
            if (!(word & 1)) value = 0;
            if (stored) record_get_value(&at, &value);
            if (!(word & 1)) code = ids_add(users, id, length, &user);
            if (!code)
                code =
                    interactions_add(&interactions[part], user, (int32_t)(word >> 2), word >> 1 & 1, value);
        }
    }
    free(buffer.data);
    return code;
}

/* Lays users and rows out in their order. */
static int arrange(const struct ids *users, uint64_t seed, struct csr *rows, struct block *block) {
    int32_t n = users->n;
    int64_t bytes = n ? users->offset[n] : 0;
    struct key *key = malloc(((size_t)n + 1) * sizeof *key);
    block->n = n;
    block->id_at = malloc(((size_t)n + 1) * sizeof *block->id_at);
    block->id = malloc((size_t)bytes + 1);
    int code = key && block->id_at && block->id ? 0 : error_memory("users", 40ull * (unsigned)n);
    for (int p = 0; p < block->n_parts && !code; p++) {
        block->part[p] =
            (struct csr){.rows = n,
                         .cols = rows[p].cols,
                         .indptr = malloc(((size_t)n + 1) * sizeof(int64_t)),
                         .indices = malloc(((size_t)csr_nonzeros(&rows[p]) + 1) * sizeof(int32_t))};
        if (!block->part[p].indptr || !block->part[p].indices) {
            code = error_memory("users' rows", 8ull * (unsigned)n);
        }
    }
    if (code) goto cleanup;
    for (int32_t u = 0; u < n; u++) {
        key[u].user = u;
        key[u].text = ids_text(users, u, &key[u].length);
        key[u].hash = block_user_hash(seed, key[u].text, key[u].length);
    }
    qsort(key, (size_t)n, sizeof *key, compare);
    block->id_at[0] = 0;
    for (int32_t u = 0; u < n; u++) {
        memcpy(block->id + block->id_at[u], key[u].text, key[u].length);
        block->id_at[u + 1] = block->id_at[u] + (int64_t)key[u].length;
    }
    for (int p = 0; p < block->n_parts; p++) {
        struct csr *to = &block->part[p];
        to->indptr[0] = 0;
        for (int32_t u = 0; u < n; u++) {
            int64_t begin = rows[p].indptr[key[u].user], size = rows[p].indptr[key[u].user + 1] - begin;
            memcpy(to->indices + to->indptr[u], rows[p].indices + begin, (size_t)size * sizeof *to->indices);
            to->indptr[u + 1] = to->indptr[u] + size;
        }
    }
cleanup:
    free(key);
    return code;
}

/* Users and their rows; stored: the interactions have values, whether this rule needs them or not. */
static int gather(const struct spool *spool, const struct duplicates *duplicates, bool stored, int bin,
                  int32_t n_items, int n_parts, struct ids *users, struct csr *rows,
                  struct duplicates_counts *counts) {
    struct interactions interactions[DATASET_PARTS] = {0};
    int code = collect(spool, bin, stored, duplicates_need_values(duplicates), users, interactions);
    for (int p = 0; p < n_parts && !code; p++) {
        code = interactions_matrix(&interactions[p], duplicates, users->n, n_items, &rows[p], counts);
    }
    for (int p = 0; p < DATASET_PARTS; p++) interactions_free(&interactions[p]);
    return code;
}

/* Values take time and memory and rarely matter: only where a pair's rows disagree or, for a sum, where a
 * pair has several. So they are left aside first. */
int block_build(const struct spool *spool, const struct duplicates *duplicates, int bin, uint64_t seed,
                int32_t n_items, int n_parts, struct block *block, struct duplicates_counts *counts) {
    const bool stored = duplicates_need_values(duplicates);
    const struct duplicates last = {DUPLICATES_LAST, duplicates->min_rating};
    struct ids users = {0};
    struct csr rows[DATASET_PARTS] = {0};
    struct duplicates_counts own = {0};
    *block = (struct block){.n_parts = n_parts};
    int code = gather(spool, stored ? &last : duplicates, stored, bin, n_items, n_parts, &users, rows, &own);
    if (!code && stored && (duplicates->rule == DUPLICATES_SUM ? own.duplicates : own.disputed)) {
        for (int p = 0; p < n_parts; p++) csr_free(&rows[p]);
        ids_free(&users);
        own = (struct duplicates_counts){0};
        code = gather(spool, duplicates, stored, bin, n_items, n_parts, &users, rows, &own);
    }
    if (!code) code = arrange(&users, seed, rows, block);
    for (int p = 0; p < n_parts; p++) csr_free(&rows[p]);
    ids_free(&users);
    counts->duplicates += own.duplicates;
    counts->unwanted += own.unwanted;
    counts->disputed += own.disputed;
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
