"""Sharding plans: TorchRec's planner under our constraints, and what it found.

In: a module whose tables sit on the meta device, and for each table a rule. Out: a planner, or
every table's shards with their memory and estimated cost. No process group and no GPU is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchrec import EmbeddingBagCollection
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.fbgemm_qcomm_codec import (
    CommType,
    QCommsConfig,
    get_qcomm_codecs_registry,
)
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.shard_estimators import (
    EmbeddingPerfEstimator,
    EmbeddingStorageEstimator,
)
from torchrec.distributed.planner.stats import Stats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import PlannerError, PlannerErrorType
from torchrec.distributed.types import CacheParams, DataType, ShardingType

from cadc_rec.config.types import CPU_SHARDINGS, needs_cuda
from cadc_rec.errors import CadcError

RESERVED_MEMORY = 0.15  # share of a device that tables must leave to activations and gradients
_MODEL_PARALLEL = (*CPU_SHARDINGS[1:], "row_wise", "table_row_wise")
_COLUMN_MULTIPLE = 4  # fbgemm takes rows of four floats
_LOUD = (
    "root",
    "torchrec.distributed.planner.types",
    "MethodLogger-NullHandler",  # at every call it writes out every device of a topology
)
_CACHING = "fused_uvm_caching"
_UVM = (_CACHING, "fused_uvm")


@dataclass(frozen=True)
class TableRule:
    """How a table may be sharded.

    Attributes:
        kind: a sharding type, or ``auto`` for the planner's choice.
        kernel: ``fused``, ``fused_uvm``, ``fused_uvm_caching``, or ``auto``.
        cache_share: of ``fused_uvm_caching``: rows that the GPU's cache holds.
        storage: of its elements, ``fp32``, ``fp16`` or ``int8``; a lookup gives fp32.
        trained: its weights change, and are read and written beside lookups. A cache on the GPU
            would hold newer ones than the memory behind it, so there is none.
        one_id: a lookup asks for rows and not for sums of them.
    """

    kind: str = "auto"
    kernel: str = "auto"
    cache_share: float = 0.2
    storage: str = "fp32"
    trained: bool = False
    one_id: bool = False


def rows_are_sent(kind: str, kernel: str) -> bool:
    """Whether rows of a frozen table that is sharded like this are fetched by `RowExchange`."""
    return kind == ShardingType.ROW_WISE.value and kernel != _CACHING


@dataclass(frozen=True)
class PlannedShard:
    """A part of a table on one rank: bytes, including its lookups' buffers, and milliseconds."""

    rank: int
    rows: int
    columns: int
    device_bytes: int
    host_bytes: int
    forward_ms: float
    backward_ms: float


@dataclass(frozen=True)
class PlannedTable:
    """What the planner decided for one table."""

    name: str
    rows: int
    width: int
    bytes: int
    sharding: str
    kernel: str
    shards: tuple[PlannedShard, ...]


class DoesNotFitError(Exception):
    """The planner found no plan that keeps the rules and fits into the memory."""


_NO_PLAN = (
    PlannerErrorType.INSUFFICIENT_STORAGE,
    PlannerErrorType.STRICT_CONSTRAINTS,
    PlannerErrorType.PARTITION,
)


def make_planner(
    module: nn.Module,
    rules: Mapping[str, str | TableRule],
    device_type: str,
    world_size: int,
    local_world_size: int,
    batch_size: int,
    memory_caps: Mapping[str, int] | None = None,
    reserve: float = RESERVED_MEMORY,
    stats: Stats | list[Stats] | None = None,
) -> EmbeddingShardingPlanner:
    """TorchRec's planner for tables under these rules; needs no process group and no such device.

    Args:
        module: for the widths of its tables.
        rules: table name to a rule, or to a sharding type alone.
        device_type: ``cpu`` or ``cuda``.
        world_size: processes in all.
        local_world_size: processes a node.
        batch_size: ids a process looks up in a step.
        memory_caps: ``hbm_cap`` and ``ddr_cap``, bytes for each process; TorchRec's own otherwise.
        reserve: share of a GPU's memory that tables leave free.
        stats: receives the plan; default: TorchRec's own, which logs it.

    Raises:
        CadcError: a sharding type or kernel the device cannot run.
    """
    widths = table_widths(module)
    more = {} if stats is None else {"stats": stats}
    ruled = {k: TableRule(rule) if isinstance(rule, str) else rule for k, rule in rules.items()}
    topology = Topology(
        world_size=world_size,
        local_world_size=local_world_size,
        compute_device=device_type,
        **(memory_caps or {}),
    )
    constraints = {
        table: _constraint(table, rule, device_type, _columns(widths[table], world_size))
        for table, rule in ruled.items()
    }
    one_id = frozenset(table for table, rule in ruled.items() if rule.one_id)
    return EmbeddingShardingPlanner(
        topology=topology,
        constraints=constraints,
        enumerator=EmbeddingEnumerator(
            topology,
            batch_size,
            constraints,
            [
                _EstimatorOfRows(one_id, topology, constraints),
                EmbeddingStorageEstimator(topology, constraints),
            ],
        ),
        storage_reservation=FixedPercentageStorageReservation(percentage=reserve),
        batch_size=batch_size,
        **more,
    )


