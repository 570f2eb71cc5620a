/* The order of the users in an epoch: a permutation of 0 .. n - 1 by a Feistel network of Philox rounds that
 * walks cycles until it is inside (Black and Rogaway 2002). One header for the host and the GPU. */
#ifndef VAECF_ORDER_H
#define VAECF_ORDER_H

#include "philox.h"

enum { ORDER_ROUNDS = 8, ORDER_HALF_BITS_MIN = 4 };

PHILOX_FUNCTION int order_half_bits(int64_t n) {
    int bits = ORDER_HALF_BITS_MIN;
    while (bits < 31 && ((int64_t)1 << (2 * bits)) < n) bits++;
    return bits;
}

PHILOX_FUNCTION uint64_t order_feistel(uint64_t seed, uint32_t epoch, int bits, uint64_t x, int backwards) {
    uint64_t mask = ((uint64_t)1 << bits) - 1, left = x >> bits, right = x & mask;
    for (int i = 0; i < ORDER_ROUNDS; i++) {
        uint32_t round = (uint32_t)(backwards ? ORDER_ROUNDS - 1 - i : i);
        uint64_t from = backwards ? left : right;
        uint64_t mixed = philox(seed, PHILOX_SHUFFLE, epoch, from, round).lane[0] & mask;
        if (backwards) {
            left = right ^ mixed;
            right = from;
        } else {
            right = left ^ mixed;
            left = from;
        }
    }
    return left << bits | right;
}

/* The row at a position of the epoch's order; backwards: the position of a row. */
PHILOX_FUNCTION int64_t order_at(uint64_t seed, uint32_t epoch, int64_t n, int64_t from, int backwards) {
    uint64_t x = (uint64_t)from;
    int bits = order_half_bits(n);
    do x = order_feistel(seed, epoch, bits, x, backwards);
    while (x >= (uint64_t)n);
    return (int64_t)x;
}

#endif
