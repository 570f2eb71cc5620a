#!/bin/bash
# How fast vaecf trains and recommends on a GPU at MovieLens-20M's shape, beside what the GPU copies and multiplies and
# beside PyTorch, in one run on one machine.
#
#   BIN=bin BUILD=build PYTHON=python3 tests/bench/gpu.sh [OUT_DIR]      make bench-gpu
#
# Prints the machine, the commands and tables; writes into OUT_DIR (results/gpu):
#   kernels.csv    each kernel of a training step: time, bytes, operations, fractions of the measured rates
#   steps.csv      steps alone: users a second, the host's milliseconds a step, the rates of copies and products
#   train.csv      vaecf-train: users a second by batch and precision
#   epochs.csv     400 epochs with validation every 50: seconds of training and in all
#   latency.csv    vaecf-recommend --benchmark
#   pytorch.csv    users a second of a plain PyTorch program, dense and sparse, eager and compiled
# The products' algorithms are searched for once and kept in OUT_DIR/gemm-cache (VAECF_GEMM_CACHE).
# BATCHES="500 1000 ..." chooses batches; PARTS="kernels train epochs latency pytorch" does some alone. A PyTorch that
# PYTHON does not find is told. For a try without a GPU: USERS, ITEMS, INTERACTIONS, EPOCHS, HIDDEN, LATENT and PROBE
# ("SIDE MEGABYTES" of tests/bench/gpu.c) make all of it small.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 71
bin=${BIN:-bin} build=${BUILD:-build} python=${PYTHON:-python3} out=${1:-results/gpu}
gpu_bin=${GPU_BIN:-$bin} bench=${GPU_BENCH:-$build/tests/bench/gpu}
users=${USERS:-136677} items=${ITEMS:-20108} interactions=${INTERACTIONS:-9990000} heldout=${HELDOUT:-10000}
hidden=${HIDDEN:-600} latent=${LATENT:-200} epochs=${EPOCHS:-400}
read -r -a batches <<<"${BATCHES:-500 1000 2000 4000 8192 16384 24576}"
read -r -a probe <<<"${PROBE:-}"
parts=" ${PARTS:-kernels train epochs latency pytorch} "
largest=${batches[-1]}
failed=0
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

stop() { echo "bench-gpu: $1; nothing was measured" >&2 && exit 1; }
[ -x "$bench" ] || stop "vaecf is built without CUDA (see make found)"
gpu=$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null | head -n 1)
[ -n "$gpu" ] || [ -n "${GPU_BENCH:-}" ] || stop "there is no GPU on this machine (nvidia-smi finds none)"
work=$(mktemp -d) || exit 71
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
export VAECF_GEMM_CACHE=$out/gemm-cache
echo "machine: $gpu; $(lscpu | sed -n 's/^Model name: *//p'), $(nproc) cores; $("$gpu_bin/vaecf-train" --version | paste -sd' ')"

wants() { [[ $parts == *" $1 "* ]]; }
fail() { echo "bench-gpu: $1" >&2 && failed=1; }
# commit FILE: what was written to the end, in the place of an older one
commit() { mv "$work/$1" "$out/$1" && echo "written: $out/$1"; }

if ! "$bin/vaecf-synthesize" --users "$users" --items "$items" --interactions "$interactions" \
    --output "$work/ratings.csv" 2>"$work/log" ||
    ! "$bin/vaecf-preprocess" --input "$work/ratings.csv" --heldout-users "$heldout" --output "$work/data" >"$work/log" 2>&1; then
    tail -n 3 "$work/log" >&2
    stop "there are no data"
fi
rm "$work/ratings.csv"

# train BATCH PRECISION EPOCHS VALIDATE_EVERY: into $work/run
train() {
    "$gpu_bin/vaecf-train" --config jobs/configs/ml-20m.yaml --overwrite --set data.path="$work/data" \
        --set output.path="$work/run" --set "model.hidden=[$hidden]" --set model.latent="$latent" --set device=cuda \
        --set train.batch_size="$1" --set train.precision="$2" --set train.epochs="$3" --set train.validate_every="$4" \
        --set train.early_stopping.patience=0 --set train.checkpoint.every_epochs=0 --set train.checkpoint.every_minutes=0 \
        >"$work/log" 2>&1 || { tail -n 3 "$work/log" >&2 && return 1; }
}

