/* vaecf-sweep: the runs of a sweep file. A run is the file's configuration with a value for each parameter.
 *
 * What run k is depends on the file and k alone: the jobs of an array need not talk to each other. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <yaml.h>

#include "config.h"
#include "errno_code.h"
#include "error.h"
#include "file.h"
#include "path.h"
#include "philox.h"
#include "program.h"
#include "scalar.h"

static const char program[] = "vaecf-sweep";

static const char help[] =
    "usage: vaecf-sweep SWEEP.yaml [--set KEY=VALUE]... [--count | --run K | --prepare]\n"
    "       vaecf-sweep --get KEY CONFIG.yaml [--set KEY=VALUE]...\n"
    "\n"
    "Without an option of the three: the table of all runs as CSV.\n"
    "\n"
    "  -n, --count           the number of runs\n"
    "  -r, --run K           the arguments that vaecf-train takes for run K (from 0), one a line\n"
    "  -p, --prepare         makes each run's directory with its config.yaml and prints the directories; a "
    "run\n"
    "                        that is there already stays as it is\n"
    "      --get KEY         the value of that key, such as data.path, in a configuration for vaecf-train\n"
    "  -s, --set KEY=VALUE   for all runs, for example train.epochs=50; may be given again and again\n"
    "  -h, --help            this text\n"
    "      --version         version, and what was compiled in\n"
    "\n"
    "The file:\n"
    "  config: jobs/configs/ml-100k.yaml   what all runs share\n"
    "  output: results/runs/sweep-ml-100k      run 3 is in run-0003 there\n"
    "  set: {train.epochs: 50}               other values for all runs\n"
    "  seeds: [1, 2, 3]                      each run with each train.seed\n"
    "  method: grid                          all combinations; or random, with\n"
    "  runs: 20                              so many draws (times the seeds) and\n"
    "  seed: 1                               this seed of the draws (default 1)\n"
    "  parameters:\n"
    "    model.latent: [100, 200]                    one of a list\n"
    "    model.dropout: {uniform: [0.3, 0.7]}        random only; whole numbers if both ends are\n"
    "    train.learning_rate: {log_uniform: [1.0e-4, 1.0e-2]}\n"
    "Exit: 0 done, 64 usage, 66 not found, 71 no memory, 73 cannot create, 74 I/O error, 78 bad sweep "
    "file.\n";

enum { RUNS_MAX = 100000, PARAMETERS_MAX = 64, VALUES_MAX = 1000, TEXT_SIZE = 256, SET_SIZE = 2200 };

enum kind { LIST, UNIFORM, LOG_UNIFORM };

struct parameter {
    char key[TEXT_SIZE];
    enum kind kind;
    int n; /* LIST: values */
    char (*value)[TEXT_SIZE];
    double low, high; /* the ranges */
    int whole;        /* whole numbers only */
};

struct sweep {
    const char *path; /* of the file */
    char config[CONFIG_PATH_MAX], output[CONFIG_PATH_MAX];
    int is_random;
    int64_t draws, seed;
    int n_parameters; /* in the order of the file, the seeds last */
    struct parameter parameter[PARAMETERS_MAX];
    int n_fixed; /* --set and `set:`, the command line's last */
    char (*fixed)[SET_SIZE];
    int64_t runs;
};

/* ---- reading the file ---- */

static int fail(const struct sweep *s, const yaml_node_t *node, const char *text, const char *what) {
    return error_set(EX_CONFIG, "%s:%zu: %s%s%s", s->path, node->start_mark.line + 1, text,
                     what[0] ? ": " : "", what);
}

/* NULL also for a text with a NUL character. */
static const char *scalar(const yaml_node_t *node) {
    if (node->type != YAML_SCALAR_NODE) return NULL;
    const char *text = (const char *)node->data.scalar.value;
    return strlen(text) == node->data.scalar.length ? text : NULL;
}

