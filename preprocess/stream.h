/* The bytes of a file: plain, gzip or zstd, told apart by their first bytes and not by the file's name.
 *
 * Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_STREAM_H
#define VAECF_STREAM_H

#include <stddef.h>

struct stream;

/* Opens a file, "-" for standard input. EX_NOINPUT if there is none or it may not be read. */
int stream_open(const char *path, struct stream **stream);

/* Up to size decompressed bytes; *got < size only at the end. EX_IOERR if the file cannot be read, EX_DATAERR
 * if the compressed data is damaged or ends too early. */
int stream_read(struct stream *stream, void *data, size_t size, size_t *got);

/* The name for messages: the path, or "standard input". */
const char *stream_name(const struct stream *stream);

/* The part of the file that has been read, 0 .. 1; -1 if its size is not known (a pipe). */
double stream_fraction(const struct stream *stream);

void stream_close(struct stream *stream); /* NULL is fine */

#endif
