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

#include "errno_code.h"
#include "error.h"
#include "path.h"

enum {
    CHUNK_BYTES = 1 << 20,
    SEAL_BYTES = 1 << 20,
    NAME_SIZE = 1024,
    DEPTH_MAX = 16, /* groups in groups; our files have 4 */
    LINKS_MAX = 1 << 16,
    H5_ANY = -1
};

/* ---- errors ---- */

/* Why a call to HDF5 failed. */
struct reason {
    char text[NAME_SIZE];
    int number;    /* the errno that HDF5 quotes, 0: none */
    int is_memory; /* it got no memory */
};

/* The errno that is quoted in one of HDF5's descriptions; 0 if none is. A file's name may stand before it. */
static int quoted_errno(const char *description) {
    static const char quote[] = "errno = ";
    const char *last = NULL;
    int number = 0;
    for (const char *at = description; (at = strstr(at, quote)); at += sizeof quote - 1) last = at;
    return last && sscanf(last, "errno = %d", &number) == 1 ? number : 0;
}

/* Keeps the innermost description of HDF5's error stack, or the operating system's if one is quoted. */
static herr_t innermost(unsigned n, const H5E_error2_t *error, void *data) {
    struct reason *reason = data;
    const char *text = error->desc ? error->desc : "";
    reason->number = quoted_errno(text);
    if (reason->number) {
        snprintf(reason->text, sizeof reason->text, "%s", strerror(reason->number));
        return 1;
    }
    if (n == 0) {
        snprintf(reason->text, sizeof reason->text, "%s", text);
        reason->is_memory = error->min_num == H5E_CANTALLOC || error->min_num == H5E_NOSPACE;
        if (strncmp(text, "inflate", 7) == 0) { /* the checksum before it was right */
            snprintf(reason->text, sizeof reason->text, "no memory to decompress");
            reason->is_memory = 1;
        }
        if (strncmp(text, "filter returned failure during read", 35) ==
            0) { /* 1.14 hides what the filter says */
            snprintf(reason->text, sizeof reason->text, "a wrong checksum, or no memory to decompress");
        }
    }
    return 0;
}

/* What HDF5 says of its failure: to be asked before the next call to it, which forgets. */
static void get_reason(struct reason *reason) {
    *reason = (struct reason){0};
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, reason);
    H5Eclear2(H5E_DEFAULT);
}

/* code: of a failure that lies in the file; of_system: of one for which HDF5 quotes an errno that says no
 * more than errno_code.h knows. */
static int fail_because(int code, int of_system, const char *file, const char *object, const char *what,
                        const struct reason *reason) {
    if (reason->is_memory) code = EX_OSERR;
    if (reason->number) code = errno_code(reason->number, of_system);
    return error_set(code, "%s: %s%s%s%s%s", file, object, *object ? ": " : "", what,
                     *reason->text ? ": " : "", reason->text);
}

static int fail_named(int code, int of_system, const char *file, const char *object, const char *what) {
    struct reason reason;
    get_reason(&reason);
    return fail_because(code, of_system, file, object, what, &reason);
}

/* With a file that is open an errno means that the disk failed. */
static int fail(int code, hid_t file, const char *object, const char *what) {
    char name[NAME_SIZE] = "?";
    struct reason reason;
    get_reason(&reason);
    H5Fget_name(file, name, sizeof name);
    return fail_because(code, EX_IOERR, name, object, what, &reason);
}

int h5_fail_writing(hid_t file, const char *object) {
    return fail(EX_IOERR, file, object, "cannot write");
}

/* ---- files ---- */

/* The first calls into the library: no printing, no filters out of files that HDF5_PLUGIN_PATH names, and no
 * clean-up at exit, which crashes after a write has failed (the file stays half open inside); everything else
 * is closed by its owner. */
static void start(void) {
    static int started;
    if (!started) H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    if (!started) H5PLset_loading_state(0);
    started = 1;
}

