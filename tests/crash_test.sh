#!/bin/bash
# The short form of `make test-crash`.
export KILLS=${KILLS:-4}
exec bash tests/crash.sh
