/* The bytes of a file: plain, gzip, zstd, xz, .lzma or bzip2, told apart by their first bytes and not by the
 * file's name. Several compressed streams one after the other are one file, as `cat`, bgzip, pzstd, pbzip2
 * and `xz -T` write them; zeros between and after those of gzip, bzip2 and xz are padding. xz and bzip2 take
 * liblzma and libbz2 when vaecf is built. What else there is, foreign.h names.
 *
 * Functions return 0 or a code of <sysexits.h> with error_message() set. */
#ifndef VAECF_STREAM_H
#define VAECF_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stream;

/* Opens a file, "-" for standard input. EX_NOINPUT if there is none or it may not be read; EX_DATAERR if it
 * is compressed in a way that this build does not read; EX_TEMPFAIL if a signal came (scratch.h) while it
 * waited for a pipe, then or in stream_read. */
int stream_open(const char *path, struct stream **stream);

/* Up to size decompressed bytes; *got < size only at the end. EX_IOERR if the file cannot be read, EX_DATAERR
 * if the compressed data is damaged or ends too early, EX_OSERR if there is no memory to decompress it. */
int stream_read(struct stream *stream, void *data, size_t size, size_t *got);

/* Is it a plain file of *size bytes, which can be read from anywhere? */
bool stream_is_plain(const struct stream *stream, int64_t *size);

/* Goes to a byte of a plain file. EX_IOERR. */
int stream_seek(struct stream *stream, int64_t offset);

/* Bytes of the file read so far, as it is on disk, and in all; *total is 0 where that is unknown. */
void stream_progress(const struct stream *stream, int64_t *done, int64_t *total);

/* The name for messages: the path, or "standard input". */
const char *stream_name(const struct stream *stream);

/* The part of the file that has been read, 0 .. 1; -1 if its size is not known (a pipe). */
double stream_fraction(const struct stream *stream);

void stream_close(struct stream *stream); /* NULL is fine */

#endif
