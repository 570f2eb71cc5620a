/* preprocess/csv.c: what counts as a row, and what is said about the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <cmocka.h>

#include "csv.h"
#include "fields.h"
#include "error.h"

static char path[] = "/tmp/vaecf-csv-XXXXXX"; /* of the one file that the tests write anew each time */

static void write_bytes(const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static char rows[1 << 16]; /* "user|item|rating|line;" of every row */

/* Reads the file; the rows are in `rows`. Returns the last code. */
static int read_path(const char *name, const struct csv_options *options, int64_t *skipped) {
    struct csv *csv;
    struct csv_row row;
    size_t used = 0;
    rows[0] = '\0';
    int code = csv_open(name, options, &csv);
    if (code) {
        assert_null(csv);
        return code;
    }
    while (!(code = csv_next(csv, &row)) && row.user) {
        used += (size_t)snprintf(rows + used, sizeof rows - used, "%.*s|%.*s|%g|%lld;", (int)row.user_length,
                                 row.user, (int)row.item_length, row.item, row.rating, (long long)row.line);
        if (used > sizeof rows) used = sizeof rows; /* the rest is cut off */
    }
    if (skipped) *skipped = csv_counts(csv)->skipped;
    csv_close(csv);
    return code;
}

static int read_bytes(const void *bytes, size_t size, const struct csv_options *options) {
    write_bytes(bytes, size);
    return read_path(path, options, NULL);
}

static void check(const char *text, const struct csv_options *options, const char *expected) {
    static const struct csv_options none;
    int code = read_bytes(text, strlen(text), options ? options : &none);
    if (code) print_error("%s\n", error_message());
    assert_int_equal(code, 0);
    assert_string_equal(rows, expected);
}

/* The text fails, after the rows `expected`, with a message that has these words. */
static void check_error(const char *text, size_t size, const struct csv_options *options, int code,
                        const char *words) {
    static const struct csv_options none;
    assert_int_equal(read_bytes(text, size, options ? options : &none), code);
    if (!strstr(error_message(), words)) print_error("'%s' is not in: %s\n", words, error_message());
    assert_non_null(strstr(error_message(), words));
    assert_null(strchr(error_message(), '\n'));
}

static void delimiters(void **state) {
    (void)state;
    check("1,2,3\n4,5,6\n", NULL, "1|2|3|1;4|5|6|2;");
    check("1\t2\t3\n4\t5\t6\n", NULL, "1|2|3|1;4|5|6|2;");
    check("1::2::3::99\n4::5::6::99\n", NULL, "1|2|3|1;4|5|6|2;");
    check("a,b\tc,d\ne,b\tc,f\n", NULL, "a,b|c,d|1|1;e,b|c,f|1|2;"); /* no id has a tab */
    check("\"a\",b::c\n", NULL, "a|b::c|1|1;");
    check("p,Foo::Bar\n", &(struct csv_options){.delimiter = ","}, "p|Foo::Bar|1|1;");
    check("p,Foo::Bar\nq,Foo\n", NULL, "p|Foo::Bar|1|1;q|Foo|1|2;");
    check_error("p,Foo::Bar\n", 11, NULL, EX_DATAERR, "say --delimiter '::' or --delimiter ','");
    check("\"a\tb\",c\n", NULL, "a\tb|c|1|1;"); /* not within quotes */
    check("1 2 3\n4 5 6\n", &(struct csv_options){.delimiter = " "}, "1|2|3|1;4|5|6|2;");
    check("1;2;3\n", &(struct csv_options){.delimiter = ";"}, "1|2|3|1;");
    check("1<>2<>3\n", &(struct csv_options){.delimiter = "<>"}, "1|2|3|1;");
    check("1\t2,5\n", &(struct csv_options){.delimiter = "\\t", .item_column = "2"}, "1|2,5|1|1;");
    check("1 2\n3  4\n", NULL, "1|2|1|1;3|4|1|2;");
    check("1|2|3\n4|5|6\n", NULL, "1|2|3|1;4|5|6|2;");
    check_error("1 2 3\n", 6, NULL, EX_DATAERR, "--input-format text or --input-format lists");
    check_error("1.2.3\n", 6, NULL, EX_DATAERR, "want at least a user and an item");
}

static void line_ends(void **state) {
    (void)state;
    check("1,2\r\n3,4\r\n", NULL, "1|2|1|1;3|4|1|2;");
    check("1,2\n3,4", NULL, "1|2|1|1;3|4|1|2;");
    check("1,2\r\n3,4\r", NULL, "1|2|1|1;3|4|1|2;");
    check("\xef\xbb\xbf"
          "1,2\n",
          NULL, "1|2|1|1;");
    check("\n\n1,2\n\r\n   \n\n3,4\n\n \r\n\r", NULL, "1|2|1|3;3|4|1|7;");
    check("", NULL, "");
    check("\n \n", NULL, "");
    check("\xef\xbb\xbf", NULL, "");
}

static void quotes(void **state) {
    (void)state;
    check("\"a,b\",\"c\"\"d\",5\n\"\"\"\",x,4\n", NULL, "a,b|c\"d|5|1;\"|x|4|2;");
    check("\"a\nb\",c,1\nd,\"e\r\n\r\n\"\"f\",2\ng,h,3\n", NULL, "a\nb|c|1|1;d|e\r\n\r\n\"f|2|3;g|h|3|6;");
    check("a,\"b\"\r\nc,\"d\"", NULL, "a|b|1|1;c|d|1|2;");
    check("a,\"b\"\r", NULL, "a|b|1|1;");
    check("5\" disc,b\nc,d\"\"\n", NULL, "5\" disc|b|1|1;c|d\"\"|1|2;"); /* not at the start: a character */
    check("a,b,3,\"long\ntext\"\nc,d,4,x\n", NULL, "a|b|3|1;c|d|4|3;");  /* beyond the columns that matter */
    check("\"a\"::\"b::c\"::1\n", NULL, "a|b::c|1|1;");
    struct csv_options quoted = {.quote = "\""};
    check_error("a,b\n\"c,d\n", 9, &quoted, EX_DATAERR, ":2: a quoted field is not closed");
    check_error("a,b\n\"c\"d,e\n", 11, &quoted, EX_DATAERR, ":2: text follows a closing quote");
    check_error("a,b\n\"c\0\",e\n", 11, &quoted, EX_DATAERR, ":2: a NUL byte");
    check("a,b\n\"c,d\ne,f\n", NULL, "a|b|1|1;\"c|d|1|2;e|f|1|3;"); /* no quote closes: they are characters */
    check_error("a,b\n\"c,d\n", 9, NULL, EX_DATAERR, ":2: a quoted field is not closed");
    check("a\t\"b\t1\nc\td\t2\ne\tf\"\t3\n", NULL, "a|\"b|1|1;c|d|2|2;e|f\"|3|3;");
    check("a;\"b\\\"c\"\nd;\"e\\f\"\n", NULL,
          "a|b\"c|1|1;d|e\\f|1|2;"); /* a backslash before quotes inside */
    check_error("\"a\",b\n\"c,d\ne,f\n", 15, NULL, EX_DATAERR, "--quote none or --quote '\"'");
    struct csv_options skip = {.skip_bad_rows = true,
                               .max_bad = 1,
                               .quote = "\""}; /* a bad row takes up one line, so the next is found again */
    check("a,b\n\"c,d\ne,f\ng,h\n", &skip, "a|b|1|1;e|f|1|3;g|h|1|4;");
}

static void headers(void **state) {
    (void)state;
    check("userId,movieId,rating,timestamp\n1,2,3,4\n", NULL, "1|2|3|2;");
    check("User ID,x\na,b\n", NULL, "a|b|1|2;");
    check("x,item_id\na,b\n", NULL, "a|b|1|2;");
    check("user_id:token\titem_id:token\trating:float\n1\t2\t3\n", NULL, "1|2|3|2;");
    check("who,what,stars\na,b,3\n", NULL, "a|b|3|2;");      /* the rating is text, then a number */
    check("who,what\n1,2\n", NULL, "1|2|1|2;");              /* text, then numbers */
    check("who,what\na,2\nb,3\n", NULL, "a|2|1|2;b|3|1|3;"); /* in one column */
    check("who,what\na,b\n", NULL, "who|what|1|1;a|b|1|2;"); /* text ids, no known name: data */
    check("who,what\n", NULL, "who|what|1|1;");
    check("a,2\nb,3\n", NULL, "a|2|1|1;b|3|1|2;");
    check("1,2\nb,3\n", NULL, "1|2|1|1;b|3|1|2;");
    check("user,item\n", NULL, "");
    check("who,what\na,b\n", &(struct csv_options){.header = CSV_HEADER_YES}, "a|b|1|2;");
    check("user,item\na,b\n", &(struct csv_options){.header = CSV_HEADER_NO}, "user|item|1|1;a|b|1|2;");
    check("\"user\",\"item\"\na,b\n", NULL, "a|b|1|2;");
    check("\"user\n\",\"x\"\n\na,b\n", NULL, "a|b|1|4;");
}

static void columns(void **state) {
    (void)state;
    struct csv_options names = {.user_column = "u", .item_column = "i", .rating_column = "r"};
    check("r,i,u\n5,b,a\n", &names, "a|b|5|2;");
    struct csv_options numbers = {.user_column = "3", .item_column = "2", .rating_column = "1"};
    check("5,b,a\n", &numbers, "a|b|5|1;");
    struct csv_options swapped = {.user_column = "2", .item_column = "1"};
    check("b,a,7\n", &swapped, "a|b|7|1;");
    check("item,user,rating\nb,a,7\n", &swapped, "a|b|7|2;");
    struct csv_options apart = {.user_column = "1", .item_column = "3"};
    check("a,5,b\n", &apart, "a|b|1|1;"); /* not the usual layout: no rating by its place */
    struct csv_options unrated = {.rating_column = "none"};
    check("a,b,c\n", &unrated, "a|b|1|1;");
    check("user,item,rating\na,b,c\n", &unrated, "a|b|1|2;");
    struct csv_options fourth = {.rating_column = "4"};
    check_error("x,y,z,w\na,b,c,2.5\n", 18, &fourth, EX_DATAERR, "no usual name for the user and the item");
    fourth = (struct csv_options){.user_column = "1", .item_column = "2", .rating_column = "4"};
    check("x,y,z,w\na,b,c,2.5\n", &fourth, "a|b|2.5|2;");
    check_error("a,b\nc,d\n", 8, &names, EX_DATAERR, "no such column; there are: a, b");
    check("a,b\nc,d\n", &(struct csv_options){.user_column = "2"}, "b|a|1|1;d|c|1|2;");
    check_error("a,b,1\nc,d,2\n", 12, &(struct csv_options){.user_column = "2"}, EX_USAGE,
                "both user and item");
    check_error("a,b\n", 4, &(struct csv_options){.user_column = "0"}, EX_USAGE, "--user-column 0");
    check_error("a,b\n", 4, &(struct csv_options){.item_column = "none"}, EX_USAGE, "--item-column none");
    check_error("a,b\n", 4, &(struct csv_options){.item_column = "9999"}, EX_USAGE, "--item-column 9999");
    check_error("a,b\n", 4, &(struct csv_options){.item_column = "b", .header = CSV_HEADER_NO}, EX_USAGE,
                "--header no");
    check_error("a,b\n", 4, &(struct csv_options){.delimiter = ""}, EX_USAGE, "--delimiter");
    check_error("a,b\n", 4, &(struct csv_options){.delimiter = "\""}, EX_USAGE, "--delimiter");
    check_error("a,b\n", 4, &(struct csv_options){.delimiter = "0123456789abcdef"}, EX_USAGE, "--delimiter");
}

static void ratings(void **state) {
    (void)state;
    check("1,2,3\n1,2, 4.5 \n1,2,-1e-3\n1,2,.5\n1,2,5.\n1,2,+2\n", NULL,
          "1|2|3|1;1|2|4.5|2;1|2|-0.001|3;1|2|0.5|4;1|2|5|5;1|2|2|6;");
    check("1,2,\n1,3,NA\n1,4,nan\n1,5,NULL\n1,6,\\N\n1,7,3\n", NULL,
          "1|2|nan|1;1|3|nan|2;1|4|nan|3;1|5|nan|4;1|6|nan|5;1|7|3|6;"); /* missing */
    check("1;2;3,5\n1;3;4\n", NULL, "1|2|3.5|1;1|3|4|2;");
    check_error("1;2;1,234\n1;3;4\n", 17, NULL, EX_DATAERR, "may be read in two ways");
    static const char *const bad[] = {"inf", "-Inf", ".", "1e999", "0x10", "3,", "five", "1.2.3", "--1", "e"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[64];
        int size = snprintf(text, sizeof text, "1,2,3\n4,5,\"%s\"\n", bad[i]);
        check_error(text, (size_t)size, NULL, EX_DATAERR, ":2: the rating '");
    }
    check_error("a,b,c\nd,e,f\n", 12, NULL, EX_DATAERR, "column 3 is not the rating, for it holds text");
    assert_non_null(strstr(error_message(), "--rating-column none"));

    /* as exact as strtod, also where the short way is taken */
    char text[256];
    static const char *const numbers[] = {"3.3",  "0.1",  "123456789.12345",         "99999999999999",
                                          "1.10", "4.35", "000000000000000000004.35"};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct csv *csv;
        struct csv_row row;
        write_bytes(text, (size_t)snprintf(text, sizeof text, "1,2,%s\n", numbers[i]));
        assert_int_equal(csv_open(path, &(struct csv_options){0}, &csv), 0);
        assert_int_equal(csv_next(csv, &row), 0);
        assert_true(row.rating == strtod(numbers[i], NULL));
        csv_close(csv);
    }
}

