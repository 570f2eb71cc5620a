#!/bin/bash
# How training scales over the GPUs of a node: 1, 2, 4, 8, ... of them, by precision, by how gradients travel, by seed.
#
#   sbatch jobs/slurm/scaling.sh [CONFIG.yaml] [--set KEY=VALUE]...
#   sbatch --gpus-per-node=4 --ntasks-per-node=4 jobs/slurm/scaling.sh jobs/configs/ml-20m.yaml --set data.path=data/ml-20m
#
# Writes OUT/scaling.csv, a row as soon as a run has ended, and prints it as a table of means over the seeds. Efficiency is
# users a second over those of one GPU in the same precision, divided by the GPUs. Submitted again with the same OUT it
# goes on with what is not in the table.
#
#   OUT=results/scaling-JOB      BATCH=3072     users in a step on each GPU; SCALING=strong: on all together
#   EPOCHS=30                    GPUS="1 2 4 8" (the powers of two up to those of the job)
#   PRECISIONS="fp32 tf32 bf16 fp16"            SEEDS="1 2 3"
#   DEVICE=cpu GPUS="1 2" PRECISIONS=fp32       a try without GPUs
#SBATCH --job-name=vaecf-scaling
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=02:00:00
#SBATCH --signal=B:USR1@60
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -u
told='' && trap 'told=USR1' USR1 # before jobs/common.sh does better
# Slurm runs a copy of this script; scontrol knows where the original is, and with it the project.
jobs=${VAECF_HOME:+$VAECF_HOME/jobs}
: "${jobs:=$(scontrol show job "${SLURM_JOB_ID:?submit me with sbatch}" | sed -n 's|^ *Command=\(.*/jobs\)/slurm/.*|\1|;T;p;q')}"
# shellcheck source=jobs/slurm/job.sh
. "$jobs/slurm/job.sh" || exit 66

config=$jobs/configs/ml-20m.yaml
if [[ ${1:-} == *.yaml ]]; then config=$1 && shift; fi
out=${OUT:-results/scaling-$SLURM_JOB_ID} device=${DEVICE:-cuda} batch=${BATCH:-3072}
case ${VAECF_LAUNCH:-srun} in srun | mpirun) ;; *) fail 64 "VAECF_LAUNCH=$VAECF_LAUNCH: the number of ranks varies: want srun or mpirun" ;; esac
read -ra precisions <<<"${PRECISIONS:-fp32 tf32 bf16 fp16}"
read -ra seeds <<<"${SEEDS:-1 2 3}"
read -ra counts <<<"${GPUS:-}"
for ((n = 1; n <= ${SLURM_GPUS_ON_NODE:-1}; n *= 2)); do
    if [ -z "${GPUS:-}" ]; then counts+=("$n"); fi
done
mkdir -p "$out" || exit 73
table=$out/scaling.csv
[ -s "$table" ] || echo "gpus,precision,comm_type,seed,batch,users_per_second,efficiency,ndcg@100" >"$table"

# run GPUS PRECISION COMM_TYPE SEED
run() {
    local n=$1 precision=$2 comm=$3 seed=$4 users=$batch speed one
    if grep -q "^$n,$precision,$comm,$seed,[^,]*,[0-9]" "$table"; then return 0; fi
    if [ "${SCALING:-weak}" = weak ]; then users=$((batch * n)); fi
    place 1 "$n" "${SLURM_CPUS_PER_TASK:-1}"
    if [ "${launch[0]}" = srun ]; then launch+=("--ntasks=$n"); fi
    rm -rf "$out/run" # and the lock of one that was killed
    ranks vaecf-train --config "$config" --set output.path="$out/run" --set device="$device" \
        --set train.epochs="${EPOCHS:-30}" --set train.batch_size="$users" --set train.precision="$precision" \
        --set train.seed="$seed" --set comm_type="$comm" --set train.early_stopping.patience=0 \
        --set train.checkpoint.every_epochs=0 --set train.checkpoint.every_minutes=0 "${arguments[@]}" || return
    # the first epochs search for algorithms and record
    speed=$(tail -n +2 "$out/run/metrics.csv" | cut -d, -f4 | awk '{ v[NR] = $1 } END { for (i = NR > 6 ? 4 : 1; i <= NR; i++) print v[i] }' |
        sort -n | awk '{ v[NR] = $1 } END { printf "%.0f", v[int((NR + 1) / 2)] }')
    one=$(awk -F, -v p="$precision" -v s="$seed" '$1 == 1 && $2 == p && $4 == s { print $6 }' "$table")
    echo "$n,$precision,$comm,$seed,$users,$speed,$(awk -v a="$speed" -v b="$([ "$n" = 1 ] && echo "$speed" || echo "$one")" -v n="$n" \
        'BEGIN { if (b > 0) printf "%.3f", a / b / n }'),$(awk -F, '$3 == "ndcg@100" { print $4 }' "$out/run/test.csv")" >>"$table"
}

arguments=("$@") status=0
for seed in "${seeds[@]}"; do
    for precision in "${precisions[@]}"; do
        for n in "${counts[@]}"; do
            comms=(fp32)
            if [ "$n" -gt 1 ] && [[ $precision == *16 ]]; then comms+=(compute); fi
            for comm in "${comms[@]}"; do
                run "$n" "$precision" "$comm" "$seed"
                code=$?
                if [ $code = 75 ]; then echo "stopped: submit it again with OUT=$out to go on" >&2 && exit 75; fi
                if [ $code != 0 ]; then say "$n GPUs, $precision, $comm, seed $seed: exit code $code" && status=$code; fi
            done
        done
    done
done
rm -rf "$out/run"
awk -F, '
    NR > 1 { k = $2 "," $3 "," $1; n[k]++; speed[k] += $6; efficiency[k] += $7; ndcg[k] += $8; if (n[k] == 1) order[++keys] = k }
    END {
        printf "%-10s %-8s %5s %14s %11s %9s %6s\n", "precision", "travel", "GPUs", "users/s", "efficiency", "ndcg@100", "seeds"
        for (i = 1; i <= keys; i++) { k = order[i]; split(k, w, ",")
            printf "%-10s %-8s %5d %14.0f %11.3f %9.4f %6d\n", w[1], w[2], w[3], speed[k] / n[k], efficiency[k] / n[k], ndcg[k] / n[k], n[k] }
    }' "$table"
echo "written: $table"
exit "$status"
