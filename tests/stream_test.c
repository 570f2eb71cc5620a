/* Streams of bytes from files, pipes and standard input, with signals and failures meanwhile; each
 * compression, whole, cut, damaged and in several parts; the file that temporary data goes to. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#ifdef VAECF_LZMA
#include <lzma.h>
#endif
#ifdef VAECF_BZ2
#include <bzlib.h>
#endif
#include <cmocka.h>

#include "error.h"
#include "scratch.h"
#include "stream.h"

enum { N = 1000003 };

static char dir[] = "/tmp/vaecf-stream-XXXXXX";
static char path[256], fifo[256];
static unsigned char want[N], have[N + 1];
static int fail_with; /* errno of every read; 0: none */

/* Stands before the C library's. */
ssize_t read(int file, void *to, size_t bytes) {
    if (!fail_with) return syscall(SYS_read, file, to, bytes);
    errno = fail_with;
    return -1;
}

static char rows[20000]; /* a text, as files have it */

static void make_rows(void) {
    uint32_t x = 1;
    for (size_t n = 0; n + 40 < sizeof rows;) {
        x = x * 1664525 + 1013904223;
        n += (size_t)snprintf(rows + n, sizeof rows - n, "%u,%u,%u\n", x >> 24, x >> 15 & 4095, x >> 12 & 7);
    }
}

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/bytes", dir);
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    for (size_t i = 0; i < N; i++) want[i] = (unsigned char)(i * i >> 7);
    FILE *file = fopen(path, "w");
    make_rows();
    return !file || fwrite(want, 1, N, file) != N || fclose(file) || mkfifo(fifo, 0600);
}

static int tear_down(void **state) {
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void assert_told(int code, int wanted, const char *word) {
    if (code != wanted || !strstr(error_message(), word)) fail_msg("%d, %s", code, error_message());
}

/* All that is left, in pieces of this size. */
static int read_all(struct stream *s, size_t piece, size_t *n) {
    size_t got = 1;
    int code = 0;
    for (*n = 0; !code && got; *n += got) {
        size_t size = N + 1 - *n < piece ? N + 1 - *n : piece;
        code = stream_read(s, have + *n, size, &got);
    }
    return code;
}

static void test_file(void **state) {
    (void)state;
    struct stream *s;
    size_t n;
    int64_t size, done, total;
    for (size_t piece = 1; piece < 4 * N; piece = piece * 31 + 1) {
        if (piece == 1) continue;
        assert_int_equal(stream_open(path, &s), 0);
        assert_true(stream_is_plain(s, &size) && size == N);
        assert_int_equal(read_all(s, piece, &n), 0);
        assert_int_equal(n, N);
        assert_memory_equal(have, want, N);
        assert_true(stream_fraction(s) == 1);
        assert_int_equal(stream_seek(s, N / 2), 0);
        assert_true(stream_fraction(s) > 0.49 && stream_fraction(s) < 0.51);
        assert_int_equal(read_all(s, piece, &n), 0);
        assert_int_equal(n, N - N / 2);
        assert_memory_equal(have, want + N / 2, n);
        stream_progress(s, &done, &total);
        assert_true(done == N && total == N);
        stream_close(s);
    }
}

static void test_refused(void **state) {
    (void)state;
    struct stream *s;
    size_t got;
    assert_told(stream_open(dir, &s), EX_NOINPUT, "is a directory");
    assert_told(stream_open("/no/such/file", &s), EX_NOINPUT, "No such file");
    fail_with = EIO;
    int code = stream_open(path, &s);
    fail_with = 0;
    assert_told(code, EX_IOERR, "Input/output error");
    assert_null(s);
    assert_int_equal(stream_open(path, &s), 0);
    fail_with = EIO;
    code = stream_read(s, have, N, &got);
    fail_with = 0;
    assert_told(code, EX_IOERR, "Input/output error");
    assert_non_null(strstr(error_message(), path));
    stream_close(s);
}

/* Writes to a pipe in a process of its own: slowly, while signals come here. */
static pid_t write_slowly(const char *to, int descriptor) {
    pid_t child = fork();
    if (child) return child;
    int file = to ? open(to, O_WRONLY) : descriptor;
    for (size_t at = 0; at < N; at += N / 5 + 1) {
        usleep(60000);
        size_t n = N - at < N / 5 + 1 ? N - at : N / 5 + 1;
        if (write(file, want + at, n) != (ssize_t)n) _exit(1);
    }
    _exit(0);
}

static void ignore(int number) {
    (void)number;
}

static void test_pipe(void **state) {
    (void)state;
    struct sigaction action = {.sa_handler = ignore}; /* without SA_RESTART */
    const struct itimerval often = {{0, 10000}, {0, 10000}}, never = {{0, 0}, {0, 0}};
    struct stream *s;
    size_t n;
    int64_t size;
    sigemptyset(&action.sa_mask);
    sigaction(SIGALRM, &action, NULL);
    for (int standard = 0; standard < 2; standard++) {
        int ends[2], status, kept = dup(STDIN_FILENO);
        assert_int_equal(pipe(ends), 0);
        pid_t child = standard ? write_slowly(NULL, ends[1]) : write_slowly(fifo, -1);
        assert_true(child > 0);
        close(ends[1]);
        dup2(ends[0], STDIN_FILENO);
        close(ends[0]);
        setitimer(ITIMER_REAL, &often, NULL);
        int code = stream_open(standard ? "-" : fifo, &s);
        if (!code) code = read_all(s, N + 1, &n);
        setitimer(ITIMER_REAL, &never, NULL);
        if (code) fail_msg("%d, %s", code, error_message());
        assert_int_equal(n, N);
        assert_memory_equal(have, want, N);
        assert_true(!stream_is_plain(s, &size) && stream_fraction(s) == -1);
        stream_close(s);
        assert_true(waitpid(child, &status, 0) == child && status == 0);
        if (standard) assert_int_equal(fcntl(STDIN_FILENO, F_GETFD), 0); /* still open */
        dup2(kept, STDIN_FILENO);
        close(kept);
    }
}

/* ---- compressed files ---- */

/* Each compresses n bytes into `to` and returns their number there. */

static size_t pack_gzip(const void *from, size_t n, unsigned char *to, size_t room) {
    z_stream z = {
        .next_in = (Bytef *)(uintptr_t)from, .avail_in = (uInt)n, .next_out = to, .avail_out = (uInt)room};
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return room - z.avail_out;
}

/* Without the size of the content, as zstd writes from a pipe, so that there is a window. */
static size_t pack_zstd(const void *from, size_t n, unsigned char *to, size_t room) {
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, 0);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, 1);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, 17);
    size_t size = ZSTD_compress2(zstd, to, room, from, n);
    assert_false(ZSTD_isError(size));
    ZSTD_freeCCtx(zstd);
    return size;
}

