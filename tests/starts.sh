#!/bin/bash
# Two starts at about the same moment on one directory: one ends as if it were alone, byte for byte apart from times; the
# other is refused with one line that names the process, or comes after it and finds all done. In turn: new runs, resumed
# runs, data sets, data sets that replace others, and jobs of one sweep.
#
#   BIN=bin ROUNDS=100 tests/starts.sh
#   SEED=2 ...                             other moments
# shellcheck disable=SC2317  # functions are called by turn and both
cd "$(dirname "$0")/.." || exit 71
# shellcheck source=tests/common.sh
. tests/common.sh
rounds=${ROUNDS:-100}
RANDOM=${SEED:-1}
bin=$(realpath "$bin")
export TMPDIR=$tmp # what an mpirun leaves behind goes with it

gzip -dc preprocess/debian-build-depends.csv.gz >"$tmp/all.csv"
head -n 20000 "$tmp/all.csv" >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 100 --output "$tmp/data" >/dev/null || exit 1
cat >"$tmp/run.yaml" <<Y
data: {path: $tmp/data}
model: {hidden: [60], latent: 20}
train: {epochs: ${EPOCHS:-12}, batch_size: 101, kl: {cap: 0.2, anneal_steps: 30}, early_stopping: {patience: 0}}
output: {path: $tmp/run}
Y
cat >"$tmp/sweep.yaml" <<Y
config: $tmp/run.yaml
output: $tmp/sweep
set: {train.epochs: 5}
seeds: [1, 2, 3]
Y

# ---- what is started, RANKS first ----
train() { launch "$1" "$bin/vaecf-train" --config "$tmp/run.yaml" "${@:2}"; }
preprocess() { # takes 0.5 s
    launch "$1" "$bin/vaecf-preprocess" --input "$tmp/all.csv" --min-item-users 5 --heldout-users 100 --shards 3 \
        --output "$tmp/set" "${@:2}"
}
launch() {
    if [ "$1" = 1 ]; then exec "${@:2}"; fi # so that its number is that of $!
    exec mpirun -n "$@"
}
# what a job on all runs of a sweep does
sweep() {
    # shellcheck disable=SC2016
    exec bash -c 'set -u; . jobs/common.sh; identify "job-$$"; PATH=$1:$PATH; launch=(env); sweep 0 1 0 "$2"' - "$bin" "$tmp/sweep.yaml"
}

# ---- what has to come of it ----
last() { find "$1/checkpoints" -name 'step-*.h5' | sort | tail -n 1; }
untimed() { cut -d, -f1,2,5- "$1/metrics.csv"; }
same_run() { # WANT RUN
    local file
    for file in best.h5 test.csv checkpoints/"$(basename "$(last "$1")")"; do cmp "$1/$file" "$2/$file" || return 1; done
    cmp <(untimed "$1") <(untimed "$2") && cmp <(cd "$1" && find . | sort) <(cd "$2" && find . | sort)
}
same_set() { # WANT SET
    local file
    for file in dataset.h5 shard-0000{0,1,2}-of-00003.h5; do cmp "$1/$file" "$2/$file" || return 1; done
    cmp <(grep -vE '^(time|memory),' "$1/report.csv") <(grep -vE '^(time|memory),' "$2/report.csv") &&
        cmp <(cd "$1" && find . | sort) <(cd "$2" && find . | sort)
}
same_sweep() {
    local k
    for k in 0 1 2; do
        same_run "$tmp/want-sweep/run-000$k" "$tmp/sweep/run-000$k" || return 1
        [ "$(cat "$tmp/sweep/run-000$k/exit-code")" = 0 ] || { echo "run $k: exit-code $(cat "$tmp/sweep/run-000$k/exit-code")" && return 1; }
    done
}
nothing_left() {
    local left
    left=$(find "$@" -name 'lock-*' -o -name '*.tmp' -o -name 'abandoned-*')
    [ -z "$left" ] || { echo "left: $left" && return 1; }
}

