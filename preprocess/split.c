/* See split.h. The passes over the blocks:
 *
 *   build    interactions -> users' rows; users of each item
 *   filter   items, then users with too little go; rows of each split; users left of each item
 *   train    own split: held-out users are taken off the items' counts, which makes the catalogue
 *   emit     rows in catalogue indices, targets drawn, on their way to the shards */
#include "split.h"

#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "block.h"
#include "error.h"
#include "philox.h"
#include "records.h"

const int split_percentile[SPLIT_PERCENTILES] = {0, 1, 25, 50, 75, 99, 100};

/* Shares of the budget that blocks and rows may take. */
static const double block_share = 0.8, row_share = 1;

/* Where a block's rows are in the splits, and how many; fresh: users who are in no split before. */
struct place {
    int64_t rows[SPLITS], fresh[SPLITS];
};

struct work {
    const struct comm *comm;
    const struct ids *items;
    const struct split_options *options;
    struct scratch *scratch;
    struct split *split;
    int n_bins, first, end; /* bins first .. end - 1 are this rank's */
    struct block *block;    /* [n_bins] */
    struct place *place;    /* [n_bins + 1]: sizes, then sums of those before */
    int32_t **count;        /* [threads][items]: of one thread each */
    int64_t *sum;           /* [items]: over all threads and ranks */
    int64_t *item_users;    /* [items]: so far */
    bool all_items;         /* none has too few users */
    int32_t *index;         /* [items]: in the catalogue, -1 if not there */
    int n_threads;
    uint64_t hash;    /* of all rows, a sum */
    const char *pass; /* for the progress: the pass, its blocks so far, when it began */
    int done;
    double pass_start, last_progress; /* seconds */
    struct failure failure;
};

/* An array of zeros; at least one element, so that NULL always means no memory. */
static void *array(int64_t n, size_t size) {
    return calloc(n > 0 ? (size_t)n : 1, size);
}

static int no_memory(int64_t elements) {
    return error_memory("the split", 8ull * (unsigned long long)elements);
}

/* ---- small things ---- */

/* Sorts items, which differ, by setting bits: a bit an item, above it a bit for each word that is not 0, and
 * once more. All are 0 between calls. */
struct sorter {
    int64_t n_top;
    uint64_t *top, *middle, *bit; /* owned: top, which the others lie behind */
};

static int sorter_open(struct sorter *s, int64_t n_items) {
    int64_t n_bit = n_items / 64 + 1, n_middle = n_bit / 64 + 1;
    s->n_top = n_middle / 64 + 1;
    s->top = array(s->n_top + n_middle + n_bit, sizeof *s->top);
    if (!s->top) return no_memory(s->n_top + n_middle + n_bit);
    s->middle = s->top + s->n_top;
    s->bit = s->middle + n_middle;
    return 0;
}

/* Takes the lowest bit out of *word. */
static int64_t take_bit(uint64_t *word) {
    int bit = __builtin_ctzll(*word);
    *word &= *word - 1;
    return bit;
}

static void sorter_add(struct sorter *s, int32_t item) {
    s->bit[item >> 6] |= UINT64_C(1) << (item & 63);
    s->middle[item >> 12] |= UINT64_C(1) << (item >> 6 & 63);
    s->top[item >> 18] |= UINT64_C(1) << (item >> 12 & 63);
}

/* Takes all out, ascending. */
static void sorter_take(struct sorter *s, int32_t *items) {
    for (int64_t t = 0; t < s->n_top; t++) {
        for (uint64_t top = s->top[t]; top;) {
            int64_t m = 64 * t + take_bit(&top);
            for (uint64_t middle = s->middle[m]; middle;) {
                int64_t w = 64 * m + take_bit(&middle);
                for (uint64_t word = s->bit[w]; word;) *items++ = (int32_t)(64 * w + take_bit(&word));
                s->bit[w] = 0;
            }
            s->middle[m] = 0;
        }
        s->top[t] = 0;
    }
}

/* How many things have each size: n[size]. */
struct histogram {
    int64_t *n, room;
};

static int histogram_add(struct histogram *h, int64_t size) {
    if (size >= h->room) {
        int64_t room = 2 * size + 1024;
        int64_t *n = realloc(h->n, (size_t)room * sizeof *n);
        if (!n) return no_memory(room);
        memset(n + h->room, 0, (size_t)(room - h->room) * sizeof *n);
        h->n = n;
        h->room = room;
    }
    h->n[size]++;
    return 0;
}

