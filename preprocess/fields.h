/* A record of delimited text, split into its fields. */
#ifndef VAECF_FIELDS_H
#define VAECF_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { FIELDS_MAX = 1024, FIELDS_RECORD_MAX = 1 << 20, FIELDS_DELIMITER_MAX = 15 };

/* How a field may be quoted: not at all; as in RFC 4180, with quotes inside doubled; or with a backslash
 * before quotes and backslashes inside. */
enum quoting { QUOTING_NONE, QUOTING_DOUBLED, QUOTING_BACKSLASH };

struct syntax {
    char newline;                             /* '\n', before which a '\r' may stand, or '\r' */
    char delimiter[FIELDS_DELIMITER_MAX + 1]; /* " ": runs of blanks and tabs; "": a line is one field */
    size_t delimiter_length;
    enum quoting quoting;
    bool multiline; /* quoted fields may go over several lines */
};

struct fields {
    int n;      /* fields of the record, also where there are more than FIELDS_MAX */
    int n_kept; /* of which these many are here: */
    const char *field[FIELDS_MAX];
    size_t length[FIELDS_MAX];
    const char *next; /* where the next record starts */
    int64_t lines;    /* that the record takes up */
    bool quoted;      /* a field begins with a quote */
    bool overlong;    /* its first line does not end within FIELDS_RECORD_MAX */
    const char *bad;  /* what is wrong, or NULL */
};

/* Splits the record at `at`. [at, limit) is what it may take up; last: the file ends at `limit`. At most
 * `most` fields are kept; blanks around unquoted ones are not. A record whose quotes do not fit takes up its
 * first line. most = 0 finds where the next record starts, and does not look for control bytes. room: at
 * least FIELDS_RECORD_MAX bytes, for what quoted fields are without their escapes. */
void fields_split(const struct syntax *syntax, const char *at, const char *limit, bool last, int most,
                  char *room, struct fields *fields);

/* A field as messages have it: its first bytes, without control bytes. Returns how long the text is. */
size_t fields_show(char *text, size_t size, const char *field, size_t length);

static inline bool fields_is_blank(char c) {
    return c == ' ' || c == '\t';
}

/* Is it a control byte that no text has? Tabs and line ends are not meant. */
static inline bool fields_is_control(char c) {
    return ((unsigned char)c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7f;
}

#endif
