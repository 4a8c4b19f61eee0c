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
from torch.nn.parallel import DistributedDataParallel
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, PoolingType
from torchrec.distributed import DistributedModelParallel
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError
from torchrec.distributed.types import ShardingEnv

from cadc_rec.distributed.processes import Processes
from cadc_rec.errors import CadcError
from cadc_rec.machine import memory_bytes

_RESERVED_MEMORY = 0.15  # share of a device that tables must leave to activations and gradients
# Row-wise kernels need CUDA.
_CPU_KINDS = ("data_parallel", "table_wise", "column_wise", "table_column_wise")
_COLUMN_MULTIPLE = 4  # fbgemm takes rows of four floats


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
            module,
            kinds,
            processes.device.type,
            processes.world_size,
            processes.local_world_size,
            batch_size,
            _memory_caps(processes),
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
        alone = processes.world_size == 1
        wrapped = DistributedModelParallel(
            module,
            env=ShardingEnv.from_process_group(processes.group),
            device=processes.device,
            plan=plan,
            sharders=_sharders(),
            init_data_parallel=not alone,
        )
    if alone:
        _stop_averaging(wrapped)
    return wrapped


def _stop_averaging(wrapped: DistributedModelParallel) -> None:
    """Take DistributedDataParallel off replicated tables: there is nobody to average with.

    It would pass every gradient through the process group, and the whole model's, which is left
    out above, too: together a tenth of a step. TorchRec has no setting for it; where it looks into
    a lookup it goes through the wrapper only where there is one.
    """
    for sharded in wrapped.modules():
        if isinstance(sharded, ShardedEmbeddingBagCollection):
            for place, lookup in enumerate(sharded._lookups):
                if isinstance(lookup, DistributedDataParallel):
                    sharded._lookups[place] = lookup.module


def make_planner(
    module: nn.Module,
    kinds: Mapping[str, str],
    device_type: str,
    world_size: int,
    local_world_size: int,
    batch_size: int,
    memory_caps: Mapping[str, int] | None = None,
) -> EmbeddingShardingPlanner:
    """TorchRec's planner for tables of these kinds; needs no process group and no such device.

    Args:
        module: for the widths of its tables.
        kinds: table name to a sharding type, or ``auto``.
        device_type: ``cpu`` or ``cuda``.
        world_size: processes in all.
        local_world_size: processes a node.
        batch_size: ids a process looks up in a step.
        memory_caps: ``hbm_cap`` and ``ddr_cap``, bytes for each process; TorchRec's own otherwise.

    Raises:
        CadcError: a sharding type the device cannot run.
    """
    widths = _table_widths(module)
    return EmbeddingShardingPlanner(
        topology=Topology(
            world_size=world_size,
            local_world_size=local_world_size,
            compute_device=device_type,
            **(memory_caps or {}),
        ),
        constraints={
            table: _constraint(table, kind, device_type, _columns(widths[table], world_size))
            for table, kind in kinds.items()
        },
        storage_reservation=FixedPercentageStorageReservation(percentage=_RESERVED_MEMORY),
        batch_size=batch_size,
    )


def _table_widths(module: nn.Module) -> dict[str, int]:
    return {
        table.name: table.embedding_dim
        for child in module.modules()
        if isinstance(child, EmbeddingBagCollection)
        for table in child.embedding_bag_configs()
    }


def _columns(width: int, world_size: int) -> int:
    """Columns of a shard when a table's columns are dealt evenly to all processes."""
    even = -(-width // world_size)
    return min(width, -(-even // _COLUMN_MULTIPLE) * _COLUMN_MULTIPLE)


def _memory_caps(processes: Processes) -> dict[str, int]:
    """What each process may fill; TorchRec would assume a machine of its own."""
    caps = {"ddr_cap": memory_bytes() // processes.local_world_size}
    if processes.device.type == "cuda":
        caps["hbm_cap"] = torch.cuda.get_device_properties(processes.device).total_memory
    return caps


def _constraint(table: str, kind: str, device_type: str, columns: int) -> ParameterConstraints:
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
    return ParameterConstraints(
        sharding_types=[kind],
        compute_kernels=[kernel.value],
        # TorchRec's default never splits a table narrower than 256.
        min_partition=columns if "column" in kind else None,
    )


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
