/* See json.h.
 *
 * One pass over the line. Most of it are strings that nobody asked for: find_special goes over them in steps
 * of a vector. Containers that nobody asked for are gone through with a stack of one bit a level; only keys
 * that are paths lead to recursion, at most JSON_DEPTH_MAX deep. */
#include "json.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "utf8.h"

struct scan {
    const char *start, *at, *end; /* the line; what comes next */
    const char *bad;              /* what is wrong with it */
    char *room;                   /* what is left of it */
    bool python;                  /* there was a string that only Python writes */
    int depth;                    /* containers that are open */
};

/* A value or a key, as it is written; a string without its quotes. */
struct token {
    enum json_kind kind;
    char prefix; /* of a string: u, b or 0 */
    bool escaped;
    const char *text;
    size_t length;
};

/* A key that is looked for in an object: what is left of its path there. */
struct wanted {
    const char *name;
    size_t length;
    int value;
};

struct find {
    struct json_value *values;
    int depth[JSON_KEYS_MAX]; /* of the object that a value is from, 0: none */
};

static bool fail(struct scan *s, const char *what) {
    s->bad = what;
    return false;
}

static char peek(const struct scan *s) {
    return s->at < s->end ? *s->at : 0;
}

static void skip_blanks(struct scan *s) {
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r')) s->at++;
}

/* ---- strings ---- */

/* Which of the next STEP bytes are the quote, a backslash or a control character: a bit each. */
#if defined __AVX2__
enum { STEP = 32 };
static inline uint32_t special(const char *at, char quote) {
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)at);
    __m256i control = _mm256_cmpeq_epi8(_mm256_min_epu8(x, _mm256_set1_epi8(0x1f)), x);
    __m256i ends = _mm256_or_si256(_mm256_cmpeq_epi8(x, _mm256_set1_epi8(quote)),
                                   _mm256_cmpeq_epi8(x, _mm256_set1_epi8('\\')));
    return (uint32_t)_mm256_movemask_epi8(_mm256_or_si256(control, ends));
}
#elif defined __SSE2__
enum { STEP = 16 };
static inline uint32_t special(const char *at, char quote) {
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)at);
    __m128i control = _mm_cmpeq_epi8(_mm_min_epu8(x, _mm_set1_epi8(0x1f)), x);
    __m128i ends =
        _mm_or_si128(_mm_cmpeq_epi8(x, _mm_set1_epi8(quote)), _mm_cmpeq_epi8(x, _mm_set1_epi8('\\')));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(control, ends));
}
#else
enum { STEP = 16 };
static inline uint32_t special(const char *at, char quote) {
    uint32_t mask = 0;
    for (int i = 0; i < STEP; i++)
        mask |= (uint32_t)(at[i] == quote || at[i] == '\\' || (unsigned char)at[i] < 0x20) << i;
    return mask;
}
#endif

/* The first quote, backslash or control character in [at, end), or the end. The last step reads bytes before
 * `at` again, so that nothing outside of the line is read. */
static inline const char *find_special(const struct scan *s, const char *at, char quote) {
    for (; s->end - at >= STEP; at += STEP) {
        uint32_t mask = special(at, quote);
        if (mask) return at + __builtin_ctz(mask);
    }
    if (at == s->end) return at;
    if (s->end - s->start >= STEP) {
        uint32_t mask = special(s->end - STEP, quote) >> (STEP - (s->end - at));
        return mask ? at + __builtin_ctz(mask) : s->end;
    }
    while (at < s->end && *at != quote && *at != '\\' && (unsigned char)*at >= 0x20) at++;
    return at;
}

