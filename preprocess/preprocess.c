/* vaecf-preprocess: ratings CSV -> a dataset directory of HDF5 CSR shards. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <math.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "comm.h"
#include "csv.h"
#include "duplicates.h"
#include "environment.h"
#include "error.h"
#include "options.h"
#include "output.h"
#include "program.h"
#include "read.h"
#include "scratch.h"
#include "shards.h"
#include "split.h"

static const char program[] = "vaecf-preprocess";

static const char help[] =
    "[mpirun -n RANKS] vaecf-preprocess --input FILE... --output DIR [options]\n"
    "vaecf-preprocess --train FILE [--validation-input FILE --validation-target FILE]\n"
    "                 --test-input FILE --test-target FILE --output DIR [options]\n"
    "\n"
    "Makes a dataset directory for vaecf-train from users' interactions with items.\n"
    "\n"
    "Input: rows of text (user, item, rating, time), lists (user item item ...), JSON lines or Netflix's "
    "blocks;\n"
    "plain, gzip, zstd, xz or bzip2; \"-\" is standard input. What a file is, is found at its beginning and "
    "told;\n"
    "each of these says it instead. Each file option may be given several times.\n"
    "  --input FILE              interactions, to be split here\n"
    "  --train FILE, --validation-input FILE, --validation-target FILE, --test-input FILE, --test-target "
    "FILE\n"
    "                            interactions that were split elsewhere\n"
    "  --inspect                 only shows what the files are taken for, and the options that say the same\n"
    "  --input-format FORMAT     auto, text, lists, jsonl or blocks (default auto)\n"
    "  --delimiter TEXT          between fields: \\t is a tab, a blank means any number of them\n"
    "  --quote QUOTE             \" (as in RFC 4180), backslash (before quotes inside), none (are "
    "characters), auto\n"
    "  --header auto|yes|no      is the first row a header?\n"
    "  --user-column COLUMN      name, or number from 1, or key of JSON (default: by its usual names, else "
    "the 1st)\n"
    "  --item-column COLUMN      (default: by its usual names, else the 2nd)\n"
    "  --rating-column COLUMN    or none (default: by its usual names, else the 3rd if it has numbers)\n"
    "  --time-column COLUMN      or none (default: by its usual names, else what has times behind the "
    "items)\n"
    "  --event-column COLUMN     (default: by its usual names; only with --events)\n"
    "  --events LIST             view=1,cart=3,buy=5: these are the ratings; buy,cart: only such rows count\n"
    "  --bad-rows error|skip     what to do about rows that cannot be read (default error)\n"
    "  --max-bad PART            part of a file's rows that may be skipped (default 1%)\n"
    "\n"
    "Filters and split:\n"
    "  --min-rating X            only interactions with at least this rating (default: all)\n"
    "  --duplicates RULE         what decides where rows have the same user and item: newest, last, max, "
    "min,\n"
    "                            first or sum (default: newest if there is a time column, max if ratings "
    "are\n"
    "                            weights of events, else last)\n"
    "  --min-item-users N        drop items with fewer users (default 0)\n"
    "  --min-user-items N        then drop users with fewer items (default 5)\n"
    "  --heldout-users N|auto    so many users each for validation and test (default auto: a tenth of the "
    "users,\n"
    "                            at most 10000)\n"
    "  --target-fraction F       part of a held-out user's items that is to be predicted (default 0.2)\n"
    "  --seed N                  of the split (default 98765)\n"
    "\n"
    "Output:\n"
    "  --output DIR              the dataset directory; made if it is not there\n"
    "  --shards N                number of files that the users are laid over (default 1)\n"
    "  --force                   replace the dataset that is there\n"
    "\n"
    "Resources (the dataset is the same, byte for byte, whatever they are):\n"
    "  --memory SIZE             of each rank, for example 2G (default: half of the machine's, shared by its "
    "ranks);\n"
    "                            what goes beyond it is on disk in the meantime\n"
    "  --tmp DIR                 where (default: $TMPDIR, or else the output directory)\n"
    "  OMP_NUM_THREADS           threads of a rank (default: the ranks on a machine share its cores)\n"
    "\n"
    "  --help, --version\n"
    "\n"
    "Beside the dataset there is report.csv: what was read, skipped, kept, and how long it took.\n"
    "Exit codes: 0 done, 64 wrong usage, 65 bad input data, 66 input not found, 71 no memory, 73 cannot "
    "create\n"
    "output, 74 I/O error. After SIGINT or SIGTERM nothing is written.\n";

/* The input of one part; that of --input counts as --train's. */
struct files {
    const char **path;
    int n;
};

