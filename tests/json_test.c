/* Lines of JSON and Python's dictionaries: values, errors; random objects; every cut and every changed byte.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "json.h"

enum { KEYS = JSON_KEYS_MAX, LISTED = 40, TEXT = 20000 };

/* A copy of a line and a room of its size, so that a checked build sees every byte beyond. */
struct line {
    char *text, *room;
    size_t size;
};

static struct line copy_line(const char *text, size_t size) {
    struct line l = {malloc(size), malloc(size), size};
    assert_true(size == 0 || (l.text && l.room));
    if (size) memcpy(l.text, text, size);
    return l;
}

static void free_line(struct line *l) {
    free(l->text);
    free(l->room);
}

static bool is_in(const char *text, size_t length, const char *whole, size_t size) {
    return text >= whole && text + length <= whole + size;
}

/* A value is in the line or in its room. */
static void check_place(const struct line *l, const char *text, size_t length) {
    assert_true(is_in(text, length, l->text, l->size) || is_in(text, length, l->room, l->size));
}

static const char *find(const struct line *l, const char *const *names, int n, struct json_value *values) {
    struct json_key keys[KEYS] = {0};
    for (int i = 0; i < n; i++) keys[i] = (struct json_key){names[i], strlen(names[i])};
    const char *what = json_find(l->text, l->size, keys, n, values, l->room);
    for (int i = 0; !what && i < n; i++) {
        assert_true((values[i].kind == JSON_MISSING) == (values[i].text == NULL));
        if (values[i].text) check_place(l, values[i].text, values[i].length);
    }
    return what;
}

static bool is(const struct json_value *v, enum json_kind kind, const char *text) {
    if (v->kind != kind) return false;
    return kind == JSON_MISSING || (v->length == strlen(text) && memcmp(v->text, text, v->length) == 0);
}

/* ---- one value ---- */

