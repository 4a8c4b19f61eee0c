"""Time and peak memory of every stage as the work grows, and the exponents that fit them.

    python -m benchmarks.scaling --workdir work                     # 1M, 3M and 10M rows
    python -m benchmarks.scaling --workdir work --sizes 30M 100M    # adds two sizes
    python -m benchmarks.scaling --workdir work --axis entities     # users and items grow
    python -m benchmarks.scaling --workdir work --docs              # docs/performance.md anew

The world is generated. Each stage runs in a process of its own, so that its peak memory is its own;
both figures are those of the stage's manifest. Results are kept in ``WORKDIR/bench/scaling.json``;
a size that is there is not run again.

This process imports nothing large: Linux counts a parent's memory at the moment of starting a
process into that process's peak.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.session import now, this_machine
from cadc_rec.config.types import parse_number
from cadc_rec.errors import CadcError
from cadc_rec.log import log, set_up_logging
from cadc_rec.store.artifact import read_manifest

STAGES = ("prepare", "pretrain", "select", "train", "evaluate")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
_MILLION = 1_000_000
_ROWS = 3 * _MILLION  # where something else grows


@dataclass(frozen=True)
class Axis:
    """What grows: a title, the usual sizes, and the settings of a size."""

    title: str
    sizes: tuple[float, ...]

    def settings(self, name: str, size: float) -> dict[str, int | float]:
        """Settings that differ between sizes; the rest is the same for all."""
        rows = int(size) if name == "interactions" else _ROWS
        scale = size if name == "entities" else 1.0
        return {
            # A hundred interactions a user, as many items as a shop has: one user more is more
            # work everywhere, one interaction more not for the evaluation.
            "data.generated.users": int(scale * rows / 100),
            "data.generated.items": int(scale * 10_000),
            "data.generated.interactions": rows,
            "select.ratio": float(size) if name == "ratio" else 10.0,
            "compute.processes": int(size) if name == "processes" else 1,
        }


AXES = {
    "interactions": Axis("interactions grow, and users with them", (1e6, 3e6, 1e7)),
    "entities": Axis("users and items grow, as a multiple", (1, 2, 4)),
    "ratio": Axis("the filtering ratio grows", (2, 5, 10, 20, 50)),
    "processes": Axis("processes are added", (1, 2)),
}
# One pass of everything: an epoch costs what it costs, and a hundred of them a hundred times that.
_FIXED = {
    "data.source": "generated",
    "pretrain.epochs": 1,
    "train.epochs": 1,
    "train.batch_size": 8192,
    "tracking.tensorboard": "false",
}


@dataclass(frozen=True)
class Point:
    """One stage at one size."""

    stage: str
    size: float
    seconds: float
    peak_bytes: int
    rows: int | None


def measure(axis: str, size: float, workdir: Path) -> list[Point]:
    """Run all stages of one size, each in a process of its own.

    Raises:
        CadcError: a stage failed; what it said is quoted.
    """
    config = workdir / "bench" / "scaling.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("", "utf-8")
    sets = []
    for key, value in {**_FIXED, **AXES[axis].settings(axis, size)}.items():
        sets += ["--set", f"{key}={value}"]
    points = []
    for stage in STAGES:
        command = [sys.executable, "-m", "cadc_rec", stage, str(config), "--workdir", str(workdir)]
        done = subprocess.run(
            [*command, *sets, "--json"],
            capture_output=True,
            text=True,
            check=False,
            env={k: v for k, v in os.environ.items() if k != "CADC_REC_DATA"},
        )
        if done.returncode:
            raise CadcError(f"{stage} of {axis} {size:g} failed: {done.stderr.strip()[-2000:]}")
        manifest = read_manifest(Path(json.loads(done.stdout)["artifact"]))
        points.append(
            Point(stage, size, manifest["seconds"], manifest["peak_memory_bytes"], manifest["rows"])
        )
        log.info("%s %g, %s: %.1f s, %.0f MiB", axis, size, stage, *_told(points[-1]))
    return points


def _told(point: Point) -> tuple[float, float]:
    return point.seconds, point.peak_bytes / 2**20


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float | None:
    """The b of ``value = a * size ** b`` by least squares over logarithms; None of one size.

    Raises:
        ValueError: a size or value is not positive.
    """
    if min(*sizes, *values) <= 0:
        raise ValueError("only positive sizes and values have logarithms")
    if len(set(sizes)) < 2:
        return None
    slope, _ = np.polyfit(np.log(sizes), np.log(values), 1)
    return float(slope)


def table(axis: str, points: Sequence[Point]) -> str:
    """A row a stage: seconds and MiB at each size, and both exponents."""
    sizes = sorted({point.size for point in points})
    head = ["stage", *(f"{_size(size)}: s, MiB" for size in sizes), "time grows", "memory grows"]
    lines = [f"### As {AXES[axis].title}", ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for stage in STAGES:
        mine = sorted((p for p in points if p.stage == stage), key=lambda p: p.size)
        by_size = {p.size: p for p in mine}
        row = [stage]
        row += [
            f"{by_size[s].seconds:,.1f}, {by_size[s].peak_bytes / 2**20:,.0f}"
            if s in by_size
            else ""
            for s in sizes
        ]
        for values in ([p.seconds for p in mine], [p.peak_bytes for p in mine]):
            fitted = exponent([p.size for p in mine], values) if mine else None
            row.append("" if fitted is None else f"size^{fitted:.2f}")
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def _size(size: float) -> str:
    return f"{size / _MILLION:g}M" if size >= _MILLION else f"{size:g}"


def tables(kept: Mapping[str, Any]) -> str:
    """All axes that were measured, the machine first."""
    machine = kept["machine"]
    head = (
        f"{machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB; {kept['measured']}. One epoch of "
        "pre-training and one of training; a stage's memory includes its libraries."
    )
    parts = [table(axis, [Point(**p) for p in points]) for axis, points in kept["axes"].items()]
    return "\n\n".join([head, *parts])


def _kept(path: Path) -> dict[str, Any]:
    fresh = {"machine": this_machine().model_dump(), "axes": {}}
    if path.exists():
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if kept["machine"] == fresh["machine"]:
            return kept
    return fresh


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--axis", choices=AXES, default="interactions")
    parser.add_argument(
        "--sizes", type=parse_number, nargs="+", metavar="N", help="sizes, such as 1M 3M"
    )
    parser.add_argument("--docs", action="store_true", help="run nothing; write the docs page")
    arguments = parser.parse_args()
    set_up_logging()
    path = arguments.workdir / "bench" / "scaling.json"
    try:
        kept = _kept(path)
        points = kept["axes"].setdefault(arguments.axis, [])
        have = {point["size"] for point in points}
        for size in [] if arguments.docs else arguments.sizes or AXES[arguments.axis].sizes:
            if size in have:
                continue
            found = measure(arguments.axis, size, arguments.workdir)
            points += [vars(point) for point in found]
            kept["measured"] = now()
            path.write_text(json.dumps(kept, indent=2) + "\n", "utf-8")
        if not points:
            raise CadcError(f"{path}: nothing is measured yet; run without --docs.")
        if arguments.docs:
            from benchmarks.paper import between

            text = between(PAGE.read_text("utf-8"), "scaling", tables(kept), PAGE)
            PAGE.write_text(text, "utf-8")
    except CadcError as error:
        sys.exit(f"error: {error}")
    print(tables(kept))


if __name__ == "__main__":
    main()
