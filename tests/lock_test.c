/* src/lock.c: one writer for a directory, whoever comes, and the lock of a dead one is taken over. */
#define _GNU_SOURCE /* pthread_barrier_t */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "error.h"
#include "lock.h"

enum { TEXT = 2048, PATH = 4096, STARTS = 20, ROUNDS = 200 };
/* A look at another machine's lock takes 2.5 s of `every 1`, and 25 s of the usual 10. */
static const double AT_ONCE = 2.2, WATCHED = 2.4, LIMIT = 15;

static char dir[] = "/tmp/vaecf-lock-XXXXXX";
static char template[TEXT]; /* the text of a lock of this process, without a job */
static char noted[TEXT], host[256], process[32];
static int notes;

static void note(const char *line) {
    snprintf(noted, sizeof noted, "%s", line);
    notes++;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void sleep_ms(long ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* ---- files ---- */

static const char *path_of(const char *name) {
    static char path[PATH];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_file(const char *name, const char *text) {
    FILE *file = fopen(path_of(name), "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void read_file(const char *name, char text[TEXT]) {
    FILE *file = fopen(path_of(name), "r");
    assert_non_null(file);
    text[fread(text, 1, TEXT - 1, file)] = '\0';
    fclose(file);
}

static int is_there(const char *name) {
    struct stat status;
    return lstat(path_of(name), &status) == 0;
}

/* Moves its time of change by some seconds from now. */
static void touch(const char *name, time_t seconds) {
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
    clock_gettime(CLOCK_REALTIME, &times[1]);
    times[1].tv_sec += seconds;
    assert_int_equal(utimensat(AT_FDCWD, path_of(name), times, 0), 0);
}

/* Files in the directory that begin so. */
static int count(const char *start) {
    int n = 0;
    DIR *list = opendir(dir);
    assert_non_null(list);
    for (struct dirent *entry; (entry = readdir(list));) {
        n += entry->d_name[0] != '.' && strncmp(entry->d_name, start, strlen(start)) == 0;
    }
    closedir(list);
    return n;
}

/* Sums up names, contents and times of the directory; what is there in no order. */
static uint64_t fingerprint(void) {
    struct stat status;
    char text[TEXT], line[3 * TEXT];
    uint64_t sum = 0;
    DIR *list = opendir(dir);
    assert_non_null(list);
    for (struct dirent *entry; (entry = readdir(list));) {
        if (strcmp(entry->d_name, "..") == 0) continue;
        assert_int_equal(lstat(path_of(entry->d_name), &status), 0);
        text[0] = '\0';
        if (S_ISREG(status.st_mode)) read_file(entry->d_name, text);
        snprintf(line, sizeof line, "%s %lld %lld %lld %s", entry->d_name, (long long)status.st_size,
                 (long long)status.st_mtim.tv_sec, (long long)status.st_mtim.tv_nsec, text);
        uint64_t hash = 14695981039346656037u; /* FNV-1a */
        for (const char *c = line; *c; c++) hash = (hash ^ (unsigned char)*c) * 1099511628211u;
        sum += hash;
    }
    closedir(list);
    return sum;
}

static int clear(void **state) {
    DIR *list = opendir(dir);
    (void)state;
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (entry->d_name[0] == '.') continue;
        if (unlink(path_of(entry->d_name))) rmdir(path_of(entry->d_name));
    }
    if (list) closedir(list);
    for (const char *const *name =
             (const char *const[]){"VAECF_JOB", "VAECF_START", "SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID",
                                   "SLURM_ARRAY_TASK_ID", "SLURM_RESTART_COUNT", "PBS_JOBID", NULL};
         *name; name++) {
        unsetenv(*name);
    }
    notes = 0;
    noted[0] = '\0';
    return 0;
}

/* ---- locks ---- */

/* The value of a line of the template. */
static void value_of(const char *key, char *value, size_t size) {
    char line[32];
    snprintf(line, sizeof line, "\n%s ", key);
    const char *at = strstr(template, line);
    assert_non_null(at);
    at += strlen(line);
    snprintf(value, size, "%.*s", (int)strcspn(at, "\n"), at);
}

/* The template with other values: key, value, ..., NULL. */
static void edit(char text[TEXT], ...) {
    va_list list;
    snprintf(text, TEXT, "%s", template);
    va_start(list, text);
    for (const char *key; (key = va_arg(list, const char *));) {
        char line[32], rest[TEXT];
        snprintf(line, sizeof line, "\n%s ", key);
        char *at = strstr(text, line);
        assert_non_null(at);
        at += strlen(line);
        snprintf(rest, sizeof rest, "%s", at + strcspn(at, "\n"));
        snprintf(at, TEXT - (size_t)(at - text), "%s%s", va_arg(list, const char *), rest);
    }
    va_end(list);
}

/* lock-1 with that text. */
#define CRAFT(...)                                                                                           \
    do {                                                                                                     \
        char crafted[TEXT];                                                                                  \
        edit(crafted, __VA_ARGS__, NULL);                                                                    \
        write_file("lock-1", crafted);                                                                       \
    } while (0)

/* Of another machine, which is asked more often. */
#define CRAFT_ELSEWHERE(...) CRAFT("boot", "another", "host", "far", "every", "1", __VA_ARGS__)

/* Gets it within the seconds, by taking over lock-1 if why is given. */
static void gets(const char *why, double least, double most) {
    struct lock *lock;
    double begin = now();
    int before = notes;
    assert_int_equal(lock_take(dir, note, &lock), 0);
    double seconds = now() - begin;
    if (seconds < least || seconds > most)
        fail_msg("it took %.2f s, want %.2f to %.2f", seconds, least, most);
    assert_int_equal(count("lock-"), 1);
    assert_int_equal(is_there("lock-2"), why != NULL);
    assert_int_equal(notes - before, why != NULL);
    if (why && !strstr(noted, why)) fail_msg("told: %s; want: %s", noted, why);
    assert_int_equal(lock_check(lock), 0);
    lock_release(lock);
    assert_int_equal(count("lock-"), 0);
}

/* Is refused within the seconds, with these words, and nothing has changed. */
static void refused(const char *words, double most) {
    struct lock *lock;
    uint64_t before = fingerprint();
    int told = notes;
    double begin = now();
    assert_int_equal(lock_take(dir, note, &lock), EX_CANTCREAT);
    double seconds = now() - begin;
    assert_null(lock);
    assert_true(before == fingerprint());
    if (seconds > most) fail_msg("it took %.2f s, want %.2f at most", seconds, most);
    if (!strstr(error_message(), words)) fail_msg("%s; want: %s", error_message(), words);
    if (strncmp(error_message(), dir, strlen(dir)) != 0) fail_msg("%s: want the directory", error_message());
    assert_int_equal(notes, told);
}

/* ---- one after the other ---- */

static void test_take(void **state) {
    struct lock *lock;
    char text[TEXT];
    (void)state;
    write_file("metrics.csv", "epoch\n");
    assert_int_equal(lock_take(dir, note, &lock), 0);
    read_file("lock-1", text);
    assert_memory_equal(text, "vaecf-lock\nhost ", 16);
    assert_int_equal(lock_check(lock), 0);
    snprintf(text, sizeof text, ": process %s on %s is writing there", process, host);
    refused(text, AT_ONCE);
    refused(text, AT_ONCE);
    assert_int_equal(lock_check(lock), 0);
    lock_release(lock);
    assert_int_equal(count(""), 1);
    assert_int_equal(count("metrics.csv"), 1);
    gets(NULL, 0, AT_ONCE);
    lock_release(NULL);
    assert_int_equal(lock_check(NULL), 0);
    assert_int_equal(notes, 0);
}

static void test_job_is_named(void **state) {
    struct lock *lock;
    char text[TEXT];
    (void)state;
    setenv("SLURM_JOB_ID", "1234", 1);
    assert_int_equal(lock_take(dir, note, &lock), 0);
    snprintf(text, sizeof text, ": process %s on %s, job 1234 is writing there", process, host);
    refused(text, AT_ONCE);
    lock_release(lock);
    setenv("SLURM_ARRAY_JOB_ID", "1230", 1);
    setenv("SLURM_ARRAY_TASK_ID", "7", 1);
    assert_int_equal(lock_take(dir, note, &lock), 0);
    refused(", job 1230_7 is", AT_ONCE);
    lock_release(lock);
    setenv("VAECF_JOB", "by hand", 1);
    assert_int_equal(lock_take(dir, note, &lock), 0);
    refused(", job by is", AT_ONCE);
    lock_release(lock);
}

static void test_lost(void **state) {
    struct lock *lock;
    char text[TEXT], other[TEXT];
    (void)state;
    assert_int_equal(lock_take(dir, note, &lock), 0);
    edit(text, "token", "another", NULL);
    write_file("new", text);
    char from[PATH];
    snprintf(from, sizeof from, "%s", path_of("new"));
    assert_int_equal(rename(from, path_of("lock-1")), 0);
    assert_int_equal(lock_check(lock), EX_CANTCREAT);
    assert_non_null(strstr(error_message(), "lock-1: was taken over by another writer"));
    error_set(EX_SOFTWARE, "what ended the run");
    lock_release(lock);
    assert_string_equal(error_message(), "what ended the run");
    read_file("lock-1", other);
    assert_string_equal(text, other);
    clear(NULL);
    assert_int_equal(lock_take(dir, note, &lock), 0);
    unlink(path_of("lock-1"));
    assert_int_equal(lock_check(lock), EX_CANTCREAT);
    lock_release(lock);
    assert_int_equal(lock_take(dir, note, &lock), 0);
    unlink(path_of("lock-1"));
    mkdir(path_of("lock-1"), 0777);
    assert_int_equal(lock_check(lock), EX_CANTCREAT);
    lock_release(lock);
    assert_true(is_there("lock-1"));
}

/* ---- dead, on this machine ---- */

/* A child takes the lock and is killed. */
static pid_t leave_lock(void) {
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        struct lock *lock;
        byte = lock_take(dir, note, &lock) ? 'n' : 'y';
        if (write(ready[1], &byte, 1) == 1) pause();
        _exit(0);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(byte, 'y');
    close(ready[0]);
    close(ready[1]);
    return child;
}

static void test_killed(void **state) {
    (void)state;
    pid_t child = leave_lock();
    refused("is writing there", AT_ONCE); /* it waits */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    gets("is taken over: the process has ended", 0, AT_ONCE);
    char who[128];
    snprintf(who, sizeof who, "the lock of process %d on %s is taken over", (int)child, host);
    assert_non_null(strstr(noted, who));
}

static void test_zombie(void **state) {
    siginfo_t info;
    (void)state;
    pid_t child = leave_lock();
    kill(child, SIGKILL);
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT), 0);
    gets("the process has ended", 0, AT_ONCE);
    waitpid(child, NULL, 0);
}

static void test_stopped(void **state) {
    (void)state;
    pid_t child = leave_lock();
    kill(child, SIGSTOP);
    touch("lock-1", -100000);
    refused("is writing there", AT_ONCE);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
}

static void test_reused_number(void **state) {
    (void)state;
    CRAFT("began", "12345");
    gets("the process has ended", 0, AT_ONCE);
    CRAFT("token", "another"); /* this process, which is alive */
    touch("lock-1", -100000);
    refused("is writing there", AT_ONCE);
    CRAFT("began", "-1"); /* /proc was closed to it */
    refused("is writing there", AT_ONCE);
}

/* ---- elsewhere ---- */

static void test_elsewhere(void **state) {
    (void)state;
    CRAFT("boot", "another", "host", "far", "job", "77");
    touch("lock-1", -4);
    refused("process", AT_ONCE);
    assert_non_null(strstr(error_message(), " on far, job 77 is writing there, and was alive "));
    if (!strstr(error_message(), "alive 4 s ago (if it is gone, the directory is free after 56 s)")) {
        assert_non_null(strstr(error_message(), "alive 5 s ago")); /* a slow machine */
    }
    touch("lock-1", 0);
    refused("and was alive 0 s ago", AT_ONCE);
    touch("lock-1", 5); /* its clock is ahead */
    refused("is writing there", AT_ONCE);
    CRAFT("space", "pid:[1]"); /* in another container of this machine */
    refused("and was alive 0 s ago", AT_ONCE);
}

static void test_silent(void **state) {
    (void)state;
    CRAFT_ELSEWHERE("process", "1");
    touch("lock-1", -100);
    gets("process 1 on far is taken over: it has been silent for too long", WATCHED, LIMIT);
    CRAFT_ELSEWHERE("process", "1");
    touch("lock-1", 1000000);
    gets("has been silent for too long", WATCHED, LIMIT);
}

struct later {
    pthread_t thread;
    long ms;
    time_t offset;   /* touched so far from now */
    int is_removing; /* or removed instead */
};

static void *act(void *argument) {
    const struct later *later = argument;
    char path[PATH];
    snprintf(path, sizeof path, "%s/lock-1", dir);
    struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}};
    sleep_ms(later->ms);
    clock_gettime(CLOCK_REALTIME, &times[1]);
    times[1].tv_sec += later->offset;
    if (later->is_removing) {
        unlink(path);
    } else {
        utimensat(AT_FDCWD, path, times, 0);
    }
    return NULL;
}

