"""From the settings to a training run that is tracked: which trackers, under which names.

In: what the trainer says after each epoch. Out: curves in TensorBoard and MLflow. Nothing of it
is part of an artifact: event files hold times of day, so no two runs write the same bytes.
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

OnEpoch = Callable[[Mapping[str, float]], None]
"""Called after each epoch with ``epoch``, ``loss`` and what else was measured in it."""

TENSORBOARD = "tensorboard"  # the folder in the work folder
_TRAINING = ("loss", "positives_per_second")  # all others are measured on validation items


def require_tracking(config: TrackingConfig) -> None:
    """Check, before hours of work, that what is asked for is installed.

    Raises:
        CadcError: MLflow is asked for and not installed.
    """
    if config.mlflow_uri and find_spec("mlflow") is None:
        raise CadcError(
            "tracking.mlflow_uri is set and MLflow is not installed; install it with "
            'pip install -e ".[tracking]", or leave the setting out.'
        )


def run_folder(workdir: Path, method: str, seed: int, key: str) -> Path:
    """Where a run's event file goes; `key` is its train artifact's, so a rerun replaces it."""
    return workdir / TENSORBOARD / f"{method}-seed{seed}-{key}"


def tracker_for(
    config: TrackingConfig, folder: Path, settings: Mapping[str, Any], rank: int = 0
) -> Tracker:
    """The trackers that `config` asks for, as one; none of their failures gets out.

    Args:
        config: which trackers.
        folder: of the event file, see `run_folder`; its name is the run's name everywhere.
        settings: of the run, for its reader; nested, JSON values. Leave addresses with passwords
            (``tracking.mlflow_uri``) out.
        rank: this process's; all but 0 track nothing.
    """
    trackers: list[Tracker] = []
    if rank == 0 and config.tensorboard:
        trackers.append(CarefulTracker("TensorBoard", lambda: TensorBoardTracker(folder, settings)))
    if rank == 0 and config.mlflow_uri:
        uri, experiment = config.mlflow_uri, config.mlflow_experiment
        trackers.append(
            CarefulTracker("MLflow", lambda: MLflowTracker(uri, experiment, folder.name, settings))
        )
    return Trackers(trackers) if trackers else NullTracker()


@contextlib.contextmanager
def tracked(tracker: Tracker) -> Iterator[OnEpoch]:
    """A function for the trainer to call after each epoch; the tracker is closed on the way out."""

    def on_epoch(entry: Mapping[str, float]) -> None:
        for name, value in entry.items():
            if name != "epoch":
                group = "train" if name in _TRAINING else "validation"
                tracker.scalar(f"{group}/{name}", float(value), int(entry["epoch"]))
        tracker.flush()

    try:
        yield on_epoch
    except BaseException:  # a Ctrl-C too
        tracker.close(finished=False)
        raise
    tracker.close()
