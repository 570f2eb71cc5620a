/* Names the files that hold no text of ours. */
#include "foreign.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <strings.h>

/* In what is said FILE is the file, and "..." the program with its other options. */
#define PIPE " | ... --input -"
#define PANDAS(CALL)                                                                                         \
    "python3 -c \"import pandas; pandas." CALL "('FILE').to_csv('/dev/stdout', index=False)\"" PIPE
/* m: a matrix of scipy.sparse; its rows and columns count from 0 */
#define MATRIX(LOAD)                                                                                         \
    "python3 -c \"import scipy.io, scipy.sparse as s; m = s.coo_matrix(" LOAD "); "                          \
    "[print(*t, sep=',') for t in zip(m.row, m.col, m.data)]\"" PIPE
#define PSQL "psql -c '\\copy TABLE to stdout csv header'" PIPE
#define TWICE "is compressed twice; pipe it, if it is by gzip: gzip -dc FILE" PIPE
#define RDATA                                                                                                \
    "is an R workspace; pipe a table: Rscript -e 'load(\"FILE\"); write.csv(TABLE, row.names=FALSE)'" PIPE
#define RDS "is an R object; pipe it: Rscript -e 'write.csv(readRDS(\"FILE\"), row.names=FALSE)'" PIPE
#define PICKLE "is a Python pickle; if it holds a table of pandas: " PANDAS("read_pickle")
#define STATA "is a Stata file; pipe it: " PANDAS("read_stata")
#define IMAGE "is an image, not a table"
#define HDF5 "is an HDF5 file; if pandas has written it: " PANDAS("read_hdf")
#define NETCDF                                                                                               \
    "is a netCDF file; write its table as CSV: python3 -c \"import xarray; "                                 \
    "xarray.open_dataset('FILE').to_dataframe().to_csv('/dev/stdout')\"" PIPE

/* ---- by the bytes at one place ---- */

struct magic {
    uint16_t at;
    uint8_t length;
    bool is_text; /* a text could begin so: a control byte must follow within 128 bytes */
    const char *bytes, *name;
};

#define BYTES(AT, TEXT) AT, sizeof TEXT - 1, false, TEXT
#define LETTERS(TEXT) 0, sizeof TEXT - 1, true, TEXT

