# Shared by the batch scripts in jobs/slurm and jobs/pbs, which source it: where the programs are, how ranks are started
# and bound, how a signal reaches them, the timer ahead of the job's limit. It knows nothing about queues.
#
# Settings, by environment:
#   VAECF_HOME     folder with bin/ and jobs/, if it is not the one that the script was submitted from
#   VAECF_LAUNCH   srun, mpirun, or other words that start the ranks: "mpiexec --cpu-bind depth --depth 8"
#   VAECF_BIND     none: no rank is bound to cores; cores: each to its share of those that it may use, even if other jobs may
#                  use them too. The default binds where they are the job's own; other words that start ranks bind themselves.
#   VAECF_AHEAD    seconds before the limit at which the program is told to save (120); more when a save takes long
#   VAECF_MAX_RESTARTS   how often a job goes on by itself after it was stopped (20)
# jobs/site.sh, if you write one, is read first: `module load openmpi hdf5`, export UCX_..., what your site wants.
# shellcheck shell=bash

# A signal to this script is remembered in `told`, and passed on to the command that runs: as SIGUSR1, at which the ranks
# save and exit 75 (mpirun would kill them on SIGTERM). SIGTERM, by which a job is ended, outweighs others.
told=${told:-} child='' again='' progress=''
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
# pass_on SIGNAL: and again every ten seconds: a launcher that still starts its ranks loses the first one.
pass_on() {
    if [ "$told" != TERM ]; then told=${1:-$told}; fi
    if [ -z "$told" ] || [ -z "$child" ] || [ -n "$again" ]; then return; fi
    while kill -USR1 "$child"; do sleep 10; done >/dev/null 2>&1 &
    again=$!
}

jobs=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -r "$jobs/site.sh" ]; then
    set +u # modules do not bear it
    # shellcheck source=/dev/null
    . "$jobs/site.sh"
    set -u
fi

say() { echo "$(date '+%F %T')  $*"; }
fail() { # fail CODE MESSAGE...
    echo "error: ${*:2}" >&2
    exit "$1"
}

[[ ${VAECF_AHEAD:-0}${VAECF_MAX_RESTARTS:-0} =~ ^[0-9]+$ ]] ||
    fail 64 "VAECF_AHEAD=${VAECF_AHEAD:-}, VAECF_MAX_RESTARTS=${VAECF_MAX_RESTARTS:-}: want whole numbers"
case ${VAECF_BIND:-} in '' | none | cores) ;; *) fail 64 "VAECF_BIND=$VAECF_BIND: want none or cores" ;; esac

# The programs: of the checkout, of the installation that these scripts are a part of, or on the PATH.
for bin in "$jobs/../bin" "$jobs/../../../bin" ""; do
    if [ -x "$bin/vaecf-train" ]; then PATH=$(cd "$bin" && pwd):$PATH && break; fi
done
command -v vaecf-train >/dev/null ||
    fail 66 "no vaecf-train in $(dirname "$jobs")/bin or on the PATH: run make there, or set VAECF_HOME"

# identify JOB: tells the ranks which job this is, and which start of it. By these two the lock that a lost node left in a run
# directory is known to be of an earlier start of this job, and is taken over.
identify() {
    export VAECF_JOB=$1 VAECF_START
    VAECF_START=$(uname -n).$$.$(date +%s)
}

