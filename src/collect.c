/* vaecf-collect: the runs below a directory as one table: CSV, Markdown and LaTeX. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "error.h"
#include "file.h"
#include "metrics.h"
#include "path.h"
#include "program.h"
#include "utf8.h"

static const char program[] = "vaecf-collect";

static const char help[] =
    "usage: vaecf-collect DIR... [--output DIR] [--metrics recall@20,recall@50,ndcg@100]\n"
    "\n"
    "Collects runs of vaecf-train. DIR is a run directory, or a directory of them such as a sweep's output.\n"
    "Writes, and prints the Markdown tables:\n"
    "  runs.csv    a row a run: run,status,exit_code, the parameters that differ, epochs,best_epoch, the "
    "best\n"
    "              validation value, test metrics with their standard errors, users_per_second (of "
    "training)\n"
    "  runs.md, runs.tex   the same to read, the best run marked; if train.seed differs, also means over "
    "the\n"
    "              seeds +- standard error\n"
    "  means.csv   those means\n"
    "Status: complete (exit-code, which the job scripts leave, says 0; without it, there is a test.csv); "
    "stopped\n"
    "(by a signal, by a limit, or running still); failed; missing (not begun). A name that a spreadsheet "
    "would "
    "take\n"
    "for a formula is ./=name in the CSV files.\n"
    "\n"
    "  -o, --output DIR     where the files go (default: the first DIR)\n"
    "  -m, --metrics LIST   of test.csv\n"
    "  -h, --help           this text\n"
    "      --version        version, and what was compiled in\n"
    "Exit: 0 done, 64 usage, 66 no run found, 71 no memory, 73 cannot create, 74 I/O error, 78 bad "
    "config.yaml.\n";

enum { KEYS_MAX = 64, TEST_MAX = 16, PATH_SIZE = 2 * CONFIG_PATH_MAX, NO_EXIT_CODE = -1 };

enum status { COMPLETE, STOPPED, FAILED, MISSING };
static const char *const status_name[] = {"complete", "stopped", "failed", "missing"};

/* A number of a table: NAN where there is none. */
struct value {
    double mean, error;
};

struct run {
    char name[PATH_SIZE], path[PATH_SIZE];
    char text[CONFIG_TEXT_MAX]; /* the configuration, cut up: */
    const char *setting[KEYS_MAX];
    char metric[METRIC_NAME_MAX]; /* that chose the best model */
    enum status status;
    int exit_code;
    int64_t epochs, best_epoch;
    double validation, users_per_second;
    struct value test[TEST_MAX];
    int n_seeds, n_complete; /* of a mean over seeds: its runs */
};

struct collection {
    int n_runs, n_keys, n_test;
    struct run *run;
    char key[KEYS_MAX][64];
    int differs[KEYS_MAX];
    int seed; /* the place of train.seed in key */
    const char *test[TEST_MAX];
    char validation[METRIC_NAME_MAX + 16]; /* the column's name */
    int best;                              /* run; -1: none is complete */
};

/* ---- reading a run ---- */

/* 'it''s' in YAML is it's, and $$ in a path is $ */
static void unquote(char *text) {
    char *to = text;
    if (*text != '\'') return;
    for (const char *from = text + 1; *from && (from[0] != '\'' || from[1] == '\''); from++) {
        if (*from == '\'') from++;
        *to++ = *from;
    }
    *to = '\0';
    path_unescape(text);
}

/* Cuts the YAML that config_text writes into keys and values. */
static int cut_settings(struct collection *c, struct run *run) {
    char section[3][64] = {""};
    int n = 0;
    for (char *line = run->text, *next; line && *line; line = next) {
        if ((next = strchr(line, '\n'))) *next++ = '\0';
        int depth = (int)strspn(line, " ") / 2;
        char *name = line + 2 * depth, *value = strchr(name, ':');
        if (!value || depth > 2) continue;
        *value++ = '\0';
        const char *above = depth ? section[depth - 1] : "";
        if (!*value) {
            snprintf(section[depth], sizeof section[depth], "%.30s%s%.30s", above, depth ? "." : "", name);
            continue;
        }
        if (n == KEYS_MAX) return error_set(EX_SOFTWARE, "more than %d keys in a configuration", KEYS_MAX);
        snprintf(c->key[n], sizeof c->key[n], "%.30s%s%.30s", above, depth ? "." : "", name);
        unquote(value + 1);
        run->setting[n++] = value + 1;
    }
    c->n_keys = n;
    return 0;
}

