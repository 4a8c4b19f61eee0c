"""A training that was evaluated, to be repeated on other rows, of which nothing is held out.

In: what the manifest of a train artifact says. Out: for how many steps to train, and what was
chosen on validation: that stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from cadc_rec.training.choice import CHOICE


@dataclass(frozen=True)
class Repeat:
    """How to repeat a training.

    Attributes:
        epoch: the one whose weights were kept.
        steps: that were taken until its end.
        per_epoch: steps of an epoch. Learning rate and moving average go by these: an epoch of the
            other rows may have more.
        choice: what was chosen between towers and tables; empty where nothing was.
    """

    epoch: int
    steps: int
    per_epoch: int
    choice: Mapping[str, Any]

    @classmethod
    def of(cls, trained: Mapping[str, Any]) -> Self:
        """The training of which a manifest says this."""
        epoch, per_epoch = int(trained["best_epoch"]), int(trained["steps_per_epoch"])
        choice = {name: trained[name] for name in CHOICE if name in trained}
        return cls(epoch, epoch * per_epoch, per_epoch, choice)

    @property
    def weight(self) -> float:
        """Of the towers' own score."""
        return float(self.choice.get("weight", 1.0))

    def as_json(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return asdict(self)
