"""A plain PyTorch Mult-VAE on a vaecf dataset directory, to hold vaecf-train's accuracy against.

Written as a researcher would: dense batches, F.normalize, dropout, multinomial likelihood, linear KL annealing, Adam;
the best validation NDCG@100 chooses the weights that are tested. Appends a row to a CSV file.

    python plain_multvae.py --data data/ml-1m --seed 1 --output results/ml-1m-pytorch.csv

Made with torch 2.15.0 (CPU), numpy 2.4.6, h5py 3.16.0, scipy 1.17.1.
"""

import argparse
import copy
import glob
import os
import time

import h5py
import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F


def read(path, part):
    blocks = []
    for name in sorted(glob.glob(f"{path}/shard-*.h5")):
        with h5py.File(name) as f:
            g = f[part]
            values = np.ones(len(g["indices"]), np.float32)
            blocks.append(sp.csr_matrix((values, g["indices"][:], g["indptr"][:]), g.attrs["shape"]))
    return sp.vstack(blocks, format="csr")


class MultVAE(torch.nn.Module):
    def __init__(self, n_items, hidden, latent, dropout):
        super().__init__()
        self.encoder = torch.nn.ModuleList([torch.nn.Linear(n_items, hidden), torch.nn.Linear(hidden, 2 * latent)])
        self.decoder = torch.nn.ModuleList([torch.nn.Linear(latent, hidden), torch.nn.Linear(hidden, n_items)])
        self.dropout = dropout
        for layer in [*self.encoder, *self.decoder]:
            torch.nn.init.xavier_uniform_(layer.weight)
            torch.nn.init.trunc_normal_(layer.bias, std=0.001, a=-0.002, b=0.002)

    def forward(self, x):
        h = F.dropout(F.normalize(x), self.dropout, self.training)
        mu, logvar = self.encoder[1](torch.tanh(self.encoder[0](h))).chunk(2, dim=1)
        z = mu + torch.randn_like(mu) * torch.exp(logvar / 2) if self.training else mu
        kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)
        return self.decoder[1](torch.tanh(self.decoder[0](z))), kl


def metrics(model, x, target):
    """Means of NDCG@100, recall@20 and recall@50 over the users with a target."""
    model.eval()
    sums, users = np.zeros(3), 0
    discount = 1 / np.log2(np.arange(2, 102))
    for first in range(0, x.shape[0], 500):
        dense = torch.from_numpy(x[first : first + 500].toarray())
        with torch.no_grad():
            scores = model(dense)[0]
        scores[dense > 0] = -np.inf
        order = torch.sort(scores, dim=1, descending=True, stable=True)[1][:, :100].numpy()
        held = target[first : first + 500].toarray() > 0
        hits = np.take_along_axis(held, order, axis=1)
        n = held.sum(1)
        scored = n > 0
        ideal = np.cumsum(discount)[np.minimum(n, 100)[scored] - 1]
        values = [(hits * discount).sum(1)[scored] / ideal]
        values += [hits[:, :r].sum(1)[scored] / np.minimum(n, r)[scored] for r in (20, 50)]
        sums += [v.sum() for v in values]
        users += scored.sum()
    return sums / users


def read_all(path):
    """Training users; input and target of the validation and of the test users."""
    validation, test = ((read(path, f"{split}/input"), read(path, f"{split}/target")) for split in ("validation", "test"))
    return read(path, "train"), validation, test


def choose_epoch(model, train_epoch, validation, test, epochs, patience):
    """Calls train_epoch, whose result is printed, until validation NDCG@100 has not risen for `patience` epochs. The last
    epoch, the best one, its value, and the test users' metrics by its weights."""
    best, best_epoch, best_weights = -1, 0, None
    for epoch in range(1, epochs + 1):
        text = train_epoch()
        value = metrics(model, *validation)[0]
        print(f"epoch {epoch}  {text}  ndcg@100 {value:.5f}", flush=True)
        if value > best:
            best, best_epoch, best_weights = value, epoch, copy.deepcopy(model.state_dict())
        if epoch - best_epoch >= patience:
            break
    model.load_state_dict(best_weights)
    return epoch, best_epoch, best, metrics(model, *test)


def add_row(path, names, what, best, tested, start):
    """A row of a CSV file: what[], of these names, the metrics, and the seconds since the start."""
    is_new = not os.path.exists(path)
    with open(path, "a") as f:
        if is_new:
            f.write(f"{names},validation_ndcg@100,test_ndcg@100,test_recall@20,test_recall@50,seconds\n")
        values = [f"{value:.6f}" for value in (best, *tested)]
        f.write(",".join([*map(str, what), *values, f"{time.time() - start:.1f}"]) + "\n")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--data", required=True)
    p.add_argument("--output", required=True)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--hidden", type=int, default=600)
    p.add_argument("--latent", type=int, default=200)
    p.add_argument("--dropout", type=float, default=0.5)
    p.add_argument("--batch-size", type=int, default=500)
    p.add_argument("--learning-rate", type=float, default=1e-3)
    p.add_argument("--kl-cap", type=float, default=0.2)
    p.add_argument("--anneal-steps", type=int, default=1000)
    p.add_argument("--epochs", type=int, default=200)
    p.add_argument("--patience", type=int, default=30)
    o = p.parse_args()

    torch.manual_seed(o.seed)
    train, validation, test = read_all(o.data)
    model = MultVAE(train.shape[1], o.hidden, o.latent, o.dropout)
    adam = torch.optim.Adam(model.parameters(), o.learning_rate)
    step, start = 0, time.time()

    def train_epoch():
        nonlocal step
        model.train()
        order = torch.randperm(train.shape[0]).numpy()
        for first in range(0, len(order), o.batch_size):
            x = torch.from_numpy(train[order[first : first + o.batch_size]].toarray())
            beta = o.kl_cap * min(1, step / o.anneal_steps)
            logits, kl = model(x)
            loss = (-(F.log_softmax(logits, dim=1) * x).sum(1) + beta * kl).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            step += 1
        return f"loss {loss.item():.4f}"

    epoch, best_epoch, best, tested = choose_epoch(model, train_epoch, validation, test, o.epochs, o.patience)
    add_row(o.output, "seed,epochs,best_epoch", (o.seed, epoch, best_epoch), best, tested, start)


if __name__ == "__main__":
    main()
