"""What checkpoints cost a training: seconds with them over seconds without.

    python -m benchmarks.checkpoints configs/ml-1m.toml --workdir work/checkpoints

Trains each method over and over, in turns with checkpoints and without, so that a machine that
slows down slows both; the first turn warms up. A training here is shorter than a minute, which is
the default interval, so checkpoints are made more often (`--every`), and the share at the default
interval is what one checkpoint took, over that interval. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cadc_rec.config.experiment import CheckpointConfig
from cadc_rec.config.file import load_experiment
from cadc_rec.log import set_up_logging
from cadc_rec.pipeline.pipeline import Pipeline

INTERVAL = CheckpointConfig().every_seconds


@dataclass(frozen=True)
class Cost:
    """Of one method: medians over the turns.

    Attributes:
        method: which.
        without: seconds of a training without checkpoints.
        ratio: seconds with over seconds without, of the same turn.
        checkpoints: made in a training.
        mib: size of one.
    """

    method: str
    without: float
    ratio: float
    checkpoints: float
    mib: float

    @property
    def at_default(self) -> float:
        """Share of the time at the default interval."""
        return self.without * (self.ratio - 1) / max(self.checkpoints, 1) / INTERVAL

    def row(self) -> str:
        """Of the table."""
        return (
            f"| {self.method} | {self.without:.1f} | {self.checkpoints:g} | {self.mib:.1f} | "
            f"{self.ratio - 1:+.1%} | {self.at_default:+.2%} |"
        )


HEAD = (
    "| method | s without | checkpoints | MiB each | overhead | at the default interval |\n"
    "|---|---|---|---|---|---|"
)


def measure(
    config: Path, method: str, workdir: Path, turns: int, sets: Sequence[str], every: float
) -> Cost:
    """Train in turns; what the medians say."""
    seconds: dict[float, list[float]] = {0.0: [], every: []}
    counts, sizes = [], []
    for turn in range(turns + 1):
        for interval in (0.0, every) if turn % 2 else (every, 0.0):
            overrides = [*sets, f"method={method}", f"checkpoint.every_seconds={interval}"]
            overrides += ["checkpoint.max_share=1", "checkpoint.keep_finished=true"]
            experiment = load_experiment(config, overrides=overrides)
            made = Pipeline(experiment, workdir, force=("train",)).run("train")["train"]
            if turn:
                seconds[interval].append(made.seconds)
            saved = sorted(workdir.glob("checkpoints/[!p]*/[0-9]*"))
            if interval and turn:
                counts.append(max(int(folder.name.split("-")[0]) for folder in saved))
                sizes += [sum(file.stat().st_size for file in saved[-1].iterdir()) / 2**20]
    ratios = [a / b for a, b in zip(seconds[every], seconds[0.0], strict=True)]
    return Cost(
        method,
        statistics.median(seconds[0.0]),
        statistics.median(ratios),
        statistics.median(counts),
        statistics.median(sizes),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--workdir", type=Path, default=Path("work/checkpoints"))
    parser.add_argument("--methods", nargs="+", default=["gold", "cadc"])
    parser.add_argument(
        "--epochs", nargs="+", type=int, default=[2, 20], help="epochs of each method"
    )
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between checkpoints")
    parser.add_argument("--set", dest="sets", action="append", default=[])
    arguments = parser.parse_args()
    set_up_logging()
    print(HEAD)
    for method, epochs in zip(arguments.methods, arguments.epochs, strict=True):
        sets = [*arguments.sets, f"train.epochs={epochs}"]
        workdir = arguments.workdir / method
        cost = measure(arguments.config, method, workdir, arguments.turns, sets, arguments.every)
        print(cost.row(), flush=True)


if __name__ == "__main__":
    main()