/* The next field of a line of CSV without quotes; *line goes on behind it. */
static char *next_field(char **line) {
    char *field = strsep(line, ",\n");
    return field ? field : (char *)"";
}

/* A field that is a number from end to end; else NAN. */
static double number(const char *field) {
    char *end;
    double value = strtod(field, &end);
    return end == field || *end ? NAN : value;
}

/* The column of a head line; -1 if it is not there. */
static int find_column(const char *head, const char *name) {
    for (int i = 0;; i++) {
        size_t length = strcspn(head, ",\n");
        if (length == strlen(name) && memcmp(head, name, length) == 0) return i;
        if (head[length] != ',') return -1;
        head += length + 1;
    }
}

/* DIRECTORY/NAME. `code` if that is too long. */
static int join(char path[PATH_SIZE], const char *directory, const char *name, int code) {
    int length = snprintf(path, PATH_SIZE, "%s/%s", directory, name);
    if (length < PATH_SIZE) return 0;
    return error_set(code, "%.80s...: a path of %d bytes; want fewer than %d", path, length, PATH_SIZE);
}

/* *file is NULL if it is not there. */
static int open_in(const struct run *run, const char *name, FILE **file) {
    char path[PATH_SIZE];
    int code = join(path, run->path, name, EX_NOINPUT);
    if (code) return code;
    *file = fopen(path, "r");
    if (!*file && errno != ENOENT) return error_set(EX_NOINPUT, "%s: %s", path, strerror(errno));
    return 0;
}

static int close_in(const struct run *run, const char *name, FILE *file) {
    int code = ferror(file) ? error_set(EX_IOERR, "%s/%s: %s", run->path, name, strerror(errno)) : 0;
    fclose(file);
    return code;
}

static int read_metrics(struct run *run) {
    char *line = NULL;
    size_t room = 0;
    double users = 0, seconds = 0;
    FILE *file;
    int code = open_in(run, "metrics.csv", &file);
    if (code || !file) return code;
    if (getline(&line, &room, file) >= 0) {
        int chosen = find_column(line, run->metric), time = find_column(line, "seconds");
        int speed = find_column(line, "users_per_second");
        while (getline(&line, &room, file) >= 0) {
            char *rest = line, *field;
            double epoch = NAN, value = NAN, s = NAN, per_second = NAN;
            if (!strchr(line, '\n')) break; /* being written */
            for (int i = 0; rest && *rest; i++) {
                field = next_field(&rest);
                if (i == 0) epoch = number(field);
                if (i == time) s = number(field);
                if (i == speed) per_second = number(field);
                if (i == chosen) value = number(field);
            }
            if (!(epoch >= 1 && epoch <= 0x1p53)) continue; /* damaged */
            run->epochs = (int64_t)epoch;
            if (!isnan(s * per_second)) {
                users += s * per_second;
                seconds += s;
            }
            if (value > run->validation || (isnan(run->validation) && !isnan(value))) {
                run->validation = value;
                run->best_epoch = run->epochs;
            }
        }
    }
    if (seconds > 0) run->users_per_second = users / seconds;
    free(line);
    return close_in(run, "metrics.csv", file);
}

static int read_test(const struct collection *c, struct run *run, int *is_tested) {
    char *line = NULL;
    size_t room = 0;
    FILE *file;
    int code = open_in(run, "test.csv", &file);
    *is_tested = !code && file;
    if (!*is_tested) return code;
    while (getline(&line, &room, file) >= 0) {
        char *rest = line;
        next_field(&rest), next_field(&rest);
        const char *metric = next_field(&rest), *value = next_field(&rest), *error = next_field(&rest);
        for (int i = 0; i < c->n_test; i++) {
            if (strcmp(c->test[i], metric) == 0) run->test[i] = (struct value){number(value), number(error)};
        }
    }
    free(line);
    return close_in(run, "test.csv", file);
}

