#!/bin/bash
# A few of the fault loops (tests/faults/loop.sh; all of them: make test-faults): the 1st, 2nd, 4th, 8th, ... call of each kind.
# plain build alone: the library that lets calls fail does not go together with ASan
FIRST=1 SPARSE=1 LIMIT=30 tests/faults/loop.sh
