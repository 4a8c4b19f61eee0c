"""The sections of the cheap models that read everything, and of how their tables are used.

``[pretrain]`` and ``[transitions]`` make tables of vectors; ``[history]`` and ``[prior]`` say what
the towers read from them in addition to the vectors of ids.
"""

from __future__ import annotations

import math
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

_LONG_HISTORY = 40  # interactions a user on average, from which a confidence of 1 is best
_MOST_ALPHA = 16.0
_LEAST_L2, _MOST_L2 = 1.0, 4.0
LEAST_USERS = 200
"""Of validation: with fewer, chance would choose what `prior.fit` chooses."""


class MlpPretrainConfig(Section):
    """Pre-training with an MLP on two vectors as wide as MF's (method `cadc-mlp`)."""

    epochs: PositiveInt = 30
    """Passes over D_full."""
    batch_size: PositiveInt = 8192
    """Positives in a step, over all processes together."""
    negatives: PositiveInt = 1
    """Uniform negatives for each positive, drawn anew every time."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate, for vectors and MLP."""
    weight_decay: NonNegativeFloat = 1e-6
    """Adam's L2 penalty, on vectors and MLP."""
    hidden: PositiveInts = (64, 32)
    """Widths of the MLP's hidden layers."""


class AlsConfig(Section):
    """Implicit-feedback alternating least squares (`pretrain.model = "als"`)."""

    iterations: PositiveInt = 15
    """Number of sweeps; each solves every user, then every item."""
    l2: PositiveFloat = 5.0
    """Weight of the rows' squared lengths in the loss."""
    alpha: NonNegativeFloat = 1.0
    """Confidence of an interaction; every other pair has confidence 1. 0 chooses it by the mean
    number m of interactions of a user: (40 / m) ** 2, at least 1 and at most 16."""
    half_life: NonNegativeFloat = 0.0
    """An interaction counts half as much for every this many later ones of the same user; 0 counts
    all of them alike."""
    conjugate_gradient_steps: PositiveInt = 3
    """Conjugate-gradient steps for each row and sweep, if confidences differ; if they are all
    equal, rows are solved exactly."""

    def sized(self, interactions: int, users: int) -> AlsConfig:
        """The same with a confidence, where it is left to the length of the histories."""
        if self.alpha:
            return self
        long = _LONG_HISTORY * max(users, 1) / max(interactions, 1)
        alpha = min(max(long**2, 1.0), _MOST_ALPHA)
        return self.model_copy(update={"alpha": alpha})


