#!/bin/bash
# The whole line on one machine: ratings to a trained model, a table of metrics and recommendations to look at.
#
#   jobs/demo.sh INPUT        make demo INPUT=...: any file that vaecf-preprocess reads (docs/inputs.md); all it
#                             writes is in demo/NAME/
#
# Settings: PREPROCESS="--min-rating 4" more options for vaecf-preprocess, EPOCHS=50, RANKS=2.
set -euo pipefail
caller=$PWD
cd "$(dirname "$0")/.."

embedded=preprocess/debian-build-depends.csv.gz
input=${1:-$embedded}
[ -e "$input" ] || input=$caller/$input
if ! [ -r "$input" ] || [ -d "$input" ]; then
    echo "error: INPUT=${1:-}: no such file; want one with users and items, such as ratings.csv (docs/inputs.md)" >&2
    exit 66
fi
name=$(basename "$input" | sed -E 's/\.(gz|zst|xz|bz2)$//; s/\.(csv|tsv|dat|txt|data|json|jsonl|inter)$//; s/[^A-Za-z0-9._-]/-/g; s/^\.+//')
dir=demo/${name:-input}

say() { printf '\n== %s\n' "$*"; }
trap 'echo; echo "stopped; make demo begins anew"; exit 130' INT

cores=$(nproc)
ranks=${RANKS:-$((cores < 4 ? cores : 4))}
export OMP_NUM_THREADS=$((cores > ranks ? cores / ranks : 1))
mpi=(mpirun -n "$ranks" --oversubscribe --bind-to none)
mpirun --version 2>&1 | grep -qiE 'open mpi|open-mpi' || mpi=(mpirun -n "$ranks")
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
export OMPI_MCA_btl_vader_single_copy_mechanism=none # containers forbid it and it warns

start=$SECONDS
say "1. $input -> $dir/data"
rm -rf "$dir"
mkdir -p "$dir"
options=()
if [ "$input" = "$embedded" ]; then options=(--header yes --min-item-users 3 --heldout-users 1000); fi
# shellcheck disable=SC2206  # words
options+=(${PREPROCESS:-})
bin/vaecf-preprocess --input "$input" --output "$dir/data" --shards "$ranks" "${options[@]+"${options[@]}"}" |
    tee "$dir/preprocess.log"

# A small file gets small batches, so that an epoch has steps; and as many epochs as about two minutes allow.
read -r users items < <(sed -nE 's/^training: ([0-9]+) users.*/\1/p; s/^kept: .* ([0-9]+) items.*/\1/p' "$dir/preprocess.log" |
    tac | paste -sd ' ')
batch=$((users / 20 < 500 ? users / 20 : 500))
batch=$((batch < 10 ? 10 : batch))
epochs=${EPOCHS:-$((cores * 8000000000 / (users * items + 1)))}
if [ -z "${EPOCHS:-}" ]; then epochs=$((epochs > 60 ? 60 : epochs < 5 ? 5 : epochs)); fi
settings=(--set data.path="$dir/data" --set output.path="$dir/run" --set train.batch_size="$batch"
    --set train.epochs="$epochs" --set train.kl.anneal_steps=$(((users / batch + 1) * epochs / 2)))
if ! grep -qE '^validation: .* [1-9][0-9]* as target' "$dir/preprocess.log"; then
    echo "error: $input: no user could be held out to validate with (they need 5 items or more)" >&2
    exit 65
fi

say "2. training: $ranks ranks of $OMP_NUM_THREADS threads, at most $epochs epochs"
"${mpi[@]}" bin/vaecf-train --config jobs/configs/demo.yaml "${settings[@]}"

say "3. how good it is: users it has not seen, a fifth of their items hidden"
"${mpi[@]}" bin/vaecf-evaluate --checkpoint "$dir/run/best.h5" --data "$dir/data" --split test --output "$dir/run/test.csv"
awk -F, '
    NR > 1 { value[$3] = $4; error[$3] = $5; users = $2 }
    END {
        printf "  %-12s %8s   standard error, over %d users\n", "metric", "value", users
        n = split("recall@20 recall@50 ndcg@100 hitrate@10 map@10 mrr coverage@20", name, " ")
        for (i = 1; i <= n; i++) printf "  %-12s %8.4f   %.4f\n", name[i], value[name[i]], error[name[i]]
        print "  all of them: '"$dir"'/run/test.csv"
    }' "$dir/run/test.csv"

say "4. what it recommends"
if [ "$input" = "$embedded" ]; then
    # source packages as they are, and two that do not exist
    gzip -dc "$input" | grep -E '^(source_package|curl|nginx|postgresql-15|vim|htop),' >"$dir/history.csv"
    cat >>"$dir/history.csv" <<'E'
(a new GTK program in C),meson
(a new GTK program in C),libgtk-4-dev
(a new GTK program in C),gettext
(a new MPI code in Fortran),gfortran
(a new MPI code in Fortran),libopenmpi-dev
E
    from=(--input "$dir/history.csv" --header yes)
else
    from=(--users-from "$dir/data" --split test)
fi
recommend=(bin/vaecf-recommend --checkpoint "$dir/run/best.h5" "${from[@]}" --top-k 10)
"${recommend[@]}" --output "$dir/recommendations.csv"
# A paragraph for each of the first users. Ids in a CSV file may be quoted.
sed -E '1d; /^"/!s/,.*//; /^"/{s/^"(([^"]|"")*)".*/\1/; s/""/"/g}' "$dir/recommendations.csv" | uniq | sed -n 1,7p |
    while IFS= read -r user; do
        printf '\n%s\n' "$user"
        "${recommend[@]}" --explain "$user" | awk '
            # ids in lines of 110 characters, the later ones set in
            function add(word) {
                if (length(line) + length(word) > 108) { print line ","; line = "        " word }
                else line = line (n > 1 ? ", " : "") word
            }
            /^history: / { line = "  has   "; n = 0; most = 12; column = 14 }
            /^recommended: / { print line; line = "  next  "; n = 0; most = 10; column = 36 }
            /^ *[0-9]/ {
                if (++n <= most) add(substr($0, column))
                if (n == most + 1) add("...")
            }
            END { print line }'
    done

say "done in $((SECONDS - start)) s: $dir/run/metrics.csv has a row an epoch, $dir/run/best.h5 is the model"
