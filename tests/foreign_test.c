/* Files that are not ours, by their first bytes; and texts that must not be taken for such. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "foreign.h"

#define ROW "10,2001,4.5\n"
#define ROWS ROW ROW ROW ROW ROW ROW ROW ROW ROW ROW

struct sample {
    size_t size;
    const char *data, *word; /* what is said has the word */
};
#define SAMPLE(TEXT, WORD)                                                                                   \
    { sizeof TEXT - 1, TEXT, WORD }
#define ZIP(NAME_SIZE, NAME) "PK\3\4\24\0\0\0\10\0aaaabbbbccccdddd" NAME_SIZE "\0\0\0" NAME "\3\4\5"

/* Named in a copy of just that size, so that a sanitizer sees what is read behind it. */
static const char *name_of(const char *data, size_t size) {
    char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, data, size);
    const char *name = foreign_name(copy, size);
    free(copy);
    return name;
}

static void assert_named(const char *data, size_t size, const char *word) {
    const char *name = name_of(data, size);
    if (!name || !strstr(name, word)) {
        fail_msg("%.20s (%zu bytes): %s, not %s", data, size, name ? name : "text", word);
    }
    if (strchr(name, '\n') || strncmp(name, "\n", 1) == 0 || strlen(name) > 400)
        fail_msg("%s: no line", name);
}

static void assert_text(const char *data, size_t size) {
    const char *name = name_of(data, size);
    if (name) fail_msg("%.40s (%zu bytes) is a text, not: %s", data, size, name);
}