static const struct {
    const char *line, *key;
    enum json_kind kind;
    const char *text;
} found[] = {
    {"{\"a\":1}", "a", JSON_NUMBER, "1"},
    {" \t{ \"b\" : [ ] , \"a\" : \"x\" } \r", "a", JSON_STRING, "x"},
    {"{\"a\":\"\"}", "a", JSON_STRING, ""},
    {"{\"\":\"x\"}", "", JSON_STRING, "x"},
    {"{}", "a", JSON_MISSING, NULL},
    {"{\"ab\":1,\"b\":2,\"A\":3}", "a", JSON_MISSING, NULL},
    {"{\"x\":{\"a\":1}}", "a", JSON_MISSING, NULL},
    {"{\"x\":[{\"a\":1}]}", "x.a", JSON_MISSING, NULL},
    {"{\"a\":null}", "a", JSON_NULL, "null"},
    {"{\"a\":true}", "a", JSON_BOOL, "true"},
    {"{\"a\":false}", "a", JSON_BOOL, "false"},
    {"{\"a\":-0.50e+07}", "a", JSON_NUMBER, "-0.50e+07"},
    {"{\"a\":123456789012345678901234567890}", "a", JSON_NUMBER, "123456789012345678901234567890"},
    {"{\"a\":1E5}", "a", JSON_NUMBER, "1E5"},
    {"{\"a\": {\"b\" : 1 } }", "a", JSON_OTHER, "{\"b\" : 1 }"},
    {"{\"a\": [1, {\"b\":[]}, \"]\"]}", "a", JSON_OTHER, "[1, {\"b\":[]}, \"]\"]"},
    /* escapes */
    {"{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"}", "a", JSON_STRING, "\"\\/\b\f\n\r\t"},
    {"{\"a\":\"x\\u0041y\"}", "a", JSON_STRING, "xAy"},
    {"{\"a\":\"\\u00e9\\u20AC\"}", "a", JSON_STRING, "\xc3\xa9\xe2\x82\xac"},
    {"{\"a\":\"\\ud83d\\ude00\"}", "a", JSON_STRING, "\xf0\x9f\x98\x80"},
    {"{\"a\":\"\\udbff\\udfff\"}", "a", JSON_STRING, "\xf4\x8f\xbf\xbf"},
    {"{\"a\":\"x\\udce9y\\udc80\\udcff\"}", "a", JSON_STRING, "x\xe9y\x80\xff"},
    {"{\"a\":\"\xe9\xff\"}", "a", JSON_STRING, "\xe9\xff"},
    {"{\"a\":\"it's {}[]:,\"}", "a", JSON_STRING, "it's {}[]:,"},
    {"{\"\\u0061\":1}", "a", JSON_NUMBER, "1"},
    {"{\"a\\/b\":1}", "a/b", JSON_NUMBER, "1"},
    {"{\"\\ud800\":1,\"a\":2}", "a", JSON_NUMBER, "2"},
    /* what is not asked for may hold what no text has */
    {"{\"x\":\"\\ud800 \\u0000\",\"a\":2}", "a", JSON_NUMBER, "2"},
    /* paths, keys twice */
    {"{\"user\":{\"id\":\"u\"}}", "user.id", JSON_STRING, "u"},
    {"{\"a\":{\"b\":{\"c\":{\"d\":1}}}}", "a.b.c.d", JSON_NUMBER, "1"},
    {"{\"user.id\":1,\"user\":{\"id\":2}}", "user.id", JSON_NUMBER, "1"},
    {"{\"user\":{\"id\":2},\"user.id\":1}", "user.id", JSON_NUMBER, "1"},
    {"{\"a.b\":{\"c\":1},\"a\":{\"b\":{\"c\":2}}}", "a.b.c", JSON_NUMBER, "1"},
    {"{\"a\":{\"b\":{\"c\":2}},\"a.b\":{\"c\":1}}", "a.b.c", JSON_NUMBER, "1"},
    {"{\"a\":{\"b.c\":3},\"a\":{\"b\":{\"c\":2}}}", "a.b.c", JSON_NUMBER, "3"},
    {"{\"user\":{\"id\":2,\"id\":3}}", "user.id", JSON_NUMBER, "3"},
    {"{\"a1\":1,\"a2\":2,\"a3\":3}", "a2", JSON_NUMBER, "2"},
    {"{\"use\":{\".id\":5,\"id\":6,\"r.id\":7}}", "user.id", JSON_MISSING, NULL},
    {"{\"user\":5}", "user.id", JSON_MISSING, NULL},
    {"{\"user\":{\"idx\":5}}", "user.id", JSON_MISSING, NULL},
    {"{\"us\\u0065r\":{\"\\u0069d\":5}}", "user.id", JSON_NUMBER, "5"},
    {"{\"\":{\"\":5}}", ".", JSON_NUMBER, "5"},
    {"{\"a\":1,\"a\":\"\\u0062\",\"a\":\"\\u0063\"}", "a", JSON_STRING, "c"},
    {"{\"a\":1,\"a\":null}", "a", JSON_NULL, "null"},
    /* Python */
    {"{'a': 'x'}", "a", JSON_STRING, "x"},
    {"{u'a': u'caf\\xe9'}", "a", JSON_STRING, "caf\xc3\xa9"},
    {"{u'a': u'\\xc3\\xa9'}", "a", JSON_STRING, "\xc3\x83\xc2\xa9"},
    {"{'a': 'caf\\xc3\\xa9'}", "a", JSON_STRING, "caf\xc3\xa9"},
    {"{'a': '\\xe2\\x82\\xac\\xf0\\x9f\\x98\\x80'}", "a", JSON_STRING, "\xe2\x82\xac\xf0\x9f\x98\x80"},
    {"{'a': '1\\xa02\\xadx'}", "a", JSON_STRING, "1\xc2\xa0\x32\xc2\xadx"},
    {"{'a': '\\xc3'}", "a", JSON_STRING, "\xc3\x83"},
    {"{'a': '\\xc3A'}", "a", JSON_STRING, "\xc3\x83\x41"},
    {"{b'a': b'caf\\xe9\\377'}", "a", JSON_STRING, "caf\xe9\xff"},
    {"{'a': B\"x\"}", "a", JSON_STRING, "x"},
    {"{'a': U\"it's\"}", "a", JSON_STRING, "it's"},
    {"{'a': \"it's\\xa0so\"}", "a", JSON_STRING, "it's\xc2\xa0so"},
    {"{'a': 'say \"\\'hi\\'\"'}", "a", JSON_STRING, "say \"'hi'\""},
    {"{'a': '\\x41\\a\\b\\f\\n\\r\\t\\v\\\\\\\"'}", "a", JSON_STRING, "A\a\b\f\n\r\t\v\\\""},
    {"{'a': '\\1012\\1\\18'}", "a", JSON_STRING, "A2\1\1\70"},
    {"{'a': '\\777'}", "a", JSON_STRING, "\xc7\xbf"},
    {"{'a': '\\U0001F600\\u20ac'}", "a", JSON_STRING, "\xf0\x9f\x98\x80\xe2\x82\xac"},
    {"{u'a': u'\\ud83d\\ude00'}", "a", JSON_STRING, "\xf0\x9f\x98\x80"},
    {"{'a': '\\udce9\\U0000dce9'}", "a", JSON_STRING, "\xe9\xe9"},
    {"{'a': True}", "a", JSON_BOOL, "True"},
    {"{'a': False}", "a", JSON_BOOL, "False"},
    {"{'a': None}", "a", JSON_NULL, "None"},
    {"{'a': nan}", "a", JSON_NUMBER, "nan"},
    {"{\"a\": NaN}", "a", JSON_NUMBER, "NaN"},
    {"{\"a\": -Infinity}", "a", JSON_NUMBER, "-Infinity"},
    {"{'a': inf, 'b': -inf}", "a", JSON_NUMBER, "inf"},
    {"{'a': [1, 2, ], }", "a", JSON_OTHER, "[1, 2, ]"},
    {"{'b': {u'x': None, 'y': [u'z', \"it's\"]}, 'a': 1}", "a", JSON_NUMBER, "1"},
};

