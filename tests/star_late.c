/* Preloaded by tests/watchdog_test.sh into every rank: holds rank 0 up while it gathers the ranks, and has
 * them believe that they are on machines of their own, with addresses all in 127.0.0.0/8, which need no
 * network.
 *
 *   HOLD_LISTEN=FILE   rank 0 waits behind its listen() while the file is there
 *   HOLD_ACCEPT=FILE   or before its accept()s
 *   MACHINES=apart     a machine for each rank, with three addresses: one that rank 0 cannot listen at, one
 * that nobody reaches, and a good one MACHINES=alone     a machine for each rank, without addresses */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ADDRESSES = 3, HOLD_SECONDS = 120 };

static int is_asked; /* for the machine's name; then the next question for addresses is the star's */

static int rank(void) {
    const char *text = getenv("OMPI_COMM_WORLD_RANK");
    if (!text) text = getenv("PMI_RANK");
    return text ? atoi(text) : 0;
}

/* MPI's own sockets listen everywhere. */
static int is_ours(int socket) {
    struct sockaddr_in address;
    socklen_t size = sizeof address;
    return !getsockname(socket, (struct sockaddr *)&address, &size) && address.sin_family == AF_INET &&
           address.sin_addr.s_addr != htonl(INADDR_ANY);
}

static void hold(int socket, const char *variable) {
    const char *file = getenv(variable);
    if (!file || !is_ours(socket)) return;
    for (int i = 0; i < HOLD_SECONDS * 100 && access(file, F_OK) == 0; i++) usleep(10000);
}

int listen(int socket, int length) {
    int (*real)(int, int) = dlsym(RTLD_NEXT, "listen");
    int code = real(socket, length);
    hold(socket, "HOLD_LISTEN");
    return code;
}

int accept(int socket, struct sockaddr *address, socklen_t *size) {
    int (*real)(int, struct sockaddr *, socklen_t *) = dlsym(RTLD_NEXT, "accept");
    hold(socket, "HOLD_ACCEPT");
    return real(socket, address, size);
}

int connect(int socket, const struct sockaddr *address, socklen_t size) {
    int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "connect");
    const struct sockaddr_in *in = (const struct sockaddr_in *)address;
    if (in->sin_family == AF_INET && ntohl(in->sin_addr.s_addr) >> 16 == (127 << 8 | 50)) {
        errno = ENETUNREACH;
        return -1;
    }
    return real(socket, address, size);
}

int MPI_Get_processor_name(char *name, int *length) {
    if (!getenv("MACHINES")) {
        int (*real)(char *, int *) = dlsym(RTLD_NEXT, "MPI_Get_processor_name");
        return real(name, length);
    }
    is_asked = 1;
    *length = sprintf(name, "machine-%d", rank());
    return 0;
}

int getifaddrs(struct ifaddrs **list) {
    static char interface[] = "fake0";
    static struct sockaddr_in address[ADDRESSES], mask;
    const char *machines = getenv("MACHINES");
    if (!machines || !is_asked) {
        int (*real)(struct ifaddrs **) = dlsym(RTLD_NEXT, "getifaddrs");
        return real(list);
    }
    is_asked = 0;
    *list = NULL;
    if (strcmp(machines, "alone") == 0) return 0;
    struct ifaddrs *all = calloc(ADDRESSES, sizeof *all); /* one piece, as freeifaddrs wants it */
    const char *const network[ADDRESSES] = {"10.77.0.1", "127.50.0.1", "127.60.0.1"};
    mask = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(0xffff0000)};
    for (int i = 0; all && i < ADDRESSES; i++) {
        address[i] = (struct sockaddr_in){.sin_family = AF_INET};
        address[i].sin_addr.s_addr = htonl(ntohl(inet_addr(network[i])) + (unsigned)rank());
        all[i] = (struct ifaddrs){.ifa_next = i + 1 < ADDRESSES ? &all[i + 1] : NULL,
                                  .ifa_name = interface,
                                  .ifa_flags = IFF_UP,
                                  .ifa_addr = (struct sockaddr *)&address[i],
                                  .ifa_netmask = (struct sockaddr *)&mask};
    }
    *list = all;
    return all ? 0 : -1;
}
