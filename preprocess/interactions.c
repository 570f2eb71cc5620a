/* See interactions.h. Users mostly lie together in files: then a user is one run, which stays where it is;
 * else a counting sort brings the rows together. */
#include "interactions.h"

#include <string.h>

#include "error.h"

static void *grow(void *array, int64_t n, size_t size, int *code) {
    void *grown = *code ? NULL : realloc(array, (size_t)n * size);
    if (!grown && !*code) *code = error_memory("interactions", (unsigned long long)n * size);
    return grown ? grown : array;
}

int interactions_reserve(struct interactions *a, int32_t user, int64_t n) {
    int code = 0;
    if (a->n + n > a->room) {
        int64_t room = a->room ? a->room : 1 << 16;
        while (room < a->n + n) room *= 2;
        a->item = grow(a->item, room, sizeof *a->item, &code);
        if (!code) a->room = room;
    }
    if (a->with_values && a->value_room < a->room) {
        a->value = grow(a->value, a->room, sizeof *a->value, &code);
        if (!code) a->value_room = a->room;
    }
    if (code || (user == a->user && a->n_runs)) return code;
    if (a->n_runs == a->run_room) {
        int64_t room = a->run_room ? 2 * a->run_room : 1 << 12;
        a->run_user = grow(a->run_user, room, sizeof *a->run_user, &code);
        a->run_begin = grow(a->run_begin, room + 1, sizeof *a->run_begin, &code);
        if (code) return code;
        a->run_room = room;
    }
    a->run_user[a->n_runs] = a->user = user;
    a->run_begin[a->n_runs++] = a->n;
    return 0;
}

/* Where each user's rows begin and how many they are, as far as one run has them all: are they so for every
 * user? */
static bool find_users(const struct interactions *a, int64_t *begin, int64_t *size) {
    bool together = true;
    for (int64_t r = 0; r < a->n_runs; r++) {
        int32_t u = a->run_user[r];
        together = together && !size[u];
        begin[u] = a->run_begin[r];
        size[u] += a->run_begin[r + 1] - a->run_begin[r];
    }
    return together;
}

/* Brings each user's rows together, in the order they were read. */
static int sort_by_user(struct interactions *a, int32_t n_users, int64_t *begin, const int64_t *size) {
    int32_t *item = malloc((size_t)a->room * sizeof *item);
    double *value = a->with_values ? malloc((size_t)a->value_room * sizeof *value) : NULL;
    if (!item || (a->with_values && !value)) {
        free(item);
        free(value);
        return error_memory("the interactions' matrix", 12ull * (unsigned long long)a->room);
    }
    int64_t sum = 0;
    for (int32_t u = 0; u < n_users; u++) {
        begin[u] = sum;
        sum += size[u];
    }
    for (int64_t r = 0; r < a->n_runs; r++) {
        int64_t *at = &begin[a->run_user[r]];
        for (int64_t i = a->run_begin[r]; i < a->run_begin[r + 1]; i++, ++*at) {
            item[*at] = a->item[i];
            if (value) value[*at] = a->value[i];
        }
    }
    for (int32_t u = 0; u < n_users; u++) begin[u] -= size[u];
    free(a->item);
    a->item = item;
    if (value) {
        free(a->value);
        a->value = value;
    }
    return 0;
}

int interactions_matrix(struct interactions *a, struct settler *settler, const int32_t *order,
                        int32_t n_users, int32_t n_items, struct csr *matrix) {
    struct csr m = {.rows = n_users,
                    .cols = n_items,
                    .indptr = calloc((size_t)n_users + 1, sizeof *m.indptr),
                    .indices = malloc(((size_t)a->n + 1) * sizeof *m.indices)};
    int64_t *begin = calloc((size_t)n_users + 1, sizeof *begin);
    int64_t *size = calloc((size_t)n_users + 1, sizeof *size);
    int code = 0;
    if (!m.indptr || !m.indices || !begin || !size) {
        code = error_memory("the interactions' matrix",
                            4ull * (unsigned long long)a->n + 24ull * (unsigned)n_users);
    }
    if (!code && a->n_runs) {
        a->run_begin[a->n_runs] = a->n;
        if (!find_users(a, begin, size)) code = sort_by_user(a, n_users, begin, size);
    }
    for (int32_t r = 0; r < n_users && !code; r++) {
        int32_t u = order[r];
        int64_t kept = 0;
        if (size[u]) {
            code = settler_run(settler, a->item + begin[u], a->with_values ? a->value + begin[u] : NULL,
                               size[u], &kept);
            memcpy(m.indices + m.indptr[r], a->item + begin[u], (size_t)kept * sizeof *m.indices);
        }
        m.indptr[r + 1] = m.indptr[r] + kept;
    }
    free(begin);
    free(size);
    if (code) {
        csr_free(&m);
        return code;
    }
    int32_t *shrunk = realloc(m.indices, ((size_t)m.indptr[n_users] + 1) * sizeof *m.indices);
    if (shrunk) m.indices = shrunk;
    *matrix = m;
    a->n = a->n_runs = 0;
    return 0;
}

void interactions_free(struct interactions *a) {
    free(a->item);
    free(a->value);
    free(a->run_user);
    free(a->run_begin);
    *a = (struct interactions){0};
}
