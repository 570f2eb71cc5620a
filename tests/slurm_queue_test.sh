#!/bin/bash
# jobs/slurm/ and what a real Slurm (tests/cluster/slurm.sh) makes of its jobs: placed on nodes that differ, nodes of their
# own or shared ones, srun without PMIx, arrays by twos, what waits for an array or for each of its tasks, a time limit with
# slow saves, starts that get nowhere.
# plain build alone: that is what runs on the cluster
# alone: it has time limits
# shellcheck source=tests/cluster/slurm_project.sh
. tests/cluster/slurm_project.sh
make_slow
make_data

# shellcheck disable=SC2317  # called by wait_for and check
{
    # spread FILE NODE...: is rank k on the kth node?
    spread() {
        local rank=0 node
        for node in "${@:2}"; do
            log_has "$1" "^rank $rank on $node:" || return
            rank=$((rank + 1))
        done
    }
    waits_for() { scontrol show job "$1" | grep -q 'JobState=PENDING Reason=Dependency '; }
    code() { [ "$(field "$1" ExitCode)" = "$2:0" ]; }
    # within_limit SECONDS: told when half of a minute was over, and not so late that three saves take longer
    within_limit() { [ "$1" -ge 30 ] && [ "$1" -lt 55 ]; }
    # between FILE LINE LINE: the seconds between two lines that begin with the time
    between() {
        local first second
        first=$(grep -m 1 -E "$2" "$project/$1" | cut -c1-19)
        second=$(grep -m 1 -E "$3" "$project/$1" | cut -c1-19)
        echo $(($(date -d "${second:-now}" +%s) - $(date -d "${first:-now}" +%s)))
    }
}
# train NAME [OPTION of sbatch]...: trains results/NAME
train() {
    submit --nodes=1 --ntasks-per-node=2 --output="$1.out" "${@:2}" jobs/slurm/train.sh run.yaml --set output.path="results/$1"
}

# ---- 16 and 8 cores; nodes of their own ----
# Without the script's own --ntasks-per-node, which every node would have to have room for.
uneven=()
for how in srun mpirun; do
    uneven+=("$(VAECF_LAUNCH=$how VAECF_HOME=$project as_user sbatch --parsable --nodes=2 --ntasks=3 --cpus-per-task=6 \
        --output="uneven-$how.out" --wrap="exec bash jobs/slurm/train.sh run.yaml --set output.path=results/uneven-$how")")
done
wait_for "3 ranks of 6 threads" over "${uneven[@]}"
for how in srun mpirun; do
    check "$how: 16 and 8 cores: 2 ranks and 1 of 6 threads" spread uneven-$how.out vnode1 vnode1 vnode2
    check "$how: which share the nodes: not bound" log_has uneven-$how.out '^rank 2 on .*: cores .*, not bound, 6 threads'
done
check "both launchers: the same bits" same uneven-srun uneven-mpirun
if [ "$(nproc)" -lt 2 ]; then
    echo "skipped: ranks bound to cores of their own: this machine has one"
else
    own=("$(VAECF_LAUNCH=srun train own-srun --exclusive --nodelist=vnode1)"
        "$(VAECF_LAUNCH=mpirun train own-mpirun --exclusive --nodelist=vnode2)")
    wait_for "jobs with a node of their own" over "${own[@]}"
    for how in srun mpirun; do check "$how, --exclusive: each rank has cores of its own" have_own_cores own-$how.out; done
fi

# ---- a limit of a minute; a save takes 6 s ----
cat >"$tmp/slow" <<'E'
if [[ "$*" == *--config* ]] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    export LD_PRELOAD="$SLOW" SLOW_SECONDS=6
    set -- "$@" --set train.epochs=1000000
elif [[ "$*" == *--config* ]]; then
    until [ -e checked.limit ] || [ $SECONDS -ge 100 ]; do sleep 0.1; done
    set -- "$@" --set train.epochs=30
fi
E
# The timer alone, not Slurm, tells this one.
limited=$(HOOK=$tmp/slow VAECF_AHEAD=5 train limited --time=1 --signal=B:CONT@1)
after=$(submit --dependency="afterok:$limited" --ntasks=1 --output=after.out --wrap='cat results/limited/test.csv')
notok=$(submit --dependency="afternotok:$limited" --ntasks=1 --output=notok.out --wrap=true)

# ---- starts without progress: the first ones as many as the test says ----
cat >"$tmp/stalled" <<'E'
[[ "$*" == *--config* ]] || return 0
start=${SLURM_RESTART_COUNT:-0}
if [ $start -lt 2 ] || [ -z "$BETTER" ]; then exit 75; fi
if [ $start = 2 ]; then echo 1.0 >"$VAECF_SAVED" && exit 75; fi
E
stalled=$(HOOK=$tmp/stalled BETTER='' submit --nodes=1 --ntasks-per-node=1 --comment="my own" --output=stalled.out jobs/slurm/train.sh \
    run.yaml --set output.path=results/stalled)
better=$(HOOK=$tmp/stalled BETTER=yes submit --nodes=1 --ntasks-per-node=1 --output=better.out jobs/slurm/train.sh \
    run.yaml --set output.path=results/better)

# ---- srun without PMIx ----
singletons=$(VAECF_LAUNCH="srun --mpi=none" train singletons)

# ---- arrays ----
for name in throttled corresponding; do
    printf 'config: run.yaml\noutput: results/%s\nparameters: {train.seed: [%s]}\n' $name \
        "$([ $name = throttled ] && echo 1, 2, 3, 4, 5, 6 || echo 1, 2, 3)" >"$project/$name.yaml"
