/* vaecf-recommend: what users will most likely want next, from a checkpoint alone. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend.h"
#include "checkpoint.h"
#include "error.h"
#include "file.h"
#include "history.h"
#include "program.h"

static const char program[] = "vaecf-recommend";

static const char help[] =
    "usage: vaecf-recommend --checkpoint FILE.h5 --input history.csv [--top-k 20] [--output recs.csv]\n"
    "\n"
    "Writes user,rank,item,score,source: for each user of the input, in its order, the items with the "
    "highest scores.\n"
    "Users need not have been there in training. source is \"model\" (score: the logit) or, for users none "
    "of whose\n"
    "items is known, \"popularity\" (score: training users of the item). Unknown items are passed over.\n"
    "\n"
    "  -c, --checkpoint FILE   best.h5 or one of checkpoints/ of a run directory; nothing else is needed\n"
    "  -i, --input FILE        the users' interactions so far: CSV, plain, gzip or zstd; \"-\" is standard "
    "input; may\n"
    "                          be given again and again\n"
    "  -k, --top-k N           items for each user (default 20)\n"
    "  -o, --output FILE       default: standard output\n"
    "      --include-seen      also items that the user has had\n"
    "      --min-rating X      only interactions with at least this rating count\n"
    "      --delimiter TEXT    between fields, \\t for a tab (default: the first of tab , :: in the first "
    "line)\n"
    "      --header auto|yes|no   is the first row a header? (default auto)\n"
    "      --user-column COLUMN, --item-column COLUMN, --rating-column COLUMN   name, or number from 1\n"
    "      --bad-rows error|skip  what to do about rows that cannot be read (default error)\n"
    "  -h, --help              this text\n"
    "      --version           version, and what was compiled in\n"
    "\n"
    "Exit: 0 done, 64 usage, 65 bad data, 66 not found, 71 no memory, 73 cannot create, 74 I/O error.\n";

enum { TOP_K_MAX = 10000, SCORES_MAX = 1 << 23, ROWS_MAX = 256 };

enum {
    OPTION_INCLUDE_SEEN = 256,
    OPTION_MIN_RATING,
    OPTION_DELIMITER,
    OPTION_HEADER,
    OPTION_USER,
    OPTION_ITEM,
    OPTION_RATING,
    OPTION_BAD_ROWS,
    OPTION_VERSION,
};

static const struct option long_options[] = {
    {"checkpoint", required_argument, NULL, 'c'},
    {"input", required_argument, NULL, 'i'},
    {"top-k", required_argument, NULL, 'k'},
    {"output", required_argument, NULL, 'o'},
    {"include-seen", no_argument, NULL, OPTION_INCLUDE_SEEN},
    {"min-rating", required_argument, NULL, OPTION_MIN_RATING},
    {"delimiter", required_argument, NULL, OPTION_DELIMITER},
    {"header", required_argument, NULL, OPTION_HEADER},
    {"user-column", required_argument, NULL, OPTION_USER},
    {"item-column", required_argument, NULL, OPTION_ITEM},
    {"rating-column", required_argument, NULL, OPTION_RATING},
    {"bad-rows", required_argument, NULL, OPTION_BAD_ROWS},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

struct options {
    const char *checkpoint, *output;
    const char **inputs;
    int n_inputs, top_k, include_seen, help, version;
    double min_rating;
    struct csv_options csv;
};

/* ---- options ---- */

static int parse_number(const char *name, const char *text, double low, double high, double *value) {
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    if (end != text && !*end && !errno && *value >= low && *value <= high) return 0;
    return error_set(EX_USAGE, "--%s %s: want a number from %g to %g", name, text, low, high);
}

/* One of two words; sets *second if it is the second. */
static int parse_choice(const char *name, const char *text, const char *first, const char *second,
                        bool *is_second) {
    *is_second = strcmp(text, second) == 0;
    if (*is_second || strcmp(text, first) == 0) return 0;
    return error_set(EX_USAGE, "--%s %s: want %s or %s", name, text, first, second);
}

