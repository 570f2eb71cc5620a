/* Users' lists of items as a file: CSV, JSON lines or HDF5, written user by user.
 *
 * CSV     user,rank,item,score,source: a row an item
 * JSON    a line a user: {"user":"...","source":"model","items":["...",...],"scores":[...]}. Bytes of an id
 *         that are not UTF-8 are written as the lone surrogates U+DC80 .. U+DCFF, so that ids that differ
 * stay different; in Python s.encode("utf-8", "surrogateescape") gives the bytes back. HDF5    attributes
 * format "vaecf-lists", format_version 1, score; /indptr int64 [users + 1] and /item int32, /score float32:
 * user u's list is [indptr[u], indptr[u + 1]); /source uint8 [users] (0 model, 1 popularity); /user_id
 * strings [users]; /items/id strings: the catalogue, which /item counts from 0
 *
 * Written as output.h tells: a file is there whole or not at all. */
#ifndef VAECF_LISTS_H
#define VAECF_LISTS_H

#include <stdint.h>

#include "catalogue.h"

enum lists_format { LISTS_CSV, LISTS_JSON, LISTS_HDF5 };
enum lists_source { LISTS_MODEL, LISTS_POPULARITY };

struct lists;

/* path NULL: standard output. score: "logit", "probability". EX_CANTCREAT, EX_OSERR. */
int lists_open(const char *path, enum lists_format format, const struct catalogue *catalogue,
               const char *score, struct lists **lists);

/* A user's list of n items. EX_IOERR. */
int lists_add(struct lists *lists, const char *user, size_t length, enum lists_source source,
              const int32_t *items, const float *scores, int n);

/* Ends the file if keep, otherwise takes it away; frees lists in any case. EX_IOERR. */
int lists_close(struct lists *lists, int keep);

#endif
