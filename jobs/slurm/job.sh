# Sourced by the scripts beside it: the allocation that Slurm gave, and how a job goes back into the queue.
# shellcheck shell=bash
# shellcheck source=jobs/common.sh
. "$jobs/common.sh" || exit 66

place "$SLURM_NNODES" "${SLURM_NTASKS:-1}" "${SLURM_CPUS_PER_TASK:-1}"
id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
identify "$id${SLURM_CLUSTER_NAME:+@$SLURM_CLUSTER_NAME}" # clusters that share a file system count their jobs alike
describe "$id" $((${SLURM_RESTART_COUNT:-0} + 1)) "$SLURM_JOB_NODELIST"

# requeue_or_exit STATUS: 75 goes back into the queue, anything else is the job's exit code.
requeue_or_exit() {
    if [ "$1" = 75 ]; then
        if [ "${SLURM_RESTART_COUNT:-0}" -ge "${VAECF_MAX_RESTARTS:-20}" ]; then
            echo "stopped after ${SLURM_RESTART_COUNT:-0} restarts; submit it again to go on" >&2
        # a job that was cancelled stays so
        elif scontrol show job "$id" | grep -q 'JobState=RUNNING'; then
            say "stopped with a checkpoint; back into the queue"
            if scontrol requeue "$id"; then sleep 60; fi # Slurm ends this script
        fi
    fi
    exit "$1"
}
