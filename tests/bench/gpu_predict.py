"""What a training step of Mult-VAE should take on a GPU, from counted bytes and operations and two rates.

    python tests/bench/gpu_predict.py [COPY_TB_S GEMM_TFLOP_S]

Prints the tables of results/gpu/PREDICTIONS.md (Markdown), for the rates of an H200 and an H100, or for those given.
The kernels and their bytes are those of tests/bench/gpu.c.
"""

import sys

USERS, ITEMS, PER_USER, HIDDEN, LATENT = 116_677, 20_112, 73, 600, 200  # MovieLens-20M; items padded to 16
COPY, LARGE, SMALL, L2 = 0.85, 0.80, 0.45, 4.4e12  # parts of the rates that kernels reach; rows gathered from L2
START = 1.5e-6  # of a kernel in a graph
BATCHES = (500, 1000, 2000, 4000, 8192, 16384, 24576)


def kernels(users):
    """(name, bytes, operations, bytes gathered from L2, is a large product)"""
    h, z, items = HIDDEN, LATENT, ITEMS
    entries, kept, every = users * PER_USER, users * PER_USER / 2, USERS * PER_USER
    product, second, third = 2 * users * h * items, 2 * users * h * 2 * z, 2 * users * z * h
    return [
        ("rows of the batch", 40 * users, 0, 0, 0),
        ("dropout and values", 8 * entries + 16 * users, 0, 0, 0),
        ("input layer", items * h * 2 + 8 * entries + 6 * users * h, 0, kept * h * 2, 0),
        ("dense 600-400: product", 2 * (users * h + h * 2 * z) + 4 * users * 2 * z, second, 0, 0),
        ("latent layer", 18 * users * z, 0, 0, 0),
        ("dense 200-600: product", 2 * (users * z + z * h) + 4 * users * h, third, 0, 0),
        ("dense 200-600: activation", 10 * users * h, 0, 0, 0),
        ("output layer: logits", 2 * (users * h + h * items + users * items), product, 0, 1),
        ("output layer: softmax", 4 * users * items + 4 * entries, 0, 0, 0),
        ("output layer: gradient of bias", 2 * users * items + 8 * items * users / 128, 0, 0, 0),
        ("output layer: gradient of weights", 2 * (users * items + users * h) + 4 * h * items, product, 0, 1),
        ("output layer: gradient of input", 2 * (users * items + h * items) + 4 * users * h, product, 0, 1),
        ("dense 200-600: slope", 14 * users * h, 0, 0, 0),
        ("dense 200-600: gradient of bias", 4 * users * h, 0, 0, 0),
        ("dense 200-600: gradient of weights", 2 * users * (z + h) + 4 * z * h, third, 0, 0),
        ("dense 200-600: gradient of input", 2 * (users * h + z * h) + 4 * users * z, third, 0, 0),
        ("latent layer: gradient", 24 * users * z, 0, 0, 0),
        ("dense 600-400: slope", 6 * users * 2 * z, 0, 0, 0),
        ("dense 600-400: gradient of bias", 4 * users * 2 * z, 0, 0, 0),
        ("dense 600-400: gradient of weights", 2 * users * (h + 2 * z) + 8 * h * z, second, 0, 0),
        ("dense 600-400: gradient of input", 2 * (users * 2 * z + h * 2 * z) + 4 * users * h, second, 0, 0),
        ("input layer: slope", 14 * users * h, 0, 0, 0),
        ("input layer: gradient of bias", 4 * users * h, 0, 0, 0),
        ("input layer: gradient", 4 * every + 36 * entries + 2 * users * h + 4 * items * h, 0,
         32 * every + 32 * entries + 2 * kept * h, 0),
        ("losses", 16 * users, 0, 0, 0),
        ("Adam", 30 * (2 * items * h + 3 * h * 2 * z / 2 + items + h * 2 + 2 * z), 0, 0, 0),
    ]  # fmt: skip


def floor(kernel, copy, gemm):
    return max(kernel[1] / copy, kernel[2] / gemm)


def expected(kernel, copy, gemm):
    _, size, operations, gathered, is_large = kernel
    return max(size / copy / COPY, operations / gemm / (LARGE if is_large else SMALL), gathered / L2)


def step(users, copy, gemm):
    list_ = kernels(users)
    starts = (len(list_) + 10) * START  # second halves of sums, tiny ones
    return sum(floor(k, copy, gemm) for k in list_), sum(expected(k, copy, gemm) for k in list_) + starts


def main():
    gpus = {"H200": (4.3e12, 790e12), "H100": (3.0e12, 798e12)}
    if len(sys.argv) == 3:
        gpus = {"this GPU": (float(sys.argv[1]) * 1e12, float(sys.argv[2]) * 1e12)}
    names = list(gpus)
    print("| kernel | MB | GFLOP |" + "".join(f" floor, {n} | expected, {n} |" for n in names))
    print("|---|---|---|" + "---|---|" * len(names))
    for k in kernels(BATCHES[-1]):
        times = "".join(f" {1e6 * floor(k, *gpus[n]):.0f} | {1e6 * expected(k, *gpus[n]):.0f} |" for n in names)
        operations = f"{k[2] / 1e9:.0f}" if k[2] else ""
        print(f"| {k[0]} | {k[1] / 1e6:.0f} | {operations} |{times}")
    both = {n: step(BATCHES[-1], *gpus[n]) for n in names}
    print("| **a step**, µs | | |" + "".join(f" {1e6 * both[n][0]:.0f} | {1e6 * both[n][1]:.0f} |" for n in names))
    print("\n| million users/s at batch |" + "".join(f" {b:,} |" for b in BATCHES) + " 400 epochs |")
    print("|---|" + "---|" * (len(BATCHES) + 1))
    for n in names:
        for which, name in enumerate(("floor", "expected")):
            speeds = [b / step(b, *gpus[n])[which] for b in BATCHES]
            print(f"| {n}, {name} |" + "".join(f" {s / 1e6:.2f} |" for s in speeds) + f" {400 * USERS / speeds[-1]:.1f} s |")
    parameters = 2 * 20_108 * HIDDEN + 3 * HIDDEN * LATENT + 20_108 + 2 * HIDDEN + 2 * LATENT
    print("\n| GPUs, users each | bytes through a GPU, bf16 | exchange, µs | a step, µs | million users/s | efficiency |")
    print("|---|---|---|---|---|---|")
    copy, gemm = gpus[names[0]]
    for ranks, rate, users in ((8, 370e9, 3072), (8, 370e9, 24576), (512, 50e9, 3072), (512, 50e9, 10000), (512, 50e9, 24576)):
        alone = step(users, copy, gemm)[1]
        half = (ranks - 1) / ranks * 2 * 2 * parameters / 2  # of the gradients: an output or an input layer
        behind = sum(expected(k, copy, gemm) for k in kernels(users)[12:-2])  # what the output layer's can hide behind
        exchange = max(half / rate - behind, 0) + half / rate
        print(f"| {ranks} x {users:,} | {2 * half / 1e6:.0f} MB | {2e6 * half / rate:.0f}, {1e6 * exchange:.0f} not hidden |"
              f" {1e6 * (alone + exchange):.0f} | {ranks * users / (alone + exchange) / 1e6:.1f} |"
              f" {alone / (alone + exchange):.0%} |")


if __name__ == "__main__":
    main()
