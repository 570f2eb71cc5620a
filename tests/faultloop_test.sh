#!/bin/bash
# A few of the fault loops (tests/faults/loop.sh; all of them: make test-faults): the first and the last call of each kind.
# plain build alone: the library that lets calls fail does not go together with ASan
FEW=2 LIMIT=30 tests/faults/loop.sh train train-grid-rank1 train-resume preprocess-force preprocess-parts evaluate \
    recommend-csv recommend-h5 export sweep collect synthesize
