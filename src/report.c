/* Text output of a run; see report.h. */
#include "report.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "errno_code.h"
#include "error.h"
#include "file.h"
#include "output.h"

enum { NAME_SIZE = CONFIG_PATH_MAX + 64, LINE_SIZE = 1024 };

int report_metrics(const struct config *config, struct metric metric[REPORT_METRICS_MAX], int *chosen) {
    static const struct metric always[] = {{METRIC_RECALL, 20}, {METRIC_RECALL, 50}, {METRIC_NDCG, 100}};
    const struct metric *chooser = &config->train.early_stopping.metric;
    int n = 3;
    memcpy(metric, always, sizeof always);
    for (*chosen = 0; *chosen < n; ++*chosen) {
        if (metric[*chosen].kind == chooser->kind && metric[*chosen].at == chooser->at) return n;
    }
    metric[n++] = *chooser;
    return n;
}

/* ---- opening ---- */

static int open_file(const char *path, const char *mode, FILE **file) {
    *file = fopen(path, mode);
    return *file ? 0
                 : error_set(errno_code(errno, EX_CANTCREAT), "%s: cannot write: %s", path, strerror(errno));
}

static int write_config(const struct config *config) {
    char path[NAME_SIZE], text[CONFIG_TEXT_MAX];
    snprintf(path, sizeof path, "%s/config.yaml", config->output_path);
    config_text(config, text);
    return file_write(path, text);
}

static void make_head(const struct config *config, char head[LINE_SIZE]) {
    struct metric metric[REPORT_METRICS_MAX];
    int chosen, n = report_metrics(config, metric, &chosen);
    int used = snprintf(
        head, LINE_SIZE,
        "epoch,step,seconds,users_per_second,loss,nll,kl,beta,learning_rate,loss_scale,skipped_steps");
    for (int i = 0; i < n; i++) {
        char name[METRIC_NAME_MAX];
        metric_name(metric[i], name);
        used += snprintf(head + used, LINE_SIZE - (size_t)used, ",%s", name);
    }
    snprintf(head + used, LINE_SIZE - (size_t)used, "\n");
}

/* The rows up to epoch `keep` of the table that is there, unless it has another head. */
static int copy_rows(struct report *report, FILE *old, FILE *file, const char *head, int64_t keep) {
    char *line = NULL;
    size_t room = 0;
    int64_t lines = 0;
    errno = 0;
    for (; getline(&line, &room, old) >= 0; lines++) {
        int64_t epoch = strtoll(line, NULL, 10);
        if (lines == 0 && strcmp(line, head) != 0) {
            free(line);
            return error_set(EX_DATAERR,
                             "%s: has other columns than this run; want it moved away, or as it was",
                             report->table_path);
        }
        if (lines > 0 && epoch >= 1 && epoch <= keep && strchr(line, '\n')) fputs(line, file);
        errno = 0;
    }
    free(line);
    if (feof(old)) return 0;
    return error_set(EX_IOERR, "%s: cannot read: %s", report->table_path, strerror(errno));
}

/* Writes metrics.csv anew: its head, and the rows up to epoch `keep` of the one that is there. */
static int begin_table(struct report *report, const struct config *config, int64_t keep) {
    char head[LINE_SIZE];
    struct output *output;
    FILE *old = keep > 0 ? fopen(report->table_path, "r") : NULL;
    if (keep > 0 && !old && errno != ENOENT) {
        return error_set(EX_IOERR, "%s: cannot read: %s", report->table_path, strerror(errno));
    }
    int code = output_open(report->table_path, &output);
    if (!code) {
        make_head(config, head);
        fputs(head, output_stream(output));
        if (old) code = copy_rows(report, old, output_stream(output), head, keep);
        code = output_close(output, code);
    }
    if (old) fclose(old);
    return code ? code : open_file(report->table_path, "a", &report->table);
}

/* Open MPI's mpirun gives rank 0 a terminal of its own, wherever its own output goes: look at that. */
static int is_terminal(void) {
    char path[64], target[64] = "";
    if (!isatty(STDOUT_FILENO)) return 0;
    if (!environment("OMPI_COMM_WORLD_RANK") && !environment("PMIX_RANK") && !environment("PMI_RANK"))
        return 1;
    snprintf(path, sizeof path, "/proc/%ld/fd/1", (long)getppid());
    if (readlink(path, target, sizeof target - 1) < 0) return 0;
    return strncmp(target, "/dev/pts/", 9) == 0 || strncmp(target, "/dev/tty", 8) == 0;
}

