#!/bin/bash
# A small run of all four programs under valgrind: no invalid access, nothing leaked by vaecf itself.
# tests/valgrind.supp leaves out what the libraries keep at exit.
set -eu
bin=${BIN:-bin}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export OMP_NUM_THREADS=2
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi
valgrind=(valgrind -q --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite
    --num-callers=30 --suppressions="tests/valgrind.supp")
supp=/usr/share/openmpi/openmpi-valgrind.supp
if [ -r "$supp" ]; then valgrind+=(--suppressions="$supp"); fi

awk 'BEGIN { print "user,item"; for (u = 0; u < 90; u++) for (i = 0; i < 12; i++) print u "," (u * 7 + i * i) % 40 }' >"$tmp/in.csv"
"${valgrind[@]}" "$bin/vaecf-preprocess" --input "$tmp/in.csv" --output "$tmp/data" --heldout-users 15 --shards 2
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [8], latent: 4}
train: {epochs: 2, batch_size: 20}
output: {path: $tmp/run}
E
"${valgrind[@]}" "$bin/vaecf-train" --config "$tmp/run.yaml"
"${valgrind[@]}" "$bin/vaecf-evaluate" --checkpoint "$tmp/run/best.h5" --data "$tmp/data" --split test
"${valgrind[@]}" "$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" --input "$tmp/in.csv" --top-k 3 --output "$tmp/out.csv"
echo "valgrind: clean"
