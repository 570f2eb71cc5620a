#!/bin/bash
# What takes a GPU: `make gpu-check`. Runs the tests with device: cuda, compute-sanitizer on small runs, and compares
# GPU and CPU, precisions, repeats and ranks on MovieLens-1M. Writes results/gpu/checks.csv and results/gpu/README.md,
# and says what failed; exits 1 then, also where there is no GPU.
#
#   DATA=ratings.csv    another file of ratings (default: ../shared/data/ml-1m/interactions.csv, else the one that comes along)
#   EPOCHS=20  SEEDS="1 2 3"
set -u
cd "$(dirname "$0")/.." || exit 71
bin=${BIN:-bin}
build=${BUILD:-build}
epochs=${EPOCHS:-20}
read -r -a seeds <<<"${SEEDS:-1 2 3}"

stop() { echo "gpu-check: $1; nothing was checked" >&2 && exit 1; }
"$bin/vaecf-train" --version | grep -q ', CUDA [0-9]' || stop "vaecf is built without CUDA (see make found)"
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1) ||
    stop "there is no GPU on this machine (nvidia-smi finds none)"
[ -n "$gpu" ] || stop "there is no GPU on this machine (nvidia-smi finds none)"

tmp=$(mktemp -d) || exit 71
trap 'rm -rf "$tmp"' EXIT
out=results/gpu
mkdir -p $out
table=$out/checks.csv
echo "check,value,limit,result" >$table
failed=0
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

# row CHECK VALUE LIMIT: passes if the value is at most the limit
row() {
    local result=pass
    awk -v a="$2" -v b="$3" 'BEGIN { exit !(a + 0 == a && a <= b) }' || { result=FAIL && failed=1; }
    echo "$1,$2,$3,$result" | tee -a $table
}
# train RANKS NAME OPTION...
train() {
    local ranks=$1 name=$2 run=()
    shift 2
    if [ "$ranks" -gt 1 ]; then run=(mpirun --oversubscribe -n "$ranks"); fi
    "${run[@]}" "$bin/vaecf-train" --config jobs/configs/ml-1m.yaml --set data.path="$tmp/data" --set output.path="$tmp/$name" \
        --set train.epochs="$epochs" --set train.early_stopping.patience=0 "$@" >"$tmp/$name.log" 2>&1
    local status=$?
    if [ $status != 0 ]; then tail -n 3 "$tmp/$name.log"; fi
    return $status
}
# apart A B: the largest relative difference of the losses of an epoch
apart() {
    paste -d, <(cut -d, -f5,6 "$tmp/$1/metrics.csv") <(cut -d, -f5,6 "$tmp/$2/metrics.csv") | awk -F, '
        NR > 1 { for (i = 1; i <= 2; i++) { d = ($i - $(i + 2)) / $i; if (d < 0) d = -d; if (d > most) most = d } }
        END { if (NR < 2) print "none"; else print most + 0 }'
}
# lists DEVICE: user,rank,item of all test users, by the same model
lists() { "$bin/vaecf-recommend" --checkpoint "$tmp/fp32/best.h5" --users-from "$tmp/data" --split test --device "$1" 2>/dev/null | cut -d, -f1-3; }
untimed() { cut -d, -f1,2,5- "$tmp/$1/metrics.csv"; }
ndcg() { awk -F, '$3 == "ndcg@100" { print $4 }' "$tmp/$1/test.csv"; }
# ndcg_apart A B
ndcg_apart() { awk -v a="$(ndcg "$1")" -v b="$(ndcg "$2")" 'BEGIN { d = a - b; print a == "" || b == "" ? "none" : d < 0 ? -d : d }'; }

# ---- the tests, on the GPU ----
TEST_JOBS=1 VAECF_DEVICE=cuda VAECF_COMM=mpi BIN=$bin BUILD=$build tests/run.sh >"$tmp/suite" 2>&1
grep -aE '^  FAIL' "$tmp/suite"
row "tests that fail with VAECF_DEVICE=cuda" "$(sed -nE 's/.* passed, ([0-9]+) failed$/\1/p' "$tmp/suite" | tail -n 1)" 0
"$build/tests/cuda_backend_test" >"$tmp/functions" 2>&1
row "functions that differ between GPU and CPU" "$(grep -c '^\[  FAILED  \] test' "$tmp/functions")" 0
row "functions that were not compared" "$(grep -c '^\[  SKIPPED \]' "$tmp/functions")" 0

