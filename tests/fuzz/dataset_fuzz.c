/* A data set of two shards with edits, as edit.h has them: read, or refused in one line; what is read is a
 * sparse matrix. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataset.h"
#include "edit.h"
#include "error.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SHARDS = 2, ROWS_MAX = 1000 };

static const char *const header_name[] = {
    "/@format",      "/@format_version", "/@n_users", "/@n_items",    "/@n_interactions", "/@n_shards",
    "/@fingerprint", "/items",           "/items/id", "/items/count", "/shards/rows",     "/shards/nonzeros",
};
static const char *const shard_name[] = {
    "/@format",
    "/@format_version",
    "/@fingerprint",
    "/train",
    "/train/indptr",
    "/train/indices",
    "/train/user",
    "/train/user_id",
    "/validation/input/indptr",
    "/validation/input/indices",
    "/validation/target/indptr",
    "/validation/target/indices",
    "/validation/user",
    "/test/input/indices",
    "/test/target/indptr",
    "/test/user",
};
static const struct edit_names names[1 + SHARDS] = {
    {header_name, sizeof header_name / sizeof *header_name},
    {shard_name, sizeof shard_name / sizeof *shard_name},
    {shard_name, sizeof shard_name / sizeof *shard_name},
};

static char path[1 + SHARDS][DATASET_PATH_MAX]; /* dataset.h5, then the shards */
static struct edit_base base[1 + SHARDS];

/* By vaecf-preprocess, of 20 users; it is looked for in $BIN. */
static void make_base(void) {
    char command[4 * DATASET_PATH_MAX];
    const char *bin = getenv("BIN");
    snprintf(command, sizeof command,
             "'%s/vaecf-preprocess' --input - --output '%s' --force --header no --heldout-users 4 "
             "--target-fraction 0.3 --seed 1 --shards %d > /dev/null",
             bin ? bin : "bin", edit_directory(), SHARDS);
    FILE *csv = popen(command, "w");
    require(csv != NULL, "no shell");
    for (int u = 0; u < 20; u++) {
        for (int i = 0; i < 5 + u % 3; i++) fprintf(csv, "%d,%d\n", u, i * (u + 1) % 9);
    }
    require(pclose(csv) == 0, "vaecf-preprocess cannot make a data set");
    snprintf(path[0], sizeof path[0], "%s/dataset.h5", edit_directory());
    for (int s = 0; s < SHARDS; s++) {
        dataset_shard_path(edit_directory(), s, SHARDS, path[1 + s], sizeof path[1 + s]);
    }
    for (int i = 0; i < 1 + SHARDS; i++) edit_remember(path[i], &base[i]);
}

static void read_part(const struct dataset *dataset, enum dataset_part part) {
    struct csr m;
    int64_t *users, count = dataset->rows[part] < ROWS_MAX ? dataset->rows[part] : ROWS_MAX;
    int code = dataset_read(dataset, part, 0, count, &m, &users);
    require_told(code);
    if (code) return;
    require(m.rows == count && m.indptr[0] == 0, "rows");
    for (int64_t r = 0; r < count; r++) {
        require(m.indptr[r] <= m.indptr[r + 1], "a row ends before it begins");
        for (int64_t k = m.indptr[r]; k < m.indptr[r + 1]; k++) {
            require(m.indices[k] >= 0 && m.indices[k] < dataset->n_items, "an item that is none");
            require(k == m.indptr[r] || m.indices[k] > m.indices[k - 1], "items do not ascend");
        }
    }
    csr_free(&m);
    free(users);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct comm alone = {.rank = 0, .size = 1};
    struct bytes bytes = {data, size};
    struct dataset dataset;
    struct items items;
    if (!base[0].bytes) make_base();
    /* one of the files is edited, the others are as they were */
    uint64_t which = bytes_take(&bytes, 1) % (1 + SHARDS);
    for (uint64_t i = 0; i < 1 + SHARDS; i++) {
        struct bytes none = {0};
        edit_file(path[i], &base[i], &names[i], i == which ? &bytes : &none);
    }
    int code = dataset_open(edit_directory(), &alone, &dataset);
    require_told(code);
    if (!code) code = dataset_verify(&dataset, &alone);
    require_told(code);
    if (!code) {
        code = dataset_read_items(&dataset, &items);
        require_told(code);
        if (!code) items_free(&items);
        for (int p = 0; p < DATASET_PARTS; p++) read_part(&dataset, (enum dataset_part)p);
    }
    dataset_close(&dataset);
    return 0;
}