has_ended() { ! kill -0 "$1" 2>/dev/null; }
# both COMMAND...: starts it twice, a moment between them; $process, $status, $tmp/out.I, $tmp/err.I of the two
both() {
    local i
    process=() status=()
    for i in 0 1; do
        "$@" >"$tmp/out.$i" 2>"$tmp/err.$i" &
        process[i]=$!
        # half of them at once
        if [ "$i" = 0 ] && [ $((RANDOM % 2)) = 0 ]; then sleep "$(awk -v r="$RANDOM" 'BEGIN { printf "%.3f", 0.5 * r / 32768 }')"; fi
    done
    for i in 0 1; do
        within 100 has_ended "${process[i]}" || { echo "start $i does not end" && kill -KILL "${process[i]}"; }
        wait "${process[i]}"
        status[i]=$?
    done
}
# one_refused RANKS AFTER [FILE]: one ended with 0; the other with 73 while it ran, or found what AFTER says, and said so
# when FILE, the last one, was there
one_refused() {
    local a=0 b=1 line
    if [ "${status[0]}" != 0 ] || { [ "${status[1]}" = 0 ] && grep -qE "$2" "$tmp/out.0"; }; then a=1 b=0; fi
    line=$(grep -v -e '^vaecf-[a-z]*: warning' "$tmp/err.$b" | grep '^vaecf-')
    if [ "${status[a]}" != 0 ]; then
        echo "statuses ${status[*]}" && return 1
    elif [ "${status[b]}" = 73 ] && [[ $line =~ ^vaecf-[a-z]*:\ error:\ [^\ ]*:\ process\ ([0-9]+)\ on\ $(uname -n)\ is\ writing\ there ]]; then
        [ "$1" != 1 ] || [ "${BASH_REMATCH[1]}" = "${process[a]}" ] || { echo "names process ${BASH_REMATCH[1]}, want ${process[a]}" && return 1; }
        refused=$((refused + 1))
    elif grep -qE "$2" <<<"${status[b]} $line $(cat "$tmp/out.$b")"; then
        [ $# = 2 ] || ! [ "$3" -nt "$tmp/err.$b" ] || ! [ "$3" -nt "$tmp/out.$b" ] || { echo "too early: $line" && return 1; }
        after=$((after + 1))
    else
        echo "statuses ${status[*]}: $line" && return 1
    fi
    [ "$(wc -l <<<"$line")" = 1 ] || { echo "not one line" && return 1; }
}

# ---- the rounds ----
new_run() {
    rm -rf "${tmp:?}/run"
    both train "$1"
    one_refused "$1" '^73 .*there is a run already' "$tmp/run/test.csv" && same_run "$tmp/want-$1" "$tmp/run" && nothing_left "$tmp/run"
}
resumed_run() {
    rm -rf "${tmp:?}/run" && cp -a "$tmp/middle-$1" "$tmp/run"
    both train "$1" --resume auto
    one_refused "$1" 'the run is complete' "$tmp/run/test.csv" && same_run "$tmp/want-$1" "$tmp/run" && nothing_left "$tmp/run"
}
new_set() {
    rm -rf "${tmp:?}/set"
    both preprocess "$1"
    one_refused "$1" '^73 .*there is a dataset already' "$tmp/set/dataset.h5" && same_set "$tmp/want-set" "$tmp/set" && nothing_left "$tmp/set"
}
replaced_set() {
    rm -rf "${tmp:?}/set" && cp -a "$tmp/old-set" "$tmp/set"
    both preprocess "$1" --force
    one_refused "$1" '^0 ' && same_set "$tmp/want-set" "$tmp/set" && nothing_left "$tmp/set"
}
swept_runs() {
    rm -rf "${tmp:?}/sweep"
    both sweep
    [ "${status[0]}${status[1]}" = 00 ] || { echo "statuses ${status[*]}" && return 1; }
    refused=$((refused + $(cat "$tmp"/err.? | grep -c '^vaecf-train: error: .* is writing there')))
    after=$((after + $(cat "$tmp"/out.? | grep -c 'the run is complete')))
    ! grep -v ' is writing there' "$tmp"/err.? | grep '^vaecf-[a-z]*: error' && same_sweep && nothing_left "$tmp/sweep"
}
# turn WHAT TEXT ROUNDS: every fifth on 2 ranks, of the short form the second
turn() {
    local n ranks bad=0 why
    refused=0 after=0
    for ((n = 1; n <= $3; n++)); do
        ranks=1
        if [ $((n % 5)) = 2 ] && [ "$1" != swept_runs ]; then ranks=2; fi
        if ! "$1" $ranks >"$tmp/why" 2>&1; then
            why=$(head -c 2000 "$tmp/why" | head -n 5)
            echo "  $2, round $n, $ranks rank(s): $why"
            tail -n 3 "$tmp"/err.? | sed 's/^/    /'
            bad=$((bad + 1))
        fi
    done
    check "$2: $3 rounds, $refused refused while the other wrote, $after after its end, $bad wrong" [ $bad = 0 ]
}

for ranks in 1 2; do
    (train $ranks) >"$tmp/out" 2>&1 || { echo "not ok - $ranks rank(s): $(tail -n 5 "$tmp/out")" && exit 1; }
    mv "$tmp/run" "$tmp/want-$ranks"
    for ((n = 0; n < 10; n++)); do # a run that is stopped too late is complete
        : >"$tmp/out" # the last one's epochs
        train $ranks >"$tmp/out" 2>"$tmp/err" &
        job=$!
        within 60 grep -q '^epoch 2/' "$tmp/out" && kill -USR1 $job
        wait $job
        if [ $? = 75 ]; then break; fi
        rm -rf "${tmp:?}/run"
    done
    mv "$tmp/run" "$tmp/middle-$ranks" || { echo "not ok - no run could be stopped in its middle" && exit 1; }
done
(preprocess 1) >/dev/null && mv "$tmp/set" "$tmp/want-set"
(preprocess 1 --seed 2 --shards 5) >/dev/null && mv "$tmp/set" "$tmp/old-set"
(sweep) >"$tmp/out" 2>&1 || { echo "not ok - the sweep: $(tail -n 5 "$tmp/out")" && exit 1; }
mv "$tmp/sweep" "$tmp/want-sweep"

for ((n = 0; n < 5; n++)); do
    share=$(((rounds + 4 - n) / 5))
    case $n in
    0) turn new_run "two new runs" $share ;;
    1) turn resumed_run "two that go on with a run" $share ;;
    2) turn new_set "two data sets" $share ;;
    3) turn replaced_set "two that replace a data set" $share ;;
    4) turn swept_runs "two jobs on the runs of a sweep" $share ;;
    esac
done
exit $failed