/* The three that make lists return a negative one, with HDF5's reason still to be asked for, if there is no
 * memory. */

static hid_t access_list(void) {
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    if (list < 0) return list;
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
    if (list >= 0) H5Pset_obj_track_times(list, 0);
    return list;
}

/* The same for a dataset in chunks with checksums. rank 0: it has no rows, and no chunks. */
static hid_t chunked(int rank, const hsize_t chunk[], int deflate) {
    hid_t list = timeless(H5P_DATASET_CREATE);
    if (list < 0 || !rank) return list;
    if (H5Pset_chunk(list, rank, chunk) < 0 || (deflate && H5Pset_shuffle(list) < 0) ||
        (deflate && H5Pset_deflate(list, (unsigned)deflate) < 0) || H5Pset_fletcher32(list) < 0) {
        return H5I_INVALID_HID; /* the list is lost: closing it would forget the reason */
    }
    return list;
}

/* ---- what lies outside of a file ---- */

/* A walk over all links of a file. */
struct walk {
    const char *file;
    char name[NAME_SIZE]; /* of the object where it is */
    int depth, links;
    int code;
};

static int fail_walk(struct walk *w, const char *what) {
    w->code = fail_named(EX_DATAERR, EX_IOERR, w->file, w->name, what);
    return w->code;
}

/* Does the dataset have its numbers in this file? */
static void check_storage(hid_t set, struct walk *w) {
    hid_t create = H5Dget_create_plist(set);
    int external = create < 0 ? -1 : H5Pget_external_count(create);
    H5D_layout_t layout = external < 0 ? H5D_LAYOUT_ERROR : H5Pget_layout(create);
    if (external < 0 || layout < 0) {
        fail_walk(w, "damaged");
    } else if (external > 0 || layout == H5D_VIRTUAL) {
        fail_walk(w, external ? "has its data in another file, which is not read"
                              : "is made of other datasets, which are not read");
    }
    if (create >= 0) H5Pclose(create);
}

static herr_t visit(hid_t group, const char *name, const H5L_info_t *link, void *data);

static void walk_group(hid_t group, struct walk *w) {
    if (w->depth == DEPTH_MAX) {
        fail_walk(w, "groups lie too deep in each other");
        return;
    }
    w->depth++;
    if (H5Literate(group, H5_INDEX_NAME, H5_ITER_NATIVE, NULL, visit, w) < 0 && !w->code) {
        fail_walk(w, "damaged");
    }
    w->depth--;
}

/* One link; ends the walk when there is something to tell. */
static herr_t visit(hid_t group, const char *name, const H5L_info_t *link, void *data) {
    struct walk *w = data;
    size_t end = strlen(w->name);
    snprintf(w->name + end, sizeof w->name - end, "/%s", name);
    if (link->type == H5L_TYPE_SOFT) {
        fail_walk(w, "is a soft link, which is not followed");
    } else if (link->type == H5L_TYPE_EXTERNAL) {
        fail_walk(w, "is a link into another file, which is not read");
    } else if (link->type != H5L_TYPE_HARD) {
        fail_walk(w, "is a link of an unknown type");
    } else if (strchr(name, '/') || ++w->links > LINKS_MAX) { /* as a path it could lead anywhere */
        fail_walk(w, strchr(name, '/') ? "has a / in its name" : "one object too many");
    } else {
        hid_t object = H5Oopen(group, name, H5P_DEFAULT);
        H5I_type_t type = object < 0 ? H5I_BADID : H5Iget_type(object);
        if (object < 0) fail_walk(w, "damaged");
        if (type == H5I_GROUP) walk_group(object, w);
        if (type == H5I_DATASET) check_storage(object, w);
        if (object >= 0) H5Oclose(object);
    }
    w->name[end] = '\0';
    return w->code != 0;
}

/* HDF5 would read any file that an external dataset or link names, a pipe too, wherever the file with it came
 * from. Each link is looked at without being followed, before anything is asked for by its path. */
