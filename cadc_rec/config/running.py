"""The sections of how a run proceeds: sharding, checkpoints, evaluation, tracking, updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from cadc_rec.config.types import (
    Kernel,
    MemorySize,
    NonNegativeFloat,
    PositiveInt,
    PositiveInts,
    Section,
    Sharding,
    TrainedKernel,
)
from cadc_rec.config.vectors import LEAST_USERS

Metric = Literal["recall", "mrr", "map", "coverage", "gini", "tail"]
Share = Annotated[float, Field(gt=0, le=1)]
INT8_NOT_TRAINED = (
    "sharding.frozen_storage = 'int8' can be planned (cadc-rec plan) but not yet trained with; "
    "set it to 'fp16' or 'fp32'."
)
"""The sentence on tables that are planned for, and that no training has."""


class ShardingConfig(Section):
    """How TorchRec divides the embedding tables among the processes; `auto` asks its planner.

    `cadc-rec plan` shows the result for any number of GPUs, and needs none.
    """

    trainable: Sharding = "data_parallel"
    """Sharding type of trainable id tables. It also decides their optimizer: Adam over all rows for
    `data_parallel`; for all others Adam over the rows of a step on CUDA, and row-wise Adagrad on
    CPU."""
    frozen: Sharding = "auto"
    """Sharding type of frozen id tables."""
    trainable_kernel: TrainedKernel = "auto"
    """Where model-parallel trainable id tables are stored: in the GPU's memory (`fused`), or in the
    host's (`fused_uvm`), which needs CUDA."""
    frozen_kernel: Kernel = "auto"
    """The same choice for frozen id tables; they may also be in the host's memory with a cache on
    the GPU (`fused_uvm_caching`). A trained table may not: what averages, validates and saves its
    weights would miss those in the cache."""
    cache_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """`fused_uvm_caching`: share of a table's rows that the GPU's cache holds."""
    frozen_storage: Literal["fp32", "fp16", "int8"] = "fp32"
    """How the elements of a frozen table are stored; int8 can be planned but not trained with."""
    communication: Literal["fp32", "fp16", "bf16"] = "fp32"
    """How looked-up vectors and their gradients are sent between GPUs; `fp16` and `bf16` need
    CUDA."""
    batch_size: Annotated[int, Field(ge=0)] = 0
    """Ids that a process looks up in a step; the planner estimates costs from it. 0 takes
    `train.batch_size` by the number of processes."""
    device_memory: MemorySize = ""
    """Memory of each GPU that a plan may fill, such as `"80GiB"`; empty takes all that the GPU
    has."""
    host_memory: MemorySize = ""
    """Host memory that a plan may fill for each process; empty takes an equal share of all."""
    reserve: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of a device's memory that is kept free of tables, for activations and gradients."""

    def lookups(self, positives: int, world_size: int) -> int:
        """Ids that a process looks up in a step of this many positives over all processes."""
        return self.batch_size or max(1, -(-positives // world_size))

    def broken_rules(self) -> Iterator[str]:
        """See `Section`: a kernel must exist for the sharding type."""
        groups = {
            "trainable": (self.trainable, self.trainable_kernel),
            "frozen": (self.frozen, self.frozen_kernel),
        }
        for group, (sharding, kernel) in groups.items():
            if kernel != "auto" and sharding == "data_parallel":
                yield (
                    f"sharding.{group}_kernel = {kernel!r} is for model-parallel tables, and "
                    f"sharding.{group} = 'data_parallel' copies them to every process; set "
                    f"sharding.{group} = 'auto', or sharding.{group}_kernel = 'auto'."
                )


class CheckpointConfig(Section):
    """Checkpoints of unfinished training; see [reliability.md](reliability.md).

    Matrix factorization has them, too, between its epochs, by `every_seconds` alone. They change no
    result.
    """

    every_seconds: NonNegativeFloat = 60.0
    """Seconds of training between two checkpoints; with 0 only `every_epochs` decides."""
    every_epochs: Annotated[int, Field(ge=0)] = 0
    """Also save after every this many epochs of the train stage, not of matrix factorization; with
    0 only `every_seconds` decides. If both are 0, nothing is saved."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Largest share of its time that training may wait for checkpoints. After a checkpoint that
    took long, the next one comes later than `every_seconds`."""
    background: bool = True
    """Copy the state and write the copy while training goes on; with `false` training waits until
    it is written."""
    keep_last: PositiveInt = 2
    """Number of the newest checkpoints that are kept."""
    keep_best: bool = True
    """Also keep the checkpoint whose last validation NDCG@10 was the best."""
    keep_finished: bool = False
    """Keep the checkpoints when training has finished; with `false` they are removed, since the
    trained model replaces them."""
    resume: Literal["auto", "never"] = "auto"
    """`auto` resumes from the newest whole checkpoint of the same training, even if the number of
    processes has changed; `never` starts from the beginning. `--resume DIR` names a checkpoint."""


class EvaluateConfig(Section):
    """Ranking of the held-out item among all items that the user has not taken."""

    k: PositiveInts = (10,)
    """Cut-offs K of HR@K and NDCG@K. The best epoch is chosen by NDCG@10, whatever K is."""
    metrics: Annotated[tuple[Metric, ...], Field(strict=False)] = ()
    """Metrics at these K beside HR and NDCG; [protocol.md](protocol.md#metrics) defines them. The
    last three look at every user's K best items, which makes ranking slower."""
    users: Annotated[int, Field(ge=0)] = 20_000
    """Users whose validation items are ranked, in training and after it: a sample of at most this
    many, the same for all methods, epochs and seeds. 0 ranks all. Test items of all users are
    ranked."""

    def decisive(self) -> dict[str, Any]:
        """See `Section`; whether `users` has a say depends on the data."""
        unused = {"users"} if self.metrics else {"users", "metrics"}
        return self.model_dump(mode="json", exclude=unused)


class ComputeConfig(Section):
    """The device, processes and threads of a run.

    Device and threads change a result by rounding only; but a device decides the optimizer of
    model-parallel trainable tables (`sharding.trainable`). Another number of processes changes it
    more, because the training rows form other batches.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA if torch finds it."""
    processes: PositiveInt = 1
    """Local worker processes of the train stage; the other stages run in one process. torchx and
    torchrun set their own number, which pre-training, training and evaluation all use."""
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of each process; 0 divides the cores among the local processes."""
    matmul: Literal["float32", "tf32"] = "float32"
    """CUDA: how a training step multiplies float32 matrices. `tf32` uses tensor cores, which round
    the factors to 11 bits. Pre-training, validation and evaluation always take float32."""
    graphs: Literal["auto", "on", "off"] = "auto"
    """CUDA: launch a training step as one CUDA graph, not operator by operator. `auto` does so
    where it can: in one process, with batches made on the GPU, and with a step that waits for
    nothing; elsewhere a line says why not. With `on` that is an error. `off` never does."""
    frozen_cache_mib: Annotated[int, Field(ge=0)] = 4096
    """MiB of memory in which a process may cache frozen vectors: the pooled histories of its
    examples, and its users' rows of a sharded table; each at most a quarter of the memory that the
    process may fill. What does not fit is read again in each step, with the same result. On a GPU
    also what the scores of lists, and those of recent popularity, are formed of; what takes more
    than this is formed on the host. From one validation to the next at most 256 MiB of its users'
    histories, and as much of these scores, are kept; never more than this."""
    mf_tables: Literal["auto", "replicated", "partitioned"] = "auto"
    """Matrix factorization, ALS and transitions on several processes. `replicated`: each process
    holds whole tables and exchanges them after every half-step. `partitioned`: each process holds
    its own rows and fetches the others that its interactions need. `auto` partitions tables that
    would not fit whole into a process's memory. (The tables of `pretrain.model = "mlp"` are always
    partitioned: a step refers to few rows.)"""
    timeout_seconds: PositiveInt = 1800
    """Seconds that a process waits for the others before it ends with an error."""


class TrackingConfig(Section):
    """Where the curves of a training run are recorded; they change no result."""

    tensorboard: bool = True
    """Write an event file for TensorBoard under `WORKDIR/tensorboard/`."""
    mlflow_uri: str = ""
    """An MLflow server or database, such as `http://host:5000`; if empty, MLflow is not used."""
    mlflow_experiment: Annotated[str, Field(min_length=1)] = "cadc-rec"
    """The MLflow experiment that lists the run."""
    trackio_project: str = ""
    """A project of trackio, whose database is a file on this machine; if empty, trackio is not
    used."""
    interval_seconds: NonNegativeFloat = 10.0
    """Seconds of training between two measurements of speed, waits, memory and loss, for these and
    for [each rank's log](launching.md#what-each-rank-does); 0 measures nothing."""


class UpdateConfig(Section):
    """What `cadc-rec update` does with new interactions; `cadc-rec run` never reads it.

    See [updates.md](updates.md).
    """

    epochs: PositiveInt = 10
    """MF: epochs over the rows whose interactions changed. These rows start from their old values;
    all other rows stay fixed. With the softmax loss: epochs over all rows."""
    sweeps: PositiveInt = 3
    """ALS: sweeps over the rows whose interactions changed, users and then items. Transitions:
    sweeps over all rows."""
    polish: Annotated[int, Field(ge=0)] = 0
    """Then this many more epochs (MF) or sweeps (ALS) over all rows."""
    round_changes: Annotated[float, Field(ge=0, le=1)] = 0.125
    """What an update changes of MF's, ALS's and transitions' tables and of the towers' layers is
    rounded to multiples of a power of two: at most this share of the changes' root mean square.
    Deltas of bundles are three to four times as small for it. 0 rounds nothing."""
    towers: Literal["train", "day", "keep"] = "train"
    """`train` trains the towers further on the refreshed sample. `day` trains them on the rows of
    it that came with the day and as many of the earlier ones, so that it takes time in proportion
    to the day; nothing is chosen on validation: the last epoch is kept, and with `model.keep` what
    the run chose. `keep` leaves them as they are."""
    train_epochs: PositiveInt = 5
    """Epochs of this further training."""
    rate: Share = 0.3
    """Learning rates of this further training, as a share of those in `[train]`. A small share is
    enough, since the weights start near their final values."""
    fit_users: Annotated[int, Field(ge=0)] = 0
    """Users on whose validation items the prior's factors are fitted after a day: those with the
    newest, of equal times drawn (all are equal where the log has none); 200 at least. 0 is in
    proportion to the day: one for every fifty new interactions, at least 1,000 and at most 4,000.
    """
    users: Annotated[int, Field(ge=0)] = 1_000
    """Users whose validation items, test items and next items an update ranks: a sample of at most
    this many, drawn as that of `evaluate.users`, so that most of it stays from update to update. 0
    ranks all test items and next items, and as many validation items as `evaluate.users` says."""
    advise_new_share: Share = 0.1
    """Advise a full rebuild if more interactions came since the last one than this share of those
    it had."""
    advise_hit_rate: Share = 0.8
    """Advise a full rebuild if HR@10 of users' next items, before an update learns them, is below
    this share of what it was for the first update after the last full build, by more than chance
    (95%, one-sided)."""
    advise_cosine: Share = 0.8
    """Advise a full rebuild if the vectors of known items have moved too far since the last one: if
    the mean cosine between an item's vectors of now and of then is below this."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`: on fewer users chance would choose the prior's factors."""
        if 0 < self.fit_users < LEAST_USERS:
            yield (
                f"update.fit_users = {self.fit_users}: the prior is fitted on {LEAST_USERS} users "
                "at least; set it so high, or to 0."
            )
