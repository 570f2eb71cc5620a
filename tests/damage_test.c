/* Damage to a checkpoint, a shard and dataset.h5: flipped bits, zeroed pages, files cut off or grown. Each is
 * told in one line, or what is read is what was written. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "checkpoint.h"
#include "error.h"
#include "h5.h"
#include "philox.h"

enum { FLIPS = 600, PAGE = 4096, N_ITEMS = 300 };

static char dir[] = "/tmp/vaecf-damage-XXXXXX";
static char checkpoint_name[256], shard_name[256], dataset_name[256];
static const struct comm alone = {.mpi = MPI_COMM_SELF, .rank = 0, .size = 1};
static const char fingerprint[] = "0123456789abcdef";
static struct backend backend;
static struct model model, other;
static struct config config;
static real *moments[2], *read_moments[2];
static struct items items;
static struct csr rows; /* of the training split */
static int64_t *row_users;

/* ---- what is written ---- */

static void make_checkpoint(void) {
    const struct train_state state = {.epoch = 4, .step = 40, .loss_scale = 1, .best_value = 0.25};
    config_defaults(&config);
    snprintf(config.data_path, sizeof config.data_path, "data/x");
    snprintf(config.output_path, sizeof config.output_path, "results/x");
    config.model.hidden[0] = 16;
    config.model.latent = 4;
    assert_int_equal(backend_cpu_create(N_ITEMS, PRECISION_FP32, &backend), 0);
    assert_int_equal(model_create(&config.model, N_ITEMS, &backend, 0, &model), 0);
    assert_int_equal(model_create(&config.model, N_ITEMS, &backend, 0, &other), 0);
    for (int i = 0; i < 2; i++) {
        moments[i] = backend.alloc(&backend, model.n_params);
        read_moments[i] = backend.alloc(&backend, model.n_params);
    }
    for (int t = 0; t < model.n_tensors; t++) { /* the gaps between them stay zero */
        for (size_t j = 0; j < model.tensor[t].size; j++) {
            size_t i = model.tensor[t].offset + j;
            model.params[i] = (real)sin((double)i);
            moments[0][i] = (real)cos((double)i);
            moments[1][i] = (real)(1 + (double)i);
        }
    }
    items = (struct items){.n = N_ITEMS, .width = 8};
    items.ids = calloc(N_ITEMS, items.width);
    items.count = calloc(N_ITEMS, sizeof *items.count);
    assert_true(items.ids && items.count);
    for (int i = 0; i < N_ITEMS; i++) {
        snprintf(items.ids + 8 * i, items.width, "i%d", i);
        items.count[i] = N_ITEMS - i;
    }
    assert_int_equal(checkpoint_save(checkpoint_name, &config, &state, &model, moments[0], moments[1], &items,
                                     fingerprint),
                     0);
}

/* By the program itself, of 300 users. */
static void make_dataset(void) {
    char name[300], command[900];
    const char *bin = getenv("BIN");
    snprintf(name, sizeof name, "%s/ratings.csv", dir);
    FILE *csv = fopen(name, "w");
    assert_non_null(csv);
    for (int u = 0; u < 300; u++) {
        for (int i = 0; i < 5 + u % 30; i++) fprintf(csv, "user %d,%d\n", u, i * (u + 1) % N_ITEMS);
    }
    assert_int_equal(fclose(csv), 0);
    snprintf(command, sizeof command,
             "'%s/vaecf-preprocess' --input '%s' --output '%s' --header no --heldout-users 20 --force "
             "> /dev/null 2>&1",
             bin ? bin : "bin", name, dir);
    assert_int_equal(system(command), 0);
}

/* The training split; harmless damage reads the same. */
static int read_dataset(struct csr *matrix, int64_t **users) {
    struct dataset dataset;
    struct items catalogue;
    int code = dataset_open(dir, &alone, &dataset);
    if (!code) code = dataset_verify(&dataset, &alone);
    if (!code) code = dataset_read_items(&dataset, &catalogue);
    if (!code) {
        items_free(&catalogue);
        code = dataset_read(&dataset, DATASET_TRAIN, 0, dataset.rows[DATASET_TRAIN], matrix, users);
    }
    dataset_close(&dataset);
    return code;
}

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(checkpoint_name, sizeof checkpoint_name, "%s/c.h5", dir);
    snprintf(dataset_name, sizeof dataset_name, "%s/dataset.h5", dir);
    dataset_shard_path(dir, 0, 1, shard_name, sizeof shard_name);
    make_checkpoint();
    make_dataset();
    return read_dataset(&rows, &row_users);
}

