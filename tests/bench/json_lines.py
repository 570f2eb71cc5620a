#!/usr/bin/env python3
"""Reading reviews in JSON lines: vaecf against Python's json and, where it is installed, orjson, on the same core.

    json_lines.py make amazon|yelp FILE MB       writes made-up reviews
    json_lines.py compare DIRECTORY OUTPUT.csv   times all on DIRECTORY/amazon.jsonl and yelp.jsonl, in turns
    json_lines.py PEER FILE KEY...               one of the peers alone

The task is the reader's: user, item, rating and time out of lines that have a text, too. json_find is measured over lines
in memory (tests/bench/json_lines.c), the peers with reading the file, without Python's start; vaecf-preprocess is the
whole of the program, from the file to the data set, on one thread and on all. On a machine with other work go by the
processor's time, not by the clock.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import preprocess  # noqa: E402

BIN = Path(os.environ.get("BIN", "bin")).resolve()
BUILD = Path(os.environ.get("BUILD", "build")).resolve()
KEYS = {
    "amazon": ["user_id", "parent_asin", "rating", "timestamp"],
    "yelp": ["user_id", "business_id", "stars", "date"],
}
REPEAT = 3


def make(kind, path, megabytes):
    """Reviews of words that are none; lengths, keys, escapes and spellings as the data sets have them."""
    chance = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(chance.choices(letters, k=chance.randint(2, 9))) for _ in range(5000)]
    ends = [" "] * 60 + [", "] * 6 + [". "] * 5 + ["\n\n", "<br />", ' "', "\u2019s ", "! ", "\u00e9 "]
    prose = "".join(word + end for word, end in zip(chance.choices(words, k=400000), chance.choices(ends, k=400000)))

    def text(mean):
        begin = chance.randrange(len(prose) - 20000)
        return prose[begin : begin + min(int(chance.expovariate(1 / mean)) + 10, 19000)]

    def code(length, symbols):
        return "".join(chance.choices(symbols, k=length))

    capitals = letters.upper() + "0123456789"
    users = [code(28, capitals) if kind == "amazon" else code(22, letters + capitals + "-_") for _ in range(100000)]
    items = [code(10, capitals) if kind == "amazon" else code(22, letters + capitals + "-_") for _ in range(20000)]
    size = megabytes * 10**6
    with open(path + ".new", "w", encoding="utf-8") as file:
        while size > 0:
            user, item, stars = chance.choice(users), chance.choice(items), float(chance.randint(1, 5))
            if kind == "amazon":
                images = [
                    {"small_image_url": f"https://example.org/{code(11, capitals)}._SL256_.jpg", "attachment_type": "IMAGE"}
                    for _ in range(chance.choice((0, 0, 0, 0, 0, 0, 0, 0, 0, 2)))
                ]
                row = {"rating": stars, "title": text(20), "text": text(300), "images": images, "asin": item,
                       "parent_asin": item, "user_id": user, "timestamp": chance.randint(10**12, 1690000000000),
                       "helpful_vote": chance.choice((0, 0, 0, 1, 12)), "verified_purchase": chance.random() < 0.9}
                line = json.dumps(row)
            else:
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(chance.randint(1.1e9, 1.65e9)))
                row = {"review_id": code(22, letters), "user_id": user, "business_id": item, "stars": stars,
                       "useful": chance.choice((0, 0, 1, 5)), "funny": 0, "cool": 0, "text": text(570), "date": when}
                line = json.dumps(row, ensure_ascii=False, separators=(",", ":"))
            size -= file.write(line + "\n")
    os.rename(path + ".new", path)


def run_peer(tool, path, keys):
    """Prints version, rows, bytes of the ids, seconds by the clock and of the processor."""
    if tool == "orjson":
        import orjson

        loads, version = orjson.loads, orjson.__version__
    else:
        loads, version = json.loads, "of Python " + sys.version.split()[0]
    user_key, item_key, rating_key, time_key = keys
    rows = size = total = 0
    begin, begin_cpu = time.monotonic(), time.process_time()
    with open(path, "rb") as file:
        for line in file:
            row = loads(line)
            user, item, rating, _ = row[user_key], row[item_key], row[rating_key], row[time_key]
            rows += 1
            size += len(user) + len(item)
            total += rating
    print(f"{version}\t{rows}\t{size}\t{time.monotonic() - begin}\t{time.process_time() - begin_cpu}")


def run_find(path, keys):
    """Rows, bytes of the ids, seconds by the clock and of the processor."""

    def run(keys):
        command = [BUILD / "tests/bench/json_lines", path, *keys]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    rows, _, seconds, cpu = run(keys)
    return int(rows), int(run(keys[:2])[1]), float(seconds), float(cpu)


def preprocess_command(path, keys, directory):
    command = [BIN / "vaecf-preprocess", "--input", path, "--output", directory, "--force", "--heldout-users", "100"]
    for name, key in zip(("user", "item", "rating", "time"), keys):
        command += [f"--{name}-column", key]
    return [str(word) for word in command]


def compare(directory, output):
    peers = ["json"]
    if subprocess.run([sys.executable, "-c", "import orjson"], capture_output=True).returncode == 0:
        peers.append("orjson")
    else:
        print(f"not measured, for it is missing: orjson; {sys.executable} -m pip install orjson")
    machine = preprocess.machine()
    print(f"machine: {machine}; best of {REPEAT}, in turns")
    table = []
    for kind, keys in KEYS.items():
        path = f"{directory}/{kind}.jsonl"
        size = Path(path).stat().st_size
        times, cpus, versions, counts = {}, {}, {}, {}
        version = subprocess.run([BIN / "vaecf-preprocess", "--version"], capture_output=True, text=True).stdout.split()[1]

        def add(tool, tool_version, seconds, cpu):
            versions[tool] = tool_version
            times.setdefault(tool, []).append(seconds)
            cpus.setdefault(tool, []).append(cpu)

        with tempfile.TemporaryDirectory() as work:
            ours = preprocess_command(path, keys, f"{work}/data")
            print("command:", " ".join(ours))
            trial = subprocess.run(ours, capture_output=True, text=True)
            refused = trial.returncode != 0
            if refused:
                print("not measured:", trial.stderr.strip().splitlines()[-1])
            for _ in range(REPEAT):
                *counts["json_find"], seconds, cpu = run_find(path, keys)
                add("json_find", version, seconds, cpu)
                for tool in peers:
                    command = [sys.executable, __file__, tool, path, *keys]
                    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\t")
                    counts[tool] = [int(text[1]), int(text[2])]
                    add(tool, text[0], float(text[3]), float(text[4]))
                if refused:
                    continue
                add("vaecf-preprocess, 1 thread", version, *preprocess.measure(["env", "OMP_NUM_THREADS=1", *ours])[:2])
                add("vaecf-preprocess", version, *preprocess.measure(ours)[:2])
        if any(count != counts["json"] for count in counts.values()):
            sys.exit(f"they read different rows: {counts}")
        for tool in times:
            best, cpu = min(times[tool]), min(cpus[tool])
            by_clock, by_cpu = min(times["json"]) / best, min(cpus["json"]) / cpu
            print(f"{kind:6} {tool:26} {versions[tool]:18} {best:7.3f} s, CPU {cpu:7.3f} s, {size / 1e6 / cpu:5.0f} MB a second "
                  f"of CPU, {by_cpu:5.1f} x Python's json, {by_clock:5.1f} x by the clock")
            table.append({"file": kind, "mb": f"{size / 1e6:.0f}", "rows": counts["json"][0], "tool": tool,
                          "version": versions[tool], "seconds": f"{best:.3f}", "cpu_seconds": f"{cpu:.3f}",
                          "runs": len(times[tool]), "mb_per_cpu_second": f"{size / 1e6 / cpu:.0f}",
                          "times_json": f"{by_clock:.2f}", "times_json_cpu": f"{by_cpu:.2f}", "machine": machine})
    preprocess.write_table(output, table)


if __name__ == "__main__":
    words = sys.argv[1:]
    if len(words) == 4 and words[0] == "make" and words[1] in KEYS:
        make(words[1], words[2], int(words[3]))
    elif len(words) == 3 and words[0] == "compare":
        compare(words[1], words[2])
    elif len(words) == 6 and words[0] in ("json", "orjson"):
        run_peer(words[0], words[1], words[2:])
    else:
        sys.exit(__doc__)