struct options {
    struct files files[DATASET_PARTS];
    bool own_split, given_split; /* there was --input, --train or its like */
    const char *split_option;    /* a filter's or split's option that was given, without the dashes */
    struct csv_options csv;
    double min_rating;
    enum duplicates_rule duplicates;
    struct split_options split;
    const char *output;
    bool force, inspect;
    int64_t memory;  /* bytes of a rank, 0: not given */
    const char *tmp; /* NULL: not given */
};

enum stage { STAGE_READ, STAGE_SPLIT, STAGE_WRITE, STAGES };
static const char *const stage_name[STAGES] = {"read", "split", "write"};

/* All that the steps share. */
struct job {
    struct comm comm;
    struct options options;
    struct lock *lock; /* of the output directory; rank 0's */
    struct scratch scratch;
    struct spool interactions, rows;
    struct reader reader;
    struct split split;
    double start, seconds[STAGES];
};

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* "2G", "500M", "1048576". */
static int parse_size(const char *name, const char *text, int64_t *value) {
    static const char units[] = "KMGT";
    char *end;
    double number = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (unit) {
        for (const char *u = units; u <= unit; u++) number *= 1024;
        end++;
    }
    *value = number >= 1 && number < 0x1p60 ? (int64_t)number : 0;
    if (*text && !*end && *value >= 64 << 20) return 0;
    return error_set(EX_USAGE, "--%s %s: want a size of at least 64M, for example 2G", name, text);
}

static int add_file(struct options *o, enum dataset_part part, const char *path) {
    struct files *files = &o->files[part];
    if (strcmp(path, "-") == 0) {
        for (int p = 0; p < DATASET_PARTS; p++) {
            for (int i = 0; i < o->files[p].n; i++) {
                if (strcmp(o->files[p].path[i], "-") == 0) {
                    return error_set(EX_USAGE, "standard input (-) can be given only once");
                }
            }
        }
    }
    const char **path_new = realloc(files->path, ((size_t)files->n + 1) * sizeof *path_new);
    if (!path_new) return error_memory("options", sizeof *path_new);
    files->path = path_new;
    files->path[files->n++] = path;
    return 0;
}

enum {
    OPTION_PARTS = 256,
    OPTION_INPUT = OPTION_PARTS + DATASET_PARTS,
    OPTION_OUTPUT,
    OPTION_SHARDS,
    OPTION_FORCE,
    OPTION_INSPECT,
    OPTION_CSV,
    OPTION_DUPLICATES,
    OPTION_MIN_RATING,
    OPTION_MIN_ITEM_USERS,
    OPTION_MIN_USER_ITEMS,
    OPTION_HELDOUT,
    OPTION_FRACTION,
    OPTION_SEED,
    OPTION_MEMORY,
    OPTION_TMP,
    OPTION_HELP,
    OPTION_VERSION
};

