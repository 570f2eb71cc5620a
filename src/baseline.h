/* What a network is to be compared with: models that are computed from the training users in one go.
 *
 * popularity   everybody gets the items with the most training users.
 * ease         Steck, Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019 (arXiv:1905.03375): the
 *              weights B with zero diagonal that minimise |X - X B|^2 + l2 |B|^2 are, with P = (X'X + l2
 *              I)^-1, B = I - P diag(1 / diag P). In fp32, through LAPACK's Cholesky factorisation.
 *
 * ease with powers, which are 0 by default, in the spirit of the normalisation of Park et al., Why is
 * Normalization Necessary for Linear Recommenders?, SIGIR 2025 (arXiv:2504.05805): a user with n items weighs
 * w = n^-user_power, so that the busiest do not decide alone; the penalty of item i's row of B is l2
 * d_i^item_power, d_i its users (at least 1): P = (X' diag(w) X + l2 diag(d^item_power))^-1; B's column j is
 * multiplied by d_j^popularity_power: below 0, popular items come later. w is rounded to a multiple of the
 * power of two at which no sum of weights needs more than fp32's 24 bits: the sums are exact in any order.
 *
 * ease keeps one matrix [n_items, n_items] on each rank and works in its place; time grows with n_items^3. */
#ifndef VAECF_BASELINE_H
#define VAECF_BASELINE_H

#include "comm.h"
#include "csr.h"
#include "model.h"

/* Can this program compute it? EX_CONFIG with a message if ease lacks LAPACK. */
int baseline_check(const struct model_config *config);

/* Bytes that the ranks of the machine with the most of them need together for the model, and bytes that are
 * free there: of memory, or of what its job may take if that is less; 0 if that cannot be told. Collective.
 */
void baseline_memory(const struct model_config *config, int64_t n_items, const struct comm *comm,
                     int64_t *needed, int64_t *available);

/* Computes the model, created on the CPU backend, from the training users: rows are this rank's. Collective;
 * each rank has the whole model afterwards, with the same bits for any number of ranks. EX_OSERR, EX_CONFIG
 * if l2 is so small that the matrix is singular in fp32. */
int baseline_fit(struct model *model, const struct csr *rows, const struct comm *comm);

#endif
