/* What was found to be best once and is to be taken again, in a text file: a line "key;16 digits of each
 * word" a choice. A line that is not whole is passed over; of equal keys the last one counts. */
#ifndef VAECF_CHOICES_H
#define VAECF_CHOICES_H

#include <stdint.h>

enum { CHOICE_WORDS = 8, CHOICE_KEY_MAX = 256 };

struct choice {
    char key[CHOICE_KEY_MAX]; /* without ';' and line ends */
    uint64_t word[CHOICE_WORDS];
};

struct choices;

/* Reads the file, which is made if it is not there. EX_CANTCREAT, EX_OSERR; EX_USAGE by
 * path_check. */
int choices_open(const char *path, struct choices **choices);
/* NULL is harmless. */
void choices_close(struct choices *choices);

/* NULL: there is none. */
const struct choice *choices_find(const struct choices *choices, const char *key);
/* Adds it to the file too, unless another process, another rank say, has chosen for the same key since this
 * one read the file: then *choice becomes that one. So ranks that share the file choose alike. EX_IOERR,
 * EX_OSERR. */
int choices_add(struct choices *choices, struct choice *choice);

/* Is the line a choice? */
int choice_read(const char *line, struct choice *choice);

#endif
