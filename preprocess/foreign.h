/* Files that hold no text of ours: archives, tables of other programs, other encodings, JSON that is not
 * lines, noise.
 *
 * Text may have any encoding that extends ASCII (UTF-8, latin-1, GBK, ...), a byte order mark of UTF-8,
 * control bytes as delimiters (Hive's \x01), and a few stray control and zero bytes: those are bad rows. A
 * text that begins with a format's letters ("PAR1", "ORC", "BZh9") is a text: more than these must fit. */
#ifndef VAECF_FOREIGN_H
#define VAECF_FOREIGN_H

#include <stddef.h>

/* data: the first bytes of a file, decompressed as far as stream.h does that; the more the better, up to a
 * megabyte. Returns NULL if they may be text, else what they are and what to do, to go behind the file's
 * name: "is an Avro file; pipe it: avro-tools tojson FILE | ... --input -". FILE and "..." (the program with
 * its other options) are for the reader to fill in. One line, less than 400 characters, static. */
const char *foreign_name(const char *data, size_t size);

#endif
