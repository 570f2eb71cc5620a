/* See options.h. */
#include "options.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

int option_whole(const char *name, const char *text, int64_t low, int64_t high, int64_t *value) {
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    if (*text && !*end && !errno && *value >= low && *value <= high) return 0;
    return error_set(EX_USAGE, "--%s %s: want a whole number from %" PRId64 " to %" PRId64, name, text, low,
                     high);
}

int option_number(const char *name, const char *text, double low, double high, double *value) {
    char *end;
    errno = 0;
    *value = strtod(text, &end);
    if (*text && !*end && !errno && isfinite(*value) && *value >= low && *value <= high) return 0;
    if (isinf(low) && isinf(high)) return error_set(EX_USAGE, "--%s %s: want a number", name, text);
    return error_set(EX_USAGE, "--%s %s: want a number from %g to %g", name, text, low, high);
}

int option_choice(const char *name, const char *text, const char *const *words, int *choice) {
    char all[128] = "";
    for (int i = 0; words[i]; i++) {
        if (strcmp(text, words[i]) == 0) {
            *choice = i;
            return 0;
        }
        size_t used = strlen(all);
        snprintf(all + used, sizeof all - used, "%s%s", i ? words[i + 1] ? ", " : " or " : "", words[i]);
    }
    return error_set(EX_USAGE, "--%s %s: want %s", name, text, all);
}
