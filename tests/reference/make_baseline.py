#!/usr/bin/env python3
"""Makes baseline.h5: EASE (Steck 2019, figure 1) and popularity in NumPy, in double precision, on random users.
Needs numpy, h5py.

    tests/reference/make_baseline.py
"""

from pathlib import Path

import h5py
import numpy as np

USERS, ITEMS, L2 = 150, 70, 3.5  # more items than a tile of baseline.c

rng = np.random.default_rng(1)
popularity = 1 / np.arange(1, ITEMS + 1) ** 0.7
x = (rng.random((USERS, ITEMS)) < popularity).astype(np.float64)
x[7] = 0  # a user without items
x[:, ITEMS - 1] = 0  # an item without users

gram = x.T @ x
p = np.linalg.inv(gram + L2 * np.eye(ITEMS))
b = p / -np.diag(p)
b[np.diag_indices(ITEMS)] = 0

with h5py.File(Path(__file__).parent / "baseline.h5", "w", libver=("v110", "v110")) as file:
    file.attrs["l2"] = L2
    indptr = np.concatenate([[0], np.cumsum(x.sum(1))]).astype(np.int64)
    data = {"indptr": indptr, "indices": np.nonzero(x)[1].astype(np.int32), "ease": b, "ease_scores": x @ b}
    data["popularity"] = x.sum(0)
    for name, values in data.items():
        file.create_dataset(name, data=values, track_times=False)
