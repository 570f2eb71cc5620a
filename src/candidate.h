/* Items that may be among the k best, in a heap whose first is the one furthest behind. */
#ifndef VAECF_CANDIDATE_H
#define VAECF_CANDIDATE_H

#include <stdint.h>

#include "real.h"

struct candidate {
    real score;
    int32_t item;
};

/* Does a come after b in a ranking? Ties go to the lower index. */
static inline int candidate_is_behind(struct candidate a, struct candidate b) {
    return a.score < b.score || (a.score == b.score && a.item > b.item);
}

/* Moves what was put at heap[0] to its place. */
static inline void candidate_sink(struct candidate *heap, int n) {
    struct candidate moving = heap[0];
    int at = 0;
    for (int child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && candidate_is_behind(heap[child + 1], heap[child])) child++;
        if (!candidate_is_behind(heap[child], moving)) break;
        heap[at] = heap[child];
    }
    heap[at] = moving;
}

#endif
