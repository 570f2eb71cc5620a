/* vaecf-preprocess: ratings CSV -> a dataset directory of HDF5 CSR shards. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "csv.h"
#include "error.h"
#include "ids.h"
#include "interactions.h"
#include "program.h"
#include "shards.h"
#include "split.h"

static const char program[] = "vaecf-preprocess";

static const char help[] =
    "vaecf-preprocess --input FILE... --output DIR [options]\n"
    "vaecf-preprocess --train FILE [--validation-input FILE --validation-target FILE]\n"
    "                 --test-input FILE --test-target FILE --output DIR [options]\n"
    "\n"
    "Makes a dataset directory for vaecf-train from users' interactions with items.\n"
    "\n"
    "Input: delimited text, plain, gzip or zstd; \"-\" is standard input. Each may be given several times.\n"
    "  --input FILE              interactions, to be split here\n"
    "  --train FILE, --validation-input FILE, --validation-target FILE, --test-input FILE, --test-target "
    "FILE\n"
    "                            interactions that were split elsewhere\n"
    "  --delimiter TEXT          between fields, \\t for a tab (default: the first of tab , :: in the first "
    "line)\n"
    "  --header auto|yes|no      is the first row a header? (default auto: looks at names and numbers)\n"
    "  --user-column COLUMN      name, or number from 1 (default 1)\n"
    "  --item-column COLUMN      name, or number from 1 (default 2)\n"
    "  --rating-column COLUMN    name, or number from 1, or none (default: 3 if there is a third column)\n"
    "  --bad-rows error|skip     what to do about rows that cannot be read (default error)\n"
    "\n"
    "Filters and split:\n"
    "  --min-rating X            only interactions with at least this rating (default: all)\n"
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
    "  --help, --version\n"
    "\n"
    "Exit codes: 0 done, 64 wrong usage, 65 bad input data, 66 input not found, 71 no memory, 73 cannot "
    "create\n"
    "output, 74 I/O error.\n";

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
    struct split_options split;
    const char *output;
    int64_t n_shards;
    bool force;
};

struct counts {
    int64_t rows, skipped, duplicates, unwanted;
    char first_skipped[1024];
    double start, last_progress; /* seconds */
};

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int parse_integer(const char *name, const char *text, int64_t low, int64_t high, int64_t *value) {
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (*text && !*end && !errno && *value >= low && *value <= high) return 0;
    return error_set(EX_USAGE, "--%s %s: want a whole number from %" PRId64 " to %" PRId64, name, text, low,
                     high);
}

