/* vaecf-recommend: what users will most likely want next, from a checkpoint alone. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "blend.h"
#include "comm.h"
#include "error.h"
#include "explain.h"
#include "latency.h"
#include "options.h"
#include "program.h"
#include "recommender.h"

static const char program[] = "vaecf-recommend";

static const char help[] =
    "usage: [mpirun -n RANKS] vaecf-recommend --checkpoint FILE.h5 --input history.csv [--output recs.csv]\n"
    "       vaecf-recommend --checkpoint FILE.h5 --input history.csv --explain USER [--items items.csv]\n"
    "       vaecf-recommend --checkpoint FILE.h5 --benchmark [--output latency.csv]\n"
    "\n"
    "Writes user,rank,item,score,source: for each user of the input, in its order, the items with the "
    "highest\n"
    "scores. Users need not have been there in training. source is \"model\" or, for users none of whose "
    "items\n"
    "is known, \"popularity\" (score: training users of the item). Unknown items are counted and passed "
    "over.\n"
    "\n"
    "  -c, --checkpoint FILE   best.h5 or one of checkpoints/ of a run directory; nothing else is needed\n"
    "      --blend FILE:W          add W times another model's scores; may be given again\n"
    "\n"
    "Users:\n"
    "  -i, --input FILE        their interactions so far: text, lists or JSON lines, plain or compressed; "
    "\"-\" is\n"
    "                          standard input; may be given again and again\n"
    "      --users-from DIR    or a data set's users, with --split train (default), validation or test\n"
    "      --split NAME        (of held-out users the input part)\n"
    "      --grouped           the rows of a user lie together: users are passed on as they are read\n"
    "      --memory MB         otherwise rows beyond so much go to temporary files in $TMPDIR (default "
    "1024)\n"
    "      --min-rating X      only interactions with at least this rating count\n"
    "      --duplicates RULE   which of equal rows counts then: newest, last, max, min, first or sum "
    "(default:\n"
    "                          newest if there is a time column, max if ratings are weights of events, else "
    "last)\n"
    "      --inspect           only shows what the files are taken for, and the options that say the same:\n"
    "      --input-format auto|text|lists|jsonl|blocks, --delimiter TEXT, --quote auto|\"|backslash|none,\n"
    "      --header auto|yes|no, --user-column COLUMN, --item-column COLUMN, --rating-column COLUMN|none,\n"
    "      --time-column COLUMN|none, --event-column COLUMN, --events LIST, --bad-rows error|skip, --max-bad "
    "PART\n"
    "                          as of vaecf-preprocess, whose --help tells more\n"
    "\n"
    "Lists:\n"
    "  -k, --top-k N           items for each user (default 20)\n"
    "      --include-seen      also items that the user has had; --exclude-seen (default)\n"
    "      --allow FILE        only these items: an id a line\n"
    "      --deny FILE         not these items\n"
    "      --min-count N       only items with so many training users\n"
    "      --score logit|probability   probability: softmax over the whole catalogue (default logit)\n"
    "      --precision fp32|bf16|fp16  of the weights in memory; sums are fp32 (default fp32)\n"
    "      --device auto|cpu|cuda      auto (default): a GPU, if all ranks have one and weights are fp32\n"
    "\n"
    "Output:\n"
    "  -o, --output FILE       default: standard output\n"
    "      --format csv|jsonl|hdf5     default: by the name, .jsonl .json .ndjson, .h5 .hdf5, else csv;\n"
    "                          with .gz or .zst behind it compressed\n"
    "      --explain USER      one user's history and list, to be read on a terminal\n"
    "      --items FILE        with titles from this file: id, title\n"
    "      --benchmark         times batches of 1 to 4096 users, of the input or made up; --output: as CSV\n"
    "      --benchmark-seconds X   for each size of a batch (default 1)\n"
    "  -h, --help              this text\n"
    "      --version           version, and what was compiled in\n"
    "\n"
    "Exit: 0 done, 64 usage, 65 bad data, 66 not found, 71 no memory, 73 cannot create, 74 I/O error,\n"
    "78 no such device in this program.\n";

enum { TOP_K_MAX = 10000, PROGRESS_SECONDS = 10 };

enum {
    OPTION_BLEND = 256,
    OPTION_INCLUDE_SEEN,
    OPTION_EXCLUDE_SEEN,
    OPTION_MIN_RATING,
    OPTION_CSV,
    OPTION_INSPECT,
    OPTION_DUPLICATES,
    OPTION_USERS_FROM,
    OPTION_SPLIT,
    OPTION_GROUPED,
    OPTION_MEMORY,
    OPTION_ALLOW,
    OPTION_DENY,
    OPTION_MIN_COUNT,
    OPTION_SCORE,
    OPTION_PRECISION,
    OPTION_DEVICE,
    OPTION_FORMAT,
    OPTION_EXPLAIN,
    OPTION_ITEMS,
    OPTION_BENCHMARK,
    OPTION_BENCHMARK_SECONDS,
    OPTION_VERSION,
};

static const struct option long_options[] = {
    {"checkpoint", required_argument, NULL, 'c'},
    {"blend", required_argument, NULL, OPTION_BLEND},
    {"input", required_argument, NULL, 'i'},
    {"top-k", required_argument, NULL, 'k'},
    {"output", required_argument, NULL, 'o'},
    {"include-seen", no_argument, NULL, OPTION_INCLUDE_SEEN},
    {"exclude-seen", no_argument, NULL, OPTION_EXCLUDE_SEEN},
    {"min-rating", required_argument, NULL, OPTION_MIN_RATING},
    CSV_LONG_OPTIONS(OPTION_CSV),
    {"inspect", no_argument, NULL, OPTION_INSPECT},
    {"duplicates", required_argument, NULL, OPTION_DUPLICATES},
    {"users-from", required_argument, NULL, OPTION_USERS_FROM},
    {"split", required_argument, NULL, OPTION_SPLIT},
    {"grouped", no_argument, NULL, OPTION_GROUPED},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"allow", required_argument, NULL, OPTION_ALLOW},
    {"deny", required_argument, NULL, OPTION_DENY},
    {"min-count", required_argument, NULL, OPTION_MIN_COUNT},
    {"score", required_argument, NULL, OPTION_SCORE},
    {"precision", required_argument, NULL, OPTION_PRECISION},
    {"device", required_argument, NULL, OPTION_DEVICE},
    {"format", required_argument, NULL, OPTION_FORMAT},
    {"explain", required_argument, NULL, OPTION_EXPLAIN},
    {"items", required_argument, NULL, OPTION_ITEMS},
    {"benchmark", no_argument, NULL, OPTION_BENCHMARK},
    {"benchmark-seconds", required_argument, NULL, OPTION_BENCHMARK_SECONDS},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

static const char *const score_names[] = {"logit", "probability", NULL};
static const char *const precision_names[] = {"fp32", "bf16", "fp16", NULL};
static const enum precision precisions[] = {PRECISION_FP32, PRECISION_BF16, PRECISION_FP16};
static const char *const device_names[] = {"auto", "cpu", "cuda", NULL};  /* as enum device */
static const char *const format_names[] = {"csv", "jsonl", "hdf5", NULL}; /* as enum lists_format */
static const char *const split_names[] = {"train", "validation", "test", NULL};

