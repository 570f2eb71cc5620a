/* Heartbeats between rank 0 and the others; see watchdog.h.
 *
 * Rank 0 listens; the others connect and say who they are, by a number that only the ranks know. From then on
 * both sides send a byte several times in the time after which silence is death. */
#include "watchdog.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "error.h"

enum {
    HANG_SECONDS = 40,
    ADDRESSES_MAX = 16,
    CONNECT_MS = 3000,
    GREET_MS = 10000,
    BEAT_MS_MAX = 5000,
    BEAT_MS_MIN = 50,
};

/* What is said on a connection, after the greetings: one byte each. */
enum { BEAT = 'b', LEAVE = 'l', JOB_ENDS = 'e' };

/* A rank by name, for people. */
struct name {
    char machine[MPI_MAX_PROCESSOR_NAME];
    int64_t process;
};

/* Where rank 0 listens; what it tells all by MPI. */
struct invitation {
    uint64_t secret;
    struct sockaddr_in address[ADDRESSES_MAX];
    int n_addresses;
};

struct greeting {
    uint64_t secret;
    int64_t rank;
};

struct peer {
    int socket; /* -1: not there yet, or left */
    int has_left;
    int64_t heard; /* when, in ms */
};

static struct {
    int is_running, rank, listener, stop[2] /* a pipe that wakes the thread */;
    int64_t hang_ms;
    struct invitation invitation;
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

static void set_timeout(int socket, int option, int64_t ms) {
    struct timeval t = {ms / 1000, ms % 1000 * 1000};
    setsockopt(socket, SOL_SOCKET, option, &t, sizeof t);
}

/* Lets a rank in that knows the secret, and shows that we know it too. */
static void let_in(int64_t time) {
    struct greeting greeting;
    int socket = accept(dog.listener, NULL, NULL);
    if (socket < 0) return;
    set_timeout(socket, SO_RCVTIMEO, CONNECT_MS);
    if (recv(socket, &greeting, sizeof greeting, MSG_WAITALL) != sizeof greeting ||
        greeting.secret != dog.invitation.secret || greeting.rank < 1 || greeting.rank >= dog.size ||
        dog.peer[greeting.rank].socket >= 0 || dog.peer[greeting.rank].has_left) {
        close(socket);
        return;
    }
    dog.peer[greeting.rank].socket = socket;
    dog.peer[greeting.rank].heard = time;
    greeting.rank = 0;
    send(socket, &greeting, sizeof greeting, MSG_DONTWAIT | MSG_NOSIGNAL);
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
        dog.poll[dog.n_peers] = (struct pollfd){.fd = dog.listener, .events = POLLIN};
        dog.poll[dog.n_peers + 1] = (struct pollfd){.fd = dog.stop[0], .events = POLLIN};
        poll(dog.poll, (nfds_t)dog.n_peers + 2, (int)beat_ms);
        int64_t time = now_ms();
        if (dog.poll[dog.n_peers + 1].revents) {
            say_all(LEAVE);
            return NULL;
        }
        /* were we stopped ourselves? then nothing is known about the others */
        if (time - before > dog.hang_ms / 2) {
            for (int i = 0; i < dog.n_peers; i++) dog.peer[i].heard = time;
        }
        before = time;
        if (dog.poll[dog.n_peers].revents) let_in(time);
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
    const char *text = getenv("VAECF_HANG_SECONDS");
    char *end;
    if (!text || !*text) return HANG_SECONDS;
    long seconds = strtol(text, &end, 10);
    if (!*end && seconds >= 0 && seconds <= 1000000) return seconds;
    fprintf(
        stderr,
        "vaecf: warning: VAECF_HANG_SECONDS=%s: want a number of seconds, 0 for not watching; %d is taken\n",
        text, HANG_SECONDS);
    return HANG_SECONDS;
}

/* This machine's addresses, the one for programs on the same machine first. */
static void find_addresses(in_port_t port, struct invitation *invitation) {
    struct ifaddrs *all, *one;
    struct sockaddr_in local = {
        .sin_family = AF_INET, .sin_port = port, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    invitation->address[invitation->n_addresses++] = local;
    if (getifaddrs(&all)) return;
    for (one = all; one && invitation->n_addresses < ADDRESSES_MAX; one = one->ifa_next) {
        if (!one->ifa_addr || one->ifa_addr->sa_family != AF_INET || !(one->ifa_flags & IFF_UP) ||
            (one->ifa_flags & IFF_LOOPBACK)) {
            continue;
        }
        struct sockaddr_in *address = &invitation->address[invitation->n_addresses++];
        memcpy(address, one->ifa_addr, sizeof *address);
        address->sin_port = port;
    }
    freeifaddrs(all);
}

/* Rank 0: 0 if it listens. */
static int invite(struct invitation *invitation) {
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_ANY)};
    socklen_t size = sizeof any;
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) { /* a connection for each rank */
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    dog.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (dog.listener < 0 || bind(dog.listener, (struct sockaddr *)&any, size) ||
        listen(dog.listener, SOMAXCONN) || getsockname(dog.listener, (struct sockaddr *)&any, &size) ||
        getrandom(&invitation->secret, sizeof invitation->secret, 0) != sizeof invitation->secret) {
        return -1;
    }
    find_addresses(any.sin_port, invitation);
    return 0;
}

