# Sourced by the scripts beside it: the allocation that PBS gave, its limit, and how a job goes on.
#
# What is special about PBS: a job starts in $HOME and without your modules (jobs/site.sh loads them). Users may not
# qrerun, so a job that was stopped submits its continuation. qdel and qsig reach all of the job's processes, and with its
# login shell the job ends: only a timer of its own can tell it to save and go on. Ids may have brackets, 12[3].server: quoted.
# shellcheck shell=bash
# Settings besides those of jobs/common.sh, given by qsub -v:
#   VAECF_ARGS     the arguments: what jobs/pbs/args prints, or quoted as on a command line, as far as qsub lets quotes alone
#   VAECF_THREADS  a rank, where PBS_NODEFILE has a line a core (Torque): fewer ranks
#   VAECF_QSUB     what submits the continuation: "qsub -P project"
job_began=$(date +%s)
# A continuation has all of its variables in this one: -v takes no quotes.
inherited=()
while IFS= read -r -d '' pair; do export "${pair?}" && inherited+=("${pair%%=*}"); done < <(base64 -d <<<"${VAECF_CONTINUE:-}")
# shellcheck source=jobs/common.sh
. "$jobs/common.sh" || exit 66
cd "${PBS_O_WORKDIR:?submit me with qsub}" || exit 66
restarts=${VAECF_RESTARTS:-0}
if [[ ${VAECF_ARGS:-} == base64:* ]]; then
    mapfile -d '' -t arguments < <(base64 -d <<<"${VAECF_ARGS#base64:}")
    set -- "${arguments[@]}"
elif [[ ${VAECF_ARGS:-} =~ \\[[:alnum:]]|[^\\]\\$ ]]; then # as qsub -v makes of "a b"
    fail 64 "VAECF_ARGS: qsub damaged its quotes, it came as $VAECF_ARGS; submit by qsub -v \"\$(jobs/pbs/args ...)\""
elif [ -n "${VAECF_ARGS:-}" ]; then
    eval "set -- $VAECF_ARGS" || fail 64 "VAECF_ARGS: not words as on a command line: $VAECF_ARGS"
fi
given=("$@")

# ask ID: what qstat -f tells about a job, a line an attribute. Long values go on in lines behind a tab, those with line ends
# in lines behind nothing.
ask() {
    timeout 60 qstat -f "$1" 2>/dev/null | awk '
        NR == 2 && /^\t/ { slurm = 1 } slurm { sub(/^\t/, "    ") } # its qstat
        /^    [A-Za-z_][A-Za-z0-9_.]* = / { printf "%s%s", end, $0; end = "\n"; next }
        /^\t/ { printf "%s", substr($0, 2); next } end && NF { printf " %s", $0 } END { print "" }'
}
# value NAME: of such a text
value() { awk -v start="$1 = " '{ sub(/^ +/, "") } index($0, start) == 1 { print substr($0, length(start) + 1); exit }'; }
about=$(ask "$PBS_JOBID")

# hosts: of the job, a line each, with its cores there: exec_vnode is (n1:ncpus=4:ngpus=1)+(n2:ncpus=4)
hosts() {
    value exec_vnode <<<"$about" | tr -d '()' | tr '+' '\n' |
        awk -F: '{ for (i = 2; i <= NF; i++) if ($i ~ /^ncpus=/) n[$1] += substr($i, 7) } END { for (h in n) print h, n[h] }'
}
# is_alone: has the job all of its nodes to itself?
is_alone() {
    local place host has all sharing
    place=$(value Resource_List.place <<<"$about")
    if [[ $place == *excl* ]]; then return 0; fi
    all=$(hosts)
    while read -r host has; do
        all=$(timeout 60 pbsnodes "${host:-none}" 2>/dev/null) || return 1
        sharing=$(value sharing <<<"$all")
        if [[ $sharing == force_excl* ]] || [[ $sharing == default_excl* && $place != *shared* ]]; then continue; fi
        if [ "$(value resources_available.ncpus <<<"$all")" != "$has" ]; then return 1; fi
    done <<<"$all"
}

# A line of the node file is a rank (mpiprocs); of Torque's, a core.
if [ -n "${VAECF_THREADS:-}" ]; then
    thinned=$(mktemp) && awk -v t="$VAECF_THREADS" 'n[$1]++ % t == 0' "$PBS_NODEFILE" >"$thinned"
    PBS_NODEFILE=$thinned
    left_over+=("$thinned")
