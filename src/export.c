/* vaecf-export: a checkpoint's model for other programs, as NumPy arrays. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend.h"
#include "checkpoint.h"
#include "error.h"
#include "npz.h"
#include "program.h"

static const char program[] = "vaecf-export";

static const char help[] =
    "usage: vaecf-export --checkpoint FILE.h5 --output model.npz\n"
    "\n"
    "Writes a model as NumPy arrays, for numpy.load; the README has a reader of few lines that computes "
    "scores.\n"
    "\n"
    "  -c, --checkpoint FILE  best.h5 or one of checkpoints/ of a run directory\n"
    "  -o, --output FILE      an uncompressed .npz\n"
    "  -h, --help             this text\n"
    "      --version          version, and what was compiled in\n"
    "\n"
    "Arrays: encoder/0/weight, encoder/0/bias, ..., decoder/0/weight, ... (float32, in the order in which "
    "they\n"
    "apply; the first and the last weight have a row an item), item_id (bytes), item_count (training "
    "users),\n"
    "(of ease: items/0/weight, of both ease and popularity items/0/bias),\n"
    "and scalars: type (vae, dae, ease, popularity), activation, layer_norm (0, 1), latent, config "
    "(the training's YAML), format_version.\n"
    "Exit: 0 done, 64 usage, 65 bad data, 66 not found, 71 no memory, 73 cannot create, 74 I/O error.\n";

static const struct option long_options[] = {
    {"checkpoint", required_argument, NULL, 'c'},
    {"output", required_argument, NULL, 'o'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, 'v'},
    {0},
};

struct options {
    const char *checkpoint, *output;
    int help, version;
};

static int parse(int argc, char **argv, struct options *o) {
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":c:o:h", long_options, NULL)) != -1;) {
        switch (c) {
        case 'c':
            o->checkpoint = optarg;
            break;
        case 'o':
            o->output = optarg;
            break;
        case 'h':
            o->help = 1;
            return 0;
        case 'v':
            o->version = 1;
            return 0;
        default:
            return program_bad_option(c, argv[optind - 1]);
        }
    }
    if (optind < argc)
        return error_set(EX_USAGE, "\"%s\": want only options (--help lists them)", argv[optind]);
    if (!o->checkpoint) return error_set(EX_USAGE, "--checkpoint is missing (--help tells more)");
    if (!o->output) return error_set(EX_USAGE, "--output is missing (--help tells more)");
    return 0;
}

static int add_text(struct npz *npz, const char *name, const char *text) {
    return npz_add(npz, name, NPZ_BYTES, -1, 0, strlen(text), text);
}

static int add_int(struct npz *npz, const char *name, int64_t value) {
    return npz_add(npz, name, NPZ_INT64, -1, 0, 0, &value);
}

static int add_tensors(struct npz *npz, const struct model *model) {
    struct backend *b = model->backend;
    int code = 0;
    for (int t = 0; t < model->n_tensors && !code; t++) {
        const struct tensor *tensor = &model->tensor[t];
        real *host = malloc(tensor->size * sizeof *host);
        if (!host) return error_memory("a tensor", tensor->size * sizeof *host);
        b->copy_out(b, host, model->params + tensor->offset, tensor->size);
        code = npz_add(npz, tensor->name, NPZ_FLOAT32, tensor->is_bias ? tensor->cols : tensor->rows,
                       tensor->is_bias ? 0 : tensor->cols, 0, host);
        free(host);
    }
    return code;
}

static int write_npz(const char *path, const struct config *config, const struct model *model,
                     const struct items *items) {
    static const char *const types[] = {"vae", "dae", "ease", "popularity"}, *const activations[] = {
                                                                                 "none", "tanh", "relu",
                                                                                 "sigmoid"};
    char text[CONFIG_TEXT_MAX];
    struct npz *npz;
    int code = npz_open(path, &npz);
    if (code) return code;
    config_text(config, text);
    code = add_tensors(npz, model);
    if (!code) code = npz_add(npz, "item_id", NPZ_BYTES, items->n, 0, items->width, items->ids);
    if (!code) code = npz_add(npz, "item_count", NPZ_INT64, items->n, 0, 0, items->count);
    if (!code) code = add_text(npz, "type", types[config->model.type]);
    if (!code) code = add_text(npz, "activation", activations[config->model.activation]);
    if (!code) code = add_int(npz, "layer_norm", config->model.layer_norm);
    if (!code) code = add_int(npz, "latent", config->model.latent);
    if (!code) code = add_text(npz, "config", text);
    if (!code) code = add_int(npz, "format_version", 1);
    return npz_close(npz, code);
}

static int export_model(const struct options *o) {
    struct checkpoint_info info;
    struct items items = {0};
    struct backend backend = {0};
    struct model model = {0};
    int code = checkpoint_read_info(o->checkpoint, &info);
    if (!code) code = checkpoint_read_items(o->checkpoint, &items);
    if (!code) code = backend_cpu_create(info.n_items, PRECISION_FP32, &backend);
    if (!code) code = model_create(&info.config.model, info.n_items, &backend, 0, &model);
    if (!code) code = checkpoint_read_model(o->checkpoint, &model, NULL, NULL);
    if (!code) code = write_npz(o->output, &info.config, &model, &items);
    model_free(&model);
    if (backend.destroy) backend.destroy(&backend);
    items_free(&items);
    return code;
}

int main(int argc, char **argv) {
    program_start();
    struct options o = {0};
    int code = parse(argc, argv, &o);
    if (!code && o.help) {
        fputs(help, stdout);
    } else if (!code && o.version) {
        program_version(program);
    } else if (!code) {
        code = export_model(&o);
    }
    return code ? program_fail(program, code) : 0;
}