static int tear_down(void **state) {
    char command[300];
    (void)state;
    for (int i = 0; i < 2; i++) {
        backend.release(&backend, moments[i]);
        backend.release(&backend, read_moments[i]);
    }
    model_free(&model);
    model_free(&other);
    backend.destroy(&backend);
    items_free(&items);
    csr_free(&rows);
    free(row_users);
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

/* ---- reading it damaged ---- */

static void check_reported(int code) {
    assert_int_equal(code, EX_DATAERR);
    assert_non_null(strstr(error_message(), dir));
    assert_null(strchr(error_message(), '\n'));
}

static void check_checkpoint(void) {
    struct checkpoint_info info;
    struct items read = {0};
    size_t bytes = model.n_params * sizeof *model.params;
    int code = checkpoint_read_info(checkpoint_name, &info);
    if (!code) code = checkpoint_read_model(checkpoint_name, &other, read_moments[0], read_moments[1]);
    if (!code) code = checkpoint_read_items(checkpoint_name, &read);
    if (code) {
        check_reported(code);
        return;
    }
    assert_memory_equal(&info.config, &config, sizeof config);
    assert_int_equal(info.state.step, 40);
    assert_memory_equal(other.params, model.params, bytes);
    assert_memory_equal(read_moments[0], moments[0], bytes);
    assert_memory_equal(read_moments[1], moments[1], bytes);
    assert_int_equal(read.n, N_ITEMS);
    assert_memory_equal(read.ids, items.ids, N_ITEMS * items.width);
    assert_memory_equal(read.count, items.count, N_ITEMS * sizeof *items.count);
    items_free(&read);
}

static void check_dataset(void) {
    struct csr matrix;
    int64_t *users;
    int code = read_dataset(&matrix, &users);
    if (code) {
        check_reported(code);
        return;
    }
    assert_int_equal(matrix.rows, rows.rows);
    assert_memory_equal(matrix.indptr, rows.indptr, ((size_t)rows.rows + 1) * sizeof *rows.indptr);
    assert_memory_equal(matrix.indices, rows.indices, (size_t)csr_nonzeros(&rows) * sizeof *rows.indices);
    assert_memory_equal(users, row_users, (size_t)rows.rows * sizeof *users);
    csr_free(&matrix);
    free(users);
}

static unsigned char *read_bytes(const char *name, size_t *length) {
    struct stat status;
    assert_int_equal(stat(name, &status), 0);
    *length = (size_t)status.st_size;
    unsigned char *bytes = malloc(*length + 1);
    FILE *file = fopen(name, "rb");
    assert_true(bytes && file);
    assert_int_equal(fread(bytes, 1, *length, file), *length);
    fclose(file);
    return bytes;
}

static void write_bytes(const char *name, const unsigned char *bytes, size_t length) {
    FILE *file = fopen(name, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

/* All kinds of damage to one file, each read by check; at last the file is whole again. */
static void damage(const char *name, void (*check)(void)) {
    size_t length;
    unsigned char *whole = read_bytes(name, &length), *bytes = malloc(length + 1);
    assert_non_null(bytes);
    assert_true(length > PAGE);
    for (uint32_t i = 0; i < FLIPS; i++) {
        struct philox_block draw = philox(1, PHILOX_SHUFFLE, 0, length, i);
        size_t at = ((uint64_t)draw.lane[0] << 32 | draw.lane[1]) % length;
        memcpy(bytes, whole, length);
        bytes[at] ^= (unsigned char)(1 << draw.lane[2] % 8);
        write_bytes(name, bytes, length);
        check();
    }
    for (size_t at = 0; at < length; at += PAGE) {
        memcpy(bytes, whole, length);
        memset(bytes + at, 0, length - at < PAGE ? length - at : PAGE);
        write_bytes(name, bytes, length);
        check();
    }
    for (size_t i = 0; i < 200; i++) {
        /* the first and last bytes one by one, those between in leaps */
        size_t cut = i < 50 ? i : i < 150 ? length * (i - 49) / 102 : length - (200 - i);
        write_bytes(name, whole, cut);
        check();
    }
    bytes[length] = 0;
    memcpy(bytes, whole, length);
    write_bytes(name, bytes, length + 1);
    check();
    write_bytes(name, whole, length);
    check();
    free(bytes);
    free(whole);
}

static void damaged_checkpoint(void **state) {
    (void)state;
    damage(checkpoint_name, check_checkpoint);
    struct checkpoint_info info;
    assert_int_equal(checkpoint_read_info(checkpoint_name, &info), 0);
}

static void damaged_shard(void **state) {
    (void)state;
    damage(shard_name, check_dataset);
    check_dataset();
}

static void damaged_header(void **state) {
    (void)state;
    damage(dataset_name, check_dataset);
    check_dataset();
}

/* A path that is cut could be that of another dataset. */
static void long_path(void **state) {
    (void)state;
    char path[DATASET_PATH_MAX + 100];
    struct dataset dataset;
    for (size_t length = DATASET_PATH_MAX - 2; length < sizeof path; length++) {
        size_t n = (size_t)snprintf(path, sizeof path, "%s", dir);
        while (n < length) path[n++] = '/';
        path[n] = '\0';
        int code = dataset_open(path, &alone, &dataset);
        assert_int_equal(code, length < DATASET_PATH_MAX ? 0 : EX_NOINPUT);
        if (code) assert_non_null(strstr(error_message(), "at most 1023"));
        dataset_close(&dataset);
    }
}

/* A file without a seal, as another program or an older version writes it; one of a later version. */
static void other_versions(void **state) {
    (void)state;
    size_t length;
    hid_t file;
    struct checkpoint_info info;
    unsigned char *whole = read_bytes(checkpoint_name, &length);
    write_bytes(checkpoint_name, whole, length - H5_SEAL_SIZE);
    assert_int_equal(checkpoint_read_info(checkpoint_name, &info), EX_DATAERR);
    assert_non_null(strstr(error_message(), "vaecf-seal"));
    assert_int_equal(h5_open(checkpoint_name, &file), 0); /* HDF5 takes it with and without */
    H5Fclose(file);

    assert_int_equal(h5_create(checkpoint_name, &file), 0);
    int code = h5_set_text(file, "/", "format", "vaecf-checkpoint");
    if (!code) code = h5_set_int(file, "/", "format_version", 99);
    assert_int_equal(h5_close(file, checkpoint_name, code), 0);
    assert_int_equal(checkpoint_read_info(checkpoint_name, &info), EX_DATAERR);
    assert_non_null(strstr(error_message(), "format version 99"));
    write_bytes(checkpoint_name, whole, length);
    free(whole);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(damaged_checkpoint), cmocka_unit_test(damaged_shard),
        cmocka_unit_test(damaged_header),     cmocka_unit_test(other_versions),
        cmocka_unit_test(long_path),
    };
    comm_start(&argc, &argv);
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    comm_stop();
    return failed;
}
