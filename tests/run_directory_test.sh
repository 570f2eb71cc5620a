#!/bin/bash
# What is in a run directory belongs together: test.csv, best.h5, metrics.csv and the checkpoints are of one run and one
# branch, whatever was resumed, abandoned, damaged or stopped.
# shellcheck disable=SC2317  # functions are called by check
# shellcheck source=tests/common.sh
. tests/common.sh
check() { if "${@:2}"; then ok "$1"; else not_ok "$1: $(tail -n 5 "$tmp/err")"; fi; }

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 5000 >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --heldout-users 20 --output "$tmp/data" >/dev/null || exit 1
cat >"$tmp/run.yaml" <<Y
data: {path: $tmp/data}
model: {hidden: [20], latent: 10}
train: {epochs: 6, batch_size: 100, kl: {cap: 0.2, anneal_steps: 30}, early_stopping: {patience: 0}}
output: {path: $tmp/run}
Y
run=$tmp/run
train() { timeout 100 "$bin/vaecf-train" --config "$tmp/run.yaml" "$@" >"$tmp/out" 2>"$tmp/err"; }
says() { grep -qE -- "$1" "$tmp/err"; }
said() { grep -qE -- "$1" "$tmp/out"; }
checkpoints() { find "$run/checkpoints" -name 'step-*.h5' -type f | sort; }
# is test.csv of best.h5?
is_tested() {
    timeout 60 "$bin/vaecf-evaluate" --checkpoint "$run/best.h5" --data "$tmp/data" --output "$tmp/test.csv" && cmp "$tmp/test.csv" "$run/test.csv"
}
# is_best FIRST: does the run's last line name the best epoch of metrics.csv, from that one on?
is_best() {
    local epoch
    epoch=$(awk -F, -v first="$1" 'NR > 1 && $1 >= first && $14 > best { best = $14; epoch = $1 } END { print epoch }' "$run/metrics.csv")
    said "^best: ndcg@100 .* in epoch $epoch\$"
}
untimed() { cut -d, -f1,2,5- "$1/metrics.csv"; }
# everything that is there, with its content
state() { (cd "$run" && find . -type f ! -name train.log -exec md5sum {} + | sort -k 2); }

train
check "a run" [ $? = 0 ]
check "its best epoch" is_best 1
cp -a "$run" "$tmp/whole"
train --resume auto
check "complete: nothing is left to do" said 'nothing is left to do'
check "nothing has changed" diff <(cd "$tmp/whole" && md5sum best.h5 test.csv) <(cd "$run" && md5sum best.h5 test.csv)
check "no lock is left" [ -z "$(find "$run" -name 'lock-*')" ]

# ---- test.csv and exit-code are of this run's end, or gone ----
rm -rf "$run"
train --set train.epochs=3
echo 0 >"$run/exit-code"
"$bin/vaecf-train" --config "$tmp/run.yaml" --set train.epochs=1000000 --resume auto >"$tmp/out" 2>"$tmp/err" &
job=$!
goes_on() { grep -q '^epoch 5/' "$tmp/out"; }
within 60 goes_on
check "while it goes on there is no test.csv" [ ! -e "$run/test.csv" ]
check "and no exit-code" [ ! -e "$run/exit-code" ]
check "but a lock, which names the process" grep -qx "process $job" "$run/lock-1"
"$bin/vaecf-collect" "$run" --output "$tmp/table" >/dev/null
check "vaecf-collect: stopped" grep -q ',stopped,' "$tmp/table/runs.csv"
kill -TERM $job
wait $job
check "stopped: 75" [ $? = 75 ]

# ---- what the job script is told by VAECF_SAVED ----
export VAECF_SAVED=$tmp/saved
# shellcheck disable=SC2016
timeout 100 env --block-signal=USR1 bash -c 'kill -USR1 $$ && exec "$@"' _ "$bin/vaecf-train" --config "$tmp/run.yaml" --set train.epochs=1000000 \
    --resume auto >"$tmp/out" 2>"$tmp/err"
check "told to stop before the first step: 75" [ $? = 75 ]
check "a checkpoint without a step more is no progress" [ ! -e "$VAECF_SAVED" ]
train --resume auto --set "train.epochs=$(($(wc -l <"$run/metrics.csv") + 1))" # two epochs more than are in the table: the last step of one may be done
check "progress: the seconds of the slowest save" grep -qxE '[0-9]+\.[0-9]' "$VAECF_SAVED"
unset VAECF_SAVED

# a table of an earlier best model, as vaecf-evaluate leaves it in the middle of a run
rm -rf "$run" && cp -a "$tmp/whole" "$run"
sed -i '2s/,0\.[0-9]*,/,0.5,/' "$run/test.csv" && touch -d '1 hour ago' "$run/test.csv"
train --resume auto
check "a test.csv older than best.h5 is made again" cmp "$tmp/whole/test.csv" "$run/test.csv"
train --overwrite --set train.epochs=2
check "--overwrite: test.csv is of the new best.h5" is_tested
check "and nothing else is left" [ "$(checkpoints | wc -l)" = 2 ]