static int parse_number(const char *name, const char *text, double *value) {
    char *end;
    *value = strtod(text, &end);
    if (*text && !*end && isfinite(*value)) return 0;
    return error_set(EX_USAGE, "--%s %s: want a number", name, text);
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
    OPTION_DELIMITER,
    OPTION_HEADER,
    OPTION_USER,
    OPTION_ITEM,
    OPTION_RATING,
    OPTION_BAD_ROWS,
    OPTION_MIN_RATING,
    OPTION_MIN_ITEM_USERS,
    OPTION_MIN_USER_ITEMS,
    OPTION_HELDOUT,
    OPTION_FRACTION,
    OPTION_SEED,
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
    {"delimiter", required_argument, NULL, OPTION_DELIMITER},
    {"header", required_argument, NULL, OPTION_HEADER},
    {"user-column", required_argument, NULL, OPTION_USER},
    {"item-column", required_argument, NULL, OPTION_ITEM},
    {"rating-column", required_argument, NULL, OPTION_RATING},
    {"bad-rows", required_argument, NULL, OPTION_BAD_ROWS},
    {"min-rating", required_argument, NULL, OPTION_MIN_RATING},
    {"min-item-users", required_argument, NULL, OPTION_MIN_ITEM_USERS},
    {"min-user-items", required_argument, NULL, OPTION_MIN_USER_ITEMS},
    {"heldout-users", required_argument, NULL, OPTION_HELDOUT},
    {"target-fraction", required_argument, NULL, OPTION_FRACTION},
    {"seed", required_argument, NULL, OPTION_SEED},
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
        return parse_integer(name, text, 1, SHARDS_MAX, &o->n_shards);
    case OPTION_FORCE:
        o->force = true;
        break;
    case OPTION_DELIMITER:
        o->csv.delimiter = text;
        break;
    case OPTION_USER:
        o->csv.user_column = text;
        break;
    case OPTION_ITEM:
        o->csv.item_column = text;
        break;
    case OPTION_RATING:
        o->csv.rating_column = text;
        break;
    case OPTION_HEADER:
        if (strcmp(text, "auto") == 0)
            o->csv.header = CSV_HEADER_AUTO;
        else if (strcmp(text, "yes") == 0)
            o->csv.header = CSV_HEADER_YES;
        else if (strcmp(text, "no") == 0)
            o->csv.header = CSV_HEADER_NO;
        else
            code = error_set(EX_USAGE, "--header %s: want auto, yes or no", text);
        break;
    case OPTION_BAD_ROWS:
        o->csv.skip_bad_rows = strcmp(text, "skip") == 0;
        if (strcmp(text, "skip") && strcmp(text, "error")) {
            code = error_set(EX_USAGE, "--bad-rows %s: want error or skip", text);
        }
        break;
    case OPTION_MIN_RATING:
        return parse_number(name, text, &o->min_rating);
    case OPTION_SEED:
        return parse_integer(name, text, 0, INT64_MAX, (int64_t *)&o->split.seed);
    default: /* those that only make sense where the split is made here */
        o->split_option = name;
        if (option == OPTION_MIN_ITEM_USERS) {
            code = parse_integer(name, text, 0, INT32_MAX, &o->split.min_item_users);
        } else if (option == OPTION_MIN_USER_ITEMS) {
            code = parse_integer(name, text, 0, INT32_MAX, &o->split.min_user_items);
        } else if (option == OPTION_FRACTION) {
            code = parse_number(name, text, &o->split.target_fraction);
            if (!code && !(o->split.target_fraction > 0 && o->split.target_fraction < 1)) {
                code = error_set(EX_USAGE, "--%s %s: want a number between 0 and 1", name, text);
            }
        } else if (strcmp(text, "auto") == 0) {
            o->split.heldout_users = -1;
        } else {
            code = parse_integer(name, text, 0, INT32_MAX, &o->split.heldout_users);
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
    if (optind < argc) {
        return error_set(EX_USAGE, "%s: every file needs its --input or another option before it",
                         argv[optind]);
    }
    return check_options(o);
}

static void progress(struct counts *counts, const char *path) {
    double now = seconds();
    if (now - counts->last_progress < 2) return;
    counts->last_progress = now;
    fprintf(stderr, "%s: %s: %.1f million rows, %.0f rows/s\n", program, path, 1e-6 * (double)counts->rows,
            (double)counts->rows / (now - counts->start));
}

static int read_file(const char *path, const struct options *o, struct ids *users, struct ids *items,
                     struct interactions *interactions, struct counts *counts) {
    struct csv *csv;
    struct csv_row row;
    int32_t user, item;
    int code = csv_open(path, &o->csv, &csv);
    if (code) return code;
    printf("%s: %s\n", path, csv_columns(csv));
    if (!csv_has_ratings(csv) && isfinite(o->min_rating)) {
        printf("%s: has no ratings: --min-rating does not count for it\n", path);
    }
    while (!(code = csv_next(csv, &row)) && row.user) {
        bool wanted = !csv_has_ratings(csv) || row.rating >= o->min_rating;
        code = ids_add(users, row.user, row.user_length, &user);
        if (!code) code = ids_add(items, row.item, row.item_length, &item);
        if (!code) code = interactions_add(interactions, user, item, wanted);
        if (code) break;
        if (++counts->rows % (1 << 16) == 0) progress(counts, path);
    }
    if (!counts->skipped)
        snprintf(counts->first_skipped, sizeof counts->first_skipped, "%s", csv_first_skipped(csv));
    counts->skipped += csv_skipped(csv);
    csv_close(csv);
    return code;
}

/* Reads all files of all parts into matrices over the same users and items. */
static int read_parts(const struct options *o, struct ids *users, struct ids *items,
                      struct csr matrix[DATASET_PARTS], struct counts *counts) {
    int code = 0;
    struct interactions interactions[DATASET_PARTS] = {0};
    for (int p = 0; p < DATASET_PARTS; p++) {
        for (int i = 0; i < o->files[p].n && !code; i++) {
            code = read_file(o->files[p].path[i], o, users, items, &interactions[p], counts);
        }
    }
    if (!code && !counts->rows) {
        code = error_set(EX_DATAERR, "%s: %s%s", o->files[DATASET_TRAIN].path[0],
                         counts->skipped ? "no row can be read; the first: " : "there are no rows",
                         counts->first_skipped);
    }
    for (int p = 0; p < DATASET_PARTS && !code; p++) {
        code = interactions_matrix(&interactions[p], users->n, items->n, &matrix[p], &counts->duplicates,
                                   &counts->unwanted);
    }
    if (!code && !csr_nonzeros(&matrix[DATASET_TRAIN])) {
        code =
            counts->unwanted
                ? error_set(EX_DATAERR, "--min-rating %g leaves no row to train on", o->min_rating)
                : error_set(EX_DATAERR, "%s: there are no rows to train on", o->files[DATASET_TRAIN].path[0]);
    }
    for (int p = 0; p < DATASET_PARTS; p++) interactions_free(&interactions[p]);
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

static int write_output(const struct options *o, const struct split *split, const struct ids *users,
                        const struct ids *items, const char *fingerprint) {
    static const char *const header[] = {"auto", "yes", "no"};
    char files[8192];
    list_files(o, files, sizeof files);
    const struct csv_options *csv = &o->csv;
    const struct split_options *s = &o->split;
    const struct shards_attribute attributes[] = {
        {.name = "seed", .integer = (int64_t)s->seed},
        {.name = "files", .text = files},
        {.name = "delimiter", .text = csv->delimiter ? csv->delimiter : "auto"},
        {.name = "header", .text = header[csv->header]},
        {.name = "user_column", .text = csv->user_column ? csv->user_column : "auto"},
        {.name = "item_column", .text = csv->item_column ? csv->item_column : "auto"},
        {.name = "rating_column", .text = csv->rating_column ? csv->rating_column : "auto"},
        {.name = "bad_rows", .text = csv->skip_bad_rows ? "skip" : "error"},
        {.name = "min_rating", .is_double = true, .number = o->min_rating},
        {.name = "split", .text = o->own_split ? "users" : "given"},
        {.name = "min_item_users", .integer = s->min_item_users}, /* from here on only of a split made here */
        {.name = "min_user_items", .integer = s->min_user_items},
        {.name = "heldout_users", .integer = split->rows[SPLIT_TEST]},
        {.name = "target_fraction", .is_double = true, .number = s->target_fraction},
    };
    int n_attributes = (int)(sizeof attributes / sizeof *attributes) - (o->own_split ? 0 : 4);
    return shards_write(o->output, o->n_shards, split, users, items, fingerprint, attributes, n_attributes);
}

static void print_summary(const struct options *o, const struct split *split, const struct counts *counts,
                          const char *fingerprint) {
    static const char *const split_name[SPLITS] = {"training", "validation", "test"};
    printf("rows: %" PRId64 " read, %" PRId64 " skipped, %" PRId64 " duplicates, %" PRId64
           " below the rating\n",
           counts->rows, counts->skipped, counts->duplicates, counts->unwanted);
    if (counts->skipped) printf("first row skipped: %s\n", counts->first_skipped);
    printf("dropped: %" PRId64 " items with too few users, %" PRId64 " users with too few items, %" PRId64
           " interactions with items unknown in training\n",
           split->dropped_items, split->dropped_users, split->dropped_interactions);
    printf("kept: %" PRId64 " users, %" PRId32 " items, %" PRId64 " interactions\n", split->n_users,
           split->n_items, split->n_interactions);
    for (int s = 0; s < SPLITS; s++) {
        int64_t input = csr_nonzeros(&split->part[s ? 2 * s - 1 : 0]);
        printf("%s: %" PRId64 " users, %" PRId64 " interactions", split_name[s], split->rows[s], input);
        if (s == SPLIT_TRAIN) {
            printf(", density %.3g%%\n",
                   100 * (double)input / (double)split->rows[s] / (double)split->n_items);
        } else {
            printf(" as input, %" PRId64 " as target\n", csr_nonzeros(&split->part[2 * s]));
        }
    }
    if (split->n_overlap) {
        printf("note: %" PRId64 " target interactions are input of the same user too; they cannot be hit\n",
               split->n_overlap);
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double time = seconds() - counts->start;
    printf("written: %s, %" PRId64 " shard%s, fingerprint %s\n", o->output, o->n_shards,
           o->n_shards == 1 ? "" : "s", fingerprint);
    printf("took: %.2f s, %.0f rows/s, %.0f MB of memory\n", time, (double)counts->rows / time,
           (double)usage.ru_maxrss / 1024);
}

int main(int argc, char **argv) {
    struct options options = {
        .min_rating = -(double)INFINITY,
        .n_shards = 1,
        .split = {.seed = 98765, .min_user_items = 5, .heldout_users = -1, .target_fraction = 0.2}};
    struct counts counts = {.start = seconds()};
    struct ids users = {0}, items = {0};
    struct csr matrix[DATASET_PARTS] = {0};
    struct split split = {0};
    char fingerprint[DATASET_FINGERPRINT_SIZE];
    counts.last_progress = counts.start;

    int code = parse_options(argc, argv, &options);
    if (!code) code = shards_prepare(options.output, options.force);
    if (!code) code = read_parts(&options, &users, &items, matrix, &counts);
    if (!code) {
        code = options.own_split ? split_users(&matrix[DATASET_TRAIN], &users, &items, &options.split, &split)
                                 : split_given(matrix, &users, &items, &options.split, &split);
    }
    if (!code) split_fingerprint(&split, &users, &items, fingerprint);
    if (!code) code = write_output(&options, &split, &users, &items, fingerprint);
    if (!code) print_summary(&options, &split, &counts, fingerprint);

    for (int p = 0; p < DATASET_PARTS; p++) {
        csr_free(&matrix[p]);
        free(options.files[p].path);
    }
    split_free(&split);
    ids_free(&users);
    ids_free(&items);
    if (!code && (fflush(stdout) || ferror(stdout)))
        code = error_set(EX_IOERR, "standard output: %s", strerror(errno));
    return code ? program_fail(program, code) : 0;
}