static void bad_rows(void **state) {
    (void)state;
    check_error("1,2,3\n4,5\n", 10, NULL, EX_DATAERR, ":2: fields: 2, the others have 3");
    check_error("1,2\n\n3\n", 7, NULL, EX_DATAERR, ":3: fields: 1, the others have 2");
    check_error("1,2\n,3\n", 7, NULL, EX_DATAERR, ":2: the user is empty");
    check_error("1,2\n3,\n", 7, NULL, EX_DATAERR, ":2: the item is empty");
    check_error("1,2\n3,\"\"\n", 9, NULL, EX_DATAERR, ":2: the item is empty");
    check_error("1,2\n3,4\n55,\0\n", 13, NULL, EX_DATAERR, ":3: a NUL byte");
    check_error("1,2\0\n3,4\n", 9, NULL, EX_DATAERR, ":1: a NUL byte");
    check_error("1,2\n3,4\x1b\n", 9, NULL, EX_DATAERR, ":2: a control byte");

    const char *mixed = "1,2,3\nx\n,2,3\n4,,3\n5,6,z\n\"7,8,9\n10,11,12,13\n";
    struct csv_options skip = {.skip_bad_rows = true, .max_bad = 1};
    int64_t skipped;
    write_bytes(mixed, strlen(mixed));
    assert_int_equal(read_path(path, &skip, &skipped), 0);
    assert_string_equal(rows, "1|2|3|1;\"7|8|9|6;");
    assert_int_equal(skipped, 5);
    check("comment\n1,2,3\n", &skip, "1|2|3|2;"); /* at the start too */
    assert_int_equal(read_bytes("1\0,2\n1,2,3\n", 11, &skip), 0);
    assert_string_equal(rows, "1|2|3|2;");
    check_error("comment\n", 8, &skip, EX_DATAERR, "want at least a user and an item");
}

