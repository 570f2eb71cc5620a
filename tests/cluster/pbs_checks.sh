#!/bin/bash
# shellcheck disable=SC1003,SC2016  # quotes and backslashes are what is tested; scripts are written here
# Checks of jobs/pbs/ that run alike on a real OpenPBS and on its stand-in (pbs.py): what is pretended here is the programs
# and mpirun, not the queue. Needs qsub, qstat, qalter and qdel on the PATH, a default queue with room for 20 jobs of a core,
# finished jobs in qstat -x, and a place where jobs can write.
#
#   tests/cluster/pbs_checks.sh FOLDER [CASE...]     FOLDER gets "a project" with jobs/ and all that the jobs write
#   JOBS=jobs BIN=bin        the scripts that are checked; where vaecf-sweep is
#   CHECK_ROUTE=feed         a routing queue to a queue that takes jobs from it alone
#   CHECK_AWAY=... CHECK_BACK=...   commands that stop and start the server
# Prints "ok - TEXT" and "not ok - TEXT"; says in which file of the project more is told. A minute on the stand-in.
set -u
here=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mkdir -p "$1" && cd "$1" && pwd) || exit 71
wanted=" ${*:2} "
project="$folder/a project"
mkdir -p "$project/bin" "$project/launch" "$project/log"
cp -r "${JOBS:-$here/jobs}" "$project/jobs"
cp "${BIN:-$here/bin}/vaecf-sweep" "$project/bin/"
cd "$project" || exit 71
unset "${!VAECF_@}"

# A job has few variables: its PATH is made here, as a site does.
printf 'PATH=%q:%q:$PATH\n' "$project/launch" "$(dirname "$(command -v qsub)")" >jobs/site.sh

# The programs. A training takes several starts: in each but the last it goes on until it is told to save. VAECF_FAKE has its
# settings, as words:
#   run=DIRECTORY      of the project, where it keeps its progress
#   starts=3 exit=0    how many starts it takes; how it ends then
#   work=SECONDS       in the last one
#   tell=yes           it tells the job's script by itself, as the timer does at the limit,
#   gate=FILE meet=RUN     once this file is there, and that run has been started as often
#   save=FILE          a save waits for this file
#   stuck=:1:2:        starts that make no progress
#   passing=SECONDS    what a save took, early in the start
cat >bin/vaecf-train <<'END'
#!/bin/bash
if [ "$1" = --version ]; then echo "vaecf-train 0" && exit; fi
run=. starts=1 tell='' gate='' meet='' save='' work=0 exit=0 stuck='' passing=''
for word in ${VAECF_FAKE:-}; do declare "$word"; done
if [[ ${2:-} == */run-*/config.yaml ]]; then run=$(dirname "$2"); fi # of a sweep
mkdir -p "$run" && cd "$run" || exit 73
n=1
while [ -e "start.$n" ]; do n=$((n + 1)); done
printf '%s\0' "$@" >"args.$n"
env -0 >"env.$n"
exec 8<> <(:)
# nap SECONDS: without a process. Bash drops a trap that lasts longer than the read: the signal is heeded behind it.
nap() {
    read -rt "$1" -u 8
    while [ -n "$came" ]; do heed "${came%% *}"; done
}
until_there() { for ((k = 0; k < 600; k++)); do if [ -e "$1" ]; then return; fi; nap 0.1; done; }
script=$PPID # the job's: a copy, named ID.SC
until tr '\0' '\n' <"/proc/$script/cmdline" | grep -q '\.SC$' || [ "$script" -le 1 ]; do
    script=$(awk '$1 == "PPid:" { print $2 }' "/proc/$script/status")