static const struct option long_options[] = {
    {"train", required_argument, NULL, OPTION_PARTS + DATASET_TRAIN},
    {"validation-input", required_argument, NULL, OPTION_PARTS + DATASET_VALIDATION_INPUT},
    {"validation-target", required_argument, NULL, OPTION_PARTS + DATASET_VALIDATION_TARGET},
    {"test-input", required_argument, NULL, OPTION_PARTS + DATASET_TEST_INPUT},
    {"test-target", required_argument, NULL, OPTION_PARTS + DATASET_TEST_TARGET},
    {"input", required_argument, NULL, OPTION_INPUT},
    {"output", required_argument, NULL, OPTION_OUTPUT},
    {"shards", required_argument, NULL, OPTION_SHARDS},
    {"force", no_argument, NULL, OPTION_FORCE},
    {"inspect", no_argument, NULL, OPTION_INSPECT},
    CSV_LONG_OPTIONS(OPTION_CSV),
    {"duplicates", required_argument, NULL, OPTION_DUPLICATES},
    {"min-rating", required_argument, NULL, OPTION_MIN_RATING},
    {"min-item-users", required_argument, NULL, OPTION_MIN_ITEM_USERS},
    {"min-user-items", required_argument, NULL, OPTION_MIN_USER_ITEMS},
    {"heldout-users", required_argument, NULL, OPTION_HELDOUT},
    {"target-fraction", required_argument, NULL, OPTION_FRACTION},
    {"seed", required_argument, NULL, OPTION_SEED},
    {"memory", required_argument, NULL, OPTION_MEMORY},
    {"tmp", required_argument, NULL, OPTION_TMP},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

static int set_option(struct options *o, int option, const char *name, const char *text) {
    int code = 0;
    if (option >= OPTION_PARTS && option < OPTION_PARTS + DATASET_PARTS) {
        o->given_split = true;
        return add_file(o, (enum dataset_part)(option - OPTION_PARTS), text);
    }
    switch (option) {
    case OPTION_INPUT:
        o->own_split = true;
        return add_file(o, DATASET_TRAIN, text);
    case OPTION_OUTPUT:
        o->output = text;
        break;
    case OPTION_SHARDS:
        return option_whole(name, text, 1, SHARDS_MAX, &o->split.n_shards);
    case OPTION_MEMORY:
        return parse_size(name, text, &o->memory);
    case OPTION_TMP:
        o->tmp = text;
        break;
    case OPTION_FORCE:
        o->force = true;
        break;
    case OPTION_INSPECT:
        o->inspect = true;
        break;
    case OPTION_CSV:
        return csv_set_option(&o->csv, name, text);
    case OPTION_DUPLICATES:
        return duplicates_parse(text, &o->duplicates);
    case OPTION_MIN_RATING:
        return option_number(name, text, -INFINITY, INFINITY, &o->min_rating);
    case OPTION_SEED:
        return option_whole(name, text, 0, INT64_MAX, (int64_t *)&o->split.seed);
    default: /* those that only make sense where the split is made here */
        o->split_option = name;
        if (option == OPTION_MIN_ITEM_USERS) {
            code = option_whole(name, text, 0, INT32_MAX, &o->split.min_item_users);
        } else if (option == OPTION_MIN_USER_ITEMS) {
            code = option_whole(name, text, 0, INT32_MAX, &o->split.min_user_items);
        } else if (option == OPTION_FRACTION) {
            code = option_number(name, text, -INFINITY, INFINITY, &o->split.target_fraction);
            if (!code && !(o->split.target_fraction > 0 && o->split.target_fraction < 1)) {
                code = error_set(EX_USAGE, "--%s %s: want a number between 0 and 1", name, text);
            }
        } else if (strcmp(text, "auto") == 0) {
            o->split.heldout_users = -1;
        } else {
            code = option_whole(name, text, 0, INT32_MAX, &o->split.heldout_users);
        }
    }
    return code;
}

/* Do the options go together? */
static int check_options(const struct options *o) {
    const struct files *files = o->files;
    if (!o->own_split && !o->given_split) return error_set(EX_USAGE, "want --input FILE (see --help)");
    if (o->own_split && o->given_split) {
        return error_set(EX_USAGE,
                         "--input is to be split here; it does not go with --train, --test-input, ...");
    }
    if (o->inspect) return csv_check_options(&o->csv);
    if (!o->output) return error_set(EX_USAGE, "want --output DIR, the dataset directory to write");
    if (o->given_split) {
        if (o->split_option) {
            return error_set(EX_USAGE, "--%s does not go with --train: the split was made elsewhere",
                             o->split_option);
        }
        if (!files[DATASET_TRAIN].n || !files[DATASET_TEST_INPUT].n || !files[DATASET_TEST_TARGET].n) {
            return error_set(EX_USAGE,
                             "a split made elsewhere needs --train, --test-input and --test-target");
        }
        if (!files[DATASET_VALIDATION_INPUT].n != !files[DATASET_VALIDATION_TARGET].n) {
            return error_set(EX_USAGE, "--validation-input and --validation-target go together");
        }
    }
    return csv_check_options(&o->csv);
}

static int parse_options(int argc, char **argv, struct options *o) {
    for (;;) {
        int index = 0, code;
        opterr = 0;
        int option = getopt_long(argc, argv, ":", long_options, &index);
        if (option < 0) break;
        if (option == '?') return error_set(EX_USAGE, "%s: unknown option (see --help)", argv[optind - 1]);
        if (option == ':') return error_set(EX_USAGE, "%s: the option needs a value", argv[optind - 1]);
        if (option == OPTION_HELP || option == OPTION_VERSION) {
            if (option == OPTION_HELP) fputs(help, stdout);
            if (option == OPTION_VERSION) program_version(program);
            exit(0);
        }
        code = set_option(o, option, long_options[index].name, optarg);
        if (code) return code;
    }
    for (; o->inspect && optind < argc; optind++) {
        o->own_split = true;
        int code = add_file(o, DATASET_TRAIN, argv[optind]);
        if (code) return code;
    }
    if (optind < argc) {
        return error_set(EX_USAGE, "%s: every file needs its --input or another option before it",
                         argv[optind]);
    }
    return check_options(o);
}

/* Bytes of all input files; 0 if that is not known. */
static int64_t input_bytes(const struct options *o) {
    int64_t bytes = 0;
    for (int p = 0; p < DATASET_PARTS; p++) {
        for (int i = 0; i < o->files[p].n; i++) {
            struct stat status;
            if (stat(o->files[p].path[i], &status) || !S_ISREG(status.st_mode)) return 0;
            bytes += status.st_size;
        }
    }
    return bytes;
}

/* Makes the spools: their bins, and the memory they may use. */
static int prepare(struct job *job) {
    struct options *o = &job->options;
    const struct comm *comm = &job->comm;
    int64_t bytes = input_bytes(o), ranks = comm->size, threads = omp_get_max_threads();
    comm_sum_int(comm, &bytes, 1); /* all ranks mean the same */
    bytes /= ranks;
    int64_t expected = bytes ? bytes / 10 : INT64_C(1) << 26; /* rows, generously */
    int n_bins = 16;
    while (n_bins < 512 && (n_bins < expected >> 19 || n_bins < 4 * ranks)) n_bins *= 2;
    while (n_bins < 4 * ranks) n_bins *= 2;
    int64_t memory = o->memory;
    if (!memory) memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE) / 2 / ranks;
    int64_t fixed = (INT64_C(48) << 20) + threads * (INT64_C(56) << 20); /* buffers, tables */
    if (bytes > INT64_C(1) << 32) fixed += threads * bytes / n_bins * 3; /* a bin's work */
    job->scratch = (struct scratch){.dir = o->tmp, .budget = memory > fixed ? memory - fixed : 0};
    const char *tmp = environment("TMPDIR");
    if (!o->tmp) job->scratch.dir = tmp ? tmp : o->output;
    if (access(job->scratch.dir, W_OK)) {
        return error_set(EX_CANTCREAT, "%s: cannot write temporary data: %s; --tmp names another directory",
                         job->scratch.dir, strerror(errno));
    }
    spool_open(&job->interactions, n_bins, &job->scratch, 0.5);
    spool_open(&job->rows, SPLITS * (int)o->split.n_shards, &job->scratch, 1);
    job->reader = (struct reader){.comm = comm,
                                  .csv = o->csv,
                                  .min_rating = o->min_rating,
                                  .asked = o->duplicates,
                                  .seed = o->split.seed,
                                  .spool = &job->interactions,
                                  .total_bytes = bytes};
    return read_start(&job->reader);
}

