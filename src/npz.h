/* NumPy's .npz: a zip archive of .npy arrays, stored without compression, which numpy.load reads.
 *
 *     struct npz *npz;
 *     int code = npz_open("model.npz", &npz);
 *     if (!code) code = npz_add(npz, "weight", NPZ_FLOAT32, rows, cols, data);
 *     code = npz_close(npz, code);
 *
 * An array and the archive may be larger than 4 GB (zip64). It is written as output.h tells. */
#ifndef VAECF_NPZ_H
#define VAECF_NPZ_H

#include <stddef.h>
#include <stdint.h>

enum npz_type { NPZ_FLOAT32, NPZ_INT64, NPZ_BYTES };

struct npz;

/* EX_CANTCREAT, EX_OSERR. */
int npz_open(const char *path, struct npz **npz);

/* Adds an array under a name without ".npy". rows -1: a scalar; cols 0: one dimension. NPZ_BYTES: strings of
 * `width` bytes, padded with NUL (NumPy's dtype S); width counts for these alone. EX_IOERR, EX_OSERR. */
int npz_add(struct npz *npz, const char *name, enum npz_type type, int64_t rows, int64_t cols, size_t width,
            const void *data);

/* Ends the archive; code: what its making has come to: unless 0, nothing appears. Frees npz in any case.
 * Returns the first failure. EX_IOERR. */
int npz_close(struct npz *npz, int code);

#endif
