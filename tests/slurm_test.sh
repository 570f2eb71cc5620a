#!/bin/bash
# jobs/slurm/train.sh with pretended srun, mpirun and scontrol: what it starts, when it requeues, what it returns.
set -u
tmp=$(mktemp -d) || exit 71
trap 'rm -rf "$tmp"' EXIT
failed=0

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
cp -r jobs/slurm "$tmp/a project/jobs/"
printf '#!/bin/bash\n' >"$tmp/a project/bin/vaecf-train"
# The launchers write down their arguments and threads, obey USR1 and exit as $SCRIPT says.
cat >"$tmp/fake/mpirun" <<'E'
#!/bin/bash
echo "$(basename "$0") $* threads=$OMP_NUM_THREADS" >>"$TMP_LOG/started"
case $SCRIPT in
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
if [ "$1" = show ]; then echo "   JobState=$STATE Reason=None"; else echo "$*" >>"$TMP_LOG/requeued"; kill "$PPID"; fi
E
chmod +x "$tmp/fake/"* "$tmp/a project/bin/vaecf-train"

export PATH="$tmp/fake:$PATH" TMP_LOG=$tmp
export SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$tmp/a project" SLURM_CPUS_PER_TASK=3 SLURM_NTASKS=2 SLURM_JOB_NODELIST='n[1-2]'
export PLUGINS=pmix STATE=RUNNING SCRIPT=0 SLURM_RESTART_COUNT=0

run() {
    rm -f "$tmp/started" "$tmp/requeued" "$tmp/up" "$tmp/out"
    touch "$tmp/requeued"
    timeout 60 bash "$tmp/a project/jobs/slurm/train.sh" "$@" >"$tmp/out" 2>&1
    status=$?
}

run my.yaml --set train.epochs=5
check "complete: status 0" [ "$status" = 0 ]
check "srun with pmix, the configuration and the settings" \
    has "srun --mpi=pmix --kill-on-bad-exit=1 bin/vaecf-train --config my.yaml --set train.epochs=5 --resume auto threads=3" started
check "not requeued" lacks requeue requeued

PLUGINS=none run
check "mpirun where srun has no pmix, a configuration by default" \
    has "mpirun bin/vaecf-train --config jobs/configs/ml-20m.yaml --resume auto" started

SCRIPT=65 run
check "a failure keeps its status and is not requeued" [ "$status$(cat "$tmp/requeued")" = 65 ]

SCRIPT=75 run
check "75 is requeued" has "requeue 7" requeued

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

chmod -x "$tmp/a project/bin/vaecf-train"
run
check "no program: 66 and what to do" [ "$status" = 66 ]
exit "$failed"