/* The refusal lets files and times be: only the touch may come between. */
static void refused_if_touched(time_t offset) {
    struct later later = {.ms = 700, .offset = offset};
    struct lock *lock;
    CRAFT_ELSEWHERE("process", "1");
    touch("lock-1", offset);
    pthread_create(&later.thread, NULL, act, &later);
    assert_int_equal(lock_take(dir, note, &lock), EX_CANTCREAT);
    pthread_join(later.thread, NULL);
    assert_int_equal(notes, 0);
    /* By whatever clock: it was just now. */
    assert_non_null(strstr(error_message(), "process 1 on far is writing there, and was alive 0 s ago (if it "
                                            "is gone, the directory is free after 6 s)"));
}

static void test_touched(void **state) {
    (void)state;
    refused_if_touched(-100);
    refused_if_touched(1000000);
}

static void test_gone_while_watched(void **state) {
    struct later later = {.ms = 700, .is_removing = 1};
    (void)state;
    CRAFT_ELSEWHERE("process", "1");
    touch("lock-1", -100);
    pthread_create(&later.thread, NULL, act, &later);
    gets(NULL, 0, LIMIT);
    pthread_join(later.thread, NULL);
}

/* ---- jobs ---- */

static void test_slurm_restart(void **state) {
    (void)state;
    setenv("SLURM_JOB_ID", "77", 1);
    setenv("SLURM_RESTART_COUNT", "2", 1);
    CRAFT("boot", "another", "job", "77", "start", "restart:1");
    gets("was an earlier start of this job", 0, AT_ONCE);
    CRAFT("boot", "another", "job", "77", "start", "restart:2");
    refused("job 77 is writing there, and was alive", AT_ONCE);
    CRAFT("boot", "another", "job", "77", "start", "restart:10"); /* numbers, not words */
    refused("is writing there", AT_ONCE);
    CRAFT("boot", "another", "job", "78", "start", "restart:1");
    refused("job 78 is writing there", AT_ONCE);
    CRAFT("boot", "another", "job", "77", "start", "script:1");
    refused("is writing there", AT_ONCE);
    CRAFT("job", "77", "start", "restart:1"); /* on this machine its process is looked at */
    refused("is writing there", AT_ONCE);
    unsetenv("SLURM_RESTART_COUNT");
    CRAFT("boot", "another", "job", "77", "start", "restart:0");
    refused("is writing there", AT_ONCE);
    unsetenv("SLURM_JOB_ID");
    setenv("SLURM_RESTART_COUNT", "2", 1);
    CRAFT("boot", "another", "job", "", "start", "restart:1"); /* no job is no job's other start */
    refused("is writing there", AT_ONCE);
}

