/* See tuning.h. */
#include "tuning.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "environment.h"
#include "error.h"

static const struct {
    const char *name;
    size_t offset;
    int is_default;
} switches[] = {
#define SWITCH(name, is_default)                                                                             \
    { #name, offsetof(struct tuning, name), is_default }
    SWITCH(bias_epilogue, 0), SWITCH(short_activations, 0), SWITCH(short_moments, 0),
    SWITCH(fp8, 0),           SWITCH(split_rows, 0),        SWITCH(sorted_steps, 0),
    SWITCH(priority, 1),      SWITCH(early_sum, 1),         SWITCH(overlap_adam, 1),
#undef SWITCH
};
enum { SWITCHES = sizeof switches / sizeof *switches };

static int *value_of(const struct tuning *tuning, int i) {
    return (int *)((char *)(uintptr_t)tuning + switches[i].offset);
}

/* Turns the switch of that name. */
static int turn(struct tuning *tuning, const char *name, size_t length, int value) {
    char names[256] = "";
    for (int i = 0; i < SWITCHES; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, " %s", switches[i].name);
        if (strlen(switches[i].name) != length || strncmp(name, switches[i].name, length) != 0) continue;
        *value_of(tuning, i) = value;
        return 0;
    }
    return error_set(EX_CONFIG, "VAECF_CUDA_TUNING: %.*s: want some of%s", (int)length, name, names);
}

int tuning_parse(const char *text, struct tuning *tuning) {
    int code = 0;
    for (int i = 0; i < SWITCHES; i++) *value_of(tuning, i) = switches[i].is_default;
    while (text && *text && !code) {
        int is_off = *text == '-';
        size_t length = strcspn(text += is_off, ", ");
        if (length > 0) code = turn(tuning, text, length, !is_off);
        text += length;
        text += strspn(text, ", ");
    }
    return code;
}

int tuning_read(struct tuning *tuning) {
    return tuning_parse(environment("VAECF_CUDA_TUNING"), tuning);
}

void tuning_describe(const struct tuning *tuning, char *text, int size) {
    int used = 0;
    *text = 0;
    for (int i = 0; i < SWITCHES && used < size; i++) {
        int value = *value_of(tuning, i);
        if (value == switches[i].is_default) continue;
        used += snprintf(text + used, (size_t)(size - used), "%s%s%s", used ? " " : ", tuning ",
                         value ? "" : "-", switches[i].name);
    }
}
