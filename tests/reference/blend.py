"""What the sum of two models' scores would bring: EASE's, plus weights of a network's log softmax.

Both are best.h5 files of vaecf-train on the same data set; its test users are ranked, items of their input left out.
Prints a row of a CSV file for each weight; --users takes so many of them alone, evenly spread.

    python blend.py --data data/gowalla --ease ease/best.h5 --network dae/best.h5 --weights 0 0.01 0.02

Made with numpy 2.4.6, h5py 3.16.0, scipy 1.17.1; plain_multvae, whose reader it has, wants PyTorch too.
"""

import argparse

import h5py
import numpy as np
import scipy.sparse as sp
from plain_multvae import read

K, BATCH = 20, 500


def read_layers(group):
    return [(group[f"{i}/weight"][:], group[f"{i}/bias"][:]) for i in range(len(group))]


class Network:
    def __init__(self, path):
        with h5py.File(path) as f:
            self.encoder, self.decoder = read_layers(f["model/encoder"]), read_layers(f["model/decoder"])
        inner = self.decoder[0][0].shape
        self.latent = inner[1] if len(self.decoder) == 1 else inner[0]

    def log_softmax(self, x):
        h = sp.diags(1 / np.sqrt(np.maximum(np.diff(x.indptr), 1))).dot(x).astype(np.float32) @ self.encoder[0][0]
        h = h + self.encoder[0][1]
        for weight, bias in self.encoder[1:]:
            h = np.tanh(h) @ weight + bias
        h = h[:, : self.latent] if h.shape[1] > self.latent else np.tanh(h)  # a VAE's mean, or a DAE's latent layer
        for weight, bias in self.decoder[:-1]:
            h = np.tanh(h @ weight + bias)
        logits = h @ self.decoder[-1][0].T + self.decoder[-1][1]
        logits -= logits.max(1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def measure(scores, x, target):
    """Sums over the users of recall_all@K and ndcg@K."""
    scores[x.nonzero()] = -np.inf
    top = np.argpartition(-scores, K, axis=1)[:, :K]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, 1), axis=1), 1)
    held = target.toarray() > 0
    hits, n = np.take_along_axis(held, top, 1), held.sum(1)
    discount = 1 / np.log2(np.arange(2, K + 2))
    ideal = np.cumsum(discount)[np.minimum(n, K) - 1]
    return np.array([(hits.sum(1) / n).sum(), ((hits * discount).sum(1) / ideal).sum()])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--ease", required=True)
    p.add_argument("--network", required=True, help="a vae or dae with tanh and without layer norm")
    p.add_argument("--weights", type=float, nargs="+", default=[0, 0.003, 0.01, 0.02])
    p.add_argument("--users", type=int)
    o = p.parse_args()
    x, target = read(o.data, "test/input"), read(o.data, "test/target")
    users = np.flatnonzero(np.diff(target.indptr))
    if o.users:
        users = users[:: max(1, len(users) // o.users)]
    network, sums = Network(o.network), np.zeros((len(o.weights), 2))
    with h5py.File(o.ease) as f:
        b = f["model/items/0/weight"][:]
    for first in range(0, len(users), BATCH):
        some = users[first : first + BATCH]
        linear, log_p = x[some] @ b, network.log_softmax(x[some])
        for i, weight in enumerate(o.weights):
            sums[i] += measure(linear + np.float32(weight) * log_p, x[some], target[some])
    print("weight,users,recall_all@20,ndcg@20")
    for weight, (recall, ndcg) in zip(o.weights, sums / len(users)):
        print(f"{weight:g},{len(users)},{recall:.4f},{ndcg:.4f}", flush=True)


if __name__ == "__main__":
    main()
