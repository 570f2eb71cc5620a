#!/bin/bash
# Training on grids of data x item ranks: all agree with one rank, in losses and in metrics; a run goes on on another
# grid; signals, precisions and errors are as on one. Then the C test of the same name on several ranks.
# shellcheck disable=SC2317  # functions that check calls
# shellcheck source=tests/common.sh
. tests/common.sh
export OMP_NUM_THREADS=1


gzip -dc preprocess/debian-build-depends.csv.gz | head -n 12000 >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 3 --heldout-users 60 --shards 3 --output "$tmp/data" \
    >/dev/null || exit 1
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [40], latent: 12}
train: {epochs: 4, batch_size: 130, learning_rate: 3.0e-3, kl: {cap: 0.2, anneal_steps: 30}, checkpoint: {keep: 100}}
device: cpu
output: {path: $tmp/run}
E
# train DATAxITEM NAME OPTION...: a run in $tmp/NAME; its exit code
train() {
    local data=${1%x*} item=${1#*x} name=$2
    shift 2
    timeout 200 mpirun -n $((data * item)) "$bin/vaecf-train" --config "$tmp/run.yaml" --set output.path="$tmp/$name" \
        --set parallel.data="$data" --set parallel.item="$item" "$@" >"$tmp/$name.out" 2>"$tmp/$name.err"
}
untimed() { cut -d, -f"${2:-1,2,5-}" "$tmp/$1/metrics.csv"; }
# agree A B [TOLERANCE]: losses relative; and without TOLERANCE all metrics on validation and test within 1e-6
agree() {
    paste -d, <(untimed "$1" 1,2,5-7,10,11) <(untimed "$2" 1,2,5-7,10,11) | awk -F, -v tolerance="${3:-1e-4}" '
        NR > 1 { for (i = 1; i <= NF / 2; i++) { a = $i; b = $(i + NF / 2); d = a - b; if (d < 0) d = -d
                 if (d > tolerance * (a < 0 ? -a : a)) { print "row " NR ", column " i ": " a " and " b; bad = 1 } } }
        END { exit bad || NR != 5 }' || return 1
    if [ -n "${3:-}" ]; then return 0; fi
    paste -d, <(metrics "$1") <(metrics "$2") | awk -F, '
        { for (i = 1; i <= NF / 2; i++) { d = $i - $(i + NF / 2); if (d > 1e-6 || -d > 1e-6) { print; bad = 1 } } }
        END { exit bad || NR < 40 }'
}
metrics() { untimed "$1" 12,13 && cut -d, -f4,5 "$tmp/$1/test.csv"; }

# with sanitizers, which are slow, each way once
if [ "${BUILD:-build}" = build ]; then grids=(2x1 1x2 2x2 1x4); else grids=(2x2 1x4); fi

train 1x1 one || not_ok "one: $(tail -n 3 "$tmp/one.err")"
for grid in "${grids[@]}"; do
    train "$grid" "$grid" || not_ok "$grid: $(tail -n 3 "$tmp/$grid.err")"
    check "$grid agrees with one rank" agree one "$grid"
done
check "says its grid" grep -qE '^grid 2 x 2: .* 2 x up to [0-9]+ of the items' "$tmp/2x2.out"
# a batch of fewer users than data ranks
train 1x1 few1 --set train.batch_size=1 --set train.epochs=1
train 2x2 few2 --set train.batch_size=1 --set train.epochs=1
check "a row of the grid without a part in a batch" cmp <(untimed few1 1,2,5 | cut -c1-9) <(untimed few2 1,2,5 | cut -c1-9)
timeout 100 mpirun -n 3 "${BUILD:-build}/tests/grid_test" >"$tmp/grid_test.log" 2>&1
check "the C test on 3 ranks" [ "$? $(grep -c '^\[  PASSED  \] 9 test' "$tmp/grid_test.log")" = "0 3" ]
train 2x2 moved --set train.epochs=1
train 1x4 moved --resume auto --set train.epochs=2
train 1x1 moved --resume auto --set train.epochs=3
train 1x2 moved --resume auto
check "an epoch each on 2x2, 1x4, 1x1, 1x2" agree one moved
if [ "${BUILD:-build}" != build ]; then exit $failed; fi
train 2x2 again
check "the same bits again" cmp <(untimed 2x2) <(untimed again)
train 1x3 defaults --set parallel.data=0 --set train.epochs=1
check "data 0 is what is left" [ -s "$tmp/defaults/test.csv" ]

recvae=(--set model.layer_norm=yes --set model.decoder=linear --set train.kl.gamma=0.005 --set train.turns=2)
train 1x1 turns1 "${recvae[@]}"
train 2x2 turns2 "${recvae[@]}"
check "layer norm, a linear decoder, weights of KL by user, turns" agree turns1 turns2

# ---- stopped and resumed ----
train 2x2 clock --set train.checkpoint.every_minutes=1e-9 --set train.epochs=2
train 1x2 middle --resume "$(find "$tmp/clock/checkpoints" -name 'step-*.h5' | sort | sed -n 5p)"
check "from the middle of an epoch" cmp <(untimed one 1,2,5 | tail -n 2 | cut -c1-10) <(untimed middle 1,2,5 | tail -n 2 | cut -c1-10)
"$bin/vaecf-evaluate" --checkpoint "$tmp/1x4/best.h5" --data "$tmp/data" --output "$tmp/evaluated.csv" --device cpu 2>/dev/null
check "vaecf-evaluate reads what a grid has written" cmp <(cut -c1-30 "$tmp/evaluated.csv") <(cut -c1-30 "$tmp/1x4/test.csv")
mkfifo "$tmp/pipe"
timeout 200 mpirun -n 4 "$bin/vaecf-train" --config "$tmp/run.yaml" --set output.path="$tmp/signal" --set parallel.item=2 \
    --set train.epochs=100000 --set train.early_stopping.patience=0 >"$tmp/pipe" 2>"$tmp/signal.err" &
job=$!
exec 3<"$tmp/pipe"
grep -m1 -q '^epoch 3/' <&3
kill -USR1 "$(pgrep -f -- "vaecf-train.*$tmp/signal " | grep -v "^$job$" | tail -n 1)" 2>/dev/null
cat <&3 >/dev/null &
wait $job
check "SIGUSR1 to the last of the grid: 75" [ "$? $(grep -c 'resume auto' "$tmp/signal.err")" = "75 1" ]
exec 3<&-

# ---- precisions ----
for precision in bf16 fp16; do
    train 1x1 $precision --set train.precision=$precision
    train 2x2 ${precision}2x2 --set train.precision=$precision
    check "$precision on 2x2 is near one rank" agree $precision ${precision}2x2 5e-3
done
train 1x1 skips1 --set train.precision=fp16 --set train.loss_scale=1e9
train 1x2 skips2 --set train.precision=fp16 --set train.loss_scale=1e9
check "fp16 overflows: the same steps are skipped" [ "$(untimed skips1 2,11)" = "$(untimed skips2 2,11)" ]

# ---- what is refused ----
# refused NAME TEXT COMMAND...: it ends with 78 and the text
refused() {
    "${@:3}"
    [ "$? $(grep -c "$2" "$tmp/$1.err")" = "78 1" ]
}
wrong() {
    timeout 60 mpirun -n 3 "$bin/vaecf-train" --config "$tmp/run.yaml" --set parallel.data=2 --set parallel.item=2 \
        >/dev/null 2>"$tmp/wrong.err"
}
check "another number of ranks: 78" refused wrong 'parallel: data 2 x item 2 is a grid of 4 ranks, but there are 3' wrong
check "a baseline: 78" refused ease 'parallel.item: ease and popularity' train 1x2 ease --set model.type=popularity

exit $failed
