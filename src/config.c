/* The configuration: one table of keys drives reading YAML, --set and writing it out again (see config.h). */
#include "config.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "errno_code.h"
#include "error.h"
#include "path.h"
#include "scalar.h"
#include "utf8.h"

enum kind { SECTION, BOOLEAN, INTEGER, INTEGER64, REAL, WORD, PATH, WIDTHS, METRIC, LOSS_SCALE };

struct key {
    const char *name; /* in full; a section comes right before its keys */
    enum kind kind;
    size_t offset;       /* of the field in struct config */
    const char *allowed; /* numbers: the interval; words: the list, in the order of the enum */
    int first;           /* words: the enum's value of the first one */
};

#define FIELD(field) offsetof(struct config, field)

static const struct key keys[] = {
    {"data", SECTION, 0, NULL, 0},
    {"data.path", PATH, FIELD(data_path), NULL, 0},
    {"model", SECTION, 0, NULL, 0},
    {"model.type", WORD, FIELD(model.type), "vae, dae, ease, popularity", MODEL_VAE},
    {"model.hidden", WIDTHS, 0, "[1, 1000000]", 0},
    {"model.latent", INTEGER, FIELD(model.latent), "[1, 1000000]", 0},
    {"model.activation", WORD, FIELD(model.activation), "tanh, relu, sigmoid", ACTIVATION_TANH},
    {"model.layer_norm", BOOLEAN, FIELD(model.layer_norm), NULL, 0},
    {"model.decoder", WORD, FIELD(model.decoder), "mirror, linear", DECODER_MIRROR},
    {"model.dropout", REAL, FIELD(model.dropout), "[0, 1)", 0},
    {"model.l2", REAL, FIELD(model.l2), "(0, inf)", 0},
    {"model.user_power", REAL, FIELD(model.user_power), "[0, 1]", 0},
    {"model.item_power", REAL, FIELD(model.item_power), "[0, 1]", 0},
    {"model.popularity_power", REAL, FIELD(model.popularity_power), "[-1, 1]", 0},
    {"train", SECTION, 0, NULL, 0},
    {"train.seed", INTEGER64, FIELD(train.seed), "[0, 9223372036854775807]", 0},
    {"train.epochs", INTEGER64, FIELD(train.epochs), "[0, 16777215]", 0},
    {"train.batch_size", INTEGER64, FIELD(train.batch_size), "[1, 1000000000]", 0},
    {"train.learning_rate", REAL, FIELD(train.learning_rate), "(0, inf)", 0},
    {"train.optimizer", WORD, FIELD(train.optimizer), "adam, adamw", OPTIMIZER_ADAM},
    {"train.beta1", REAL, FIELD(train.beta1), "[0, 1)", 0},
    {"train.beta2", REAL, FIELD(train.beta2), "[0, 1)", 0},
    {"train.epsilon", REAL, FIELD(train.epsilon), "(0, inf)", 0},
    {"train.weight_decay", REAL, FIELD(train.weight_decay), "[0, inf)", 0},
    {"train.warmup_steps", INTEGER64, FIELD(train.warmup_steps), "[0, 1e12]", 0},
    {"train.sampled_softmax", INTEGER64, FIELD(train.sampled_softmax), "[0, 1e9]", 0},
    {"train.label_smoothing", REAL, FIELD(train.label_smoothing), "[0, 1)", 0},
    {"train.kl", SECTION, 0, NULL, 0},
    {"train.kl.cap", REAL, FIELD(train.kl.cap), "[0, inf)", 0},
    {"train.kl.anneal_steps", INTEGER64, FIELD(train.kl.anneal_steps), "[0, 1e12]", 0},
    {"train.kl.gamma", REAL, FIELD(train.kl.gamma), "[0, inf)", 0},
    {"train.turns", INTEGER64, FIELD(train.turns), "[0, 1e6]", 0},
    {"train.precision", WORD, FIELD(train.precision), "fp32, tf32, bf16, fp16", PRECISION_FP32},
    {"train.loss_scale", LOSS_SCALE, FIELD(train.loss_scale), "(0, 1e9]", 0},
    {"train.logit_memory", INTEGER64, FIELD(train.logit_memory), "[0, 1e6]", 0},
    {"train.trace_steps", INTEGER64, FIELD(train.trace_steps), "[0, 1000]", 0},
    {"train.early_stopping", SECTION, 0, NULL, 0},
    {"train.early_stopping.metric", METRIC, FIELD(train.early_stopping.metric), NULL, 0},
    {"train.early_stopping.patience", INTEGER64, FIELD(train.early_stopping.patience), "[0, 1e12]", 0},
    {"train.validate_every", INTEGER64, FIELD(train.validate_every), "[0, 16777215]", 0},
    {"train.checkpoint", SECTION, 0, NULL, 0},
    {"train.checkpoint.every_epochs", INTEGER64, FIELD(train.checkpoint.every_epochs), "[0, 16777215]", 0},
    {"train.checkpoint.every_minutes", REAL, FIELD(train.checkpoint.every_minutes), "[0, 1e9]", 0},
    {"train.checkpoint.keep", INTEGER64, FIELD(train.checkpoint.keep), "[1, 1e6]", 0},
    {"parallel", SECTION, 0, NULL, 0},
    {"parallel.data", INTEGER64, FIELD(parallel.data), "[0, 1e6]", 0},
    {"parallel.item", INTEGER64, FIELD(parallel.item), "[1, 1e6]", 0},
    {"device", WORD, FIELD(device), "auto, cpu, cuda", DEVICE_AUTO},
    {"comm", WORD, FIELD(comm), "auto, nccl, mpi", COMM_AUTO},
    {"comm_type", WORD, FIELD(comm_type), "auto, fp32, compute", COMM_TYPE_AUTO},
    {"output", SECTION, 0, NULL, 0},
    {"output.path", PATH, FIELD(output_path), NULL, 0},
};
static const struct key whole = {"", SECTION, 0, NULL, 0};

