/* See lists.h. */
#include "lists.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"
#include "file.h"
#include "h5.h"
#include "output.h"
#include "utf8.h"

enum { PIECE = 1 << 16 /* of an HDF5 dataset: numbers, or bytes of ids, written at a time */ };

/* A dataset of HDF5 that grows, with what is not yet written. */
struct column {
    const char *path;
    hid_t type, set;
    size_t width;
    char *piece; /* [PIECE, width] */
    int64_t n;   /* in piece */
    int64_t written;
};

enum { INDPTR, ITEM, SCORE, SOURCE, COLUMNS };

struct lists {
    const char *path, *name; /* of the output, NULL: standard output; of HDF5's file */
    enum lists_format format;
    const struct catalogue *catalogue;
    struct output *output;
    FILE *file; /* its stream */
    hid_t h5;
    struct column column[COLUMNS];
    int64_t users, entries;
    FILE *ids; /* of the users: length and bytes; strings of HDF5 need the longest one first */
    size_t id_width;
};

static int fail(const struct lists *l, const char *what) {
    return error_set(EX_IOERR, "%s: cannot write%s: %s", l->path ? l->path : "standard output", what,
                     strerror(errno));
}

/* ---- CSV ---- */

/* A field, quoted where it has to be (RFC 4180). */
static void write_field(FILE *file, const char *text, size_t length) {
    int plain = length > 0;
    for (size_t i = 0; i < length; i++) {
        plain = plain && text[i] != ',' && text[i] != '"' && text[i] != '\r' && text[i] != '\n';
    }
    if (plain) {
        fwrite(text, 1, length, file);
        return;
    }
    fputc('"', file);
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '"') fputc('"', file);
        fputc(text[i], file);
    }
    fputc('"', file);
}

static void add_csv(struct lists *l, const char *user, size_t length, enum lists_source source,
                    const int32_t *items, const float *scores, int n) {
    for (int j = 0; j < n; j++) {
        size_t item_length;
        const char *item = catalogue_id(l->catalogue, items[j], &item_length);
        write_field(l->file, user, length);
        fprintf(l->file, ",%d,", j + 1);
        write_field(l->file, item, item_length);
        fprintf(l->file, ",%.7g,%s\n", (double)scores[j], source == LISTS_MODEL ? "model" : "popularity");
    }
}

/* ---- JSON ---- */

static void write_string(FILE *file, const char *text, size_t length) {
    fputc('"', file);
    for (size_t i = 0, n; i < length; i += n ? n : 1) {
        n = utf8_length(text + i, length - i);
        if (n == 0 || (unsigned char)text[i] < 0x20) {
            /* a byte that is not UTF-8: as Python's surrogateescape has it */
            fprintf(file, "\\u%04x", (n ? 0 : 0xdc00) + (unsigned char)text[i]);
        } else {
            if (text[i] == '"' || text[i] == '\\') fputc('\\', file);
            fwrite(text + i, 1, n, file);
        }
    }
    fputc('"', file);
}

static void add_json(struct lists *l, const char *user, size_t length, enum lists_source source,
                     const int32_t *items, const float *scores, int n) {
    fputs("{\"user\":", l->file);
    write_string(l->file, user, length);
    fprintf(l->file, ",\"source\":\"%s\",\"items\":[", source == LISTS_MODEL ? "model" : "popularity");
    for (int j = 0; j < n; j++) {
        size_t item_length;
        const char *item = catalogue_id(l->catalogue, items[j], &item_length);
        if (j) fputc(',', l->file);
        write_string(l->file, item, item_length);
    }
    fputs("],\"scores\":[", l->file);
    for (int j = 0; j < n; j++) fprintf(l->file, "%s%.7g", j ? "," : "", (double)scores[j]);
    fputs("]}\n", l->file);
}

/* ---- HDF5 ---- */

static int column_open(struct lists *l, struct column *c, const char *path, hid_t type) {
    hsize_t none = 0, unlimited = H5S_UNLIMITED, chunk = PIECE;
    c->path = path;
    c->type = type;
    c->width = H5Tget_size(type);
    c->piece = malloc(PIECE * c->width);
    if (!c->piece) return error_memory("a piece of the output", PIECE * c->width);
    hid_t space = H5Screate_simple(1, &none, &unlimited), create = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(create, 1, &chunk);
    H5Pset_fletcher32(create);
    H5Pset_obj_track_times(create, 0); /* the same lists are the same file */
    c->set = H5Dcreate2(l->h5, path, type, space, H5P_DEFAULT, create, H5P_DEFAULT);
    int code = c->set < 0 ? h5_fail_writing(l->h5, path) : 0;
    H5Pclose(create);
    H5Sclose(space);
    return code;
}

static int column_flush(const struct lists *l, struct column *c) {
    hsize_t start = (hsize_t)c->written, count = (hsize_t)c->n, size = start + count;
    if (!count) return 0;
    int failed = H5Dset_extent(c->set, &size) < 0;
    hid_t in_file = H5Dget_space(c->set), in_memory = H5Screate_simple(1, &count, NULL);
    failed = failed || H5Sselect_hyperslab(in_file, H5S_SELECT_SET, &start, NULL, &count, NULL) < 0 ||
             H5Dwrite(c->set, c->type, in_memory, in_file, H5P_DEFAULT, c->piece) < 0;
    int code = failed ? h5_fail_writing(l->h5, c->path) : 0;
    H5Sclose(in_memory);
    H5Sclose(in_file);
    c->written += c->n;
    c->n = 0;
    return code;
}

