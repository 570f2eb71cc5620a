/* Directories and small files; see output.h for how files are written. */
#ifndef VAECF_FILE_H
#define VAECF_FILE_H

#include <stdio.h>

enum { FILE_NAME_SIZE = 4096 };

/* Makes a directory and those above it; it may be there already. *made, unless NULL: it was not. EX_CANTCREAT
 * if it cannot be made or written; EX_USAGE by path_check. */
int file_make_directory(const char *path, int *made);

/* Creates a file that is not there yet, for reading and writing, without following a link: its descriptor, or
 * -1 with errno. */
int file_create_new(const char *path);

/* Waits until a file is on the disk: 0, or -1 with errno. What is no file, and some file systems'
 * directories, cannot be waited for, which is no failure. */
int file_flush(int descriptor);

/* The same for a directory, whose names have changed. One that may be written but not read is passed over. */
int file_flush_directory(const char *path);

/* Writes a whole small file. NULL: to standard output. The errors of output_open and output_close. */
int file_write(const char *path, const char *text);

/* Where temporary files go: $TMPDIR, or /tmp. */
const char *file_scratch_directory(void);

/* Opens a file without a name there to write and read again; it vanishes with its last user. EX_CANTCREAT. */
int file_scratch(FILE **file);

#endif