static void long_ids(void **state) {
    (void)state;
    char id[CSV_ID_MAX + 2], text[3 * CSV_ID_MAX], expected[3 * CSV_ID_MAX];
    memset(id, 'x', sizeof id);
    for (int length = CSV_ID_MAX; length <= CSV_ID_MAX + 1; length++) {
        size_t size = (size_t)snprintf(text, sizeof text, "a,b\n%.*s,%.*s\n", length, id, length, id);
        snprintf(expected, sizeof expected, "a|b|1|1;%.*s|%.*s|1|2;", length, id, length, id);
        if (length == CSV_ID_MAX)
            check(text, NULL, expected);
        else
            check_error(text, size, NULL, EX_DATAERR, ":2: the user's id has 1024 bytes");
    }
}

/* Lines around and beyond the largest size, and across the buffer's end. */
static void long_lines(void **state) {
    (void)state;
    size_t size = 9u << 20;
    char *text = malloc(size);
    assert_non_null(text);
    struct csv_options skip = {.skip_bad_rows = true, .max_bad = 1};
    for (int more = -1; more <= 1; more++) { /* with "1,2,3," and the newline */
        size_t line = (size_t)(FIELDS_RECORD_MAX + more);
        memset(text, 'x', line);
        memcpy(text, "1,2,3,", 6);
        text[line - 1] = '\n';
        memcpy(text + line, "4,5,6,\n", 7);
        assert_int_equal(read_bytes(text, line + 7, &skip), more <= 0 ? 0 : EX_DATAERR);
        if (more <= 0) assert_string_equal(rows, "1|2|3|1;4|5|6|2;");
    }
    memset(text, 'x', size); /* a line longer than the buffer */
    memcpy(text, "1,2,3\n", 6);
    memcpy(text + size - 7, "\n4,5,6\n", 7);
    assert_int_equal(read_bytes(text, size, &skip), 0);
    assert_string_equal(rows, "1|2|3|1;4|5|6|3;");
    check_error(text, size, NULL, EX_DATAERR, ":2: the line is longer than 1 MiB");
    memset(text + 6, ' ', size - 13); /* of blanks alone */
    assert_int_equal(read_bytes(text, size, &skip), 0);
    assert_string_equal(rows, "1|2|3|1;4|5|6|3;");
    memset(text + 6, '\n', size - 13);
    assert_int_equal(read_bytes(text, size, &skip), 0);
    assert_non_null(strstr(rows, "1|2|3|1;4|5|6|"));
    text[6] = '"'; /* a quote that is never closed */
    memset(text + 7, ',', 100);
    assert_int_equal(read_bytes(text, size, &skip), 0);
    assert_non_null(strstr(rows, "1|2|3|1;4|5|6|"));
    free(text);
}