launch=() bind='' guard=()
# place NODES RANKS THREADS: what the allocation gives; sets `launch`, the words that start RANKS ranks in it, and `bind`, how
# rank.sh binds them; `guard`, what keeps signals from the launcher.
place() {
    nodes=$1 ranks=$2 threads=$3
    local how=${VAECF_LAUNCH:-}
    export OMP_NUM_THREADS=$threads
    bind=${VAECF_BIND:-}
    guard=()
    if [ -z "$how" ]; then # srun can start this MPI if both speak PMIx; mpirun reads the allocation itself
        how=mpirun
        if [ -n "${SLURM_JOB_ID:-}" ] && srun --mpi=list 2>&1 | grep -qw pmix; then how=srun; fi
    fi
    case $how in
    srun) # it does not take --cpus-per-task from sbatch since Slurm 22.05
        launch=(srun --mpi=pmix --kill-on-bad-exit=1 "--cpus-per-task=$threads")
        if [ -z "$bind" ] && scontrol show config | grep -qE '^TaskPlugin .*affinity'; then
            launch+=(--cpu-bind=cores)
            bind=launcher
        fi
        ;;
    mpirun)
        launch=(mpirun -n "$ranks")
        if [ -n "${PBS_NODEFILE:-}" ] && [ -z "${SLURM_JOB_ID:-}" ]; then launch+=(--hostfile "$PBS_NODEFILE"); fi
        if mpirun --version 2>&1 | grep -qiE 'open ?mpi|prrte'; then
            launch+=(--bind-to none)
            if [ "$nodes" -gt 1 ]; then reach_nodes; fi
            # On SIGTERM, which qdel sends to all of a job, it would kill the ranks a second later, while they save. (RHEL 8's
            # env cannot block; odls_base_sigkill_timeout is no way: each end with another code than 0 would take as long.)
            if env --block-signal=TERM true 2>/dev/null; then
                guard=(env --block-signal=TERM)
            elif command -v perl >/dev/null; then
                guard=(perl -MPOSIX -e 'sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTERM)); exec @ARGV')
            fi
        else
            export I_MPI_PIN=${I_MPI_PIN:-off} # Intel MPI
        fi
        ;;
    *)
        read -ra launch <<<"$how"
        bind=${bind:-none}
        ;;
    esac
}

# reach_nodes: an Open MPI that does not know PBS reaches its nodes by ssh, which many sites forbid; PBS brings another way.
reach_nodes() {
    if [ -z "${PBS_NODEFILE:-}" ] || [ -n "${SLURM_JOB_ID:-}" ] || ! command -v pbs_tmrsh >/dev/null ||
        { ompi_info --parsable || prte_info --parsable; } 2>/dev/null | grep -q '^mca:plm:tm:'; then
        return
    fi
    PATH=$jobs/pbs:$PATH # in a variable for the agent it may not have blanks
    export OMPI_MCA_plm_rsh_agent=${OMPI_MCA_plm_rsh_agent:-vaecf-tmrsh}
    export PRTE_MCA_plm_ssh_agent=${PRTE_MCA_plm_ssh_agent:-vaecf-tmrsh}
}

# environment: sets `carried`, the variables that rank.sh gets as arguments. What differs from node to node stays out.
environment() {
    local name
    carried=()
    for name in $(compgen -e | grep -E '^(VAECF|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|DNNL|ONEDNN|UCX|FI|NCCL|CUDA|HDF5|MALLOC)_|^(LD_LIBRARY_)?PATH$' |
        grep -vE '^(CUDA_VISIBLE_DEVICES|VAECF_(ARGS|CONTINUE|QSUB|LAUNCH|BIND))$'); do
        carried+=("$name=${!name}")
    done
    carried+=("VAECF_BIND=$bind")
}

# At the end of the job: the timer, and what it leaves in its directory.
timer='' left_over=()
clean_up() {
    if [ -n "$timer" ]; then kill "$timer" 2>/dev/null; fi
    rm -f "${left_over[@]}"
}
trap clean_up EXIT

