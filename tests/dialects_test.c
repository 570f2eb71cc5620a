/* Random tables, written in every dialect and read back: the rows have to be those that were written. A table
 * of fewer than ENOUGH rows may be refused as undecidable; options then have to read it. After one byte was
 * changed the file is refused, or has the same number of rows and one other row at most.
 *
 *     dialects_test [N [SEED]]       N tables (10,000) from this seed on (1); "1 SEED" is one of them again
 */
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "csv.h"
#include "error.h"
#include "philox.h"

enum { ROWS_MAX = 40, ID_MAX = 64, COLUMNS_MAX = 6, TEXT_MAX = 1 << 16, ENOUGH = 8 };
enum kind { USER, ITEM, RATING, TIME, OTHER };
enum quoting { QUOTE_NONE, QUOTE_MINIMAL, QUOTE_ALL };
enum header { HEADER_NONE, HEADER_USUAL, HEADER_RECBOLE };

static const char *const delimiters[] = {",", "\t", ";", "|", "::", " "};
static const char *const ends[] = {"\n", "\r\n", "\r"};
static const char *const end_names[] = {"LF", "CRLF", "CR"};
static const char *const quotings[] = {"no quotes", "quotes where needed", "all quoted"};
static const char *const headers[] = {"no header", "header", "RecBole's header"};
static const char *const compressions[] = {"plain", "gzip", "zstd"};
static const char *const usual[][5] = {{"userId", "user_id", "visitorid", "reviewerID", "User-ID"},
                                       {"movieId", "item_id", "asin", "business_id", "song_id"},
                                       {"rating", "Rating", "stars", "overall", "score"},
                                       {"timestamp", "time", "date", "unixReviewTime", "Timestamp"},
                                       {"title", "price", "", "category", "text"}};
static const char *const recbole[] = {"user_id:token", "item_id:token", "rating:float", "timestamp:float",
                                      "title:token_seq"};

struct dialect {
    const char *delimiter;
    enum quoting quoting;
    enum header header;
    int end, compression;
    bool bom, unended, decimal_comma, dates;
    int n_columns;
    enum kind column[COLUMNS_MAX];
    const char *name[COLUMNS_MAX]; /* of the header */
};

struct row {
    char user[ID_MAX], item[ID_MAX];
    double rating, time;
};

struct table {
    int n;
    struct row row[ROWS_MAX];
};

struct text {
    char text[TEXT_MAX];
    size_t used;
};

/* Random numbers */

static uint64_t table_seed;
static uint32_t n_drawn;

static int draw(int n) { /* 0 .. n - 1 */
    return (int)(philox(table_seed, PHILOX_SYNTHESIZE, 0, 0, n_drawn++).lane[0] % (uint32_t)n);
}

static bool chance(int percent) {
    return draw(100) < percent;
}

/* Making tables */

__attribute__((format(printf, 2, 3))) static void add(struct text *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->text + t->used, TEXT_MAX - t->used, format, args);
    va_end(args);
    if (n < 0 || t->used + (size_t)n >= TEXT_MAX) {
        printf("not ok - a text is too long for this test\n");
        exit(1);
    }
    t->used += (size_t)n;
}

static bool needs_quotes(const struct dialect *d, const char *field) {
    size_t length = strlen(field);
    const char *special = strcmp(d->delimiter, "::") == 0 ? "\"\r\n:"
                          : *d->delimiter == ' '          ? "\"\r\n\t"
                                                          : "\"\r\n";
    return !length || strpbrk(field, special) || strstr(field, d->delimiter) || field[0] == ' ' ||
           field[length - 1] == ' ';
}

/* Can the id be written in this dialect? Without quotes, a quote is a character; with lines that end with CR,
 * LF within quotes would be undecidable. */
static bool can_be_written(const struct dialect *d, const char *id) {
    char copy[ID_MAX], *to = copy;
    if (d->end == 2 && strchr(id, '\n')) return false;
    for (const char *c = id; *c; c++) *to++ = *c == '"' ? '_' : *c;
    *to = '\0';
    return d->quoting != QUOTE_NONE || !needs_quotes(d, copy);
}

