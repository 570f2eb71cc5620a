#!/bin/bash
# The sources are clang-formatted and the scripts are clean to shellcheck: make lint.
for tool in clang-format shellcheck; do
    command -v $tool >/dev/null || { echo "skipped: no $tool" && exit 77; }
done
if make --no-print-directory lint; then echo "ok - make lint"; else echo "not ok - make lint" && exit 1; fi
