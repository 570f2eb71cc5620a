/* Paths that begin with ~ or have a $. In files no shell has replaced them; on the command line one may have
 * left them, as bash does in --output=~/x. They never become the name of a file. */
#ifndef VAECF_PATH_H
#define VAECF_PATH_H

#include <stddef.h>

/* A path out of a configuration into path[size]: "~/" at its beginning becomes $HOME/; $NAME and ${NAME},
 * anywhere, the variable's value; $$ a $. EX_CONFIG, without the path in the message, if a variable is not
 * set or empty, for other uses of $ and for ~user; and if what comes out begins with ~ or $, or does not fit.
 */
int path_expand(const char *text, char *path, size_t size);

/* The same for a path in which only $$ is to be replaced: one that path_escape wrote. */
void path_unescape(char *path);

/* Makes $$ of each $. out[size], of which a path takes at most twice its length. */
void path_escape(const char *path, char *out, size_t size);

/* May it be the name of an output? EX_USAGE if it begins with ~ or $. NULL is fine. */
int path_check(const char *path);

/* For the message about an input that is not there: " (...)" if it begins with ~ or $, else "". */
const char *path_hint(const char *path);

#endif
