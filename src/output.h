/* One way to write a file, for all programs.
 *
 *   a regular file, or a name where there is nothing   written under another name beside it, flushed to disk,
 *                                then renamed: under its own name it is whole, and what was there before
 *                                stays whole until then. A symbolic link leads to the file that is replaced.
 *   "-", "/dev/stdout", "/dev/fd/N"                    that descriptor
 *   a device, FIFO or the like   written through, never replaced
 *
 * What ends in .gz or .zst is compressed on the way. */
#ifndef VAECF_OUTPUT_H
#define VAECF_OUTPUT_H

#include <stdio.h>

struct output;

/* Begins a file; NULL is standard output. EX_CANTCREAT, EX_IOERR if the disk is full or broken, EX_OSERR;
 * EX_USAGE by path_check. */
int output_open(const char *path, struct output **output);

/* Where its bytes go: buffered, and the output's own. */
FILE *output_stream(struct output *output);

/* Instead of the stream, for a library that writes files by itself and seeks in them: the name of an empty
 * file that may be written and replaced. EX_CANTCREAT. */
int output_name(struct output *output, const char **name);

/* Has writing to the stream failed? EX_IOERR. */
int output_check(struct output *output);

/* Ends it. code: what the making of its content has come to; unless 0, what was in the place stays. Returns
 * the first failure, whose message stands; EX_IOERR if the disk did not take it. NULL is fine. */
int output_close(struct output *output, int code);

/* Is it the name of a file that an interrupted output to `path` (without a directory) left behind? */
int output_is_left(const char *name, const char *path);

/* From now on SIGINT, SIGTERM and SIGHUP remove unfinished files before they end the program. */
void output_catch_signals(void);

#endif
