/* Filters, held-out users, catalogue, targets. */
#include "split.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "error.h"
#include "philox.h"

/* An array; at least one element, so that NULL always means no memory. */
static void *array(int64_t n, size_t size) {
    return calloc(n > 0 ? (size_t)n : 1, size);
}

static int no_memory(int64_t elements) {
    return error_memory("the split", 8ull * (unsigned long long)elements);
}

/* Order of users: a hash of seed and id, then the id. */
struct user_key {
    uint64_t hash;
    const char *text;
    size_t length;
    int32_t user;
};

static int compare_users(const void *pa, const void *pb) {
    const struct user_key *a = pa, *b = pb;
    if (a->hash != b->hash) return a->hash > b->hash ? 1 : -1;
    return ids_compare_bytes(a->text, a->length, b->text, b->length);
}

/* Every bit of the hash depends on every bit of seed and id (the finalizer of MurmurHash3). */
static uint64_t user_hash(uint64_t seed, const char *text, size_t length) {
    uint64_t hash = ids_hash(ids_hash(IDS_HASH_START, &seed, sizeof seed), text, length);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xff51afd7ed558ccd);
    hash = (hash ^ (hash >> 33)) * UINT64_C(0xc4ceb9fe1a85ec53);
    return hash ^ (hash >> 33);
}

/* Puts n users into their order. */
static int order_users(int32_t *user, int64_t n, const struct ids *users, uint64_t seed) {
    struct user_key *key = array(n, sizeof *key);
    if (!key) return error_memory("the order of users", (unsigned long long)n * sizeof *key);
    for (int64_t i = 0; i < n; i++) {
        key[i].user = user[i];
        key[i].text = ids_text(users, user[i], &key[i].length);
        key[i].hash = user_hash(seed, key[i].text, key[i].length);
    }
    qsort(key, (size_t)n, sizeof *key, compare_users);
    for (int64_t i = 0; i < n; i++) user[i] = key[i].user;
    free(key);
    return 0;
}

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

static int compare_int32(const void *pa, const void *pb) {
    const int32_t *a = pa, *b = pb;
    return (*a > *b) - (*a < *b);
}

/* Makes the catalogue of the items in the training rows of the matrix; *index gets each item's index, -1 for
 * others. */
static int make_catalogue(struct split *split, const struct csr *matrix, const struct ids *items,
                          int32_t **index) {
    int code = 0;
    int64_t *count = array(matrix->cols, sizeof *count);
    struct item_key *key = NULL;
    *index = array(matrix->cols, sizeof **index);
    if (!count || !*index) {
        code = no_memory(2 * matrix->cols);
        goto cleanup;
    }
    for (int64_t r = 0; r < split->rows[SPLIT_TRAIN]; r++) {
        int32_t user = split->user[SPLIT_TRAIN][r];
        for (int64_t i = matrix->indptr[user]; i < matrix->indptr[user + 1]; i++) count[matrix->indices[i]]++;
    }
    for (int64_t i = 0; i < matrix->cols; i++) split->n_items += count[i] > 0;
    key = array(split->n_items, sizeof *key);
    split->item = array(split->n_items, sizeof *split->item);
    split->item_count = array(split->n_items, sizeof *split->item_count);
    if (!key || !split->item || !split->item_count) {
        code = no_memory(6 * (int64_t)split->n_items);
        goto cleanup;
    }
    bool numbers = true;
    struct item_key *k = key;
    for (int32_t i = 0; i < matrix->cols; i++) {
        if (!count[i]) continue;
        *k = (struct item_key){.count = count[i], .item = i};
        k->text = ids_text(items, i, &k->length);
        for (size_t c = 0; c < k->length && numbers; c++) numbers = k->text[c] >= '0' && k->text[c] <= '9';
        k++;
    }
    for (int32_t i = 0; i < split->n_items; i++) key[i].number = numbers;
    qsort(key, (size_t)split->n_items, sizeof *key, compare_items);
    memset(*index, -1, (size_t)matrix->cols * sizeof **index);
    for (int32_t i = 0; i < split->n_items; i++) {
        split->item[i] = key[i].item;
        split->item_count[i] = key[i].count;
        (*index)[key[i].item] = i;
    }
cleanup:
    free(count);
    free(key);
    return code;
}

/* The matrix of n users' rows, in catalogue indices, ascending. *dropped grows by the items outside the
 * catalogue. */