/* A value as --set takes it: a scalar, or a list of scalars. */
static int value_text(const struct sweep *s, yaml_document_t *document, const yaml_node_t *node,
                      char text[TEXT_SIZE]) {
    size_t used = 0;
    if (scalar(node)) {
        used = (size_t)snprintf(text, TEXT_SIZE, "%s", scalar(node));
    } else if (node->type == YAML_SEQUENCE_NODE) {
        const yaml_node_item_t *item = node->data.sequence.items.start;
        const char *before = "[";
        for (; item < node->data.sequence.items.top && used < TEXT_SIZE; item++, before = ", ") {
            const char *word = scalar(yaml_document_get_node(document, *item));
            if (!word) return fail(s, node, "a value is a word, a number or a list of them", "");
            used += (size_t)snprintf(text + used, TEXT_SIZE - used, "%s%s", before, word);
        }
        if (used < TEXT_SIZE) {
            used += (size_t)snprintf(text + used, TEXT_SIZE - used, "%s]", before[0] == '[' ? "[" : "");
        }
    } else {
        return fail(s, node, "a value is a word, a number or a list of them", "");
    }
    return used < TEXT_SIZE ? 0 : fail(s, node, "the value is too long", "");
}

static int read_text(const struct sweep *s, const yaml_node_t *node, const char *key,
                     char text[CONFIG_PATH_MAX]) {
    if (!scalar(node) || !scalar(node)[0] || strlen(scalar(node)) >= CONFIG_PATH_MAX) {
        return fail(s, node, key, "want a path");
    }
    return path_expand(scalar(node), text, CONFIG_PATH_MAX) ? fail(s, node, key, error_message()) : 0;
}

static int read_integer(const struct sweep *s, const yaml_node_t *node, const char *key, int64_t low,
                        int64_t high, int64_t *value) {
    const char *text = scalar(node);
    char want[96];
    if (text && !scalar_whole(text, value) && *value >= low && *value <= high) return 0;
    snprintf(want, sizeof want, "want a whole number from %lld to %lld", (long long)low, (long long)high);
    return fail(s, node, key, want);
}

static int read_list(const struct sweep *s, yaml_document_t *document, const yaml_node_t *node,
                     struct parameter *p) {
    const yaml_node_item_t *item = node->data.sequence.items.start;
    ptrdiff_t n = node->data.sequence.items.top - item;
    if (n < 1 || n > VALUES_MAX) return fail(s, node, p->key, "want a list of 1 to 1000 values");
    p->kind = LIST;
    p->value = calloc((size_t)n, sizeof *p->value);
    if (!p->value) return error_memory(p->key, (size_t)n * sizeof *p->value);
    for (; p->n < n; p->n++) {
        int code = value_text(s, document, yaml_document_get_node(document, item[p->n]), p->value[p->n]);
        if (code) return code;
    }
    return 0;
}

/* {uniform: [0.3, 0.7]} */
static int read_range(const struct sweep *s, yaml_document_t *document, const yaml_node_t *node,
                      struct parameter *p) {
    static const char wanted[] =
        "want a list, or a range {uniform: [LOW, HIGH]} or {log_uniform: [LOW, HIGH]}";
    const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
    if (node->data.mapping.pairs.top - pair != 1) return fail(s, node, p->key, wanted);
    const char *name = scalar(yaml_document_get_node(document, pair->key));
    const yaml_node_t *ends = yaml_document_get_node(document, pair->value);
    if (name && strcmp(name, "choice") == 0 && ends->type == YAML_SEQUENCE_NODE) {
        return read_list(s, document, ends, p);
    }
    if (!name || (strcmp(name, "uniform") != 0 && strcmp(name, "log_uniform") != 0) ||
        ends->type != YAML_SEQUENCE_NODE ||
        ends->data.sequence.items.top - ends->data.sequence.items.start != 2) {
        return fail(s, node, p->key, wanted);
    }
    if (!s->is_random) return fail(s, node, p->key, "a range is for method: random; a grid wants a list");
    p->kind = name[0] == 'u' ? UNIFORM : LOG_UNIFORM;
    p->whole = 1;
    for (int i = 0; i < 2; i++) {
        const char *text = scalar(yaml_document_get_node(document, ends->data.sequence.items.start[i]));
        if (!text || scalar_real(text, i ? &p->high : &p->low)) {
            return fail(s, ends, p->key, "want two numbers");
        }
        if (strspn(text, "+-_0123456789") != strlen(text)) p->whole = 0;
    }
    if (p->low >= p->high) return fail(s, ends, p->key, "the first end has to be below the second");
    if (p->kind == LOG_UNIFORM && p->low <= 0) return fail(s, ends, p->key, "log_uniform is above 0");
    return 0;
}

