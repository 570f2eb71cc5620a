/* TCP connections of all ranks to rank 0; see star.h.
 *
 * Rank 0 tries one address after the other: it listens, tells all by MPI where, and answers those that know a
 * number which only the ranks know. Whether all got their answer they agree on by MPI. So a connection that
 * its rank gave up is never taken for a good one, and rank 0 needs no clock. */
#include "star.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    CONNECT_MS = 5000,
    ANSWER_MS = 60000, /* rank 0 may be stopped for a while */
    AGAIN_MS = 50,
    PENDING_MAX = 256,
    LOOK_MS = 1, /* between two looks at MPI */
};

/* Where rank 0 listens; port 0: nowhere. */
struct invitation {
    uint64_t secret;
    struct sockaddr_in address;
};

struct greeting {
    uint64_t secret;
    int64_t rank;
};

/* Connections of which rank 0 does not know yet whose they are, the oldest first. */
struct pending {
    int n;
    struct {
        int socket;
        size_t length; /* so much of the greeting is there */
        struct greeting greeting;
    } one[PENDING_MAX];
};

/* ---- where to listen ---- */

static int is_near(const struct star_place *a, const struct star_place *b) {
    return strcmp(a->machine, b->machine) == 0;
}

/* Is one of the place's addresses this one, or in the same network with it? */
static int has(const struct star_place *place, struct in_addr address, in_addr_t mask) {
    for (int i = 0; i < place->n_addresses; i++) {
        if (((place->at[i].address.s_addr ^ address.s_addr) & mask) == 0) return 1;
    }
    return 0;
}

/* 0: every other machine is in this address's network; 1: some are not; 2: some machine has the same address
 * for itself, as of a bridge for containers. */
static int distance(const struct star_place *place, int n, int address) {
    struct in_addr own = place->at[address].address;
    int far = 0;
    for (int i = 1; i < n; i++) {
        if (is_near(place, &place[i])) continue;
        if (has(&place[i], own, INADDR_NONE)) return 2;
        if (!has(&place[i], own, place->at[address].mask.s_addr)) far = 1;
    }
    return far;
}

int star_candidates(const struct star_place *place, int n, struct in_addr candidate[STAR_ADDRESSES_MAX]) {
    int i = 0, found = 0;
    while (i < n && is_near(place, &place[i])) i++;
    if (i == n) {
        candidate[0].s_addr = htonl(INADDR_LOOPBACK);
        return 1;
    }
    for (int d = 0; d <= 2; d++) {
        for (int a = 0; a < place->n_addresses; a++) {
            if (distance(place, n, a) == d) candidate[found++] = place->at[a].address;
        }
    }
    return found;
}

static void find_place(struct star_place *place) {
    struct ifaddrs *all, *one;
    int length;
    memset(place, 0, sizeof *place);
    MPI_Get_processor_name(place->machine, &length);
    if (getifaddrs(&all)) return;
    for (one = all; one && place->n_addresses < STAR_ADDRESSES_MAX; one = one->ifa_next) {
        if (!one->ifa_addr || one->ifa_addr->sa_family != AF_INET || !one->ifa_netmask ||
            !(one->ifa_flags & IFF_UP) || (one->ifa_flags & IFF_LOOPBACK)) {
            continue;
        }
        place->at[place->n_addresses].address = ((struct sockaddr_in *)one->ifa_addr)->sin_addr;
        place->at[place->n_addresses++].mask = ((struct sockaddr_in *)one->ifa_netmask)->sin_addr;
    }
    freeifaddrs(all);
}

/* Rank 0 gets the candidates and their number, the others 0. */
static int find_candidates(const struct comm *comm, struct in_addr *candidate) {
    struct star_place own, *all = comm->rank == 0 ? calloc((size_t)comm->size, sizeof *all) : NULL;
    int64_t failed = comm->rank == 0 && !all;
    int n = 0;
    comm_sum_int(comm, &failed, 1);
    if (failed) return 0;
    find_place(&own);
    MPI_Gather(&own, sizeof own, MPI_BYTE, all, sizeof own, MPI_BYTE, 0, comm->mpi);
    if (all) n = star_candidates(all, comm->size, candidate);
    free(all);
    return n;
}