static void test_values(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) {
        struct line l = copy_line(found[i].line, strlen(found[i].line));
        struct json_value value;
        const char *what = find(&l, &found[i].key, 1, &value);
        if (what) fail_msg("%s: %s", found[i].line, what);
        if (!is(&value, found[i].kind, found[i].text))
            fail_msg("%s: kind %d, %.*s", found[i].line, value.kind, (int)value.length, value.text);
        free_line(&l);
    }
}

static const struct {
    const char *line, *what;
} refused[] = {
    {"", "it does not begin with {"},
    {"x", "it does not begin with {"},
    {"\"a\"", "it does not begin with {"},
    {"[{\"a\":1}]", "it is an array, not an object"},
    {"{", "the object is not closed"},
    {"{\"a", "a string is not closed"},
    {"{\"a\"", "the object is not closed"},
    {"{\"a\":", "the object is not closed"},
    {"{\"a\":1", "the object is not closed"},
    {"{\"a\":1,", "the object is not closed"},
    {"{\"a\":{}", "the object is not closed"},
    {"{\"a\":[1", "the object is not closed"},
    {"{\"a\":\"x\\", "a string is not closed"},
    {"{\"a\":\"x\\u00", "a string is not closed"},
    {"{\"a\":1}}", "text follows the object"},
    {"{\"a\":1} x", "text follows the object"},
    {"{\"a\":1}{\"a\":2}", "a second object follows"},
    {"{\"a\":1} {\"a\":2}", "a second object follows"},
    {"{\"a\":1,,\"b\":2}", "a key is not a string"},
    {"{,}", "a key is not a string"},
    {"{a:1}", "a key is not a string"},
    {"{1:2}", "a key is not a string"},
    {"{\"a\" 1}", "a colon is missing"},
    {"{\"a\":1 \"b\":2}", "a comma is missing"},
    {"{\"a\":[1 2]}", "a comma is missing"},
    {"{\"a\":[1}", "a comma is missing"},
    {"{\"a\":{\"b\":1]}", "a comma is missing"},
    {"{\"a\":}", "a value is missing"},
    {"{\"a\":[,]}", "a value is missing"},
    {"{\"a\":+1}", "a value is missing"},
    {"{\"a\":.5}", "a value is missing"},
    {"{\"a\":undefined}", "a value is neither a string, a number, true, false nor null"},
    {"{\"a\":-true}", "a value is neither a string, a number, true, false nor null"},
    {"{\"a\":TRUE}", "a value is neither a string, a number, true, false nor null"},
    {"{\"a\":truex}", "a comma is missing"},
    {"{\"a\":01}", "a number is malformed"},
    {"{\"a\":-}", "a number is malformed"},
    {"{\"a\":1.}", "a number is malformed"},
    {"{\"a\":1e}", "a number is malformed"},
    {"{\"a\":1e+}", "a number is malformed"},
    {"{\"a\":1.2.3}", "a comma is missing"},
    {"{\"a\":\"x\ty\"}", "a string has a control character that is not escaped"},
    {"{\"x\ny\":1}", "a string has a control character that is not escaped"},
    {"{\"a\":\"\\x41\"}", "a string has an unknown escape"},
    {"{\"a\":\"\\'\"}", "a string has an unknown escape"},
    {"{\"a\":\"\\u00g0\"}", "a string has an unknown escape"},
    {"{\"b\":\"\\0\"}", "a string has an unknown escape"},
    {"{'a':'\\/'}", "a string has an unknown escape"},
    {"{'a':'\\x4'}", "a string has an unknown escape"},
    {"{'a':'\\U0001F60'}", "a string has an unknown escape"},
    {"{'a':'\\N{DIGIT ONE}'}", "a string has an unknown escape"},
    {"{'a':'x\"}", "a string is not closed"},
    {"{'a':ur'x'}", "a value is neither a string, a number, true, false nor null"},
    {"{'a':(1, 2)}", "a value is missing"},
    {"{\"a\":\"\\u0000\"}", "a string has a NUL"},
    {"{'a':'\\0'}", "a string has a NUL"},
    {"{'a':'\\x00'}", "a string has a NUL"},
    {"{'a':'\\U00110000'}", "a string has an escape beyond U+10FFFF"},
    {"{\"a\":\"\\ud800\"}", "a string has a lone surrogate"},
    {"{\"a\":\"\\ud800\\u0041\"}", "a string has a lone surrogate"},
    {"{\"a\":\"\\ud83d\\ud83d\\ude00\"}", "a string has a lone surrogate"},
    {"{\"a\":\"\\udc7f\"}", "a string has a lone surrogate"},
    {"{\"a\":\"\\udd00\"}", "a string has a lone surrogate"},
};

