/* See lock.h. */
#include "lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "errno_code.h"
#include "error.h"
#include "file.h"

enum {
    EVERY_SECONDS = 10, /* it is touched so often */
    FRESH_TOUCHES = 6,  /* it lives if it was touched within so many times that */
    WRITE_SECONDS = 2,  /* from its making to its text, at most */
    TRIES_MAX = 50,
    WORD = 256,
    TEXT_MAX = 2048,
};

/* What a lock says. */
struct writer {
    char host[WORD], job[WORD], start[WORD]; /* start: which one of the job's; see own_start */
    char boot[WORD], space[WORD]; /* the machine's last start; the processes it is numbered among */
    int64_t process, began;       /* began: in the machine's clock ticks, as /proc tells it */
    int64_t every;
    char token[WORD]; /* different for each lock */
};

struct lock {
    char dir[FILE_NAME_SIZE], path[FILE_NAME_SIZE + 32], text[TEXT_MAX];
    int file;
    pthread_t thread;
    int is_running, is_ending;
    pthread_mutex_t mutex;
    pthread_cond_t condition;
};

/* ---- who writes ---- */

/* Reads a small file; its length, or -1. */
static ssize_t read_small(const char *path, char *text, size_t size) {
    int file;
    do file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    while (file < 0 && errno == EINTR);
    if (file < 0) return -1;
    ssize_t n;
    do n = read(file, text, size - 1);
    while (n < 0 && errno == EINTR);
    int reason = errno;
    close(file);
    errno = reason;
    if (n >= 0) text[n] = '\0';
    return n;
}

/* When a process began, in clock ticks since the machine's start; 0 if it is none any more, -1: unknown. */
static int64_t began(int64_t process) {
    char path[64], text[1024], state = '\0';
    int64_t ticks = 0;
    snprintf(path, sizeof path, "/proc/%" PRId64 "/stat", process);
    if (read_small(path, text, sizeof text) <= 0) return -1;
    /* fields 3 and 22, counted from behind the name, which may hold anything */
    const char *rest = strrchr(text, ')');
    if (!rest ||
        sscanf(rest + 1,
               " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNd64, &state,
               &ticks) != 2) {
        return -1;
    }
    return state == 'Z' || state == 'X' ? 0 : ticks;
}

/* A word for a line of the lock: its first, without blanks. */
static void set_word(char word[WORD], const char *text) {
    snprintf(word, WORD, "%s", text ? text : "");
    word[strcspn(word, " \t\r\n")] = '\0';
}

static void own_job(char word[WORD]) {
    const char *job = environment("VAECF_JOB"), *array = environment("SLURM_ARRAY_JOB_ID"),
               *task = environment("SLURM_ARRAY_TASK_ID");
    if (!job && array && task) {
        snprintf(word, WORD, "%.100s_%.100s", array, task);
        return;
    }
    if (!job) job = environment("SLURM_JOB_ID");
    if (!job) job = environment("PBS_JOBID");
    set_word(word, job);
}

/* The job scripts tell each of their starts by a name; else Slurm counts them. */
static void own_start(char word[WORD]) {
    const char *script = environment("VAECF_START"), *count = environment("SLURM_RESTART_COUNT");
    snprintf(word, WORD, "%s:%.200s", script ? "script" : "restart", script ? script : count ? count : "0");
    word[strcspn(word, " \t\r\n")] = '\0';
}

static void describe_self(struct writer *w) {
    char text[WORD] = "";
    uint64_t token[2] = {(uint64_t)time(NULL), (uint64_t)getpid()};
    *w = (struct writer){.process = getpid(), .every = EVERY_SECONDS};
    if (gethostname(text, sizeof text - 1)) text[0] = '\0';
    set_word(w->host, *text ? text : "?");
    own_job(w->job);
    own_start(w->start);
    if (read_small("/proc/sys/kernel/random/boot_id", text, sizeof text) > 0) set_word(w->boot, text);
    ssize_t n = readlink("/proc/self/ns/pid", text, sizeof text - 1);
    text[n > 0 ? n : 0] = '\0';
    set_word(w->space, text);
    w->began = began(w->process);
    if (getrandom(token, sizeof token, GRND_NONBLOCK) < 0) errno = 0;
    snprintf(w->token, sizeof w->token, "%016" PRIx64 "%016" PRIx64, token[0], token[1]);
}

static void write_text(const struct writer *w, char text[TEXT_MAX]) {
    snprintf(text, TEXT_MAX,
             "vaecf-lock\nhost %s\nprocess %" PRId64 "\njob %s\nstart %s\nboot %s\nspace %s\nbegan %" PRId64
             "\nevery %" PRId64 "\ntoken %s\n",
             w->host, w->process, w->job, w->start, w->boot, w->space, w->began, w->every, w->token);
}