# ---- compute-sanitizer ----
data=${DATA:-../shared/data/ml-1m/interactions.csv}
options=(--min-rating 4 --heldout-users 600)
if [ ! -r "$data" ]; then data=preprocess/debian-build-depends.csv.gz options=(--min-item-users 5); fi
"$bin/vaecf-preprocess" --input "$data" "${options[@]}" --output "$tmp/data" >/dev/null || exit 1
for tool in memcheck racecheck; do
    if ! command -v compute-sanitizer >/dev/null; then
        row "compute-sanitizer $tool" "not installed" 0
        continue
    fi
    compute-sanitizer --tool $tool --error-exitcode 9 "$build/tests/cuda_backend_test" >"$tmp/$tool" 2>&1
    row "compute-sanitizer $tool: functions" $? 0
    compute-sanitizer --tool $tool --error-exitcode 9 "$bin/vaecf-train" --config jobs/configs/ml-1m.yaml \
        --set data.path="$tmp/data" --set output.path="$tmp/run-$tool" --set device=cuda --set train.epochs=1 \
        --set train.precision=fp16 >"$tmp/$tool" 2>&1
    row "compute-sanitizer $tool: an epoch in fp16" $? 0
done

# ---- GPU and CPU ----
train 1 cpu --set device=cpu
train 1 fp32 --set device=cuda
row "fp32: largest difference of a loss from the CPU over $epochs epochs" "$(apart cpu fp32)" 1e-4
train 1 repeat --set device=cuda
row "fp32 again: tables that differ" "$(cmp -s <(untimed fp32) <(untimed repeat) && cmp -s "$tmp/fp32/test.csv" "$tmp/repeat/test.csv"; echo $?)" 0
lists cpu >"$tmp/lists" # neighbours whose scores are equal but for rounding may change places
row "share of recommendations that differ between GPU and CPU" "$(lists cuda | paste -d' ' "$tmp/lists" - |
    awk '{ n++; differ += $1 != $2 } END { print (n > 1 ? differ / n : "none") }')" 1e-3
VAECF_GRAPHS=no train 1 issued --set device=cuda
row "fp32 without graphs: tables that differ" "$(cmp -s <(untimed fp32) <(untimed issued) && cmp -s "$tmp/fp32/test.csv" "$tmp/issued/test.csv"; echo $?)" 0
VAECF_KEEP=no train 1 loaded --set device=cuda
row "fp32 with batches from the host: largest difference of a loss" "$(apart fp32 loaded)" 1e-4
train 2 shared --set device=cuda --set comm=mpi
row "two ranks on a GPU over MPI: largest difference of a loss" "$(apart fp32 shared)" 1e-4
train 1 nccl --set device=cuda --set comm=nccl
row "one rank with NCCL: largest difference of a loss" "$(apart fp32 nccl)" 1e-6
if [ "$(nvidia-smi -L | wc -l)" -gt 1 ]; then
    train 2 nccl2 --set device=cuda --set comm=nccl
    row "two GPUs with NCCL: largest difference of a loss" "$(apart fp32 nccl2)" 1e-4
fi
for seed in "${seeds[@]}"; do
    train 1 "fp32-$seed" --set device=cuda --set train.seed="$seed"
    for precision in tf32 bf16 fp16; do
        train 1 "$precision-$seed" --set device=cuda --set train.seed="$seed" --set train.precision=$precision
        row "$precision, seed $seed: difference of test ndcg@100 from fp32" "$(ndcg_apart "fp32-$seed" "$precision-$seed")" 0.003
    done
done

{
    echo "# Checks on a GPU"
    echo
    echo "Command: \`make gpu-check\`. Data: $(basename "$(dirname "$data")")/$(basename "$data"). GPU, driver, memory: $gpu."
    echo "Program: $("$bin/vaecf-train" --version | paste -sd' '). Date: $(date -u +%F)."
    echo "Users per second in the last epoch: CPU $(tail -n 1 "$tmp/cpu/metrics.csv" | cut -d, -f4), fp32" \
        "$(tail -n 1 "$tmp/fp32/metrics.csv" | cut -d, -f4)."
    echo
    awk -F, 'NR == 1 { print "| " $1 " | " $2 " | " $3 " | " $4 " |"; print "|---|---|---|---|"; next }
        { n = NF; name = $1; for (i = 2; i <= n - 3; i++) name = name "," $i
          print "| " name " | " $(n - 2) " | " $(n - 1) " | " $n " |" }' $table
} >$out/README.md
if [ $failed = 0 ]; then echo "gpu-check: all pass; see $out/README.md"; else echo "gpu-check: something failed; see $out/README.md"; fi
exit $failed
