/* Streams of bytes from files, pipes and standard input, with signals and failures meanwhile; the file that
 * temporary data goes to. */
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
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>
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

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/bytes", dir);
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    for (size_t i = 0; i < N; i++) want[i] = (unsigned char)(i * i >> 7);
    FILE *file = fopen(path, "w");
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
        cmocka_unit_test(test_file),    cmocka_unit_test(test_refused), cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_scratch), cmocka_unit_test(test_stopped),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
