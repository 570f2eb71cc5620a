/* Variables of the environment: one that is empty, or blank, counts as not set.
 *
 * Libraries that read the environment before main see it so too: environment.c takes the empty ones of OpenMP
 * and of the libraries for products out of it before any library starts (libgomp complains of
 * OMP_NUM_THREADS=). */
#ifndef VAECF_ENVIRONMENT_H
#define VAECF_ENVIRONMENT_H

/* The value, or NULL. It is the environment's own, as getenv's. */
const char *environment(const char *name);

/* Does OMP_NUM_THREADS say how many threads? "4" or "4,2" do; of "four" and "0" libgomp says that they are
 * invalid, and takes all cores. */
int environment_has_threads(void);

#endif
