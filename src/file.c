/* See file.h. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"

int file_make_directory(const char *path) {
    char name[FILE_NAME_SIZE];
    size_t length = strlen(path);
    struct stat status;
    if (!length || length >= sizeof name)
        return error_set(EX_CANTCREAT, "\"%s\": want the path of a directory", path);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i]) continue;
        snprintf(name, sizeof name, "%.*s", (int)i, path);
        if (mkdir(name, 0777) && errno != EEXIST && stat(name, &status)) {
            return error_set(EX_CANTCREAT, "%s: cannot make the directory: %s", name, strerror(errno));
        }
    }
    if (stat(path, &status) || !S_ISDIR(status.st_mode)) {
        return error_set(EX_CANTCREAT, "%s: is no directory", path);
    }
    if (access(path, W_OK | X_OK)) return error_set(EX_CANTCREAT, "%s: %s", path, strerror(errno));
    return 0;
}

void file_temporary(const char *path, char temporary[FILE_NAME_SIZE]) {
    snprintf(temporary, FILE_NAME_SIZE, "%s.tmp", path);
}

/* Waits until a file or directory is on the disk. Some file systems cannot for directories (EINVAL). */
static int flush(const char *path) {
    int file = open(path, O_RDONLY);
    if (file < 0) return -1;
    int failed = fsync(file) && errno != EINVAL, reason = errno;
    close(file);
    errno = reason;
    return failed ? -1 : 0;
}

int file_place(const char *path) {
    char temporary[FILE_NAME_SIZE], directory[FILE_NAME_SIZE];
    file_temporary(path, temporary);
    snprintf(directory, sizeof directory, "%s", path);
    char *slash = strrchr(directory, '/');
    if (slash) *(slash > directory ? slash : slash + 1) = '\0';
    if (flush(temporary) || rename(temporary, path) || flush(slash ? directory : ".")) {
        int code = error_set(EX_IOERR, "%s: cannot write: %s", path, strerror(errno));
        unlink(temporary);
        return code;
    }
    return 0;
}

int file_write(const char *path, const char *text) {
    char temporary[FILE_NAME_SIZE];
    file_temporary(path, temporary);
    FILE *file = fopen(temporary, "w");
    if (!file) return error_set(EX_CANTCREAT, "%s: cannot create: %s", path, strerror(errno));
    int failed = fputs(text, file) < 0, reason = errno;
    if (fclose(file) && !failed) {
        failed = 1;
        reason = errno;
    }
    if (!failed) return file_place(path);
    unlink(temporary);
    return error_set(EX_IOERR, "%s: cannot write: %s", path, strerror(reason));
}

int file_scratch(FILE **file) {
    char name[FILE_NAME_SIZE + 32];
    const char *directory = getenv("TMPDIR");
    if (!directory || !*directory) directory = "/tmp";
    snprintf(name, sizeof name, "%.*s/vaecf-XXXXXX", FILE_NAME_SIZE, directory);
    int number = mkstemp(name);
    *file = number < 0 ? NULL : fdopen(number, "w+");
    if (number >= 0) unlink(name);
    if (*file) return 0;
    int reason = errno;
    if (number >= 0) close(number);
    return error_set(EX_CANTCREAT, "%s: cannot create a temporary file: %s (TMPDIR names another place)",
                     directory, strerror(reason));
}