struct options {
    struct blend blend;
    const char *output, *allow, *deny, *explain, *titles, *split;
    const char **inputs;
    struct history_options history;
    int top_k, include_seen, score, precision, device, format, benchmark, inspect, help, version;
    double benchmark_seconds;
    int64_t min_count;
};

/* ---- options ---- */

static int set_option(struct options *o, int option, const char *name) {
    int64_t number = 0;
    int choice = 0, code = 0;
    switch (option) {
    case 'c':
        o->blend.path[0] = optarg;
        break;
    case OPTION_BLEND:
        code = blend_add(&o->blend, optarg);
        break;
    case 'i':
        o->inputs[o->history.n_paths++] = optarg;
        break;
    case 'k':
        code = option_whole("top-k", optarg, 1, TOP_K_MAX, &number);
        o->top_k = (int)number;
        break;
    case 'o':
        o->output = optarg;
        break;
    case OPTION_INCLUDE_SEEN:
        o->include_seen = 1;
        break;
    case OPTION_EXCLUDE_SEEN:
        o->include_seen = 0;
        break;
    case OPTION_MIN_RATING:
        code = option_number("min-rating", optarg, -1e300, 1e300, &o->history.min_rating);
        break;
    case OPTION_DUPLICATES:
        code = duplicates_parse(optarg, &o->history.duplicates);
        break;
    case OPTION_USERS_FROM:
        o->history.dataset = optarg;
        break;
    case OPTION_SPLIT:
        code = option_choice("split", optarg, split_names, &choice);
        o->split = split_names[choice];
        break;
    case OPTION_GROUPED:
        o->history.grouped = 1;
        break;
    case OPTION_MEMORY:
        code = option_whole("memory", optarg, 1, 1000000000, &number);
        o->history.memory = number << 20;
        break;
    case OPTION_ALLOW:
        o->allow = optarg;
        break;
    case OPTION_DENY:
        o->deny = optarg;
        break;
    case OPTION_MIN_COUNT:
        code = option_whole("min-count", optarg, 0, INT64_C(1000000000000000), &o->min_count);
        break;
    case OPTION_SCORE:
        code = option_choice("score", optarg, score_names, &o->score);
        break;
    case OPTION_PRECISION:
        code = option_choice("precision", optarg, precision_names, &o->precision);
        break;
    case OPTION_DEVICE:
        code = option_choice("device", optarg, device_names, &o->device);
        break;
    case OPTION_FORMAT:
        code = option_choice("format", optarg, format_names, &o->format);
        break;
    case OPTION_EXPLAIN:
        o->explain = optarg;
        break;
    case OPTION_ITEMS:
        o->titles = optarg;
        break;
    case OPTION_INSPECT:
        o->inspect = 1;
        break;
    case OPTION_BENCHMARK:
        o->benchmark = 1;
        break;
    case OPTION_BENCHMARK_SECONDS:
        code = option_number("benchmark-seconds", optarg, 0, 3600, &o->benchmark_seconds);
        break;
    case 'h':
        o->help = 1;
        break;
    case OPTION_VERSION:
        o->version = 1;
        break;
    default:
        code = csv_set_option(&o->history.csv, name, optarg);
    }
    return code;
}