/* Reads all files of all parts. */
static int read_parts(struct job *job) {
    const struct files *files = job->options.files;
    struct reader *r = &job->reader;
    int code = 0;
    for (int p = 0; p < DATASET_PARTS; p++) {
        for (int i = 0; i < files[p].n && !code; i++)
            code = read_file(r, files[p].path[i], (enum dataset_part)p);
    }
    if (!code && !r->rows && r->counts.other_events) {
        code = error_set(EX_DATAERR, "%s: no row has an event of --events %s; %" PRId64 " have others",
                         files[DATASET_TRAIN].path[0], job->options.csv.events, r->counts.other_events);
    } else if (!code && !r->rows) {
        code = error_set(EX_DATAERR, "%s: %s%s", files[DATASET_TRAIN].path[0],
                         r->n_bad ? "no row can be read; the first: "
                                  : "there are no rows (--header no, if the only line is one)",
                         r->n_bad ? r->bad[0] : "");
    }
    return code ? code : read_finish(r);
}

static int split_parts(struct job *job) {
    struct options *o = &job->options;
    struct split *split = &job->split;
    o->split.duplicates = duplicates_stored(job->reader.rule, o->min_rating);
    int code = split_run(&job->comm, &job->interactions, &job->reader.items, &o->split, split, &job->rows);
    if (code == EX_DATAERR && !split->counts[SPLIT_READ].interactions) {
        code =
            split->unwanted
                ? error_set(EX_DATAERR, "--min-rating %g leaves no row to train on", o->min_rating)
                : error_set(EX_DATAERR, "%s: there are no rows to train on", o->files[DATASET_TRAIN].path[0]);
    }
    return code;
}

