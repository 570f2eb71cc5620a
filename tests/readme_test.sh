#!/bin/bash
# The README, or what it links for the options of input files, has every option of every program, and every key
# of the configuration.
set -u
bin=${BIN:-bin}
failed=0
for program in preprocess synthesize train evaluate recommend sweep collect export; do
    options=$("$bin/vaecf-$program" --help | grep -oE -- '--[a-z][a-z-]+' | sort -u)
    if [ -z "$options" ]; then echo "not ok - vaecf-$program --help lists no options" && failed=1; fi
    for option in $options; do
        text=$(sed -n "/^## vaecf-$program/,/^## /p" README.md)
        if [[ $text == *docs/inputs.md* ]]; then text+=$(sed -n '/^## Options/,/^## /p' docs/inputs.md); fi
        if ! grep -qE -- "$option([^a-z-]|\$)" <<<"$text"; then
            echo "not ok - README.md: vaecf-$program has the option $option"
            failed=1
        fi
    done
done
# shellcheck disable=SC2013  # keys are words
for key in $(awk '
    /^[^ #]/ { top = $1; sub(/:.*/, "", top); section = "" ; if ($1 !~ /:$/ || NF > 1) print top }
    /^  [^ #]/ { section = $1; sub(/:.*/, "", section); if (NF > 1) print top "." section }
    /^    [^ #]/ { key = $1; sub(/:.*/, "", key); print top "." section "." key }' jobs/configs/[!s]*.yaml | sort -u); do
    if ! grep -qF "\`$key\`" README.md; then
        echo "not ok - README.md: the key $key"
        failed=1
    fi
done
if [ "$failed" = 0 ]; then echo "ok - README.md has all options and keys"; fi
exit "$failed"
