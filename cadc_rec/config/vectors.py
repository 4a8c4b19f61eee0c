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
    """Pre-training with an MLP on the two vectors (method `cadc-mlp`), as wide as MF's."""

    epochs: PositiveInt = 30
    """Passes over D_full."""
    batch_size: PositiveInt = 8192
    """Positives a step, over all processes together."""
    negatives: PositiveInt = 1
    """Uniform negatives for each positive, drawn afresh every time."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's, for vectors and MLP."""
    weight_decay: NonNegativeFloat = 1e-6
    """Adam's L2, on vectors and MLP."""
    hidden: PositiveInts = (64, 32)
    """Widths of the MLP's hidden layers."""


class AlsConfig(Section):
    """Implicit-feedback alternating least squares (`pretrain.model = "als"`)."""

    iterations: PositiveInt = 15
    """Sweeps: every user solved, then every item."""
    l2: PositiveFloat = 5.0
    """Weight of the rows' squared lengths in the loss."""
    alpha: PositiveFloat = 1.0
    """Confidence of an interaction; that of every other pair is 1."""
    half_life: NonNegativeFloat = 0.0
    """Interactions of a user after which one counts half as much; 0 counts all alike."""
    conjugate_gradient_steps: PositiveInt = 3
    """For each row and sweep, where rows differ in their confidences; otherwise it is exact."""


class PretrainConfig(Section):
    """The cheap model over every training interaction, whose vectors the towers receive."""

    model: Literal["none", "mf", "als", "mlp", "popularity"] = "none"
    """Matrix factorization; implicit-feedback ALS, all of whose elements are factors; an MLP on the
    two vectors; every item's number of interactions; or nothing. The method decides it."""
    loss: Literal["binary", "softmax"] = "binary"
    """MF: binary cross-entropy of interactions and sampled negatives (the paper's); or the
    cross-entropy of a softmax over items."""
    epochs: PositiveInt = 100
    """Alternating epochs: a half-step of the users, then one of the items."""
    factors: PositiveInt = 95
    """Factors of a vector; its bias is one element more, so 95 gives the paper's 96."""
    learning_rate: PositiveFloat = 0.02
    """Adam's, for rows and global bias."""
    l2: NonNegativeFloat = 4.0
    """L2 on a row, added to the gradient summed over the row's interactions."""
    negatives: PositiveInt = 1
    """MF, `binary`: fresh uniform negatives for each positive in every half-step."""
    shared_negatives: PositiveInt = 1024
    """MF, `softmax`: rows of the other side, drawn afresh, that stand for all of them in a
    half-step; where there are no more, all are taken."""
    init_std: PositiveFloat = 0.1
    """Standard deviation of the initial factors; biases start at 0."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """MF: epochs between measurements of validation HR/NDCG; 0 measures the last epoch only."""
    scale: Literal["none", "unit", "whiten"] = "none"
    """Of the exported vectors: as they are; divided by a table's standard deviation; or rotated
    and scaled so that a table's elements are uncorrelated with deviation 1."""
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
    """A second cheap factorization over every training interaction: which item followed which."""

    window: Annotated[int, Field(ge=0, le=1000)] = 0
    """Following items counted for each interaction; 0 makes no such tables."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """An item at distance d counts decay ** (d - 1)."""
    damping: Literal["log", "none"] = "log"
    """`log` factorizes log(1 + count), so that frequent pairs do not decide all."""
    normalization: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Before damping, counts are divided by (row sum x column sum) to this power and brought to a
    mean of one, so that what follows everything does not decide all; 0 leaves them."""
    dim: PositiveInt = 96
    """Width of the source and target vectors."""
    iterations: PositiveInt = 8
    """Sweeps of ALS: every source solved, then every target."""
    l2: PositiveFloat = 1.0
    """Weight of the rows' squared lengths in the loss."""


class HistoryConfig(Section):
    """The user's last items, looked up in the frozen item tables, as an input of the user tower."""

    length: Annotated[int, Field(ge=0, le=1000)] = 0
    """Items before an interaction that go with it; 0 is none."""
    windows: PositiveInts = (1, 3, 10, 50)
    """The last this many items are averaged, one vector for each window; ascending."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        if list(self.windows) != sorted(set(self.windows)):
            yield f"history.windows = {list(self.windows)} must ascend, each once."

    def decisive(self) -> dict[str, Any]:
        """See `Section`; nothing where there are no histories."""
        return super().decisive() if self.length else {}


class PriorConfig(Section):
    """What the frozen tables alone say of the next item after a history, added to the score."""

    use: bool = False
    """Add the two scores, each times a learned factor; without towers they are the whole score."""
    alpha: PositiveFloat = 8.0
    """Folding a history into ALS: confidence of its latest item; that of unknown pairs is 1."""
    half_life: PositiveFloat = 3.0
    """Folding in: items of the history after which the confidence is half as much."""
    l2: PositiveFloat = 0.2
    """Folding in: L2, over the mean of the diagonal of the item vectors' Gram matrix."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Transitions: an item one place further back counts this much of the one before it."""

    def decisive(self) -> dict[str, Any]:
        """See `Section`; nothing where there is no prior."""
        return super().decisive() if self.use else {}