# watch_limit: sends SIGUSR1 to this script ahead of the job's limit, which `limit_end` tells in seconds since 1970 (nothing:
# no limit): VAECF_AHEAD seconds, or what three saves and 30 s take, but not before half of the time is over. The program
# writes the seconds of its slowest save into the file VAECF_SAVED once it has got further than where it began.
watch_limit() {
    local end
    export VAECF_SAVED=$PWD/.vaecf-saved-$VAECF_START
    left_over+=("$VAECF_SAVED")
    end=$(limit_end)
    if [ -z "$end" ]; then
        echo "the queue tells no time limit: if there is one it comes without a warning, and the last checkpoint counts"
        return
    fi
    tell_ahead $$ "$end" &
    timer=$!
}
tell_ahead() { # tell_ahead SCRIPT END
    local begin save=${VAECF_SLOWEST_SAVE:-} left moved end=$2
    trap 'kill $! 2>/dev/null; exit' TERM
    begin=$(date +%s)
    while :; do
        save=$(cat "$VAECF_SAVED" 2>/dev/null || echo "$save")
        left=$(awk -v half="$(((end - begin) / 2))" -v ahead="${VAECF_AHEAD:-120}" -v save="${save:-0}" 'BEGIN {
            if (save > 0 && ahead < 3 * save + 30) ahead = int(3 * save + 30)
            print ahead < half ? ahead : half }')
        left=$((end - left - $(date +%s)))
        if [ $left -le 0 ]; then
            moved=$(limit_end)
            if [ "${moved:-$end}" -le "$end" ]; then break; fi
            end=$moved left=1
        fi
        sleep $((left > 5 ? 5 : left)) &
        wait $! || exit # ended with the job
    done
    kill -USR1 "$1"
}

# may_go_on RESTARTS STALLED: may the job, stopped, go on by itself? Says why not. Of its RESTARTS the last STALLED made no
# progress; `stalled` becomes their number with this start, `stopped` how it ended.
may_go_on() {
    stalled=0
    stopped="stopped with a checkpoint"
    if [ -z "$progress" ] && [ ! -e "$VAECF_SAVED" ]; then
        stalled=$(($2 + 1))
        # shellcheck disable=SC2034  # the queue's script says it
        stopped="stopped, no further than before"
    fi
    if [ $stalled -ge 3 ]; then
        echo "no progress in 3 starts: from the start to the signal there was no time for a step and a save; submit it" >&2
        echo "again with a longer time limit, or a lower VAECF_AHEAD" >&2
        return 1
    fi
    if [ "$1" -ge "${VAECF_MAX_RESTARTS:-20}" ]; then
        echo "stopped after $1 restarts; submit it again to go on" >&2
        return 1
    fi
}

# start COMMAND...: runs it and returns its exit code; 75, and `began` stays empty, if a signal came before.
start() {
    local status
    began=
    if [ -n "$told" ]; then return 75; fi
    began=yes
    "$@" &
    child=$!
    pass_on "$told" # one that came before the child was known
    wait "$child"
    status=$?
    while [ -n "$told" ] && kill -0 "$child" 2>/dev/null; do wait "$child"; done # a signal ended the wait, not the command
    if [ -n "$told" ]; then
        wait "$child"
        status=$?
        say "SIG$told came and was passed on; exit code $status"
        # it came before the program listened: nothing is lost
        if [ $status = $((128 + $(kill -l USR1))) ]; then status=75; fi
    fi
    child=
    if [ -n "$again" ]; then kill "$again" 2>/dev/null; fi
    again=
    return $status
}

show() { printf '%q ' "$@" && echo; }

# ranks PROGRAM ARGUMENT...: starts it on all ranks, each with its cores; rank.sh tells which. Open MPI over TCP, started by
# srun, crashes in one of some hundred starts, before the program begins (open-mpi/ompi#12495): it is started again then.
ranks() {
    local status tries begin
    for ((tries = 1; ; tries++)); do
        environment
        show "${launch[@]}" "$jobs/rank.sh" "$@"
        begin=$SECONDS
        start "${guard[@]}" "${launch[@]}" "$jobs/rank.sh" "${carried[@]}" "$@"
        status=$?
        if [ $status != $((128 + $(kill -l SEGV))) ] || [ -n "$told" ] || [ $((SECONDS - begin)) -ge 60 ] || [ $tries = 3 ]; then
            return $status
        fi
        say "a rank crashed $((SECONDS - begin)) s after the start, as MPI does at times: started again"
        identify "$VAECF_JOB"
    done
}

