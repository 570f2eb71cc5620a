/* See grouping.h. */
#include "grouping.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file.h"
#include "ids.h"

enum { FILES = 256, BUFFER = 1 << 16, ID_MAX = 1 << 16 };

/* Rows in memory. */
struct pile {
    struct ids users;
    int32_t *user, *item; /* [n] as read */
    double *value;        /* [n], if the rule needs values */
    int64_t n, room;
    int64_t *first; /* [users.n] number of each user's first row (only in files) */
    int64_t first_room;
    int64_t *indptr; /* [users.n + 1] after grouping: user u's rows are item[indptr[u] ..] */
};

/* A user in a file of grouped rows. */
struct head {
    int64_t first; /* -1: the file is at its end */
    int64_t n, unknown;
    int64_t length;
};

struct grouping {
    int64_t memory, rows, n_users;
    struct settler settler;
    bool with_values;
    struct pile pile;
    int64_t next; /* user of the pile */
    int in_files;
    FILE *file[FILES];
    struct head head[FILES];
    char *id;
    int32_t *items;
    int64_t items_room;
};

/* ---- a pile ---- */

static void pile_free(struct pile *p) {
    ids_free(&p->users);
    free(p->user);
    free(p->item);
    free(p->value);
    free(p->first);
    free(p->indptr);
    *p = (struct pile){0};
}

static int64_t pile_bytes(const struct pile *p) {
    return p->users.room + p->users.capacity * 8 + p->users.n_slots * 8 +
           /* grouped: */ p->room * (p->value ? 28 : 12) + (int64_t)p->users.n * 16;
}

static int grow(void *array, int64_t n, size_t size) {
    void **to = array, *larger = realloc(*to, (size_t)n * size);
    if (!larger) return error_memory("the users' rows", (unsigned long long)n * size);
    *to = larger;
    return 0;
}

static int pile_add(struct pile *p, const char *id, size_t length, int32_t item, const double *value,
                    int64_t number) {
    int32_t user, before = p->users.n;
    int code = ids_add(&p->users, id, length, &user);
    if (code) return code;
    if (p->n == p->room) {
        int64_t room = p->room ? 2 * p->room : 4096;
        code = grow(&p->user, room, sizeof *p->user);
        if (!code) code = grow(&p->item, room, sizeof *p->item);
        if (!code && value) code = grow(&p->value, room, sizeof *p->value);
        if (code) return code;
        p->room = room;
    }
    p->user[p->n] = user;
    if (value) p->value[p->n] = *value;
    p->item[p->n++] = item;
    if (p->users.n == before) return 0;
    if (user >= p->first_room) {
        int64_t room = p->first_room ? 2 * p->first_room : 1024;
        if (grow(&p->first, room, sizeof *p->first)) return EX_OSERR;
        p->first_room = room;
    }
    p->first[user] = number;
    return 0;
}

/* Puts each user's rows together, in the order they were read. */
static int pile_group(struct pile *p) {
    int64_t users = p->users.n;
    int32_t *grouped = malloc(((size_t)p->n + 1) * sizeof *grouped);
    double *values = p->value ? malloc(((size_t)p->n + 1) * sizeof *values) : NULL;
    p->indptr = calloc((size_t)users + 2, sizeof *p->indptr);
    if (!grouped || !p->indptr || (p->value && !values)) {
        free(grouped);
        free(values);
        return error_memory("the users' rows", (unsigned long long)p->n * sizeof *grouped);
    }
    int64_t *at = p->indptr + 1; /* at[u]: where u's next row goes; in the end where the next user's begin */
    for (int64_t i = 0; i < p->n; i++) at[p->user[i] + 1]++;
    for (int64_t u = 1; u <= users; u++) at[u] += at[u - 1];
    for (int64_t i = 0; i < p->n; i++) {
        int64_t to = at[p->user[i]]++;
        grouped[to] = p->item[i];
        if (values) values[to] = p->value[i];
    }
    free(p->user);
    free(p->item);
    free(p->value);
    p->user = NULL;
    p->item = grouped;
    p->value = values;
    return 0;
}

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

