/* vaecf-synthesize: interactions like those of MovieLens, to any size, as a stream.
 *
 * Every user belongs to a group, and so does every item. A user's items are drawn from the group's or, the
 * rest, from all items, both by a power law of the item's rank; no item twice. All random numbers are
 * counter-based, so users are made side by side, in blocks that are written in order. */
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "error.h"
#include "options.h"
#include "output.h"
#include "philox.h"
#include "program.h"

static const char program[] = "vaecf-synthesize";

static const char help[] =
    "usage: vaecf-synthesize [--users N] [--items N] [--interactions N] [--output FILE] [options]\n"
    "\n"
    "Writes user,item,rating,timestamp, sorted by user and item as MovieLens' ratings.csv is. The defaults "
    "make\n"
    "a set of the size of MovieLens-20M. The same options make the same file, on any number of threads.\n"
    "\n"
    "  -u, --users N         users (default 138493)\n"
    "  -i, --items N         items (default 26744)\n"
    "  -n, --interactions N  rows (default 20000263); users have a log-normal number of them\n"
    "      --groups N        groups of users and items with a taste of their own (default 20); item ranks "
    "go\n"
    "                        round the groups\n"
    "      --affinity X      part of a user's interactions that is drawn from the group's items (default "
    "0.5);\n"
    "                        their ratings are higher\n"
    "      --exponent X      an item's popularity falls with this power of its rank (default 1.5)\n"
    "      --ids KIND        number (default: 1, 2, ...) or text (u1, i1)\n"
    "      --seed N          (default 1)\n"
    "      --truth FILE      also writes item,rank,group: what a model should find out\n"
    "  -o, --output FILE     default \"-\", standard output; FILE.gz, FILE.zst are compressed\n"
    "  -h, --help            this text\n"
    "      --version         version, and what was compiled in\n"
    "\n"
    "Exit: 0 done, 64 usage, 71 no memory, 73 cannot create, 74 I/O error.\n";

enum {
    BLOCK_ROWS = 1 << 15, /* made by one thread at once, or one user's */
    ROW_MAX = 64,         /* bytes */
    RETRIES = 8,          /* draws for an item that the user does not have yet */
    USER_SHARE = 4        /* a user has at most this part of the items, 1/4 */
};

enum draws { DRAW_USER, DRAW_ROW }; /* the epoch of philox */

struct options {
    int64_t users, items, interactions, groups, seed;
    double affinity, exponent;
    int text_ids; /* 0: numbers */
    const char *output, *truth;
};

/* ---- the items ---- */

/* The draws from `n` ranks: x^-exponent over [shift, shift + n), the shift flattening the top. */
struct power_law {
    int64_t n;
    double shift, power, low, span; /* x^power is uniform in [low, low + span); power 0: log x is */
};

static struct power_law power_law(int64_t n, double exponent) {
    struct power_law p = {.n = n, .shift = 1 + 1e-3 * (double)n, .power = 1 - exponent};
    double end = p.shift + (double)n;
    if (fabs(p.power) < 1e-9) p.power = 0;
    p.low = p.power == 0 ? log(p.shift) : pow(p.shift, p.power);
    p.span = (p.power == 0 ? log(end) : pow(end, p.power)) - p.low;
    return p;
}

static int64_t power_law_draw(const struct power_law *p, uint32_t word) {
    double y = p->low + p->span * ((double)word + 0.5) * 0x1p-32;
    int64_t rank = (int64_t)((p->power == 0 ? exp(y) : pow(y, 1 / p->power)) - p->shift);
    return rank < 0 ? 0 : rank >= p->n ? p->n - 1 : rank;
}

/* Item ids are scrambled ranks: id - 1 = rank * factor mod items. */
static int64_t find_factor(int64_t items) {
    for (int64_t factor = (int64_t)(0.618 * (double)items) | 1;; factor++) {
        int64_t a = items, b = factor;
        while (b) {
            int64_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1) return factor;
    }
}

struct source {
    const struct options *options;
    struct power_law all, *group; /* group: [groups], owned */
    int64_t factor;
};

static int64_t item_number(const struct source *s, int64_t rank) {
    return (int64_t)((__int128)rank * s->factor % s->options->items) + 1;
}

