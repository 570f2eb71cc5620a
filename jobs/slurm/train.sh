#!/bin/bash
# Trains on a Slurm cluster, from the project's folder:
#
#   sbatch jobs/slurm/train.sh [CONFIG.yaml] [--set KEY=VALUE]...
#   sbatch --nodes=4 --time=12:00:00 jobs/slurm/train.sh jobs/configs/ml-20m.yaml --set train.epochs=50
#
# Ahead of the time limit, and when preempted, vaecf-train saves a checkpoint and exits 75; the job then puts
# itself back into the queue and goes on from there, at most VAECF_MAX_RESTARTS times (20). Any other failure ends
# it. `module load` what the programs were built with in the shell that calls sbatch, or here.
#SBATCH --job-name=vaecf-train
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=2
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%x-%j.out
set -u

cd "${VAECF_HOME:-${SLURM_SUBMIT_DIR:-.}}" || exit 66
if [[ ${1:-} == *.yaml ]]; then
    config=$1
    shift
else
    config=jobs/configs/ml-20m.yaml
fi
program=bin/vaecf-train
[ -x "$program" ] || program=$(command -v vaecf-train) ||
    { echo "error: no bin/vaecf-train in $PWD: run make there, or set VAECF_HOME to the project's folder" >&2 && exit 66; }

export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1} OMP_PROC_BIND=close OMP_PLACES=cores
export SRUN_CPUS_PER_TASK=$OMP_NUM_THREADS # srun does not take --cpus-per-task from sbatch since Slurm 22.05

# srun where it can start this MPI, else mpirun, which reads the allocation from the environment; or VAECF_LAUNCH.
if [ -n "${VAECF_LAUNCH:-}" ]; then
    read -ra launch <<<"$VAECF_LAUNCH"
elif srun --mpi=list 2>&1 | grep -qw pmix; then
    launch=(srun --mpi=pmix --kill-on-bad-exit=1)
else
    launch=(mpirun)
fi
command=("${launch[@]}" "$program" --config "$config" "$@" --resume auto)

echo "$(date '+%F %T')  job ${SLURM_JOB_ID:-none}, start $((${SLURM_RESTART_COUNT:-0} + 1)), on ${SLURM_JOB_NODELIST:-this machine}:" \
    "${SLURM_NTASKS:-1} ranks of $OMP_NUM_THREADS threads; modules: ${LOADEDMODULES:-none}"
echo "${command[*]}"
"${command[@]}" &
child=$!

# Slurm tells this script (B:) ahead of the limit; it tells the launcher, and that every rank.
trap 'kill -USR1 "$child" 2>/dev/null' USR1 TERM
wait "$child"
while kill -0 "$child" 2>/dev/null; do wait "$child"; done # a signal ends wait, not the program
wait "$child"
status=$?
trap - USR1 TERM

if [ "$status" = 75 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -ge "${VAECF_MAX_RESTARTS:-20}" ]; then
        echo "stopped after ${SLURM_RESTART_COUNT:-0} restarts; submit it again to go on" >&2
    # a job that was cancelled stays so
    elif scontrol show job "$SLURM_JOB_ID" | grep -q 'JobState=RUNNING'; then
        echo "$(date '+%F %T')  stopped with a checkpoint; back into the queue"
        scontrol requeue "$SLURM_JOB_ID" # ends this script
        sleep 60
    fi
fi
exit "$status"