class _EstimatorOfRows(EmbeddingPerfEstimator):
    """TorchRec's, which also tells the one after it where rows are sent and not partial sums.

    TorchRec decides that by the kind of collection, and these tables' rows do not pass through
    theirs (`RowExchange`). The arithmetic for either way is TorchRec's own.

    Args:
        one_id: the tables that are asked for rows.
        given: what `EmbeddingPerfEstimator` takes.
    """

    def __init__(self, one_id: frozenset[str], *given: Any) -> None:
        super().__init__(*given)
        self._one_id = one_id

    def estimate(self, sharding_options: list[Any], *more: Any, **named: Any) -> None:
        """See `EmbeddingPerfEstimator`."""
        for option in sharding_options:
            sent = rows_are_sent(option.sharding_type, option.compute_kernel)
            if option.name in self._one_id and sent:
                option._is_pooled = False
        super().estimate(sharding_options, *more, **named)


def plan_tables(
    module: nn.Module,
    planner_for: Callable[[Stats], EmbeddingShardingPlanner],
    communication: str = "fp32",
) -> list[PlannedTable]:
    """Plan without any process.

    Args:
        module: its collections on the meta device.
        planner_for: makes the planner, given the object that receives the plan.
        communication: number format in which looked-up vectors are sent.

    Raises:
        DoesNotFitError: there is no plan under the rules.
    """
    found = _Collector()
    with planner_errors():
        planner = planner_for(found)
        planner.plan(module, sharders(communication))
    return [_planned(option) for option in found.options]


class _Collector(Stats):
    """Keeps the planner's best plan, which it reports nowhere else."""

    def __init__(self) -> None:
        self.options: list[Any] = []

    def log(self, *_: Any, **told: Any) -> None:
        self.options = list(told["best_plan"])


def _planned(option: Any) -> PlannedTable:
    rows, width = option.tensor.shape
    return PlannedTable(
        name=option.name,
        rows=rows,
        width=width,
        bytes=rows * width * option.tensor.element_size(),
        sharding=option.sharding_type,
        kernel=option.compute_kernel,
        shards=tuple(
            PlannedShard(
                rank=shard.rank,
                rows=shard.size[0],
                columns=shard.size[1],
                device_bytes=shard.storage.hbm,
                host_bytes=shard.storage.ddr,
                forward_ms=shard.perf.fwd_compute
                + shard.perf.fwd_comms
                + shard.perf.input_dist_comms
                + shard.perf.prefetch_compute,
                backward_ms=shard.perf.bwd_compute + shard.perf.bwd_comms,
            )
            for shard in option.shards
        ),
    )


def sharders(communication: str = "fp32") -> list[EmbeddingBagCollectionSharder]:
    """The sharders of our collections; they decide how vectors and gradients are sent.

    Args:
        communication: ``fp32``, ``fp16`` or ``bf16``.
    """
    if communication == "fp32":
        return [EmbeddingBagCollectionSharder()]
    precision = {"fp16": CommType.FP16, "bf16": CommType.BF16}[communication]
    config = QCommsConfig(forward_precision=precision, backward_precision=precision)
    return [EmbeddingBagCollectionSharder(qcomm_codecs_registry=get_qcomm_codecs_registry(config))]


def table_widths(module: nn.Module) -> dict[str, int]:
    """Width of every table of `module`."""
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


def _constraint(
    table: str, rule: TableRule, device_type: str, columns: int
) -> ParameterConstraints:
    kind, kernel, on_cpu = rule.kind, rule.kernel, device_type == "cpu"
    if on_cpu and kind not in ("auto", *CPU_SHARDINGS):
        raise CadcError(needs_cuda(kind, table))
    if on_cpu and kernel in _UVM:
        raise CadcError(f"kernel {kernel!r} of table {table} needs CUDA; on CPU choose 'auto'.")
    if rule.trained and kernel == _CACHING:
        raise CadcError(
            f"kernel {kernel!r} of table {table} is for frozen tables; choose 'fused_uvm', 'fused' "
            "or 'auto'."
        )
    stored = ["fused", *(place for place in _UVM if not (rule.trained and place == _CACHING))]
    kinds: list[str] | None = [kind]
    kernels: list[str] | None = [kernel]
    if kind == "data_parallel":
        kernels = [EmbeddingComputeKernel.DENSE.value]
    elif kernel == "auto" and kind != "auto":
        # The planner takes the first that fits: the GPU's memory is the fastest.
        kernels = ["fused"] if on_cpu else stored
    elif kernel == "auto":
        dense = EmbeddingComputeKernel.DENSE.value  # of a copy on every process
        kernels = [dense, *stored] if rule.trained and not on_cpu else None
    if kind == "auto":
        offered: tuple[str, ...] | None = CPU_SHARDINGS if on_cpu else None
        if kernel != "auto":  # data parallel tables have no such kernel
            offered = CPU_SHARDINGS[1:] if on_cpu else _MODEL_PARALLEL
        kinds = list(offered) if offered else None
    return ParameterConstraints(
        sharding_types=kinds,
        compute_kernels=kernels,
        # TorchRec's default never splits a table narrower than 256.
        min_partition=columns if "column" in kind else None,
        cache_params=CacheParams(load_factor=rule.cache_share) if kernel == _CACHING else None,
        output_dtype=None if rule.storage == "fp32" else DataType.FP32,
    )


@contextmanager
def planner_errors() -> Iterator[None]:
    """Inside this context, the planner's warnings are silent: they are about its own estimates.

    Raises:
        DoesNotFitError: there is no plan; the planner's other errors pass as they are.
    """
    loggers = [logging.getLogger(name) for name in _LOUD]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    except PlannerError as error:
        if error.error_type not in _NO_PLAN:
            raise
        raise DoesNotFitError(str(error).splitlines()[0].strip()) from error
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