# describe JOB START NODES-IN-WORDS: what runs where, for the log
describe() {
    say "job $1, start $2: $ranks ranks of $threads threads on $nodes nodes ($3)"
    echo "modules: ${LOADEDMODULES:-none}; in $PWD; $(vaecf-train --version | head -n 2 | paste -sd ' ')"
}

# evaluate RUN OPTION...: vaecf-evaluate on a run directory's best model and data set. The run's own test.csv is not
# replaced by what is no such table.
evaluate() {
    local run=${1:-} data table=test
    [ -r "$run/config.yaml" ] || fail 66 "'$run': want the run directory of a training, with its config.yaml"
    shift
    data=$(vaecf-sweep --get data.path "$run/config.yaml") || return
    case " $* " in *" --split validation "* | *" --split=validation "*) table=validation ;; esac
    case " $* " in *" --blend "* | *" --blend="*) table=$table-blend ;; esac
    ranks vaecf-evaluate --checkpoint "$run/best.h5" --data "$data" --output "$run/$table.csv" "$@"
}

# sweep SLOT SLOTS RESTARTED FILE OPTION...: trains the runs SLOT, SLOT + SLOTS, ... of a sweep (SLOTS = 0: that one
# alone), each in its own directory; RUN/exit-code tells vaecf-collect how it ended. A failed run does not keep the
# others from their turn; a job that went on by itself (RESTARTED > 0) leaves it as it is, and every job one that another
# job trains. Returns 75 if stopped, else the last failure.
sweep() {
    local k=$1 step=$2 restarted=$3 file=$4 list directories run code before status=0
    shift 4
    list=$(vaecf-sweep "$file" --prepare "$@") || return
    mapfile -t directories <<<"$list"
    if [ "$step" = 0 ]; then step=${#directories[@]}; fi
    if [ "$k" -ge ${#directories[@]} ]; then echo "nothing to do: $file has runs 0 to $((${#directories[@]} - 1))"; fi
    for (( ; k < ${#directories[@]}; k += step)); do
        run=${directories[k]}
        code=$(cat "$run/exit-code" 2>/dev/null)
        if ! [[ $code =~ ^[0-9]+$ ]]; then code=; fi
        if [ "$restarted" = 0 ] || [ "${code:-75}" = 75 ]; then
            say "run $k of ${#directories[@]}: $run"
            before=$(version "$run/exit-code")
            ranks vaecf-train --config "$run/config.yaml" "$@" --resume auto
            code=$?
            if [ -z "$began" ]; then return 75; fi
            if [ "$code" = 73 ] && is_taken "$run" "$before"; then
                say "run $k: another job trains this run: left alone"
                continue
            fi
            # Under its name the file is whole at every moment. One that a refused run found stays.
            if [ "$code" != 73 ] || [ ! -e "$run/exit-code" ]; then
                echo "$code" >"$run/exit-code.$VAECF_START" && mv -f "$run/exit-code.$VAECF_START" "$run/exit-code"
            fi
            say "run $k: exit code $code"
            if [ "$code" != 75 ]; then progress=yes; fi
        fi
        if [ "$code" = 75 ]; then return 75; fi
        if [ "$code" != 0 ]; then status=$code; fi
    done
    return "$status"
}
version() { stat -c '%i %y' "$1" 2>/dev/null; } # of a file: another one has another

# is_taken RUN BEFORE: RUN was refused with 73: does another job train it, or has it ended meanwhile? BEFORE is the version
# of its exit-code when it was begun. The other job leaves its exit code some moments after the lock.
is_taken() {
    local lock now
    for _ in 1 2 3 4 5; do
        for lock in "$1"/lock-*; do
            if [ -e "$lock" ]; then return 0; fi
        done
        now=$(version "$1/exit-code")
        if [ -n "$now" ]; then
            if [ "$now" != "$2" ] || [ "$(cat "$1/exit-code")" = 0 ]; then return 0; fi
            return 1 # the program did not get as far as to remove it
        fi
        sleep 1
    done
    return 1
}