int grouping_settle(struct settler *settler, int32_t *rows, double *values, int64_t n, int64_t *kept,
                    int64_t *unknown) {
    int64_t known = 0;
    for (int64_t i = 0; i < n; i++) {
        if (rows[i] == GROUPING_UNKNOWN) continue;
        if (values) values[known] = values[i];
        rows[known++] = rows[i];
    }
    *unknown = n - known;
    int code = settler_run(settler, rows, values, known, kept);
    if (!code) qsort(rows, (size_t)*kept, sizeof *rows, ascending);
    return code;
}

/* A user of the grouped pile: the wanted items come to the front of his rows. */
static int settle_user(struct grouping *g, int64_t user, int64_t *n, int64_t *unknown) {
    struct pile *p = &g->pile;
    int64_t begin = p->indptr[user], end = p->indptr[user + 1];
    return grouping_settle(&g->settler, p->item + begin, p->value ? p->value + begin : NULL, end - begin, n,
                           unknown);
}

/* ---- files ---- */

static int fail_file(const char *what) {
    return error_set(EX_IOERR, "a temporary file: cannot %s: %s (TMPDIR names its place)", what,
                     errno ? strerror(errno) : "it is too short");
}

static int open_file(FILE **file) {
    int code = file_scratch(file);
    if (!code) setvbuf(*file, NULL, _IOFBF, BUFFER);
    return code;
}

static int put(FILE *file, const void *data, size_t bytes) {
    if (!bytes || fwrite(data, bytes, 1, file) == 1) return 0;
    return fail_file("write");
}

static int get(FILE *file, void *data, size_t bytes) {
    errno = 0;
    if (!bytes || fread(data, bytes, 1, file) == 1) return 0;
    return fail_file("read");
}

static int start_reading(FILE *file) {
    return fflush(file) || fseeko(file, 0, SEEK_SET) ? fail_file("write") : 0;
}

struct row_head {
    int64_t number;
    int32_t item;
    int32_t length;
};

/* A row: row_head, the value if there is one, the id. */
static int write_row(struct grouping *g, const char *id, size_t length, int32_t item, const double *value,
                     int64_t number) {
    FILE *file = g->file[ids_hash(IDS_HASH_START, id, length) % FILES];
    struct row_head head = {number, item, (int32_t)length};
    int code = put(file, &head, sizeof head);
    if (!code && value) code = put(file, value, sizeof *value);
    return code ? code : put(file, id, length);
}

/* The pile has grown too large: its rows go to files, and all that follow. */
static int move_to_files(struct grouping *g) {
    int code = 0;
    for (int i = 0; i < FILES && !code; i++) code = open_file(&g->file[i]);
    for (int64_t i = 0; i < g->pile.n && !code; i++) {
        size_t length;
        const char *id = ids_text(&g->pile.users, g->pile.user[i], &length);
        code = write_row(g, id, length, g->pile.item[i], g->with_values ? &g->pile.value[i] : NULL, i);
    }
    pile_free(&g->pile);
    g->in_files = 1;
    return code;
}

static int write_groups(struct grouping *g, FILE *file) {
    struct pile *p = &g->pile;
    int code = pile_group(p);
    for (int32_t u = 0; u < p->users.n && !code; u++) {
        size_t length;
        const char *id = ids_text(&p->users, u, &length);
        struct head head = {.first = p->first[u], .length = (int64_t)length};
        code = settle_user(g, u, &head.n, &head.unknown);
        if (!code) code = put(file, &head, sizeof head);
        if (!code) code = put(file, id, length);
        if (!code) code = put(file, p->item + p->indptr[u], (size_t)head.n * sizeof *p->item);
    }
    g->n_users += p->users.n;
    return code;
}

