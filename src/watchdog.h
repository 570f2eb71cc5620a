/* Watches that all ranks of a job are alive: a rank that died or hangs ends the job instead of leaving the
 * others waiting for it.
 *
 * A thread of each rank exchanges a byte now and then with rank 0, over TCP and apart from MPI. The thread
 * answers while its rank computes, reads or waits, however long, but not when the process was killed or
 * stopped or the machine is gone. Who has not been heard of for VAECF_HANG_SECONDS (environment of rank 0; 40
 * by default, 0: do not watch), or whose connection broke, is told of in one line that names the rank and its
 * machine, and the job ends with EX_OSERR. Ranks that were all stopped together, as a batch system does to
 * suspend a job, go on watching afterwards. */
#ifndef VAECF_WATCHDOG_H
#define VAECF_WATCHDOG_H

#include "comm.h"

/* Collective. Does nothing for one rank. Connects the ranks (star.h), which leaves no port open; where a rank
 * cannot reach rank 0 by TCP, rank 0 prints a warning and nobody is watched. Watching begins when all are
 * connected: a rank that is late here is waited for, as MPI waits. */
void watchdog_start(const struct comm *comm);

/* Not collective: this rank leaves in an orderly way, after its last collective operation. */
void watchdog_stop(void);

/* This rank is about to end the job and has told why: the others need not. */
void watchdog_ends_job(void);

#endif
