/* Errors: a function that can fail returns 0 or a code of <sysexits.h> and leaves one message.
 *
 * The code is what the program will exit with (EX_DATAERR 65, EX_CONFIG 78, ...). The message is one line
 * without control characters, which become '?'; it names the file, line or key and says what would be right.
 * Only a main prints it. Each thread has a message of its own. */
#ifndef VAECF_ERROR_H
#define VAECF_ERROR_H

#include <sysexits.h>

#define EX_STOPPED                                                                                           \
    75 /* stopped by a signal after saving a checkpoint: run me again (sysexits: EX_TEMPFAIL) */

/* Remembers the message and returns `code`: `return error_set(EX_NOINPUT, "%s: no such file", path);` */
int error_set(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "text: " before the message, for callers that know more; returns `code`. */
int error_prefix(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* "no memory for ..." with the size asked for; returns EX_OSERR. */
int error_memory(const char *what, unsigned long long bytes);

/* The thread's last message; "" if there was none. Valid until the next error_set of this thread. */
const char *error_message(void);

#endif
