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

/* A whole number of 8 to 15 digits, fast; -1 if it is anything else. */
static inline int64_t value_whole(const char *text, size_t length) {
    uint64_t eight;
    if (length - 8 > 7) return -1;
    memcpy(&eight, text, sizeof eight);
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    eight = __builtin_bswap64(eight);
#endif
    eight -= UINT64_C(0x3030303030303030);
    if (((eight + UINT64_C(0x7676767676767676)) | eight) & UINT64_C(0x8080808080808080)) return -1;
    eight = (eight * 10 + (eight >> 8)) &
            UINT64_C(0x00ff00ff00ff00ff); /* pairs of digits, then fours, then all */
    eight = (eight * 100 + (eight >> 16)) & UINT64_C(0x0000ffff0000ffff);
    int64_t value = (int64_t)((eight * 10000 + (eight >> 32)) & UINT64_C(0xffffffff));
    for (size_t i = 8; i < length; i++) {
        unsigned digit = (unsigned)(text[i] - '0');
        if (digit > 9) return -1;
        value = 10 * value + digit;
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
