"""Quality against CPU seconds: curves of models and points of our methods, on the same data.

    python -m benchmarks.time_to_quality configs/defaults/beauty.toml --title Beauty
    python -m benchmarks.time_to_quality configs/defaults/ml-1m.toml --title "MovieLens 1M" \
        --length 200 --cpu-seconds 1200 --seeds 0 1 2 --contenders prior auto-10 sasrec hstu ease
    python -m benchmarks.time_to_quality --docs          # what is recorded, into docs/accuracy.md

Data, split, candidates, metrics and machine are the same for all. Contenders take turns, each in a
process of its own with one thread. A CPU second is one of learning, of all the process' threads:
reading, splitting and ranking count for nobody; choosing the prior and the towers' weight on
validation counts for us, since it is part of the method. Settings are fixed here, or by
``--peer``: nothing is chosen by what comes out. A run goes on where its ``--out`` ends, a contender
and a seed at a time. One that passes a limit of memory or CPU time, or is not installed, has a row
that says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.recorded.files import FOLDER
from benchmarks.time_to_quality import record
from benchmarks.time_to_quality.contenders import CONTENDERS, Ours, contender
from benchmarks.time_to_quality.page import DOCS
from benchmarks.time_to_quality.record import Run
from benchmarks.time_to_quality.watched import Ended, Limits, run
from benchmarks.time_to_quality.worker import Job
from cadc_rec.config.file import load_experiment
from cadc_rec.errors import CadcError
from cadc_rec.log import log, set_up_logging
from cadc_rec.machine import processor_name
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.versions import code_commit

USUAL = ("prior", "auto-100", "auto-10", "recipe", "sasrec", "esasrec", "hstu")
_HALVINGS = 6
_ONE_THREAD = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA")
}


def checkpoints(most: float) -> list[float]:
    """CPU seconds at which a model that learns in steps is ranked: `most`, its half, and so on."""
    return [most / 2**halving for halving in range(_HALVINGS, -1, -1)]


def of_peers(settings: Sequence[str], names: Sequence[str]) -> dict[str, dict[str, str]]:
    """``NAME.KEY=VALUE`` by contender.

    Raises:
        CadcError: one is not of this form, or of a contender that has no settings here or no turn.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in names}
    for text in settings:
        left, equals, value = text.partition("=")
        name, dot, key = left.rpartition(".")
        if not (equals and dot and key):
            raise CadcError(f"--peer {text}: write NAME.KEY=VALUE, such as esasrec.blocks=1.")
        if name not in found or isinstance(contender(name), Ours):
            raise CadcError(f"--peer {text}: {name} is no model among --contenders.")
        found[name][key] = value
    return found


def measure(arguments: argparse.Namespace) -> None:
    """Write the runs to ``--out``, again after each, so that one that is ended leaves them."""
    wanted = of_peers(arguments.peer, arguments.contenders)
    who = {name: contender(name) for name in arguments.contenders}
    arguments.workdir.mkdir(parents=True, exist_ok=True)
    experiment = load_experiment(arguments.config, overrides=arguments.sets)
    dataset = Pipeline(experiment, arguments.workdir, arguments.data_dir).dataset
    title = arguments.title or arguments.config.stem
    about = {
        "title": title,
        "users": dataset.n_users,
        "items": dataset.n_items,
        "train": len(dataset.train_item),
        "data": experiment.data.model_dump(mode="json"),
        "settings": _settings_of_methods(arguments),
        "machine": {"processor": processor_name(), "torch": torch.__version__},
    }
    out = arguments.out or FOLDER / f"time-to-quality-{arguments.config.stem}.json"
    kept = record.go_on(out, about)
    limits = Limits(arguments.memory_gib, arguments.cpu_hours)
    commit = code_commit()
    for name, seed in record.in_turns(list(who), arguments.seeds):
        asked = Run(
            contender=name,
            title=who[name].title,
            seed=seed,
            settings={},
            checkpoints=[] if isinstance(who[name], Ours) else checkpoints(arguments.cpu_seconds),
            limits=asdict(limits),
            commit=commit,
        )
        try:
            asked.settings = _settings(name, wanted[name], arguments.length)
        except CadcError as error:
            asked.cannot = str(error)
        if kept.done(asked):
            continue
        if not asked.cannot:
            _take_turn(asked, arguments, wanted[name], limits)
        kept.put(asked)
        kept.write(out)
        _tell(asked)


