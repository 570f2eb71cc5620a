#!/bin/bash
# What takes a GPU, in stages: is it right, and how fast is it. Each stage has its own time limit and writes its rows at
# once; one that fails or takes too long does not stop the next, and what was written stays when this script is killed.
#
#   OUT=folder STAGES="versions functions" tests/gpu/run.sh      `make gpu`; run.sh of a pack (tests/gpu/pack.sh)
#
# STAGES: first (the default, some 7 minutes on an H100), later, all, or names. A stage that is run again in the same
# folder replaces its rows; others stay.
#   first   versions    GPU, driver, libraries
#           functions   every function of the CUDA backend against the CPU's
#           kernels     each kernel of a step in bf16, at the largest batch and the smallest
#           losses      epochs in fp32 against the CPU, again, without graphs, with NCCL
#           memcheck    the functions under compute-sanitizer
#           sweep       training in bf16 by batch, and EPOCHS epochs with validation
#           pytorch     the same network in PyTorch, where PYTHON has torch, scipy and h5py
#   later   precisions  test ndcg@100 of precisions and of switches that round otherwise, by seed, against fp32
#           racecheck   the functions under compute-sanitizer
#           speeds      kernels in fp32, steps in fp32, tf32 and fp16
#           tuning      steps in bf16 with each switch of cuda/tuning.h turned, beside the default
#           ranks       two ranks on a GPU over MPI, two GPUs with NCCL
#           latency     vaecf-recommend --benchmark
#           suite       the test suite with VAECF_DEVICE=cuda
#
# In OUT (build/gpu/out), each row with GPU, commit and date: machine.csv, stages.csv (pass, fail, skipped, timeout),
# checks.csv (value and limit), kernels.csv, steps.csv, train.csv, latency.csv, log.txt. tests/gpu/merge.sh takes them over.
#
#   DATA      ratings.csv, or a dataset directory, for losses and ndcg (what comes along; MovieLens-1M where it lies beside)
#   LIMIT     seconds for all stages (3600); PATIENCE multiplies the limit of each
#   PYTHON    python3;  SEEDS "1 2 3";  BATCHES "500 1000 2000 4000 8192 16384 24576"
#   BIN, BUILD, WORK    programs, tests, and a folder for what is left over (build/gpu/work)
#   for a try without a GPU: USERS, ITEMS, INTERACTIONS, HELDOUT, HIDDEN, LATENT, EPOCHS, LOSS_EPOCHS, PROBE ("SIDE MEGABYTES"
#   of tests/bench/gpu.c) and TORCH_DEVICE
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 71
export BIN=${BIN:-bin} BUILD=${BUILD:-build} PYTHON=${PYTHON:-python3} OUT=${OUT:-build/gpu/out} WORK=${WORK:-build/gpu/work}
bin=$BIN out=$OUT work=$WORK
# shellcheck source=tests/gpu/tables.sh
. tests/gpu/tables.sh
first="versions functions kernels losses memcheck sweep pytorch"
later="precisions racecheck speeds tuning ranks latency suite"
declare -A seconds_for=([versions]=20 [functions]=60 [kernels]=80 [losses]=120 [memcheck]=120 [sweep]=120 [pytorch]=120
    [precisions]=240 [racecheck]=150 [speeds]=80 [tuning]=120 [ranks]=60 [latency]=60 [suite]=400)

stop() { echo "make gpu: $1; nothing was run" >&2 && exit 1; }
for file in "$bin/vaecf-train" "$BUILD/tests/bench/gpu" "$BUILD/tests/cuda_backend_test"; do
    [ -x "$file" ] || stop "$file is not there: vaecf is built without CUDA (see make found)"
done
program=$("$bin/vaecf-train" --version 2>&1) || stop "$program"
grep -q ', CUDA [0-9]' <<<"$program" || stop "vaecf is built without CUDA (see make found)"
VAECF_GPU=$(outside nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader,nounits 2>/dev/null | head -n 1 | sed 's/, /,/g')
if [ -z "$VAECF_GPU" ] && ! compgen -G '/dev/nvidia[0-9]*' >/dev/null; then stop "there is no GPU on this machine (nvidia-smi finds none)"; fi
VAECF_GPU_KEY="$(plain "${VAECF_GPU%%,*}"),$(sed -nE '1s/.*\((.*)\)$/\1/p' <<<"$program"),$(date -u +%F)"
export VAECF_GPU VAECF_GPU_KEY
stages=${STAGES:-first}
case $stages in first) stages=$first ;; later) stages=$later ;; all) stages="$first $later" ;; esac
for stage in $stages; do [ -n "${seconds_for[$stage]:-}" ] || stop "STAGES: $stage: want first, later, all, or some of $first $later"; done
mkdir -p "$out" "$work" || exit 73

# rewrite TABLE STAGE: the table without that stage's rows and what is not whole; a new one if there is none
rewrite() {
    local file=$out/$1.csv
    {
        echo "gpu,commit,date,stage,${head[$1]}"
        if [ -e "$file" ]; then whole "$1" "$file" | awk -F, -v stage="$2" '$4 != stage'; fi
    } >"$file.new" && sync "$file.new" && mv "$file.new" "$file"
}
running=0
trap 'if [ $running != 0 ]; then kill -KILL -- -$running 2>/dev/null; fi; exit 130' INT TERM

all_begin=$SECONDS worst=0
for stage in $stages; do
    for table in "${!head[@]}"; do rewrite "$table" "$stage"; done
    limit=$((seconds_for[$stage] * ${PATIENCE:-1})) left=$((${LIMIT:-3600} - (SECONDS - all_begin))) rows=0
    if [ "$limit" -gt $left ]; then limit=$left; fi
    rm -f "$work/$stage".{verdict,detail}
    echo "=== $stage ($(date -u +%T), at most $limit s)" | tee -a "$out/log.txt"
    begin=$EPOCHREALTIME
    if [ "$limit" -lt 5 ]; then
        status=77
        echo "no time was left: LIMIT=${LIMIT:-3600}" >"$work/$stage.detail"
    else
        # into a file: what a stage leaves behind may hold a pipe open
        at=$(stat -c %s "$out/log.txt")
        VAECF_STAGE_SECONDS=$limit timeout -k 5 $limit bash tests/gpu/stages.sh "$stage" >>"$out/log.txt" 2>&1 </dev/null &
        running=$!
        wait $running
        status=$?
        kill -KILL -- -$running 2>/dev/null # what it left behind
        running=0
        tail -c +$((at + 1)) "$out/log.txt"
    fi
    case $status in
    0) result=$(cat "$work/$stage.verdict" 2>/dev/null || echo fail) ;;
    77) result=skipped ;;
    124 | 137) result=timeout ;;
    *) result=fail ;;
    esac
    detail=$(cat "$work/$stage.detail" 2>/dev/null)
    if [ "$result" = fail ] && [ -z "$detail" ]; then detail="ended with $status and without a word"; fi
    if [ "$result" = fail ] || [ "$result" = timeout ]; then worst=1; fi
    add stages "$result,$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }'),$detail"
done
echo
cut -d, -f4-7 "$out/stages.csv" | tr , '\t' | expand -t 14,24,34
echo "written: $out"
exit "$worst"