enum { N_KEYS = sizeof keys / sizeof keys[0], NAME_MAX_SIZE = 96, FILE_MAX_SIZE = 65536 };
_Static_assert(N_KEYS <= 64, "struct reader.seen has a bit a key");

/* One YAML text being read. */
struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    const char *text;
    size_t length;
    const char *name; /* of the text in messages */
    int is_set;       /* of a --set: one value, and no lines for messages to tell */
    int is_resolved;  /* config_text wrote it: ~ and $ in paths are parts of names */
    size_t line;      /* of the current event */
    struct config *config;
    uint64_t seen; /* keys that this text has set */
};

void config_defaults(struct config *config) {
    memset(config, 0, sizeof *config);
    config->model = (struct model_config){.type = MODEL_VAE,
                                          .n_hidden = 1,
                                          .hidden = {600},
                                          .latent = 200,
                                          .activation = ACTIVATION_TANH,
                                          .dropout = 0.5,
                                          .l2 = 500};
    struct train_config *train = &config->train;
    train->seed = 1;
    train->epochs = 200;
    train->batch_size = 500;
    train->learning_rate = 1e-3;
    train->optimizer = OPTIMIZER_ADAM;
    train->beta1 = 0.9;
    train->beta2 = 0.999;
    train->epsilon = 1e-8;
    train->kl.cap = 0.2;
    train->kl.anneal_steps = 20000;
    train->precision = PRECISION_FP32;
    train->early_stopping.metric = (struct metric){METRIC_NDCG, 100};
    train->early_stopping.patience = 20;
    train->validate_every = 1;
    train->checkpoint.every_epochs = 1;
    train->checkpoint.every_minutes = 10;
    train->checkpoint.keep = 3;
    config->parallel.item = 1;
    config->device = DEVICE_AUTO;
    config->comm = COMM_AUTO;
    config->comm_type = COMM_TYPE_AUTO;
}

