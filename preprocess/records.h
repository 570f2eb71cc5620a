/* The bytes of a spool: interactions on their way to the users they belong to, and users' rows on their way
 * to the files they belong into. */
#ifndef VAECF_RECORDS_H
#define VAECF_RECORDS_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "csv.h"
#include "dataset.h"
#include "spool.h"

enum { RECORD_ITEMS_MAX = (1 << 30) - 1, RECORD_MAX = 8 + CSV_ID_MAX + 12 };

/* An interaction: a word (item, wanted, same user as before), then the user if it is another one; then, if
 * the rule for equal rows needs it (duplicates.h), a value. The caller has made room for RECORD_MAX bytes. */
static inline void record_put(struct spool_out *out, int32_t item, bool wanted, bool same,
                              enum dataset_part part, const char *user, size_t length) {
    uint32_t word = (uint32_t)item << 2 | (uint32_t)wanted << 1 | same;
    memcpy(out->data + out->used, &word, sizeof word);
    out->used += sizeof word;
    if (same) return;
    uint16_t head = (uint16_t)((uint32_t)part << 10 | (uint32_t)length);
    memcpy(out->data + out->used, &head, sizeof head);
    memcpy(out->data + out->used + sizeof head, user, length);
    out->used += sizeof head + length;
}

/* The interaction at *at, which moves behind it. Part and user stay as they are if they are the same. */
static inline void record_get(const char **at, uint32_t *word, enum dataset_part *part, const char **user,
                              size_t *length) {
    memcpy(word, *at, sizeof *word);
    *at += sizeof *word;
    if (*word & 1) return;
    uint16_t head;
    memcpy(&head, *at, sizeof head);
    *part = (enum dataset_part)(head >> 10);
    *length = head & CSV_ID_MAX;
    *user = *at + sizeof head;
    *at += sizeof head + *length;
}

/* Is the interaction at `at` of the same user and part as the one before it? */
static inline bool record_same(const char *at) {
    uint32_t word;
    memcpy(&word, at, sizeof word);
    return word & 1;
}

/* The value behind an interaction, `before`: that of the same user's interaction before it, or 0. Four bytes
 * if a whole number leads from one to the other, as it does between most times. */
static inline void record_put_value(struct spool_out *out, double before, double value) {
    double step = value - before;
    int32_t whole = step > INT32_MIN && step <= INT32_MAX ? (int32_t)step : INT32_MIN;
    bool is_whole = whole > INT32_MIN && before + whole == value;
    if (!is_whole) whole = INT32_MIN;
    memcpy(out->data + out->used, &whole, sizeof whole);
    out->used += sizeof whole;
    if (is_whole) return;
    memcpy(out->data + out->used, &value, sizeof value);
    out->used += sizeof value;
}

/* The value at *at, which moves behind it; *value: the one before, or 0. */
static inline void record_get_value(const char **at, double *value) {
    int32_t whole;
    memcpy(&whole, *at, sizeof whole);
    *at += sizeof whole;
    *value += whole;
    if (whole > INT32_MIN) return;
    memcpy(value, *at, sizeof *value);
    *at += sizeof *value;
}

/* A user's row in a split: this, then id, input and target items. */
struct row_head {
    int64_t user_index;
    int32_t id_length, n_input, n_target, split; /* no padding: it is hashed as it is */
};

static inline int row_put(struct spool_out *out, const struct row_head *head, const char *id,
                          const int32_t *input, const int32_t *target) {
    size_t n_input = (size_t)head->n_input * sizeof *input,
           n_target = (size_t)head->n_target * sizeof *target;
    int code = spool_out_reserve(out, sizeof *head + (size_t)head->id_length + n_input + n_target);
    if (code) return code;
    char *at = out->data + out->used;
    memcpy(at, head, sizeof *head);
    at += sizeof *head;
    memcpy(at, id, (size_t)head->id_length);
    at += head->id_length;
    if (n_input) memcpy(at, input, n_input);
    if (n_target) memcpy(at + n_input, target, n_target);
    out->used += sizeof *head + (size_t)head->id_length + n_input + n_target;
    return 0;
}

/* The row at *at, which moves behind it. The items may lie unaligned. */
static inline struct row_head row_get(const char **at, const char **id, const char **input,
                                      const char **target) {
    struct row_head head;
    memcpy(&head, *at, sizeof head);
    *id = *at + sizeof head;
    *input = *id + head.id_length;
    *target = *input + (size_t)head.n_input * sizeof(int32_t);
    *at = *target + (size_t)head.n_target * sizeof(int32_t);
    return head;
}

#endif
