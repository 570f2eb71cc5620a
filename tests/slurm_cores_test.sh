#!/bin/bash
# A real Slurm (tests/cluster/slurm.sh) that confines each job to its cores by cgroups: each rank has cores that no other rank
# of this job has, nor one of another job on the node.
# plain build alone: that is what runs on the cluster
# alone: it starts a Slurm
if [ "$(nproc)" -lt 2 ]; then echo "skipped: cores of jobs: this machine has one" && exit 77; fi
kind=confined
# shellcheck source=tests/cluster/slurm_project.sh
. tests/cluster/slurm_project.sh
make_data

# Jobs with HOOK are there at once: each waits for the other.
cat >"$tmp/both" <<'E'
if [[ "$*" == *--config* ]]; then
    touch "here.$SLURM_JOB_ID"
    until [ "$(compgen -G 'here.*' | wc -l)" = 2 ] || [ $SECONDS -ge 100 ]; do sleep 0.1; done
fi
E
# train NAME TASKS [OPTION of sbatch]...
train() {
    submit --nodes=1 --ntasks-per-node="$2" --output="$1.out" "${@:3}" jobs/slurm/train.sh run.yaml --set output.path="results/$1"
}

shared=("$(HOOK=$tmp/both VAECF_LAUNCH=srun train one 1)" "$(HOOK=$tmp/both VAECF_LAUNCH=mpirun train other 1)")
wait_for "two jobs on one node" over "${shared[@]}"
for job in "${shared[@]}"; do check "a job on a shared node" state "$job" COMPLETED; done
check "they were there at once" [ "$(compgen -G "$project/here.*" | wc -l)" = 2 ]
check "each is bound to cores of its own" have_own_cores one.out other.out
for how in srun mpirun; do
    job=$(VAECF_LAUNCH=$how train own-$how 2 --exclusive)
    wait_for "a job with a node of its own" over "$job"
    check "$how, --exclusive: 2 ranks, each bound to cores of its own" have_own_cores own-$how.out
done
job=$(VAECF_LAUNCH=srun train two 2)
wait_for "a job of 2 ranks" over "$job"
check "srun, not --exclusive: 2 ranks, each bound to cores of its own" have_own_cores two.out
finish
