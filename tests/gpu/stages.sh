#!/bin/bash
# tests/gpu/stages.sh STAGE: one stage of tests/gpu/run.sh, which calls this with a time limit and tells there what each is.
# shellcheck disable=SC2317  # stages are called by their names
set -uo pipefail
stage=$1 failed=0 rows=0
# shellcheck disable=SC2153  # run.sh exports them
bin=$BIN out=$OUT work=$WORK python=$PYTHON
bench=$BUILD/tests/bench/gpu
functions=$BUILD/tests/cuda_backend_test
hidden=${HIDDEN:-600} latent=${LATENT:-200}
read -r -a batches <<<"${BATCHES:-500 1000 2000 4000 8192 16384 24576}"
read -r -a seeds <<<"${SEEDS:-1 2 3}"
read -r -a probe <<<"${PROBE:-}"
smallest=${batches[0]} largest=${batches[-1]}
IFS=, read -r gpu driver memory <<<"$VAECF_GPU"
export VAECF_GEMM_CACHE=$work/gemm-cache
# shellcheck source=tests/gpu/tables.sh
. tests/gpu/tables.sh
export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

# fail WHAT: the stage fails; the first reason is told in stages.csv
fail() {
    if [ "$failed" = 0 ]; then plain "$1" >"$work/$stage.detail"; fi
    failed=1
    echo "FAIL: $1"
}
skip() { plain "$1" >"$work/$stage.detail" && exit 77; }
# check CHECK VALUE LIMIT: passes if the value is a number, and at most the limit
check() {
    local result=pass
    awk -v a="$2" -v b="$3" 'BEGIN { exit !(a + 0 == a && a <= b) }' || result=FAIL
    add checks "$(plain "$1"),$(plain "$2"),$3,$result"
    if [ "$result" = FAIL ]; then fail "$1: $2"; fi
}
# ---- data ----
# ratings: as many users, items and interactions as MovieLens-20M has, made here in some seconds: into $work/data
ratings() {
    if [ -s "$work/data/complete" ]; then return; fi
    rm -rf "$work/data"
    "$bin/vaecf-synthesize" --users "${USERS:-136677}" --items "${ITEMS:-20108}" --interactions "${INTERACTIONS:-9990000}" \
        --output "$work/ratings.csv" 2>&1 &&
        "$bin/vaecf-preprocess" --input "$work/ratings.csv" --heldout-users "${HELDOUT:-10000}" --output "$work/data" 2>&1 &&
        rm "$work/ratings.csv" && echo yes >"$work/data/complete"
    [ -s "$work/data/complete" ] || fail "there are no data"
}
# people: ratings of people, for losses and ndcg: sets $people
people() {
    local options=(--min-rating 4 --heldout-users 600) from=${DATA:-}
    people=$work/people
    if [ -d "$from" ]; then people=$from && return; fi
    if [ -s "$people/complete" ]; then return; fi
    if [ -z "$from" ] && [ -d data/people ]; then people=data/people && return; fi # a pack's
    if [ -z "$from" ]; then from=../shared/data/ml-1m/interactions.csv; fi
    if [ ! -r "$from" ]; then from=preprocess/debian-build-depends.csv.gz options=(--min-item-users 5); fi
    rm -rf "$people"
    echo "ratings of people: $from"
    "$bin/vaecf-preprocess" --input "$from" "${options[@]}" --output "$people" >/dev/null &&
        echo yes >"$people/complete"
    [ -s "$people/complete" ] || fail "there are no data: $from"
}

