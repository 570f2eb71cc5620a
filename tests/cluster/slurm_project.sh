# shellcheck shell=bash disable=SC2034,SC2119,SC2120,SC2317  # sourced
# What tests on a real Slurm begin with: a cluster of $kind (see slurm.sh), and an ordinary user's project on it, in a
# folder with a space. The environment's HOOK is a file that vaecf-train reads first, SITE one that jobs/site.sh reads.
set -u
if [ "$(id -u)" != 0 ]; then echo "skipped: starting a Slurm takes root" && exit 77; fi
PATH=$PATH:/usr/sbin
for tool in slurmctld slurmd munged generate_pbs_nodefile; do # the daemons; and what comes with Slurm's qsub
    command -v $tool >/dev/null || { echo "not ok - $tool: this command is not there (jobs/packages.txt)" && exit 1; }
done
tmp=$(mktemp -d /tmp/vaecf-slurm.XXXX) || exit 71
chmod 755 "$tmp"
project="$tmp/a project" # with a space
failed=0
trap 'jobs -p | xargs -r kill 2>/dev/null; tests/cluster/slurm.sh down "$tmp"; rm -rf "$tmp"' EXIT

check() { # check TEXT COMMAND...
    if "${@:2}"; then echo "ok - $1 ($SECONDS s)"; else echo "not ok - $1" && failed=1; fi
}
# as_user COMMAND...: in the project, as nobody, without a home
as_user() { (cd "$project" && setpriv --reuid=65534 --regid=65534 --clear-groups env HOME=/nonexistent timeout 60 "$@"); }
scontrol() { timeout 60 scontrol "$@"; }
squeue() { timeout 60 squeue "$@"; } # [OPTION...]
submit() { as_user sbatch --parsable --cpus-per-task=1 "$@"; }
# wait_for TEXT COMMAND...: polls; ends the test when it takes minutes
wait_for() {
    local end=$((SECONDS + 200))
    until "${@:2}"; do
        if [ $SECONDS -ge $end ]; then
            echo "not ok - $1 took too long"
            tail -n 20 "$tmp"/log/*.log "$project"/*.out
            squeue --states=all -O 'JobID:8,State:14,Reason:24,exit_code:12,NodeList:14,STDOUT:120'
            exit 1
        fi
        sleep 0.2
    done
}
finish() {
    if [ $failed = 1 ]; then tail -n +1 "$project"/*.out; fi
    exit $failed
}

over() { # over JOB...: have they ended? (A job on its way back into the queue is not in squeue for a moment.)
    local job
    for job; do
        if scontrol show job "$job" | grep -E 'JobState=' | grep -qvE '=(COMPLETED|FAILED|CANCELLED|TIMEOUT|NODE_FAIL) '; then
            return 1
        fi
    done
}
state() { scontrol show job "$1" | grep -q "JobState=$2 "; }
restarts() { scontrol show job "$1" | grep -q "Restarts=$2 "; }
# field JOB NAME: of `scontrol show job`
field() { scontrol show job "$1" | tr ' ' '\n' | sed -n "s/^$2=//p"; }
has_row() { grep -qs '^1,' "$project/results/$1/metrics.csv"; }
log_has() { grep -qE -- "$2" "$project/$1" 2>/dev/null; }
log_lacks() { ! log_has "$@"; }
same() { # the table but for the columns of time, and the best model's metrics
    cmp <(cut -d, -f1,2,5- "$project/results/$1/metrics.csv") <(cut -d, -f1,2,5- "$project/results/$2/metrics.csv") &&
        cmp "$project/results/$1/test.csv" "$project/results/$2/test.csv" &&
        { ! command -v h5diff >/dev/null ||
            h5diff "$project/results/$1/best.h5" "$project/results/$2/best.h5" /model /model; }
}
# have_own_cores FILE...: are the ranks that these logs tell of, two or more, bound to cores that no other one has?
have_own_cores() {
    local lists
    mapfile -t lists < <(cd "$project" && sed -nE 's/^rank [0-9]+ on .*: cores ([0-9,-]+), [0-9]+ threads.*/\1/p' "$@")
    [ ${#lists[@]} -ge 2 ] &&
        [ -z "$(printf '%s\n' "${lists[@]}" | tr ',' '\n' | awk -F- '{ for (n = $1; n <= $NF; n++) print n }' | sort | uniq -d)" ]
}
ranks_of() { pgrep -f "real/vaecf-train.*results/$1( |\$)"; }
# longest RUN...: the most epochs that one of them has gone
longest() {
    local run
    for run; do cut -d, -f1 "$project/results/$run/metrics.csv" 2>/dev/null; done | awk '$1 + 0 > n { n = $1 + 0 } END { print n + 0 }'
}

# make_project: the programs, jobs/, ratings.csv and run.yaml
make_project() {
    mkdir -p "$project/bin/real"
    cp -r jobs "$project/jobs"
    cp bin/* "$project/bin/" 2>/dev/null
    mv "$project/bin/vaecf-train" "$project/bin/real/"
    # shellcheck disable=SC2016
    printf '%s\n' '#!/bin/bash' 'if [ -n "${HOOK:-}" ]; then . "$HOOK"; fi' 'exec "$(dirname "$0")/real/vaecf-train" "$@"' \
        >"$project/bin/vaecf-train"
    # shellcheck disable=SC2016
    echo 'if [ -n "${SITE:-}" ]; then . "$SITE"; fi' >"$project/jobs/site.sh"
    chmod +x "$project/bin/vaecf-train"
    awk -v users=300 -v half=30 -f tests/ratings.awk >"$project/ratings.csv"
    cat >"$project/run.yaml" <<Y
data: {path: my data}
model: {hidden: [16], latent: 8}
train: {epochs: 5, batch_size: 128, kl: {cap: 0.2, anneal_steps: 10}, early_stopping: {patience: 0}}
device: cpu
output: {path: results/whole}
Y
    chown -R 65534:65534 "$project"
}
# make_data: what a job of preprocess.sh makes otherwise
make_data() {
    as_user bin/vaecf-preprocess --input ratings.csv --output "my data" --heldout-users 50 >"$project/preprocess.log" 2>&1 ||
        { cat "$project/preprocess.log" && echo "not ok - the data set" && exit 1; }
}
# make_slow: what makes checkpoints slow, as a library that SLOW names
make_slow() {
    export SLOW=$tmp/slow.so
    "${CC:-cc}" -shared -fPIC -o "$SLOW" tests/cluster/slow.c || { echo "not ok - tests/cluster/slow.c" && exit 1; }
}

why=$(tests/cluster/slurm.sh up "$tmp" "${kind:-}" 2>&1) || {
    case ${kind:-} in # what not every system has
    confined) why="skipped: confinement of jobs by cgroups: $(grep -E 'error|fatal|cannot|cgroup' <<<"$why" | tail -n 1)" ;;
    qos)
        if grep -q 'fatal: ' "$tmp/log/slurmdbd.log"; then # Debian 13's MariaDB 11.8.9 knows it no more
            why="skipped: preemption by quality of service: slurmdbd: $(grep -o 'fatal: .*' "$tmp/log/slurmdbd.log")"
        fi
        ;;
    esac
    echo "$why"
    if [[ $why == skipped:* ]]; then exit 77; fi
    echo "not ok - the cluster does not come up"
    exit 1
}
# shellcheck source=/dev/null
. "$tmp/env.sh"
make_project
export OMPI_MCA_mpi_yield_when_idle=1 # there are more ranks than cores
if [ "$(nproc)" -lt 2 ]; then export VAECF_BIND=none; fi
