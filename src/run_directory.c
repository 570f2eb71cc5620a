/* See run_directory.h. */
#include "run_directory.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "errno_code.h"
#include "error.h"
#include "file.h"
#include "output.h"

enum { PATH_SIZE = CONFIG_PATH_MAX + 128, ABANDONED_MAX = 10000 };

static void path_of(const struct run_directory *run, const char *name, char path[PATH_SIZE]) {
    snprintf(path, PATH_SIZE, "%s/%s", run->path, name);
}

static int is_there(const struct run_directory *run, const char *name) {
    char path[PATH_SIZE];
    path_of(run, name, path);
    return access(path, F_OK) == 0;
}

static int fail(const char *path, const char *what) {
    return error_set(EX_IOERR, "%s: cannot %s: %s", path, what, strerror(errno));
}

static int remove_file(const struct run_directory *run, const char *name) {
    char path[PATH_SIZE];
    path_of(run, name, path);
    return unlink(path) && errno != ENOENT ? fail(path, "remove") : 0;
}

/* ---- opening ---- */

static int has_run(const struct run_directory *run, int *answer) {
    int64_t *steps;
    int n, code = checkpoint_list(run->path, &steps, &n);
    free(steps);
    *answer = n > 0 || is_there(run, "best.h5");
    return code;
}

/* What a crash left under a temporary name, as far as it can be removed. */
static void clean(const struct run_directory *run) {
    static const char *const names[] = {"best.h5", "metrics.csv", "config.yaml", "test.csv", "trace.csv"};
    char path[PATH_SIZE], directory[PATH_SIZE];
    for (int sub = 0; sub < 2; sub++) {
        path_of(run, sub ? "checkpoints" : ".", directory);
        DIR *list = opendir(directory);
        for (struct dirent *entry; list && (entry = readdir(list));) {
            const char *name = entry->d_name;
            /* step-000000123.h5.*.tmp: from the first dot on it is that of a name without one */
            int is_left =
                sub && strncmp(name, "step-", 5) == 0 && output_is_left(name + strcspn(name, "."), "");
            for (int i = 0; i < 5 && !sub; i++) is_left |= output_is_left(name, names[i]);
            snprintf(path, sizeof path, "%s/%.200s", directory, name);
            if (is_left) unlink(path);
        }
        if (list) closedir(list);
    }
}

int run_directory_open(const char *path, void (*note)(const char *line), struct run_directory *run) {
    char checkpoints[PATH_SIZE];
    *run = (struct run_directory){.path = path};
    int code = file_make_directory(path, &run->is_new);
    if (!code) code = lock_take(path, note, &run->lock);
    path_of(run, "checkpoints", checkpoints);
    if (!code) code = file_make_directory(checkpoints, &run->has_new_checkpoints);
    if (!code) clean(run);
    return code;
}

int run_directory_choose(const struct run_directory *run, enum trainer_start start, const char *given,
                         void (*warn)(const char *line), char *path, int size) {
    int has = 0, code = start == TRAINER_FRESH ? has_run(run, &has) : 0;
    path[0] = '\0';
    if (code || has) {
        return code
                   ? code
                   : error_set(EX_CANTCREAT,
                               "%s: there is a run already; go on with it by --resume auto, or start anew by "
                               "--overwrite",
                               run->path);
    }
    if (start == TRAINER_RESUME) return checkpoint_newest(run->path, path, size, warn);
    if (start == TRAINER_RESUME_FROM && snprintf(path, (size_t)size, "%s", given) >= size) {
        return error_set(EX_NOINPUT, "--resume: want a path of at most %d bytes", size - 1);
    }
    return 0;
}

/* ---- branches ---- */

