/* See npz.h. The zip format: PKWARE's APPNOTE.TXT, 4.3; .npy: NumPy's format 1.0. */
#include "npz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "error.h"
#include "output.h"

enum {
    HEAD_SIZE = 512,
    NAME_SIZE = 128,
    VERSION = 45 /* of zip: has zip64 */,
    DATE = 0x21 /* 1 January 1980 */
};

struct entry {
    char name[NAME_SIZE];
    uint64_t size, offset;
    uint32_t crc;
};

struct npz {
    struct output *output;
    uint64_t offset; /* bytes written */
    struct entry *entry;
    int n;
};

/* A record of the archive, little-endian. */
struct record {
    unsigned char bytes[HEAD_SIZE];
    size_t n;
};

static void number(struct record *r, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) r->bytes[r->n++] = (unsigned char)(value >> 8 * i);
}

static void text(struct record *r, const char *value) {
    size_t length = strlen(value);
    memcpy(r->bytes + r->n, value, length);
    r->n += length;
}

static int put(struct npz *z, const void *data, size_t bytes) {
    z->offset += bytes;
    fwrite(data, 1, bytes, output_stream(z->output));
    return output_check(z->output);
}

int npz_open(const char *path, struct npz **npz) {
    struct npz *z = calloc(1, sizeof *z);
    *npz = z;
    if (!z) return error_memory("the archive", sizeof *z);
    int code = output_open(path, &z->output);
    if (!code) return 0;
    free(z);
    *npz = NULL;
    return code;
}

/* What comes before the numbers in a .npy file; its length is a multiple of 64. */
static void npy_head(enum npz_type type, int64_t rows, int64_t cols, size_t width, struct record *r) {
    const char order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
    char shape[64], descr[32], dict[HEAD_SIZE - 64];
    if (rows < 0) snprintf(shape, sizeof shape, "()");
    if (rows >= 0 && !cols) snprintf(shape, sizeof shape, "(%lld,)", (long long)rows);
    if (rows >= 0 && cols) snprintf(shape, sizeof shape, "(%lld, %lld)", (long long)rows, (long long)cols);
    if (type == NPZ_BYTES) snprintf(descr, sizeof descr, "|S%zu", width);
    if (type != NPZ_BYTES) snprintf(descr, sizeof descr, "%c%s", order, type == NPZ_INT64 ? "i8" : "f4");
    int length =
        snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
    int padded = (10 + length + 1 + 63) / 64 * 64 - 10;
    r->n = 0;
    number(r, 0x93, 1);
    text(r, "NUMPY");
    number(r, 1, 2);
    number(r, (uint64_t)padded, 2);
    text(r, dict);
    memset(r->bytes + r->n, ' ', (size_t)(padded - length));
    r->n += (size_t)(padded - length);
    r->bytes[r->n - 1] = '\n';
}

/* What the local header and the directory say alike of a file, from the version needed to the name. */
static void describe(const struct entry *e, struct record *r, int in_directory) {
    number(r, VERSION, 2);
    number(r, 0, 2); /* flags */
    number(r, 0, 2); /* stored */
    number(r, 0, 2); /* time */
    number(r, DATE, 2);
    number(r, e->crc, 4);
    number(r, 0xffffffff, 4); /* sizes are in the zip64 field */
    number(r, 0xffffffff, 4);
    number(r, strlen(e->name), 2);
    number(r, in_directory ? 28 : 20, 2);
    if (in_directory) {
        number(r, 0, 2); /* comment */
        number(r, 0, 2); /* disk */
        number(r, 0, 2); /* internal attributes */
        number(r, 0, 4); /* external ones */
        number(r, 0xffffffff, 4);
    }
    text(r, e->name);
    number(r, 1, 2); /* zip64: */
    number(r, in_directory ? 24 : 16, 2);
    number(r, e->size, 8);
    number(r, e->size, 8);
    if (in_directory) number(r, e->offset, 8);
}

int npz_add(struct npz *z, const char *name, enum npz_type type, int64_t rows, int64_t cols, size_t width,
            const void *data) {
    struct entry *grown = realloc(z->entry, (size_t)(z->n + 1) * sizeof *grown);
    struct record npy, local = {.n = 0};
    if (!grown) return error_memory("the archive", (size_t)(z->n + 1) * sizeof *grown);
    z->entry = grown;
    struct entry *e = &z->entry[z->n++];
    if (type != NPZ_BYTES) width = type == NPZ_INT64 ? 8 : 4;
    size_t bytes = (rows < 0 ? 1 : (size_t)rows) * (cols ? (size_t)cols : 1) * width;
    npy_head(type, rows, cols, width, &npy);
    snprintf(e->name, sizeof e->name, "%s.npy", name);
    e->size = npy.n + bytes;
    e->offset = z->offset;
    uint32_t crc = (uint32_t)crc32_z(0, npy.bytes, npy.n);
    e->crc = (uint32_t)crc32_z(crc, data, bytes);
    number(&local, 0x04034b50, 4);
    describe(e, &local, 0);
    int code = put(z, local.bytes, local.n);
    if (!code) code = put(z, npy.bytes, npy.n);
    return code ? code : put(z, data, bytes);
}

static int write_directory(struct npz *z) {
    uint64_t start = z->offset;
    int code = 0;
    for (int i = 0; i < z->n && !code; i++) {
        struct record r = {.n = 0};
        number(&r, 0x02014b50, 4);
        number(&r, VERSION, 2);
        describe(&z->entry[i], &r, 1);
        code = put(z, r.bytes, r.n);
    }
    uint64_t end = z->offset, files = (uint64_t)z->n;
    struct record r = {.n = 0};
    number(&r, 0x06064b50, 4); /* zip64's end of the directory: */
    number(&r, 44, 8);
    number(&r, VERSION, 2);
    number(&r, VERSION, 2);
    number(&r, 0, 8); /* disks */
    number(&r, files, 8);
    number(&r, files, 8);
    number(&r, end - start, 8);
    number(&r, start, 8);
    number(&r, 0x07064b50, 4); /* where that is: */
    number(&r, 0, 4);
    number(&r, end, 8);
    number(&r, 1, 4);
    number(&r, 0x06054b50, 4); /* the old end of the directory: */
    number(&r, 0, 4);
    number(&r, files, 2);
    number(&r, files, 2);
    number(&r, 0xffffffff, 4);
    number(&r, 0xffffffff, 4);
    number(&r, 0, 2);
    return code ? code : put(z, r.bytes, r.n);
}

int npz_close(struct npz *z, int code) {
    code = output_close(z->output, code ? code : write_directory(z));
    free(z->entry);
    free(z);
    return code;
}