class PretrainConfig(Section):
    """The cheap model that reads every training interaction; the towers receive its vectors."""

    model: Literal["none", "mf", "als", "mlp", "popularity"] = "none"
    """`mf`: matrix factorization. `als`: implicit-feedback ALS, whose vectors have no bias. `mlp`:
    an MLP on the two vectors. `popularity`: every item's number of interactions. `none`: no
    pre-training. The method sets it."""
    loss: Literal["binary", "softmax"] = "binary"
    """MF: `binary` is the cross-entropy of interactions and sampled negatives (the paper's);
    `softmax` is the cross-entropy of a softmax over items."""
    epochs: PositiveInt = 100
    """MF: alternating epochs; each is a half-step of the users, then one of the items."""
    factors: PositiveInt = 95
    """Number of factors in a vector. The bias is one more element, so 95 gives the paper's 96."""
    learning_rate: PositiveFloat = 0.02
    """MF: Adam's learning rate, for rows and the global bias."""
    l2: NonNegativeFloat = 0.0
    """MF: L2 penalty on a row, added to the gradient summed over the row's interactions. 0 chooses
    it by the mean number m of interactions of a user: sqrt(m) / 3, at least 1 and at most 4."""
    negatives: PositiveInt = 1
    """MF, `binary`: uniform negatives for each positive, drawn anew in every half-step."""
    shared_negatives: PositiveInt = 1024
    """MF, `softmax`: number of rows of the other side that stand for that whole side in a
    half-step, drawn anew each time. A side with no more rows than this is used whole."""
    init_std: PositiveFloat = 0.1
    """Standard deviation of the initial factors; biases start at 0."""
    evaluate_every: Annotated[int, Field(ge=0)] = 0
    """MF: epochs between measurements of validation HR and NDCG; 0 measures only the last epoch."""
    scale: Literal["none", "unit", "whiten"] = "none"
    """Scale of the exported vectors. `none`: as they are. `unit`: divided by the table's standard
    deviation. `whiten`: rotated and scaled so that the table's columns are uncorrelated with
    standard deviation 1."""
    mlp: MlpPretrainConfig = MlpPretrainConfig()
    als: AlsConfig = AlsConfig()

    def sized(self, interactions: int, users: int) -> PretrainConfig:
        """The same with what is left to the length of the histories."""
        l2 = self.l2
        if not l2:
            mean = interactions / max(users, 1)
            l2 = min(max(math.sqrt(mean) / 3, _LEAST_L2), _MOST_L2)
        als = self.als.sized(interactions, users)
        return self.model_copy(update={"l2": l2, "als": als})

    def decisive(self) -> dict[str, Any]:
        """See `Section`: the settings that `model` uses, except how often it is measured."""
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
    """A second cheap model that reads every training interaction: which item follows which."""

    window: Annotated[int, Field(ge=0, le=1000)] = 0
    """How many of the items that follow an interaction are counted; 0 makes no tables of
    transitions."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.8
    """An item that follows at distance d counts decay ** (d - 1)."""
    damping: Literal["log", "none"] = "log"
    """`log` factorizes log(1 + count), so that frequent pairs do not dominate."""
    normalization: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Before damping, each count is divided by (row sum x column sum) to this power, and all counts
    are scaled to a mean of one. So items that follow everything do not dominate. 0 leaves the
    counts."""
    form: Literal["factors", "lists"] = "factors"
    """What is kept of the matrix. `factors`: a source and a target vector of every item, from ALS.
    `lists`: every item's best targets as they were counted; more accurate, and only read by the
    prior (`prior.use`)."""
    targets: PositiveInt = 500
    """`lists`: number of targets kept for each item, those with the largest weights."""
    dim: PositiveInt = 96
    """`factors`: width of the source and target vectors."""
    iterations: PositiveInt = 8
    """`factors`: sweeps of ALS; each solves every source vector, then every target vector."""
    l2: PositiveFloat = 1.0
    """`factors`: weight of the rows' squared lengths in the loss."""

    def decisive(self) -> dict[str, Any]:
        """See `Section`: the settings that `form` uses."""
        unused = {"factors": {"form", "targets"}, "lists": {"dim", "iterations", "l2"}}[self.form]
        return self.model_dump(mode="json", exclude=unused)


class HistoryConfig(Section):
    """The user's last items as an input of the user tower: their vectors in frozen tables."""

    length: Annotated[int, Field(ge=0, le=1000)] = 0
    """Items kept with an interaction: this many of the user's last items before it; 0 keeps
    none."""
    windows: PositiveInts = (1, 3, 10, 50)
    """For each window, the mean of the vectors of this many last items is one input. Windows must
    ascend."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        if list(self.windows) != sorted(set(self.windows)):
            yield f"history.windows = {list(self.windows)} must ascend and repeat no value."

    def decisive(self) -> dict[str, Any]:
        """See `Section`; without histories no setting counts."""
        return super().decisive() if self.length else {}


class PriorConfig(Section):
    """A score of the next item, from the frozen tables alone; it is added to the towers' score."""

    use: bool = False
    """Add the scores of ALS and of transitions (if there are any), each multiplied by a learned
    factor. Without towers they are the whole score."""
    fit: Literal["none", "validation"] = "none"
    """`validation` chooses the factors, `alpha`, `half_life`, `l2` and `decay` on a sample of
    validation users, starting from these; with fewer than 200 of them these stand. `none` gives
    ALS and transitions the same spread. Towers go on learning the factors."""
    recent: bool = False
    """With `fit = "validation"`: also score an item by how often it was taken in the hours or days
    before the request, log(1 + count). It needs the times of a clock."""
    content: bool = True
    """With `fit = "validation"`: also score an item by how alike its attributes are to those of the
    history's items, where items have attributes."""
    alpha: PositiveFloat = 8.0
    """Folding a history into ALS: confidence of its latest item; unknown pairs have confidence
    1."""
    half_life: PositiveFloat = 3.0
    """Folding in: the confidence halves for every this many items further back."""
    l2: PositiveFloat = 0.2
    """Folding in: L2 penalty, as a multiple of the mean diagonal of the item vectors' Gram
    matrix."""
    decay: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Transitions: each place further back multiplies the weight of an item by this."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        if self.use and self.recent and self.fit == "none":
            yield (
                "prior.recent = true needs prior.fit = 'validation', which chooses its window and "
                "factor; set both, or neither."
            )

    def decisive(self) -> dict[str, Any]:
        """See `Section`; without a prior no setting counts."""
        if not self.use:
            return {}
        unused = set() if self.recent else {"recent"}
        if self.fit == "none":
            unused |= {"fit", "content"}
        return self.model_dump(mode="json", exclude=unused)