static void test_refusals(void **state) {
    (void)state;
    static const char *const key = "a";
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct line l = copy_line(refused[i].line, strlen(refused[i].line));
        struct json_value value;
        const char *what = find(&l, &key, 1, &value);
        if (!what || strcmp(what, refused[i].what) != 0)
            fail_msg("%s: %s, not %s", refused[i].line, what ? what : "no error", refused[i].what);
        free_line(&l);
    }
    struct line l = copy_line("{\"a\":\"\0\"}", 9);
    struct json_value value;
    assert_non_null(find(&l, &key, 1, &value));
    free_line(&l);
}

/* Containers in a value that is passed over, and along a path. */
static void test_depth(void **state) {
    (void)state;
    static char text[TEXT], path[TEXT];
    const char *key = path;
    struct json_value value;
    for (int kind = 0; kind < 3; kind++) {
        for (int depth = 120; depth < 2000; depth += depth < 140 ? 1 : 500) {
            char *at = text, *to = path;
            *to = '\0';
            for (int i = 1; i < depth; i++) {
                bool object = i == 1 || kind == 1 || (kind == 2 && i % 3);
                at += sprintf(at, object ? "{\"k\":" : "[");
                to += sprintf(to, i == 1 ? "k" : ".k");
            }
            if (kind == 1) strcpy(to, ".k");
            *at++ = '{';
            at += sprintf(at, "\"k\": 7}");
            for (int i = depth - 1; i >= 1; i--)
                *at++ = i == 1 || kind == 1 || (kind == 2 && i % 3) ? '}' : ']';
            struct line l = copy_line(text, (size_t)(at - text));
            const char *what = find(&l, &key, 1, &value);
            if (depth <= JSON_DEPTH_MAX) {
                assert_null(what);
                assert_true(is(&value, kind == 1 ? JSON_NUMBER : JSON_MISSING, "7"));
            } else {
                assert_string_equal(what, "the object is nested more than 128 deep");
            }
            static const char *const other = "x";
            assert_int_equal(find(&l, &other, 1, &value) == NULL, depth <= JSON_DEPTH_MAX);
            free_line(&l);
        }
    }
}