/* Of all ranks' histograms together; sizes of 0 do not count. Empties it. Collective. */
static int histogram_finish(struct histogram *h, const struct comm *comm, int64_t *things, int64_t *sum,
                            int64_t percentile[SPLIT_PERCENTILES]) {
    int code = 0;
    int64_t room = comm->size > 1 ? comm_max(comm, h->room) : h->room;
    int64_t *n = array(room, sizeof *n);
    if (!n) code = no_memory(room);
    if (comm->size > 1) code = comm_agree(comm, code);
    if (code) goto cleanup;
    if (h->room) memcpy(n, h->n, (size_t)h->room * sizeof *n);
    comm_sum_int(comm, n, (size_t)room);
    *things = *sum = 0;
    for (int64_t i = 1; i < room; i++) {
        *things += n[i];
        *sum += i * n[i];
    }
    int64_t before = 0;
    int p = 0;
    for (int64_t i = 1; i < room && p < SPLIT_PERCENTILES; i++) {
        before += n[i];
        while (p < SPLIT_PERCENTILES && n[i] && before > (*things - 1) * split_percentile[p] / 100) {
            percentile[p++] = i;
        }
    }
cleanup:
    free(n);
    free(h->n);
    *h = (struct histogram){0};
    return code;
}

static int agree(const struct work *w, int code) {
    if (!code) code = stop_check();
    return w->comm->size > 1 ? comm_agree(w->comm, code) : code;
}

/* One more block of a pass is done: says so now and then. Blocks are alike, for users are laid over them by a
 * hash. */
static void show_progress(struct work *w, const char *pass) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    double now = (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
#pragma omp critical(progress)
    {
        if (w->pass != pass) w->pass_start = w->last_progress = now;
        w->done = w->pass == pass ? w->done + 1 : 1;
        w->pass = pass;
        double part = (double)w->done / (double)(w->end - w->first);
        if (now - w->last_progress >= 2 && !w->comm->rank) {
            w->last_progress = now;
            fprintf(stderr, "vaecf-preprocess: %s: %.0f%%, %.0f s left\n", pass, 100 * part,
                    (now - w->pass_start) * (1 - part) / part);
        }
    }
}

/* The bins that a rank has; also the shards. */
void split_bins_of_ranks(const struct comm *comm, int64_t n, int width, int *first) {
    for (int r = 0; r <= comm->size; r++) {
        int64_t begin = n, count;
        if (r < comm->size) comm_part(n, r, comm->size, &begin, &count);
        first[r] = (int)begin * width;
    }
}

/* Sums the threads' and the ranks' counts into `sum` and zeroes them. */
static void sum_counts(struct work *w) {
    int64_t n = w->items->n;
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        int64_t sum = 0;
        for (int t = 0; t < w->n_threads; t++) {
            sum += w->count[t][i];
            w->count[t][i] = 0;
        }
        w->sum[i] = sum;
    }
    comm_sum_int(w->comm, w->sum, (size_t)n);
}

static int count_items(const struct work *w, struct split_counts *counts) {
    struct histogram h = {0};
    const struct comm self = {.mpi = MPI_COMM_NULL, .size = 1}; /* all ranks know the counts */
    int code = 0;
    int64_t sum;
    for (int32_t i = 0; i < w->items->n && !code; i++) code = histogram_add(&h, w->item_users[i]);
    return code ? code : histogram_finish(&h, &self, &counts->items, &sum, counts->per_item);
}

/* ---- build ---- */

static int build_block(struct work *w, struct builder *builder, const struct spool *interactions, int b,
                       struct histogram *users) {
    struct block *block = &w->block[b];
    struct duplicates_counts counts = {0};
    int32_t *count = w->count[omp_get_thread_num()];
    int code = block_build(builder, interactions, b, w->options->seed, w->options->given ? DATASET_PARTS : 1,
                           block, &counts);
    if (code) return code;
    const struct csr *train = &block->part[DATASET_TRAIN];
    for (int64_t i = 0; i < csr_nonzeros(train); i++) count[train->indices[i]]++;
#pragma omp critical(split)
    {
        w->split->duplicates += counts.duplicates;
        w->split->unwanted += counts.unwanted;
        w->split->disputed += counts.disputed;
        for (int64_t u = 0; u < block->n && !code; u++) {
            code = histogram_add(users, train->indptr[u + 1] - train->indptr[u]);
        }
    }
    show_progress(w, "users' rows put together");
    return code ? code : block_rest(block, w->scratch, block_share, true);
}

