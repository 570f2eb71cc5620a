#!/bin/bash
# fp16 on the CPU with real overflows: steps are skipped and the scale falls until gradients fit, on every rank alike,
# also after a stop; results stay near those of fp32.
# shellcheck disable=SC2317  # functions that check calls
# shellcheck source=tests/common.sh
. tests/common.sh

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 12000 >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 3 --heldout-users 60 --output "$tmp/data" >/dev/null || exit 1
# few users a step and a high learning rate: gradients grow and overflow at the scale that a run starts with
cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {hidden: [30], latent: 10}
train: {epochs: 2, batch_size: 8, learning_rate: 3.0e-2, precision: fp16, kl: {cap: 0.2, anneal_steps: 30}, checkpoint: {keep: 10}}
device: cpu
output: {path: $tmp/run}
E
train() {
    local ranks=$1 name=$2
    shift 2
    timeout 250 mpirun -n "$ranks" "$bin/vaecf-train" --config "$tmp/run.yaml" --set output.path="$tmp/$name" "$@" \
        >"$tmp/$name.out" 2>"$tmp/$name.err" || echo "not ok - $name: $(tail -n 3 "$tmp/$name.err")"
}
# column NAME COLUMN: of the table, its values
column() { tail -n +2 "$tmp/$1/metrics.csv" | cut -d, -f"$2" | paste -sd' '; }
# near TOLERANCE A B: loss and nll of each epoch
near() {
    paste -d, <(cut -d, -f5,6 "$tmp/$2/metrics.csv") <(cut -d, -f5,6 "$tmp/$3/metrics.csv") | awk -F, -v tolerance="$1" '
        NR > 1 { for (i = 1; i <= 2; i++) { d = $i - $(i + 2); if (d < 0) d = -d; if (d > tolerance * $i) bad = 1 } }
        END { exit bad || NR != 3 }'
}

for ranks in 1 2 3; do train $ranks ranks$ranks; done
train 1 fp32 --set train.precision=fp32
read -r -a skipped <<<"$(column ranks1 11)"
read -r -a scale <<<"$(column ranks1 10)"
read -r -a step <<<"$(column ranks1 2)"
read -r -a all <<<"$(column fp32 2)"
check "overflows: ${skipped[*]} steps skipped" [ "${skipped[0]}" -gt 0 ]
check "each halves the scale: ${scale[*]}" [ "${scale[0]}" = $((65536 >> skipped[0])) ]
check "skipped steps do not count as steps" [ "${step[0]}" = $((all[0] - skipped[0])) ]
check "the loss is near that of fp32" near 2e-2 fp32 ranks1
check "says so" grep -q 'rounding to fp16' "$tmp/ranks1.out"
for ranks in 2 3; do
    check "$ranks ranks: scale, steps and skipped steps of one" \
        [ "$(column ranks$ranks 2,10,11)" = "$(column ranks1 2,10,11)" ]
    check "$ranks ranks: the loss of one" near 1e-3 ranks1 ranks$ranks
done
train 2 stopped --set train.epochs=1
train 2 stopped --resume auto
check "stopped and resumed: the scale stays, and all bits" \
    cmp <(cut -d, -f1,2,5- "$tmp/stopped/metrics.csv") <(cut -d, -f1,2,5- "$tmp/ranks2/metrics.csv")
train 1 given --set train.loss_scale=64
check "a scale that is given stays" [ "$(column given 10)" = "64 64" ]
check "and is small enough here" [ "$(column given 11)" = "0 0" ]
# unscaling is exact: powers of two in fp32 change nothing but what fp16 rounds
check "and gives the loss of the dynamic one" near 2e-2 given ranks1
exit $failed
