#!/usr/bin/env python3
"""Checks a dataset directory against the CSV it was made of, with nothing but h5py, scipy's layout and the rules:
filters, held-out users, catalogue, targets, as Liang et al. 2018 split. For developers; needs h5py and numpy.

    tests/reference/split_check.py DATASET RATINGS.csv     plain or .gz, ',' between fields
"""

import csv
import gzip
import math
import sys
from collections import Counter, defaultdict
from pathlib import Path

import h5py
import numpy as np

PARTS = ["train", "validation/input", "validation/target", "test/input", "test/target"]


def read_csv(path, has_header, columns, min_rating):
    last = {}
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", newline="") as file:
        rows = csv.reader(file)
        if has_header:
            next(rows)
        for row in rows:
            last[row[0], row[1]] = float(row[2]) if columns > 2 else math.inf
    by_user = defaultdict(set)
    for (user, item), rating in last.items():
        if rating >= min_rating:
            by_user[user].add(item)
    return by_user


def read_dataset(path):
    head = h5py.File(path / "dataset.h5")
    attributes = dict(head.attrs)
    items = [text.decode() for text in head["items/id"][:]]
    n_shards, n_items = int(attributes["n_shards"]), int(attributes["n_items"])
    rows, users = {part: [] for part in PARTS}, {split: [] for split in ("train", "validation", "test")}
    for shard in range(n_shards):
        with h5py.File(path / f"shard-{shard:05d}-of-{n_shards:05d}.h5") as file:
            assert file.attrs["fingerprint"] == attributes["fingerprint"]
            for part in PARTS:
                group = file[part]
                indptr, indices = group["indptr"][:], group["indices"][:]
                assert indptr.dtype == np.int64 and indices.dtype == np.int32
                assert indptr[0] == 0 and indptr[-1] == len(indices)
                assert list(group.attrs["shape"]) == [len(indptr) - 1, n_items]
                assert group["indices"].fletcher32 and group["indptr"].fletcher32
                assert head["shards/rows"][shard, PARTS.index(part)] == len(indptr) - 1
                assert head["shards/nonzeros"][shard, PARTS.index(part)] == len(indices)
                for begin, end in zip(indptr, indptr[1:]):
                    row = indices[begin:end]
                    assert (np.diff(row) > 0).all(), "a row is not ascending"
                    rows[part].append([items[i] for i in row])
            for split, list_ in users.items():
                list_ += zip(file[split]["user"][:], (text.decode() for text in file[split]["user_id"][:]))
                assert (
                    len(file[split]["user"])
                    == len(file[split if split == "train" else split + "/input"]["indptr"]) - 1
                )
    return attributes, items, head["items/count"][:], rows, users


def check(dataset, ratings):
    attributes, items, counts, rows, users = read_dataset(Path(dataset))
    with (gzip.open if ratings.endswith(".gz") else open)(ratings, "rt") as file:
        first = file.readline().strip().split(",")
    has_header = not first[-1].replace(".", "").isdigit()
    rated = len(first) if attributes["rating_column"] != "none" else 2
    by_user = read_csv(ratings, has_header, rated, attributes["min_rating"])

    item_users = Counter(item for chosen in by_user.values() for item in chosen)
    kept = {item for item, n in item_users.items() if n >= attributes["min_item_users"]}
    by_user = {user: chosen & kept for user, chosen in by_user.items()}
    by_user = {
        user: chosen
        for user, chosen in by_user.items()
        if len(chosen) >= max(1, attributes["min_user_items"])
    }

    n = len(by_user)
    held_out = int(attributes["heldout_users"])
    ids = [user for list_ in users.values() for _, user in list_]
    indices = [index for list_ in users.values() for index, _ in list_]
    assert sorted(ids) == sorted(by_user), "the users are not those that the filters leave"
    assert sorted(indices) == list(range(n)), "the users' indices are not 0 .. n - 1"
    assert len(users["validation"]) == len(users["test"]) == held_out and attributes["n_users"] == n

    train = Counter(item for _, user in users["train"] for item in by_user[user])
    assert len(items) == len(set(items)) == len(train) == attributes["n_items"]
    assert [train[item] for item in items] == list(counts)
    key = int if all(item.isdigit() and item.isascii() for item in items) else str.encode
    assert items == sorted(items, key=lambda item: (-train[item], key(item)))
    for (_, user), row in zip(users["train"], rows["train"], strict=True):
        assert set(row) == by_user[user]
    total = sum(map(len, rows["train"]))
    chosen_items = Counter()
    for split in ("validation", "test"):
        for (_, user), given, target in zip(
            users[split], rows[split + "/input"], rows[split + "/target"], strict=True
        ):
            known = by_user[user] & train.keys()
            assert not set(given) & set(target) and set(given) | set(target) == known
            wanted = math.floor(attributes["target_fraction"] * len(known) + 1e-9) if len(known) >= 5 else 0
            assert len(target) == wanted, (user, len(known), len(target))
            total += len(known)
            chosen_items.update({"target": len(target), "all": len(known)})
    assert total == attributes["n_interactions"]
    print(
        f"{dataset}: follows the rules: {n} users, {len(items)} items, {total} interactions, "
        f"{len(users['train'])} + 2 * {held_out} users, target {chosen_items['target']} of {chosen_items['all']}, "
        f"{attributes['n_shards']} shards, fingerprint {attributes['fingerprint']}"
    )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    check(sys.argv[1], sys.argv[2])
