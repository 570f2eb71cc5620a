/* See environment.h. */
#include "environment.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

const char *environment(const char *name) {
    const char *value = getenv(name);
    return value && value[strspn(value, " \t\r\n")] ? value : NULL;
}

int environment_has_threads(void) {
    const char *text = environment("OMP_NUM_THREADS");
    char *end;
    if (!text) return 0;
    long threads = strtol(text, &end, 10);
    end += strspn(end, " \t\r\n");
    return threads > 0 && threads <= INT_MAX && (!*end || *end == ',');
}

/* ---- before the libraries start ---- */

/* Sanitizers are not there yet. */
#ifdef __clang__
#define EARLY __attribute__((no_sanitize("address", "undefined", "coverage")))
#else
#define EARLY __attribute__((no_sanitize_address, no_sanitize_undefined))
#endif

/* What libraries and this program read. Not CUDA_VISIBLE_DEVICES: empty, it means no GPU. */
static const char prefixes[] = "OMP_ GOMP_ KMP_ OPENBLAS_ GOTO_ BLIS_ MKL_ DNNL_ ONEDNN_ VAECF_ TMPDIR=";

/* Is the entry NAME=VALUE to go? Without the C library, parts of which may not have started either. */
EARLY static int is_empty(const char *entry) {
    const char *value = entry;
    while (*value && *value != '=') value++;
    if (*value) value++;
    while (*value == ' ' || (*value >= '\t' && *value <= '\r')) value++;
    if (*value) return 0;
    for (const char *prefix = prefixes; *prefix;) {
        const char *name = entry;
        while (*prefix && *prefix != ' ' && *prefix == *name) prefix++, name++;
        if (!*prefix || *prefix == ' ') return 1;
        while (*prefix && *prefix != ' ') prefix++;
        while (*prefix == ' ') prefix++;
    }
    return 0;
}

EARLY static void drop_empty(int argc, char **argv, char **entries) {
    (void)argc, (void)argv;
    char **to = entries;
    for (char **from = entries; *from; from++) {
        if (!is_empty(*from)) *to++ = *from;
    }
    *to = NULL;
}

/* This file is linked into every program: program_start leads to it over output.c and file.c.
 *
 * The dynamic linker calls what is in this section of a program before the constructors of its libraries.
 * Other systems than Linux with the GNU C library may not: then `environment` is what is left. */
__attribute__((section(".preinit_array"), used)) static void (*const before_libraries)(int, char **,
                                                                                       char **) = drop_empty;
