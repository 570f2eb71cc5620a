/* Files that hold no text of ours: archives, tables of other programs, other encodings, noise. */
#ifndef VAECF_FOREIGN_H
#define VAECF_FOREIGN_H

#include <stddef.h>

/* data: the first bytes of a file, decompressed as far as stream.h does that; the more the better, up to a
 * megabyte. Returns NULL if they may be text in UTF-8 or another extension of ASCII, else what they are, for
 * people, and what to do: "is a zip archive; unpack it: unzip -p FILE | vaecf-preprocess --input - ...". */
const char *foreign_name(const char *data, size_t size);

#endif
