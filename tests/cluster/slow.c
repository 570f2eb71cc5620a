/* Preloaded by tests: from the SLOW_AFTERth checkpoint of this process on, each takes SLOW_SECONDS longer. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double number(const char *name) {
    const char *text = getenv(name);
    return text ? atof(text) : 0;
}

int rename(const char *from, const char *to) {
    static int saves;
    double seconds = number("SLOW_SECONDS");
    struct timespec left = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    if (strstr(to, "/checkpoints/step-") && ++saves >= number("SLOW_AFTER")) {
        while (nanosleep(&left, &left)) continue;
    }
    return renameat(AT_FDCWD, from, AT_FDCWD, to);
}
