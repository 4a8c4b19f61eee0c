"""What a vector attribute costs in training: the same towers with it and without, by turns.

    python -m benchmarks.dense_cost --workdir work/dense_cost             # 384 wide, five pairs
    python -m benchmarks.dense_cost --workdir work/dense_cost --width 768 --method recipe
    python -m benchmarks.dense_cost ... --out benchmarks/recorded/dense-cost.json    # as METHOD

A seeded log of a million rows (6,000 users, 4,000 items, Zipf's law) and one category an item; with
vectors, a random one an item, too. One thread, in this process. The train stage alone counts, with
its validation of 100 users; the first training of each does not. Prints each pair's ratio of
processor seconds, which a busy machine disturbs least, and of seconds by the clock, and medians.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.peers.timing import spread
from benchmarks.recorded.files import add
from cadc_rec.config.file import load_experiment
from cadc_rec.pipeline.pipeline import Pipeline

USERS, ITEMS, ROWS = 6_000, 4_000, 1_000_000
CONFIG = """
[data]
source = "tables"
[data.tables.interactions]
path = "{folder}/log.parquet"
timestamp = "timestamp"
timestamp_kind = "order"
[data.tables.items]
path = "{folder}/items.parquet"
categorical = ["kind"]
{vector}
[evaluate]
users = 100
[compute]
threads = 1
"""


def write_world(folder: Path, width: int) -> dict[str, Path]:
    """The tables, and a configuration with the vectors and one without."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    popularity = 1.0 / np.arange(1, ITEMS + 1)
    log = {
        "user_id": rng.integers(0, USERS, ROWS),
        "item_id": rng.choice(ITEMS, ROWS, p=popularity / popularity.sum()),
        "timestamp": np.arange(ROWS),
    }
    pq.write_table(pa.table(log), folder / "log.parquet")
    vectors = pa.array(rng.standard_normal(ITEMS * width, np.float32))
    items = {
        "item_id": np.arange(ITEMS),
        "kind": rng.integers(0, 20, ITEMS).astype(str),
        "content": pa.FixedSizeListArray.from_arrays(vectors, width),
    }
    pq.write_table(pa.table(items), folder / "items.parquet")
    files = {}
    for name, vector in (("without", ""), ("with", 'vector = ["content"]')):
        files[name] = folder / f"{name}.toml"
        files[name].write_text(CONFIG.format(folder=folder.resolve(), vector=vector), "utf-8")
    return files


def trained(config: Path, workdir: Path, method: str, sets: list[str]) -> tuple[float, float]:
    """Processor seconds and seconds of a training whose inputs are there."""
    pipeline = Pipeline(load_experiment(config, method=method, overrides=sets), workdir)
    stages = pipeline.stages()
    pipeline.run(until=stages[stages.index("train") - 1])
    for folder in ("train", "checkpoints"):
        shutil.rmtree(workdir / folder, ignore_errors=True)
    cpu, wall = time.process_time(), time.perf_counter()
    pipeline.run(until="train")
    return time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Parse, make the tables, train by turns, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work/dense_cost"))
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--method", default="cadc")
    parser.add_argument("--set", action="append", default=["train.epochs=4"], dest="sets")
    parser.add_argument("--out", type=Path, help="JSON file to add the result to")
    arguments = parser.parse_args()
    files = write_world(arguments.workdir / "tables", arguments.width)
    ratios: list[tuple[float, float]] = []
    for pair in range(arguments.pairs + 1):  # the first one warms up
        seconds = {
            name: trained(file, arguments.workdir / name, arguments.method, arguments.sets)
            for name, file in list(files.items())[:: 1 if pair % 2 else -1]
        }
        ratio = [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
        if pair:
            ratios.append((ratio[0], ratio[1]))
            cpu = {name: f"{each[0]:.1f} s" for name, each in seconds.items()}
            print(
                f"pair {pair}: processor {ratio[0]:.3f}, clock {ratio[1]:.3f} ({cpu})", flush=True
            )
    processor, clock = (spread(each) for each in zip(*ratios, strict=True))
    print(f"median: processor {processor.median:.3f}, clock {clock.median:.3f}")
    if arguments.out:
        found = {"processor": asdict(processor), "clock": asdict(clock)}
        add(arguments.out, arguments.method, {"width": arguments.width, **found})


if __name__ == "__main__":
    main()
