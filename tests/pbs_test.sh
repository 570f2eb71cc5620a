#!/bin/bash
# jobs/pbs/: tests/cluster/pbs_checks.sh on a stand-in of OpenPBS, and meanwhile, job by job with a pretended qstat, what a job
# finds in its allocation and starts there. (tests/slurm_test.sh has Slurm's qsub; tests/cluster/openpbs.sh a real OpenPBS.)
# JOBS=FOLDER tests other scripts than jobs/.
#
# starts first: the checks take a minute, in which they mostly wait.
# shellcheck source=tests/common.sh
. tests/common.sh
check() { # check TEXT COMMAND...
    if "${@:2}"; then echo "ok - $1"; else echo "not ok - $1" && failed=1 && cat "$tmp/out" "$tmp/queue"; fi
}
# shellcheck disable=SC2317  # called by check
has() { grep -qF -- "$1" "$tmp/$2"; }
scripts=${JOBS:-jobs}

# ---- in a queue ----
checks=
if [ "${BUILD:-build}" = build ]; then # one build is enough
    python3 tests/cluster/pbs.py setup "$tmp/pbs" || exit 71
    trap 'python3 tests/cluster/pbs.py stop "$tmp/pbs"; rm -rf "$tmp"' EXIT
    env PATH="$tmp/pbs/bin:$PATH" JOBS="$scripts" BIN="$bin" CHECK_ROUTE=feed CHECK_AWAY="touch $tmp/pbs/away" \
        CHECK_BACK="rm $tmp/pbs/away" timeout -k 10 600 bash tests/cluster/pbs_checks.sh "$tmp/checks" >"$tmp/checks.log" 2>&1 &
    checks=$!
fi

# ---- job by job ----
project="$tmp/a project"
mkdir -p "$tmp/fake" "$project/bin" "$project/data" "$tmp/home"
cp -r "$scripts" "$project/jobs"
cp "$bin/vaecf-sweep" "$bin/vaecf-preprocess" "$project/bin/"
# the program exits as $SCRIPT says, which may be a code for each run directory
cat >"$project/bin/vaecf-train" <<'E'
#!/bin/bash
if [ "$1" = --version ]; then echo "vaecf-train 0" && exit; fi
echo "vaecf-train $* threads=$OMP_NUM_THREADS pwd=$PWD" >>"$TMP_LOG/started"
echo "VAECF_JOB=$VAECF_JOB PROC_BIND=$OMP_PROC_BIND" >>"$TMP_LOG/started"
[ "$1" != --config ] || run=$(dirname "$2")
if [ -e "$run/exit-code" ]; then echo "found $(cat "$run/exit-code")" >>"$TMP_LOG/started"; fi
case $SCRIPT in
lock) # as the real one does
    mkdir "$run/lock-1" 2>/dev/null || exit 73
    if [ ! -e "$run/test.csv" ]; then rm -f "$run/exit-code"; sleep 0.$((RANDOM % 5)); echo "$VAECF_JOB" >>"$run/test.csv"; fi
    rmdir "$run/lock-1" ;;
