"""The sections of the two towers: which examples they see, what they are, how they are trained."""

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


class SelectConfig(Section):
    """Which training interactions the two towers see (D_sel)."""

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
        "everything",
    ] = "uniform"
    """A uniform sample; one balanced over items by repeating the rows of rare ones or by dropping
    rows of frequent ones; each user's most recent share; a sample that prefers recent rows; a
    uniform share of each user, of each item or of each period; the rows that the pre-trained
    vectors score lowest; or every training interaction. The method decides it, unless it leaves it
    open."""
    ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    """Filtering ratio: one interaction in this many is kept (10 keeps a tenth)."""
    half_life: PositiveFloat = 20.0
    """`recency-weighted`: interactions of a user after which a row is half as likely."""
    periods: PositiveInt = 20
    """`time-stratified`: periods of equal length from the first to the last interaction."""
    shards: Annotated[int, Field(ge=0)] = 8
    """Parquet shards written; a training process reads whole shards, so keep several for each. 0
    takes eight, or more where there are more processes or `rows_per_shard` asks for it."""
    rows_per_shard: PositiveInt = 4_194_304
    """`shards` = 0: rows of a shard at most."""

    def decisive(self) -> dict[str, Any]:
        """See `Section`; of `shards` = 0, the number that came of it must have been filled in."""
        if self.kind == "everything":
            return {"kind": self.kind, "shards": self.shards}
        unused = {"rows_per_shard"}
        if self.kind != "recency-weighted":
            unused.add("half_life")
        if self.kind != "time-stratified":
            unused.add("periods")
        return self.model_dump(mode="json", exclude=unused)


class ModelConfig(Section):
    """The two towers."""

    kind: Literal["two_tower", "tables"] = "two_tower"
    """Two towers, or the pre-trained vectors scored directly. The method decides it."""
    id_embedding: Literal[
        "trainable", "init_frozen", "init", "hybrid", "linear", "mlp", "residual"
    ] = "trainable"
    """How an id becomes a vector: learned here, or pre-trained and integrated in one of six ways;
    see [protocol.md](protocol.md#integration-techniques)."""
    id_dim: PositiveInt = 96
    """Width of the id embedding; with MF it must be `pretrain.factors` + 1."""
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout in training on what a tower gets from the frozen or learned tables (id vector,
    history, transitions); drawn for each row that a tower sees."""
    feature_dim: PositiveInt = 16
    """Width of each side feature's embedding."""
    tower: PositiveInts = (128, 64)
    """Widths of each side's MLP; the last is the vector whose dot product is the score."""
    item_tower: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    """Widths of the item side's MLP where they differ; a single one is a linear layer. The last
    must equal that of `tower`."""

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
                f"model.id_embedding = 'hybrid' parts model.id_dim = {self.id_dim} in "
                "groups of four; set it (and pretrain.factors + 1) to a multiple of 4 from 8 on."
            )

    def decisive(self) -> dict[str, Any]:
        """See `Section`; without towers nothing else counts."""
        return {"kind": self.kind} if self.kind == "tables" else super().decisive()


class TrainConfig(Section):
    """Training of the two towers on D_sel."""

    loss: Literal["binary", "softmax", "sampled-softmax", "in-batch-softmax"] = "binary"
    """Binary cross-entropy over positives and their negatives (the paper's); or the cross-entropy
    of a softmax over all items, over the positive and negatives that the batch shares, or over the
    batch's positives."""
    shared_negatives: PositiveInt = 1024
    """`sampled-softmax`: negatives that all positives of a step share."""
    exclude_known: bool = False
    """Never use an item that the user took in training as a negative: a softmax leaves it out of
    the row's candidates, as the ranking of held-out items does; `binary` draws from the other
    items."""
    temperature: PositiveFloat = 1.0
    """A softmax divides the scores by this."""
    epochs: PositiveInt = 40
    """Passes over D_sel. All are run unless `patience` ends them; the best epoch is kept."""
    batch_size: PositiveInt = 2048
    """Positives a step, over all processes together."""
    negatives: PositiveInt = 4
    """`binary`: negatives for each positive, drawn afresh every time; see `[negatives]`."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's learning rate, for the MLPs and for every data-parallel table."""
    fused_learning_rate: PositiveFloat = 0.05
    """Row-wise Adagrad's learning rate, for model-parallel trainable tables (fused optimizers on
    CPU are SGD and Adagrad only)."""
    weight_decay: NonNegativeFloat = 0.0
    """Adam's L2 penalty, on everything it moves."""
    logq: bool = False
    """Subtract the log of the item's frequency in D_sel from the training logits. The method
    decides it."""
    average_epochs: NonNegativeFloat = 10.0
    """Weights are validated and kept as their moving average over about this many epochs; 0 takes
    them as they are."""
    evaluate_every: PositiveInt = 1
    """Epochs between validations; the best validation NDCG@10 is the checkpoint kept."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after this many validations without a better one; 0 runs all epochs."""
    schedule: Literal["constant", "cosine"] = "constant"
    """The learning rate stays as it is, or falls to 0 along a cosine over all epochs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of a training step's dense matrix products; `bfloat16` needs a processor or GPU
    that has them. Weights, loss, sparse products and all that is measured stay float32."""


class NegativesConfig(Section):
    """What the negatives of training are drawn from (`binary` and `sampled-softmax`)."""

    distribution: Literal["uniform", "popularity"] = "uniform"
    """Every item equally often; or each in proportion to its interactions in D_full to the power
    `alpha`."""
    alpha: NonNegativeFloat = 0.75
    """`popularity`: 1 draws by the items' own frequency, 0 uniformly among those that occur."""

    def decisive(self) -> dict[str, Any]:
        """See `Section`."""
        unused = {"alpha"} if self.distribution == "uniform" else set()
        return self.model_dump(mode="json", exclude=unused)


class LoaderConfig(Section):
    """How a process of the train stage reads its shards of D_sel."""

    kind: Literal["auto", "memory", "stream"] = "auto"
    """`memory` reads all of it; `stream` reads row group by row group through a bounded buffer,
    which gives another order. `auto` streams where D_sel has more than `memory_rows`, unless rows
    have histories."""
    memory_rows: PositiveInt = 100_000_000
    """`auto`: rows of D_sel that all processes together hold in memory at most; each takes 16
    bytes."""
    buffer_rows: PositiveInt = 12_582_912
    """Streaming: rows that a process holds at once. The more, the better they are mixed; two thirds
    of them are read ahead."""

    def streams(self, rows: int, history: int = 0) -> bool:
        """Whether a D_sel of this many rows is streamed; `history` is the items of each."""
        large = rows > self.memory_rows and not history
        return self.kind == "stream" or (self.kind == "auto" and large)
