"""What ``cadc-rec study`` does: run a grid, say how it ended."""

from __future__ import annotations

from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.log import log
from cadc_rec.study.run.grid import read_study
from cadc_rec.study.run.runner import StudyRunner


def run_study(path: Path, workdir: Path, data_dir: Path | None, jobs: int) -> Path:
    """Run the study of `path`; returns its folder.

    Raises:
        CadcError: the grid cannot be run, or a cell failed; the others have run all the same.
    """
    if data_dir is not None and not data_dir.is_dir():
        raise CadcError(f"{data_dir}: no such folder; correct --data-dir.")
    study = read_study(path)
    runner = StudyRunner(study, workdir, data_dir, jobs)
    outcome = runner.run()
    log.info(
        "%s: %d cells done, %d of them before, %d failed, %d not available",
        study.name,
        len(outcome.done) + len(outcome.kept),
        len(outcome.kept),
        len(outcome.failed),
        len(outcome.unavailable),
    )
    if outcome.failed:
        raise CadcError(
            f"{len(outcome.failed)} of {len(study.cells)} cells failed, the first of them "
            f"{outcome.failed[0]}; {runner.folder / 'logs'} says why, and the same command tries "
            "them again."
        )
    return runner.folder