/* 300,000 rows, one in ten of them over two lines, so that records meet every place of the buffer. */
static size_t many_rows(char **text) {
    size_t used = 0, room = 40u * 300000;
    *text = malloc(room);
    assert_non_null(*text);
    for (int i = 0; i < 300000; i++) {
        used += (size_t)snprintf(*text + used, room - used,
                                 i % 10 ? "u%d,%d,%d.5\n" : "u%d,\"%d\n\",%d.5\r\n", i, i * 7, i % 5);
    }
    return used;
}

static void check_many_rows(const char *name) {
    struct csv *csv;
    struct csv_row row;
    char user[32], item[32];
    int64_t line = 1;
    assert_int_equal(csv_open(name, &(struct csv_options){0}, &csv), 0);
    for (int i = 0; i < 300000; i++) {
        assert_int_equal(csv_next(csv, &row), 0);
        int user_length = snprintf(user, sizeof user, "u%d", i);
        int item_length = snprintf(item, sizeof item, i % 10 ? "%d" : "%d\n", i * 7);
        assert_int_equal(row.line, line);
        assert_int_equal(row.user_length, user_length);
        assert_memory_equal(row.user, user, row.user_length);
        assert_int_equal(row.item_length, item_length);
        assert_memory_equal(row.item, item, row.item_length);
        assert_true(row.rating == i % 5 + 0.5);
        line += i % 10 ? 1 : 2;
    }
    assert_int_equal(csv_next(csv, &row), 0);
    assert_null(row.user);
    assert_int_equal(csv_next(csv, &row), 0); /* and stays at the end */
    assert_null(row.user);
    assert_true(csv_has_ratings(csv));
    csv_close(csv);
}