#ifdef VAECF_LZMA
static size_t pack_xz(const void *from, size_t n, unsigned char *to, size_t room) {
    size_t size = 0;
    assert_int_equal(lzma_easy_buffer_encode(0, LZMA_CHECK_CRC64, NULL, from, n, to, &size, room), LZMA_OK);
    return size;
}

static size_t pack_lzma(const void *from, size_t n, unsigned char *to, size_t room) {
    lzma_stream xz = LZMA_STREAM_INIT;
    lzma_options_lzma options;
    assert_false(lzma_lzma_preset(&options, 0));
    assert_int_equal(lzma_alone_encoder(&xz, &options), LZMA_OK);
    xz.next_in = from;
    xz.avail_in = n;
    xz.next_out = to;
    xz.avail_out = room;
    assert_int_equal(lzma_code(&xz, LZMA_FINISH), LZMA_STREAM_END);
    lzma_end(&xz);
    return room - xz.avail_out;
}
#endif

#ifdef VAECF_BZ2
static size_t pack_bzip2(const void *from, size_t n, unsigned char *to, size_t room) {
    unsigned int size = (unsigned int)room;
    assert_int_equal(
        BZ2_bzBuffToBuffCompress((char *)to, &size, (char *)(uintptr_t)from, (unsigned int)n, 1, 0, 0),
        BZ_OK);
    return size;
}
#endif

