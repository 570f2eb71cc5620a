#!/bin/bash
# The same accuracy as a plain PyTorch script? Both train on the very same shards, with the same settings.
#
#   PYTHON=python3 tests/bench/parity.sh RATINGS.csv [OUT_DIR]     make bench-parity INPUT=RATINGS.csv PYTHON=...
#
# For MovieLens-1M (user,item[,...]; every row is an interaction): 500 users held out for validation and test each,
# jobs/configs/ml-1m.yaml, SEEDS (default "1 2 3"). Writes OUT_DIR/ml-1m-vaecf.csv and ml-1m-pytorch.csv, prints both
# means of the test NDCG@100 and their difference. PYTHON needs torch, numpy, scipy and h5py.
set -euo pipefail
bin=${BIN:-bin} python=${PYTHON:-python3} out=${2:-results} seeds=${SEEDS:-1 2 3}
[ $# -ge 1 ] || { echo "usage: parity.sh RATINGS.csv [OUT_DIR]" >&2; exit 64; }
"$python" -c 'import torch, numpy, scipy, h5py' || { echo "error: PYTHON=$python lacks one of torch, numpy, scipy, h5py" >&2; exit 69; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$bin/vaecf-preprocess" --input "$1" --output "$work/data" --min-user-items 5 --heldout-users 500
mkdir -p "$out"
echo "seed,epochs,best_epoch,validation_ndcg@100,test_ndcg@100,test_recall@20,test_recall@50,seconds" > "$out/ml-1m-vaecf.csv"
rm -f "$out/ml-1m-pytorch.csv"
for seed in $seeds; do
    begin=$(date +%s.%N)
    "$bin/vaecf-train" --config jobs/configs/ml-1m.yaml --overwrite --set data.path="$work/data" --set device=cpu \
        --set output.path="$work/run" --set train.seed="$seed" | tail -n 1
    end=$(date +%s.%N)
    metric() { awk -F, -v name="$1" '$3 == name {printf "%.6f", $4}' "$work/run/test.csv"; }
    awk -F, -v seed="$seed" -v t="$(metric ndcg@100),$(metric recall@20),$(metric recall@50)" -v s="$begin" -v e="$end" '
        NR == 1 {for (i = 1; i <= NF; i++) if ($i == "ndcg@100") at = i; next}
        $at + 0 > best {best = $at; epoch = $1}
        END {printf "%s,%d,%d,%.6f,%s,%.1f\n", seed, $1, epoch, best, t, e - s}' "$work/run/metrics.csv" >> "$out/ml-1m-vaecf.csv"
    "$python" tests/reference/plain_multvae.py --data "$work/data" --seed "$seed" --output "$out/ml-1m-pytorch.csv" | tail -n 1
done
mean() { awk -F, 'NR > 1 {sum += $5; n++} END {printf "%.5f", sum / n}' "$1"; }
ours=$(mean "$out/ml-1m-vaecf.csv") theirs=$(mean "$out/ml-1m-pytorch.csv")
echo "test ndcg@100, mean of the seeds $seeds: vaecf $ours, PyTorch $theirs, difference $(awk -v a="$ours" -v b="$theirs" 'BEGIN {printf "%+.5f", a - b}')"
