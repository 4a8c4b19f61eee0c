"""Quality against CPU seconds: SASRec's curve, and our methods as points, in one run.

    python -m benchmarks.time_to_quality beauty.toml --title Beauty --out beauty.json
    python -m benchmarks.time_to_quality configs/ml-1m.toml --length 200 --out ml-1m.json
    python -m benchmarks.time_to_quality --docs beauty.json ml-1m.json   # into docs/accuracy.md

Data, split, candidates and metrics are the same for all. A CPU second is one of this process, all
its threads together (SASRec and the stages use one). Reading, splitting and ranking count for
nobody; choosing the prior and the towers' weight on validation counts for us, since it is part of
the method. Settings are fixed here: nothing is chosen by what comes out. A run goes on where its
``--out`` ends, but SASRec's curve begins anew unless it is whole.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.time_to_quality.page import SASREC, into_docs
from benchmarks.time_to_quality.sasrec import Settings, curve
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.validation import validation_sample
from cadc_rec.log import log, set_up_logging
from cadc_rec.machine import processor_name
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.store.artifact import Artifact

Point = dict[str, Any]
OURS = (
    ("prior, tables alone", "prior", ()),
    ("auto, 1/100", "auto", ("select.ratio=100",)),
    ("auto, 1/10", "auto", ("select.ratio=10",)),
)
"""A point's name, its method and its settings."""
_HALVINGS = 6
_NOT_LEARNING = ("prepare", "evaluate")


def checkpoints(most: float) -> list[float]:
    """CPU seconds at which SASRec is ranked: `most`, half of it, and so on."""
    return [most / 2**halving for halving in range(_HALVINGS, -1, -1)]


def ours(
    arguments: argparse.Namespace, prepared: Artifact, have: Collection[str]
) -> Iterator[Point]:
    """Our methods but those we have, with their stages made in a folder that is removed again."""
    with tempfile.TemporaryDirectory(prefix="time-to-quality-", dir=arguments.workdir) as scratch:
        for name, method, own in OURS:
            if name in have:
                continue
            experiment = load_experiment(
                arguments.config,
                method=method,
                overrides=[*arguments.sets, *own, "compute.threads=1"],
            )
            given = {"prepare": prepared}
            pipeline = Pipeline(experiment, Path(scratch), arguments.data_dir, given=given)
            # The stages record their seconds by this clock.
            with mock.patch.object(time, "perf_counter", time.process_time):
                artifacts = pipeline.run()
            result = artifacts["evaluate"].info
            stages = {
                stage: made.seconds - float(made.info.get("validation_seconds", 0.0))
                for stage, made in artifacts.items()
                if stage not in _NOT_LEARNING
            }
            yield {
                "name": name,
                "cpu_seconds": sum(stages.values()),
                "stages": stages,
                "kept": result.get("kept"),
                "validation": result["validation"],
                "test": result["test"],
            }


def sasrec(settings: Settings, most: float, prepared: Pipeline, seed: int) -> Iterator[Point]:
    """Points of SASRec's curve."""
    dataset, experiment = prepared.dataset, prepared.experiment
    users, split_seed = experiment.evaluate.users, experiment.data.split_seed
    sample = validation_sample(dataset.val_item, users, split_seed)
    for reached in curve(dataset, settings, seed, checkpoints(most), sample):
        yield {"name": SASREC, **asdict(reached)}


def measure(arguments: argparse.Namespace) -> None:
    """Write the points to ``--out``, again after each, so that a run that is ended leaves them."""
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    experiment = load_experiment(arguments.config, overrides=arguments.sets)
    prepared = Pipeline(experiment, arguments.workdir, arguments.data_dir)
    settings = Settings(length=arguments.length)
    dataset = prepared.dataset
    found: dict[str, Any] = {
        "title": arguments.title or arguments.config.stem,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "train": len(dataset.train_item),
        "seed": experiment.seed,
        "sasrec": asdict(settings),
        "machine": {"processor": processor_name(), "torch": torch.__version__},
    }
    points = measured_before(arguments.out, found, arguments.cpu_seconds)
    have = {point["name"] for point in points}
    parts = [ours(arguments, prepared.artifact("prepare"), have)]
    if SASREC not in have:
        parts.append(sasrec(settings, arguments.cpu_seconds, prepared, experiment.seed))
    for point in chain.from_iterable(parts):
        points.append(point)
        document = json.dumps({**found, "points": points}, indent=2)
        arguments.out.write_text(document + "\n", "utf-8")
        log.info("%s: %.1f CPU s", point["name"], point["cpu_seconds"])


def measured_before(out: Path, run: dict[str, Any], most: float) -> list[Point]:
    """Points that `out` has of this very run; SASRec's only if its curve is whole.

    Raises:
        CadcError: the file is of another run.
    """
    if not out.exists():
        return []
    before = json.loads(out.read_text("utf-8"))
    points: list[Point] = before.pop("points")
    if before != run:
        raise CadcError(f"{out}: is of another dataset, machine or setting; name another --out.")
    reached = [point["cpu_seconds"] for point in points if point["name"] == SASREC]
    whole = max(reached, default=0.0) >= most
    return [point for point in points if whole or point["name"] != SASREC]


def main() -> None:
    """Parse, then measure or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=Path, nargs="?", help="[data] is read, and [evaluate]")
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--out", type=Path, default=Path("time-to-quality.json"))
    parser.add_argument("--title", help="the dataset's name")
    parser.add_argument("--length", type=int, default=50, help="of SASRec's histories")
    parser.add_argument("--cpu-seconds", type=float, default=600.0, help="of SASRec's training")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--data-dir", type=Path, help="folder with the raw data")
    parser.add_argument("--docs", type=Path, nargs="+", metavar="JSON", help="run nothing")
    arguments = parser.parse_args()
    if (arguments.config is None) is (arguments.docs is None):
        parser.error("name a config, or --docs and the files of earlier runs")
    set_up_logging()
    try:
        if arguments.docs:
            into_docs(arguments.docs)
        else:
            measure(arguments)
    except CadcError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
