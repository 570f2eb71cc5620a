/* See output.h. */
#define _GNU_SOURCE /* fopencookie, mkostemp */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "errno_code.h"
#include "error.h"
#include "file.h"
#include "path.h"

enum {
    BUFFER = 1 << 18,
    GZIP_LEVEL = 1, /* results are large and written once */
    LEFT_MAX = 8,   /* unfinished files that a signal removes */
    LINKS_MAX = 40,
    TRIES_MAX = 100,
};

static const char suffix[] = ".tmp";
enum { RANDOM_DIGITS = 12 };

struct output {
    const char *shown;           /* its name in messages; the caller's, or "standard output" */
    char target[FILE_NAME_SIZE]; /* what is replaced in the end; "": nothing */
    char temporary[FILE_NAME_SIZE];
    char scratch[FILE_NAME_SIZE]; /* output_name's file, unless that is `temporary` */
    int left, left_scratch;       /* their places among the unfinished files; -1: none */
    int descriptor;
    int reason; /* errno of the first write that failed */
    FILE *stream;
    enum { PLAIN, GZIP, ZSTD } kind;
    z_stream gzip;
    ZSTD_CCtx *zstd;
    char *buffer;          /* [BUFFER] the stream's */
    unsigned char *packed; /* [BUFFER] */
    int is_given_up;       /* what is still in the stream's buffer goes nowhere */
};

/* ---- unfinished files ---- */

static struct {
    atomic_int is_used;
    char path[FILE_NAME_SIZE];
} unfinished[LEFT_MAX];

/* Its place; -1 if all are taken: then a signal leaves it behind. */
static int remember(const char *path) {
    for (int i = 0; i < LEFT_MAX; i++) {
        int expected = 0;
        if (!atomic_compare_exchange_strong(&unfinished[i].is_used, &expected, 1)) continue;
        snprintf(unfinished[i].path, FILE_NAME_SIZE, "%s", path);
        atomic_store(&unfinished[i].is_used, 2);
        return i;
    }
    return -1;
}

static void forget(int *place) {
    if (*place >= 0) atomic_store(&unfinished[*place].is_used, 0);
    *place = -1;
}

static void on_signal(int number) {
    for (int i = 0; i < LEFT_MAX; i++) {
        if (atomic_load(&unfinished[i].is_used) == 2) unlink(unfinished[i].path);
    }
    signal(number, SIG_DFL);
    raise(number);
}

void output_catch_signals(void) {
    static const int number[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_NODEFER}, old;
    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof number / sizeof *number; i++) {
        if (!sigaction(number[i], NULL, &old) && old.sa_handler == SIG_IGN) continue; /* nohup */
        sigaction(number[i], &action, NULL);
    }
}

int output_is_left(const char *name, const char *path) {
    size_t length = strlen(name), tail = sizeof suffix - 1, head = strlen(path);
    return length >= head + tail && strncmp(name, path, head) == 0 && name[head] == '.' &&
           strcmp(name + length - tail, suffix) == 0;
}

/* ---- the descriptor ---- */

static int fail(const struct output *o, const char *what, int reason) {
    return error_set(errno_code(reason, EX_CANTCREAT), "%s: cannot %s: %s", o->shown, what, strerror(reason));
}

static int fail_writing(const struct output *o, int reason) {
    return error_set(EX_IOERR, "%s: cannot write: %s", o->shown, strerror(reason));
}

