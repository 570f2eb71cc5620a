/* vaecf-evaluate: a checkpoint's metrics on a data set's held-out users, over MPI ranks. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "blend.h"
#include "comm.h"
#include "dataset.h"
#include "error.h"
#include "options.h"
#include "path.h"
#include "program.h"
#include "ranking.h"

static const char program[] = "vaecf-evaluate";

static const char help[] =
    "usage: mpirun -n RANKS vaecf-evaluate --checkpoint FILE.h5 --data DIR [--split test] [--output "
    "FILE.csv]\n"
    "\n"
    "Ranks all items for each held-out user and writes the table split,users,metric,value,stderr.\n"
    "\n"
    "  -c, --checkpoint FILE  best.h5 or one of checkpoints/ of a run directory\n"
    "      --blend FILE:W     add W times another model's scores; may be given again\n"
    "  -d, --data DIR         the data set that the model was trained on\n"
    "      --split NAME       test (default) or validation\n"
    "  -m, --metrics LIST     for example ndcg@100,recall_all@20,mrr; default: all at 5, 10, 20, 50 and 100\n"
    "  -o, --output FILE      default: standard output\n"
    "      --device NAME      auto (default: a GPU, if all ranks have one), cpu or cuda\n"
    "  -h, --help             this text\n"
    "      --version          version, and what was compiled in\n"
    "\n"
    "Metrics: recall@R (hits / min(R, targets)), recall_all@R (hits / targets), precision@R, hitrate@R, "
    "ndcg@R, map@R,\n"
    "mrr, coverage@R. Users without a target are not scored; items of the input are left out; ties go to the "
    "lower\n"
    "item index.\n"
    "Exit: 0 done, 64 usage, 65 bad data, 66 not found, 71 no memory, 73 cannot create, 74 I/O error,\n"
    "78 no such device in this program.\n";

enum { OPTION_SPLIT = 256, OPTION_BLEND, OPTION_DEVICE, OPTION_VERSION };

static const struct option long_options[] = {
    {"checkpoint", required_argument, NULL, 'c'},
    {"blend", required_argument, NULL, OPTION_BLEND},
    {"data", required_argument, NULL, 'd'},
    {"split", required_argument, NULL, OPTION_SPLIT},
    {"metrics", required_argument, NULL, 'm'},
    {"output", required_argument, NULL, 'o'},
    {"device", required_argument, NULL, OPTION_DEVICE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

static const char *const device_names[] = {"auto", "cpu", "cuda", NULL}; /* as enum device */
static const char *const split_names[] = {"test", "validation", NULL};

struct options {
    struct blend blend;
    const char *data, *metrics, *output;
    int split, device, help, version; /* split, device: place in the names */
};