static int take_rows(const struct csr *matrix, const int32_t *user, int64_t n, const int32_t *index,
                     int32_t n_items, struct csr *out, int64_t *dropped) {
    int64_t nonzeros = 0;
    for (int64_t r = 0; r < n; r++) nonzeros += matrix->indptr[user[r] + 1] - matrix->indptr[user[r]];
    *out = (struct csr){n, n_items, array(n + 1, sizeof *out->indptr), array(nonzeros, sizeof *out->indices)};
    if (!out->indptr || !out->indices) return no_memory(n + nonzeros / 2);
    int64_t at = 0;
    for (int64_t r = 0; r < n; r++) {
        for (int64_t i = matrix->indptr[user[r]]; i < matrix->indptr[user[r] + 1]; i++) {
            int32_t item = index[matrix->indices[i]];
            if (item >= 0) {
                out->indices[at++] = item;
            } else {
                ++*dropped;
            }
        }
        int64_t first = out->indptr[r];
        out->indptr[r + 1] = at;
        qsort(out->indices + first, (size_t)(at - first), sizeof *out->indices, compare_int32);
    }
    return 0;
}

struct target_key {
    uint32_t random;
    int32_t position; /* in the row */
};

static int compare_targets(const void *pa, const void *pb) {
    const struct target_key *a = pa, *b = pb;
    if (a->random != b->random) return a->random > b->random ? 1 : -1;
    return (a->position > b->position) - (a->position < b->position);
}

/* Splits every row of `whole`: the items with the smallest random numbers are the target. */
static int draw_targets(const struct csr *whole, const int64_t *user_index,
                        const struct split_options *options, struct csr *input, struct csr *target) {
    int code = 0;
    int64_t longest = 0, nonzeros = csr_nonzeros(whole), n_input = 0, n_target = 0;
    for (int64_t r = 0; r < whole->rows; r++) {
        int64_t length = whole->indptr[r + 1] - whole->indptr[r];
        if (length > longest) longest = length;
    }
    struct target_key *key = array(longest, sizeof *key);
    bool *is_target = array(longest, sizeof *is_target);
    for (int p = 0; p < 2; p++) {
        *(p ? target : input) =
            (struct csr){whole->rows, whole->cols, array(whole->rows + 1, sizeof(int64_t)),
                         array(nonzeros, sizeof(int32_t))};
    }
    if (!key || !is_target || !input->indptr || !input->indices || !target->indptr || !target->indices) {
        code = no_memory(2 * whole->rows + nonzeros);
        goto cleanup;
    }
    for (int64_t r = 0; r < whole->rows; r++) {
        const int32_t *item = whole->indices + whole->indptr[r];
        int64_t n = whole->indptr[r + 1] - whole->indptr[r];
        /* 1e-9: 0.29 of 100 are 29, though the nearest double to 0.29 is a little less */
        int64_t n_wanted =
            n < SPLIT_TARGET_MIN ? 0 : (int64_t)floor(options->target_fraction * (double)n + 1e-9);
        for (int64_t i = 0; i < n; i++) {
            struct philox_block block =
                philox(options->seed, PHILOX_SPLIT, 0, (uint64_t)user_index[r], (uint32_t)item[i] / 4);
            key[i] = (struct target_key){block.lane[item[i] % 4], (int32_t)i};
            is_target[i] = false;
        }
        qsort(key, (size_t)n, sizeof *key, compare_targets);
        for (int64_t i = 0; i < n_wanted; i++) is_target[key[i].position] = true;
        for (int64_t i = 0; i < n; i++) {
            if (is_target[i]) {
                target->indices[n_target++] = item[i];
            } else {
                input->indices[n_input++] = item[i];
            }
        }
        input->indptr[r + 1] = n_input;
        target->indptr[r + 1] = n_target;
    }
cleanup:
    free(key);
    free(is_target);
    return code;
}

/* Gives every user an index: training rows first, then those of validation and test that have none yet. */
static int number_users(struct split *split, int32_t n_users) {
    int64_t *index = array(n_users, sizeof *index); /* plus 1 */
    if (!index) return no_memory(n_users);
    int code = 0;
    for (int s = 0; s < SPLITS && !code; s++) {
        split->user_index[s] = array(split->rows[s], sizeof *split->user_index[s]);
        if (!split->user_index[s]) code = no_memory(split->rows[s]);
        for (int64_t r = 0; r < split->rows[s] && !code; r++) {
            int64_t *i = &index[split->user[s][r]];
            if (!*i) *i = ++split->n_users;
            split->user_index[s][r] = *i - 1;
        }
    }
    free(index);
    return code;
}