static int set_option(struct options *o, int option) {
    double number;
    int code = 0;
    switch (option) {
    case 'c':
        o->checkpoint = optarg;
        break;
    case 'i':
        o->inputs[o->n_inputs++] = optarg;
        break;
    case 'k':
        code = parse_number("top-k", optarg, 1, TOP_K_MAX, &number);
        if (!code && number != floor(number))
            code = error_set(EX_USAGE, "--top-k %s: want a whole number", optarg);
        if (!code) o->top_k = (int)number;
        break;
    case 'o':
        o->output = optarg;
        break;
    case OPTION_INCLUDE_SEEN:
        o->include_seen = 1;
        break;
    case OPTION_MIN_RATING:
        code = parse_number("min-rating", optarg, -1e300, 1e300, &o->min_rating);
        break;
    case OPTION_DELIMITER:
        o->csv.delimiter = optarg;
        break;
    case OPTION_HEADER:
        if (strcmp(optarg, "auto") == 0) {
            o->csv.header = CSV_HEADER_AUTO;
        } else {
            bool is_no;
            code = parse_choice("header", optarg, "yes", "no", &is_no);
            o->csv.header = is_no ? CSV_HEADER_NO : CSV_HEADER_YES;
        }
        break;
    case OPTION_USER:
        o->csv.user_column = optarg;
        break;
    case OPTION_ITEM:
        o->csv.item_column = optarg;
        break;
    case OPTION_RATING:
        o->csv.rating_column = optarg;
        break;
    case OPTION_BAD_ROWS:
        code = parse_choice("bad-rows", optarg, "error", "skip", &o->csv.skip_bad_rows);
        break;
    case 'h':
        o->help = 1;
        break;
    case OPTION_VERSION:
        o->version = 1;
        break;
    }
    return code;
}

static int parse(int argc, char **argv, struct options *o) {
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":c:i:k:o:h", long_options, NULL)) != -1;) {
        if (c == ':')
            return error_set(EX_USAGE, "%s wants a value (--help lists the options)", argv[optind - 1]);
        if (c == '?') return error_set(EX_USAGE, "unknown option %s (--help lists them)", argv[optind - 1]);
        int code = set_option(o, c);
        if (code || o->help || o->version) return code;
    }
    if (optind < argc)
        return error_set(EX_USAGE, "\"%s\": want only options (--help lists them)", argv[optind]);
    if (!o->checkpoint) return error_set(EX_USAGE, "--checkpoint is missing (--help tells more)");
    if (!o->n_inputs) return error_set(EX_USAGE, "--input is missing (--help tells more)");
    return csv_check_options(&o->csv);
}

/* ---- output ---- */

/* A field of a CSV file, quoted where it has to be (RFC 4180). */
static void write_field(FILE *file, const char *text, size_t length) {
    int plain = length > 0;
    for (size_t i = 0; i < length; i++) plain = plain && !strchr(",\"\r\n", text[i]);
    if (plain) {
        fwrite(text, 1, length, file);
        return;
    }
    fputc('"', file);
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '"') fputc('"', file);
        fputc(text[i], file);
    }
    fputc('"', file);
}

static void write_row(FILE *file, const struct history *history, int32_t user, int rank,
                      const struct items *items, int32_t item, double score, const char *source) {
    size_t length;
    const char *id = ids_text(&history->users, user, &length);
    write_field(file, id, length);
    fprintf(file, ",%d,", rank);
    id = items->ids + (size_t)item * items->width;
    write_field(file, id, strnlen(id, items->width));
    fprintf(file, ",%.7g,%s\n", score, source);
}

static int write_failure(const char *output) {
    return error_set(EX_IOERR, "%s: cannot write: %s", output ? output : "standard output", strerror(errno));
}

/* ---- scoring ---- */

/* The user's list from popularity: items are in order of falling count. */
static void write_popular(FILE *file, const struct history *history, int32_t user, const struct items *items,
                          int k) {
    for (int j = 0; j < k && j < items->n; j++) {
        write_row(file, history, user, j + 1, items, j, (double)items->count[j], "popularity");
    }
}

/* Workspace for a batch of users. */
struct batch {
    int64_t room;
    real *scores, *top_scores;
    int32_t *top;
    int64_t *indptr, *nothing; /* nothing: all zero, the row starts of an empty matrix */
};

static int batch_create(struct batch *batch, struct backend *b, int64_t n_items, int k) {
    batch->room = SCORES_MAX / n_items;
    if (batch->room > ROWS_MAX) batch->room = ROWS_MAX;
    if (batch->room < 1) batch->room = 1;
    size_t n = (size_t)batch->room;
    batch->scores = b->alloc(b, n * (size_t)n_items);
    batch->top_scores = malloc(n * (size_t)k * sizeof *batch->top_scores);
    batch->top = malloc(n * (size_t)k * sizeof *batch->top);
    batch->indptr = calloc(n + 1, sizeof *batch->indptr);
    batch->nothing = calloc(n + 1, sizeof *batch->nothing);
    if (batch->scores && batch->top_scores && batch->top && batch->indptr && batch->nothing) return 0;
    return error_memory("a batch of users", n * (size_t)n_items * sizeof *batch->scores);
}

static void batch_free(struct batch *batch, struct backend *b) {
    if (batch->scores) b->release(b, batch->scores);
    free(batch->top_scores);
    free(batch->top);
    free(batch->indptr);
    free(batch->nothing);
}

