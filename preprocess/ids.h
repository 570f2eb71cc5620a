/* Strings as numbers: every distinct id gets the next number, 0, 1, 2 ... */
#ifndef VAECF_IDS_H
#define VAECF_IDS_H

#include <stddef.h>
#include <stdint.h>

struct ids {
    int32_t n;        /* how many; at most INT32_MAX */
    int64_t *offset;  /* [n + 1] into text, owned */
    char *text;       /* all ids one after the other, without terminators, owned */
    void *slots;      /* the hash table, owned */
    int64_t n_slots;  /* a power of two */
    int64_t capacity; /* of offset */
    int64_t room;     /* of text */
};

/* The number of an id, new or old. A zeroed struct is an empty set. EX_OSERR, EX_DATAERR if there are too
 * many. */
int ids_add(struct ids *ids, const char *text, size_t length, int32_t *number);

/* The number of an id, or -1 if it is not there. */
int32_t ids_find(const struct ids *ids, const char *text, size_t length);

/* The text of number i, not terminated, and its length in bytes. Valid until the next ids_add. */
const char *ids_text(const struct ids *ids, int32_t i, size_t *length);

void ids_free(struct ids *ids);

/* Orders two ids, as strcmp does: by bytes, or, for ids of digits alone, by value (of any length; "07" comes
 * after "7"). */
int ids_compare_bytes(const char *a, size_t a_length, const char *b, size_t b_length);
int ids_compare_numbers(const char *a, size_t a_length, const char *b, size_t b_length);

/* FNV-1a, 64 bits, continued from `hash` (IDS_HASH_START at first). */
#define IDS_HASH_START UINT64_C(0xcbf29ce484222325)
static inline uint64_t ids_hash(uint64_t hash, const void *data, size_t bytes) {
    const unsigned char *byte = (const unsigned char *)data;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
    return hash;
}

#endif