static int add_parameter(struct sweep *s, yaml_document_t *document, const yaml_node_t *at, const char *key,
                         const yaml_node_t *node) {
    if (s->n_parameters == PARAMETERS_MAX) return fail(s, at, key, "more than 64 parameters");
    if (strlen(key) >= TEXT_SIZE || strcmp(key, "output.path") == 0) {
        return fail(s, at, key, "cannot be a parameter");
    }
    struct parameter *p = &s->parameter[s->n_parameters];
    for (int i = 0; i < s->n_parameters; i++) {
        if (strcmp(s->parameter[i].key, key) == 0) return fail(s, at, key, "given twice");
    }
    s->n_parameters++;
    snprintf(p->key, sizeof p->key, "%s", key);
    if (node->type == YAML_SEQUENCE_NODE) return read_list(s, document, node, p);
    if (node->type == YAML_MAPPING_NODE) return read_range(s, document, node, p);
    return fail(s, node, key, "want a list of values");
}

/* The pairs of a mapping, each to `use`. */
static int each_pair(struct sweep *s, yaml_document_t *document, const yaml_node_t *mapping, const char *name,
                     int (*use)(struct sweep *, yaml_document_t *, const yaml_node_t *, const char *,
                                const yaml_node_t *)) {
    if (mapping->type != YAML_MAPPING_NODE) return fail(s, mapping, name, "want keys with values");
    for (yaml_node_pair_t *p = mapping->data.mapping.pairs.start; p < mapping->data.mapping.pairs.top; p++) {
        const yaml_node_t *key = yaml_document_get_node(document, p->key);
        if (!scalar(key)) return fail(s, key, name, "want keys with values");
        if (strcmp(scalar(key), "<<") == 0) return fail(s, key, "<<", "merge keys are not supported");
        for (yaml_node_pair_t *q = mapping->data.mapping.pairs.start; q < p; q++) {
            const char *before = scalar(yaml_document_get_node(document, q->key));
            if (before && strcmp(before, scalar(key)) == 0) return fail(s, key, before, "given twice");
        }
        int code = use(s, document, key, scalar(key), yaml_document_get_node(document, p->value));
        if (code) return code;
    }
    return 0;
}

/* KEY=VALUE, or without a key the text as it is. */
static int add_fixed(struct sweep *s, const char *text, const char *key) {
    if (strlen(key) + strlen(text) + 2 > SET_SIZE) {
        return error_set(EX_CONFIG, "%s: a setting that is longer than %d bytes: %.80s", s->path,
                         SET_SIZE - 1, key[0] ? key : text);
    }
    char(*more)[SET_SIZE] = realloc(s->fixed, (size_t)(s->n_fixed + 1) * sizeof *s->fixed);
    if (!more) return error_memory("the settings", sizeof *s->fixed);
    s->fixed = more;
    snprintf(s->fixed[s->n_fixed++], SET_SIZE, "%s%s%s", key, key[0] ? "=" : "", text);
    return 0;
}

static int add_set(struct sweep *s, yaml_document_t *document, const yaml_node_t *at, const char *key,
                   const yaml_node_t *node) {
    char text[TEXT_SIZE];
    int code = value_text(s, document, node, text);
    if (!code && strcmp(key, "output.path") == 0) {
        code = fail(s, at, key, "is made of `output`, which is the key to set");
    }
    return code ? code : add_fixed(s, text, key);
}

