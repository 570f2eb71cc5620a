#!/usr/bin/env python3
"""Makes metrics.h5: ranking metrics of random scores with many ties, by their definitions in src/metrics.h.
Layout: README.md. Needs numpy, h5py.

    tests/reference/make_metrics.py
"""

from pathlib import Path

import h5py
import numpy as np

USERS, ITEMS, CUT_OFFS = 60, 150, [1, 5, 10, 20, 100]


def user_metrics(ranked, target):
    """All metrics of a user but coverage; ranked: the whole list of items, best first."""
    hit = np.isin(ranked, target)
    ranks = np.flatnonzero(hit) + 1
    values = {"mrr": 1 / ranks[0] if len(ranks) else 0.0}
    for at in CUT_OFFS:
        top = ranks[ranks <= at]
        possible = min(at, len(target))
        values[f"recall@{at}"] = len(top) / possible
        values[f"recall_all@{at}"] = len(top) / len(target)
        values[f"precision@{at}"] = len(top) / at
        values[f"hitrate@{at}"] = float(len(top) > 0)
        dcg, ideal = (1 / np.log2(top + 1)).sum(), (1 / np.log2(np.arange(1, possible + 1) + 1)).sum()
        values[f"ndcg@{at}"] = dcg / ideal
        values[f"map@{at}"] = (np.arange(1, len(top) + 1) / top).sum() / possible
    return values


rng = np.random.default_rng(1)
scores = (np.round(rng.normal(0, 2.5, (USERS, ITEMS))) / 4).astype(
    np.float32
)  # about 17 values; -0 and 0 too
scores[0] = 0.25  # all alike
inputs, targets, lists, by_user = [], [], [], []
for u in range(USERS):
    items = rng.permutation(ITEMS)
    n_target = [1, 40][u] if u < 2 else rng.integers(1, 41)
    n_input = [0, 110][u] if u < 2 else rng.integers(1, 90)
    targets.append(np.sort(items[:n_target]))
    inputs.append(np.sort(items[n_target : n_target + n_input]))
    if u % 3 == 0:  # targets that are found more often
        scores[u, targets[u]] += 0.5
    order = np.argsort(-scores[u], kind="stable")  # ties stay in order of their index
    lists.append(order[~np.isin(order, inputs[u])])
    by_user.append(user_metrics(lists[u], targets[u]))

values = {}
for name in by_user[0]:
    column = np.array([row[name] for row in by_user])
    values[name] = [column.mean(), column.std(ddof=1) / np.sqrt(USERS)]
for at in CUT_OFFS:
    values[f"coverage@{at}"] = [len(np.unique(np.concatenate([row[:at] for row in lists]))) / ITEMS, 0]

top = np.full((USERS, max(CUT_OFFS)), -1, np.int32)
for u, row in enumerate(lists):
    top[u, : len(row)] = row[: max(CUT_OFFS)]

with h5py.File(Path(__file__).parent / "metrics.h5", "w", libver=("v110", "v110")) as file:

    def write(name, data):
        file.create_dataset(name, data=data, track_times=False, compression="gzip", shuffle=True)

    write("scores", scores)
    write("top", top)
    write("first_hit", np.array([np.flatnonzero(np.isin(a, b))[0] + 1 for a, b in zip(lists, targets)]))
    for name, rows in ("input", inputs), ("target", targets):
        write(f"{name}/indptr", np.cumsum([0] + [len(row) for row in rows]))
        write(f"{name}/indices", np.concatenate(rows).astype(np.int32))
    for name, pair in values.items():
        file.create_dataset(f"values/{name}", data=np.array(pair, np.float64), track_times=False)
