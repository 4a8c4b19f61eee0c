"""Peak memory of every selection over a D_full of any size, and of several ratios in one pass.

In: a number of rows. Out: a table on standard output. D_full is written once, as prepared Parquet
parts; each selection runs in a process of its own, whose peak is its own.

    python -m benchmarks.selection --rows 100000000 --workdir work
    python -m benchmarks.selection --out benchmarks/recorded/selection.json    # and records it
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.recorded.files import add
from cadc_rec.config.experiment import SelectConfig
from cadc_rec.data.prepare.chosen import INTERACTIONS
from cadc_rec.data.select.build_selection import build_selections
from cadc_rec.data.streams import ROW_GROUP_ROWS, write_parts
from cadc_rec.store.artifact import Artifact, Draft

KINDS = (
    "uniform",
    "user-stratified",
    "item-stratified",
    "time-stratified",
    "recent",
    "recency-weighted",
    "over-sampling",
    "under-sampling",
)
RATIOS = (10.0, 20.0, 50.0, 100.0)
_ITEMS, _USER_ROWS = 200_000, 100


def d_full(folder: Path, rows: int) -> None:
    """Write `rows` prepared interactions: a hundred a user, items by a skewed popularity."""

    def tables() -> Iterator[pa.Table]:
        for start in range(0, rows, ROW_GROUP_ROWS):
            draw = np.random.default_rng(start)
            row = np.arange(start, min(start + ROW_GROUP_ROWS, rows))
            item = (_ITEMS * draw.random(len(row)) ** 3).astype(np.int32)
            timestamp = row % _USER_ROWS * 86_400 + draw.integers(0, 86_400, len(row))
            columns = [(row // _USER_ROWS).astype(np.int32), item, timestamp]
            yield pa.table(columns, schema=INTERACTIONS)

    folder.mkdir(parents=True)
    write_parts(folder / "train", INTERACTIONS, tables(), groups_per_part=8)


def measure(folder: Path, rows: int, kind: str, ratios: list[float]) -> None:
    """Select in this process; print seconds and the peak of its memory in GiB."""
    info = {"train": rows, "users": -(-rows // _USER_ROWS), "items": _ITEMS, "has_time": True}
    dataset = Artifact(folder, {"stage": "prepare", "info": info})
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        asked = []
        for ratio in ratios:
            (Path(scratch) / str(ratio)).mkdir()
            select = SelectConfig.model_validate({"kind": kind, "ratio": ratio})
            asked.append((select, Draft(Path(scratch) / str(ratio))))
        build_selections(asked, 0, dataset)
    seconds = time.perf_counter() - started
    peak = Path("/proc/self/status").read_text("utf-8").split("VmHWM:")[1].split()[0]
    print(json.dumps({"seconds": seconds, "gib": int(peak) / 2**20}))


def main() -> None:
    """Measure all, or what ``--kind`` names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--ratios", type=float, nargs="+", default=[RATIOS[0]])
    parser.add_argument("--out", type=Path, help="JSON file to add the results to")
    options = parser.parse_args()
    folder = options.workdir / "bench" / f"d-full-{options.rows}"
    if options.kind:
        measure(folder, options.rows, options.kind, options.ratios)
        return
    if not folder.is_dir():
        d_full(folder, options.rows)
    print("| selection | ratios | s | peak GiB |\n|---|---|---|---|")
    wanted = [(kind, list(RATIOS[:1])) for kind in KINDS] + [("uniform", list(RATIOS))]
    for kind, ratios in wanted:
        command = [
            *(sys.executable, "-m", "benchmarks.selection", "--rows", str(options.rows)),
            *("--workdir", str(options.workdir), "--kind", kind, "--ratios", *map(str, ratios)),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        shown = ", ".join(f"{ratio:g}" for ratio in ratios)
        print(f"| {kind} | {shown} | {found['seconds']:.1f} | {found['gib']:.2f} |", flush=True)
        if options.out:
            name = kind if len(ratios) == 1 else f"{kind}-{len(ratios)}-ratios"
            add(options.out, name, {"rows": options.rows, **found})


if __name__ == "__main__":
    main()
