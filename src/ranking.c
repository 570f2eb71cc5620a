/* See ranking.h. */
#include "ranking.h"

#include <stdio.h>
#include <stdlib.h>

#include "error.h"
#include "file.h"

enum {
    SCORES_MAX = 1 << 23 /* numbers of a batch of scores */,
    ROWS_MAX = 512,
    TABLE_MAX = METRICS_MAX * 96
};

int ranking_metrics_init(struct metrics *metrics, int64_t n_items) {
    static const int cuts[] = {5, 10, 20, 50, 100};
    struct metric wanted[METRICS_MAX];
    int n = 0;
    for (int kind = 0; kind < METRIC_KINDS; kind++) {
        for (size_t c = 0; c < sizeof cuts / sizeof *cuts && kind != METRIC_MRR; c++) {
            wanted[n++] = (struct metric){(enum metric_kind)kind, cuts[c]};
        }
    }
    wanted[n++] = (struct metric){METRIC_MRR, 0};
    return metrics_init(metrics, wanted, n, n_items);
}

int ranking_evaluate(struct model *model, const struct csr *input, const struct csr *target,
                     struct metrics *metrics) {
    struct backend *b = model->backend;
    const struct grid *grid = model->grid;
    int64_t batch = SCORES_MAX / (grid ? grid->largest_count : model->n_items), all = model_all_items(model);
    int k = metrics->largest_at < all ? metrics->largest_at : (int)all;
    int is_adding = !grid || grid->items.rank == 0;
    if (batch > ROWS_MAX) batch = ROWS_MAX;
    if (batch < 1) batch = 1;
    size_t n = (size_t)batch;
    real *scores = b->alloc(b, n * (size_t)model->n_items);
    int32_t *top = malloc(n * (size_t)k * sizeof *top);
    int64_t *first_hit = malloc(n * sizeof *first_hit), *starts = malloc((n + 1) * 2 * sizeof *starts);
    int code = 0;
    if (!scores || !top || !first_hit || !starts) {
        code = error_memory("the ranking of a batch", n * (size_t)model->n_items * sizeof *scores);
    }
    code = grid_agree(grid, code);
    for (int64_t first = 0; first < input->rows && !code; first += batch) {
        int64_t rows = input->rows - first < batch ? input->rows - first : batch;
        struct csr x = csr_slice(input, first, rows, starts),
                   t = csr_slice(target, first, rows, starts + n + 1);
        code = model_score(model, &x, scores);
        code = grid_agree(grid, code);
        if (code) break;
        b->top_k(b, rows, scores, k, &t, top, NULL, first_hit);
        code = b->check(b);
        code = grid_agree(grid, code);
        for (int64_t r = 0; r < rows && is_adding && !code; r++) {
            int64_t n_targets = t.indptr[r + 1] - t.indptr[r];
            if (n_targets > 0) {
                metrics_add(metrics, top + r * k, k, t.indices + t.indptr[r], n_targets, first_hit[r]);
            }
        }
    }
    if (scores) b->release(b, scores);
    free(top);
    free(first_hit);
    free(starts);
    return code;
}

int ranking_write_table(const char *path, const char *split, const struct metrics *metrics) {
    char text[TABLE_MAX], name[METRIC_NAME_MAX];
    size_t used = (size_t)snprintf(text, sizeof text, "split,users,metric,value,stderr\n");
    for (int i = 0; i < metrics->n; i++) {
        metric_name(metrics->metric[i], name);
        used += (size_t)snprintf(text + used, sizeof text - used, "%s,%lld,%s,%.10g,%.10g\n", split,
                                 (long long)metrics->users, name, metrics_value(metrics, i),
                                 metrics_stderr(metrics, i));
    }
    return file_write(path, text);
}
