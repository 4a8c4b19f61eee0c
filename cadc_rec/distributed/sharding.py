"""From a model with EmbeddingBagCollections to the same model, sharded.

In: a module whose tables sit on the meta device, and for each table how it may be sharded. Out:
the module under DistributedModelParallel. Its weights are reached through
`cadc_rec.distributed.state`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping

import torch
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ShardingEnv

from cadc_rec.distributed.processes import Processes
from cadc_rec.errors import CadcError

_RESERVED_MEMORY = 0.15  # share of a device that tables must leave to activations and gradients
_CPU_KINDS = ("data_parallel", "table_wise", "column_wise")  # row-wise kernels need CUDA


def shard_model(
    module: nn.Module, kinds: Mapping[str, str], processes: Processes, batch_size: int
) -> DistributedModelParallel:
    """Plan and wrap `module`.

    Args:
        module: its EmbeddingBagCollections are on the meta device.
        kinds: table name to a sharding type, or ``auto`` for the planner's choice.
        processes: who takes part.
        batch_size: ids a process looks up in a step; the planner weighs costs with it.

    Raises:
        CadcError: a sharding type this device cannot run, or no plan fits.
    """
    with _quiet("torchrec.distributed.planner.types", "root"):
        planner = make_planner(
            kinds,
            processes.device.type,
            processes.world_size,
            processes.local_world_size,
            batch_size,
        )
        try:
            plan = planner.collective_plan(module, _sharders(), processes.group)
        except PlannerError as error:
            raise CadcError(
                f"no sharding plan fits this model on {processes.world_size} processes: {error}"
            ) from error
    with warnings.catch_warnings():
        # DDP warns that a bucket view is not contiguous with TorchRec's flat tables; harmless.
        warnings.simplefilter("ignore")
        return DistributedModelParallel(
            module,
            env=ShardingEnv.from_process_group(processes.group),
            device=processes.device,
            plan=plan,
            sharders=_sharders(),
        )


def make_planner(
    kinds: Mapping[str, str],
    device_type: str,
    world_size: int,
    local_world_size: int,
    batch_size: int,
) -> EmbeddingShardingPlanner:
    """TorchRec's planner for tables of these kinds; needs no process group and no such device.

    Args:
        kinds: table name to a sharding type, or ``auto``.
        device_type: ``cpu`` or ``cuda``.
        world_size: processes in all.
        local_world_size: processes a node.
        batch_size: ids a process looks up in a step.

    Raises:
        CadcError: a sharding type the device cannot run.
    """
    return EmbeddingShardingPlanner(
        topology=Topology(
            world_size=world_size, local_world_size=local_world_size, compute_device=device_type
        ),
        constraints={table: _constraint(table, kind, device_type) for table, kind in kinds.items()},
        storage_reservation=FixedPercentageStorageReservation(percentage=_RESERVED_MEMORY),
        batch_size=batch_size,
    )


def _constraint(table: str, kind: str, device_type: str) -> ParameterConstraints:
    on_cpu = device_type == "cpu"
    if on_cpu and kind not in ("auto", *_CPU_KINDS):
        raise CadcError(
            f"sharding {kind!r} of table {table} needs CUDA; on CPU choose one of "
            f"{', '.join(_CPU_KINDS)}."
        )
    if kind == "auto":
        return ParameterConstraints(sharding_types=list(_CPU_KINDS) if on_cpu else None)
    dense, fused = EmbeddingComputeKernel.DENSE, EmbeddingComputeKernel.FUSED
    kernel = dense if kind == "data_parallel" else fused
    return ParameterConstraints(sharding_types=[kind], compute_kernels=[kernel.value])


def _sharders() -> list[EmbeddingBagCollectionSharder]:
    return [EmbeddingBagCollectionSharder()]


def build_collection(
    tables: Mapping[str, tuple[int, int]], *, mean: frozenset[str] = frozenset()
) -> EmbeddingBagCollection:
    """A collection of one table for each feature, named alike, on the meta device.

    Args:
        tables: feature name to (rows, width).
        mean: features whose several values are averaged; the others are summed.
    """
    return EmbeddingBagCollection(
        device=torch.device("meta"),
        tables=[
            EmbeddingBagConfig(
                name=name,
                feature_names=[name],
                num_embeddings=int(rows),
                embedding_dim=int(width),
                pooling=PoolingType.MEAN if name in mean else PoolingType.SUM,
            )
            for name, (rows, width) in tables.items()
        ],
    )


class _quiet:
    """Silences loggers whose warnings concern dry runs, which these are not."""

    def __init__(self, *names: str) -> None:
        self._loggers = [logging.getLogger(name) for name in names]

    def __enter__(self) -> None:
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
