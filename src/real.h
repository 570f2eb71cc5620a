/* The number type of training: float; double only in the gradient tests (-DVAECF_DOUBLE). */
#ifndef VAECF_REAL_H
#define VAECF_REAL_H

#ifdef VAECF_DOUBLE
typedef double real;
#else
typedef float real;
#endif

#endif
