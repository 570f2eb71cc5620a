/* A sparse 0/1 matrix in compressed row form: row r has the columns indices[indptr[r] .. indptr[r+1]-1],
 * ascending. Here a row is a user, a column an item. */
#ifndef VAECF_CSR_H
#define VAECF_CSR_H

#include <stdint.h>
#include <stdlib.h>

struct csr {
    int64_t rows;
    int64_t cols;
    int64_t *indptr;  /* [rows + 1], owned; indptr[0] == 0 */
    int32_t *indices; /* [indptr[rows]], owned */
};

static inline int64_t csr_nonzeros(const struct csr *m) {
    return m->indptr ? m->indptr[m->rows] : 0;
}

/* Frees what the matrix owns and leaves it empty; harmless on a zeroed struct. */
static inline void csr_free(struct csr *m) {
    free(m->indptr);
    free(m->indices);
    *m = (struct csr){0};
}

#endif