/* "FILE:LINE: KEY: ..." on one line, whatever the values contain. key NULL: none. */
static int fail(const struct reader *reader, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int fail(const struct reader *reader, const char *key, const char *format, ...) {
    char text[512], line[32] = "", message[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!reader->is_set) snprintf(line, sizeof line, ":%zu", reader->line);
    snprintf(message, sizeof message, "%s%s: %s%s%s", reader->name, line, key ? key : "", key ? ": " : "",
             text);
    for (char *c = message; *c; c++) {
        if ((unsigned char)*c < ' ') *c = '?';
    }
    return error_set(EX_CONFIG, "%s", message);
}

/* libyaml marks all its errors but those of the encoding, for which it counts bytes. */
static size_t error_line(const struct reader *reader) {
    const yaml_parser_t *parser = &reader->parser;
    const char *text = reader->text;
    size_t line = parser->problem_mark.line + 1;
    if (parser->error == YAML_READER_ERROR) {
        line = 1;
        for (size_t i = 0; i < parser->problem_offset; i++) {
            line += text[i] == '\n' || (text[i] == '\r' && text[i + 1] != '\n');
        }
    }
    return line;
}

/* What libyaml says, and what to do where it does not say that. */
static int fail_parsing(struct reader *reader) {
    const yaml_parser_t *parser = &reader->parser;
    const char *more = "";
    reader->line = error_line(reader);
    if (parser->error == YAML_READER_ERROR) {
        more = " (want UTF-8)";
    } else if (strcmp(parser->problem, "found character that cannot start any token") == 0) {
        const char *line = reader->text, *end = line + reader->length;
        for (size_t i = 1; i < reader->line && line < end; line++) i += *line == '\n';
        while (line < end && *line != '\n' && *line != '\t') line++;
        if (line < end && *line == '\t') more = " (a tab: want blanks)";
    }
    return fail(reader, NULL, "not valid YAML: %s%s", parser->problem, more);
}

/* Steps to the next event and refuses what configurations have no use for. */
static int next(struct reader *reader) {
    yaml_event_t *event = &reader->event;
    yaml_event_delete(event);
    if (!yaml_parser_parse(&reader->parser, event)) {
        if (reader->parser.error == YAML_MEMORY_ERROR) return error_memory(reader->name, 0);
        return fail_parsing(reader);
    }
    reader->line = event->start_mark.line + 1;
    const yaml_char_t *anchor = NULL, *tag = NULL;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        if (strlen((char *)event->data.scalar.value) != event->data.scalar.length) {
            return fail(reader, NULL, "a NUL character is not allowed");
        }
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        anchor = event->data.sequence_start.anchor;
        tag = event->data.sequence_start.tag;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    }
    if (anchor || event->type == YAML_ALIAS_EVENT) {
        return fail(reader, NULL, "anchors and aliases (& and *) are not supported: write the value out");
    }
    return tag ? fail(reader, NULL, "tags are not supported: leave out %s", (const char *)tag) : 0;
}

static const char *scalar(const struct reader *reader) {
    return reader->event.type == YAML_SCALAR_EVENT ? (const char *)reader->event.data.scalar.value : NULL;
}

static int is_plain(const struct reader *reader) {
    return scalar(reader) && reader->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static int is_null(const struct reader *reader) {
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; i < sizeof nulls / sizeof nulls[0]; i++) {
        if (is_plain(reader) && strcmp(scalar(reader), nulls[i]) == 0) return 1;
    }
    return 0;
}

/* Is x in an interval like "[0, 1)"? */
static int in_interval(double x, const char *interval) {
    char left, right;
    double low, high;
    return sscanf(interval, "%c%lf, %lf%c", &left, &low, &high, &right) == 4 &&
           (left == '[' ? x >= low : x > low) && (right == ']' ? x <= high : x < high);
}

static int read_real(struct reader *reader, const struct key *key, double *value) {
    const char *text = scalar(reader), *wrong = scalar_real(text, value);
    if (wrong) return fail(reader, key->name, "%.40s %s", text, wrong);
    if (!in_interval(*value, key->allowed)) {
        return fail(reader, key->name, "%.40s is not in %s", text, key->allowed);
    }
    return 0;
}

static int read_integer(struct reader *reader, const struct key *key, int64_t *value) {
    const char *text = scalar(reader), *wrong = text ? scalar_whole(text, value) : "is not a whole number";
    if (wrong) return fail(reader, key->name, "%.40s %s", text ? text : "a list or section", wrong);
    if (!in_interval((double)*value, key->allowed)) {
        return fail(reader, key->name, "%.40s is not in %s", text, key->allowed);
    }
    return 0;
}

static int read_boolean(struct reader *reader, const struct key *key, int *value) {
    const char *text = scalar(reader), *wrong = scalar_boolean(text, value);
    return wrong ? fail(reader, key->name, "%.40s %s", *text ? text : "''", wrong) : 0;
}

