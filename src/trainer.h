/* A training run from a data set to best.h5 and test.csv. */
#ifndef VAECF_TRAINER_H
#define VAECF_TRAINER_H

#include "comm.h"
#include "config.h"

enum trainer_start {
    TRAINER_FRESH,       /* error if the run directory has checkpoints */
    TRAINER_OVERWRITE,   /* they are removed */
    TRAINER_RESUME,      /* from the newest whole one; from the beginning if there is none */
    TRAINER_RESUME_FROM, /* from the one that is given */
};

/* Collective: trains as the configuration says. Returns on every rank the same: 0, EX_STOPPED after a signal
 * to any of them (see signals.h) and a checkpoint, or the code of what went wrong, with the message of the
 * rank where it did. */
int trainer_run(const struct config *config, enum trainer_start start, const char *checkpoint,
                const struct comm *comm);

#endif
