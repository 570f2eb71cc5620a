#!/usr/bin/env python3
"""Makes baseline.h5: EASE (Steck 2019, figure 1), plain and with powers (src/baseline.h), and popularity in NumPy, in double precision, on random users.
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

POWERS = {"user_power": 0.3, "item_power": 0.5, "popularity_power": -0.1}


def ease(user_power=0.0, item_power=0.0, popularity_power=0.0):
    items, users = np.maximum(x.sum(1), 1), np.maximum(x.sum(0), 1)
    p = np.linalg.inv(x.T @ np.diag(items**-user_power) @ x + L2 * np.diag(users**item_power))
    b = p / -np.diag(p)
    b[np.diag_indices(ITEMS)] = 0
    return b * users**popularity_power


b, b_powers = ease(), ease(**POWERS)

with h5py.File(Path(__file__).parent / "baseline.h5", "w", libver=("v110", "v110")) as file:
    file.attrs["l2"] = L2
    for name, value in POWERS.items():
        file.attrs[name] = value
    indptr = np.concatenate([[0], np.cumsum(x.sum(1))]).astype(np.int64)
    data = {"indptr": indptr, "indices": np.nonzero(x)[1].astype(np.int32), "ease": b, "ease_scores": x @ b}
    data |= {"ease_powers": b_powers, "ease_powers_scores": x @ b_powers}
    data["popularity"] = x.sum(0)
    for name, values in data.items():
        file.create_dataset(name, data=values, track_times=False)
