/* See values.h. */
#include "values.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool is_blank(char c) {
    return c == ' ' || c == '\t';
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

double value_number(const char *text, size_t length, bool comma) {
    while (length && is_blank(*text)) text++, length--;
    while (length && is_blank(text[length - 1])) length--;
    static const double power[] = {1,   1e1, 1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                   1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    int64_t digits = 0;
    size_t i = 0, point = 0; /* the short form "3.5", exactly */
    for (; i < length && i < 15; i++) {
        if (is_digit(text[i])) {
            digits = 10 * digits + (text[i] - '0');
        } else if (text[i] == '.' && !point) {
            point = i + 1;
        } else {
            break;
        }
    }
    if (i == length && i > (point > 0)) return (double)digits / power[point ? length - point : 0];
    char copy[64], *end;
    if (!length || length >= sizeof copy) return (double)NAN;
    for (i = 0; i < length; i++) {
        copy[i] = text[i];
        if (comma && text[i] == ',' && !memchr(text, '.', length) && length - i - 1 != 3) {
            copy[i] = '.';
            comma = false;
        } else if (!memchr("0123456789+-.eE", text[i], 15)) {
            return (double)NAN;
        }
    }
    copy[length] = '\0';
    double number = strtod(copy, &end);
    return *end || !isfinite(number) ? (double)NAN : number;
}

bool value_is_missing(const char *text, size_t length) {
    static const char *const words[] = {"", "na", "n/a", "nan", "null", "none", "\\N"};
    while (length && is_blank(*text)) text++, length--;
    while (length && is_blank(text[length - 1])) length--;
    if (length > 4) return false;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i]) == length && strncasecmp(words[i], text, length) == 0) return true;
    }
    return false;
}

/* Takes 1 to `most` digits, at least `least`, from *text; -1 if they are not there. */
static int take_digits(const char **text, const char *end, int least, int most) {
    int value = 0, n = 0;
    for (; n < most && *text < end && is_digit(**text); n++) value = 10 * value + (*(*text)++ - '0');
    return n < least ? -1 : value;
}

/* Days from 1970-01-01 of a date of the Gregorian calendar. Years begin in March, so that a leap day ends
 * one. */
static int64_t days(int64_t year, int month, int day) {
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

/* "Z", "UTC", " UTC", "+02", "+02:00", "-0330" at the end of a time: seconds to take away; NAN if it is none.
 */
static double zone(const char *text, const char *end) {
    while (text < end && *text == ' ') text++;
    size_t length = (size_t)(end - text);
    if (!length || (length == 1 && *text == 'Z') ||
        (length == 3 && (memcmp(text, "UTC", 3) == 0 || memcmp(text, "GMT", 3) == 0)))
        return 0;
    if (*text != '+' && *text != '-') return (double)NAN;
    int sign = *text++ == '+' ? 1 : -1, hours = take_digits(&text, end, 2, 2), minutes = 0;
    if (text < end && *text == ':') text++;
    if (text < end) minutes = take_digits(&text, end, 2, 2);
    if (text < end || hours < 0 || hours > 14 || minutes < 0 || minutes > 59) return (double)NAN;
    return sign * (3600 * hours + 60 * minutes);
}

double value_date(const char *text, size_t length) {
    while (length && is_blank(*text)) text++, length--;
    while (length && is_blank(text[length - 1])) length--;
    const char *end = text + length;
    int year = take_digits(&text, end, 4, 4);
    if (year < 0 || text == end || (*text != '-' && *text != '/')) return (double)NAN;
    char separator = *text++;
    int month = take_digits(&text, end, 1, 2);
    if (month < 1 || month > 12 || text == end || *text++ != separator) return (double)NAN;
    int day = take_digits(&text, end, 1, 2);
    if (day < 1 || days(year, month, day) >= days(year + month / 12, month % 12 + 1, 1)) return (double)NAN;
    double seconds = 86400.0 * (double)days(year, month, day), fraction = 0;
    if (text == end) return seconds;
    if (*text != 'T' && *text != ' ') return (double)NAN;
    text++;
    int hour = take_digits(&text, end, 1, 2), minute = 0, second = 0;
    if (hour < 0 || hour > 24 || text == end || *text++ != ':') return (double)NAN;
    minute = take_digits(&text, end, 2, 2);
    if (text < end && *text == ':') {
        text++;
        second = take_digits(&text, end, 2, 2);
        if (text < end && (*text == '.' || *text == ',')) {
            double unit = 0.1;
            for (text++; text < end && is_digit(*text); unit /= 10) fraction += unit * (*text++ - '0');
        }
    }
    if (minute < 0 || minute > 59 || second < 0 || second > 60) return (double)NAN;
    return seconds + 3600 * hour + 60 * minute + second + fraction - zone(text, end);
}