/* A key of the file itself. `method` was read before. */
static int read_key(struct sweep *s, yaml_document_t *document, const yaml_node_t *at, const char *key,
                    const yaml_node_t *node) {
    if (strcmp(key, "method") == 0 || strcmp(key, "seeds") == 0) return 0;
    if (strcmp(key, "config") == 0) return read_text(s, node, key, s->config);
    if (strcmp(key, "output") == 0) return read_text(s, node, key, s->output);
    if (strcmp(key, "set") == 0) return each_pair(s, document, node, key, add_set);
    if (strcmp(key, "parameters") == 0) return each_pair(s, document, node, key, add_parameter);
    if (s->is_random && strcmp(key, "runs") == 0) return read_integer(s, node, key, 1, RUNS_MAX, &s->draws);
    if (s->is_random && strcmp(key, "seed") == 0) return read_integer(s, node, key, 0, INT64_MAX, &s->seed);
    if (strcmp(key, "runs") == 0 || strcmp(key, "seed") == 0)
        return fail(s, at, key, "is for method: random");
    return fail(s, at, key,
                "unknown key; there are config, output, set, method, runs, seed, seeds, parameters");
}

static int read_method(struct sweep *s, yaml_document_t *document, const yaml_node_t *at, const char *key,
                       const yaml_node_t *node) {
    (void)document, (void)at;
    if (strcmp(key, "method") != 0) return 0;
    const char *text = scalar(node) ? scalar(node) : "";
    s->is_random = strcmp(text, "random") == 0;
    return s->is_random || strcmp(text, "grid") == 0 ? 0 : fail(s, node, key, "want grid or random");
}

static int read_seeds(struct sweep *s, yaml_document_t *document, const yaml_node_t *at, const char *key,
                      const yaml_node_t *node) {
    if (strcmp(key, "seeds") != 0) return 0;
    if (node->type != YAML_SEQUENCE_NODE) return fail(s, node, key, "want a list of whole numbers");
    return add_parameter(s, document, at, "train.seed", node);
}

static int count_runs(struct sweep *s) {
    s->runs = s->is_random ? s->draws : 1;
    for (int i = 0; i < s->n_parameters; i++) {
        int is_seed = strcmp(s->parameter[i].key, "train.seed") == 0;
        if (!s->is_random || is_seed) s->runs *= s->parameter[i].n;
        if (s->runs > RUNS_MAX) return error_set(EX_CONFIG, "%s: more than %d runs", s->path, RUNS_MAX);
    }
    return 0;
}

static int fail_parsing(const struct sweep *s, const yaml_parser_t *parser) {
    if (parser->error == YAML_MEMORY_ERROR || !parser->problem) return error_memory(s->path, 0);
    return error_set(EX_CONFIG, "%s:%zu: %s", s->path, parser->problem_mark.line + 1, parser->problem);
}

/* Nothing but comments behind the first document. */
static int check_end(const struct sweep *s, yaml_parser_t *parser) {
    yaml_document_t document;
    if (!yaml_parser_load(parser, &document)) return fail_parsing(s, parser);
    const yaml_node_t *root = yaml_document_get_root_node(&document);
    int code = root ? fail(s, root, "a second YAML document: one is wanted", "") : 0;
    yaml_document_delete(&document);
    return code;
}