/* -1 if it is not whole. */
static int read_text(const char *text, struct writer *w) {
    static const char head[] = "vaecf-lock\n";
    *w = (struct writer){.every = EVERY_SECONDS, .began = -1};
    if (strncmp(text, head, sizeof head - 1) != 0) return -1;
    for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
        char key[16], value[WORD];
        size_t n = strcspn(line, " \n");
        snprintf(key, sizeof key, "%.*s", (int)(n < sizeof key ? n : 0), line);
        line += n + (line[n] == ' ');
        snprintf(value, sizeof value, "%.*s", (int)strcspn(line, "\n"), line);
        if (strcmp(key, "host") == 0) set_word(w->host, value);
        if (strcmp(key, "job") == 0) set_word(w->job, value);
        if (strcmp(key, "start") == 0) set_word(w->start, value);
        if (strcmp(key, "boot") == 0) set_word(w->boot, value);
        if (strcmp(key, "space") == 0) set_word(w->space, value);
        if (strcmp(key, "token") == 0) set_word(w->token, value);
        if (strcmp(key, "process") == 0) w->process = strtoll(value, NULL, 10);
        if (strcmp(key, "began") == 0) w->began = strtoll(value, NULL, 10);
        if (strcmp(key, "every") == 0) w->every = strtoll(value, NULL, 10);
    }
    if (w->every < 1 || w->every > 3600) w->every = EVERY_SECONDS;
    return *w->token && w->process > 0 ? 0 : -1;
}

/* ---- is it dead? ---- */

static void sleep_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* When it was touched last; opened, as NFS looks at the server then. -1: gone. */
static int touched(const char *path, struct timespec *when) {
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) return -1;
    int failed = fstat(file, &status);
    close(file);
    *when = status.st_mtim;
    return failed;
}

static int is_same(const char *a, const char *b) {
    return *a && strcmp(a, b) == 0;
}

/* On this machine: 1 dead, 0 alive; elsewhere -1. */
static int is_dead_here(const struct writer *w, const struct writer *self) {
    if (!is_same(w->boot, self->boot) || !is_same(w->space, self->space)) return -1;
    if (kill((pid_t)w->process, 0) && errno == ESRCH) return 1;
    int64_t ticks = began(w->process);
    if (ticks < 0 || w->began < 0) return 0; /* /proc may be closed to us: that it is there has to do */
    return ticks != w->began;
}

/* Is it of an earlier start of this job? */
static int is_predecessor(const struct writer *w, const struct writer *self) {
    static const char restart[] = "restart:";
    size_t n = sizeof restart - 1;
    if (!is_same(w->job, self->job)) return 0;
    int is_counted = strncmp(w->start, restart, n) == 0;
    if (is_counted != (strncmp(self->start, restart, n) == 0)) return 0;
    if (!is_counted) return strcmp(w->start, self->start) != 0;
    return strtoll(w->start + n, NULL, 10) < strtoll(self->start + n, NULL, 10);
}

/* Has it been silent for long, and is while we watch? 1 yes, 0 no, -1: it is gone. *seconds: since it was
 * touched, by this clock. */
static int is_silent(const char *path, const struct writer *w, double *seconds) {
    struct timespec first, now, again;
    clock_gettime(CLOCK_REALTIME, &now);
    if (touched(path, &first)) return -1;
    *seconds = (double)(now.tv_sec - first.tv_sec) + 1e-9 * (double)(now.tv_nsec - first.tv_nsec);
    double limit = (double)(FRESH_TOUCHES * w->every);
    if (*seconds > -limit && *seconds < limit) return 0;
    for (int64_t i = 0; i < 5 * w->every; i++) { /* clocks of machines differ: only a touch is a proof */
        sleep_ms(500);
        if (touched(path, &again)) return -1;
        *seconds = 0;
        if (again.tv_sec != first.tv_sec || again.tv_nsec != first.tv_nsec) return 0;
    }
    return 1;
}

static void name_writer(const struct writer *w, char text[3 * WORD]) {
    if (!w->process) {
        snprintf(text, 3 * WORD, "another process");
    } else {
        snprintf(text, 3 * WORD, "process %" PRId64 " on %s%s%s", w->process, w->host,
                 *w->job ? ", job " : "", w->job);
    }
}

