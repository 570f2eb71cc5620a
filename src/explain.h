/* One user's history and list, to be read on a terminal. */
#ifndef VAECF_EXPLAIN_H
#define VAECF_EXPLAIN_H

#include "history.h"
#include "recommender.h"

/* Looks for the user in the history and prints to stdout. EX_DATAERR if there is no such user, what
 * history_next and ranker_top_k return, EX_IOERR. */
int explain(const struct recommender *recommender, const struct catalogue *catalogue, struct history *history,
            const char *user);

#endif
