#!/bin/bash
# jobs/slurm/ on a real Slurm of two emulated nodes (tests/slurm/cluster.sh), as an ordinary user, in a folder with a
# space: preprocess -> train on 2 nodes x 2 ranks -> evaluate by dependency; a job that is preempted and one that meets
# its time limit go back into the queue by themselves and end with the same bits as one that was left alone.
set -u
if [ "${BUILD:-build}" != build ]; then echo "skipped: the plain build is what runs on the cluster" && exit 77; fi
for tool in slurmctld slurmd munged sbatch srun; do
    PATH=$PATH:/usr/sbin command -v $tool >/dev/null ||
        { echo "skipped: no $tool (Debian: slurmctld slurmd slurm-client munge)" && exit 77; }
done
if [ "$(id -u)" != 0 ]; then echo "skipped: starting a Slurm wants root" && exit 77; fi

tmp=$(mktemp -d /tmp/vaecf-slurm.XXXX) || exit 71
chmod 755 "$tmp"
project="$tmp/a project" # with a space
failed=0
trap 'tests/slurm/cluster.sh down "$tmp"; rm -rf "$tmp"' EXIT
tests/slurm/cluster.sh up "$tmp" || { echo "not ok - the cluster does not come up" && exit 1; }
# shellcheck source=/dev/null
. "$tmp/env.sh"

