#!/usr/bin/env python3
"""Preprocessing of a MovieLens-20M-like file: vaecf-preprocess against pandas, Polars and DuckDB on the same cores.

    preprocess.py compare RATINGS.csv OUTPUT.csv    time and peak memory of each, in turns
    preprocess.py scale OUTPUT.csv [ROWS...]        vaecf-preprocess --memory 2G over growing files
    preprocess.py TOOL RATINGS.csv                  one of the peers alone

All do the papers' split: ratings of at least 4, users with at least 5 items, 10,000 users each held out for validation and
test, the catalogue of the training users' items, a fifth of a held-out user's catalogue items as target; CSR matrices, users
and items written to disk. The peers are spared the search for equal rows, and their time is without Python's start
and imports. pandas does it as the usual Mult-VAE code: counts by groupby, held-out users one by one, ids through a dictionary.
"""

import csv
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HELD_OUT, MIN_RATING, MIN_ITEMS, FRACTION, SEED = 10000, 4, 5, 0.2, 98765
BIN = Path(os.environ.get("BIN", "bin")).resolve()


def save(directory, name, shape, row, item):
    """Rows ascending, items ascending in a row -> a CSR matrix on disk."""
    import numpy as np

    indptr = np.zeros(shape[0] + 1, np.int64)
    np.cumsum(np.bincount(row, minlength=shape[0]), out=indptr[1:])
    np.save(f"{directory}/{name}-indptr.npy", indptr)
    np.save(f"{directory}/{name}-indices.npy", item.astype(np.int32, copy=False))


def run_pandas(path, directory):
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    yield pd.__version__
    random = np.random.default_rng(SEED)
    data = pd.read_csv(path)
    data = data[data["rating"] >= MIN_RATING]
    size = data.groupby("userId").size()
    data = data[data["userId"].isin(size.index[size >= MIN_ITEMS])]
    users = random.permutation(data["userId"].unique())
    test, validation, train = np.split(users, [HELD_OUT, 2 * HELD_OUT])
    train_rows = data.loc[data["userId"].isin(train)]
    items = train_rows["movieId"].unique()
    item_index = {item: i for i, item in enumerate(items)}

    def write(name, rows, order):
        user_index = {user: i for i, user in enumerate(order)}
        u = [user_index[x] for x in rows["userId"]]
        i = [item_index[x] for x in rows["movieId"]]
        matrix = sp.csr_matrix((np.ones(len(u)), (u, i)), shape=(len(order), len(items)))
        matrix.sort_indices()
        sp.save_npz(f"{directory}/{name}.npz", matrix, compressed=False)

    write("train", train_rows, train)
    for name, order in (("validation", validation), ("test", test)):
        rows = data.loc[data["userId"].isin(order) & data["movieId"].isin(items)]
        inputs, targets = [], []
        for _, group in rows.groupby("userId"):
            target = np.zeros(len(group), bool)
            if len(group) >= MIN_ITEMS:
                target[random.choice(len(group), size=int(FRACTION * len(group) + 1e-9), replace=False)] = True
            inputs.append(group[~target])
            targets.append(group[target])
        write(f"{name}-input", pd.concat(inputs), order)
        write(f"{name}-target", pd.concat(targets), order)
    np.save(f"{directory}/items.npy", items)
    np.save(f"{directory}/users.npy", users)


