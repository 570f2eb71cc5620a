"""Random numbers as src/philox.h draws them: Philox4x32-10, uniform and normal numbers, bit for bit."""

import numpy as np

DROPOUT, NOISE = 2, 3  # enum philox_stream

KNOWN = [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]  # Random123's answer for counter 0, key 0


def philox(seed, stream, epoch, row, block):
    """The four 32-bit words of a block."""
    mask = 0xFFFFFFFF
    c0, c1, c2, c3 = block, (epoch << 8) | stream, row & mask, row >> 32
    k0, k1 = seed & mask, seed >> 32
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & mask, (p0 >> 32) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return [c0, c1, c2, c3]


def uniform(seed, stream, epoch, row, n):
    """The first n numbers in [0, 1) of a row: number i is lane i % 4 of block i / 4."""
    words = [word for block in range((n + 3) // 4) for word in philox(seed, stream, epoch, row, block)]
    return np.array([word >> 8 for word in words[:n]], np.float32) / np.float32(1 << 24)


def rounded(function, x):
    """The float function of the C library: computed more precisely, then rounded once."""
    return function(x.astype(np.float64)).astype(np.float32)


def normal(seed, stream, epoch, row, n):
    """The first n standard normal numbers of a row (Box and Muller)."""
    pairs = uniform(seed, stream, epoch, row, (n + 3) // 4 * 4).reshape(-1, 2)
    angle = np.float32(2 * np.pi) * pairs[:, 1]
    radius = np.sqrt(np.float32(-2) * rounded(np.log, np.float32(1) - pairs[:, 0]))
    return np.stack([radius * rounded(np.cos, angle), radius * rounded(np.sin, angle)], 1).ravel()[:n]


assert philox(0, 0, 0, 0, 0) == KNOWN