fi
ranks=$(wc -l <"$PBS_NODEFILE")
cores=$(value Resource_List.ncpus <<<"$about")
export VAECF_WHOLE_NODE=no
if is_alone; then VAECF_WHOLE_NODE=yes; fi
VAECF_NCPUS=$(hosts | sort -k 2n | tail -n 1 | cut -d' ' -f2)
if [ -n "$VAECF_NCPUS" ]; then export VAECF_NCPUS; fi
place "$(sort -u "$PBS_NODEFILE" | wc -l)" "$ranks" "${VAECF_THREADS:-$((${cores:-0} > ranks ? cores / ranks : 1))}"
identify "$PBS_JOBID"
describe "$PBS_JOBID" $((restarts + 1)) "$(sort -u "$PBS_NODEFILE" | paste -sd,)"

# limit_end: when the walltime is over, in seconds since 1970; nothing without a limit
limit_end() {
    { ask "$PBS_JOBID" && echo "$about"; } | value Resource_List.walltime |
        awk -F: -v began="$job_began" 'NF == 3 { printf "%d\n", began + $1 * 3600 + $2 * 60 + $3 }'
}

# ---- how a job goes on ----

# options_again: sets `options`, with which qsub asks for what this job was given
options_again() {
    local option name text value
    options=(-q "${PBS_O_QUEUE:-$(value queue <<<"$about")}")
    while read -r option name text; do
        value=$(value "$name" <<<"$about")
        case $name=$value in
        *= | project=_pbs_project_default | Priority=0) continue ;;
        Rerunable=True) value=y ;;
        Rerunable=False) value=n ;;
        Output_Path=* | Error_Path=*) # the log of each start has a name of its own
            if [[ $value == *"/$(value Job_Name <<<"$about")".[oe]* ]]; then continue; fi
            value=${value//^array_index^/${PBS_ARRAY_INDEX:-}}
            if [[ $value != */ ]]; then value=${value%.start-*}.start-$((restarts + 2)); fi
            ;;
        esac
        options+=("-$option" "$text$value")
    done <<'LIST'
N Job_Name
A Account_Name
P project
p Priority
m Mail_Points
M Mail_Users
o Output_Path
e Error_Path
j Join_Path
k Keep_Files
r Rerunable
S Shell_Path_List
W umask umask=
W group_list group_list=
LIST
    # Sums over the chunks are refused beside them.
    while read -r name value; do options+=(-l "$name=$value"); done < <(sed -n 's/^    Resource_List\.\([^ ]*\) = /\1 /p' <<<"$about" | awk '
        { name[NR] = $1; value[$1] = substr($0, length($1) + 2) }
        END {
            n = split(value["select"], chunk, /[+:]/)
            for (i = 1; i <= n; i++) if (sub(/=.*/, "", chunk[i])) sum[chunk[i]]
            if ("nodes" in value) { sum["select"]; sum["place"] }
            if ("select" in value || "nodes" in value) { sum["ncpus"]; sum["mem"]; sum["mpiprocs"]; sum["ngpus"] }
            if ("min_walltime" in value) sum["walltime"]
            sum["nodect"]; sum["neednodes"]
            for (i = 1; i <= NR; i++) if (!(name[i] in sum)) print name[i], value[name[i]]
        }')
}

# variables_again: VAECF_CONTINUE for the next job: what this one got by -v, and its arguments
variables_again() {
    local name unwanted='PBS_.*|VAECF_(CONTINUE|JOB|START|SAVED|WHOLE_NODE|NCPUS)|HOME|PWD|OLDPWD|SHLVL|_|TMPDIR|NCPUS|OMP_NUM_THREADS|CUDA_VISIBLE_DEVICES'
    if [ ${#given[@]} -gt 0 ]; then export VAECF_ARGS && VAECF_ARGS=base64:$(printf '%s\0' "${given[@]}" | base64 -w 0); fi
    {
        compgen -e | grep '^VAECF_'
        printf '%s\n' "${inherited[@]}"
        value Variable_List <<<"$about" | grep -oE '(^|,)[A-Za-z_][A-Za-z0-9_]*=' | tr -d ',='
    } | sort -u | grep -vE "^($unwanted)?\$" | while read -r name; do
        if [ -n "${!name+set}" ]; then printf '%s=%s\0' "$name" "${!name}"; fi
    done | base64 -w 0
}

# submit_again SCRIPT: sets `next`, the continuation's id. The server may be away for a while.
submit_again() {
    local command said end
    end=$(limit_end)
    end=$((${end:-$(date +%s) + 600} - 5))
    read -ra command <<<"${VAECF_QSUB:-qsub}"
    command+=("${options[@]}" -v "VAECF_CONTINUE=$(variables_again)${VAECF_HOME:+,VAECF_HOME}" "$jobs/pbs/$1")
    while [ "$told" != TERM ]; do
        # ends with an id also if the job is deleted now; sites have it say more
        said=$(trap '' TERM && timeout 60 "${command[@]}" 2>&1)
        next=$(grep -oE '^[0-9]+(\.[^ ]*)?$' <<<"$said" | tail -n 1)
        if [ -n "$next" ]; then return; fi
        say "qsub: $said"
        if [ "$(date +%s)" -ge $end ]; then
            echo "qsub did not take the continuation; submit the job again to go on" >&2
            exit 75
        fi
        sleep 5
    done
    exit 75
}

# ids DEPEND TYPE: of the jobs in a text as beforeok:13.server@server:14.server@server,beforeany:15.server@server
ids() { tr ',' '\n' <<<"$1" | sed -n "s/^$2://p" | tr ':' '\n' | sed -n 's/^\([0-9][^@]*\).*/\1/p'; }

# move_dependent JOB TYPE: has it wait for `next` too, instead of this job; beside an array, of which this is but a part
move_dependent() {
    local text waits id
    for _ in 1 2 3 4 5; do
        text=$(ask "$1")
        if [ -z "$text" ]; then sleep 2 && continue; fi # no server, or no such job any longer
        waits=$(ids "$(value depend <<<"$text")" "after$2")
        if grep -qxF "$next" <<<"$waits"; then
            echo "job $1 waits for it too"
            return
        fi
        if ! grep -qxF "$waited_for" <<<"$waits"; then return; fi
        # qalter replaces the list of this type alone
        waits=$(for id in $waits; do
            if [ "$id" != "$waited_for" ] || [[ $id == *\[\]* ]]; then echo "$id"; fi
            if [ "$id" = "$waited_for" ]; then echo "$next"; fi
        done | paste -sd:)
        timeout 60 qalter -W "depend=after$2:$waits" "$1" || sleep 2
    done
    timeout 60 qhold "$1"
    echo "job $1 could not be told to wait for job $next: it is held; after that one: qrls $1" >&2
}

# move_dependents: all that wait for this job, or for its array, wait for `next`. Sets `kept`: how this job has to end for
# the server to leave them alone, which (OpenPBS 23) still judges those that were moved by it.
move_dependents() {
    local type job depend
    waited_for=${PBS_JOBID/\[*\]/[]}
    job=$HOME # jobs of this user may move the same dependent at the same time
    if [ ! -w "$job" ]; then job=$PWD; fi
    { exec 9>>"$job/.vaecf-qalter.lock" && flock -w 60 9; } 2>/dev/null
    for type in ok any notok; do
        for job in $(ids "$(ask "$waited_for" | value depend)" "before$type"); do move_dependent "$job" "$type"; done
    done
    exec 9>&-
    depend=$(ask "$waited_for" | value depend)
    kept=75
    if [ -n "$(ids "$depend" beforeok)" ]; then kept=0 && warn_of "$depend"; fi
}
warn_of() { # warn_of DEPEND: of those that wait for a job by afterok and by afternotok one half cannot be kept
    if [ -z "$(ids "$1" beforeok)" ] || [ -z "$(ids "$1" beforenotok)" ]; then return; fi
    echo "warning: $(ids "$1" beforenotok | paste -sd' '): wait for this job by afternotok, and others by afterok: when it goes" \
        "on as another job, PBS deletes the first ones" >&2
}

# continue_or_exit STATUS SCRIPT: stopped ahead of the limit, SCRIPT is submitted again with the same resources.
# After a SIGTERM (qdel, or the server requeues the job itself) it is not.
continue_or_exit() {
    local options next kept waited_for now
    if [ "$1" != 75 ] || [ "$told" != USR1 ]; then exit "$1"; fi
    if ! may_go_on "$restarts" "${VAECF_STALLED:-0}"; then exit 75; fi
    now=$(ask "$PBS_JOBID")
    if [ -n "$now" ]; then about=$now; fi # it may have been altered
    export VAECF_RESTARTS=$((restarts + 1)) VAECF_STALLED=$stalled VAECF_SLOWEST_SAVE
    VAECF_SLOWEST_SAVE=$(cat "$VAECF_SAVED" 2>/dev/null || echo "${VAECF_SLOWEST_SAVE:-}")
    options_again
    submit_again "$2"
    say "$stopped; goes on as job $next"
    move_dependents
    if [ "$told" = TERM ]; then timeout 60 qdel "$next"; fi # deleted meanwhile
    exit "$kept"
}