/* The job scripts leave it. A file that says something else, as after a full disk, is none. */
static int read_exit_code(struct run *run) {
    char text[8] = "";
    FILE *file;
    int code = open_in(run, "exit-code", &file);
    run->exit_code = NO_EXIT_CODE;
    if (code || !file) return code;
    size_t n = fread(text, 1, sizeof text - 1, file), digits = strspn(text, "0123456789");
    if (digits >= 1 && digits <= 3 && (n == digits || text[digits] == '\n') && atoi(text) <= 255) {
        run->exit_code = atoi(text);
    } else {
        error_set(0, "%s/exit-code: is no whole number from 0 to 255; taken as not there", run->path);
        fprintf(stderr, "%s: warning: %s\n", program, error_message());
    }
    return close_in(run, "exit-code", file);
}

static int read_run(struct collection *c, struct run *run) {
    char path[PATH_SIZE];
    struct config config;
    FILE *log = NULL;
    int is_tested = 0, code = join(path, run->path, "config.yaml", EX_NOINPUT);
    if (!code) code = config_load(path, NULL, 0, &config);
    if (code) return code;
    config_text(&config, run->text);
    code = cut_settings(c, run);
    metric_name(config.train.early_stopping.metric, run->metric);
    run->validation = run->users_per_second = NAN;
    for (int i = 0; i < c->n_test; i++) run->test[i] = (struct value){NAN, NAN};
    if (!code) code = read_metrics(run);
    if (!code) code = read_test(c, run, &is_tested);
    if (!code) code = read_exit_code(run);
    if (!code) code = open_in(run, "train.log", &log);
    if (code) return code;
    if (run->exit_code > 0) {
        run->status = run->exit_code == EX_STOPPED ? STOPPED : FAILED;
    } else if (run->exit_code == 0 || is_tested) { /* the test is the last thing that a run does */
        run->status = COMPLETE;
    } else {
        run->status = log ? STOPPED : MISSING;
    }
    if (log) fclose(log);
    return 0;
}

/* ---- finding the runs ---- */

static int add_run(struct collection *c, const char *path, const char *name) {
    struct run *more = realloc(c->run, (size_t)(c->n_runs + 1) * sizeof *more);
    if (!more) return error_memory("the runs", (size_t)(c->n_runs + 1) * sizeof *more);
    c->run = more;
    more += c->n_runs++;
    memset(more, 0, sizeof *more);
    snprintf(more->path, sizeof more->path, "%s", path); /* known to be shorter */
    snprintf(more->name, sizeof more->name, "%s", name);
    return 0;
}

static int has_config(const char *directory, int *has) {
    char path[PATH_SIZE];
    int code = join(path, directory, "config.yaml", EX_NOINPUT);
    *has = !code && access(path, F_OK) == 0;
    return code;
}

/* The run directory itself, or those in it in the order of their names. */
static int find_runs(struct collection *c, const char *directory, int is_only_one) {
    struct dirent **entry;
    int is_run, before = c->n_runs, code = has_config(directory, &is_run);
    if (code || is_run) return code ? code : add_run(c, directory, directory);
    int n = scandir(directory, &entry, NULL, alphasort);
    if (n < 0) return error_set(EX_NOINPUT, "%s: %s", directory, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = entry[i]->d_name;
        char path[PATH_SIZE];
        if (!code && name[0] != '.') {
            code = join(path, directory, name, EX_NOINPUT);
            if (!code) code = has_config(path, &is_run);
            if (!code && is_run) code = add_run(c, path, is_only_one ? name : path);
        }
        free(entry[i]);
    }
    free(entry);
    if (!code && c->n_runs == before) {
        code = error_set(EX_NOINPUT, "%s: want a run directory, or a directory of them, with config.yaml",
                         directory);
    }
    return code;
}

static int is_best(const struct run *run, const struct run *best) {
    return run->n_complete > 0 && !isnan(run->validation) && (!best || run->validation > best->validation);
}

static int collect(struct collection *c, char **directories, int n) {
    int code = 0;
    for (int i = 0; i < n && !code; i++) code = find_runs(c, directories[i], n == 1);
    for (int i = 0; i < c->n_runs && !code; i++) code = read_run(c, &c->run[i]);
    if (code) return code;
    int same_metric = 1;
    c->best = -1;
    for (int i = 0; i < c->n_runs; i++) {
        struct run *run = &c->run[i];
        for (int k = 0; k < c->n_keys; k++) {
            if (strcmp(run->setting[k], c->run[0].setting[k]) != 0) c->differs[k] = 1;
        }
        same_metric &= strcmp(run->metric, c->run[0].metric) == 0;
        run->n_seeds = 1;
        run->n_complete = run->status == COMPLETE;
        if (is_best(run, c->best < 0 ? NULL : &c->run[c->best])) c->best = i;
    }
    for (int k = 0; k < c->n_keys; k++) {
        if (strcmp(c->key[k], "output.path") == 0) c->differs[k] = 0;
        if (strcmp(c->key[k], "train.seed") == 0) c->seed = k;
    }
    snprintf(c->validation, sizeof c->validation, "validation%s%s", same_metric ? "_" : "",
             same_metric ? c->run[0].metric : "");
    return 0;
}

