/* preprocess/shards.c: what is written is what was split, over any number of shards, and replaces what was
 * there. */
#include <dirent.h>
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

#include "dataset.h"
#include "error.h"
#include "h5.h"
#include "shards.h"
#include "world.h"

static char dir[] = "/tmp/vaecf-shards-XXXXXX";
/* 50 users with up to 30 of 40 items; 5 held out for validation and for test. */
static void make_world(struct world *w, int64_t n_shards) {
    world_make(w, 1, 1 << 30);
    char user[32], item[32];
    for (int u = 0; u < 50; u++) {
        for (int i = 0; i < 1 + u % 30; i++) {
            snprintf(user, sizeof user, "user %.*s%d", u % 5, "long", u);
            snprintf(item, sizeof item, "%d", i * u % 40);
            world_add(w, DATASET_TRAIN, user, item, true);
        }
    }
    struct split_options options = {
        .seed = 1, .heldout_users = 5, .target_fraction = 0.2, .n_shards = n_shards};
    assert_int_equal(world_split(w, &options), 0);
}

static int write_shards(const struct world *w, int64_t n_shards) {
    const struct shards_attribute attributes[] = {
        {.name = "seed", .integer = 1},
        {.name = "target_fraction", .is_double = true, .number = 0.2},
        {.name = "header", .text = "auto"}};
    return shards_write(&world_comm, dir, NULL, n_shards, &w->split, &w->items, &w->rows, attributes, 3);
}

static void note(const char *line) {
    (void)line;
}

/* shards_prepare without keeping the lock. */
static int prepare(const char *name, bool force, bool *made) {
    struct lock *lock;
    int code = shards_prepare(name, force, note, made, &lock);
    lock_release(lock);
    return code;
}

/* Files in the directory that begin with a text. */
static int count_files(const char *start) {
    int n = 0;
    DIR *list = opendir(dir);
    assert_non_null(list);
    for (struct dirent *entry; (entry = readdir(list));)
        n += strncmp(entry->d_name, start, strlen(start)) == 0;
    closedir(list);
    return n;
}

/* Strings: the i-th is that of text_of. */
static void check_ids(hid_t file, const char *name, int64_t n,
                      const char *(*text_of)(const void *, int64_t, int *), const void *context) {
    int64_t count;
    size_t width;
    int length;
    char *text;
    assert_int_equal(h5_read_strings(file, name, &count, &width, &text), 0);
    assert_int_equal(count, n);
    for (int64_t i = 0; i < n; i++) {
        const char *id = text_of(context, i, &length);
        assert_true((size_t)length <= width);
        assert_int_equal(strnlen(text + (size_t)i * width, width), length);
        assert_memory_equal(text + (size_t)i * width, id, (size_t)length);
    }
    free(text);
}

static const char *item_text(const void *w, int64_t i, int *length) {
    return world_item(w, (int32_t)i, length);
}

static const char *user_text(const void *rows, int64_t i, int *length) {
    const struct world_row *row = rows;
    *length = row[i].head.id_length;
    return row[i].id;
}

static void check_int(hid_t file, const char *name, int64_t expected) {
    int64_t value = -1;
    assert_int_equal(h5_get_int(file, "/", name, &value), 0);
    assert_int_equal(value, expected);
}

static void check_text(hid_t file, const char *name, const char *expected) {
    char value[64];
    assert_int_equal(h5_get_text(file, "/", name, value, sizeof value), 0);
    assert_string_equal(value, expected);
}

static void check_numbers(hid_t file, const char *name, hid_t type, size_t size, int64_t count,
                          const void *expected) {
    int64_t rows, cols;
    char *data = malloc((size_t)count * size + 1);
    assert_non_null(data);
    assert_int_equal(h5_shape(file, name, &rows, &cols), 0);
    assert_int_equal(rows, count);
    assert_int_equal(cols, 0);
    assert_int_equal(h5_read(file, name, type, 0, count, data), 0);
    if (count) assert_memory_equal(data, expected, (size_t)count * size);
    free(data);
}

