/* The bytes of a file, decompressed on the way. */
#include "stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "errno_code.h"
#include "error.h"
#include "scratch.h"

enum { INPUT_SIZE = 1 << 18 };

struct stream {
    char *name;
    int file;         /* descriptor */
    bool is_standard; /* input, which is not ours to close */
    bool ended;       /* it was read to its end */
    enum { PLAIN, GZIP, ZSTD } kind;
    size_t used, filled; /* input[used .. filled) is still to be decompressed */
    int64_t size, done;  /* of the file, 0 if it is none; bytes read */
    bool whole;          /* between two gzip members or zstd frames, where a file may end */
    z_stream gzip;
    ZSTD_DStream *zstd;
    unsigned char input[INPUT_SIZE];
};

/* Reads up to size bytes, fewer only at the end of the file. A signal ends it if it is to end the program. */
static int read_file(struct stream *s, unsigned char *to, size_t size, size_t *got) {
    *got = 0;
    while (*got < size && !s->ended) {
        ssize_t n = read(s->file, to + *got, size - *got);
        if (n < 0 && errno == EINTR) {
            int code = stop_check();
            if (code) return code;
            continue;
        }
        if (n < 0) {
            return error_set(errno_code(errno, EX_IOERR), "%s: cannot read: %s", s->name, strerror(errno));
        }
        s->ended = n == 0;
        s->done += n;
        *got += (size_t)n;
    }
    return 0;
}

/* Reads the next input; filled is 0 at the end of the file. */
static int fill(struct stream *s) {
    s->used = 0;
    return read_file(s, s->input, sizeof s->input, &s->filled);
}

static int detect(struct stream *s) {
    static const unsigned char gzip_magic[] = {0x1f, 0x8b}, zstd_magic[] = {0x28, 0xb5, 0x2f, 0xfd};
    s->whole = true;
    if (s->filled >= 2 && memcmp(s->input, gzip_magic, 2) == 0) {
        if (inflateInit2(&s->gzip, 15 + 16) != Z_OK) return error_memory("zlib", sizeof s->gzip);
        s->kind = GZIP;
    } else if (s->filled >= 4 && memcmp(s->input, zstd_magic, 4) == 0) {
        s->zstd = ZSTD_createDStream();
        if (!s->zstd) return error_memory("libzstd", ZSTD_DStreamInSize());
        s->kind = ZSTD;
    }
    return 0;
}

/* Waits for whoever writes to a pipe. */
static int open_file(const char *path, int *file) {
    while ((*file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)) < 0) {
        int code = errno == EINTR ? stop_check()
                                  : error_set(errno_code(errno, EX_NOINPUT), "%s: cannot open: %s", path,
                                              strerror(errno));
        if (code) return code;
    }
    return 0;
}

int stream_open(const char *path, struct stream **stream) {
    int code = 0;
    bool standard = strcmp(path, "-") == 0;
    struct stat status;
    *stream = NULL;
    struct stream *s = calloc(1, sizeof *s);
    if (!s) return error_memory("a file's buffer", sizeof *s);
    s->is_standard = standard;
    s->file = standard ? STDIN_FILENO : -1;
    s->name = strdup(standard ? "standard input" : path);
    if (!s->name) {
        code = error_memory("a file's name", strlen(path));
        goto cleanup;
    }
    if (!standard) code = open_file(path, &s->file);
    if (code) goto cleanup;
    bool known = fstat(s->file, &status) == 0;
    if (known && S_ISREG(status.st_mode)) s->size = status.st_size;
    if (known && S_ISDIR(status.st_mode)) {
        code = error_set(EX_NOINPUT, "%s: is a directory; give the file in it", s->name);
        goto cleanup;
    }
    code = fill(s);
    if (!code) code = detect(s);
cleanup:
    if (code) {
        stream_close(s);
    } else {
        *stream = s;
    }
    return code;
}

/* Each of these three takes from the input and adds to data[*got ..]. */

static int read_plain(struct stream *s, unsigned char *data, size_t size, size_t *got) {
    size_t n = s->filled - s->used;
    if (n > size - *got) n = size - *got;
    memcpy(data + *got, s->input + s->used, n);
    s->used += n;
    *got += n;
    if (s->used < s->filled || !s->filled) return 0;
    int code = read_file(s, data + *got, size - *got, &n); /* without the detour */
    *got += n;
    return code;
}

