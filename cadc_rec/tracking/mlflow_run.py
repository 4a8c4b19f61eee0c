"""A run on an MLflow server, or in an MLflow database."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cadc_rec.tracking.tracker import flat_settings

if TYPE_CHECKING:
    from mlflow.entities import Metric

# Used unless the user's environment sets them. With MLflow's own values, a server that is away
# would delay training for minutes, and MLflow would send usage statistics to its makers, log the
# creation of a database, and print to standard output, which belongs to results.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_PARAMS_A_REQUEST = 100  # MLflow accepts no more


class MLflowTracker:
    """Logs to a new MLflow run through a client, so MLflow's active run is not touched.

    Args:
        uri: the tracking server or database, such as ``http://host:5000`` or
            ``sqlite:///mlflow.db``.
        experiment: the MLflow experiment's name; it is created if need be.
        run_name: the run's name. A rerun gets a second run of this name.
        settings: logged as parameters; may be nested.

    Raises:
        Exception: MLflow's own: the server cannot be reached, or refuses. So may every method.
    """

    def __init__(
        self, uri: str, experiment: str, run_name: str, settings: Mapping[str, Any]
    ) -> None:
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._waiting: list[Metric] = []
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._run: str = self._client.create_run(number, run_name=run_name).info.run_id
        params = [Param(name, str(value)) for name, value in flat_settings(settings).items()]
        for first in range(0, len(params), _PARAMS_A_REQUEST):
            self._client.log_batch(self._run, params=params[first : first + _PARAMS_A_REQUEST])

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add one point, to be sent by the next flush; MLflow allows no ``@`` in a name."""
        from mlflow.entities import Metric

        milliseconds = int(time.time() * 1000)
        self._waiting.append(Metric(name.replace("@", "_at_"), float(value), milliseconds, step))

    def flush(self) -> None:
        """Send the added points in one request."""
        if self._waiting:
            self._client.log_batch(self._run, metrics=self._waiting)
            self._waiting = []

    def close(self, *, finished: bool = True) -> None:
        """Send the remaining points and how the run ended."""
        self.flush()
        self._client.set_terminated(self._run, "FINISHED" if finished else "FAILED")