/* Does its name end so, compressed or not? */
static int has_suffix(const char *path, const char *const *suffixes) {
    size_t length = path ? strlen(path) : 0;
    if (length > 3 && strcmp(path + length - 3, ".gz") == 0) length -= 3;
    if (length > 4 && strncmp(path + length - 4, ".zst", 4) == 0) length -= 4;
    for (; *suffixes; suffixes++) {
        size_t n = strlen(*suffixes);
        if (length > n && strncmp(path + length - n, *suffixes, n) == 0) return 1;
    }
    return 0;
}

/* Do the options fit together? */
static int check(struct options *o) {
    static const char *const json[] = {".jsonl", ".json", ".ndjson", NULL}, *const hdf5[] = {".h5", ".hdf5",
                                                                                             NULL};
    if (o->inspect && !o->history.n_paths) return error_set(EX_USAGE, "--inspect wants --input FILE");
    o->history.paths = o->inputs;
    if (o->inspect) return csv_check_options(&o->history.csv);
    if (!o->blend.path[0]) return error_set(EX_USAGE, "--checkpoint is missing (--help tells more)");
    if (!o->history.n_paths && !o->history.dataset && !o->benchmark) {
        return error_set(EX_USAGE, "--input is missing, or --users-from (--help tells more)");
    }
    if (o->history.n_paths && o->history.dataset) {
        return error_set(EX_USAGE, "--input and --users-from: want one of them");
    }
    if (o->split && !o->history.dataset) return error_set(EX_USAGE, "--split goes with --users-from");
    if (o->explain && o->benchmark) return error_set(EX_USAGE, "--explain and --benchmark: want one of them");
    if (o->titles && !o->explain) return error_set(EX_USAGE, "--items goes with --explain");
    if (o->explain && o->output) return error_set(EX_USAGE, "--explain writes to standard output alone");
    if (o->precision && o->device == DEVICE_CUDA) {
        return error_set(EX_USAGE, "--precision %s: weights on a GPU are fp32; want --device cpu",
                         precision_names[o->precision]);
    }
    if (o->precision) o->device = DEVICE_CPU;
    if (o->format < 0)
        o->format = has_suffix(o->output, json)   ? LISTS_JSON
                    : has_suffix(o->output, hdf5) ? LISTS_HDF5
                                                  : LISTS_CSV;
    if (o->format == LISTS_HDF5 && !o->output) {
        return error_set(EX_USAGE, "--format hdf5 wants a file: --output lists.h5");
    }
    o->history.split = o->split ? o->split : "train";
    return csv_check_options(&o->history.csv);
}