/* The first row that fits counts. */
static const struct magic magics[] = {
    /* archives and compressed files; those that stream.h reads come here only from within another */
    {BYTES(0, "PK\5\6"), "is an empty zip archive"},
    {BYTES(0, "7z\xbc\xaf\x27\x1c"), "is a 7z archive; unpack it: 7z x -so FILE" PIPE},
    {BYTES(0, "Rar!\x1a\7"), "is a rar archive; unpack it: unrar p -inul FILE" PIPE},
    {BYTES(0, "\x1f\x8b\x08"), TWICE},
    {LETTERS("\x28\xb5\x2f\xfd"), TWICE},
    {BYTES(0, "\xfd\x37zXZ\0"), TWICE},
    {LETTERS("BZh91AY&SY"), TWICE},
    {BYTES(0, "\x1f\x9d"), "is compressed by compress (.Z); unpack it: gzip -dc FILE" PIPE},
    {BYTES(0, "\4\x22\x4d\x18"), "is compressed by lz4; unpack it: lz4 -dc FILE" PIPE},
    {BYTES(0, "\2\x21\x4c\x18"), "is compressed by lz4; unpack it: lz4 -dc FILE" PIPE},
    {BYTES(0, "LZIP\0"), "is compressed by lzip; unpack it: lzip -dc FILE" PIPE},
    {BYTES(0, "LZIP\1"), "is compressed by lzip; unpack it: lzip -dc FILE" PIPE},
    {BYTES(0, "\x89LZO\0\r\n\x1a\n"), "is compressed by lzop; unpack it: lzop -dc FILE" PIPE},
    {BYTES(0, "\xff\6\0\0sNaPpY"), "is compressed by snappy; unpack it: snzip -dc FILE" PIPE},
    /* tables */
    {LETTERS("PAR1"), "is a Parquet file; pipe it: duckdb -csv -c \"from 'FILE'\"" PIPE},
    {LETTERS("PARE"), "is an encrypted Parquet file; write it as CSV where its key is"},
    {LETTERS("ORC"), "is an ORC file; pipe it: " PANDAS("read_orc")},
    {BYTES(0, "Obj\1"), "is an Avro file; pipe it: avro-tools tojson FILE" PIPE},
    {BYTES(0, "ARROW1\0\0"), "is an Arrow (Feather) file; pipe it: " PANDAS("read_feather")},
    {LETTERS("FEA1"), "is a Feather file; pipe it: " PANDAS("read_feather")},
    {BYTES(0, "SQLite format 3\0"),
     "is an SQLite database; pipe a table: sqlite3 -csv -header FILE 'select * from TABLE'" PIPE},
    {LETTERS("PGDMP"), "is a dump of PostgreSQL; load it by pg_restore, and pipe a table: " PSQL},
    {BYTES(0, "PGCOPY\n\377\r\n\0"), "is a binary copy from PostgreSQL; copy it as text: " PSQL},
    {BYTES(0, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
     "is an old Excel or Word file; convert it: libreoffice --headless --convert-to csv FILE"},
    {BYTES(0, "<stata_dta><header><release>"), STATA},
    {BYTES(0, "q\2\1\0"), STATA},
    {BYTES(0, "r\2\1\0"), STATA},
    {BYTES(0, "s\2\1\0"), STATA},
    {LETTERS("$FL2@(#)"), "is an SPSS file; pipe it: " PANDAS("read_spss")},
    {BYTES(12, "\xc2\xea\x81\x60\xb3\x14\x11\xcf\xbd\x92"), "is a SAS file; pipe it: " PANDAS("read_sas")},
    {BYTES(0, "HEADER RECORD*******LIBRARY HEADER RECORD!!!!!!!"),
     "is a SAS transport file; pipe it: " PANDAS("read_sas")},
    /* arrays and objects; what the user likes may come before HDF5 */
    {BYTES(0, "\x89HDF\r\n\x1a\n"), HDF5},
    {BYTES(512, "\x89HDF\r\n\x1a\n"),
     "is an HDF5 file, perhaps MATLAB's; in MATLAB: save('FILE', 'NAME', '-v6')"},
    {BYTES(1024, "\x89HDF\r\n\x1a\n"), HDF5},
    {BYTES(2048, "\x89HDF\r\n\x1a\n"), HDF5},
    {LETTERS("MATLAB 5.0 MAT-file"),
     "is a MATLAB file; pipe a matrix of it: " MATRIX("scipy.io.loadmat('FILE')['NAME']")},
    {BYTES(0, "CDF\1"), NETCDF},
    {BYTES(0, "CDF\2"), NETCDF},
    {BYTES(0, "CDF\5"), NETCDF},
    {BYTES(0, "\x93NUMPY"), "is a NumPy array; pipe it: python3 -c \"import numpy, sys; "
                            "numpy.savetxt(sys.stdout, numpy.load('FILE'), '%s', ',')\"" PIPE},
    {BYTES(0, "RDX2\nX\n\0"), RDATA},
    {BYTES(0, "RDX3\nX\n\0"), RDATA},
    {BYTES(0, "RDA2\nA\n2\n"), RDATA},
    {BYTES(0, "RDA3\nA\n3\n"), RDATA},
    {BYTES(0, "X\n\0\0\0\2"), RDS},
    {BYTES(0, "X\n\0\0\0\3"), RDS},
    {BYTES(0, "\x80\2"), PICKLE},
    {BYTES(0, "\x80\3"), PICKLE},
    {BYTES(0, "\x80\4\x95"), PICKLE},
    {BYTES(0, "\x80\5\x95"), PICKLE},
    {BYTES(0, "ccopy_reg\n_reconstructor\n"), PICKLE},
    {BYTES(0, "cnumpy.core.multiarray\n"), PICKLE},
    {BYTES(0, "(lp0\n"), PICKLE},
    {BYTES(0, "(dp0\n"), PICKLE},
    {BYTES(0, "]q\0"), PICKLE},
    {BYTES(0, "}q\0"), PICKLE},
    /* others */
    {BYTES(0, "\x89PNG\r\n\x1a\n"), IMAGE},
    {LETTERS("\xff\xd8\xff"), IMAGE},
    {LETTERS("GIF87a"), IMAGE},
    {LETTERS("GIF89a"), IMAGE},
    {BYTES(0, "II*\0"), IMAGE},
    {BYTES(0, "MM\0*"), IMAGE},
    {BYTES(0, "\x7f"
              "ELF"),
     "is a program, not a table"},
    {BYTES(0, "version https://git-lfs.github.com/spec/"),
     "is not the data, but git-lfs' pointer to it; in its repository: git lfs pull"},
};

/* Control bytes that no text has: without blanks and line ends, and without those that some tools put between
 * fields (Hive's 1 to 3, 28 to 31) or before letters (27). */
static bool is_control(unsigned char c) {
    return c < ' ' ? !(c >= 1 && c <= 3) && !(c >= 9 && c <= 13) && c < 27 : c == 127;
}

static bool has_control(const unsigned char *data, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (is_control(data[i])) return true;
    }
    return false;
}

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