/* ---- one user ---- */

struct user {
    int64_t number; /* from 0 */
    int64_t rows;
};

/* The share of the interactions, before it is brought to scale: log-normal with MovieLens-20M's width. */
static double user_weight(const struct options *o, int64_t user) {
    float normal[4];
    philox_normal(philox((uint64_t)o->seed, PHILOX_SYNTHESIZE, DRAW_USER, (uint64_t)user, 0), normal);
    return exp(1.1 * (double)normal[0]);
}

/* MovieLens-20M's distribution of ratings, 0.5 to 5, of 65536. */
static int rating_halves(uint32_t word) {
    static const uint32_t below[] = {783, 3008, 3940, 8625, 11524, 25572, 32778, 50975, 56006};
    int halves = 1;
    for (int i = 0; i < 9; i++) halves += word >= below[i];
    return halves;
}

struct row {
    int64_t item; /* its number */
    int32_t time; /* seconds from the user's first */
    int32_t halves;
};

static int compare_rows(const void *pa, const void *pb) {
    const struct row *a = pa, *b = pb;
    return (a->item > b->item) - (a->item < b->item);
}

static char *put_number(char *at, int64_t n) {
    char digits[20];
    int length = 0;
    do digits[length++] = (char)('0' + n % 10);
    while (n /= 10);
    while (length) *at++ = digits[--length];
    return at;
}

/* Writes a user's rows from `at` on; returns their end. taken: a bit for each rank, all zero before and
 * after. */
static char *make_user(const struct source *s, struct user user, struct row *row, uint64_t *taken, char *at) {
    const struct options *o = s->options;
    uint64_t seed = (uint64_t)o->seed, number = (uint64_t)user.number;
    struct philox_block traits = philox(seed, PHILOX_SYNTHESIZE, DRAW_USER, number, 1);
    int64_t group = traits.lane[0] % o->groups;
    int64_t start = 789652009 + traits.lane[1] % 600000000; /* 1995 .. 2014 */
    uint32_t draw = 0;
    for (int64_t r = 0; r < user.rows; r++) {
        struct philox_block random;
        int64_t rank = 0;
        for (int try = 0; try < RETRIES; try++) {
            random = philox(seed, PHILOX_SYNTHESIZE, DRAW_ROW, number, draw++);
            if ((double)philox_uniform(random.lane[0]) < o->affinity) {
                rank = power_law_draw(&s->group[group], random.lane[1]) * o->groups + group;
            } else {
                rank = power_law_draw(&s->all, random.lane[1]);
            }
            if (!(taken[rank / 64] >> rank % 64 & 1)) break;
        }
        while (taken[rank / 64] >> rank % 64 & 1) rank = (rank + 1) % o->items;
        taken[rank / 64] |= UINT64_C(1) << rank % 64;
        int a = rating_halves(random.lane[2] & 0xffff), b = rating_halves(random.lane[2] >> 16);
        bool liked = rank % o->groups == group;
        row[r] = (struct row){rank, (int32_t)(random.lane[3] >> 9), (a > b) == liked ? a : b};
    }
    for (int64_t r = 0; r < user.rows; r++) {
        taken[row[r].item / 64] = 0;
        row[r].item = item_number(s, row[r].item);
    }
    qsort(row, (size_t)user.rows, sizeof *row, compare_rows);
    for (int64_t r = 0; r < user.rows; r++) {
        if (o->text_ids) *at++ = 'u';
        at = put_number(at, user.number + 1);
        *at++ = ',';
        if (o->text_ids) *at++ = 'i';
        at = put_number(at, row[r].item);
        *at++ = ',';
        *at++ = (char)('0' + row[r].halves / 2);
        *at++ = '.';
        *at++ = row[r].halves % 2 ? '5' : '0';
        *at++ = ',';
        at = put_number(at, start + row[r].time);
        *at++ = '\n';
    }
    return at;
}

/* ---- all users, in blocks ---- */

/* Deals the interactions out: the quota is what the users so far should have together. */
struct dealer {
    double sum, total; /* of the weights */
    int64_t next, dealt;
};

