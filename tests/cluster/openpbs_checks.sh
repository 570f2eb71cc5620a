#!/bin/bash
# What tests/cluster/openpbs.sh check runs on a PBS, with the programs in bin/, in a folder with a space.
#
#   tests/cluster/openpbs_checks.sh FOLDER [LAB]    FOLDER is empty and seen by all hosts; LAB as openpbs.sh up made it
#
# A trained run is the same as one that was left alone if best.h5, test.csv and, but for times, metrics.csv are.
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
# wait_for TEXT COMMAND...: when it takes too long this is a failure, and the next checks say more
wait_for() { within 300 "${@:2}" || { echo "not ok - $1 took too long ($SECONDS s)" && failed=1; }; }
submit() { student qsub -j oe -k oed "$@"; } # the log is NAME.oID
args() { student jobs/pbs/args "$@"; }

# shellcheck disable=SC2317  # called by check and wait_for
{
    # of JOB: what qstat tells
    attribute() { student qstat -xf "$2" 2>/dev/null | awk '/^\t/ { printf "%s", substr($0, 2); next } { printf "%s%s", e, $0; e = "\n" }' | sed -n "s/^ *$1 = //p"; }
    over() {
        local job
        for job; do if [ "$(attribute job_state "$job")" != F ]; then return 1; fi; done
    }
    runs() { [ "$(attribute job_state "$1")" = R ]; }
    ended_with() { [ "$(attribute Exit_status "$2")" = "$1" ]; }
    was_deleted() { over "$1" && [ -z "$(attribute Exit_status "$1")" ]; } # before it ran
    logs_have() { grep -qsE -- "$2" "$project/$1".o*; }
    logs_lack() { ! logs_have "$@"; }
    log_has() { grep -qsE -- "$2" "$project/$1"; }
    # last NAME: the id of the last job of that name
    last() { student qselect -x -N "$1" | sort -n | tail -n 1; }
    all_over() { # NAME: its last job and what that has gone on as
        local job
        job=$(last "$1")
        [ -n "$job" ] && over "$job" && [ "$(last "$1")" = "$job" ]
    }
    starts() { [ "$(student qselect -x -N "$1" | wc -l)" = "$2" ]; } # starts NAME NUMBER
    same() {
        cmp <(cut -d, -f1,2,5- "$project/results/$1/metrics.csv") <(cut -d, -f1,2,5- "$project/results/$2/metrics.csv") &&
            cmp "$project/results/$1/test.csv" "$project/results/$2/test.csv" &&
            h5diff "$project/results/$1/best.h5" "$project/results/$2/best.h5" /model /model
    }
}