static int read_sweep(struct sweep *s) {
    yaml_parser_t parser;
    yaml_document_t document;
    FILE *file = fopen(s->path, "r");
    if (!file) {
        int reason = errno;
        return error_set(errno_code(reason, EX_NOINPUT), "%s: %s%s", s->path, strerror(reason),
                         path_hint(s->path));
    }
    int code = 0;
    if (!yaml_parser_initialize(&parser)) {
        fclose(file);
        return error_memory(s->path, sizeof parser);
    }
    yaml_parser_set_input_file(&parser, file);
    errno = 0;
    if (!yaml_parser_load(&parser, &document)) {
        int reason = errno;
        code = ferror(file) ? error_set(errno_code(reason, EX_NOINPUT), "%s: %s", s->path, strerror(reason))
                            : fail_parsing(s, &parser);
        goto cleanup;
    }
    const yaml_node_t *root = yaml_document_get_root_node(&document);
    if (!root || root->type != YAML_MAPPING_NODE) {
        code = error_set(EX_CONFIG, "%s: want the keys config, output and parameters", s->path);
    }
    if (!code) code = each_pair(s, &document, root, "the file", read_method);
    if (!code) code = each_pair(s, &document, root, "the file", read_key);
    if (!code) code = each_pair(s, &document, root, "the file", read_seeds);
    yaml_document_delete(&document);
    if (!code) code = check_end(s, &parser);
    if (!code && !s->config[0]) code = error_set(EX_CONFIG, "%s: config (a YAML file) is not set", s->path);
    if (!code && !s->output[0]) code = error_set(EX_CONFIG, "%s: output (a directory) is not set", s->path);
    if (!code && s->is_random && s->draws == 0) {
        code = error_set(EX_CONFIG, "%s: runs is not set: how many draws?", s->path);
    }
    if (!code && s->n_parameters == 0) code = error_set(EX_CONFIG, "%s: no parameters and no seeds", s->path);
    if (!code) code = count_runs(s);
cleanup:
    yaml_parser_delete(&parser);
    fclose(file);
    return code;
}

/* ---- a run ---- */

/* A number from [0, 1) for a draw of a parameter; further draws and parameters do not change it. */
static double draw_uniform(const struct sweep *s, int64_t draw, int parameter) {
    struct philox_block b = philox((uint64_t)s->seed, PHILOX_SWEEP, 0, (uint64_t)draw, (uint32_t)parameter);
    return ((double)(b.lane[0] >> 5) * 67108864.0 + (double)(b.lane[1] >> 6)) / 9007199254740992.0;
}

static void draw_value(const struct parameter *p, double u, char text[TEXT_SIZE]) {
    double low = p->low, high = p->high, x;
    if (p->kind == LIST) {
        snprintf(text, TEXT_SIZE, "%s", p->value[(int)(u * p->n)]);
        return;
    }
    if (p->whole) { /* each whole number has an interval of length 1 */
        low -= 0.5;
        high += 0.5;
    }
    x = p->kind == UNIFORM ? low + u * (high - low) : exp(log(low) + u * (log(high) - log(low)));
    if (!p->whole) {
        snprintf(text, TEXT_SIZE, "%.4g", x);
        return;
    }
    x = floor(x + 0.5);
    snprintf(text, TEXT_SIZE, "%.0f", x < p->low ? p->low : x > p->high ? p->high : x);
}

/* The value of each parameter in run k. The last one of a grid, and always the seed, changes fastest. */
static void run_values(const struct sweep *s, int64_t k, char value[][TEXT_SIZE]) {
    for (int i = s->n_parameters - 1; i >= 0; i--) {
        const struct parameter *p = &s->parameter[i];
        if (s->is_random && strcmp(p->key, "train.seed") != 0) continue;
        snprintf(value[i], TEXT_SIZE, "%s", p->value[k % p->n]);
        k /= p->n;
    }
    for (int i = 0; s->is_random && i < s->n_parameters; i++) {
        if (strcmp(s->parameter[i].key, "train.seed") == 0) continue;
        draw_value(&s->parameter[i], draw_uniform(s, k, i), value[i]);
    }
}

static void run_directory(const struct sweep *s, int64_t k, char path[CONFIG_PATH_MAX + 32]) {
    snprintf(path, CONFIG_PATH_MAX + 32, "%s/run-%04lld", s->output, (long long)k);
}

/* Room for a run's --set arguments. */
struct settings {
    int n;
    char text[PARAMETERS_MAX + 1][SET_SIZE];
    const char **all; /* the fixed ones, those, in this order */
};

