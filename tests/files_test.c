/* tests/files/cases.txt: small files of many layouts, each with what is to be read from it. The table's head
 * tells its format. Each file is read row by row, in small chunks and in two parts, which have to agree.
 *
 *     files_test [TEXT]       only the cases whose first line has this text */
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "csv.h"
#include "error.h"
#include "utf8.h"

enum { WORDS_MAX = 32, CASES_MAX = 1000, FILTERS_MAX = 64, TEXT_MAX = 1 << 16 };
static const char folder[] = "tests/files/";
static char work[] = "/tmp/vaecf-files-XXXXXX";

struct text {
    char text[TEXT_MAX];
    size_t used;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->text + t->used, TEXT_MAX - t->used, format, args);
    va_end(args);
    t->used = t->used + (size_t)n < TEXT_MAX ? t->used + (size_t)n : TEXT_MAX - 1; /* the rest is cut off */
}

struct expected {
    char *head;                /* the case's first line */
    struct text rows;          /* a line each */
    bool fails, may_fail;      /* may_fail: the rows or the error, either is right */
    int code, n_words, n_says; /* of the error */
    char *words[8], *says[8];  /* that the error, or csv_description, has to have */
    long skipped;
    int line; /* in the table */
};

struct filter {
    char *name, *command;
};

static struct expected *cases[CASES_MAX];
static struct filter filters[FILTERS_MAX];
static int n_cases, n_filters;

static void die(int line, const char *what) {
    printf("not ok - %scases.txt:%d: %s\n", folder, line, what);
    exit(1);
}

/* Splits at blanks outside of '...' and "..."; \xHH is a byte. Changes the line. */
static int split_words(char *line, char **words, int max) {
    int n = 0;
    for (char *at = line; n < max; n++) {
        while (*at == ' ') at++;
        if (!*at) break;
        char *to = at, quote = '\0';
        words[n] = to;
        for (; *at && (quote || *at != ' '); at++) {
            if (quote ? *at == quote : *at == '\'' || *at == '"') {
                quote = quote ? '\0' : *at;
            } else if (at[0] == '\\' && at[1] == 'x') {
                char hex[3] = {at[2], at[3], '\0'};
                *to++ = (char)strtol(hex, NULL, 16);
                at += 3;
            } else {
                *to++ = *at;
            }
        }
        if (*at) at++;
        *to = '\0';
    }
    return n;
}

static struct expected *find_case(const char *head) {
    for (int i = 0; i < n_cases; i++) {
        if (strcmp(cases[i]->head, head) == 0) return cases[i];
    }
    return NULL;
}

/* A line of a case: what is expected. */
static void take_line(struct expected *e, char *line, int number) {
    bool either = strncmp(line, "or refused ", 11) == 0;
    if (either) line += 3;
    if (strncmp(line, "refused ", 8) == 0) {
        e->fails = !either;
        e->may_fail = either;
        e->code = (int)strtol(line + 8, &line, 10);
        e->n_words = split_words(line, e->words, 8);
    } else if (strncmp(line, "says ", 5) == 0) {
        e->n_says = split_words(line + 5, e->says, 8);
    } else if (strncmp(line, "skipped ", 8) == 0) {
        e->skipped = strtol(line + 8, NULL, 10);
    } else if (strncmp(line, "as ", 3) == 0) {
        const struct expected *other = find_case(line + 3);
        if (!other) die(number, "there is no such case above");
        e->rows = other->rows;
    } else if (strcmp(line, "no rows") != 0) {
        if (!strchr(line, '|')) die(number, "this is no row");
        add(&e->rows, "%s\n", line);
    }
}

static void read_table(void) {
    static char kept[1 << 20];
    size_t n_kept = 0;
    char path[256];
    snprintf(path, sizeof path, "%scases.txt", folder);
    FILE *file = fopen(path, "r");
    if (!file) die(0, "it cannot be read");
    char *line = NULL;
    size_t room = 0;
    ssize_t size;
    bool filled = true;
    for (int number = 1; (size = getline(&line, &room, file)) > 0; number++) {
        if (line[size - 1] == '\n') line[size - 1] = '\0';
        if (!*line || *line == '#') continue;
        char *copy = kept + n_kept; /* until the end */
        if (n_kept + (size_t)size >= sizeof kept) die(number, "the table is too long for this test");
        memcpy(copy, line, strlen(line) + 1);
        n_kept += strlen(line) + 1;
        if (strncmp(copy, "filter ", 7) == 0) {
            struct filter *f = &filters[n_filters++];
            f->name = copy + 7;
            f->command = strchr(f->name, ' ');
            if (!f->command || n_filters == FILTERS_MAX) die(number, "want: filter NAME COMMAND");
            *f->command++ = '\0';
        } else if (strncmp(copy, "    ", 4) != 0) {
            if (!filled) die(number - 1, "this case expects nothing");
            if (n_cases == CASES_MAX) die(number, "too many cases");
            if (find_case(copy)) die(number, "this case is there twice");
            cases[n_cases] = calloc(1, sizeof **cases);
            if (!cases[n_cases]) die(number, "no memory");
            cases[n_cases]->head = copy;
            cases[n_cases++]->line = number;
            filled = false;
        } else {
            if (!n_cases) die(number, "no case begins before this line");
            take_line(cases[n_cases - 1], copy + 4, number);
            filled = true;
        }
    }
    free(line);
    fclose(file);
}