/* 0: dead, with its text and the line to tell; EX_CANTCREAT: alive; -1: it is gone meanwhile. */
static int judge(const char *dir, const char *path, const struct writer *self, char text[TEXT_MAX],
                 char line[TEXT_MAX]) {
    char who[3 * WORD], more[128] = "";
    struct writer w;
    int is_whole = 0;
    text[0] = '\0';
    for (int i = 0; i < 50 * WRITE_SECONDS && !is_whole; i++) { /* it may be just being made */
        if (i) sleep_ms(20);
        ssize_t n = read_small(path, text, TEXT_MAX);
        if (n < 0 && (errno == ENOENT || errno == ESTALE)) return -1;
        if (n < 0) return error_set(EX_CANTCREAT, "%s: cannot read: %s", path, strerror(errno));
        is_whole = n > 0 && read_text(text, &w) == 0;
    }
    if (!is_whole) w = (struct writer){.every = EVERY_SECONDS};
    name_writer(&w, who);
    int here = is_whole ? is_dead_here(&w, self) : -1;
    double seconds = -1;
    int earlier = here < 0 && is_predecessor(&w, self);
    int silent = here < 0 && !earlier ? is_silent(path, &w, &seconds) : 0;
    if (silent < 0) return -1;
    const char *why = here == 1 ? "the process has ended"
                      : earlier ? "it was an earlier start of this job"
                      : silent  ? "it has been silent for too long"
                                : NULL;
    if (why) {
        snprintf(line, TEXT_MAX, "%s: the lock of %s is taken over: %s", dir, who, why);
        return 0;
    }
    if (seconds >= 0) {
        snprintf(more, sizeof more,
                 ", and was alive %.0f s ago (if it is gone, the directory is free after %.0f s)", seconds,
                 (double)(FRESH_TOUCHES * w.every) - seconds);
    }
    return error_set(EX_CANTCREAT, "%s: %s is writing there%s; wait for its end, or give another directory",
                     dir, who, more);
}

/* ---- the files ---- */

/* The number of a lock's file name; 0 if it is none. */
static int64_t number_of(const char *name) {
    char again[32];
    int64_t number = strncmp(name, "lock-", 5) == 0 ? strtoll(name + 5, NULL, 10) : 0;
    snprintf(again, sizeof again, "lock-%" PRId64, number);
    return number > 0 && number < INT64_MAX && strcmp(name, again) == 0 ? number : 0;
}

/* The highest number of a lock other than `own`; 0 if there is none. */
static int find_highest(const char *dir, int64_t own, int64_t *highest) {
    *highest = 0;
    DIR *list = opendir(dir);
    if (!list) return error_set(EX_CANTCREAT, "%s: cannot read: %s", dir, strerror(errno));
    errno = 0;
    for (struct dirent *entry; (entry = readdir(list));) {
        int64_t number = number_of(entry->d_name);
        if (number != own && number > *highest) *highest = number;
    }
    int reason = errno;
    closedir(list);
    return reason ? error_set(EX_IOERR, "%s: cannot read: %s", dir, strerror(reason)) : 0;
}

static void lock_path(const char *dir, int64_t number, char path[FILE_NAME_SIZE + 32]) {
    snprintf(path, FILE_NAME_SIZE + 32, "%s/lock-%" PRId64, dir, number);
}

static int fail_file(const struct lock *lock, int reason) {
    return error_set(errno_code(reason, EX_CANTCREAT), "%s: cannot write: %s", lock->path, strerror(reason));
}

/* Makes the file; -1 if there is one. */
static int make(struct lock *lock) {
    lock->file = file_create_new(lock->path);
    if (lock->file < 0) return errno == EEXIST ? -1 : fail_file(lock, errno);
    size_t length = strlen(lock->text), done = 0;
    int failed = 0;
    while (done < length && !failed) {
        ssize_t n = write(lock->file, lock->text + done, length - done);
        if (n > 0) done += (size_t)n;
        failed = n == 0 || (n < 0 && errno != EINTR);
    }
    failed = failed || file_flush(lock->file); /* others are to read it */
    if (!failed) return 0;
    int code = fail_file(lock, errno);
    unlink(lock->path);
    close(lock->file);
    lock->file = -1;
    return code;
}

/* Does a lock file still say this? */
static int says(const char *path, const char *text) {
    char again[TEXT_MAX];
    return read_small(path, again, sizeof again) >= 0 && strcmp(again, text) == 0;
}

/* Is it the file that we made? 1 yes, 0 no, -1 with errno: that cannot be seen. Opened, as NFS looks at the
 * server then. */