static void finish(struct split *split) {
    for (int p = 0; p < DATASET_PARTS; p++) split->n_interactions += csr_nonzeros(&split->part[p]);
    for (int p = DATASET_VALIDATION_INPUT; p < DATASET_PARTS; p += 2) {
        const struct csr *input = &split->part[p], *target = &split->part[p + 1];
        for (int64_t r = 0; r < input->rows; r++) {
            int64_t a = input->indptr[r], b = target->indptr[r];
            while (a < input->indptr[r + 1] && b < target->indptr[r + 1]) {
                int32_t x = input->indices[a], y = target->indices[b];
                split->n_overlap += x == y;
                a += x <= y;
                b += y <= x;
            }
        }
    }
}

/* Empties the matrix of items and users that have too little; *n_kept users remain. */
static int filter(struct csr *m, const struct split_options *options, struct split *split, int64_t *n_kept) {
    int64_t *item_users = array(m->cols, sizeof *item_users);
    if (!item_users) return no_memory(m->cols);
    int64_t nonzeros = csr_nonzeros(m), at = 0, begin = 0, n_items = 0, n_left = 0;
    for (int64_t i = 0; i < nonzeros; i++) item_users[m->indices[i]]++;
    for (int64_t i = 0; i < m->cols; i++) {
        n_items += item_users[i] > 0;
        n_left += item_users[i] > 0 && item_users[i] >= options->min_item_users;
    }
    split->dropped_items = n_items - n_left;
    *n_kept = 0;
    int64_t n_users = 0;
    for (int64_t u = 0; u < m->rows; u++) {
        int64_t first = at, end = m->indptr[u + 1];
        n_users += end > begin;
        for (int64_t i = begin; i < end; i++) {
            if (item_users[m->indices[i]] >= options->min_item_users) m->indices[at++] = m->indices[i];
        }
        if (at - first < options->min_user_items) at = first;
        *n_kept += at > first;
        begin = end;
        m->indptr[u + 1] = at;
    }
    split->dropped_users = n_users - *n_kept;
    free(item_users);
    if (!n_left) {
        return error_set(EX_DATAERR, "--min-item-users %" PRId64 " leaves none of the %" PRId64 " items",
                         options->min_item_users, n_items);
    }
    if (!*n_kept) {
        return error_set(EX_DATAERR, "--min-user-items %" PRId64 " leaves none of the %" PRId64 " users",
                         options->min_user_items, n_users);
    }
    return 0;
}

int split_users(struct csr *matrix, const struct ids *users, const struct ids *items,
                const struct split_options *options, struct split *split) {
    int32_t *order = NULL, *index = NULL;
    struct csr whole = {0};
    int64_t n = 0, heldout = options->heldout_users;
    *split = (struct split){0};
    int code = csr_nonzeros(matrix) ? filter(matrix, options, split, &n)
                                    : error_set(EX_DATAERR, "there are no interactions");
    if (code) goto cleanup;

    if (heldout < 0) heldout = n / 10 < 10000 ? n / 10 : 10000;
    if (heldout > (n - 1) / 2) {
        code = error_set(EX_USAGE,
                         "--heldout-users %" PRId64 ": validation and test would take all %" PRId64
                         " users; at most %" PRId64 " leave one to train on",
                         heldout, n, (n - 1) / 2);
        goto cleanup;
    }
    order = array(n, sizeof *order);
    if (!order) {
        code = no_memory(n);
        goto cleanup;
    }
    for (int32_t u = 0, i = 0; u < matrix->rows; u++) {
        if (matrix->indptr[u + 1] > matrix->indptr[u]) order[i++] = u;
    }
    code = order_users(order, n, users, options->seed);
    if (code) goto cleanup;
    int32_t *next = order;
    for (int s = SPLIT_TEST; s >= SPLIT_TRAIN; s--) { /* test users are the first, training users the last */
        int64_t rows = s == SPLIT_TRAIN ? n - 2 * heldout : heldout;
        split->user[s] = array(rows, sizeof *next);
        if (!split->user[s]) {
            code = no_memory(rows);
            goto cleanup;
        }
        memcpy(split->user[s], next, (size_t)rows * sizeof *next);
        split->rows[s] = rows;
        next += rows;
    }
    code = number_users(split, users->n);
    if (!code) code = make_catalogue(split, matrix, items, &index);
    for (int s = SPLIT_TRAIN; s < SPLITS && !code; s++) {
        struct csr *part = s == SPLIT_TRAIN ? &split->part[DATASET_TRAIN] : &whole;
        code = take_rows(matrix, split->user[s], split->rows[s], index, split->n_items, part,
                         &split->dropped_interactions);
        if (!code && s != SPLIT_TRAIN) {
            struct csr *input = &split->part[s == SPLIT_TEST ? DATASET_TEST_INPUT : DATASET_VALIDATION_INPUT];
            code = draw_targets(&whole, split->user_index[s], options, input, input + 1);
        }
        csr_free(&whole);
    }
    if (!code) finish(split);
cleanup:
    free(order);
    free(index);
    csr_free(&whole);
    csr_free(matrix);
    if (code) split_free(split);
    return code;
}

