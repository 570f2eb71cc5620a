/* Which keys of JSON lines are user, item, rating, time and event: by their usual names and by what the first
 * lines have. */
#ifndef VAECF_KEYS_H
#define VAECF_KEYS_H

#include "preview.h"

/* EX_DATAERR, EX_OSERR. */
int keys_find(const struct preview *s, struct dialect *d);

#endif