/* The paths of all parts, as far as they fit into an attribute. */
static void list_files(const struct options *o, char *text, size_t size) {
    size_t used = 0;
    text[0] = '\0';
    for (int p = 0; p < DATASET_PARTS; p++) {
        for (int i = 0; i < o->files[p].n && used < size; i++) {
            used += (size_t)snprintf(text + used, size - used, "%s--%s %s", used ? " " : "",
                                     o->own_split ? "input" : long_options[p].name, o->files[p].path[i]);
        }
    }
}

static int write_output(struct job *job) {
    static const char *const header[] = {"auto", "yes", "no"};
    static const char *const format[] = {"auto", "text", "lists", "jsonl", "blocks"};
    const struct options *o = &job->options;
    const struct split *split = &job->split;
    char files[8192];
    list_files(o, files, sizeof files);
    const struct csv_options *csv = &o->csv;
    const struct split_options *s = &o->split;
    const struct shards_attribute attributes[] = {
        {.name = "seed", .integer = (int64_t)s->seed},
        {.name = "files", .text = files},
        {.name = "input_format", .text = format[csv->format]},
        {.name = "delimiter", .text = csv->delimiter ? csv->delimiter : "auto"},
        {.name = "quote", .text = csv->quote ? csv->quote : "auto"},
        {.name = "header", .text = header[csv->header]},
        {.name = "user_column", .text = csv->user_column ? csv->user_column : "auto"},
        {.name = "item_column", .text = csv->item_column ? csv->item_column : "auto"},
        {.name = "rating_column", .text = csv->rating_column ? csv->rating_column : "auto"},
        {.name = "time_column", .text = csv->time_column ? csv->time_column : "auto"},
        {.name = "event_column", .text = csv->event_column ? csv->event_column : "auto"},
        {.name = "events", .text = csv->events ? csv->events : "all"},
        {.name = "bad_rows", .text = csv->skip_bad_rows ? "skip" : "error"},
        {.name = "duplicates", .text = duplicates_name(job->reader.rule)},
        {.name = "min_rating", .is_double = true, .number = o->min_rating},
        {.name = "split", .text = o->own_split ? "users" : "given"},
        {.name = "min_item_users", .integer = s->min_item_users}, /* from here on only of a split made here */
        {.name = "min_user_items", .integer = s->min_user_items},
        {.name = "heldout_users", .integer = split->rows[SPLIT_TEST]},
        {.name = "target_fraction", .is_double = true, .number = s->target_fraction},
    };
    int n_attributes = (int)(sizeof attributes / sizeof *attributes) - (o->own_split ? 0 : 4);
    mallopt(M_MMAP_THRESHOLD, 4 << 20); /* HDF5 takes and frees a chunk of 1 MB again and again */
    mallopt(M_TRIM_THRESHOLD, 16 << 20);
    return shards_write(&job->comm, o->output, job->lock, s->n_shards, split, &job->reader.items, &job->rows,
                        attributes, n_attributes);
}

