#!/bin/bash
# Training over ranks and across stops: 1 to 4 ranks agree, the same seed gives the same bits, a run that was stopped
# goes on as if it had not been. On MovieLens-100K where it is, else on the data set that comes along.
# shellcheck source=tests/common.sh
. tests/common.sh

data=../shared/data/ml-100k/ratings.csv
options=(--min-rating 4 --heldout-users 100)
if [ ! -r $data ]; then
    echo "note: no $data; a part of preprocess/debian-build-depends.csv.gz instead"
    gzip -dc preprocess/debian-build-depends.csv.gz | head -n 20000 >"$tmp/part.csv"
    data=$tmp/part.csv options=(--min-item-users 5 --heldout-users 100)
fi
"$bin/vaecf-preprocess" --input "$data" "${options[@]}" --shards 3 --output "$tmp/data" >/dev/null || exit 1
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [60], latent: 20}
train: {epochs: 5, batch_size: 101, kl: {cap: 0.2, anneal_steps: 30}, checkpoint: {keep: 100}}
output: {path: $tmp/run}
E

# train RANKS NAME OPTION...: a run in $tmp/NAME; its exit code
train() {
    local ranks=$1 name=$2
    shift 2
    timeout 250 mpirun -n "$ranks" "$bin/vaecf-train" --config "$tmp/run.yaml" --set output.path="$tmp/$name" "$@" \
        >"$tmp/$name.out" 2>"$tmp/$name.err"
}
# all but seconds and users_per_second
untimed() { cut -d, -f1,2,5- "$tmp/$1/metrics.csv"; }
# agree A B: every number of the two tables within 1e-4 relative
agree() {
    paste -d, <(untimed "$1") <(untimed "$2") | awk -F, '
        NR > 1 { for (i = 1; i <= NF / 2; i++) { a = $i; b = $(i + NF / 2); d = a - b; if (d < 0) d = -d
                 if (d > 1e-4 * (a < 0 ? -a : a)) { print "row " NR ", column " i ": " a " and " b; bad = 1 } } }
        END { exit bad || NR != 6 }'
}
identical() {
    cmp <(untimed "$1") <(untimed "$2") && cmp "$tmp/$1/test.csv" "$tmp/$2/test.csv" &&
        h5diff "$tmp/$1/best.h5" "$tmp/$2/best.h5" /model /model
}
if ! command -v h5diff >/dev/null; then identical() { cmp <(untimed "$1") <(untimed "$2") && cmp "$tmp/$1/test.csv" "$tmp/$2/test.csv"; }; fi

for ranks in 1 2 3 4; do
    if train $ranks "ranks$ranks"; then ok "$ranks ranks"; else not_ok "$ranks ranks: $(tail -n 5 "$tmp/ranks$ranks.err")"; fi
done
for ranks in 2 3 4; do
    if agree ranks1 ranks$ranks; then ok "1 and $ranks ranks agree"; else not_ok "1 and $ranks ranks"; fi
done
for ranks in 1 3; do
    train $ranks "again$ranks"
    if identical ranks$ranks again$ranks; then ok "$ranks ranks: the same bits again"; else not_ok "$ranks ranks: again"; fi
done
if grep -qE 'largest memory of a rank [0-9]+ MB' "$tmp/ranks1.out"; then ok "says its memory"; else not_ok "memory"; fi

# ---- stopped and resumed ----
train 2 stopped --set train.epochs=2
if train 2 stopped; [ $? = 73 ] && grep -q -- --resume "$tmp/stopped.err"; then ok "a run is not overwritten: 73"; else not_ok "overwritten"; fi
train 2 stopped --resume auto
if identical ranks2 stopped; then ok "2 epochs, then 3 more: the same bits"; else not_ok "2 epochs, then 3 more"; fi
# in the middle of an epoch, by a signal to one rank
mkfifo "$tmp/pipe"
timeout 250 mpirun -n 2 "$bin/vaecf-train" --config "$tmp/run.yaml" --set output.path="$tmp/signal" \
    --set train.epochs=100000 --set train.early_stopping.patience=0 >"$tmp/pipe" 2>"$tmp/signal.err" &
job=$!
grep -m1 -q '^epoch 3/' <"$tmp/pipe"
exec 3<"$tmp/pipe" # keeps it open, so that the job does not die of writing
kill -USR1 "$(pgrep -f -- "vaecf-train.*$tmp/signal " | grep -v "^$job$" | tail -n 1)" 2>/dev/null
cat <&3 >/dev/null &
wait $job
status=$?
exec 3<&-
if [ $status = 75 ] && grep -q 'resume auto' "$tmp/signal.err"; then ok "SIGUSR1 to one rank: 75"; else not_ok "SIGUSR1: $status"; fi
newest=$(find "$tmp/signal/checkpoints" -name 'step-*.h5' | sort | tail -n 1)
if [ -n "$newest" ]; then ok "with a checkpoint"; else not_ok "no checkpoint"; fi

