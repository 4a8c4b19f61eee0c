"""From a model with EmbeddingBagCollections to the same model, sharded.

In: a module whose tables sit on the meta device, and for each table how it may be sharded. Out:
the module under DistributedModelParallel. Its weights are reached through
`cadc_rec.distributed.state`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchrec import DataType, EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import ShardingEnv

from cadc_rec.config.experiment import ShardingConfig
from cadc_rec.distributed.memory import memory_caps
from cadc_rec.distributed.planner import (
    DoesNotFitError,
    TableRule,
    make_planner,
    planner_errors,
    sharders,
)
from cadc_rec.distributed.processes import Processes
from cadc_rec.errors import CadcError


def shard_model(
    module: nn.Module,
    rules: Mapping[str, str | TableRule],
    processes: Processes,
    positives: int,
    config: ShardingConfig | None = None,
) -> DistributedModelParallel:
    """Plan and wrap `module`.

    Args:
        module: its EmbeddingBagCollections are on the meta device.
        rules: table name to how it may be sharded: a rule, or a sharding type alone.
        processes: the ranks.
        positives: of a step over all ranks; the planner estimates costs from a rank's share.
        config: what memory a plan may fill, and how vectors are sent; default: the defaults.

    Raises:
        CadcError: a sharding type or a precision this device cannot run, or no plan fits.
    """
    config = config or ShardingConfig()
    refuse_communication(config, processes.device.type)
    try:
        with planner_errors():
            planner = make_planner(
                module,
                rules,
                processes.device.type,
                processes.world_size,
                processes.local_world_size,
                config.lookups(positives, processes.world_size),
                memory_caps(processes, config),
                config.reserve,
            )
            plan = planner.collective_plan(module, sharders(config.communication), processes.group)
    except DoesNotFitError as error:
        raise CadcError(
            f"no sharding plan fits this model on {processes.world_size} processes: {error} To see "
            f"what would fit, run cadc-rec plan CONFIG --world-size {processes.world_size} "
            f"--device {processes.device.type}."
        ) from error
    with warnings.catch_warnings():
        # DDP warns that a bucket view is not contiguous with TorchRec's flat tables; harmless.
        warnings.simplefilter("ignore")
        alone = processes.world_size == 1
        wrapped = DistributedModelParallel(
            module,
            env=ShardingEnv.from_process_group(processes.group),
            device=processes.device,
            plan=plan,
            sharders=sharders(config.communication),
            init_data_parallel=not alone,
        )
    if alone:
        _stop_averaging(wrapped)
    return wrapped


def _stop_averaging(wrapped: DistributedModelParallel) -> None:
    """Take DistributedDataParallel off replicated tables: one process has nothing to average.

    It would pass every gradient through the process group, which takes a tenth of a step together
    with the wrapper of the whole model (left out above). TorchRec has no setting for it; its own
    code uses the wrapper only if there is one.
    """
    for sharded in wrapped.modules():
        if isinstance(sharded, ShardedEmbeddingBagCollection):
            for place, lookup in enumerate(sharded._lookups):
                if isinstance(lookup, DistributedDataParallel):
                    sharded._lookups[place] = lookup.module


def refuse_communication(config: ShardingConfig, device_type: str) -> None:
    """Raise if vectors cannot be sent as `config` asks.

    Raises:
        CadcError: `config` asks for less than fp32, which only NCCL can send.
    """
    if config.communication != "fp32" and device_type != "cuda":
        raise CadcError(
            f"sharding.communication = {config.communication!r} needs CUDA, but this runs on "
            f"{device_type}; set it to 'fp32'."
        )


def build_collection(
    tables: Mapping[str, tuple[int, int]],
    *,
    mean: frozenset[str] = frozenset(),
    half: bool = False,
    weighted: bool = False,
) -> EmbeddingBagCollection:
    """A collection with a table for each feature, of the same name, on the meta device.

    Args:
        tables: feature name to (rows, width).
        mean: features whose several values are averaged; the others are summed.
        half: store the elements as fp16; a lookup gives fp32.
        weighted: every value comes with a weight in the sum.
    """
    return EmbeddingBagCollection(
        device=torch.device("meta"),
        is_weighted=weighted,
        tables=[
            EmbeddingBagConfig(
                name=name,
                feature_names=[name],
                num_embeddings=int(rows),
                embedding_dim=int(width),
                pooling=PoolingType.MEAN if name in mean else PoolingType.SUM,
                data_type=DataType.FP16 if half else DataType.FP32,
            )
            for name, (rows, width) in tables.items()
        ],
    )
