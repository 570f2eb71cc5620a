/* See baseline.h. */
#include "baseline.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

enum { TILE = 64 /* rows and columns of the matrix that are turned at a time */ };

#ifdef VAECF_LAPACK
/* LAPACK, in Fortran's calling convention: the last argument is the length of the text before. */
void spotrf_(const char *uplo, const int *n, float *a, const int *lda, int *info, size_t);
void spotri_(const char *uplo, const int *n, float *a, const int *lda, int *info, size_t);
#endif

int baseline_check(const struct model_config *config) {
#ifndef VAECF_LAPACK
    if (config->type == MODEL_EASE) {
        return error_set(EX_CONFIG, "model.type: ease: this program was built without LAPACK; install one "
                                    "(OpenBLAS, MKL), run make again");
    }
#endif
    (void)config;
    return 0;
}

/* ---- memory ---- */

/* The number after `name` in a file; -1 if there is none. name "": the file's first. */
static int64_t number_in(const char *path, const char *name) {
    char line[256];
    long long value = -1;
    FILE *file = fopen(path, "r");
    while (file && value < 0 && fgets(line, sizeof line, file)) {
        size_t length = strlen(name);
        if (strncmp(line, name, length) == 0 && sscanf(line + length, "%lld", &value) != 1) value = -1;
    }
    if (file) fclose(file);
    return value;
}

/* What the job's control group (version 2) leaves; -1 if it has no limit. */
static int64_t left_to_group(void) {
    char line[512] = "", path[640];
    FILE *file = fopen("/proc/self/cgroup", "r");
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file)) found = strncmp(line, "0::/", 4) == 0;
    if (file) fclose(file);
    if (!found) return -1;
    line[strcspn(line, "\n")] = '\0';
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", line + 3);
    int64_t limit = number_in(path, "");
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.current", line + 3);
    int64_t used = number_in(path, "");
    return limit < 0 || used < 0 ? -1 : limit > used ? limit - used : 0;
}

void baseline_memory(const struct model_config *config, int64_t n_items, const struct comm *comm,
                     int64_t *needed, int64_t *available) {
    MPI_Comm machine;
    int ranks;
    MPI_Comm_split_type(comm->mpi, MPI_COMM_TYPE_SHARED, comm->rank, MPI_INFO_NULL, &machine);
    MPI_Comm_size(machine, &ranks);
    MPI_Comm_free(&machine);
    int64_t free_memory = number_in("/proc/meminfo", "MemAvailable:"), left = left_to_group();
    free_memory = free_memory < 0 ? INT64_MAX : free_memory * 1024;
    if (left >= 0 && left < free_memory) free_memory = left;
    *needed = n_items * (config->type == MODEL_EASE ? n_items + 1 : 1) * (int64_t)sizeof(real);
    *needed = comm_max(comm, *needed * ranks);
    *available = -comm_max(comm, -free_memory);
    if (*available == INT64_MAX) *available = 0;
}

/* ---- ease ---- */

/* The same matrix by columns: for each item, the rows that have it, ascending. start[cols + 1],
 * row[nonzeros]. */
static int by_column(const struct csr *m, int64_t **start, int32_t **row) {
    *start = calloc((size_t)m->cols + 2, sizeof **start);
    *row = malloc(((size_t)csr_nonzeros(m) + 1) * sizeof **row);
    if (!*start || !*row)
        return error_memory("the users of the items", (size_t)csr_nonzeros(m) * sizeof **row);
    int64_t *next = *start + 1; /* while filling: where the item's next row goes */
    for (int64_t k = 0; k < csr_nonzeros(m); k++) next[m->indices[k] + 1]++;
    for (int64_t i = 0; i < m->cols; i++) next[i + 1] += next[i];
    for (int64_t r = 0; r < m->rows; r++) {
        for (int64_t k = m->indptr[r]; k < m->indptr[r + 1]; k++) (*row)[next[m->indices[k]]++] = (int32_t)r;
    }
    return 0;
}

/* Users of each item, of all ranks, at least 1. */
static void count_users(const struct csr *m, const struct comm *comm, real *users) {
    memset(users, 0, (size_t)m->cols * sizeof *users);
    for (int64_t k = 0; k < csr_nonzeros(m); k++) users[m->indices[k]]++;
    comm_sum_real(comm, users, (size_t)m->cols);
    for (int64_t i = 0; i < m->cols; i++) users[i] = users[i] < 1 ? 1 : users[i];
}