static void test_script_start(void **state) {
    (void)state;
    setenv("VAECF_JOB", "77", 1);
    setenv("VAECF_START", "b", 1);
    CRAFT("boot", "another", "job", "77", "start", "script:a");
    gets("was an earlier start of this job", 0, AT_ONCE);
    CRAFT("boot", "another", "job", "77", "start", "script:b");
    refused("is writing there", AT_ONCE);
    CRAFT("boot", "another", "job", "78", "start", "script:a");
    refused("is writing there", AT_ONCE);
    CRAFT("boot", "another", "job", "77", "start", "restart:0");
    refused("is writing there", AT_ONCE);
}

/* ---- files that are none ---- */

static void test_not_whole(void **state) {
    (void)state;
    write_file("lock-1", "");
    refused(": another process is writing there, and was alive", LIMIT);
    write_file("lock-1", "vaecf-lock\nhost \xff\ntoken\n\n\nprocess -1\n");
    refused(": another process is writing there", LIMIT);
}

/* Written a moment after it was made: it is waited for. */
static void *write_dead(void *text) {
    sleep_ms(500);
    char path[PATH];
    snprintf(path, sizeof path, "%s/lock-1", dir);
    FILE *file = fopen(path, "w");
    if (file) {
        fputs(text, file);
        fclose(file);
    }
    return NULL;
}