done
# Writes down how many run; the first starts of tasks 0 and 3 are stopped. It trains nothing.
cat >"$tmp/throttled" <<'E'
[[ "$*" == *--config* ]] || return 0
if [ "${SLURM_RESTART_COUNT:-0}" = 1 ]; then
    until [ -e checked.arrays ] || [ $SECONDS -ge 100 ]; do sleep 0.1; done
fi
touch "running.$SLURM_ARRAY_TASK_ID"
for _ in 1 2 3 4 5; do compgen -G 'running.*' | wc -l >>counts && sleep 0.2; done
rm "running.$SLURM_ARRAY_TASK_ID"
if [ "${SLURM_RESTART_COUNT:-0}$((SLURM_ARRAY_TASK_ID % 3))" = 00 ]; then exit 75; fi
touch "ended.$SLURM_ARRAY_TASK_ID"
exit 0
E
throttled=$(HOOK=$tmp/throttled submit --array=0-5%2 --ntasks-per-node=1 --output=throttled-%a.out jobs/slurm/sweep.sh throttled.yaml)
# shellcheck disable=SC2016
all=$(submit --dependency="afterok:$throttled" --ntasks=1 --output=all.out --wrap='echo ended.*')
# Task 0 is stopped once; task 2 begins when task 0 has been evaluated.
cat >"$tmp/corresponding" <<'E'
[[ "$*" == *--config* ]] || return 0
if [ "${SLURM_RESTART_COUNT:-0}$SLURM_ARRAY_TASK_ID" = 00 ]; then exit 75; fi
if [ "$SLURM_ARRAY_TASK_ID" = 0 ]; then
    until [ -e checked.arrays ] || [ $SECONDS -ge 100 ]; do sleep 0.1; done
fi
if [ "$SLURM_ARRAY_TASK_ID" = 2 ]; then
    until [ -s results/corresponding/run-0000/validation.csv ] || [ $SECONDS -ge 100 ]; do sleep 0.2; done
    [ -s results/corresponding/run-0000/validation.csv ] || exit 70
fi
E
corresponding=$(HOOK=$tmp/corresponding submit --array=0-2 --ntasks-per-node=1 --output=corresponding-%a.out jobs/slurm/sweep.sh \
    corresponding.yaml)
# shellcheck disable=SC2016  # the job expands it
evaluations=$(VAECF_HOME=$project submit --dependency="aftercorr:$corresponding" --array=0-2 --ntasks=1 --output=evaluations-%a.out --wrap='
    exec bash jobs/slurm/evaluate.sh "results/corresponding/run-000$SLURM_ARRAY_TASK_ID" --split validation')

for job in "${corresponding}_0" "${throttled}_0"; do wait_for "a task that was stopped, back in the queue" restarts "$job" 1; done
check "aftercorr waits through it" waits_for "${evaluations}_0"
check "afterok of an array does" waits_for "$all"
as_user touch checked.arrays
wait_for "the arrays" over "$throttled" "$all" "$corresponding" "$evaluations"
check "an array with %2: all its tasks end well" state "$throttled" COMPLETED
check "task 0 by a second start" log_has throttled-0.out 'start 2: 1 ranks'
check "never more than two at once, and two" [ "$(sort -n "$project/counts" | tail -n 1)" = 2 ]
check "afterok of the array comes after all tasks" [ "$(cat "$project/all.out")" = "ended.0 ended.1 ended.2 ended.3 ended.4 ended.5" ]
for k in 0 1 2; do
    check "aftercorr: task $k is evaluated after its training" state "${evaluations}_$k" COMPLETED
    check "with the metrics of its run" [ -s "$project/results/corresponding/run-000$k/validation.csv" ]
done
check "task 0 before task 2 was trained" state "${corresponding}_2" COMPLETED

wait_for "srun without PMIx" over "$singletons"
check "srun without PMIx: refused" state "$singletons" FAILED
check "with 71, or by Open MPI" grep -qE 'vaecf: error: 2 processes were started, but MPI makes each a job of 1 rank|PMI' "$project/singletons.out"
check "and nothing is written" [ ! -e "$project/results/singletons" ]

wait_for "the starts without progress" over "$stalled" "$better"
check "three starts without progress: it gives up with 75" code "$stalled" 75
check "and says why" log_has stalled.out 'no progress in 3 starts'
check "after the third" [ "$(grep -c 'start [0-9]*: 1 ranks' "$project/stalled.out")" = 3 ]
check "the user's comment stays" grep -qE '^ *Comment=my own vaecf: 2 ' <(scontrol show job "$stalled")
check "with progress in the third start it goes on" state "$better" COMPLETED
check "by a fourth" log_has better.out 'start 4: 1 ranks'

wait_for "the job with slow saves back in the queue" restarts "$limited" 1
check "afterok waits through it" waits_for "$after"
as_user touch checked.limit
wait_for "the job with slow saves" over "$limited" "$after"
check "slow saves at a limit of a minute: it ends well" state "$limited" COMPLETED
told=$(between limited.out 'start 1:' 'SIGUSR1 came and was passed on; exit code 75')
check "told when half of the time is over, saved in time: after $told s" within_limit "$told"
check "by a second start" log_has limited.out 'going on from results/limited/checkpoints/step-'
check "afterok of it: the metrics are there" cmp "$project/after.out" "$project/results/limited/test.csv"
check "afternotok never runs" [ ! -e "$project/notok.out" ]
as_user scancel "$notok"
finish