check() { # check TEXT COMMAND...
    if "${@:2}"; then echo "ok - $1"; else echo "not ok - $1" && failed=1; fi
}
# as_user COMMAND...: in the project, as nobody, without a home
as_user() { (cd "$project" && setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent "$@"); }
submit() { as_user sbatch --parsable --cpus-per-task=1 "$@"; }
# wait_for TEXT COMMAND...: polls; ends the test when it takes minutes
wait_for() {
    local end=$((SECONDS + 200))
    until "${@:2}"; do
        if [ $SECONDS -ge $end ]; then
            echo "not ok - $1 took too long"
            squeue
            tail -n 20 "$project"/*.out "$tmp"/log/*.log
            exit 1
        fi
        sleep 0.1
    done
}
# shellcheck disable=SC2317  # called by wait_for and check
{
    over() { [ -z "$(squeue -h -o %A -j "$1" -t PD,CF,R,CG,S 2>/dev/null)" ]; }
    has_row() { grep -qs '^1,' "$project/results/$1/metrics.csv"; }
    log_has() { grep -qE -- "$2" "$project/$1" 2>/dev/null; }
    state() { scontrol show job "$1" | grep -q "JobState=$2 "; }
    same() { # the table but for the columns of time, and the best model's metrics
        cmp <(cut -d, -f1,2,5- "$project/results/$1/metrics.csv") <(cut -d, -f1,2,5- "$project/results/$2/metrics.csv") &&
            cmp "$project/results/$1/test.csv" "$project/results/$2/test.csv" &&
            { ! command -v h5diff >/dev/null ||
                h5diff "$project/results/$1/best.h5" "$project/results/$2/best.h5" /model /model; }
    }
}

# ---- the project, with a vaecf-train that does not end before it was stopped once ----
mkdir -p "$project/bin/real"
cp -r jobs "$project/jobs"
cp bin/* "$project/bin/" 2>/dev/null
mv "$project/bin/vaecf-train" "$project/bin/real/"
cat >"$project/bin/vaecf-train" <<'E'
#!/bin/bash
# With ENDLESS: before the first stop without end, after it as many epochs as the test says.
if [ -n "${ENDLESS:-}" ] && [[ "$*" == *--config* ]]; then
    trap 'exit 75' USR1
    if [ "${VAECF_RESTARTS:-${SLURM_RESTART_COUNT:-0}}" = 0 ]; then
        set -- "$@" --set train.epochs=1000000
    else
        until [ -s epochs ]; do sleep 0.1; done
        set -- "$@" --set train.epochs="$(cat epochs)"
    fi
fi
exec "$(dirname "$0")/real/vaecf-train" "$@"
E
chmod +x "$project/bin/vaecf-train"
awk 'BEGIN {
    print "userId,movieId,rating"
    seed = 7
    for (u = 1; u <= 300; u++)
        for (k = 0; k < 14; k++) {
            seed = (seed * 16807) % 2147483647
            item = seed % 30 + (u % 2 && seed % 7 ? 0 : 30)
            print "u" u ",film " item "," 1 + seed % 5
        }
}' >"$project/ratings.csv"
cat >"$project/run.yaml" <<E
data: {path: my data}
model: {hidden: [16], latent: 8}
train: {epochs: 5, batch_size: 128, kl: {cap: 0.2, anneal_steps: 10}, early_stopping: {patience: 0}}
output: {path: results/whole}
E
chown -R 65534:65534 "$project"
export OMPI_MCA_mpi_yield_when_idle=1 # there are more ranks than cores
if [ "$(nproc)" -lt 2 ]; then export VAECF_BIND=none; fi

# ---- two jobs that will be stopped: one by a job with precedence, one by its time limit ----
data=$(submit jobs/slurm/preprocess.sh --input ratings.csv --output "my data" --heldout-users 50)
preempted=$(ENDLESS=1 submit --dependency="afterok:$data" --partition=scavenge --nodes=2 --gpus-per-node=2 --output=preempted.out \
    jobs/slurm/train.sh run.yaml --set output.path=results/preempted)
limited=$(ENDLESS=1 VAECF_LAUNCH=mpirun submit --dependency="afterok:$data" --nodes=2 --time=1 --signal=B:USR1@50 \
    --output=limited.out jobs/slurm/train.sh run.yaml --set output.path=results/limited)

wait_for "the first epoch of the job that is preempted" has_row preempted
urgent=$(submit --gpus-per-node=1 --nodes=2 --output=urgent.out --wrap=true)
wait_for "the first epoch of the job with a limit" has_row limited
# It waits for its limit without using the cores: a stopped process gets the signal when it goes on.
pids=$(pgrep -f "real/vaecf-train.*results/limited")
# shellcheck disable=SC2086  # numbers
kill -STOP $pids
wait_for "the job with precedence" over "$urgent"
check "a job with precedence preempts" state "$urgent" COMPLETED
wait_for "the requeue of the preempted job" log_has preempted.out "back into the queue"
# shellcheck disable=SC2317
signalled() {
    local pid
    for pid in $pids; do
        if grep -qE '^(SigPnd|ShdPnd):.*[^0]' "/proc/$pid/status" 2>/dev/null; then return 0; fi
    done
    return 1
}
wait_for "the signal ahead of the time limit" signalled
# shellcheck disable=SC2086
kill -CONT $pids
wait_for "the requeue at the time limit" log_has limited.out "back into the queue"

# ---- and one that is left alone, of as many epochs ----
epochs=$(($(cat "$project"/results/*/metrics.csv | wc -l) + 2))
echo $epochs >"$project/epochs"
whole=$(submit --nodes=2 --output=whole.out jobs/slurm/train.sh run.yaml --set "train.epochs=$epochs")
evaluation=$(submit --dependency="afterok:$whole" --nodes=2 --output=evaluation.out jobs/slurm/evaluate.sh results/whole --output evaluation.csv)
wait_for "training and evaluation" over "$preempted,$limited,$evaluation"
for job in data preempted limited whole evaluation; do check "$job: completed" state "${!job}" COMPLETED; done
check "srun with pmix" log_has whole.out '^srun --mpi=pmix .*rank.sh vaecf-train --config run.yaml'
check "mpirun" log_has limited.out '^mpirun -n 4 .*rank.sh vaecf-train --config run.yaml'
check "2 nodes x 2 ranks" log_has whole.out 'job [0-9]+, start 1: 4 ranks of 1 threads on 2 nodes'
check "the GPU of the local rank" log_has preempted.out 'rank 3 on .*GPU 1$'
check "the preempted job started twice" log_has preempted.out 'start 2: 4 ranks'
check "the job with the limit started again" log_has limited.out 'start [2-9]: 4 ranks'
check "preempted: the same bits as left alone" same preempted whole
check "at the time limit: the same bits as left alone" same limited whole
check "vaecf-evaluate says what vaecf-train did" cmp "$project/evaluation.csv" "$project/results/whole/test.csv"

if [ $failed = 1 ]; then tail -n +1 "$project"/*.out; fi
exit $failed