static int build(struct work *w, const struct spool *interactions) {
    struct histogram users = {0};
    struct split_counts *counts = &w->split->counts[SPLIT_READ];
#pragma omp parallel
    {
        struct builder builder;
        failure_keep(&w->failure, builder_open(&builder, &w->options->duplicates, w->items->n));
#pragma omp for schedule(dynamic, 1)
        for (int b = w->first; b < w->end; b++) {
            if (!w->failure.code && !stop_signal())
                failure_keep(&w->failure, build_block(w, &builder, interactions, b, &users));
        }
        builder_close(&builder);
    }
    int code = agree(w, failure_code(&w->failure));
    if (!code)
        code = histogram_finish(&users, w->comm, &counts->users, &counts->interactions, counts->per_user);
    free(users.n);
    if (code) return code;
    comm_sum_int(w->comm, &w->split->duplicates, 1);
    comm_sum_int(w->comm, &w->split->unwanted, 1);
    comm_sum_int(w->comm, &w->split->disputed, 1);
    sum_counts(w);
    memcpy(w->item_users, w->sum, (size_t)w->items->n * sizeof *w->sum);
    return count_items(w, counts);
}

/* ---- filter ---- */

/* A row to m->indices + at without items that have too few users; how many are left. */
static int64_t filter_row(const struct work *w, struct csr *m, int64_t begin, int64_t end, int64_t at) {
    int64_t n = 0;
    if (w->all_items) {
        if (at < begin)
            memmove(m->indices + at, m->indices + begin, (size_t)(end - begin) * sizeof *m->indices);
        return end - begin;
    }
    for (int64_t i = begin; i < end; i++) {
        int32_t item = m->indices[i];
        m->indices[at + n] = item;
        n += w->item_users[item] >= w->options->min_item_users;
    }
    return n;
}

/* Takes out items and users with too little; count[items] grows by what these users had of the others. */
static void filter_rows(const struct work *w, struct block *block, int32_t *count) {
    struct csr *m = &block->part[DATASET_TRAIN];
    int64_t at = 0, kept = 0, begin = 0, id_at = 0, id_begin = 0;
    for (int64_t u = 0; u < block->n; u++) {
        int64_t end = m->indptr[u + 1], id_end = block->id_at[u + 1], id_size = id_end - id_begin;
        int64_t n = filter_row(w, m, begin, end, at);
        if (n && n >= w->options->min_user_items) {
            memmove(block->id + id_at, block->id + id_begin, (size_t)id_size);
            id_at += id_size;
            at += n;
            block->id_at[++kept] = id_at;
            m->indptr[kept] = at;
        } else {
            for (int64_t i = at; i < at + n; i++) count[m->indices[i]]++;
        }
        begin = end;
        id_begin = id_end;
    }
    block->n = m->rows = kept;
}

/* The splits that a user is in, of a split that was given. */
static void user_splits(const struct block *block, int64_t u, bool in[SPLITS]) {
    memset(in, 0, SPLITS * sizeof *in);
    for (int p = 0; p < DATASET_PARTS; p++) {
        if (block->part[p].indptr[u + 1] > block->part[p].indptr[u])
            in[split_of((enum dataset_part)p)] = true;
    }
}

static int filter_block(struct work *w, int b, struct histogram *users) {
    struct block *block = &w->block[b];
    struct place *place = &w->place[b];
    int code = block_fetch(block, w->scratch);
    if (code) return code;
    const struct csr *train = &block->part[DATASET_TRAIN];
    if (w->options->given) {
        for (int64_t u = 0; u < block->n; u++) {
            bool in[SPLITS], fresh = true;
            user_splits(block, u, in);
            for (int s = 0; s < SPLITS; s++) {
                place->rows[s] += in[s];
                place->fresh[s] += in[s] && fresh;
                fresh = fresh && !in[s];
            }
        }
    } else {
        filter_rows(w, block, w->count[omp_get_thread_num()]);
        place->rows[SPLIT_TRAIN] = block->n; /* until it is known who is held out */
    }
#pragma omp critical(split)
    for (int64_t u = 0; u < block->n && !code; u++) {
        code = histogram_add(users, train->indptr[u + 1] - train->indptr[u]);
    }
    show_progress(w, "filtered");
    return code ? code : block_rest(block, w->scratch, block_share, !w->options->given);
}