/* ---- rank 0 ---- */

/* The listening socket, or -1. */
static int invite(struct in_addr where, struct invitation *invitation) {
    socklen_t size = sizeof invitation->address;
    struct sockaddr *address = (struct sockaddr *)&invitation->address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    invitation->address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr = where};
    if (listener < 0) return -1;
    if (!bind(listener, address, size) && !listen(listener, SOMAXCONN) &&
        !getsockname(listener, address, &size) &&
        getrandom(&invitation->secret, sizeof invitation->secret, 0) == sizeof invitation->secret) {
        return listener;
    }
    close(listener);
    return -1;
}

static void forget(struct pending *pending, int i) {
    pending->n--;
    memmove(&pending->one[i], &pending->one[i + 1], (size_t)(pending->n - i) * sizeof pending->one[0]);
}

static void drop(struct pending *pending, int i) {
    close(pending->one[i].socket);
    forget(pending, i);
}

/* Takes some of those who wait at the door: few enough that each is heard before later ones push it out. */
static void let_in(int *listener, struct pending *pending) {
    for (int i = 0; i < PENDING_MAX / 4; i++) {
        int socket = accept(*listener, NULL, NULL);
        if (socket < 0 && (errno == EAGAIN || errno == EINTR)) return;
        if (socket < 0 && errno == ECONNABORTED) continue;
        if (socket < 0 && pending->n == 0) { /* nor later: those who wait get to know */
            close(*listener);
            *listener = -1;
            return;
        }
        if (socket < 0 || pending->n == PENDING_MAX) drop(pending, 0);
        if (socket < 0) continue;
        pending->one[pending->n].length = 0;
        pending->one[pending->n++].socket = socket;
    }
}

