/* Files that are there whole or not at all, and directories for them. */
#ifndef VAECF_FILE_H
#define VAECF_FILE_H

#include <stdio.h>

enum { FILE_NAME_SIZE = 4096 };

/* Makes a directory and those above it; it may be there already. EX_CANTCREAT if it cannot be made or
 * written. */
int file_make_directory(const char *path);

/* "PATH.tmp": the name under which a file is written. */
void file_temporary(const char *path, char temporary[FILE_NAME_SIZE]);

/* Gives a written and closed temporary file its place: flushes it to disk, renames it, flushes the directory.
 * On failure the temporary file is removed and what was in the place stays. EX_IOERR. */
int file_place(const char *path);

/* Writes a whole small file, by way of a temporary one. EX_CANTCREAT, EX_IOERR. */
int file_write(const char *path, const char *text);

/* Opens a file without a name in $TMPDIR (/tmp) to write and read again; it vanishes with its last user.
 * EX_CANTCREAT. */
int file_scratch(FILE **file);

#endif
