/* Speed of json_find alone: the keys' values of all lines of a file that lies in memory, on one thread.
 *
 *   build/tests/bench/json_lines FILE KEY...     make bench-json
 *
 * Prints the lines that have all keys, the bytes of the values, and the fastest of ROUNDS in seconds:
 * by the clock, of the processor. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "json.h"

enum { ROUNDS = 5 };

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The file with a line end behind it, to be freed; NULL if there is none. */
static char *read_file(const char *path, size_t *size) {
    struct stat st;
    FILE *file = fopen(path, "rb");
    char *text = NULL;
    if (file && fstat(fileno(file), &st) == 0 && (text = malloc((size_t)st.st_size + 1))) {
        *size = fread(text, 1, (size_t)st.st_size, file);
        if (*size && text[*size - 1] != '\n') text[(*size)++] = '\n';
    }
    if (file) fclose(file);
    return text;
}

int main(int argc, char **argv) {
    struct json_key keys[JSON_KEYS_MAX];
    struct json_value values[JSON_KEYS_MAX];
    const int n = argc - 2;
    size_t size = 0;
    char *text = n >= 1 && n <= JSON_KEYS_MAX ? read_file(argv[1], &size) : NULL;
    char *room = text ? malloc(size) : NULL;
    if (!room) {
        fprintf(stderr, "usage: json_lines FILE KEY...\n");
        return 64;
    }
    for (int i = 0; i < n; i++) keys[i] = (struct json_key){argv[2 + i], strlen(argv[2 + i])};
    double best = 1e9, best_cpu = 1e9;
    long long rows = 0, bytes = 0;
    for (int round = 0; round < ROUNDS; round++) {
        double begin = now(CLOCK_MONOTONIC), begin_cpu = now(CLOCK_PROCESS_CPUTIME_ID);
        rows = bytes = 0;
        for (const char *at = text, *end; at < text + size; at = end + 1) {
            end = memchr(at, '\n', (size_t)(text + size - at));
            const char *what = json_find(at, (size_t)(end - at), keys, n, values, room);
            if (what) {
                fprintf(stderr, "%s: %s: %.80s\n", argv[1], what, at);
                return 65;
            }
            int missing = 0;
            for (int i = 0; i < n; i++) {
                missing |= values[i].kind == JSON_MISSING;
                bytes += (long long)values[i].length;
            }
            rows += !missing;
        }
        double seconds = now(CLOCK_MONOTONIC) - begin;
        double cpu = now(CLOCK_PROCESS_CPUTIME_ID) - begin_cpu;
        if (seconds < best) best = seconds;
        if (cpu < best_cpu) best_cpu = cpu;
    }
    printf("%lld %lld %.6f %.6f\n", rows, bytes, best, best_cpu);
    free(text);
    free(room);
    return 0;
}
