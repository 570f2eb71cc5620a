/* Header and columns of text: by their names where there is a header, else by their places as far as what is
 * in them fits. Where neither does, the user is asked. */
#ifndef VAECF_COLUMNS_H
#define VAECF_COLUMNS_H

#include "names.h"
#include "preview.h"

/* The names that stand for user and item with this kind of content. */
enum name columns_item(const struct preview *s);

enum name columns_user(const struct preview *s);

/* Keeps a column's name in the dialect. */
void columns_keep(struct dialect *d, enum name name, const char *text, size_t length);

/* What the user said about the columns: a name, a number, "none", or NULL. */
void columns_given(const struct csv_options *o, const char *given[NAMES]);

bool columns_is_none(const char *given);

/* Finds whether there is a header, and the columns, with syntax and number of fields known; d->begin goes
 * behind a header. EX_DATAERR, EX_USAGE, EX_OSERR. */
int columns_find(const struct preview *s, struct dialect *d);

#endif
