/* Checkpoints; see checkpoint.h. */
#include "checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "file.h"
#include "h5.h"
#include "output.h"
#include "program.h"

static const char format_name[] = "vaecf-checkpoint";

enum { FORMAT_VERSION = 2, OBJECT_MAX = 96, PIECE = 1 << 24 /* numbers of a tensor at a time */ };

#ifdef VAECF_DOUBLE
#define H5_REAL H5T_NATIVE_DOUBLE
#else
#define H5_REAL H5T_NATIVE_FLOAT
#endif

/* ---- struct train_state, field by field ---- */

static const int64_t COUNT_MAX = (int64_t)1 << 53;

static const struct {
    const char *name;
    size_t at;
} int_fields[] =
    {
        {"epoch", offsetof(struct train_state, epoch)},
        {"epoch_step", offsetof(struct train_state, epoch_step)},
        {"step", offsetof(struct train_state, step)},
        {"encoder_steps", offsetof(struct train_state, encoder_steps)},
        {"good_steps", offsetof(struct train_state, good_steps)},
        {"best_epoch", offsetof(struct train_state, best_epoch)},
        {"bad_rounds", offsetof(struct train_state, bad_rounds)},
        {"epoch_users", offsetof(struct train_state, epoch_users)},
        {"epoch_skipped", offsetof(struct train_state, epoch_skipped)},
},
  double_fields[] = {
      {"loss_scale", offsetof(struct train_state, loss_scale)},
      {"best_value", offsetof(struct train_state, best_value)},
      {"epoch_loss", offsetof(struct train_state, epoch_loss)},
      {"epoch_nll", offsetof(struct train_state, epoch_nll)},
      {"epoch_kl", offsetof(struct train_state, epoch_kl)},
      {"epoch_seconds", offsetof(struct train_state, epoch_seconds)},
};

enum {
    INT_FIELDS = sizeof int_fields / sizeof *int_fields,
    DOUBLE_FIELDS = sizeof double_fields / sizeof *double_fields
};

static int write_state(hid_t file, const struct train_state *state) {
    const char *base = (const char *)state;
    int code = h5_make_group(file, "/state");
    for (int i = 0; i < INT_FIELDS && !code; i++) {
        int64_t value;
        memcpy(&value, base + int_fields[i].at, sizeof value);
        code = h5_set_int(file, "/state", int_fields[i].name, value);
    }
    for (int i = 0; i < DOUBLE_FIELDS && !code; i++) {
        double value;
        memcpy(&value, base + double_fields[i].at, sizeof value);
        code = h5_set_double(file, "/state", double_fields[i].name, value);
    }
    return code;
}

static int read_state(hid_t file, const char *path, struct train_state *state) {
    char *base = (char *)state;
    for (int i = 0; i < INT_FIELDS; i++) {
        int64_t value = 0;
        if (int_fields[i].at == offsetof(struct train_state, encoder_steps) &&
            H5Aexists_by_name(file, "/state", int_fields[i].name, H5P_DEFAULT) == 0)
            continue; /* of a version without turns */
        int code = h5_get_int(file, "/state", int_fields[i].name, &value);
        if (code) return code;
        if (value < 0 || value > COUNT_MAX) {
            return error_set(EX_DATAERR, "%s: /state: %s is %lld, want a count", path, int_fields[i].name,
                             (long long)value);
        }
        memcpy(base + int_fields[i].at, &value, sizeof value);
    }
    for (int i = 0; i < DOUBLE_FIELDS; i++) {
        double value = 0;
        int code = h5_get_double(file, "/state", double_fields[i].name, &value);
        if (code) return code;
        memcpy(base + double_fields[i].at, &value, sizeof value);
    }
    if (state->epoch <= UINT32_MAX && state->loss_scale > 0 && isfinite(state->loss_scale)) return 0;
    return error_set(EX_DATAERR, "%s: /state: epoch %lld, loss_scale %g: out of range", path,
                     (long long)state->epoch, state->loss_scale);
}

/* ---- tensors ---- */

static void tensor_path(const char *group, const struct tensor *tensor, char path[OBJECT_MAX]) {
    snprintf(path, OBJECT_MAX, "%s/%s", group, tensor->name);
}

/* Shape of a tensor in the file, which has all items and where a bias is a vector, and its rows that go at a
 * time. */
