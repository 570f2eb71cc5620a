#!/bin/bash
# jobs/slurm/ on a real Slurm of two emulated nodes (tests/cluster/slurm.sh), as an ordinary user, in a folder with a
# space: preprocess -> train on 2 nodes x 2 ranks -> evaluate by dependency; a job that is preempted and one that meets
# its time limit go back into the queue by themselves and end with the same bits as one that was left alone; a sweep of
# 6 runs in 3 slots with a run that fails, is run again alone, and is collected. jobs/pbs/ by Slurm's qsub, as far as that
# goes: it knows no -l select, and loses spaces in what -v carries. At last a node is lost with a training on it, which
# ends on the other one, with the same bytes, and one that was on it and waits in the queue begins there again.
# plain build alone: that is what runs on the cluster
# alone: it has time limits
# shellcheck source=tests/cluster/slurm_project.sh
. tests/cluster/slurm_project.sh

# signalled NAME: has a stopped rank SIGUSR1 or SIGTERM waiting for it? (Others wait too, a child's end for one.)
# shellcheck disable=SC2317  # called by wait_for
signalled() {
    local pid pending
    for pid in $(ranks_of "$1"); do
        # shellcheck disable=SC2013  # numbers
        for pending in $(sed -nE 's/^(SigPnd|ShdPnd):\s*/0x/p' "/proc/$pid/status" 2>/dev/null); do
            if ((pending & 0x4200)); then return 0; fi
        done
    done
    return 1
}
# stop_and_go NAME: stops the ranks of results/NAME after the first epoch, so that the job waits for what will end it without
# using the cores, until they have a signal waiting, which a stopped process gets when it goes on.
# shellcheck disable=SC2046,SC2317  # numbers; called by wait_for
stop_and_go() {
    has_begun() { has_row "$1" || has_ended "$1"; }
    has_ended() {
        if signalled "$1"; then kill -CONT $(ranks_of "$1"); fi
        log_has "$1.out" "stopped with a checkpoint"
    }
    wait_for "the first epoch of results/$1" has_begun "$1"
    kill -STOP $(ranks_of "$1") 2>/dev/null
    touch "$tmp/$1.begun"
    wait_for "the end of results/$1" has_ended "$1"
}

# A vaecf-train that does not end before it was stopped once; then it goes as many epochs as the test says.
cat >"$tmp/endless" <<'E'
[[ "$*" == *--config* ]] || return 0
trap 'exit 75' USR1
if [ "${VAECF_RESTARTS:-${SLURM_RESTART_COUNT:-0}}" = 0 ]; then
    set -- "$@" --set train.epochs=1000000
else
    until [ -s epochs ] || [ $SECONDS -ge 400 ]; do sleep 0.1; done
    set -- "$@" --set train.epochs="$(cat epochs)"
