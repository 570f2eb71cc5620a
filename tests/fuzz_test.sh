#!/bin/bash
# The fuzz targets (`make fuzz`) on their seeds and on what fuzzing once found, in tests/fuzz/corpus; needs no clang.
set -u
failed=0
log=$(mktemp) || exit 71
trap 'rm -f "$log"' EXIT
for corpus in tests/fuzz/corpus/*/; do
    name=$(basename "$corpus")
    if "${BUILD:-build}/tests/fuzz/${name}_replay" "$corpus"* >"$log" 2>&1; then
        echo "ok - $name: $(grep -c ' bytes$' "$log") inputs"
    else
        echo "not ok - $name, the last input here:"
        tail -n 20 "$log"
        failed=1
    fi
done
exit $failed