/* The list [600, 200] of the encoder's widths; may be empty. */
static int read_widths(struct reader *reader, const struct key *key) {
    struct model_config *model = &reader->config->model;
    if (reader->event.type != YAML_SEQUENCE_START_EVENT) {
        return fail(reader, key->name, "a list is wanted, such as [600]");
    }
    model->n_hidden = 0;
    memset(model->hidden, 0, sizeof model->hidden);
    int code;
    while ((code = next(reader)) == 0 && reader->event.type != YAML_SEQUENCE_END_EVENT) {
        int64_t width;
        if (model->n_hidden == CONFIG_LAYERS_MAX) {
            return fail(reader, key->name, "more than %d layers", CONFIG_LAYERS_MAX);
        }
        if ((code = read_integer(reader, key, &width)) != 0) return code;
        model->hidden[model->n_hidden++] = (int)width;
    }
    return code;
}

static int read_word(struct reader *reader, const struct key *key, int *value) {
    const char *text = scalar(reader), *word = key->allowed;
    size_t length = strlen(text);
    for (int i = 0; length > 0; i++) {
        size_t word_length = strcspn(word, ",");
        if (word_length == length && memcmp(word, text, length) == 0) {
            *value = key->first + i;
            return 0;
        }
        if (word[word_length] == '\0') break;
        word += word_length + 2;
    }
    return fail(reader, key->name, "%.40s is not one of %s", length ? text : "''", key->allowed);
}

/* Paths are printed into messages and into YAML: no control characters, line ends of Unicode or byte order
 * marks (the text is known to be UTF-8). */
static int is_printable(const char *text) {
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c < ' ' || *c == 0x7F || (c[0] == 0xC2 && c[1] < 0xA0) ||
            (c[0] == 0xE2 && c[1] == 0x80 && (c[2] == 0xA8 || c[2] == 0xA9)) ||
            (c[0] == 0xEF && ((c[1] == 0xBB && c[2] == 0xBF) || (c[1] == 0xBF && c[2] >= 0xBE)))) {
            return 0;
        }
    }
    return 1;
}

static int is_utf8(const char *text) {
    size_t length = strlen(text), n;
    for (size_t i = 0; i < length; i += n) {
        n = utf8_length(text + i, length - i);
        if (n == 0) return 0;
    }
    return 1;
}

/* A --set is read as YAML, which takes the end of "run #1" for a comment and blanks around a value for none
 * of it: such a path would be another one than what was written. */
static int read_path(struct reader *reader, const struct key *key, char path[CONFIG_PATH_MAX]) {
    const char *text = scalar(reader);
    char expanded[2 * CONFIG_PATH_MAX];
    size_t length = strlen(text);
    if (reader->is_set && is_plain(reader) && strcmp(text, reader->text) != 0) {
        return fail(reader, key->name, "would be \"%.100s\": YAML wants it in quotes, KEY='VALUE'", text);
    }
    if (length >= sizeof expanded)
        return fail(reader, key->name, "longer than %d bytes", CONFIG_PATH_MAX - 1);
    if (!is_printable(text)) return fail(reader, key->name, "a control character is not allowed");
    if (reader->is_resolved) {
        memcpy(expanded, text, length + 1);
        path_unescape(expanded);
    } else if (path_expand(text, expanded, CONFIG_PATH_MAX)) {
        return fail(reader, key->name, "%.100s: %s", text, error_message());
    }
    length = strlen(expanded);
    if (length >= CONFIG_PATH_MAX) {
        return fail(reader, key->name, "longer than %d bytes", CONFIG_PATH_MAX - 1);
    }
    if (!is_printable(expanded) || !is_utf8(expanded)) { /* out of the environment */
        return fail(reader, key->name, "%.100s: want a path in UTF-8 without control characters", text);
    }
    memset(path, 0, CONFIG_PATH_MAX);
    memcpy(path, expanded, length);
    return 0;
}

/* Levenshtein's edit distance; both shorter than NAME_MAX_SIZE. */
static size_t distance(const char *a, const char *b) {
    size_t row[NAME_MAX_SIZE], n = strlen(b);
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 0; a[i]; i++) {
        size_t diagonal = row[0];
        row[0] = i + 1;
        for (size_t j = 0; j < n; j++) {
            size_t best = diagonal + (a[i] != b[j]);
            diagonal = row[j + 1];
            if (row[j] + 1 < best) best = row[j] + 1;
            if (diagonal + 1 < best) best = diagonal + 1;
            row[j + 1] = best;
        }
    }
    return row[n];
}