static int is_own(const struct lock *lock) {
    struct stat own, there;
    int file;
    do file = open(lock->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    while (file < 0 && errno == EINTR);
    if (file < 0) return errno == ENOENT || errno == ELOOP ? 0 : -1;
    int failed = fstat(file, &there) || fstat(lock->file, &own), reason = errno;
    close(file);
    errno = reason;
    if (failed) return reason == ESTALE ? 0 : -1; /* ours was removed elsewhere */
    return own.st_dev == there.st_dev && own.st_ino == there.st_ino;
}

/* Gives up a lock of ours; also one that cannot be seen now, for nobody takes a living one's place. */
static void unmake(struct lock *lock) {
    if (lock->file < 0) return;
    if (is_own(lock)) unlink(lock->path);
    close(lock->file);
    lock->file = -1;
}

/* One try: 0 it is ours; -1 try again. */
static int try(struct lock *lock, const struct writer *self, void (*note)(const char *line)) {
    char other[FILE_NAME_SIZE + 32], text[TEXT_MAX], line[TEXT_MAX];
    int64_t dead, now;
    int code = find_highest(lock->dir, 0, &dead);
    if (code) return code;
    lock_path(lock->dir, dead, other);
    if (dead) code = judge(lock->dir, other, self, text, line);
    if (code) return code;
    lock_path(lock->dir, dead + 1, lock->path);
    code = make(lock);
    if (code) return code;
    /* Between our look and the making, others may have come and gone. All make first and look then: of two,
     * at least one sees the other. The dead one's number may be that of a new lock by now. */
    code = find_highest(lock->dir, dead + 1, &now);
    if (!code && (now != dead || (dead && !says(other, text)))) code = -1;
    if (code) {
        unmake(lock);
        return code;
    }
    if (dead && unlink(other) && errno != ENOENT) {
        code = error_set(EX_CANTCREAT, "%s: cannot remove: %s", other, strerror(errno));
        unmake(lock);
    } else if (dead) {
        note(line);
    }
    return code;
}

/* ---- the clock ---- */

static void *touch(void *argument) {
    struct lock *lock = argument;
    struct timespec when;
    pthread_mutex_lock(&lock->mutex);
    while (!lock->is_ending) {
        clock_gettime(CLOCK_REALTIME, &when);
        when.tv_sec += EVERY_SECONDS;
        pthread_cond_timedwait(&lock->condition, &lock->mutex, &when);
        if (!lock->is_ending) futimens(lock->file, NULL);
    }
    pthread_mutex_unlock(&lock->mutex);
    return NULL;
}

static int start_clock(struct lock *lock) {
    sigset_t all, old;
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&lock->thread, NULL, touch, lock);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    lock->is_running = !failed;
    return failed ? error_set(EX_OSERR, "no thread for the lock: %s", strerror(failed)) : 0;
}

/* ---- the whole ---- */

int lock_take(const char *dir, void (*note)(const char *line), struct lock **result) {
    struct writer self;
    struct lock *lock = calloc(1, sizeof *lock);
    *result = NULL;
    if (!lock) return error_memory("a lock", sizeof *lock);
    lock->file = -1;
    pthread_mutex_init(&lock->mutex, NULL);
    pthread_cond_init(&lock->condition, NULL);
    snprintf(lock->dir, sizeof lock->dir, "%s", dir);
    describe_self(&self);
    write_text(&self, lock->text);
    int code = -1;
    for (int i = 0; i < TRIES_MAX && code < 0; i++) {
        if (i) sleep_ms(10 + (long)(self.process * 7 + i * 13) % 40);
        code = try(lock, &self, note);
    }
    if (code < 0) code = error_set(EX_CANTCREAT, "%s: others begin to write there at the same time", dir);
    if (!code) code = start_clock(lock);
    if (code) {
        lock_release(lock);
        return code;
    }
    *result = lock;
    return 0;
}

int lock_check(const struct lock *lock) {
    int own = lock ? is_own(lock) : 1;
    if (own == 1) return 0;
    if (own < 0) {
        return error_set(errno_code(errno, EX_IOERR), "%s: cannot read: %s", lock->path, strerror(errno));
    }
    return error_set(EX_CANTCREAT,
                     "%s: was taken over by another writer, or removed: nothing more is written", lock->path);
}

void lock_release(struct lock *lock) {
    if (!lock) return;
    if (lock->is_running) {
        pthread_mutex_lock(&lock->mutex);
        lock->is_ending = 1;
        pthread_cond_signal(&lock->condition);
        pthread_mutex_unlock(&lock->mutex);
        pthread_join(lock->thread, NULL);
    }
    unmake(lock);
    pthread_mutex_destroy(&lock->mutex);
    pthread_cond_destroy(&lock->condition);
    free(lock);
}
