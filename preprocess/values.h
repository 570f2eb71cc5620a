/* Numbers and times as they are written in files. */
#ifndef VAECF_VALUES_H
#define VAECF_VALUES_H

#include <stdbool.h>
#include <stddef.h>

/* A finite number, with blanks around it allowed; NAN if it is anything else. comma: the decimal separator
 * may be a comma too ("3,5"), but three digits behind it are no fraction: "1,234" may mean 1234. */
double value_number(const char *text, size_t length, bool comma);

/* Is it one of the ways to write that there is no value: nothing, NA, N/A, NaN, null, None, \N? */
bool value_is_missing(const char *text, size_t length);

/* A date, or date and time, as ISO 8601 has them, or nearly: 2005-09-06, 2005/09/06 12:30,
 * 2005-09-06T12:30:59.5Z, 2005-09-06 12:30:59 UTC, ...+02:00. Returns seconds since 1970 (UTC where no zone
 * is given); NAN if it is anything else. */
double value_date(const char *text, size_t length);

#endif
