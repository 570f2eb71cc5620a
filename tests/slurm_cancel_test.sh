#!/bin/bash
# scancel on a real Slurm (tests/cluster/slurm.sh) in each stage of a job of jobs/slurm/: the job ends, never comes back, and
# the next one on the same run directory goes on, to the same bits as a run that was left alone. scancel --signal=USR1
# --batch is no end: the job goes on by itself.
# plain build alone: that is what runs on the cluster
# alone: it counts on being on time
# shellcheck source=tests/cluster/slurm_project.sh
. tests/cluster/slurm_project.sh
make_slow
make_data

# What jobs come to: each leaves results/NAME.here where it waits for its end.
# shellcheck disable=SC2016  # the jobs expand it
wait_here='touch "results/$NAME.here"; until [ -e "results/$NAME.go" ] || [ $SECONDS -ge 150 ]; do sleep 0.1; done'
# in jobs/site.sh: nothing of the job script has run yet
echo "if [ \"\${SLURM_RESTART_COUNT:-0}\" = 0 ]; then $wait_here; fi" >"$tmp/site"
# in the job script, before it starts the ranks
echo "if [ \"\$*\${SLURM_RESTART_COUNT:-0}\" = --version0 ]; then $wait_here; fi" >"$tmp/ready"
# rank 0 does not come, the others wait in MPI_Init
cat >"$tmp/init" <<E
if [[ "\$*" == *--config* && "\${PMIX_RANK:-\${OMPI_COMM_WORLD_RANK:-}}\${SLURM_RESTART_COUNT:-0}" = 00 ]]; then $wait_here; fi
. "$tmp/again"
E
# without end, a save in 0.2 s; of an array the task ONLY
cat >"$tmp/epochs" <<E
if [[ "\$*" == *--config* ]] && [ "\${SLURM_RESTART_COUNT:-0}\${ONLY:-}" = "0\${ONLY:+\$SLURM_ARRAY_TASK_ID}" ]; then
    export LD_PRELOAD="\$SLOW" SLOW_SECONDS=\${SLOW_SECONDS:-0.2}
    set -- "\$@" --set train.epochs=1000000
fi
. "$tmp/again"
E
# Once more: as many epochs as the test says, when it says it.
cat >"$tmp/again" <<'E'
if [[ "$*" == *--config* ]] && [ "${SLURM_RESTART_COUNT:-0}" != 0 ]; then
    until [ -s epochs ] || [ $SECONDS -ge 150 ]; do sleep 0.1; done
    set -- "$@" --set train.epochs="$(cat epochs)"
fi
E

declare -A job
# train NAME [OPTION of sbatch]...: 2 ranks that train results/NAME; HOOK, SITE and others are in the environment
train() {
    job[$1]=$(NAME=$1 submit --nodes=1 --ntasks-per-node=2 --output="$1.out" "${@:2}" jobs/slurm/train.sh run.yaml \
        --set output.path="results/${1#next-}" ${epochs:+--set train.epochs=$epochs})
}
# shellcheck disable=SC2317  # called by wait_for and check
{
    here() { [ -e "$project/results/$1.here" ]; }
    holds() { here "$1" && ranks_of "$1" >/dev/null; } # the other rank is there
    saving() { compgen -G "$project/results/$1/checkpoints/*.tmp" >/dev/null && [ "$(longest "$1")" -ge 3 ]; }
    # back in the queue, until Slurm is sure of the end of its last start
    waits() { state "$1" PENDING && restarts "$1" 1; }
    # ended by scancel, and never begun again after its start N
    stays_cancelled() { state "${job[$1]}" CANCELLED && log_lacks "$1.out" "start $(($2 + 1)):"; }
    nothing_left() { [ -z "$(find "$project/results" -name '*.tmp' -o -name '*.damaged' -o -name 'lock-*')" ]; }
}
epochs=
as_user mkdir results
train queued --begin=now+1hour
SITE=$tmp/site train site --ntasks-per-node=1
HOOK=$tmp/ready train ready --ntasks-per-node=1
HOOK=$tmp/init train init
HOOK=$tmp/init VAECF_LAUNCH=mpirun train init-mpirun
HOOK=$tmp/epochs train epochs --nodes=2 --ntasks-per-node=1
HOOK=$tmp/epochs VAECF_LAUNCH=mpirun train epochs-mpirun
HOOK=$tmp/epochs SLOW_SECONDS=100 SLOW_AFTER=3 train saving
HOOK=$tmp/epochs train waiting
HOOK=$tmp/epochs train told
HOOK=$tmp/init train told-init
SITE=$tmp/site HOOK=$tmp/again train told-site
echo ". '$tmp/ready'; . '$tmp/again'" >"$tmp/told-ready"
HOOK=$tmp/told-ready train told-ready
cat >"$project/sweep.yaml" <<E
config: run.yaml
output: results/sweep
parameters: {train.learning_rate: [1.0e-3, 1.0e-2, 1.0e-1]}
E
array=$(HOOK=$tmp/epochs ONLY=1 submit --array=0-2 --ntasks-per-node=1 --output=array-%a.out jobs/slurm/sweep.sh sweep.yaml \
    --set train.epochs=4)