/* Connects to one address and greets; the socket, or -1. */
static int try_address(const struct sockaddr_in *address) {
    struct greeting greeting = {dog.invitation.secret, dog.rank}, answer;
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s < 0) return -1;
    set_timeout(s, SO_SNDTIMEO, CONNECT_MS); /* also connect's */
    set_timeout(s, SO_RCVTIMEO, GREET_MS);
    if (connect(s, (const struct sockaddr *)address, sizeof *address) ||
        send(s, &greeting, sizeof greeting, MSG_NOSIGNAL) != sizeof greeting ||
        recv(s, &answer, sizeof answer, MSG_WAITALL) != sizeof answer || answer.secret != greeting.secret) {
        close(s);
        return -1;
    }
    return s;
}

/* Ranks above 0: 0 if there is a connection to rank 0. */
static int accept_invitation(const struct invitation *invitation) {
    int is_near = strcmp(dog.name[0].machine, dog.name[dog.rank].machine) == 0;
    for (int i = is_near ? 0 : 1; i < invitation->n_addresses; i++) {
        dog.peer[0].socket = try_address(&invitation->address[i]);
        if (dog.peer[0].socket >= 0) return 0;
    }
    return -1;
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

/* All or nobody: 1 if every rank says so. */
static int all_fine(const struct comm *comm, int failed) {
    int64_t failures = failed != 0;
    comm_sum_int(comm, &failures, 1);
    return failures == 0;
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
    dog.listener = dog.stop[0] = dog.stop[1] = -1;
    dog.name = calloc((size_t)comm->size, sizeof *dog.name);
    dog.peer = calloc((size_t)dog.n_peers, sizeof *dog.peer);
    dog.poll = calloc((size_t)dog.n_peers + 2, sizeof *dog.poll);
    for (int i = 0; i < dog.n_peers && dog.peer; i++) dog.peer[i].socket = -1;
    int failed = !dog.name || !dog.peer || !dog.poll || pipe(dog.stop);
    if (all_fine(comm, failed)) {
        exchange_names(comm);
        if (comm->rank == 0) failed = invite(&dog.invitation) || start_thread();
        comm_broadcast(comm, &dog.invitation, sizeof dog.invitation);
        if (comm->rank != 0) failed = accept_invitation(&dog.invitation) || start_thread();
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
        if (dog.peer[i].socket >= 0) close(dog.peer[i].socket);
    }
    for (int i = 0; i < 2 && dog.size; i++) {
        if (dog.stop[i] >= 0) close(dog.stop[i]);
    }
    if (dog.size && dog.listener >= 0) close(dog.listener);
    free(dog.name);
    free(dog.peer);
    free(dog.poll);
    memset(&dog, 0, sizeof dog);
}

void watchdog_ends_job(void) {
    if (dog.is_running) say_all(JOB_ENDS);
}
