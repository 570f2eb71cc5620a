/* A run directory: one writer at a time, and files that belong together.
 *
 *   checkpoints/step-*.h5, best.h5, metrics.csv, test.csv   are of one run and one branch of it
 *   exit-code            of the job scripts, with test.csv: there only as long as the run has ended so
 *   abandoned-N/         what a resume from an older checkpoint left behind: its later checkpoints, its
 *                        best.h5 and test.csv, and a copy of its metrics.csv
 *   lock-N               while somebody writes (lock.h)
 *
 * Rank 0's business. */
#ifndef VAECF_RUN_DIRECTORY_H
#define VAECF_RUN_DIRECTORY_H

#include "checkpoint.h"
#include "lock.h"
#include "trainer.h"

struct run_directory {
    const char *path; /* the caller's */
    struct lock *lock;
    int is_new, has_new_checkpoints; /* made by us: removed again if nothing comes of the run */
};

/* Makes it and takes its lock. EX_CANTCREAT if another process writes there: then nothing has changed. */
int run_directory_open(const char *path, void (*note)(const char *line), struct run_directory *run);

/* The checkpoint to go on from, into path[size]: "" for none. given: that of TRAINER_RESUME_FROM. The errors
 * of checkpoint_newest; EX_CANTCREAT if there is a run already and the start is a fresh one. */
int run_directory_choose(const struct run_directory *run, enum trainer_start start, const char *given,
                         void (*warn)(const char *line), char *path, int size);

/* After all checks: brings the directory to where the start begins, at `state` of the checkpoint, "" for
 * none. Other checkpoints than those that led there are marked as damaged, set aside or, to overwrite,
 * removed. EX_IOERR, EX_CANTCREAT. */
int run_directory_settle(const struct run_directory *run, enum trainer_start start, const char *checkpoint,
                         const struct train_state *state, void (*note)(const char *line));

/* Is best.h5 the best model of a run in this state? *is_best: 1 it is; 0 it is of another point, or missing.
 * EX_DATAERR if it is damaged, EX_IOERR. */
int run_directory_check_best(const struct run_directory *run, const struct train_state *state, int *is_best);

/* Is there a test.csv, not older than best.h5? */
int run_directory_is_tested(const struct run_directory *run);

/* The run goes on: what only its end may say is removed. EX_IOERR. */
int run_directory_go_on(const struct run_directory *run);

/* Gives the lock back; if the run has `failed` and wrote nothing, what was made goes. */
void run_directory_close(struct run_directory *run, int failed);

#endif