static double density(const struct split_counts *c) {
    return c->users && c->items ? (double)c->interactions / (double)c->users / (double)c->items : 0;
}

static void print_percentiles(const char *what, const int64_t percentile[SPLIT_PERCENTILES]) {
    printf("  interactions of %s, percentiles", what);
    for (int i = 0; i < SPLIT_PERCENTILES; i++) {
        printf("%s %d: %" PRId64, i ? "," : "", split_percentile[i], percentile[i]);
    }
    printf("\n");
}

/* What counts as a rating is not always one. */
static void print_odd_ratings(const struct job *job) {
    const struct csv_counts *c = &job->reader.counts;
    bool filtered = isfinite(job->options.min_rating);
    if (c->missing) {
        printf("note: %" PRId64 " rows have no rating; %s\n", c->missing,
               filtered ? "they are below any --min-rating"
                        : "without --min-rating they are interactions like the others");
    }
    if (c->negative) {
        printf("note: %" PRId64 " ratings are negative, which often means that an item was not rated; %s\n",
               c->negative,
               filtered ? "they count as the numbers that they are"
                        : "without --min-rating they are interactions like the others");
    }
}

static void print_summary(const struct job *job) {
    static const char *const split_name[SPLITS] = {"training", "validation", "test"};
    static const char *const when[SPLIT_STAGES] = {"before the filters", "after them"};
    const struct split *split = &job->split;
    const struct reader *r = &job->reader;
    printf("rows: %" PRId64 " read, %" PRId64 " skipped, %" PRId64 " duplicates, %" PRId64
           " below the rating\n",
           r->rows, r->counts.skipped, split->duplicates, split->unwanted);
    for (int i = 0; i < r->n_bad; i++)
        printf("%s row skipped: %s\n", i == 0 ? "first" : i == 1 ? "second" : "third", r->bad[i]);
    if (r->counts.other_events)
        printf("rows of other events, left out: %" PRId64 "\n", r->counts.other_events);
    print_odd_ratings(job);
    if (split->disputed) {
        printf("%" PRId64 " pairs have ratings above and below --min-rating: --duplicates %s decides\n",
               split->disputed, duplicates_name(r->rule));
    }
    for (int i = 0; i < (job->options.own_split ? SPLIT_STAGES : 1); i++) {
        const struct split_counts *c = &split->counts[i];
        printf("%s: %" PRId64 " users, %" PRId64 " items, %" PRId64 " interactions, density %.3g%%\n",
               when[i], c->users, c->items, c->interactions, 100 * density(c));
        print_percentiles("a user", c->per_user);
        print_percentiles("an item", c->per_item);
    }
    printf("dropped: %" PRId64 " items with too few users, %" PRId64 " users with too few items, %" PRId64
           " interactions with items unknown in training\n",
           split->dropped_items, split->dropped_users, split->dropped_interactions);
    printf("kept: %" PRId64 " users, %" PRId32 " items, %" PRId64 " interactions\n", split->n_users,
           split->n_items, split->n_interactions);
    for (int s = 0; s < SPLITS; s++) {
        int64_t input = split->nonzeros[s ? 2 * s - 1 : 0];
        printf("%s: %" PRId64 " users, %" PRId64 " interactions", split_name[s], split->rows[s], input);
        if (s == SPLIT_TRAIN) {
            printf(", density %.3g%%\n",
                   100 * (double)input / (double)split->rows[s] / (double)split->n_items);
        } else {
            printf(" as input, %" PRId64 " as target\n", split->nonzeros[2 * s]);
        }
    }
    if (split->n_overlap) {
        printf("note: %" PRId64 " target interactions are input of the same user too; they cannot be hit\n",
               split->n_overlap);
    }
}