/* ---- means over seeds ---- */

static int same_but_seed(const struct collection *c, const struct run *a, const struct run *b) {
    for (int k = 0; k < c->n_keys; k++) {
        if (c->differs[k] && k != c->seed && strcmp(a->setting[k], b->setting[k]) != 0) return 0;
    }
    return 1;
}

/* The mean of n numbers and its standard error, from their sum and sum of squared deviations. */
struct sum {
    int n;
    double mean, squares;
};

static void add(struct sum *sum, double x) {
    if (isnan(x)) return;
    double away = x - sum->mean;
    sum->mean += away / ++sum->n;
    sum->squares += away * (x - sum->mean);
}

static struct value mean_of(const struct sum *sum) {
    double n = sum->n;
    return (struct value){sum->n ? sum->mean : NAN, sum->n > 1 ? sqrt(sum->squares / (n - 1) / n) : NAN};
}

/* A collection whose rows are means over the complete runs that differ in nothing but the seed. The
 * validation's error is in error[row]. */
static int average(const struct collection *c, struct collection *means, double **error) {
    *means = *c;
    means->n_runs = 0;
    means->best = -1;
    means->differs[c->seed] = 0;
    means->run = calloc((size_t)c->n_runs, sizeof *means->run);
    *error = calloc((size_t)c->n_runs, sizeof **error);
    if (!means->run || !*error) return error_memory("the means", (size_t)c->n_runs * sizeof *means->run);
    for (int i = 0; i < c->n_runs; i++) {
        int first = 0;
        while (!same_but_seed(c, &c->run[first], &c->run[i])) first++;
        if (first < i) continue;
        struct run *mean = &means->run[means->n_runs];
        struct sum validation = {0}, speed = {0}, test[TEST_MAX] = {{0}};
        *mean = c->run[i];
        mean->n_seeds = mean->n_complete = 0;
        for (int j = i; j < c->n_runs; j++) {
            const struct run *run = &c->run[j];
            if (!same_but_seed(c, run, mean)) continue;
            mean->n_seeds++;
            if (run->status != COMPLETE) continue;
            mean->n_complete++;
            add(&validation, run->validation);
            add(&speed, run->users_per_second);
            for (int t = 0; t < c->n_test; t++) add(&test[t], run->test[t].mean);
        }
        struct value value = mean_of(&validation);
        mean->validation = value.mean;
        (*error)[means->n_runs] = value.error;
        mean->users_per_second = mean_of(&speed).mean;
        for (int t = 0; t < c->n_test; t++) mean->test[t] = mean_of(&test[t]);
        /* the settings point into the copied run's text */
        if (is_best(mean, means->best < 0 ? NULL : &means->run[means->best])) means->best = means->n_runs;
        means->n_runs++;
    }
    return 0;
}

/* ---- CSV ---- */

/* Spreadsheets take a text that begins so for a formula. */
static int is_formula(const char *text) {
    return strchr("=+-@", text[0]) && text[0] && !isfinite(number(text));
}

static void put_text(FILE *out, const char *text) {
    const char *before = is_formula(text) ? "./" : "";
    if (!strpbrk(text, ",\"\n\r")) {
        fprintf(out, "%s%s", before, text);
        return;
    }
    fprintf(out, "\"%s", before);
    for (; *text; text++) fprintf(out, "%s%c", *text == '"' ? "\"" : "", *text);
    fputc('"', out);
}

static void put_field(FILE *out, const char *text) {
    fputc(',', out);
    put_text(out, text);
}

static void put_number(FILE *out, const char *format, double value) {
    fputc(',', out);
    if (!isnan(value)) fprintf(out, format, value);
}

static void put_settings(FILE *out, const struct collection *c, const struct run *run) {
    for (int k = 0; k < c->n_keys; k++) {
        if (c->differs[k]) put_field(out, run ? run->setting[k] : c->key[k]);
    }
}