static int settings_make(const struct sweep *s, int64_t k, struct settings *out) {
    static char value[PARAMETERS_MAX][TEXT_SIZE];
    char path[CONFIG_PATH_MAX + 32];
    run_values(s, k, value);
    run_directory(s, k, path);
    int n = s->n_parameters;
    for (int i = 0; i < n; i++) snprintf(out->text[i], SET_SIZE, "%s=%s", s->parameter[i].key, value[i]);
    size_t used = (size_t)snprintf(out->text[n], SET_SIZE, "output.path=");
    path_escape(path, out->text[n] + used, SET_SIZE - used); /* it is expanded already */
    if (!out->all) out->all = calloc((size_t)(s->n_fixed + n + 1), sizeof *out->all);
    if (!out->all) return error_memory("the settings", 0);
    for (int i = 0; i < s->n_fixed; i++) out->all[i] = s->fixed[i];
    for (int i = 0; i <= n; i++) out->all[s->n_fixed + i] = out->text[i];
    out->n = s->n_fixed + n + 1;
    return 0;
}

/* The resolved configuration; each of a sweep's is checked before anything is written. */
static int run_config(const struct sweep *s, int64_t k, struct settings *settings, struct config *config) {
    int code = settings_make(s, k, settings);
    if (!code) {
        code = config_load(s->config, settings->all, settings->n, config);
        if (code)
            return error_prefix(code == EX_USAGE ? EX_CONFIG : code, "%s: run %lld", s->path, (long long)k);
    }
    return code;
}

/* ---- the output ---- */

static void print_field(const char *text) {
    if (!strpbrk(text, ",\"\n")) {
        printf(",%s", text);
        return;
    }
    printf(",\"");
    for (; *text; text++) printf("%s%c", *text == '"' ? "\"" : "", *text);
    printf("\"");
}

static void print_table(const struct sweep *s) {
    static char value[PARAMETERS_MAX][TEXT_SIZE];
    char path[CONFIG_PATH_MAX + 32];
    printf("run,directory");
    for (int i = 0; i < s->n_parameters; i++) print_field(s->parameter[i].key);
    for (int64_t k = 0; k < s->runs; k++) {
        run_values(s, k, value);
        run_directory(s, k, path);
        printf("\n%lld", (long long)k);
        print_field(path);
        for (int i = 0; i < s->n_parameters; i++) print_field(value[i]);
    }
    printf("\n");
}

static int print_run(const struct sweep *s, int64_t k, struct settings *settings) {
    struct config config;
    int code = run_config(s, k, settings, &config);
    if (code) return code;
    printf("--config\n%s\n", s->config);
    for (int i = 0; i < settings->n; i++) printf("--set\n%s\n", settings->all[i]);
    return 0;
}

/* Is the run that is there the one that the file means? A changed sweep must not go on with the runs of
 * another. */
static int check_there(const struct sweep *s, const char *path, const struct settings *settings) {
    static char is[CONFIG_TEXT_MAX], want[CONFIG_TEXT_MAX];
    struct config there, moved;
    int code = config_load(path, NULL, 0, &there);
    if (code) return error_prefix(code, "%s: the run that is there", s->path);
    config_text(&there, is);
    for (int i = 0; i < s->n_parameters; i++) { /* does the sweep's value change it? */
        const char *set = settings->text[i];
        code = config_load(path, &set, 1, &moved);
        if (code) return error_prefix(code, "%s: the run that is there", s->path);
        config_text(&moved, want);
        if (strcmp(is, want) != 0) {
            return error_set(EX_CONFIG,
                             "%s: was made with another value of %s than %s wants; give the sweep another "
                             "output, or remove the run",
                             path, s->parameter[i].key, s->path);
        }
    }
    return 0;
}

/* Several jobs may prepare a sweep at the same time: they write the same text, each file at once, and which
 * of them is the last makes no difference. Two sweeps that were given one output do: hence the second look.
 */
static int prepare(const struct sweep *s, struct settings *settings) {
    struct config config;
    char path[CONFIG_PATH_MAX + 64], directory[CONFIG_PATH_MAX + 32], text[CONFIG_TEXT_MAX];
    int code = 0, written = 0;
    for (int64_t k = 0; k < s->runs && !code; k++) code = run_config(s, k, settings, &config);
    for (int look = 1; look <= 1 + written && !code; look++) {
        for (int64_t k = 0; k < s->runs && !code; k++) {
            code = run_config(s, k, settings, &config);
            run_directory(s, k, directory);
            snprintf(path, sizeof path, "%s/config.yaml", directory);
            config_text(&config, text);
            if (!code) code = file_make_directory(directory, NULL);
            if (!code && access(path, F_OK)) {
                code = file_write(path, text);
                written = 1;
            }
            if (!code) code = check_there(s, path, settings);
        }
    }
    for (int64_t k = 0; k < s->runs && !code; k++) {
        run_directory(s, k, directory);
        printf("%s\n", directory);
    }
    return code;
}