static const struct packer {
    const char *name;
    size_t (*pack)(const void *from, size_t n, unsigned char *to, size_t room);
    size_t magic;   /* bytes without which it is another file */
    size_t padding; /* of zeros, 0: none */
    bool is_single; /* one stream, without a checksum */
} packers[] = {
    {"gzip", pack_gzip, 2, 3, false},    {"zstd", pack_zstd, 4, 0, false},
#ifdef VAECF_LZMA
    {"xz", pack_xz, 6, 4, false},        {"xz", pack_lzma, 14, 0, true},
#endif
#ifdef VAECF_BZ2
    {"bzip2", pack_bzip2, 15, 3, false},
#endif
};
enum { N_PACKERS = sizeof packers / sizeof packers[0], ROOM = 2 * N };

static unsigned char packed[ROOM];
/* Reads these bytes as a file, in pieces. */
static int read_packed(const void *data, size_t size, size_t piece, size_t *n) {
    char name[300];
    struct stream *s;
    *n = 0;
    snprintf(name, sizeof name, "%s/packed", dir);
    FILE *file = fopen(name, "w");
    assert_true(file && fwrite(data, 1, size, file) == size && fclose(file) == 0);
    int code = stream_open(name, &s);
    if (!code) code = read_all(s, piece, n);
    stream_close(s);
    if (code && !strstr(error_message(), name)) fail_msg("%s: no name in it", error_message());
    return code;
}

static void assert_packed(size_t size, size_t piece, const void *data, size_t n) {
    size_t got;
    int code = read_packed(packed, size, piece, &got);
    if (code) fail_msg("%d, %s", code, error_message());
    assert_int_equal(got, n);
    assert_memory_equal(have, data, n);
}

static void test_packed(void **state) {
    (void)state;
    for (int i = 0; i < N_PACKERS; i++) {
        const struct packer *p = &packers[i];
        size_t size = p->pack(want, N, packed, ROOM);
        assert_packed(size, N + 1, want, N);
        assert_packed(size, 65536, want, N);
        assert_packed(size, 4099, want, N);
        size = p->pack(rows, 1, packed, ROOM);
        assert_packed(size, N + 1, rows, 1);
        size = p->pack("", 0, packed, ROOM);
        assert_packed(size, N + 1, "", 0);
    }
}

/* Several streams one after the other, the second empty, with zeros between and after them. */
static void test_streams(void **state) {
    (void)state;
    for (int i = 0; i < N_PACKERS; i++) {
        const struct packer *p = &packers[i];
        if (p->is_single) continue;
        for (size_t padding = 0; padding <= p->padding; padding += p->padding + !p->padding) {
            size_t size = p->pack(want, N / 2, packed, ROOM), half = size;
            memset(packed + size, 0, padding);
            size += padding;
            size += p->pack("", 0, packed + size, ROOM - size);
            size += p->pack(want + N / 2, N - N / 2, packed + size, ROOM - size);
            memset(packed + size, 0, padding);
            size += padding;
            assert_packed(size, N + 1, want, N);
            assert_packed(size, 1001, want, N);
            assert_packed(half, N + 1, want, N / 2);
        }
        size_t got, size = p->pack(rows, sizeof rows, packed, ROOM);
        memcpy(packed + size, "this is not a part of it", 24);
        assert_told(read_packed(packed, size + 24, N + 1, &got), EX_DATAERR, "damaged");
    }
}

static void test_cut(void **state) {
    (void)state;
    for (int i = 0; i < N_PACKERS; i++) {
        const struct packer *p = &packers[i];
        size_t got, size = p->pack(rows, sizeof rows, packed, ROOM);
        const size_t ends[] = {p->magic, 15, 19, size / 3, size / 2, size - 9, size - 5, size - 1};
        for (size_t k = 0; k < sizeof ends / sizeof ends[0]; k++) {
            int code = read_packed(packed, ends[k], 4096, &got);
            assert_told(code, EX_DATAERR, "data ends too early; the file was cut off");
            assert_non_null(strstr(error_message(), p->name));
            assert_memory_equal(have, rows, got);
        }
    }
}