static int64_t tensor_shape(const struct model *model, const struct tensor *tensor, int64_t *rows,
                            int64_t *cols) {
    *rows = tensor->is_bias ? tensor->cols : tensor->rows;
    *cols = tensor->is_bias ? 0 : tensor->cols;
    if (tensor->is_range) *rows += model_all_items(model) - model->n_items;
    int64_t width = *cols ? *cols : 1;
    return width < PIECE ? PIECE / width : 1;
}

/* A buffer for the rows of any tensor that go at a time. */
static real *tensor_buffer(const struct model *model) {
    size_t largest = PIECE;
    for (int t = 0; t < model->n_tensors; t++) {
        const struct tensor *tensor = &model->tensor[t];
        if (!tensor->is_bias && tensor->cols > (int64_t)largest) largest = (size_t)tensor->cols;
    }
    real *buffer = malloc(largest * sizeof *buffer);
    if (!buffer) error_memory("a checkpoint's tensor", largest * sizeof *buffer);
    return buffer;
}

/* ---- the parts of other item ranks ---- */

/* What item rank 0 asks another one for: rows of a tensor of its range. which END: nothing more. */
enum { END = -1, MODEL, M, V };
struct order {
    int64_t which, tensor, first, count;
};
enum { TAG_ORDER = 1, TAG_ROWS };

/* Gets them into the buffer. */
static void fetch(const struct comm *items, int rank, struct order order, int64_t width, real *buffer) {
    MPI_Send(&order, sizeof order, MPI_BYTE, rank, TAG_ORDER, items->mpi);
    MPI_Recv(buffer, (int)((size_t)(order.count * width) * sizeof *buffer), MPI_BYTE, rank, TAG_ROWS,
             items->mpi, MPI_STATUS_IGNORE);
}

/* Answers orders until the end. */
static int serve(const struct model *model, const real *m, const real *v, real *buffer) {
    const struct comm *items = &model->grid->items;
    const real *block[] = {model->params, m, v};
    struct backend *b = model->backend;
    for (;;) {
        struct order order;
        MPI_Recv(&order, sizeof order, MPI_BYTE, 0, TAG_ORDER, items->mpi, MPI_STATUS_IGNORE);
        if (order.which == END) break;
        const struct tensor *tensor = &model->tensor[order.tensor];
        int64_t width = tensor->is_bias ? 1 : tensor->cols;
        size_t n = (size_t)(order.count * width);
        b->copy_out(b, buffer, block[order.which] + tensor->offset + order.first * width, n);
        if (b->check(b)) buffer[0] = NAN; /* item rank 0 is not to write this */
        MPI_Send(buffer, (int)(n * sizeof *buffer), MPI_BYTE, 0, TAG_ROWS, items->mpi);
    }
    return b->check(b);
}

static void end_serving(const struct model *model) {
    const struct order end = {.which = END};
    for (int rank = 1; model->grid && rank < model->grid->items.size; rank++) {
        MPI_Send(&end, sizeof end, MPI_BYTE, rank, TAG_ORDER, model->grid->items.mpi);
    }
}

/* Rows of a tensor, as the file has them, that one item rank has: [first, end). */
static void rows_of(const struct model *model, const struct tensor *tensor, int rank, int64_t *first,
                    int64_t *end) {
    *first = 0;
    *end = tensor->is_bias ? tensor->cols : tensor->rows;
    if (!tensor->is_range || !model->grid) return;
    *first = model->grid->start[rank];
    *end = model->grid->start[rank + 1];
}

/* ---- writing and reading blocks ---- */

static int write_piece(hid_t file, const char *path, int64_t first, int64_t count, size_t n,
                       const real *piece) {
    for (size_t i = 0; i < n; i++) {
        if (isfinite(piece[i])) continue;
        return error_set(EX_SOFTWARE, "%s is not finite: the training has diverged; no checkpoint is written",
                         path);
    }
    return h5_write_rows(file, path, H5_REAL, first, count, piece);
}

