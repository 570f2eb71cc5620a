#!/bin/bash
# Checks of jobs/pbs/ on a PBS with the programs in bin/, in a folder with a space. (tests/cluster/pbs_checks.sh has those
# that pretended programs serve better.) A run that was stopped has to be the same as one that was left alone: best.h5,
# test.csv and, but for times, metrics.csv.
#
#   tests/cluster/openpbs_checks.sh FOLDER [LAB]    FOLDER is empty and seen by all hosts; LAB as openpbs.sh up made it
set -u
here=$(cd "$(dirname "$0")" && pwd)
folder=$(cd "$1" && pwd) || exit 66
lab=${2:-}
project="$folder/a project"
failed=0
RANDOM=7 # the same moments each time

# student COMMAND...: as the one who submits, in the project
student() {
    if [ -n "$lab" ]; then (cd "$project" && exec "$here/openpbs.sh" as_user "$lab" "$@"); else (cd "$project" && "$@"); fi
}
check() { # check TEXT COMMAND...
    if "${@:2}"; then
        echo "ok - $1 ($SECONDS s)"
    else
        echo "not ok - $1 ($SECONDS s)"
        failed=1
    fi
}
# within SECONDS COMMAND...: polls; fails when the time is over
within() {
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        if [ $SECONDS -ge $end ]; then return 1; fi
        sleep 0.3
    done
}
wait_for() { # wait_for TEXT COMMAND...
    if ! within 300 "${@:2}"; then echo "not ok - $1 took too long ($SECONDS s)" && failed=1; fi
}

