/* A star of TCP connections: one of each rank to rank 0, apart from MPI.
 *
 * Rank 0 listens only while the ranks connect, and only where they are: at 127.0.0.1 if all are on one
 * machine, else at one address of a network that the machines share. Strangers that connect meanwhile are
 * dropped. */
#ifndef VAECF_STAR_H
#define VAECF_STAR_H

#include <netinet/in.h>

#include "comm.h"

enum { STAR_ADDRESSES_MAX = 16 /* of a machine; further ones are not looked at */ };

/* Collective. Rank 0 gets the others' connections in sockets[size] (its own: -1), the others theirs to rank 0
 * in sockets[0]; the caller closes them. Returns 0, or -1 in every rank, with no connection, if not all come
 * through to rank 0. That may take 5 s for each address of rank 0, or a minute if rank 0 is stopped
 * meanwhile. Signals do not disturb it. */
int star_connect(const struct comm *comm, int *sockets);

/* What a rank knows of its machine. */
struct star_place {
    char machine[MPI_MAX_PROCESSOR_NAME];
    int n_addresses;
    struct {
        struct in_addr address, mask;
    } at[STAR_ADDRESSES_MAX];
};

/* Where rank 0, which is at place[0], is to listen for the ranks at place[n]: what to try, the most likely
 * first. Returns the number of candidates. Not collective. */
int star_candidates(const struct star_place *place, int n, struct in_addr candidate[STAR_ADDRESSES_MAX]);

#endif
