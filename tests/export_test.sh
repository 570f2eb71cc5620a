#!/bin/bash
# vaecf-export: an archive that unzip and NumPy read; the README's reader computes the scores of vaecf-recommend.
# shellcheck source=tests/common.sh
. tests/common.sh

awk 'BEGIN { for (u = 1; u <= 60; u++) for (k = 0; k < 9; k++) print "u" u ",i" ((u * 7 + k * 5) % 12 + (u % 2) * 12) }' \
    >"$tmp/ratings.csv"
"$bin/vaecf-preprocess" --input "$tmp/ratings.csv" --output "$tmp/data" --heldout-users 5 >/dev/null || exit 1
python=${PYTHON:-python3}
"$python" -c 'import numpy' 2>/dev/null || python=/usr/bin/python3
{ echo "import numpy as np" && sed -n '/^def scores/,/^```/p' README.md | sed '$d'; } >"$tmp/reader.py"
cat >"$tmp/compare.py" <<'E'
import csv, sys
sys.path.insert(0, sys.argv[1])
from reader import scores
histories = {}
for user, item in csv.reader(open(sys.argv[1] + "/ratings.csv")):
    histories.setdefault(user, set()).add(item.encode())
ids, logits = scores(sys.argv[1] + "/model.npz", histories.values())
index, users = {i.decode(): n for n, i in enumerate(ids)}, {u: n for n, u in enumerate(histories)}
error = n = 0
for row in csv.DictReader(open(sys.argv[1] + "/recs.csv")):
    error = max(error, abs(float(row["score"]) - logits[users[row["user"]], index[row["item"]]]))
    n += 1
print(f"{n} scores, largest difference {error:.3g}")
sys.exit(int(n != len(users) * len(ids) or error > 1e-5))
E

for model in "type: vae, hidden: [12], latent: 6" "type: dae, hidden: [9, 7], latent: 5, activation: relu" \
    "type: vae, hidden: [], latent: 6, activation: sigmoid" \
    "type: vae, hidden: [12, 9], latent: 6, layer_norm: yes, decoder: linear"; do
    cat >"$tmp/run.yaml" <<E
data: {path: $tmp/data}
model: {$model}
train: {epochs: 3, batch_size: 20}
output: {path: $tmp/run}
E
    "$bin/vaecf-train" --config "$tmp/run.yaml" --overwrite >/dev/null || exit 1
    "$bin/vaecf-export" --checkpoint "$tmp/run/best.h5" --output "$tmp/model.npz"
    check "$model: exported" [ $? = 0 ]
    check "unzip finds it whole" unzip -tq "$tmp/model.npz"
    unzip -p "$tmp/model.npz" item_id.npy >"$tmp/ids.npy"
    check "item_id.npy" grep -qaF "{'descr': '|S3', 'fortran_order': False, 'shape': (24,), }" "$tmp/ids.npy"
    check "its head is a multiple of 64 bytes" [ $(($(head -n 1 "$tmp/ids.npy" | wc -c) % 64)) = 0 ]
    check "it is as long as it says" [ "$(wc -c <"$tmp/ids.npy")" = $(($(head -n 1 "$tmp/ids.npy" | wc -c) + 24 * 3)) ]
    "$bin/vaecf-recommend" --checkpoint "$tmp/run/best.h5" --input "$tmp/ratings.csv" --include-seen --top-k 100 \
        --output "$tmp/recs.csv" 2>/dev/null
    check "the README's reader has the same scores" "$python" "$tmp/compare.py" "$tmp"
done
timeout 60 "$bin/vaecf-export" --checkpoint "$tmp/run/best.h5" --output "$tmp/none/x.npz" 2>"$tmp/stderr"
check "no such directory: 73" [ $? = 73 ]
check "in one line" [ "$(wc -l <"$tmp/stderr")" = 1 ]
mkdir "$tmp/full" && ln -s /dev/full "$tmp/full/x.npz"
timeout 60 "$bin/vaecf-export" --checkpoint "$tmp/run/best.h5" --output "$tmp/full/x.npz" 2>"$tmp/stderr"
check "a full disk: 74" [ $? = 74 ]
check "the device is still there, and nothing else" [ "$(readlink "$tmp/full/"*)" = /dev/full ]
exit $failed