# ---- jobs: their logs are NAME.oID, those of parts of an array NAME.oID.K ----
submit() { student qsub -j oe -k oed "$@"; }
args() { student jobs/pbs/args "$@"; }
# attribute NAME JOB
attribute() { student qstat -xf "$2" 2>/dev/null | sed -n "s/^ *$1 = //p"; }
# jobs_of NAME: the ids of the jobs of that name, of which those that went on by themselves have the same
jobs_of() { student qselect -x -N "$1" | sort -n; }
# shellcheck disable=SC2317  # called by check and wait_for
{
    runs() { [ "$(attribute job_state "$1")" = R ]; }
    over() {
        local job
        for job; do if [ "$(attribute job_state "$job")" != F ]; then return 1; fi; done
    }
    all_over() { # all_over NAME
        local jobs
        mapfile -t jobs < <(jobs_of "$1")
        over "${jobs[@]}" && [ "$(jobs_of "$1" | wc -l)" = ${#jobs[@]} ]
    }
    starts() { [ "$(jobs_of "$1" | wc -l)" = "$2" ]; } # starts NAME NUMBER
    ended_with() { [ "$(attribute Exit_status "$2")" = "$1" ]; }
    was_deleted() { over "$1" && [ -z "$(attribute Exit_status "$1")" ]; } # before it ran
    logs_have() { cat "$project/$1".o* 2>/dev/null | grep -qE -- "$2"; }
    logs_lack() { ! logs_have "$@"; }
    is_quiet() {
        local host
        for host in vpbs1 vpbs2; do if "$here/openpbs.sh" on "$host" "$lab" pgrep -f 'vaecf-train|orted|mpirun'; then return 1; fi; done
    }
    went_on() { [ "$(cat "$project/$1".o* 2>/dev/null | grep -c 'goes on as job')" = "$2" ]; } # went_on NAME TIMES
    same() { # same RUN RUN
        cmp <(cut -d, -f1,2,5- "$1/metrics.csv") <(cut -d, -f1,2,5- "$2/metrics.csv") && cmp "$1/test.csv" "$2/test.csv" &&
            h5diff "$1/best.h5" "$2/best.h5" /model /model
    }
}

# ---- the project ----
make_project() {
    mkdir -p "$project/bin/real"
    cp -r "$here/../../jobs" "$project/"
    cp "$here"/../../bin/vaecf-* "$project/bin/"
    mv "$project"/bin/vaecf-{train,evaluate} "$project/bin/real/"
    # There are more ranks than cores.
    echo 'export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1' >"$project/jobs/site.sh"
    # VAECF_STOPS=N: without end in the first N starts, then as many epochs as the file $VAECF_EPOCHS says. Of a sweep only
    # the run $VAECF_ONLY.
    cat >"$project/bin/vaecf-train" <<'T'
#!/bin/bash
if [ -n "${VAECF_STOPS:-}" ] && [[ "$*" == *--config*"${VAECF_ONLY:-}"* ]]; then
    epochs=1000000
    if [ "${VAECF_RESTARTS:-0}" -ge "$VAECF_STOPS" ]; then
        for ((n = 0; n < 2400; n++)); do if [ -s "$VAECF_EPOCHS" ]; then break; fi; sleep 0.1; done
        epochs=$(cat "$VAECF_EPOCHS")
    fi
    set -- "$@" --set "train.epochs=$epochs"
fi
exec "$(dirname "$0")/real/vaecf-train" "$@"
T
    # shellcheck disable=SC2016
    printf '#!/bin/bash\nsleep "${VAECF_SLOWLY:-0}"\nexec "$(dirname "$0")/real/vaecf-evaluate" "$@"\n' >"$project/bin/vaecf-evaluate"
    # a launcher that stays between the script and the rank
    # shellcheck disable=SC2016
    printf '#!/bin/bash\n"$@"\nexit $?\n' >"$project/between"
    # what depends on a training: was it complete?
    # shellcheck disable=SC2016
    printf '#!/bin/bash\ncd "$PBS_O_WORKDIR" && if [ -e "$(cat "$PBS_JOBNAME.file")" ]; then echo whole; else echo early; fi\n' >"$project/after"
    chmod +x "$project"/bin/vaecf-* "$project/between"
    awk -v users=6000 -v half=60 -f "$here/../ratings.awk" >"$project/ratings.csv"
    cat >"$project/run.yaml" <<Y
data: {path: my data}
model: {hidden: [200], latent: 32}
train: {epochs: 5, batch_size: 32, kl: {cap: 0.2, anneal_steps: 10}, early_stopping: {patience: 0}}
device: cpu
output: {path: results/whole}
Y
    cat >"$project/sweep.yaml" <<Y
config: run.yaml
output: results/a sweep
seeds: [1, 2, 3]
parameters: {train.learning_rate: [1.0e-3, 1.0e-2]}
Y
    if [ -n "$lab" ]; then chown -R --reference="$lab/home" "$folder"; fi
}
one=(-l select=1:ncpus=2:mpiprocs=2)
two=(-l select=2:ncpus=2:mpiprocs=2 -l place=scatter)
# train NAME RUN [--set WORDS]... [-- OPTION...]: a training into the directory RUN; the options are qsub's; VARIABLES for -v
train() {
    local name=$1 words=(run.yaml --set "output.path=$2")
    shift 2
    while [ $# -gt 0 ] && [ "$1" != -- ]; do words+=("$1") && shift; done
    submit -N "$name" -v "$(args "${words[@]}")${VARIABLES:+,$VARIABLES}" "${@:2}" jobs/pbs/train.sh
}
# follow NAME FILE DEPEND: a job that tells whether FILE, which may have any name, is there when it begins
follow() {
    printf '%s' "$2" >"$project/$1.file"
    submit -N "$1" -l select=1:ncpus=1 -W "depend=$3" after
}

# ---- continuations, and who waits for them ----
odd=$'results/it\'s, "two" $HOME [1]\\' # where the training on two hosts has its run
check_trainings() {
    local data chain evaluated array after_{two,array} any_{two,three} not_{three,array} name id
    data=$(submit -N data -v "$(args --input ratings.csv --output "my data" --heldout-users 200)" jobs/pbs/preprocess.sh)
    chain=$(train chain results/chain -- "${one[@]}" -W "depend=afterok:$data")
    evaluated=$(submit -N evaluated -v "$(args results/chain --output chain.csv),VAECF_SLOWLY=5" -l walltime=40 -W "depend=afterok:$chain" \
        jobs/pbs/evaluate.sh)
    id=$(VARIABLES=VAECF_STOPS=2,VAECF_EPOCHS=epochs.two train two "$odd" -- "${two[@]}" -l walltime=40 -W "depend=afterok:$data")
    after_two=$(follow after-two "$odd/test.csv" "afterok:$chain:$id")
    any_two=$(follow any-two "$odd/test.csv" "afterany:$id")
    id=$(VARIABLES=VAECF_STOPS=1,VAECF_EPOCHS=epochs.three train three results/three -- "${one[@]}" -l walltime=40 -W "depend=afterok:$data")
    not_three=$(follow not-three results/three/test.csv "afternotok:$id")
    any_three=$(follow any-three results/three/test.csv "afterany:$id")
    array=$(submit -N array -J 0-5 -v "$(args sweep.yaml --set train.epochs=2),VAECF_STOPS=1,VAECF_EPOCHS=epochs.array,VAECF_ONLY=run-0002" \
        -l walltime=60 -l select=1:ncpus=1:mpiprocs=1 -W "depend=afterok:$data" jobs/pbs/sweep.sh)
    after_array=$(follow after-array "results/a sweep/run-0002/test.csv" "afterok:$array")
    not_array=$(follow not-array "results/a sweep/run-0002/test.csv" "afternotok:$array")

    finish two "$odd" 2 &
    finish three results/three 1 &
    finish array "results/a sweep/run-0002" 1 &
    wait
    train whole results/whole --set "train.epochs=$(cat "$project/epochs.two")" -- "${two[@]}" >/dev/null
    train whole-three results/whole-three --set "train.epochs=$(cat "$project/epochs.three")" -- "${one[@]}" >/dev/null
    for name in chain evaluated two three array whole whole-three; do wait_for "the end of $name" all_over "$name"; done
    wait_for "those that depend" over "$after_two" "$any_two" "$any_three" "$not_three" "$after_array" "$not_array"

    check "preprocess" ended_with 0 "$data"
    check "train by afterok" ended_with 0 "$chain"
    check "evaluate by afterok" ended_with 0 "$evaluated"
    check "the same test.csv" cmp "$project/chain.csv" "$project/results/chain/test.csv"
    check "with a walltime of 40 s it is not told" logs_lack evaluated 'SIGUSR1|goes on'
    check "2 hosts x 2 ranks" logs_have two 'start 3: 4 ranks of 1 threads on 2 nodes'
    check "two ranks on each" test "$(grep -ohE '^rank [0-3] on [^:]*' "$project"/two.o* | sort -u | wc -l)" = 4
    check "two continuations" starts two 3
    check "the same bits as of one that was left alone" same "$project/$odd" "$project/results/whole"
    check "one continuation of the other" starts three 2
    check "and its bits" same "$project/results/three" "$project/results/whole-three"
    check "afterok of two jobs runs after the whole training" logs_have after-two '^whole$'
    check "afterany too" logs_have any-two '^whole$'
    check "afterany of the other, beside afternotok" logs_have any-three '^whole$'
    check "afternotok is deleted when the whole training succeeds" was_deleted "$not_three"
    check "but not before" test "$(attribute mtime "$not_three" | xargs -I{} date -d {} +%s)" -ge "$(stat -c %Y "$project/results/three/test.csv")"
    check "afterok of an array runs after the continuation of its slot" logs_have after-array '^whole$'
    check "afternotok of an array beside it is lost, which the log says" logs_have array "^warning: ${not_array%%.*}\..*afternotok"
    check "the slot at its limit goes on, no other" went_on array 1
    check "six complete runs" test "$(cat "$project/results/a sweep/"*/exit-code | paste -sd' ')" = "0 0 0 0 0 0"
}
# finish NAME RUN STOPS: after so many stops, two epochs more than it has
finish() {
    wait_for "stop $3 of $1" went_on "$1" "$3"
    echo $(($(tail -n 1 "$project/$2/metrics.csv" | cut -d, -f1) + 2)) >"$project/new.$1" && mv "$project/new.$1" "$project/epochs.$1"
}

# ---- qdel ----
# delete_one N MOMENT: a training that is deleted after so many tenths of a second: in its start, its epochs, its continuation
delete_one() {
    local id moment=$2 launchers=('' VAECF_LAUNCH=env VAECF_LAUNCH=./between '') place=("${one[@]}")
    VARIABLES=VAECF_STOPS=99${launchers[$1 % 4]:+,${launchers[$1 % 4]}}
    if [ $(($1 % 4)) = 3 ]; then place=("${two[@]}"); fi
    id=$(train "qdel-$1" "results/qdel-$1" -- "${place[@]}" -l walltime=16)
    within 60 runs "$id"
    sleep $((moment / 10)).$((moment % 10))
    student qdel "$id" 2>/dev/null || { within 20 starts "qdel-$1" 2 && student qdel "$(jobs_of "qdel-$1" | tail -n 1)"; } # it was over
    within 60 over "$id"
}
check_qdel() {
    local n k pids wrong=()
    for ((n = 0; n < 20; n += 4)); do
        pids=()
        for ((k = n; k < n + 4; k++)); do
            delete_one $k $((RANDOM % 100)) &
            pids+=($!)
        done
        wait "${pids[@]}"
    done
    # One that was submitted in that moment has to be deleted too: without that it would go on and on.
    for ((n = 0; n < 20; n++)); do within 60 all_over "qdel-$n" || wrong+=("$n"); done
    check "20 jobs deleted at random moments: none goes on (${wrong[*]:-none})" test ${#wrong[@]} = 0
    if [ -n "$lab" ]; then check "nothing of them is left on the hosts" is_quiet; fi
}
# 32 million parameters, deleted in the middle of a save
check_save() {
    local id
    # shellcheck disable=SC2317
    saves() { [ -n "$(find "$project/results/large/checkpoints" -name '*.tmp*' -size +20M 2>/dev/null)" ]; }
    large() { train large results/large --set 'model.hidden=[4000,4000]' --set train.batch_size=2000 --set train.epochs=1000 -- "${one[@]}" -l walltime=600; }
    id=$(large)
    wait_for "a save of 32 million parameters" saves
    student qdel "$id"
    wait_for "the end of that job" over "$id"
    check "deleted while it saves: it does not go on" starts large 1
    check "nothing unfinished is left" test -z "$(find "$project/results/large" -name '*.tmp')"
    id=$(large)
    wait_for "its next start" logs_have large '(going on from|^error)'
    check "but a whole checkpoint, which the next start takes" logs_have large 'going on from results/large/checkpoints/step-'
    student qdel "$id"
    wait_for "its end" over "$id"
}

# ---- cores ----
check_cores() {
    local id other name
    id=$(train near results/near -- "${one[@]}")
    other=$(train near results/near-too -- "${one[@]}")
    train unbound results/unbound -- "${one[@]}" -l place=excl >/dev/null
    VARIABLES=VAECF_BIND=none train none results/none -- "${one[@]}" -l place=excl >/dev/null
    for name in near unbound none; do wait_for "the jobs $name" all_over "$name"; done
    check "two jobs shared a host" test "$(attribute exec_host "$id" | cut -d/ -f1)" = "$(attribute exec_host "$other" | cut -d/ -f1)"
    check "none of their ranks is bound" test "$(cat "$project"/near.o* | grep -c '^rank .*, not bound')" = 4
    check "alone on its host a job binds, if there are cores for it" test "$(nproc)" -lt 2 -o "$(grep -ohE '^rank [01] .*cores [0-9,-]+, [0-9]' "$project"/unbound.o* | sed 's/.*cores//' | sort -u | wc -l)" = 2
    check "VAECF_BIND=none" test "$(cat "$project"/none.o* | grep -c '^rank .*, not bound')" = 2
}

make_project
check_trainings
check_cores
check_qdel
check_save
exit $failed