locked) touch "$run/lock-1" && exit 73 ;;
over) echo 70 >"$run/new" && mv "$run/new" "$run/exit-code" && exit 73 ;; # the other job's end
run-*) if [[ $* == *${SCRIPT%:*}/* ]]; then exit "${SCRIPT#*:}"; fi ;;
*) exit "$SCRIPT" ;;
esac
E
# With REMOTE it gives the ranks no environment, as those on other nodes have none.
cat >"$tmp/fake/mpirun" <<'E'
#!/bin/bash
if [ "$1" = --version ]; then echo "mpirun (Open MPI) 4.1.4" && exit; fi
echo "mpirun $* by ${OMPI_MCA_plm_rsh_agent:-ssh}" >>"$TMP_LOG/started"
[[ $* != *--hostfile* ]] || cp "$(sed 's/.*--hostfile \([^ ]*\).*/\1/' <<<"$*")" "$TMP_LOG/hosts"
while [ $# -gt 0 ] && [[ $1 != */rank.sh ]]; do shift; done
if [ -n "$REMOTE" ]; then exec env -i TMP_LOG="$TMP_LOG" SCRIPT="$SCRIPT" "$@"; fi
exec "$@"
E
# shellcheck disable=SC2016
{
    printf '#!/bin/bash\necho "mca:plm:$PLM:version:1"\n' >"$tmp/fake/ompi_info"
    printf '#!/bin/bash\nshift\nexec "$@"\n' >"$tmp/fake/pbs_tmrsh"
    printf '#!/bin/bash\necho "qsub $*" >>"$TMP_LOG/queue"\n' >"$tmp/fake/qsub"
}
cat >"$tmp/fake/qstat" <<'E'
#!/bin/bash
echo "qstat $*" >>"$TMP_LOG/asked"
if [ "$2" = '12[].server' ]; then printf 'Job Id: %s\n    Job_Name = sweep\n    array_indices_submitted = 0-2\n' "$2" && exit; fi
printf 'Job Id: %s\n    Job_Name = my-name\n    queue = workq\n    project = _pbs_project_default\n' "$2"
printf '    Resource_List.ncpus = 12\n    Resource_List.select = 2:ncpus=6:mpi\n\tprocs=3:ngpus=3\n    Resource_List.walltime = %s\n' "$WALLTIME"
E
chmod +x "$tmp/fake/"* "$project/bin/vaecf-train"
printf 'n1\nn1\nn1\nn2\nn2\nn2\n' >"$tmp/nodes"

# job SCRIPT NAME=VALUE...: as PBS starts it: a copy, in another directory, with few variables
job() {
    rm -f "$tmp/started" "$tmp/queue" "$tmp/asked" "$tmp/hosts"
    touch "$tmp/queue" "$tmp/started"
    cp "$project/jobs/pbs/$1" "$tmp/fake/12.server.SC"
    (cd "$tmp/home" && exec timeout 60 env -u SLURM_JOB_ID -u OMP_NUM_THREADS PATH="$tmp/fake:$PATH" TMP_LOG="$tmp" PBS_JOBID=12.server \
        PBS_O_WORKDIR="$project" PBS_NODEFILE="$tmp/nodes" PBS_ENVIRONMENT=PBS_BATCH SCRIPT=0 REMOTE='' PLM=tm WALLTIME=04:00:00 "${@:2}" \
        bash "$tmp/fake/12.server.SC") >"$tmp/out" 2>&1
    status=$?
}

job train.sh VAECF_ARGS='my.yaml --set model.hidden=[600,200] --set output.path="my run"'
check "complete: 0" [ "$status" = 0 ]
check "in the directory of the submission, ncpus / mpiprocs threads, quoted arguments" has \
    "vaecf-train --config my.yaml --set model.hidden=[600,200] --set output.path=my run --resume auto threads=2 pwd=$project" started
check "a rank for each line of PBS_NODEFILE; jobs/rank.sh sees to its cores" has "mpirun -n 6 --hostfile $tmp/nodes --bind-to none " started
check "where other jobs may be, no core is taken" has "VAECF_JOB=12.server PROC_BIND=false" started
check "says where" has "job 12.server, start 1: 6 ranks of 2 threads on 2 nodes (n1,n2)" out
check "nothing is submitted" [ ! -s "$tmp/queue" ]

job train.sh SCRIPT=65
check "a failure keeps its status and is not continued" [ "$status$(cat "$tmp/queue")" = 65 ]

job train.sh SCRIPT=75
check "75 without our telling it is not continued" [ "$status$(cat "$tmp/queue")" = 75 ]

# shellcheck disable=SC1003
job train.sh VAECF_ARGS='my.yaml --set \output.path=a b\'
check "quotes that qsub damaged: 64" [ "$status" = 64 ]
check "and what to do" has "jobs/pbs/args" out

job train.sh REMOTE=yes
check "ranks on other nodes find the program and know their threads" has "--resume auto threads=2" started
check "and the job" has "VAECF_JOB=12.server PROC" started
check "a launcher that knows PBS finds the nodes by itself" has " by ssh" started
job train.sh PLM=rsh
check "one that does not takes PBS's way to them" has " by vaecf-tmrsh" started
PATH="$tmp/fake:$PATH" "$project/jobs/pbs/vaecf-tmrsh" n2 'echo "a  b"' c >"$tmp/out" 2>&1
check "whose words are a shell's" has "a  b c" out

job train.sh VAECF_THREADS=2
check "Torque's lines are cores: 2 threads, half the ranks" has "mpirun -n 4" started
check "and a host file of them" [ "$(paste -sd' ' "$tmp/hosts")" = "n1 n1 n2 n2" ]

job train.sh VAECF_HOME="$project" PBS_O_WORKDIR="$tmp/home"
check "from another directory with VAECF_HOME" has "pwd=$tmp/home" started
job train.sh PBS_O_WORKDIR="$tmp/home"
check "without it: 66 and what to do" [ "$status" = 66 ]
check "in a line" has "qsub -v VAECF_HOME=" out

job preprocess.sh VAECF_ARGS='--version' VAECF_HOME="$project"
check "preprocess.sh starts vaecf-preprocess" has "vaecf-preprocess --version" out

# ---- a sweep of 7 runs in an array of 3 ----
printf 'data: {path: data}\noutput: {path: x}\n' >"$project/base.yaml"
printf 'config: base.yaml\noutput: my sweep\nparameters: {train.seed: [1, 2, 3, 4, 5, 6, 7]}\n' >"$project/sweep.yaml"
array=(PBS_JOBID='12[1].server' PBS_ARRAY_ID='12[].server' PBS_ARRAY_INDEX=1 VAECF_ARGS='sweep.yaml --set train.epochs=2')
started() { grep -o '^vaecf-train .*run-000[0-9]' "$tmp/started" | grep -o '.$' | paste -sd' '; }

job sweep.sh "${array[@]}"
check "slot 1 of 3 trains runs 1 and 4" [ "$status $(started)" = "0 1 4" ]
check "asks for the array by its id with brackets" has "qstat -f 12[].server" asked
check "the settings go along" has "run-0004/config.yaml --set train.epochs=2 --resume auto" started
job sweep.sh PBS_JOBID='12[0].server' PBS_ARRAY_ID='12[].server' PBS_ARRAY_INDEX=0 VAECF_ARGS=sweep.yaml SCRIPT=run-0003:70
check "a failed run fails its slot, after the others" [ "$status $(started)" = "70 0 3 6" ]
check "and leaves its exit code" [ "$(cat "$project/my sweep/run-0003/exit-code")" = 70 ]
job sweep.sh VAECF_ARGS=sweep.yaml VAECF_RUN=3
check "one run again, alone" [ "$status $(started)" = "0 3" ]
echo 70 >"$project/my sweep/run-0001/exit-code" && rm "$project/my sweep/run-0004/exit-code"
job sweep.sh VAECF_ARGS=sweep.yaml VAECF_RUN=1 VAECF_SLOTS=3 VAECF_RESTARTS=1
check "which leaves failed runs as they are" [ "$status $(started)" = "70 4" ]
job sweep.sh VAECF_ARGS=none.yaml VAECF_RUN=1
check "no sweep file: 66 and the word of vaecf-sweep" has "none.yaml: No such file" out
check "as the job's exit code" [ "$status" = 66 ]
sed 's/1, 2,/8, 2,/' "$project/sweep.yaml" >"$project/changed.yaml"
job sweep.sh VAECF_ARGS=changed.yaml VAECF_RUN=1
check "runs that cannot be made: 78, and nothing is trained" [ "$status$(cat "$tmp/started")" = 78 ]

# ---- runs that other jobs train ----
runs() { for k; do cat "$project/my sweep/run-000$k/exit-code" 2>/dev/null || echo -; done | paste -sd' '; }
job sweep.sh "${array[@]}" SCRIPT=0
job sweep.sh "${array[@]}" SCRIPT=70
check "an exit code stays until the program removes it" [ "$(grep -c 'found 0' "$tmp/started")" = 2 ]
rm "$project/my sweep/run-0001/exit-code"
job sweep.sh "${array[@]}" SCRIPT=locked
check "refused: left alone, no failure" [ "$status $(started) $(runs 1 4)" = "0 1 4 - 70" ]
check "and said so" has "run 4: another job trains this run: left alone" out
rm "$project/my sweep/"*/lock-1
job sweep.sh "${array[@]}" SCRIPT=over
check "refused, and the other job ended: its exit code stays" [ "$status $(started) $(runs 1 4)" = "0 1 4 70 70" ]
job sweep.sh "${array[@]}" SCRIPT=73
check "73 for another reason is a failure" [ "$status $(runs 1 4)" = "73 70 70" ]
rm "$project/my sweep/run-0001/exit-code"
job sweep.sh VAECF_ARGS=sweep.yaml VAECF_RUN=1 SCRIPT=73
check "and stays as the exit code" [ "$status $(runs 1)" = "73 73" ]

# the same sweep by two arrays at once
rm -r "$project/my sweep"
for slot in 0 1 2 3 4 5; do
    mkdir "$tmp/two.$slot" && cp "$project/jobs/pbs/sweep.sh" "$tmp/two.$slot"
    (cd "$tmp/home" && exec timeout 60 env -u SLURM_JOB_ID PATH="$tmp/fake:$PATH" TMP_LOG="$tmp/two.$slot" PBS_JOBID=$slot \
        PBS_O_WORKDIR="$project" PBS_NODEFILE="$tmp/nodes" SCRIPT=lock WALLTIME=04:00:00 VAECF_ARGS=sweep.yaml \
        VAECF_RUN=$((slot / 2)) VAECF_SLOTS=3 bash "$tmp/two.$slot/sweep.sh") >"$tmp/two.$slot/out" 2>&1 &
    slots[slot]=$!
done
statuses=
for slot in 0 1 2 3 4 5; do wait "${slots[slot]}"; statuses+=$?; done
cat "$tmp"/two.*/out >"$tmp/out"
check "a sweep submitted twice: both arrays end without a failure" [ "$statuses" = 000000 ]
check "with every run complete" [ "$(runs 0 1 2 3 4 5 6)" = "0 0 0 0 0 0 0" ]
check "each trained once" [ "$(cat "$project/my sweep/"*/test.csv | wc -l)" = 7 ]
check "and nothing left behind" [ -z "$(find "$project/my sweep" -name 'exit-code.*' -o -name 'lock-*')" ]

mkdir -p "$project/my run"
# shellcheck disable=SC2016
printf '#!/bin/bash\necho "vaecf-evaluate $*" >>"$TMP_LOG/started"\n' >"$project/bin/vaecf-evaluate"
chmod +x "$project/bin/vaecf-evaluate"
printf "data:\n  path: 'da''ta'\nmodel:\n" >"$project/my run/config.yaml"
job evaluate.sh VAECF_ARGS='"my run" --split validation'
check "evaluate.sh takes the data set of the run" has \
    "vaecf-evaluate --checkpoint my run/best.h5 --data da'ta --output my run/validation.csv --split validation" started
job evaluate.sh VAECF_ARGS='"my run" --blend other/best.h5:0.1'
check "a blend does not replace test.csv" has \
    "vaecf-evaluate --checkpoint my run/best.h5 --data da'ta --output my run/test-blend.csv --blend other/best.h5:0.1" started

if [ -n "$checks" ]; then
    wait $checks || failed=1
    cat "$tmp/checks.log"
    grep -q '^ok - ' "$tmp/checks.log" || not_ok "checks in a queue"
fi
exit $failed
