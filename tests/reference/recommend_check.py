"""Are vaecf-recommend's lists those of brute force? Computes all scores from the checkpoint, in double precision.

    vaecf-recommend --checkpoint best.h5 --input history.csv --output lists.h5 [--top-k 20]
    python3 tests/reference/recommend_check.py best.h5 history.csv lists.h5

history.csv: user,item with a header, without quotes. The lists must leave out what the users have had. Prints how many
users' lists are exactly those of brute force (by falling score, ties to the lower index), and of the others by how much
the scores of exchanged items differ; exit 1 if that is more than rounding in float32. Made with h5py 3.16, numpy 2.4.6.
"""

import sys

import h5py
import numpy as np


def read_histories(path):
    histories = {}
    with open(path, "rb") as f:
        next(f)
        for line in f:
            user, item = line.rstrip(b"\r\n").split(b",")[:2]
            histories.setdefault(user, set()).add(item)
    return histories


def logits(f, x):
    """From the file of a checkpoint; x[users, items] is normalised."""
    config = f.attrs["config"]
    config = config.decode() if isinstance(config, bytes) else config
    values = dict(line.split(":", 1) for line in config.replace("  ", "").splitlines() if ":" in line)
    act = {
        "tanh": np.tanh,
        "relu": lambda v: np.maximum(v, 0),
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    }[values["activation"].strip()]
    encoder, decoder = f["model/encoder"], f["model/decoder"]
    for half, layers in ((encoder, len(encoder)), (decoder, len(decoder))):
        for layer in range(layers):
            weight, bias = (half[f"{layer}/{name}"][:].astype(np.float64) for name in ("weight", "bias"))
            if half == decoder and layer == layers - 1:
                return x @ weight.T + bias
            x = x @ weight + bias
            if half == encoder and layer == layers - 1 and values["type"].strip() == "vae":
                x = x[:, : int(values["latent"])]
            else:
                x = act(x)


def main(checkpoint, history, lists):
    histories = read_histories(history)
    with h5py.File(lists) as f:
        indptr, item, source, score = (f[name][:] for name in ("indptr", "item", "source", "score"))
        users, ids = f["user_id"][:], f["items/id"][:]
    index = {name: i for i, name in enumerate(ids)}
    assert list(users) == list(histories), "the users' order"
    x = np.zeros((len(users), len(ids)))
    for row, user in zip(x, users):
        had = [index[i] for i in histories[user] if i in index]
        if had:
            row[had] = 1 / np.sqrt(len(had))
    with h5py.File(checkpoint) as f:
        want = logits(f, x)
    error = exact = popular = 0
    largest = 0.0
    for u in range(len(users)):
        got = item[indptr[u] : indptr[u + 1]]
        if source[u] == 1:
            assert not x[u].any() and list(got) == list(range(len(got))), "the popularity list"
            popular += 1
            continue
        row = np.where(x[u] > 0, -np.inf, want[u])
        best = np.lexsort((np.arange(len(row)), -row))[: len(got)]
        exact += np.array_equal(got, best)
        largest = max(largest, np.abs(row[got] - row[best]).max())
        error = max(error, np.abs(row[got] - score[indptr[u] : indptr[u + 1]]).max())
    scale = np.abs(want).max()
    print(f"{len(users)} users, {popular} with the popularity list; of the others {exact} lists are exactly brute force's")
    print(f"largest difference of scores: of exchanged items {largest:.3g}, of float32 to double {error:.3g}")
    return int(largest > 1e-5 * scale or error > 1e-5 * scale)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
