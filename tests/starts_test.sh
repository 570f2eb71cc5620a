#!/bin/bash
# The short form of `make test-starts`.
export ROUNDS=${ROUNDS:-5}
exec bash tests/starts.sh