/* Reads on; one of ours is answered and becomes that rank's connection. */
static void hear(const struct comm *comm, uint64_t secret, struct pending *pending, int i, int *sockets) {
    int socket = pending->one[i].socket;
    struct greeting *greeting = &pending->one[i].greeting;
    size_t *length = &pending->one[i].length;
    ssize_t n = recv(socket, (char *)greeting + *length, sizeof *greeting - *length, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n > 0) *length += (size_t)n;
    if (n > 0 && *length < sizeof *greeting) return;
    struct greeting answer = {secret, 0};
    int64_t rank = n > 0 && greeting->secret == secret ? greeting->rank : -1;
    if (rank < 1 || rank >= comm->size || sockets[rank] >= 0 ||
        send(socket, &answer, sizeof answer, MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof answer) {
        drop(pending, i);
        return;
    }
    sockets[rank] = socket;
    forget(pending, i);
}

/* Until the ranks have agreed, which each of them does when it is through or gave up. Closes the listener. */
static void receive(const struct comm *comm, int listener, uint64_t secret, MPI_Request *agreement,
                    int *sockets) {
    struct pending pending = {0};
    struct pollfd look[PENDING_MAX + 1];
    int is_over = 0;
    while (MPI_Test(agreement, &is_over, MPI_STATUS_IGNORE), !is_over) {
        int n = pending.n;
        for (int i = 0; i < n; i++) look[i] = (struct pollfd){pending.one[i].socket, POLLIN, 0};
        look[n] = (struct pollfd){listener, POLLIN, 0};
        if (poll(look, (nfds_t)n + 1, LOOK_MS) <= 0) continue;
        for (int i = n - 1; i >= 0; i--) { /* backwards: what is dropped moves the later ones */
            if (look[i].revents) hear(comm, secret, &pending, i, sockets);
        }
        if (look[n].revents) let_in(&listener, &pending);
    }
    while (pending.n) drop(&pending, pending.n - 1);
    if (listener >= 0) close(listener);
}

/* ---- the other ranks ---- */

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* 0 when the socket is ready for it, -1 when the time is over. */
static int wait_until(int64_t end, int socket, short what) {
    struct pollfd look = {socket, what, 0};
    int64_t left;
    while ((left = end - now_ms()) > 0) {
        int n = poll(&look, 1, (int)left);
        if (n > 0) return 0;
        if (n < 0 && errno != EINTR) return -1;
    }
    return -1;
}

/* The socket, or -1. */
static int reach(const struct sockaddr_in *address) {
    int error = 0, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t size = sizeof error;
    if (s < 0) return -1;
    if (connect(s, (const struct sockaddr *)address, sizeof *address) && errno != EINPROGRESS) error = errno;
    if (!error && !wait_until(now_ms() + CONNECT_MS, s, POLLOUT) &&
        !getsockopt(s, SOL_SOCKET, SO_ERROR, &error, &size) && !error) {
        return s;
    }
    close(s);
    return -1;
}

/* Greets and waits for the answer: 1 if it came, 0 if the connection was closed before, -1 for anything else.
 */
static int greet(int socket, const struct comm *comm, uint64_t secret, int64_t end) {
    struct greeting greeting = {secret, comm->rank}, answer;
    size_t length = 0;
    if (send(socket, &greeting, sizeof greeting, MSG_NOSIGNAL) != sizeof greeting) return 0;
    while (length < sizeof answer) {
        if (wait_until(end, socket, POLLIN)) return -1;
        ssize_t n = recv(socket, (char *)&answer + length, sizeof answer - length, 0);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
        if (n <= 0) return 0;
        length += (size_t)n;
    }
    return answer.secret == secret && answer.rank == 0 ? 1 : -1;
}

/* The connection to rank 0, or -1. Where strangers throng, rank 0 may have closed it: then once more. */
static int visit(const struct comm *comm, const struct invitation *invitation) {
    int64_t end = now_ms() + ANSWER_MS;
    while (now_ms() < end) {
        int socket = reach(&invitation->address);
        if (socket < 0) return -1;
        int said = greet(socket, comm, invitation->secret, end);
        if (said == 1) return socket;
        close(socket);
        if (said < 0) return -1;
        poll(NULL, 0, AGAIN_MS);
    }
    return -1;
}

/* ---- all ---- */

static void close_all(int *sockets, int n) {
    for (int i = 0; i < n; i++) {
        if (sockets[i] >= 0) close(sockets[i]);
        sockets[i] = -1;
    }
}

/* A connection for each rank. */
static void raise_file_limit(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
}

int star_connect(const struct comm *comm, int *sockets) {
    struct in_addr candidate[STAR_ADDRESSES_MAX];
    int n = find_candidates(comm, candidate), n_sockets = comm->rank == 0 ? comm->size : 1;
    for (int i = 0; i < n_sockets; i++) sockets[i] = -1;
    if (comm->rank == 0) raise_file_limit();
    for (int i = 0;;) {
        struct invitation invitation = {0};
        MPI_Request agreement;
        int listener = -1, failed, failures = 0;
        while (listener < 0 && i < n) listener = invite(candidate[i++], &invitation);
        if (listener < 0) invitation.address.sin_port = 0;
        comm_broadcast(comm, &invitation, sizeof invitation);
        if (!invitation.address.sin_port) return -1;
        if (comm->rank != 0) sockets[0] = visit(comm, &invitation);
        failed = comm->rank != 0 && sockets[0] < 0;
        MPI_Iallreduce(&failed, &failures, 1, MPI_INT, MPI_SUM, comm->mpi, &agreement);
        if (comm->rank == 0) {
            receive(comm, listener, invitation.secret, &agreement, sockets);
        } else {
            MPI_Wait(&agreement, MPI_STATUS_IGNORE);
        }
        if (!failures) return 0;
        close_all(sockets, n_sockets);
    }
}
