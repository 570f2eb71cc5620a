/* Users' lists as CSV, JSON lines and HDF5. */
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

#include "error.h"
#include "h5.h"
#include "lists.h"

static char dir[] = "/tmp/vaecf-lists-XXXXXX";
static char ids[] = "a,b\0\0\0say \"x\"na\xc3\xafve\0";
static int64_t counts[] = {9, 5, 1};
static const struct catalogue catalogue = {.items = {3, 7, ids, counts}};

static int set_up(void **state) {
    (void)state;
    memcpy(ids + 7, "say \"x\"", 7);
    memcpy(ids + 14, "na\xc3\xafve\0", 7);
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state) {
    char command[300];
    (void)state;
    snprintf(command, sizeof command, "rm -r %s", dir);
    return system(command);
}

static void write_three(const char *path, enum lists_format format) {
    const int32_t items[] = {2, 0, 1};
    const float scores[] = {1.5f, 0.25f, -3.0f};
    struct lists *lists;
    assert_int_equal(lists_open(path, format, &catalogue, "logit", &lists), 0);
    assert_int_equal(lists_add(lists, "zoe", 3, LISTS_MODEL, items, scores, 3), 0);
    assert_int_equal(lists_add(lists, "J\xff \"\n\\,", 7, LISTS_POPULARITY, items + 1, scores + 1, 1), 0);
    assert_int_equal(lists_add(lists, "none", 4, LISTS_MODEL, items, scores, 0), 0);
    assert_int_equal(access(path, F_OK), -1); /* not before it is whole */
    assert_int_equal(lists_close(lists, 1), 0);
}

static void assert_content(const char *path, const char *want) {
    char text[2000];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t n = fread(text, 1, sizeof text - 1, file);
    text[n] = '\0';
    fclose(file);
    assert_string_equal(text, want);
}

static void test_csv(void **state) {
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/x.csv", dir);
    write_three(path, LISTS_CSV);
    assert_content(path, "user,rank,item,score,source\n"
                         "zoe,1,na\xc3\xafve,1.5,model\n"
                         "zoe,2,\"a,b\",0.25,model\n"
                         "zoe,3,\"say \"\"x\"\"\",-3,model\n"
                         "\"J\xff \"\"\n\\,\",1,\"a,b\",0.25,popularity\n");
}

static void test_json(void **state) {
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/x.jsonl", dir);
    write_three(path, LISTS_JSON);
    assert_content(path,
                   "{\"user\":\"zoe\",\"source\":\"model\",\"items\":[\"na\xc3\xafve\",\"a,b\",\"say "
                   "\\\"x\\\"\"],\"scores\":[1.5,0.25,-3]}\n"
                   "{\"user\":\"J\\udcff \\\"\\u000a\\\\,\",\"source\":\"popularity\",\"items\":[\"a,b\"],"
                   "\"scores\":[0.25]}\n"
                   "{\"user\":\"none\",\"source\":\"model\",\"items\":[],\"scores\":[]}\n");
}

