/* A sparse 0/1 matrix in compressed row form: row r has the columns indices[indptr[r] .. indptr[r+1]-1],
 * ascending. Here a row is a user, a column an item.
 *
 * Of a matrix of which a rank has a range of the columns (grid.h), columns are counted from the range's
 * first, and `whole` tells how many entries each row has in all columns. */
#ifndef VAECF_CSR_H
#define VAECF_CSR_H

#include <stdint.h>
#include <stdlib.h>

struct csr {
    int64_t rows;
    int64_t cols;
    int64_t *indptr;  /* [rows + 1], owned; indptr[0] == 0 */
    int32_t *indices; /* [indptr[rows]], owned */
    int64_t *whole;   /* [rows], owned; NULL: these are all columns */
};

static inline int64_t csr_nonzeros(const struct csr *m) {
    return m->indptr ? m->indptr[m->rows] : 0;
}

/* The entries of row r, those that another rank has too. */
static inline int64_t csr_row_size(const struct csr *m, int64_t r) {
    return m->whole ? m->whole[r] : m->indptr[r + 1] - m->indptr[r];
}

/* Rows [first, first + count) of a matrix, whose entries it borrows, with row starts of their own in
 * indptr[count + 1]. Not to be freed. */
static inline struct csr csr_slice(const struct csr *m, int64_t first, int64_t count, int64_t *indptr) {
    for (int64_t r = 0; r <= count; r++) indptr[r] = m->indptr[first + r] - m->indptr[first];
    return (struct csr){.rows = count,
                        .cols = m->cols,
                        .indptr = indptr,
                        .indices = m->indices + m->indptr[first],
                        .whole = m->whole ? m->whole + first : NULL};
}

/* Frees what the matrix owns and leaves it empty; harmless on a zeroed struct. */
static inline void csr_free(struct csr *m) {
    free(m->indptr);
    free(m->indices);
    free(m->whole);
    *m = (struct csr){0};
}

#endif
