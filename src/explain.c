/* See explain.h. */
#include "explain.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "error.h"
#include "utf8.h"

enum { HISTORY_MAX = 20 /* items shown */, ID_WIDTH_MAX = 32, WIDTH_MIN = 60, WIDTH_DEFAULT = 100 };

/* Columns of the terminal. */
static int terminal_width(void) {
    struct winsize size;
    const char *columns = getenv("COLUMNS");
    int width = columns ? atoi(columns) : 0;
    if (width <= 0 && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0) width = size.ws_col;
    if (width <= 0) width = WIDTH_DEFAULT;
    return width < WIDTH_MIN ? WIDTH_MIN : width;
}

/* Characters of a text. A text that is not UTF-8 is taken for Latin 1. */
static int is_utf8(const char *text, size_t length) {
    for (size_t i = 0, n; i < length; i += n) {
        n = utf8_length(text + i, length - i);
        if (n == 0) return 0;
    }
    return 1;
}

static int characters(const char *text, size_t length) {
    int n = 0;
    if (!is_utf8(text, length)) return (int)length;
    for (size_t i = 0; i < length; i += utf8_length(text + i, length - i)) n++;
    return n;
}

/* At most `width` characters, the last an ellipsis if there are more; filled up with blanks if pad. */
static void print_text(const char *text, size_t length, int width, int pad) {
    int utf8 = is_utf8(text, length), total = characters(text, length), n = 0;
    for (size_t i = 0; i < length && n < width; n++) {
        size_t bytes = utf8 ? utf8_length(text + i, length - i) : 1;
        unsigned char first = (unsigned char)text[i];
        if (n == width - 1 && total > width) {
            fputs("…", stdout);
        } else if (first < 0x20 || first == 0x7f) {
            putchar('?');
        } else if (!utf8 && first >= 0x80) {
            putchar(0xc0 | first >> 6);
            putchar(0x80 | (first & 0x3f));
        } else {
            fwrite(text + i, 1, bytes, stdout);
        }
        i += bytes;
    }
    for (; pad && n < width; n++) putchar(' ');
}

/* "12,345,678" */
static void print_count(int64_t n, int width) {
    char digits[32], text[48];
    int used = snprintf(digits, sizeof digits, "%lld", (long long)n), to = 0;
    for (int i = 0; i < used; i++) {
        if (i && (used - i) % 3 == 0) text[to++] = ',';
        text[to++] = digits[i];
    }
    text[to] = '\0';
    printf("%*s", width, text);
}

static int id_width(const struct catalogue *c, const int32_t *items, int64_t n) {
    int width = 4;
    for (int64_t i = 0; i < n; i++) {
        size_t length;
        const char *id = catalogue_id(c, items[i], &length);
        int wide = characters(id, length);
        if (wide > width) width = wide;
    }
    return width < ID_WIDTH_MAX ? width : ID_WIDTH_MAX;
}

/* The end of a line that has so many characters: users, id, title. */
static void print_item(const struct catalogue *c, int32_t item, int used, int id_columns, int columns) {
    size_t length;
    const char *id = catalogue_id(c, item, &length), *title = c->title ? c->title[item] : NULL;
    print_count(c->items.count[item], 11);
    fputs("  ", stdout);
    print_text(id, length, id_columns, title != NULL);
    int left = columns - used - 11 - 2 - id_columns - 2;
    if (title && left > 0) {
        fputs("  ", stdout);
        print_text(title, strlen(title), left, 0);
    }
    putchar('\n');
}

static void print_head(const struct catalogue *c, const char *first, int id_columns) {
    printf("%s      users  ", first);
    if (c->title) {
        print_text("item", 4, id_columns, 1);
        puts("  title");
    } else {
        puts("item");
    }
}

