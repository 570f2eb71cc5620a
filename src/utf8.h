/* Which bytes of a text are UTF-8. */
#ifndef VAECF_UTF8_H
#define VAECF_UTF8_H

#include <stddef.h>

/* Bytes of the UTF-8 character at the start of a text of at least one byte; 0 if there is none. */
static inline size_t utf8_length(const char *string, size_t length) {
    const unsigned char *text = (const unsigned char *)string;
    size_t n = text[0] < 0x80                       ? 1
               : text[0] >= 0xc2 && text[0] <= 0xdf ? 2
               : text[0] >= 0xe0 && text[0] <= 0xef ? 3
               : text[0] >= 0xf0 && text[0] <= 0xf4 ? 4
                                                    : 0;
    if (n > length) return 0;
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80) return 0;
    }
    if ((text[0] == 0xe0 && text[1] < 0xa0) || (text[0] == 0xed && text[1] > 0x9f)) return 0;
    if ((text[0] == 0xf0 && text[1] < 0x90) || (text[0] == 0xf4 && text[1] > 0x8f)) return 0;
    return n;
}

#endif
