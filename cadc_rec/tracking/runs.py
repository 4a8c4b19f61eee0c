"""Starts the trackers that the settings ask for, and names the run.

In: the trainer's numbers after each epoch. Out: curves in TensorBoard, MLflow and trackio. They are
not part of an artifact: event files hold times of day, so no two runs write the same bytes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cadc_rec.config.experiment import TrackingConfig
from cadc_rec.errors import CadcError
from cadc_rec.tracking.event_file import TensorBoardTracker
from cadc_rec.tracking.mlflow_run import MLflowTracker
from cadc_rec.tracking.tracker import CarefulTracker, NullTracker, Tracker, Trackers
from cadc_rec.tracking.trackio_run import TrackioTracker

OnEpoch = Callable[[Mapping[str, float]], None]
"""Called after each epoch with ``epoch``, ``loss`` and the other numbers of that epoch."""

TENSORBOARD = "tensorboard"  # the folder in the work folder
_TRAINING = ("loss", "positives_per_second")  # all others are measured on validation items


def require_tracking(config: TrackingConfig) -> None:
    """Check, before hours of work, that the trackers' libraries are installed.

    Raises:
        CadcError: the settings ask for MLflow or trackio, and it is not installed.
    """
    if config.mlflow_uri and find_spec("mlflow") is None:
        raise CadcError(
            "tracking.mlflow_uri is set, but MLflow is not installed; install it with "
            'pip install -e ".[tracking]", or leave the setting out.'
        )
    if config.trackio_project and find_spec("trackio") is None:
        raise CadcError(
            "tracking.trackio_project is set, but trackio is not installed; install it with "
            'pip install -e ".[trackio]", or leave the setting out.'
        )


def run_folder(workdir: Path, method: str, seed: int, key: str) -> Path:
    """Folder of a run's event file; `key` is its train artifact's, so a rerun replaces it."""
    return workdir / TENSORBOARD / f"{method}-seed{seed}-{key}"


def tracker_for(
    config: TrackingConfig, folder: Path, settings: Mapping[str, Any], rank: int = 0
) -> Tracker:
    """The trackers that `config` asks for, as one; their failures only cause a warning.

    Args:
        config: which trackers.
        folder: folder of the event file, see `run_folder`; its name is the run's name everywhere.
        settings: settings of the run to show, nested JSON values. Leave out addresses with
            passwords (``tracking.mlflow_uri``).
        rank: rank of this process; only rank 0 tracks.
    """
    trackers: list[Tracker] = []
    if rank == 0 and config.tensorboard:
        trackers.append(CarefulTracker("TensorBoard", lambda: TensorBoardTracker(folder, settings)))
    if rank == 0 and config.mlflow_uri:
        uri, experiment = config.mlflow_uri, config.mlflow_experiment
        trackers.append(
            CarefulTracker("MLflow", lambda: MLflowTracker(uri, experiment, folder.name, settings))
        )
    if rank == 0 and config.trackio_project:
        project = config.trackio_project
        trackers.append(
            CarefulTracker("trackio", lambda: TrackioTracker(project, folder.name, settings))
        )
    return Trackers(trackers) if trackers else NullTracker()


@contextlib.contextmanager
def tracked(tracker: Tracker) -> Iterator[OnEpoch]:
    """Yields a function for the trainer to call after each epoch; closes the tracker at the end."""

    def on_epoch(entry: Mapping[str, float]) -> None:
        for name, value in entry.items():
            if name != "epoch":
                group = "train" if name in _TRAINING else "validation"
                tracker.scalar(f"{group}/{name}", float(value), int(entry["epoch"]))
        tracker.flush()

    try:
        yield on_epoch
    except BaseException:  # including a Ctrl-C
        tracker.close(finished=False)
        raise
    tracker.close()