/* From sizes to where each block begins. For the own split: who comes first is test, then validation. */
static int find_places(struct work *w) {
    const struct split_options *o = w->options;
    struct split *split = w->split;
    comm_sum_int(w->comm, (int64_t *)w->place, (size_t)w->n_bins * sizeof *w->place / sizeof(int64_t));
    int64_t n = 0, h = o->heldout_users;
    for (int b = 0; b < w->n_bins; b++) n += w->place[b].rows[SPLIT_TRAIN];
    if (!o->given) {
        if (h < 0) h = n / 10 < 10000 ? n / 10 : 10000;
        if (h > (n - 1) / 2) {
            return error_set(EX_USAGE,
                             "--heldout-users %" PRId64 ": validation and test would take all %" PRId64
                             " users; at most %" PRId64 " leave one to train on",
                             h, n, (n - 1) / 2);
        }
    }
    struct place sum = {0};
    int64_t position = 0;
    for (int b = 0; b <= w->n_bins; b++) {
        struct place *p = &w->place[b], here = *p;
        if (!o->given) {
            int64_t end = position + here.rows[SPLIT_TRAIN];
            int64_t border[] = {0, h, 2 * h, INT64_MAX};
            for (int s = SPLIT_TEST, i = 0; s >= SPLIT_TRAIN; s--, i++) {
                int64_t begin = position > border[i] ? position : border[i];
                int64_t stop = end < border[i + 1] ? end : border[i + 1];
                here.rows[s] = here.fresh[s] = stop > begin ? stop - begin : 0;
            }
            position = end;
        }
        *p = sum;
        if (b == w->n_bins) break;
        for (int s = 0; s < SPLITS; s++) {
            sum.rows[s] += here.rows[s];
            sum.fresh[s] += here.fresh[s];
        }
    }
    for (int s = 0; s < SPLITS; s++) {
        split->rows[s] = sum.rows[s];
        split->n_users += sum.fresh[s];
    }
    return 0;
}

static int filter(struct work *w) {
    const struct split_options *o = w->options;
    struct split *split = w->split;
    struct split_counts *counts = split->counts;
    struct histogram users = {0};
    int64_t left = 0;
    w->all_items = true;
    for (int32_t i = 0; i < w->items->n; i++) {
        bool enough = o->given || w->item_users[i] >= o->min_item_users;
        left += w->item_users[i] && enough;
        w->all_items = w->all_items && (enough || !w->item_users[i]);
    }
    if (!o->given && !left) {
        return error_set(EX_DATAERR, "--min-item-users %" PRId64 " leaves none of the %" PRId64 " items",
                         o->min_item_users, counts[SPLIT_READ].items);
    }
#pragma omp parallel for schedule(dynamic, 1)
    for (int b = w->first; b < w->end; b++) {
        if (!w->failure.code && !stop_signal()) failure_keep(&w->failure, filter_block(w, b, &users));
    }
    int code = agree(w, failure_code(&w->failure));
    if (!code) {
        code = histogram_finish(&users, w->comm, &counts[SPLIT_FILTERED].users,
                                &counts[SPLIT_FILTERED].interactions, counts[SPLIT_FILTERED].per_user);
    }
    free(users.n);
    if (code) return code;
    sum_counts(w);
    for (int32_t i = 0; i < w->items->n; i++) {
        bool enough = o->given || w->item_users[i] >= o->min_item_users;
        w->item_users[i] = enough ? w->item_users[i] - w->sum[i] : 0;
    }
    code = count_items(w, &counts[SPLIT_FILTERED]);
    if (!o->given) {
        split->dropped_items = counts[SPLIT_READ].items - left;
        split->dropped_users = counts[SPLIT_READ].users - counts[SPLIT_FILTERED].users;
    }
    if (!code && !counts[SPLIT_FILTERED].users) {
        code = error_set(EX_DATAERR, "--min-user-items %" PRId64 " leaves none of the %" PRId64 " users",
                         o->min_user_items, counts[SPLIT_READ].users);
    }
    return code ? code : find_places(w);
}