static void test_being_made(void **state) {
    pthread_t thread;
    char text[TEXT];
    (void)state;
    edit(text, "began", "12345", NULL);
    write_file("lock-1", "vaecf-lock\nhos");
    pthread_create(&thread, NULL, write_dead, text);
    gets("the process has ended", 0.4, LIMIT);
    pthread_join(thread, NULL);
}

static void test_unknown_lines(void **state) {
    char text[TEXT], longer[TEXT];
    (void)state;
    edit(text, "began", "12345", NULL);
    snprintf(longer, sizeof longer, "%swith-a-key-longer-than-any other\nlast without an end", text);
    write_file("lock-1", longer);
    gets("the process has ended", 0, AT_ONCE);
    edit(text, "began", "12345", "every", "-5", NULL);
    write_file("lock-1", text);
    gets("the process has ended", 0, AT_ONCE);
}

static void test_names(void **state) {
    static const char *const other[] = {
        "lock-x",     "lock-01", "lock-",   "lock-0", "lock--1", "lock-9223372036854775807",
        "lock-1.tmp", "Lock-1",  "lock-+3", "lock- 3"};
    int n = sizeof other / sizeof *other;
    char text[TEXT];
    struct lock *lock;
    (void)state;
    edit(text, "token", "another", NULL); /* alive, if it counted */
    for (int i = 0; i < n; i++) write_file(other[i], text);
    assert_int_equal(lock_take(dir, note, &lock), 0);
    assert_true(is_there("lock-1"));
    lock_release(lock);
    for (int i = 0; i < n; i++) assert_true(is_there(other[i]));
    assert_int_equal(count(""), n);
}