static const char *last_part(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? dot + 1 : name;
}

/* Finds a key and notes that it is set. An unknown one is told with the known one that is nearest, by its
 * full name or by its last part (for one in the wrong section), if it is near at all. */
static int find_key(struct reader *reader, const char *name, const struct key **found) {
    const struct key *nearest = NULL;
    size_t best = strlen(name) / 4 + 2;
    for (size_t i = 0; i < N_KEYS; i++) {
        if (strcmp(keys[i].name, name) == 0) {
            if (reader->seen >> i & 1) return fail(reader, name, "given twice");
            reader->seen |= (uint64_t)1 << i;
            *found = &keys[i];
            return 0;
        }
        size_t d = distance(name, keys[i].name),
               of_part = distance(last_part(name), last_part(keys[i].name)) + 1;
        if (of_part < d) d = of_part;
        if (d < best) {
            best = d;
            nearest = &keys[i];
        }
    }
    if (nearest) return fail(reader, NULL, "unknown key %s (did you mean %s?)", name, nearest->name);
    return fail(reader, NULL, "unknown key %s", name);
}

static int read_section(struct reader *reader, const struct key *section);

/* Reads the value that starts with the current event. */
static int read_value(struct reader *reader, const struct key *key) {
    if (is_null(reader) && (key->kind != SECTION || reader->is_set)) {
        return fail(reader, key->name, "has no value: leave the key out for its default");
    }
    if (is_null(reader)) return 0; /* a section that sets nothing */
    if (key->kind == SECTION) return read_section(reader, key);
    if (key->kind == WIDTHS) return read_widths(reader, key);
    const char *text = scalar(reader);
    if (!text) return fail(reader, key->name, "a single value is wanted");
    void *field = (char *)reader->config + key->offset;
    int64_t integer;
    int code;
    switch (key->kind) {
    case BOOLEAN:
        return read_boolean(reader, key, field);
    case INTEGER:
        code = read_integer(reader, key, &integer);
        if (code == 0) *(int *)field = (int)integer;
        return code;
    case INTEGER64:
        return read_integer(reader, key, field);
    case REAL:
        return read_real(reader, key, field);
    case WORD:
        return read_word(reader, key, field);
    case PATH:
        return read_path(reader, key, field);
    case LOSS_SCALE:
        if (strcmp(text, "dynamic") != 0) return read_real(reader, key, field);
        *(double *)field = 0;
        return 0;
    case METRIC:
        return metric_parse(text, field) == 0 ? 0 : fail(reader, key->name, "%s", error_message());
    default:
        return error_set(EX_SOFTWARE, "%s has no reader", key->name);
    }
}

/* Reads the mapping that starts with the current event. */
static int read_section(struct reader *reader, const struct key *section) {
    if (reader->event.type != YAML_MAPPING_START_EVENT) {
        return fail(reader, section->name[0] ? section->name : NULL, "keys with values are wanted here");
    }
    int code;
    while ((code = next(reader)) == 0 && reader->event.type != YAML_MAPPING_END_EVENT) {
        const char *text = scalar(reader);
        if (!text) return fail(reader, NULL, "a key is wanted, not a list or section");
        char name[NAME_MAX_SIZE];
        const struct key *key;
        if (strcmp(text, "<<") == 0) {
            return fail(reader, NULL, "merge keys (<<) are not supported: write the keys out");
        }
        snprintf(name, sizeof name, "%s%s%.60s", section->name, section->name[0] ? "." : "", text);
        if ((code = find_key(reader, name, &key)) != 0 || (code = next(reader)) != 0 ||
            (code = read_value(reader, key)) != 0) {
            return code;
        }
    }
    return code;
}

/* YAML makes a blank of a line end, and what is not UTF-8 could be taken for UTF-16. */
static int check_set(struct reader *reader, const struct key *key) {
    if (!is_utf8(reader->text)) return fail(reader, key->name, "is not UTF-8");
    return is_printable(reader->text) ? 0 : fail(reader, key->name, "a control character is not allowed");
}