static const char *by_magic(const unsigned char *data, size_t size) {
    for (size_t i = 0; i < sizeof magics / sizeof magics[0]; i++) {
        const struct magic *m = &magics[i];
        size_t end = (size_t)m->at + m->length;
        if (size < end || memcmp(data + m->at, m->bytes, m->length) != 0) continue;
        if (!m->is_text || has_control(data + end, smaller(size - end, 128))) return m->name;
    }
    return NULL;
}

/* ---- archives: by their first member ---- */

static bool ends_in(const unsigned char *data, size_t size, const char *end) {
    size_t n = strlen(end);
    return size >= n && memcmp(data + size - n, end, n) == 0;
}

static bool begins(const unsigned char *data, size_t size, const char *with) {
    size_t n = strlen(with);
    return size >= n && memcmp(data, with, n) == 0;
}

static const char *zip(const unsigned char *data, size_t size) {
    if (size < 30 || !begins(data, size, "PK\3\4")) return NULL;
    const unsigned char *name = data + 30;
    size_t n = smaller(size - 30, data[26] | (size_t)data[27] << 8);
    if (begins(name, n, "[Content_Types].xml") || begins(name, n, "_rels/") || begins(name, n, "docProps/") ||
        begins(name, n, "xl/")) {
        return "is an Excel file (.xlsx); pipe it: xlsx2csv FILE" PIPE;
    }
    if (begins(name, n, "mimetype")) {
        return "is an OpenDocument file; convert it: libreoffice --headless --convert-to csv FILE";
    }
    if (ends_in(name, n, ".npy")) {
        return "is a file of NumPy arrays (.npz); if it is a matrix of scipy.sparse: " MATRIX(
            "s.load_npz('FILE')");
    }
    if (ends_in(name, n, "/data.pkl")) return "is a file of PyTorch; write its table as CSV";
    return "is a zip archive; see what is in it by unzip -l FILE, and pipe a file of it: unzip -p FILE "
           "NAME" PIPE;
}

/* The sum of its first header, which all kinds of tar have. */
static const char *tar(const unsigned char *data, size_t size) {
    unsigned sum = 0, told = 0;
    if (size < 512 || !data[0]) return NULL;
    for (int i = 0; i < 512; i++) sum += i >= 148 && i < 156 ? ' ' : data[i];
    for (int i = 148; i < 156; i++) {
        if (data[i] >= '0' && data[i] <= '7')
            told = told * 8 + data[i] - '0';
        else if (data[i] != ' ' && data[i])
            return NULL;
    }
    if (sum != told) return NULL;
    return "is a tar archive; see what is in it by tar -tf FILE, and pipe a file of it: tar -xOf FILE "
           "NAME" PIPE;
}

/* ---- text, but not of rows ---- */

struct text {
    const char *at, *end;
};

static bool is_one_of(const char *set, char c) {
    return c && strchr(set, c);
}

static void skip_blanks(struct text *t) {
    while (t->at < t->end && is_one_of(" \t\r\n", *t->at)) t->at++;
}

static bool starts(struct text t, const char *with) {
    size_t n = strlen(with);
    return (size_t)(t.end - t.at) >= n && strncasecmp(t.at, with, n) == 0;
}

static bool next_line(struct text *t) {
    const char *end = memchr(t->at, '\n', (size_t)(t->end - t->at));
    if (end) t->at = end + 1;
    return end;
}

/* Is there a line that starts so? */
static bool has_line(struct text t, const char *with) {
    while (!starts(t, with)) {
        if (!next_line(&t)) return false;
    }
    return true;
}

static bool starts_with_one(struct text t, const char *const *with) {
    while (*with && !starts(t, *with)) with++;
    return *with;
}

static const char *json_array(struct text t) {
    struct text line = t;
    t.at++;
    skip_blanks(&t);
    if (starts(t, "{")) return "is one JSON array; pipe its elements: jq -c '.[]' FILE" PIPE;
    bool of_arrays = starts(t, "[");
    if (of_arrays) t.at++;
    skip_blanks(&t);
    if (t.at == t.end || !is_one_of("\"-0123456789", *t.at)) return NULL;
    const char *close = memchr(t.at, ']', (size_t)(t.end - t.at));
    if (!close || !memchr(t.at, ',', (size_t)(close - t.at))) return NULL;
    t.at = close + 1;
    skip_blanks(&t);
    if (of_arrays && starts(t, ",")) {
        return "is a JSON array of arrays; pipe these: jq -r '.[] | @csv' FILE" PIPE;
    }
    if (!of_arrays && starts(t, "[") && next_line(&line) && line.at <= t.at) {
        return "has JSON arrays in lines; pipe these: jq -r @csv FILE" PIPE;
    }
    return NULL;
}

