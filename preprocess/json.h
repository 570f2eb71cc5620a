/* Lines of JSON: the values of some keys of an object. Python's dictionaries, as some data sets have them, are
 * read too: strings in single quotes or with u before them, True, False, None, NaN.
 *
 * A key is a name, or a path through objects: "user.id". Where a line has both the key "user.id" and an
 * object "user" with "id", the former counts. Of a key that is there twice the last value counts. */
#ifndef VAECF_JSON_H
#define VAECF_JSON_H

#include <stddef.h>

enum json_kind { JSON_MISSING, JSON_NULL, JSON_STRING, JSON_NUMBER, JSON_BOOL, JSON_OTHER };

struct json_key {
    const char *name; /* not terminated */
    size_t length;
};

/* A string without its quotes and escapes, UTF-8; other kinds as they are written. */
struct json_value {
    enum json_kind kind; /* JSON_OTHER: an object or an array */
    const char *text;    /* in the line or in `room`, not terminated */
    size_t length;
};

/* Finds the keys' values in a line (without its line end), which has to be one object and nothing behind it.
 * room: at least `size` bytes, for strings with escapes. Returns NULL, or what is wrong with the line. */
const char *json_find(const char *line, size_t size, const struct json_key *keys, int n,
                      struct json_value *values, char *room);

/* The first `max` keys of the line's object, in their order, with their values; nested objects are not gone
 * into. *n: how many. Returns NULL, or what is wrong with the line. */
const char *json_list(const char *line, size_t size, struct json_key *keys, struct json_value *values,
                      int max, int *n, char *room);

#endif
