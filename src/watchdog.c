/* Heartbeats between rank 0 and the others; see watchdog.h.
 *
 * When all are connected (star.h) both sides send a byte several times in the time after which silence is
 * death. */
#include "watchdog.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "environment.h"
#include "error.h"
#include "star.h"

enum {
    HANG_SECONDS = 40,
    BEAT_MS_MAX = 5000,
    BEAT_MS_MIN = 50,
};

/* What is said on a connection: one byte each. */
enum { BEAT = 'b', LEAVE = 'l', JOB_ENDS = 'e' };

/* A rank by name, for people. */
struct name {
    char machine[MPI_MAX_PROCESSOR_NAME];
    int64_t process;
};

struct peer {
    int socket; /* -1: it is us, or has left */
    int has_left;
    int64_t heard; /* when, in ms */
};

static struct {
    int is_running, rank, stop[2] /* a pipe that wakes the thread */;
    int64_t hang_ms;
    struct name *name; /* [size] */
    struct peer *peer; /* [size]; ranks above 0 only have peer[0] */
    int size, n_peers;
    struct pollfd *poll;
    pthread_t thread;
} dog;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void sleep_ms(int64_t ms) {
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* ---- the thread ---- */

static void say(const struct peer *peer, char what) {
    if (peer->socket >= 0) send(peer->socket, &what, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void say_all(char what) {
    for (int i = 0; i < dog.n_peers; i++) say(&dog.peer[i], what);
}

/* Ends this process, and by that the job: the launcher and the other ranks notice. Not by MPI_Abort, which
 * is not for threads. */
static void end_job(void) {
    say_all(JOB_ENDS);
    for (int i = 0; i < dog.n_peers; i++) {
        if (dog.peer[i].socket >= 0) shutdown(dog.peer[i].socket, SHUT_WR);
    }
    sleep_ms(200); /* the others get to know before the launcher kills them */
    _exit(EX_OSERR);
}

static void lost(int rank, const char *how) {
    /* The higher ranks all miss rank 0; the first speaks, and the next ones if that is gone as well. */
    if (dog.rank > 1) sleep_ms(dog.rank < 6 ? 2000 * (dog.rank - 1) : 10000);
    dprintf(STDERR_FILENO, "vaecf: error: rank %d (process %lld on %s) %s: the job ends\n", rank,
            (long long)dog.name[rank].process, dog.name[rank].machine, how);
    end_job();
}

static void listen_to(int rank, int64_t time) {
    struct peer *peer = &dog.peer[rank];
    char said[256];
    ssize_t n = recv(peer->socket, said, sizeof said, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) lost(rank, "has died");
    peer->heard = time;
    for (ssize_t i = 0; i < n; i++) {
        if (said[i] == JOB_ENDS) end_job();
        if (said[i] == LEAVE) peer->has_left = 1;
    }
    if (!peer->has_left) return;
    close(peer->socket);
    peer->socket = -1;
}

static void *watch(void *unused) {
    (void)unused;
    int64_t beat_ms = dog.hang_ms / 8, beaten = 0, before = now_ms();
    if (beat_ms > BEAT_MS_MAX) beat_ms = BEAT_MS_MAX;
    if (beat_ms < BEAT_MS_MIN) beat_ms = BEAT_MS_MIN;
    for (;;) {
        for (int i = 0; i < dog.n_peers; i++) {
            dog.poll[i] = (struct pollfd){.fd = dog.peer[i].socket, .events = POLLIN};
        }
        dog.poll[dog.n_peers] = (struct pollfd){.fd = dog.stop[0], .events = POLLIN};
        poll(dog.poll, (nfds_t)dog.n_peers + 1, (int)beat_ms);
        int64_t time = now_ms();
        if (dog.poll[dog.n_peers].revents) return NULL;
        /* were we stopped ourselves? then nothing is known about the others */
        if (time - before > dog.hang_ms / 2) {
            for (int i = 0; i < dog.n_peers; i++) dog.peer[i].heard = time;
        }
        before = time;
        for (int i = 0; i < dog.n_peers; i++) {
            struct peer *peer = &dog.peer[i];
            if (dog.poll[i].revents && peer->socket >= 0) listen_to(i, time);
            if (i == dog.rank || peer->has_left || time - peer->heard < dog.hang_ms) continue;
            char how[64];
            snprintf(how, sizeof how, "has not been heard of for %lld s", (long long)(dog.hang_ms / 1000));
            lost(i, how);
        }
        if (time - beaten < beat_ms) continue;
        say_all(BEAT);
        beaten = time;
    }
}

/* ---- starting ---- */

static int64_t hang_seconds(void) {
    const char *text = environment("VAECF_HANG_SECONDS");
    char *end;
    if (!text) return HANG_SECONDS;
    long seconds = strtol(text, &end, 10);
    if (!*end && seconds >= 0 && seconds <= 1000000) return seconds;
    fprintf(
        stderr,
        "vaecf: warning: VAECF_HANG_SECONDS=%s: want a number of seconds, 0 for not watching; %d is taken\n",
        text, HANG_SECONDS);
    return HANG_SECONDS;
}

/* All or nobody: 1 if every rank says so. */
static int all_fine(const struct comm *comm, int failed) {
    int64_t failures = failed != 0;
    comm_sum_int(comm, &failures, 1);
    return failures == 0;
}

/* Collective: 0 if every rank is connected to rank 0. */
static int connect_all(const struct comm *comm) {
    int *socket = malloc((size_t)dog.n_peers * sizeof *socket);
    int failed = !all_fine(comm, !socket) || star_connect(comm, socket);
    for (int i = 0; i < dog.n_peers && !failed; i++) dog.peer[i].socket = socket[i];
    free(socket);
    return failed;
}

static int start_thread(void) {
    sigset_t all, old;
    for (int i = 0; i < dog.n_peers; i++) dog.peer[i].heard = now_ms();
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int failed = pthread_create(&dog.thread, NULL, watch, NULL);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    dog.is_running = !failed;
    return failed ? -1 : 0;
}

static void exchange_names(const struct comm *comm) {
    struct name own = {.process = getpid()};
    int length;
    MPI_Get_processor_name(own.machine, &length);
    MPI_Allgather(&own, sizeof own, MPI_BYTE, dog.name, sizeof own, MPI_BYTE, comm->mpi);
}

void watchdog_start(const struct comm *comm) {
    int64_t seconds = comm->rank == 0 ? hang_seconds() : 0;
    if (comm->size == 1) return;
    comm_broadcast(comm, &seconds, sizeof seconds);
    if (!seconds) return;
    dog.rank = comm->rank;
    dog.size = comm->size;
    dog.n_peers = comm->rank == 0 ? comm->size : 1;
    dog.hang_ms = seconds * 1000;
    dog.stop[0] = dog.stop[1] = -1;
    dog.name = calloc((size_t)comm->size, sizeof *dog.name);
    dog.peer = calloc((size_t)dog.n_peers, sizeof *dog.peer);
    dog.poll = calloc((size_t)dog.n_peers + 1, sizeof *dog.poll);
    for (int i = 0; i < dog.n_peers && dog.peer; i++) dog.peer[i].socket = -1;
    int failed = !dog.name || !dog.peer || !dog.poll || pipe(dog.stop);
    if (all_fine(comm, failed)) {
        exchange_names(comm);
        failed = connect_all(comm) || start_thread();
    }
    if (all_fine(comm, failed)) return;
    if (comm->rank == 0) {
        fputs("vaecf: warning: the ranks cannot reach rank 0 by TCP: if one hangs, nothing will notice\n",
              stderr);
    }
    watchdog_stop();
}

void watchdog_stop(void) {
    if (dog.is_running) {
        close(dog.stop[1]); /* wakes the thread */
        dog.stop[1] = -1;
        pthread_join(dog.thread, NULL);
    }
    for (int i = 0; i < dog.n_peers && dog.peer; i++) {
        say(&dog.peer[i], LEAVE); /* also where the thread could not be started: this rank has not died */
        if (dog.peer[i].socket >= 0) close(dog.peer[i].socket);
    }
    for (int i = 0; i < 2 && dog.size; i++) {
        if (dog.stop[i] >= 0) close(dog.stop[i]);
    }
    free(dog.name);
    free(dog.peer);
    free(dog.poll);
    memset(&dog, 0, sizeof dog);
}

void watchdog_ends_job(void) {
    if (dog.is_running) say_all(JOB_ENDS);
}