static int parse(int argc, char **argv, struct options *o) {
    opterr = 0;
    for (int c, index = 0; (c = getopt_long(argc, argv, ":c:i:k:o:h", long_options, &index)) != -1;) {
        if (c == ':' || c == '?') return program_bad_option(c, argv[optind - 1]);
        int code = set_option(o, c, long_options[index].name);
        if (code || o->help || o->version) return code;
    }
    if (optind < argc)
        return error_set(EX_USAGE, "\"%s\": want only options (--help lists them)", argv[optind]);
    return check(o);
}

/* ---- progress ---- */

static double started, told; /* when; 0: not yet */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* What the files are taken for is told with the first progress, or at the end: an error is one line. */
static char files_told[16384];

static void keep_told(const struct csv *csv, const char *kind, const char *text) {
    size_t used = strlen(files_told);
    if (*text) {
        snprintf(files_told + used, sizeof files_told - used, "%s: %s%s: %s\n", program, kind, csv_name(csv),
                 text);
    }
}

static int needs_ratings; /* is there a --min-rating? */

static void keep_file(const struct csv *csv) {
    keep_told(csv, "", csv_description(csv));
    keep_told(csv, "note: ", csv_notes(csv));
    if (needs_ratings && !csv_has_ratings(csv))
        keep_told(csv, "note: ", "has no ratings: --min-rating does not count for it");
}

static void tell_files(void) {
    fputs(files_told, stderr);
    files_told[0] = '\0';
}

static void tell_progress(const char *what, int64_t n, double part) {
    double time = now();
    if (time - told < PROGRESS_SECONDS) return;
    told = time;
    tell_files();
    double passed = time - started;
    fprintf(stderr, "%s: %lld %s, %.0f a second", program, (long long)n, what, (double)n / passed);
    if (part > 0) {
        long long left = (long long)(passed * (1 - part) / part + 0.5);
        fprintf(stderr, ", %.0f %%, %lld:%02lld:%02lld left", 100 * part, left / 3600, left / 60 % 60,
                left % 60);
    }
    fputc('\n', stderr);
}

static void tell_reading(int64_t rows, double part) {
    tell_progress("rows read", rows, part);
}

/* Its clock starts with the first users, when reading may have taken long. */
static void tell_users(const struct history *history, int64_t finished) {
    static int64_t before = -1;
    if (before < 0) {
        before = finished;
        started = told = now();
    } else {
        tell_progress("users", finished, history_fraction(history));
    }
}

static void tell_totals(const struct history *history, const struct recommender_totals *totals) {
    const struct history_counts *c = history_counts(history);
    tell_files();
    fprintf(stderr, "%s: %lld users, %lld known interactions, %lld with unknown items", program,
            (long long)c->users, (long long)c->known, (long long)c->unknown);
    if (c->skipped) fprintf(stderr, ", %lld rows skipped", (long long)c->skipped);
    if (totals->popular) fprintf(stderr, "; %lld users get the popularity list", (long long)totals->popular);
    fputc('\n', stderr);
}

/* ---- the work ---- */

/* marks[n_items]: the items that may be in no list. */
static int close_items(const struct options *o, const struct comm *comm, const struct catalogue *c,
                       uint8_t *marks) {
    int64_t known = 0, unknown = 0, denied = 0, open = 0;
    int code = o->allow ? catalogue_mark(c, o->allow, marks, &known, &unknown) : 0;
    if (!code && o->allow && !known) {
        code = error_set(EX_DATAERR, "%s: has no item of the model's catalogue; want an id a line", o->allow);
    }
    for (int64_t i = 0; i < c->items.n && o->allow; i++) marks[i] = !marks[i];
    if (!code && o->deny) code = catalogue_mark(c, o->deny, marks, &known, &denied);
    if (!code && o->deny && denied && !known) { /* an empty list denies nothing; this is another file */
        code = error_set(EX_DATAERR, "%s: has no item of the model's catalogue; want an id a line", o->deny);
    }
    if (code) return code;
    for (int64_t i = 0; i < c->items.n; i++) {
        marks[i] |= c->items.count[i] < o->min_count;
        open += !marks[i];
    }
    if (!open) return error_set(EX_DATAERR, "--allow, --deny and --min-count leave no item to recommend");
    if (comm->rank == 0 && unknown + denied) {
        fprintf(stderr, "%s: %lld items of --allow and --deny are not in the catalogue\n", program,
                (long long)(unknown + denied));
    }
    return 0;
}