static void test_many_keys(void **state) {
    (void)state;
    static const char text[] =
        "{\"user\":{\"id\":\"u\\u00e9\",\"name\":\"n\"},\"item\":7,\"stars\":4.5,\"user\":{}}";
    static const char *const keys[] = {"user.id", "user",  "item", "user.name",
                                       "item",    "stars", "none", "user.id.x"};
    struct line l = copy_line(text, sizeof text - 1);
    struct json_value v[KEYS];
    assert_null(find(&l, keys, 8, v));
    assert_true(is(&v[0], JSON_STRING, "u\xc3\xa9"));
    assert_true(is(&v[1], JSON_OTHER, "{}"));
    assert_true(is(&v[2], JSON_NUMBER, "7") && is(&v[4], JSON_NUMBER, "7"));
    assert_true(is(&v[3], JSON_STRING, "n"));
    assert_true(is(&v[5], JSON_NUMBER, "4.5"));
    assert_true(is(&v[6], JSON_MISSING, NULL) && is(&v[7], JSON_MISSING, NULL));
    assert_null(json_find(l.text, l.size, NULL, 0, NULL, l.room));
    assert_non_null(json_find(l.text, l.size, NULL, JSON_KEYS_MAX + 1, NULL, l.room));
    free_line(&l);
}

static void test_list(void **state) {
    (void)state;
    static const char text[] =
        "{\"us\\u0065r\": \"x\\ty\", \"b\": {\"c\": 1}, \"d\": \"\\ud800\", \"e\": null, \"b\": 2}";
    struct json_key keys[LISTED];
    struct json_value values[LISTED];
    int n;
    struct line l = copy_line(text, sizeof text - 1);
    assert_null(json_list(l.text, l.size, keys, values, LISTED, &n, l.room));
    assert_int_equal(n, 5);
    assert_true(keys[0].length == 4 && memcmp(keys[0].name, "user", 4) == 0);
    assert_true(is(&values[0], JSON_STRING, "x\ty"));
    assert_true(keys[1].length == 1 && *keys[1].name == 'b');
    assert_true(is(&values[1], JSON_OTHER, "{\"c\": 1}"));
    assert_true(is(&values[2], JSON_STRING, "\\ud800"));
    assert_true(is(&values[3], JSON_NULL, "null"));
    assert_true(is(&values[4], JSON_NUMBER, "2"));
    assert_null(json_list(l.text, l.size, keys, values, 2, &n, l.room));
    assert_int_equal(n, 2);
    assert_null(json_list(l.text, l.size, keys, values, 0, &n, l.room));
    assert_int_equal(n, 0);
    assert_string_equal(json_list(l.text, l.size - 1, keys, values, 2, &n, l.room),
                        "the object is not closed");
    free_line(&l);
}

/* ---- random objects ---- */

static uint64_t random_state = 1;

static int below(int n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (int)((random_state >> 33) % (unsigned)n);
}

/* Text that is written. */
static char written[TEXT];
static size_t n_written;

static void put(const char *text) {
    size_t length = strlen(text);
    assert_true(n_written + length < TEXT);
    memcpy(written + n_written, text, length + 1);
    n_written += length;
}

static void put_blanks(void) {
    static const char *const blanks[] = {"", "", " ", "  ", "\t"};
    put(blanks[below(5)]);
}

