/* Kinds of events, as --events has them: "view=1,cart=3,buy=5" or "buy,cart". */
#ifndef VAECF_EVENTS_H
#define VAECF_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

#include "csv.h"

struct events {
    int n;
    bool weighted; /* all have a weight; else none has */
    const char *name[CSV_EVENTS_MAX];
    size_t length[CSV_EVENTS_MAX];
    double weight[CSV_EVENTS_MAX];
};

/* The text is kept. EX_USAGE. */
int events_parse(const char *text, struct events *events);

/* Its place in the list; -1 if it is not there. */
int events_find(const struct events *events, const char *name, size_t length);

#endif