def _settings_of_methods(arguments: argparse.Namespace) -> dict[str, Any]:
    """What our methods take from the config and ``--set``, of what is not the data, by method."""
    methods = {who.method for who in CONTENDERS.values() if isinstance(who, Ours)}
    left_out = {"data", "method", "seed", "compute", "tracking"}
    found = {
        method: load_experiment(
            arguments.config, method=method, overrides=arguments.sets
        ).model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        for method in sorted(methods)
    }
    return record.plain(found)


def _settings(name: str, wanted: Mapping[str, str], length: int) -> dict[str, Any]:
    """What is recorded of a contender's settings."""
    who = contender(name)
    if isinstance(who, Ours):
        return {"method": who.method, "own": list(who.own)}
    return record.plain(asdict(who.settings(wanted, length)))


def _take_turn(
    asked: Run, arguments: argparse.Namespace, wanted: Mapping[str, str], limits: Limits
) -> None:
    """Run one contender with one seed, and put what comes into `asked`."""
    with tempfile.TemporaryDirectory(prefix="time-to-quality-", dir=arguments.workdir) as folder:
        scratch = Path(folder)
        job = Job(
            contender=asked.contender,
            seed=asked.seed,
            config=str(arguments.config),
            sets=list(arguments.sets),
            workdir=str(arguments.workdir),
            data_dir=str(arguments.data_dir) if arguments.data_dir else None,
            scratch=str(scratch / "stages"),
            length=arguments.length,
            wanted=dict(wanted),
            checkpoints=asked.checkpoints,
        )
        files = [scratch / name for name in ("job.json", "lines.jsonl", "log")]
        files[0].write_text(json.dumps(asdict(job)), "utf-8")
        files[1].touch()
        module = f"{__package__}.worker"
        command = [sys.executable, "-m", module, str(files[0]), str(files[1])]
        ended = run(command, limits, files[2], _ONE_THREAD)
        lines = [json.loads(line) for line in files[1].read_text("utf-8").splitlines()]
        take(asked, lines, ended, files[2].read_text("utf-8", errors="replace"))


def take(asked: Run, lines: Sequence[Mapping[str, Any]], ended: Ended, printed: str) -> None:
    """Put a worker's lines and its end into `asked`."""
    asked.points = [line["point"] for line in lines if "point" in line]
    asked.cpu_seconds, asked.peak_bytes = ended.cpu_seconds, ended.peak_bytes
    cannot = [line["cannot"] for line in lines if "cannot" in line]
    end = [line["end"] for line in lines if "end" in line]
    if end:
        asked.cpu_seconds = end[0]["cpu_seconds"]
        asked.peak_bytes = max(ended.peak_bytes, end[0]["peak_bytes"])
    asked.cannot = ended.passed or (cannot[0] if cannot else None)
    asked.whole = bool(ended.passed or (end and not cannot))
    if not end and not ended.passed:
        said = printed.strip().splitlines()
        asked.cannot = f"failed with status {ended.code}: {said[-1] if said else 'it said nothing'}"
        log.warning("%s", printed)


def _tell(made: Run) -> None:
    last = made.points[-1]["cpu_seconds"] if made.points else 0.0
    log.info(
        "%s, seed %d: %d points, %.1f CPU s of learning, %.1f in all%s",
        made.title,
        made.seed,
        len(made.points),
        last,
        made.cpu_seconds,
        f"; cannot: {made.cannot}" if made.cannot else "",
    )


def main() -> None:
    """Parse, then measure or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("config", type=Path, nargs="?", help="[data] is read, and [evaluate]")
    parser.add_argument(
        "--contenders", nargs="+", default=list(USUAL), metavar="NAME", help=", ".join(CONTENDERS)
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--out", type=Path, help="default: benchmarks/recorded/, by the config")
    parser.add_argument("--title", help="the dataset's name")
    parser.add_argument("--length", type=int, default=50, help="of the models' histories")
    parser.add_argument("--cpu-seconds", type=float, default=600.0, help="of a model's learning")
    parser.add_argument("--memory-gib", type=float, default=12.0, help="a contender may hold")
    parser.add_argument("--cpu-hours", type=float, default=2.0, help="a contender may take in all")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME.KEY=VALUE")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    parser.add_argument("--data-dir", type=Path, help="folder with the raw data")
    parser.add_argument("--docs", action="store_true", help="run nothing; write the docs")
    arguments = parser.parse_args()
    if (arguments.config is None) is not arguments.docs:
        parser.error("name a config, or --docs")
    set_up_logging()
    try:
        if arguments.docs:
            print(*DOCS.write(), sep="\n")
        else:
            measure(arguments)
    except CadcError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)  # what was whole is kept


if __name__ == "__main__":
    main()