/* An id of one of several alphabets; without quotes in the dialect it needs none. */
static void make_id(const struct dialect *d, int alphabet, char id[ID_MAX]) {
    static const char *const words[] = {"red", "blue note", "Ås",   "三体", "O'Neil",
                                        "x-y", "tea",       "Über", "7up"};
    static const char *const odd[] = {", ", ";", "|", "::", "\t", "\"", "\n", "\"\"", " ", "'", "\\", "/"};
    if (d->quoting == QUOTE_NONE && strcmp(d->delimiter, " ") == 0 && alphabet == 4) alphabet = 6;
    do {
        switch (alphabet) {
        case 0:
            snprintf(id, ID_MAX, "%d", 1 + draw(100000));
            break;
        case 1:
            snprintf(id, ID_MAX, "%08x", (unsigned)draw(1 << 30) * 4U);
            break;
        case 2:
            snprintf(id, ID_MAX, "B0%02d%c%c%d", draw(100), 'A' + draw(26), 'A' + draw(26), draw(1000));
            break;
        case 3:
            snprintf(id, ID_MAX, "u%d", draw(5000));
            break;
        case 4:
            snprintf(id, ID_MAX, "%s %s", words[draw(9)], words[draw(9)]);
            break;
        case 5:
            snprintf(id, ID_MAX, "%s%s%s", words[draw(9)], chance(40) ? odd[draw(12)] : "", words[draw(9)]);
            break;
        default:
            snprintf(id, ID_MAX, "%s%s", chance(20) ? "\"" : "", words[draw(9)]);
            break;
        }
    } while (!can_be_written(d, id));
}

static void make_dialect(struct dialect *d) {
    *d = (struct dialect){.delimiter = delimiters[draw(6)], .quoting = (enum quoting)draw(3), .end = draw(3)};
    d->header = (enum header)draw(3);
    d->bom = chance(20);
    d->unended = chance(20);
    d->compression = chance(70) ? 0 : 1 + draw(2);
    bool rated = chance(65), timed = chance(50);
    d->decimal_comma = rated && !strchr(", ", *d->delimiter) && chance(20);
    d->dates = timed && chance(30);
    d->column[d->n_columns++] = USER;
    d->column[d->n_columns++] = ITEM;
    if (rated) d->column[d->n_columns++] = RATING;
    if (timed) d->column[d->n_columns++] = TIME;
    if (!d->header) return;
    if (chance(30)) d->column[d->n_columns++] = OTHER;
    for (int i = d->n_columns - 1; i > 0; i--) { /* shuffled */
        int j = draw(i + 1);
        enum kind kept = d->column[i];
        d->column[i] = d->column[j];
        d->column[j] = kept;
    }
    for (int i = 0; i < d->n_columns; i++) {
        d->name[i] = d->header == HEADER_RECBOLE ? recbole[d->column[i]] : usual[d->column[i]][draw(5)];
        if (!*d->name[i] && strcmp(d->delimiter, " ") == 0)
            d->name[i] = "text"; /* an empty field cannot be seen */
    }
}

static bool has(const struct dialect *d, enum kind kind) {
    for (int i = 0; i < d->n_columns; i++) {
        if (d->column[i] == kind) return true;
    }
    return false;
}

static void make_table(const struct dialect *d, struct table *t) {
    int users = draw(7), items = draw(7), size = draw(10);
    t->n = size < 2 ? 1 + draw(3) : size < 4 ? 4 + draw(4) : ENOUGH + draw(ROWS_MAX - ENOUGH + 1);
    for (int i = 0; i < t->n; i++) {
        struct row *r = &t->row[i];
        make_id(d, users, r->user);
        make_id(d, items, r->item);
        r->rating = has(d, RATING) ? 0.5 * (1 + draw(10)) : 1;
        r->time = has(d, TIME) ? 1000000000 + draw(500000000) : 0;
        if (d->dates) r->time -= fmod(r->time, 86400);
    }
}

/* Writing */

static void add_field(const struct dialect *d, struct text *t, const char *field) {
    if (d->quoting == QUOTE_NONE || (d->quoting == QUOTE_MINIMAL && !needs_quotes(d, field))) {
        add(t, "%s", field);
        return;
    }
    add(t, "\"");
    for (; *field; field++) add(t, *field == '"' ? "\"\"" : "%c", *field);
    add(t, "\"");
}