/* ---- train ---- */

/* Order of items: falling count, then the id. */
struct item_key {
    int64_t count;
    const char *text;
    size_t length;
    int32_t item;
    bool number; /* all ids of the catalogue are digits alone */
};

static int compare_items(const void *pa, const void *pb) {
    const struct item_key *a = pa, *b = pb;
    if (a->count != b->count) return a->count < b->count ? 1 : -1;
    return (a->number ? ids_compare_numbers : ids_compare_bytes)(a->text, a->length, b->text, b->length);
}

static int make_catalogue(struct work *w) {
    struct split *split = w->split;
    const int64_t *count = w->item_users;
    int32_t n = w->items->n;
    for (int32_t i = 0; i < n; i++) split->n_items += count[i] > 0;
    struct item_key *key = array(split->n_items, sizeof *key), *k = key;
    split->item = array(split->n_items, sizeof *split->item);
    split->item_count = array(split->n_items, sizeof *split->item_count);
    w->index = array(n, sizeof *w->index);
    if (!key || !split->item || !split->item_count || !w->index) {
        free(key);
        return no_memory(6 * (int64_t)split->n_items + n);
    }
    bool numbers = true;
    for (int32_t i = 0; i < n; i++) {
        w->index[i] = -1;
        if (!count[i]) continue;
        *k = (struct item_key){.count = count[i], .item = i};
        k->text = ids_text(w->items, i, &k->length);
        for (size_t c = 0; c < k->length && numbers; c++) numbers = k->text[c] >= '0' && k->text[c] <= '9';
        k++;
    }
    for (int32_t i = 0; i < split->n_items; i++) key[i].number = numbers;
    qsort(key, (size_t)split->n_items, sizeof *key, compare_items);
    for (int32_t i = 0; i < split->n_items; i++) {
        split->item[i] = key[i].item;
        split->item_count[i] = key[i].count;
        w->index[key[i].item] = i;
    }
    free(key);
    return 0;
}

static int uncount_block(struct work *w, int b) {
    struct block *block = &w->block[b];
    const struct place *p = &w->place[b];
    int32_t *count = w->count[omp_get_thread_num()];
    int64_t users =
        p[1].rows[SPLIT_TEST] - p->rows[SPLIT_TEST] + p[1].rows[SPLIT_VALIDATION] - p->rows[SPLIT_VALIDATION];
    if (!users) return 0;
    int code = block_fetch(block, w->scratch);
    if (code) return code;
    const struct csr *m = &block->part[DATASET_TRAIN];
    for (int64_t i = 0; i < m->indptr[users]; i++) count[m->indices[i]]++;
    return block_rest(block, w->scratch, block_share, false);
}

/* Takes held-out users off the items' counts. */
static int uncount_heldout(struct work *w) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int b = w->first; b < w->end; b++) {
        if (!w->failure.code && !stop_signal()) failure_keep(&w->failure, uncount_block(w, b));
    }
    int code = agree(w, failure_code(&w->failure));
    if (code) return code;
    sum_counts(w);
    for (int64_t i = 0; i < w->items->n; i++) w->item_users[i] -= w->sum[i];
    return 0;
}

/* ---- emit ---- */

/* The k-th smallest (from 0) of n numbers that differ, which it moves about. */
static uint64_t select_smallest(uint64_t *a, int64_t n, int64_t k) {
    while (n > 1) {
        uint64_t x = a[0], y = a[(n - 1) / 2], z = a[n - 1];
        uint64_t pivot = x < y ? (y < z ? y : x < z ? z : x) : (x < z ? x : y < z ? z : y);
        int64_t i = -1, j = n;
        for (;;) {
            do i++;
            while (a[i] < pivot);
            do j--;
            while (a[j] > pivot);
            if (i >= j) break;
            uint64_t t = a[i];
            a[i] = a[j];
            a[j] = t;
        }
        if (k <= j) {
            n = j + 1;
        } else {
            a += j + 1;
            n -= j + 1;
            k -= j + 1;
        }
    }
    return a[0];
}

/* What one thread needs for the rows of users. */
struct emitter {
    struct spool_out *out; /* [bins], owned */
    int32_t *items[2];     /* input and target, owned */
    uint64_t *key[2];      /* owned */
    int64_t room;
    struct sorter sorter;
};