static int parse(int argc, char **argv, struct options *o) {
    int code = 0;
    opterr = 0;
    for (int c; !code && (c = getopt_long(argc, argv, ":c:d:m:o:h", long_options, NULL)) != -1;) {
        switch (c) {
        case 'c':
            o->blend.path[0] = optarg;
            break;
        case OPTION_BLEND:
            code = blend_add(&o->blend, optarg);
            break;
        case 'd':
            o->data = optarg;
            break;
        case OPTION_SPLIT:
            code = option_choice("split", optarg, split_names, &o->split);
            break;
        case 'm':
            o->metrics = optarg;
            break;
        case 'o':
            o->output = optarg;
            break;
        case OPTION_DEVICE:
            code = option_choice("device", optarg, device_names, &o->device);
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
    if (code) return code;
    if (optind < argc)
        return error_set(EX_USAGE, "\"%s\": want only options (--help lists them)", argv[optind]);
    if (!o->blend.path[0]) return error_set(EX_USAGE, "--checkpoint is missing (--help tells more)");
    if (!o->data) return error_set(EX_USAGE, "--data is missing (--help tells more)");
    return path_check(o->output);
}

/* The metrics that are asked for. */
static int choose_metrics(const char *list, int64_t n_items, struct metrics *metrics) {
    struct metric wanted[METRICS_MAX];
    int n = 0;
    if (!list) return ranking_metrics_init(metrics, n_items);
    while (*list) {
        char name[METRIC_NAME_MAX];
        size_t length = strcspn(list, ",");
        snprintf(name, sizeof name, "%.*s", (int)(length < sizeof name ? length : sizeof name), list);
        if (n == METRICS_MAX) return error_set(EX_USAGE, "--metrics: want at most %d", METRICS_MAX);
        int code = metric_parse(name, &wanted[n++]);
        if (code) return error_prefix(code, "--metrics");
        list += length + (list[length] == ',');
    }
    if (n == 0) return error_set(EX_USAGE, "--metrics: want at least one, for example ndcg@100");
    return metrics_init(metrics, wanted, n, n_items);
}

/* This rank's rows of a part. */
static int read_part(const struct dataset *dataset, const struct comm *comm, enum dataset_part part,
                     struct csr *matrix) {
    int64_t first, count, *users = NULL;
    comm_part(dataset->rows[part], comm->rank, comm->size, &first, &count);
    int code = dataset_read(dataset, part, first, count, matrix, &users);
    free(users);
    return code;
}

static int evaluate(struct options *o, const struct comm *comm) {
    struct dataset dataset = {0};
    const struct checkpoint_info *info = o->blend.info;
    struct backend backend = {0};
    struct model models[MODELS_MAX] = {0};
    enum device device = DEVICE_CPU;
    struct metrics metrics = {0};
    struct csr input = {0}, target = {0};
    const char *split = split_names[o->split];
    int is_test = o->split == 0;
    enum dataset_part input_part = is_test ? DATASET_TEST_INPUT : DATASET_VALIDATION_INPUT;
    enum dataset_part target_part = is_test ? DATASET_TEST_TARGET : DATASET_VALIDATION_TARGET;
    int code = blend_read_info(&o->blend, comm);
    if (!code) code = blend_device(&o->blend, (enum device)o->device, &device);
    if (!code) code = dataset_open(o->data, comm, &dataset);
    if (!code) code = dataset_verify(&dataset, comm);
    if (code) goto cleanup;
    if (dataset.nonzeros[target_part] == 0) {
        code = error_set(EX_DATAERR, "%s: the %s split has no user with a target", o->data, split);
    } else if (info->n_items != dataset.n_items) {
        code = error_set(EX_DATAERR, "%s: has %lld items, %s has %lld; want the data set of the training",
                         o->blend.path[0], (long long)info->n_items, o->data, (long long)dataset.n_items);
    } else if (strcmp(info->fingerprint, dataset.fingerprint) != 0) {
        code = error_set(EX_DATAERR, "%s: was not trained on %s: it is split otherwise or from other rows",
                         o->blend.path[0], o->data);
    } else {
        code = choose_metrics(o->metrics, dataset.n_items, &metrics);
    }
    const struct backend_options options = {
        .n_items = dataset.n_items, .device = device, .comm_kind = COMM_MPI, .comm = comm};
    code = comm_agree(comm, code);
    if (!code) code = backend_create(&options, &backend);
    if (!code) code = blend_read(&o->blend, &backend, models);
    if (!code) code = read_part(&dataset, comm, input_part, &input);
    if (!code) code = read_part(&dataset, comm, target_part, &target);
    if (!code) code = ranking_evaluate(models, &input, &target, &metrics);
    code = comm_agree(comm, code);
    if (code) goto cleanup;
    metrics_reduce(&metrics, comm);
    if (comm->rank == 0) code = ranking_write_table(o->output, split, &metrics);
    code = comm_agree(comm, code);
cleanup:
    csr_free(&input);
    csr_free(&target);
    metrics_free(&metrics);
    blend_free(models);
    if (backend.destroy) backend.destroy(&backend);
    dataset_close(&dataset);
    return code;
}

int main(int argc, char **argv) {
    program_start();
    struct options o = {.blend.n = 1};
    int code = parse(argc, argv, &o);
    if (!code && (o.help || o.version)) {
        if (o.help) fputs(help, stdout);
        if (o.version) program_version(program);
        return 0;
    }
    struct comm comm = comm_start(&argc, &argv);
    code = comm_agree(&comm, code);
    if (!code) {
        comm_share_threads(&comm);
        code = evaluate(&o, &comm);
    }
    if (code && comm.rank == 0) program_fail(program, code);
    comm_stop();
    return code;
}