# ---- the project ----
make_project() {
    mkdir -p "$project/bin/real"
    mkdir "$project/logs"
    cp -r "$here/../../jobs" "$project/"
    cp "$here"/../../bin/* "$project/bin/real/"
    for program in "$project"/bin/real/*; do cp "$program" "$project/bin/"; done
    # More ranks than cores.
    echo 'export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1' >"$project/jobs/site.sh"
    cat >"$project/bin/vaecf-train" <<'T'
#!/bin/bash
real=$(dirname "$0")/real/vaecf-train
restarts=${VAECF_RESTARTS:-0}
if [[ "$*" != *--config* ]]; then exec "$real" "$@"; fi
# VAECF_STOPS=N: without end in the first N starts, then as many epochs as the file "epochs" says
if [ -n "${VAECF_STOPS:-}" ] && [[ "$*" == *"${VAECF_ONLY:-}"* ]]; then
    if [ "$restarts" -lt "$VAECF_STOPS" ]; then
        set -- "$@" --set train.epochs=1000000
    else
        for _ in $(seq 2400); do if [ -s epochs ]; then break; fi; sleep 0.1; done
        set -- "$@" --set train.epochs="$(cat epochs)"
    fi
fi
# VAECF_SHOW=FILE: no training; leaves what it got, and is stopped in the first VAECF_SHOW_STOPS starts. The last exits
# with VAECF_SHOW_CODE.
if [ -n "${VAECF_SHOW:-}" ]; then
    if [ "${OMPI_COMM_WORLD_RANK:-0}" != 0 ]; then exec sleep infinity; fi
    printf '<%s>' "$@" "bind=$OMP_PROC_BIND" "$(umask)" "${OTHER-}" "$PBS_QUEUE" >"$VAECF_SHOW.$restarts"
    if [ "$restarts" -ge "${VAECF_SHOW_STOPS:-1}" ]; then exit "${VAECF_SHOW_CODE:-0}"; fi
    trap 'if [ -z "${VAECF_SHOW_STUCK:-}" ]; then echo 1 >"$VAECF_SAVED"; fi; exit 75' USR1
    for _ in $(seq 2400); do sleep 0.1; done
    exit 70
fi
exec "$real" "$@"
T
    cat >"$project/bin/vaecf-evaluate" <<'T'
#!/bin/bash
sleep "${VAECF_SLOWLY:-0}"
exec "$(dirname "$0")/real/vaecf-evaluate" "$@"
T
    # as srun or mpiexec would, a process between the script and the rank
    printf '#!/bin/bash\n"$@"\nexit $?\n' >"$project/between"
    # what depends on a training: has it ended?
    printf '#!/bin/bash\ncd "$PBS_O_WORKDIR" && if [ -e "$FILE" ]; then echo whole; else echo early; fi\n' >"$project/after"
    chmod +x "$project"/bin/vaecf-* "$project/between"
    awk 'BEGIN {
        print "userId,movieId,rating"
        seed = 7
        for (u = 1; u <= 1500; u++)
            for (k = 0; k < 14; k++) {
                seed = (seed * 16807) % 2147483647
                item = seed % 60 + (u % 2 && seed % 7 ? 0 : 60)
                print "u" u ",film " item "," 1 + seed % 5
            }
    }' >"$project/ratings.csv"
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
one_node=(-l select=1:ncpus=2:mpiprocs=2)
two_nodes=(-l select=2:ncpus=2:mpiprocs=2 -l place=scatter)
# train NAME OPTION...: submits a training into results/NAME; the options are qsub's, VARIABLES more for -v
train() {
    submit -N "$1" -v "$(args run.yaml --set "output.path=results/$1")${VARIABLES:+,$VARIABLES}" "${@:2}" jobs/pbs/train.sh
}
# follow FILE NAME OPTION...: a job that says whether FILE was there when it began
follow() { submit -N "$2" -l select=1:ncpus=1 -v "FILE=$1" "${@:3}" after; }

# ---- continuations, and who waits for them ----
submit_trainings() {
    data=$(submit -N data -v "$(args --input ratings.csv --output "my data" --heldout-users 200)" jobs/pbs/preprocess.sh)
    chain=$(train chain "${one_node[@]}" -W "depend=afterok:$data")
    evaluated=$(VARIABLES='' submit -N evaluated -v "$(args results/chain --output chain.csv),VAECF_SLOWLY=5" -l walltime=40 \
        -W "depend=afterok:$chain" jobs/pbs/evaluate.sh)
    two=$(VARIABLES=VAECF_STOPS=2 train two "${two_nodes[@]}" -l walltime=40 -W "depend=afterok:$data")
    three=$(VARIABLES=VAECF_STOPS=1 train three "${one_node[@]}" -l walltime=40 -W "depend=afterok:$data")
    array=$(submit -N array -J 0-5 -v "$(args sweep.yaml --set train.epochs=2),VAECF_STOPS=1,VAECF_ONLY=run-0002" \
        -l walltime=60 -l select=1:ncpus=1:mpiprocs=1 -W "depend=afterok:$data" jobs/pbs/sweep.sh)
    after_two=$(follow results/two/test.csv after-two -W "depend=afterok:$chain:$two")
    any_two=$(follow results/two/test.csv any-two -W "depend=afterany:$two")
    not_three=$(follow results/three/test.csv not-three -W "depend=afternotok:$three")
    any_three=$(follow results/three/test.csv any-three -W "depend=afterany:$three")
    after_array=$(follow "results/a sweep/run-0002/test.csv" after-array -W "depend=afterok:$array")
    not_array=$(follow "results/a sweep/run-0002/test.csv" not-array -W "depend=afternotok:$array")
}
# shellcheck disable=SC2317  # called by wait_for
has_stopped() { # has_stopped NAME TIMES
    [ "$(cat "$project/$1".o* 2>/dev/null | grep -c 'goes on as job')" -ge "$2" ]
}
check_trainings() {
    local epochs name
    wait_for "data" over "$data"
    check "preprocess" ended_with 0 "$data"
    wait_for "the first stop of the training" has_stopped two 1
    wait_for "its second" has_stopped two 2
    wait_for "that of the others" has_stopped three 1
    wait_for "and of the array" logs_have array 'goes on as job'
    epochs=$(($(cut -d, -f1 "$project"/results/{two,three,"a sweep"/run-0002}/metrics.csv | sort -n | tail -n 1) + 2))
    echo $epochs >"$project/epochs.new" && mv "$project/epochs.new" "$project/epochs"
    whole=$(submit -N whole -v "$(args run.yaml --set train.epochs=$epochs)" "${two_nodes[@]}" jobs/pbs/train.sh)
    whole_one=$(submit -N whole-one -v "$(args run.yaml --set train.epochs=$epochs --set output.path=results/whole-one)" \
        "${one_node[@]}" jobs/pbs/train.sh)
    for name in chain evaluated two three array whole whole-one; do wait_for "the end of $name" all_over "$name"; done
    wait_for "those that depend" over "$after_two" "$any_two" "$any_three" "$not_three" "$after_array" "$not_array"
    check "chain: train" ended_with 0 "$chain"
    check "chain: evaluate, with a walltime of 40 s" ended_with 0 "$evaluated"
    check "evaluate is not told" logs_lack evaluated 'SIGUSR1|goes on'
    check "chain: vaecf-evaluate says what vaecf-train did" cmp "$project/chain.csv" "$project/results/chain/test.csv"
    check "2 hosts x 2 ranks" logs_have two 'start 3: 4 ranks of 1 threads on 2 nodes'
    check "on both hosts, by pbs_tmrsh" test "$(grep -ohE '^rank [0-3] on [^:]*' "$project"/two.o* | sort -u | wc -l)" = 4
    check "two continuations, not more" starts two 3
    check "the last one succeeds" ended_with 0 "$(last two)"
    check "the same bits as left alone" same two whole
    check "one continuation of the other" starts three 2
    check "and its bits" same three whole-one
    check "afterok of two jobs ran after the whole training" log_has "after-two.o${after_two%%.*}" '^whole$'
    check "afterany ran after the whole training" log_has "any-two.o${any_two%%.*}" '^whole$'
    check "afterany, beside afternotok, too" log_has "any-three.o${any_three%%.*}" '^whole$'
    check "afternotok is deleted when the whole training has succeeded" was_deleted "$not_three"
    check "afterok of an array ran after its slot's continuation" log_has "after-array.o${after_array%%.*}" '^whole$'
    check "afternotok of an array that succeeds is deleted" was_deleted "$not_array"
    check "the slot at its limit goes on, no other" test "$(cat "$project"/array.o* | grep -c 'goes on as job')" = 1
    check "six complete runs" test "$(cat "$project/results/a sweep/"*/exit-code | paste -sd' ')" = "0 0 0 0 0 0"
}

