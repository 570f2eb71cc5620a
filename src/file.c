/* See file.h. */
#define _GNU_SOURCE /* mkostemp */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "environment.h"
#include "errno_code.h"
#include "error.h"
#include "output.h"
#include "path.h"

/* Makes one directory. Above the last one a directory may be closed to us and yet lead on. */
static int make_one(const char *name, int *made) {
    struct stat status;
    if (mkdir(name, 0777) == 0) {
        *made = 1;
        return 0;
    }
    int reason = errno;
    if (reason == EEXIST || (stat(name, &status) == 0 && S_ISDIR(status.st_mode))) return 0;
    return error_set(errno_code(reason, EX_CANTCREAT), "%s: cannot make the directory: %s", name,
                     strerror(reason));
}

int file_make_directory(const char *path, int *made) {
    char name[FILE_NAME_SIZE];
    size_t length = strlen(path);
    struct stat status;
    int is_new = 0, code = 0;
    if ((code = path_check(path)) != 0) return code;
    if (!length || length >= sizeof name)
        return error_set(EX_CANTCREAT, "\"%s\": want the path of a directory", path);
    for (size_t i = 1; i <= length && !code; i++) {
        if (path[i] != '/' && path[i]) continue;
        snprintf(name, sizeof name, "%.*s", (int)i, path);
        code = make_one(name, &is_new);
    }
    if (code) return code;
    if (made) *made = is_new;
    if (stat(path, &status) || !S_ISDIR(status.st_mode)) {
        return error_set(EX_CANTCREAT, "%s: is no directory", path);
    }
    if (access(path, W_OK | X_OK)) return error_set(EX_CANTCREAT, "%s: %s", path, strerror(errno));
    return 0;
}

/* Opens it whatever a signal says meanwhile. */
static int open_again(const char *path, int flags) {
    int descriptor;
    do descriptor = open(path, flags | O_CLOEXEC, 0666);
    while (descriptor < 0 && errno == EINTR);
    return descriptor;
}

int file_create_new(const char *path) {
    return open_again(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW);
}

int file_flush(int descriptor) {
    int failed;
    do failed = fsync(descriptor);
    while (failed && errno == EINTR);
    return failed && errno != EINVAL && errno != ENOTSUP && errno != EROFS ? -1 : 0;
}

int file_flush_directory(const char *path) {
    int descriptor = open_again(path, O_RDONLY | O_DIRECTORY);
    if (descriptor < 0) return errno == EACCES ? 0 : -1;
    int failed = file_flush(descriptor), reason = errno;
    close(descriptor);
    errno = reason;
    return failed;
}

int file_write(const char *path, const char *text) {
    struct output *output;
    int code = output_open(path, &output);
    if (code) return code;
    fputs(text, output_stream(output));
    return output_close(output, output_check(output));
}

const char *file_scratch_directory(void) {
    const char *directory = environment("TMPDIR");
    return directory ? directory : "/tmp";
}

int file_scratch(FILE **file) {
    char name[FILE_NAME_SIZE];
    const char *directory = file_scratch_directory();
    int length = snprintf(name, sizeof name, "%s/vaecf-XXXXXX", directory);
    errno = ENAMETOOLONG;
    int number = length < (int)sizeof name ? mkostemp(name, O_CLOEXEC) : -1;
    *file = number < 0 ? NULL : fdopen(number, "w+");
    int reason = errno;
    if (number >= 0) unlink(name);
    if (*file) return 0;
    if (number >= 0) close(number);
    return error_set(EX_CANTCREAT, "%s: cannot create a temporary file: %s (TMPDIR names another place)",
                     directory, strerror(reason));
}