# ---- an older checkpoint ----
rm -rf "$run" && cp -a "$tmp/whole" "$run" && echo 0 >"$run/exit-code"
mapfile -t steps < <(checkpoints)
train --resume "${steps[0]}" --set train.learning_rate=0.01
check "resumed from an older checkpoint" [ $? = 0 ]
check "the later checkpoints are set aside" diff <(cd "$tmp/whole/checkpoints" && md5sum -- "$(basename "${steps[1]}")" "$(basename "${steps[2]}")") \
    <(cd "$run/abandoned-1/checkpoints" && md5sum -- step-*)
check "with their test.csv, metrics.csv and best.h5" diff <(cd "$tmp/whole" && md5sum best.h5 metrics.csv test.csv) \
    <(cd "$run/abandoned-1" && md5sum best.h5 metrics.csv test.csv)
check "told in a line" says 'note: .*set aside in .*/abandoned-1'
check "what the new branch wrote is there" [ "$(checkpoints | wc -l)" = 3 ]
check "best.h5 is of the new branch" is_best 4
check "test.csv too" is_tested
check "exit-code is gone" [ ! -e "$run/exit-code" ]
check "metrics.csv has each epoch once" [ "$(cut -d, -f1 "$run/metrics.csv" | paste -sd ' ')" = "epoch 1 2 3 4 5 6" ]
train --resume auto --set train.epochs=7 --set train.learning_rate=0.01
check "--resume auto goes on with the new branch" [ "$(untimed "$run" | sed -n 6p)" != "$(untimed "$tmp/whole" | sed -n 6p)" ]
train --resume "$run/abandoned-1/checkpoints/$(basename "${steps[2]}")" --set train.epochs=8
check "back to the abandoned branch: this one is set aside" [ -e "$run/abandoned-2/best.h5" ]
check "it trains on" [ "$(tail -n 1 "$run/metrics.csv" | cut -d, -f1)" = 8 ]
check "test.csv is of best.h5" is_tested
rm -rf "$run" && cp -a "$tmp/whole" "$run"
train --resume "${steps[2]}"
check "the newest checkpoint by name: nothing is left to do" said 'nothing is left to do'
check "nothing is set aside" [ ! -e "$run/abandoned-1" ]

# ---- best.h5 ----
rm -rf "$run" && cp -a "$tmp/whole" "$run" && rm "$run/best.h5"
train --resume auto --set train.epochs=8
check "without best.h5 the choice starts anew, or it is the checkpoint's" [ $? = 0 ]
check "test.csv is of best.h5" is_tested
rm -rf "$run" && cp -a "$tmp/whole" "$run"
before=$(state)
train --resume auto --set train.epochs=8 --set train.early_stopping.metric=recall@20
check "another early_stopping.metric: 78" [ $? = 78 ]
check "told with the right value" says 'error: .*train.early_stopping.metric has to stay ndcg@100'
check "nothing has changed" [ "$(state)" = "$before" ]
sed -i '1s/ndcg@100/ndcg@10/' "$run/metrics.csv"
before=$(state)
train --resume auto --set train.epochs=8
check "a metrics.csv with other columns: 65" [ $? = 65 ]
check "told by name" says 'error: .*metrics.csv: has other columns'

# ---- damaged checkpoints ----
damage() { printf '\xff\xfe\xfd' | dd of="$1" bs=1 seek=9000 conv=notrunc status=none; }
rm -rf "$run"
train --set train.epochs=5 --set train.checkpoint.keep=4
mapfile -t steps < <(checkpoints)
damage "${steps[2]}" && damage "${steps[3]}"
train --resume auto --set train.checkpoint.keep=2
check "damaged checkpoints do not count: the whole run's epochs" cmp <(untimed "$run") <(untimed "$tmp/whole")
check "they are kept as such" [ -e "${steps[3]}.damaged" ]
check "two whole ones are kept" [ "$(checkpoints | wc -l)" = 2 ]
for step in $(checkpoints); do damage "$step"; done
before=$(state)
train --resume auto --set train.epochs=8
check "none is whole: 65" [ $? = 65 ]
check "told what to do" says 'error: .*none of the 2 is whole; begin anew by --overwrite'
check "nothing has changed" [ "$(state)" = "$before" ]

# ---- what is not ours ----
rm -rf "$run" && mkdir -p "$run/checkpoints/step-000000001.h5"
echo mine >"$run/checkpoints/step-7.h5" && echo mine >"$run/notes.tmp"
train
check "a directory named as a checkpoint is passed over" [ $? = 0 ]
check "it stays" [ -d "$run/checkpoints/step-000000001.h5" ]
check "a file of another name too" [ "$(cat "$run/checkpoints/step-7.h5" "$run/notes.tmp")" = "mine
mine" ]
rm -rf "$run" && mkdir "$tmp/nothing"
train --set data.path="$tmp/nothing"
check "a data set that is none: 66" [ $? = 66 ]
check "no run directory is made" [ ! -e "$run" ]
exit $failed