/* DIR/report.csv: stage,quantity,value. */
static int write_report(const struct job *job, int64_t memory) {
    static const char *const stage[SPLIT_STAGES] = {"before filters", "after filters"};
    const struct split *split = &job->split;
    const struct reader *r = &job->reader;
    char name[DATASET_PATH_MAX + 32];
    struct output *output;
    snprintf(name, sizeof name, "%s/report.csv", job->options.output);
    int code = output_open(name, &output);
    if (code) return error_prefix(code, "the data set is complete, but");
    FILE *file = output_stream(output);
    fprintf(file, "stage,quantity,value\n");
    fprintf(file, "rows,read,%" PRId64 "\nrows,skipped,%" PRId64 "\n", r->rows, r->counts.skipped);
    for (int i = 0; i < CSV_BAD_SHOWN; i++) {
        static const char *const which[CSV_BAD_SHOWN] = {"first", "second", "third"};
        fprintf(file, "rows,%s skipped,\"", which[i]);
        for (const char *c = i < r->n_bad ? r->bad[i] : ""; *c; c++)
            fprintf(file, *c == '"' ? "\"\"" : "%c", *c);
        fprintf(file, "\"\n");
    }
    fprintf(file,
            "rows,without a rating,%" PRId64 "\nrows,with a negative rating,%" PRId64
            "\nrows,of other events,%" PRId64 "\n",
            r->counts.missing, r->counts.negative, r->counts.other_events);
    fprintf(file, "rows,duplicates,%" PRId64 "\nrows,below the rating,%" PRId64 "\n", split->duplicates,
            split->unwanted);
    fprintf(file, "rows,rule for duplicates,%s\nrows,pairs above and below the rating,%" PRId64 "\n",
            duplicates_name(r->rule), split->disputed);
    for (int i = 0; i < (job->options.own_split ? SPLIT_STAGES : 1); i++) {
        const struct split_counts *c = &split->counts[i];
        fprintf(file, "%s,users,%" PRId64 "\n%s,items,%" PRId64 "\n%s,interactions,%" PRId64 "\n", stage[i],
                c->users, stage[i], c->items, stage[i], c->interactions);
        fprintf(file, "%s,density,%.6g\n", stage[i], density(c));
        for (int k = 0; k < 2 * SPLIT_PERCENTILES; k++) {
            int p = k % SPLIT_PERCENTILES;
            fprintf(file, "%s,interactions of %s percentile %d,%" PRId64 "\n", stage[i],
                    k == p ? "a user" : "an item", split_percentile[p],
                    (k == p ? c->per_user : c->per_item)[p]);
        }
    }
    fprintf(file, "dataset,users,%" PRId64 "\ndataset,items,%" PRId32 "\ndataset,interactions,%" PRId64 "\n",
            split->n_users, split->n_items, split->n_interactions);
    fprintf(file, "dataset,interactions dropped as unknown in training,%" PRId64 "\n",
            split->dropped_interactions);
    for (int p = 0; p < DATASET_PARTS; p++) {
        fprintf(file, "dataset,%s users,%" PRId64 "\ndataset,%s interactions,%" PRId64 "\n",
                dataset_part_name[p], split->rows[split_of((enum dataset_part)p)], dataset_part_name[p],
                split->nonzeros[p]);
    }
    for (int i = 0; i < STAGES; i++) {
        fprintf(file, "time,%s seconds,%.3f\ntime,%s MB/s,%.1f\n", stage_name[i], job->seconds[i],
                stage_name[i], 1e-6 * (double)r->bytes / (job->seconds[i] + 1e-9));
    }
    fprintf(file, "memory,peak MB of a rank,%.0f\nmemory,MB on disk of rank 0,%.0f\n", (double)memory / 1024,
            1e-6 * (double)job->scratch.size);
    code = output_close(output, output_check(output));
    return code ? error_prefix(code, "the data set is complete, but") : 0;
}