/* A JSON object that is not a row in one line. */
static const char *json_object(struct text t) {
    struct text first = t;
    t.at++;
    skip_blanks(&t);
    if (t.at == t.end || (*t.at != '"' && *t.at != '\'')) return NULL;
    const char *close = memchr(t.at + 1, *t.at, (size_t)(t.end - t.at - 1));
    if (!close) return NULL;
    t.at = close + 1;
    skip_blanks(&t);
    if (!starts(t, ":")) return NULL;
    t.at++;
    skip_blanks(&t);
    if (starts(t, "{\"0\":")) return "is a JSON table of pandas; pipe it: " PANDAS("read_json");
    if (starts(first, "{\"columns\":[") || starts(first, "{\"schema\":{\"fields\":")) {
        return "is a JSON table of pandas; write it as CSV there: to_csv('FILE', index=False)";
    }
    struct text next = first;
    if (!next_line(&next)) return NULL;
    const char *last = next.at - 1; /* of the first line */
    while (is_one_of(" \t\r\n", *last)) last--;
    skip_blanks(&next);
    if (*last == '}' || next.at == next.end || *next.at == '{') return NULL;
    return "is JSON over several lines; pipe the elements of its list: jq -c '.NAME[]' FILE" PIPE
           " (an object a line: jq -c . FILE)";
}

static const char *markup(struct text t) {
    static const char *const html[] = {"<!doctype html", "<html>", "<html ", "<head>", NULL};
    if (starts_with_one(t, html) || (starts(t, "<!--") && has_line(t, "<html"))) {
        return "is a web page (HTML), often that of a login or an error; download the file itself";
    }
    if (starts(t, "<table>") || starts(t, "<table ")) {
        return "is an HTML table; pipe it: python3 -c \"import pandas; "
               "pandas.read_html('FILE')[0].to_csv('/dev/stdout', index=False)\"" PIPE;
    }
    if (!starts(t, "<?xml ")) return NULL;
    while (t.at < t.end && *t.at != '>') t.at++;
    t.at += t.at < t.end;
    skip_blanks(&t);
    if (starts(t, "<error")) return "is an error message of a web server (XML); download the file again";
    if (starts_with_one(t, html)) return "is a web page (HTML), not a table; download the file itself";
    return "is XML; write it as CSV, as in: xmlstarlet sel -t -m //row -v @UserId -o , -v @PostId -n "
           "FILE" PIPE;
}

static const char *sql(struct text t) {
    static const char *const begin[] = {"--",          "/*",           "create table ", "insert into ",
                                        "drop table ", "begin",        "pragma ",       "set ",
                                        "use ",        "lock tables ", "copy ",         NULL};
    if (!starts_with_one(t, begin)) return NULL;
    if (!has_line(t, "create table ") && !has_line(t, "insert into ") && !has_line(t, "copy ")) return NULL;
    if (!memchr(t.at, '(', (size_t)(t.end - t.at)) || !memchr(t.at, ';', (size_t)(t.end - t.at))) return NULL;
    return "is an SQL dump; load it into its database, and pipe a table: mysql -B -e 'select * from "
           "TABLE'" PIPE ", or " PSQL;
}

static bool is_arff(struct text t) {
    while (starts(t, "%") && next_line(&t)) skip_blanks(&t);
    return (starts(t, "@relation ") || starts(t, "@relation\t")) && has_line(t, "@attribute");
}

/* "A", the version of the format, then those of R, as numbers of 6 digits */
static bool is_rds_in_ascii(struct text t) {
    if (!starts(t, "A\n2\n") && !starts(t, "A\n3\n")) return false;
    t.at += 4;
    for (int i = 0; i < 14; i++, t.at++) {
        if (t.at == t.end || (i % 7 == 6 ? *t.at != '\n' : !is_one_of("0123456789", *t.at))) return false;
    }
    return true;
}

static bool is_pdf(struct text t) {
    return t.end - t.at >= 9 && starts(t, "%PDF-") && t.at[6] == '.' && (t.at[8] == '\n' || t.at[8] == '\r');
}