static void add_date(double time, char *field) {
    int64_t days = (int64_t)(time / 86400), year = 1970;
    static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    for (;;) {
        bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        if (days < 365 + leap) break;
        days -= 365 + leap;
        year++;
    }
    int month = 0;
    for (;; month++) {
        int length = lengths[month] + (month == 1 && year % 4 == 0);
        if (days < length) break;
        days -= length;
    }
    snprintf(field, ID_MAX, "%d-%02d-%02d", (int)year, month + 1, (int)days + 1);
}

/* The table as text; *header_size: the bytes before its first row. */
static void write_text(const struct dialect *d, const struct table *table, struct text *t,
                       size_t *header_size) {
    t->used = 0;
    if (d->bom) add(t, "\xef\xbb\xbf");
    for (int i = -1; i < table->n; i++) {
        if (i < 0 && !d->header) continue;
        for (int c = 0; c < d->n_columns; c++) {
            const struct row *r = &table->row[i < 0 ? 0 : i];
            char field[ID_MAX] = "some text";
            if (c) add(t, "%s", d->delimiter);
            if (i < 0) {
                snprintf(field, sizeof field, "%s", d->name[c]);
            } else if (d->column[c] == USER) {
                memcpy(field, r->user, ID_MAX);
            } else if (d->column[c] == ITEM) {
                memcpy(field, r->item, ID_MAX);
            } else if (d->column[c] == RATING) {
                snprintf(field, sizeof field, d->decimal_comma ? "%.1f" : "%g", r->rating);
                char *point = d->decimal_comma ? strchr(field, '.') : NULL;
                if (point) *point = ',';
            } else if (d->column[c] == TIME && d->dates) {
                add_date(r->time, field);
            } else if (d->column[c] == TIME) {
                snprintf(field, sizeof field, "%.0f", r->time);
            } else if (d->quoting == QUOTE_NONE && strcmp(d->delimiter, " ") == 0) {
                snprintf(field, sizeof field, "text");
            }
            add_field(d, t, field);
        }
        if (i < table->n - 1 || !d->unended) add(t, "%s", ends[d->end]);
        if (i < 0) *header_size = t->used;
    }
    if (!d->header) *header_size = d->bom ? 3 : 0;
}

static char path[64];

static void write_file(const struct text *t, int compression) {
    static unsigned char packed[TEXT_MAX + 4096];
    const void *bytes = t->text;
    size_t size = t->used;
    if (compression == 1) {
        z_stream z = {0};
        deflateInit2(&z, 1, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
        z.next_in = (unsigned char *)(uintptr_t)t->text;
        z.avail_in = (uInt)size;
        z.next_out = packed;
        z.avail_out = sizeof packed;
        deflate(&z, Z_FINISH);
        size = z.total_out;
        bytes = packed;
        deflateEnd(&z);
    } else if (compression == 2) {
        size = ZSTD_compress(packed, sizeof packed, t->text, size, 1);
        bytes = packed;
    }
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) {
        printf("not ok - %s cannot be written\n", path);
        exit(1);
    }
}

/* Reading */

/* The rows of the file; of more than ROWS_MAX only the number. Returns the last code. */
static int read_file(const struct csv_options *options, struct table *t, bool *rated, bool *timed) {
    struct csv *csv;
    struct csv_row row;
    t->n = 0;
    int code = csv_open(path, options, &csv);
    if (code) return code;
    *rated = csv_has_ratings(csv);
    *timed = csv_has_times(csv);
    while (!(code = csv_next(csv, &row)) && row.user) {
        if (t->n < ROWS_MAX) {
            struct row *r = &t->row[t->n];
            snprintf(r->user, ID_MAX, "%.*s", (int)row.user_length, row.user);
            snprintf(r->item, ID_MAX, "%.*s", (int)row.item_length, row.item);
            r->rating = row.rating;
            r->time = row.time;
        }
        t->n++;
    }
    csv_close(csv);
    return code;
}

static bool equal(double a, double b) {
    return a <= b && a >= b;
}

