/* The first megabyte of a file, by which its dialect is found (dialect.h), and what its columns hold. Nothing
 * of a preview outlives it. Functions that return int return 0 or a code of <sysexits.h> with error_message()
 * set. */
#ifndef VAECF_PREVIEW_H
#define VAECF_PREVIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "csv.h"
#include "dialect.h"
#include "fields.h"

enum { LOOK_ROWS = 1000, LOOK_FIELDS = 64 };

/* The text and what is needed to go through it. [at, end) are whole lines, unless the file ends at `end`.
 */
struct preview {
    const char *start, *at, *end;
    bool whole;
    const char *name;
    const struct csv_options *options;
    struct fields *fields;
    char *room; /* [FIELDS_RECORD_MAX] */
};

/* What the rows below the first have in a column. A few values that do not fit are rows to be told by their
 * line, so most of them decide. */
struct look {
    int64_t n; /* values that are not missing; of these are */
    int64_t n_numbers, n_fractions, n_dates, n_epochs, n_digits; /* n_digits: have a digit in them */
    bool numbers, fractions, dates, epochs;                      /* at least half of them are */
    bool digits;                                                 /* all of them have one */
};

static inline bool is_one_of(char c, const char *set) {
    return c && strchr(set, c);
}

/* Splits the next record from *at on, past blank lines, into s->fields and goes behind it; false at the end.
 */
bool preview_next(const struct preview *s, const struct syntax *syntax, const char **at);

/* The line of the file, from 1, in which `at` lies. */
int64_t preview_line(const struct preview *s, char newline, const char *at);

/* The rows at `at`, as they would be split: "line 1: 1 'u1', 2 'i1'; line 2: ...". */
void preview_show_rows(const struct preview *s, const struct syntax *syntax, const char *at, int rows,
                       char *text, size_t size);

/* EX_DATAERR: the user is to say what the file does not. The message has the first rows from `at` on. */
__attribute__((format(printf, 4, 5))) int preview_undecided(const struct preview *s,
                                                            const struct syntax *syntax, const char *at,
                                                            const char *format, ...);

/* Is this text anywhere from s->at on? */
bool preview_has(const struct preview *s, const char *text);

/* Looks at the columns of up to LOOK_ROWS rows from `at` on, with the dialect's syntax and number of fields;
 * skip_first: behind a header. Returns how many rows there are. */
int64_t preview_look(const struct preview *s, const struct dialect *d, const char *at, bool skip_first,
                     struct look look[LOOK_FIELDS]);

/* For qsort of uint64_t. */
int preview_compare_hashes(const void *a, const void *b);

#endif
