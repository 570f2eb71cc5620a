/* vaecf-train: trains on a data set, over MPI ranks. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "comm.h"
#include "config.h"
#include "error.h"
#include "program.h"
#include "signals.h"
#include "trainer.h"

static const char program[] = "vaecf-train";

static const char help[] =
    "usage: mpirun -n RANKS vaecf-train --config FILE.yaml [--set KEY=VALUE]... [--resume auto]\n"
    "\n"
    "Trains a Mult-VAE or Mult-DAE on a data set made by vaecf-preprocess.\n"
    "\n"
    "  -c, --config FILE     YAML configuration; jobs/configs/ has examples\n"
    "  -s, --set KEY=VALUE   overrides a key, for example train.epochs=50; may be given again and again\n"
    "  -r, --resume auto     goes on from the newest whole checkpoint in output.path; begins if there is "
    "none\n"
    "      --resume FILE     goes on from this checkpoint\n"
    "      --overwrite       begins anew where there is a run already\n"
    "  -h, --help            this text\n"
    "      --version         version, and what was compiled in\n"
    "\n"
    "Writes to output.path: config.yaml, metrics.csv (a row an epoch), train.log, checkpoints/, best.h5 (the "
    "model\n"
    "with the best validation value) and test.csv. SIGTERM, SIGUSR1 or SIGINT: the step ends, a checkpoint "
    "is\n"
    "saved, exit 75. OMP_NUM_THREADS: threads of a rank; default: the ranks on a machine share its cores.\n"
    "VAECF_HANG_SECONDS: a rank that is silent so long is taken for dead, which ends the job (40; 0: "
    "never).\n"
    "Exit: 0 done, 64 usage, 65 bad data, 66 not found, 70 the loss is not finite, 71 no memory, 73 cannot "
    "create,\n"
    "74 I/O error, 75 stopped: run me again with --resume auto, 78 bad configuration.\n";

enum { OPTION_OVERWRITE = 256, OPTION_VERSION };

static const struct option long_options[] = {
    {"config", required_argument, NULL, 'c'},
    {"set", required_argument, NULL, 's'},
    {"resume", required_argument, NULL, 'r'},
    {"overwrite", no_argument, NULL, OPTION_OVERWRITE},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

struct options {
    const char *config, *resume;
    const char **sets;
    int n_sets, overwrite, help, version;
};

static int parse(int argc, char **argv, struct options *o) {
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":c:s:r:h", long_options, NULL)) != -1;) {
        switch (c) {
        case 'c':
            o->config = optarg;
            break;
        case 's':
            o->sets[o->n_sets++] = optarg;
            break;
        case 'r':
            o->resume = optarg;
            break;
        case OPTION_OVERWRITE:
            o->overwrite = 1;
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
    if (optind < argc) {
        return error_set(EX_USAGE, "\"%s\": want only options (--help lists them)", argv[optind]);
    }
    if (!o->config) return error_set(EX_USAGE, "--config is missing (--help tells more)");
    if (o->resume && o->overwrite) return error_set(EX_USAGE, "--resume and --overwrite exclude each other");
    return 0;
}

/* Rank 0 reads the configuration, all get it. */
static int read_config(const struct options *o, const struct comm *comm, struct config *config) {
    int code = 0;
    memset(config, 0, sizeof *config);
    if (comm->rank == 0) code = config_load(o->config, o->sets, o->n_sets, config);
    code = comm_agree(comm, code);
    if (code) return code;
    comm_broadcast(comm, config, sizeof *config);
    return comm_agree(comm, backend_probe((enum device)config->device));
}

int main(int argc, char **argv) {
    program_start();
    struct options o = {.sets = calloc((size_t)argc + 1, sizeof *o.sets)};
    struct config config;
    struct comm comm;
    int code = o.sets ? signals_catch() : error_memory("the options", (unsigned long long)argc);
    if (!code) code = parse(argc, argv, &o);
    if (!code && (o.help || o.version)) {
        if (o.help) fputs(help, stdout);
        if (o.version) program_version(program);
        free(o.sets);
        return 0;
    }
    comm = comm_start(&argc, &argv);
    code = comm_agree(&comm, code);
    if (!code) code = read_config(&o, &comm, &config);
    if (!code) {
        comm_share_threads(&comm);
        enum trainer_start start = o.overwrite ? TRAINER_OVERWRITE : TRAINER_FRESH;
        if (o.resume) start = strcmp(o.resume, "auto") == 0 ? TRAINER_RESUME : TRAINER_RESUME_FROM;
        code = trainer_run(&config, start, o.resume, &comm);
    }
    if (code && comm.rank == 0) program_fail(program, code);
    free(o.sets);
    comm_stop();
    return code;
}
