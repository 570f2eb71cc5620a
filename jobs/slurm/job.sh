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

# What lasts from one start to the next is in the job's comment, behind what the user has there: " vaecf: STALLED SAVE", how
# many starts in a row made no progress, and the seconds of the slowest save.
comment() { scontrol show job "$id" | sed -n 's/^ *Comment=\(.*[^ ]\) *$/\1/p;T;q'; }
[[ $(comment) =~ vaecf:\ ([0-9]+)\ ([0-9]+)$ ]]
stalled_before=${BASH_REMATCH[1]:-0}
VAECF_SLOWEST_SAVE=${BASH_REMATCH[2]:-0}

# requeue_or_exit STATUS: 75 goes back into the queue, anything else is the job's exit code.
requeue_or_exit() {
    local said save=$VAECF_SLOWEST_SAVE
    if [ "$1" != 75 ]; then exit "$1"; fi
    if ! may_go_on "${SLURM_RESTART_COUNT:-0}" "$stalled_before"; then exit 75; fi
    if [ -e "$VAECF_SAVED" ]; then save=$(awk '{ print int($1 + 1) }' "$VAECF_SAVED"); fi
    said=$(comment)
    if [ $stalled -gt 0 ] || [ "$save" -gt 30 ] || [[ $said == *vaecf:* ]]; then # else nothing is to be known
        scontrol update JobId="$id" Comment="$(sed 's/ *vaecf: .*//; s/.$/& /' <<<"$said")vaecf: $stalled $save"
    fi
    clean_up # Slurm ends this script
    # A job that was cancelled stays so; Slurm would take one that still ends back into the queue.
    if scontrol show job "$id" | grep -q 'JobState=RUNNING' && say "$stopped; back into the queue" && scontrol requeue "$id"; then
        sleep 60
    fi
    exit 75
}
