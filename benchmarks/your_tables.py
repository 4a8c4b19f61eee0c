"""Tables of text ids through inspect, prepare, select and run, with time, peak memory and a proof.

    python -m benchmarks.your_tables --workdir work --rows 20M
    python -m benchmarks.your_tables --workdir work --rows 20M --form csv
    python -m benchmarks.your_tables --workdir work --rows 10M --engine spark   # same bytes?
    python -m benchmarks.your_tables --workdir work --rows 100M --no-inspect --until select
    python -m benchmarks.your_tables --out benchmarks/recorded/your-tables.json    # and records it

The tables are those of a generated world, with ids such as ``customer-0000123``, in ten files. Each
command is a process of its own. What the dataset holds is then compared with the input, row for row
counted and as sums of hashes that do not depend on order: no row lost, none twice.

Only the standard library, NumPy and pyarrow work here; this process stays small, since Linux counts
a parent's memory at the moment of starting a process into that process's peak.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq

from benchmarks.recorded.files import add
from cadc_rec.config.types import parse_number
from cadc_rec.log import log, set_up_logging
from cadc_rec.store.artifact import read_manifest

FILES = 10
_CHUNK = 2**20
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of linux/prctl.h
_MIX = 0x9E3779B97F4A7C15
# One pass of everything.
_SETTINGS = ("pretrain.epochs=1", "train.epochs=1", "train.batch_size=8192")
# The sample of CADC is that of Random, which is selected without pre-training before it.
_SELECT = ("--set", "method=random")
_CONFIG = """\
[data]
source = "tables"

[data.tables.interactions]
path = "tables/log"
user = "customer"
item = "sku"
timestamp = "bought_at"

