#!/usr/bin/env python3
"""Makes gradients_*.h5: losses, logits and gradients of small networks, in double precision by PyTorch's autograd.
Layout: README.md. Needs numpy, h5py, torch.

    tests/reference/make_gradients.py
"""

from pathlib import Path

import h5py
import numpy as np
import torch

import philox

CASES = {
    "vae_tanh": dict(type="vae", n_items=43, hidden=[11], latent=6, activation="tanh", dropout=0.5),
    "vae_relu": dict(type="vae", n_items=59, hidden=[16, 9], latent=5, activation="relu", dropout=0.5),
    "vae_linear": dict(type="vae", n_items=37, hidden=[], latent=8, activation="tanh", dropout=0.25),
    "dae_sigmoid": dict(type="dae", n_items=41, hidden=[12], latent=7, activation="sigmoid", dropout=0.5),
    "dae_tanh": dict(type="dae", n_items=50, hidden=[13, 10], latent=6, activation="tanh", dropout=0.5),
    # layer norm without gain and bias, a linear decoder, and a weight of KL by user: gamma times his items
    "recvae": dict(type="vae", n_items=47, hidden=[14, 10], latent=5, activation="tanh", dropout=0.5, gamma=0.05),
}
ROW_LENGTHS = [5, 1, 0, 12, 3, 20, 8]  # a user without items too
USERS = [4, 0, 9, 6039, 5_000_000_007, 77, 2]  # one beyond 32 bits
BETA = 0.3


def make_params(case, rng):
    """{tensor name: float32 values}, shapes as src/model.h lays them out."""
    widths = case["hidden"] + [case["latent"]]
    layers = list(zip([case["n_items"]] + widths[:-1], widths))
    decoder = [(case["latent"], case["n_items"])] if "gamma" in case else [(b, a) for a, b in reversed(layers)]
    params = {}
    for half, pairs in ("encoder", layers), ("decoder", decoder):
        for i, (n_in, n_out) in enumerate(pairs):
            last = i == len(pairs) - 1
            if half == "encoder" and last and case["type"] == "vae":
                n_out *= 2
            shape = (n_out, n_in) if half == "decoder" and last else (n_in, n_out)
            params[f"{half}/{i}/weight"] = rng.normal(0, 1.5 / np.sqrt(min(n_in, 16)), shape)
            params[f"{half}/{i}/bias"] = rng.normal(0, 0.3, n_out)
    return {name: values.astype(np.float32) for name, values in params.items()}


def make_rows(case, rng):
    chosen = [np.sort(rng.choice(case["n_items"], n, replace=False)) for n in ROW_LENGTHS]
    return np.cumsum([0] + ROW_LENGTHS), np.concatenate(chosen)


def dense(rows, values, n_items):
    """A CSR matrix as a tensor."""
    indptr, indices = rows
    matrix = torch.zeros(len(indptr) - 1, n_items, dtype=torch.float64)
    for r in range(len(indptr) - 1):
        matrix[r, indices[indptr[r] : indptr[r + 1]]] = torch.tensor(values[indptr[r] : indptr[r + 1]])
    return matrix


def input_values(rows, draw=None, dropout=0.0, n_items=0):
    """The input's non-zeros: rows of length 1, then dropout."""
    values = []
    for r, n in enumerate(np.diff(rows[0])):
        row = np.full(n, 1 / np.sqrt(max(n, 1)))
        if draw:
            uniform = philox.uniform(draw["seed"], philox.DROPOUT, draw["epoch"], USERS[r], n_items)
            items = rows[1][rows[0][r] : rows[0][r + 1]]
            row = np.where(uniform[items] >= np.float32(dropout), row / (1 - dropout), 0)
        values.append(row)
    return np.concatenate(values)