/* Block `which` of the model; the parts of this rank are at `block`. */
static int write_block(hid_t file, const char *group, const struct model *model, int which, const real *block,
                       real *buffer) {
    struct backend *b = model->backend;
    int code = 0;
    for (int t = 0; t < model->n_tensors && !code; t++) {
        const struct tensor *tensor = &model->tensor[t];
        char path[OBJECT_MAX];
        int64_t rows, cols, piece = tensor_shape(model, tensor, &rows, &cols), width = cols ? cols : 1;
        tensor_path(group, tensor, path);
        code = h5_write(file, path, H5_REAL, rows, cols, NULL, 0);
        int ranks = tensor->is_range && model->grid ? model->grid->items.size : 1;
        for (int rank = 0; rank < ranks; rank++) {
            int64_t begin, end;
            rows_of(model, tensor, rank, &begin, &end);
            for (int64_t first = begin; first < end && !code; first += piece) {
                int64_t count = end - first < piece ? end - first : piece;
                size_t n = (size_t)(count * width);
                if (rank == 0) {
                    b->copy_out(b, buffer, block + tensor->offset + first * width, n);
                } else {
                    fetch(&model->grid->items, rank, (struct order){which, t, first - begin, count}, width,
                          buffer);
                }
                code = write_piece(file, path, first, count, n, buffer);
            }
        }
    }
    return code;
}

static int read_block(hid_t file, const char *name, const char *group, const struct model *model, real *block,
                      real *buffer) {
    struct backend *b = model->backend;
    int code = 0;
    for (int t = 0; t < model->n_tensors && !code; t++) {
        const struct tensor *tensor = &model->tensor[t];
        char path[OBJECT_MAX];
        int64_t rows, cols, want_rows, want_cols, begin, end;
        int64_t piece = tensor_shape(model, tensor, &want_rows, &want_cols);
        tensor_path(group, tensor, path);
        code = h5_shape(file, path, &rows, &cols);
        if (code) return code;
        if (rows != want_rows || cols != want_cols) {
            return error_set(EX_DATAERR, "%s: %s: is [%lld, %lld], want [%lld, %lld]", name, path,
                             (long long)rows, (long long)cols, (long long)want_rows, (long long)want_cols);
        }
        rows_of(model, tensor, model->grid ? model->grid->items.rank : 0, &begin, &end);
        for (int64_t first = begin; first < end && !code; first += piece) {
            int64_t count = end - first < piece ? end - first : piece, width = cols ? cols : 1;
            real *to = block + tensor->offset + (first - begin) * width;
            code = h5_read(file, path, H5_REAL, first, count, buffer);
            if (!code) b->copy_in(b, to, buffer, (size_t)(count * width));
        }
    }
    return code;
}

/* ---- writing ---- */

static int write_items(hid_t file, const struct items *items) {
    int code = h5_write_strings(file, "/items/id", items->n, items->width, items->ids);
    return code ? code : h5_write(file, "/items/count", H5T_NATIVE_INT64, items->n, 0, items->count, 0);
}

static int write_all(hid_t file, const struct config *config, const struct train_state *state,
                     const struct model *model, const real *m, const real *v, const struct items *items,
                     const char *fingerprint, real *buffer) {
    char text[CONFIG_TEXT_MAX];
    config_text(config, text);
    int code = h5_set_text(file, "/", "format", format_name);
    if (!code) code = h5_set_int(file, "/", "format_version", FORMAT_VERSION);
    if (!code) code = h5_set_text(file, "/", "program", program_version_text);
    if (!code) code = h5_set_int(file, "/", "n_items", model_all_items(model));
    if (!code) code = h5_set_text(file, "/", "fingerprint", fingerprint);
    if (!code) code = h5_set_text(file, "/", "config", text);
    if (!code) code = h5_set_int(file, "/", "has_optimizer", m != NULL);
    if (!code) code = write_state(file, state);
    if (!code) code = write_items(file, items);
    if (!code) code = write_block(file, "/model", model, MODEL, model->params, buffer);
    if (!code && m) code = write_block(file, "/optimizer/m", model, M, m, buffer);
    if (!code && v) code = write_block(file, "/optimizer/v", model, V, v, buffer);
    return code;
}