static int make_room(struct emitter *e, int64_t items) {
    if (items <= e->room) return 0;
    e->room = 2 * items;
    for (int i = 0; i < 2; i++) {
        free(e->items[i]);
        free(e->key[i]);
        e->items[i] = malloc((size_t)e->room * sizeof **e->items);
        e->key[i] = malloc((size_t)e->room * sizeof **e->key);
    }
    return e->items[0] && e->items[1] && e->key[0] && e->key[1] ? 0 : no_memory(3 * e->room);
}

/* Splits items[0] [n], ascending: those with the smallest random numbers, of equal ones the smaller items,
 * move to items[1]. Both stay ascending. Returns how many do. */
static int32_t draw_targets(const struct split_options *o, struct emitter *e, int32_t n, int64_t user_index) {
    /* 1e-9: 0.29 of 100 are 29, though the nearest double to 0.29 is a little less */
    int32_t wanted = n < SPLIT_TARGET_MIN ? 0 : (int32_t)floor(o->target_fraction * (double)n + 1e-9);
    if (!wanted) return 0;
    for (int32_t i = 0; i < n; i++) {
        uint32_t item = (uint32_t)e->items[0][i];
        struct philox_block random = philox(o->seed, PHILOX_SPLIT, 0, (uint64_t)user_index, item / 4);
        e->key[0][i] = e->key[1][i] = (uint64_t)random.lane[item % 4] << 32 | item;
    }
    uint64_t last = select_smallest(e->key[1], n, wanted - 1);
    for (int32_t i = 0, size[2] = {0}; i < n; i++) {
        int target = e->key[0][i] <= last;
        e->items[target][size[target]++] = e->items[0][i];
    }
    return wanted;
}

/* A user's items of a part in catalogue indices, ascending; returns how many. */
static int32_t take_items(const struct work *w, struct sorter *sorter, const struct csr *m, int64_t u,
                          int32_t *items, int64_t *dropped) {
    int32_t n = 0;
    for (int64_t i = m->indptr[u]; i < m->indptr[u + 1]; i++) {
        int32_t item = w->index[m->indices[i]];
        if (item < 0) continue;
        sorter_add(sorter, item);
        n++;
    }
    sorter_take(sorter, items);
    *dropped += m->indptr[u + 1] - m->indptr[u] - n;
    return n;
}

static uint64_t row_hash(const struct row_head *head, const char *id, int32_t *const items[2]) {
    const uint64_t prime = UINT64_C(0x100000001b3);
    uint64_t hash = ids_hash(ids_hash(IDS_HASH_START, head, sizeof *head), id, (size_t)head->id_length);
    for (int32_t i = 0; i < head->n_input; i++) hash = (hash ^ (uint32_t)items[0][i]) * prime;
    for (int32_t i = 0; i < head->n_target; i++) hash = (hash ^ (uint32_t)items[1][i]) * prime;
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    return hash ^ (hash >> 33);
}

/* The shard that a row falls to, as comm_part deals. */
static int64_t shard_of(int64_t row, int64_t rows, int64_t n_shards) {
    int64_t base = rows / n_shards, rest = rows % n_shards, border = rest * (base + 1);
    return row < border ? row / (base + 1) : rest + (row - border) / base;
}

/* Sums of a block's rows. */
struct sums {
    int64_t dropped, overlap;
    uint64_t hash;
    size_t width[SPLITS];
};

/* One row of a user, with items in the emitter. */
static int emit_row(struct work *w, struct emitter *e, enum split_rows s, int64_t row, struct row_head head,
                    const char *id, struct sums *sums) {
    int64_t shard = shard_of(row, w->split->rows[s], w->options->n_shards);
    int part = s ? 2 * (int)s - 1 : 0;
    int64_t *nonzeros = &w->split->shard_nonzeros[shard * DATASET_PARTS + part];
#pragma omp atomic
    nonzeros[0] += head.n_input;
    if (s) {
#pragma omp atomic
        nonzeros[1] += head.n_target;
    }
    for (int32_t a = 0, b = 0; a < head.n_input && b < head.n_target;) {
        int32_t x = e->items[0][a], y = e->items[1][b];
        sums->overlap += x == y;
        a += x <= y;
        b += y <= x;
    }
    sums->hash += row_hash(&head, id, e->items);
    if ((size_t)head.id_length > sums->width[s]) sums->width[s] = (size_t)head.id_length;
    return row_put(&e->out[split_bin(shard, s)], &head, id, e->items[0], e->items[1]);
}

