/* Signals that ask a program to stop. */
#ifndef VAECF_SIGNALS_H
#define VAECF_SIGNALS_H

/* From now on SIGTERM, SIGUSR1 and SIGINT only change what signals_came tells. To be called before anything
 * that starts threads, for they inherit the mask: no handler may run on a thread that multiplies matrices, as
 * oneDNN 2.6 keeps values below the stack's red zone, where a handler's frame goes. EX_OSERR if no thread is
 * to be had. */
int signals_catch(void);

/* Did one of them come? */
int signals_came(void);

#endif
