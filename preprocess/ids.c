/* Strings as numbers: a hash table with open addressing over one arena of text. */
#include "ids.h"

#include <stdlib.h>
#include <string.h>

#include "error.h"

struct slot {
    uint32_t hash; /* the high half; the low bits chose the slot */
    int32_t number_plus_1;
};

/* The slot of an id, or the free one where it belongs. */
static struct slot *look_up(const struct ids *ids, const char *text, size_t length, uint64_t hash) {
    struct slot *slots = ids->slots;
    uint64_t mask = (uint64_t)ids->n_slots - 1;
    for (uint64_t i = hash & mask;; i = (i + 1) & mask) {
        struct slot *slot = &slots[i];
        if (!slot->number_plus_1) return slot;
        if (slot->hash != (uint32_t)(hash >> 32)) continue;
        int64_t start = ids->offset[slot->number_plus_1 - 1], end = ids->offset[slot->number_plus_1];
        if (end - start == (int64_t)length && memcmp(ids->text + start, text, length) == 0) return slot;
    }
}

/* Doubles the table. */
static int grow_slots(struct ids *ids) {
    int64_t n_slots = ids->n_slots ? 2 * ids->n_slots : 1024;
    struct slot *slots = calloc((size_t)n_slots, sizeof *slots), *old = ids->slots;
    if (!slots) return error_memory("the table of ids", (unsigned long long)n_slots * sizeof *slots);
    int64_t n_old = ids->n_slots;
    ids->slots = slots;
    ids->n_slots = n_slots;
    for (int64_t i = 0; i < n_old; i++) {
        if (!old[i].number_plus_1) continue;
        int32_t number = old[i].number_plus_1 - 1;
        size_t length;
        const char *text = ids_text(ids, number, &length);
        uint64_t at = ids_hash(IDS_HASH_START, text, length) & ((uint64_t)n_slots - 1);
        while (slots[at].number_plus_1) at = (at + 1) & ((uint64_t)n_slots - 1);
        slots[at] = old[i];
    }
    free(old);
    return 0;
}

static int grow_offsets(struct ids *ids) {
    int64_t capacity = ids->capacity ? 2 * ids->capacity : 1024;
    int64_t *offset = realloc(ids->offset, ((size_t)capacity + 1) * sizeof *offset);
    if (!offset) return error_memory("ids", ((unsigned long long)capacity + 1) * sizeof *offset);
    offset[ids->n] = ids->n ? offset[ids->n] : 0;
    ids->offset = offset;
    ids->capacity = capacity;
    return 0;
}

static int grow_text(struct ids *ids, int64_t wanted) {
    int64_t room = ids->room ? ids->room : 16384;
    while (room <= wanted) room *= 2;
    char *text = realloc(ids->text, (size_t)room);
    if (!text) return error_memory("the text of ids", (unsigned long long)room);
    ids->text = text;
    ids->room = room;
    return 0;
}

int ids_add(struct ids *ids, const char *text, size_t length, int32_t *number) {
    int code = 0;
    uint64_t hash = ids_hash(IDS_HASH_START, text, length);
    if (ids->n == ids->capacity) code = grow_offsets(ids);
    if (!code && 2 * (int64_t)ids->n >= ids->n_slots) code = grow_slots(ids);
    if (code) return code;
    struct slot *slot = look_up(ids, text, length, hash);
    if (!slot->number_plus_1) {
        int64_t start = ids->offset[ids->n], end = start + (int64_t)length;
        if (ids->n == INT32_MAX) {
            return error_set(EX_DATAERR, "more than %d distinct ids in one column", INT32_MAX);
        }
        if (end >= ids->room) code = grow_text(ids, end);
        if (code) return code;
        if (length) memcpy(ids->text + start, text, length);
        *slot = (struct slot){(uint32_t)(hash >> 32), ++ids->n};
        ids->offset[ids->n] = end;
    }
    *number = slot->number_plus_1 - 1;
    return 0;
}

int32_t ids_find(const struct ids *ids, const char *text, size_t length) {
    if (!ids->n) return -1;
    return look_up(ids, text, length, ids_hash(IDS_HASH_START, text, length))->number_plus_1 - 1;
}

const char *ids_text(const struct ids *ids, int32_t i, size_t *length) {
    *length = (size_t)(ids->offset[i + 1] - ids->offset[i]);
    return ids->text + ids->offset[i];
}

void ids_free(struct ids *ids) {
    free(ids->offset);
    free(ids->text);
    free(ids->slots);
    *ids = (struct ids){0};
}

int ids_compare_bytes(const char *a, size_t a_length, const char *b, size_t b_length) {
    size_t shorter = a_length < b_length ? a_length : b_length;
    int order = shorter ? memcmp(a, b, shorter) : 0;
    return order ? order : (a_length > b_length) - (a_length < b_length);
}

int ids_compare_numbers(const char *a, size_t a_length, const char *b, size_t b_length) {
    size_t a_zeros = 0, b_zeros = 0;
    while (a_zeros < a_length && a[a_zeros] == '0') a_zeros++;
    while (b_zeros < b_length && b[b_zeros] == '0') b_zeros++;
    size_t a_digits = a_length - a_zeros, b_digits = b_length - b_zeros;
    if (a_digits != b_digits) return a_digits > b_digits ? 1 : -1;
    int order = a_digits ? memcmp(a + a_zeros, b + b_zeros, a_digits) : 0;
    return order ? order : (a_zeros > b_zeros) - (a_zeros < b_zeros);
}
