"""The sections of the two towers: their training rows, their layers and their training."""

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

_STEPS = 200  # of an epoch, where the batch size follows from the rows
_LEAST_BATCH, _LARGEST_BATCH = 7, 10  # powers of two


class SelectConfig(Section):
    """Which training interactions the two towers are trained on (D_sel)."""

    kind: Literal[
        "uniform",
        "over-sampling",
        "under-sampling",
        "recent",
        "recency-weighted",
        "user-stratified",
        "item-stratified",
        "time-stratified",
        "hard",
        "gradient-norm",
        "k-centres",
        "everything",
    ] = "uniform"
    """Which rows are chosen. `uniform`: a uniform sample. `over-sampling`, `under-sampling`: a
    sample balanced over items, by repeating rows of rare items or by dropping rows of frequent
    ones. `recent`: each user's most recent share. `recency-weighted`: a sample that prefers recent
    rows. `user-stratified`, `item-stratified`, `time-stratified`: a uniform share of each user,
    item or period. `hard`: the rows that the pre-trained vectors score lowest. `gradient-norm`: the
    rows whose loss has the longest gradient in the pre-trained model. `k-centres`: rows whose
    vectors lie far from each other and close to all. `everything`: every row. Most methods set
    it."""
    ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    """Filtering ratio: one interaction in this many is kept (10 keeps a tenth)."""
    half_life: PositiveFloat = 20.0
    """`recency-weighted`: a row is half as likely to be chosen for every this many later
    interactions of its user."""
    periods: PositiveInt = 20
    """`time-stratified`: number of equally long periods between the first and the last
    interaction."""
    centres: PositiveInt = 256
    """`k-centres`: about how many rows are chosen at once, each the farthest from those before it,
    among `ratio` times as many random rows. Time grows with it, and how evenly the rows lie."""
    shards: Annotated[int, Field(ge=0)] = 8
    """Number of Parquet shards. A training process reads whole shards, so give each process
    several. 0 takes eight, or more if there are more processes or `rows_per_shard` requires it."""
    rows_per_shard: PositiveInt = 4_194_304
    """`shards = 0`: largest number of rows in a shard."""

    @property
    def reads_tables(self) -> bool:
        """Whether the pre-trained vectors decide which rows are chosen."""
        return self.kind in ("hard", "gradient-norm", "k-centres")

    def decisive(self) -> dict[str, Any]:
        """See `Section`; `shards` = 0 must have been replaced by the resulting number."""
        if self.kind == "everything":
            return {"kind": self.kind, "shards": self.shards}
        unused = {"rows_per_shard"}
        if self.kind != "recency-weighted":
            unused.add("half_life")
        if self.kind != "time-stratified":
            unused.add("periods")
        if self.kind != "k-centres":
            unused.add("centres")
        return self.model_dump(mode="json", exclude=unused)


class ModelConfig(Section):
    """The two towers."""

    kind: Literal["two_tower", "tables"] = "two_tower"
    """Two towers; or no towers, and the pre-trained vectors are scored directly (`tables`). The
    method sets it."""
    id_embedding: Literal[
        "trainable", "init_frozen", "init", "hybrid", "linear", "mlp", "residual"
    ] = "trainable"
    """How an id becomes a vector. `trainable` learns it with the towers; each of the other six uses
    the pre-trained vector in its own way; see [protocol.md](protocol.md#integration-techniques)."""
    id_dim: PositiveInt = 96
    """Width of the id embedding; with pre-trained vectors it must be `pretrain.factors` + 1."""
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout, in training, on what a tower reads from tables of ids: id vector, history,
    transitions. It is drawn separately for each row."""
    cold_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the users and items of a training step that stand without their id part, so that the
    towers learn to tell new ones by their attributes and history; see
    [protocol.md](protocol.md#cold-items)."""
    feature_dim: PositiveInt = 16
    """Width of each attribute's embedding."""
    vector_dim: PositiveInt = 32
    """Width of what a tower makes of each `vector` column, by a learned layer."""
    tower: PositiveInts = (128, 64)
    """Widths of the layers of each tower's MLP. The last layer gives the vector; the dot product of
    two vectors is the score."""
    keep: Literal["towers", "better"] = "towers"
    """`better`: towers that add to a score of the tables (`prior.use`, or `id_embedding =
    "residual"`) begin silent, their own score gets the weight that is best on validation, and the
    tables alone are evaluated and exported where no weight beats them. `towers` keeps the towers
    as they were trained."""
    item_tower: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    """Widths of the item tower's layers, if they differ from `tower`; a single width is one linear
    layer. The last width must equal that of `tower`."""

    def widths(self, side: str) -> tuple[int, ...]:
        """Widths of the layers of the side named ``user`` or ``item``."""
        return self.item_tower if side == "item" and self.item_tower else self.tower

    def id_tables(self) -> dict[str, str]:
        """Groups of id tables in `[sharding]` that the model has, and the first table of each."""
        if self.kind == "tables":
            return {}
        if self.id_embedding in ("trainable", "init"):
            return {"trainable": "user"}
        hybrid = self.id_embedding == "hybrid"
        return {"frozen": "user", **({"trainable": "user_free"} if hybrid else {})}

    def broken_rules(self) -> Iterator[str]:
        """See `Section`."""
        if self.item_tower and self.item_tower[-1] != self.tower[-1]:
            yield (
                f"model.item_tower ends with {self.item_tower[-1]} and model.tower with "
                f"{self.tower[-1]}; a score is the dot product of the two, so they must be equal."
            )
        parted = self.kind == "two_tower" and self.id_embedding == "hybrid"
        if parted and (self.id_dim % 4 or self.id_dim < 8):
            yield (
                f"model.id_embedding = 'hybrid' divides model.id_dim = {self.id_dim} into "
                "groups of four; set it (and pretrain.factors + 1) to a multiple of 4 from 8 on."
            )

    def decisive(self) -> dict[str, Any]:
        """See `Section`; without towers only `kind` counts."""
        if self.kind == "tables":
            return {"kind": self.kind}
        fields = type(self).model_fields
        unset = {
            k
            for k in ("keep", "vector_dim", "cold_dropout")
            if getattr(self, k) == fields[k].default
        }
        return self.model_dump(mode="json", exclude=unset)


