/* A thin layer over HDF5 with this project's habits: every dataset is chunked and carries a fletcher32
 * checksum, metadata is checksummed too (file format of HDF5 1.10), strings are of fixed length and padded
 * with NUL, and HDF5's own error stack is turned into one line that names the file and the object.
 *
 * Behind the HDF5 part, where HDF5 does not look, a file ends with a seal: the line "vaecf-seal LENGTH
 * CRC-32" of all the bytes before. HDF5 can crash on damaged metadata, and parts of its files have no
 * checksum of its own; h5_open_sealed finds damage of any kind before HDF5 sees a byte.
 *
 * What lies outside of a file is not read for it: datasets in other files or made of other datasets, links
 * that are not hard ones, and filters that HDF5 would load are refused when a file is opened, sealed or not.
 *
 * All functions return 0 or a code of <sysexits.h> with error_message() set. `file` is an open file,
 * `path` names an object within it ("/train/indptr"); groups on the way are made as needed. Where EX_DATAERR
 * or EX_IOERR is told, it is EX_OSERR instead if there was no memory, and a failure to read that the system
 * gave a reason for is EX_IOERR. */
#ifndef VAECF_H5_H
#define VAECF_H5_H

#include <hdf5.h>
#include <stddef.h>
#include <stdint.h>

enum { H5_SEAL_SIZE = 40 };

/* Opens for reading a file whose seal was tested already, or of another program. EX_NOINPUT if there is none
 * or it is no regular file, EX_DATAERR if it is no HDF5 file or leads out of itself. */
int h5_open(const char *path, hid_t *file);

/* The same, and reads the whole file first to test its seal: EX_DATAERR if it is not as it was written. */
int h5_open_sealed(const char *path, hid_t *file);

/* Tests the seal alone: EX_DATAERR only if the bytes are not as they were written, or no file of vaecf's;
 * EX_NOINPUT, EX_IOERR or EX_OSERR if they could not be read. */
int h5_check_seal(const char *path);

/* Creates, replacing what is there. EX_CANTCREAT; EX_IOERR if the disk is full or broken. */
int h5_create(const char *path, hid_t *file);

/* Closes a file that was written to. code is what the writing has come to; if 0, the file is sealed and
 * flushed to disk, EX_IOERR if the disk did not take it. Returns the first failure, whose message stands. */
int h5_close(hid_t file, const char *path, int code);

/* After a call to HDF5 itself that was to write and has failed: EX_IOERR, or the code that fits its reason.
 */
int h5_fail_writing(hid_t file, const char *object);

/* Makes an empty group, for attributes. EX_IOERR. */
int h5_make_group(hid_t file, const char *path);

/* Writes a whole one- or two-dimensional dataset (cols 0: one-dimensional) of HDF5 memory type `type`, for
 * example H5T_NATIVE_INT64. deflate: 0 none, 1-9 level. data NULL: only makes it, for h5_write_rows. */
int h5_write(hid_t file, const char *path, hid_t type, int64_t rows, int64_t cols, const void *data,
             int deflate);

/* Writes rows [first, first + count) of a dataset that is there. EX_IOERR. */
int h5_write_rows(hid_t file, const char *path, hid_t type, int64_t first, int64_t count, const void *data);
/* The same piece by piece: a one-dimensional dataset of `rows` elements, none written yet; then the elements
 * from `first` on (in whole pieces of h5_piece(type) elements, best); then its end. The pieces are part of
 * how the file's bytes come out. */
int h5_begin(hid_t file, const char *path, hid_t type, int64_t rows, hid_t *set);
int h5_write_piece(hid_t file, hid_t set, hid_t type, int64_t first, int64_t count, const void *data);
int h5_end(hid_t file, hid_t set);
int64_t h5_piece(hid_t type);

/* The shape of a dataset: rows and cols (0 if one-dimensional). EX_DATAERR if it is missing or of another
 * rank. */
int h5_shape(hid_t file, const char *path, int64_t *rows, int64_t *cols);

/* Reads rows [first, first + count) of a dataset into data; EX_DATAERR if it is missing, too short or fails
 * its checksum. data has room for as many columns as the dataset has: see h5_shape. */
int h5_read(hid_t file, const char *path, hid_t type, int64_t first, int64_t count, void *data);

/* The same; EX_DATAERR unless the dataset has `cols` columns (0: is one-dimensional). */
int h5_read_columns(hid_t file, const char *path, hid_t type, int64_t cols, int64_t first, int64_t count,
                    void *data);

/* Strings: `text` holds count strings of `width` bytes each, NUL-padded (width includes no terminator; a
 * string may fill all of it). */
int h5_write_strings(hid_t file, const char *path, int64_t count, size_t width, const char *text);
/* Reads all of them; *text is malloced, count * width bytes, owned by the caller. */
int h5_read_strings(hid_t file, const char *path, int64_t *count, size_t *width, char **text);

/* Attributes of an object ("/" is the file). Scalars, or a vector of int64. */
int h5_set_int(hid_t file, const char *object, const char *name, int64_t value);
int h5_set_double(hid_t file, const char *object, const char *name, double value);
int h5_set_text(hid_t file, const char *object, const char *name, const char *value);
int h5_set_ints(hid_t file, const char *object, const char *name, const int64_t *values, int count);
int h5_get_int(hid_t file, const char *object, const char *name, int64_t *value);
int h5_get_double(hid_t file, const char *object, const char *name, double *value);
/* EX_DATAERR if it does not fit into `size` bytes with its terminator. */
int h5_get_text(hid_t file, const char *object, const char *name, char *value, size_t size);
int h5_get_ints(hid_t file, const char *object, const char *name, int64_t *values, int count);

#endif