static bool is_hex(char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static uint32_t hex(const char *at, int digits) {
    uint32_t value = 0;
    for (; digits; digits--, at++) value = value << 4 | (uint32_t)((*at & 15) + (*at > '9' ? 9 : 0));
    return value;
}

static size_t octal_length(const char *at, const char *end) {
    size_t n = 0;
    while (n < 3 && at + n < end && at[n] >= '0' && at[n] <= '7') n++;
    return n;
}

/* Bytes of the escape at a backslash, 0: there is no such escape. */
static size_t escape_length(const char *at, const char *end, bool python) {
    size_t digits = 0;
    switch (end - at > 1 ? at[1] : 0) {
    case '"':
    case '\\':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return 2;
    case '/':
        return python ? 0 : 2;
    case 'u':
        digits = 4;
        break;
    case '\'':
    case 'a':
    case 'v':
        return python ? 2 : 0;
    case 'x':
        digits = python ? 2 : 0;
        break;
    case 'U':
        digits = python ? 8 : 0;
        break;
    default:
        digits = python ? octal_length(at + 1, end) : 0;
        return digits ? 1 + digits : 0;
    }
    if (!digits || (size_t)(end - at) < 2 + digits) return 0;
    for (size_t i = 0; i < digits; i++) {
        if (!is_hex(at[2 + i])) return 0;
    }
    return 2 + digits;
}

/* The string whose prefix or quote comes next. */
static bool scan_string(struct scan *s, struct token *t) {
    *t = (struct token){.kind = JSON_STRING};
    char quote = *s->at++;
    if (quote != '"') {
        if (quote != '\'') {
            t->prefix = (char)(quote | 0x20);
            quote = *s->at++;
        }
        s->python = true;
    }
    const char *at = t->text = s->at;
    for (;;) {
        at = find_special(s, at, quote);
        if (at == s->end) return fail(s, "a string is not closed");
        if (*at == quote) break;
        if (*at != '\\') return fail(s, "a string has a control character that is not escaped");
        size_t n = escape_length(at, s->end, s->python);
        if (!n) {
            bool cut = !memchr(at, quote, (size_t)(s->end - at));
            return fail(s, cut ? "a string is not closed" : "a string has an unknown escape");
        }
        t->escaped = true;
        at += n;
    }
    t->length = (size_t)(at - t->text);
    s->at = at + 1;
    return true;
}

/* Where a string begins, with or without a prefix. */
static bool at_string(const struct scan *s) {
    char c = peek(s), low = c | 0x20;
    if (c == '"' || c == '\'') return true;
    return (low == 'u' || low == 'b') && s->end - s->at > 1 && (s->at[1] == '"' || s->at[1] == '\'');
}

static char *put_character(char *out, uint32_t c) {
    if (c < 0x80) {
        *out++ = (char)c;
        return out;
    }
    if (c < 0x800) {
        *out++ = (char)(0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *out++ = (char)(0xe0 | c >> 12);
        } else {
            *out++ = (char)(0xf0 | c >> 18);
            *out++ = (char)(0x80 | (c >> 12 & 0x3f));
        }
        *out++ = (char)(0x80 | (c >> 6 & 0x3f));
    }
    *out++ = (char)(0x80 | (c & 0x3f));
    return out;
}

/* \xNN \xNN ... that make up a character of UTF-8: its bytes into `out`. Returns how many. */
static size_t escaped_utf8(const char *at, const char *end, char *out) {
    char bytes[4] = {0};
    size_t n = 0;
    for (; n < sizeof bytes && end - at >= 4 && at[0] == '\\' && at[1] == 'x'; n++, at += 4)
        bytes[n] = (char)hex(at + 2, 2);
    n = utf8_length(bytes, n);
    memcpy(out, bytes, n);
    return n;
}

/* A string without its escapes, which scan_string has checked, into `out`, where it takes no more bytes than
 * it has now. Returns what is wrong with it, or NULL. */
static const char *decode(const struct token *t, char *out, size_t *length) {
    const char *at = t->text, *end = at + t->length;
    char *begin = out;
    while (at < end) {
        const char *back = memchr(at, '\\', (size_t)(end - at));
        size_t run = (size_t)((back ? back : end) - at);
        memcpy(out, at, run);
        out += run;
        if (!back) break;
        size_t n = escape_length(back, end, true);
        uint32_t c = 0;
        bool byte = false;
        at = back + (n ? n : 2);
        switch (back[1]) {
        case 'a':
            c = '\a';
            break;
        case 'b':
            c = '\b';
            break;
        case 'f':
            c = '\f';
            break;
        case 'n':
            c = '\n';
            break;
        case 'r':
            c = '\r';
            break;
        case 't':
            c = '\t';
            break;
        case 'v':
            c = '\v';
            break;
        case 'U':
            c = hex(back + 2, 8);
            break;
        case 'u':
            c = hex(back + 2, 4);
            if (c >> 10 == 0xd800 >> 10 && end - at >= 6 && at[0] == '\\' && at[1] == 'u' &&
                hex(at + 2, 4) >> 10 == 0xdc00 >> 10) {
                c = 0x10000 + ((c & 0x3ff) << 10 | (hex(at + 2, 4) & 0x3ff));
                at += 6;
            }
            break;
        case 'x':
            c = hex(back + 2, 2);
            byte = t->prefix == 'b';
            if (!t->prefix && (n = escaped_utf8(back, end, out)) > 1) {
                out += n;
                at = back + 4 * n;
                continue;
            }
            break;
        default:
            if (back[1] >= '0' && back[1] <= '7') {
                for (size_t i = 1; i < n; i++) c = c << 3 | (uint32_t)(back[i] - '0');
                byte = t->prefix == 'b';
            } else {
                c = (unsigned char)back[1];
            }
        }
        if (c == 0) return "a string has a NUL";
        if (c > 0x10ffff) return "a string has an escape beyond U+10FFFF";
        if (c >= 0xdc80 && c <= 0xdcff) {
            byte = true;
        } else if (c >> 11 == 0xd800 >> 11) {
            return "a string has a lone surrogate";
        }
        if (byte) {
            *out++ = (char)c;
        } else {
            out = put_character(out, c);
        }
    }
    *length = (size_t)(out - begin);
    return NULL;
}

/* ---- values ---- */

static bool skip_digits(struct scan *s) {
    const char *begin = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9') s->at++;
    return s->at > begin;
}

/* A number, behind its sign. */
static bool skip_number(struct scan *s) {
    static const char malformed[] = "a number is malformed";
    const char *begin = s->at;
    if (!skip_digits(s) || (*begin == '0' && s->at > begin + 1)) return fail(s, malformed);
    if (peek(s) == '.') {
        s->at++;
        if (!skip_digits(s)) return fail(s, malformed);
    }
    if ((peek(s) | 0x20) == 'e') {
        s->at++;
        if (peek(s) == '+' || peek(s) == '-') s->at++;
        if (!skip_digits(s)) return fail(s, malformed);
    }
    return true;
}

static bool skip_word(struct scan *s, struct token *t, bool sign) {
    static const struct {
        char text[9];
        unsigned char length;
        enum json_kind kind;
    } words[] = {{"true", 4, JSON_BOOL},  {"false", 5, JSON_BOOL}, {"null", 4, JSON_NULL},
                 {"True", 4, JSON_BOOL},  {"False", 5, JSON_BOOL}, {"None", 4, JSON_NULL},
                 {"NaN", 3, JSON_NUMBER}, {"nan", 3, JSON_NUMBER}, {"Infinity", 8, JSON_NUMBER},
                 {"inf", 3, JSON_NUMBER}};
    for (size_t i = sign ? 6 : 0; i < sizeof words / sizeof *words; i++) {
        if (*s->at != words[i].text[0] || s->end - s->at < words[i].length ||
            memcmp(s->at, words[i].text, words[i].length) != 0)
            continue;
        s->at += words[i].length;
        t->kind = words[i].kind;
        return true;
    }
    return fail(s, "a value is neither a string, a number, true, false nor null");
}

/* The value that comes next; no object and no array. */
static bool scan_scalar(struct scan *s, struct token *t) {
    if (s->at == s->end) return fail(s, "the object is not closed");
    if (at_string(s)) return scan_string(s, t);
    *t = (struct token){.kind = JSON_NUMBER, .text = s->at};
    bool sign = *s->at == '-';
    s->at += sign;
    bool word = s->at < s->end && (*s->at | 0x20) >= 'a' && (*s->at | 0x20) <= 'z';
    if (!sign && !word && (*s->at < '0' || *s->at > '9')) return fail(s, "a value is missing");
    if (!(word ? skip_word(s, t, sign) : skip_number(s))) return false;
    t->length = (size_t)(s->at - t->text);
    return true;
}

enum next { END, MORE, BAD };

static enum next bad(struct scan *s, const char *what) {
    fail(s, s->at == s->end ? "the object is not closed" : what);
    return BAD;
}

/* The next member of the innermost container: MORE before its value, END behind the closing bracket.
 * *first: there was none before; false afterwards. */
static inline enum next next_member(struct scan *s, bool object, bool *first, struct token *key) {
    skip_blanks(s);
    if (!*first && peek(s) == ',') {
        s->at++;
        skip_blanks(s);
    } else if (!*first && peek(s) != (object ? '}' : ']')) {
        return bad(s, "a comma is missing");
    }
    *first = false;
    if (peek(s) == (object ? '}' : ']')) {
        s->at++;
        s->depth--;
        return END;
    }
    if (!object) return MORE;
    if (!at_string(s)) return bad(s, "a key is not a string");
    if (!scan_string(s, key)) return BAD;
    skip_blanks(s);
    if (peek(s) != ':') return bad(s, "a colon is missing");
    s->at++;
    skip_blanks(s);
    return MORE;
}

static bool enter(struct scan *s) {
    if (s->depth == JSON_DEPTH_MAX) return fail(s, "the object is nested more than 128 deep");
    s->depth++;
    s->at++;
    return true;
}

/* The object or array that comes next. */
static bool skip_container(struct scan *s) {
    uint64_t objects[JSON_DEPTH_MAX / 64] = {0}; /* of the open containers, those that are objects */
    const int outside = s->depth;
    struct token ignored;
    do {
        const char c = peek(s);
        bool first = c == '{' || c == '[';
        if (first) {
            const uint64_t bit = (uint64_t)1 << s->depth % 64;
            uint64_t *word = &objects[s->depth / 64];
            if (!enter(s)) return false;
            *word = c == '{' ? *word | bit : *word & ~bit;
        } else if (!scan_scalar(s, &ignored)) {
            return false;
        }
        enum next next = END;
        while (s->depth > outside && next == END) {
            int top = s->depth - 1;
            next = next_member(s, objects[top / 64] >> top % 64 & 1, &first, &ignored);
        }
        if (next == BAD) return false;
    } while (s->depth > outside);
    return true;
}

static inline bool scan_value(struct scan *s, struct token *t) {
    const char c = peek(s);
    if (c != '{' && c != '[') return scan_scalar(s, t);
    *t = (struct token){.kind = JSON_OTHER, .text = s->at};
    if (!skip_container(s)) return false;
    t->length = (size_t)(s->at - t->text);
    return true;
}

/* ---- the line ---- */

static bool begin_line(struct scan *s) {
    skip_blanks(s);
    if (peek(s) == '{') return enter(s);
    return fail(s, peek(s) == '[' ? "it is an array, not an object" : "it does not begin with {");
}

static bool end_line(struct scan *s) {
    skip_blanks(s);
    if (s->at == s->end) return true;
    return fail(s, *s->at == '{' ? "a second object follows" : "text follows the object");
}

/* A token's text for whoever asked for it. Returns what is wrong with it, or NULL. */
static const char *take(struct scan *s, const struct token *t, const char **text, size_t *length) {
    *text = t->text;
    *length = t->length;
    if (!t->escaped) return NULL;
    const char *what = decode(t, s->room, length);
    if (what) {
        *length = t->length;
        return what;
    }
    *text = s->room;
    s->room += *length;
    return NULL;
}

/* Whether a key is a wanted one, or leads to it. */
static inline bool leads_to(const char *key, size_t length, const struct wanted *w) {
    if (w->length != length && (w->length < length || w->name[length] != '.')) return false;
    return length == 0 || (w->name[0] == key[0] && memcmp(w->name, key, length) == 0);
}

/* The wanted keys in the object that was just entered. */
static bool find_in(struct scan *s, struct find *f, const struct wanted *wanted, int n) {
    struct token key, token;
    struct wanted inside[JSON_KEYS_MAX];
    bool first = true;
    enum next next;
    const int depth = s->depth;
    while ((next = next_member(s, true, &first, &key)) == MORE) {
        uint32_t here = 0;
        int n_inside = 0;
        if (key.escaped) {
            size_t length;
            if (decode(&key, s->room, &length)) length = SIZE_MAX;
            key.text = s->room;
            key.length = length;
        }
        for (int i = 0; i < n; i++) {
            const struct wanted *w = &wanted[i];
            if (!leads_to(key.text, key.length, w)) continue;
            if (w->length == key.length) {
                here |= 1u << w->value;
            } else {
                size_t skip = key.length + 1;
                inside[n_inside++] = (struct wanted){w->name + skip, w->length - skip, w->value};
            }
        }
        if (n_inside && peek(s) == '{') {
            token = (struct token){.kind = JSON_OTHER, .text = s->at};
            if (!enter(s) || !find_in(s, f, inside, n_inside)) return false;
            token.length = (size_t)(s->at - token.text);
        } else if (!scan_value(s, &token)) {
            return false;
        }
        if (!here) continue;
        struct json_value value = {.kind = token.kind};
        const char *what = take(s, &token, &value.text, &value.length);
        if (what) return fail(s, what);
        for (; here; here &= here - 1) {
            int i = __builtin_ctz(here);
            if (f->depth[i] && f->depth[i] < depth) continue;
            f->depth[i] = depth;
            f->values[i] = value;
        }
    }
    return next == END;
}

const char *json_find(const char *line, size_t size, const struct json_key *keys, int n,
                      struct json_value *values, char *room) {
    struct scan s = {.start = line, .at = line, .end = line + size, .room = room};
    struct find f = {.values = values};
    struct wanted wanted[JSON_KEYS_MAX];
    if (n > JSON_KEYS_MAX) return "more than 16 keys are asked for";
    for (int i = 0; i < n; i++) {
        wanted[i] = (struct wanted){keys[i].name, keys[i].length, i};
        values[i] = (struct json_value){.kind = JSON_MISSING};
    }
    if (!begin_line(&s) || !find_in(&s, &f, wanted, n) || !end_line(&s)) return s.bad;
    return NULL;
}

const char *json_list(const char *line, size_t size, struct json_key *keys, struct json_value *values,
                      int max, int *n, char *room) {
    struct scan s = {.start = line, .at = line, .end = line + size, .room = room};
    struct token key, token;
    bool first = true;
    enum next next;
    *n = 0;
    if (!begin_line(&s)) return s.bad;
    while ((next = next_member(&s, true, &first, &key)) == MORE) {
        if (!scan_value(&s, &token)) return s.bad;
        if (*n == max) continue;
        (void)take(&s, &key, &keys[*n].name, &keys[*n].length);
        values[*n].kind = token.kind;
        (void)take(&s, &token, &values[*n].text, &values[*n].length);
        ++*n;
    }
    return next == BAD || !end_line(&s) ? s.bad : NULL;
}