# from a checkpoint in the middle of epoch 3, which one made by the clock is: every step here
train 2 clock --set train.checkpoint.every_minutes=1e-9
if identical ranks2 clock; then ok "a checkpoint every step changes nothing"; else not_ok "a checkpoint every step"; fi
middle=$(find "$tmp/clock/checkpoints" -name 'step-*.h5' | sort | sed -n 12p)
train 2 middle --resume "$middle"
tail -n 3 "$tmp/clock/metrics.csv" | cut -d, -f1,2,5- >"$tmp/want"
if [ -s "$tmp/want" ] && tail -n 3 "$tmp/middle/metrics.csv" | cut -d, -f1,2,5- | tail -n 2 | cmp - <(tail -n 2 "$tmp/want") &&
    cmp "$tmp/clock/test.csv" "$tmp/middle/test.csv"; then
    ok "from the middle of an epoch: the same bits"
else not_ok "from the middle of an epoch: $(tail -n 3 "$tmp/middle.err")"; fi

# ---- in turns: two epochs for the encoder, one for the decoder ----
turns=(--set train.turns=2 --set train.kl.gamma=0.005 --set model.layer_norm=yes --set model.decoder=linear)
train 1 turns1 "${turns[@]}"
train 2 turns2 "${turns[@]}"
if agree turns1 turns2; then ok "in turns: 1 and 2 ranks agree"; else not_ok "in turns: 1 and 2 ranks"; fi
train 2 turnsclock "${turns[@]}" --set train.checkpoint.every_minutes=1e-9
middle=$(find "$tmp/turnsclock/checkpoints" -name 'step-*.h5' | sort | sed -n 22p) # of the decoder's epoch
train 2 turnsmiddle --resume "$middle" "${turns[@]}"
tail -n 3 "$tmp/turnsclock/metrics.csv" | cut -d, -f1,2,5- >"$tmp/want"
if identical turns2 turnsclock && cut -d, -f1,2,5- "$tmp/turnsmiddle/metrics.csv" | tail -n 3 | cmp - "$tmp/want" &&
    cmp "$tmp/turns2/test.csv" "$tmp/turnsmiddle/test.csv"; then
    ok "from the middle of a turn: the same bits"
else not_ok "from the middle of a turn: $(tail -n 3 "$tmp/turnsmiddle.err")"; fi
if command -v h5diff >/dev/null; then
    mapfile -t after < <(find "$tmp/turns1/checkpoints" -name 'step-*.h5' | sort) # after each epoch
    same() { h5diff -q "${after[$1]}" "${after[$2]}" "/$3" "/$3"; }
    frozen=1
    for what in model optimizer/m optimizer/v; do
        same 0 1 $what/decoder && ! same 0 1 $what/encoder && same 1 2 $what/encoder && ! same 1 2 $what/decoder || frozen=0
    done
    if [ $frozen = 1 ]; then ok "the frozen half stays to the bit"; else not_ok "the frozen half"; fi
fi
train 2 other --resume "$middle" "${turns[@]}" --set train.turns=3
if [ $? = 78 ] && grep -q 'train.turns has to stay 2' "$tmp/other.err"; then ok "other turns: 78"; else not_ok "other turns"; fi

# ---- what does not go on ----
middle=$(find "$tmp/clock/checkpoints" -name 'step-*.h5' | sort | sed -n 12p)
train 2 other --resume "$middle" --set model.latent=21
if [ $? = 78 ] && grep -q 'another model' "$tmp/other.err"; then ok "another model: 78"; else not_ok "another model"; fi
train 2 other --resume "$tmp/ranks2/best.h5"
if [ $? = 65 ] && grep -q 'checkpoints/' "$tmp/other.err"; then ok "best.h5 is no checkpoint to go on from: 65"; else not_ok "best.h5"; fi
if train 2 ranks2 --resume auto && grep -q complete "$tmp/ranks2.out"; then ok "a complete run has nothing to do"; else not_ok "complete"; fi
train 1 diverges --set train.learning_rate=1e30
if [ $? = 70 ] && grep -q 'learning_rate' "$tmp/diverges.err"; then ok "the loss is not finite: 70"; else not_ok "not finite: $(tail -n 3 "$tmp/diverges.err")"; fi
exit $failed
