"""RecVAE (Shenbin et al. 2020) in plain PyTorch on a vaecf dataset directory, and each of its parts alone.

Without options it is the paper's: a densely connected encoder of five layers with swish and layer norm, a linear decoder,
the composite prior, a weight of the KL term by user (gamma times his number of items), and turns: three epochs for the
encoder, with dropout, then one for the decoder, without. The best validation NDCG@100 chooses the weights that are tested.
--model dae takes the noise and the KL term away. Appends a row to a CSV file.

    python plain_recvae.py --data data/ml-1m --gamma 0.005 --output recvae.csv

Made with torch 2.15.0 (CPU), numpy 2.4.6, h5py 3.16.0, scipy 1.17.1.
"""

import argparse
import math
import shlex
import sys
import time

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from plain_multvae import add_row, choose_epoch, read_all
from torch import nn

PRIOR = {"standard normal": 3 / 20, "old posterior": 3 / 4, "wide normal": 1 / 10}  # the paper's mixture
WIDE_LOGVAR = 10.0


class Encoder(nn.Module):
    """Layer i takes the outputs of all before it: the last one through its weights, all of them in the sum."""

    def __init__(self, n_items, out, o):
        super().__init__()
        layers, hidden = o.layers, o.hidden
        first = hidden if layers else out
        self.weight = nn.Parameter(torch.empty(n_items, first).uniform_(-1, 1) / math.sqrt(n_items))
        self.bias = nn.Parameter(torch.zeros(first))
        self.inner = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(layers - 1)])
        self.norm = nn.ModuleList(
            [nn.Identity() if o.no_norm else nn.LayerNorm(hidden, eps=0.1) for _ in range(layers)]
        )
        self.activation, self.is_dense = getattr(F, o.activation), not o.no_sum
        self.last = nn.Linear(hidden, out) if layers else None
        if not layers:
            nn.init.xavier_uniform_(self.weight)

    def forward(self, rows, dropout):
        lengths = np.diff(rows.indptr)
        values = np.repeat(1 / np.sqrt(np.maximum(lengths, 1)), lengths).astype(np.float32)
        values = F.dropout(torch.from_numpy(values), dropout)
        items, offsets = (torch.from_numpy(a.astype(np.int64)) for a in (rows.indices, rows.indptr[:-1]))
        h = F.embedding_bag(items, self.weight, offsets, mode="sum", per_sample_weights=values) + self.bias
        outputs = []
        for i, norm in enumerate(self.norm):
            if i > 0:
                h = self.inner[i - 1](outputs[-1]).float() + (sum(outputs) if self.is_dense else 0)
            outputs.append(norm(self.activation(h)))
        return self.last(outputs[-1]).float() if self.last else h


class RecVAE(nn.Module):
    def __init__(self, n_items, o):
        super().__init__()
        self.is_vae = o.model == "vae"
        self.encoder = Encoder(n_items, o.latent * (2 if self.is_vae else 1), o)
        self.decoder = nn.Linear(o.latent, n_items)

    def encode(self, rows, dropout=0.0):
        """mu and log variance, [users, 2 latent]; a DAE's latent layer, [users, latent]."""
        h = self.encoder(rows, dropout)
        return h if self.is_vae else torch.tanh(h)

    def sample(self, h):
        if not self.is_vae:
            return h
        mu, logvar = h.chunk(2, 1)
        return mu + torch.randn_like(mu) * torch.exp(logvar / 2)

    def forward(self, dense):
        """Scores, as metrics wants them."""
        h = self.encode(sp.csr_matrix(dense.numpy()))
        return (self.decoder(h.chunk(2, 1)[0] if self.is_vae else h),)


def log_normal(z, mu, logvar):
    return -0.5 * (logvar + math.log(2 * math.pi) + (z - mu) ** 2 / logvar.exp())


def divergence(h, z, old):
    """KL term of each user: exact for the standard normal prior, of the one sample for the composite one."""
    mu, logvar = h.chunk(2, 1)
    if old is None:
        return 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)
    zero = torch.zeros(())
    parts = [log_normal(z, zero, zero), log_normal(z, *old.chunk(2, 1)), log_normal(z, zero, zero + WIDE_LOGVAR)]
    parts = [part + math.log(weight) for part, weight in zip(parts, PRIOR.values())]
    return (log_normal(z, mu, logvar) - torch.logsumexp(torch.stack(parts), 0)).sum(1)


def likelihood(logits, rows, smoothing):
    """Negative log likelihood of each user; smoothing takes so much of the labels for all items."""
    x = torch.from_numpy(rows.toarray())
    n = x.sum(1, keepdim=True)
    return -(F.log_softmax(logits.float(), 1) * ((1 - smoothing) * x + smoothing * n / x.shape[1])).sum(1)


