/* Checkpoints: bit for bit there and back, the newest whole one, damage, a full disk. */
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "checkpoint.h"
#include "error.h"

static char dir[] = "/tmp/vaecf-checkpoint-XXXXXX";
static char path[256];
static struct backend backend;
static struct model model;
static struct config config;
static real *moments[2];
static int64_t counts[3] = {9, 5, 1};
static char ids[] = "a\0\0\0bcd\0ab,\"";
static const struct items items = {3, 4, ids, counts};
static int n_warnings;

static void warn(const char *line) {
    n_warnings++;
    assert_non_null(strstr(line, dir));
}

static int set_up(void **state) {
    (void)state;
    config_defaults(&config);
    snprintf(config.data_path, sizeof config.data_path, "data/x");
    snprintf(config.output_path, sizeof config.output_path, "results/x");
    config.model.hidden[0] = 5;
    config.model.latent = 2;
    if (!mkdtemp(dir) || backend_cpu_create(3, PRECISION_FP32, &backend)) return -1;
    snprintf(path, sizeof path, "%s/checkpoints", dir);
    if (mkdir(path, 0700) || model_create(&config.model, 3, &backend, 0, &model)) return -1;
    for (int i = 0; i < 2; i++) moments[i] = backend.alloc(&backend, model.n_params);
    for (int t = 0; t < model.n_tensors; t++) {
        size_t first = model.tensor[t].offset;
        for (size_t i = first; i < first + model.tensor[t].size; i++) {
            model.params[i] = (real)sin((double)i);
            moments[0][i] = (real)(1e-30 * cos((double)i));
            moments[1][i] = (real)(1 + (double)i);
        }
    }
    checkpoint_path(dir, 123, path, sizeof path);
    return 0;
}