/* The path of the file that "gzip of NAME" says, made in `work` if there is a filter. */
static bool make_file(char **words, int *n_used, char *path, size_t room) {
    struct text command = {.used = 0};
    int first = 0;
    while (words[first + 1] && strcmp(words[first + 1], "of") == 0) first += 2;
    const char *name = words[first];
    *n_used = first + 1;
    snprintf(path, room, "%s%s", folder, name);
    if (!first) return true;
    add(&command, "cat %s", path);
    for (int i = first - 2; i >= 0; i -= 2) {
        int f = 0;
        while (f < n_filters && strcmp(filters[f].name, words[i]) != 0) f++;
        if (f == n_filters) return false;
        add(&command, " | (%s)", filters[f].command);
    }
    snprintf(path, room, "%s/%s", work, name);
    add(&command, " >%s", path);
    return system(command.text) == 0; /* NOLINT: the table's own commands */
}

static void add_id(struct text *t, const char *id, size_t length) {
    for (size_t i = 0, n; i < length; i += n) {
        unsigned char c = (unsigned char)id[i];
        size_t character = utf8_length(id + i, length - i);
        n = character ? character : 1;
        if (c == '\n') {
            add(t, "\\n");
        } else if (c < ' ' || c == '|' || c == '\\' || c == 0x7f || !character) {
            add(t, "\\x%02x", c);
        } else {
            add(t, "%.*s", (int)n, id + i);
        }
    }
}

static void add_row(struct text *t, const struct csv *csv, const struct csv_row *row) {
    bool rated = csv_has_ratings(csv) || csv_has_events(csv);
    add_id(t, row->user, row->user_length);
    add(t, "|");
    add_id(t, row->item, row->item_length);
    if (rated && isnan(row->rating)) {
        add(t, "|nan");
    } else if (rated || row->rating < 1 || row->rating > 1) {
        add(t, "|%.12g", row->rating);
    } else if (csv_has_times(csv)) {
        add(t, "|");
    }
    if (csv_has_times(csv)) add(t, "|%.16g", row->time);
    add(t, "\n");
}

/* All rows, one by one. Returns the last code. */
static int read_rows(const char *path, const struct csv_options *options, struct text *rows,
                     struct text *says, long *skipped) {
    struct csv *csv;
    struct csv_row row;
    int code = csv_open(path, options, &csv);
    if (code) return code;
    add(says, "%s; %s", csv_description(csv), csv_notes(csv));
    while (!(code = csv_next(csv, &row)) && row.user) add_row(rows, csv, &row);
    *skipped = (long)csv_counts(csv)->skipped;
    csv_close(csv);
    return code;
}

static int read_chunks(struct csv *csv, struct text *rows) {
    struct csv_chunk chunk = {0};
    struct csv_row batch[5];
    int n;
    int code;
    while (!(code = csv_read(csv, &chunk)) && chunk.size) {
        while (!(code = csv_parse(csv, &chunk, batch, 5, &n)) && n) {
            for (int i = 0; i < n; i++) add_row(rows, csv, &batch[i]);
        }
        if (code) break;
    }
    csv_chunk_free(&chunk);
    return code;
}

/* The same in chunks of a few bytes, and, of plain files, in two parts, cut at `middle` (0: in one). */
static int read_parts(const char *path, struct csv_options options, int64_t middle, struct text *rows,
                      bool *plain) {
    struct csv *csv;
    int64_t first, end, size = 0;
    options.chunk_size = 40;
    int code = csv_open(path, &options, &csv);
    if (code) return code;
    *plain = csv_is_plain(csv, &size) && middle < size;
    if (middle && *plain) {
        code = csv_seek(csv, 0, middle, false, &first);
        if (!code) code = read_chunks(csv, rows);
        end = csv_offset(csv);
        if (!code) code = csv_seek(csv, middle, INT64_MAX, false, &first);
        if (!code && first != end) code = csv_seek(csv, end, INT64_MAX, true, &first);
    }
    if (!code) code = read_chunks(csv, rows);
    csv_close(csv);
    return code;
}