/* Is the checkpoint one of this directory's? */
static int is_own(const struct run_directory *run, const char *checkpoint) {
    char own[PATH_SIZE], parent[FILE_NAME_SIZE];
    struct stat a, b;
    path_of(run, "checkpoints", own);
    snprintf(parent, sizeof parent, "%s", checkpoint);
    char *slash = strrchr(parent, '/');
    if (slash) slash[slash == parent] = '\0';
    return !stat(own, &a) && !stat(slash ? parent : ".", &b) && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int move_file(const struct run_directory *run, const char *name, const char *to) {
    char from[PATH_SIZE], aside[PATH_SIZE];
    path_of(run, name, from);
    snprintf(aside, sizeof aside, "%s/%s", to, name);
    return rename(from, aside) && errno != ENOENT ? fail(from, "set aside") : 0;
}

static int copy_file(const struct run_directory *run, const char *name, const char *to) {
    char from[PATH_SIZE], aside[PATH_SIZE], bytes[1 << 12];
    struct output *output;
    path_of(run, name, from);
    snprintf(aside, sizeof aside, "%s/%s", to, name);
    FILE *file = fopen(from, "r");
    if (!file) return errno == ENOENT ? 0 : fail(from, "read");
    int code = output_open(aside, &output);
    for (size_t n; !code && (n = fread(bytes, 1, sizeof bytes, file)) > 0;) {
        fwrite(bytes, 1, n, output_stream(output));
    }
    if (!code) code = output_close(output, ferror(file) ? fail(from, "read") : 0);
    fclose(file);
    return code;
}

/* The first abandoned-N that is free. */
static int make_aside(const struct run_directory *run, char path[PATH_SIZE]) {
    char checkpoints[PATH_SIZE + 16];
    for (int i = 1; i < ABANDONED_MAX; i++) {
        snprintf(path, PATH_SIZE, "%s/abandoned-%d", run->path, i);
        if (mkdir(path, 0777)) {
            if (errno == EEXIST) continue;
            break;
        }
        snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", path);
        if (mkdir(checkpoints, 0777)) break;
        return 0;
    }
    return error_set(errno_code(errno, EX_CANTCREAT), "%s: cannot make the directory: %s", path,
                     strerror(errno));
}

/* Sets aside what comes after a step: -1 for all. */
static int set_aside(const struct run_directory *run, int64_t step, const struct train_state *state,
                     void (*note)(const char *line)) {
    char aside[PATH_SIZE], line[2 * PATH_SIZE];
    int64_t *steps;
    int n, is_best = 0, code = checkpoint_list(run->path, &steps, &n);
    int has_later = n > 0 && steps[0] > step;
    if (!code && step < 0) has_later |= is_there(run, "best.h5") || is_there(run, "metrics.csv");
    if (!code && has_later) {
        if (step >= 0 && is_there(run, "best.h5")) code = run_directory_check_best(run, state, &is_best);
        if (code == EX_DATAERR) code = 0; /* damaged: goes too */
        if (!code) code = make_aside(run, aside);
        if (!code) code = copy_file(run, "metrics.csv", aside);
        if (!code) code = move_file(run, "test.csv", aside);
        if (!code) code = remove_file(run, "exit-code");
        if (!code && !is_best) code = move_file(run, "best.h5", aside);
        for (int i = 0; i < n && !code && steps[i] > step; i++) {
            char name[64];
            snprintf(name, sizeof name, "checkpoints/step-%09lld.h5", (long long)steps[i]);
            code = move_file(run, name, aside);
        }
        snprintf(line, sizeof line, "what came after the checkpoint is set aside in %s", aside);
        if (!code) note(line);
    }
    if (!code && step < 0) code = remove_file(run, "metrics.csv"); /* its rows are another run's */
    free(steps);
    return code;
}

int run_directory_settle(const struct run_directory *run, enum trainer_start start, const char *checkpoint,
                         const struct train_state *state, void (*note)(const char *line)) {
    int code = lock_check(run->lock);
    if (code) return code;
    if (start == TRAINER_OVERWRITE) {
        code = run_directory_go_on(run);
        if (!code) code = checkpoint_prune(run->path, 0);
        if (!code) code = remove_file(run, "best.h5");
        if (!code) code = remove_file(run, "metrics.csv");
        if (!code) code = remove_file(run, "trace.csv");
    } else if (start == TRAINER_RESUME && *checkpoint) {
        code = checkpoint_mark_damaged(run->path, state->step);
    } else if (start == TRAINER_RESUME_FROM) {
        code = set_aside(run, is_own(run, checkpoint) ? state->step : -1, state, note);
    }
    return code;
}

/* ---- what belongs together ---- */

static int is_same(double a, double b) {
    return a == b || (isnan(a) && isnan(b));
}

int run_directory_check_best(const struct run_directory *run, const struct train_state *state, int *is_best) {
    char path[PATH_SIZE];
    struct checkpoint_info info;
    *is_best = 0;
    path_of(run, "best.h5", path);
    if (access(path, F_OK) && errno == ENOENT) return 0;
    int code = checkpoint_read_info(path, &info);
    if (code) return code;
    /* Without validation there is no best epoch: the last one's model is it. */
    int64_t epoch = state->best_epoch > 0 ? state->best_epoch : state->epoch;
    *is_best = info.state.epoch == epoch && info.state.best_epoch == state->best_epoch &&
               is_same(info.state.best_value, state->best_value) && info.state.step <= state->step;
    return 0;
}

int run_directory_is_tested(const struct run_directory *run) {
    char path[PATH_SIZE];
    struct stat test, best;
    path_of(run, "test.csv", path);
    if (stat(path, &test) || !S_ISREG(test.st_mode)) return 0;
    path_of(run, "best.h5", path);
    if (stat(path, &best)) return 0;
    if (test.st_mtim.tv_sec != best.st_mtim.tv_sec) return test.st_mtim.tv_sec > best.st_mtim.tv_sec;
    return test.st_mtim.tv_nsec >= best.st_mtim.tv_nsec;
}

int run_directory_go_on(const struct run_directory *run) {
    int code = remove_file(run, "test.csv");
    return code ? code : remove_file(run, "exit-code");
}

void run_directory_close(struct run_directory *run, int failed) {
    char checkpoints[PATH_SIZE];
    if (!run->path) return;
    path_of(run, "checkpoints", checkpoints);
    if (failed && run->has_new_checkpoints) rmdir(checkpoints); /* unless something is in it */
    lock_release(run->lock);
    if (failed && run->is_new) rmdir(run->path);
    *run = (struct run_directory){0};
}