/* Reads one YAML text: the whole configuration, or with key_name the value of that key alone. */
static int read_text(const char *text, size_t length, const char *name, const char *key_name, int is_resolved,
                     struct config *config) {
    struct reader reader = {.text = text,
                            .length = length,
                            .name = name,
                            .is_set = key_name != NULL,
                            .is_resolved = is_resolved,
                            .line = 1,
                            .config = config};
    const struct key *key = &whole;
    if (!yaml_parser_initialize(&reader.parser)) return error_memory(name, 0);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, length);
    int code = key_name ? find_key(&reader, key_name, &key) : 0;
    if (!code && key_name) code = check_set(&reader, key);
    if (code || (code = next(&reader)) != 0 || (code = next(&reader)) != 0) goto cleanup;
    if (reader.event.type == YAML_STREAM_END_EVENT) { /* nothing but comments */
        code = key_name ? fail(&reader, key->name, "has no value") : 0;
        goto cleanup;
    }
    if ((code = next(&reader)) != 0) goto cleanup;
    if (key_name || !is_null(&reader)) code = read_value(&reader, key);
    if (code || (code = next(&reader)) != 0 || (code = next(&reader)) != 0) goto cleanup;
    if (reader.event.type != YAML_STREAM_END_EVENT) {
        code = fail(&reader, NULL, "a second YAML document: one is wanted");
    }
cleanup:
    yaml_event_delete(&reader.event);
    yaml_parser_delete(&reader.parser);
    return code;
}

static int read_file(const char *path, struct config *config) {
    char text[FILE_MAX_SIZE];
    FILE *file = fopen(path, "r");
    if (!file) {
        int reason = errno;
        return error_set(errno_code(reason, EX_NOINPUT), "%s: %s%s", path, strerror(reason), path_hint(path));
    }
    size_t length = fread(text, 1, sizeof text, file);
    int problem = ferror(file) ? errno : 0;
    fclose(file);
    if (problem) return error_set(errno_code(problem, EX_NOINPUT), "%s: %s", path, strerror(problem));
    if (length == sizeof text) {
        return error_set(EX_CONFIG, "%s: %d bytes or more are no configuration", path, FILE_MAX_SIZE);
    }
    return read_text(text, length, path, NULL, 0, config);
}

static int read_set(const char *set, struct config *config) {
    const char *equals = strchr(set, '=');
    char key[NAME_MAX_SIZE], name[128];
    if (!equals) return error_set(EX_USAGE, "--set %s: KEY=VALUE is wanted, such as train.epochs=50", set);
    snprintf(key, sizeof key, "%.*s", (int)(equals - set < 90 ? equals - set : 90), set);
    snprintf(name, sizeof name, "--set %s", set);
    return read_text(equals + 1, strlen(equals + 1), name, key, 0, config);
}

static int check_together(const struct config *config, const char *name) {
    if (config->train.loss_scale != 0 && config->train.precision != PRECISION_FP16) {
        return error_set(EX_CONFIG, "%s: train.loss_scale: a number is for train.precision fp16 only", name);
    }
    if (config->train.sampled_softmax != 0 && config->train.label_smoothing != 0) {
        return error_set(EX_CONFIG,
                         "%s: train.sampled_softmax goes without train.label_smoothing: want 0 of one", name);
    }
    if (config->train.kl.gamma != 0 && config->model.type != MODEL_VAE) {
        return error_set(EX_CONFIG, "%s: train.kl.gamma is for model.type vae only: want 0", name);
    }
    int is_network = model_is_network(&config->model);
    if (config->train.turns != 0 && !is_network) {
        return error_set(EX_CONFIG, "%s: train.turns: ease and popularity take no steps; want 0", name);
    }
    if (config->model.layer_norm && is_network && config->model.n_hidden == 0) {
        return error_set(EX_CONFIG,
                         "%s: model.layer_norm: there is no hidden layer; want false, or a width in "
                         "model.hidden",
                         name);
    }
    return 0;
}

static int read_all(const char *path, const char *const *sets, int n_sets, struct config *config) {
    config_defaults(config);
    int code = path ? read_file(path, config) : 0;
    for (int i = 0; i < n_sets && !code; i++) code = read_set(sets[i], config);
    return code;
}

int config_load(const char *path, const char *const *sets, int n_sets, struct config *config) {
    const char *name = path ? path : "configuration";
    int code = read_all(path, sets, n_sets, config);
    if (code) return code;
    if (!config->data_path[0]) return error_set(EX_CONFIG, "%s: data.path (the dataset) is not set", name);
    if (!config->output_path[0]) {
        return error_set(EX_CONFIG, "%s: output.path (the run directory) is not set", name);
    }
    return check_together(config, name);
}

