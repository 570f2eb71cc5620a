/* See scratch.h. */
#define _GNU_SOURCE /* O_TMPFILE, mkostemp */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

bool scratch_reserve(struct scratch *s, size_t bytes, double share) {
    bool fits;
#pragma omp critical(scratch)
    {
        fits = (double)(s->used + (int64_t)bytes) <= share * (double)s->budget;
        if (fits) s->used += (int64_t)bytes;
    }
    return fits;
}

void scratch_release(struct scratch *s, size_t bytes) {
#pragma omp critical(scratch)
    s->used -= (int64_t)bytes;
}

static int fail(const struct scratch *s, const char *what) {
    return error_set(EX_IOERR, "%s: cannot %s temporary data: %s; --tmp names another directory", s->dir,
                     what, strerror(errno));
}

static int open_file(struct scratch *s) {
    int file = -1;
    if (!*s->dir) { /* with a slash behind it would be the root */
        errno = ENOENT;
        return fail(s, "create");
    }
#ifdef O_TMPFILE
    do {
        file = open(s->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    } while (file < 0 && errno == EINTR);
#endif
    if (file < 0) { /* a file system that does not know this */
        static const char name[] = "/vaecf-XXXXXX";
        size_t bytes = strlen(s->dir) + sizeof name;
        char *path = malloc(bytes);
        if (!path) return error_memory("a temporary file's name", bytes);
        do {
            snprintf(path, bytes, "%s%s", s->dir, name);
            file = mkostemp(path, O_CLOEXEC);
        } while (file < 0 && errno == EINTR);
        int code = file < 0 ? fail(s, "create") : 0;
        if (file >= 0) unlink(path);
        free(path);
        if (code) return code;
    }
    s->file_plus_1 = file + 1;
    return 0;
}

int scratch_allocate(struct scratch *s, size_t bytes, int64_t *at) {
    int code = 0;
#pragma omp critical(scratch)
    {
        if (!s->file_plus_1) code = open_file(s);
        *at = s->size;
        s->size += (int64_t)bytes;
    }
    return code;
}

int scratch_write(const struct scratch *s, const void *data, size_t bytes, int64_t at) {
    for (const char *from = data; bytes;) {
        ssize_t n = pwrite(s->file_plus_1 - 1, from, bytes, at);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = ENOSPC;
        if (n <= 0) return fail(s, "write");
        from += n;
        at += n;
        bytes -= (size_t)n;
    }
    return 0;
}

int scratch_read(const struct scratch *s, void *data, size_t bytes, int64_t at) {
    for (char *to = data; bytes;) {
        ssize_t n = pread(s->file_plus_1 - 1, to, bytes, at);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0) errno = EIO; /* it became shorter */
        if (n <= 0) return fail(s, "read");
        to += n;
        at += n;
        bytes -= (size_t)n;
    }
    return 0;
}

void scratch_close(struct scratch *s) {
    if (s->file_plus_1) close(s->file_plus_1 - 1);
    s->file_plus_1 = 0;
}

static volatile sig_atomic_t signal_number;

static void remember(int number) {
    signal_number = number;
}

void stop_catch_signals(void) {
    struct sigaction action = {.sa_handler = remember}; /* without SA_RESTART: a waiting read ends */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
}

int stop_signal(void) {
    return signal_number;
}

int stop_check(void) {
    if (!signal_number) return 0;
    return error_set(EX_TEMPFAIL, "interrupted (%s): nothing was written", strsignal(signal_number));
}

void failure_keep(struct failure *f, int code) {
    if (!code) return;
#pragma omp critical(failure)
    if (!f->code) {
        f->code = code;
        snprintf(f->message, sizeof f->message, "%s", error_message());
    }
}

int failure_code(const struct failure *f) {
    return f->code ? error_set(f->code, "%s", f->message) : 0;
}
