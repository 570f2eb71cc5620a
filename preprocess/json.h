/* Lines of JSON: the values of some keys of an object. Python's dictionaries, as some data sets have them,
 * are read too: strings in single quotes or with u or b before them, with Python's escapes; True, False,
 * None, NaN, nan, Infinity, inf; a comma before a closing bracket. All else has to be as RFC 8259 wants it.
 *
 * A key is a name, or a path through objects: "user.id". Where a line has both the key "user.id" and an
 * object "user" with "id", the former counts. Of a key that is there twice the last value counts. Names are
 * compared with the line's keys without their escapes.
 *
 * The lone surrogates \uDC80 .. \uDCFF are the bytes 0x80 .. 0xFF, as vaecf-recommend and Python's
 * surrogateescape write text that is not UTF-8; such bytes themselves pass as they are. Other lone surrogates
 * and NUL are an error in a value that is asked for, and ignored elsewhere.
 *
 * Python's escapes are accepted in double quotes too once the line had a string in single quotes or with a
 * prefix. In strings without a prefix \xNN are bytes where they make up UTF-8 (Python 2), else characters
 * (Python 3). */
#ifndef VAECF_JSON_H
#define VAECF_JSON_H

#include <stddef.h>

enum { JSON_KEYS_MAX = 16, JSON_DEPTH_MAX = 128 };

enum json_kind { JSON_MISSING, JSON_NULL, JSON_STRING, JSON_NUMBER, JSON_BOOL, JSON_OTHER };

struct json_key {
    const char *name; /* not terminated */
    size_t length;
};

/* A string without its quotes and escapes, UTF-8; other kinds as they are written. */
struct json_value {
    enum json_kind kind; /* JSON_NUMBER: NaN and Infinity too; JSON_OTHER: an object or an array */
    const char *text;    /* in the line or in `room`, not terminated; NULL if missing */
    size_t length;
};

/* Finds the values of n <= JSON_KEYS_MAX keys in a line (without its line end), which has to be one object
 * and nothing behind it but blanks. The whole line is checked, whatever the keys. room: at least `size`
 * bytes, for strings with escapes. Returns NULL, or what is wrong with the line in a few words; the values
 * are undefined then. */
const char *json_find(const char *line, size_t size, const struct json_key *keys, int n,
                      struct json_value *values, char *room);

/* The first `max` keys of the line's object, in their order, with their values; nested objects are not gone
 * into. A key that is there twice is listed twice. Strings with a NUL or a lone surrogate keep their escapes.
 * room: as above. *n: how many, with an error those before it. Returns NULL, or what is wrong with the line.
 */
const char *json_list(const char *line, size_t size, struct json_key *keys, struct json_value *values,
                      int max, int *n, char *room);

#endif
