/* See grid.h. */
#include "grid.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "candidate.h"
#include "error.h"

enum {
    INTERACTION_COST = 16, /* logits: a row of the input layer is gathered, a logit is part of a product */
    MERGE_MAX = 1 << 20    /* candidates that are exchanged at a time */
};

/* ---- the ranks ---- */

int grid_create(const struct comm *world, int64_t data, int64_t item, struct grid *grid) {
    *grid = (struct grid){.data = *world, .items = {MPI_COMM_SELF, 0, 1}};
    if (data == 0) data = world->size / item > 0 ? world->size / item : 1;
    if (data * item != world->size) {
        return error_set(EX_CONFIG,
                         "parallel: data %lld x item %lld is a grid of %lld ranks, but there are %d; want as "
                         "many ranks (mpirun -n %lld) or another grid",
                         (long long)data, (long long)item, (long long)(data * item), world->size,
                         (long long)(data * item));
    }
    if (item == 1) return 0;
    grid->is_split = 1;
    grid->data = comm_split(world, world->rank % (int)item);
    grid->items = comm_split(world, world->rank / (int)item);
    return 0;
}

void grid_free(struct grid *grid) {
    if (grid->is_split) {
        comm_free(&grid->data);
        comm_free(&grid->items);
    }
    free(grid->start);
    *grid = (struct grid){0};
}

/* ---- the ranges ---- */

void grid_ranges(int64_t n_items, int64_t n_users, const int64_t *count, int parts, int64_t *start) {
    int64_t total = 0, done = 0, i = 0, blocks = n_items / GRID_ALIGNED;
    for (int64_t j = 0; j < n_items; j++) total += n_users + INTERACTION_COST * count[j];
    start[0] = 0;
    for (int p = 1; p < parts; p++) {
        /* each range gets a block at least, and leaves one to each that follows */
        int64_t least = start[p - 1] + GRID_ALIGNED, most = (blocks - (parts - p)) * GRID_ALIGNED;
        double wanted = (double)total / parts * p;
        for (; i < most && (i < least || i % GRID_ALIGNED || (double)done < wanted); i++) {
            done += n_users + INTERACTION_COST * count[i];
        }
        start[p] = i;
    }
    start[parts] = n_items;
}

int grid_cut(const struct comm *world, int64_t n_items, int64_t n_users, const int64_t *count,
             struct grid *grid) {
    int parts = grid->items.size, rank = grid->items.rank;
    if (parts > 1 && n_items < (int64_t)parts * GRID_ALIGNED) {
        return error_set(EX_CONFIG, "parallel.item: %d ranges of %lld items: want at most %lld", parts,
                         (long long)n_items, (long long)(n_items < 8 ? 1 : n_items / GRID_ALIGNED));
    }
    size_t bytes = ((size_t)parts + 1) * sizeof *grid->start;
    grid->start = malloc(bytes);
    int code = comm_agree(world, grid->start ? 0 : error_memory("the grid", bytes));
    if (code) return code;
    grid->n_items = n_items;
    if (parts == 1) {
        grid->start[0] = 0;
        grid->start[1] = n_items;
    } else {
        if (world->rank == 0) grid_ranges(n_items, n_users, count, parts, grid->start);
        comm_broadcast(world, grid->start, bytes);
    }
    grid->first = grid->start[rank];
    grid->count = grid->start[rank + 1] - grid->first;
    for (int p = 0; p < parts; p++) {
        int64_t n = grid->start[p + 1] - grid->start[p];
        if (n > grid->largest_count) grid->largest_count = n;
    }
    return 0;
}

/* ---- merging lists ---- */

/* One row: lists[parts] of k candidates, `stride` apart, each in order. at[parts]: room. */
static void merge_row(const struct candidate *lists, int64_t stride, int parts, int k, int *at, int32_t *top,
                      real *scores) {
    memset(at, 0, (size_t)parts * sizeof *at);
    for (int j = 0; j < k; j++) {
        struct candidate best = {-INFINITY, -1};
        int from = -1;
        for (int p = 0; p < parts; p++) {
            struct candidate head = at[p] < k ? lists[p * stride + at[p]] : (struct candidate){-INFINITY, -1};
            if (head.item < 0 || (from >= 0 && !candidate_is_behind(best, head))) continue;
            best = head;
            from = p;
        }
        if (from >= 0) at[from]++;
        top[j] = best.item;
        scores[j] = best.score;
    }
}

int grid_merge(const struct grid *grid, int64_t rows, int k, int32_t *top, real *scores) {
    const struct comm *comm = &grid->items;
    int parts = comm->size;
    int64_t piece = MERGE_MAX / ((int64_t)k * parts);
    if (piece < 1) piece = 1;
    if (piece > rows) piece = rows;
    size_t n = (size_t)(piece * k), bytes = n * sizeof(struct candidate);
    struct candidate *mine = calloc(n + 1, sizeof *mine), *all = calloc(n * (size_t)parts + 1, sizeof *all);
    int *at = calloc((size_t)parts, sizeof *at);
    int code = mine && all && at ? 0 : error_memory("a ranking", bytes * ((size_t)parts + 1));
    code = comm_agree(comm, code);
    for (int64_t first = 0; first < rows && !code; first += piece) {
        int64_t count = rows - first < piece ? rows - first : piece;
        for (int64_t i = 0; i < count * k; i++) {
            int32_t item = top[first * k + i];
            mine[i] = (struct candidate){scores[first * k + i], item < 0 ? -1 : item + (int32_t)grid->first};
        }
        comm_all_gather(comm, mine, (size_t)(count * k) * sizeof *mine, all);
        for (int64_t r = 0; r < count; r++) {
            merge_row(all + r * k, count * k, parts, k, at, top + (first + r) * k, scores + (first + r) * k);
        }
    }
    free(mine);
    free(all);
    free(at);
    return code;
}