static void check_dataset(const struct world *w, int64_t n_shards) {
    static const char *const split_name[SPLITS] = {"train", "validation", "test"};
    const struct split *split = &w->split;
    char name[2048], object[64];
    hid_t file;
    int64_t rows = -1, cols = -1, *sizes = malloc((size_t)n_shards * DATASET_PARTS * sizeof *sizes);
    assert_non_null(sizes);
    snprintf(name, sizeof name, "%s/dataset.h5", dir);
    assert_int_equal(h5_open_sealed(name, &file), 0);
    check_text(file, "format", "vaecf-dataset");
    check_text(file, "fingerprint", split->fingerprint);
    check_text(file, "header", "auto");
    check_int(file, "format_version", 2);
    check_int(file, "n_users", split->n_users);
    check_int(file, "n_items", split->n_items);
    check_int(file, "n_interactions", split->n_interactions);
    check_int(file, "n_shards", n_shards);
    check_int(file, "seed", 1);
    double fraction;
    assert_int_equal(h5_get_double(file, "/", "target_fraction", &fraction), 0);
    assert_true(fraction == 0.2);
    check_ids(file, "/items/id", split->n_items, item_text, w);
    check_numbers(file, "/items/count", H5T_NATIVE_INT64, 8, split->n_items, split->item_count);
    assert_int_equal(h5_shape(file, "/shards/rows", &rows, &cols), 0);
    assert_int_equal(rows, n_shards);
    assert_int_equal(cols, DATASET_PARTS);
    assert_int_equal(h5_read(file, "/shards/rows", H5T_NATIVE_INT64, 0, n_shards, sizes), 0);
    assert_int_equal(H5Fclose(file), 0);

    int64_t part_first[DATASET_PARTS] = {0};
    for (int64_t shard = 0; shard < n_shards; shard++) {
        snprintf(name, sizeof name, "%s/shard-%05d-of-%05d.h5", dir, (int)shard, (int)n_shards);
        assert_int_equal(h5_open_sealed(name, &file), 0);
        check_text(file, "format", "vaecf-shard");
        check_text(file, "fingerprint", split->fingerprint);
        check_int(file, "shard", shard);
        check_int(file, "n_shards", n_shards);
        check_int(file, "n_items", split->n_items);
        for (int p = 0; p < DATASET_PARTS; p++) {
            int s = (int)split_of((enum dataset_part)p), t = p && p % 2 == 0;
            int64_t count = sizes[shard * DATASET_PARTS + p], first = part_first[p], shape[2];
            const struct world_row *row = w->row[s] + first;
            assert_in_range(count, split->rows[s] / n_shards, split->rows[s] / n_shards + 1);
            part_first[p] += count;
            int64_t *indptr = calloc((size_t)count + 1, sizeof *indptr);
            int64_t *user = calloc((size_t)count + 1, sizeof *user);
            int32_t *indices = calloc((size_t)count * 40 + 1, sizeof *indices);
            assert_true(indptr && user && indices);
            for (int64_t r = 0; r < count; r++) {
                int32_t n = t ? row[r].head.n_target : row[r].head.n_input;
                memcpy(indices + indptr[r], row[r].items[t], (size_t)n * sizeof *indices);
                indptr[r + 1] = indptr[r] + n;
                user[r] = row[r].head.user_index;
            }
            snprintf(object, sizeof object, "/%s", dataset_part_name[p]);
            assert_int_equal(h5_get_ints(file, object, "shape", shape, 2), 0);
            assert_int_equal(shape[0], count);
            assert_int_equal(shape[1], split->n_items);
            snprintf(object, sizeof object, "/%s/indptr", dataset_part_name[p]);
            check_numbers(file, object, H5T_NATIVE_INT64, 8, count + 1, indptr);
            snprintf(object, sizeof object, "/%s/indices", dataset_part_name[p]);
            check_numbers(file, object, H5T_NATIVE_INT32, 4, indptr[count], indices);
            snprintf(object, sizeof object, "/%s/user", split_name[s]);
            check_numbers(file, object, H5T_NATIVE_INT64, 8, count, user);
            snprintf(object, sizeof object, "/%s/user_id", split_name[s]);
            check_ids(file, object, count, user_text, row);
            free(indptr);
            free(user);
            free(indices);
        }
        assert_int_equal(H5Fclose(file), 0);
    }
    for (int p = 0; p < DATASET_PARTS; p++)
        assert_int_equal(part_first[p], split->rows[split_of((enum dataset_part)p)]);
    assert_int_equal(count_files("shard-"), n_shards); /* and none of before */
    assert_int_equal(count_files("dataset"), 1);
    free(sizes);
}

static void any_number_of_shards(void **state) {
    (void)state;
    static const int64_t n_shards[] = {1, 8, 3, 60}; /* 60: more than rows */
    for (int i = 0; i < 4; i++) {
        struct world w;
        bool made = false;
        make_world(&w, n_shards[i]);
        assert_int_equal(prepare(dir, true, &made), 0);
        assert_int_equal(write_shards(&w, n_shards[i]), 0);
        check_dataset(&w, n_shards[i]);
        world_free(&w);
    }
}