/* Reads to the end in chunks and returns how many rows there are; checks that they are those
 * of many_rows from row `row` on. */
static int check_chunks(struct csv *csv, int row) {
    struct csv_chunk chunk = {0};
    struct csv_row r;
    int n;
    char user[32];
    int n_rows = 0;
    int64_t line = 0;
    for (;;) {
        assert_int_equal(csv_read(csv, &chunk), 0);
        if (!chunk.size) break;
        for (;;) {
            assert_int_equal(csv_parse(csv, &chunk, &r, 1, &n), 0);
            if (!n) break;
            int length = snprintf(user, sizeof user, "u%d", row + n_rows);
            assert_int_equal(r.user_length, length);
            assert_memory_equal(r.user, user, r.user_length);
            assert_true(r.line >= 0 && r.line < chunk.lines);
            n_rows++;
        }
        line += chunk.lines;
    }
    assert_true(line >= n_rows);
    csv_chunk_free(&chunk);
    return n_rows;
}

/* Chunks of any size hold the same n_rows; so do two parts, cut anywhere. */
static void chunks(void **state) {
    (void)state;
    char *text;
    size_t size = many_rows(&text);
    struct csv *csv;
    int64_t whole, first;
    write_bytes(text, size);
    static const size_t sizes[] = {5000, 70000, 1100000, 50000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        assert_int_equal(csv_open(path, &(struct csv_options){.chunk_size = sizes[i]}, &csv), 0);
        assert_int_equal(csv_first_line(csv), 1);
        assert_int_equal(check_chunks(csv, 0), 300000);
        csv_close(csv);
    }
    for (int64_t i = 0; i < 12; i++) {
        int64_t middle = i < 9 ? 100 + 3 * i : (int64_t)size * (i - 8) / 4;
        assert_int_equal(csv_open(path, &(struct csv_options){0}, &csv), 0);
        assert_true(csv_is_plain(csv, &whole));
        assert_int_equal(whole, size);
        assert_int_equal(csv_seek(csv, 0, middle, false, &first), 0);
        assert_int_equal(first, 0);
        int n_rows = check_chunks(csv, 0);
        int64_t end = csv_offset(csv);
        assert_true(end >= middle);
        assert_int_equal(csv_seek(csv, middle, INT64_MAX, false, &first), 0);
        if (first != end) { /* a line end within quotes */
            assert_true(memchr(text + middle, '"', (size_t)(end - middle)) != NULL);
            assert_int_equal(csv_seek(csv, end, INT64_MAX, true, &first), 0);
            assert_int_equal(first, end);
        }
        assert_int_equal(n_rows + check_chunks(csv, n_rows), 300000);
        csv_close(csv);
    }
    free(text);
}