def forward(case, params, x, noise):
    """Logits and KL of each row; noise None: z is mu."""
    activate = getattr(torch, case["activation"])
    n_layers = len(case["hidden"]) + 1
    kl = torch.zeros(len(x), dtype=torch.float64)
    h = x
    for i in range(n_layers):
        h = h @ params[f"encoder/{i}/weight"] + params[f"encoder/{i}/bias"]
        if case["type"] == "dae" or i < n_layers - 1:
            assert case["activation"] != "relu" or h.abs().min() > 1e-4  # not at the kink
            h = activate(h)
        if "gamma" in case and i < n_layers - 1:
            h = torch.nn.functional.layer_norm(h, h.shape[1:], eps=0.1)
    if case["type"] == "vae":
        mu, logvar = h.chunk(2, 1)
        kl = 0.5 * (mu**2 + logvar.exp() - logvar - 1).sum(1)
        h = mu if noise is None else mu + noise * (logvar / 2).exp()
    n_layers = sum(name.startswith("decoder") for name in params) // 2
    for i in range(n_layers - 1):
        h = h @ params[f"decoder/{i}/weight"] + params[f"decoder/{i}/bias"]
        assert case["activation"] != "relu" or h.abs().min() > 1e-4
        h = activate(h)
    last = f"decoder/{n_layers - 1}"
    return h @ params[last + "/weight"].T + params[last + "/bias"], kl


def write(file, name, values):
    """A dataset; larger ones compressed. Without time stamps, so that the same numbers make the same file."""
    options = dict(compression="gzip", compression_opts=9, shuffle=True) if values.nbytes > 1000 else {}
    file.create_dataset(name, data=values, track_times=False, **options)


def make_case(number, name, case):
    rng = np.random.default_rng(number)
    draw = dict(seed=number + (number << 40), epoch=10 * number + 1)
    rows = make_rows(case, rng)
    values = make_params(case, rng)
    params = {key: torch.tensor(v.astype(np.float64), requires_grad=True) for key, v in values.items()}
    n_rows, n_items, latent = len(ROW_LENGTHS), case["n_items"], case["latent"]

    inputs = input_values(rows, draw, case["dropout"], n_items)
    noise = np.zeros((n_rows, latent))
    if case["type"] == "vae":
        for r, user in enumerate(USERS):
            noise[r] = philox.normal(draw["seed"], philox.NOISE, draw["epoch"], user, latent)
    logits, kl = forward(case, params, dense(rows, inputs, n_items), torch.tensor(noise))
    target = dense(rows, np.ones(len(rows[1])), n_items)
    nll = -(torch.log_softmax(logits, 1) * target).sum()
    penalty = (torch.tensor(ROW_LENGTHS) * case["gamma"] * kl).sum() if "gamma" in case else BETA * kl.sum()
    ((nll + penalty) / n_rows).backward()
    with torch.no_grad():
        scores, _ = forward(case, params, dense(rows, input_values(rows), n_items), None)

    with h5py.File(Path(__file__).parent / f"gradients_{name}.h5", "w", libver=("v110", "v110")) as file:
        a = file.attrs
        a["type"], a["activation"] = np.bytes_(case["type"]), np.bytes_(case["activation"])
        a["n_hidden"], a["hidden"] = np.int64(len(case["hidden"])), np.array(case["hidden"], np.int64)
        a["latent"], a["n_items"] = np.int64(latent), np.int64(n_items)
        a["seed"], a["epoch"] = np.int64(draw["seed"]), np.int64(draw["epoch"])
        a["dropout"], a["beta"], a["scale"] = case["dropout"], BETA, 1 / n_rows
        a["nll"], a["kl"] = nll.item(), kl.sum().item()
        if "gamma" in case:
            a["gamma"], a["penalty"] = case["gamma"], penalty.item()
        write(file, "indptr", rows[0].astype(np.int64))
        write(file, "indices", rows[1].astype(np.int32))
        write(file, "users", np.array(USERS, np.int64))
        write(file, "input", inputs)
        if case["type"] == "vae":
            write(file, "noise", noise)
        write(file, "logits", scores.numpy())
        for key, tensor in params.items():
            write(file, f"params/{key}", tensor.detach().numpy())
            write(file, f"grads/{key}", tensor.grad.numpy())
    print(f"gradients_{name}.h5: nll {nll.item():.6f} kl {kl.sum().item():.6f}")


for number, (name, case) in enumerate(CASES.items(), 1):
    make_case(number, name, case)