static void touch(const char *name, char path[2048]) {
    snprintf(path, 2048, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
}

static void only_our_files_are_removed(void **state) {
    (void)state;
    static const char *const others[] = {"shard-1-notes.txt", "dataset.h5.bak", "shard-00000-of-00003.h5.bak",
                                         "a"};
    static const char *const left[] = {"shard-00007-of-00009.h5", "shard-00000-of-00001.h5.tmp",
                                       "dataset.h5.tmp"};
    char path[2048];
    struct world w;
    make_world(&w, 1);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) touch(others[i], path);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) touch(left[i], path);
    assert_int_equal(write_shards(&w, 1), 0);
    for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, left[i]);
        assert_int_not_equal(access(path, F_OK), 0);
    }
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, others[i]);
        assert_int_equal(unlink(path), 0);
    }
    world_free(&w);
}

static void places(void **state) {
    (void)state;
    char name[2048], file[2048];
    struct world w;
    bool made = false;
    make_world(&w, 1);
    assert_int_equal(write_shards(&w, 1), 0);
    world_free(&w);
    assert_int_equal(prepare(dir, false, &made), EX_CANTCREAT);
    assert_non_null(strstr(error_message(), "--force"));
    assert_int_equal(prepare(dir, true, &made), 0);
    touch("file", file);
    assert_int_equal(prepare(file, false, &made), EX_CANTCREAT);
    snprintf(name, sizeof name, "%s/file/below", dir);
    assert_int_equal(prepare(name, false, &made), EX_CANTCREAT);
    assert_int_equal(unlink(file), 0);
    assert_int_equal(prepare("", false, &made), EX_CANTCREAT);
    memset(name, 'x', sizeof name);
    name[1500] = '\0';
    assert_int_equal(prepare(name, false, &made), EX_CANTCREAT);
    snprintf(name, sizeof name, "%s/a/b//c/", dir); /* parents are made too */
    assert_int_equal(prepare(name, false, &made), 0);
    assert_true(made);
    made = false;
    assert_int_equal(prepare(name, false, &made), 0);
    assert_false(made);
    struct lock *lock, *second;
    assert_int_equal(shards_prepare(name, false, note, &made, &lock), 0);
    assert_int_equal(shards_prepare(name, false, note, &made, &second), EX_CANTCREAT);
    assert_non_null(strstr(error_message(), "process"));
    assert_null(second);
    lock_release(lock);
    static const char *const below[] = {"a/b/c", "a/b", "a"};
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s/%s", dir, below[i]);
        assert_int_equal(rmdir(name), 0);
    }
}

/* A directory in the way of a shard: the dataset that was there stays whole. */
static void failure_leaves_the_old_one(void **state) {
    (void)state;
    char name[2048];
    struct world w;
    struct world other;
    make_world(&w, 2);
    make_world(&other, 3);
    assert_int_equal(write_shards(&w, 2), 0);
    snprintf(name, sizeof name, "%s/shard-00002-of-00003.h5", dir);
    assert_int_equal(mkdir(name, 0777), 0);
    assert_int_equal(write_shards(&other, 3), EX_IOERR);
    assert_int_equal(rmdir(name), 0);
    check_dataset(&w, 2);
    assert_int_equal(count_files("replaced"), 0);
    world_free(&other);
    world_free(&w);
}

/* Killed while the new one took the old one's place: the next start puts the old one back. */
static void crash_leaves_the_old_one(void **state) {
    (void)state;
    static const char *const part[] = {"dataset.h5", "shard-00000-of-00002.h5", "shard-00001-of-00002.h5"};
    char from[2048], to[2048];
    bool made;
    struct world w;
    make_world(&w, 2);
    /* after so many were moved; 4: all were, and one of the new ones is in place */
    for (int moved = 0; moved <= 4; moved++) {
        const char *aside = moved == 4 ? "replaced.tmp" : "replacing.tmp";
        assert_int_equal(write_shards(&w, 2), 0);
        snprintf(to, sizeof to, "%s/%s", dir, aside);
        assert_int_equal(mkdir(to, 0777), 0);
        for (int i = 0; i < 3 && i < moved; i++) {
            snprintf(from, sizeof from, "%s/%s", dir, part[i]);
            snprintf(to, sizeof to, "%s/%s/%s", dir, aside, part[i]);
            assert_int_equal(rename(from, to), 0);
        }
        if (moved == 4) touch("shard-00000-of-00003.h5", from);
        assert_int_equal(prepare(dir, false, &made), EX_CANTCREAT); /* there is a dataset */
        check_dataset(&w, 2);
        assert_int_equal(count_files("shard-00000-of-00003"), 0);
        assert_int_equal(count_files("repl"), 0);
    }
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_number_of_shards),
        cmocka_unit_test(only_our_files_are_removed),
        cmocka_unit_test(places),
        cmocka_unit_test(failure_leaves_the_old_one),
        cmocka_unit_test(crash_leaves_the_old_one),
    };
    if (!mkdtemp(dir)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    return system(command) || failed;
}