int checkpoint_save(const char *path, const struct config *config, const struct train_state *state,
                    const struct model *model, const real *m, const real *v, const struct items *items,
                    const char *fingerprint) {
    struct output *output = NULL;
    const char *name;
    hid_t file = H5I_INVALID_HID;
    real *buffer = tensor_buffer(model);
    int code = grid_agree(model->grid, buffer ? 0 : EX_OSERR);
    if (!code && model->grid && model->grid->items.rank > 0) {
        code = serve(model, m, v, buffer);
    } else if (!code) {
        code = output_open(path, &output);
        if (!code) code = output_name(output, &name);
        if (!code) code = h5_create(name, &file);
        if (!code) code = write_all(file, config, state, model, m, v, items, fingerprint, buffer);
        end_serving(model);
        if (file >= 0) code = h5_close(file, name, code);
        code = output_close(output, code);
    }
    free(buffer);
    return code;
}

/* ---- reading ---- */

/* Opens a checkpoint with h5_open or h5_open_sealed. */
static int open_checkpoint(const char *path, int (*open)(const char *, hid_t *), hid_t *file) {
    char format[32];
    int64_t version;
    int code = open(path, file);
    if (code) return code;
    code = h5_get_text(*file, "/", "format", format, sizeof format);
    if (!code && strcmp(format, format_name) != 0) {
        code = error_set(EX_DATAERR, "%s: is a \"%s\", want a checkpoint of vaecf-train", path, format);
    }
    if (!code) code = h5_get_int(*file, "/", "format_version", &version);
    if (!code && version != FORMAT_VERSION) {
        code = error_set(EX_DATAERR, "%s: format version %lld, this program reads %d", path,
                         (long long)version, FORMAT_VERSION);
    }
    if (code) H5Fclose(*file);
    return code;
}

int checkpoint_read_info(const char *path, struct checkpoint_info *info) {
    char text[CONFIG_TEXT_MAX];
    hid_t file;
    int64_t has_optimizer = 0;
    memset(info, 0, sizeof *info);
    int code = open_checkpoint(path, h5_open_sealed, &file);
    if (code) return code;
    code = h5_get_text(file, "/", "config", text, sizeof text);
    if (!code) code = config_parse(text, path, &info->config);
    if (!code) code = h5_get_int(file, "/", "n_items", &info->n_items);
    if (!code && (info->n_items < 1 || info->n_items > INT32_MAX)) {
        code = error_set(EX_DATAERR, "%s: n_items is %lld", path, (long long)info->n_items);
    }
    if (!code) code = h5_get_text(file, "/", "fingerprint", info->fingerprint, sizeof info->fingerprint);
    if (!code) code = h5_get_int(file, "/", "has_optimizer", &has_optimizer);
    if (!code) code = read_state(file, path, &info->state);
    info->has_optimizer = has_optimizer != 0;
    H5Fclose(file);
    return code;
}

int checkpoint_share_info(const char *path, const struct comm *comm, struct checkpoint_info *info) {
    int code = comm_agree(comm, comm->rank == 0 ? checkpoint_read_info(path, info) : 0);
    if (!code) comm_broadcast(comm, info, sizeof *info);
    return code;
}

int checkpoint_read_model(const char *path, struct model *model, real *m, real *v) {
    hid_t file;
    int code = open_checkpoint(path, h5_open, &file);
    if (code) return code;
    real *buffer = tensor_buffer(model);
    if (!buffer) code = EX_OSERR;
    if (!code) code = read_block(file, path, "/model", model, model->params, buffer);
    if (!code && m) code = read_block(file, path, "/optimizer/m", model, m, buffer);
    if (!code && v) code = read_block(file, path, "/optimizer/v", model, v, buffer);
    free(buffer);
    H5Fclose(file);
    return code;
}

int checkpoint_read_items(const char *path, struct items *items) {
    hid_t file;
    int64_t n_items;
    *items = (struct items){0};
    int code = open_checkpoint(path, h5_open, &file);
    if (code) return code;
    code = h5_get_int(file, "/", "n_items", &n_items);
    if (!code) code = h5_read_strings(file, "/items/id", &items->n, &items->width, &items->ids);
    if (!code && items->n != n_items) {
        code = error_set(EX_DATAERR, "%s: /items/id: %lld items, want %lld", path, (long long)items->n,
                         (long long)n_items);
    }
    if (!code) {
        items->count = malloc(((size_t)items->n + 1) * sizeof *items->count);
        if (!items->count) code = error_memory("the catalogue", (size_t)items->n * sizeof *items->count);
    }
    if (!code) code = h5_read_columns(file, "/items/count", H5T_NATIVE_INT64, 0, 0, items->n, items->count);
    H5Fclose(file);
    if (code) items_free(items);
    return code;
}