/* Other bytes than the file's never come out. */
static void test_changed(void **state) {
    (void)state;
    for (int i = 0; i < N_PACKERS; i++) {
        const struct packer *p = &packers[i];
        if (p->is_single) continue;
        size_t got, size = p->pack(rows, sizeof rows, packed, ROOM);
        int refused = 0, n = 0;
        for (size_t at = 18; at < size; at += at < 50 || at + 30 > size ? 1 : size / 60, n++) {
            packed[at] ^= (unsigned char)(1 << at % 8);
            int code = read_packed(packed, size, N + 1, &got);
            if (code) {
                assert_int_equal(code, EX_DATAERR);
                refused++;
            } else {
                assert_int_equal(got, sizeof rows);
                assert_memory_equal(have, rows, sizeof rows);
            }
            packed[at] ^= (unsigned char)(1 << at % 8);
        }
        if (n < 80 || refused < n * 9 / 10) fail_msg("%s: %d of %d", p->name, refused, n);
        assert_packed(size, N + 1, rows, sizeof rows);
    }
}

/* Frames that are to be skipped: pzstd's come first, the table of a seekable file last. */
static void test_skipped(void **state) {
    static const unsigned char skipped[] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 'B', 'Z', 'h', '9'};
    (void)state;
    size_t size = 0, got;
    for (int i = 0; i < 3; i++) {
        memcpy(packed + size, skipped, sizeof skipped);
        size += sizeof skipped;
        if (i == 1) packed[size - sizeof skipped] = 0x5e; /* the other magic numbers of 16 */
        if (i < 2) size += pack_zstd(rows + (i ? 5 : 0), i ? sizeof rows - 5 : 5, packed + size, ROOM - size);
    }
    assert_packed(size, 1000, rows, sizeof rows);
    assert_told(read_packed(packed, size - 1, 1000, &got), EX_DATAERR, "ends too early");
    memcpy(packed, skipped, sizeof skipped);
    assert_packed(sizeof skipped, 1000, "", 0);
    memset(packed, 0, 1000000); /* longer than what is looked at to tell the kind */
    memcpy(packed, "\x50\x2a\x4d\x18\x38\x42\x0f\0", 8);
    size = 1000000 + pack_zstd(rows, sizeof rows, packed + 1000000, ROOM - 1000000);
    assert_packed(size, 1000, rows, sizeof rows);
}

/* A frame that names a larger window than it has. */
static void test_windows(void **state) {
    (void)state;
    for (int log = 18; log <= ZSTD_dParam_getBounds(ZSTD_d_windowLogMax).upperBound; log++) {
        void *window = malloc((size_t)1 << log);
        free(window);
        if (!window) continue; /* a machine that gives away what it has alone */
        size_t size = pack_zstd(rows, sizeof rows, packed, ROOM);
        assert_int_equal(packed[4] & 0x20, 0); /* then the next byte is the window */
        packed[5] = (unsigned char)((log - 10) << 3);
        assert_packed(size, N + 1, rows, sizeof rows);
    }
}

/* The same bytes again 130 MB further on, which zstd --long=28 finds. */
static void test_far_match(void **state) {
    (void)state;
    enum { ZEROS = 135 };
    static const unsigned char zeros[1 << 20];
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, 1);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, 28);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_enableLongDistanceMatching, 1);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_ldmHashLog, 14);
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof have; i++) have[i] = (unsigned char)((x = x * 1664525 + 1013904223) >> 24);
    ZSTD_outBuffer out = {packed, ROOM, 0};
    for (int i = 0; i < ZEROS + 2; i++) {
        bool is_edge = i == 0 || i == ZEROS + 1;
        ZSTD_inBuffer in = {is_edge ? have : zeros, is_edge ? N : sizeof zeros, 0};
        size_t left;
        do {
            left = ZSTD_compressStream2(zstd, &out, &in, i == ZEROS + 1 ? ZSTD_e_end : ZSTD_e_continue);
        } while (!ZSTD_isError(left) && (in.pos < in.size || (i == ZEROS + 1 && left)));
        assert_false(ZSTD_isError(left));
    }
    ZSTD_freeCCtx(zstd);
    assert_true(out.pos < N + N / 4); /* else it has not been found */

    char name[300];
    struct stream *s;
    static unsigned char piece[1 << 20];
    snprintf(name, sizeof name, "%s/packed", dir);
    FILE *file = fopen(name, "w");
    assert_true(file && fwrite(packed, 1, out.pos, file) == out.pos && fclose(file) == 0);
    assert_int_equal(stream_open(name, &s), 0);
    for (int i = 0; i < ZEROS + 2; i++) {
        bool is_edge = i == 0 || i == ZEROS + 1;
        size_t got, n = is_edge ? N : sizeof zeros;
        assert_int_equal(stream_read(s, piece, n, &got), 0);
        assert_int_equal(got, n);
        assert_memory_equal(piece, is_edge ? have : zeros, n);
    }
    stream_close(s);
}