/* Characters with their spellings in JSON and in Python, NULL: as it is. */
static const struct {
    const char *text, *json, *python;
} characters[] = {
    {"a", "\\u0061", "\\x61"},
    {"b", NULL, "\\142"},
    {"Z", NULL, NULL},
    {"7", "\\u0037", "\\u0037"},
    {" ", NULL, NULL},
    {"{", NULL, "\\x7b"},
    {"}", NULL, NULL},
    {"]", NULL, NULL},
    {",", NULL, NULL},
    {":", NULL, NULL},
    {".", NULL, NULL},
    {"/", "\\/", NULL},
    {"\\", "\\\\", "\\\\"},
    {"\"", "\\\"", "\\\""},
    {"'", "\\u0027", "\\'"},
    {"\n", "\\n", "\\n"},
    {"\t", "\\u0009", "\\t"},
    {"\a", "\\u0007", "\\a"},
    {"\x1f", "\\u001F", "\\x1f"},
    {"\x7f", NULL, "\\x7f"},
    {"\xc3\xa9", "\\u00e9", "\\U000000e9"},
    {"\xc3\xa9", NULL, "\\xc3\\xa9"},
    {"\xe2\x82\xac", "\\u20AC", "\\u20ac"},
    {"\xf0\x9f\x98\x80", "\\uD83D\\ude00", "\\U0001f600"},
    {"\xff", "\\udcff", "\\udcff"},
};

/* A string, as text and written; as long as it may be, most are short. */
static void put_string(bool python, int max, char *text) {
    const int n = below(max);
    put(python ? "'" : "\"");
    for (int i = 0; i < n; i++) {
        size_t c = (size_t)below((int)(sizeof characters / sizeof *characters));
        const char *escaped = python ? characters[c].python : characters[c].json;
        const bool must = strchr("\\\"'\n\t\a\x1f", *characters[c].text) != NULL;
        put(escaped && (must || below(3) == 0) ? escaped : characters[c].text);
        text += sprintf(text, "%s", characters[c].text);
    }
    *text = 0;
    put(python ? "'" : "\"");
}

/* A value, its kind and text as they are to be found. */
static enum json_kind put_value(bool python, int depth, char *text) {
    static const char *const numbers[] = {"0", "-1", "5.0", "1e-05", "1588687728923", "NaN", "-0.0"};
    static const char *const words[][2] = {{"true", "True"}, {"false", "False"}};
    const size_t begin = n_written;
    char ignored[TEXT];
    int n;
    switch (below(depth < 4 ? 8 : 6)) {
    case 0:
        put(numbers[below(7)]);
        break;
    case 1:
        put(words[below(2)][python]);
        strcpy(text, written + begin);
        return JSON_BOOL;
    case 2:
        put(python ? "None" : "null");
        strcpy(text, written + begin);
        return JSON_NULL;
    case 6:
    case 7:
        n = below(4);
        bool object = below(2);
        put(object ? "{" : "[");
        for (int i = 0; i < n; i++) {
            if (i) put(",");
            put_blanks();
            if (object) {
                put_string(python, 5, ignored);
                put_blanks();
                put(":");
                put_blanks();
            }
            put_value(python, depth + 1, ignored);
            put_blanks();
        }
        if (n && below(9) == 0) put(",");
        put(object ? "}" : "]");
        strcpy(text, written + begin);
        return JSON_OTHER;
    default:
        put_string(python, below(10) ? 20 : 200, text);
        return JSON_STRING;
    }
    strcpy(text, written + begin);
    return JSON_NUMBER;
}

enum { MEMBERS = 8 };
static struct member {
    char key[64];
    char text[2 * TEXT];
    enum json_kind kind;
} members[MEMBERS];

/* An object of members whose keys differ: each has its number in front. Returns how many. */
static int put_object(bool python) {
    const int n = below(MEMBERS + 1);
    n_written = 0;
    put("{");
    for (int i = 0; i < n; i++) {
        put_blanks();
        put(i ? "," : "");
        put_blanks();
        const size_t begin = n_written;
        put_string(python, 6, members[i].key + 1);
        members[i].key[0] = (char)('0' + i);
        assert_true(n_written + 1 < TEXT);
        memmove(written + begin + 2, written + begin + 1, n_written - begin);
        written[begin + 1] = (char)('0' + i);
        n_written++;
        put_blanks();
        put(":");
        put_blanks();
        members[i].kind = put_value(python, 0, members[i].text);
    }
    put_blanks();
    put("}");
    return n;
}

