/* Numbers and times as they are written in files. */
#ifndef VAECF_VALUES_H
#define VAECF_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* A finite number, with blanks around it allowed; NAN if it is anything else. comma: the decimal separator
 * may be a comma too ("3,5"), but three digits behind it are no fraction: "1,234" may mean 1234. */
double value_number(const char *text, size_t length, bool comma);

/* The value of eight digits, the first in the lowest byte; -1 if one is none. */
static inline int64_t value_eight(uint64_t digits) {
    digits ^= UINT64_C(0x3030303030303030);
    if (((digits + UINT64_C(0x7676767676767676)) | digits) & UINT64_C(0x8080808080808080)) return -1;
    digits = (digits * 10 + (digits >> 8)) & UINT64_C(0x00ff00ff00ff00ff); /* pairs, then fours, then all */
    digits = (digits * 100 + (digits >> 16)) & UINT64_C(0x0000ffff0000ffff);
    return (int64_t)((digits * 10000 + (digits >> 32)) & UINT64_C(0xffffffff));
}

/* Eight bytes, the first the lowest. */
static inline uint64_t value_bytes(const char *text) {
    uint64_t bytes;
    memcpy(&bytes, text, sizeof bytes);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    bytes = __builtin_bswap64(bytes);
#endif
    return bytes;
}

/* A whole number of 8 to 15 digits, fast; -1 if it is anything else. */
static inline int64_t value_whole(const char *text, size_t length) {
    if (length - 8 > 7) return -1;
    int64_t value = value_eight(value_bytes(text));
    for (size_t i = 8; i < length && value >= 0; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        value = digit > 9 ? -1 : 10 * value + digit;
    }
    return value;
}

/* Is it one of the ways to write that there is no value: nothing, NA, N/A, NaN, null, None, \N? */
bool value_is_missing(const char *text, size_t length);

/* A date, or date and time, as ISO 8601 has them, or nearly: 2005-09-06, 2005/09/06 12:30,
 * 2005-09-06T12:30:59.5Z, 2005-09-06 12:30:59 UTC, ...+02:00. Returns seconds since 1970 (UTC where no zone
 * is given); NAN if it is anything else. */
double value_date(const char *text, size_t length);

#endif