/* No memory for a window. (ASan's malloc would end the program.) */
static void test_no_memory(void **state) {
    (void)state;
#ifndef __SANITIZE_ADDRESS__
    struct rlimit before, low;
    size_t got;
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld", &pages) != 1) skip();
    fclose(file);
    size_t size = pack_zstd(rows, sizeof rows, packed, ROOM);
    packed[5] = (30 - 10) << 3;
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    low = before;
    low.rlim_cur = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + (1 << 28);
    assert_int_equal(setrlimit(RLIMIT_AS, &low), 0);
    int code = read_packed(packed, size, 1000, &got);
    setrlimit(RLIMIT_AS, &before);
    assert_told(code, EX_OSERR, "no memory");
#endif
}

/* What begins like a compressed file and is none. */
static void test_not_packed(void **state) {
    static const char *const texts[] = {
        "BZh", "BZh9,1\n", "BZh91AY&SYitem,1\n2,3\n", "LZIP,1\n", "(,1\n", "]\n", "P*M\n", "7zXZ,1\n"};
    (void)state;
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        size_t size = strlen(texts[i]);
        memcpy(packed, texts[i], size);
        assert_packed(size, 1000, texts[i], size);
    }
    memcpy(packed, "P*M\x18\0\0\0\0\4\"M\x18", 12); /* lz4 has frames to skip too: foreign.h names it */
    assert_packed(12, 1000, packed, 12);
}

/* What this build does not read. */
static void test_libraries(void **state) {
    (void)state;
#ifndef VAECF_LZMA
    size_t got_xz;
    assert_told(read_packed("\xfd"
                            "7zXZ\0\0\4",
                            8, 1000, &got_xz),
                EX_DATAERR, "xz -dc FILE | ... --input -");
#endif
#ifndef VAECF_BZ2
    size_t got_bzip2;
    assert_told(read_packed("BZh9\x17rE8P\x90\0\0\0\0", 14, 1000, &got_bzip2), EX_DATAERR,
                "bzip2 -dc FILE | ... --input -");
#endif
}

static void test_scratch(void **state) {
    (void)state;
    struct scratch s = {.dir = ""};
    int64_t at;
    assert_told(scratch_allocate(&s, 10, &at), EX_IOERR, "No such file");
    assert_int_equal(s.file_plus_1, 0);
    s.dir = "/no/such/place";
    assert_told(scratch_allocate(&s, 10, &at), EX_IOERR, "/no/such/place");
    s = (struct scratch){.dir = dir};
    assert_int_equal(scratch_allocate(&s, 10, &at), 0);
    assert_int_equal(scratch_write(&s, want, 10, at), 0);
    assert_int_equal(scratch_read(&s, have, 10, at), 0);
    assert_memory_equal(have, want, 10);
    assert_told(scratch_read(&s, have, 11, at), EX_IOERR, "Input/output error"); /* it has become shorter */
    assert_int_equal(fcntl(s.file_plus_1 - 1, F_GETFD), FD_CLOEXEC);
    scratch_close(&s);
}

/* The last one: the flag stays. */
static void test_stopped(void **state) {
    (void)state;
    struct stream *s;
    size_t got;
    assert_int_equal(stream_open(path, &s), 0);
    stop_catch_signals();
    raise(SIGTERM);
    fail_with = EINTR;
    int code = stream_read(s, have, N, &got);
    fail_with = 0;
    assert_told(code, EX_TEMPFAIL, "interrupted");
    stream_close(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_file),      cmocka_unit_test(test_refused),   cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_packed),    cmocka_unit_test(test_streams),   cmocka_unit_test(test_cut),
        cmocka_unit_test(test_changed),   cmocka_unit_test(test_skipped),   cmocka_unit_test(test_windows),
        cmocka_unit_test(test_far_match), cmocka_unit_test(test_no_memory), cmocka_unit_test(test_not_packed),
        cmocka_unit_test(test_libraries), cmocka_unit_test(test_scratch),   cmocka_unit_test(test_stopped),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
