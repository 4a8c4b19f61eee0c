"""The sections of the cheap models that read everything, and of what is looked up in their tables.

``[pretrain]`` and ``[transitions]`` make tables of vectors; ``[history]`` and ``[prior]`` say what
the towers take from them beside the vectors of ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from cadc_rec.config.types import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PositiveInts,
    Section,
)


class MlpPretrainConfig(Section):
    """Pre-training with an MLP on two vectors as wide as MF's (method `cadc-mlp`)."""

    epochs: PositiveInt = 30
    """Passes over D_full."""
    batch_size: PositiveInt = 8192
    """Positives a step, over all processes together."""
    negatives: PositiveInt = 1
    """Uniform negatives for each positive, drawn afresh every time."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate, for vectors and MLP."""
    weight_decay: NonNegativeFloat = 1e-6
    """Adam's L2 penalty, on vectors and MLP."""
    hidden: PositiveInts = (64, 32)
    """Widths of the MLP's hidden layers."""


class AlsConfig(Section):
    """Implicit-feedback alternating least squares (`pretrain.model = "als"`)."""

    iterations: PositiveInt = 15
    """Sweeps; each solves every user, then every item."""
    l2: PositiveFloat = 5.0
    """Weight of the rows' squared lengths in the loss."""
    alpha: PositiveFloat = 1.0
    """Confidence of an interaction; every other pair has confidence 1."""
    half_life: NonNegativeFloat = 0.0
    """An interaction counts half as much after this many later ones of the same user; 0 counts all
    alike."""
    conjugate_gradient_steps: PositiveInt = 3
    """Steps for each row and sweep, where confidences differ; where they are equal, rows are solved
    exactly."""


class PretrainConfig(Section):
    """The cheap model over every training interaction, whose vectors the towers receive."""

    model: Literal["none", "mf", "als", "mlp", "popularity"] = "none"
    """Matrix factorization; implicit-feedback ALS, whose vectors have no bias; an MLP on the two
    vectors; every item's number of interactions; or nothing. The method decides it."""
    loss: Literal["binary", "softmax"] = "binary"
    """MF: binary cross-entropy of interactions and sampled negatives (the paper's); or the
    cross-entropy of a softmax over items."""
    epochs: PositiveInt = 100
    """Alternating epochs: a half-step of the users, then one of the items."""
    factors: PositiveInt = 95
    """Factors of a vector; its bias is one element more, so 95 gives the paper's 96."""
    learning_rate: PositiveFloat = 0.02
    """Adam's learning rate, for rows and global bias."""
    l2: NonNegativeFloat = 4.0
    """L2 penalty on a row, added to the gradient summed over the row's interactions."""
    negatives: PositiveInt = 1
    """MF, `binary`: fresh uniform negatives for each positive in every half-step."""
    shared_negatives: PositiveInt = 1024
    """MF, `softmax`: rows of the other side that stand for all of them in a half-step, drawn afresh
    each time; a side with no more rows than this is taken whole."""
    init_std: PositiveFloat = 0.1
    """Standard deviation of the initial factors; biases start at 0."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """MF: epochs between measurements of validation HR/NDCG; 0 measures the last epoch only."""
    scale: Literal["none", "unit", "whiten"] = "none"
    """Scale of the exported vectors: as they are; divided by the table's standard deviation; or
    rotated and scaled so that the table's elements are uncorrelated with deviation 1."""
    mlp: MlpPretrainConfig = MlpPretrainConfig()
    als: AlsConfig = AlsConfig()

    def decisive(self) -> dict[str, Any]:
        """See `Section`: the settings of `model`; measuring changes nothing."""
        if self.model == "popularity":  # counting has no settings
            return {"model": self.model}
        gradient = {"epochs", "learning_rate", "l2", "negatives", "loss", "shared_negatives"}
        of_other_loss = "negatives" if self.loss == "softmax" else "shared_negatives"
        unused = {
            "none": set(),
            "mf": {"mlp", "als", of_other_loss},
            "als": {"mlp", "init_std", *gradient},
            "mlp": {"als", *gradient},
        }[self.model]
        return self.model_dump(mode="json", exclude={"evaluate_every", *unused})


class TransitionsConfig(Section):
    """A second cheap factorization of every training interaction: which item followed which."""

    window: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many of the items that follow an interaction are counted; 0 makes no such tables."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """An item that follows at distance d counts decay ** (d - 1)."""
    damping: Literal["log", "none"] = "log"
    """`log` factorizes log(1 + count), so that frequent pairs do not dominate."""
    normalization: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Before damping, counts are divided by (row sum x column sum) to this power and brought to a
    mean of one, so that items that follow everything do not dominate; 0 leaves them."""
    dim: PositiveInt = 96
    """Width of the source and target vectors."""
    iterations: PositiveInt = 8
    """Sweeps of ALS; each solves every source vector, then every target vector."""
    l2: PositiveFloat = 1.0
    """Weight of the rows' squared lengths in the loss."""


class HistoryConfig(Section):
    """The user's last items, looked up in the frozen item tables, as an input of the user tower."""

    length: Annotated[int, Field(ge=0, le=1000)] = 0
    """Items kept with an interaction: the user's last this many before it; 0 keeps none."""
    windows: PositiveInts = (1, 3, 10, 50)
    """For each window, the vectors of the last this many items are averaged to one input;
    ascending."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        if list(self.windows) != sorted(set(self.windows)):
            yield f"history.windows = {list(self.windows)} must ascend, each once."

    def decisive(self) -> dict[str, Any]:
        """See `Section`; nothing where there are no histories."""
        return super().decisive() if self.length else {}


class PriorConfig(Section):
    """A score of the next item that the frozen tables alone give; added to the towers'."""

    use: bool = False
    """Add the scores of ALS and, where there are any, of transitions, each times a learned factor;
    without towers they are the whole score."""
    alpha: PositiveFloat = 8.0
    """Folding a history into ALS: confidence of its latest item, where unknown pairs have 1."""
    half_life: PositiveFloat = 3.0
    """Folding in: the confidence halves with every this many items further back."""
    l2: PositiveFloat = 0.2
    """Folding in: L2 penalty, as a multiple of the mean diagonal of the item vectors' Gram
    matrix."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Transitions: an item one place further back counts this many times as much."""

    def decisive(self) -> dict[str, Any]:
        """See `Section`; nothing where there is no prior."""
        return super().decisive() if self.use else {}
