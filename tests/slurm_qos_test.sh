#!/bin/bash
# A real Slurm with a database (tests/cluster/slurm.sh), where a job of the quality of service "urgent" preempts a training of
# "normal": it saves, goes back into the queue, and ends with the same bits as one that was left alone.
# plain build alone: that is what runs on the cluster
# alone: it counts on being on time
for tool in slurmdbd sacctmgr mariadbd mariadb-install-db mariadb-admin; do
    PATH=$PATH:/usr/sbin command -v $tool >/dev/null ||
        { echo "skipped: preemption by quality of service: no $tool (Debian: slurmdbd mariadb-server)" && exit 77; }
done
kind=qos
# shellcheck source=tests/cluster/slurm_project.sh
. tests/cluster/slurm_project.sh
make_slow
make_data

cat >"$tmp/slow" <<'E'
if [[ "$*" == *--config* ]] && [ "${SLURM_RESTART_COUNT:-0}" = 0 ]; then
    export LD_PRELOAD="$SLOW" SLOW_SECONDS=0.2
    set -- "$@" --set train.epochs=1000000
elif [[ "$*" == *--config* ]]; then
    until [ -s epochs ] || [ $SECONDS -ge 150 ]; do sleep 0.1; done
    set -- "$@" --set train.epochs="$(cat epochs)"
fi
E
normal=$(HOOK=$tmp/slow submit --qos=normal --exclusive --nodes=2 --ntasks-per-node=1 --output=normal.out jobs/slurm/train.sh \
    run.yaml --set output.path=results/normal)
wait_for "the first epoch of the training" has_row normal
urgent=$(submit --qos=urgent --nodes=2 --output=urgent.out --wrap='ls results/normal')
wait_for "the urgent job" over "$urgent"
epochs=$(($(longest normal) + 2))
check "it preempts" state "$urgent" COMPLETED
check "once nobody writes there any more" grep -q '^checkpoints$' "$project/urgent.out"
check "no lock, no half file" log_lacks urgent.out 'lock-|\.tmp'
whole=$(submit --nodes=2 --ntasks-per-node=1 --qos=urgent --output=whole.out jobs/slurm/train.sh run.yaml --set "train.epochs=$epochs")
wait_for "a training that is left alone" over "$whole"
echo $epochs >"$project/epochs"
wait_for "the training" over "$normal"
check "the training was told" log_has normal.out 'SIGUSR1 came and was passed on; exit code 75'
check "and goes on by itself" state "$normal" COMPLETED
check "by a second start" log_has normal.out 'start 2: 2 ranks'
check "the same bits as left alone" same normal whole
finish