static void test_generations(void **state) {
    char text[TEXT];
    struct lock *lock;
    (void)state;
    edit(text, "began", "12345", NULL);
    write_file("lock-9", text);
    write_file("lock-10", text);
    assert_int_equal(lock_take(dir, note, &lock), 0);
    assert_true(is_there("lock-11"));
    assert_false(is_there("lock-10"));
    refused("is writing there", AT_ONCE);
    lock_release(lock);
}

/* ---- what cannot be read or made ---- */

static void test_errors(void **state) {
    struct lock *lock;
    char path[PATH];
    (void)state;
    snprintf(path, sizeof path, "%s/none", dir);
    assert_int_equal(lock_take(path, note, &lock), EX_CANTCREAT);
    assert_non_null(strstr(error_message(), "none: cannot read: "));
    write_file("none", "");
    assert_int_equal(lock_take(path, note, &lock), EX_CANTCREAT);
    assert_null(lock);
    assert_int_equal(symlink("/nowhere", path_of("lock-1")), 0); /* not followed */
    assert_int_equal(lock_take(dir, note, &lock), EX_CANTCREAT);
    assert_int_equal(count(""), 2);
    unlink(path_of("lock-1"));
    mkdir(path_of("lock-1"), 0777);
    touch("lock-1", -100);
    refused("lock-1: cannot read: ", AT_ONCE);
}

/* In a child, which may lose rights. */
static void test_unwritable(void **state) {
    struct lock *lock;
    int status;
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &none); /* made, but not written */
        int code = lock_take(dir, note, &lock);
        if (code != EX_IOERR || !strstr(error_message(), "lock-1: cannot write: ")) _exit(1);
        _exit(count("") == 0 ? 0 : 2);
    }
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    assert_int_equal(chmod(dir, 0555), 0);
    child = fork();
    if (child == 0) {
        if (geteuid() == 0 && setuid(65534)) _exit(3);
        int code = lock_take(dir, note, &lock);
        _exit(code == EX_CANTCREAT && strstr(error_message(), "lock-1: cannot write: ") ? 0 : 4);
    }
    waitpid(child, &status, 0);
    chmod(dir, 0755);
    assert_int_equal(status, 0);
}

/* ---- many at once ---- */

struct shared {
    pthread_barrier_t barrier;
    atomic_int holders, most, taken, wrong;
    char message[TEXT]; /* of a wrong one */
};

/* Rounds: an empty directory or a dead lock; the holder waits for the others' answers, or ends at once, so
 * that others take it after it. */
