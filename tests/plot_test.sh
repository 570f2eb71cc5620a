#!/bin/bash
# jobs/plot.sh: both files, with the axes and legends that they should have, for each kind of plot; mistakes.
# shellcheck source=tests/common.sh
. tests/common.sh
# plain build alone: no program of ours is in it
plot=$(realpath jobs/plot.sh)
check() { # check TEXT COMMAND...
    if "${@:2}"; then echo "ok - $1"; else echo "not ok - $1" && failed=1 && cat err; fi
}
cd "$tmp" || exit 71
# drawn NAME TEXT...: are both files there, does the SVG have these texts?
# shellcheck disable=SC2317  # called by check
drawn() {
    local text
    [ "$(head -c 4 "$1.png" | tail -c 3)" = PNG ] && [ "$(stat -c %s "$1.png")" -gt 5000 ] && [ ! -s err ] || return 1
    for text in "${@:2}"; do
        grep -qF -- "$text" "$1.svg" || { echo "no \"$text\"" && return 1; }
    done
}

for i in 1 2 3 4 5 6 7 8 9; do
    mkdir -p "a sweep/it's $i"
    printf 'train:\n  early_stopping:\n    metric: ndcg@100\n' >"a sweep/it's $i/config.yaml"
    printf 'epoch,step,loss,ndcg@100\n1,1,%d,0.%d\n2,2,%d,\n3,3,5,0.%d5\n' $((20 - i)) "$i" $((10 - i)) $((i == 9 ? 1 : i)) \
        >"a sweep/it's $i/metrics.csv"
done
"$plot" curves "a sweep/it's "[123] >out 2>err
check "curves of three runs" drawn curves "training loss per user (nats)" "epoch" "ndcg@100, validation users" "it's 2"
check "names its files" grep -qx 'curves.png curves.svg' out
"$plot" -o "all of.png" curves "a sweep/"* >out 2>err
check "curves of many runs: the best one" drawn "all of" "best: it's 9" "the other 8 runs"
# as PyYAML and JSON write it, with other line ends, and not at all
printf '{train: {early_stopping: {metric: ndcg@100, patience: 20}, epochs: 2}}\r\n' >"a sweep/it's 1/config.yaml"
printf '{"train": {"early_stopping": {"patience": 5, "metric": "ndcg@100"}}}\n' >"a sweep/it's 2/config.yaml"
printf 'train:\n  # metric: recall@20\n  early_stopping: {patience: 3}\n' >"a sweep/it's 3/config.yaml"
for i in 1 2 3; do
    "$plot" -o spelt curves "a sweep/it's $i" >out 2>err
    check "curves by a configuration of form $i" drawn spelt "ndcg@100, validation users"
done
mkdir -p "a sweep/later" && cp "a sweep/it's 1/config.yaml" "a sweep/later"
"$plot" curves "a sweep/it's 1" "a sweep/later" >out 2>note
: >err
check "a run without an epoch is left out with a note" grep -q 'later has no epoch yet' note

cat >"a sweep/runs.csv" <<'E'
run,status,train.learning_rate,model.hidden,validation_ndcg@100,test_mrr
run-0000,complete,0.001,"[600, 200]",0.4,0.5
run-0001,complete,0.01,[600],0.45,0.6
run-0002,stopped,0.1,[600],0.3,
run-0003,missing,0.1,[600],,
E
"$plot" sweep "a sweep" train.learning_rate >out 2>err
check "a parameter against the metric" drawn sweep "train.learning_rate" "validation ndcg@100" "stopped or failed run" "0.01"
"$plot" -o words sweep "a sweep" model.hidden test_mrr >out 2>err
check "a parameter of words" drawn words "[600, 200]" "test mrr" "complete run"
check "without the incomplete where there are none" bash -c '! grep -q stopped words.svg'

printf 'ranks,users_per_second,precision\n1,100,fp32\n2,190,fp32\n4,350,fp32\n1,200,bf16\n2,390,bf16\n' >scaling.csv
"$plot" scaling scaling.csv ranks precision >out 2>err
check "scaling" drawn scaling "training throughput (users/s)" "ranks" "fp32" "bf16" "in proportion"
printf 'nodes,gbit\n1,8\n100,700\n' >other.csv
"$plot" -y gbit -o other scaling other.csv nodes >out 2>err
check "another column, logarithmic" drawn other "gbit" "nodes" "measured"

fails() { # fails CODE PATTERN NAME ARGUMENT...
    "$plot" "${@:4}" >out 2>err
    local status=$?
    check "$3: $1" [ "$status" = "$1" ]
    check "and what is wrong" grep -q "$2" err
}
fails 66 'none/config.yaml: not there' "no run" curves none
fails 65 'no column speed; there are ranks users_per_second' "no such column" scaling scaling.csv speed
fails 66 'run vaecf-collect' "not collected" sweep . x
fails 64 'want curves, sweep or scaling' "another kind" pie scaling.csv
exit $failed