static void put_test_head(FILE *out, const struct collection *c) {
    for (int t = 0; t < c->n_test; t++) fprintf(out, ",test_%s,test_%s_stderr", c->test[t], c->test[t]);
    fputs(",users_per_second\n", out);
}

static void put_test(FILE *out, const struct collection *c, const struct run *run) {
    for (int t = 0; t < c->n_test; t++) {
        put_number(out, "%.9g", run->test[t].mean);
        put_number(out, "%.9g", run->test[t].error);
    }
    put_number(out, "%.1f", run->users_per_second);
    fputc('\n', out);
}

static void write_runs(FILE *out, const struct collection *c) {
    fputs("run,status,exit_code", out);
    put_settings(out, c, NULL);
    fprintf(out, ",epochs,best_epoch,%s", c->validation);
    put_test_head(out, c);
    for (int i = 0; i < c->n_runs; i++) {
        const struct run *run = &c->run[i];
        put_text(out, run->name);
        fprintf(out, ",%s,", status_name[run->status]);
        if (run->exit_code != NO_EXIT_CODE) fprintf(out, "%d", run->exit_code);
        put_settings(out, c, run);
        fprintf(out, ",%lld", (long long)run->epochs);
        put_number(out, "%.0f", isnan(run->validation) ? NAN : (double)run->best_epoch);
        put_number(out, "%.9g", run->validation);
        put_test(out, c, run);
    }
}

static void write_means(FILE *out, const struct collection *c, const double *error) {
    fputs("seeds,complete", out);
    put_settings(out, c, NULL);
    fprintf(out, ",%s,%s_stderr", c->validation, c->validation);
    put_test_head(out, c);
    for (int i = 0; i < c->n_runs; i++) {
        fprintf(out, "%d,%d", c->run[i].n_seeds, c->run[i].n_complete);
        put_settings(out, c, &c->run[i]);
        put_number(out, "%.9g", c->run[i].validation);
        put_number(out, "%.9g", error[i]);
        put_test(out, c, &c->run[i]);
    }
}

/* ---- tables to read ---- */

/* How a format writes a table. */
struct style {
    const char *begin, *between, *end, *bold, *bold_end, *plus_minus, *none;
    int is_latex;
};
static const struct style markdown = {"| ", " | ", " |\n", "**", "**", " ± ", "–", 0};
static const struct style latex = {"", " & ", " \\\\\n", "\\textbf{", "}", "\\,$\\pm$\\,", "--", 1};

/* Markdown means something by these; by _ not inside of a word. */
static void put_markdown(FILE *out, char before, const char *text) {
    int is_inside = isalnum((unsigned char)before) && isalnum((unsigned char)text[1]);
    if (strchr("\\`*|<~&$", *text) || (*text == '_' && !is_inside) || (*text == ']' && text[1] == '(')) {
        fputc('\\', out);
    }
    fputc(*text, out);
}

static void put_latex(FILE *out, const char *text) {
    static const char *const word[] = {"\\textbackslash", "^textasciicircum", "~textasciitilde",
                                       "<textless",       ">textgreater",     "|textbar"};
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) {
        if (*text != word[i][0]) continue;
        fprintf(out, "\\%s{}", word[i] + 1);
        return;
    }
    fprintf(out, "%s%c", strchr("_#%&{}$", *text) ? "\\" : "", *text);
    /* -- and the like would be one sign */
    if (strchr("-'`?!", *text) && text[1] && strchr("-'`", text[1])) fputs("{}", out);
}

/* As it is to be read: a name may have any byte in it. */
static void put_escaped(FILE *out, const struct style *s, const char *text) {
    char before = ' ';
    for (size_t n; *text; text += n) {
        const unsigned char *c = (const unsigned char *)text;
        n = utf8_length(text, strlen(text));
        if (n == 0 || c[0] < ' ' || c[0] == 127 || (c[0] == 0xc2 && c[1] < 0xa0)) {
            fputc('?', out);
            n += n == 0;
        } else if (n > 1) {
            fwrite(text, 1, n, out);
        } else if (s->is_latex) {
            put_latex(out, text);
        } else {
            put_markdown(out, before, text);
        }
        before = *text;
    }
}

