"""Recommendations by PyTorch, to compare vaecf-recommend --benchmark with, on the same machine and model.

    python3 tests/reference/recommend_speed.py MODEL.npz BATCH... > torch.csv

MODEL.npz: of vaecf-export. Two programs of the plain kind, in float32, without gradients: "dense" gives the network a
matrix of all items, as the published Mult-VAE codes do; "sparse" sums the rows of the first weight (EmbeddingBag).
Both leave the users' items out and take the 20 best with torch.topk. Writes variant,threads,batch,calls,p50_ms,
users_per_second.
"""

import sys
import time

import numpy as np
import torch

K, MEAN_ITEMS, SECONDS, CALLS_MIN = 20, 70, 1.0, 5


def make_users(n, counts, rng):
    """Row starts and items of n users, of as many items as latency.c makes up."""
    lengths = np.minimum(1 + (rng.exponential(MEAN_ITEMS, n)).astype(int), 8 * MEAN_ITEMS)
    chances = np.cumsum(counts) / np.sum(counts)
    rows = [np.unique(np.searchsorted(chances, rng.random(length))) for length in lengths]
    return np.concatenate([[0], np.cumsum([len(r) for r in rows])]), np.concatenate(rows)


class Model:
    def __init__(self, path):
        z = np.load(path)
        names = [n[: -len("/weight")] for n in z.files if n.endswith("/weight")]
        self.weights = [torch.from_numpy(z[n + "/weight"]) for n in names]
        self.biases = [torch.from_numpy(z[n + "/bias"]) for n in names]
        self.mu = len(names) // 2 - 1  # the layer that gives mu and log variance
        self.latent = z["latent"].item()
        self.counts = z["item_count"]

    def logits(self, hidden):
        """From the first layer's output on."""
        for layer in range(1, len(self.weights)):
            weight = self.weights[layer]
            if layer == len(self.weights) - 1:
                weight = weight.T
            hidden = torch.addmm(self.biases[layer], hidden, weight)
            if layer == self.mu:
                hidden = hidden[:, : self.latent]
            elif layer < len(self.weights) - 1:
                hidden = torch.tanh(hidden)
        return hidden

    def first(self, starts, items, rows, variant):
        lengths = torch.diff(starts)
        if variant == "sparse":
            sums = torch.nn.functional.embedding_bag(items, self.weights[0], starts[:-1], mode="sum")
            return torch.tanh(sums / lengths.sqrt()[:, None] + self.biases[0])
        x = torch.zeros(len(lengths), len(self.counts))
        x[rows, items] = 1.0
        x = torch.nn.functional.normalize(x, dim=1)
        return torch.tanh(torch.addmm(self.biases[0], x, self.weights[0]))

    @torch.inference_mode()
    def recommend(self, starts, items, variant):
        starts, items = torch.from_numpy(starts), torch.from_numpy(items)
        rows = torch.repeat_interleave(torch.arange(len(starts) - 1), torch.diff(starts))
        logits = self.logits(self.first(starts, items, rows, variant))
        logits[rows, items] = -torch.inf
        scores, top = torch.topk(logits, K, dim=1)
        return scores.numpy(), top.numpy()


def main(path, batches):
    model = Model(path)
    starts, items = make_users(max(batches), model.counts, np.random.default_rng(1))
    print("variant,threads,batch,calls,p50_ms,users_per_second")
    for variant in ["dense", "sparse"]:
        for batch in batches:
            times, begin = [], time.perf_counter()
            while len(times) < CALLS_MIN + 2 or time.perf_counter() - begin < SECONDS:
                before = time.perf_counter()
                model.recommend(starts[: batch + 1], items[: starts[batch]], variant)
                times.append(time.perf_counter() - before)
            times = times[2:]
            print(
                f"{variant},{torch.get_num_threads()},{batch},{len(times)},{1e3 * np.median(times):.4f},"
                f"{batch / np.mean(times):.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1], [int(b) for b in sys.argv[2:]])
