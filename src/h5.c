/* HDF5 with this project's habits; see h5.h. */
#include "h5.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "error.h"

enum { CHUNK_BYTES = 1 << 20, SEAL_BYTES = 1 << 20, NAME_SIZE = 1024, H5_ANY = -1 };

/* ---- errors ---- */

/* Keeps the innermost description of HDF5's error stack, or the operating system's if one is quoted. */
static herr_t innermost(unsigned n, const H5E_error2_t *error, void *text) {
    char *to = text;
    int number;
    const char *os = error->desc ? strstr(error->desc, "errno = ") : NULL;
    if (os && sscanf(os, "errno = %d", &number) == 1) {
        snprintf(to, NAME_SIZE, "%s", strerror(number));
        return 1;
    }
    if (n == 0 && error->desc) snprintf(to, NAME_SIZE, "%s", error->desc);
    return 0;
}

/* What HDF5 says of its failure: to be asked before the next call to it, which forgets. */
static void get_reason(char reason[NAME_SIZE]) {
    reason[0] = '\0';
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, reason);
    H5Eclear2(H5E_DEFAULT);
}

static int fail_because(int code, const char *file, const char *object, const char *what,
                        const char *reason) {
    return error_set(code, "%s: %s%s%s%s%s", file, object, *object ? ": " : "", what, *reason ? ": " : "",
                     reason);
}

static int fail_named(int code, const char *file, const char *object, const char *what) {
    char reason[NAME_SIZE];
    get_reason(reason);
    return fail_because(code, file, object, what, reason);
}

static int fail(int code, hid_t file, const char *object, const char *what) {
    char name[NAME_SIZE] = "?", reason[NAME_SIZE];
    get_reason(reason);
    H5Fget_name(file, name, sizeof name);
    return fail_because(code, name, object, what, reason);
}

/* ---- files ---- */

/* The first calls into the library: no printing, and no clean-up at exit, which crashes after a write has
 * failed (the file stays half open inside); everything else is closed by its owner. */
