/* See edit.h. */
#include "edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "h5.h"

enum { EDITS_MAX = 16, ELEMENTS_MAX = 4096, SPACE_MAX = 1 << 13, VALUE_MAX = 16 };

static char directory[64];

uint64_t bytes_take(struct bytes *bytes, int count) {
    uint64_t value = 0;
    for (int i = 0; i < count; i++) {
        uint64_t byte = 0;
        if (bytes->size) {
            byte = *bytes->data++;
            bytes->size--;
        }
        value |= byte << (8 * i);
    }
    return value;
}

void require(int condition, const char *what) {
    if (condition) return;
    fprintf(stderr, "fuzz: %s (last message: %s)\n", what, error_message());
    abort();
}

void require_told(int code) {
    if (!code) return;
    require(code == EX_DATAERR || code == EX_CONFIG || code == EX_NOINPUT || code == EX_OSERR,
            "an unexpected code");
    require(*error_message() && !strchr(error_message(), '\n'), "the message is not one line");
}

static void remove_directory(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command)) perror(command);
}

const char *edit_directory(void) {
    if (*directory) return directory;
    snprintf(directory, sizeof directory, "%s/vaecf-fuzz-XXXXXX",
             access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
    require(mkdtemp(directory) != NULL, "cannot make a directory");
    atexit(remove_directory);
    return directory;
}

void edit_remember(const char *path, struct edit_base *base) {
    struct stat status;
    FILE *file = fopen(path, "rb");
    require(file && !stat(path, &status) && status.st_size > H5_SEAL_SIZE, "no file to begin from");
    base->size = (size_t)status.st_size - H5_SEAL_SIZE;
    base->bytes = malloc(base->size);
    require(base->bytes && fread(base->bytes, 1, base->size, file) == base->size, "cannot read the file");
    fclose(file);
}

/* ---- single edits; what HDF5 refuses is not done ---- */

static hid_t take_type(struct bytes *in) {
    const hid_t types[] = {H5T_NATIVE_INT64, H5T_NATIVE_INT32,  H5T_NATIVE_INT8, H5T_NATIVE_UINT64,
                           H5T_NATIVE_FLOAT, H5T_NATIVE_DOUBLE, H5T_IEEE_F64BE,  H5T_C_S1};
    uint64_t choice = bytes_take(in, 1);
    hid_t type = H5Tcopy(types[choice % 8]);
    if (choice % 8 == 7) H5Tset_size(type, choice / 8 ? choice / 8 : H5T_VARIABLE);
    return type;
}

static hid_t take_space(struct bytes *in, size_t *elements) {
    hsize_t dims[3];
    int rank = (int)(bytes_take(in, 1) % 4);
    *elements = 1;
    for (int i = 0; i < rank; i++) {
        dims[i] = bytes_take(in, i ? 1 : 2);
        if (*elements * dims[i] > SPACE_MAX) dims[i] = 1;
        *elements *= dims[i];
    }
    return rank ? H5Screate_simple(rank, dims, NULL) : H5Screate(H5S_SCALAR);
}

/* Content for a type and number of elements from the bytes, which repeat; NULL: none. */
static void *take_content(struct bytes *in, hid_t type, size_t elements) {
    size_t width = H5Tget_size(type), size = elements * width;
    if (!elements || elements > ELEMENTS_MAX || H5Tis_variable_str(type) > 0) return NULL;
    uint8_t value[VALUE_MAX], *content = malloc(size);
    size_t n = 1 + bytes_take(in, 1) % VALUE_MAX;
    for (size_t i = 0; i < n; i++) value[i] = (uint8_t)bytes_take(in, 1);
    for (size_t i = 0; i < size && content; i++) content[i] = value[i % n];
    return content;
}

static void replace_object(hid_t file, const char *name, struct bytes *in) {
    size_t elements;
    hid_t type = take_type(in), space = take_space(in, &elements);
    void *content = take_content(in, type, elements);
    H5Ldelete(file, name, H5P_DEFAULT);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (set >= 0 && content) H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, content);
    if (set >= 0) H5Dclose(set);
    free(content);
    H5Sclose(space);
    H5Tclose(type);
}

