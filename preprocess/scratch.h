/* Memory within a budget, a file on disk for what goes beyond it, and the wish of the user to stop.
 *
 * The file has no name from the start (or loses it at once), so that nothing stays behind, however the
 * program ends. Functions return 0 or a code of <sysexits.h> with error_message() set; threads may call them
 * at the same time. */
#ifndef VAECF_SCRATCH_H
#define VAECF_SCRATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct scratch {
    const char *dir; /* where the file goes; "" is none */
    int64_t budget;  /* bytes of memory */
    int64_t used;    /* of it */
    int64_t size;    /* of the file */
    int file_plus_1; /* descriptor; 0: none yet */
};

/* Takes bytes of the budget, as long as no more than `share` of it is used then; false if not. */
bool scratch_reserve(struct scratch *scratch, size_t bytes, double share);
void scratch_release(struct scratch *scratch, size_t bytes);

/* A place for bytes in the file. */
int scratch_allocate(struct scratch *scratch, size_t bytes, int64_t *at);
/* EX_IOERR names the directory and --tmp. */
int scratch_write(const struct scratch *scratch, const void *data, size_t bytes, int64_t at);
int scratch_read(const struct scratch *scratch, void *data, size_t bytes, int64_t at);

void scratch_close(struct scratch *scratch);

/* SIGINT, SIGTERM and SIGHUP only set a flag from now on. */
void stop_catch_signals(void);
/* The signal that came, 0 if none. */
int stop_signal(void);
/* EX_TEMPFAIL "interrupted ..." if a signal came. */
int stop_check(void);

/* The first failure of several threads: each calls failure_keep with its code; failure_code, by one thread
 * afterwards, returns the code and sets the message again. */
struct failure {
    int code;
    char message[1024];
};
void failure_keep(struct failure *failure, int code);
int failure_code(const struct failure *failure);

#endif