static void print_history(const struct catalogue *c, const struct users *u, int64_t row, int columns) {
    int64_t n = u->matrix.indptr[row + 1] - u->matrix.indptr[row];
    int64_t shown = n < HISTORY_MAX ? n : HISTORY_MAX;
    const int32_t *items = u->matrix.indices + u->matrix.indptr[row];
    size_t length;
    const char *id = users_id(u, row, &length);
    fputs("user ", stdout);
    print_text(id, length, columns - 5, 0);
    printf("\n\nhistory: %lld known item%s", (long long)n, n == 1 ? "" : "s");
    if (u->unknown[row]) {
        printf(", and %lld row%s with items that the model does not know", (long long)u->unknown[row],
               u->unknown[row] == 1 ? "" : "s");
    }
    if (shown < n) printf("; the %lld with the most users are", (long long)shown);
    putchar('\n');
    if (!n) return;
    int ids = id_width(c, items, shown);
    putchar('\n');
    print_head(c, "", ids);
    for (int64_t i = 0; i < shown; i++) print_item(c, items[i], 0, ids, columns);
}

static void print_list(const struct recommender *r, const struct catalogue *c, const int32_t *top,
                       const float *logits, const float *chances, int columns) {
    int n = 0;
    while (n < r->k && top[n] >= 0) n++;
    int ids = id_width(c, top, n);
    printf("\nrecommended: %d item%s by the model\n\n", n, n == 1 ? "" : "s");
    print_head(c, r->has_chances ? "rank   logit  chance %" : "rank   score          ", ids);
    for (int j = 0; j < n; j++) {
        printf("%4d %7.*f ", j + 1, fabsf(logits[j]) < 1000 ? 3 : 0, (double)logits[j]);
        if (r->has_chances) printf("%9.4f", 100 * (double)chances[j]);
        if (!r->has_chances) printf("%9s", "");
        print_item(c, top[j], 22, ids, columns);
    }
}

static void print_popular(const struct recommender *r, const struct catalogue *c, int columns) {
    int ids = id_width(c, r->popular, r->n_popular);
    printf("\nrecommended: the %d items with the most users, as none of the history is known\n\n",
           r->n_popular);
    print_head(c, "rank                  ", ids);
    for (int j = 0; j < r->n_popular; j++) {
        printf("%4d%18s", j + 1, "");
        print_item(c, r->popular[j], 22, ids, columns);
    }
}

static int print_user(const struct recommender *r, const struct catalogue *c, const struct users *u,
                      int64_t row) {
    int columns = terminal_width(), code = 0;
    int64_t indptr[2];
    struct csr one = csr_slice(&u->matrix, row, 1, indptr);
    int32_t *top = malloc((size_t)r->k * sizeof *top);
    float *scores = malloc((size_t)r->k * 2 * sizeof *scores);
    if (!top || !scores) code = error_memory("a list", (unsigned long long)r->k * 12);
    int flags = r->flags & ~SCORER_PROBABILITY;
    if (!code) code = ranker_top_k(r->ranker, &one, r->k, flags | SCORER_PROBABILITY, top, scores + r->k);
    if (!code) code = ranker_top_k(r->ranker, &one, r->k, flags, top, scores);
    if (!code) {
        print_history(c, u, row, columns);
        if (indptr[1]) {
            print_list(r, c, top, scores, scores + r->k, columns);
        } else {
            print_popular(r, c, columns);
        }
        if (fflush(stdout)) code = error_set(EX_IOERR, "standard output: cannot write: %s", strerror(errno));
    }
    free(top);
    free(scores);
    return code;
}

int explain(const struct recommender *r, const struct catalogue *c, struct history *history,
            const char *user) {
    struct users u = {0};
    int code, found = 0;
    while (!(code = history_next(history, recommender_batch(r), &u)) && u.matrix.rows && !found) {
        for (int64_t row = 0; row < u.matrix.rows && !found && !code; row++) {
            size_t length;
            const char *id = users_id(&u, row, &length);
            if (length != strlen(user) || memcmp(id, user, length) != 0) continue;
            found = 1;
            code = print_user(r, c, &u, row);
        }
        if (code) break;
    }
    if (!code && !found) {
        code = error_set(EX_DATAERR, "--explain %s: no such user among the %lld of the input", user,
                         (long long)history_counts(history)->users);
    }
    users_free(&u);
    return code;
}
