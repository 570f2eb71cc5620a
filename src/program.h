/* What every program does alike: its beginning, --version, the one line of an error. */
#ifndef VAECF_PROGRAM_H
#define VAECF_PROGRAM_H

/* To be called first by every main. Descriptors 0 to 2 are open from now on: a file that is opened later
 * cannot become standard error. A file beyond the limit of its size is an error of writing, not the program's
 * end. SIGINT, SIGTERM and SIGHUP end it without unfinished files (output.h). */
void program_start(void);

/* Prints "vaecf-train 0.1.0 (commit), MPI ..., HDF5 ..., oneDNN ..., CUDA: no" to stdout. */
void program_version(const char *program);

/* Prints "vaecf-train: error: MESSAGE" to stderr from error_message() and returns `code`. */
int program_fail(const char *program, int code);

/* For getopt_long's ':' (a value is missing) and '?' (no such option): EX_USAGE with the message. */
int program_bad_option(int c, const char *option);

/* The version alone: "0.1.0". */
extern const char program_version_text[];

#endif