/* Opens it whatever a signal says meanwhile. */
static int open_again(const char *path, int flags) {
    int descriptor;
    do descriptor = open(path, flags | O_CLOEXEC, 0666);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

/* The descriptor that a name such as /dev/fd/3 means; -1 if it means none. */
static int descriptor_of(const char *path) {
    int number, end = 0;
    if (!path || strcmp(path, "-") == 0 || strcmp(path, "/dev/stdout") == 0) return STDOUT_FILENO;
    if (strcmp(path, "/dev/stderr") == 0) return STDERR_FILENO;
    if (sscanf(path, "/dev/fd/%9d%n", &number, &end) == 1 && end && !path[end]) return number;
    if (sscanf(path, "/proc/self/fd/%9d%n", &number, &end) == 1 && end && !path[end]) return number;
    return -1;
}

/* Follows symbolic links to what is to be replaced, which may not be there yet. */
static int find_target(struct output *o, const char *path) {
    char link[FILE_NAME_SIZE];
    if (strlen(path) + 1 > sizeof o->target) return fail(o, "create", ENAMETOOLONG);
    snprintf(o->target, sizeof o->target, "%s", path);
    for (int i = 0; i < LINKS_MAX; i++) {
        ssize_t length = readlink(o->target, link, sizeof link - 1);
        if (length < 0) return 0; /* no link */
        link[length] = '\0';
        char *slash = strrchr(o->target, '/');
        size_t base = slash && link[0] != '/' ? (size_t)(slash + 1 - o->target) : 0;
        if (base + (size_t)length + 1 > sizeof o->target) return fail(o, "create", ENAMETOOLONG);
        memcpy(o->target + base, link, (size_t)length + 1);
    }
    return fail(o, "create", ELOOP);
}

/* Makes the file that will be renamed, with a name that nobody can foresee, and the rights of the old one. */
static int make_temporary(struct output *o, const struct stat *old) {
    const char *slash = strrchr(o->target, '/'), *base = slash ? slash + 1 : o->target;
    int room = NAME_MAX - 1 - RANDOM_DIGITS - (int)sizeof suffix, tries = 0;
    if (!*base) return fail(o, "create", EISDIR);
    if (strlen(o->target) + RANDOM_DIGITS + 8 > sizeof o->temporary) return fail(o, "create", ENAMETOOLONG);
    do {
        uint64_t number = 0;
        if (getrandom(&number, sizeof number, 0) != sizeof number) number = (uint64_t)getpid();
        snprintf(o->temporary, sizeof o->temporary, "%.*s%.*s.%012llx%s", (int)(base - o->target), o->target,
                 room, base, (unsigned long long)(number & 0xffffffffffff), suffix);
        o->left = remember(o->temporary);
        o->descriptor = file_create_new(o->temporary);
        if (o->descriptor >= 0) break;
        forget(&o->left);
    } while (errno == EEXIST && ++tries < TRIES_MAX);
    if (o->descriptor < 0) {
        o->temporary[0] = '\0';
        return fail(o, "create", errno);
    }
    if (old && fchmod(o->descriptor, old->st_mode & 0777)) return 0; /* a file system without rights */
    return 0;
}

static int open_descriptor(struct output *o, const char *path) {
    struct stat status;
    int number = descriptor_of(path);
    if (number >= 0) {
        fflush(stdout); /* in order with what went there before */
        o->descriptor = fcntl(number, F_DUPFD_CLOEXEC, 3);
        return o->descriptor < 0 ? fail_writing(o, errno) : 0;
    }
    int is_there = stat(path, &status) == 0;
    if (is_there && S_ISDIR(status.st_mode)) return fail(o, "create", EISDIR);
    if (is_there && !S_ISREG(status.st_mode)) {
        o->descriptor = open_again(path, O_WRONLY | O_NOCTTY);
        return o->descriptor < 0 ? fail(o, "open", errno) : 0;
    }
    int code = find_target(o, path);
    return code ? code : make_temporary(o, is_there ? &status : NULL);
}

/* All of it, whatever signals and short writes come between. */
static int put(struct output *o, const void *data, size_t bytes) {
    for (const char *from = data; bytes;) {
        ssize_t n = write(o->descriptor, from, bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) {
            if (!o->reason) o->reason = n < 0 ? errno : ENOSPC;
            return -1;
        }
        from += n;
        bytes -= (size_t)n;
    }
    return 0;
}

/* ---- the stream ---- */

static int pack_gzip(struct output *o, const void *data, size_t bytes, int how) {
    o->gzip.next_in = (unsigned char *)(uintptr_t)data;
    o->gzip.avail_in = (uInt)bytes;
    do {
        o->gzip.next_out = o->packed;
        o->gzip.avail_out = BUFFER;
        deflate(&o->gzip, how);
        if (put(o, o->packed, BUFFER - o->gzip.avail_out)) return -1;
    } while (!o->gzip.avail_out);
    return 0;
}

static int pack_zstd(struct output *o, const void *data, size_t bytes, ZSTD_EndDirective how) {
    ZSTD_inBuffer in = {data, bytes, 0};
    size_t left;
    do {
        ZSTD_outBuffer out = {o->packed, BUFFER, 0};
        left = ZSTD_compressStream2(o->zstd, &out, &in, how);
        if (ZSTD_isError(left)) {
            if (!o->reason) o->reason = ENOMEM;
            return -1;
        }
        if (put(o, o->packed, out.pos)) return -1;
    } while (how == ZSTD_e_end ? left > 0 : in.pos < in.size);
    return 0;
}

/* The stream's writer: 0 tells stdio that it failed. */
static ssize_t put_packed(void *output, const char *data, size_t bytes) {
    struct output *o = output;
    size_t n = bytes < 1u << 30 ? bytes : 1u << 30;
    if (o->is_given_up) return (ssize_t)n;
    int failed = o->kind == GZIP   ? pack_gzip(o, data, n, Z_NO_FLUSH)
                 : o->kind == ZSTD ? pack_zstd(o, data, n, ZSTD_e_continue)
                                   : put(o, data, n);
    return failed ? 0 : (ssize_t)n;
}

static int ends_in(const char *text, const char *end) {
    size_t length = text ? strlen(text) : 0, n = strlen(end);
    return length > n && strcmp(text + length - n, end) == 0;
}

static int open_stream(struct output *o, const char *path) {
    const cookie_io_functions_t functions = {.write = put_packed};
    o->kind = ends_in(path, ".gz") ? GZIP : ends_in(path, ".zst") ? ZSTD : PLAIN;
    o->packed = o->kind ? malloc(BUFFER) : NULL;
    if (o->kind == ZSTD) o->zstd = ZSTD_createCCtx();
    o->buffer = malloc(BUFFER);
    if (!o->buffer || (o->kind && !o->packed) || (o->kind == ZSTD && !o->zstd) ||
        (o->kind == GZIP &&
         deflateInit2(&o->gzip, GZIP_LEVEL, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)) {
        return error_memory("an output's compression", BUFFER);
    }
    o->stream = fopencookie(o, "w", functions);
    if (!o->stream) return error_memory("an output", sizeof *o->stream);
    setvbuf(o->stream, o->buffer, _IOFBF, BUFFER);
    return 0;
}

int output_open(const char *path, struct output **output) {
    struct output *o = calloc(1, sizeof *o);
    *output = NULL;
    if (!o) return error_memory("an output", sizeof *o);
    o->shown = descriptor_of(path) == STDOUT_FILENO ? "standard output" : path;
    o->descriptor = o->left = o->left_scratch = -1;
    int code = path_check(path);
    if (!code) code = open_descriptor(o, path);
    if (!code) code = open_stream(o, path);
    if (code) return output_close(o, code);
    *output = o;
    return 0;
}

FILE *output_stream(struct output *o) {
    return o->stream;
}

int output_name(struct output *o, const char **name) {
    *name = o->temporary;
    if (*o->target && o->kind == PLAIN) return 0;
    *name = o->scratch;
    snprintf(o->scratch, sizeof o->scratch, "%s/vaecf-XXXXXX", file_scratch_directory());
    int descriptor = mkostemp(o->scratch, O_CLOEXEC);
    if (descriptor < 0) {
        int code =
            error_set(EX_CANTCREAT, "%s: cannot create a temporary file: %s (TMPDIR names another place)",
                      file_scratch_directory(), strerror(errno));
        o->scratch[0] = '\0';
        return code;
    }
    o->left_scratch = remember(o->scratch);
    close(descriptor);
    return 0;
}

int output_check(struct output *o) {
    if (!o->reason && !ferror(o->stream)) return 0;
    return fail_writing(o, o->reason ? o->reason : EIO);
}

/* What a library has written goes its way. */
static int pass_on(struct output *o) {
    char *buffer = malloc(BUFFER);
    if (!buffer) return error_memory("an output", BUFFER);
    int code = 0, from = open_again(o->scratch, O_RDONLY);
    ssize_t n = from < 0 ? -1 : 1;
    while (n > 0 && !code) {
        do n = read(from, buffer, BUFFER);
        while (n < 0 && errno == EINTR);
        if (n > 0 && fwrite(buffer, 1, (size_t)n, o->stream) != (size_t)n) code = output_check(o);
    }
    if (n < 0) code = error_set(EX_IOERR, "%s: cannot read: %s", o->scratch, strerror(errno));
    if (from >= 0) close(from);
    free(buffer);
    return code;
}

/* The bytes that are still in buffers. */
static int finish_stream(struct output *o) {
    if (fflush(o->stream) || ferror(o->stream)) return fail_writing(o, o->reason ? o->reason : errno);
    int failed = o->kind == GZIP   ? pack_gzip(o, "", 0, Z_FINISH)
                 : o->kind == ZSTD ? pack_zstd(o, "", 0, ZSTD_e_end)
                                   : 0;
    if (failed || file_flush(o->descriptor)) return fail_writing(o, o->reason ? o->reason : errno);
    return 0;
}

/* Gives the temporary file its place. */
static int place(struct output *o) {
    char directory[FILE_NAME_SIZE];
    snprintf(directory, sizeof directory, "%s", o->target);
    char *slash = strrchr(directory, '/');
    if (slash) slash[slash == directory] = '\0';
    if (rename(o->temporary, o->target)) return fail_writing(o, errno);
    forget(&o->left);
    o->temporary[0] = '\0';
    return file_flush_directory(slash ? directory : ".") ? fail_writing(o, errno) : 0;
}

int output_close(struct output *o, int code) {
    if (!o) return code;
    if (!code && *o->scratch) code = pass_on(o);
    if (!code) code = finish_stream(o);
    o->is_given_up = 1;
    if (o->stream) fclose(o->stream);
    if (o->descriptor >= 0 && close(o->descriptor) && errno != EINTR && !code) code = fail_writing(o, errno);
    if (!code && *o->target) code = place(o);
    if (*o->temporary) unlink(o->temporary);
    if (*o->scratch) unlink(o->scratch);
    forget(&o->left);
    forget(&o->left_scratch);
    if (o->gzip.state) deflateEnd(&o->gzip);
    ZSTD_freeCCtx(o->zstd);
    free(o->buffer);
    free(o->packed);
    free(o);
    return code;
}
