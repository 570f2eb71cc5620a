/* The live line: on a terminal lines take its place; elsewhere there is none. */
#define _GNU_SOURCE /* pseudo-terminals */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "report.h"

/* What the report's lines look like on `file`, which becomes standard output; read from `reader`. */
static void show(int file, int reader, char text[1024], int *is_live) {
    struct config config;
    struct report report;
    char directory[] = "/tmp/report_test.XXXXXX";
    assert_non_null(mkdtemp(directory));
    config_defaults(&config);
    snprintf(config.output_path, sizeof config.output_path, "%s/run", directory);
    fflush(stdout);
    int before = dup(STDOUT_FILENO);
    dup2(file, STDOUT_FILENO);
    int code = report_open(&report, &config, 0);
    *is_live = report.is_live;
    report_live(&report, "half of %d", 1);
    report_line(&report, "epoch %d", 1);
    report_live(&report, "half of %d", 2);
    report_close(&report);
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    assert_int_equal(code, 0);
    /* a terminal may hand it over in pieces */
    size_t length = 0;
    struct pollfd ready = {.fd = reader, .events = POLLIN};
    for (ssize_t n = 1; n > 0 && poll(&ready, 1, 500) > 0; length += n > 0 ? (size_t)n : 0) {
        n = read(reader, text + length, 1023 - length);
    }
    text[length] = '\0';
    char command[128], log[64] = "";
    snprintf(command, sizeof command, "%s/run/train.log", directory);
    FILE *lines = fopen(command, "r");
    assert_non_null(fgets(log, sizeof log, lines));
    assert_non_null(strstr(log, "  epoch 1\n"));
    assert_null(fgets(log, sizeof log, lines));
    fclose(lines);
    snprintf(command, sizeof command, "rm -r %s", directory);
    assert_int_equal(system(command), 0);
}

static void test_terminal(void **state) {
    (void)state;
    char text[1024];
    int is_live, master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) || unlockpt(master)) skip();
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    assert_true(slave >= 0);
    show(slave, master, text, &is_live);
    assert_true(is_live);
    assert_string_equal(text, "\r\033[Khalf of 1\r\033[Kepoch 1\r\n\r\033[Khalf of 2\r\033[K");
    close(slave);
    close(master);
}

static void test_file(void **state) {
    (void)state;
    char text[1024];
    int is_live, ends[2];
    assert_int_equal(pipe(ends), 0);
    show(ends[1], ends[0], text, &is_live);
    assert_false(is_live);
    assert_string_equal(text, "epoch 1\n");
    close(ends[0]);
    close(ends[1]);
}

/* Under mpirun the terminal counts only if mpirun's own output is one: here the parent's is a pipe or file.
 */
static void test_mpirun(void **state) {
    (void)state;
    char text[1024], parent[64], target[64] = "";
    int is_live, master = posix_openpt(O_RDWR | O_NOCTTY);
    snprintf(parent, sizeof parent, "/proc/%ld/fd/1", (long)getppid());
    if (readlink(parent, target, sizeof target - 1) < 0 || strncmp(target, "/dev/", 5) == 0) skip();
    if (master < 0 || grantpt(master) || unlockpt(master)) skip();
    int slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    show(slave, master, text, &is_live);
    unsetenv("OMPI_COMM_WORLD_RANK");
    assert_false(is_live);
    assert_string_equal(text, "epoch 1\r\n");
    close(slave);
    close(master);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_terminal),
        cmocka_unit_test(test_file),
        cmocka_unit_test(test_mpirun),
    };
    unsetenv("OMPI_COMM_WORLD_RANK");
    unsetenv("PMIX_RANK");
    unsetenv("PMI_RANK");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