static int recommend_batch(const struct options *o, struct model *model, const struct history *history,
                           const struct items *items, struct batch *batch, int64_t first, int k, FILE *file) {
    struct backend *b = model->backend;
    const struct csr *all = &history->matrix;
    int64_t rows = all->rows - first < batch->room ? all->rows - first : batch->room;
    for (int64_t r = 0; r <= rows; r++) batch->indptr[r] = all->indptr[first + r] - all->indptr[first];
    struct csr input = {rows, all->cols, batch->indptr, all->indices + all->indptr[first]};
    struct csr nothing = {rows, all->cols, batch->nothing, NULL};
    int code = model_score(model, &input, batch->scores);
    if (!code && o->include_seen) code = b->load(b, &nothing, NULL, 0); /* nothing is left out */
    if (code) return code;
    b->top_k(b, rows, batch->scores, k, NULL, batch->top, batch->top_scores, NULL);
    code = b->check(b);
    for (int64_t r = 0; r < rows && !code; r++) {
        int32_t user = (int32_t)(first + r);
        if (batch->indptr[r] == batch->indptr[r + 1]) {
            write_popular(file, history, user, items, k);
            continue;
        }
        for (int64_t j = r * k; j < (r + 1) * k && batch->top[j] >= 0; j++) {
            write_row(file, history, user, (int)(j - r * k) + 1, items, batch->top[j],
                      (double)batch->top_scores[j], "model");
        }
    }
    return code;
}

static int write_all(const struct options *o, struct model *model, const struct history *history,
                     const struct items *items, FILE *file) {
    struct batch batch = {0};
    int k = o->top_k < items->n ? o->top_k : (int)items->n;
    int code = batch_create(&batch, model->backend, items->n, k);
    fputs("user,rank,item,score,source\n", file);
    for (int64_t first = 0; first < history->matrix.rows && !code; first += batch.room) {
        code = recommend_batch(o, model, history, items, &batch, first, k, file);
        if (!code && ferror(file)) code = write_failure(o->output);
    }
    batch_free(&batch, model->backend);
    return code;
}

/* To standard output, or to a file that is there whole or not at all. */
static int write_output(const struct options *o, struct model *model, const struct history *history,
                        const struct items *items) {
    char temporary[FILE_NAME_SIZE];
    FILE *file = stdout;
    if (o->output) {
        file_temporary(o->output, temporary);
        file = fopen(temporary, "w");
        if (!file) return error_set(EX_CANTCREAT, "%s: cannot create: %s", o->output, strerror(errno));
    }
    int code = write_all(o, model, history, items, file);
    if (!code && fflush(file)) code = write_failure(o->output);
    if (!o->output) return code;
    if (fclose(file) && !code) code = write_failure(o->output);
    if (!code) return file_place(o->output);
    unlink(temporary);
    return code;
}

static void tell(const struct history *history) {
    int64_t strangers = 0;
    for (int64_t r = 0; r < history->matrix.rows; r++) {
        strangers += history->matrix.indptr[r] == history->matrix.indptr[r + 1];
    }
    fprintf(stderr, "%s: %ld users, %lld known interactions, %lld with unknown items", program,
            (long)history->users.n, (long long)history->known, (long long)history->unknown);
    if (history->skipped) fprintf(stderr, ", %lld rows skipped", (long long)history->skipped);
    if (strangers) fprintf(stderr, "; %lld users get the popularity list", (long long)strangers);
    fputc('\n', stderr);
}

static int recommend(const struct options *o) {
    struct checkpoint_info info;
    struct items items = {0};
    struct history history = {0};
    struct backend backend = {0};
    struct model model = {0};
    int code = checkpoint_read_info(o->checkpoint, &info);
    if (!code) code = checkpoint_read_items(o->checkpoint, &items);
    if (!code && items.n != info.n_items) {
        code = error_set(EX_DATAERR, "%s: %lld ids for %lld items", o->checkpoint, (long long)items.n,
                         (long long)info.n_items);
    }
    const struct backend_options options = {.n_items = info.n_items};
    if (!code) code = backend_create(&options, &backend);
    if (!code) code = model_create(&info.config.model, info.n_items, &backend, 0, &model);
    if (!code) code = checkpoint_read_model(o->checkpoint, &model, NULL, NULL);
    if (!code) code = history_read(o->inputs, o->n_inputs, &o->csv, o->min_rating, &items, &history);
    if (!code) code = write_output(o, &model, &history, &items);
    if (!code) tell(&history);
    history_free(&history);
    model_free(&model);
    if (backend.destroy) backend.destroy(&backend);
    items_free(&items);
    return code;
}

int main(int argc, char **argv) {
    struct options o = {
        .top_k = 20, .min_rating = -INFINITY, .inputs = calloc((size_t)argc + 1, sizeof *o.inputs)};
    int code = o.inputs ? parse(argc, argv, &o) : error_memory("the options", (unsigned long long)argc);
    if (!code && o.help) {
        fputs(help, stdout);
    } else if (!code && o.version) {
        program_version(program);
    } else if (!code) {
        code = recommend(&o);
    }
    free(o.inputs);
    return code ? program_fail(program, code) : 0;
}