static void start(void) {
    static int started;
    if (!started) H5dont_atexit();
    started = 1;
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static hid_t access_list(void) {
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    /* 1.10's format: superblock, headers and indices have checksums too */
    H5Pset_libver_bounds(list, H5F_LIBVER_V110, H5F_LIBVER_V110);
    H5Pset_fclose_degree(list, H5F_CLOSE_STRONG);
#if H5_VERSION_GE(1, 10, 7)
    /* Locks fail on many parallel file systems; files are written under another name anyway. */
    H5Pset_file_locking(list, 0, 1);
#endif
    return list;
}

/* A list to create with, which keeps no time: the same content is the same file. */
static hid_t timeless(hid_t class) {
    hid_t list = H5Pcreate(class);
    H5Pset_obj_track_times(list, 0);
    return list;
}

static int open_file(const char *path, hid_t *file) {
    hid_t list = access_list();
    *file = H5Fopen(path, H5F_ACC_RDONLY, list);
    H5Pclose(list);
    if (*file < 0) return fail_named(EX_DATAERR, path, "", "no HDF5 file, or a damaged one");
    return 0;
}

/* Opens it for reading by ourselves. */
static int open_bytes(const char *path, int *descriptor, int64_t *length) {
    struct stat status;
    *descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (*descriptor < 0 || fstat(*descriptor, &status)) {
        int code = error_set(EX_NOINPUT, "%s: %s", path, strerror(errno));
        if (*descriptor >= 0) close(*descriptor);
        return code;
    }
    *length = status.st_size;
    if (S_ISREG(status.st_mode)) return 0;
    close(*descriptor);
    return error_set(EX_NOINPUT, "%s: is %s, want a file", path,
                     S_ISDIR(status.st_mode) ? "a directory" : "no file");
}

int h5_open(const char *path, hid_t *file) {
    int descriptor;
    int64_t length;
    *file = H5I_INVALID_HID;
    start();
    int code = open_bytes(path, &descriptor, &length);
    if (code) return code;
    close(descriptor);
    return open_file(path, file);
}

int h5_create(const char *path, hid_t *file) {
    start();
    hid_t list = access_list(), create = timeless(H5P_FILE_CREATE);
    *file = H5Fcreate(path, H5F_ACC_TRUNC, create, list);
    H5Pclose(create);
    H5Pclose(list);
    H5Pclose(create);
    if (*file < 0) return fail_named(EX_CANTCREAT, path, "", "cannot create");
    return 0;
}

/* ---- the seal ---- */

static const char signature[8] = "\x89HDF\r\n\x1a\n", seal_name[] = "vaecf-seal ";

/* The line behind the first `length` bytes of a file. EX_IOERR. */
static int make_seal(int descriptor, int64_t length, char seal[H5_SEAL_SIZE + 1]) {
    unsigned char *buffer = malloc(SEAL_BYTES);
    if (!buffer) return error_memory("a checksum", SEAL_BYTES);
    uLong sum = crc32(0, NULL, 0);
    ssize_t got = 1;
    for (int64_t at = 0; at < length && got > 0; at += got) {
        size_t want = length - at < SEAL_BYTES ? (size_t)(length - at) : SEAL_BYTES;
        got = pread(descriptor, buffer, want, at);
        if (got > 0) sum = crc32(sum, buffer, (uInt)got);
        if (got == 0) errno = EIO; /* it became shorter */
    }
    free(buffer);
    snprintf(seal, H5_SEAL_SIZE + 1, "%s%019lld %08lx\n", seal_name, (long long)length, (unsigned long)sum);
    return got > 0 ? 0 : EX_IOERR;
}

/* Appends the seal and waits until all of it is on the disk. */
static int put_seal(const char *path) {
    char seal[H5_SEAL_SIZE + 1];
    struct stat status;
    int file = open(path, O_RDWR | O_CLOEXEC), code = 0;
    ssize_t put = -1;
    if (file >= 0 && !fstat(file, &status) && !make_seal(file, status.st_size, seal)) {
        put = pwrite(file, seal, H5_SEAL_SIZE, status.st_size);
        if (put >= 0 && put < H5_SEAL_SIZE) errno = ENOSPC;
    }
    if (put < H5_SEAL_SIZE || (fsync(file) && errno != EINVAL)) {
        code = error_set(EX_IOERR, "%s: cannot write: %s", path, strerror(errno));
    }
    if (file >= 0 && close(file) && !code) {
        code = error_set(EX_IOERR, "%s: cannot write: %s", path, strerror(errno));
    }
    return code;
}

static int check_seal(const char *path, int file, int64_t size) {
    char begin[sizeof signature], seal[H5_SEAL_SIZE + 1], want[H5_SEAL_SIZE + 1];
    int64_t length = size - H5_SEAL_SIZE;
    if (pread(file, begin, sizeof begin, 0) != sizeof begin || memcmp(begin, signature, sizeof begin) != 0) {
        return error_set(EX_DATAERR, "%s: no HDF5 file, or a damaged one", path);
    }
    if (length <= 0 || pread(file, seal, H5_SEAL_SIZE, length) != H5_SEAL_SIZE ||
        memcmp(seal, seal_name, sizeof seal_name - 1) != 0) {
        return error_set(EX_DATAERR,
                         "%s: has no vaecf-seal at its end: it was cut off, changed by another program, or "
                         "written before format version 2; want it as vaecf wrote it",
                         path);
    }
    int code = make_seal(file, length, want);
    if (code) return error_set(code, "%s: cannot read: %s", path, strerror(errno));
    if (memcmp(seal, want, H5_SEAL_SIZE) == 0) return 0;
    return error_set(EX_DATAERR, "%s: is damaged: its checksum does not fit", path);
}

int h5_open_sealed(const char *path, hid_t *file) {
    int descriptor;
    int64_t size;
    *file = H5I_INVALID_HID;
    start();
    int code = open_bytes(path, &descriptor, &size);
    if (code) return code;
    code = check_seal(path, descriptor, size);
    close(descriptor);
    return code ? code : open_file(path, file);
}

int h5_close(hid_t file, const char *path, int code) {
    if (code) {
        H5Fclose(file);
        return code;
    }
    if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0) code = fail_named(EX_IOERR, path, "", "cannot write");
    if (H5Fclose(file) < 0 && !code) code = fail_named(EX_IOERR, path, "", "cannot close");
    return code ? code : put_seal(path);
}

int h5_make_group(hid_t file, const char *path) {
    hid_t create = timeless(H5P_GROUP_CREATE);
    hid_t group = H5Gcreate2(file, path, H5P_DEFAULT, create, H5P_DEFAULT);
    H5Pclose(create);
    if (group < 0) return fail(EX_IOERR, file, path, "cannot write");
    return H5Gclose(group) < 0 ? fail(EX_IOERR, file, path, "cannot write") : 0;
}

/* Makes the groups on the way to an object, where they are not there yet. */
static int make_parents(hid_t file, const char *path) {
    char parent[NAME_SIZE];
    for (const char *end = path + 1; (end = strchr(end, '/')); end++) {
        snprintf(parent, sizeof parent, "%.*s", (int)(end - path), path);
        htri_t exists = H5Lexists(file, parent, H5P_DEFAULT);
        int code = exists > 0 ? 0 : h5_make_group(file, parent);
        if (code) return code;
    }
    return 0;
}

