/* HDF5 files that lead out of themselves, and a system that fails meanwhile: what is told, with which code.
 */
#define _GNU_SOURCE /* pread64 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <cmocka.h>

#include "error.h"
#include "h5.h"

static char dir[] = "/tmp/vaecf-h5-XXXXXX";
static char path[256], other[256], fifo[256], text[256];

/* ---- a system that fails ---- */

struct fault {
    int call;   /* the N-th call from now on fails; 0: none; -N: all from the N-th on */
    int number; /* with this errno; 0: it does half of what was asked */
    int calls;  /* so far */
};
static struct fault on_open, on_read, on_write, on_fsync;
static size_t malloc_limit = SIZE_MAX;

static void fail_at(struct fault *fault, int call, int number) {
    *fault = (struct fault){call, number, 0};
}

static int fails(struct fault *fault, size_t *bytes) {
    if (!fault->call) return 0;
    fault->calls++;
    if (fault->calls != fault->call && (fault->call > 0 || fault->calls < -fault->call)) return 0;
    errno = fault->number;
    *bytes = (*bytes + 1) / 2;
    return fault->number != 0;
}

/* What follows stands before the C library's, for HDF5 too. */
static ssize_t my_pread(int file, void *to, size_t bytes, off_t at) {
    return fails(&on_read, &bytes) ? -1 : syscall(SYS_pread64, file, to, bytes, at);
}
static ssize_t my_pwrite(int file, const void *from, size_t bytes, off_t at) {
    return fails(&on_write, &bytes) ? -1 : syscall(SYS_pwrite64, file, from, bytes, at);
}
static int my_open(const char *name, int flags, int mode) {
    size_t none = 0;
    int is_ours = strncmp(name, dir, strlen(dir)) == 0;
    return is_ours && fails(&on_open, &none) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, name, flags, mode);
}
ssize_t pread(int file, void *to, size_t bytes, off_t at) {
    return my_pread(file, to, bytes, at);
}
ssize_t pread64(int file, void *to, size_t bytes, off64_t at) {
    return my_pread(file, to, bytes, at);
}
ssize_t pwrite(int file, const void *from, size_t bytes, off_t at) {
    return my_pwrite(file, from, bytes, at);
}
ssize_t pwrite64(int file, const void *from, size_t bytes, off64_t at) {
    return my_pwrite(file, from, bytes, at);
}
int open(const char *name, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = va_arg(args, int);
    va_end(args);
    return my_open(name, flags, mode);
}
int open64(const char *name, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = va_arg(args, int);
    va_end(args);
    return my_open(name, flags, mode);
}
int fsync(int file) {
    size_t none = 0;
    return fails(&on_fsync, &none) ? -1 : (int)syscall(SYS_fsync, file);
}
#ifndef __SANITIZE_ADDRESS__
void *__libc_malloc(size_t bytes);
void *malloc(size_t bytes) {
    if (bytes < malloc_limit) return __libc_malloc(bytes);
    errno = ENOMEM;
    return NULL;
}
#endif

static void nothing_fails(void) {
    fail_at(&on_open, 0, 0);
    fail_at(&on_read, 0, 0);
    fail_at(&on_write, 0, 0);
    fail_at(&on_fsync, 0, 0);
    malloc_limit = SIZE_MAX;
}

/* ---- files ---- */

static const int32_t numbers[] = {3, 1, 4, 1, 5};

static void make_plain(const char *name) {
    hid_t file;
    assert_int_equal(h5_create(name, &file), 0);
    int code = h5_write(file, "/group/numbers", H5T_NATIVE_INT32, 5, 0, numbers, 0);
    assert_int_equal(h5_close(file, name, code), 0);
}

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/x.h5", dir);
    snprintf(other, sizeof other, "%s/other.h5", dir);
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    snprintf(text, sizeof text, "%s/secret", dir);
    FILE *file = fopen(text, "w");
    if (!file || fputs("secret\nsecret\nsecret\n", file) < 0 || fclose(file) || mkfifo(fifo, 0600)) return -1;
    make_plain(other);
    alarm(100); /* what waits for a pipe ends the test */
    return 0;
}