static int read_gzip(struct stream *s, unsigned char *data, size_t size, size_t *got) {
    if (s->whole) { /* another member may follow, or padding with zeros */
        while (s->used < s->filled && s->input[s->used] == 0) s->used++;
        if (s->used == s->filled) return 0;
        if (inflateReset(&s->gzip) != Z_OK) return error_set(EX_SOFTWARE, "zlib: inflateReset failed");
        s->whole = false;
    }
    size_t room = size - *got < 1u << 30 ? size - *got : 1u << 30;
    s->gzip.next_in = s->input + s->used;
    s->gzip.avail_in = (uInt)(s->filled - s->used);
    s->gzip.next_out = data + *got;
    s->gzip.avail_out = (uInt)room;
    int result = inflate(&s->gzip, Z_NO_FLUSH);
    s->used = s->filled - s->gzip.avail_in;
    *got += room - s->gzip.avail_out;
    s->whole = result == Z_STREAM_END;
    if (result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR) return 0;
    if (result == Z_MEM_ERROR) return error_memory("decompression", 1 << 15);
    return error_set(EX_DATAERR, "%s: damaged gzip data (%s)", s->name,
                     s->gzip.msg ? s->gzip.msg : "it needs a dictionary");
}

static int read_zstd(struct stream *s, unsigned char *data, size_t size, size_t *got) {
    ZSTD_inBuffer in = {s->input, s->filled, s->used};
    ZSTD_outBuffer out = {data, size, *got};
    size_t left = ZSTD_decompressStream(s->zstd, &out, &in);
    s->used = in.pos;
    *got = out.pos;
    if (ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation) return error_memory("decompression", 0);
    if (ZSTD_isError(left)) {
        return error_set(EX_DATAERR, "%s: damaged zstd data (%s)", s->name, ZSTD_getErrorName(left));
    }
    s->whole = left == 0;
    return 0;
}

int stream_read(struct stream *s, void *data, size_t size, size_t *got) {
    static int (*const read[])(struct stream *, unsigned char *, size_t,
                               size_t *) = {[PLAIN] = read_plain, [GZIP] = read_gzip, [ZSTD] = read_zstd};
    *got = 0;
    while (*got < size) {
        size_t before = *got;
        int code = s->used == s->filled ? fill(s) : 0;
        if (code) return code;
        bool end = s->filled == 0;
        if (end && s->whole) break;
        code = read[s->kind](s, data, size, got);
        if (code) return code;
        if (end && *got == before) {
            return error_set(EX_DATAERR, "%s: the %s data ends too early; the file was cut off", s->name,
                             s->kind == GZIP ? "gzip" : "zstd");
        }
    }
    return 0;
}

bool stream_is_plain(const struct stream *s, int64_t *size) {
    *size = s->size;
    return s->kind == PLAIN && s->size > 0 && !s->is_standard;
}

int stream_seek(struct stream *s, int64_t offset) {
    s->used = s->filled = 0;
    s->done = offset;
    s->ended = false;
    if (lseek(s->file, offset, SEEK_SET) >= 0) return 0;
    return error_set(EX_IOERR, "%s: cannot seek: %s", s->name, strerror(errno));
}

void stream_progress(const struct stream *s, int64_t *done, int64_t *total) {
    *done = s->done;
    *total = s->size;
}

const char *stream_name(const struct stream *s) {
    return s->name;
}

double stream_fraction(const struct stream *s) {
    struct stat status;
    off_t at = lseek(s->file, 0, SEEK_CUR);
    if (at < 0 || fstat(s->file, &status) || !S_ISREG(status.st_mode)) return -1;
    return status.st_size > 0 ? (double)at / (double)status.st_size : 1;
}

void stream_close(struct stream *s) {
    if (!s) return;
    if (s->kind == GZIP) inflateEnd(&s->gzip);
    ZSTD_freeDStream(s->zstd);
    if (s->file >= 0 && !s->is_standard) close(s->file);
    free(s->name);
    free(s);
}
