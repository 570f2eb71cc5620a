/* See keys.h. */
#include "keys.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "columns.h"
#include "error.h"
#include "json.h"
#include "values.h"

enum { KEYS_MAX = 128 };

/* A key of the first lines: how many have it, and what values they have there. */
struct key_look {
    char name[DIALECT_NAME_MAX + 1];
    size_t length;
    int lines, values, usable, numbers,
        dates;   /* values: that are not null; of these text and numbers are usable */
    bool nested; /* some are objects or arrays */
};

static void look_at_value(struct key_look *k, const struct json_value *value) {
    k->lines++;
    if (value->kind == JSON_NULL) return;
    bool usable = value->kind == JSON_STRING || value->kind == JSON_NUMBER;
    bool number = usable && !isnan(value_number(value->text, value->length, false));
    k->values++;
    k->usable += usable;
    k->numbers += number;
    k->dates += usable && !number && !isnan(value_date(value->text, value->length));
    k->nested |= value->kind == JSON_OTHER;
}

/* The keys of the first lines. *lines: how many lines can be read. look[KEYS_MAX]. */
static int look_at_keys(const struct preview *s, char newline, struct key_look *look, int *n_looks,
                        int *lines) {
    struct json_key keys[KEYS_MAX];
    struct json_value values[KEYS_MAX];
    const struct syntax by_line = {.newline = newline};
    const char *at = s->at, *wrong = "no line can be read";
    int rows = 0;
    *n_looks = *lines = 0;
    for (; rows < LOOK_ROWS && preview_next(s, &by_line, &at); rows++) {
        int n;
        if (s->fields->bad) continue;
        const char *bad =
            json_list(s->fields->field[0], s->fields->length[0], keys, values, KEYS_MAX, &n, s->room);
        if (bad && !*lines) wrong = bad;
        if (bad) continue;
        ++*lines;
        for (int i = 0; i < n; i++) {
            int k = 0;
            size_t length = keys[i].length < DIALECT_NAME_MAX ? keys[i].length : DIALECT_NAME_MAX;
            while (k < *n_looks &&
                   (look[k].length != length || memcmp(look[k].name, keys[i].name, length) != 0))
                k++;
            if (k == KEYS_MAX) continue;
            if (k == *n_looks) {
                look[k] = (struct key_look){.length = length};
                memcpy(look[k].name, keys[i].name, length);
                ++*n_looks;
            }
            look_at_value(&look[k], &values[i]);
        }
    }
    if (*lines && 2 * *lines >= rows) return 0;
    return error_set(EX_DATAERR, "%s: lines begin with '{', but are not JSON, an object a line: %s", s->name,
                     wrong);
}

/* The best key for a column: the given one, or one with a usual name whose values fit, which all lines have
 * if there is one; NULL: none. */
static struct key_look *choose_key(struct key_look *look, int n_looks, int lines, enum name name,
                                   const char *given, int column, const bool *taken) {
    int best = -1, best_rank = 0;
    for (int k = 0; k < n_looks; k++) {
        struct key_look *l = &look[k];
        if (given && strcmp(given, l->name) == 0) return l;
        bool fits = !taken[k] && 2 * l->usable >= l->values &&
                    (column != NAME_RATING || 2 * l->numbers >= l->values) &&
                    (column != NAME_TIME || 2 * (l->numbers + l->dates) >= l->values);
        int rank = fits && !given ? name_rank(name, l->name, l->length) : -1;
        if (rank < 0) continue;
        rank += l->lines == lines ? 0 : 2 * l->lines >= lines ? 1000 : 2000;
        if (best >= 0 && rank >= best_rank) continue;
        best = k;
        best_rank = rank;
    }
    return best < 0 ? NULL : &look[best];
}

static int unknown_key(const struct preview *s, const struct key_look *look, int n_looks, int column,
                       const char *given) {
    char names[600] = "", nested[400] = "";
    size_t used = 0;
    for (int k = 0; k < n_looks && used + 40 < sizeof names; k++) {
        if (k) used += (size_t)snprintf(names + used, sizeof names - used, ", ");
        used += fields_show(names + used, sizeof names - used, look[k].name, look[k].length);
        if (look[k].nested && !*nested) {
            snprintf(nested, sizeof nested,
                     "; '%.100s' has objects or arrays: jq makes a line of each interaction", look[k].name);
        }
    }
    if (given) {
        return error_set(EX_DATAERR, "%s: --%s-column %s: no such key; there are: %s%s", s->name,
                         name_of[column], given, names, nested);
    }
    return error_set(EX_DATAERR,
                     "%s: JSON without a usual key for the %s; say --user-column KEY and --item-column KEY; "
                     "there are: %s%s",
                     s->name, name_of[column], names, nested);
}

int keys_find(const struct preview *s, struct dialect *d) {
    const char *given[NAMES];
    bool taken[KEYS_MAX] = {false};
    int n_looks, lines;
    struct key_look *look = malloc(KEYS_MAX * sizeof *look);
    if (!look) return error_memory("keys", KEYS_MAX * sizeof *look);
    columns_given(s->options, given);
    int code = look_at_keys(s, d->syntax.newline, look, &n_looks, &lines);
    for (int c = NAME_USER; c <= NAME_EVENT && !code; c++) {
        enum name name = c == NAME_USER ? columns_user(s) : c == NAME_ITEM ? columns_item(s) : (enum name)c;
        if (columns_is_none(given[c])) continue;
        const struct key_look *key = choose_key(look, n_looks, lines, name, given[c], c, taken);
        if (key) taken[key - look] = true;
        if (key || (given[c] && strchr(given[c], '.'))) { /* a path is looked for in each line */
            const char *word = given[c] ? given[c] : key->name;
            columns_keep(d, (enum name)c, word, strlen(word));
        } else if (c <= NAME_ITEM || given[c]) {
            code = unknown_key(s, look, n_looks, c, given[c]);
        }
        if (c != NAME_TIME || !key) continue;
        d->dates = key->dates > key->numbers;
        if (given[c] && key->values && !key->numbers && !key->dates) {
            code = error_set(EX_DATAERR,
                             "%s: --time-column %s: neither numbers nor dates like 2005-09-06 12:30:59",
                             s->name, given[c]);
        }
    }
    free(look);
    return code;
}