fi
E
# The ranks of the first start stop in the middle, each by itself: once one has, the others wait for it.
cat >"$tmp/paused" <<'E'
if [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && [[ "$*" == *--config* ]]; then
    (until grep -qs '^2,' "$PAUSED/metrics.csv" || [ $SECONDS -ge 100 ]; do sleep 0.01; done && kill -STOP $$) &
fi
E
cat >"$project/sweep.yaml" <<E
config: run.yaml
output: results/a sweep
seeds: [1, 2, 3]
parameters: {train.learning_rate: [1.0e-3, 1.0e-2]}
E
# run 4 cannot make its checkpoints at first
mkdir -p "$project/results/a sweep/run-0004"
touch "$project/results/a sweep/run-0004/checkpoints"
chown -R 65534:65534 "$project"

# ---- two jobs that will be stopped: one by a job with precedence, one by its time limit ----
data=$(submit jobs/slurm/preprocess.sh --input ratings.csv --output "my data" --heldout-users 50)
preempted=$(HOOK="$tmp/endless" submit --dependency="afterok:$data" --partition=scavenge --nodes=2 --gpus-per-node=2 --output=preempted.out \
    jobs/slurm/train.sh run.yaml --set output.path=results/preempted)
limited=$(HOOK="$tmp/endless" VAECF_LAUNCH=mpirun submit --dependency="afterok:$data" --nodes=2 --time=1 --signal=B:USR1@50 \
    --output=limited.out jobs/slurm/train.sh run.yaml --set output.path=results/limited)

sweep=$(submit --dependency="afterok:$data" --array=0-2 --ntasks-per-node=1 --output=sweep-%a.out jobs/slurm/sweep.sh \
    sweep.yaml --set train.epochs=2)
# By qsub: its own timer ends it after 25 s, and it submits its continuation. Slurm's qstat tells no `nodes`, and -V has to
# carry the settings, so a qsub of ours adds what is missing.
ln -s "a project" "$tmp/project"
# The qstat of Slurm 24.11 calls a function that its Perl module has lost, and then shows no walltime.
lost=Slurm::job_cpus_allocated_on_node_id
echo "INIT { defined &$lost or *$lost = sub { 1 } } 1;" >"$tmp/Lost.pm"
export PERL5OPT="-I$tmp -MLost"
# shellcheck disable=SC2016
printf '#!/bin/bash\nexec qsub -V -j oe -o pbs-more.out -l nodes=2:ppn=2,walltime=01:00:00 "${!#}"\n' >"$tmp/qsub"
chmod 755 "$tmp/qsub"
HOOK="$tmp/endless" VAECF_ARGS='run.yaml --set output.path=results/pbs' VAECF_HOME="$tmp/project" VAECF_QSUB="$tmp/qsub" VAECF_THREADS=1 VAECF_AHEAD=35 \
    as_user qsub -V -W "depend=afterok:$data" -l nodes=2:ppn=2,walltime=00:01:00 -j oe -o pbs.out "$tmp/project/jobs/pbs/train.sh" >/dev/null

going=()
for name in preempted limited pbs; do
    stop_and_go "$name" &
    going+=($!)
done
wait_for "the first epoch of the job that is preempted" test -e "$tmp/preempted.begun"
urgent=$(submit --gpus-per-node=1 --nodes=2 --output=urgent.out --wrap=true)
for pid in "${going[@]}"; do wait "$pid" || exit; done
scontrol update "jobid=$limited" timelimit=60 # once is enough
wait_for "the job with precedence" over "$urgent"
check "a job with precedence preempts" state "$urgent" COMPLETED

# ---- the sweep ----
wait_for "the sweep" over "$sweep"
check "6 runs in 3 slots" log_has sweep-2.out '^....-..-.. ..:..:..  run 5 of 6: results/a sweep/run-0005'
check "the run that was made to fail fails its slot" state "${sweep}_1" FAILED
check "and no other" state "${sweep}_2" COMPLETED
as_user bin/vaecf-collect "results/a sweep" >"$project/collected.md"
check "collected with the failure" grep -q '^run-0004,failed,73,2,0.01,0,,' "$project/results/a sweep/runs.csv"
rm "$project/results/a sweep/run-0004/checkpoints"
again=$(submit --array=4 --ntasks-per-node=1 --output=again.out jobs/slurm/sweep.sh sweep.yaml --set train.epochs=2)

# ---- and one that is left alone, of as many epochs ----
epochs=$(($(cat "$project"/results/{preempted,limited,pbs}/metrics.csv 2>/dev/null | cut -d, -f1 | sort -n | tail -n 1) + 2))
echo $epochs >"$project/epochs"
whole=$(submit --nodes=2 --output=whole.out jobs/slurm/train.sh run.yaml --set "train.epochs=$epochs")
evaluation=$(submit --dependency="afterok:$whole" --nodes=2 --output=evaluation.out jobs/slurm/evaluate.sh results/whole --output evaluation.csv)
wait_for "training and evaluation" over "$preempted" "$limited" "$evaluation" "$again"
for job in data preempted limited whole evaluation; do check "$job: completed" state "${!job}" COMPLETED; done
check "srun with pmix" log_has whole.out '^srun --mpi=pmix .*rank.sh vaecf-train --config run.yaml'
check "mpirun" log_has limited.out '^mpirun -n 4 .*rank.sh vaecf-train --config run.yaml'
check "2 nodes x 2 ranks" log_has whole.out 'job [0-9]+, start 1: 4 ranks of 1 threads on 2 nodes'
check "the GPU of the local rank" log_has preempted.out 'rank 3 on .*GPU 1$'
check "the preempted job started twice" log_has preempted.out 'start 2: 4 ranks'
check "the job with the limit started again" log_has limited.out 'start [2-9]: 4 ranks'
check "by qsub it goes on as another job" log_has pbs.out 'goes on as job [0-9]+'
check "preempted: the same bits as left alone" same preempted whole
check "at the time limit: the same bits as left alone" same limited whole
check "vaecf-evaluate says what vaecf-train did" cmp "$project/evaluation.csv" "$project/results/whole/test.csv"
# shellcheck disable=SC2317
complete() { [ -s "$project/results/$1/test.csv" ] && [ -z "$(squeue -h -o %A -n train.sh,vaecf-train)" ]; }
wait_for "the job by qsub" complete pbs
check "by qsub: PBS_NODEFILE and PBS_O_WORKDIR" log_has pbs.out 'start 1: 4 ranks of 1 threads on 2 nodes'
check "and the same bits" same pbs whole
VAECF_THREADS=1 VAECF_ARGS="results/pbs --output pbs.csv" VAECF_HOME="$tmp/project" as_user qsub -V -l nodes=1:ppn=2 -j oe -o pbs-evaluation.out \
    "$tmp/project/jobs/pbs/evaluate.sh" >"$tmp/id"
VAECF_THREADS=1 VAECF_ARGS=sweep.yaml VAECF_SLOTS=2 VAECF_HOME="$tmp/project" as_user qsub -V -J 0-1 -l nodes=1:ppn=1 -j oe -o pbs-sweep.out.%a \
    "$tmp/project/jobs/pbs/sweep.sh" >"$tmp/array"
wait_for "evaluation and sweep by qsub" over "$(cat "$tmp/id")" "$(cat "$tmp/array")"
check "evaluate.sh by qsub" cmp "$project/pbs.csv" "$project/results/pbs/test.csv"
check "an array by qsub -J" log_has pbs-sweep.out.1 'run 5 of 6'
check "the failed run again, alone" [ "$(grep -c 'run . of 6' "$project/again.out")" = 1 ]
as_user bin/vaecf-collect "results/a sweep" >"$project/collected.md"
check "collected: 6 complete runs" grep -q '^6 runs: 6 complete' "$project/collected.md"
check "and means over 3 seeds" grep -qE '^3,3,0.001,0\.[0-9]+,' "$project/results/a sweep/means.csv"

# ---- a node is lost in the middle of a training ----
cat >"$project/lost.yaml" <<E
data: {path: my data}
model: {hidden: [16], latent: 8}
train: {epochs: 30, batch_size: 8, kl: {cap: 0.2, anneal_steps: 10}, early_stopping: {patience: 0}}
device: cpu
output: {path: results/lost}
E
# shellcheck disable=SC2317  # called by wait_for
are_stopped() {
    local pid
    for pid in $(pgrep -f "real/vaecf-train.*/lost.yaml"); do
        if ! grep -q '^State:.T' "/proc/$pid/status"; then return 1; fi
    done
    grep -qs '^2,' "$project/results/lost/metrics.csv"
}
lost=$(HOOK="$tmp/paused" PAUSED=results/lost submit --nodes=1 --ntasks-per-node=4 --output=lost.out \
    "$project/jobs/slurm/train.sh" "$project/lost.yaml")
wait_for "the second epoch of the training on a node that will be lost" are_stopped
node=$(field "$lost" BatchHost)
# one that ran there and is stopped with no word from anybody
cat >"$tmp/stopped" <<'E'
if [ "${SLURM_RESTART_COUNT:-0}" = 0 ] && [[ "$*" == *--config* ]]; then exit 75; fi
E
queued=$(HOOK="$tmp/stopped" submit --nodes=1 --ntasks-per-node=4 --nodelist="$node" --output=queued.out jobs/slurm/train.sh run.yaml \
    --set output.path=results/queued)
wait_for "a job that ran there, back in the queue" restarts "$queued" 1
scontrol update "jobid=$queued" nodelist=
tests/cluster/slurm.sh lose "$tmp" "$node"
check "the node is lost in the middle" [ ! -e "$project/results/lost/test.csv" ]
scontrol update "nodename=$node" state=down reason=lost
# meanwhile the same from another directory, for with another output path the checkpoints would be others
as_user mkdir alone
as_user ln -s "../my data" "alone/my data"
alone=$(submit --nodes=1 --ntasks-per-node=4 --chdir="$project/alone" --output="$project/alone.out" \
    "$project/jobs/slurm/train.sh" "$project/lost.yaml")
wait_for "the training of the lost node" over "$lost" "$alone" "$queued"
check "a job whose node was lost goes on by itself" state "$lost" COMPLETED
check "and so ends the one beside it" state "$alone" COMPLETED
check "it began on the lost node" log_has lost.out "start 1: 4 ranks of 1 threads on 1 nodes \($node\)"
check "and went on" log_has lost.out 'going on from results/lost/checkpoints/step-'
check "on another one" log_has lost.out "start 2: 4 ranks of 1 threads on 1 nodes \(vnode$((3 - ${node#vnode}))\)"
newest=$(cd "$project/results/lost/checkpoints" && printf '%s\n' step-* | tail -n 1)
for file in best.h5 test.csv "checkpoints/$newest"; do
    check "$file: the same bytes as of a run that was left alone" cmp "$project/results/lost/$file" "$project/alone/results/lost/$file"
done
check "a job that waited when its node was lost ends well" state "$queued" COMPLETED
check "on the other one" log_has queued.out "start [2-9]: 4 ranks of 1 threads on 1 nodes \(vnode$((3 - ${node#vnode}))\)"
check "metrics.csv but for the columns of time" same lost ../alone/results/lost

finish