static struct user deal(const struct options *o, struct dealer *d) {
    d->sum += user_weight(o, d->next);
    int64_t most = (o->items + USER_SHARE - 1) / USER_SHARE, left = o->interactions - d->dealt;
    /* the others must not be left more than they can hold */
    int64_t least = left - (o->users - d->next - 1) * most;
    int64_t quota =
        d->next + 1 == o->users ? o->interactions : (int64_t)((double)o->interactions * (d->sum / d->total));
    struct user user = {d->next++, quota - d->dealt};
    if (user.rows < least) user.rows = least;
    if (user.rows > left) user.rows = left;
    if (user.rows > most) user.rows = most;
    if (user.rows < 0) user.rows = 0;
    d->dealt += user.rows;
    return user;
}

/* Users that one thread makes at once. */
struct block {
    struct user *user; /* [n], owned */
    int64_t n, capacity, rows, longest;
    char *text; /* owned */
    size_t length;
    int code;
};

static int fill_block(const struct options *o, struct dealer *dealer, struct block *b) {
    b->n = b->rows = b->longest = 0;
    while (dealer->next < o->users && b->rows < BLOCK_ROWS && b->n < BLOCK_ROWS) {
        if (b->n == b->capacity) {
            int64_t capacity = b->capacity ? 2 * b->capacity : 64;
            struct user *user = realloc(b->user, (size_t)capacity * sizeof *user);
            if (!user) return error_memory("users", (unsigned long long)capacity * sizeof *user);
            b->user = user;
            b->capacity = capacity;
        }
        struct user user = deal(o, dealer);
        b->user[b->n++] = user;
        b->rows += user.rows;
        if (user.rows > b->longest) b->longest = user.rows;
    }
    return 0;
}

static void make_block(const struct source *s, struct block *b) {
    size_t words = (size_t)(s->options->items + 63) / 64;
    uint64_t *taken = calloc(words, sizeof *taken);
    struct row *row = malloc(((size_t)b->longest + 1) * sizeof *row);
    char *text = realloc(b->text, (size_t)b->rows * ROW_MAX + 1);
    if (text) b->text = text;
    b->length = 0;
    b->code = taken && row && text ? 0 : EX_OSERR;
    char *at = text;
    for (int64_t i = 0; i < b->n && !b->code; i++) at = make_user(s, b->user[i], row, taken, at);
    if (!b->code) b->length = (size_t)(at - text);
    free(taken);
    free(row);
}

static int make_rows(const struct source *s, struct output *output) {
    const struct options *o = s->options;
    int n_blocks = 1, code = 0;
#ifdef _OPENMP
    n_blocks = 2 * omp_get_max_threads();
#endif
    struct block *block = calloc((size_t)n_blocks, sizeof *block);
    if (!block) return error_memory("blocks", (unsigned long long)n_blocks * sizeof *block);
    struct dealer dealer = {0};
    for (int64_t u = 0; u < o->users; u++) dealer.total += user_weight(o, u);
    static const char header[] = "userId,movieId,rating,timestamp\n";
    fputs(header, output_stream(output));
    while (!code && dealer.next < o->users) {
        for (int b = 0; b < n_blocks && !code; b++) code = fill_block(o, &dealer, &block[b]);
        if (code) break;
#pragma omp parallel for schedule(dynamic, 1)
        for (int b = 0; b < n_blocks; b++) make_block(s, &block[b]);
        for (int b = 0; b < n_blocks && !code; b++) {
            if (block[b].code) code = error_memory("rows", (unsigned long long)block[b].rows * ROW_MAX);
            if (!code) fwrite(block[b].text, 1, block[b].length, output_stream(output));
            if (!code) code = output_check(output);
        }
    }
    for (int b = 0; b < n_blocks; b++) {
        free(block[b].user);
        free(block[b].text);
    }
    free(block);
    return code;
}

/* ---- files ---- */

static int make_output(const struct source *s) {
    struct output *output;
    int code = output_open(s->options->output, &output);
    return code ? code : output_close(output, make_rows(s, output));
}

static int write_truth(const struct source *s) {
    struct output *output;
    int code = output_open(s->options->truth, &output);
    if (code) return code;
    FILE *file = output_stream(output);
    fprintf(file, "item,rank,group\n");
    for (int64_t rank = 0; rank < s->options->items; rank++) {
        fprintf(file, "%s%" PRId64 ",%" PRId64 ",%" PRId64 "\n", s->options->text_ids ? "i" : "",
                item_number(s, rank), rank + 1, rank % s->options->groups + 1);
    }
    return output_close(output, output_check(output));
}