/* weight[rows] of the users: see baseline.h. */
static void weigh_users(const struct csr *m, double power, const real *users, real *weight) {
    real most = 1;
    for (int64_t i = 0; i < m->cols; i++) most = users[i] > most ? users[i] : most;
    double unit = exp2(ceil(log2((double)most)) - 24);
    for (int64_t r = 0; r < m->rows; r++) {
        double n = (double)(m->indptr[r + 1] - m->indptr[r]);
        weight[r] = (real)(unit * ceil(pow(n < 1 ? 1 : n, -power) / unit - 0.5));
    }
}

/* g[i, j] for j <= i: the weights of the users who have both, summed. */
static int count_pairs(const struct csr *m, const real *weight, real *g) {
    int64_t *start, n = m->cols;
    int32_t *row;
    int code = by_column(m, &start, &row);
    if (!code) {
#pragma omp parallel for schedule(dynamic, 16)
        for (int64_t i = 0; i < n; i++) {
            real *counts = g + i * n;
            memset(counts, 0, (size_t)n * sizeof *counts);
            for (int64_t e = start[i]; e < start[i + 1]; e++) {
                const int32_t *item = m->indices + m->indptr[row[e]];
                do counts[*item] += weight[row[e]];
                while (*item++ != i);
            }
        }
    }
    free(start);
    free(row);
    return code;
}

/* p[n, n], of which the lower triangle is given, becomes its inverse's lower triangle. */
static int invert(real *p, int64_t n, double l2) {
#if defined(VAECF_LAPACK) && !defined(VAECF_DOUBLE)
    const int size = (int)n;
    int info;
    spotrf_("U", &size, p, &size, &info, 1); /* in Fortran's order of columns ours is the upper one */
    if (!info) spotri_("U", &size, p, &size, &info, 1);
    if (!info) return 0;
    return error_set(EX_CONFIG, "model.l2: %g: X'X + l2 I is singular in fp32; want a larger l2", l2);
#else
    (void)p, (void)n, (void)l2;
    return error_set(EX_SOFTWARE, "built without LAPACK");
#endif
}

/* From the lower triangle of P to B, in place; column j times scale[j]. */
static void weights_from_inverse(real *p, int64_t n, const real *diagonal, const real *scale) {
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t first = 0; first < n; first += TILE) {
        for (int64_t other = 0; other <= first; other += TILE) {
            for (int64_t i = first; i < n && i < first + TILE; i++) {
                for (int64_t j = other; j < i && j < other + TILE; j++) {
                    real value = p[i * n + j];
                    p[i * n + j] = -value / diagonal[j] * scale[j];
                    p[j * n + i] = -value / diagonal[i] * scale[i];
                }
            }
        }
    }
    for (int64_t i = 0; i < n; i++) p[i * n + i] = 0;
}

static int fit_ease(struct model *model, const struct csr *rows, const struct comm *comm) {
    const struct model_config *config = &model->config;
    int64_t n = model->n_items;
    size_t size = model->tensor[0].size, bytes = (size_t)(2 * n + rows->rows) * sizeof(real);
    real *p = model->params + model->tensor[0].offset, *users = malloc(bytes);
    int code = comm_agree(comm, users ? 0 : error_memory("the users of the items", bytes));
    if (code) goto end;
    real *diagonal = users + n, *weight = diagonal + n;
    count_users(rows, comm, users);
    weigh_users(rows, config->user_power, users, weight);
    code = comm_agree(comm, count_pairs(rows, weight, p));
    if (code) goto end;
    comm_sum_real(comm, p, size);
    for (int64_t i = 0; i < n; i++) {
        p[i * n + i] += (real)(config->l2 * pow((double)users[i], config->item_power));
    }
    if (comm->rank == 0) code = invert(p, n, config->l2);
    code = comm_agree(comm, code);
    if (code) goto end;
    comm_broadcast(comm, p, size * sizeof *p);
    for (int64_t i = 0; i < n; i++) {
        diagonal[i] = p[i * n + i];
        users[i] = (real)pow((double)users[i], config->popularity_power);
    }
    weights_from_inverse(p, n, diagonal, users);
end:
    free(users);
    return code;
}

/* ---- popularity ---- */

static int fit_popularity(struct model *model, const struct csr *rows, const struct comm *comm) {
    real *count = model->params + model->tensor[0].offset;
    for (int64_t k = 0; k < csr_nonzeros(rows); k++) count[rows->indices[k]]++;
    comm_sum_real(comm, count, (size_t)model->n_items);
    return 0;
}

int baseline_fit(struct model *model, const struct csr *rows, const struct comm *comm) {
    return (model->config.type == MODEL_EASE ? fit_ease : fit_popularity)(model, rows, comm);
}