/* ---- the program ---- */

enum { OPTION_GET = 256, OPTION_VERSION };

static const struct option long_options[] = {
    {"count", no_argument, NULL, 'n'},
    {"run", required_argument, NULL, 'r'},
    {"prepare", no_argument, NULL, 'p'},
    {"set", required_argument, NULL, 's'},
    {"get", required_argument, NULL, OPTION_GET},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

struct options {
    const char *path, *run, *get;
    int count, prepare, help, version, n_sets;
    const char **sets;
};

static int parse(int argc, char **argv, struct options *o) {
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":nr:ps:h", long_options, NULL)) != -1;) {
        switch (c) {
        case 'n':
            o->count = 1;
            break;
        case 'r':
            o->run = optarg;
            break;
        case 'p':
            o->prepare = 1;
            break;
        case 's':
            o->sets[o->n_sets++] = optarg;
            break;
        case OPTION_GET:
            o->get = optarg;
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
    if (optind + 1 != argc) return error_set(EX_USAGE, "want one sweep file (--help tells more)");
    o->path = argv[optind];
    if (o->count + o->prepare + (o->run != NULL) + (o->get != NULL) > 1) {
        return error_set(EX_USAGE, "--count, --run, --prepare and --get exclude each other");
    }
    return 0;
}

static int print_value(const struct options *o) {
    static char text[CONFIG_TEXT_MAX];
    int code = config_value(o->path, o->sets, o->n_sets, o->get, text);
    if (!code) printf("%s\n", text);
    return code;
}

static int sweep(const struct options *o, struct sweep *s, struct settings *settings) {
    struct config config;
    if (o->get) return print_value(o);
    s->path = o->path;
    s->seed = 1;
    int code = read_sweep(s);
    for (int i = 0; i < o->n_sets && !code; i++) {
        if (strncmp(o->sets[i], "output.path=", 12) == 0) {
            code = error_set(EX_USAGE, "--set output.path: a sweep's runs are in its `output`");
        } else {
            code = add_fixed(s, o->sets[i], "");
        }
    }
    if (code) return code;
    if (o->prepare) return prepare(s, settings);
    if (o->run) {
        char *end;
        long long k = strtoll(o->run, &end, 10);
        if (end == o->run || *end || k < 0 || k >= s->runs) {
            return error_set(EX_USAGE, "--run %s: %s has runs 0 to %lld", o->run, s->path,
                             (long long)s->runs - 1);
        }
        return print_run(s, k, settings);
    }
    for (int64_t k = 0; k < s->runs && !code; k++) code = run_config(s, k, settings, &config);
    if (code) return code;
    if (o->count) {
        printf("%lld\n", (long long)s->runs);
    } else {
        print_table(s);
    }
    return 0;
}

int main(int argc, char **argv) {
    program_start();
    struct options o = {.sets = calloc((size_t)argc + 1, sizeof *o.sets)};
    static struct sweep s;
    static struct settings settings;
    int code = o.sets ? parse(argc, argv, &o) : error_memory("the options", (unsigned long long)argc);
    if (!code && o.help) fputs(help, stdout);
    if (!code && o.version) program_version(program);
    if (!code && !o.help && !o.version) code = sweep(&o, &s, &settings);
    if (!code && fflush(stdout)) code = error_set(EX_IOERR, "cannot write the output: %s", strerror(errno));
    if (code) program_fail(program, code);
    for (int i = 0; i < s.n_parameters; i++) free(s.parameter[i].value);
    free(s.fixed);
    free(settings.all);
    free(o.sets);
    return code;
}