/* ---- options ---- */

static int parse_options(int argc, char **argv, struct options *o) {
    static const char *const id_names[] = {"number", "text", NULL};
    static const struct option options[] = {
        {"users", required_argument, NULL, 'u'},
        {"items", required_argument, NULL, 'i'},
        {"interactions", required_argument, NULL, 'n'},
        {"groups", required_argument, NULL, 'g'},
        {"affinity", required_argument, NULL, 'a'},
        {"exponent", required_argument, NULL, 'e'},
        {"ids", required_argument, NULL, 'd'},
        {"seed", required_argument, NULL, 's'},
        {"truth", required_argument, NULL, 't'},
        {"output", required_argument, NULL, 'o'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},
        {0},
    };
    opterr = 0;
    for (int code = 0; !code;) {
        int option = getopt_long(argc, argv, ":u:i:n:o:h", options, NULL);
        if (option < 0) break;
        switch (option) {
        case 'u':
            code = option_whole("users", optarg, 1, INT32_MAX, &o->users);
            break;
        case 'i':
            code = option_whole("items", optarg, 1, INT32_MAX, &o->items);
            break;
        case 'n':
            code = option_whole("interactions", optarg, 1, INT64_C(1) << 50, &o->interactions);
            break;
        case 'g':
            code = option_whole("groups", optarg, 1, 1 << 20, &o->groups);
            break;
        case 'a':
            code = option_number("affinity", optarg, 0, 1, &o->affinity);
            break;
        case 'e':
            code = option_number("exponent", optarg, 0, 10, &o->exponent);
            break;
        case 's':
            code = option_whole("seed", optarg, 0, INT64_MAX, &o->seed);
            break;
        case 't':
            o->truth = optarg;
            break;
        case 'o':
            o->output = optarg;
            break;
        case 'd':
            code = option_choice("ids", optarg, id_names, &o->text_ids);
            break;
        case 'h':
            fputs(help, stdout);
            exit(0);
        case 'v':
            program_version(program);
            exit(0);
        case ':':
            code = error_set(EX_USAGE, "%s: the option needs a value", argv[optind - 1]);
            break;
        default:
            code = error_set(EX_USAGE, "%s: unknown option (see --help)", argv[optind - 1]);
        }
        if (code) return code;
    }
    if (optind < argc) return error_set(EX_USAGE, "%s: want only options (see --help)", argv[optind]);
    int64_t most = (o->items + USER_SHARE - 1) / USER_SHARE;
    if (o->interactions / o->users > most || o->interactions > most * o->users) {
        return error_set(EX_USAGE,
                         "--interactions %" PRId64
                         ": a user has at most a quarter of the items; want at most "
                         "%" PRId64,
                         o->interactions, most * o->users);
    }
    if (o->groups > o->items) {
        return error_set(EX_USAGE, "--groups %" PRId64 ": want at most one for each of the %" PRId64 " items",
                         o->groups, o->items);
    }
    return 0;
}

int main(int argc, char **argv) {
    program_start();
    struct options o = {.users = 138493,
                        .items = 26744,
                        .interactions = 20000263,
                        .groups = 20,
                        .seed = 1,
                        .affinity = 0.5,
                        .exponent = 1.5,
                        .output = "-"};
    int code = parse_options(argc, argv, &o);
    if (code) return program_fail(program, code);
    struct source s = {.options = &o, .all = power_law(o.items, o.exponent), .factor = find_factor(o.items)};
    s.group = malloc((size_t)o.groups * sizeof *s.group);
    if (!s.group) code = error_memory("groups", (unsigned long long)o.groups * sizeof *s.group);
    for (int64_t g = 0; g < o.groups && !code; g++) {
        s.group[g] = power_law((o.items - g + o.groups - 1) / o.groups, o.exponent);
    }
    if (!code && o.truth) code = write_truth(&s);
    if (!code) code = make_output(&s);
    free(s.group);
    return code ? program_fail(program, code) : 0;
}