static void start(struct shared *s, int number, const char *dead) {
    for (int round = 0; round < ROUNDS; round++) {
        struct lock *lock;
        int is_held = round % 4 < 2;
        if (number == 0 && round % 2) write_file("lock-1", dead);
        pthread_barrier_wait(&s->barrier);
        if (round % 3) sleep_ms((number * 7 + round * 5) % 4);
        int code = lock_take(dir, note, &lock);
        if (!code) {
            int holders = atomic_fetch_add(&s->holders, 1) + 1;
            if (holders > atomic_load(&s->most)) atomic_store(&s->most, holders);
            atomic_fetch_add(&s->taken, 1);
            if (!is_held && round % 8 < 4) sleep_ms(number % 3);
        } else if (code != EX_CANTCREAT || !strstr(error_message(), " is writing there")) {
            if (atomic_fetch_add(&s->wrong, 1) == 0) {
                snprintf(s->message, sizeof s->message, "round %d: %d: %s", round, code, error_message());
            }
        }
        if (is_held) pthread_barrier_wait(&s->barrier);
        if (!code) {
            if (lock_check(lock) && atomic_fetch_add(&s->wrong, 1) == 0) {
                snprintf(s->message, sizeof s->message, "round %d: %s", round, error_message());
            }
            atomic_fetch_sub(&s->holders, 1);
            lock_release(lock);
        }
        pthread_barrier_wait(&s->barrier);
        int taken = atomic_load(&s->taken);
        if (number == 0 && (taken < 1 || (is_held && taken > 1) || count("lock-") > 0) &&
            atomic_fetch_add(&s->wrong, 1) == 0) {
            snprintf(s->message, sizeof s->message, "round %d: %d got it, %d are left", round, taken,
                     count("lock-"));
        }
        pthread_barrier_wait(&s->barrier);
        if (number == 0) {
            atomic_store(&s->taken, 0);
            clear(NULL);
        }
    }
}

static void test_many(void **state) {
    pthread_barrierattr_t attributes;
    pid_t child[STARTS];
    int status, failed = 0;
    char dead[TEXT];
    (void)state;
    struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(s != MAP_FAILED);
    pthread_barrierattr_init(&attributes);
    pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&s->barrier, &attributes, STARTS);
    edit(dead, "began", "12345", NULL);
    for (int i = 0; i < STARTS; i++) {
        child[i] = fork();
        if (child[i] == 0) {
            start(s, i, dead);
            _exit(0);
        }
    }
    for (int i = 0; i < STARTS; i++) {
        waitpid(child[i], &status, 0);
        failed |= status;
    }
    assert_int_equal(failed, 0);
    if (atomic_load(&s->wrong)) fail_msg("%d wrong, the first: %s", atomic_load(&s->wrong), s->message);
    assert_int_equal(atomic_load(&s->most), 1);
    munmap(s, sizeof *s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_take, clear),
        cmocka_unit_test_setup(test_job_is_named, clear),
        cmocka_unit_test_setup(test_lost, clear),
        cmocka_unit_test_setup(test_killed, clear),
        cmocka_unit_test_setup(test_zombie, clear),
        cmocka_unit_test_setup(test_stopped, clear),
        cmocka_unit_test_setup(test_reused_number, clear),
        cmocka_unit_test_setup(test_elsewhere, clear),
        cmocka_unit_test_setup(test_silent, clear),
        cmocka_unit_test_setup(test_touched, clear),
        cmocka_unit_test_setup(test_gone_while_watched, clear),
        cmocka_unit_test_setup(test_slurm_restart, clear),
        cmocka_unit_test_setup(test_script_start, clear),
        cmocka_unit_test_setup(test_not_whole, clear),
        cmocka_unit_test_setup(test_being_made, clear),
        cmocka_unit_test_setup(test_unknown_lines, clear),
        cmocka_unit_test_setup(test_names, clear),
        cmocka_unit_test_setup(test_generations, clear),
        cmocka_unit_test_setup(test_errors, clear),
        cmocka_unit_test_setup(test_unwritable, clear),
        cmocka_unit_test_setup(test_many, clear),
    };
    struct lock *lock;
    clear(NULL);
    if (!mkdtemp(dir) || lock_take(dir, note, &lock)) return 71;
    read_file("lock-1", template);
    lock_release(lock);
    value_of("host", host, sizeof host);
    value_of("process", process, sizeof process);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    clear(NULL);
    rmdir(dir);
    return failed;
}