class TrainConfig(Section):
    """Training of the two towers on D_sel."""

    loss: Literal["binary", "softmax", "sampled-softmax", "in-batch-softmax"] = "binary"
    """`binary`: cross-entropy of positives and their negatives (the paper's). The other three are
    the cross-entropy of a softmax: over all items (`softmax`), over the positive and the step's
    shared negatives (`sampled-softmax`), or over the step's positives (`in-batch-softmax`)."""
    shared_negatives: PositiveInt = 1024
    """`sampled-softmax`: number of negatives that all positives of a step share."""
    exclude_known: bool = False
    """Never use an item as a negative of a user who took it in training. A softmax leaves it out of
    the row's candidates, as evaluation does; `binary` draws from the other items."""
    temperature: PositiveFloat = 1.0
    """The softmax losses divide the scores by this."""
    epochs: PositiveInt = 40
    """Passes over D_sel. All of them run unless `patience` ends training; the weights of the best
    epoch are kept."""
    batch_size: Annotated[int, Field(ge=0)] = 2048
    """Positives in a step, over all processes together; 0 is a two-hundredth of D_sel, as a power
    of two from 128 to 1,024."""
    negatives: PositiveInt = 4
    """`binary`: negatives for each positive, drawn anew in every step; see `[negatives]`."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate, for the MLPs and every data-parallel table."""
    fused_learning_rate: PositiveFloat = 0.05
    """Row-wise Adagrad's learning rate, for model-parallel trainable tables on CPU, whose fused
    optimizers are SGD and Adagrad only. On CUDA they have Adam, at `learning_rate`."""
    weight_decay: NonNegativeFloat = 0.0
    """Adam's L2 penalty, on every weight that Adam trains."""
    logq: bool = False
    """Subtract the log of the item's frequency in D_sel from the training logits. The method sets
    it."""
    average_epochs: NonNegativeFloat = 10.0
    """Validate and keep a moving average of the weights, over about this many epochs; 0 takes the
    weights themselves."""
    evaluate_every: PositiveInt = 1
    """Epochs between validations. The weights with the best validation NDCG@10 are kept."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many validations in a row without a better one; 0 runs all epochs."""
    schedule: Literal["constant", "cosine"] = "constant"
    """`constant` keeps the learning rate; `cosine` lowers it to 0 along a cosine over all
    epochs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of a training step's dense matrix products; `bfloat16` needs a processor or GPU
    that supports it. Weights, loss, sparse products and evaluation stay float32."""

    @property
    def most_positives(self) -> int:
        """Positives in a step at most."""
        return self.batch_size or 2**_LARGEST_BATCH

    def sized(self, rows: int) -> TrainConfig:
        """The same with a batch size, where it is left to the number of rows of D_sel."""
        if self.batch_size:
            return self
        power = round(math.log2(max(rows, 1) / _STEPS))
        size = 2 ** min(max(power, _LEAST_BATCH), _LARGEST_BATCH)
        return self.model_copy(update={"batch_size": size})


class NegativesConfig(Section):
    """Which items training takes for negatives (`binary` and `sampled-softmax`)."""

    distribution: Literal["uniform", "popularity", "mixed", "alive"] = "uniform"
    """`uniform`: every item is equally likely. `popularity`: an item's probability is proportional
    to its number of interactions in D_full to the power `alpha`. Two are for `sampled-softmax`
    alone. `mixed`: the step's positives stand beside uniform ones, and LogQ corrects every logit
    for how often its item is among the two. `alive`: uniform among the items that were alive at
    the example's time, from their first interaction in D_full to their last; times must be a
    clock's."""
    alpha: NonNegativeFloat = 0.75
    """Exponent of `popularity`: 1 draws items by their own frequency, 0 uniformly among those that
    occur."""

    def decisive(self) -> dict[str, Any]:
        """See `Section`."""
        unused = set() if self.distribution == "popularity" else {"alpha"}
        return self.model_dump(mode="json", exclude=unused)


class LoaderConfig(Section):
    """How a process of the train stage reads its shards of D_sel."""

    kind: Literal["auto", "memory", "stream"] = "auto"
    """`memory` reads all rows at once. `stream` reads one row group after another through a bounded
    buffer, which gives another order of the rows. `auto` streams if D_sel has more than
    `memory_rows`, unless rows have histories."""
    memory_rows: PositiveInt = 100_000_000
    """`auto`: largest number of rows of D_sel that all processes together hold in memory; each row
    takes 16 bytes."""
    buffer_rows: PositiveInt = 12_582_912
    """Streaming: rows that a process holds at once. A larger buffer mixes the rows better; two
    thirds of the rows are read ahead."""

    def streams(self, rows: int, history: int = 0) -> bool:
        """Whether a D_sel of this many rows, each with `history` items, is streamed."""
        large = rows > self.memory_rows and not history
        return self.kind == "stream" or (self.kind == "auto" and large)
