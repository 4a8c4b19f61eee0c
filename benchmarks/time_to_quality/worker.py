"""One contender with one seed, in a process of its own: what it reaches, a line a point.

    python -m benchmarks.time_to_quality.worker JOB LINES

In: a `Job` as JSON. Out: JSON lines, in ``LINES`` as they come: ``{"point": ...}``; at the end
``{"end": ...}`` with the CPU seconds and memory of the whole process, or ``{"cannot": sentence}``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from unittest import mock

import torch

from benchmarks.time_to_quality.contenders import Ours, Peer, contender, curve_of
from cadc_rec.config.file import load_experiment
from cadc_rec.distributed.launch import end_with_parent
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.validation import validation_sample
from cadc_rec.log import set_up_logging
from cadc_rec.pipeline.pipeline import Pipeline

Point = dict[str, Any]
_NOT_LEARNING = ("prepare", "evaluate")


@dataclass(frozen=True)
class Job:
    """What to run. Paths are text; `wanted` are settings of a peer, as text by their names."""

    contender: str
    seed: int
    config: str
    sets: list[str]
    workdir: str
    data_dir: str | None
    scratch: str
    length: int | None
    wanted: dict[str, str]
    checkpoints: list[float]


def points(job: Job) -> Iterator[Point]:
    """What the contender reaches."""
    data_dir = Path(job.data_dir) if job.data_dir else None
    experiment = load_experiment(Path(job.config), overrides=job.sets)
    prepared = Pipeline(experiment, Path(job.workdir), data_dir)
    who = contender(job.contender)
    if isinstance(who, Ours):
        yield _ours(who, job, prepared, data_dir)
    else:
        yield from _peers(who, job, prepared)


def _peers(who: Peer, job: Job, prepared: Pipeline) -> Iterator[Point]:
    dataset, experiment = prepared.dataset, prepared.experiment
    users, split_seed = experiment.evaluate.users, experiment.data.split_seed
    sample = validation_sample(dataset.val_item, users, split_seed)
    settings = who.settings(job.wanted, job.length)
    for reached in curve_of(who, settings, dataset, job.seed, job.checkpoints, sample):
        yield asdict(reached)


def _ours(who: Ours, job: Job, prepared: Pipeline, data_dir: Path | None) -> Point:
    """Our method, with its stages made in the scratch folder."""
    sets = [*job.sets, *who.own, "compute.threads=1", f"seed={job.seed}"]
    experiment = load_experiment(Path(job.config), method=who.method, overrides=sets)
    given = {"prepare": prepared.artifact("prepare")}
    pipeline = Pipeline(experiment, Path(job.scratch), data_dir, given=given)
    # The stages record their seconds by this clock.
    with mock.patch.object(time, "perf_counter", time.process_time):
        artifacts = pipeline.run()
    result = artifacts["evaluate"].info
    stages = {
        stage: made.seconds - float(made.info.get("validation_seconds", 0.0))
        for stage, made in artifacts.items()
        if stage not in _NOT_LEARNING
    }
    return {
        "cpu_seconds": sum(stages.values()),
        "stages": stages,
        "kept": result.get("kept"),
        "validation": result["validation"],
        "test": result["test"],
    }


def _tell(lines: IO[str], kind: str, what: object) -> None:
    lines.write(json.dumps({kind: what}) + "\n")
    lines.flush()


def main(job_file: Path, lines_file: Path) -> None:
    """Run the job."""
    end_with_parent()
    set_up_logging()
    torch.set_num_threads(1)
    job = Job(**json.loads(job_file.read_text("utf-8")))
    with lines_file.open("a", encoding="utf-8") as lines:
        try:
            for point in points(job):
                _tell(lines, "point", point)
        except CadcError as error:
            _tell(lines, "cannot", str(error))
        except ImportError as error:
            _tell(lines, "cannot", f"not installed: {error}")
        own = resource.getrusage(resource.RUSAGE_SELF)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        end = {
            "cpu_seconds": own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime,
            "peak_bytes": 1024 * max(own.ru_maxrss, children.ru_maxrss),
        }
        _tell(lines, "end", end)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