static void put_cell(FILE *out, const struct style *s, const char *text) {
    fputs(s->between, out);
    put_escaped(out, s, text);
}

static void put_value(FILE *out, const struct style *s, struct value value, int with_error) {
    fputs(s->between, out);
    if (isnan(value.mean)) {
        fputs(s->none, out);
        return;
    }
    fprintf(out, "%.4f", value.mean);
    if (with_error && !isnan(value.error)) fprintf(out, "%s%.4f", s->plus_minus, value.error);
}

static void put_whole(FILE *out, const struct style *s, double value) {
    fputs(s->between, out);
    if (isnan(value)) {
        fputs(s->none, out);
    } else {
        fprintf(out, "%.0f", value);
    }
}

/* A table of runs, or with errors of means. */
static void write_table(FILE *out, const struct style *s, const struct collection *c, const double *errors) {
    int columns = (errors ? 3 : 5) + c->n_test;
    char text[64];
    for (int k = 0; k < c->n_keys; k++) columns += c->differs[k];
    if (s->is_latex) {
        fprintf(out, "\\begin{tabular}{l");
        for (int i = 1; i < columns; i++) fputc('r', out);
        fputs("}\n\\toprule\n", out);
    }
    fputs(s->begin, out);
    fputs(errors ? "seeds" : "run", out);
    for (int k = 0; k < c->n_keys; k++) {
        if (c->differs[k]) put_cell(out, s, c->key[k]);
    }
    if (!errors) fprintf(out, "%sstatus%sbest epoch", s->between, s->between);
    snprintf(text, sizeof text, "validation %s",
             strchr(c->validation, '_') ? strchr(c->validation, '_') + 1 : "");
    put_cell(out, s, text);
    for (int t = 0; t < c->n_test; t++) {
        snprintf(text, sizeof text, "test %.40s", c->test[t]);
        put_cell(out, s, text);
    }
    fprintf(out, "%susers/s%s", s->between, s->end);
    if (s->is_latex) {
        fputs("\\midrule\n", out);
    } else {
        fputs("|---|", out);
        for (int i = 1; i < columns; i++) fputs("--:|", out);
        fputc('\n', out);
    }
    for (int i = 0; i < c->n_runs; i++) {
        const struct run *run = &c->run[i];
        int is_marked = i == c->best;
        fprintf(out, "%s%s", s->begin, is_marked ? s->bold : "");
        if (!errors) {
            if (s->is_latex && strchr("[*", run->name[0]))
                fputs("{}", out); /* \\ would take it for its own */
            put_escaped(out, s, run->name);
        } else {
            fprintf(out, "%d", run->n_complete);
            if (run->n_complete < run->n_seeds) fprintf(out, " of %d", run->n_seeds);
        }
        if (is_marked) fputs(s->bold_end, out);
        for (int k = 0; k < c->n_keys; k++) {
            if (c->differs[k]) put_cell(out, s, run->setting[k]);
        }
        if (!errors) {
            snprintf(text, sizeof text, "%s", status_name[run->status]);
            if (run->status == FAILED) snprintf(text, sizeof text, "failed (%d)", run->exit_code);
            put_cell(out, s, text);
            put_whole(out, s, isnan(run->validation) ? NAN : (double)run->best_epoch);
        }
        struct value validation = {run->validation, errors ? errors[i] : NAN};
        if (is_marked) {
            fprintf(out, "%s%s%.4f%s", s->between, s->bold, run->validation, s->bold_end);
            if (!isnan(validation.error)) fprintf(out, "%s%.4f", s->plus_minus, validation.error);
        } else {
            put_value(out, s, validation, 1);
        }
        for (int t = 0; t < c->n_test; t++) put_value(out, s, run->test[t], errors != NULL);
        put_whole(out, s, run->users_per_second);
        fputs(s->end, out);
    }
    if (s->is_latex) fputs("\\bottomrule\n\\end{tabular}\n", out);
}

static void write_notes(FILE *out, const struct style *s, const struct collection *c) {
    int count[MISSING + 1] = {0};
    for (int i = 0; i < c->n_runs; i++) count[c->run[i].status]++;
    const char *bold = s->is_latex ? "% Bold" : "**Bold**";
    fprintf(out, "%s%d runs: %d complete, %d stopped, %d failed, %d missing.\n", s->is_latex ? "% " : "",
            c->n_runs, count[COMPLETE], count[STOPPED], count[FAILED], count[MISSING]);
    if (c->best >= 0) fprintf(out, "%s: the best complete run on the validation users.\n", bold);
    if (s->is_latex) fputs("% Needs the package booktabs.\n", out);
}