/* ---- datasets ---- */

static int write_typed(hid_t file, const char *path, hid_t type, int64_t rows, int64_t cols, const void *data,
                       int deflate) {
    hsize_t dims[2] = {(hsize_t)rows, (hsize_t)cols}, chunk[2] = {1, cols ? (hsize_t)cols : 1};
    int rank = cols ? 2 : 1, code = make_parents(file, path);
    if (code) return code;
    hid_t space = H5Screate_simple(rank, dims, NULL);
    hid_t create = timeless(H5P_DATASET_CREATE);
    if (rows) {
        hsize_t row_bytes = (hsize_t)H5Tget_size(type) * chunk[1];
        chunk[0] = row_bytes < CHUNK_BYTES ? CHUNK_BYTES / row_bytes : 1;
        if (chunk[0] > dims[0]) chunk[0] = dims[0];
        H5Pset_chunk(create, rank, chunk);
        if (deflate) {
            H5Pset_shuffle(create);
            H5Pset_deflate(create, (unsigned)deflate);
        }
        H5Pset_fletcher32(create);
    }
    hid_t set = H5Dcreate2(file, path, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (set < 0 || (rows && data && H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0)) {
        code = fail(EX_IOERR, file, path, "cannot write");
    }
    if (set >= 0 && H5Dclose(set) < 0 && !code) code = fail(EX_IOERR, file, path, "cannot write");
    H5Pclose(create);
    H5Sclose(space);
    return code;
}

int h5_write(hid_t file, const char *path, hid_t type, int64_t rows, int64_t cols, const void *data,
             int deflate) {
    return write_typed(file, path, type, rows, cols, data, deflate);
}

int h5_write_rows(hid_t file, const char *path, hid_t type, int64_t first, int64_t count, const void *data) {
    hid_t set = H5Dopen2(file, path, H5P_DEFAULT);
    if (set < 0) return fail(EX_IOERR, file, path, "cannot write");
    hid_t in_file = H5Dget_space(set);
    hsize_t start[2] = {(hsize_t)first, 0}, size[2] = {0, 0};
    int rank = H5Sget_simple_extent_ndims(in_file), code = 0;
    H5Sget_simple_extent_dims(in_file, size, NULL);
    size[0] = (hsize_t)count;
    hid_t in_memory = H5Screate_simple(rank, size, NULL);
    if (H5Sselect_hyperslab(in_file, H5S_SELECT_SET, start, NULL, size, NULL) < 0 ||
        H5Dwrite(set, type, in_memory, in_file, H5P_DEFAULT, data) < 0) {
        code = fail(EX_IOERR, file, path, "cannot write");
    }
    H5Sclose(in_memory);
    H5Sclose(in_file);
    if (H5Dclose(set) < 0 && !code) code = fail(EX_IOERR, file, path, "cannot write");
    return code;
}

int64_t h5_piece(hid_t type) {
    return CHUNK_BYTES / (int64_t)H5Tget_size(type);
}

int h5_begin(hid_t file, const char *path, hid_t type, int64_t rows, hid_t *set) {
    hsize_t dims = (hsize_t)rows, chunk = (hsize_t)h5_piece(type);
    if (chunk > dims) chunk = dims;
    int code = make_parents(file, path);
    *set = H5I_INVALID_HID;
    if (code) return code;
    hid_t space = H5Screate_simple(1, &dims, NULL);
    hid_t create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(create, false);
    if (rows) {
        H5Pset_chunk(create, 1, &chunk);
        H5Pset_fletcher32(create);
    }
    *set = H5Dcreate2(file, path, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    if (*set < 0) code = fail(EX_IOERR, file, path, "cannot write");
    H5Pclose(create);
    H5Sclose(space);
    return code;
}

int h5_write_piece(hid_t file, hid_t set, hid_t type, int64_t first, int64_t count, const void *data) {
    if (!count) return 0;
    hsize_t start = (hsize_t)first, size = (hsize_t)count;
    hid_t in_file = H5Dget_space(set), in_memory = H5Screate_simple(1, &size, NULL);
    int code = 0;
    if (H5Sselect_hyperslab(in_file, H5S_SELECT_SET, &start, NULL, &size, NULL) < 0 ||
        H5Dwrite(set, type, in_memory, in_file, H5P_DEFAULT, data) < 0) {
        code = fail(EX_IOERR, file, "", "cannot write");
    }
    H5Sclose(in_memory);
    H5Sclose(in_file);
    return code;
}

int h5_end(hid_t file, hid_t set) {
    return H5Dclose(set) < 0 ? fail(EX_IOERR, file, "", "cannot write") : 0;
}

/* Opens a dataset of one or two dimensions. */
static int open_dataset(hid_t file, const char *path, hid_t *set, hsize_t dims[2], int *rank) {
    *rank = 0;
    dims[0] = dims[1] = 0;
    *set = H5Dopen2(file, path, H5P_DEFAULT);
    if (*set < 0) return fail(EX_DATAERR, file, path, "missing or damaged");
    hid_t space = H5Dget_space(*set);
    *rank = H5Sget_simple_extent_ndims(space);
    if (*rank == 1 || *rank == 2) H5Sget_simple_extent_dims(space, dims, NULL);
    H5Sclose(space);
    if (*rank != 1 && *rank != 2) {
        H5Dclose(*set);
        return fail(EX_DATAERR, file, path, "want one or two dimensions");
    }
    return 0;
}

int h5_shape(hid_t file, const char *path, int64_t *rows, int64_t *cols) {
    hid_t set;
    hsize_t dims[2];
    int rank, code = open_dataset(file, path, &set, dims, &rank);
    if (code) return code;
    H5Dclose(set);
    *rows = (int64_t)dims[0];
    *cols = rank == 2 ? (int64_t)dims[1] : 0;
    return 0;
}

static int read_rows(hid_t file, const char *path, hid_t set, hid_t type, const hsize_t dims[2], int rank,
                     hsize_t first, hsize_t count, void *data) {
    if (!count) return 0;
    hsize_t start[2] = {first, 0}, size[2] = {count, dims[1]};
    hid_t in_file = H5Dget_space(set), in_memory = H5Screate_simple(rank, size, NULL);
    int code = 0;
    if (H5Sselect_hyperslab(in_file, H5S_SELECT_SET, start, NULL, size, NULL) < 0 ||
        H5Dread(set, type, in_memory, in_file, H5P_DEFAULT, data) < 0) {
        code = fail(EX_DATAERR, file, path, "damaged or of another type");
    }
    H5Sclose(in_memory);
    H5Sclose(in_file);
    return code;
}

static int read_checked(hid_t file, const char *path, hid_t type, int64_t first, int64_t count, int64_t cols,
                        void *data) {
    hid_t set;
    hsize_t dims[2];
    int rank, code = open_dataset(file, path, &set, dims, &rank);
    if (code) return code;
    char what[128] = "";
    if (first < 0 || count < 0 || (hsize_t)first + (hsize_t)count > dims[0]) {
        snprintf(what, sizeof what, "has %lld rows, want at least %lld", (long long)dims[0],
                 (long long)(first + count));
    } else if (cols != H5_ANY && (hsize_t)cols != (rank == 2 ? dims[1] : 0)) {
        snprintf(what, sizeof what, "has %lld columns, want %lld", (long long)(rank == 2 ? dims[1] : 0),
                 (long long)cols);
    }
    code = *what ? fail(EX_DATAERR, file, path, what)
                 : read_rows(file, path, set, type, dims, rank, (hsize_t)first, (hsize_t)count, data);
    H5Dclose(set);
    return code;
}

int h5_read(hid_t file, const char *path, hid_t type, int64_t first, int64_t count, void *data) {
    return read_checked(file, path, type, first, count, H5_ANY, data);
}

int h5_read_columns(hid_t file, const char *path, hid_t type, int64_t cols, int64_t first, int64_t count,
                    void *data) {
    return read_checked(file, path, type, first, count, cols, data);
}

/* ---- strings ---- */

static hid_t string_type(size_t width, H5T_str_t padding) {
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, width);
    H5Tset_strpad(type, padding);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

int h5_write_strings(hid_t file, const char *path, int64_t count, size_t width, const char *text) {
    hid_t type = string_type(width, H5T_STR_NULLPAD);
    int code = write_typed(file, path, type, count, 0, text, 1);
    H5Tclose(type);
    return code;
}

int h5_read_strings(hid_t file, const char *path, int64_t *count, size_t *width, char **text) {
    hid_t set;
    hsize_t dims[2];
    int rank, code = open_dataset(file, path, &set, dims, &rank);
    *text = NULL;
    if (code) return code;
    hid_t stored = H5Dget_type(set), type = H5I_INVALID_HID;
    if (rank != 1 || H5Tget_class(stored) != H5T_STRING || H5Tis_variable_str(stored) > 0) {
        code = fail(EX_DATAERR, file, path, "want strings of fixed length");
        goto cleanup;
    }
    *count = (int64_t)dims[0];
    *width = H5Tget_size(stored);
    type = H5Tcopy(stored);
    *text = dims[0] < INT64_MAX ? calloc((size_t)dims[0] + 1, *width) : NULL;
    if (!*text) {
        code = error_memory(path, (dims[0] + 1) * *width);
        goto cleanup;
    }
    code = read_rows(file, path, set, type, dims, rank, 0, dims[0], *text);
    if (code) {
        free(*text);
        *text = NULL;
    }
cleanup:
    if (type >= 0) H5Tclose(type);
    H5Tclose(stored);
    H5Dclose(set);
    return code;
}

/* ---- attributes ---- */

static int set_attribute(hid_t file, const char *object, const char *name, hid_t type, int count,
                         const void *value) {
    hsize_t dims = (hsize_t)count;
    int code = 0;
    hid_t space = count ? H5Screate_simple(1, &dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t owner = H5Oopen(file, object, H5P_DEFAULT), attribute = H5I_INVALID_HID;
    if (owner >= 0) attribute = H5Acreate2(owner, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, type, value) < 0) {
        code = fail(EX_IOERR, file, name, "cannot write the attribute");
    }
    if (attribute >= 0) H5Aclose(attribute);
    if (owner >= 0) H5Oclose(owner);
    H5Sclose(space);
    return code;
}

int h5_set_int(hid_t file, const char *object, const char *name, int64_t value) {
    return set_attribute(file, object, name, H5T_NATIVE_INT64, 0, &value);
}

int h5_set_double(hid_t file, const char *object, const char *name, double value) {
    return set_attribute(file, object, name, H5T_NATIVE_DOUBLE, 0, &value);
}

int h5_set_ints(hid_t file, const char *object, const char *name, const int64_t *values, int count) {
    return set_attribute(file, object, name, H5T_NATIVE_INT64, count, values);
}

int h5_set_text(hid_t file, const char *object, const char *name, const char *value) {
    hid_t type = string_type(strlen(value) + 1, H5T_STR_NULLTERM);
    int code = set_attribute(file, object, name, type, 0, value);
    H5Tclose(type);
    return code;
}

/* Opens an attribute that has exactly `count` values. */
static int open_attribute(hid_t file, const char *object, const char *name, int64_t count, hid_t *attribute) {
    *attribute = H5Aopen_by_name(file, object, name, H5P_DEFAULT, H5P_DEFAULT);
    if (*attribute < 0) {
        char what[256];
        snprintf(what, sizeof what, "has no attribute \"%s\"", name);
        return fail(EX_DATAERR, file, object, what);
    }
    hid_t space = H5Aget_space(*attribute);
    int64_t have = H5Sget_simple_extent_npoints(space);
    H5Sclose(space);
    if (have == count) return 0;
    H5Aclose(*attribute);
    return fail(EX_DATAERR, file, name, "an attribute of another size");
}

static int get_attribute(hid_t file, const char *object, const char *name, hid_t type, int64_t count,
                         void *value) {
    hid_t attribute;
    int code = open_attribute(file, object, name, count, &attribute);
    if (code) return code;
    if (H5Aread(attribute, type, value) < 0) code = fail(EX_DATAERR, file, name, "cannot read the attribute");
    H5Aclose(attribute);
    return code;
}

int h5_get_int(hid_t file, const char *object, const char *name, int64_t *value) {
    return get_attribute(file, object, name, H5T_NATIVE_INT64, 1, value);
}

int h5_get_double(hid_t file, const char *object, const char *name, double *value) {
    return get_attribute(file, object, name, H5T_NATIVE_DOUBLE, 1, value);
}

int h5_get_ints(hid_t file, const char *object, const char *name, int64_t *values, int count) {
    return get_attribute(file, object, name, H5T_NATIVE_INT64, count, values);
}

int h5_get_text(hid_t file, const char *object, const char *name, char *value, size_t size) {
    hid_t attribute;
    int code = open_attribute(file, object, name, 1, &attribute);
    if (code) return code;
    hid_t stored = H5Aget_type(attribute);
    size_t width = H5Tget_size(stored);
    memset(value, 0, size);
    if (H5Tget_class(stored) != H5T_STRING || H5Tis_variable_str(stored) > 0 || width > size) {
        code = fail(EX_DATAERR, file, name, "want a text attribute of fixed length");
    } else if (H5Aread(attribute, stored, value) < 0) {
        code = fail(EX_DATAERR, file, name, "cannot read the attribute");
    } else {
        value[size - 1] = '\0';
    }
    H5Tclose(stored);
    H5Aclose(attribute);
    return code;
}