/* ---- the directory ---- */

void checkpoint_path(const char *dir, int64_t step, char *path, int size) {
    snprintf(path, (size_t)size, "%s/checkpoints/step-%09lld.h5", dir, (long long)step);
}

/* The step of a checkpoint's file name; -1 if it is none. */
static int64_t step_of(const char *name) {
    char again[64];
    long long step;
    if (sscanf(name, "step-%lld.h5", &step) != 1 || step < 0) return -1;
    snprintf(again, sizeof again, "step-%09lld.h5", step);
    return strcmp(name, again) == 0 ? step : -1;
}

static int descending(const void *a, const void *b) {
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

int checkpoint_list(const char *dir, int64_t **steps, int *n) {
    char name[FILE_NAME_SIZE], path[FILE_NAME_SIZE];
    struct stat status;
    int code = 0;
    *steps = NULL;
    *n = 0;
    snprintf(name, sizeof name, "%s/checkpoints", dir);
    DIR *list = opendir(name);
    if (!list && errno == ENOENT) return 0;
    if (!list) return error_set(EX_IOERR, "%s: cannot read: %s", name, strerror(errno));
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(list);
        if (!entry && errno) code = error_set(EX_IOERR, "%s: cannot read: %s", name, strerror(errno));
        if (!entry) break;
        int64_t step = step_of(entry->d_name), *more;
        if (step < 0) continue;
        checkpoint_path(dir, step, path, sizeof path);
        if (lstat(path, &status) || !S_ISREG(status.st_mode)) continue;
        more = realloc(*steps, (size_t)(*n + 1) * sizeof *more);
        if (!more) {
            code = error_memory("the list of checkpoints", (size_t)(*n + 1) * sizeof *more);
            break;
        }
        *steps = more;
        more[(*n)++] = step;
    }
    closedir(list);
    if (code) {
        free(*steps);
        *steps = NULL;
        *n = 0;
    }
    if (*n) qsort(*steps, (size_t)*n, sizeof **steps, descending);
    return code;
}

int checkpoint_newest(const char *dir, char *path, int size, void (*warn)(const char *line)) {
    int64_t *steps;
    int n, found = 0, code = checkpoint_list(dir, &steps, &n);
    for (int i = 0; i < n && !code && !found; i++) {
        char line[1200];
        checkpoint_path(dir, steps[i], path, size);
        code = h5_check_seal(path);
        found = !code;
        if (code != EX_DATAERR) continue; /* a disk that cannot be read is no damage */
        code = 0;
        snprintf(line, sizeof line, "%s; trying the one before", error_message());
        if (i + 1 < n) warn(line);
    }
    free(steps);
    if (!code && !found && n) {
        code = error_prefix(EX_DATAERR,
                            "%s/checkpoints: none of the %d is whole; begin anew by --overwrite; the last",
                            dir, n);
    }
    if (!found) path[0] = '\0';
    return code;
}

int checkpoint_mark_damaged(const char *dir, int64_t above) {
    int64_t *steps;
    int n, code = checkpoint_list(dir, &steps, &n);
    for (int i = 0; i < n && !code && steps[i] > above; i++) {
        char path[FILE_NAME_SIZE], aside[FILE_NAME_SIZE + 16];
        checkpoint_path(dir, steps[i], path, sizeof path);
        snprintf(aside, sizeof aside, "%s.damaged", path);
        if (rename(path, aside)) code = error_set(EX_IOERR, "%s: cannot rename: %s", path, strerror(errno));
    }
    free(steps);
    return code;
}

int checkpoint_prune(const char *dir, int64_t keep) {
    int64_t *steps;
    int n, code = checkpoint_list(dir, &steps, &n);
    for (int i = 0; i < n && !code; i++) {
        char path[FILE_NAME_SIZE];
        if (i < keep) continue;
        checkpoint_path(dir, steps[i], path, sizeof path);
        if (unlink(path) && errno != ENOENT) {
            code = error_set(EX_IOERR, "%s: cannot remove: %s", path, strerror(errno));
        }
    }
    free(steps);
    return code;
}