# ---- runs ----
# small RANKS NAME OPTION...: a run on the ratings of people, into $work/NAME
small() {
    local ranks=$1 name=$2 launch=()
    shift 2
    rm -rf "${work:?}/$name" # and the lock of one that was killed
    if [ "$ranks" -gt 1 ]; then launch=(mpirun --oversubscribe -n "$ranks"); fi
    "${launch[@]}" "$bin/vaecf-train" --config jobs/configs/ml-1m.yaml --set data.path="$people" \
        --set output.path="$work/$name" --set train.epochs="${LOSS_EPOCHS:-5}" --set train.early_stopping.patience=0 \
        --set train.checkpoint.every_epochs=0 --set train.checkpoint.every_minutes=0 \
        --set "model.hidden=[$hidden]" --set model.latent="$latent" "$@" >"$work/$name.log" 2>&1
    local status=$?
    if [ "$status" != 0 ]; then tail -n 3 "$work/$name.log"; fi
    return "$status"
}
# apart A B: the largest relative difference of the losses of an epoch
apart() {
    paste -d, <(cut -d, -f5,6 "$work/$1/metrics.csv") <(cut -d, -f5,6 "$work/$2/metrics.csv") 2>/dev/null | awk -F, '
        NR == 1 { next }
        NF != 4 || !/^[-0-9.e+,]+$/ { bad = 1; next } # one is shorter, or no number
        { n++; for (i = 1; i <= 2; i++) { d = ($i - $(i + 2)) / ($i == 0 ? 1 : $i); if (d < 0) d = -d; if (d > most) most = d } }
        END { if (n < 1 || bad) print "none"; else print most + 0 }'
}
# differ A B: do their tables differ, but for the times? 0 or 1, or none
differ() {
    if [ ! -s "$work/$1/test.csv" ] || [ ! -s "$work/$2/test.csv" ]; then echo none && return; fi
    if cmp -s <(cut -d, -f1,2,5- "$work/$1/metrics.csv") <(cut -d, -f1,2,5- "$work/$2/metrics.csv") &&
        cmp -s "$work/$1/test.csv" "$work/$2/test.csv"; then echo 0; else echo 1; fi
}
ndcg() { awk -F, '$3 == "ndcg@100" { print $4 }' "$work/$1/test.csv" 2>/dev/null; }
ndcg_apart() { awk -v a="$(ndcg "$1")" -v b="$(ndcg "$2")" 'BEGIN { d = a - b; print a b ~ /^[0-9.e-]+$/ && a != "" && b != "" ? (d < 0 ? -d : d) : "none" }'; }
# lists DEVICE: user,rank,item of all test users, by one model
lists() { "$bin/vaecf-recommend" --checkpoint "$work/fp32/best.h5" --users-from "$people" --split test --device "$1" 2>/dev/null | cut -d, -f1-3; }

# large BATCH PRECISION EPOCHS VALIDATE_EVERY: a run at MovieLens-20M's shape, into $work/run
large() {
    rm -rf "$work/run"
    "$bin/vaecf-train" --config jobs/configs/ml-20m.yaml --set data.path="$work/data" \
        --set output.path="$work/run" --set "model.hidden=[$hidden]" --set model.latent="$latent" --set device=cuda \
        --set train.batch_size="$1" --set train.precision="$2" --set train.epochs="$3" --set train.validate_every="$4" \
        --set train.early_stopping.patience=0 --set train.checkpoint.every_epochs=0 --set train.checkpoint.every_minutes=0 \
        >"$work/run.log" 2>&1 || { tail -n 3 "$work/run.log" && return 1; }
}

# measure kernels|steps BATCH PRECISION TUNING: rows of steps.csv and kernels.csv; sets $speed
measure() {
    local line last='' words=() found=0
    speed=
    while IFS= read -r line; do
        case $line in
        step,*)
            IFS=, read -r -a words <<<"$line"
            speed=${words[3]}
            # A ratio only for what is beside a default of the same batch.
            add steps "$4,${line#step,},$(awk -v a="$speed" -v b="${default_speed:-}" 'BEGIN { if (b > 0) printf "%.4f", a / b }')"
            ;;
        kernel,*) add kernels "${line#kernel,}" && found=$((found + 1)) ;;
        *) echo "$line" ;;
        esac
        last=$line
    done < <(
        "$bench" "$1" "$work/data" "$hidden" "$latent" "$2" "$3" "${probe[@]}" 2>&1
        echo "exit code $?"
    )
    if [ "$last" != "exit code 0" ]; then fail "$1 at batch $2 in $3${4:+ with $4}: $last"; fi
    awk -v a="$speed" 'BEGIN { exit !(a + 0 == a && a > 0) }' || fail "$1 at batch $2 in $3${4:+ with $4}: no speed"
    if [ "$1" = kernels ] && [ "$found" -lt 20 ]; then fail "kernels at batch $2 in $3: $found were measured"; fi
}

