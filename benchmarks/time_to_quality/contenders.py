"""Who is compared: our methods and other models, by name, and how a model's curve is asked for.

A model is a module with two names. ``Settings`` is a frozen dataclass whose defaults are what is
measured; ``curve(dataset, settings, seed, checkpoints, sample)`` yields `Reached`. What it cannot
do with a dataset or on a machine it says by a `CadcError`, a sentence with the numbers that show
it. A module is imported when its model is run: a library that is not installed stops nobody else.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from cadc_rec.errors import CadcError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cadc_rec.data.dataset import Dataset

KS = (10,)
"""Where the metrics of all contenders are cut off."""


@dataclass(frozen=True)
class Reached:
    """A point of a curve: metrics are fractions, such as ``hr@10``.

    `cpu_seconds` are those of learning, with all threads and processes; `epochs` how often each
    interaction was learned from by then. A model that is fitted once has one point.
    """

    cpu_seconds: float
    epochs: float
    validation: dict[str, float]
    test: dict[str, float]


@dataclass(frozen=True)
class Ours:
    """A method of this project, run by the pipeline with the settings of a config and `own`."""

    title: str
    method: str
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class Peer:
    """A model of a module of this package, with settings that are not its ``Settings``' own."""

    title: str
    module: str
    given: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> ModuleType:
        """The module.

        Raises:
            CadcError: it, or what it imports, is not installed.
        """
        try:
            return importlib.import_module(f"{__package__}.{self.module}")
        except ImportError as error:
            raise CadcError(f"not installed: {error}") from error

    def settings(self, wanted: Mapping[str, str], length: int | None = None) -> Any:
        """What is measured: the defaults, but for what is given here.

        Args:
            wanted: by a setting's name, its value as text.
            length: of histories, for a model that has such a setting.

        Raises:
            CadcError: a setting is unknown, or its value is of another kind; or see `load`.
        """
        own = self.load().Settings(**self.given)
        names = {setting.name for setting in fields(own)}
        if length is not None and "length" in names:
            own = replace(own, length=length)
        for name, text in wanted.items():
            if name not in names:
                raise CadcError(
                    f"{self.title} has no setting {name!r}; it has {', '.join(sorted(names))}."
                )
            own = replace(own, **{name: _like(getattr(own, name), name, text)})
        return own


def _like(default: Any, name: str, text: str) -> Any:
    """`text` as a value of the default's type; of a tuple, its values with commas between."""
    try:
        if isinstance(default, tuple):
            return tuple(_like(default[0], name, part) for part in text.split(","))
        if isinstance(default, bool):
            return {"true": True, "false": False}[text]
        return type(default)(text)
    except (KeyError, ValueError):
        raise CadcError(f"{name} = {text!r}: give a {type(default).__name__}.") from None


CONTENDERS: dict[str, Ours | Peer] = {
    "prior": Ours("prior, tables alone", "prior"),
    "auto-100": Ours("auto, 1/100", "auto", ("select.ratio=100",)),
    "auto-10": Ours("auto, 1/10", "auto", ("select.ratio=10",)),
    "recipe": Ours("recipe, 1/10", "recipe", ("select.ratio=10",)),
    "sasrec": Peer("SASRec", "sasrec"),
    "esasrec": Peer("eSASRec-like", "esasrec"),
    "esasrec-mixed": Peer("eSASRec-like, mixed negatives", "esasrec", {"in_batch": 0.6}),
    "hstu": Peer("HSTU-like", "hstu"),
    "ease": Peer("EASE", "ease"),
    "als": Peer("ALS (implicit)", "implicit_models", {"model": "als"}),
    "bpr": Peer("BPR (implicit)", "implicit_models", {"model": "bpr"}),
    "item-item": Peer("item-item (implicit)", "implicit_models", {"model": "item-item"}),
    "dssm": Peer("DSSM (torch-rechub)", "rechub"),
    "recbole": Peer("SASRec (RecBole)", "recbole"),
    "lightgcn": Peer("LightGCN (RecBole)", "recbole", {"model": "LightGCN"}),
}
"""By the name on the command line, in the order of turns and of the page."""


def contender(name: str) -> Ours | Peer:
    """The contender of that name.

    Raises:
        CadcError: there is none.
    """
    if name not in CONTENDERS:
        raise CadcError(f"no contender {name!r}; there are {', '.join(CONTENDERS)}.")
    return CONTENDERS[name]


def curve_of(
    peer: Peer,
    settings: Any,
    dataset: Dataset,
    seed: int,
    checkpoints: Sequence[float],
    sample: NDArray[np.int64] | None,
) -> Iterator[Reached]:
    """A model's points.

    Args:
        peer: the model.
        settings: of `Peer.settings`.
        dataset: it learns from all of D_full.
        seed: of whatever it draws.
        checkpoints: CPU seconds of learning at which a model that learns in steps is ranked.
        sample: rows of the users whose validation items are ranked; None for all.

    Raises:
        CadcError: it is not installed, or says that it cannot.
    """
    yield from peer.load().curve(dataset, settings, seed, checkpoints, sample)
