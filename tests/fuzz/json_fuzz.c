/* Fuzzes the lines of JSON. The first line of the input holds keys, | between them; the rest is the line.
 * Values have to lie in the line or its room; json_find and json_list have to agree, as have a path and the
 * key behind its dot in the object before it. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

enum { LISTED = 64 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "json_fuzz: %s\n", what);
    abort();
}

struct line {
    char *text, *room;
    size_t size;
};

static bool is_in(const char *text, size_t length, const char *whole, size_t size) {
    return text >= whole && text <= whole + size && length <= size - (size_t)(text - whole);
}

static void check_text(const struct line *l, const char *text, size_t length) {
    require(is_in(text, length, l->text, l->size) || is_in(text, length, l->room, l->size),
            "a text outside of the line");
}

static void check_value(const struct line *l, const struct json_value *v) {
    require(v->kind >= JSON_MISSING && v->kind <= JSON_OTHER, "no kind");
    require((v->kind == JSON_MISSING) == !v->text, "a missing value with a text, or the reverse");
    if (!v->text) return;
    check_text(l, v->text, v->length);
    if (v->kind == JSON_OTHER)
        require(v->length >= 2 && strchr("{[", v->text[0]) && strchr("}]", v->text[v->length - 1]),
                "no object and no array");
    else if (v->kind != JSON_STRING)
        require(v->length >= 1 && !strchr(" \t\n\r\"'{}[]:,", v->text[v->length - 1]), "not only the value");
}

static bool same(const struct json_value *a, const struct json_value *b) {
    return a->kind == b->kind && a->length == b->length &&
           (!a->length || memcmp(a->text, b->text, a->length) == 0);
}

static bool is_key(const struct json_key *a, const char *name, size_t length) {
    return a->length == length && (!length || memcmp(a->name, name, length) == 0);
}

/* The value of a path of at most one dot by another way. False: that way does not know. */
static bool expect(const struct json_key *path, const struct json_key *keys, const struct json_value *values,
                   int n, char *room, struct json_value *value) {
    const char *dot = path->length ? memchr(path->name, '.', path->length) : NULL;
    *value = (struct json_value){.kind = JSON_MISSING};
    if (path->length && memchr(path->name, '\\', path->length)) return false; /* names that are no text */
    for (int i = 0; i < n; i++) {
        if (is_key(&keys[i], path->name, path->length)) *value = values[i];
    }
    if (!dot || value->kind != JSON_MISSING) return true;
    size_t before = (size_t)(dot - path->name);
    struct json_key rest = {dot + 1, path->length - before - 1};
    if (memchr(rest.name, '.', rest.length)) return false;
    for (int i = 0; i < n; i++) {
        struct json_value inner;
        if (!is_key(&keys[i], path->name, before) || values[i].kind != JSON_OTHER || values[i].text[0] != '{')
            continue;
        if (json_find(values[i].text, values[i].length, &rest, 1, &inner, room)) return false;
        if (inner.kind != JSON_MISSING) {
            *value = inner;
            room += values[i].length;
        }
    }
    return true;
}

static void check(const struct line *l, const struct json_key *wanted, int n_wanted, char *other_room,
                  char *third_room) {
    struct json_value values[JSON_KEYS_MAX], listed[LISTED], few[2], expected;
    struct json_key keys[LISTED], few_keys[2];
    int n, n_few;
    const char *bad = json_list(l->text, l->size, keys, listed, LISTED, &n, l->room);
    require(n >= 0 && n <= LISTED, "more keys than there may be");
    for (int i = 0; i < n; i++) {
        check_text(l, keys[i].name, keys[i].length);
        check_value(l, &listed[i]);
    }
    const struct line other = {l->text, other_room, l->size};
    const char *what = json_find(l->text, l->size, NULL, 0, NULL, other_room);
    require(what == bad, "json_list and json_find do not agree on the line");
    what = json_find(l->text, l->size, wanted, n_wanted, values, other_room);
    require(what || !bad, "keys make a bad line good");
    if (what && !bad) require(strncmp(what, "a string has ", 13) == 0, "keys make a good line bad");
    for (int i = 0; !what && i < n_wanted; i++) {
        check_value(&other, &values[i]);
        if (n < LISTED && expect(&wanted[i], keys, listed, n, third_room, &expected))
            require(same(&values[i], &expected), "json_list and json_find do not agree on a value");
    }
    if (bad) return;
    what = json_list(l->text, l->size, few_keys, few, 2, &n_few, other_room);
    require(!what && n_few == (n < 2 ? n : 2), "a shorter list is another one");
    for (int i = 0; i < n_few; i++) {
        require(same(&few[i], &listed[i]) && is_key(&few_keys[i], keys[i].name, keys[i].length),
                "a shorter list has other values");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct json_key wanted[JSON_KEYS_MAX];
    int n = 0;
    const char *at = (const char *)data;
    const char *end = size ? memchr(data, '\n', size) : NULL;
    if (!end) return 0;
    while (n < JSON_KEYS_MAX) {
        const char *bar = end > at ? memchr(at, '|', (size_t)(end - at)) : NULL;
        wanted[n++] = (struct json_key){at, (size_t)((bar ? bar : end) - at)};
        if (!bar) break;
        at = bar + 1;
    }
    struct line l = {.size = size - (size_t)(end + 1 - (const char *)data)};
    /* of just this size, so that every byte outside is found */
    l.text = malloc(l.size);
    l.room = malloc(l.size);
    char *other_room = malloc(l.size), *third_room = malloc(l.size);
    if (l.size == 0 || (l.text && l.room && other_room && third_room)) {
        if (l.size) memcpy(l.text, end + 1, l.size);
        check(&l, wanted, n, other_room, third_room);
    }
    free(l.text);
    free(l.room);
    free(other_room);
    free(third_room);
    return 0;
}
