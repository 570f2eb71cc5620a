#!/bin/bash
# jobs/slurm/train.sh with pretended srun, mpirun and scontrol: what it starts, when it requeues, what it returns.
# (tests/slurm_test.sh has a real Slurm, where there is one.)
# shellcheck source=tests/common.sh
. tests/common.sh

check() { # check TEXT CONDITION...
    local text=$1
    shift
    if "$@"; then echo "ok - $text"; else echo "not ok - $text"; failed=1; cat "$tmp/out"; fi
}
# shellcheck disable=SC2317  # called by check
has() { grep -qF -- "$1" "$tmp/$2"; }
# shellcheck disable=SC2317
lacks() { ! grep -qF -- "$1" "$tmp/$2"; }

mkdir -p "$tmp/fake" "$tmp/a project/bin" "$tmp/a project/jobs"
cp -r jobs/. "$tmp/a project/jobs/"
printf '#!/bin/bash\n' >"$tmp/a project/bin/vaecf-train"
# The launchers write down their arguments and threads, obey USR1 and exit as $SCRIPT says.
cat >"$tmp/fake/mpirun" <<'E'
#!/bin/bash
if [ "$1" = --version ]; then echo "mpirun (Open MPI) 4.1.4"; exit; fi
shown=()
for word; do if ! [[ $word =~ ^[A-Z_]+= ]]; then shown+=("$word"); else export "${word?}"; fi; done # but for what rank.sh gets
echo "$(basename "$0") ${shown[*]} threads=$OMP_NUM_THREADS" >>"$TMP_LOG/started"
printf '%s\n' "$@" >"$TMP_LOG/words"
echo "$VAECF_JOB $VAECF_START" >>"$TMP_LOG/identity"
case $SCRIPT in
crash*) echo >>"$TMP_LOG/crashes" && [ "$(wc -l <"$TMP_LOG/crashes")" -gt "${SCRIPT#crash-}" ] || exit 139 ;;
slowly) echo 50.5 >"$VAECF_SAVED" && exit 75 ;;
saved) echo 1.5 >"$VAECF_SAVED" && exit 75 ;;
until-usr1) trap 'echo told >>"$TMP_LOG/started"; exit 75' USR1; echo up >"$TMP_LOG/up"
    for _ in $(seq 200); do sleep 0.05; done; exit 70 ;;
*) exit "$SCRIPT" ;;
esac
E
cat >"$tmp/fake/srun" <<'E'
#!/bin/bash
if [ "$1" = --mpi=list ]; then echo "MPI plugin types are..."; echo "	$PLUGINS"; exit; fi
. "$(dirname "$0")/mpirun"
E
cat >"$tmp/fake/scontrol" <<'E'
#!/bin/bash
if [ "$*" = "show config" ]; then echo "TaskPlugin              = task/affinity,task/cgroup"
elif [ "$1" = show ]; then
    if [ -z "${END:-}" ]; then echo none >"$TMP_LOG/end"; fi
    if [ ! -e "$TMP_LOG/end" ]; then date -d "$END" +%FT%T >"$TMP_LOG/end"; fi
    echo "   JobState=$STATE Reason=None"
    echo "   StartTime=2026-11-26T00:00:00 EndTime=$(cat "$TMP_LOG/end") Deadline=N/A"
    echo "   OverSubscribe=$SHARE Contiguous=0 Licenses=(null) Network=(null)"
    if [ -e "$TMP_LOG/comment" ]; then echo "   Comment=$(cat "$TMP_LOG/comment")"; fi
    echo "   Command=$PROJECT/jobs/slurm/train.sh my.yaml"
elif [ "$1" = update ]; then
    echo "$*" >>"$TMP_LOG/updated"
    sed 's/.*Comment=//' <<<"$*" >"$TMP_LOG/comment"
