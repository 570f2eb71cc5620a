/* See scalar.h. */
#include "scalar.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char digits[] = "0123456789";

enum { NUMBER_SIZE = 64 };

const char *scalar_boolean(const char *text, int *value) {
    static const char *const words[] = {"n", "no", "false", "off", "y", "yes", "true", "on"};
    for (int i = 0; i < 8; i++) {
        char title[8], upper[8];
        size_t length = strlen(words[i]);
        for (size_t k = 0; k <= length; k++) upper[k] = (char)toupper((unsigned char)words[i][k]);
        snprintf(title, sizeof title, "%c%s", upper[0], words[i] + 1);
        if (strcmp(text, words[i]) == 0 || strcmp(text, title) == 0 || strcmp(text, upper) == 0) {
            *value = i >= 4;
            return NULL;
        }
    }
    return "is not true or false";
}

/* Is it .inf, nan, -Infinity or the like? */
static int is_not_finite(const char *text) {
    text += strspn(text, "+-");
    text += *text == '.';
    return strncasecmp(text, "inf", 3) == 0 || strcasecmp(text, "nan") == 0;
}

/* Copies a decimal number without the _ between its digits. *is_real: it has a point or an exponent. */
static const char *read_decimal(const char *text, char number[NUMBER_SIZE], int *is_real) {
    static const char wrong[] = "is not a number";
    size_t n = 0, length = strlen(text), before, after = 0;
    if (is_not_finite(text)) return "is not a finite number";
    if (length >= NUMBER_SIZE) return wrong;
    for (size_t i = 0; i < length; i++) {
        int is_between = i > 0 && isdigit((unsigned char)text[i - 1]) && isdigit((unsigned char)text[i + 1]);
        if (text[i] != '_' || !is_between) number[n++] = text[i];
    }
    number[n] = '\0';
    const char *c = number + (*number == '+' || *number == '-'), *first = c;
    if (c[0] == '0' && isalpha((unsigned char)c[1]) && tolower((unsigned char)c[1]) != 'e') {
        return "is not a decimal number";
    }
    before = strspn(c, digits);
    c += before;
    *is_real = *c == '.';
    if (*c == '.') {
        after = strspn(++c, digits);
        c += after;
    }
    if (before + after > 0 && (*c == 'e' || *c == 'E')) {
        c += 1 + (c[1] == '+' || c[1] == '-');
        if (!isdigit((unsigned char)*c)) return wrong;
        c += strspn(c, digits);
        *is_real = 1;
    }
    if (before + after == 0 || *c) return wrong;
    if (!*is_real && before > 1 && *first == '0') {
        return "begins with 0, which some readers take for octal: want it without";
    }
    return NULL;
}

const char *scalar_real(const char *text, double *value) {
    char number[NUMBER_SIZE];
    int is_real;
    const char *wrong = read_decimal(text, number, &is_real);
    if (wrong) return wrong;
    double x = strtod(number, NULL);
    if (!isfinite(x)) return "is too large";
    *value = x;
    return NULL;
}

const char *scalar_whole(const char *text, int64_t *value) {
    char number[NUMBER_SIZE];
    int is_real;
    const char *wrong = read_decimal(text, number, &is_real);
    if (wrong) return strcmp(wrong, "is not a number") == 0 ? "is not a whole number" : wrong;
    if (is_real) {
        double x = strtod(number, NULL);
        if (!(fabs(x) <= 9007199254740992.0)) return "is too large";
        if (x != floor(x)) return "is not a whole number";
        *value = (int64_t)x;
        return NULL;
    }
    errno = 0;
    long long x = strtoll(number, NULL, 10);
    if (errno) return "is too large";
    *value = x;
    return NULL;
}
