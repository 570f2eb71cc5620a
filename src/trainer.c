/* The training loop; see trainer.h.
 *
 * Ranks do the same in the same order. What only one of them can know (a signal, the clock, a failure)
 * travels with the sums of each step, so that all leave the loop at the same place. */
#include "trainer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "backend.h"
#include "baseline.h"
#include "checkpoint.h"
#include "dataset.h"
#include "error.h"
#include "file.h"
#include "grid.h"
#include "loss_scale.h"
#include "metrics.h"
#include "model.h"
#include "optimizer.h"
#include "program.h"
#include "ranking.h"
#include "report.h"
#include "run_directory.h"
#include "sampler.h"
#include "signals.h"
#include "span.h"

enum {
    PATH_SIZE = CONFIG_PATH_MAX + 64,
    PROGRESS_SECONDS = 10,
    SCORES_MAX = 1 << 25 /* until a look at signals */
};
static const double LIVE_SECONDS = 0.3;

struct trainer {
    const struct config *config;
    const struct comm *comm; /* all ranks */
    struct grid grid;
    struct dataset dataset;
    struct items items; /* rank 0's: they go into the checkpoints */
    struct sampler sampler;
    struct backend backend;
    struct model model;
    struct optimizer optimizer;
    int is_kept; /* the training set is on the device, which sums up the losses: see collect */
    struct csr validation_input, validation_target; /* this rank's part; of a target all items */
    struct metrics metrics;                         /* on validation */
    int n_metrics, chosen;                          /* in metrics; which of them chooses best.h5 */
    struct train_state state;
    struct run_directory directory; /* rank 0's */
    struct report report;           /* rank 0's */
    int is_complete;                /* it was, when we came */
    double started, saved, shown;   /* when: the run, the last checkpoint, the last line of progress */
    double slowest_save;            /* seconds */
    int64_t first_step;             /* the state's, when this process began */
    int64_t first_epoch;            /* that it began */
    double first_done;              /* and how much of it was done before */
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- data ---- */

/* This rank's rows of a part: of its items, or of all. */
static int read_part(const struct trainer *t, enum dataset_part part, int all_items, struct csr *matrix,
                     int64_t **users) {
    const struct grid *g = &t->grid;
    int64_t first, count;
    comm_part(t->dataset.rows[part], g->data.rank, g->data.size, &first, &count);
    return dataset_read_range(&t->dataset, part, first, count, all_items ? 0 : g->first,
                              all_items ? g->n_items : g->count, matrix, users);
}

/* Input and target of a split. */
static int read_split(const struct trainer *t, enum dataset_part input_part, enum dataset_part target_part,
                      struct csr *input, struct csr *target) {
    int64_t *users = NULL;
    int code = read_part(t, input_part, 0, input, &users);
    free(users);
    if (code) return code;
    code = read_part(t, target_part, 1, target, &users);
    free(users);
    return code;
}

static int has_validation(const struct trainer *t) {
    return t->dataset.nonzeros[DATASET_VALIDATION_TARGET] > 0;
}

static int load_data(struct trainer *t) {
    struct csr base = {0};
    int64_t *users = NULL;
    int code = dataset_open(t->config->data_path, t->comm, &t->dataset);
    if (!code) code = dataset_verify(&t->dataset, t->comm);
    if (code) return code;
    if (t->dataset.nonzeros[DATASET_TRAIN] == 0) {
        return error_set(EX_DATAERR, "%s: the training split is empty", t->config->data_path);
    }
    if (t->comm->rank == 0) code = dataset_read_items(&t->dataset, &t->items);
    code = comm_agree(t->comm, code);
    if (!code)
        code =
            grid_cut(t->comm, t->dataset.n_items, t->dataset.rows[DATASET_TRAIN], t->items.count, &t->grid);
    if (code) return code;
    code = read_part(t, DATASET_TRAIN, 0, &base, &users);
    if (!code) {
        code = sampler_create(&t->grid.data, &base, users, t->dataset.rows[DATASET_TRAIN],
                              t->config->train.batch_size, (uint64_t)t->config->train.seed, &t->sampler);
    }
    if (!code) {
        code = read_split(t, DATASET_VALIDATION_INPUT, DATASET_VALIDATION_TARGET, &t->validation_input,
                          &t->validation_target);
    }
    return comm_agree(t->comm, code);
}

/* ---- losses ---- */

static int loss_fault(const struct train_state *s) {
    return error_set(
        EX_SOFTWARE,
        "epoch %lld, step %lld: the loss is not a finite number; a smaller train.learning_rate or "
        "more train.warmup_steps may help; the last checkpoint is from before",
        (long long)s->epoch + 1, (long long)s->step + 1);
}

/* Fetches the losses of the steps since the last call, if the devices sum them up. Collective. */
static int collect(struct trainer *t) {
    struct train_state *s = &t->state;
    double sums[3], begin = now();
    if (!t->is_kept) return 0;
    int code = comm_agree(t->comm, t->backend.step_losses(&t->backend, sums));
    if (code) return code;
    comm_sum_double(t->comm, sums, 3);
    s->epoch_nll += sums[0];
    s->epoch_kl += sums[1];
    s->epoch_loss += sums[2];
    s->epoch_seconds += now() - begin;
    return isfinite(s->epoch_nll) && isfinite(s->epoch_kl) ? 0 : loss_fault(s);
}

/* ---- checkpoints ---- */

/* Does this rank have a part in writing checkpoints? The first row of the grid has the whole model. */
static int is_saving(const struct trainer *t) {
    return t->grid.data.rank == 0;
}

static int save(struct trainer *t) {
    SPAN("checkpoint");
    char path[PATH_SIZE];
    double begin = now();
    int code = collect(t);
    checkpoint_path(t->config->output_path, t->state.step, path, sizeof path);
    if (!code && t->comm->rank == 0) code = lock_check(t->directory.lock);
    /* the rows of the table that the checkpoint counts on */
    if (!code && t->comm->rank == 0) code = report_sync(&t->report);
    code = comm_agree(&t->grid.items, code);
    if (!code && is_saving(t)) {
        code = checkpoint_save(path, t->config, &t->state, &t->model, t->optimizer.m, t->optimizer.v,
                               &t->items, t->dataset.fingerprint);
    }
    if (t->comm->rank == 0) {
        if (!code) code = checkpoint_prune(t->config->output_path, t->config->train.checkpoint.keep);
        if (!code) report_log(&t->report, "%s: saved in %.2f s", path, now() - begin);
        t->slowest_save = fmax(t->slowest_save, now() - begin);
        if (!code && t->state.step > t->first_step) report_saved(t->slowest_save);
    }
    t->saved = now();
    return comm_agree(t->comm, code);
}

static void clear_epoch(struct train_state *s) {
    s->epoch_step = s->epoch_users = s->epoch_skipped = 0;
    s->epoch_loss = s->epoch_nll = s->epoch_kl = s->epoch_seconds = 0;
}

/* At the end of an epoch, whose sums are still wanted for the report. */
static int save_best(struct trainer *t) {
    SPAN("checkpoint");
    struct train_state state = t->state;
    char path[PATH_SIZE];
    int code = 0;
    clear_epoch(&state);
    if (t->comm->rank == 0) code = lock_check(t->directory.lock);
    code = comm_agree(&t->grid.items, code);
    if (!code && is_saving(t)) {
        snprintf(path, sizeof path, "%s/best.h5", t->config->output_path);
        code = checkpoint_save(path, t->config, &state, &t->model, NULL, NULL, &t->items,
                               t->dataset.fingerprint);
    }
    return comm_agree(t->comm, code);
}

static int stopped(const struct trainer *t) {
    if (!model_is_network(&t->config->model)) {
        return error_set(EX_STOPPED, "stopped by a signal; begin anew with --resume auto");
    }
    return error_set(EX_STOPPED,
                     "stopped by a signal after step %lld; a checkpoint is saved: go on with --resume auto",
                     (long long)t->state.step);
}

static int save_and_stop(struct trainer *t) {
    int code = save(t);
    return code ? code : stopped(t);
}

static void warn(const char *line) {
    fprintf(stderr, "vaecf-train: warning: %s\n", line);
}

/* Does what the checkpoint was made with let this run go on from it? */
static int check_checkpoint(const struct trainer *t, const char *path, const struct checkpoint_info *info) {
    const struct model_config *old = &info->config.model, *new = &t->config->model;
    const struct train_config *was = &info->config.train, *is = &t->config->train;
    if (!info->has_optimizer) {
        return error_set(EX_DATAERR,
                         "%s: holds a model without its training; resume from one in checkpoints/", path);
    }
    if (strcmp(info->fingerprint, t->dataset.fingerprint) != 0) {
        return error_set(EX_DATAERR, "%s: is of another data set than %s", path, t->dataset.path);
    }
    if (old->type != new->type || old->n_hidden != new->n_hidden || old->latent != new->latent ||
        memcmp(old->hidden, new->hidden, (size_t) new->n_hidden * sizeof *new->hidden) != 0 ||
        old->activation != new->activation || old->layer_norm != new->layer_norm ||
        old->decoder != new->decoder || !model_is_network(new)) {
        return error_set(EX_CONFIG,
                         "%s: is of another model: model.type, hidden, latent, activation, layer_norm and "
                         "decoder have to stay; a new model wants another output.path",
                         path);
    }
    if (was->early_stopping.metric.kind != is->early_stopping.metric.kind ||
        was->early_stopping.metric.at != is->early_stopping.metric.at) {
        char name[METRIC_NAME_MAX];
        metric_name(was->early_stopping.metric, name);
        return error_set(
            EX_CONFIG,
            "%s: train.early_stopping.metric has to stay %s, by which best.h5 was chosen; another one "
            "wants another output.path or --overwrite",
            path, name);
    }
    if (was->turns != is->turns) {
        return error_set(EX_CONFIG, "%s: train.turns has to stay %lld", path, (long long)was->turns);
    }
    if (info->state.epoch_step > 0 && (was->batch_size != is->batch_size || was->seed != is->seed)) {
        return error_set(EX_CONFIG,
                         "%s: is in the middle of an epoch: train.batch_size has to be %lld and "
                         "train.seed %lld",
                         path, (long long)was->batch_size, (long long)was->seed);
    }
    return 0;
}

static void note(const char *line) {
    fprintf(stderr, "vaecf-train: note: %s\n", line);
}

/* Chooses the checkpoint to go on from: path is "" if there is none. Rank 0 looks, all get it. */
static int choose_checkpoint(const struct trainer *t, enum trainer_start start, const char *given,
                             char path[PATH_SIZE]) {
    int code = 0;
    memset(path, 0, PATH_SIZE);
    if (t->comm->rank == 0) code = run_directory_choose(&t->directory, start, given, warn, path, PATH_SIZE);
    code = comm_agree(t->comm, code);
    if (!code) comm_broadcast(t->comm, path, PATH_SIZE);
    return code;
}

static int resume(struct trainer *t, const char *path) {
    struct checkpoint_info info;
    int code = checkpoint_share_info(path, t->comm, &info);
    if (code) return code;
    code = check_checkpoint(t, path, &info);
    if (!code) code = checkpoint_read_model(path, &t->model, t->optimizer.m, t->optimizer.v);
    if (!code) {
        t->state = info.state;
        loss_scale_resume(&info.config.train, &t->config->train, &t->state);
    }
    return comm_agree(t->comm, code);
}

static int is_finished(const struct trainer *t);

/* Brings the files of the run to where it goes on, and finds out whether it is complete. */
static int settle_directory(struct trainer *t, enum trainer_start start, const char *checkpoint) {
    const struct run_directory *run = &t->directory;
    int64_t is_complete = 0;
    int code = 0;
    if (t->comm->rank == 0) {
        code = run_directory_settle(run, start, checkpoint, &t->state, note);
        is_complete = is_finished(t) && t->state.epoch > 0 && run_directory_is_tested(run);
        if (!code && !is_complete) code = run_directory_go_on(run);
    }
    code = comm_agree(t->comm, code);
    t->is_complete = comm_max(t->comm, is_complete) != 0;
    return code;
}

/* After a resume: best.h5 has to be the best model so far, for later ones are compared with it. It is not if
 * it was of an abandoned branch, or written just before a crash, when the checkpoint was not yet. */
static int settle_best(struct trainer *t) {
    struct train_state *s = &t->state;
    int is_best = 0, code = 0;
    if (t->comm->rank == 0) code = run_directory_check_best(&t->directory, s, &is_best);
    code = comm_agree(t->comm, code);
    if (code || comm_max(t->comm, is_best) || t->is_complete) return code;
    if (has_validation(t) ? s->best_epoch == s->epoch && s->epoch_step == 0 && s->epoch > 0
                          : is_finished(t)) {
        return save_best(t); /* the model at hand is it */
    }
    if (!has_validation(t) || s->best_epoch == 0) return 0; /* there is none yet */
    if (is_finished(t)) {
        return error_set(
            EX_DATAERR,
            "%s/best.h5: is not the best model up to this checkpoint, epoch %lld's, which is gone; want "
            "a larger train.epochs, another checkpoint, or --overwrite",
            t->config->output_path, (long long)s->best_epoch);
    }
    if (t->comm->rank == 0) {
        report_line(&t->report,
                    "note: the best model so far, epoch %lld's, is gone: the choice of best.h5 starts anew",
                    (long long)s->best_epoch);
    }
    s->best_value = NAN;
    s->best_epoch = s->bad_rounds = 0;
    return 0;
}

/* ---- setting up ---- */

static void introduce(struct trainer *t, const char *checkpoint) {
    const struct dataset *d = &t->dataset;
    const struct model_config *m = &t->config->model;
    char layers[256] = "";
    for (int i = 0; i < m->n_hidden; i++) {
        snprintf(layers + strlen(layers), sizeof layers - strlen(layers), "-%d", m->hidden[i]);
    }
    snprintf(layers + strlen(layers), sizeof layers - strlen(layers), "-%d", m->latent);
    for (int i = m->n_hidden - 1; i >= 0 && m->decoder == DECODER_MIRROR; i--) {
        snprintf(layers + strlen(layers), sizeof layers - strlen(layers), "-%d", m->hidden[i]);
    }
    report_line(&t->report, "vaecf-train %s: %d rank%s, %s: %s", program_version_text, t->comm->size,
                t->comm->size == 1 ? "" : "s", t->backend.name, t->backend.describe);
    report_line(&t->report,
                "data %s: %lld users, %lld items, %lld interactions to train on; %lld users validate",
                d->path, (long long)d->rows[DATASET_TRAIN], (long long)d->n_items,
                (long long)d->nonzeros[DATASET_TRAIN], (long long)d->rows[DATASET_VALIDATION_INPUT]);
    if (model_is_network(m))
        report_line(&t->report,
                    "model %s %lld%s-%lld: %.3f million parameters; %lld steps an epoch of %lld users",
                    m->type == MODEL_VAE ? "vae" : "dae", (long long)d->n_items, layers,
                    (long long)d->n_items, 1e-6 * (double)model_all_parameters(&t->model),
                    (long long)sampler_steps(&t->sampler), (long long)t->config->train.batch_size);
    if (t->grid.items.size > 1)
        report_line(&t->report, "grid %d x %d: %d x a part of the users, %d x up to %lld of the items",
                    t->grid.data.size, t->grid.items.size, t->grid.data.size, t->grid.items.size,
                    (long long)t->grid.largest_count);
    if ((enum precision)t->config->train.precision != t->backend.precision) {
        report_line(&t->report, "note: train.precision: computing in fp32%s",
                    t->config->train.precision == PRECISION_BF16
                        ? "; bf16 needs oneDNN and a processor with AVX512-BF16 or AMX"
                        : "");
    }
    if (!has_validation(t))
        report_line(&t->report, "note: no validation users: best.h5 will be the last epoch's");
    if (*checkpoint) {
        report_line(&t->report, "going on from %s: epoch %lld, step %lld", checkpoint,
                    (long long)t->state.epoch + 1, (long long)t->state.step);
    }
}

/* Tells what memory a baseline takes, before it takes it. */
static int prepare_baseline(struct trainer *t) {
    const struct model_config *m = &t->config->model;
    int64_t needed, available, n = t->dataset.n_items;
    int code = baseline_check(m);
    if (code || m->type == MODEL_POPULARITY) return code;
    baseline_memory(m, n, t->comm, &needed, &available);
    if (t->comm->rank == 0) {
        printf("model ease: %lld x %lld items in fp32: %.2f GB on a machine, where %.2f GB are free\n",
               (long long)n, (long long)n, 1e-9 * (double)needed, 1e-9 * (double)available);
        fflush(stdout);
    }
    if (available == 0 || needed <= available) return 0;
    return error_set(EX_OSERR,
                     "model.type: ease: %lld items need %.2f GB on a machine (%.2f GB a rank), %.2f GB are "
                     "free; want fewer ranks on it, or a larger --min-item-users in vaecf-preprocess",
                     (long long)n, 1e-9 * (double)needed, 4e-9 * (double)n * (double)n,
                     1e-9 * (double)available);
}

/* Keeps the training set on the devices, if all of them can. */
static int keep(struct trainer *t) {
    struct backend *b = &t->backend;
    int64_t first, count, all = t->dataset.rows[DATASET_TRAIN], without;
    if (!b->keep) return 0;
    comm_part(all, t->grid.data.rank, t->grid.data.size, &first, &count);
    int code = b->keep(b, &t->sampler.base, t->sampler.base_users, all, first, t->config->train.batch_size);
    without = code == EX_UNAVAILABLE;
    code = comm_agree(t->comm, without ? 0 : code);
    comm_sum_int(t->comm, &without, 1);
    t->is_kept = !code && without == 0;
    return code;
}

static int set_up(struct trainer *t, enum trainer_start start, const char *given) {
    char checkpoint[PATH_SIZE];
    struct metric metric[REPORT_METRICS_MAX];
    const struct config *c = t->config;
    int code = 0;
    if (t->comm->rank == 0) code = run_directory_open(c->output_path, note, &t->directory);
    code = comm_agree(t->comm, code);
    if (!code) code = grid_create(t->comm, c->parallel.data, c->parallel.item, &t->grid);
    if (!code && t->grid.items.size > 1 && !model_is_network(&c->model)) {
        code = error_set(EX_CONFIG, "parallel.item: ease and popularity take no steps; want 1");
    }
    if (!code) code = load_data(t);
    if (code) return code;
    t->n_metrics = report_metrics(t->config, metric, &t->chosen);
    int is_network = model_is_network(&t->config->model);
    if (!is_network) code = prepare_baseline(t);
    if (code) return code;
    char trace_path[PATH_SIZE];
    snprintf(trace_path, sizeof trace_path, "%s/trace.csv", c->output_path);
    const struct backend_options options = {
        .n_items = t->grid.count,
        .grid = &t->grid,
        .logit_memory = c->train.logit_memory * 1000000,
        .trace_steps = c->train.trace_steps,
        .trace_path = t->comm->rank == 0 ? trace_path : NULL,
        .device = is_network ? (enum device)t->config->device : DEVICE_CPU,
        .precision = (enum precision)t->config->train.precision,
        .comm = t->comm,
        .comm_kind = (enum comm_kind)t->config->comm,
        .comm_type = (enum comm_type)t->config->comm_type,
    };
    code = backend_create(&options, &t->backend);
    if (!code) code = model_create_range(&c->model, &t->grid, &t->backend, is_network, &t->model);
    if (!code && is_network) code = optimizer_create(&t->model, &t->optimizer);
    t->model.smoothing = t->config->train.label_smoothing;
    t->model.gamma = t->config->train.kl.gamma;
    t->model.sampled = is_network ? c->train.sampled_softmax : 0;
    if (!code && t->model.sampled > 0 && !t->backend.sample) {
        code = error_set(EX_CONFIG, "train.sampled_softmax: the CPU alone has it; want 0, or device: cpu");
    }
    if (!code) code = metrics_init(&t->metrics, metric, t->n_metrics, t->dataset.n_items);
    code = comm_agree(t->comm, code);
    if (!code) code = choose_checkpoint(t, start, given, checkpoint);
    if (code) return code;
    if (*checkpoint) {
        code = resume(t, checkpoint);
    } else {
        t->state = (struct train_state){.loss_scale = loss_scale_start(&t->config->train), .best_value = NAN};
        if (is_network) code = model_init(&t->model, (uint64_t)t->config->train.seed);
        code = comm_agree(t->comm, code);
    }
    if (!code) code = keep(t);
    if (!code) code = settle_directory(t, start, checkpoint);
    if (code) return code;
    if (t->comm->rank == 0) code = report_open(&t->report, t->config, t->state.epoch);
    code = comm_agree(t->comm, code);
    if (!code && t->comm->rank == 0) introduce(t, checkpoint);
    return !code && *checkpoint ? settle_best(t) : code;
}

static void tear_down(struct trainer *t, int code) {
    if (t->backend.stop) t->backend.stop(&t->backend, code != 0 && code != EX_STOPPED);
    report_close(&t->report);
    run_directory_close(&t->directory, code != 0 && code != EX_STOPPED);
    metrics_free(&t->metrics);
    csr_free(&t->validation_input);
    csr_free(&t->validation_target);
    if (t->model.backend) optimizer_free(&t->model, &t->optimizer);
    model_free(&t->model);
    if (t->backend.destroy) t->backend.destroy(&t->backend);
    sampler_free(&t->sampler);
    items_free(&t->items);
    grid_free(&t->grid);
    dataset_close(&t->dataset);
}

/* ---- a step ---- */

/* What an epoch, counted from 0, is for. */
static enum turn turn_of(const struct train_config *c, int64_t epoch) {
    if (c->turns == 0) return TURN_BOTH;
    return epoch % (c->turns + 1) < c->turns ? TURN_ENCODER : TURN_DECODER;
}

/* Steps so far of that turn: what Adam, the warm-up and beta count. */
static int64_t steps_of(const struct train_state *s, enum turn turn) {
    return turn == TURN_ENCODER   ? s->encoder_steps
           : turn == TURN_DECODER ? s->step - s->encoder_steps
                                  : s->step;
}

/* beta of the step after `steps` ones. */
static double beta_after(const struct train_config *c, int64_t steps) {
    double part = c->kl.anneal_steps > 0 ? (double)steps / (double)c->kl.anneal_steps : 1;
    return c->kl.cap * (part < 1 ? part : 1);
}

/* Is it time for a line? */
static int is_line_due(const struct trainer *t) {
    return t->comm->rank == 0 && now() - t->shown >= (t->report.is_live ? LIVE_SECONDS : PROGRESS_SECONDS);
}

/* A line now and then, for whom an epoch is long; on a terminal one that is written over. */
static void show_progress(struct trainer *t) {
    const struct train_state *s = &t->state;
    double steps = (double)sampler_steps(&t->sampler),
           done = (double)(s->epoch - t->first_epoch) - t->first_done;
    done += (double)s->epoch_step / steps;
    double left = ((double)(t->config->train.epochs - s->epoch) - (double)s->epoch_step / steps) / done;
    char text[32];
    report_duration(left * (now() - t->started), text);
    (t->report.is_live ? report_live : report_line)(
        &t->report, "epoch %lld/%lld  %3.0f%%  loss %.4f  %.0f users/s  %s left", (long long)s->epoch + 1,
        (long long)t->config->train.epochs, 100 * (double)s->epoch_step / steps,
        s->epoch_loss / (double)s->epoch_users, (double)s->epoch_users / s->epoch_seconds, text);
    t->shown = now();
}

static int is_guarded(const struct trainer *t) {
    return t->config->train.precision == PRECISION_FP16;
}

/* Sums the gradients over the ranks and updates the weights, unless fp16 has overflowed. */
static void update(struct trainer *t) {
    struct backend *b = &t->backend;
    const struct tensor *first = &t->model.tensor[0];
    const struct comm *data = &t->grid.data;
    size_t begin, n, own = 0; /* own: of the first weight, whose sum is another */
    model_learning_range(&t->model, &begin, &n);
    if (t->model.turn != TURN_DECODER) {
        b->input_all_reduce(b, data, (int)first->cols, t->model.grads + first->offset);
        own = t->model.tensor[1].offset;
    }
    b->all_reduce(b, data, t->model.grads + begin + own, n - own);
    if (is_guarded(t)) b->guard(b, t->model.grads + begin, n);
    optimizer_update(&t->optimizer, &t->model, &t->config->train, steps_of(&t->state, t->model.turn) + 1);
}

/* Counts the step, unless it was skipped. */
static int settle(struct trainer *t) {
    int is_skipped = is_guarded(t) && t->backend.overflowed(&t->backend);
    int code = is_guarded(t) ? loss_scale_update(&t->config->train, is_skipped, &t->state) : 0;
    t->state.step += !is_skipped;
    t->state.encoder_steps += !is_skipped && t->model.turn == TURN_ENCODER;
    return code;
}

/* The gradients of a step on rows that are on the device, where it may be recorded already. */
static int kept_step(struct trainer *t, const struct draw *draw, double beta, double scale) {
    struct backend *b = &t->backend;
    struct step step = {.draw = *draw,
                        .first = t->state.epoch_step * t->sampler.batch_size,
                        .beta = beta,
                        .gamma = t->model.gamma,
                        .scale = scale,
                        .turn = (int)t->model.turn};
    struct loss none;
    if (b->step_begin(b, &step)) return 0;
    const struct csr rows = {.rows = step.rows, .cols = t->dataset.n_items};
    int code = model_train_batch(&t->model, &rows, NULL, draw, beta, scale, &none), ended = b->step_end(b);
    return code ? code : ended;
}

/* What the ranks tell each other in every step. */
enum { SUM_NLL, SUM_KL, SUM_PENALTY, SUM_FAILED, SUM_STOP, SUM_SAVE, SUM_SHOW, SUMS };

/* One update. *stop: a rank was told to stop; *due: the clock wants a checkpoint. */
static int train_step(struct trainer *t, int *stop, int *due) {
    const struct train_config *c = &t->config->train;
    struct train_state *s = &t->state;
    const struct draw draw = {(uint64_t)c->seed, (uint32_t)s->epoch};
    t->model.turn = turn_of(c, s->epoch);
    double beta = beta_after(c, steps_of(s, t->model.turn)),
           users = (double)sampler_step_users(&t->sampler, s->epoch_step);
    double begin = now(), minutes = c->checkpoint.every_minutes;
    int is_counting = t->grid.items.rank == 0; /* all ranks of a row have the same loss */
    double scale = s->loss_scale / users;
    struct csr rows;
    const int64_t *row_users;
    struct loss loss = {0};
    int code;
    t->optimizer.unscale = 1 / s->loss_scale;
    t->model.sample_step = s->epoch_step;
    if (t->is_kept) {
        code = kept_step(t, &draw, beta, scale);
    } else {
        sampler_batch(&t->sampler, s->epoch_step, &rows, &row_users);
        code = model_train_batch(&t->model, &rows, row_users, &draw, beta, scale, &loss);
    }
    double sums[SUMS] = {
        [SUM_NLL] = is_counting ? loss.nll : 0,
        [SUM_KL] = is_counting ? loss.kl : 0,
        [SUM_PENALTY] = is_counting ? loss.penalty : 0,
        [SUM_FAILED] = code != 0,
        [SUM_STOP] = signals_came(),
        [SUM_SAVE] = t->comm->rank == 0 && minutes > 0 && begin - t->saved >= 60 * minutes,
        [SUM_SHOW] = is_line_due(t),
    };
    comm_sum_double(t->comm, sums, SUMS);
    if (sums[SUM_FAILED] > 0) return comm_agree(t->comm, code);
    if (!isfinite(sums[SUM_NLL]) || !isfinite(sums[SUM_KL])) return loss_fault(s);
    update(t);
    code = settle(t);
    if (code) return code;
    s->epoch_step++;
    s->epoch_users += (int64_t)users;
    s->epoch_nll += sums[SUM_NLL];
    s->epoch_kl += sums[SUM_KL];
    s->epoch_loss += sums[SUM_NLL] + (c->kl.gamma > 0 ? sums[SUM_PENALTY] : beta * sums[SUM_KL]);
    s->epoch_seconds += now() - begin;
    *stop = sums[SUM_STOP] > 0;
    *due = sums[SUM_SAVE] > 0;
    if (sums[SUM_SHOW] == 0) return 0;
    code = collect(t);
    if (!code && t->comm->rank == 0) show_progress(t);
    return code;
}

/* ---- an epoch ---- */

/* Adds this rank's users to the metrics, in pieces: EX_STOPPED if a signal comes. Collective over the item
 * ranks alone. */
static int evaluate(struct trainer *t, const struct csr *input, const struct csr *target,
                    struct metrics *metrics) {
    int64_t piece = SCORES_MAX / t->dataset.n_items + 1;
    int code = 0;
    for (int64_t first = 0; first < input->rows && !code; first += piece) {
        struct csr x = *input, y = *target;
        x.rows = y.rows = input->rows - first < piece ? input->rows - first : piece;
        x.indptr += first;
        y.indptr += first;
        if (x.whole) x.whole += first;
        int64_t stop = comm_max(&t->grid.items, signals_came());
        code = stop ? stopped(t) : ranking_evaluate(&t->model, &x, &y, metrics);
    }
    return code;
}

/* Scores the validation users and remembers whether they were never better. */
static int validate(struct trainer *t, int *is_best) {
    SPAN("validation");
    struct train_state *s = &t->state;
    metrics_reset(&t->metrics);
    int code = comm_agree(t->comm, evaluate(t, &t->validation_input, &t->validation_target, &t->metrics));
    if (code) return code;
    metrics_reduce(&t->metrics, t->comm);
    double value = metrics_value(&t->metrics, t->chosen);
    *is_best = isnan(s->best_value) || value > s->best_value;
    if (*is_best) {
        s->best_value = value;
        s->best_epoch = s->epoch;
        s->bad_rounds = 0;
    } else {
        s->bad_rounds++;
    }
    return 0;
}

static int report(struct trainer *t, int validated, int is_best) {
    const struct train_state *s = &t->state;
    const struct train_config *c = &t->config->train;
    double users = (double)s->epoch_users;
    enum turn turn = turn_of(c, s->epoch - 1);
    int64_t steps = steps_of(s, turn);
    struct report_row row = {
        .epoch = s->epoch,
        .step = s->step,
        .seconds = s->epoch_seconds,
        .users_per_second = users / s->epoch_seconds,
        .loss = s->epoch_loss / users,
        .nll = s->epoch_nll / users,
        .kl = s->epoch_kl / users,
        .beta = beta_after(c, steps - 1),
        .learning_rate = optimizer_learning_rate(c, steps),
        .loss_scale = s->loss_scale,
        .skipped_steps = s->epoch_skipped,
        .n_metrics = t->n_metrics,
        .validation = validated ? &t->metrics : NULL,
    };
    char left[32], value[64] = "", name[METRIC_NAME_MAX];
    double done = (double)(s->epoch - t->first_epoch) - t->first_done;
    report_duration((double)(t->config->train.epochs - s->epoch) / done * (now() - t->started), left);
    metric_name(t->metrics.metric[t->chosen], name);
    if (validated) {
        snprintf(value, sizeof value, "  %s %.5f%s", name, metrics_value(&t->metrics, t->chosen),
                 is_best ? " *" : "  ");
    }
    if (c->kl.gamma > 0 || turn == TURN_DECODER) row.beta = row.kl > 0 ? (row.loss - row.nll) / row.kl : 0;
    if (!model_is_network(&t->config->model)) {
        row.beta = row.learning_rate = 0;
        report_duration(s->epoch_seconds, left);
        report_line(&t->report, "computed in %s%s", left, value);
        return report_epoch(&t->report, &row);
    }
    report_line(&t->report,
                "epoch %lld/%lld  loss %.4f  nll %.4f  kl %.4f  beta %.4f%s  %.0f users/s  %s left",
                (long long)s->epoch, (long long)t->config->train.epochs, row.loss, row.nll, row.kl, row.beta,
                value, row.users_per_second, left);
    t->shown = now();
    return report_epoch(&t->report, &row);
}

static int is_stopped_early(const struct trainer *t) {
    int64_t patience = t->config->train.early_stopping.patience;
    return patience > 0 && t->state.bad_rounds >= patience;
}

static int is_finished(const struct trainer *t) {
    if (!model_is_network(&t->config->model)) return t->state.epoch > 0;
    return t->state.epoch >= t->config->train.epochs || is_stopped_early(t);
}

static int end_epoch(struct trainer *t) {
    const struct train_config *c = &t->config->train;
    struct train_state *s = &t->state;
    int is_best = 0, code = 0;
    s->epoch++;
    int is_last = s->epoch >= c->epochs;
    int validated =
        has_validation(t) && (is_last || (c->validate_every > 0 && s->epoch % c->validate_every == 0));
    if (validated) code = validate(t, &is_best);
    if (code == EX_STOPPED) { /* the next run begins with this validation */
        s->epoch--;
        return save_and_stop(t);
    }
    if (!code && (is_best || (is_last && !has_validation(t)))) code = save_best(t);
    if (code) return code;
    if (t->comm->rank == 0) code = report(t, validated, is_best);
    code = comm_agree(t->comm, code);
    if (code) return code;
    clear_epoch(s);
    int is_due = c->checkpoint.every_epochs > 0 && s->epoch % c->checkpoint.every_epochs == 0;
    return is_due || is_finished(t) ? save(t) : 0;
}

static int train_epoch(struct trainer *t) {
    int stop = 0, due = 0;
    /* agreed upon by all: it is collective over a column of the grid alone */
    int code = comm_agree(t->comm, t->is_kept ? 0 : sampler_begin(&t->sampler, (uint32_t)t->state.epoch));
    while (!code && t->state.epoch_step < sampler_steps(&t->sampler)) {
        code = train_step(t, &stop, &due);
        if (!code && stop) return save_and_stop(t);
        if (!code && due) code = save(t);
    }
    if (!code) code = collect(t);
    return code ? code : end_epoch(t);
}

/* A model that takes no steps: all of it is one epoch, and best.h5 its only checkpoint. */
static int compute_baseline(struct trainer *t) {
    struct train_state *s = &t->state;
    double begin = now();
    int is_best = 0, validated = has_validation(t);
    int code = baseline_fit(&t->model, &t->sampler.base, t->comm);
    if (code) return code;
    s->epoch_seconds = now() - begin;
    s->epoch_users = t->dataset.rows[DATASET_TRAIN];
    s->epoch = 1;
    if (validated) code = validate(t, &is_best);
    if (!code) code = save_best(t);
    if (!code && t->comm->rank == 0) code = report(t, validated, is_best);
    return comm_agree(t->comm, code);
}

/* ---- the end ---- */

static int64_t peak_memory(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (int64_t)usage.ru_maxrss * 1024;
}

/* best.h5, which has to be what the run's state says. */
static int read_best(struct trainer *t) {
    char path[PATH_SIZE];
    int is_best = 0, code = 0;
    if (!model_is_network(&t->config->model)) return 0; /* it is the one at hand */
    snprintf(path, sizeof path, "%s/best.h5", t->config->output_path);
    if (t->comm->rank == 0) code = run_directory_check_best(&t->directory, &t->state, &is_best);
    if (!code && t->comm->rank == 0 && !is_best) {
        code = error_set(EX_DATAERR,
                         "%s: is not this run's best model, epoch %lld's: it was replaced, or removed", path,
                         (long long)t->state.best_epoch);
    }
    code = comm_agree(t->comm, code);
    if (!code) code = checkpoint_read_model(path, &t->model, NULL, NULL);
    return comm_agree(t->comm, code);
}

static int write_test(struct trainer *t, const struct metrics *metrics) {
    char path[PATH_SIZE];
    snprintf(path, sizeof path, "%s/test.csv", t->config->output_path);
    int code = lock_check(t->directory.lock);
    if (!code) code = ranking_write_table(path, "test", metrics);
    for (int i = 0; i < metrics->n && !code; i++) {
        if (metrics->metric[i].kind != METRIC_NDCG || metrics->metric[i].at != 100) continue;
        report_line(&t->report, "test: ndcg@100 %.5f +- %.5f over %lld users; all metrics in %s",
                    metrics_value(metrics, i), metrics_stderr(metrics, i), (long long)metrics->users, path);
    }
    return code;
}

/* The best model on the test users, into test.csv: the last file of a run, by which it counts as complete.
 * Without test users it is the table's head. */
static int test(struct trainer *t) {
    struct csr input = {0}, target = {0};
    struct metrics metrics = {0};
    int code = 0;
    if (t->dataset.nonzeros[DATASET_TEST_TARGET] > 0) {
        code = read_best(t);
        if (!code) code = read_split(t, DATASET_TEST_INPUT, DATASET_TEST_TARGET, &input, &target);
        if (!code) code = ranking_metrics_init(&metrics, t->dataset.n_items);
        code = comm_agree(t->comm, code); /* scoring is collective over the item ranks */
        if (!code) code = evaluate(t, &input, &target, &metrics);
        code = comm_agree(t->comm, code);
        if (!code) metrics_reduce(&metrics, t->comm);
    }
    if (!code && t->comm->rank == 0) code = write_test(t, &metrics);
    code = comm_agree(t->comm, code);
    metrics_free(&metrics);
    csr_free(&input);
    csr_free(&target);
    return code;
}

static int finish(struct trainer *t) {
    const struct train_state *s = &t->state;
    int64_t memory = comm_max(t->comm, peak_memory());
    if (t->comm->rank == 0) {
        char text[32], name[METRIC_NAME_MAX];
        report_duration(now() - t->started, text);
        metric_name(t->config->train.early_stopping.metric, name);
        if (is_stopped_early(t)) {
            report_line(&t->report, "stopped early: no better %s in %lld validations", name,
                        (long long)s->bad_rounds);
        }
        if (s->best_epoch > 0) {
            report_line(&t->report, "best: %s %.5f in epoch %lld", name, s->best_value,
                        (long long)s->best_epoch);
        }
        report_line(&t->report, "trained in %s; largest memory of a rank %.0f MB", text,
                    1e-6 * (double)memory);
    }
    return test(t);
}

/* Did a signal come to any rank? For places outside of steps. Collective. */
static int is_told_to_stop(const struct trainer *t) {
    int64_t stop = signals_came();
    comm_sum_int(t->comm, &stop, 1);
    return stop > 0;
}

int trainer_run(const struct config *config, enum trainer_start start, const char *checkpoint,
                const struct comm *comm) {
    struct trainer t = {.config = config, .comm = comm};
    int code = set_up(&t, start, checkpoint);
    if (code) goto cleanup;
    t.started = t.saved = t.shown = now();
    t.first_step = t.state.step;
    t.first_epoch = t.state.epoch;
    t.first_done = (double)t.state.epoch_step / (double)sampler_steps(&t.sampler);
    if (t.is_complete) {
        if (comm->rank == 0) report_line(&t.report, "the run is complete; nothing is left to do");
        goto cleanup;
    }
    int is_network = model_is_network(&config->model);
    if (is_told_to_stop(&t)) code = is_network ? save_and_stop(&t) : stopped(&t);
    if (!code && !is_network) code = compute_baseline(&t);
    if (!code && is_network && config->train.epochs == 0) code = save_best(&t);
    while (!code && !is_finished(&t)) code = train_epoch(&t);
    if (!code) code = finish(&t);
cleanup:
    tear_down(&t, code);
    return code;
}