else echo "$*" >>"$TMP_LOG/requeued"; kill "$PPID"; fi
E
# A script that is back in the queue waits for its end, which comes at once here.
cat >"$tmp/fake/sleep" <<'E'
#!/bin/bash
[ "$1" = 60 ] || exec /bin/sleep "$@"
E
cp "$tmp/fake/mpirun" "$tmp/fake/mpiexec"
chmod +x "$tmp/fake/"* "$tmp/a project/bin/vaecf-train"

export PATH="$tmp/fake:$PATH" TMP_LOG=$tmp PROJECT="$tmp/a project"
export SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$tmp/a project" SLURM_CPUS_PER_TASK=3 SLURM_NTASKS=4 SLURM_NNODES=2
export SLURM_JOB_NODELIST='n[1-2]'
export PLUGINS=pmix SHARE=OK STATE=RUNNING SCRIPT=0 SLURM_RESTART_COUNT=0

run() {
    rm -f "$tmp/started" "$tmp/requeued" "$tmp/up" "$tmp/out" "$tmp/end" "$tmp/words"
    touch "$tmp/requeued"
    timeout 60 bash "$tmp/a project/jobs/slurm/train.sh" "$@" >"$tmp/out" 2>&1
    status=$?
}

run my.yaml --set train.epochs=5
check "complete: status 0" [ "$status" = 0 ]
check "srun with pmix, the configuration and the settings" \
    has "srun --mpi=pmix --kill-on-bad-exit=1 --cpus-per-task=3 --cpu-bind=cores $PROJECT/jobs/rank.sh vaecf-train --config my.yaml --set train.epochs=5 --resume auto threads=3" started
check "not requeued" lacks requeue requeued
SLURM_RESTART_COUNT=1 run
SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=2 SLURM_CLUSTER_NAME=big VAECF_JOB=old VAECF_START=old run
check "the ranks know the job, with its array's task and cluster" \
    [ "$(cut -d' ' -f1 "$tmp/identity" | paste -sd' ')" = "7 7 5_2@big" ]
check "and each start has another name" [ "$(cut -d' ' -f2 "$tmp/identity" | sort -u | grep -vc '^old')" = 3 ]

PLUGINS=none run
check "mpirun where srun has no pmix, a configuration by default" \
    has "mpirun -n 4 --bind-to none $PROJECT/jobs/rank.sh vaecf-train --config $PROJECT/jobs/configs/ml-20m.yaml --resume auto" started

VAECF_LAUNCH="mpiexec --depth 3" VAECF_HOME=$PROJECT run
check "other words start the ranks" has "mpiexec --depth 3 " started

VAECF_LAUNCH=mpirun VAECF_BIND=none run
check "mpirun unbound" has "mpirun -n 4 --bind-to none " started

# shellcheck disable=SC2016
echo 'echo "site $EMPTY"' >"$PROJECT/jobs/site.sh"
run
check "jobs/site.sh is read" has "site " out
rm "$PROJECT/jobs/site.sh"

# shellcheck disable=SC2016
gpu() { env -u SLURM_JOB_ID "$@" "$PROJECT/jobs/rank.sh" sh -c 'echo "got $CUDA_VISIBLE_DEVICES"' >"$tmp/out"; }
gpu CUDA_VISIBLE_DEVICES=4,GPU-abc OMPI_COMM_WORLD_LOCAL_RANK=3 OMPI_COMM_WORLD_RANK=7
check "the GPU by local rank" has ", GPU GPU-abc" out
check "told by the rank" has "rank 7 on" out
check "all stay visible: the program chooses" grep -qx "got 4,GPU-abc" "$tmp/out"
gpu CUDA_VISIBLE_DEVICES= SLURM_LOCALID=1
check "no GPU" has "GPU none" out

SCRIPT=65 run
check "a failure keeps its status and is not requeued" [ "$status$(cat "$tmp/requeued")" = 65 ]

SCRIPT=crash-2 run
check "a crash while MPI starts: started again" [ "$status $(wc -l <"$tmp/started")" = "0 3" ]
rm "$tmp/crashes"
SCRIPT=crash-9 run
check "not for ever" [ "$status $(wc -l <"$tmp/started")" = "139 3" ]

