/* The columns of interactions, and the names that they usually have. */
#ifndef VAECF_NAMES_H
#define VAECF_NAMES_H

#include <stddef.h>

/* What a column says. NAME_TITLE is of files that give items their titles. */
enum name { NAME_USER, NAME_ITEM, NAME_RATING, NAME_TIME, NAME_EVENT, NAME_TITLE, NAMES };

extern const char *const name_of[NAMES]; /* "user", "item", ... */

/* How usual a column's name is for it: 0 is the first choice; -1: it is not one of the usual names. Letter
 * case, '_', '-' and blanks do not matter, nor does the type that RecBole adds ("user_id:token"), nor what
 * stands in parentheses at the end ("Rating (1-5)"). */
int name_rank(enum name name, const char *text, size_t length);

/* The length of a column's name without the type that RecBole adds. */
size_t name_untyped(const char *text, size_t length);

#endif
