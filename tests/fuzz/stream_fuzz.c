/* Fuzzes the decompression, in pieces of two sizes, which must give the same; then what the bytes are named.
 */
#define _GNU_SOURCE
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sysexits.h>
#include <unistd.h>

#include "error.h"
#include "foreign.h"
#include "stream.h"

enum { MOST = 4 << 20 }; /* bytes that are read: a small file can hold a terabyte */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "stream_fuzz: %s\n", what);
    abort();
}

/* Reads to the end or to MOST; a failure leaves its message. */
static int read_all(const char *path, size_t piece, char *to, size_t *n, char message[2048]) {
    struct stream *s;
    int64_t plain;
    size_t got = 1;
    *n = 0;
    *message = '\0';
    int code = stream_open(path, &s);
    bool is_plain = !code && stream_is_plain(s, &plain);
    while (!code && got && *n < MOST) {
        size_t room = MOST - *n < piece ? MOST - *n : piece;
        code = stream_read(s, to + *n, room, &got);
        require(got <= room, "more than there is room for");
        *n += got;
    }
    stream_close(s);
    require(!is_plain || (code == 0 && *n == (size_t)plain), "a plain file's size");
    require(code == 0 || code == EX_DATAERR || code == EX_OSERR, "an unexpected code");
    if (code) snprintf(message, 2048, "%s", error_message());
    require(!code || (*message && !strchr(message, '\n')), "the message is not one line");
    return code;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static char path[64], first[MOST], second[MOST], told[2][2048];
    static int file = -1;
    size_t n, again;
    if (file < 0) {
        file = memfd_create("stream", 0);
        require(file >= 0, "memfd_create failed");
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    require(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size,
            "cannot write the input");
    int code = read_all(path, MOST, first, &n, told[0]);
    int code_again = read_all(path, 64 + size % 997, second, &again, told[1]);
    require(code == code_again && strcmp(told[0], told[1]) == 0, "other pieces end otherwise");
    require(memcmp(first, second, n < again ? n : again) == 0 && (code || n == again),
            "other pieces, other bytes");

    n = n < 1 << 16 ? n : 1 << 16;
    char *copy = malloc(n ? n : 1); /* of just that size, for the sanitizer */
    require(copy, "no memory");
    memcpy(copy, first, n);
    const char *name = foreign_name(copy, n);
    require(!name || (*name && !strchr(name, '\n')), "the name is not a line");
    free(copy);
    return 0;
}
