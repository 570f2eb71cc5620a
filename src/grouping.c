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
    int64_t n_items, memory, rows, n_users;
    uint8_t *marks; /* [n_items] */
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
    free(p->first);
    free(p->indptr);
    *p = (struct pile){0};
}

static int64_t pile_bytes(const struct pile *p) {
    return p->users.room + p->users.capacity * 8 + p->users.n_slots * 8 + /* grouped: */ p->room * 12 +
           (int64_t)p->users.n * 16;
}

static int grow(void *array, int64_t n, size_t size) {
    void **to = array, *larger = realloc(*to, (size_t)n * size);
    if (!larger) return error_memory("the users' rows", (unsigned long long)n * size);
    *to = larger;
    return 0;
}

static int pile_add(struct pile *p, const char *id, size_t length, int32_t item, int64_t number) {
    int32_t user, before = p->users.n;
    int code = ids_add(&p->users, id, length, &user);
    if (code) return code;
    if (p->n == p->room) {
        int64_t room = p->room ? 2 * p->room : 4096;
        if (grow(&p->user, room, sizeof *p->user) || grow(&p->item, room, sizeof *p->item)) return EX_OSERR;
        p->room = room;
    }
    p->user[p->n] = user;
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
    p->indptr = calloc((size_t)users + 2, sizeof *p->indptr);
    if (!grouped || !p->indptr) {
        free(grouped);
        return error_memory("the users' rows", (unsigned long long)p->n * sizeof *grouped);
    }
    int64_t *at = p->indptr + 1; /* at[u]: where u's next row goes; in the end where the next user's begin */
    for (int64_t i = 0; i < p->n; i++) at[p->user[i] + 1]++;
    for (int64_t u = 1; u <= users; u++) at[u] += at[u - 1];
    for (int64_t i = 0; i < p->n; i++) grouped[at[p->user[i]]++] = p->item[i];
    free(p->user);
    free(p->item);
    p->user = NULL;
    p->item = grouped;
    return 0;
}

static int ascending(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

int64_t grouping_settle(int32_t *rows, int64_t n, uint8_t *marks, int64_t *unknown) {
    int64_t kept = 0;
    *unknown = 0;
    for (int64_t i = 0; i < n; i++) {
        if (rows[i] == GROUPING_UNKNOWN) {
            ++*unknown;
        } else {
            marks[rows[i] < 0 ? ~rows[i] : rows[i]] = rows[i] < 0 ? 2 : 1;
        }
    }
    for (int64_t i = 0; i < n; i++) {
        if (rows[i] == GROUPING_UNKNOWN) continue;
        int32_t item = rows[i] < 0 ? ~rows[i] : rows[i];
        int is_wanted = marks[item] == 1;
        marks[item] = 0;
        if (is_wanted) rows[kept++] = item;
    }
    qsort(rows, (size_t)kept, sizeof *rows, ascending);
    return kept;
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

static int write_row(struct grouping *g, const char *id, size_t length, int32_t item, int64_t number) {
    FILE *file = g->file[ids_hash(IDS_HASH_START, id, length) % FILES];
    struct row_head head = {number, item, (int32_t)length};
    int code = put(file, &head, sizeof head);
    return code ? code : put(file, id, length);
}

/* The pile has grown too large: its rows go to files, and all that follow. */
static int move_to_files(struct grouping *g) {
    int code = 0;
    for (int i = 0; i < FILES && !code; i++) code = open_file(&g->file[i]);
    for (int64_t i = 0; i < g->pile.n && !code; i++) {
        size_t length;
        const char *id = ids_text(&g->pile.users, g->pile.user[i], &length);
        code = write_row(g, id, length, g->pile.item[i], i);
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
        int32_t *rows = p->item + p->indptr[u];
        struct head head = {.first = p->first[u], .length = (int64_t)length};
        head.n = grouping_settle(rows, p->indptr[u + 1] - p->indptr[u], g->marks, &head.unknown);
        code = put(file, &head, sizeof head);
        if (!code) code = put(file, id, length);
        if (!code) code = put(file, rows, (size_t)head.n * sizeof *rows);
    }
    g->n_users += p->users.n;
    return code;
}

/* Reads a file of rows, groups them and replaces it by a file of groups, ready to be read. */
static int group_file(struct grouping *g, FILE **file) {
    struct row_head head;
    FILE *groups = NULL;
    int code = start_reading(*file);
    while (!code && fread(&head, sizeof head, 1, *file) == 1) {
        code = get(*file, g->id, (size_t)head.length);
        if (!code) code = pile_add(&g->pile, g->id, (size_t)head.length, head.item, head.number);
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

int grouping_create(int64_t n_items, int64_t memory, struct grouping **grouping) {
    struct grouping *g = calloc(1, sizeof *g);
    *grouping = g;
    if (!g) return error_memory("the users' rows", sizeof *g);
    g->n_items = n_items;
    g->memory = memory;
    g->marks = calloc((size_t)n_items, sizeof *g->marks);
    g->id = malloc(ID_MAX);
    if (g->marks && g->id) return 0;
    grouping_free(g);
    *grouping = NULL;
    return error_memory("the users' rows", (unsigned long long)n_items);
}

void grouping_free(struct grouping *g) {
    if (!g) return;
    pile_free(&g->pile);
    for (int i = 0; i < FILES; i++) {
        if (g->file[i]) fclose(g->file[i]);
    }
    free(g->marks);
    free(g->id);
    free(g->items);
    free(g);
}

int grouping_add(struct grouping *g, const char *id, size_t length, int32_t item) {
    int64_t number = g->rows++;
    if (g->in_files) return write_row(g, id, length, item, number);
    int code = pile_add(&g->pile, id, length, item, number);
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
        int32_t *rows = p->item + p->indptr[u];
        *id = ids_text(&p->users, (int32_t)u, length);
        *n = grouping_settle(rows, p->indptr[u + 1] - p->indptr[u], g->marks, unknown);
        *items = rows;
        return 0;
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
