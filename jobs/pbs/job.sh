# Sourced by the scripts beside it: the allocation that PBS gave, the timer ahead of its limit, and how a job goes on.
#
# What is special about PBS: a job starts in $HOME and without your modules (jobs/site.sh loads them). Users may not
# qrerun, so a job that was stopped submits its continuation. A signal by qsig reaches all of the job, the shell too,
# so a timer of our own tells the program. Ids may have brackets, 12[3].server: always quoted.
# shellcheck shell=bash
# shellcheck source=jobs/common.sh
. "$jobs/common.sh" || exit 66
cd "${PBS_O_WORKDIR:?submit me with qsub}" || exit 66

# Further settings, given by qsub -v:
#   VAECF_ARGS     the arguments, quoted as on a command line
#   VAECF_THREADS  a rank, where PBS_NODEFILE has a line a core (Torque): fewer ranks
#   VAECF_AHEAD    seconds before the limit at which the program is told (120)
#   VAECF_QSUB     what submits the continuation: "qsub -P project"
if [ -n "${VAECF_ARGS:-}" ]; then eval "set -- $VAECF_ARGS"; fi
restarts=${VAECF_RESTARTS:-0}

# attribute NAME [JOB]: as qstat tells it; long values go on in lines behind a tab
attribute() {
    qstat -f "${2:-$PBS_JOBID}" 2>/dev/null | awk -v name="$1" '
        /^[ \t]+[A-Za-z_.]+ = / { on = $1 == name; if (on) { sub(/^[^=]*= /, ""); value = $0 } next }
        on { sub(/^\t/, ""); value = value $0 }
        END { print value }'
}

# A line of the node file is a rank (mpiprocs); of Torque's, a core.
if [ -n "${VAECF_THREADS:-}" ]; then
    thinned=$(mktemp) && awk -v t="$VAECF_THREADS" 'n[$1]++ % t == 0' "$PBS_NODEFILE" >"$thinned"
    PBS_NODEFILE=$thinned
fi
ranks=$(wc -l <"$PBS_NODEFILE")
cores=$(attribute Resource_List.ncpus)
place "$(sort -u "$PBS_NODEFILE" | wc -l)" "$ranks" "${VAECF_THREADS:-$((${cores:-0} > ranks ? cores / ranks : 1))}"
identify "$PBS_JOBID"
describe "$PBS_JOBID" $((restarts + 1)) "$(sort -u "$PBS_NODEFILE" | paste -sd,)"

# Ahead of the limit: SIGUSR1 to this script, which passes it on.
limit=$(attribute Resource_List.walltime | awk -F: 'NF == 3 { print $1 * 3600 + $2 * 60 + $3 }')
if [ -n "$limit" ]; then
    ahead=$((limit > ${VAECF_AHEAD:-120} ? limit - ${VAECF_AHEAD:-120} : 1))
    (
        trap 'kill $! && exit' TERM
        sleep "$ahead" &
        wait $!
        kill -USR1 $$
    ) &
    trap 'kill '$!' 2>/dev/null; rm -f "${thinned:-}"' EXIT
else
    echo "no walltime in qstat -f: the limit will come without a warning; the last checkpoint counts"
fi

# continue_or_exit STATUS SCRIPT: stopped ahead of the limit, SCRIPT is submitted again with the same resources.
# After a SIGTERM (qdel, or the server requeues the job itself) it is not.
continue_or_exit() {
    local options=() option name value next dependent
    if [ "$1" != 75 ] || [ "$told" != USR1 ]; then exit "$1"; fi
    if [ "$restarts" -ge "${VAECF_MAX_RESTARTS:-20}" ]; then
        echo "stopped after $restarts restarts; submit it again to go on" >&2
        exit 75
    fi
    while read -r option name; do
        value=$(attribute "$name")
        if [ -z "$value" ] || [ "$value" = _pbs_project_default ]; then continue; fi
        if [ "$option" = -l ]; then value=${name#*.}=$value; fi
        options+=("$option" "$value")
    done <<'LIST'
-N Job_Name
-q queue
-A Account_Name
-P project
-l Resource_List.select
-l Resource_List.place
-l Resource_List.nodes
-l Resource_List.walltime
LIST
    export VAECF_RESTARTS=$((restarts + 1)) VAECF_HOME=${jobs%/jobs}
    # but for what identify sets anew
    options+=(-v "$(compgen -v VAECF_ | grep -vxE 'VAECF_(JOB|START)' | paste -sd,)")
    # shellcheck disable=SC2086  # VAECF_QSUB is words
    next=$(${VAECF_QSUB:-qsub} "${options[@]}" "$jobs/pbs/$2") || fail 75 "qsub did not take the continuation; submit it again: $next"
    say "stopped with a checkpoint; goes on as job $next"
    # Jobs that wait for the success of this one wait for that of the next.
    for dependent in $(attribute depend | tr ',' '\n' | sed -n 's/^beforeok://p' | tr ':' '\n'); do
        qalter -W "depend=afterok:$next" "${dependent%@*}" && echo "job ${dependent%@*} waits for it too"
    done
    exit 75
}