static int emit_user(struct work *w, struct emitter *e, const struct block *block, int64_t u,
                     struct place *at, struct sums *sums) {
    const int64_t *rows = w->split->rows;
    struct row_head head = {.user_index = -1, .id_length = (int32_t)(block->id_at[u + 1] - block->id_at[u])};
    const char *id = block->id + block->id_at[u];
    int64_t fresh_before[SPLITS] = {0, w->place[w->n_bins].fresh[SPLIT_TRAIN], 0};
    fresh_before[SPLIT_TEST] = fresh_before[SPLIT_VALIDATION] + w->place[w->n_bins].fresh[SPLIT_VALIDATION];
    bool in[SPLITS] = {false};
    if (w->options->given) {
        user_splits(block, u, in);
    } else {
        in[at->rows[SPLIT_TEST] < rows[SPLIT_TEST]               ? SPLIT_TEST
           : at->rows[SPLIT_VALIDATION] < rows[SPLIT_VALIDATION] ? SPLIT_VALIDATION
                                                                 : SPLIT_TRAIN] = true;
    }
    int code = 0;
    for (int s = 0; s < SPLITS && !code; s++) {
        if (!in[s]) continue;
        const struct csr *input = &block->part[w->options->given && s ? 2 * s - 1 : 0];
        const struct csr *target = w->options->given && s ? input + 1 : NULL;
        int64_t n = input->indptr[u + 1] - input->indptr[u];
        code = make_room(e, n + (target ? target->indptr[u + 1] - target->indptr[u] : 0));
        if (code) break;
        if (head.user_index < 0) head.user_index = fresh_before[s] + at->fresh[s]++;
        head.n_input = take_items(w, &e->sorter, input, u, e->items[0], &sums->dropped);
        head.n_target = 0;
        head.split = s;
        if (target) {
            head.n_target = take_items(w, &e->sorter, target, u, e->items[1], &sums->dropped);
        } else if (s) {
            head.n_target = draw_targets(w->options, e, head.n_input, head.user_index);
            head.n_input -= head.n_target;
        }
        code = emit_row(w, e, (enum split_rows)s, at->rows[s]++, head, id, sums);
    }
    return code;
}

static int emit_block(struct work *w, struct emitter *e, int b, struct spool *rows) {
    struct block *block = &w->block[b];
    struct place at = w->place[b];
    struct sums sums = {0};
    int code = block_fetch(block, w->scratch);
    for (int64_t u = 0; u < block->n && !code; u++) code = emit_user(w, e, block, u, &at, &sums);
    block_free(block, w->scratch);
    show_progress(w, "split");
    if (!code) code = spool_add(rows, b, e->out);
#pragma omp critical(split)
    {
        w->split->dropped_interactions += sums.dropped;
        w->split->n_overlap += sums.overlap;
        w->hash += sums.hash;
        for (int s = 0; s < SPLITS; s++) {
            if (sums.width[s] > w->split->id_width[s]) w->split->id_width[s] = sums.width[s];
        }
    }
    return code;
}

/* Ids go into the hash with their length before them. */
static uint64_t hash_catalogue(const struct work *w) {
    const struct split *split = w->split;
    uint64_t hash = ids_hash(IDS_HASH_START, split->rows, sizeof split->rows);
    for (int32_t i = 0; i < split->n_items; i++) {
        size_t length;
        const char *text = ids_text(w->items, split->item[i], &length);
        int64_t wide = (int64_t)length;
        hash = ids_hash(ids_hash(hash, &wide, sizeof wide), text, length);
    }
    return ids_hash(hash, split->item_count, (size_t)split->n_items * sizeof *split->item_count);
}