static void test_magic(void **state) {
    static const struct sample samples[] = {
        SAMPLE(ZIP("\13", "ratings.csv"), "unzip -p FILE"),
        SAMPLE(ZIP("\23", "[Content_Types].xml"), "xlsx2csv"),
        SAMPLE(ZIP("\13", "indices.npy"), "load_npz"),
        SAMPLE(ZIP("\20", "archive/data.pkl"), "PyTorch"),
        SAMPLE(ZIP("\10", "mimetypeapplication/vnd.oasis.opendocument.spreadsheet"), "libreoffice"),
        SAMPLE("PK\5\6\0\0\0\0\0\0", "empty zip"),
        SAMPLE("PAR1\25\4\25\30\25\34L\25\6", "duckdb -csv -c \"from 'FILE'\""),
        SAMPLE("PARE\25\4\25\30", "encrypted Parquet"),
        SAMPLE("ORC\12\33\0\0", "read_orc"),
        SAMPLE("Obj\1\4\26avro.codec", "avro-tools"),
        SAMPLE("ARROW1\0\0\377\377\377\377", "read_feather"),
        SAMPLE("FEA1\0\0\0\0", "read_feather"),
        SAMPLE("SQLite format 3\0\20\0", "sqlite3 -csv"),
        SAMPLE("PGDMP\1\16\0", "pg_restore"),
        SAMPLE("PGCOPY\n\377\r\n\0\0\0\0\0", "PostgreSQL"),
        SAMPLE("\320\317\21\340\241\261\32\341\0\0", "libreoffice"),
        SAMPLE("<stata_dta><header><release>118</release>", "read_stata"),
        SAMPLE("r\2\1\0\3\0", "read_stata"),
        SAMPLE("$FL2@(#) SPSS DATA FILE\2\0\0\0", "read_spss"),
        SAMPLE("\0\0\0\0\0\0\0\0\0\0\0\0\302\352\201\140\263\24\21\317\275\222\10\0", "read_sas"),
        SAMPLE("HEADER RECORD*******LIBRARY HEADER RECORD!!!!!!!000000", "read_sas"),
        SAMPLE("\211HDF\r\n\32\n\0\0", "read_hdf"),
        SAMPLE("MATLAB 5.0 MAT-file, Platform: GLNXA64          \0\1IM\16\0", "loadmat"),
        SAMPLE("CDF\1\0\0\0\0", "netCDF"),
        SAMPLE("CDF\5\0\0\0\0", "netCDF"),
        SAMPLE("\223NUMPY\1\0v\0{'descr'", "numpy.load"),
        SAMPLE("RDX3\nX\n\0\0\0\3", "R workspace"),
        SAMPLE("RDA2\nA\n2\n262657\n", "R workspace"),
        SAMPLE("X\n\0\0\0\3\0\4\2\1", "readRDS"),
        SAMPLE("A\n3\n262657\n197888\n5\nUTF-8\n", "readRDS"),
        SAMPLE("\200\2]q\0(", "read_pickle"),
        SAMPLE("\200\3}q\0(", "read_pickle"),
        SAMPLE("\200\4\225\11\0\0\0", "read_pickle"),
        SAMPLE("\200\5\225\11\0\0\0", "read_pickle"),
        SAMPLE("(lp0\nS'u1'\np1\n", "read_pickle"),
        SAMPLE("7z\274\257\47\34\0\4", "7z x -so"),
        SAMPLE("Rar!\32\7\1\0", "unrar p"),
        SAMPLE("\4\42\115\30d@\247", "lz4 -dc"),
        SAMPLE("\2\41\114\30d@\247", "lz4 -dc"),
        SAMPLE("LZIP\1\14\0", "lzip -dc"),
        SAMPLE("\211LZO\0\r\n\32\n\20", "lzop -dc"),
        SAMPLE("\377\6\0\0sNaPpY\0", "snzip"),
        SAMPLE("\37\235\220a", "gzip -dc"),
        SAMPLE("\37\213\10\0\0\0", "compressed twice"),
        SAMPLE("\50\265\57\375\4\0", "compressed twice"),
        SAMPLE("\375\67zXZ\0\0\4", "compressed twice"),
        SAMPLE("BZh91AY&SY\303\217\10\31\0\0", "compressed twice"),
        SAMPLE("\211PNG\r\n\32\n\0", "image"),
        SAMPLE("\377\330\377\340\0\20JFIF", "image"),
        SAMPLE("GIF89a\1\0\1\0", "image"),
        SAMPLE("%PDF-1.4\n%\342\343", "PDF"),
        SAMPLE("\177ELF\2\1", "program"),
        SAMPLE("{\\rtf1\\ansi", "RTF"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        assert_named(samples[i].data, samples[i].size, samples[i].word);
        for (size_t cut = 0; cut < samples[i].size; cut++) name_of(samples[i].data, cut);
    }
}

static void test_formats_in_text(void **state) {
    static const struct sample samples[] = {
        SAMPLE("version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        SAMPLE("\n<!DOCTYPE HTML>\n<title>Sign in</title>", "HTML"),
        SAMPLE("<html lang=en>", "HTML"),
        SAMPLE("<!-- saved -->\n<HTML><body>", "HTML"),
        SAMPLE("<table border=\"1\"><tr><td>1", "read_html"),
        SAMPLE("\357\273\277<?xml version=\"1.0\"?>\n<votes><row Id=\"1\"/>", "xmlstarlet"),
        SAMPLE("<?xml version=\"1.0\"?>\n<Error><Code>AccessDenied</Code>", "error message of a web server"),
        SAMPLE("<?xml version=\"1.0\"?>\n<!DOCTYPE html>", "HTML"),
        SAMPLE("[{\"user\": 1, \"item\": 2}, {\"user\": 1, \"item\": 3}]", "jq -c '.[]'"),
        SAMPLE("[\n  {\n    \"user\": 1", "jq -c '.[]'"),
        SAMPLE("[[1, 2, 5],\n[1, 3, 4]]", "jq -r '.[] | @csv'"),
        SAMPLE("[\"u1\", \"i1\", 5]\n[\"u1\", \"i2\", 4]\n", "jq -r @csv"),
        SAMPLE("{\n  \"ratings\": [\n    {\n", "over several lines"),
        SAMPLE("{\"user\": 1,\n \"item\": 2}\n", "over several lines"),
        SAMPLE("{\"user\":{\"0\":\"u1\",\"1\":\"u2\"}}", "read_json"),
        SAMPLE("{\"columns\":[\"user\",\"item\"],\"index\":[0]", "pandas"),
        SAMPLE("%%MatrixMarket matrix coordinate real general\n%\n3 3 2\n1 1 5\n", "sed '/^%/d'"),
        SAMPLE("%%MatrixMarket matrix array real general\n", "mmread"),
        SAMPLE("% a comment\n\n@RELATION votes\n@ATTRIBUTE user STRING\n", "ARFF"),
        SAMPLE("-- MySQL dump 10.13\n\nDROP TABLE IF EXISTS `r`;\nCREATE TABLE `r` (\n", "SQL dump"),
        SAMPLE("--\n-- PostgreSQL database dump\n--\nSET x = 0;\nCOPY r (u, i) FROM stdin;\n", "SQL dump"),
        SAMPLE("BEGIN TRANSACTION;\nINSERT INTO r VALUES(1,2,3);\n", "SQL dump"),
    };
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        assert_named(samples[i].data, samples[i].size, samples[i].word);
        for (size_t cut = 0; cut < samples[i].size; cut++) name_of(samples[i].data, cut);
    }
}

static void test_tar(void **state) {
    char block[1024] = "ratings.csv";
    unsigned sum = 0;
    (void)state;
    memcpy(block + 100,
           "0000644\0"
           "0001750\0"
           "0001750",
           24); /* mode, owner, group */
    memcpy(block + 257,
           "ustar\0"
           "00",
           8);
    memset(block + 148, ' ', 8);
    for (int i = 0; i < 512; i++) sum += (unsigned char)block[i];
    snprintf(block + 148, 7, "%06o", sum);
    assert_named(block, sizeof block, "tar -xOf FILE");
    assert_named(block, 512, "tar archive");
    block[0]++; /* the sum does not fit */
    assert_named(block, 512, "zero bytes");
}

static void test_hdf5_behind_a_block(void **state) {
    char data[4096] = "MATLAB 7.3 MAT-file, Platform: GLNXA64";
    (void)state;
    memcpy(data + 512, "\211HDF\r\n\32\n", 8);
    assert_named(data, sizeof data, "HDF5");
}

static const char table[] = "user,item,rating\n" ROWS;

/* The table in units of so many bytes, behind a byte order mark or not. */
static size_t widen(char *to, size_t width, int big, int mark) {
    size_t n = 0;
    for (size_t i = mark ? 0 : 1; i < sizeof table; i++) {
        uint32_t letter = i ? (unsigned char)table[i - 1] : 0xfeff;
        for (size_t k = 0; k < width; k++) to[n++] = (char)(letter >> 8 * (big ? width - 1 - k : k));
    }
    return n;
}

static void test_wide(void **state) {
    static const char *const with_mark[] = {"-f UTF-16 ", "-f UTF-32 "};
    static const char *const without[] = {"-f UTF-16LE", "-f UTF-16BE", "-f UTF-32LE", "-f UTF-32BE"};
    char data[5 * sizeof table];
    (void)state;
    for (int width = 0; width < 2; width++) {
        for (int big = 0; big < 2; big++) {
            size_t n = widen(data, width ? 4 : 2, big, 1);
            assert_named(data, n, with_mark[width]);
            assert_named(data, n - 1, with_mark[width]);
            assert_named(data, width ? 4 : 2, with_mark[width]); /* an empty one */
            n = widen(data, width ? 4 : 2, big, 0);
            assert_named(data, n, without[2 * width + big]);
        }
    }
    assert_text("\377\376,1\n" ROWS, 5 + sizeof ROWS - 1); /* latin-1 */
}

static uint32_t next_random(void) {
    static uint32_t x = 2463534242;
    x ^= x << 13;
    x ^= x >> 17;
    return x ^= x << 5;
}

static void test_noise(void **state) {
    static char data[1 << 20];
    (void)state;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(next_random() >> 11);
    for (size_t size = 128; size <= sizeof data; size *= 2) assert_named(data + 1, size - 1, "binary data");
    for (size_t i = 0; i < 4096; i++) data[i] = i % 4 ? 0 : (char)(next_random() % 200); /* small integers */
    assert_named(data, 4096, "binary data");
    memset(data, 0, 4096);
    assert_named(data, 4096, "nothing but zero bytes");
    assert_named("1,2\0\n1,3\0\n2,2\0\n2,4\0\n", 20, "tr -d");

    static const unsigned char ebcdic[] = "\xf1\xf0\x6b\xf2\xf0\xf0\xf1\x6b\xf4\x15"
                                          "\xf1\xf1\x6b\xf2\xf0\xf0\xf1\x6b\xf5\x15";
    assert_named((const char *)ebcdic, sizeof ebcdic - 1, "EBCDIC");

    /* a megabyte of text, and a few bytes in it that are not */
    for (size_t i = 0; i < sizeof data; i++) data[i] = ROW[i % (sizeof ROW - 1)];
    assert_text(data, sizeof data);
    for (size_t i = 0; i < 1000; i++) data[next_random() % sizeof data] = (char)(next_random() % 9);
    assert_text(data, sizeof data);
}

static void test_texts(void **state) {
    static const struct sample samples[] = {
        SAMPLE("", ""),
        SAMPLE("\n", ""),
        SAMPLE("1", ""),
        SAMPLE("1,2\0", ""),
        SAMPLE("1\0,\0002\0\n", ""),
        SAMPLE("\357\273\277user,item\n1,2\n", ""),
        SAMPLE("BZh9,1\n" ROWS, ""),
        SAMPLE("BZh91AY&SY,1\n" ROWS, ""),
        SAMPLE("LZIP,1\nLZIP1,2\n", ""),
        SAMPLE("PK,1\n" ROWS, ""),
        SAMPLE("PK34,1\n" ROWS, ""),
        SAMPLE("PAR1,1\n" ROWS, ""),
        SAMPLE("ORC,1\n" ROWS, ""),
        SAMPLE("ORC\0011\0015\nORC\0012\0015\n", ""), /* as Hive writes it */
        SAMPLE("Obj,1\nObj1,2\n", ""),
        SAMPLE("Rar!,1\n" ROWS, ""),
        SAMPLE("7z,1\n" ROWS, ""),
        SAMPLE("%PDF-like,1\n%PDF-1.4,2\n", ""),
        SAMPLE("%PDF-1.4,2\n", ""),
        SAMPLE("GIF89a,1\n" ROWS, ""),
        SAMPLE("FEA1,1\nARROW1,2\nCDF1,3\n", ""),
        SAMPLE("ARROW1,2\nCDF1,3\n", ""),
        SAMPLE("CDF1,3\n", ""),
        SAMPLE("PGDMP,3\n", ""),
        SAMPLE("SQLite format 3,1\n", ""),
        SAMPLE("MATLAB 5.0 MAT-file,1\n" ROWS, ""),
        SAMPLE("RDX2\n1\nX\n", ""),
        SAMPLE("A\n3\n262657\n1\n", ""),
        SAMPLE("X\n1\n", ""),
        SAMPLE("II*,1\nMM,2\n", ""),
        SAMPLE("version https,1\n", ""),
        SAMPLE("\377\330\377,1\n" ROWS, ""),
        SAMPLE("[1],2,5\n[3],4,5\n", ""),
        SAMPLE("[deleted],2\n", ""),
        SAMPLE("[\"a\"],2\n", ""),
        SAMPLE("{\"user\": 1, \"item\": 2}\n{\"user\": 1, \"item\": 3}\n", ""),
        SAMPLE("{'user': 1, 'items': [{'id': 1}]}\n{'user': 2, 'items': []}\n", ""),
        SAMPLE("{\"user\": 1, \"item\n{\"user\": 1, \"item\": 3}\n", ""), /* the first is cut off */
        SAMPLE("{3F2504E0-4F89},1\n7,1\n", ""),
        SAMPLE("<b>,1\n<html,2\n", ""),
        SAMPLE("@relation,1\n@attribute,2\n", ""),
        SAMPLE("% 1,2\n", ""),
        SAMPLE("--,1\n/*,2\n", ""),
        SAMPLE("create table x,1\ninsert into y,2\n", ""),
        SAMPLE("Beginners,1\n(x),2\n;,3\n", ""),
        SAMPLE("\203\206\201[\203U,\211f\211\346\n" ROWS, ""), /* Shift-JIS */
        SAMPLE("\323\303\273\247,\265\347\323\260\n\325\305\310\375,\272\354\302\245\303\316\n",
               ""),                                /* GBK */
        SAMPLE("Bj\366rk,\344\n\200\251,1\n", ""), /* cp1252 */
        SAMPLE("qL8yMZ0+/w==,9k4dbbXoGQ==\n8nq1s0w/2w==,xY8bT4vQ1A==\n", ""),
    };
    (void)state;
    for (size_t i = 0; i < sizeof samples / sizeof samples[0]; i++) {
        assert_text(samples[i].data, samples[i].size);
        for (size_t cut = 0; cut < samples[i].size; cut++) assert_text(samples[i].data, cut);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_magic), cmocka_unit_test(test_formats_in_text),
        cmocka_unit_test(test_tar),   cmocka_unit_test(test_hdf5_behind_a_block),
        cmocka_unit_test(test_wide),  cmocka_unit_test(test_noise),
        cmocka_unit_test(test_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
