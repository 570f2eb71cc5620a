/* Booleans and numbers as YAML and people write them: one reading for configurations, --set and sweep files.
 */
#ifndef VAECF_SCALAR_H
#define VAECF_SCALAR_H

#include <stdint.h>

/* Each returns NULL, or what is wrong with the text: "is not a number". *value is as it was then. */

/* YAML 1.1's: y, yes, true, on; n, no, false, off; all lower, all upper, or the first letter upper. */
const char *scalar_boolean(const char *text, int *value);

/* Decimal and finite: 1, +1.5, .5, 5., 1e-3, 1_000. Not what readers of YAML take for different numbers, or
 * not for numbers: 0x10, 010 (8 in YAML 1.1, 10 in 1.2), 1:30, 1,5. */
const char *scalar_real(const char *text, double *value);

/* The same without a fraction: 500, 500.0, 5e2. Written with a point or an exponent up to 2^53. */
const char *scalar_whole(const char *text, int64_t *value);

#endif