static bool same_row(const struct row *a, const struct row *b, bool ids_only) {
    return strcmp(a->user, b->user) == 0 && strcmp(a->item, b->item) == 0 &&
           (ids_only || (equal(a->rating, b->rating) && equal(a->time, b->time)));
}

static int count_changed(const struct table *a, const struct table *b, int shift, bool ids_only) {
    int n = 0;
    for (int i = 0; i + shift < a->n && i < b->n; i++)
        n += !same_row(&a->row[i + shift], &b->row[i], ids_only);
    return n;
}

/* What the options of a command line would say. */
static int set_options(const struct dialect *d, struct csv_options *o, char numbers[][8]) {
    static const char *const names[] = {"user-column", "item-column", "rating-column", "time-column"};
    *o = (struct csv_options){0};
    int code = csv_set_option(o, "delimiter", strcmp(d->delimiter, "\t") == 0 ? "\\t" : d->delimiter);
    if (!code) code = csv_set_option(o, "quote", d->quoting == QUOTE_NONE ? "none" : "\"");
    if (!code) code = csv_set_option(o, "header", d->header ? "yes" : "no");
    if (!code) code = csv_set_option(o, "input-format", "text");
    for (int kind = USER; kind <= TIME && !code; kind++) {
        snprintf(numbers[kind], 8, "none");
        for (int c = 0; c < d->n_columns; c++) {
            if (d->column[c] == (enum kind)kind) snprintf(numbers[kind], 8, "%d", c + 1);
        }
        code = csv_set_option(o, names[kind], numbers[kind]);
    }
    return code;
}

/* Telling */

static int n_told, n_failed, max_told = 8;

static void show_text(const struct text *t) {
    printf("        ");
    for (size_t i = 0; i < t->used && i < 1500; i++) {
        unsigned char c = (unsigned char)t->text[i];
        if (c == '\n' || c == '\r') {
            printf(c == '\n' ? "\\n" : "\\r");
            if (c == '\n' || i + 1 == t->used || t->text[i + 1] != '\n') printf("\n        ");
        } else if (c == '\t') {
            printf("\\t");
        } else if (c < ' ' || c == 0x7f) {
            printf("\\x%02x", c);
        } else {
            putchar(c);
        }
    }
    printf("\n");
}

static void show_rows(const char *title, const struct table *t) {
    printf("    %s (%d)\n", title, t->n);
    for (int i = 0; i < t->n && i < 6; i++) {
        printf("        %s|%s|%g|%.10g\n", t->row[i].user, t->row[i].item, t->row[i].rating, t->row[i].time);
    }
}

__attribute__((format(printf, 5, 6))) static void failed(const struct dialect *d, const struct table *wanted,
                                                         const struct table *found, const struct text *t,
                                                         const char *format, ...) {
    va_list args;
    n_failed++;
    if (++n_told > max_told) return;
    printf("not ok - dialects_test 1 %llu: ", (unsigned long long)table_seed);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("\n    delimiter '%s', %s, %s, %s, %s%s%s\n",
           strcmp(d->delimiter, "\t") == 0 ? "\\t" : d->delimiter, quotings[d->quoting], headers[d->header],
           end_names[d->end], compressions[d->compression], d->bom ? ", byte order mark" : "",
           d->unended ? ", no line end at the end" : "");
    show_text(t);
    show_rows("written:", wanted);
    if (found) show_rows("read:", found);
}

/* Checks */

static int n_refused[3], n_small[3], n_changed, n_noticed; /* refused: of 1-3, of 4-7 rows */