static int emit(struct work *w, struct spool *rows) {
    struct split *split = w->split;
    int64_t n_shards = w->options->n_shards;
    split->shard_nonzeros = array(n_shards * DATASET_PARTS, sizeof(int64_t));
    if (!split->shard_nonzeros) return no_memory(n_shards * DATASET_PARTS);
#pragma omp parallel
    {
        struct emitter e = {.out = array(rows->n_bins, sizeof *e.out)};
        failure_keep(&w->failure, e.out ? sorter_open(&e.sorter, w->split->n_items)
                                        : no_memory(3 * (int64_t)rows->n_bins));
#pragma omp for schedule(dynamic, 1)
        for (int b = w->first; b < w->end; b++) {
            if (!w->failure.code && !stop_signal()) failure_keep(&w->failure, emit_block(w, &e, b, rows));
        }
        for (int i = 0; e.out && i < rows->n_bins; i++) free(e.out[i].data);
        free(e.out);
        for (int i = 0; i < 2; i++) {
            free(e.items[i]);
            free(e.key[i]);
        }
        free(e.sorter.top);
    }
    int code = agree(w, failure_code(&w->failure));
    if (code) return code;
    comm_sum_int(w->comm, (int64_t *)&w->hash, 1);
    comm_sum_int(w->comm, &split->dropped_interactions, 1);
    comm_sum_int(w->comm, &split->n_overlap, 1);
    comm_sum_int(w->comm, split->shard_nonzeros, (size_t)(n_shards * DATASET_PARTS));
    for (int s = 0; s < SPLITS && w->comm->size > 1; s++) {
        split->id_width[s] = (size_t)comm_max(w->comm, (int64_t)split->id_width[s]);
    }
    snprintf(split->fingerprint, sizeof split->fingerprint, "%016" PRIx64, w->hash ^ hash_catalogue(w));
    for (int64_t i = 0; i < n_shards * DATASET_PARTS; i++) {
        split->nonzeros[i % DATASET_PARTS] += split->shard_nonzeros[i];
        split->n_interactions += split->shard_nonzeros[i];
    }
    int *first = malloc(((size_t)w->comm->size + 1) * sizeof *first);
    code = agree(w, first ? 0 : no_memory(w->comm->size));
    if (first) split_bins_of_ranks(w->comm, n_shards, SPLITS, first);
    if (!code) code = spool_exchange(rows, w->comm, first, NULL, NULL);
    free(first);
    return code;
}

/* ---- all ---- */

static int prepare(struct work *w) {
    int64_t n = w->items->n;
    w->n_threads = omp_get_max_threads();
    w->block = array(w->n_bins, sizeof *w->block);
    w->place = array(w->n_bins + 1, sizeof *w->place);
    w->sum = array(n, sizeof *w->sum);
    w->item_users = array(n, sizeof *w->item_users);
    w->count = array(w->n_threads, sizeof *w->count);
    bool all = w->block && w->place && w->sum && w->item_users && w->count;
    for (int t = 0; t < w->n_threads && all; t++) {
        w->count[t] = array(n, sizeof **w->count);
        all = w->count[t];
    }
    return all ? 0 : no_memory(n * w->n_threads);
}

int split_run(const struct comm *comm, struct spool *interactions, const struct ids *items,
              const struct split_options *options, struct split *split, struct spool *rows) {
    struct work w = {.comm = comm,
                     .items = items,
                     .options = options,
                     .split = split,
                     .scratch = interactions->scratch,
                     .n_bins = interactions->n_bins};
    int64_t first, count;
    comm_part(w.n_bins, comm->rank, comm->size, &first, &count);
    w.first = (int)first;
    w.end = (int)(first + count);
    *split = (struct split){0};
    rows->share = row_share;
    int code = agree(&w, prepare(&w));
    if (!code) code = build(&w, interactions);
    spool_close(interactions);
    if (!code && !split->counts[SPLIT_READ].interactions) {
        code = error_set(EX_DATAERR, "there are no training interactions");
    }
    if (!code) code = filter(&w);
    if (!code && !options->given) code = uncount_heldout(&w);
    code = agree(&w, code);
    if (!code) code = agree(&w, make_catalogue(&w));
    if (!code) code = emit(&w, rows);
    for (int b = w.first; b < w.end && w.block; b++) block_free(&w.block[b], w.scratch);
    for (int t = 0; t < w.n_threads && w.count; t++) free(w.count[t]);
    free(w.block);
    free(w.place);
    free(w.count);
    free(w.sum);
    free(w.item_users);
    free(w.index);
    if (code) {
        spool_close(rows);
        free(split->item);
        free(split->item_count);
        free(split->shard_nonzeros);
        split->item = NULL;
        split->item_count = split->shard_nonzeros = NULL;
    }
    return code;
}

void split_free(struct split *split) {
    free(split->item);
    free(split->item_count);
    free(split->shard_nonzeros);
    *split = (struct split){0};
}
