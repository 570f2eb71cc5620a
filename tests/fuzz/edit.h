/* Edits of a whole HDF5 file, told by fuzzed bytes: objects are deleted, moved and replaced by ones of
 * another type, shape or content, attributes likewise.
 *
 * The readers are fuzzed by files that HDF5 itself has written and that are sealed. Raw bytes would test
 * nothing of ours: a file whose seal does not fit is turned away before HDF5 sees it (tests/damage_test.c),
 * and behind a forged seal it is HDF5's library that crashes on metadata that never came from it. */
#ifndef VAECF_EDIT_H
#define VAECF_EDIT_H

#include <stddef.h>
#include <stdint.h>

/* Fuzzed bytes, taken from the front; zeros when there are none left. */
struct bytes {
    const uint8_t *data;
    size_t size;
};
uint64_t bytes_take(struct bytes *bytes, int count);

/* What there is to edit, "/group/object" or "/group@attribute". */
struct edit_names {
    const char *const *name;
    int n;
};

/* A file's bytes without their seal, to begin each edit from. */
struct edit_base {
    void *bytes;
    size_t size;
};
void edit_remember(const char *path, struct edit_base *base);

/* Writes the file anew, edits it as long as there are bytes (up to 16 times), and seals it. */
void edit_file(const char *path, const struct edit_base *base, const struct edit_names *names,
               struct bytes *bytes);

/* A directory for this process, removed at its end. */
const char *edit_directory(void);

/* Aborts unless the condition holds. */
void require(int condition, const char *what);

/* Aborts unless the code is one of bad input and the message is one line. */
void require_told(int code);

#endif
