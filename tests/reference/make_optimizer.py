#!/usr/bin/env python3
"""Makes optimizer.h5: five steps of PyTorch's Adam and AdamW in double precision. Layout: README.md.
Needs numpy, h5py, torch.

    tests/reference/make_optimizer.py
"""

from pathlib import Path

import h5py
import numpy as np
import torch

N, STEPS = 23, 5
OPTIONS = dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)

rng = np.random.default_rng(1)
p0 = rng.normal(0, 0.5, N)
g = rng.normal(0, 1, (STEPS, N)) * 10.0 ** rng.integers(-9, 3, N)  # from near epsilon to large
p0[:2] = 0
g[:, [0, 2]] = 0  # nothing to do; nothing but the decay
g[1:, 3] = 0  # one gradient, then none
p0, g = p0.astype(np.float32), g.astype(np.float32)

with h5py.File(Path(__file__).parent / "optimizer.h5", "w", libver=("v110", "v110")) as file:
    file.attrs["learning_rate"], file.attrs["epsilon"] = OPTIONS["lr"], OPTIONS["eps"]
    file.attrs["beta1"], file.attrs["beta2"] = OPTIONS["betas"]
    file.attrs["weight_decay"] = OPTIONS["weight_decay"]
    for name, optimizer in ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW):
        p = torch.tensor(p0.astype(np.float64), requires_grad=True)
        steps, after = optimizer([p], **OPTIONS), []
        for gradient in g:
            p.grad = torch.tensor(gradient.astype(np.float64))
            steps.step()
            after.append(p.detach().numpy().copy())
        for key, values in ("p0", p0.astype(np.float64)), ("g", g.astype(np.float64)), ("p", np.array(after)):
            file.create_dataset(f"{name}/{key}", data=values, track_times=False)