# cases FILE STATUS NAME: what cuda_backend_test printed: all cases that it says it runs, and none less
cases() {
    local all good none
    all=$(sed -nE 's/^\[=+\] (tests: )?Running ([0-9]+) test\(s\).*/\2/p' "$1" | head -n 1)
    good=$(grep -c '^\[       OK \]' "$1")
    none=$(grep '^\[  SKIPPED \] test' "$1" | sort -u | wc -l)
    grep -E '^\[  FAILED  \]|ERROR' "$1" | head -n 20
    check "$3: exit code" "$2" 0
    check "$3: of ${all:-no} cases did not pass" "$([ "${all:-0}" -gt 0 ] && echo $((all - good)) || echo none)" 0
    check "$3: cases that were skipped" "$none" 0
}

# ---- stages ----
stage_versions() {
    local file lost=0 lines program pytorch sanitizer processor
    for file in "$bin"/vaecf-* "$functions" "$bench"; do
        lines=$(ldd "$file" 2>&1 | grep 'not found')
        if [ -n "$lines" ]; then echo "$file: $lines" && lost=$((lost + 1)); fi
    done
    check "programs that lack a library" "$lost" 0
    program=$("$bin/vaecf-train" --version | paste -sd' ')
    check "programs without CUDA" "$(grep -q ', CUDA [0-9]' <<<"$program"; echo $?)" 0
    check "GPUs that nvidia-smi does not see" "$([ -n "$gpu" ]; echo $?)" 0
    pytorch=$(outside timeout --foreground 15 "$python" -c 'import torch, h5py, scipy; print(torch.__version__)' 2>/dev/null | tail -n 1)
    sanitizer=$(outside compute-sanitizer --version 2>/dev/null | grep -i version | head -n 1)
    processor=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
    add machine "$(plain "$driver"),$(plain "$memory"),$(outside nvidia-smi -L 2>/dev/null | wc -l),$(sed -nE 's/.*, CUDA ([^,]*).*/\1/p' <<<"$program"),$(plain "$processor"),$(env -u OMP_NUM_THREADS nproc),$(plain "$program"),$(plain "${pytorch:-none}"),$(plain "${sanitizer:-none}")"
}

stage_functions() {
    "$functions" >"$work/functions.out" 2>&1
    cases "$work/functions.out" $? functions
}

stage_kernels() {
    ratings
    measure kernels "$largest" bf16 ""
    measure kernels "$smallest" bf16 ""
}

stage_losses() {
    people
    small 1 cpu --set device=cpu
    small 1 fp32 --set device=cuda
    check "fp32: largest difference of a loss from the CPU over ${LOSS_EPOCHS:-5} epochs" "$(apart cpu fp32)" 1e-4
    small 1 repeat --set device=cuda
    check "fp32 again: tables that differ" "$(differ fp32 repeat)" 0
    VAECF_GRAPHS=no small 1 issued --set device=cuda
    check "fp32 without graphs: tables that differ" "$(differ fp32 issued)" 0
    small 1 nccl --set device=cuda --set comm=nccl
    check "one rank with NCCL: largest difference of a loss" "$(apart fp32 nccl)" 1e-6
    VAECF_KEEP=no small 1 loaded --set device=cuda
    check "fp32 with batches from the host: largest difference of a loss" "$(apart fp32 loaded)" 1e-4
    lists cpu >"$work/lists" # neighbours whose scores are equal but for rounding may change places
    check "share of recommendations that differ between GPU and CPU" "$(lists cuda | paste -d' ' "$work/lists" - |
        awk 'NF == 2 { n++; differ += $1 != $2 } NF != 2 { bad++ } END { print (n > 1 && !bad ? differ / n : "none") }')" 1e-3
}

