/* One thread is left to take them, or one of MPI's, which opens its mask again; see signals.h. */
#include "signals.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

static atomic_int came;

static void on_signal(int number) {
    came = number;
}

static void *take(void *set) {
    pthread_sigmask(SIG_UNBLOCK, set, NULL);
    for (;;) pause();
    return NULL;
}

int signals_catch(void) {
    static sigset_t caught;
    static const int number[] = {SIGTERM, SIGUSR1, SIGINT};
    const struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    pthread_t thread;
    sigemptyset(&caught);
    for (size_t i = 0; i < sizeof number / sizeof *number; i++) {
        sigaction(number[i], &action, NULL);
        sigaddset(&caught, number[i]);
    }
    signal(SIGPIPE, SIG_IGN); /* a terminal that is gone is an error of writing, and not worth a run */
    int failed = pthread_sigmask(SIG_BLOCK, &caught, NULL);
    if (!failed) failed = pthread_create(&thread, NULL, take, &caught);
    if (!failed) failed = pthread_detach(thread);
    return failed ? error_set(EX_OSERR, "no thread for signals: %s", strerror(failed)) : 0;
}

int signals_came(void) {
    return came != 0;
}