static int column_add(const struct lists *l, struct column *c, const void *value) {
    memcpy(c->piece + (size_t)c->n++ * c->width, value, c->width);
    return c->n == PIECE ? column_flush(l, c) : 0;
}

static int open_h5(struct lists *l, const char *score) {
    const struct items *items = &l->catalogue->items;
    int64_t zero = 0;
    int code = output_name(l->output, &l->name);
    if (!code) code = h5_create(l->name, &l->h5);
    if (!code) code = file_scratch(&l->ids);
    if (!code) code = h5_set_text(l->h5, "/", "format", "vaecf-lists");
    if (!code) code = h5_set_int(l->h5, "/", "format_version", 1);
    if (!code) code = h5_set_text(l->h5, "/", "score", score);
    if (!code) code = h5_write_strings(l->h5, "/items/id", items->n, items->width, items->ids);
    if (!code) code = column_open(l, &l->column[INDPTR], "/indptr", H5T_NATIVE_INT64);
    if (!code) code = column_open(l, &l->column[ITEM], "/item", H5T_NATIVE_INT32);
    if (!code) code = column_open(l, &l->column[SCORE], "/score", H5T_NATIVE_FLOAT);
    if (!code) code = column_open(l, &l->column[SOURCE], "/source", H5T_NATIVE_UINT8);
    return code ? code : column_add(l, &l->column[INDPTR], &zero);
}

static int add_h5(struct lists *l, const char *user, size_t length, enum lists_source source,
                  const int32_t *items, const float *scores, int n) {
    uint8_t from = (uint8_t)source;
    uint32_t id_length = (uint32_t)length;
    int code = column_add(l, &l->column[SOURCE], &from);
    for (int j = 0; j < n && !code; j++) {
        code = column_add(l, &l->column[ITEM], &items[j]);
        if (!code) code = column_add(l, &l->column[SCORE], &scores[j]);
    }
    l->entries += n;
    l->users++;
    if (!code) code = column_add(l, &l->column[INDPTR], &l->entries);
    if (length > l->id_width) l->id_width = length;
    if (!code &&
        (fwrite(&id_length, sizeof id_length, 1, l->ids) != 1 || fwrite(user, 1, length, l->ids) != length)) {
        code = fail(l, " the users' ids to a temporary file");
    }
    return code;
}

/* The users' ids, now that the longest is known. */
static int write_ids(struct lists *l) {
    struct column ids = {.set = H5I_INVALID_HID};
    size_t width = l->id_width ? l->id_width : 1;
    char *id = calloc(1, width);
    uint32_t length;
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, width);
    H5Tset_strpad(type, H5T_STR_NULLPAD);
    H5Tset_cset(type, H5T_CSET_UTF8);
    int code = id ? column_open(l, &ids, "/user_id", type) : error_memory("an id", width);
    if (!code && fseeko(l->ids, 0, SEEK_SET)) code = fail(l, " the users' ids to a temporary file");
    for (int64_t u = 0; u < l->users && !code; u++) {
        memset(id, 0, width);
        if (fread(&length, sizeof length, 1, l->ids) != 1 || fread(id, 1, length, l->ids) != length) {
            code = fail(l, " the users' ids by a temporary file");
        }
        if (!code) code = column_add(l, &ids, id);
    }
    if (!code) code = column_flush(l, &ids);
    if (ids.set >= 0) H5Dclose(ids.set);
    H5Tclose(type);
    free(ids.piece);
    free(id);
    return code;
}

static int close_h5(struct lists *l, int keep) {
    int code = 0;
    for (int c = 0; c < COLUMNS; c++) {
        if (keep && !code) code = column_flush(l, &l->column[c]);
        if (l->column[c].set > 0 && H5Dclose(l->column[c].set) < 0 && !code) {
            code = h5_fail_writing(l->h5, l->column[c].path);
        }
        free(l->column[c].piece);
    }
    if (keep && !code) code = write_ids(l);
    if (l->ids) fclose(l->ids);
    if (l->h5 < 0) return code;
    if (!keep) {
        H5Fclose(l->h5);
        return code;
    }
    return h5_close(l->h5, l->name, code);
}

/* ---- the whole ---- */

int lists_open(const char *path, enum lists_format format, const struct catalogue *catalogue,
               const char *score, struct lists **lists) {
    struct lists *l = calloc(1, sizeof *l);
    int code = 0;
    *lists = l;
    if (!l) return error_memory("the output", sizeof *l);
    *l = (struct lists){.path = path, .format = format, .catalogue = catalogue, .h5 = H5I_INVALID_HID};
    code = output_open(path, &l->output);
    if (!code) l->file = output_stream(l->output);
    if (!code && format == LISTS_HDF5) code = open_h5(l, score);
    if (!code && format == LISTS_CSV) fputs("user,rank,item,score,source\n", l->file);
    if (code) {
        lists_close(l, 0);
        *lists = NULL;
    }
    return code;
}

int lists_add(struct lists *l, const char *user, size_t length, enum lists_source source,
              const int32_t *items, const float *scores, int n) {
    if (l->format == LISTS_HDF5) return add_h5(l, user, length, source, items, scores, n);
    if (l->format == LISTS_CSV) add_csv(l, user, length, source, items, scores, n);
    if (l->format == LISTS_JSON) add_json(l, user, length, source, items, scores, n);
    return output_check(l->output);
}

int lists_close(struct lists *l, int keep) {
    int code = l->format == LISTS_HDF5 && l->h5 >= 0 ? close_h5(l, keep) : 0;
    if (keep || !l->output) {
        code = output_close(l->output, code);
    } else {
        output_close(l->output, EX_SOFTWARE); /* given up by the caller, who has told why */
    }
    free(l);
    return code;
}