SCRIPT=75 run
check "75 is requeued" has "requeue 7" requeued

check "a start without progress is counted" [ "$(cat "$tmp/comment")" = "vaecf: 1 0" ]
echo "mine vaecf: 1 45" >"$tmp/comment"
SCRIPT=75 run
check "beside what the comment says" [ "$(cat "$tmp/comment")" = "mine vaecf: 2 45" ]
SCRIPT=75 run
check "the third in a row ends it" [ "$status$(cat "$tmp/requeued")" = 75 ]
check "and says why" has "no progress in 3 starts" out
SCRIPT=saved run
check "a save further on is progress" [ "$(cat "$tmp/comment")" = "mine vaecf: 0 2" ]
check "with which it goes on" has "requeue 7" requeued
check "and nothing of it stays" [ -z "$(find . "$PROJECT" -maxdepth 1 -name '.vaecf-saved*')" ]
SCRIPT=slowly run
check "and how long the slowest save took" [ "$(cat "$tmp/comment")" = "mine vaecf: 0 51" ]
rm "$tmp/comment" "$tmp/updated"
SCRIPT=slowly run
check "also without a comment before" [ "$(cat "$tmp/comment")" = "vaecf: 0 51" ]
rm "$tmp/comment" "$tmp/updated"
SCRIPT=saved run
check "the usual stop leaves the comment alone" [ ! -e "$tmp/updated" ]

SCRIPT=75 SLURM_RESTART_COUNT=20 run
check "the cap on restarts" [ "$status$(cat "$tmp/requeued")" = 75 ]

SCRIPT=75 STATE=COMPLETING run
check "a cancelled job is not requeued" [ "$status$(cat "$tmp/requeued")" = 75 ]

rm -f "$tmp/up"
(
    for _ in $(seq 100); do [ -e "$tmp/up" ] && break; sleep 0.05; done
    kill -USR1 "$(cat "$tmp/pid")"
) &
rm -f "$tmp/started" "$tmp/requeued"
touch "$tmp/requeued"
# shellcheck disable=SC2016
SCRIPT=until-usr1 bash -c 'echo $$ >"$1"; exec bash "$2"' - "$tmp/pid" "$tmp/a project/jobs/slurm/train.sh" >"$tmp/out" 2>&1
check "USR1 reaches the program" has told started
check "and the job goes back into the queue" has "requeue 7" requeued

# A signal before any of the commands that start the program and wait for it; also to a program that is deaf at first, as
# a launcher is that still starts its ranks.
cat >"$tmp/program" <<'E'
if [ "$1" = 1 ]; then trap "" USR1 && /bin/sleep 0.1; fi
trap "exit 75" USR1
for _ in {1..100}; do /bin/sleep 0.05; done
exit 70
E
cat >"$tmp/signal.sh" <<'E'
# signal.sh N DEAF: SIGUSR1 before the Nth command of `start`; tells what became of the program, and which command it was
. "$PROJECT/jobs/common.sh" >/dev/null
n=0 came=none
before() { # before N
    if [ $BASHPID != $$ ] || [[ " ${FUNCNAME[*]:1} " != *" start "* ]] || ((++n != $1)); then return; fi
    came=$BASH_COMMAND
    kill -USR1 $$
}
set -T
wanted=$1
trap 'before "$wanted"' DEBUG
start bash "$TMP_LOG/program" "$2" >/dev/null
status=$?
trap - DEBUG
echo "$status $came"
E
cat >"$tmp/fake/sleep" <<'E'
#!/bin/bash
case $1 in 10) set -- 0.2 ;; 60) exit ;; esac
exec /bin/sleep "$@"
E
: >"$tmp/out"
for ((n = 1; n < 60; n++)); do
    for deaf in 0 1; do timeout 60 bash "$tmp/signal.sh" $n $deaf >>"$tmp/out" 2>&1; done
    if has ' wait ' out; then break; fi
done
check "a signal at any moment of a start stops the program" [ "$(grep -c '^75 ' "$tmp/out")" = $((n * 2)) ]
check "also the moment when it runs but is not known yet" has '75 child=$!' out

