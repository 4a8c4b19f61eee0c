"""What the protocol tells of the model: metadata, configuration, statistics, the index.

In: the model, and the version that a request names. Out: documents, the same over HTTP and gRPC.
A model's version is the first digits of its bundle's fingerprint. A request may leave it out, and
then gets the bundle that answers now.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kserve.errors import ModelNotFound

from cadc_rec import __version__
from cadc_rec.serving.http.queries import described
from cadc_rec.serving.http.recommender import Recommender
from cadc_rec.serving.http.side_models import SideModel

EXTENSIONS = (
    "binary_tensor_data",
    "model_configuration",
    "model_repository",
    "parameters",
    "statistics",
)
_REQUIRED: dict[str, tuple[str, ...]] = {  # inputs, by what follows the recommender's name
    "": (),  # a history or an attribute stands for a user who is not known
    "-similar": ("item_id",),
    "-score": ("user_id", "item_id"),
    "-embed": (),
}
_TYPES = {"BYTES": "TYPE_STRING"}  # of a configuration; others are TYPE_ and the datatype


_Tensors = Sequence[Mapping[str, Any]]


class NotKept(ModelNotFound):
    """What is asked of a model is not there; its text is `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(None)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class OtherVersion(NotKept):
    """A version that is not the one that answers."""

    def __init__(self, version: str, current: str) -> None:
        super().__init__(f"there is no version {version:.80}; the model has version {current}.")


@dataclass(frozen=True)
class About:
    """See the module.

    Args:
        model: that recommends.
        beside: that answer other questions.
    """

    model: Recommender
    beside: Sequence[SideModel] = ()
    _began: float = field(default_factory=time.time)

    @property
    def version(self) -> str:
        """Of the bundle that answers now."""
        return self.model.loaded.predictor.fingerprint[:12]

    def require(self, name: str, version: str | None = None) -> None:
        """Raise unless this is a model's name, and its version or none.

        Raises:
            ModelNotFound: it is not.
        """
        if name not in self._names:
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
        inputs, outputs = self._tensors(name)
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
        inputs, outputs = self._tensors(name)
        required = _REQUIRED[name.removeprefix(self.model.name)]
        return {
            "name": name,
            "platform": "cadc-rec",
            "backend": "cadc-rec",
            "max_batch_size": 0,  # shapes are whole, and batches are the service's own affair
            "input": [{**_tensor(one), "optional": one["name"] not in required} for one in inputs],
            "output": [_tensor(one) for one in outputs],
        }

    def statistics(self, name: str, version: str | None = None) -> dict[str, Any]:
        """What this process has recommended since it began; see `require`.

        Raises:
            ModelNotFound: of another model than the one that recommends.
        """
        self.require(name, version)
        if name != self.model.name:
            raise NotKept(f"statistics are those of {self.model.name}; /metrics has others.")
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
        """The models."""
        ready = bool(self.model.ready)
        if ready_only and not ready:
            return []
        state = "READY" if ready else "UNAVAILABLE"
        told = {"version": self.version, "state": state, "reason": ""}
        return [{"name": name, **told} for name in self._names]

    @property
    def _names(self) -> list[str]:
        return [self.model.name, *(each.name for each in self.beside)]

    def _tensors(
        self, name: str
    ) -> tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]:
        """Inputs and outputs of a model."""
        if name == self.model.name:
            return described(self.model.loaded.predictor)
        (model,) = (each for each in self.beside if each.name == name)
        return model.get_input_types(), model.get_output_types()


def _tensor(one: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(one["datatype"])
    return {
        "name": one["name"],
        "data_type": _TYPES.get(kind, f"TYPE_{kind}"),
        "dims": list[int](_dims(one["shape"])),
    }


def _dims(shape: Iterable[int]) -> list[int]:
    return [int(length) for length in shape]
