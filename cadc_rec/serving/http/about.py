"""What the protocol tells of the model: metadata, configuration, statistics, the index.

In: the model, and the version that a request names. Out: documents, the same over HTTP and gRPC.
A model's version is the first digits of its bundle's fingerprint. A request may leave it out, and
then gets the bundle that answers now.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kserve.errors import ModelNotFound

from cadc_rec import __version__
from cadc_rec.serving.http.queries import described
from cadc_rec.serving.http.recommender import Recommender

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
_TYPES = {"BYTES": "TYPE_STRING"}  # of a configuration; others are TYPE_ and the datatype


class OtherVersion(ModelNotFound):
    """A version that is not the one that answers."""

    def __init__(self, version: str, current: str) -> None:
        super().__init__(None)
        self.reason = f"there is no version {version:.80}; the model has version {current}."

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class About:
    """See the module.

    Args:
        model: that answers.
    """

    model: Recommender
    _began: float = field(default_factory=time.time)

    @property
    def version(self) -> str:
        """Of the bundle that answers now."""
        return self.model.loaded.predictor.fingerprint[:12]

    def require(self, name: str, version: str | None = None) -> None:
        """Raise unless this is the model's name, and its version or none.

        Raises:
            ModelNotFound: it is not.
        """
        if name != self.model.name:
            raise ModelNotFound(f"{name:.80}")
        if version and version != self.version:
            raise OtherVersion(version, self.version)

    @staticmethod
    def server() -> dict[str, Any]:
        """The server's metadata."""
        return {"name": "cadc-rec", "version": __version__, "extensions": list(EXTENSIONS)}

    def metadata(self, name: str, version: str | None = None) -> dict[str, Any]:
        """The model's metadata; see `require`."""
        self.require(name, version)
        inputs, outputs = described(self.model.loaded.predictor)
        return {
            "name": name,
            "versions": [self.version],
            "platform": "cadc-rec",
            "inputs": inputs,
            "outputs": outputs,
        }

    def config(self, name: str, version: str | None = None) -> dict[str, Any]:
        """The model's configuration as Triton has it; see `require`."""
        self.require(name, version)
        inputs, outputs = described(self.model.loaded.predictor)
        optional = {"user_id": False}
        return {
            "name": name,
            "platform": "cadc-rec",
            "backend": "cadc-rec",
            "max_batch_size": 0,  # shapes are whole, and batches are the service's own affair
            "input": [
                {**_tensor(one), "optional": optional.get(str(one["name"]), True)} for one in inputs
            ],
            "output": [_tensor(one) for one in outputs],
        }

    def statistics(self, name: str, version: str | None = None) -> dict[str, Any]:
        """What this process has answered since it began; see `require`."""
        self.require(name, version)
        told = self.model.statistics
        none = {"count": 0, "ns": 0}
        return {
            "model_stats": [
                {
                    "name": name,
                    "version": self.version,
                    "last_inference": int(told.last * 1000),
                    "inference_count": told.users,
                    "execution_count": self.model.batcher.calls,
                    "inference_stats": {
                        "success": told.answered.document(),
                        "fail": told.refused.document(),
                        "queue": none,
                        "compute_input": none,
                        "compute_infer": {
                            "count": self.model.batcher.calls,
                            "ns": int(self.model.batcher.seconds * 1e9),
                        },
                        "compute_output": none,
                    },
                    "batch_stats": [],
                }
            ]
        }

    def index(self, ready_only: bool = False) -> list[dict[str, str]]:
        """The models; there is one."""
        ready = bool(self.model.ready)
        if ready_only and not ready:
            return []
        state = "READY" if ready else "UNAVAILABLE"
        return [{"name": self.model.name, "version": self.version, "state": state, "reason": ""}]


def _tensor(one: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(one["datatype"])
    return {
        "name": one["name"],
        "data_type": _TYPES.get(kind, f"TYPE_{kind}"),
        "dims": list[int](_dims(one["shape"])),
    }


def _dims(shape: Iterable[int]) -> list[int]:
    return [int(length) for length in shape]
