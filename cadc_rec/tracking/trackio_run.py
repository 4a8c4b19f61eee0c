"""A run in trackio's database, a file on this machine; ``trackio show`` draws it."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from cadc_rec.tracking.tracker import flat_settings


class TrackioTracker:
    """Logs to a new run of trackio, whose folder is that of its own settings (``TRACKIO_DIR``).

    Args:
        project: lists the run.
        run_name: the run's name. A rerun gets a second run of this name.
        settings: the run's config; may be nested.

    Raises:
        Exception: trackio's own: its database cannot be written. So may every method.
    """

    def __init__(self, project: str, run_name: str, settings: Mapping[str, Any]) -> None:
        import trackio

        self._waiting: dict[int, dict[str, float]] = defaultdict(dict)
        self._finish = trackio.finish  # that of the run alone would leave it to be ended at exit
        with _quiet():
            self._run: Any = trackio.init(
                project=project,
                name=run_name,
                config=dict(flat_settings(settings)),
                embed=False,
                auto_log_gpu=False,  # in a thread of its own, of the whole machine
                auto_log_cpu=False,
            )

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one point, to be logged by the next flush."""
        self._waiting[step][name] = float(value)

    def flush(self) -> None:
        """Hand the added points to trackio, which writes them within a second."""
        for step, points in self._waiting.items():
            self._run.log(points, step=step)
        self._waiting.clear()

    def close(self, *, finished: bool = True) -> None:
        """Write the remaining points."""
        self.flush()
        with _quiet():
            self._finish()


def _quiet() -> contextlib.redirect_stdout[io.StringIO]:
    """Keeps what trackio prints out of standard output, which belongs to results."""
    return contextlib.redirect_stdout(io.StringIO())
