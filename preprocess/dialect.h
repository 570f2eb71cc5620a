/* What a file is: its format, line ends, delimiter, quotes, header and columns, by its first megabyte and by
 * what the user says. */
#ifndef VAECF_DIALECT_H
#define VAECF_DIALECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "csv.h"
#include "fields.h"
#include "names.h"

enum { DIALECT_SAMPLE = 1 << 20, DIALECT_NAME_MAX = 255 };

struct dialect {
    enum csv_format format; /* not CSV_FORMAT_AUTO */
    struct syntax syntax;
    int n_fields;      /* of every row of text; 0: any number */
    int column[NAMES]; /* of text and blocks, from 0; -1: there is none */
    /* The columns' names: of JSON the keys, of text what the header says; "" where there is none. */
    char name[NAMES][DIALECT_NAME_MAX + 1];
    bool header, dates; /* the times are dates (value_date), else numbers */
    bool comma;         /* 3,5 is a number */
    size_t begin;       /* where the first row starts */
    int64_t lines;      /* before it */
    char notes[512];    /* for people: what is odd, or left alone; "" if nothing is */
};

/* Finds what the file `name` is by its first bytes, which begin with its first one; whole: there are no more.
 * The user's options go before any evidence. An empty file is text without rows. EX_DATAERR with a line that
 * shows the first rows and names the option that decides; EX_USAGE; EX_OSERR. */
int dialect_find(const char *sample, size_t size, bool whole, const char *name,
                 const struct csv_options *options, struct dialect *dialect);

/* Is it a line that begins a block: an id and a colon? */
bool dialect_is_block_head(const char *line, size_t length);

/* Adds to the notes. */
__attribute__((format(printf, 2, 3))) void dialect_note(struct dialect *dialect, const char *format, ...);

/* What was found, for people: "text, delimiter ',', header; user 'userId', item 'movieId', no rating". */
void dialect_describe(const struct dialect *dialect, char *text, size_t size);

/* The options that say the same: "--format text --delimiter , --quote '\"' --header yes --user-column ...",
 * for a shell. */
void dialect_options(const struct dialect *dialect, const struct csv_options *options, char *text,
                     size_t size);

/* Has a file the columns that the one before it has? Where one of two has a header and the other has not,
 * they have to lie alike, or one would be read wrong. EX_DATAERR. */
int dialect_compare(const struct dialect *before, const char *before_name, const struct dialect *dialect,
                    const char *name);

#endif
