#!/bin/bash
# --blend of vaecf-evaluate and vaecf-recommend: the sum of the models' scores, on any number of ranks.
# shellcheck source=tests/common.sh
. tests/common.sh

check() { if "${@:2}"; then ok "$1"; else not_ok "$1: $(tail -n 3 "$tmp/err")"; fi; }

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 12000 >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 50 --output "$tmp/data" >/dev/null || exit 1
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 50 --seed 2 --output "$tmp/other" >/dev/null || exit 1
# train NAME DATA OPTION...
train() {
    echo "data: {path: $tmp/$2}" >"$tmp/run.yaml"
    timeout 250 "$bin/vaecf-train" --config "$tmp/run.yaml" --set output.path="$tmp/$1" --set train.epochs=2 "${@:3}" >"$tmp/out" 2>"$tmp/err"
}
small=(--set 'model.hidden=[]' --set model.latent=8 --set train.batch_size=100)
if ! train dae data --set model.type=dae "${small[@]}" || ! train vae data "${small[@]}" || ! train stranger other "${small[@]}"; then
    cat "$tmp/err" && exit 1
fi
linear=ease
has_lapack || linear=popularity
train linear data --set model.type=$linear --set model.l2=50

evaluate() { "$bin/vaecf-evaluate" --checkpoint "$tmp/linear/best.h5" --data "$tmp/data" "$@" 2>"$tmp/err"; }
recommend() { "$bin/vaecf-recommend" --checkpoint "$tmp/linear/best.h5" --users-from "$tmp/data" --split test "$@" 2>"$tmp/err"; }
both=(--blend "$tmp/dae/best.h5:0.5" --blend "$tmp/vae/best.h5:-2e-1")

check "with a weight of 0 it is the checkpoint alone" cmp <(evaluate) <(evaluate --blend "$tmp/dae/best.h5:0")
check "with another one it is not" [ "$(evaluate --blend "$tmp/dae/best.h5:0.5" | md5sum)" != "$(evaluate | md5sum)" ]
check "ranks do not matter" cmp <(evaluate "${both[@]}") \
    <(mpirun -n 3 "$bin/vaecf-evaluate" --checkpoint "$tmp/linear/best.h5" --data "$tmp/data" "${both[@]}" 2>"$tmp/err")

# every user's score of every item is the sum of what the three models alone say
scores() { "$bin/vaecf-recommend" --users-from "$tmp/data" --split test --include-seen --top-k 10000 "$@" 2>"$tmp/err" | sed 1d; }
for model in linear dae vae; do scores --checkpoint "$tmp/$model/best.h5" | awk -F, -v m=$model '{ print m "," $0 }'; done >"$tmp/alone.csv"
scores --checkpoint "$tmp/linear/best.h5" "${both[@]}" | awk '{ print "sum," $0 }' >"$tmp/sum.csv"
if awk -F, '
    BEGIN { weight["linear"] = 1; weight["dae"] = 0.5; weight["vae"] = -0.2 }
    $1 != "sum" { want[$2 "," $4] += weight[$1] * $5; alone++; next }
    { d = want[$2 "," $4] - $5; if (d < 0) d = -d; n++ }
    d > 1e-4 + 1e-5 * ($5 < 0 ? -$5 : $5) || $2 == user && $5 > last { print; bad = 1 }
    { user = $2; last = $5 }
    END { exit bad || n < 1000 || 3 * n != alone }' "$tmp/alone.csv" "$tmp/sum.csv"; then
    ok "scores are the sum of the models', and fall"
else not_ok "scores are the sum of the models', and fall"; fi

recommend "${both[@]}" --top-k 20 --output "$tmp/recs.csv"
mpirun -n 2 "$bin/vaecf-recommend" --checkpoint "$tmp/linear/best.h5" --users-from "$tmp/data" --split test "${both[@]}" --top-k 20 \
    --output "$tmp/recs2.csv" 2>"$tmp/err"
check "two ranks recommend the same" cmp "$tmp/recs.csv" "$tmp/recs2.csv"
check "bf16" [ "$(recommend "${both[@]}" --precision bf16 --top-k 20 | grep -c ,model$)" = 1000 ]

# fails CODE TEXT COMMAND...
fails() {
    "${@:3}" >"$tmp/out"
    local status=$?
    if [ $status = "$1" ] && [ "$(wc -l <"$tmp/err")" = 1 ] && grep -qF -- "$2" "$tmp/err"; then ok "$2: $1"; else
        not_ok "$2: $status, $(head -n 3 "$tmp/err")"
    fi
}
for program in evaluate recommend; do
    for wrong in "$tmp/dae/best.h5" "$tmp/dae/best.h5:" :0.5 "$tmp/dae/best.h5:x" "$tmp/dae/best.h5:0.5x" "$tmp/dae/best.h5:nan" "$tmp/dae/best.h5:1e999"; do
        fails 64 "--blend $wrong: want FILE:WEIGHT" $program --blend "$wrong"
    done
    fails 66 "$tmp/none.h5" $program --blend "$tmp/none.h5:1"
    fails 65 "$tmp/stranger/best.h5: was trained on another data set" $program --blend "$tmp/stranger/best.h5:1"
    many=()
    for _ in 1 2 3 4 5 6 7 8; do many+=(--blend "$tmp/dae/best.h5:1"); done
    fails 64 "--blend: want at most 7" $program "${many[@]}"
    fails 78 "want --device cpu" $program --device cuda
done
fails 64 "--score probability: --blend is of a model without probabilities" recommend --blend "$tmp/dae/best.h5:1" --score probability
exit $failed