[data.tables.items]
path = "tables/items.parquet"
id = "sku"
categorical = ["kind"]
numeric = ["price"]
"""


@dataclass(frozen=True)
class Sums:
    """What is the same for two tables of the same rows, in whatever order."""

    rows: int
    check: int
    """Sum over the rows of a mix of their numbers, modulo 2^64."""

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.rows + other.rows, (self.check + other.check) % 2**64)


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str
    seconds: float
    cpu_seconds: float
    """Of its processes, Spark's Java and Python among them: others' work changes these least."""
    peak_bytes: int
    """Of the largest process of this command and those before it."""


def sums(user: np.ndarray, item: np.ndarray, timestamp: np.ndarray) -> Sums:
    """Of rows of three int64 columns."""
    with np.errstate(over="ignore"):
        mixed = np.zeros(len(user), np.uint64)
        for column in (user, item, timestamp):
            mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(_MIX)
            mixed ^= mixed >> np.uint64(29)
        return Sums(len(user), int(mixed.sum(dtype=np.uint64)))


def generate(rows: int, folder: Path, form: str) -> Sums:
    """Write the tables; returns the sums of the interactions."""
    users, items = max(60, rows // 50), max(60, min(50_000, rows // 400))
    folder.mkdir(parents=True)
    total = Sums(0, 0)
    per_file = -(-rows // FILES)
    for number in range(FILES):
        count = min(per_file, rows - number * per_file)
        if count <= 0:
            break
        total += _interactions(folder / f"log/part-{number:02d}", form, number, count, users, items)
    names = pa.array([f"sku-{n:06d}" for n in range(items)])
    kinds = pa.array([f"kind-{n % 37}" for n in range(items)])
    price = np.random.default_rng(1).gamma(2, 20, items).round(2)
    pq.write_table(
        pa.table({"sku": names, "kind": kinds, "price": price}), folder / "items.parquet"
    )
    return total


def _interactions(stem: Path, form: str, number: int, rows: int, users: int, items: int) -> Sums:
    """One file; every (user, item) pair of it occurs in no other, and once."""
    stem.parent.mkdir(exist_ok=True)
    rng = np.random.default_rng(number)
    # Pair p of user u is item (start of u + p) mod items; a file holds every FILES-th pair.
    total = Sums(0, 0)
    each = -(-rows // users)

    def tables() -> Iterator[pa.Table]:
        nonlocal total
        for first in range(0, rows, _CHUNK):
            row = np.arange(first, min(first + _CHUNK, rows))
            user, place = row // each, FILES * (row % each) + number
            item = (user * 7919 + place) % items
            when = 1_700_000_000 + rng.integers(0, 10**7, len(row))
            total += sums(user, item, when)
            yield pa.table(
                {
                    "customer": _named("customer-", user, 9),
                    "sku": _named("sku-", item, 6),
                    "bought_at": when,
                }
            )

    stream = tables()
    table = next(stream)
    if form == "csv":
        with pcsv.CSVWriter(stem.with_suffix(".csv"), table.schema) as out:
            out.write(table)
            for table in stream:
                out.write(table)
    else:
        with pq.ParquetWriter(stem.with_suffix(".parquet"), table.schema) as writer:
            writer.write_table(table)
            for table in stream:
                writer.write_table(table)
    return total


def _named(prefix: str, numbers: np.ndarray, width: int) -> pa.Array:
    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), width=width, padding="0")
    return pc.binary_join_element_wise(prefix, text, "")


def dataset_sums(artifact: Path) -> Sums:
    """The same of what was prepared, original ids looked up by the dense ones."""
    user, item = (
        _numbers(pq.read_table(artifact / f"{side}s.parquet", columns=[f"{side}_id"])[f"{side}_id"])
        for side in ("user", "item")
    )
    total = Sums(0, 0)
    files = [*sorted((artifact / "train").glob("*.parquet"))]
    for file in [*files, artifact / "val.parquet", artifact / "test.parquet"]:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(_CHUNK):
                columns = (batch[name].to_numpy() for name in ("user", "item", "timestamp"))
                dense_user, dense_item, when = columns
                total += sums(user[dense_user], item[dense_item], when)
    return total


def _numbers(ids: pa.ChunkedArray) -> np.ndarray:
    digits = pc.replace_substring_regex(ids, pattern="^[a-z]+-0*([0-9])", replacement=r"\1")
    return digits.cast(pa.int64()).to_numpy()


def carried_out(name: str, *arguments: str) -> Step:
    """Run ``cadc-rec`` in a process of its own."""
    command = [sys.executable, "-m", "cadc_rec", name, *arguments]
    log.info("%s", " ".join(command[2:]))
    started, before = time.perf_counter(), _cpu_seconds()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"{' '.join(command[2:])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    with contextlib.suppress(ChildProcessError):
        while True:  # what the command left behind, such as Spark's Java
            os.wait()
    # The largest of all children so far: the kernel does not tell them apart.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return Step(name, seconds, _cpu_seconds() - before, peak)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--rows", type=parse_number, default=parse_number("20M"))
    parser.add_argument("--form", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--memory", default="3GiB", help="data.memory")
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb")
    parser.add_argument("--until", choices=("prepare", "select", "run"), default="run")
    parser.add_argument(
        "--no-inspect", action="store_true", help="skip inspect; use a config written here"
    )
    parser.add_argument("--keep", action="store_true", help="keep the tables and the work folder")
    parser.add_argument("--out", type=Path, help="JSON file to add the results to")
    options = parser.parse_args(arguments)
    set_up_logging()
    # Processes whose parent ends become this one's, so that their seconds are counted, too.
    ctypes.CDLL(None).prctl(_SUBREAPER, 1)
    rows, folder = (
        int(options.rows),
        options.workdir / "bench" / f"your-tables-{options.form}-{options.rows:g}",
    )
    shutil.rmtree(folder, ignore_errors=True)
    tables, work, config = folder / "tables", folder / "work", folder / "shop.toml"
    started = time.perf_counter()
    given = generate(rows, tables, options.form)
    log.info("%d rows written in %.0f s", rows, time.perf_counter() - started)

    steps = []
    if options.no_inspect:
        config.write_text(_CONFIG, "utf-8")
    else:
        where = ("--data-dir", str(folder))
        steps.append(carried_out("inspect", str(tables), "--out", str(config), *where))
    text = config.read_text("utf-8").replace(
        "[data]\n", f'[data]\nmemory = "{options.memory}"\n', 1
    )
    config.write_text(text, "utf-8")
    common = [str(config), "--data-dir", str(folder), "--workdir", str(work)]
    sets = [part for setting in _SETTINGS for part in ("--set", setting)]
    engines = ["duckdb"] if options.engine == "duckdb" else ["duckdb", "spark"]
    prints = {}
    for engine in engines:
        force = ["--force"] if engine == "spark" else []
        chosen = ["--set", f"data.engine={engine}"]
        steps.append(carried_out("prepare", *common, *sets, *chosen, *force))
        (artifact,) = [p for p in (work / "prepare").iterdir() if (p / "manifest.json").is_file()]
        prints[engine] = str(read_manifest(artifact)["fingerprint"])
    found = dataset_sums(artifact)
    for name in {"prepare": (), "select": ("select",), "run": ("select", "run")}[options.until]:
        only = _SELECT if name == "select" else ()
        steps.append(carried_out(name, *common, *sets, *only))

    print(json.dumps({"input": given.__dict__, "dataset": found.__dict__, "prints": prints}))
    print(f"| command | seconds | CPU seconds | peak GiB so far |\n|{'---|' * 4}")
    for step in steps:
        peak = step.peak_bytes / 2**30
        print(f"| {step.name} | {step.seconds:.1f} | {step.cpu_seconds:.1f} | {peak:.2f} |")
    if not options.keep:
        shutil.rmtree(folder)
    if found != given:
        sys.exit("error: the dataset does not hold the rows of the input")
    if len(set(prints.values())) > 1:
        sys.exit("error: the engines give different datasets")
    if options.out:
        name = f"{rows}-{options.form}-{options.engine}"
        content = {"rows": rows, "memory": options.memory, "steps": [asdict(one) for one in steps]}
        add(options.out, name, content)


if __name__ == "__main__":
    main()