/* A bad row is told with its line in the chunk. */
static void bad_row_of_a_chunk(void **state) {
    (void)state;
    struct csv *csv;
    struct csv_chunk chunk = {0};
    struct csv_row row;
    const char *text = "user,item\na,1\n\nb,\nc,3\n,4\n";
    int n;
    for (int skip = 0; skip < 2; skip++) {
        write_bytes(text, strlen(text));
        assert_int_equal(csv_open(path, &(struct csv_options){.skip_bad_rows = skip, .max_bad = 1}, &csv), 0);
        assert_int_equal(csv_first_line(csv), 2);
        assert_int_equal(csv_first_offset(csv), 10);
        assert_int_equal(csv_read(csv, &chunk), 0);
        assert_int_equal(csv_parse(csv, &chunk, &row, 1, &n), 0);
        assert_int_equal(csv_parse(csv, &chunk, &row, 1, &n), skip ? 0 : EX_DATAERR);
        assert_int_equal(chunk.counts.bad_line[0], 2);
        assert_string_equal(chunk.counts.bad[0], "the item is empty");
        if (skip) assert_int_equal(csv_parse(csv, &chunk, &row, 1, &n), 0);
        assert_int_equal(chunk.counts.skipped, skip ? 2 : 0);
        csv_close(csv);
    }
    csv_chunk_free(&chunk);
}

