/* Interactions: rows in blocks, so that growing copies nothing, then a counting sort by user. */
#include "interactions.h"

#include <string.h>

#include "error.h"

enum { BLOCK_SIZE = 1 << 18 };

struct interactions_block {
    struct interactions_block *next;
    int32_t user[BLOCK_SIZE];
    int32_t item[BLOCK_SIZE]; /* ~item if unwanted */
    double value[];           /* [BLOCK_SIZE] if there are values */
};

static int add_block(struct interactions *a) {
    size_t size = sizeof *a->last + (a->with_values ? BLOCK_SIZE * sizeof *a->last->value : 0);
    struct interactions_block *block = malloc(size);
    if (!block) return error_memory("interactions", size);
    block->next = NULL;
    if (a->last) a->last->next = block;
    if (!a->first) a->first = block;
    a->last = block;
    return 0;
}

int interactions_add(struct interactions *a, int32_t user, int32_t item, bool wanted, double value) {
    int64_t i = a->n % BLOCK_SIZE;
    int code = i ? 0 : add_block(a);
    if (code) return code;
    a->last->user[i] = user;
    a->last->item[i] = wanted ? item : ~item;
    if (a->with_values) a->last->value[i] = value;
    a->n++;
    return 0;
}

/* All rows by user, each user's in the order they were read; frees the blocks. indptr is zeroed. */
static void sort_by_user(struct interactions *a, int64_t n_users, int64_t *indptr, int32_t *indices,
                         double *values) {
    int64_t left = a->n;
    for (struct interactions_block *b = a->first; b; b = b->next, left -= BLOCK_SIZE) {
        for (int64_t i = 0; i < left && i < BLOCK_SIZE; i++) indptr[b->user[i] + 1]++;
    }
    for (int64_t u = 0; u < n_users; u++) indptr[u + 1] += indptr[u];
    left = a->n;
    for (struct interactions_block *b = a->first, *next; b; b = next, left -= BLOCK_SIZE) {
        for (int64_t i = 0; i < left && i < BLOCK_SIZE; i++) {
            int64_t at = indptr[b->user[i]]++;
            indices[at] = b->item[i];
            if (values) values[at] = b->value[i];
        }
        next = b->next;
        free(b);
    }
    *a = (struct interactions){.with_values = a->with_values};
    memmove(indptr + 1, indptr, (size_t)n_users * sizeof *indptr); /* each now is the end of its row */
    indptr[0] = 0;
}

int interactions_matrix(struct interactions *a, const struct duplicates *duplicates, int32_t n_users,
                        int32_t n_items, struct csr *matrix, struct duplicates_counts *counts) {
    int64_t n = a->n, kept = 0;
    int64_t *indptr = calloc((size_t)n_users + 1, sizeof *indptr);
    int32_t *indices = malloc(((size_t)n + 1) * sizeof *indices);
    double *values = a->with_values ? malloc(((size_t)n + 1) * sizeof *values) : NULL;
    struct settler settler;
    int code = settler_open(&settler, duplicates, n_items);
    if (!code && (!indptr || !indices || (a->with_values && !values))) {
        code = error_memory("the interactions' matrix",
                            12ull * (unsigned long long)n + 8ull * (unsigned)n_users);
    }
    if (code) goto cleanup;
    sort_by_user(a, n_users, indptr, indices, values);
    for (int32_t u = 0; u < n_users && !code; u++) {
        int64_t begin = indptr[u], size;
        code = settler_run(&settler, indices + begin, values ? values + begin : NULL, indptr[u + 1] - begin,
                           &size);
        if (code) goto cleanup;
        memmove(indices + kept, indices + begin, (size_t)size * sizeof *indices);
        indptr[u] = kept;
        kept += size;
    }
    indptr[n_users] = kept;
    counts->duplicates += settler.counts.duplicates;
    counts->unwanted += settler.counts.unwanted;
    counts->disputed += settler.counts.disputed;
    int32_t *shrunk = realloc(indices, ((size_t)kept + 1) * sizeof *indices);
    *matrix = (struct csr){
        .rows = n_users, .cols = n_items, .indptr = indptr, .indices = shrunk ? shrunk : indices};
    indptr = NULL;
    indices = NULL;
cleanup:
    settler_close(&settler);
    free(indptr);
    free(indices);
    free(values);
    return code;
}

void interactions_free(struct interactions *a) {
    for (struct interactions_block *b = a->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct interactions){0};
}