static bool check_read(const struct dialect *d, const struct table *table, const struct text *t) {
    static struct table found;
    struct csv_options options = {0};
    char numbers[4][8];
    bool rated = false, timed = false;
    int size = table->n < 4 ? 0 : table->n < ENOUGH ? 1 : 2;
    int code = read_file(&options, &found, &rated, &timed);
    n_small[size]++;
    if (code) {
        n_refused[size]++;
        /* Of words alone, nobody can say whether the first row is a header. */
        bool words = !d->header && !has(d, RATING) && !has(d, TIME) && strstr(error_message(), "--header");
        if ((size == 2 && !words) || code != EX_DATAERR) {
            failed(d, table, NULL, t, "refused, %d: %s", code, error_message());
            return false;
        }
        if (!strstr(error_message(), "--")) {
            failed(d, table, NULL, t, "the error names no option: %s", error_message());
            return false;
        }
    } else if (found.n != table->n || count_changed(table, &found, 0, false) || rated != has(d, RATING) ||
               timed != has(d, TIME)) {
        failed(d, table, &found, t, "read otherwise%s%s", rated == has(d, RATING) ? "" : ", other ratings",
               timed == has(d, TIME) ? "" : ", other times");
        return false;
    }
    if (!code && !chance(25)) return true;
    code = set_options(d, &options, numbers);
    if (!code) code = read_file(&options, &found, &rated, &timed);
    if (code) {
        failed(d, table, NULL, t, "refused in spite of options, %d: %s", code, error_message());
    } else if (found.n != table->n || count_changed(table, &found, 0, false)) {
        failed(d, table, &found, t, "read otherwise with options");
    }
    return !code;
}

/* One byte is changed. Comment signs are left out, as they may hide a line at the front. */
static void check_changed(const struct dialect *d, const struct table *table, struct text *t,
                          size_t header_size) {
    static struct table found;
    static const char signs[] = ",;|:\t \"\n\r'x5.-\\\0\1\377";
    struct csv_options options = {0};
    bool rated, timed;
    size_t at = (size_t)draw((int)t->used);
    char byte = chance(80) ? signs[draw((int)sizeof signs - 1)] : (char)draw(256), old = t->text[at];
    if (byte == '#' || byte == '%' || byte == old) return;
    t->text[at] = byte;
    write_file(t, 0);
    n_changed++;
    int code = read_file(&options, &found, &rated, &timed);
    if (code) {
        n_noticed++;
        if (code != EX_DATAERR || !*error_message())
            failed(d, table, NULL, t, "a changed byte: code %d", code);
        return;
    }
    bool in_header = d->header && at < header_size, in_first = !d->header && at < header_size + 2 * ID_MAX;
    if (found.n == table->n && count_changed(table, &found, 0, in_header) <= !in_header) return;
    /* The first row with text where the others have numbers is a header, as far as anyone can see. */
    if (in_first && found.n == table->n - 1 && !count_changed(table, &found, 1, false)) return;
    failed(d, table, &found, t, "byte %zu was '%c' (%d), is '%c' (%d): read with %d rows changed", at, old,
           old, byte >= ' ' ? byte : '?', byte, count_changed(table, &found, 0, in_header));
}

int main(int argc, char **argv) {
#ifdef __SANITIZE_ADDRESS__
    int n = 2500; /* the same time */
#else
    int n = 10000;
#endif
    if (argc > 1) n = (int)strtol(argv[1], NULL, 10);
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    if (argc > 3) max_told = (int)strtol(argv[3], NULL, 10);
    static struct table table;
    static struct text t;
    struct dialect d;
    snprintf(path, sizeof path, "%s/vaecf-dialects-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    int file = mkstemp(path);
    if (file < 0) {
        printf("not ok - %s cannot be made\n", path);
        return 1;
    }
    close(file);
    int n_unread = 0;
    for (int i = 0; i < n; i++) {
        size_t header_size = 0;
        table_seed = seed + (uint64_t)i;
        n_drawn = 0;
        make_dialect(&d);
        make_table(&d, &table);
        write_text(&d, &table, &t, &header_size);
        write_file(&t, d.compression);
        int before = n_failed;
        bool read = check_read(&d, &table, &t);
        n_unread += n_failed > before;
        if (read && table.n >= ENOUGH) check_changed(&d, &table, &t, header_size);
    }
    unlink(path);
    printf("%d tables from seed %llu: %d not read back; refused: %d of %d with 1-3 rows, %d of %d with 4-7\n",
           n, (unsigned long long)seed, n_unread, n_refused[0], n_small[0], n_refused[1], n_small[1]);
    printf("%d changed bytes: %d refused, %d misread\n", n_changed, n_noticed, n_failed - n_unread);
    if (!n_unread) printf("ok - tables are read back\n");
    if (n_failed == n_unread) printf("ok - a changed byte is noticed, or changes one row\n");
    return n_failed > 0;
}