/* Reads a file of rows, groups them and replaces it by a file of groups, ready to be read. */
static int group_file(struct grouping *g, FILE **file) {
    struct row_head head;
    double value = 0;
    FILE *groups = NULL;
    int code = start_reading(*file);
    while (!code && fread(&head, sizeof head, 1, *file) == 1) {
        if (g->with_values) code = get(*file, &value, sizeof value);
        if (!code) code = get(*file, g->id, (size_t)head.length);
        if (!code) {
            code = pile_add(&g->pile, g->id, (size_t)head.length, head.item, g->with_values ? &value : NULL,
                            head.number);
        }
    }
    if (!code && ferror(*file)) code = fail_file("read");
    fclose(*file);
    *file = NULL;
    if (!code) code = open_file(&groups);
    *file = groups;
    if (!code) code = write_groups(g, groups);
    if (!code) code = start_reading(groups);
    pile_free(&g->pile);
    return code;
}

static int read_head(struct grouping *g, int i) {
    struct head *head = &g->head[i];
    errno = 0;
    if (fread(head, sizeof *head, 1, g->file[i]) == 1) return 0;
    head->first = -1;
    return ferror(g->file[i]) ? fail_file("read") : 0;
}

/* ---- the whole ---- */

int grouping_create(int64_t n_items, const struct duplicates *duplicates, int64_t memory,
                    struct grouping **grouping) {
    struct grouping *g = calloc(1, sizeof *g);
    *grouping = g;
    if (!g) return error_memory("the users' rows", sizeof *g);
    g->memory = memory;
    g->with_values = duplicates_need_values(duplicates);
    g->id = malloc(ID_MAX);
    int code = g->id ? settler_open(&g->settler, duplicates, n_items) : error_memory("an id", ID_MAX);
    if (!code) return 0;
    grouping_free(g);
    *grouping = NULL;
    return code;
}

void grouping_free(struct grouping *g) {
    if (!g) return;
    pile_free(&g->pile);
    for (int i = 0; i < FILES; i++) {
        if (g->file[i]) fclose(g->file[i]);
    }
    settler_close(&g->settler);
    free(g->id);
    free(g->items);
    free(g);
}

int grouping_add(struct grouping *g, const char *id, size_t length, int32_t item, double value) {
    int64_t number = g->rows++;
    const double *kept = g->with_values ? &value : NULL;
    if (g->in_files) return write_row(g, id, length, item, kept, number);
    int code = pile_add(&g->pile, id, length, item, kept, number);
    return code || pile_bytes(&g->pile) <= g->memory ? code : move_to_files(g);
}

int grouping_finish(struct grouping *g) {
    if (!g->in_files) {
        g->n_users = g->pile.users.n;
        return pile_group(&g->pile);
    }
    int code = 0;
    for (int i = 0; i < FILES && !code; i++) code = group_file(g, &g->file[i]);
    for (int i = 0; i < FILES && !code; i++) code = read_head(g, i);
    return code;
}

int64_t grouping_users(const struct grouping *g) {
    return g->n_users;
}

int grouping_next(struct grouping *g, const char **id, size_t *length, const int32_t **items, int64_t *n,
                  int64_t *unknown) {
    struct pile *p = &g->pile;
    *id = NULL;
    if (!g->in_files) {
        if (g->next == p->users.n) return 0;
        int64_t u = g->next++;
        *id = ids_text(&p->users, (int32_t)u, length);
        *items = p->item + p->indptr[u];
        return settle_user(g, u, n, unknown);
    }
    int first = -1;
    for (int i = 0; i < FILES; i++) {
        if (g->head[i].first >= 0 && (first < 0 || g->head[i].first < g->head[first].first)) first = i;
    }
    if (first < 0) return 0;
    struct head head = g->head[first];
    if (head.n > g->items_room) {
        int code = grow(&g->items, head.n, sizeof *g->items);
        if (code) return code;
        g->items_room = head.n;
    }
    int code = get(g->file[first], g->id, (size_t)head.length);
    if (!code) code = get(g->file[first], g->items, (size_t)head.n * sizeof *g->items);
    if (!code) code = read_head(g, first);
    *id = g->id;
    *length = (size_t)head.length;
    *items = g->items;
    *n = head.n;
    *unknown = head.unknown;
    return code;
}