# ---- what a continuation takes along ----
# shown NAME START: what the program got
shown() { cat "$project/show.$1.$2" 2>/dev/null; }
# show NAME OPTION...: VARIABLES as for train
show() {
    submit -N "$1" -v "$(args run.yaml "${arguments[@]}"),VAECF_SHOW=show.$1${VARIABLES:+,$VARIABLES}" -l walltime=16 "${@:2}" jobs/pbs/train.sh
}
submit_shows() {
    arguments=(--set "a=b 'c' \"d\", e\\f \$HOME [1,2] {x: *}" '' $'g\nh' "'" '"' ' lead' 'x=1,VAECF_AHEAD=3')
    VARIABLES='OTHER=o p\,q' show words -q "${ROUTE:-workq}" -p -7 -m n -o "logs/" -W umask=027
    arguments=()
    failing=$(VARIABLES=VAECF_SHOW_CODE=65 show fails)
    not_failing=$(follow show.fails.1 not-fails -W "depend=afternotok:$failing")
    VARIABLES=VAECF_SHOW_STOPS=9,VAECF_SHOW_STUCK=1 show stuck >/dev/null
    (cd "$project" && student env OLD='a "b' bash -c 'qsub -N old -j oe -k oed -v "VAECF_ARGS=run.yaml --set a=b,VAECF_SHOW=show.old" -l walltime=16 jobs/pbs/train.sh') >/dev/null
}
check_shows() {
    local id expected
    for name in words fails stuck old; do wait_for "the end of $name" all_over "$name"; done
    id=$(last words)
    expected=$(printf '<%s>' --config run.yaml "${words[@]}" --resume auto)
    check "words as given to jobs/pbs/args" test "$(shown words 0 | head -c ${#expected})" = "$expected"
    check "all the same in the continuation, with umask, queue and variables" cmp "$project/show.words.0" "$project/show.words.1"
    check "umask" grep -q '<0027>' "$project/show.words.1"
    check "another variable" grep -q '<o p,q>' "$project/show.words.1"
    check "the routing queue" test "$(attribute queue "$id")" = "${ROUTED:-workq}"
    check "-p" test "$(attribute Priority "$id")" = -7
    check "-m" test "$(attribute Mail_Points "$id")" = n
    check "-o" log_has "logs/${id%%.*}.OU" 'start 2'
    check "afternotok runs when the continuation fails" ended_with 0 "$not_failing"
    check "and not before" log_has "not-fails.o${not_failing%%.*}" whole
    check "three stops without progress" starts stuck 3
    check "say so" logs_have stuck 'no progress in 3 starts'
    check "and end with 75" ended_with 75 "$(last stuck)"
    check "VAECF_ARGS as words, and in the continuation" cmp "$project/show.old.0" "$project/show.old.1"
}

