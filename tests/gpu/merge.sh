#!/bin/bash
# Takes the results of runs of tests/gpu/run.sh over, and writes README.md from all that are there.
#
#   tests/gpu/merge.sh FOLDER...     into results/gpu (TO=folder)
#
# A stage's rows replace those of the same stage, commit and GPU; others stay. A stage that has rows and no end was
# killed: "unfinished".
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tests/gpu/tables.sh
. tests/gpu/tables.sh
to=${TO:-results/gpu}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tables=(machine stages checks kernels steps train latency)

if [ $# = 0 ]; then echo "usage: tests/gpu/merge.sh FOLDER..." >&2 && exit 64; fi
for folder; do
    [ -s "$folder/stages.csv" ] || { echo "error: $folder: has no stages.csv" >&2 && exit 66; }
done
mkdir -p "$to"
for folder; do
    for table in "${tables[@]}"; do
        : >"$work/$table"
        if [ -e "$folder/$table.csv" ]; then whole "$table" "$folder/$table.csv" >"$work/$table"; fi
    done
    awk -F, 'NR == FNR { ended[$1, $2, $4] = 1; next } !(($1, $2, $4) in ended) && !seen[$1, $2, $4]++ {
        print $1 "," $2 "," $3 "," $4 ",unfinished,," }' "$work/stages" "${tables[@]/#/$work/}" >"$work/unfinished"
    cat "$work/unfinished" >>"$work/stages"
    for table in "${tables[@]}"; do
        {
            echo "gpu,commit,date,stage,${head[$table]}"
            if [ -e "$to/$table.csv" ]; then
                whole "$table" "$to/$table.csv" | awk -F, 'NR == FNR { new[$1, $2, $4] = 1; next } !(($1, $2, $4) in new)' "$work/stages" -
            fi
            cat "$work/$table"
        } >"$work/merged"
        mv "$work/merged" "$to/$table.csv"
    done
    echo "taken over: $folder: $(cut -d, -f4,5 "$work/stages" | tr ',' ' ' | paste -sd, | sed 's/,/, /g')"
done

# rows TABLE FIELDS TITLE: of $run (GPU,commit), as Markdown with these fields, none if there are none
rows() {
    awk -F, -v run="$run" -v fields="$2" -v title="$3" '
        BEGIN { n = split(fields, field, " ") }
        NR == 1 { for (i = 1; i <= n; i++) { top = top "| " $field[i] " "; line = line "|---" } next }
        $1 "," $2 != run { next }
        !begun++ { if (title != "") print "\n" title; print "\n" top "|\n" line "|" }
        { for (i = 1; i <= n; i++) printf "| %s ", $field[i]; print "|" }' "$to/$1.csv"
}
{
    echo "# Runs on GPUs"
    echo
    echo "Written by \`tests/gpu/merge.sh\` from the tables beside it; [STATUS.md](STATUS.md) says how to make one, [PREDICTIONS.md](PREDICTIONS.md)"
    echo "what was expected."
    while IFS= read -r run; do
        echo
        echo "## ${run%,*}, commit ${run#*,}"
        rows machine "3 5 8 9 10 12 13" ""
        rows stages "4 5 6 7" "Stages (seconds; why):"
        rows checks "4 5 6 7 8" "Checks: the value is to be at most the limit."
        rows kernels "5 6 7 8 9 10 11 12" "Kernels of a training step, each alone with a cold cache:"
        rows steps "5 6 7 8 9 12 10 11" "Steps alone; the ratio is to the default of the same stage and batch:"
        rows train "5 6 7 8 9 10 11 12 13" "Training:"
        rows latency "7 8 9 10 11 12 13 14" "Recommending:"
    done < <(tail -n +2 "$to/stages.csv" | tac | cut -d, -f1,2 | awk '!seen[$0]++')
} >"$work/README.md"
mv "$work/README.md" "$to/README.md"
echo "written: $to/README.md"