def run_polars(path, directory):
    import numpy as np
    import polars as pl

    yield pl.__version__
    u, i = pl.col("userId"), pl.col("movieId")
    data = pl.scan_csv(path).filter(pl.col("rating") >= MIN_RATING).select(u.cast(pl.Int32), i.cast(pl.Int32)).collect()
    size = data.group_by("userId").len().filter(pl.col("len") >= MIN_ITEMS)
    users = size.sort("userId").select("userId").sample(fraction=1, shuffle=True, seed=SEED)
    position = pl.int_range(pl.len(), dtype=pl.Int32)
    users = users.with_columns(
        split=pl.when(position < HELD_OUT).then(2).when(position < 2 * HELD_OUT).then(1).otherwise(0).cast(pl.Int8)
    ).with_columns(row=pl.int_range(pl.len(), dtype=pl.Int32).over("split"))
    data = data.join(users, on="userId", how="inner")
    items = (
        data.filter(pl.col("split") == 0).group_by("movieId").len().sort(["len", "movieId"], descending=[True, False])
    ).with_columns(item=position)
    data = data.join(items.select("movieId", "item"), on="movieId", how="inner")
    train = data.filter(pl.col("split") == 0).select("row", "item").sort("row", "item")
    n = users.group_by("split").len().sort("split")["len"].to_list()
    save(directory, "train", (n[0], len(items)), train["row"].to_numpy(), train["item"].to_numpy())
    random = np.random.default_rng(SEED)
    held = data.filter(pl.col("split") > 0)
    held = held.with_columns(random=pl.Series(random.random(len(held))))
    held = held.with_columns(
        n=pl.len().over("split", "row"), rank=pl.col("random").rank("ordinal").over("split", "row")
    ).with_columns(
        target=(pl.col("n") >= MIN_ITEMS) & (pl.col("rank") <= (FRACTION * pl.col("n") + 1e-9).floor())
    ).sort("split", "row", "item")
    for split, name in ((1, "validation"), (2, "test")):
        for target, part in ((False, "input"), (True, "target")):
            rows = held.filter((pl.col("split") == split) & (pl.col("target") == target))
            save(
                directory, f"{name}-{part}", (n[split], len(items)), rows["row"].to_numpy(), rows["item"].to_numpy()
            )
    np.save(f"{directory}/items.npy", items["movieId"].to_numpy())
    np.save(f"{directory}/users.npy", users["userId"].to_numpy())


def run_duckdb(path, directory):
    import duckdb
    import numpy as np

    yield duckdb.__version__
    db = duckdb.connect()
    db.execute("SET preserve_insertion_order = false")
    db.execute(
        f"""
        CREATE TABLE rated AS SELECT userId::INT u, movieId::INT i FROM read_csv('{path}', header = true, columns =
            {{'userId': 'INT', 'movieId': 'INT', 'rating': 'FLOAT', 'timestamp': 'BIGINT'}}) WHERE rating >= {MIN_RATING};
        CREATE TABLE users AS SELECT u, s, (row_number() OVER (PARTITION BY s ORDER BY p) - 1)::INT r FROM (
            SELECT u, p, CASE WHEN p <= {HELD_OUT} THEN 2 WHEN p <= {2 * HELD_OUT} THEN 1 ELSE 0 END s FROM (
                SELECT u, row_number() OVER (ORDER BY hash(u, {SEED})) p FROM rated GROUP BY u
                HAVING count(*) >= {MIN_ITEMS}));
        CREATE TABLE items AS SELECT i, (row_number() OVER (ORDER BY count(*) DESC, i) - 1)::INT c
            FROM rated JOIN users USING (u) WHERE s = 0 GROUP BY i;
        CREATE TABLE held AS SELECT s, r, c, n >= {MIN_ITEMS} AND k <= floor({FRACTION} * n + 1e-9) t FROM (
            SELECT s, r, c, count(*) OVER (PARTITION BY s, r) n,
                   row_number() OVER (PARTITION BY s, r ORDER BY hash(u, i, {SEED})) k
            FROM rated JOIN users USING (u) JOIN items USING (i) WHERE s > 0);
        """
    )
    n = [count for _, count in db.execute("SELECT s, count(*) FROM users GROUP BY s ORDER BY s").fetchall()]
    items = db.execute("SELECT i FROM items ORDER BY c").fetchnumpy()["i"]
    train = db.execute(
        "SELECT r, c FROM rated JOIN users USING (u) JOIN items USING (i) WHERE s = 0 ORDER BY r, c"
    ).fetchnumpy()
    save(directory, "train", (n[0], len(items)), train["r"], train["c"])
    for split, name in ((1, "validation"), (2, "test")):
        for target, part in ((False, "input"), (True, "target")):
            rows = db.execute(f"SELECT r, c FROM held WHERE s = {split} AND t = {target} ORDER BY r, c").fetchnumpy()
            save(directory, f"{name}-{part}", (n[split], len(items)), rows["r"], rows["c"])
    np.save(f"{directory}/items.npy", items)
    np.save(f"{directory}/users.npy", db.execute("SELECT u FROM users ORDER BY s DESC, r").fetchnumpy()["u"])


PEERS = {"pandas": run_pandas, "polars": run_polars, "duckdb": run_duckdb}


def run_peer(tool, path):
    """Prints version and seconds."""
    with tempfile.TemporaryDirectory() as directory:
        steps = PEERS[tool](path, directory)
        version = next(steps)
        begin = time.monotonic()
        for _ in steps:
            pass
        print(version, time.monotonic() - begin)


