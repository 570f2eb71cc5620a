/* Fuzzes the CSV reader, with its decompression. The first two bytes choose the options, the rest is the
 * file. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "csv.h"
#include "error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "csv_fuzz: %s\n", what);
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char *const delimiters[] = {NULL, "\\t", "::", ";"};
    static const char *const columns[][3] = {
        {NULL, NULL, NULL}, {"2", "1", "none"}, {"user", "item", NULL}, {NULL, "3", NULL}};
    static int file = -1;
    static char path[64];
    if (file < 0) {
        file = memfd_create("csv", 0);
        require(file >= 0, "memfd_create failed");
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    if (size < 2) return 0;
    struct csv_options options = {.delimiter = delimiters[data[0] & 3],
                                  .header = (enum csv_header)((data[0] >> 2 & 3) % 3),
                                  .user_column = columns[data[1] & 3][0],
                                  .item_column = columns[data[1] & 3][1],
                                  .rating_column = columns[data[1] & 3][2],
                                  .skip_bad_rows = data[1] >> 2 & 1};
    data += 2;
    size -= 2;
    require(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size,
            "cannot write the input");

    struct csv *csv;
    struct csv_row row;
    int64_t rows = 0, line = 0;
    int code = csv_open(path, &options, &csv);
    while (!code && !(code = csv_next(csv, &row)) && row.user) {
        rows++;
        require(row.line > line, "lines do not rise");
        line = row.line;
        require(row.user_length >= 1 && row.user_length <= CSV_ID_MAX, "length of the user's id");
        require(row.item_length >= 1 && row.item_length <= CSV_ID_MAX, "length of the item's id");
        require(!memchr(row.user, 0, row.user_length) && !memchr(row.item, 0, row.item_length),
                "a NUL in an id");
        require(row.rating - row.rating == 0, "the rating is not finite");
    }
    require(code == 0 || code == EX_DATAERR || code == EX_USAGE, "an unexpected code");
    if (code) require(*error_message() && !strchr(error_message(), '\n'), "the message is not one line");
    csv_close(csv);
    return 0;
}
