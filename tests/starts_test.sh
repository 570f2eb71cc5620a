#!/bin/bash
# The short form of `make test-starts`.
export ROUNDS=${ROUNDS:-6}
exec bash tests/starts.sh
