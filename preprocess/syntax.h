/* Delimiter and quotes of text: it is split in every way that its characters allow, and the way in which the
 * rows agree wins. Where two agree as well, the user is asked. */
#ifndef VAECF_SYNTAX_H
#define VAECF_SYNTAX_H

#include "fields.h"
#include "preview.h"

/* How well a syntax fits. */
struct score {
    int n; /* fields of most rows */
    int64_t rows;
    int64_t wrong;                /* that cannot be read or have another number of fields */
    int64_t quoted;               /* with a quoted field */
    bool last_wrong;              /* the last one is, */
    int64_t n_bad;                /* and so many cannot be read */
    int64_t continued, swallowed; /* lines that go on in quotes; of these, those of records whose lines are
                                     all rows by themselves */
};

struct score syntax_score(const struct preview *s, const struct syntax *syntax);

/* A delimiter as people call it: "tab", "blanks", ... */
const char *syntax_delimiter_name(const char *delimiter);

/* Takes a delimiter as the user writes it: "\\t" is a tab. */
void syntax_set_delimiter(struct syntax *syntax, const char *delimiter);

/* Finds delimiter and quotes, as far as the options do not say them; *least is how well they fit. Without any
 * that fits, *least has fewer than two fields, or many wrong rows, as with lists. EX_DATAERR where two fit as
 * well. */
int syntax_find(const struct preview *s, struct syntax *syntax, struct score *least);

#endif
