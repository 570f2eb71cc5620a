/* Interactions: pairs in blocks, so that growing copies nothing, then a counting sort by user. */
#include "interactions.h"

#include <string.h>

#include "error.h"

enum { BLOCK_SIZE = 1 << 18 };

struct interactions_block {
    struct interactions_block *next;
    int32_t user[BLOCK_SIZE];
    int32_t item[BLOCK_SIZE]; /* ~item if unwanted */
};

int interactions_add(struct interactions *a, int32_t user, int32_t item, bool wanted) {
    int64_t i = a->n % BLOCK_SIZE;
    if (i == 0) {
        struct interactions_block *block = malloc(sizeof *block);
        if (!block) return error_memory("interactions", sizeof *block);
        block->next = NULL;
        if (a->last) a->last->next = block;
        if (!a->first) a->first = block;
        a->last = block;
    }
    a->last->user[i] = user;
    a->last->item[i] = wanted ? item : ~item;
    a->n++;
    return 0;
}

/* All pairs by user, each user's in the order they were read; frees the blocks. indptr is zeroed. */
static void sort_by_user(struct interactions *a, int64_t n_users, int64_t *indptr, int32_t *indices) {
    int64_t left = a->n;
    for (struct interactions_block *b = a->first; b; b = b->next, left -= BLOCK_SIZE) {
        for (int64_t i = 0; i < left && i < BLOCK_SIZE; i++) indptr[b->user[i] + 1]++;
    }
    for (int64_t u = 0; u < n_users; u++) indptr[u + 1] += indptr[u];
    left = a->n;
    for (struct interactions_block *b = a->first, *next; b; b = next, left -= BLOCK_SIZE) {
        for (int64_t i = 0; i < left && i < BLOCK_SIZE; i++) indices[indptr[b->user[i]]++] = b->item[i];
        next = b->next;
        free(b);
    }
    *a = (struct interactions){0};
    memmove(indptr + 1, indptr, (size_t)n_users * sizeof *indptr); /* each now is the end of its row */
    indptr[0] = 0;
}

int interactions_matrix(struct interactions *a, int32_t n_users, int32_t n_items, struct csr *matrix,
                        int64_t *duplicates, int64_t *unwanted) {
    int64_t n = a->n, kept = 0;
    int64_t *indptr = calloc((size_t)n_users + 1, sizeof *indptr);
    int32_t *indices = malloc(((size_t)n + 1) * sizeof *indices);
    int32_t *seen = malloc(((size_t)n_items + 1) * sizeof *seen); /* the last user with each item */
    if (!indptr || !indices || !seen) {
        free(indptr);
        free(indices);
        free(seen);
        return error_memory("the interactions' matrix",
                            4ull * ((unsigned long long)n + 3ull * (unsigned)n_users));
    }
    sort_by_user(a, n_users, indptr, indices);
    memset(seen, -1, (size_t)n_items * sizeof *seen);
    for (int32_t u = 0; u < n_users; u++) {
        int64_t begin = indptr[u], end = indptr[u + 1], at = end;
        for (int64_t i = end - 1; i >= begin; i--) { /* from the last row on: it stands */
            int32_t item = indices[i] < 0 ? ~indices[i] : indices[i];
            bool again = seen[item] == u;
            seen[item] = u;
            if (again) {
                ++*duplicates;
            } else if (indices[i] < 0) {
                ++*unwanted;
            } else {
                indices[--at] = item;
            }
        }
        memmove(indices + kept, indices + at, (size_t)(end - at) * sizeof *indices);
        indptr[u] = kept;
        kept += end - at;
    }
    indptr[n_users] = kept;
    free(seen);
    int32_t *shrunk = realloc(indices, ((size_t)kept + 1) * sizeof *indices);
    *matrix = (struct csr){
        .rows = n_users, .cols = n_items, .indptr = indptr, .indices = shrunk ? shrunk : indices};
    return 0;
}

void interactions_free(struct interactions *a) {
    for (struct interactions_block *b = a->first, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct interactions){0};
}
