/* See path.h. */
#include "path.h"

#include <stdio.h>
#include <string.h>

#include "environment.h"
#include "error.h"

enum { NAME_SIZE = 128 };

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789";

/* A path that grows. */
struct buffer {
    char *text;
    size_t used, size;
};

static int add(struct buffer *b, const char *text, size_t length) {
    if (length >= b->size - b->used) return error_set(EX_CONFIG, "longer than %zu bytes", b->size - 1);
    memcpy(b->text + b->used, text, length);
    b->used += length;
    b->text[b->used] = '\0';
    return 0;
}

static int add_variable(struct buffer *b, const char *name) {
    const char *value = environment(name);
    if (!value) return error_set(EX_CONFIG, "$%s is not set in the environment", name);
    return add(b, value, strlen(value));
}

/* What begins with the $ at *text, which goes on behind it. */
static int add_dollar(struct buffer *b, const char **text) {
    const char *from = *text + 1;
    char name[NAME_SIZE];
    if (*from == '$') {
        *text = from + 1;
        return add(b, "$", 1);
    }
    int in_braces = *from == '{';
    from += in_braces;
    size_t length = strspn(from, letters);
    if (length == 0 || length >= sizeof name || (*from >= '0' && *from <= '9') ||
        (in_braces && from[length] != '}')) {
        return error_set(EX_CONFIG, "want $NAME or ${NAME} of the environment, or $$ for a $, not %.20s",
                         *text);
    }
    snprintf(name, sizeof name, "%.*s", (int)length, from);
    *text = from + length + in_braces;
    return add_variable(b, name);
}

int path_expand(const char *text, char *path, size_t size) {
    struct buffer b = {path, 0, size};
    int code = 0;
    path[0] = '\0';
    if (text[0] == '~') {
        if (text[1] && text[1] != '/') {
            return error_set(EX_CONFIG,
                             "~ stands for $HOME in ~/ alone; want the whole path, or ./~ for a name");
        }
        code = add_variable(&b, "HOME");
        text++;
    }
    while (*text && !code) {
        size_t length = strcspn(text, "$");
        code = add(&b, text, length);
        text += length;
        if (*text && !code) code = add_dollar(&b, &text);
    }
    if (!code && (path[0] == '~' || path[0] == '$')) {
        code = error_set(EX_CONFIG, "would begin with %c; want ./ before it if that is its name", path[0]);
    }
    return code;
}

void path_unescape(char *path) {
    char *to = path;
    for (const char *from = path; *from; from++) {
        *to++ = *from;
        if (from[0] == '$' && from[1] == '$') from++;
    }
    *to = '\0';
}

void path_escape(const char *path, char *out, size_t size) {
    size_t used = 0;
    for (; *path && used + 2 < size; path++) {
        if (*path == '$') out[used++] = '$';
        out[used++] = *path;
    }
    out[used] = '\0';
}

int path_check(const char *path) {
    if (!path || (path[0] != '~' && path[0] != '$')) return 0;
    return error_set(EX_USAGE,
                     "%s: the shell has left the %c as it is: write %s, or ./ before it if that is its name",
                     path, path[0], path[0] == '~' ? "$HOME/x for ~/x" : "it without single quotes");
}

const char *path_hint(const char *path) {
    if (path[0] == '~') return " (the shell has left the ~ as it is: write $HOME/x for ~/x)";
    if (path[0] == '$') return " (the shell has left the $ as it is: write it without single quotes)";
    return "";
}
