"""The sections of how it runs: tables over processes, checkpoints, measuring, tracking, updates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from cadc_rec.config.types import (
    Kernel,
    MemorySize,
    NonNegativeFloat,
    PositiveInt,
    PositiveInts,
    Section,
    Sharding,
)

Share = Annotated[float, Field(gt=0, le=1)]
INT8_NOT_TRAINED = (
    "sharding.frozen_storage = 'int8' can be planned (cadc-rec plan) and not yet be trained with; "
    "set it to 'fp16' or 'fp32'."
)
"""The sentence on tables that are planned for, and that no training has."""


class ShardingConfig(Section):
    """How TorchRec lays the embedding tables over the processes; `auto` asks its planner.

    `cadc-rec plan` shows what comes of it on any number of GPUs, without one.
    """

    trainable: Sharding = "data_parallel"
    """Sharding type of trainable id tables; it decides their optimizer too."""
    frozen: Sharding = "auto"
    """Sharding type of frozen id tables."""
    trainable_kernel: Kernel = "auto"
    """Where model-parallel trainable id tables lie: in the GPU's memory (`fused`), in the host's
    (`fused_uvm`), or there with a cache on the GPU (`fused_uvm_caching`); UVM needs CUDA."""
    frozen_kernel: Kernel = "auto"
    """The same for frozen id tables."""
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
    """The same for the host's memory, for each process; empty is an equal share of it."""
    reserve: Annotated[float, Field(ge=0, lt=1)] = 0.15
    """Share of a device's memory that tables leave to activations and gradients."""

    def broken_rules(self) -> Iterator[str]:
        """See `Section`: a kernel that the sharding type does not have."""
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
    """Checkpoints of unfinished training, see [reliability.md](reliability.md).

    No result depends on them.
    """

    every_seconds: NonNegativeFloat = 60.0
    """Seconds of training between two checkpoints; 0 goes by `every_epochs` alone."""
    every_epochs: Annotated[int, Field(ge=0)] = 0
    """Save after every so many epochs as well; 0 goes by `every_seconds` alone. With both 0 nothing
    is saved."""
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.02
    """Share of its time that training may stand still for checkpoints; a checkpoint that took
    longer delays the next one by `every_seconds`."""
    background: bool = True
    """Write from a copy while training goes on; otherwise training waits."""
    keep_last: PositiveInt = 2
    """How many of the newest checkpoints are kept."""
    keep_best: bool = True
    """Also keep the checkpoint whose last validation NDCG@10 was the best."""
    keep_finished: bool = False
    """Keep the checkpoints of a training that ended well; otherwise its artifact replaces them."""
    resume: Literal["auto", "never"] = "auto"
    """Resume from the newest whole checkpoint of the same training, whatever the number of
    processes; or begin anew. `--resume DIR` names a checkpoint."""


class EvaluateConfig(Section):
    """Ranking of the held-out item among all items that the user has not taken."""

    k: PositiveInts = (10,)
    """Cut-offs K of HR@K and NDCG@K. The checkpoint is chosen by NDCG@10 whatever K."""


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
    """Threads of each process; 0 divides the cores among the local processes."""
    frozen_cache_mib: Annotated[int, Field(ge=0)] = 4096
    """MiB that a process may use to keep frozen vectors its examples need: their pooled histories,
    and its users' rows of a sharded table. What takes more is read anew in each step, with the same
    result."""
    mf_tables: Literal["auto", "replicated", "partitioned"] = "auto"
    """Matrix factorization on several processes: each holds whole tables, exchanged after every
    half-step; or each holds its own rows and fetches those its interactions need (`binary` loss
    only). `auto` partitions tables that would not fit whole into a process's memory."""
    timeout_seconds: PositiveInt = 1800
    """Seconds that a process waits for its peers before it gives up."""


class TrackingConfig(Section):
    """Where the curves of a training run are kept; no result depends on it."""

    tensorboard: bool = True
    """Write an event file for TensorBoard under `WORKDIR/tensorboard/`."""
    mlflow_uri: str = ""
    """An MLflow server or database, such as `http://host:5000`; empty uses none."""
    mlflow_experiment: Annotated[str, Field(min_length=1)] = "cadc-rec"
    """The MLflow experiment the run is listed under."""


class UpdateConfig(Section):
    """What `cadc-rec update` does with new interactions; `cadc-rec run` never reads it.

    See [updates.md](updates.md).
    """

    epochs: PositiveInt = 10
    """MF: epochs over the rows whose interactions changed; they start where they stood, and all
    other rows stay fixed. Under a softmax, epochs over all rows."""
    sweeps: PositiveInt = 3
    """ALS: how often the same rows are solved, users and then items. Transitions: sweeps of all
    rows."""
    polish: Annotated[int, Field(ge=0)] = 0
    """Epochs (MF) or sweeps (ALS) over all rows after that."""
    towers: Literal["train", "keep"] = "train"
    """Train the towers further on the refreshed sample; or keep them as they are."""
    train_epochs: PositiveInt = 5
    """Epochs of the towers."""
    rate: Share = 0.3
    """The towers' learning rates, as a share of those in `[train]`: they start near where they will
    end."""
    advise_new_share: Share = 0.1
    """Advise a full rebuild once the interactions that came since the last one are more than this
    share of those it had."""
    advise_cosine: Share = 0.8
    """Likewise once the served vectors of known items stand, on average, at less than this cosine
    to what they were at the last full build."""
