/* Values of command line options. Each function gives 0, or EX_USAGE with a message that names the option
 * (without its dashes) and says what it wants. */
#ifndef VAECF_OPTIONS_H
#define VAECF_OPTIONS_H

#include <stdint.h>

/* From low to high. */
int option_whole(const char *name, const char *text, int64_t low, int64_t high, int64_t *value);
/* Finite, from low to high; -INFINITY and INFINITY: any. */
int option_number(const char *name, const char *text, double low, double high, double *value);
/* The place among words, which NULL ends. */
int option_choice(const char *name, const char *text, const char *const *words, int *choice);

#endif