# sanitizer TOOL: the functions under compute-sanitizer
sanitizer() {
    local log=$work/$1.out status ours libraries
    command -v compute-sanitizer >/dev/null || skip "compute-sanitizer is not installed"
    timeout --foreground -k 5 "$((VAECF_STAGE_SECONDS - 10))" compute-sanitizer --tool "$1" --error-exitcode 9 "$functions" >"$log" 2>&1
    status=$?
    grep -E '^=========' "$log" | head -n 60
    if grep -qiE 'device (is )?not supported|not supported on this device|unable to .*(initialize|attach)' "$log"; then
        skip "compute-sanitizer refuses this GPU: $(grep -iE 'not supported|unable to' "$log" | head -n 1)"
    fi
    if [ "$status" = 124 ] || [ "$status" = 137 ]; then
        add checks "$1: cases that passed before the time was over,$(grep -c '^\[       OK \]' "$log"),,"
        check "$1: errors until then" "$(grep -cE '^========= (Invalid|Error|Program hit)' "$log")" 0
        plain "$(grep -c '^\[       OK \]' "$log") cases had passed" >"$work/$stage.detail"
        exit 124
    fi
    if [ "$1" = racecheck ]; then # a library's kernels have hazards of their own, which are told apart by name
        read -r ours libraries < <(awk -v names="$(grep -v '^#' tests/gpu/not_ours.txt | paste -sd'|')" '
            /^========= (Error|Warning): .*[Rr]ace/ { n++; text[n] = "" }
            n && /^=========/ { text[n] = text[n] $0 }
            END { for (i = 1; i <= n; i++) if (text[i] ~ names) theirs++; else ours++; print ours + 0, theirs + 0 }' "$log")
        check "racecheck: without a summary" "$(grep -q '^========= RACECHECK SUMMARY' "$log"; echo $?)" 0
        check "racecheck: hazards in our kernels" "$ours" 0
        add checks "racecheck: hazards in kernels of libraries,$libraries,,"
        if [ "$status" = 9 ] && [ "$ours" = 0 ] && [ "$libraries" -gt 0 ]; then status=0; fi
    else
        check "$1: errors" "$(sed -nE 's/^========= ERROR SUMMARY: ([0-9]+) error.*/\1/p' "$log" | tail -n 1)" 0
    fi
    cases "$log" "$status" "$1"
}
stage_memcheck() { sanitizer memcheck; }
stage_racecheck() { sanitizer racecheck; }

# seconds_of COMMAND...: into $seconds
seconds_of() {
    local begin=$EPOCHREALTIME
    "$@" || return 1
    seconds=$(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.3f", b - a }')
}
# train_row PRECISION BATCH: of 12 epochs, whose first search for algorithms and record
train_row() {
    large "$2" "$1" 12 0 || { fail "training at batch $2 in $1" && return; }
    add train "vaecf,$1,$2,12,$(tail -n +5 "$work/run/metrics.csv" | cut -d, -f4 | sort -n | awk '
        { v[NR] = $1 } END { printf "%.0f,%.0f", v[NR], v[int((NR + 1) / 2)] }'),,,"
}
stage_sweep() {
    local batch start
    ratings
    for batch in "${batches[@]}"; do train_row bf16 "$batch"; done
    # a run of no epochs: reading the data, starting, and testing
    if seconds_of large "$largest" bf16 0 0 && start=$seconds && seconds_of large "$largest" bf16 "${EPOCHS:-400}" 50; then
        add train "vaecf,bf16,$largest,$(awk -F, -v all="$seconds" -v start="$start" '
            NR > 1 { s += $3; users += $3 * $4; if ($14 > best) best = $14 }
            END { printf "%d,%.0f,,%.3f,%.3f,%s", NR - 1, users / s, s, all - start, best }' "$work/run/metrics.csv")"
    else
        fail "${EPOCHS:-400} epochs"
    fi
}

stage_pytorch() {
    local version variant batch speed megabytes
    version=$(outside timeout --foreground 60 "$python" -c 'import torch, h5py, scipy; print(torch.__version__)' 2>/dev/null | tail -n 1)
    [ -n "$version" ] || skip "$python has no torch, h5py and scipy"
    ratings
    for variant in sparse compiled; do
        for batch in "$largest" "$smallest"; do
            speed=$(outside timeout --foreground -k 5 60 "$python" tests/reference/torch_speed.py --data "$work/data" --batch-size "$batch" \
                --hidden "$hidden" --latent "$latent" --precision bf16 --variant "$variant" --device "${TORCH_DEVICE:-cuda}" \
                2>"$work/torch.log") || { tail -n 3 "$work/torch.log" && fail "PyTorch $variant at batch $batch" && continue; }
            IFS=, read -r speed megabytes <<<"$speed"
            echo "$megabytes MB"
            add train "PyTorch $version $variant,bf16,$batch,,$speed,,,,"
        done
    done
}

stage_precisions() {
    local seed way tuning
    people
    for seed in "${seeds[@]}"; do
        small 1 "fp32-$seed" --set device=cuda --set train.seed="$seed" --set train.epochs="${LOSS_EPOCHS:-20}"
        for way in tf32 bf16 fp16 bf16+short_activations bf16+short_moments bf16+fp8; do
            tuning=${way#*+}
            if [ "$tuning" = "$way" ]; then tuning=; fi
            VAECF_CUDA_TUNING=$tuning small 1 "$way-$seed" --set device=cuda --set train.seed="$seed" \
                --set train.precision="${way%+*}" --set train.epochs="${LOSS_EPOCHS:-20}"
            check "$way; seed $seed: difference of test ndcg@100 from fp32" "$(ndcg_apart "fp32-$seed" "$way-$seed")" 0.003
        done
    done
}

stage_speeds() {
    local precision
    ratings
    measure kernels "$largest" fp32 ""
    measure steps "$smallest" fp32 ""
    for precision in tf32 fp16; do
        measure steps "$largest" "$precision" ""
        measure steps "$smallest" "$precision" ""
    done
}

# What changes the sums over ranks shows nothing on one.
tunings="bias_epilogue short_activations short_moments fp8 split_rows sorted_steps -overlap_adam VAECF_SPARSE=cusparse VAECF_GRAPHS=no"
tunings_of_ranks="-priority -early_sum"
stage_tuning() {
    local batch tuning
    ratings
    for batch in "$largest" "$smallest"; do
        default_speed=
        measure steps "$batch" bf16 ""
        default_speed=$speed
        for tuning in $tunings; do
            case $tuning in
            *=*) (export "${tuning?}" && measure steps "$batch" bf16 "$tuning" && exit "$failed") || fail "$tuning at batch $batch" ;;
            *) VAECF_CUDA_TUNING=$tuning measure steps "$batch" bf16 "$tuning" ;;
            esac
        done
        measure steps "$batch" bf16 "default again"
        default_speed=
    done
}

stage_ranks() {
    local gpus tuning
    people
    gpus=$(outside nvidia-smi -L | wc -l)
    small 1 fp32 --set device=cuda
    small 2 shared --set device=cuda --set comm=mpi
    check "two ranks on a GPU over MPI: largest difference of a loss" "$(apart fp32 shared)" 1e-4
    if [ "$gpus" -lt 2 ]; then echo "one GPU: nothing of several" && return; fi
    small 2 nccl2 --set device=cuda --set comm=nccl
    check "two GPUs with NCCL: largest difference of a loss" "$(apart fp32 nccl2)" 1e-4
    for tuning in $tunings_of_ranks; do
        VAECF_CUDA_TUNING=$tuning small 2 "nccl2$tuning" --set device=cuda --set comm=nccl
        check "two GPUs with $tuning: largest difference of a loss" "$(apart nccl2 "nccl2$tuning")" 1e-6
    done
}

stage_latency() {
    ratings
    large "$largest" bf16 1 0 || fail "training"
    "$bin/vaecf-recommend" --checkpoint "$work/run/best.h5" --benchmark ${BENCHMARK_SECONDS:+--benchmark-seconds "$BENCHMARK_SECONDS"} \
        --device cuda --output "$work/latency.csv" || fail "vaecf-recommend --benchmark"
    while IFS= read -r line; do add latency "$line"; done < <(grep -E '^fp32,[0-9]' "$work/latency.csv")
    if [ "$rows" -lt 5 ]; then fail "$rows sizes of a batch were timed"; fi
}

stage_suite() {
    local log=$work/suite.out passed
    [ -e tests/run.sh ] || skip "the pack was made without tests"
    # shellcheck disable=SC2086  # names
    TEST_JOBS=4 VAECF_DEVICE=cuda VAECF_COMM=mpi tests/run.sh ${SUITE:-$(cat tests/gpu/suite.txt 2>/dev/null)} >"$log" 2>&1
    grep -aE '^  (FAIL|pass)' "$log"
    passed=$(sed -nE 's/^([0-9]+) passed, [0-9]+ failed$/\1/p' "$log" | tail -n 1)
    check "tests that fail with VAECF_DEVICE=cuda" "$(sed -nE 's/^[0-9]+ passed, ([0-9]+) failed$/\1/p' "$log" | tail -n 1)" 0
    add checks "tests that pass with VAECF_DEVICE=cuda,${passed:-none},,"
    if [ "${passed:-0}" = 0 ]; then fail "no test passed"; fi
}

# ---- the stage ----
"stage_$stage"
# What counts is this last word: a stage that ends otherwise did not pass.
if [ "$failed" = 0 ] && [ "$rows" -gt 0 ]; then echo pass >"$work/$stage.verdict"; fi
exit "$failed"