# ---- qdel ----
# qdel_one N: a training that is deleted at some moment
qdel_one() {
    local name=qdel-$1 id moment launch=('' VAECF_LAUNCH=env VAECF_LAUNCH=./between '')
    moment=$((RANDOM % 90))
    id=$(VARIABLES=VAECF_STOPS=99${launch[$1 % 4]:+,${launch[$1 % 4]}} train "$name" "${one_node[@]}" -l walltime=16)
    within 60 runs "$id" || return
    sleep $((moment / 10)).$((moment % 10))
    student qdel "$id" 2>/dev/null || echo "$name was over before"
    within 60 over "$id"
}
check_qdels() {
    local n pids=() name resubmitted=()
    for ((n = 0; n < 20; n += 4)); do
        for ((k = n; k < n + 4; k++)); do qdel_one $k & pids+=($!); done
        wait "${pids[@]}"
    done
    sleep 3
    for ((n = 0; n < 20; n++)); do
        name=qdel-$n
        starts "$name" 1 || resubmitted+=("$name")
    done
    echo "   at these moments: $(tail -qn 1 "$project"/qdel-*.o* | cut -c22-80 | sort | uniq -c | tr '\n' ';')"
    check "20 jobs deleted at random moments: none goes on (${resubmitted[*]:-none})" test ${#resubmitted[@]} = 0
}
# 32 million parameters, deleted in the middle of a save
# shellcheck disable=SC2317  # called by wait_for
check_save() {
    local id
    saves() { compgen -G "$project/results/large/checkpoints/*.tmp*" >/dev/null || compgen -G "$project/results/large/checkpoints/.*" >/dev/null; }
    id=$(submit -N large -v "$(args run.yaml --set "model.hidden=[4000,4000]" --set output.path=results/large --set train.epochs=1000)" \
        "${one_node[@]}" -l walltime=600 jobs/pbs/train.sh)
    wait_for "a save" saves
    student qdel "$id"
    wait_for "the end of large" over "$id"
    check "deleted while it saves: not resubmitted" starts large 1
    find "$project/results/large/checkpoints" -type f -printf "   %s %f\n"
    check "nothing unfinished is left" test -z "$(find "$project/results/large/" -name '*tmp*')"
    id=$(submit -N large -v "$(args run.yaml --set "model.hidden=[4000,4000]" --set output.path=results/large --set train.epochs=1000)" \
        "${one_node[@]}" -l walltime=600 jobs/pbs/train.sh)
    wait_for "its next start" logs_have large 'going on from|[Ee]rror'
    check "a whole checkpoint is left" logs_have large 'going on from results/large/checkpoints/step-'
    student qdel "$id"
    wait_for "the end of large" over "$id"
}

# ---- cores ----
check_cores() {
    local a b c d e
    arguments=()
    a=$(show near "${one_node[@]}" -l place=pack)
    b=$(show near "${one_node[@]}" -l place=pack)
    c=$(VARIABLES=VAECF_BIND=none show unbound "${one_node[@]}" -l place=excl)
    wait_for "jobs beside each other" all_over near
    check "two jobs beside each other are not bound" test "$(cat "$project"/near.o* | grep -c '^rank .*not bound')" = "$(cat "$project"/near.o* | grep -c '^rank ')"
    check "nor their threads" grep -q '<bind=false>' "$project/show.near.0"
    wait_for "the job with VAECF_BIND=none" all_over unbound
    check "VAECF_BIND=none" test "$(cat "$project"/unbound.o* | grep -c '^rank .*not bound')" -ge 4
    check "its threads" grep -q '<bind=false>' "$project/show.unbound.0"
    d=$(show bound "${one_node[@]}" -l place=excl)
    wait_for "the job alone on its host" all_over bound
    check "alone on its host it binds, each rank elsewhere" \
        test "$(grep -ohE '^rank [01] .*cores [0-9,-]+, [0-9]' "$project"/bound.o* | sed 's/.*cores//' | sort -u | wc -l)" = 2
    check "in its continuation too" starts bound 2
}

# ---- the server ----
check_server() {
    local id
    if [ -z "$lab" ]; then echo "   skipped: the server of a site stays" && return; fi
    arguments=()
    id=$(show away)
    follower=$(follow show.away.1 after-away -W "depend=afterok:$id")
    within 60 runs "$id"
    sleep 4
    "$here/openpbs.sh" enter "$lab" qterm -t quick
    within 60 logs_have away 'qsub: '
    check "qsub fails while the server is away" logs_have away 'qsub: '
    "$here/openpbs.sh" server "$lab" >/dev/null
    wait_for "the end of away" all_over away
    check "and succeeds when it is there" starts away 2
    check "with success" ended_with 0 "$(last away)"
    wait_for "who waits" over "$follower"
    check "who waits is kept" log_has "after-away.o${follower%%.*}" whole
}

make_project
words=()
submit_trainings
submit_shows
words=(--set "a=b 'c' \"d\", e\\f \$HOME [1,2] {x: *}" '' $'g\nh' "'" '"' ' lead' 'x=1,VAECF_AHEAD=3')
check_shows
check_trainings
check_cores
check_qdels
check_save
check_server
exit $failed
