"""Users a second of a plain PyTorch Mult-VAE in training, on a vaecf dataset directory.

    python torch_speed.py --data data/x --variant dense|dense-compiled|sparse|compiled --precision fp32|bf16 --batch-size 500
        [--device cuda]

dense: as users write it: batches of a scipy matrix made dense, Linear layers, log_softmax times the input.
sparse: the fastest we know in eager mode: the first layer an EmbeddingBag over the non-zeros, the likelihood from
logsumexp and the logits of the non-zeros, Adam fused; on a GPU the matrix stays there and batches are cut from it.
dense-compiled, compiled: dense and sparse through torch.compile.
Prints "users_per_second,megabytes": the fastest of ROUNDS equal parts of the steps after a warm-up; peak memory, of the
process or on a GPU of its tensors.
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


class KeptBatches:
    """What batch gives for random users, of a CSR matrix that stays on the device."""

    def __init__(self, matrix, device):
        self.starts = torch.from_numpy(matrix.indptr.astype(np.int64)).to(device)
        self.indices = torch.from_numpy(matrix.indices.astype(np.int64)).to(device)
        self.n, self.device = matrix.shape[0], device

    def take(self, size):
        users = torch.randint(0, self.n, (size,), device=self.device)
        starts = self.starts[users]
        counts = self.starts[users + 1] - starts
        ends = counts.cumsum(0)
        rows = torch.repeat_interleave(torch.arange(size, device=self.device), counts)
        places = torch.arange(len(rows), device=self.device) - (ends - counts)[rows] + starts[rows]
        counts = counts.float()
        return [self.indices[places], ends - counts.long(), rows, counts, counts.clamp(min=1).rsqrt()[rows]]


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--variant", choices=["dense", "dense-compiled", "sparse", "compiled"], default="dense")
    p.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    p.add_argument("--batch-size", type=int, default=500)
    p.add_argument("--hidden", type=int, default=600)
    p.add_argument("--latent", type=int, default=200)
    p.add_argument("--steps", type=int, default=8, help="of a round")
    p.add_argument("--device", default="cpu")
    o = p.parse_args()

    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    train = read(o.data, "train")
    sparse = o.variant in ("sparse", "compiled")
    device = torch.device(o.device)
    kept = KeptBatches(train, device) if sparse and device.type == "cuda" else None
    model = MultVAE(train.shape[1], o.hidden, o.latent, sparse).to(device)
    loss_of = model.sparse_loss if sparse else model.dense_loss
    if o.variant.endswith("compiled"):
        loss_of = torch.compile(loss_of, dynamic=sparse)
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True if sparse else None)

    def wait():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def step():
        if kept:
            parts = kept.take(o.batch_size)
        else:
            parts = [part.to(device) for part in batch(train, rng.integers(0, train.shape[0], o.batch_size), sparse)]
        with torch.autocast(device.type, torch.bfloat16, enabled=o.precision == "bf16"):
            loss = loss_of(*parts)
        adam.zero_grad()
        loss.backward()
        adam.step()

    for _ in range(3):
        step()
    best = float("inf")
    for _ in range(ROUNDS):
        wait()
        begin = time.perf_counter()
        for _ in range(o.steps):
            step()
        wait()
        best = min(best, time.perf_counter() - begin)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 1e6
    print(f"{o.steps * o.batch_size / best:.0f},{memory:.0f}")


if __name__ == "__main__":
    main()