int config_parse(const char *text, const char *name, struct config *config) {
    config_defaults(config);
    int code = read_text(text, strlen(text), name, NULL, 1, config);
    return code ? code : check_together(config, name);
}

/* Text being written into a buffer that is known to be large enough. */
struct writer {
    char *text;
    size_t used;
};

static void put(struct writer *writer, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct writer *writer, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = vsnprintf(writer->text + writer->used, CONFIG_TEXT_MAX - writer->used, format, args);
    va_end(args);
    writer->used += (size_t)n;
}

/* The fewest digits that read back as the same number; with a point before an exponent, as YAML 1.1 wants it.
 */
static void put_real(struct writer *writer, double value) {
    char digits[40];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, value);
        if (strtod(digits, NULL) == value) break;
    }
    int mantissa = (int)strcspn(digits, "e");
    int add_point = digits[mantissa] == 'e' && !strchr(digits, '.');
    put(writer, "%.*s%s%s", mantissa, digits, add_point ? ".0" : "", digits + mantissa);
}

static void put_word(struct writer *writer, const struct key *key, int value) {
    const char *word = key->allowed;
    for (int i = key->first; i < value; i++) word += strcspn(word, ",") + 2;
    put(writer, "%.*s", (int)strcspn(word, ","), word);
}

static void put_path(struct writer *writer, const char *path) {
    put(writer, "'");
    for (; *path; path++) put(writer, "%s%c", *path == '\'' ? "'" : *path == '$' ? "$" : "", *path);
    put(writer, "'");
}

static void put_widths(struct writer *writer, const struct model_config *model) {
    put(writer, "[");
    for (int i = 0; i < model->n_hidden; i++) put(writer, "%s%d", i ? ", " : "", model->hidden[i]);
    put(writer, "]");
}

static void put_value(struct writer *writer, const struct key *key, const struct config *config) {
    const void *field = (const char *)config + key->offset;
    char name[METRIC_NAME_MAX];
    switch (key->kind) {
    case SECTION:
        break;
    case BOOLEAN:
        put(writer, *(const int *)field ? "true" : "false");
        break;
    case INTEGER:
        put(writer, "%d", *(const int *)field);
        break;
    case INTEGER64:
        put(writer, "%lld", (long long)*(const int64_t *)field);
        break;
    case LOSS_SCALE:
        if (*(const double *)field == 0) {
            put(writer, "dynamic");
            break;
        } /* fall through */
    case REAL:
        put_real(writer, *(const double *)field);
        break;
    case WORD:
        put_word(writer, key, *(const int *)field);
        break;
    case PATH:
        put_path(writer, field);
        break;
    case WIDTHS:
        put_widths(writer, &config->model);
        break;
    case METRIC:
        metric_name(*(const struct metric *)field, name);
        put(writer, "%s", name);
        break;
    }
}

void config_text(const struct config *config, char text[CONFIG_TEXT_MAX]) {
    struct writer writer = {text, 0};
    for (size_t i = 0; i < N_KEYS; i++) {
        int depth = 0;
        for (const char *c = keys[i].name; *c; c++) depth += *c == '.';
        put(&writer, "%*s%s:%s", 2 * depth, "", last_part(keys[i].name), keys[i].kind == SECTION ? "" : " ");
        put_value(&writer, &keys[i], config);
        put(&writer, "\n");
    }
}

int config_value(const char *path, const char *const *sets, int n_sets, const char *key_name,
                 char text[CONFIG_TEXT_MAX]) {
    struct config config;
    struct reader reader = {.name = "configuration", .is_set = 1};
    const struct key *key;
    int code = find_key(&reader, key_name, &key);
    if (!code) code = read_all(path, sets, n_sets, &config);
    if (code) return code;
    if (key->kind == SECTION) return error_set(EX_CONFIG, "%s: is a section: want one of its keys", key_name);
    if (key->kind == PATH) {
        snprintf(text, CONFIG_TEXT_MAX, "%s", (const char *)&config + key->offset);
        return *text ? 0 : error_set(EX_CONFIG, "%s: %s is not set", path, key_name);
    }
    struct writer writer = {text, 0};
    put_value(&writer, key, &config);
    return 0;
}