/* What is not UTF-8 stays apart from what is, and from each other: a byte is a surrogate. */
static void test_json_bytes(void **state) {
    (void)state;
    static const struct {
        const char *id, *json;
    } cases[] = {{"\xff", "\\udcff"},
                 {"\xc3\xbf", "\xc3\xbf"}, /* U+00FF */
                 {"\x80\xc3", "\\udc80\\udcc3"},
                 {"\xc0\x80", "\\udcc0\\udc80"}, /* overlong */
                 {"\xe0\x80\xaf", "\\udce0\\udc80\\udcaf"},
                 {"\xed\xb3\xbf", "\\udced\\udcb3\\udcbf"},            /* U+DCFF itself */
                 {"\xf4\x90\x80\x80", "\\udcf4\\udc90\\udc80\\udc80"}, /* U+110000 */
                 {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"},
                 {"\xed\x9f\xbf\xee\x80\x80", "\xed\x9f\xbf\xee\x80\x80"},
                 {"\x7f\x1f", "\x7f\\u001f"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[300], want[200];
        struct lists *lists;
        snprintf(path, sizeof path, "%s/bytes.jsonl", dir);
        assert_int_equal(lists_open(path, LISTS_JSON, &catalogue, "logit", &lists), 0);
        assert_int_equal(lists_add(lists, cases[i].id, strlen(cases[i].id), LISTS_MODEL, NULL, NULL, 0), 0);
        assert_int_equal(lists_close(lists, 1), 0);
        snprintf(want, sizeof want, "{\"user\":\"%s\",\"source\":\"model\",\"items\":[],\"scores\":[]}\n",
                 cases[i].json);
        assert_content(path, want);
    }
}

static void test_hdf5(void **state) {
    (void)state;
    char path[300], text[32], *strings;
    int64_t indptr[4], rows, cols;
    int32_t items[4];
    float scores[4];
    uint8_t source[3];
    size_t width;
    hid_t file;
    snprintf(path, sizeof path, "%s/x.h5", dir);
    write_three(path, LISTS_HDF5);
    assert_int_equal(h5_open_sealed(path, &file), 0);
    assert_int_equal(h5_get_text(file, "/", "format", text, sizeof text), 0);
    assert_string_equal(text, "vaecf-lists");
    assert_int_equal(h5_get_text(file, "/", "score", text, sizeof text), 0);
    assert_string_equal(text, "logit");
    assert_int_equal(h5_shape(file, "/item", &rows, &cols), 0);
    assert_int_equal(rows, 4);
    assert_int_equal(h5_read(file, "/indptr", H5T_NATIVE_INT64, 0, 4, indptr), 0);
    assert_int_equal(h5_read(file, "/item", H5T_NATIVE_INT32, 0, 4, items), 0);
    assert_int_equal(h5_read(file, "/score", H5T_NATIVE_FLOAT, 0, 4, scores), 0);
    assert_int_equal(h5_read(file, "/source", H5T_NATIVE_UINT8, 0, 3, source), 0);
    assert_memory_equal(indptr, ((int64_t[]){0, 3, 4, 4}), sizeof indptr);
    assert_memory_equal(items, ((int32_t[]){2, 0, 1, 0}), sizeof items);
    assert_memory_equal(scores, ((float[]){1.5f, 0.25f, -3.0f, 0.25f}), sizeof scores);
    assert_memory_equal(source, ((uint8_t[]){0, 1, 0}), sizeof source);
    assert_int_equal(h5_read_strings(file, "/user_id", &rows, &width, &strings), 0);
    assert_int_equal(rows, 3);
    assert_int_equal(width, 7);
    assert_memory_equal(strings, "zoe\0\0\0\0J\xff \"\n\\,none\0\0\0", 21);
    free(strings);
    assert_int_equal(h5_read_strings(file, "/items/id", &rows, &width, &strings), 0);
    assert_memory_equal(strings, ids, 21);
    free(strings);
    H5Fclose(file);
}

/* More than one piece of every array. */
static void test_many(void **state) {
    (void)state;
    enum { USERS = 70000 };
    char path[300], id[32], *strings;
    static int64_t indptr[USERS + 1];
    static int32_t items[2 * USERS];
    const float scores[] = {1, 0};
    struct lists *lists;
    int64_t rows;
    size_t width;
    hid_t file;
    snprintf(path, sizeof path, "%s/many.h5", dir);
    assert_int_equal(lists_open(path, LISTS_HDF5, &catalogue, "probability", &lists), 0);
    for (int32_t u = 0; u < USERS; u++) {
        int32_t list[2] = {u % 3, (u + 1) % 3};
        size_t length = (size_t)snprintf(id, sizeof id, "%d", u);
        assert_int_equal(lists_add(lists, id, length, LISTS_MODEL, list, scores, 1 + u % 2), 0);
    }
    assert_int_equal(lists_close(lists, 1), 0);
    assert_int_equal(h5_open(path, &file), 0);
    assert_int_equal(h5_read(file, "/indptr", H5T_NATIVE_INT64, 0, USERS + 1, indptr), 0);
    assert_int_equal(h5_read(file, "/item", H5T_NATIVE_INT32, 0, indptr[USERS], items), 0);
    assert_int_equal(h5_read_strings(file, "/user_id", &rows, &width, &strings), 0);
    assert_int_equal(rows, USERS);
    for (int32_t u = 0; u < USERS; u++) {
        snprintf(id, sizeof id, "%d", u);
        assert_int_equal(indptr[u + 1] - indptr[u], 1 + u % 2);
        assert_int_equal(items[indptr[u]], u % 3);
        assert_int_equal(strncmp(strings + (size_t)u * width, id, width), 0);
    }
    free(strings);
    H5Fclose(file);
}

static void test_failures(void **state) {
    (void)state;
    char path[300];
    struct stat status;
    struct lists *lists;
    const enum lists_format formats[] = {LISTS_CSV, LISTS_JSON, LISTS_HDF5};
    for (int f = 0; f < 3; f++) {
        snprintf(path, sizeof path, "%s/none/x", dir);
        assert_int_equal(lists_open(path, formats[f], &catalogue, "logit", &lists), EX_CANTCREAT);
        assert_non_null(strstr(error_message(), path));
        snprintf(path, sizeof path, "%s/given-up", dir);
        assert_int_equal(lists_open(path, formats[f], &catalogue, "logit", &lists), 0);
        assert_int_equal(lists_close(lists, 0), 0);
        assert_int_equal(stat(path, &status), -1);
        snprintf(path, sizeof path, "ls %s/given-up* 2> /dev/null", dir);
        assert_int_not_equal(system(path), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_csv),  cmocka_unit_test(test_json), cmocka_unit_test(test_json_bytes),
        cmocka_unit_test(test_hdf5), cmocka_unit_test(test_many), cmocka_unit_test(test_failures),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