/* ---- the files ---- */

struct means {
    int wanted;
    struct collection table;
    double *errors;
};

static void write_document(FILE *out, const struct style *s, const struct collection *c,
                           const struct means *means) {
    write_notes(out, s, c);
    fputc('\n', out);
    write_table(out, s, c, NULL);
    if (means->wanted) {
        fprintf(out, "\n%sMeans over the seeds of complete runs%sstandard error.\n\n",
                s->is_latex ? "% " : "", s->is_latex ? " +- " : " ± ");
        write_table(out, s, &means->table, means->errors);
    }
}

static int write_file(const char *directory, const char *name, const struct collection *c,
                      const struct means *means) {
    char path[PATH_SIZE], *text = NULL;
    size_t size;
    int code = join(path, directory, name, EX_CANTCREAT);
    if (code) return code;
    FILE *out = open_memstream(&text, &size);
    if (!out) return error_memory(name, 0);
    switch (name[strlen(name) - 1]) {
    case 'd':
        write_document(out, &markdown, c, means);
        break;
    case 'x':
        write_document(out, &latex, c, means);
        break;
    default:
        if (name[0] == 'm') {
            write_means(out, &means->table, means->errors);
        } else {
            write_runs(out, c);
        }
    }
    int failed = fclose(out);
    code = failed ? error_memory(name, 0) : file_write(path, text);
    if (!code && name[strlen(name) - 1] == 'd') fputs(text, stdout);
    free(text);
    return code;
}

static int write_all(const struct collection *c, const char *directory) {
    struct means means = {.wanted = c->differs[c->seed]};
    int code = file_make_directory(directory, NULL);
    if (!code && means.wanted) code = average(c, &means.table, &means.errors);
    if (!code) code = write_file(directory, "runs.csv", c, &means);
    if (!code) code = write_file(directory, "runs.tex", c, &means);
    if (!code) code = write_file(directory, "runs.md", c, &means);
    if (!code && means.wanted) code = write_file(directory, "means.csv", c, &means);
    free(means.table.run);
    free(means.errors);
    return code;
}

/* ---- the program ---- */

enum { OPTION_VERSION = 256 };

static const struct option long_options[] = {
    {"output", required_argument, NULL, 'o'},
    {"metrics", required_argument, NULL, 'm'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

struct options {
    const char *output;
    char *metrics;
    int help, version;
};

static int parse(int argc, char **argv, struct options *o) {
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":o:m:h", long_options, NULL)) != -1;) {
        switch (c) {
        case 'o':
            o->output = optarg;
            break;
        case 'm':
            o->metrics = optarg;
            break;
        case 'h':
            o->help = 1;
            return 0;
        case OPTION_VERSION:
            o->version = 1;
            return 0;
        default:
            return program_bad_option(c, argv[optind - 1]);
        }
    }
    return optind < argc ? 0 : error_set(EX_USAGE, "want a directory of runs (--help tells more)");
}

static int choose_metrics(struct collection *c, char *list) {
    for (char *name; (name = strsep(&list, ","));) {
        struct metric metric;
        if (c->n_test == TEST_MAX) return error_set(EX_USAGE, "--metrics: at most %d", TEST_MAX);
        int code = metric_parse(name, &metric);
        if (code) return error_prefix(code, "--metrics");
        c->test[c->n_test++] = name;
    }
    return 0;
}

int main(int argc, char **argv) {
    program_start();
    char metrics[] = "recall@20,recall@50,ndcg@100";
    struct options o = {.metrics = metrics};
    struct collection c = {0};
    int code = parse(argc, argv, &o);
    if (!code && o.help) fputs(help, stdout);
    if (!code && o.version) program_version(program);
    if (!code && !o.help && !o.version) {
        code = choose_metrics(&c, o.metrics);
        if (!code) code = collect(&c, argv + optind, argc - optind);
        if (!code) code = write_all(&c, o.output ? o.output : argv[optind]);
        if (!code && fflush(stdout)) code = error_set(EX_IOERR, "cannot write: %s", strerror(errno));
    }
    if (code) program_fail(program, code);
    free(c.run);
    return code;
}
