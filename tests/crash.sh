#!/bin/bash
# Kills training at random moments, resumes it by --resume auto each time, and compares what it ends with to the
# uninterrupted run: best.h5, the last checkpoint and test.csv byte for byte, metrics.csv apart from its two columns
# of time.
#
#   BIN=bin KILLS=200 tests/crash.sh       KILLS: of each signal, half of them on 1 rank and half on 2
#   SEED=2 ...                             other moments
cd "$(dirname "$0")/.." || exit 71
# shellcheck source=tests/common.sh
. tests/common.sh
kills=${KILLS:-200}
RANDOM=${SEED:-1}
export TMPDIR=$tmp # what a killed mpirun leaves behind goes with it

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 20000 >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 100 --output "$tmp/data" >/dev/null || exit 1
# a checkpoint after every step, so that kills fall inside of saving too
cat >"$tmp/run.yaml" <<Y
data: {path: $tmp/data}
model: {hidden: [60], latent: 20}
train: {epochs: 4, batch_size: 101, kl: {cap: 0.2, anneal_steps: 30}, checkpoint: {keep: 2, every_minutes: 1.0e-9}}
output: {path: $tmp/run}
Y

# start RANKS OPTION...: begins training; $job is its process
start() {
    local ranks=$1 launch=()
    shift
    if [ "$ranks" -gt 1 ]; then launch=(mpirun -n "$ranks"); fi
    "${launch[@]}" "$bin/vaecf-train" --config "$tmp/run.yaml" "$@" >"$tmp/out" 2>"$tmp/err" &
    job=$!
}
seconds() { date +%s.%N; }
# a random number of seconds up to $1
random() { awk -v most="$1" -v r="$RANDOM" 'BEGIN { printf "%.3f", most * r / 32768 }'; }
untimed() { cut -d, -f1,2,5- "$1/metrics.csv"; }
compare() {
    local file
    for file in best.h5 test.csv checkpoints/"$(basename "$(find "$tmp/want/checkpoints" -name '*.h5' | sort | tail -n 1)")"; do
        cmp "$tmp/want/$file" "$tmp/run/$file" || return 1
    done
    cmp <(untimed "$tmp/want") <(untimed "$tmp/run") || return 1
    if [ -n "$(find "$tmp/run" -name '*.tmp')" ]; then echo "temporary files are left" && return 1; fi
}

# hit SIGNAL RANKS: sends it to the ranks, to all or one of them; SIGKILL also to the launcher
hit() {
    local processes=("$job") all
    if [ "$2" -gt 1 ]; then
        mapfile -t all < <(pgrep -P "$job")
        if [ ${#all[@]} = 0 ]; then
            processes=()
        elif [ $((RANDOM % 3)) = 0 ]; then
            processes=("${all[RANDOM % ${#all[@]}]}")
        elif [ "$1" = KILL ]; then
            processes+=("${all[@]}")
        else
            processes=("${all[@]}")
        fi
    fi
    [ ${#processes[@]} -gt 0 ] && kill -"$1" "${processes[@]}" 2>/dev/null
}

# shellcheck disable=SC2317  # called by within
no_rank() { ! pgrep -f -- "vaecf-train --config $tmp/run.yaml" >/dev/null; }
# round SIGNAL RANKS KILLS
round() {
    local signal=$1 ranks=$2 want=$3 n=0 starts=0 inside=0 stops=0 ends=0 status
    while [ "$n" -lt "$want" ]; do
        starts=$((starts + 1))
        if [ $starts -gt $((10 * want + 10)) ]; then
            echo "not ok - SIG$signal, $ranks rank(s): $n kills in $starts starts" && return 1
        fi
        start "$ranks" --resume auto
        sleep "$(random "$duration")"
        if hit "$signal" "$ranks"; then
            n=$((n + 1))
            [ $((n % 50)) != 0 ] || echo "  SIG$signal, $ranks rank(s): $n kills, $ends runs to the end"
            [ -n "$(find "$tmp/run" -name '*.tmp' 2>/dev/null)" ] && inside=$((inside + 1))
        fi
        { wait "$job"; } 2>/dev/null
        status=$?
        within 60 no_rank || { echo "not ok - SIG$signal: ranks go on after their launcher's end" && return 1; }
        case $status in
        0) ends=$((ends + 1)) ;;
        75) stops=$((stops + 1)) ;;
        137 | 143) ;; # killed, or told to end before it could listen
        *) echo "not ok - SIG$signal: status $status: $(tail -n 5 "$tmp/err")" && return 1 ;;
        esac
        if [ "$signal$status" = TERM75 ] && [ -z "$(find "$tmp/run/checkpoints" -name 'step-*.h5')" ]; then
            echo "not ok - SIGTERM: 75 without a checkpoint" && return 1
        fi
        if [ "$status" != 0 ] && [ "$n" -lt "$want" ]; then continue; fi
        if [ "$status" != 0 ]; then
            start "$ranks" --resume auto
            wait "$job" || { echo "not ok - the last resume: $(tail -n 5 "$tmp/err")" && return 1; }
            ends=$((ends + 1))
        fi
        compare || { echo "not ok - SIG$signal, $ranks ranks: differs after $n" && return 1; }
        rm -rf "$tmp/run"
    done
    # A few signals may all come before the program listens (faults_test.sh makes sure of 75); many cannot.
    if [ "$signal" = TERM ] && [ "$want" -ge 50 ] && [ "$stops" = 0 ]; then echo "not ok - SIGTERM, $ranks ranks: no exit code 75" && return 1; fi
    echo "ok - SIG$signal, $ranks rank(s): $n kills ($inside inside of a save, $stops exits with 75)," \
        "$ends runs to the end: the bytes of the uninterrupted run"
}

for ranks in 1 2; do
    rm -rf "$tmp/run" "$tmp/want"
    begin=$(seconds)
    start "$ranks"
    wait "$job" || { echo "not ok - $ranks rank(s): $(tail -n 5 "$tmp/err")" && exit 1; }
    duration=$(awk -v a="$begin" -v b="$(seconds)" 'BEGIN { print 1.1 * (b - a) }')
    echo "$ranks rank(s), uninterrupted, 1.1 times as long: $duration s"
    mv "$tmp/run" "$tmp/want"
    for signal in KILL TERM; do
        round "$signal" "$ranks" $(((kills + ranks - 1) / 2)) 2>/dev/null || failed=1
    done
done
exit $failed