static int check_inside(const char *path, hid_t file) {
    struct walk w = {.file = path};
    hid_t root = H5Gopen2(file, "/", H5P_DEFAULT);
    if (root < 0) return fail_walk(&w, "damaged");
    walk_group(root, &w);
    H5Gclose(root);
    return w.code;
}

/* ---- opening and creating ---- */

static int open_file(const char *path, hid_t *file) {
    hid_t list = access_list();
    *file = list < 0 ? list : H5Fopen(path, H5F_ACC_RDONLY, list);
    int code = 0;
    if (*file < 0) code = fail_named(EX_DATAERR, EX_NOINPUT, path, "", "no HDF5 file, or a damaged one");
    if (list >= 0) H5Pclose(list);
    if (!code) code = check_inside(path, *file);
    if (code && *file >= 0) {
        H5Fclose(*file);
        *file = H5I_INVALID_HID;
    }
    return code;
}

/* Opens a file by ourselves, whatever signals come meanwhile. */
static int open_retrying(const char *path, int flags) {
    int descriptor;
    do {
        descriptor = open(path, flags | O_CLOEXEC | O_NOCTTY);
    } while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

/* For reading. Never waits: not for the writer of a pipe either. */
static int open_bytes(const char *path, int *descriptor, int64_t *length) {
    struct stat status;
    *descriptor = open_retrying(path, O_RDONLY | O_NONBLOCK);
    if (*descriptor < 0 || fstat(*descriptor, &status)) {
        int code =
            error_set(errno_code(errno, EX_NOINPUT), "%s: %s%s", path, strerror(errno), path_hint(path));
        if (*descriptor >= 0) close(*descriptor);
        return code;
    }
    *length = status.st_size;
    if (S_ISREG(status.st_mode)) return 0;
    close(*descriptor);
    return error_set(EX_NOINPUT, "%s: is %s, want a file", path,
                     S_ISDIR(status.st_mode) ? "a directory" : "no regular file");
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
    hid_t list, create = H5I_INVALID_HID;
    int code = 0;
    *file = H5I_INVALID_HID;
    start();
    if ((list = access_list()) < 0 || (create = timeless(H5P_FILE_CREATE)) < 0 ||
        (*file = H5Fcreate(path, H5F_ACC_TRUNC, create, list)) < 0) {
        code = fail_named(EX_CANTCREAT, EX_CANTCREAT, path, "", "cannot create");
    }
    if (create >= 0) H5Pclose(create);
    if (list >= 0) H5Pclose(list);
    return code;
}

/* ---- the seal ---- */

static const char signature[8] = "\x89HDF\r\n\x1a\n", seal_name[] = "vaecf-seal ";

/* Reads `bytes` bytes, fewer only at the end of the file; -1 with errno set. */
static ssize_t read_at(int descriptor, void *to, size_t bytes, int64_t at) {
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = pread(descriptor, (char *)to + done, bytes - done, at + (int64_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return -1;
        if (n == 0) break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

/* -1 with errno set. */
static int write_at(int descriptor, const char *from, size_t bytes, int64_t at) {
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pwrite(descriptor, from + done, bytes - done, at + (int64_t)done);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return -1;
        done += (size_t)n;
    }
    return 0;
}

static int fail_reading(const char *path) {
    return error_set(errno_code(errno, EX_IOERR), "%s: cannot read: %s", path, strerror(errno));
}

/* The line behind the first `length` bytes of a file. EX_IOERR, EX_OSERR. */
static int make_seal(const char *path, int descriptor, int64_t length, char seal[H5_SEAL_SIZE + 1]) {
    unsigned char *buffer = malloc(SEAL_BYTES);
    if (!buffer) return error_memory("a checksum", SEAL_BYTES);
    uLong sum = crc32(0, NULL, 0);
    int code = 0;
    for (int64_t at = 0; at < length && !code;) {
        size_t want = length - at < SEAL_BYTES ? (size_t)(length - at) : SEAL_BYTES;
        ssize_t got = read_at(descriptor, buffer, want, at);
        if (got < 0) {
            code = fail_reading(path);
        } else if ((size_t)got < want) {
            code = error_set(EX_IOERR, "%s: became shorter while it was read", path);
        } else {
            sum = crc32(sum, buffer, (uInt)got);
            at += got;
        }
    }
    free(buffer);
    snprintf(seal, H5_SEAL_SIZE + 1, "%s%019lld %08lx\n", seal_name, (long long)length, (unsigned long)sum);
    return code;
}

/* Waits until the file is on the disk. Some file systems cannot (EINVAL). -1 with errno set. */
static int flush(int descriptor) {
    int failed;
    do {
        failed = fsync(descriptor);
    } while (failed && errno == EINTR);
    return failed && errno != EINVAL ? -1 : 0;
}

static int fail_sealing(const char *path) {
    return error_set(errno_code(errno, EX_IOERR), "%s: cannot write: %s", path, strerror(errno));
}

/* Appends the seal and waits until all of it is on the disk. */
static int put_seal(const char *path) {
    char seal[H5_SEAL_SIZE + 1];
    struct stat status;
    int file = open_retrying(path, O_RDWR);
    if (file < 0) return fail_sealing(path);
    int code = fstat(file, &status) ? fail_sealing(path) : make_seal(path, file, status.st_size, seal);
    if (!code && (write_at(file, seal, H5_SEAL_SIZE, status.st_size) || flush(file))) {
        code = fail_sealing(path);
    }
    if (close(file) && errno != EINTR && !code) code = fail_sealing(path);
    return code;
}

static int check_seal(const char *path, int file, int64_t size) {
    char begin[sizeof signature], seal[H5_SEAL_SIZE + 1], want[H5_SEAL_SIZE + 1];
    int64_t length = size - H5_SEAL_SIZE;
    ssize_t got = read_at(file, begin, sizeof begin, 0);
    if (got < 0) return fail_reading(path);
    if (got < (ssize_t)sizeof begin || memcmp(begin, signature, sizeof begin) != 0) {
        return error_set(EX_DATAERR, "%s: no HDF5 file, or a damaged one", path);
    }
    got = length > 0 ? read_at(file, seal, H5_SEAL_SIZE, length) : 0;
    if (got < 0) return fail_reading(path);
    if (got < H5_SEAL_SIZE || memcmp(seal, seal_name, sizeof seal_name - 1) != 0) {
        return error_set(EX_DATAERR,
                         "%s: has no vaecf-seal at its end: it was cut off, changed by another program, or "
                         "written before format version 2; want it as vaecf wrote it",
                         path);
    }
    int code = make_seal(path, file, length, want);
    if (code || memcmp(seal, want, H5_SEAL_SIZE) == 0) return code;
    return error_set(EX_DATAERR, "%s: is damaged: its checksum does not fit", path);
}

int h5_check_seal(const char *path) {
    int descriptor;
    int64_t size;
    int code = open_bytes(path, &descriptor, &size);
    if (code) return code;
    code = check_seal(path, descriptor, size);
    close(descriptor);
    return code;
}

int h5_open_sealed(const char *path, hid_t *file) {
    *file = H5I_INVALID_HID;
    start();
    int code = h5_check_seal(path);
    return code ? code : open_file(path, file);
}

int h5_close(hid_t file, const char *path, int code) {
    if (code) {
        H5Fclose(file);
        return code;
    }
    if (H5Fflush(file, H5F_SCOPE_GLOBAL) < 0) code = fail_named(EX_IOERR, EX_IOERR, path, "", "cannot write");
    if (H5Fclose(file) < 0 && !code) code = fail_named(EX_IOERR, EX_IOERR, path, "", "cannot close");
    return code ? code : put_seal(path);
}

int h5_make_group(hid_t file, const char *path) {
    hid_t create = timeless(H5P_GROUP_CREATE), group = H5I_INVALID_HID;
    int code = 0;
    if (create < 0 || (group = H5Gcreate2(file, path, H5P_DEFAULT, create, H5P_DEFAULT)) < 0) {
        code = h5_fail_writing(file, path);
    }
    if (group >= 0 && H5Gclose(group) < 0) code = h5_fail_writing(file, path);
    if (create >= 0) H5Pclose(create);
    return code;
}

/* Makes the groups on the way to an object, where they are not there yet. */
static int make_parents(hid_t file, const char *path) {
    char parent[NAME_SIZE];
    for (const char *end = path + 1; (end = strchr(end, '/')); end++) {
        snprintf(parent, sizeof parent, "%.*s", (int)(end - path), path);
        htri_t exists = H5Lexists(file, parent, H5P_DEFAULT);
        int code = exists < 0 ? h5_fail_writing(file, parent) : exists ? 0 : h5_make_group(file, parent);
        if (code) return code;
    }
    return 0;
}

/* ---- datasets ---- */

/* A new dataset of this shape. It is the caller's to close. */
static int make_set(hid_t file, const char *path, hid_t type, int rank, const hsize_t dims[],
                    const hsize_t chunk[], int deflate, hid_t *set) {
    hid_t space = H5I_INVALID_HID, create = H5I_INVALID_HID;
    *set = H5I_INVALID_HID;
    int code = make_parents(file, path);
    if (code) return code;
    if ((space = H5Screate_simple(rank, dims, NULL)) < 0 ||
        (create = chunked(dims[0] ? rank : 0, chunk, deflate)) < 0 ||
        (*set = H5Dcreate2(file, path, type, space, H5P_DEFAULT, create, H5P_DEFAULT)) < 0) {
        code = h5_fail_writing(file, path);
    }
    if (create >= 0) H5Pclose(create);
    if (space >= 0) H5Sclose(space);
    return code;
}

/* How many chunks HDF5 has left uncompressed: as they do not become smaller, or for want of memory, of which
 * it says nothing. */
static int64_t count_raw(hid_t set) {
    int64_t raw = 0;
#if H5_VERSION_GE(1, 10, 5)
    hsize_t n = 0, offset[2], size;
    haddr_t address;
    unsigned mask;
    if (H5Dflush(set) < 0) return -1;
    hid_t space = H5Dget_space(set);
    if (space < 0 || H5Dget_num_chunks(set, space, &n) < 0) return -1;
    for (hsize_t i = 0; i < n; i++) {
        if (H5Dget_chunk_info(set, space, i, offset, &mask, &address, &size) < 0) return -1;
        raw += mask != 0;
    }
    H5Sclose(space);
#else
    (void)set;
#endif
    return raw;
}

/* Writes all of a dataset; if it is to be compressed, twice where it was not, to see why: the same content is
 * to be the same file. */
static int write_set(hid_t file, const char *path, hid_t set, hid_t type, const void *data, int deflate) {
    int64_t raw = 0;
    for (int again = 0; again < 2; again++) {
        if (H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data) < 0) return h5_fail_writing(file, path);
        int64_t before = raw;
        raw = deflate ? count_raw(set) : 0;
        if (raw < 0) return h5_fail_writing(file, path);
        if (again && raw != before) return error_memory("compression", CHUNK_BYTES);
        if (!raw) break;
    }
    return 0;
}

int h5_write(hid_t file, const char *path, hid_t type, int64_t rows, int64_t cols, const void *data,
             int deflate) {
    hsize_t dims[2] = {(hsize_t)rows, (hsize_t)cols}, chunk[2] = {1, cols ? (hsize_t)cols : 1};
    hsize_t row_bytes = (hsize_t)H5Tget_size(type) * chunk[1];
    hid_t set;
    chunk[0] = row_bytes < CHUNK_BYTES ? CHUNK_BYTES / row_bytes : 1;
    if (chunk[0] > dims[0]) chunk[0] = dims[0];
    int code = make_set(file, path, type, cols ? 2 : 1, dims, chunk, deflate, &set);
    if (code) return code;
    if (rows && data) code = write_set(file, path, set, type, data, deflate);
    if (H5Dclose(set) < 0 && !code) code = h5_fail_writing(file, path);
    return code;
}

/* Writes or (from NULL) reads so many rows of a dataset of one or two dimensions. */
static int move_rows(hid_t file, const char *path, hid_t set, hid_t type, int64_t first, int64_t count,
                     void *to, const void *from) {
    if (!count) return 0;
    hsize_t start[2] = {(hsize_t)first, 0}, size[2] = {0, 0};
    hid_t in_file = H5Dget_space(set), in_memory = H5I_INVALID_HID;
    int rank = in_file < 0 ? -1 : H5Sget_simple_extent_ndims(in_file);
    int failed = (rank != 1 && rank != 2) || H5Sget_simple_extent_dims(in_file, size, NULL) < 0;
    size[0] = (hsize_t)count;
    failed = failed || (in_memory = H5Screate_simple(rank, size, NULL)) < 0 ||
             H5Sselect_hyperslab(in_file, H5S_SELECT_SET, start, NULL, size, NULL) < 0 ||
             (from ? H5Dwrite(set, type, in_memory, in_file, H5P_DEFAULT, from)
                   : H5Dread(set, type, in_memory, in_file, H5P_DEFAULT, to)) < 0;
    int code = !failed ? 0
               : from  ? h5_fail_writing(file, path)
                       : fail(EX_DATAERR, file, path, "damaged or of another type");
    if (in_memory >= 0) H5Sclose(in_memory);
    if (in_file >= 0) H5Sclose(in_file);
    return code;
}

int h5_write_rows(hid_t file, const char *path, hid_t type, int64_t first, int64_t count, const void *data) {
    hid_t set = H5Dopen2(file, path, H5P_DEFAULT);
    if (set < 0) return h5_fail_writing(file, path);
    int code = move_rows(file, path, set, type, first, count, NULL, data);
    if (H5Dclose(set) < 0 && !code) code = h5_fail_writing(file, path);
    return code;
}

int64_t h5_piece(hid_t type) {
    return CHUNK_BYTES / (int64_t)H5Tget_size(type);
}

int h5_begin(hid_t file, const char *path, hid_t type, int64_t rows, hid_t *set) {
    hsize_t dims = (hsize_t)rows, chunk = (hsize_t)h5_piece(type);
    if (chunk > dims) chunk = dims;
    return make_set(file, path, type, 1, &dims, &chunk, 0, set);
}

int h5_write_piece(hid_t file, hid_t set, hid_t type, int64_t first, int64_t count, const void *data) {
    return move_rows(file, "", set, type, first, count, NULL, data);
}

int h5_end(hid_t file, hid_t set) {
    return H5Dclose(set) < 0 ? h5_fail_writing(file, "") : 0;
}

/* Opens a dataset of one or two dimensions. */
static int open_dataset(hid_t file, const char *path, hid_t *set, hsize_t dims[2], int *rank) {
    *rank = 0;
    dims[0] = dims[1] = 0;
    *set = H5Dopen2(file, path, H5P_DEFAULT);
    if (*set < 0) return fail(EX_DATAERR, file, path, "missing or damaged");
    hid_t space = H5Dget_space(*set);
    int code = 0;
    *rank = space < 0 ? -1 : H5Sget_simple_extent_ndims(space);
    if (*rank != 1 && *rank != 2) {
        code = fail(EX_DATAERR, file, path, "want one or two dimensions");
    } else if (H5Sget_simple_extent_dims(space, dims, NULL) < 0) {
        code = fail(EX_DATAERR, file, path, "damaged");
    }
    if (space >= 0) H5Sclose(space);
    if (code) H5Dclose(*set);
    return code;
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
                 : move_rows(file, path, set, type, first, count, data, NULL);
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
    if (type < 0) return type;
    H5Tset_size(type, width);
    H5Tset_strpad(type, padding);
    H5Tset_cset(type, H5T_CSET_UTF8);
    return type;
}

int h5_write_strings(hid_t file, const char *path, int64_t count, size_t width, const char *text) {
    hid_t type = string_type(width, H5T_STR_NULLPAD);
    if (type < 0) return h5_fail_writing(file, path);
    int code = h5_write(file, path, type, count, 0, text, 1);
    H5Tclose(type);
    return code;
}

int h5_read_strings(hid_t file, const char *path, int64_t *count, size_t *width, char **text) {
    hid_t set;
    hsize_t dims[2];
    int rank, code = open_dataset(file, path, &set, dims, &rank);
    *text = NULL;
    if (code) return code;
    hid_t type = H5Dget_type(set);
    if (type < 0 || rank != 1 || H5Tget_class(type) != H5T_STRING || H5Tis_variable_str(type) > 0) {
        code = fail(EX_DATAERR, file, path, "want strings of fixed length");
        goto cleanup;
    }
    *count = (int64_t)dims[0];
    *width = H5Tget_size(type);
    *text = dims[0] < INT64_MAX ? calloc((size_t)dims[0] + 1, *width) : NULL;
    if (!*text) {
        code = error_memory(path, (dims[0] + 1) * *width);
        goto cleanup;
    }
    code = move_rows(file, path, set, type, 0, *count, *text, NULL);
    if (code) {
        free(*text);
        *text = NULL;
    }
cleanup:
    if (type >= 0) H5Tclose(type);
    H5Dclose(set);
    return code;
}

/* ---- attributes ---- */

static int set_attribute(hid_t file, const char *object, const char *name, hid_t type, int count,
                         const void *value) {
    hsize_t dims = (hsize_t)count;
    int code = 0;
    hid_t space = count ? H5Screate_simple(1, &dims, NULL) : H5Screate(H5S_SCALAR);
    hid_t owner = H5I_INVALID_HID, attribute = H5I_INVALID_HID;
    if (space < 0 || (owner = H5Oopen(file, object, H5P_DEFAULT)) < 0 ||
        (attribute = H5Acreate2(owner, name, type, space, H5P_DEFAULT, H5P_DEFAULT)) < 0 ||
        H5Awrite(attribute, type, value) < 0) {
        code = fail(EX_IOERR, file, name, "cannot write the attribute");
    }
    if (attribute >= 0 && H5Aclose(attribute) < 0 && !code) {
        code = fail(EX_IOERR, file, name, "cannot write the attribute");
    }
    if (owner >= 0) H5Oclose(owner);
    if (space >= 0) H5Sclose(space);
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
    if (type < 0) return fail(EX_IOERR, file, name, "cannot write the attribute");
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
    int64_t have = space < 0 ? -1 : H5Sget_simple_extent_npoints(space);
    int code = have == count ? 0 : fail(EX_DATAERR, file, name, "an attribute of another size");
    if (space >= 0) H5Sclose(space);
    if (code) H5Aclose(*attribute);
    return code;
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
    size_t width = stored < 0 ? 0 : H5Tget_size(stored);
    memset(value, 0, size);
    if (stored < 0 || H5Tget_class(stored) != H5T_STRING || H5Tis_variable_str(stored) > 0 || width > size) {
        code = fail(EX_DATAERR, file, name, "want a text attribute of fixed length");
    } else if (H5Aread(attribute, stored, value) < 0) {
        code = fail(EX_DATAERR, file, name, "cannot read the attribute");
    } else {
        value[size - 1] = '\0';
    }
    if (stored >= 0) H5Tclose(stored);
    H5Aclose(attribute);
    return code;
}
