#include "error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MESSAGE_MAX = 2048 };

static _Thread_local char message[MESSAGE_MAX];

/* Keeps it as one line, whatever text of files is in it. */
static void keep(char text[MESSAGE_MAX]) {
    for (char *c = text; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    }
    memcpy(message, text, MESSAGE_MAX);
}

int error_set(int code, const char *format, ...) {
    char text[MESSAGE_MAX]; /* the arguments may point into the old message */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    keep(text);
    return code;
}

int error_prefix(int code, const char *format, ...) {
    char text[MESSAGE_MAX];
    va_list args;
    va_start(args, format);
    int used = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (used >= 0 && used < MESSAGE_MAX) {
        snprintf(text + used, sizeof text - (size_t)used, ": %s", message);
    }
    keep(text);
    return code;
}

int error_memory(const char *what, unsigned long long bytes) {
    return error_set(EX_OSERR, "no memory for %s (%.1f MB wanted)", what, (double)bytes / 1e6);
}

const char *error_message(void) {
    return message;
}
