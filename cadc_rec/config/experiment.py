"""One TOML file is one experiment: the validated model of it.

Every section says what it decides; `cadc_rec.config.file` reads a file into an `Experiment`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cadc_rec.config.checkpoint import CheckpointConfig
from cadc_rec.config.data import DataConfig as DataConfig
from cadc_rec.config.data import GeneratedConfig as GeneratedConfig
from cadc_rec.config.methods import MethodName
from cadc_rec.config.reading import LoaderConfig, NegativesConfig
from cadc_rec.config.types import (
    Kernel,
    MemorySize,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    PositiveInts,
    Section,
    Seed,
    Sharding,
)
from cadc_rec.config.update import UpdateConfig


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
    """Share of the elements dropped of what the frozen or learned tables give a tower (id vector,
    history, transitions) in training; drawn for each row that a tower sees."""
    feature_dim: PositiveInt = 16
    """Width of each side feature's embedding."""
    tower: PositiveInts = (128, 64)
    """Widths of each side's MLP; the last is the vector whose dot product is the score."""
    item_tower: Annotated[tuple[PositiveInt, ...], Field(strict=False)] = ()
    """Widths of the item side's where they differ; a single one is a linear layer. It must end as
    `tower` does."""

    def widths(self, side: str) -> tuple[int, ...]:
        """Widths of the layers of the side named ``user`` or ``item``."""
        return self.item_tower if side == "item" and self.item_tower else self.tower


class TrainConfig(Section):
    """Training of the two towers on D_sel."""

    loss: Literal["binary", "softmax", "sampled-softmax", "in-batch-softmax"] = "binary"
    """Binary cross-entropy over positives and their negatives (the paper's); or the cross-entropy
    of a softmax over all items, over the positive and negatives that the batch shares, or over the
    batch's positives."""
    shared_negatives: PositiveInt = 1024
    """`sampled-softmax`: negatives that all positives of a step share."""
    exclude_known: bool = False
    """Items that the user took in training are no negatives of its rows: a softmax leaves them out
    of a row's candidates, as the ranking of held-out items does; `binary` draws from the others."""
    temperature: PositiveFloat = 1.0
    """What a softmax divides the scores by."""
    epochs: PositiveInt = 40
    """Passes over D_sel. All are run, but for `patience`; the best one is kept."""
    batch_size: PositiveInt = 2048
    """Positives a step, over all processes together."""
    negatives: PositiveInt = 4
    """`binary`: negatives for each positive, drawn afresh every time; see `[negatives]`."""
    learning_rate: PositiveFloat = 1e-3
    """Adam's, for the MLPs and for every data-parallel table."""
    fused_learning_rate: PositiveFloat = 0.05
    """Row-wise Adagrad's, for trainable tables that are model parallel (fused optimizers on CPU
    are SGD and Adagrad only)."""
    weight_decay: NonNegativeFloat = 0.0
    """Adam's L2, on all it moves."""
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
    """Of the learning rate: as it is, or falling to 0 along a cosine over all epochs."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of a training step's dense matrix products; `bfloat16` needs a processor or GPU that has
    them. Weights, loss, sparse products and all that is measured stay float32."""


class ShardingConfig(Section):
    """How TorchRec lays the embedding tables over the processes; `auto` asks its planner.

    `cadc-rec plan` shows what comes of it on any number of GPUs, without one.
    """

    trainable: Sharding = "data_parallel"
    """Of trainable id tables; it decides their optimizer too."""
    frozen: Sharding = "auto"
    """Of frozen id tables."""
    trainable_kernel: Kernel = "auto"
    """Where trainable id tables that are model parallel lie: in the GPU's memory (`fused`), in the
    host's (`fused_uvm`), or there with a cache on the GPU (`fused_uvm_caching`); UVM needs CUDA."""
    frozen_kernel: Kernel = "auto"
    """The same of frozen id tables."""
    cache_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """`fused_uvm_caching`: share of a table's rows that the GPU's cache holds."""
    frozen_storage: Literal["fp32", "fp16", "int8"] = "fp32"
    """How a frozen table's elements are stored; int8 can be planned, not yet trained with."""
    communication: Literal["fp32", "fp16", "bf16"] = "fp32"
    """How looked-up vectors and their gradients travel between GPUs; less than fp32 needs CUDA."""
    batch_size: Annotated[int, Field(ge=0)] = 0
    """Ids a process looks up in a step, by which the planner weighs costs; 0 is
    `train.batch_size`."""
    device_memory: MemorySize = ""
    """What a plan may fill of each GPU, such as `"80GiB"`; empty is what the GPU has."""
    host_memory: MemorySize = ""
    """The same of the host's memory, for each process; empty is an equal share of it."""
    reserve: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of a device's memory that tables leave to activations and gradients."""


class EvaluateConfig(Section):
    """Full ranking of the held-out item against every item the user has not taken."""

    k: PositiveInts = (10,)
    """Cut-offs K of HR@K and NDCG@K. The checkpoint is chosen by NDCG@10 whatever K."""


class TrackingConfig(Section):
    """Where the curves of a training run are kept; no result depends on it."""

    tensorboard: bool = True
    """Write an event file for TensorBoard under `WORKDIR/tensorboard/`."""
    mlflow_uri: str = ""
    """An MLflow server or database, such as `http://host:5000`; empty is none."""
    mlflow_experiment: Annotated[str, Field(min_length=1)] = "cadc-rec"
    """The MLflow experiment the run is listed under."""


class ComputeConfig(Section):
    """Where it runs.

    Device and threads change a result by rounding only; several processes deal the training rows
    into other batches.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where torch sees it."""
    processes: PositiveInt = 1
    """Local worker processes of the train stage; the other stages run in one. torchx and torchrun
    set their own number, for pre-training, training and evaluation alike."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of each process; 0 is cores / local processes."""
    frozen_cache_mib: Annotated[int, Field(ge=0)] = 4096
    """What a process keeps of frozen vectors that its examples need: their pooled histories, and
    its users' rows of a sharded table. Where one takes more, it is read anew in each step, to the
    same bits."""
    mf_tables: Literal["auto", "replicated", "partitioned"] = "auto"
    """Matrix factorization on several processes: whole tables on each, exchanged after every
    half-step; or each process holds its own rows and fetches those its interactions need (`binary`
    loss only). `auto` partitions what would not fit whole into a process's memory."""
    timeout_seconds: PositiveInt = 1800
    """How long a process waits for its peers before it gives up."""


class Experiment(Section):
    """A whole experiment; what `cadc-rec run CONFIG` carries out."""

    seed: Seed = 0
    """Initialization, negatives, selection and order; never the split (`data.split_seed`)."""
    method: MethodName = "cadc"
    """Which row of settings is laid over this file; `--method` wins."""
    data: DataConfig = DataConfig()
    pretrain: PretrainConfig = PretrainConfig()
    transitions: TransitionsConfig = TransitionsConfig()
    history: HistoryConfig = HistoryConfig()
    prior: PriorConfig = PriorConfig()
    select: SelectConfig = SelectConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    negatives: NegativesConfig = NegativesConfig()
    loader: LoaderConfig = LoaderConfig()
    sharding: ShardingConfig = ShardingConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    compute: ComputeConfig = ComputeConfig()
    tracking: TrackingConfig = TrackingConfig()
    update: UpdateConfig = UpdateConfig()