def measure(command):
    """Wall seconds, CPU seconds, peak MB and output of a command."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - begin
    if status:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output


def machine():
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores"


def preprocess(path, directory, *options):
    command = [BIN / "vaecf-preprocess", "--input", path, "--output", directory, "--force"]
    command += ["--min-rating", str(MIN_RATING), "--min-user-items", str(MIN_ITEMS), "--heldout-users", str(HELD_OUT)]
    return [str(word) for word in [*command, *options]]


def write_table(path, rows):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def compare(path, output, repeat=3):
    missing = []
    for tool in PEERS:
        if subprocess.run([sys.executable, "-c", f"import {tool}, numpy, scipy"], capture_output=True).returncode:
            missing.append(tool)
    if missing:
        print(f"not measured, for it is missing: {', '.join(missing)}; {sys.executable} -m pip install "
              f"{' '.join(missing)} numpy scipy pyarrow")
    size = Path(path).stat().st_size
    print(f"machine: {machine()}; {size / 1e6:.0f} MB; best of {repeat}, in turns")
    times, memory, versions, cpu_seconds = {}, {}, {}, {}
    with tempfile.TemporaryDirectory() as directory:
        commands = {"vaecf": preprocess(path, directory)}
        commands |= {tool: [sys.executable, __file__, tool, path] for tool in PEERS if tool not in missing}
        print("command:", " ".join(commands["vaecf"]))
        for turn in range(repeat):
            for tool, command in commands.items():
                if tool == "pandas" and turn:
                    continue
                seconds, cpu, megabytes, text = measure(command)
                if tool in PEERS:
                    versions[tool], seconds = text.split()[0], float(text.split()[1])
                else:
                    versions[tool] = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout.split()[1]
                times.setdefault(tool, []).append(seconds)
                cpu_seconds[tool] = min(cpu_seconds.get(tool, cpu), cpu)
                memory[tool] = max(memory.get(tool, 0), megabytes)
    ours = min(times["vaecf"])
    rows = []
    for tool, seconds in times.items():
        best = min(seconds)
        print(f"{tool:8} {versions[tool]:8} {best:7.2f} s (median {statistics.median(seconds):.2f}), "
              f"{best / ours:5.1f} x vaecf's, CPU {cpu_seconds[tool]:.1f} s, peak {memory[tool]:6.0f} MB")
        rows.append({"tool": tool, "version": versions[tool], "seconds": f"{best:.3f}",
                     "median_seconds": f"{statistics.median(seconds):.3f}", "runs": len(seconds),
                     "cpu_seconds": f"{cpu_seconds[tool]:.2f}",
                     "times_vaecf": f"{best / ours:.2f}", "peak_mb": f"{memory[tool]:.0f}",
                     "mb_per_second": f"{size / 1e6 / best:.0f}", "machine": machine()})
    write_table(output, rows)


def scale(output, rows):
    table = []
    print(f"machine: {machine()}")
    for n in rows:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", "/tmp")) as directory:
            path = f"{directory}/ratings.csv"
            users = str(max(1, n * 138493 // 20000263))
            subprocess.run([BIN / "vaecf-synthesize", "-n", str(n), "-u", users, "-o", path], check=True)
            command = preprocess(path, f"{directory}/data", "--memory", "2G", "--tmp", directory, "--shards", "8")
            seconds, cpu, megabytes, text = measure(command)
            size = Path(path).stat().st_size
            disk = text.rsplit(" MB on disk", 1)[0].rsplit(" ", 1)[1]
        print(f"{n} rows, {size / 1e6:.0f} MB: {seconds:.1f} s, {1e9 * seconds / n:.1f} ns a row, CPU {cpu:.1f} s, "
              f"{size / 1e6 / seconds:.0f} MB/s, peak {megabytes:.0f} MB, on disk {disk} MB", flush=True)
        table.append({"rows": n, "mb": f"{size / 1e6:.0f}", "seconds": f"{seconds:.2f}", "cpu_seconds": f"{cpu:.2f}",
                      "ns_per_row": f"{1e9 * seconds / n:.1f}", "mb_per_second": f"{size / 1e6 / seconds:.0f}",
                      "peak_mb": f"{megabytes:.0f}", "disk_mb": disk, "memory": "2G", "machine": machine()})
        write_table(output, table)


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) == 3 and words[0] == "compare":
        compare(words[1], words[2])
    elif len(words) >= 2 and words[0] == "scale":
        scale(words[1], [int(word) for word in words[2:]] or [10**7, 5 * 10**7, 2 * 10**8])
    elif len(words) == 2 and words[0] in PEERS:
        run_peer(words[0], words[1])
    else:
        sys.exit(__doc__)