if wants kernels; then
    : >"$work/kernels.csv"
    echo "gpu,precision,batch,users_per_second,host_milliseconds,copy_tb_s,gemm_tflop_s" >"$work/steps.csv"
    for batch in "${batches[0]}" "$largest"; do
        for precision in bf16 fp32; do
            echo && echo "batch $batch, $precision:"
            "$bench" "$work/data" "$hidden" "$latent" "$batch" $precision "$work/kernels.csv" "${probe[@]}" | tee "$work/step" ||
                fail "the kernels at batch $batch in $precision"
            sed -n 's/^step,//p' "$work/step" >>"$work/steps.csv"
        done
    done
    commit kernels.csv
    commit steps.csv
fi

if wants train; then
    echo "precision,batch,users_per_second,users_per_second_median" >"$work/train.csv"
    for precision in bf16 fp16 tf32 fp32; do
        for batch in "${batches[@]}"; do
            [ $precision = bf16 ] || [ "$batch" = "$largest" ] || [ "$batch" = "${batches[0]}" ] || continue
            train "$batch" $precision 12 0 || { fail "training at batch $batch in $precision" && continue; }
            # the first epochs search for algorithms and record
            tail -n +4 "$work/run/metrics.csv" | cut -d, -f4 | sort -n | awk -v p=$precision -v b="$batch" '
                {v[NR] = $1} END {printf "%s,%s,%.0f,%.0f\n", p, b, v[NR], v[int((NR + 1) / 2)]}' | tee -a "$work/train.csv"
        done
    done
    commit train.csv
fi

# seconds_of COMMAND...: into $seconds
seconds_of() {
    local begin
    begin=$(date +%s.%N)
    "$@" || return 1
    seconds=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN {printf "%.3f", b - a}')
}

if wants epochs; then
    # a run of no epochs: reading the data, starting, and testing
    if seconds_of train "$largest" bf16 0 0 && start=$seconds && seconds_of train "$largest" bf16 "$epochs" 50; then
        echo "precision,batch,epochs,steps_seconds,epochs_and_validations_seconds,start_and_test_seconds,users_per_second,best_ndcg@100" >"$work/epochs.csv"
        awk -F, -v b="$largest" -v all="$seconds" -v start="$start" '
            NR > 1 {s += $3; users += $3 * $4; if ($14 > best) best = $14}
            END {printf "bf16,%s,%d,%.3f,%.3f,%.3f,%.0f,%s\n", b, NR - 1, s, all - start, start, users / s, best}' \
            "$work/run/metrics.csv" | tee -a "$work/epochs.csv"
        commit epochs.csv
    else
        fail "$epochs epochs"
    fi
fi

if wants latency; then
    [ -s "$work/run/best.h5" ] || train "$largest" bf16 1 0
    if "$gpu_bin/vaecf-recommend" --checkpoint "$work/run/best.h5" --benchmark --device cuda --output "$work/latency.csv"; then
        commit latency.csv
    else
        fail "vaecf-recommend --benchmark"
    fi
fi

if wants pytorch; then
    if "$python" -c 'import torch, h5py, scipy' 2>/dev/null; then
        echo "pytorch,variant,precision,batch,users_per_second,megabytes" >"$work/pytorch.csv"
        version=$("$python" -c 'import torch; print(torch.__version__)')
        for variant in dense dense-compiled sparse compiled; do
            for precision in bf16 fp32; do
                for batch in "${batches[0]}" "$largest"; do
                    speed=$(timeout 300 "$python" tests/reference/torch_speed.py --data "$work/data" --batch-size "$batch" \
                        --hidden "$hidden" --latent "$latent" --precision $precision --variant $variant \
                        --device "${TORCH_DEVICE:-cuda}" 2>"$work/torch.log") ||
                        { tail -n 2 "$work/torch.log" >&2 && fail "PyTorch $variant at batch $batch in $precision" && continue; }
                    echo "$version,$variant,$precision,$batch,$speed" | tee -a "$work/pytorch.csv"
                done
            done
        done
        commit pytorch.csv
    else
        echo "note: $python has no torch, h5py and scipy: no comparison with PyTorch (PYTHON=... tells another)"
    fi
fi
exit $failed