static const char *by_text(const char *data, size_t size) {
    struct text t = {data, data + size};
    if (starts(t, "\xef\xbb\xbf")) t.at += 3;
    if (is_rds_in_ascii(t)) return RDS;
    if (is_pdf(t)) return "is a PDF, not a table; get the table from where the PDF was made";
    if (starts(t, "%%MatrixMarket matrix coordinate ")) {
        return "is a Matrix Market file; pipe its entries: sed '/^%/d' FILE | tail -n +2" PIPE;
    }
    if (starts(t, "%%MatrixMarket ")) {
        return "is a Matrix Market file; pipe its entries: " MATRIX("scipy.io.mmread('FILE')");
    }
    if (starts(t, "{\\rtf1")) return "is RTF, of a word processor; save it there as plain text";
    skip_blanks(&t);
    if (is_arff(t)) return "is an ARFF file; pipe its rows: sed '1,/^@data/Id' FILE" PIPE;
    const char *name = starts(t, "[") ? json_array(t) : starts(t, "{") ? json_object(t) : markup(t);
    return name ? name : sql(t);
}

/* ---- other encodings, and noise ---- */

/* Are these units of `width` bytes text? There is a zero byte in each letter of ASCII then. */
static bool is_wide(const unsigned char *data, size_t size, size_t width, bool big) {
    size_t n = smaller(size, 4096) / width, letters = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t unit = 0;
        for (size_t k = 0; k < width; k++) unit = unit << 8 | data[i * width + (big ? k : width - 1 - k)];
        if (unit > 0x10ffff || unit == 0 || (unit < 0x80 && is_control((unsigned char)unit))) return false;
        letters += unit < 0x80;
    }
    return n >= 4 && letters * (n < 64 ? 2 : 4) >= n;
}

static const char *wide(const unsigned char *data, size_t size) {
    static const struct {
        const char *mark, *name;
        uint8_t length, width;
        bool big;
    } wides[] = {
        {"\xff\xfe\0\0", "is UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8 FILE" PIPE, 4, 4, false},
        {"\0\0\xfe\xff", "is UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8 FILE" PIPE, 4, 4, true},
        {"\xff\xfe", "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 FILE" PIPE, 2, 2, false},
        {"\xfe\xff", "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8 FILE" PIPE, 2, 2, true},
        {"", "is UTF-32 text; convert it: iconv -f UTF-32LE -t UTF-8 FILE" PIPE, 0, 4, false},
        {"", "is UTF-32 text; convert it: iconv -f UTF-32BE -t UTF-8 FILE" PIPE, 0, 4, true},
        {"", "is UTF-16 text; convert it: iconv -f UTF-16LE -t UTF-8 FILE" PIPE, 0, 2, false},
        {"", "is UTF-16 text; convert it: iconv -f UTF-16BE -t UTF-8 FILE" PIPE, 0, 2, true},
    };
    for (size_t i = 0; i < sizeof wides / sizeof wides[0]; i++) {
        size_t n = wides[i].length;
        if (size < n || memcmp(data, wides[i].mark, n) != 0) continue;
        /* with a mark a bad letter, or a short text, is still what the mark says */
        if (is_wide(data + n, size - n, wides[i].width, wides[i].big) ||
            (n && (size == n || memchr(data + n, 0, size - n)))) {
            return wides[i].name;
        }
    }
    return NULL;
}

static const char *noise(const unsigned char *data, size_t size) {
    size_t count[256] = {0}, control = 0, high = 0, ascii = 0, digits = 0;
    for (size_t i = 0; i < size; i++) count[data[i]]++;
    for (int c = 0; c < 256; c++) {
        if (is_control((unsigned char)c)) control += count[c];
        if (c >= 128) high += count[c];
        if (c >= '0' && c <= '9') ascii += count[c];
        if (c >= 0xf0 && c <= 0xf9) digits += count[c]; /* EBCDIC's */
    }
    if (size && count[0] == size)
        return "holds nothing but zero bytes; it was not written, or not copied whole";
    if (size >= 16 && digits * 4 > size && ascii * 100 <= size && !count['\n']) {
        return "looks like EBCDIC; convert it: iconv -f IBM037 -t UTF-8 FILE | sed 's/\\xc2\\x85/\\n/g'" PIPE;
    }
    /* Of compressed or random bytes these are 8 in 100, of text some in a file. */
    if (control < 4 || control * 40 < size) return NULL;
    if (control == count[0] && !high) return "has many zero bytes; remove them: tr -d '\\000' < FILE" PIPE;
    return "is binary data, not text; write it as text, one row a line, where it was made";
}

const char *foreign_name(const char *data, size_t size) {
    const unsigned char *bytes = (const unsigned char *)data;
    const char *name = by_magic(bytes, size);
    if (!name) name = zip(bytes, size);
    if (!name) name = tar(bytes, size);
    if (!name) name = wide(bytes, size);
    if (!name) name = by_text(data, size);
    return name ? name : noise(bytes, size);
}