static int tear_down(void **state) {
    char command[300];
    (void)state;
    for (int i = 0; i < 2; i++) backend.release(&backend, moments[i]);
    model_free(&model);
    backend.destroy(&backend);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static int save(const char *name, int64_t step, int with_moments) {
    struct train_state state = {.epoch = 4,
                                .epoch_step = 2,
                                .step = step,
                                .encoder_steps = step / 3,
                                .loss_scale = 1,
                                .best_value = 0.25,
                                .best_epoch = 3,
                                .bad_rounds = 1,
                                .epoch_nll = 1.0 / 3,
                                .epoch_users = 77};
    return checkpoint_save(name, &config, &state, &model, with_moments ? moments[0] : NULL,
                           with_moments ? moments[1] : NULL, &items, "0123456789abcdef");
}

static void test_there_and_back(void **state) {
    (void)state;
    struct checkpoint_info info;
    struct items read;
    struct model other;
    assert_int_equal(save(path, 123, 1), 0);
    assert_int_equal(checkpoint_read_info(path, &info), 0);
    assert_memory_equal(&info.config, &config, sizeof config);
    assert_int_equal(info.state.step, 123);
    assert_int_equal(info.state.epoch_users, 77);
    assert_int_equal(info.state.encoder_steps, 41);
    assert_true(info.state.epoch_nll == 1.0 / 3 && info.state.best_value == 0.25);
    assert_string_equal(info.fingerprint, "0123456789abcdef");
    assert_int_equal(info.has_optimizer, 1);
    assert_int_equal(model_create(&info.config.model, info.n_items, &backend, 0, &other), 0);
    real *m = backend.alloc(&backend, model.n_params), *v = backend.alloc(&backend, model.n_params);
    assert_int_equal(checkpoint_read_model(path, &other, m, v), 0);
    assert_memory_equal(other.params, model.params, model.n_params * sizeof *m);
    assert_memory_equal(m, moments[0], model.n_params * sizeof *m);
    assert_memory_equal(v, moments[1], model.n_params * sizeof *m);
    assert_int_equal(checkpoint_read_items(path, &read), 0);
    assert_int_equal(read.n, 3);
    assert_memory_equal(read.ids, ids, 12);
    assert_memory_equal(read.count, counts, sizeof counts);
    items_free(&read);
    backend.release(&backend, m);
    backend.release(&backend, v);
    model_free(&other);
}

static void test_model_alone(void **state) {
    char best[256];
    struct checkpoint_info info;
    (void)state;
    snprintf(best, sizeof best, "%s/best.h5", dir);
    assert_int_equal(save(best, 9, 0), 0);
    assert_int_equal(checkpoint_read_info(best, &info), 0);
    assert_int_equal(info.has_optimizer, 0);
    assert_int_equal(checkpoint_read_model(best, &model, moments[0], moments[1]), EX_DATAERR);
    assert_int_equal(checkpoint_read_info("tests/reference/optimizer.h5", &info), EX_DATAERR);
    assert_int_equal(checkpoint_read_info("tests/checkpoint_test.c", &info), EX_DATAERR);
    assert_int_equal(checkpoint_read_info("none.h5", &info), EX_NOINPUT);
}

/* Changes one byte in the middle of a file, or cuts it. */
static void damage(const char *name, int cut) {
    struct stat status;
    assert_int_equal(stat(name, &status), 0);
    if (cut) {
        assert_int_equal(truncate(name, status.st_size * 2 / 3), 0);
        return;
    }
    FILE *file = fopen(name, "r+");
    float want = model.params[3], value;
    long at = 0; /* of that weight */
    do {
        assert_int_equal(fseek(file, at++, SEEK_SET), 0);
        assert_int_equal(fread(&value, sizeof value, 1, file), 1);
    } while (value != want);
    fseek(file, at - 1, SEEK_SET);
    fputc(0x5a ^ ((unsigned char *)&value)[0], file);
    fclose(file);
}

static void test_newest_whole(void **state) {
    char name[256], found[256], other[256];
    int64_t *steps;
    int n;
    (void)state;
    for (int64_t step = 200; step <= 500; step += 100) {
        checkpoint_path(dir, step, name, sizeof name);
        assert_int_equal(save(name, step, 1), 0);
    }
    damage(name, 1); /* 500 */
    checkpoint_path(dir, 400, name, sizeof name);
    damage(name, 0);
    /* not ours: a directory, and other spellings */
    snprintf(name, sizeof name, "%s/checkpoints/step-000000600.h5", dir);
    assert_int_equal(mkdir(name, 0700), 0);
    snprintf(other, sizeof other, "%s/checkpoints/step-700.h5", dir);
    fclose(fopen(other, "w"));
    n_warnings = 0;
    assert_int_equal(checkpoint_newest(dir, found, sizeof found, warn), 0);
    assert_int_equal(n_warnings, 2);
    checkpoint_path(dir, 300, name, sizeof name);
    assert_string_equal(found, name);
    /* the damaged ones do not count */
    assert_int_equal(checkpoint_mark_damaged(dir, 300), 0);
    assert_int_equal(checkpoint_prune(dir, 2), 0);
    assert_int_equal(checkpoint_list(dir, &steps, &n), 0);
    assert_int_equal(n, 2);
    assert_int_equal(steps[0], 300);
    assert_int_equal(steps[1], 200);
    free(steps);
    snprintf(name, sizeof name, "%s/checkpoints/step-000000500.h5.damaged", dir);
    assert_int_equal(access(name, F_OK), 0);
    /* none is whole */
    for (int64_t step = 200; step <= 300; step += 100) {
        checkpoint_path(dir, step, name, sizeof name);
        damage(name, 0);
    }
    n_warnings = 0;
    assert_int_equal(checkpoint_newest(dir, found, sizeof found, warn), EX_DATAERR);
    assert_int_equal(n_warnings, 1);
    assert_non_null(strstr(error_message(), "none of the 2 is whole"));
    assert_string_equal(found, "");
    assert_int_equal(checkpoint_prune(dir, 0), 0);
    assert_int_equal(checkpoint_newest(dir, found, sizeof found, warn), 0);
    assert_string_equal(found, "");
    assert_int_equal(access(other, F_OK), 0);
    assert_int_equal(checkpoint_newest("/tmp/no-such-directory", found, sizeof found, warn), 0);
    assert_string_equal(found, "");
}

/* A disk that takes 4 KiB a file. */
static void test_full_disk(void **state) {
    struct rlimit old, small;
    char name[256];
    (void)state;
    assert_int_equal(save(path, 123, 1), 0);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old);
    small = (struct rlimit){4096, old.rlim_max};
    setrlimit(RLIMIT_FSIZE, &small);
    int code = save(path, 124, 1);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(code, EX_IOERR);
    assert_non_null(strstr(error_message(), dir));
    struct checkpoint_info info;
    assert_int_equal(checkpoint_read_info(path, &info), 0);
    assert_int_equal(info.state.step, 123);
    snprintf(name, sizeof name, "ls %s/checkpoints/*.tmp 2> /dev/null", dir);
    assert_int_not_equal(system(name), 0);
    assert_int_equal(save("/nowhere/x.h5", 1, 1), EX_CANTCREAT);
}

static void test_diverged(void **state) {
    (void)state;
    real kept = model.params[7];
    model.params[7] = NAN;
    assert_int_equal(save(path, 125, 1), EX_SOFTWARE);
    model.params[7] = kept;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_there_and_back),
                                       cmocka_unit_test(test_newest_whole), cmocka_unit_test(test_full_disk),
                                       cmocka_unit_test(test_diverged), cmocka_unit_test(test_model_alone)};
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
