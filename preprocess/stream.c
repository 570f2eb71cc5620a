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
#ifdef VAECF_LZMA
#include <lzma.h>
#endif
#ifdef VAECF_BZ2
#include <bzlib.h>
#endif

#include "errno_code.h"
#include "error.h"
#include "path.h"
#include "scratch.h"

enum { INPUT_SIZE = 1 << 18 };

struct stream {
    char *name;
    int file;         /* descriptor */
    bool is_standard; /* input, which is not ours to close */
    bool ended;       /* it was read to its end */
    enum kind { PLAIN, GZIP, ZSTD, XZ, BZIP2 } kind;
    size_t used, filled; /* input[used .. filled) is still to be decompressed */
    int64_t size, done;  /* of the file, 0 if it is none; bytes read */
    bool whole;          /* between two compressed streams, where a file may end */
    z_stream gzip;
    ZSTD_DStream *zstd;
#ifdef VAECF_LZMA
    lzma_stream xz;
#endif
#ifdef VAECF_BZ2
    bz_stream bzip2;
#endif
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

/* ---- what it is ---- */

/* Does data begin with these bytes? */
static bool begins(const unsigned char *data, size_t size, const char *with, size_t n) {
    return size >= n && memcmp(data, with, n) == 0;
}

/* zstd's frames, and before them any number of frames to be skipped, which lz4 has as well. */
static bool is_zstd(const unsigned char *data, size_t size) {
    size_t at = 0;
    bool skipped = false;
    while (size - at >= 8 && (data[at] & 0xf0) == 0x50 && begins(data + at + 1, 3, "\x2a\x4d\x18", 3)) {
        const unsigned char *n = data + at + 4;
        size_t length = n[0] | (size_t)n[1] << 8 | (size_t)n[2] << 16 | (size_t)n[3] << 24;
        if (length >= size - at - 8) return true;
        at += 8 + length;
        skipped = true;
    }
    return begins(data + at, size - at, "\x28\xb5\x2f\xfd", 4) || (skipped && size - at < 4);
}

/* .lzma has no magic bytes: its properties as all write them, a dictionary of 2^n or 3 * 2^n bytes, the size
 * (unknown or below 1 TB), and the zero that the coded data begins with. */
static bool is_lzma(const unsigned char *data, size_t size) {
    if (size < 14 || data[0] != 0x5d || data[13] != 0) return false;
    uint32_t dictionary = 0;
    for (int i = 0; i < 4; i++) dictionary |= (uint32_t)data[1 + i] << 8 * i;
    uint32_t odd = dictionary;
    while (odd && odd % 2 == 0) odd /= 2;
    if (dictionary < 4096 || (odd != 1 && odd != 3)) return false;
    return begins(data + 5, 8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8) || begins(data + 10, 3, "\0\0\0", 3);
}

/* The first block's magic, or that of the end in an empty file. The last byte is not one of text. */
static bool is_bzip2(const unsigned char *data, size_t size) {
    if (size < 10 || !begins(data, size, "BZh", 3) || data[3] < '1' || data[3] > '9') return false;
    if (begins(data + 4, 6, "\x17\x72\x45\x38\x50\x90", 6)) return true;
    return begins(data + 4, 6, "\x31\x41\x59\x26\x53\x59", 6) && (size < 15 || (data[14] & 0x7f) < 7);
}

static enum kind kind_of(const unsigned char *data, size_t size) {
    if (begins(data, size, "\x1f\x8b", 2)) return GZIP;
    if (is_zstd(data, size)) return ZSTD;
    if (begins(data, size, "\xfd\x37zXZ\0", 6) || is_lzma(data, size)) return XZ;
    return is_bzip2(data, size) ? BZIP2 : PLAIN;
}

/* ---- decompression ---- */

static int damaged(const struct stream *s, const char *name, const char *why) {
    return error_set(EX_DATAERR, "%s: damaged %s data (%s)", s->name, name, why);
}

/* Between two streams: passes zeros over; does another one follow? */
static bool another(struct stream *s) {
    while (s->used < s->filled && s->input[s->used] == 0) s->used++;
    s->whole = s->used == s->filled;
    return !s->whole;
}

static unsigned int limited(size_t size) {
    return size < 1u << 30 ? (unsigned int)size : 1u << 30;
}

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

static bool begin_gzip(struct stream *s) {
    return inflateInit2(&s->gzip, 15 + 16) == Z_OK;
}

static int read_gzip(struct stream *s, unsigned char *data, size_t size, size_t *got) {
    if (s->whole) {
        if (!another(s)) return 0;
        if (inflateReset(&s->gzip) != Z_OK) return error_set(EX_SOFTWARE, "zlib: inflateReset failed");
    }
    unsigned int room = limited(size - *got);
    s->gzip.next_in = s->input + s->used;
    s->gzip.avail_in = (uInt)(s->filled - s->used);
    s->gzip.next_out = data + *got;
    s->gzip.avail_out = room;
    int result = inflate(&s->gzip, Z_NO_FLUSH);
    s->used = s->filled - s->gzip.avail_in;
    *got += room - s->gzip.avail_out;
    s->whole = result == Z_STREAM_END;
    if (result == Z_OK || result == Z_STREAM_END || result == Z_BUF_ERROR) return 0;
    if (result == Z_MEM_ERROR) return error_memory("decompression", 1 << 15);
    return damaged(s, "gzip", s->gzip.msg ? s->gzip.msg : "it needs a dictionary");
}

static void end_gzip(struct stream *s) {
    inflateEnd(&s->gzip);
}

/* Takes the largest windows too, which zstd --long writes and libzstd by itself refuses. */
static bool begin_zstd(struct stream *s) {
    int largest = ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound;
    s->zstd = ZSTD_createDStream();
    return s->zstd && !ZSTD_isError(ZSTD_DCtx_setParameter(s->zstd, ZSTD_d_windowLogMax, largest));
}

static int read_zstd(struct stream *s, unsigned char *data, size_t size, size_t *got) {
    ZSTD_inBuffer in = {s->input, s->filled, s->used};
    ZSTD_outBuffer out = {data, size, *got};
    size_t left = ZSTD_decompressStream(s->zstd, &out, &in);
    s->used = in.pos;
    *got = out.pos;
    if (ZSTD_getErrorCode(left) == ZSTD_error_memory_allocation) {
        return error_set(
            EX_OSERR, "%s: no memory for the window of this zstd data; compress it without --long", s->name);
    }
    if (ZSTD_isError(left)) { /* which error it is may depend on the room */
        bool lacks = ZSTD_getErrorCode(left) == ZSTD_error_dictionary_wrong;
        return damaged(s, "zstd", lacks ? "it needs a dictionary" : "it cannot be decompressed");
    }
    s->whole = left == 0;
    return 0;
}

static void end_zstd(struct stream *s) {
    ZSTD_freeDStream(s->zstd);
}

#ifdef VAECF_LZMA
static bool begin_xz(struct stream *s) {
    return lzma_auto_decoder(&s->xz, UINT64_MAX, LZMA_CONCATENATED) == LZMA_OK;
}

static int read_xz(struct stream *s, unsigned char *data, size_t size, size_t *got) {
    s->xz.next_in = s->input + s->used;
    s->xz.avail_in = s->filled - s->used;
    s->xz.next_out = data + *got;
    s->xz.avail_out = size - *got;
    lzma_ret result = lzma_code(&s->xz, s->filled ? LZMA_RUN : LZMA_FINISH);
    s->used = s->filled - s->xz.avail_in;
    *got = size - s->xz.avail_out;
    s->whole = result == LZMA_STREAM_END;
    switch (result) {
    case LZMA_OK:
    case LZMA_STREAM_END:
    case LZMA_BUF_ERROR:
        return 0;
    case LZMA_MEM_ERROR:
        return error_memory("the dictionary of xz data", lzma_memusage(&s->xz));
    case LZMA_OPTIONS_ERROR:
        return damaged(s, "xz", "or of a newer xz");
    default:
        return damaged(s, "xz", "it does not fit its checksums");
    }
}

static void end_xz(struct stream *s) {
    lzma_end(&s->xz);
}
#endif

#ifdef VAECF_BZ2
static bool begin_bzip2(struct stream *s) {
    return BZ2_bzDecompressInit(&s->bzip2, 0, 0) == BZ_OK;
}

static int read_bzip2(struct stream *s, unsigned char *data, size_t size, size_t *got) {
    if (s->whole) {
        if (!another(s)) return 0;
        BZ2_bzDecompressEnd(&s->bzip2);
        if (!begin_bzip2(s)) return error_memory("decompression", 1 << 16);
    }
    unsigned int room = limited(size - *got);
    s->bzip2.next_in = (char *)s->input + s->used;
    s->bzip2.avail_in = (unsigned int)(s->filled - s->used);
    s->bzip2.next_out = (char *)data + *got;
    s->bzip2.avail_out = room;
    int result = BZ2_bzDecompress(&s->bzip2);
    s->used = s->filled - s->bzip2.avail_in;
    *got += room - s->bzip2.avail_out;
    s->whole = result == BZ_STREAM_END;
    if (result == BZ_OK || result == BZ_STREAM_END) return 0;
    if (result == BZ_MEM_ERROR) return error_memory("decompression", 4000000);
    return damaged(s, "bzip2", "it does not fit its checksums");
}

static void end_bzip2(struct stream *s) {
    BZ2_bzDecompressEnd(&s->bzip2);
}
#endif

/* begin: false without memory. read: takes from the input, which is empty at the end of the file, and adds to
 * data[*got ..]. Without these two the build lacks the library. */
static const struct method {
    const char *name, *library;
    bool (*begin)(struct stream *);
    int (*read)(struct stream *, unsigned char *, size_t, size_t *);
    void (*end)(struct stream *);
} methods[] = {
    [PLAIN] = {.read = read_plain},
    [GZIP] = {"gzip", "zlib", begin_gzip, read_gzip, end_gzip},
    [ZSTD] = {"zstd", "libzstd", begin_zstd, read_zstd, end_zstd},
#ifdef VAECF_LZMA
    [XZ] = {"xz", "liblzma", begin_xz, read_xz, end_xz},
#else
    [XZ] = {"xz", "liblzma", NULL, NULL, NULL},
#endif
#ifdef VAECF_BZ2
    [BZIP2] = {"bzip2", "libbz2", begin_bzip2, read_bzip2, end_bzip2},
#else
    [BZIP2] = {"bzip2", "libbz2", NULL, NULL, NULL},
#endif
};

static int begin(struct stream *s) {
    enum kind kind = kind_of(s->input, s->filled);
    const struct method *m = &methods[kind];
    s->whole = true;
    if (kind == PLAIN) return 0;
    if (!m->read) {
        return error_set(
            EX_DATAERR, "%s: is %s data, which takes a build with %s; unpack it: %s -dc FILE | ... --input -",
            s->name, m->name, m->library, m->name);
    }
    s->kind = kind; /* stream_close ends also what has begun in part */
    return m->begin(s) ? 0 : error_memory("decompression", 1 << 17);
}

/* ---- the file ---- */

/* Waits for whoever writes to a pipe. */
static int open_file(const char *path, int *file) {
    while ((*file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY)) < 0) {
        int code = errno == EINTR ? stop_check()
                                  : error_set(errno_code(errno, EX_NOINPUT), "%s: cannot open: %s%s", path,
                                              strerror(errno), path_hint(path));
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
    if (!code) code = begin(s);
cleanup:
    if (code) {
        stream_close(s);
    } else {
        *stream = s;
    }
    return code;
}

int stream_read(struct stream *s, void *data, size_t size, size_t *got) {
    *got = 0;
    while (*got < size) {
        size_t before = *got;
        int code = s->used == s->filled ? fill(s) : 0;
        if (code) return code;
        bool end = s->filled == 0;
        if (end && s->whole) break;
        code = methods[s->kind].read(s, data, size, got);
        if (code) return code;
        if (end && *got == before && !s->whole) {
            return error_set(EX_DATAERR, "%s: the %s data ends too early; the file was cut off", s->name,
                             methods[s->kind].name);
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
    if (methods[s->kind].end) methods[s->kind].end(s);
    if (s->file >= 0 && !s->is_standard) close(s->file);
    free(s->name);
    free(s);
}