def make_optimizer(half, o):
    decay = [p for p in half.parameters() if p.ndim > 1]
    groups = [{"params": decay}, {"params": [p for p in half.parameters() if p.ndim == 1], "weight_decay": 0}]
    return torch.optim.AdamW(groups, o.learning_rate, weight_decay=o.weight_decay, fused=True)


class Training:
    def __init__(self, model, train, o):
        self.model, self.train, self.o = model, train, o
        self.optimizers = [make_optimizer(model.encoder, o), make_optimizer(model.decoder, o)]
        self.step = 0
        self.remember()

    def remember(self):
        """What the encoder says of all users now: the old posterior of the prior, and the decoder's input."""
        with torch.no_grad():
            blocks = [self.model.encode(self.train[i : i + 1000]) for i in range(0, self.train.shape[0], 1000)]
        self.old = torch.cat(blocks)

    def batches(self):
        order = torch.randperm(self.train.shape[0]).numpy()
        for first in range(0, len(order), self.o.batch_size):
            users = order[first : first + self.o.batch_size]
            yield self.train[users], self.old[users]

    def update(self, loss, optimizers):
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss.mean().backward()
        for optimizer in optimizers:
            optimizer.step()

    def encoder_epoch(self, optimizers):
        o = self.o
        for rows, old in self.batches():
            h = self.model.encode(rows, o.dropout)
            z = self.model.sample(h)
            loss = likelihood(self.model.decoder(z), rows, o.label_smoothing)
            if self.model.is_vae:
                beta = o.beta * min(1, self.step / o.anneal_steps)
                if o.gamma is not None:
                    beta = o.gamma * torch.from_numpy(np.diff(rows.indptr).astype(np.float32))
                loss = loss + beta * divergence(h, z, old if o.prior == "composite" else None)
            self.update(loss, optimizers)
            self.step += 1

    def decoder_epoch(self):
        for rows, old in self.batches():
            logits = self.model.decoder(self.model.sample(old))
            self.update(likelihood(logits, rows, self.o.label_smoothing), self.optimizers[1:])

    def epoch(self):
        if self.o.together:
            if self.o.prior == "composite":
                self.remember()
            self.encoder_epoch(self.optimizers)
            return
        self.model.decoder.requires_grad_(False)
        for _ in range(self.o.encoder_epochs):
            self.encoder_epoch(self.optimizers[:1])
        self.model.decoder.requires_grad_(True)
        self.remember()
        self.decoder_epoch()


def options():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--output", required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--model", choices=["vae", "dae"], default="vae")
    p.add_argument("--layers", type=int, default=5, help="of the encoder before the latent one")
    p.add_argument("--hidden", type=int, default=600)
    p.add_argument("--latent", type=int, default=200)
    p.add_argument("--activation", choices=["silu", "tanh", "relu"], default="silu", help="silu is swish")
    p.add_argument("--no-norm", action="store_true", help="no layer norm")
    p.add_argument("--no-sum", action="store_true", help="each layer takes the one before it alone")
    p.add_argument("--prior", choices=["composite", "standard"], default="composite")
    p.add_argument("--gamma", type=float, help="beta of a user = gamma times his number of items")
    p.add_argument("--beta", type=float, default=0.2, help="of all users, without --gamma")
    p.add_argument("--anneal-steps", type=int, default=1, help="in which --beta is reached")
    p.add_argument("--together", action="store_true", help="encoder and decoder in the same steps")
    p.add_argument("--encoder-epochs", type=int, default=3)
    p.add_argument("--dropout", type=float, default=0.5)
    p.add_argument("--label-smoothing", type=float, default=0)
    p.add_argument("--learning-rate", type=float, default=5e-4)
    p.add_argument("--weight-decay", type=float, default=0)
    p.add_argument("--batch-size", type=int, default=500)
    p.add_argument("--bf16", action="store_true", help="matrix products in it")
    p.add_argument("--epochs", type=int, default=200)
    p.add_argument("--patience", type=int, default=20)
    return p.parse_args()


def main():
    o = options()
    torch.manual_seed(o.seed)
    train, validation, test = read_all(o.data)
    model = RecVAE(train.shape[1], o)
    training = Training(model, train, o)
    start = time.time()

    def train_epoch():
        with torch.autocast("cpu", torch.bfloat16, enabled=o.bf16, cache_enabled=False):
            training.epoch()
        return f"{time.process_time():.0f} s of CPU"

    _, best_epoch, best, tested = choose_epoch(model, train_epoch, validation, test, o.epochs, o.patience)
    add_row(o.output, "options,seed,best_epoch", (shlex.join(sys.argv[1:]), o.seed, best_epoch), best, tested, start)


if __name__ == "__main__":
    main()