static int tear_down(void **state) {
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void assert_told(int code, int want, const char *a, const char *b) {
    if (code != want || !strstr(error_message(), a) || !strstr(error_message(), b)) {
        fail_msg("%d, \"%s\"; want %d and \"%s\", \"%s\"", code, error_message(), want, a, b);
    }
}

/* ---- what lies outside of a file ---- */

/* Each adds /group/bad to a file. */
static void add_external(hid_t group, const char *to) {
    hsize_t dims = 20;
    hid_t space = H5Screate_simple(1, &dims, NULL), create = H5Pcreate(H5P_DATASET_CREATE);
    assert_true(H5Pset_external(create, to, 0, 20) >= 0);
    hid_t set = H5Dcreate2(group, "bad", H5T_NATIVE_UINT8, space, H5P_DEFAULT, create, H5P_DEFAULT);
    assert_true(set >= 0);
    H5Dclose(set);
    H5Pclose(create);
    H5Sclose(space);
}
static void add_external_file(hid_t group) {
    add_external(group, text);
}
static void add_external_fifo(hid_t group) {
    add_external(group, fifo);
}
/* With a source that HDF5 would look for to know the shape. */
static void add_virtual(hid_t group) {
    hsize_t dims = 5, unlimited = H5S_UNLIMITED, start = 0, one = 1;
    hid_t space = H5Screate_simple(1, &dims, &unlimited), create = H5Pcreate(H5P_DATASET_CREATE);
    hid_t source = H5Screate_simple(1, &dims, &unlimited);
    H5Sselect_hyperslab(space, H5S_SELECT_SET, &start, NULL, &one, &unlimited);
    H5Sselect_hyperslab(source, H5S_SELECT_SET, &start, NULL, &one, &unlimited);
    assert_true(H5Pset_virtual(create, space, fifo, "/group/numbers", source) >= 0);
    hid_t set = H5Dcreate2(group, "bad", H5T_NATIVE_INT32, space, H5P_DEFAULT, create, H5P_DEFAULT);
    assert_true(set >= 0);
    H5Dclose(set);
    H5Sclose(source);
    H5Pclose(create);
    H5Sclose(space);
}
static void add_external_set(hid_t group) {
    assert_true(H5Lcreate_external(other, "/group/numbers", group, "bad", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void add_external_group(hid_t group) {
    assert_true(H5Lcreate_external(other, "/group", group, "bad", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static void add_soft(hid_t group) {
    assert_true(H5Lcreate_soft("/group/numbers", group, "bad", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}
static hid_t follow_nothing(const char *name, hid_t group, const void *data, size_t size, hid_t list,
                            hid_t transfer) {
    (void)name, (void)group, (void)data, (void)size, (void)list, (void)transfer;
    return H5I_INVALID_HID;
}
static void add_user_defined(hid_t group) {
    const H5L_class_t class = {.version = H5L_LINK_CLASS_T_VERS,
                               .id = (H5L_type_t)200,
                               .comment = "of a test",
                               .trav_func = follow_nothing};
    assert_true(H5Lregister(&class) >= 0);
    assert_true(H5Lcreate_ud(group, "bad", (H5L_type_t)200, "x", 1, H5P_DEFAULT, H5P_DEFAULT) >= 0);
    H5Lunregister((H5L_type_t)200);
}
static void add_circle(hid_t group) {
    assert_true(H5Lcreate_hard(group, ".", group, "bad", H5P_DEFAULT, H5P_DEFAULT) >= 0);
}

static void test_outside(void **state) {
    (void)state;
    static const struct {
        void (*add)(hid_t group);
        const char *told;
    } cases[] = {
        {add_external_file, "another file"},       {add_external_fifo, "another file"},
        {add_virtual, "other datasets"},           {add_external_set, "into another file"},
        {add_external_group, "into another file"}, {add_soft, "soft link"},
        {add_user_defined, "unknown type"},        {add_circle, "too deep"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        hid_t file, group;
        assert_int_equal(h5_create(path, &file), 0);
        assert_int_equal(h5_write(file, "/group/numbers", H5T_NATIVE_INT32, 5, 0, numbers, 0), 0);
        group = H5Gopen2(file, "/group", H5P_DEFAULT);
        cases[i].add(group);
        H5Gclose(group);
        assert_int_equal(h5_close(file, path, 0), 0);
        assert_int_equal(h5_check_seal(path), 0);
        assert_told(h5_open(path, &file), EX_DATAERR, path, "/group/bad");
        assert_told(h5_open_sealed(path, &file), EX_DATAERR, path, cases[i].told);
        assert_true(file < 0);
        assert_int_equal(H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL), 0);
    }
}

static void test_no_file(void **state) {
    (void)state;
    const char *const names[] = {fifo, "/dev/zero", dir};
    hid_t file;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *told = names[i] == dir ? "is a directory" : "no regular file";
        assert_told(h5_open(names[i], &file), EX_NOINPUT, names[i], told);
        assert_told(h5_open_sealed(names[i], &file), EX_NOINPUT, names[i], told);
        assert_told(h5_check_seal(names[i]), EX_NOINPUT, names[i], told);
    }
    assert_told(h5_check_seal("/no/such/file"), EX_NOINPUT, "/no/such/file", "No such file");
    assert_told(h5_check_seal(text), EX_DATAERR, text, "no HDF5 file");
}

/* HDF5 loads filters from files unless it is told not to. */
static void test_filters(void **state) {
    (void)state;
    unsigned loaded = 99;
    hid_t file;
    make_plain(path);
    assert_int_equal(h5_open(path, &file), 0);
    H5Fclose(file);
    assert_true(H5PLget_loading_state(&loaded) >= 0);
    assert_int_equal(loaded, 0);
}

/* ---- why it failed ---- */

static void test_creating(void **state) {
    (void)state;
    static const struct {
        int number, code;
    } cases[] = {{ENOSPC, EX_IOERR},    {EDQUOT, EX_IOERR},     {EIO, EX_IOERR},   {EACCES, EX_CANTCREAT},
                 {EROFS, EX_CANTCREAT}, {ENOENT, EX_CANTCREAT}, {EMFILE, EX_OSERR}};
    hid_t file;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fail_at(&on_open, -1, cases[i].number);
        int code = h5_create(path, &file);
        nothing_fails();
        assert_told(code, cases[i].code, path, strerror(cases[i].number));
    }
    /* the reason is not taken from the name */
    assert_told(h5_create("/no/errno = 5, x/y.h5", &file), EX_CANTCREAT, "y.h5", "No such file");
}

static void test_opening(void **state) {
    (void)state;
    static const struct {
        int number, code;
    } cases[] = {{EIO, EX_IOERR},      {EMFILE, EX_OSERR},   {ENFILE, EX_OSERR},
                 {EACCES, EX_NOINPUT}, {ENOENT, EX_NOINPUT}, {ENOMEM, EX_OSERR}};
    hid_t file;
    make_plain(path);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int call = 1; call <= 2; call++) { /* ours and HDF5's */
            fail_at(&on_open, -call, cases[i].number);
            int code = h5_open(path, &file);
            nothing_fails();
            assert_told(code, cases[i].code, path, strerror(cases[i].number));
        }
    }
    fail_at(&on_open, 1, EINTR);
    assert_int_equal(h5_check_seal(path), 0);
    nothing_fails();
}

static void test_checking(void **state) {
    (void)state;
    make_plain(path);
    for (int call = 1; call <= 3; call++) { /* the beginning, the seal, the bytes */
        fail_at(&on_read, call, EIO);
        int code = h5_check_seal(path);
        nothing_fails();
        assert_told(code, EX_IOERR, path, "Input/output error");
        fail_at(&on_read, call, EINTR);
        assert_int_equal(h5_check_seal(path), 0);
        fail_at(&on_read, call, 0);
        assert_int_equal(h5_check_seal(path), 0);
        nothing_fails();
    }
#ifndef __SANITIZE_ADDRESS__
    malloc_limit = 1 << 20;
    int code = h5_check_seal(path);
    nothing_fails();
    assert_told(code, EX_OSERR, "no memory", "checksum");
#endif
}

static void test_sealing(void **state) {
    (void)state;
    hid_t file;
    for (int number = 0; number <= EINTR; number += EINTR) { /* all of it goes there nevertheless */
        assert_int_equal(h5_create(path, &file), 0);
        H5Fflush(file, H5F_SCOPE_GLOBAL);
        int before = 0;
        for (int call = 1; call < 20; call++) {
            assert_int_equal(h5_write(file, call % 2 ? "/a" : "/b", H5T_NATIVE_INT32, 5, 0, numbers, 0), 0);
            assert_true(H5Ldelete(file, call % 2 ? "/a" : "/b", H5P_DEFAULT) >= 0);
            fail_at(&on_write, call, number);
            fail_at(&on_fsync, 1, EINTR);
            assert_int_equal(h5_close(file, path, 0), 0);
            before = on_write.calls;
            nothing_fails();
            assert_int_equal(h5_check_seal(path), 0);
            if (before < call) break; /* there was no such call */
            assert_int_equal(h5_create(path, &file), 0);
        }
        assert_true(before > 0);
    }
    int calls = 20;
    for (int call = 1; call <= calls; call++) {
        assert_int_equal(h5_create(path, &file), 0);
        fail_at(&on_write, call, ENOSPC);
        int code = h5_close(file, path, 0);
        calls = on_write.calls;
        nothing_fails();
        if (calls >= call) assert_told(code, EX_IOERR, path, "No space left on device");
    }
    assert_int_equal(h5_create(path, &file), 0);
    fail_at(&on_fsync, 1, EIO);
    int code = h5_close(file, path, 0);
    nothing_fails();
    assert_told(code, EX_IOERR, path, "Input/output error");
}

/* Whichever read fails, it is not the file that is told to be damaged. */
static void test_reading(void **state) {
    (void)state;
    enum { N = 1 << 18 };
    static int32_t many[N];
    hid_t file;
    int calls = 100;
    assert_int_equal(h5_create(path, &file), 0);
    int code = h5_write(file, "/group/many", H5T_NATIVE_INT32, N, 0, many, 1);
    if (!code) code = h5_set_int(file, "/group", "answer", 42);
    assert_int_equal(h5_close(file, path, code), 0);
    for (int call = 1; call <= calls; call++) {
        int64_t answer;
        fail_at(&on_read, call, EIO);
        code = h5_open(path, &file);
        if (!code) {
            code = h5_get_int(file, "/group", "answer", &answer);
            if (!code) code = h5_read(file, "/group/many", H5T_NATIVE_INT32, 0, N, many);
            calls = on_read.calls;
            nothing_fails();
            H5Fclose(file);
        }
        nothing_fails();
        if (calls >= call) assert_told(code, EX_IOERR, path, "Input/output error");
    }
    assert_true(calls > 3 && calls < 100);
#ifndef __SANITIZE_ADDRESS__
    assert_int_equal(h5_open(path, &file), 0);
    malloc_limit = sizeof many;
    code = h5_read(file, "/group/many", H5T_NATIVE_INT32, 0, N, many);
    nothing_fails();
    if (H5_VERSION_GE(1, 14, 0) && code == EX_DATAERR) { /* which hides what filters say */
        assert_told(code, EX_DATAERR, path, "no memory to decompress");
    } else {
        assert_told(code, EX_OSERR, path, "/group/many");
    }
    H5Fclose(file);
#endif
}

/* A failure to write a group has its reason too. */
static void test_full(void **state) {
    (void)state;
    hid_t file;
    int told = 0;
    for (int call = 1, calls = 1; call <= calls; call++) {
        unlink(path); /* HDF5 1.14 goes on with a file that it could not close */
        assert_int_equal(h5_create(path, &file), 0);
        fail_at(&on_write, call, EDQUOT);
        int code = 0;
        for (int i = 0; i < 3 && !code; i++) {
            char name[32];
            snprintf(name, sizeof name, "/g%d/numbers", i);
            code = h5_write(file, name, H5T_NATIVE_INT32, 5, 0, numbers, 0);
        }
        code = h5_close(file, path, code);
        calls = on_write.calls;
        nothing_fails();
        if (calls < call) break;
        assert_told(code, EX_IOERR, path, strerror(EDQUOT));
        told++;
    }
    assert_true(told > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outside),  cmocka_unit_test(test_no_file), cmocka_unit_test(test_filters),
        cmocka_unit_test(test_creating), cmocka_unit_test(test_opening), cmocka_unit_test(test_checking),
        cmocka_unit_test(test_sealing),  cmocka_unit_test(test_reading), cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
