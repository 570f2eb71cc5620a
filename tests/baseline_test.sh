#!/bin/bash
# model.type popularity and ease through all programs: the same on any number of ranks, evaluated and recommended
# from their checkpoint.
# shellcheck source=tests/common.sh
. tests/common.sh

gzip -dc preprocess/debian-build-depends.csv.gz | head -n 20000 >"$tmp/part.csv"
"$bin/vaecf-preprocess" --input "$tmp/part.csv" --min-item-users 5 --heldout-users 100 --output "$tmp/data" >/dev/null || exit 1

# train TYPE RANKS OPTION...: a run in $tmp/TYPE-RANKS
train() {
    local type=$1 ranks=$2
    shift 2
    timeout 250 mpirun -n "$ranks" "$bin/vaecf-train" --set model.type="$type" --set output.path="$tmp/$type-$ranks" \
        --config "$tmp/run.yaml" "$@" >"$tmp/$type-$ranks.out" 2>"$tmp/$type-$ranks.err"
}
echo "data: {path: $tmp/data}" >"$tmp/run.yaml"

options=(--set model.l2=50 --set model.user_power=0.3)
for type in popularity ease; do
    train $type 1 "${options[@]}"
    status=$?
    if ! has_lapack && [ $type = ease ]; then
        check "$type: refused, as this build has no LAPACK" grep -q LAPACK "$tmp/$type-1.err"
        continue
    fi
    if [ $status = 0 ] && [ "$(wc -l <"$tmp/$type-1/metrics.csv")" = 2 ] && [ -s "$tmp/$type-1/test.csv" ]; then
        ok "$type: a row of metrics, best.h5, test.csv"
    else not_ok "$type: $status: $(cat "$tmp/$type-1.err")"; fi
    if train $type 3 "${options[@]}" && cmp "$tmp/$type-1/test.csv" "$tmp/$type-3/test.csv"; then
        ok "$type: 3 ranks, the same"
    else not_ok "$type: 3 ranks: $(cat "$tmp/$type-3.err")"; fi
    if mpirun -n 2 "$bin/vaecf-evaluate" --checkpoint "$tmp/$type-1/best.h5" --data "$tmp/data" --output "$tmp/again.csv" &&
        cmp "$tmp/again.csv" "$tmp/$type-1/test.csv"; then
        ok "$type: vaecf-evaluate finds the same"
    else not_ok "$type: vaecf-evaluate"; fi
    if "$bin/vaecf-recommend" --checkpoint "$tmp/$type-1/best.h5" --users-from "$tmp/data" --split test --top-k 5 \
        --output "$tmp/recs.csv" 2>"$tmp/stderr" && [ "$(grep -c ',model$' "$tmp/recs.csv")" = 500 ]; then
        ok "$type: recommends"
    else not_ok "$type: recommends: $(cat "$tmp/stderr")"; fi
    "$bin/vaecf-recommend" --checkpoint "$tmp/$type-1/best.h5" --users-from "$tmp/data" --score probability 2>"$tmp/stderr"
    if [ $? = 64 ] && grep -q logit "$tmp/stderr"; then ok "$type: no probabilities: 64"; else not_ok "probabilities"; fi
    train $type 1
    if [ $? = 73 ]; then ok "$type: a run is not overwritten: 73"; else not_ok "$type: overwritten"; fi
    if train $type 1 "${options[@]}" --resume auto; then ok "$type: --resume auto"; else not_ok "$type: --resume auto"; fi
done

ndcg() { sed -n 's/^test,[0-9]*,ndcg@100,\([0-9.]*\),.*/\1/p' "$tmp/$1-1/test.csv"; }
if [ -e "$tmp/ease-1/test.csv" ]; then
    if awk "BEGIN { exit !($(ndcg ease) > 1.2 * $(ndcg popularity)) }"; then
        ok "ease $(ndcg ease) is ahead of popularity $(ndcg popularity)"
    else not_ok "ease $(ndcg ease), popularity $(ndcg popularity)"; fi
fi

# everybody's list begins with the items that the most training users have
"$bin/vaecf-recommend" --checkpoint "$tmp/popularity-1/best.h5" --users-from "$tmp/data" --split test --include-seen --top-k 3 \
    --output "$tmp/recs.csv" 2>/dev/null
if [ "$(cut -d, -f2- "$tmp/recs.csv" | sed 1d | sort -u | wc -l)" = 3 ] &&
    cut -d, -f4 "$tmp/recs.csv" | sed -n 2,4p | sort -c -gr; then
    ok "popularity: one list for all"
else not_ok "popularity: $(head -n 5 "$tmp/recs.csv")"; fi
exit $failed