int split_given(struct csr matrix[DATASET_PARTS], const struct ids *users, const struct ids *items,
                const struct split_options *options, struct split *split) {
    int code = 0;
    int32_t *index = NULL;
    *split = (struct split){0};
    if (!csr_nonzeros(&matrix[DATASET_TRAIN])) {
        code = error_set(EX_DATAERR, "there are no training interactions");
        goto cleanup;
    }
    for (int s = 0; s < SPLITS; s++) { /* users with an interaction in a part of the split */
        const struct csr *a = &matrix[s ? 2 * s - 1 : 0], *b = &matrix[2 * s];
        split->user[s] = array(users->n, sizeof *split->user[s]);
        if (!split->user[s]) {
            code = no_memory(users->n);
            goto cleanup;
        }
        for (int32_t u = 0; u < users->n; u++) {
            if (a->indptr[u + 1] > a->indptr[u] || b->indptr[u + 1] > b->indptr[u]) {
                split->user[s][split->rows[s]++] = u;
            }
        }
        code = order_users(split->user[s], split->rows[s], users, options->seed);
        if (code) goto cleanup;
    }
    code = number_users(split, users->n);
    if (!code) code = make_catalogue(split, &matrix[DATASET_TRAIN], items, &index);
    for (int p = 0; p < DATASET_PARTS && !code; p++) {
        enum split_rows s = split_of((enum dataset_part)p);
        code = take_rows(&matrix[p], split->user[s], split->rows[s], index, split->n_items, &split->part[p],
                         &split->dropped_interactions);
        csr_free(&matrix[p]);
    }
    if (!code) finish(split);
cleanup:
    free(index);
    for (int p = 0; p < DATASET_PARTS; p++) csr_free(&matrix[p]);
    if (code) split_free(split);
    return code;
}

/* Ids go into the hash with their length before them. */
static uint64_t hash_id(uint64_t hash, const struct ids *ids, int32_t i) {
    size_t length;
    const char *text = ids_text(ids, i, &length);
    int64_t wide = (int64_t)length;
    return ids_hash(ids_hash(hash, &wide, sizeof wide), text, length);
}

void split_fingerprint(const struct split *split, const struct ids *users, const struct ids *items,
                       char text[DATASET_FINGERPRINT_SIZE]) {
    uint64_t hash = IDS_HASH_START;
    int64_t n_items = split->n_items;
    hash = ids_hash(hash, &n_items, sizeof n_items);
    for (int32_t i = 0; i < split->n_items; i++) hash = hash_id(hash, items, split->item[i]);
    hash = ids_hash(hash, split->item_count, (size_t)n_items * sizeof *split->item_count);
    hash = ids_hash(hash, split->rows, sizeof split->rows);
    for (int s = 0; s < SPLITS; s++) {
        for (int64_t r = 0; r < split->rows[s]; r++) hash = hash_id(hash, users, split->user[s][r]);
        hash = ids_hash(hash, split->user_index[s], (size_t)split->rows[s] * sizeof *split->user_index[s]);
    }
    for (int p = 0; p < DATASET_PARTS; p++) {
        const struct csr *m = &split->part[p];
        hash = ids_hash(hash, m->indptr, (size_t)(m->rows + 1) * sizeof *m->indptr);
        hash = ids_hash(hash, m->indices, (size_t)csr_nonzeros(m) * sizeof *m->indices);
    }
    snprintf(text, DATASET_FINGERPRINT_SIZE, "%016" PRIx64, hash);
}

void split_free(struct split *split) {
    free(split->item);
    free(split->item_count);
    for (int s = 0; s < SPLITS; s++) {
        free(split->user[s]);
        free(split->user_index[s]);
    }
    for (int p = 0; p < DATASET_PARTS; p++) csr_free(&split->part[p]);
    *split = (struct split){0};
}
