/* See choices.h. */
#include "choices.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>

#include "error.h"
#include "path.h"

enum { LINE_SIZE = CHOICE_KEY_MAX + CHOICE_WORDS * 16 + 8 };

struct choices {
    char *path;
    struct choice *choice;
    int n;
    long read; /* bytes of the file */
};

int choice_read(const char *line, struct choice *choice) {
    const char *end = strchr(line, ';');
    if (!end || end == line || end - line >= CHOICE_KEY_MAX) return 0;
    *choice = (struct choice){0};
    memcpy(choice->key, line, (size_t)(end - line));
    for (int i = 0; i < CHOICE_WORDS * 16; i++) {
        const char digits[] = "0123456789abcdef", *digit = *++end ? strchr(digits, *end) : NULL;
        if (!digit) return 0;
        choice->word[i / 16] = choice->word[i / 16] << 4 | (uint64_t)(digit - digits);
    }
    return strcmp(end + 1, "\n") == 0;
}

static int remember(struct choices *c, const struct choice *choice) {
    struct choice *grown = realloc(c->choice, (size_t)(c->n + 1) * sizeof *grown);
    if (!grown) return error_memory("choices", (size_t)(c->n + 1) * sizeof *grown);
    c->choice = grown;
    grown[c->n++] = *choice;
    return 0;
}

/* What the file has beyond what was read. */
static int read_on(struct choices *c, FILE *file) {
    char line[LINE_SIZE];
    struct choice choice;
    int code = 0;
    if (fseek(file, c->read, SEEK_SET)) return 0;
    while (!code && fgets(line, sizeof line, file)) {
        if (choice_read(line, &choice)) code = remember(c, &choice);
    }
    c->read = ftell(file);
    return code;
}

int choices_open(const char *path, struct choices **choices) {
    struct choices *c = calloc(1, sizeof *c);
    *choices = c;
    if (!c || !(c->path = strdup(path))) return error_memory("choices", sizeof *c);
    int code = path_check(path);
    if (code) return code;
    FILE *file = fopen(path, "a+");
    if (!file) return error_set(EX_CANTCREAT, "%s: cannot be written: want a file for choices", path);
    code = read_on(c, file);
    fclose(file);
    return code;
}

void choices_close(struct choices *choices) {
    if (!choices) return;
    free(choices->path);
    free(choices->choice);
    free(choices);
}

const struct choice *choices_find(const struct choices *choices, const char *key) {
    for (int i = choices->n - 1; i >= 0; i--) {
        if (strcmp(choices->choice[i].key, key) == 0) return &choices->choice[i];
    }
    return NULL;
}

static int append(struct choices *c, FILE *file, const struct choice *choice) {
    char line[LINE_SIZE] = "";
    int used = snprintf(line, sizeof line, "%s;", choice->key);
    for (int i = 0; i < CHOICE_WORDS; i++) {
        used += snprintf(line + used, sizeof line - (size_t)used, "%016" PRIx64, choice->word[i]);
    }
    int failed = fprintf(file, "%s\n", line) < 0 || fflush(file); /* one write */
    return failed ? error_set(EX_IOERR, "%s: cannot be written", c->path) : remember(c, choice);
}

int choices_add(struct choices *choices, struct choice *choice) {
    FILE *file = fopen(choices->path, "a+");
    if (!file) return error_set(EX_IOERR, "%s: cannot be written", choices->path);
    flock(fileno(file), LOCK_EX); /* where the file system has none, ranks may choose for themselves */
    int known = choices->n, code = read_on(choices, file), is_theirs = 0;
    for (int i = known; i < choices->n && !code && !is_theirs; i++) {
        is_theirs = strcmp(choices->choice[i].key, choice->key) == 0;
        if (is_theirs) *choice = choices->choice[i];
    }
    if (!code && !is_theirs) code = append(choices, file, choice);
    choices->read = ftell(file);
    fclose(file);
    return code;
}