static int n_wrong; /* of the case at hand */

__attribute__((format(printf, 2, 3))) static void wrong(const struct expected *e, const char *format, ...) {
    va_list args;
    if (!n_wrong++) printf("not ok - %s   (%scases.txt:%d)\n", e->head, folder, e->line);
    printf("    ");
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n");
}

static void show(const char *title, const struct text *t) {
    printf("    %s\n", title);
    for (const char *at = t->text, *end; (end = strchr(at, '\n')); at = end + 1) {
        printf("        %.*s\n", (int)(end - at), at);
    }
}

static void check_error(const struct expected *e, int code, const char *path) {
    const char *message = error_message(), *name = strrchr(path, '/') + 1;
    if (code != e->code) wrong(e, "exit code %d, expected %d", code, e->code);
    if (strchr(message, '\n')) wrong(e, "the error has more than one line");
    if (e->code != EX_USAGE && !strstr(message, name)) wrong(e, "the error does not name the file");
    for (int i = 0; i < e->n_words; i++) {
        if (!strstr(message, e->words[i])) wrong(e, "the error does not have: %s", e->words[i]);
    }
    if (n_wrong) printf("    the error: %s\n", message);
}

static void check_rows(const struct expected *e, const struct text *rows, const char *how) {
    if (strcmp(rows->text, e->rows.text) == 0) return;
    wrong(e, "%s", how);
    show("expected:", &e->rows);
    show("found:", rows);
}

static void check_case(const struct expected *e) {
    static struct text rows, says;
    char *words[WORDS_MAX + 1] = {NULL}, path[512], *head = strdup(e->head);
    int used, code = 0, n = head ? split_words(head, words, WORDS_MAX) : 0;
    struct csv_options options = {0};
    bool plain = true;
    long skipped = 0;
    n_wrong = 0;
    rows.used = says.used = 0;
    rows.text[0] = says.text[0] = '\0';
    if (!make_file(words, &used, path, sizeof path)) {
        wrong(e, "the file cannot be made");
        free(head);
        return;
    }
    for (int i = used; i < n && !code; i += 2) {
        if (strncmp(words[i], "--", 2) != 0 || i + 1 == n) die(e->line, "want: FILE --OPTION VALUE ...");
        code = csv_set_option(&options, words[i] + 2, words[i + 1]);
    }
    if (!code) code = read_rows(path, &options, &rows, &says, &skipped);
    if (code && (e->fails || e->may_fail)) {
        check_error(e, code, path);
    } else if (code) {
        wrong(e, "refused, code %d: %s", code, error_message());
    } else if (e->fails) {
        wrong(e, "read, but should be refused with %d", e->code);
        show("found:", &rows);
    } else {
        check_rows(e, &rows, "other rows than expected");
        if (skipped != e->skipped) wrong(e, "%ld rows skipped, expected %ld", skipped, e->skipped);
        for (int i = 0; i < e->n_says; i++) {
            if (!strstr(says.text, e->says[i])) wrong(e, "'%s' does not have: %s", says.text, e->says[i]);
        }
        for (int64_t middle = 0; !n_wrong && plain && middle < 400; middle += 1 + middle / 4) {
            rows.used = 0;
            rows.text[0] = '\0';
            code = read_parts(path, options, middle, &rows, &plain);
            if (code) wrong(e, "cut at byte %ld: refused, code %d: %s", (long)middle, code, error_message());
            if (!code && plain) check_rows(e, &rows, "other rows in chunks or parts");
            if (n_wrong) printf("    (cut at byte %ld)\n", (long)middle);
        }
    }
    if (!n_wrong) printf("ok - %s\n", e->head);
    if (strncmp(path, work, strlen(work)) == 0) unlink(path);
    free(head);
}

/* Is the program built with the libraries for this case? */
static bool can_be_read(const char *head) {
#ifndef VAECF_LZMA
    if (strstr(head, "xz of ")) return false;
#endif
#ifndef VAECF_BZ2
    if (strstr(head, "bzip2 of ")) return false;
#endif
    return *head != '\0';
}

int main(int argc, char **argv) {
    int n_failed = 0, n_run = 0;
    read_table();
    if (!mkdtemp(work)) die(0, "no temporary folder");
    for (int i = 0; i < n_cases; i++) {
        if (argc > 1 && !strstr(cases[i]->head, argv[1])) continue;
        if (!can_be_read(cases[i]->head)) {
            printf("skipped: %s: not built in\n", cases[i]->head);
            continue;
        }
        n_run++;
        check_case(cases[i]);
        if (n_wrong) n_failed++;
    }
    rmdir(work);
    printf("%d cases, %d failed\n", n_run, n_failed);
    return n_failed || !n_run;
}