static size_t compress_gzip(const char *text, size_t size, unsigned char *out, size_t room) {
    z_stream z = {0};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (unsigned char *)(uintptr_t)text;
    z.avail_in = (uInt)size;
    z.next_out = out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static void compression(void **state) {
    (void)state;
    char *text;
    size_t size = many_rows(&text), room = size + 4096, half = size / 2;
    unsigned char *packed = malloc(room);
    assert_non_null(packed);
    struct csv_options none = {0};
    write_bytes(text, size);
    check_many_rows(path);

    size_t packed_size = compress_gzip(text, size, packed, room);
    write_bytes(packed, packed_size);
    check_many_rows(path);
    assert_int_equal(read_bytes(packed, packed_size - 1, &none), EX_DATAERR);
    assert_non_null(strstr(error_message(), "the gzip data ends too early"));
    assert_non_null(strstr(error_message(), path));
    assert_int_equal(read_bytes(packed, packed_size / 2, &none), EX_DATAERR);
    assert_non_null(strstr(error_message(), "the gzip data ends too early"));
    packed[packed_size - 8] ^= 0xff; /* the check sum */
    assert_int_equal(read_bytes(packed, packed_size, &none), EX_DATAERR);
    assert_non_null(strstr(error_message(), "damaged gzip data (incorrect data check)"));
    struct csv_options skip = {.skip_bad_rows = true, .max_bad = 1}; /* is about rows, not about files */
    assert_int_equal(read_bytes(packed, packed_size, &skip), EX_DATAERR);

    packed_size =
        compress_gzip(text, half, packed, room); /* two members, and zeros after them as tapes have */
    packed_size += compress_gzip(text + half, size - half, packed + packed_size, room - packed_size);
    memset(packed + packed_size, 0, 512);
    write_bytes(packed, packed_size + 512);
    check_many_rows(path);
    memcpy(packed + packed_size, "garbage", 7);
    assert_int_equal(read_bytes(packed, packed_size + 7, &none), EX_DATAERR);

    packed_size = ZSTD_compress(packed, room, text, size, 3);
    assert_false(ZSTD_isError(packed_size));
    write_bytes(packed, packed_size);
    check_many_rows(path);
    assert_int_equal(read_bytes(packed, packed_size - 1, &none), EX_DATAERR);
    assert_non_null(strstr(error_message(), "the zstd data ends too early"));
    packed[packed_size / 2] ^= 0xff;
    assert_int_equal(read_bytes(packed, packed_size, &none), EX_DATAERR);
    packed_size = ZSTD_compress(packed, room, text, half, 3); /* two frames */
    packed_size += ZSTD_compress(packed + packed_size, room - packed_size, text + half, size - half, 3);
    write_bytes(packed, packed_size);
    check_many_rows(path);

    packed_size = compress_gzip("", 0, packed, room); /* nothing, packed */
    assert_int_equal(read_bytes(packed, packed_size, &none), 0);
    assert_string_equal(rows, "");
    free(packed);
    free(text);
}

static void files(void **state) {
    (void)state;
    struct csv_options none = {0};
    assert_int_equal(read_path("/nowhere/at-all.csv", &none, NULL), EX_NOINPUT);
    assert_non_null(strstr(error_message(), "/nowhere/at-all.csv"));
    assert_int_equal(read_path("/tmp", &none, NULL), EX_NOINPUT);
    assert_non_null(strstr(error_message(), "/tmp: is a directory"));
    csv_close(NULL);
}

static void description(void **state) {
    (void)state;
    struct csv *csv;
    write_bytes("u,i,r\n1,2,3\n", 12);
    assert_int_equal(csv_open(path, &(struct csv_options){0}, &csv), 0);
    assert_string_equal(csv_description(csv), "text, delimiter ',', header; user 'u', item 'i', rating 'r'; "
                                              "first row: user '1', item '2', rating 3");
    csv_close(csv);
    write_bytes("1,2\n", 4);
    assert_int_equal(csv_open(path, &(struct csv_options){0}, &csv), 0);
    assert_string_equal(csv_description(csv), "text, delimiter ',', no header; user column 1, item column 2, "
                                              "no ratings; first row: user '1', item '2'");
    assert_false(csv_has_ratings(csv));
    csv_close(csv);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delimiters),  cmocka_unit_test(line_ends),   cmocka_unit_test(quotes),
        cmocka_unit_test(headers),     cmocka_unit_test(columns),     cmocka_unit_test(ratings),
        cmocka_unit_test(bad_rows),    cmocka_unit_test(long_ids),    cmocka_unit_test(long_lines),
        cmocka_unit_test(compression), cmocka_unit_test(chunks),      cmocka_unit_test(bad_row_of_a_chunk),
        cmocka_unit_test(files),       cmocka_unit_test(description),
    };
    int file = mkstemp(path);
    if (file < 0) return 1;
    close(file);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
