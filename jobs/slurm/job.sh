# Sourced by the scripts beside it: the allocation that Slurm gave, and how a job goes back into the queue.
# shellcheck shell=bash
# shellcheck source=jobs/common.sh
. "$jobs/common.sh" || exit 66

export VAECF_WHOLE_NODE=no
if scontrol show job "$SLURM_JOB_ID" | grep -qw 'OverSubscribe=\(NO\|EXCLUSIVE\)'; then VAECF_WHOLE_NODE=yes; fi
place "$SLURM_NNODES" "${SLURM_NTASKS:-1}" "${SLURM_CPUS_PER_TASK:-1}"
id=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}
identify "$id${SLURM_CLUSTER_NAME:+@$SLURM_CLUSTER_NAME}" # clusters that share a file system count their jobs alike
describe "$id" $((${SLURM_RESTART_COUNT:-0} + 1)) "$SLURM_JOB_NODELIST"

# limit_end: when the time limit is over, in seconds since 1970; nothing without a limit
limit_end() {
    local end
    end=$(scontrol show job "$id" | sed -n 's/.* EndTime=\([0-9T:-]*\) .*/\1/p;T;q')
    if [ -n "$end" ]; then date -d "$end" +%s; fi
}

# requeue_or_exit STATUS: 75 goes back into the queue, anything else is the job's exit code. How many starts in a row made no
# progress is in the job's comment, the one thing of it that lasts.
requeue_or_exit() {
    local job comment before
    if [ "$1" != 75 ]; then exit "$1"; fi
    job=$(scontrol show job "$id")
    comment=$(sed -n 's/^ *Comment=\(.*[^ ]\) *$/\1/p;T;q' <<<"$job")
    shopt -s extglob
    before=$(grep -o 'vaecf-stalled=[0-9]*' <<<"$comment")
    if ! may_go_on "${SLURM_RESTART_COUNT:-0}" "${before#*=}"; then exit 75; fi
    if [ $stalled -gt 0 ] || [ -n "$before" ]; then
        comment=${comment/?( )vaecf-stalled=+([0-9])/}
        scontrol update JobId="$id" Comment="${comment:+$comment }vaecf-stalled=$stalled"
    fi
    clean_up # Slurm ends this script
    # A job that was cancelled stays so; Slurm would take one that still ends back into the queue.
    if scontrol show job "$id" | grep -q 'JobState=RUNNING' && say "$stopped; back into the queue" && scontrol requeue "$id"; then
        sleep 60
    fi
    exit 75
}