/* One number of a dataset becomes another. */
static void change_element(hid_t file, const char *name, struct bytes *in) {
    hsize_t dims[3] = {0}, at[3] = {0};
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT);
    if (set < 0) return;
    hid_t space = H5Dget_space(set), one = H5Screate(H5S_SCALAR);
    int rank = H5Sget_simple_extent_ndims(space), fits = rank <= 3;
    int64_t value = (int64_t)bytes_take(in, 8);
    if (fits) H5Sget_simple_extent_dims(space, dims, NULL);
    for (int i = 0; i < rank && fits; i++) {
        fits = dims[i] > 0;
        if (fits) at[i] = bytes_take(in, 2) % dims[i];
    }
    if (fits && rank > 0 && H5Sselect_elements(space, H5S_SELECT_SET, 1, at) >= 0) {
        H5Dwrite(set, H5T_NATIVE_INT64, one, space, H5P_DEFAULT, &value);
    }
    H5Sclose(one);
    H5Sclose(space);
    H5Dclose(set);
}

static void replace_attribute(hid_t file, const char *object, const char *name, struct bytes *in) {
    H5Adelete_by_name(file, object, name, H5P_DEFAULT);
    uint64_t kind = bytes_take(in, 1) % 4;
    if (kind == 0) {
        h5_set_int(file, object, name, (int64_t)bytes_take(in, 8));
    } else if (kind == 1) {
        char text[1024];
        size_t length = bytes_take(in, 2) % sizeof text;
        for (size_t i = 0; i < length; i++) text[i] = (char)bytes_take(in, 1);
        text[length] = '\0';
        h5_set_text(file, object, name, text);
    } else if (kind == 2) {
        uint64_t bits = bytes_take(in, 8);
        double value;
        memcpy(&value, &bits, sizeof value);
        h5_set_double(file, object, name, value);
    } else {
        size_t elements;
        hid_t type = take_type(in), space = take_space(in, &elements);
        void *content = take_content(in, type, elements);
        hid_t owner = H5Oopen(file, object, H5P_DEFAULT), attribute = H5I_INVALID_HID;
        if (owner >= 0) attribute = H5Acreate2(owner, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
        if (attribute >= 0 && content) H5Awrite(attribute, type, content);
        if (attribute >= 0) H5Aclose(attribute);
        if (owner >= 0) H5Oclose(owner);
        free(content);
        H5Sclose(space);
        H5Tclose(type);
    }
}

static void edit(hid_t file, const struct edit_names *names, struct bytes *in) {
    char object[128];
    uint64_t kind = bytes_take(in, 1) % 4;
    const char *name = names->name[bytes_take(in, 1) % (uint64_t)names->n], *at = strchr(name, '@');
    if (at) {
        snprintf(object, sizeof object, "%.*s", (int)(at - name), name);
        if (kind == 0) {
            H5Adelete_by_name(file, object, at + 1, H5P_DEFAULT);
        } else {
            replace_attribute(file, object, at + 1, in);
        }
    } else if (kind == 0) {
        H5Ldelete(file, name, H5P_DEFAULT);
    } else if (kind == 1) {
        const char *to = names->name[bytes_take(in, 1) % (uint64_t)names->n];
        H5Ldelete(file, to, H5P_DEFAULT);
        H5Lmove(file, name, file, to, H5P_DEFAULT, H5P_DEFAULT);
    } else if (kind == 2) {
        replace_object(file, name, in);
    } else {
        change_element(file, name, in);
    }
}

void edit_file(const char *path, const struct edit_base *base, const struct edit_names *names,
               struct bytes *bytes) {
    FILE *out = fopen(path, "wb");
    require(out && fwrite(base->bytes, 1, base->size, out) == base->size && !fclose(out),
            "cannot write the file");
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fclose_degree(list, H5F_CLOSE_STRONG);
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, list);
    H5Pclose(list);
    require(file >= 0, "cannot open the file");
    for (int i = 0; i < EDITS_MAX && bytes->size; i++) edit(file, names, bytes);
    require(h5_close(file, path, 0) == 0, "cannot seal the file");
}