static int finish(const struct job *job) {
    const struct reader *r = &job->reader;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    int64_t memory = comm_max(&job->comm, usage.ru_maxrss), shards = job->options.split.n_shards;
    if (job->comm.rank) return 0;
    print_summary(job);
    double time = seconds() - job->start;
    printf("written: %s, %" PRId64 " shard%s, fingerprint %s\n", job->options.output, shards,
           shards == 1 ? "" : "s", job->split.fingerprint);
    for (int i = 0; i < STAGES; i++) {
        printf("%s%s %.2f s (%.0f MB/s)", i ? ", " : "stages: ", stage_name[i], job->seconds[i],
               1e-6 * (double)r->bytes / (job->seconds[i] + 1e-9));
    }
    printf("\ntook: %.2f s, %.0f rows/s, %.0f MB of memory a rank, %.0f MB on disk in the meantime\n", time,
           (double)r->rows / time, (double)memory / 1024, 1e-6 * (double)job->scratch.size);
    return write_report(job, memory);
}

/* Was the program started by mpirun, srun or their like? MPI takes its time to start, and is not needed else.
 * PMIx tells no number of ranks in the environment. */
static bool is_parallel(void) {
    int rank;
    return comm_launched(&rank) > 1 || environment("PMIX_RANK");
}

static void note(const char *line) {
    fprintf(stderr, "%s: note: %s\n", program, line);
}

/* Shows what the files are taken for. */
static int inspect(const struct options *o) {
    int code = 0;
    for (int p = 0; p < DATASET_PARTS; p++) {
        for (int i = 0; i < o->files[p].n && !code; i++) code = csv_inspect(o->files[p].path[i], &o->csv);
    }
    return code;
}

static int run(struct job *job) {
    static int (*const step[STAGES])(struct job *) = {read_parts, split_parts, write_output};
    const struct comm *comm = &job->comm;
    bool made = false;
    if (job->options.inspect) return comm->rank ? 0 : inspect(&job->options);
    int code =
        comm->rank ? 0 : shards_prepare(job->options.output, job->options.force, note, &made, &job->lock);
    if (comm->size > 1) code = comm_agree(comm, code);
    if (!code) code = prepare(job);
    if (comm->size > 1) code = comm_agree(comm, code);
    for (int i = 0; i < STAGES && !code; i++) {
        double start = seconds();
        code = step[i](job);
        job->seconds[i] = seconds() - start;
    }
    if (!code) code = finish(job);
    lock_release(job->lock);
    if (code && made) rmdir(job->options.output); /* if nothing is in it */
    read_free(&job->reader);
    spool_close(&job->interactions);
    spool_close(&job->rows);
    split_free(&job->split);
    ids_free(&job->reader.items);
    scratch_close(&job->scratch);
    return code;
}

int main(int argc, char **argv) {
    program_start();
    struct job job = {.comm = {.mpi = MPI_COMM_NULL, .size = 1},
                      .options = {.min_rating = -(double)INFINITY,
                                  .split = {.seed = 98765,
                                            .min_user_items = 5,
                                            .heldout_users = -1,
                                            .target_fraction = 0.2,
                                            .n_shards = 1}},
                      .start = seconds()};
    struct options *o = &job.options;
    mallopt(M_MMAP_THRESHOLD, 1 << 20); /* what is freed goes back, so that --memory is kept */
    int code = parse_options(argc, argv, o);
    bool parallel = is_parallel();
    o->split.given = o->given_split;
    if (parallel) { /* also after an error: one rank speaks */
        job.comm = comm_start(&argc, &argv);
        code = comm_agree(&job.comm, code);
        comm_share_threads(&job.comm);
    }
    stop_catch_signals();
    if (!code) code = run(&job);
    for (int p = 0; p < DATASET_PARTS; p++) free(o->files[p].path);
    if (!code && (fflush(stdout) || ferror(stdout)))
        code = error_set(EX_IOERR, "standard output: %s", strerror(errno));
    if (code && job.comm.rank == 0) program_fail(program, code);
    if (parallel) comm_stop();
    if (code && stop_signal()) {
        signal(stop_signal(), SIG_DFL);
        raise(stop_signal());
    }
    return code;
}