done
progress=$(cat progress 2>/dev/null || echo 0)
saving='' came=''
heed() { # heed SIGNAL
    came=${came#* }
    echo "$1 $(ps -o etimes= -p "$script" | tr -d ' ')" >>"told.$n"
    if [ -n "$saving" ]; then return; fi
    saving=yes
    touch "saving.$n"
    if [ -n "$save" ]; then until_there "../$save"; fi
    if [[ $stuck != *:$n:* ]]; then
        echo $((progress + 1)) >new && mv new progress
        if [ -n "${VAECF_SAVED:-}" ]; then echo 0.1 >"$VAECF_SAVED"; fi
    fi
    exit 75
}
trap 'came+="USR1 "' USR1
trap 'came+="TERM "' TERM
echo "$PBS_JOBID" >"start.new" && mv start.new "start.$n"
if [ $((progress + 1)) -lt "$starts" ]; then
    if [ -n "$passing" ]; then echo "$passing" >"$VAECF_SAVED"; fi
    if [ -n "$gate" ]; then until_there "../$gate"; fi
    if [ -n "$meet" ]; then until_there "../$meet/start.$n"; fi
    if [ -n "$tell" ]; then kill -USR1 "$script"; fi
    for ((k = 0; k < 600; k++)); do nap 0.1; done
    exit 70 # nobody told it
fi
end=$((SECONDS + work))
while [ $SECONDS -lt $end ]; do nap 0.2; done
touch "done"
exit "$exit"
END
cp bin/vaecf-train bin/vaecf-evaluate
cp bin/vaecf-train bin/vaecf-preprocess
# mpirun ends as Open MPI's: on SIGTERM the ranks have a second.
cat >launch/mpirun <<'END'
#!/bin/bash
if [ "$1" = --version ]; then echo "mpirun (Open MPI) 4.1.4" && exit; fi
while [[ $1 != */rank.sh ]]; do shift; done
child='' told=''
pass() {
    told=$1
    if [ -z "$child" ]; then return; fi
    kill "-$told" "$child" 2>/dev/null
    if [ "$told" = TERM ]; then (sleep 1; kill -KILL "$child") 2>/dev/null & fi
}
trap 'pass USR1' USR1
trap 'pass TERM' TERM
"$@" &
child=$!
if [ -n "$told" ]; then pass "$told"; fi
while kill -0 $child 2>/dev/null; do wait $child; done
wait $child
END
printf '#!/bin/bash\nwhile [[ $1 != */rank.sh ]]; do shift; done\nexec "$@"\n' >launch/start-ranks
# A job that depends on others: WHOLE are directories of trainings, each of which should be complete.
cat >mark.sh <<'END'
#!/bin/bash
#PBS -l select=1:ncpus=1:mpiprocs=1
#PBS -l walltime=00:01:00
#PBS -j oe
#PBS -k oed
cd "$PBS_O_WORKDIR" || exit
word=whole
for run in $WHOLE; do if [ ! -e "$run/done" ]; then word=early; fi; done
echo $word >"$PBS_JOBNAME.mark"
END
chmod +x bin/* launch/* mark.sh

# ---- what the cases use ----
ok() { echo "ok - $1"; }
not_ok() { echo "not ok - $1 (${FUNCNAME[2]#case_}: log/${FUNCNAME[2]#case_}, $project/*.o*)"; }
check() { if "${@:2}"; then ok "$1"; else not_ok "$1"; fi; } # check TEXT COMMAND...
is() { [ "$1" = "$2" ] || { echo "# '$1', not '$2'" && false; }; }
exec 8<> <(:)
nap() { read -rt "$1" -u 8; } # without a process
within() { # within SECONDS COMMAND...
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        if [ $SECONDS -ge $end ]; then echo "# $1 s went by: ${*:2}" && return 1; fi
        nap 0.3
    done
    true # and not what the read returned
}
args() { if [ -x jobs/pbs/args ]; then jobs/pbs/args "$@"; else echo "VAECF_ARGS=$*"; fi; }

# All that the cases want to know of the queue is asked for once a moment: "ID NAME STATE EXIT" a line. Names begin with $me.
me=v$$
watch_queue() {
    while [ -e log/watching ] && [ $SECONDS -lt 600 ]; do
        if qstat -xf >log/new 2>/dev/null; then
            awk -v me="$me" 'function tell() { if (index(name, me) == 1) print id, name, state, code }
                /^Job Id: / { tell(); id = $3; name = state = code = "" }
                $1 == "Job_Name" { name = $3 } $1 == "job_state" { state = $3 } $1 == "Exit_status" { code = $3 }
                END { tell() }' log/new >log/table && mv log/table log/queue
        fi
        nap 0.4
    done
}
count() { grep -c "^[^ ]* $me.$1 " log/queue; }                      # of the jobs of that name
codes() { awk -v name="$me.$1" '$2 == name { print $4 }' log/queue | paste -sd' '; }
have_ended() { # have_ended NAME...: the jobs of these names, with their continuations
    local name id its state rest
    local -A seen=()
    while read -r id its state rest; do seen[$its]+=$state; done <log/queue
    for name; do if ! [[ ${seen[$me.$name]:-} =~ ^F+$ ]]; then return 1; fi; done
}
all_end() { within 200 have_ended "$@" || not_ok "its jobs end"; } # all_end NAME...
is_running() { grep -q "^$1 .* R" log/queue; }
log_of() { cat "$me.$1".o* 2>/dev/null; }
says() { log_of "$1" | grep -qE -- "$2" || { echo "# no '$2' in the log of $1" && false; }; }

# train NAME SETTINGS [OPTION...]: submits a training, tells its id
train() {
    qsub -N "$me.$1" -l select=1:ncpus=1:mpiprocs=1 -l walltime=00:05:00 "${@:3}" \
        -v "$(args my.yaml),VAECF_FAKE=run=$1 $2${more:+,$more}" jobs/pbs/train.sh
}
# mark NAME RUNS DEPEND
mark() { qsub -N "$me.$1" -v "WHOLE=$2" -W "depend=$3" mark.sh; }
marked() { cat "$me.$1.mark" 2>/dev/null || echo "not run"; }
variable() { tr '\0' '\n' <"$1" | sed -n "s/^$2=//p"; } # variable FILE NAME: of one line

# ---- dependents ----
case_whole() {
    local t ok any notok
    t=$(train whole "starts=3 tell=yes gate=whole.gate")
    ok=$(mark whole-ok whole "afterok:$t")
    any=$(mark whole-any whole "afterany:$t")
    notok=$(mark whole-notok whole "afternotok:$t")
    mark whole-next whole "afterok:$ok,afterany:$any" >/dev/null
    touch whole.gate
    all_end whole whole-ok whole-any whole-notok whole-next
    check "a training goes on as another job until it is complete" is "$(count whole) $(ls whole/done)" "3 whole/done"
    check "afterok waits for all of it" is "$(marked whole-ok)" whole
    check "afterany too" is "$(marked whole-any)" whole
    check "who waits for these still does" is "$(marked whole-next)" whole
    check "afternotok does not run after a success" is "$(marked whole-notok)" "not run"
    check "the log says that afternotok is lost beside afterok" says whole "${notok%%.*}.*afternotok"
    check "0 as long as the server judges moved jobs by it" is "$(codes whole)" "0 0 0"
}
case_fails() {
    local a b
    a=$(train fails "starts=3 tell=yes gate=fails.gate exit=70")
    b=$(train fails-too "starts=3 tell=yes gate=fails.gate exit=70")
    mark fails-notok fails "afternotok:$a" >/dev/null
    mark fails-any fails "afterany:$a" >/dev/null
    mark fails-ok fails-too "afterok:$b" >/dev/null
    touch fails.gate
    all_end fails fails-too fails-notok fails-any fails-ok
    check "afternotok waits until the training fails at last" is "$(marked fails-notok)" whole
    check "afterany as well" is "$(marked fails-any)" whole
    check "afterok is deleted then" is "$(marked fails-ok)" "not run"
    check "75 where nobody waits by afterok" is "$(codes fails)" "75 75 70"
}
case_several() {
    local a b
    a=$(train several-a "starts=3 tell=yes gate=several.gate meet=several-b")
    b=$(train several-b "starts=3 tell=yes gate=several.gate meet=several-a")
    mark several-ok "several-a several-b" "afterok:$a:$b" >/dev/null
    mark several-mixed "several-a several-b" "afterok:$a,afterany:$b" >/dev/null
    touch several.gate
    all_end several-a several-b several-ok several-mixed
    check "two trainings that stop at the same time both keep whom both are waited for by" is \
        "$(marked several-ok) $(count several-a) $(count several-b)" "whole 3 3"
    check "also in different ways" is "$(marked several-mixed)" whole
}
case_array() {
    local t
    printf 'data: {path: data}\noutput: {path: x}\n' >base.yaml
    printf 'config: base.yaml\noutput: array\nparameters: {train.seed: [1, 2, 3]}\n' >sweep.yaml
    t=$(qsub -N "$me.array" -J 0-2 -l select=1:ncpus=1:mpiprocs=1 -l walltime=00:05:00 \
        -v "$(args sweep.yaml),VAECF_FAKE=starts=3 tell=yes gate=../array.gate" jobs/pbs/sweep.sh)
    mark array-ok "array/run-0000 array/run-0001 array/run-0002" "afterok:$t" >/dev/null
    mark array-any "array/run-0000 array/run-0001 array/run-0002" "afterany:$t" >/dev/null
    touch array.gate
    all_end array array-ok array-any
    check "afterok of an array waits for the jobs that its parts became" is "$(marked array-ok)" whole
    check "afterany too" is "$(marked array-any)" whole
    check "each run was stopped twice" is "$(cat array/run-*/progress | paste -sd' ') $(count array)" "2 2 2 7"
}

