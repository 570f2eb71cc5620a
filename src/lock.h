/* One writer for a directory: of a run, or of a data set.
 *
 * The lock is a file DIR/lock-N, made so that only one can make it, which works on NFS and Lustre too. It
 * names host, process and job, and is touched by the clock. A lock whose writer is dead is taken over by
 * making lock-N+1, again so that only one can: on the same machine, the process is not there any more; of the
 * same job, it is of an earlier start: a batch system starts a job again only when its end is sure;
 *   otherwise, the file has not been touched for a minute, nor while we watched. */
#ifndef VAECF_LOCK_H
#define VAECF_LOCK_H

struct lock;

/* Takes the lock of a directory that is there. note gets a line if that of a dead writer is taken over.
 * EX_CANTCREAT, with nothing changed, if another one writes there; EX_CANTCREAT, EX_IOERR if no file can be
 * made. Owned by the caller: lock_release. */
int lock_take(const char *dir, void (*note)(const char *line), struct lock **lock);

/* Is it still ours? EX_CANTCREAT if another writer took it over, which can happen to a process that was
 * stopped for minutes. To be called before anything is replaced. NULL is fine. */
int lock_check(const struct lock *lock);

/* NULL is fine. */
void lock_release(struct lock *lock);

#endif
