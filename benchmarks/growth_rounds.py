"""Stages of a study of growth, made again: sizes in turns, so that a slow minute meets all of them.

In: a study's finished cells on generated logs. Out: CPU seconds of each stage in each round, in the
study's ``rounds.json``, of which `benchmarks.growth` takes medians. Each stage is made in a process
of its own, in place of what the study made, which is the same to the byte.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.store.atomic import write_atomically

STAGES = ("pretrain", "transitions", "select", "train")
"""Those whose time is their work's: preparing is mostly making the log, ranking has its users."""
_FILE = "rounds.json"
_SIZES = 3  # the largest, which growth is computed of
_MAKE = """
import sys
from pathlib import Path

from cadc_rec.config.experiment import Experiment
from cadc_rec.pipeline.pipeline import Pipeline

workdir, stage = Path(sys.argv[1]), sys.argv[2]
experiment = Experiment.model_validate_json(sys.stdin.read())
made = Pipeline(experiment, workdir, None, force=(stage,)).run(stage)[stage]
print(made.manifest["costs"]["cpu_seconds"])
"""


def read_rounds(study: Path) -> dict[str, list[float]]:
    """Seconds in each round, by the artifact's folder; empty where none was made.

    Raises:
        CadcError: the file cannot be used.
    """
    file = study / _FILE
    try:
        rows = json.loads(file.read_text("utf-8"))
        return {str(row["artifact"]): list(row["seconds"]) for row in rows}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CadcError(
            f"{file}: cannot be used ({error}); remove it, and measure again."
        ) from None


def make_rounds(study: Path, rounds: int, methods: Sequence[str], stages: Sequence[str]) -> None:
    """Make stages of the largest sizes again, each size once a round; each is kept as it is made.

    Args:
        study: its folder, in the work folder that its artifacts are in.
        rounds: how often.
        methods: whose stages; empty for all.
        stages: of `STAGES`.

    Raises:
        CadcError: a stage could not be made.
    """
    cells = sorted(_cells(study, methods), key=_rows)
    sizes = sorted({_rows(cell) for cell in cells})[-_SIZES:]
    for number in range(rounds):
        for stage in stages:
            made = set[str]()
            for cell in cells:
                folder = cell["artifacts"].get(stage)
                # Of methods that share a result, the first makes it.
                if folder is None or folder in made or _rows(cell) not in sizes:
                    continue
                made.add(folder)
                seconds = _made_again(cell, study.parent.parent, stage)
                what = (stage, cell["method"], _rows(cell))
                log.info("round %d: %s of %s, %d rows: %.1f s", number + 1, *what, seconds)
                _keep(study, folder, seconds)


def _cells(study: Path, methods: Sequence[str]) -> Iterator[dict[str, Any]]:
    for file in sorted(study.glob("cells/*.json")):
        record = json.loads(file.read_text("utf-8"))
        generated = record.get("config", {}).get("data", {}).get("source") == "generated"
        wanted = not methods or record.get("method") in methods
        if record.get("status") == "done" and generated and wanted:
            yield record


def _rows(record: Mapping[str, Any]) -> int:
    return int(record["config"]["data"]["generated"]["interactions"])


def _made_again(record: Mapping[str, Any], workdir: Path, stage: str) -> float:
    command = [sys.executable, "-c", _MAKE, str(workdir), stage]
    asked = json.dumps(record["config"])
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no word of it"]
        raise CadcError(f"{record['id']}: {stage} was not made again: {said[-1]}")
    return float(done.stdout.split()[-1])


def _keep(study: Path, folder: str, seconds: float) -> None:
    found = read_rounds(study)
    found.setdefault(folder, []).append(seconds)
    rows = [{"artifact": folder, "seconds": taken} for folder, taken in found.items()]
    write_atomically(study / _FILE, json.dumps(rows, indent=1) + "\n")