# ---- deletion ----
case_deleted() { # by turns with mpirun and another launcher
    local k id names=() left=''
    for k in {00..19}; do
        if [ $((10#$k % 2)) = 0 ]; then more=VAECF_LAUNCH=start-ranks; else more=; fi
        id=$(train "deleted-$k" "starts=9")
        names+=("deleted-$k")
        {
            within 60 is_running "$id"
            if [ $((10#$k / 2 % 3)) != 0 ]; then within 60 test -e "deleted-$k/start.1"; fi
            sleep 0.$((10#$k * 4))
            qdel "$id"
        } &
        nap 0.5
    done
    wait
    all_end "${names[@]}"
    for k in "${names[@]}"; do if [ "$(count "$k")" != 1 ]; then left+=" $k"; fi; done
    check "none of 20 jobs that were deleted at different moments goes on" is "$left" ""
}
case_saving() { # deleted while it saves for the limit
    local run id
    for run in saving-a saving-b; do
        if [ $run = saving-b ]; then more=VAECF_LAUNCH=start-ranks; else more=; fi
        id=$(train $run "starts=9 tell=yes save=$run.saved")
        {
            within 60 test -e "$run/saving.1"
            qdel "$id"
            nap 2 # longer than mpirun gives the ranks by itself
            touch "$run.saved"
        } &
    done
    wait
    all_end saving-a saving-b
    check "a job that is deleted while it saves for its limit does not go on" is "$(count saving-a) $(count saving-b)" "1 1"
    check "what it saves is whole" is "$(cat saving-a/progress saving-b/progress | paste -sd' ')" "1 1"
}

# ---- what goes along ----
case_arguments() {
    local words=(my.yaml --set 'a=b c' --set "it's" '"' 'say "x, y"' 'l1
l2' 'back\slash\' '\\' '$HOME `id`' '[1, 2]' ',' '' '=' 'YSBi+/==' 'naïve Größe' '*' ' ' '#' '-x' 'a;b|c&d' "'a, b'")
    local n
    qsub -N "$me.arguments" -l select=1:ncpus=1:mpiprocs=1 -l walltime=00:05:00 -v \
        "$(args "${words[@]}"),VAECF_FAKE=run=arguments starts=3 tell=yes" jobs/pbs/train.sh >/dev/null
    VAECF_ARGS='my.yaml --set model.hidden=[600,200] --set output.path=x,y' VAECF_FAKE='run=words starts=2 tell=yes' \
        qsub -N "$me.words" -l select=1:ncpus=1:mpiprocs=1 -l walltime=00:05:00 -v VAECF_ARGS,VAECF_FAKE jobs/pbs/train.sh >/dev/null
    all_end arguments words
    printf '%s\0' --config "${words[@]}" --resume auto >arguments/wanted
    for n in 1 2 3; do check "arguments come as they are, start $n" cmp "arguments/wanted" "arguments/args.$n"; done
    printf '%s\0' --config my.yaml --set "model.hidden=[600,200]" --set output.path=x,y --resume auto >words/wanted
    check "the old way, words as on a command line" cmp words/wanted words/args.1
    check "in the next start too" cmp words/wanted words/args.2
}
case_variables() {
    export OTHER="a, \"b\" 'c, d' \\ e
f" SITE='x,y z' VAECF_MINE="p 'q'"
    more=OTHER,SITE,VAECF_MINE,EMPTY= train variables "starts=3 tell=yes" >/dev/null
    all_end variables
    local name n
    for name in OTHER SITE VAECF_MINE EMPTY PBS_O_QUEUE VAECF_HOME; do
        for n in 1 2 3; do grep -z "^$name=" "variables/env.$n" >"variables/$name.$n"; done
    done
    check "other variables that qsub was given go along" is "$(variable variables/env.3 SITE)" "x,y z"
    check "as they came, with quotes, commas and newlines" cmp variables/OTHER.1 variables/OTHER.3
    check "the settings too" cmp variables/VAECF_MINE.1 variables/VAECF_MINE.3
    check "and an empty one" is "$(tr -d '\0' <variables/EMPTY.3)" EMPTY=
    check "the ranks know the job and its start, not the one before" is \
        "$(variable variables/env.3 VAECF_JOB) $(for n in 1 2 3; do variable variables/env.$n VAECF_START; done | sort -u | wc -l)" \
        "$(cat variables/start.3) 3"
}
case_options() {
    local first last
    mkdir -p "the logs"
    first=$(train options "starts=3 tell=yes" -p -7 -m n -M nobody@localhost -o "the logs/" -W umask=027 \
        -W "group_list=$(id -gn)" -P mine -A account -l place=scatter -l cput=10:00:00 -r n)
    all_end options
    last=$(awk -v name="$me.options" '$2 == name { id = $1 } END { print id }' log/queue)
    for name in Job_Name queue Priority Mail_Points Mail_Users umask group_list project Account_Name Rerunable Join_Path \
        Keep_Files Resource_List.select Resource_List.place Resource_List.walltime Resource_List.cput Resource_List.ncpus; do
        check "goes along: $name" same "$first" "$last" "$name"
    done
    check "and the folder of the output: a file a job" is "$(find "the logs" -type f | wc -l)" 3
}
# same ID ID NAME: have both jobs this attribute, and the same?
same() {
    local first
    first=$(qstat -xf "$1" | grep "^ *$3 = ")
    [ -n "$first" ] && is "$(qstat -xf "$2" | grep "^ *$3 = ")" "$first"
}
case_route() {
    if [ -z "${CHECK_ROUTE:-}" ]; then echo "# skipped: no CHECK_ROUTE" && return; fi
    train route "starts=3 tell=yes" -q "$CHECK_ROUTE" >/dev/null
    all_end route
    check "a job of a routing queue goes on by way of it" is \
        "$(count route) $(for n in 1 2 3; do variable route/env.$n PBS_O_QUEUE; done | sort -u)" "3 $CHECK_ROUTE"
}

# ---- the limit, and when not to go on ----
case_limit() {
    local seconds
    train limit "starts=2" -l walltime=00:00:20 >/dev/null
    all_end limit
    seconds=$(sed -n 's/^USR1 //p' limit/told.1)
    echo "# told after $seconds s of 20"
    check "a time limit shorter than the two minutes: told at half of it" test "${seconds:-0}" -ge 8
    check "once, and it goes on" is "$(count limit) $(wc -l <limit/told.1)" "2 1"
}
case_slow() {
    local first second
    more=VAECF_AHEAD=10 train ahead "starts=2" -l walltime=00:00:40 >/dev/null
    more=VAECF_AHEAD=10 train slow "starts=2 passing=1.5" -l walltime=00:00:40 >/dev/null
    all_end ahead slow
    first=$(sed -n 's/^USR1 //p' ahead/told.1) second=$(sed -n 's/^USR1 //p' slow/told.1)
    echo "# told after $first s and $second s of 40"
    check "told VAECF_AHEAD seconds before the limit" test "${first:-0}" -ge 29
    check "earlier if a save took long, but not before half of the time" test "${second:-0}" -ge 18 -a "${second:-99}" -lt 28
}
case_others() { # programs that save nothing
    mkdir -p "others run"
    printf "data:\n  path: data\nmodel:\n" >"others run/config.yaml"
    qsub -N "$me.others-e" -l select=1:ncpus=1:mpiprocs=1 -l walltime=00:00:30 -v \
        "$(args "others run"),VAECF_FAKE=run=others-e work=4" jobs/pbs/evaluate.sh >/dev/null
    qsub -N "$me.others-p" -l select=1:ncpus=1:mpiprocs=1 -l walltime=00:00:30 -v \
        "$(args --input x),VAECF_FAKE=run=others-p work=4" jobs/pbs/preprocess.sh >/dev/null
    all_end others-e others-p
    check "evaluate.sh and preprocess.sh are not told to save" is "$(find others-? -name 'told.*')$(codes others-e) $(codes others-p)" "0 0"
}
case_stuck() {
    local t
    t=$(train stuck "starts=9 tell=yes gate=stuck.gate stuck=:1:2:3:4:5:")
    mark stuck-ok stuck "afterok:$t" >/dev/null
    touch stuck.gate
    train moving "starts=3 tell=yes stuck=:1:2:4:5:" >/dev/null
    all_end stuck stuck-ok moving
    check "three stops without progress: gives up" is "$(count stuck) $(codes stuck | cut -d' ' -f3)" "3 75"
    check "and says why" says stuck "no progress in 3 starts"
    check "who waited for its success does not run" is "$(marked stuck-ok)" "not run"
    check "progress in between counts" is "$(count moving) $(ls moving/done)" "7 moving/done"
}
case_ends() {
    local t
    more=VAECF_MAX_RESTARTS=1 train cap "starts=9 tell=yes" >/dev/null
    t=$(train broken "starts=1 exit=65 gate=ends.gate")
    mark broken-ok broken "afterok:$t" >/dev/null
    all_end cap broken broken-ok
    check "the cap on restarts" is "$(count cap) $(codes cap)" "2 75 75"
    check "and says so" says cap "stopped after 1 restarts"
    check "a failure is not continued, and keeps its exit code" is "$(count broken) $(codes broken)" "1 65"
    check "afterok of it is deleted" is "$(marked broken-ok)" "not run"
}
case_away() { # alone, as no case has a server then
    if [ -z "${CHECK_AWAY:-}" ]; then echo "# skipped: no CHECK_AWAY" && return; fi
    train away "starts=2 tell=yes gate=away.gate" >/dev/null
    within 60 test -e away/start.1
    eval "$CHECK_AWAY"
    touch away.gate
    within 60 test -e away/saving.1
    sleep 2
    eval "$CHECK_BACK"
    all_end away
    check "a server that is away at the limit is asked again" is "$(count away) $(ls away/done)" "2 away/done"
}

# ---- all at once ----
touch log/watching log/queue
watch_queue &
is_wanted() { [ "$wanted" = "  " ] || [[ $wanted == *" $1 "* ]]; }
mapfile -t cases < <(compgen -A function case_ | sed 's/^case_//' | grep -vxE 'limit|slow|others|away')
started=()
for name in limit slow others "${cases[@]}"; do # first those that count on being on time
    if [ "$name" = "${cases[0]}" ] && [ ${#started[@]} -gt 0 ]; then nap 3; fi
    if is_wanted "$name"; then
        "case_$name" >"log/$name" 2>&1 &
        started+=($!)
    fi
done
wait "${started[@]}"
if is_wanted away; then case_away >log/away 2>&1; fi
rm log/watching
wait
for name in "${cases[@]}" limit slow others away; do
    if [ -e "log/$name" ]; then cat "log/$name"; fi
done | tee log/all
! grep -q '^not ok' log/all && grep -q '^ok' log/all