static int write_lists(const struct options *o, const struct comm *comm, const struct recommender *r,
                       const struct catalogue *catalogue, struct history *history) {
    struct lists *lists = NULL;
    struct recommender_totals totals;
    int code = 0;
    if (comm->rank == 0) {
        code = lists_open(o->output, (enum lists_format)o->format, catalogue, score_names[o->score], &lists);
    }
    code = comm_agree(comm, code);
    if (code) return code;
    code = recommender_run(r, comm, history, lists, tell_users, &totals);
    if (comm->rank == 0) {
        int failed = lists_close(lists, !code);
        if (!code) code = failed;
        if (!code) tell_totals(history, &totals);
    }
    return code;
}

static int recommend(struct options *o, const struct comm *comm) {
    struct blend *blend = &o->blend;
    struct catalogue catalogue = {0};
    struct ranker *ranker = NULL;
    struct history *history = NULL;
    struct recommender recommender = {0};
    uint8_t *marks = NULL;
    started = told = now();
    int code = blend_read_info(blend, comm);
    const int64_t n_items = blend->info->n_items;
    if (!code && o->score && !blend_has_chances(blend)) {
        code = error_set(EX_USAGE, "--score probability: %s is of a model without probabilities; want logit",
                         blend->n > 1 ? "--blend" : blend->path[0]);
    }
    if (!code) code = catalogue_read(blend->path[0], n_items, &catalogue);
    if (!code && !(marks = calloc((size_t)n_items, 1))) {
        code = error_memory("the catalogue", (unsigned long long)n_items);
    }
    if (!code) code = close_items(o, comm, &catalogue, marks);
    code = comm_agree(comm, code);
    if (!code) {
        code = ranker_create(blend, comm, (enum device)o->device, precisions[o->precision], marks, &ranker);
    }
    if (!code) {
        int k = o->top_k < n_items ? o->top_k : (int)n_items;
        int flags = (o->include_seen ? SCORER_SEEN : 0) | (o->score ? SCORER_PROBABILITY : 0);
        code = recommender_create(&catalogue, marks, ranker, k, flags, &recommender);
        recommender.has_chances = blend_has_chances(blend);
    }
    if (!code && o->titles) code = catalogue_read_titles(&catalogue, o->titles);
    if (!code && comm->rank == 0 && (o->history.n_paths || o->history.dataset)) {
        code = history_open(&o->history, &catalogue, &history);
    }
    code = comm_agree(comm, code);
    if (!code && o->explain) {
        if (comm->rank == 0) code = explain(&recommender, &catalogue, history, o->explain);
    } else if (!code && o->benchmark) {
        const char *precision = precision_names[o->precision];
        if (comm->rank == 0) {
            code = latency_measure(&recommender, &catalogue, history, precision, o->benchmark_seconds,
                                   o->output);
        }
    } else if (!code) {
        code = write_lists(o, comm, &recommender, &catalogue, history);
    }
    code = comm_agree(comm, code);
    history_close(history);
    recommender_free(&recommender);
    ranker_destroy(ranker);
    catalogue_free(&catalogue);
    free(marks);
    return code;
}

int main(int argc, char **argv) {
    program_start();
    struct options o = {
        .blend.n = 1,
        .top_k = 20,
        .format = -1,
        .benchmark_seconds = 1,
        .inputs = calloc((size_t)argc + 1, sizeof *o.inputs),
    };
    o.history.min_rating = -INFINITY;
    o.history.memory = INT64_C(1) << 30;
    o.history.reading = tell_reading;
    o.history.opened = keep_file;
    int code = o.inputs ? parse(argc, argv, &o) : error_memory("the options", (unsigned long long)argc);
    if (!code && (o.help || o.version)) {
        if (o.help) fputs(help, stdout);
        if (o.version) program_version(program);
        free(o.inputs);
        return 0;
    }
    needs_ratings = isfinite(o.history.min_rating) && o.history.duplicates != DUPLICATES_SUM;
    struct comm comm = comm_start(&argc, &argv);
    code = comm_agree(&comm, code);
    if (!code && o.inspect) {
        for (int i = 0; i < o.history.n_paths && comm.rank == 0 && !code; i++) {
            code = csv_inspect(o.inputs[i], &o.history.csv);
        }
    } else if (!code) {
        comm_share_threads(&comm);
        code = recommend(&o, &comm);
    }
    if (code && comm.rank == 0) program_fail(program, code);
    free(o.inputs);
    comm_stop();
    return code;
}
