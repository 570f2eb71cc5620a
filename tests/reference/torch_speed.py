"""Users a second of a plain PyTorch Mult-VAE in training, on a vaecf dataset directory.

    python torch_speed.py --data data/x --variant dense|sparse|compiled --precision fp32|bf16 --batch-size 500

dense: as users write it: batches of a scipy matrix made dense, Linear layers, log_softmax times the input.
sparse: the fastest we know in eager mode: the first layer an EmbeddingBag over the non-zeros, the likelihood from
logsumexp and the logits of the non-zeros, Adam fused. compiled: the same through torch.compile.
Prints "users_per_second,megabytes": the fastest of ROUNDS equal parts of the steps after a warm-up; peak memory.
"""

import argparse
import resource
import time

import numpy as np
import torch
import torch.nn.functional as F

from plain_multvae import read

ROUNDS = 3


class MultVAE(torch.nn.Module):
    def __init__(self, n_items, hidden, latent, sparse):
        super().__init__()
        self.sparse = sparse
        self.first = torch.nn.EmbeddingBag(n_items, hidden, mode="sum") if sparse else torch.nn.Linear(n_items, hidden)
        self.bias = torch.nn.Parameter(torch.zeros(hidden))
        self.second = torch.nn.Linear(hidden, 2 * latent)
        self.third = torch.nn.Linear(latent, hidden)
        self.last = torch.nn.Linear(hidden, n_items)

    def decode(self, h):
        mu, logvar = self.second(torch.tanh(h)).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(logvar / 2)
        kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)
        return self.last(torch.tanh(self.third(z))), kl

    def dense_loss(self, x):
        logits, kl = self.decode(self.first(F.dropout(F.normalize(x), 0.5)))
        return (-(F.log_softmax(logits, dim=1) * x).sum(1) + 0.2 * kl).mean()

    def sparse_loss(self, indices, offsets, rows, counts, weights):
        h = self.first(indices, offsets, per_sample_weights=F.dropout(weights, 0.5)) + self.bias
        logits, kl = self.decode(h)
        logits = logits.float()
        nll = counts * torch.logsumexp(logits, dim=1)
        return (nll.sum() - logits[rows, indices].sum()) / len(counts) + 0.2 * kl.mean()


def batch(matrix, users, sparse):
    part = matrix[users]
    if not sparse:
        return [torch.from_numpy(part.toarray())]
    counts = np.diff(part.indptr).astype(np.float32)
    return [
        torch.from_numpy(part.indices.astype(np.int64)),
        torch.from_numpy(part.indptr[:-1].astype(np.int64)),
        torch.from_numpy(np.repeat(np.arange(len(users)), np.diff(part.indptr))),
        torch.from_numpy(counts),
        torch.from_numpy(np.repeat(1 / np.sqrt(np.maximum(counts, 1)), np.diff(part.indptr)).astype(np.float32)),
    ]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--variant", choices=["dense", "sparse", "compiled"], default="dense")
    p.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    p.add_argument("--batch-size", type=int, default=500)
    p.add_argument("--hidden", type=int, default=600)
    p.add_argument("--latent", type=int, default=200)
    p.add_argument("--steps", type=int, default=8, help="of a round")
    o = p.parse_args()

    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    train = read(o.data, "train")
    sparse = o.variant != "dense"
    model = MultVAE(train.shape[1], o.hidden, o.latent, sparse)
    loss_of = model.sparse_loss if sparse else model.dense_loss
    if o.variant == "compiled":
        loss_of = torch.compile(loss_of, dynamic=True)
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True if sparse else None)

    def step():
        parts = batch(train, rng.integers(0, train.shape[0], o.batch_size), sparse)
        with torch.autocast("cpu", torch.bfloat16, enabled=o.precision == "bf16"):
            loss = loss_of(*parts)
        adam.zero_grad()
        loss.backward()
        adam.step()

    for _ in range(3):
        step()
    best = float("inf")
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(o.steps):
            step()
        best = min(best, time.perf_counter() - begin)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{o.steps * o.batch_size / best:.0f},{memory:.0f}")


if __name__ == "__main__":
    main()