# ---- the timer ahead of the limit ----
rm -f "$tmp/comment"
begin=$SECONDS
SCRIPT=until-usr1 END='now + 6 seconds' run
check "told at half of a short time, not at once" [ $((SECONDS - begin)) -ge 2 ]
check "by the script itself" has told started
check "and the job goes on" has "requeue 7" requeued
check "and ends" [ "$status" = 75 ]
VAECF_AHEAD=soon run
check "VAECF_AHEAD: want a number" [ "$status" = 64 ]

# ---- which cores ----
SHARE=OK run
check "a node that others may use" grep -qx VAECF_WHOLE_NODE=no "$tmp/words"
SHARE=NO run
check "a node of the job's own" grep -qx VAECF_WHOLE_NODE=yes "$tmp/words"
VAECF_BIND=all run
check "VAECF_BIND: want none or cores" [ "$status" = 64 ]
NCCL_DEBUG=INFO UCX_TLS='a b' CUDA_VISIBLE_DEVICES=1 run
check "the environment goes to all nodes" grep -qx "UCX_TLS=a b" "$tmp/words"
check "without what is one node's" [ "$(grep -c CUDA_VISIBLE_DEVICES "$tmp/words")" = 0 ]
# rank LOCAL-RANK LOCAL-SIZE NAME=VALUE...: of one thread; the cores that it gets, and OpenMP's binding
# shellcheck disable=SC2016
rank() {
    env -u SLURM_JOB_ID OMPI_COMM_WORLD_LOCAL_RANK="$1" OMPI_COMM_WORLD_LOCAL_SIZE="$2" "$PROJECT/jobs/rank.sh" OMP_NUM_THREADS=1 "${@:3}" \
        sh -c 'echo "$(sed -n "s/^Cpus_allowed_list:\s*//p" /proc/self/status) $OMP_PROC_BIND"' >"$tmp/out"
    tail -n 1 "$tmp/out"
}
online=$(cat /sys/devices/system/cpu/online) mine=$(sed -n 's/^Cpus_allowed_list:\s*//p' /proc/self/status)
first=${mine%%[-,]*} last=${mine##*[-,]}
if [ "$online" != "$mine" ] || [ "$first" = "$last" ]; then
    echo "skipped: binding of ranks to cores: takes all of a machine of two cores or more"
else
    check "where other jobs may be no rank is bound" [ "$(rank 0 2 VAECF_WHOLE_NODE=no)" = "$mine false" ]
    check "and says so" has "not bound" out
    check "VAECF_BIND=none: not bound, nor by OpenMP" [ "$(rank 0 2 VAECF_WHOLE_NODE=yes VAECF_BIND=none)" = "$mine false" ]
    one=$(rank 0 2 VAECF_WHOLE_NODE=yes) other=$(rank 1 2 VAECF_WHOLE_NODE=yes)
    check "on a node of the job's own each rank has cores" [ "${one#* } ${other#* }" = "close close" ]
    check "of its own" [ "$one" != "$other" ]
    check "of which the first rank has the first" [ "${one%%[-, ]*}" = "$first" ]
    check "VAECF_BIND=cores: also where others may be" [ "$(rank 1 2 VAECF_WHOLE_NODE=no VAECF_BIND=cores)" = "$other" ]
    check "more threads than cores: not bound" [ "$(rank 0 1000 VAECF_WHOLE_NODE=yes)" = "$mine false" ]
    check "a launcher that binds is left alone" [ "$(rank 0 2 VAECF_BIND=launcher)" = "$mine close" ]
    check "a job that may use a part of the machine is bound to it" \
        [ "$(taskset -c "$last" bash -c "$(declare -f rank); tmp='$tmp' PROJECT='$PROJECT'; rank 0 1 VAECF_WHOLE_NODE=no")" = "$last close" ]
fi

chmod -x "$tmp/a project/bin/vaecf-train"
run
check "no program: 66 and what to do" [ "$status" = 66 ]
exit "$failed"