int report_open(struct report *report, const struct config *config, int64_t keep) {
    char name[NAME_SIZE];
    *report = (struct report){.is_live = is_terminal()};
    snprintf(name, sizeof name, "%s/checkpoints", config->output_path);
    int code = file_make_directory(config->output_path, NULL);
    if (!code) code = file_make_directory(name, NULL);
    if (!code) code = write_config(config);
    snprintf(name, sizeof name, "%s/train.log", config->output_path);
    snprintf(report->table_path, sizeof report->table_path, "%s/metrics.csv", config->output_path);
    if (!code) code = open_file(name, "a", &report->log);
    if (!code) code = begin_table(report, config, keep);
    return code;
}

/* Back to the beginning of the line, and nothing on it. */
static const char *clear(const struct report *report) {
    return report->is_live ? "\r\033[K" : "";
}

void report_close(struct report *report) {
    fputs(clear(report), stdout);
    if (report->log) fclose(report->log);
    if (report->table) fclose(report->table);
    *report = (struct report){0};
}

/* ---- writing ---- */

static void log_text(struct report *report, const char *text) {
    char when[32];
    time_t now = time(NULL);
    struct tm parts;
    if (!report->log) return;
    localtime_r(&now, &parts);
    strftime(when, sizeof when, "%F %T", &parts);
    errno = 0;
    fprintf(report->log, "%s  %s\n", when, text);
    if (fflush(report->log) && !report->log_failed) report->log_failed = errno ? errno : EIO;
}

void report_line(struct report *report, const char *format, ...) {
    char text[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("%s%s\n", clear(report), text);
    fflush(stdout);
    log_text(report, text);
}

void report_live(struct report *report, const char *format, ...) {
    char text[LINE_SIZE];
    va_list arguments;
    if (!report->is_live) return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("%s%s", clear(report), text);
    fflush(stdout);
}

void report_log(struct report *report, const char *format, ...) {
    char text[LINE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    log_text(report, text);
}

int report_epoch(struct report *report, const struct report_row *row) {
    FILE *file = report->table;
    fprintf(file, "%lld,%lld,%.3f,%.1f,%.9g,%.9g,%.9g,%.9g,%.9g,%.9g,%lld", (long long)row->epoch,
            (long long)row->step, row->seconds, row->users_per_second, row->loss, row->nll, row->kl,
            row->beta, row->learning_rate, row->loss_scale, (long long)row->skipped_steps);
    for (int i = 0; i < row->n_metrics; i++) {
        if (row->validation) {
            fprintf(file, ",%.9g", metrics_value(row->validation, i));
        } else {
            fputc(',', file);
        }
    }
    fputc('\n', file);
    if (fflush(file) || ferror(file)) {
        return error_set(EX_IOERR, "%s: cannot write: %s", report->table_path, strerror(errno));
    }
    return 0;
}

int report_sync(struct report *report) {
    if (report->log_failed) {
        return error_set(EX_IOERR, "train.log: cannot write: %s", strerror(report->log_failed));
    }
    int failed;
    do failed = fsync(fileno(report->table));
    while (failed && errno == EINTR);
    if (!failed || errno == EINVAL) return 0;
    return error_set(EX_IOERR, "%s: cannot write: %s", report->table_path, strerror(errno));
}

void report_saved(double seconds) {
    const char *path = environment("VAECF_SAVED");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file) return;
    fprintf(file, "%.1f\n", seconds);
    fclose(file);
}

void report_duration(double seconds, char text[32]) {
    long long s = seconds > 0 && seconds < 1e15 ? llround(seconds) : 0;
    if (!(seconds < 1e15)) {
        snprintf(text, 32, "?");
    } else if (s >= 3600) {
        snprintf(text, 32, "%lld h %02lld min", s / 3600, s % 3600 / 60);
    } else if (s >= 60) {
        snprintf(text, 32, "%lld min %02lld s", s / 60, s % 60);
    } else {
        snprintf(text, 32, "%lld s", s);
    }
}