# ---- each is told or ended where it is ----
wait_for "the first epoch of results/told" has_row told
as_user scancel --signal=USR1 --batch "${job[told]}"
for name in told-site told-ready; do
    wait_for "$name" here "$name"
    as_user scancel --signal=USR1 --batch "${job[$name]}"
    as_user touch "results/$name.go"
done
wait_for "told-init" holds told-init
as_user scancel --signal=USR1 --batch "${job[told-init]}"
for name in site ready; do wait_for "$name" here "$name"; done
for name in init init-mpirun; do wait_for "$name" holds "$name"; done
for name in epochs epochs-mpirun; do wait_for "the first epoch of results/$name" has_row "$name"; done
wait_for "a save of results/saving" saving saving
wait_for "a task of the array" has_row sweep/run-0001
node=$(field "${job[saving]}" BatchHost)
wait_for "the first epoch of results/waiting" has_row waiting
as_user scancel --signal=USR1 --batch "${job[waiting]}"
wait_for "the job that was told, back in the queue" waits "${job[waiting]}"
stages=(queued site ready init init-mpirun epochs epochs-mpirun saving waiting)
ended=()
for name in "${stages[@]}"; do ended+=("${job[$name]}"); done
as_user scancel "${ended[@]}" "${array}_1"
wait_for "the jobs that were ended" over "${ended[@]}" "$array"
check "the other tasks of the array go on" [ "$(field "${array}_0" JobState)$(field "${array}_2" JobState)" = COMPLETEDCOMPLETED ]
check "the one that was ended does not" state "${array}_1" CANCELLED
check "a job that waited left nothing" [ ! -e "$project/queued.out" ]
for name in queued site ready init; do
    check "ended before it began, $name: no run directory" [ ! -e "$project/results/$name" ]
done

# ---- the next job on the same run directory, on the same node: there a dead writer is known at once ----
epochs=$(($(longest epochs epochs-mpirun saving waiting told) + 2))
echo $epochs >"$project/epochs"
train whole
next=()
for name in init init-mpirun epochs epochs-mpirun saving waiting; do
    train "next-$name" --nodelist="$node"
    next+=("${job[next-$name]}")
done
again=$(submit --array=1 --ntasks-per-node=1 --nodelist="$(field "${array}_1" BatchHost)" --output=again.out \
    jobs/slurm/sweep.sh sweep.yaml --set train.epochs=$epochs)
wait_for "the jobs after them" over "${job[whole]}" "${next[@]}" "$again" "${job[told]}" "${job[told-site]}" \
    "${job[told-ready]}" "${job[told-init]}"
for name in "${stages[@]}"; do
    check "ended, $name: it never comes back" stays_cancelled "$name" 1
done
check "the run was left alone" state "${job[whole]}" COMPLETED
for name in init init-mpirun epochs epochs-mpirun saving waiting; do
    check "after one that was ended, $name: the same bits" same "$name" whole
done
check "killed in a save: its lock is taken over" log_has next-saving.out 'the lock of .* is taken over'
check "and the last whole checkpoint" log_has next-saving.out 'going on from results/saving/checkpoints/step-'
check "ended in an epoch: a checkpoint" log_has epochs.out 'stopped by a signal after step [0-9]+; a checkpoint is saved'
check "also by mpirun" log_has epochs-mpirun.out 'stopped by a signal after step [0-9]+; a checkpoint is saved'
check "the array's task again" state "$again" COMPLETED
for name in told told-site told-ready told-init; do
    check "$name: goes on by itself" state "${job[$name]}" COMPLETED
    check "$name: by a second start" log_has "$name.out" 'start 2: 2 ranks'
    check "$name: the same bits" same "$name" whole
done
check "no half file is left" nothing_left
finish