static void test_random(void **state) {
    (void)state;
    int strings = 0, containers = 0;
    for (int round = 0; round < 10000; round++) {
        const int n = put_object(round % 2);
        struct line l = copy_line(written, n_written);
        const char *names[MEMBERS];
        struct json_value values[LISTED];
        struct json_key keys[LISTED];
        int listed;
        for (int i = 0; i < n; i++) names[i] = members[n - 1 - i].key;
        const char *what = find(&l, names, n, values);
        if (what) fail_msg("%s: %s", written, what);
        for (int i = 0; i < n; i++) {
            const struct member *m = &members[n - 1 - i];
            if (!is(&values[i], m->kind, m->text)) fail_msg("%s: %s is not %s", written, m->key, m->text);
            strings += m->kind == JSON_STRING;
            containers += m->kind == JSON_OTHER;
        }
        what = json_list(l.text, l.size, keys, values, LISTED, &listed, l.room);
        if (what) fail_msg("%s: %s", written, what);
        assert_int_equal(listed, n);
        for (int i = 0; i < n; i++) {
            check_place(&l, keys[i].name, keys[i].length);
            check_place(&l, values[i].text, values[i].length);
            assert_int_equal(keys[i].length, strlen(members[i].key));
            assert_memory_equal(keys[i].name, members[i].key, keys[i].length);
            assert_true(is(&values[i], members[i].kind, members[i].text));
        }
        free_line(&l);
    }
    assert_true(strings > 1000 && containers > 1000);
}

/* Every cut of a line is an error; every changed byte is one or not, but nothing outside is read. */
static void test_damage(void **state) {
    (void)state;
    static const char *const keys[] = {"0", "1", "1a", "2.b", "3"};
    struct json_value values[KEYS];
    struct json_key list[LISTED];
    struct json_value listed[LISTED];
    int n;
    for (int round = 0; round < 200; round++) {
        do {
            put_object(round % 2);
        } while (n_written > 600);
        for (size_t cut = 0; cut < n_written; cut++) {
            struct line l = copy_line(written, cut);
            if (!find(&l, keys, 5, values)) fail_msg("%.*s passes", (int)cut, written);
            assert_non_null(json_list(l.text, l.size, list, listed, LISTED, &n, l.room));
            free_line(&l);
        }
        for (size_t i = 0; i < n_written; i++) {
            struct line l = copy_line(written, n_written);
            for (int change = 0; change < 12; change++) {
                static const char likely[] = "\"'\\{}[]:,u";
                l.text[i] = change < 10 ? likely[change] : (char)below(256);
                const char *what = find(&l, keys, 5, values);
                const char *other = json_list(l.text, l.size, list, listed, LISTED, &n, l.room);
                if (other && !what) fail_msg("%.*s: %s", (int)l.size, l.text, other);
            }
            free_line(&l);
        }
    }
}

/* A string's end at every distance from the beginning and the end of lines of all sizes. */
static void test_places(void **state) {
    (void)state;
    static const char *const key = "a";
    char text[300];
    for (int before = 0; before < 80; before++) {
        for (int length = 0; length < 80; length++) {
            for (int after = 0; after < 3; after++) {
                int size = sprintf(text, "%*s{\"a\":\"%0*d\"%*s}", before, "", length + 1, 0, after, "");
                struct line l = copy_line(text, (size_t)size);
                struct json_value value;
                assert_null(find(&l, &key, 1, &value));
                assert_int_equal(value.length, length + 1);
                assert_ptr_equal(value.text, l.text + before + 6);
                l.text[before + 6 + length / 2] = 31;
                assert_non_null(find(&l, &key, 1, &value));
                free_line(&l);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),    cmocka_unit_test(test_refusals), cmocka_unit_test(test_depth),
        cmocka_unit_test(test_many_keys), cmocka_unit_test(test_list),     cmocka_unit_test(test_random),
        cmocka_unit_test(test_damage),    cmocka_unit_test(test_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
