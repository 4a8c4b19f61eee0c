"""What a process holds beside the planner's tables, in bytes.

The planner knows the tables and what their lookups send and receive. The rest is ours: what an
optimizer and the best epoch keep of everything trained, MLPs, attributes, and the vectors that
validation ranks.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torchrec import EmbeddingBagCollection

from cadc_rec.config.experiment import Experiment, TrainConfig
from cadc_rec.data.select.sizes import wanted_rows
from cadc_rec.distributed.planner import PlannedTable
from cadc_rec.planning.sizes import Machines, PlannedAttribute, Sizes
from cadc_rec.training.batches.source import ROW_BYTES, ROWS_AT_ONCE

_FLOAT = 4
_ITEM, _WEIGHT, _POINTER = 4, 8, 8
_ADAM = 3  # gradient and two moments, as large as the weights themselves


def trained_copies(config: TrainConfig) -> int:
    """Copies of a trained weight that training keeps: the best epoch's, the moving average."""
    return 1 + (config.average_epochs > 0)


def state_of_tables(
    tables: Iterable[PlannedTable], trained: frozenset[str], config: TrainConfig, rank: int
) -> int:
    """What is kept of a rank's parts of trained tables, beside the weights.

    A fused optimizer's state is in the planner's own figure.
    """
    copies = trained_copies(config)
    total = 0
    for table in tables:
        if table.name in trained:
            dense = _ADAM if table.sharding == "data_parallel" else 0
            part = sum(s.rows * s.columns for s in table.shards if s.rank == rank)
            total += (copies + dense) * part * _FLOAT
    return total


def mlp_bytes(module: nn.Module, config: TrainConfig) -> int:
    """Everything in `module` but its tables, with optimizer state and copies."""
    tables = {
        id(parameter)
        for child in module.modules()
        if isinstance(child, EmbeddingBagCollection)
        for parameter in child.parameters()
    }
    elements = sum(p.numel() for p in module.parameters() if id(p) not in tables)
    return elements * _FLOAT * (1 + _ADAM + trained_copies(config))


def staged_bytes(
    tables: Iterable[PlannedTable],
    trained: frozenset[str],
    module: nn.Module,
    config: TrainConfig,
    rank: int,
) -> int:
    """A rank's copy, in host memory, of what a checkpoint holds: weights, copies, two moments."""
    copies = 1 + trained_copies(config) + (_ADAM - 1)
    part = sum(
        s.rows * s.columns
        for table in tables
        if table.name in trained
        for s in table.shards
        if s.rank == rank
    )
    return copies * (part * _FLOAT + mlp_bytes(module, config) // (copies + 1))


def attribute_bytes(sizes: Sizes) -> int:
    """Attribute values, whole on every rank: a length, a start and at least one code an id."""

    def side(rows: int, attributes: tuple[PlannedAttribute, ...]) -> int:
        return rows * len(attributes) * (4 + 8 + 8)

    return side(sizes.users, sizes.user_attributes) + side(sizes.items, sizes.item_attributes)


def row_bytes(experiment: Experiment, sizes: Sizes, machines: Machines) -> int:
    """A GPU's share of D_sel's rows, or a part of them where they are streamed; 0 on CPU.

    With ``train.exclude_known`` what all users took in training, too, on every GPU.
    """
    if machines.device == "cpu":
        return 0
    total = wanted_rows(experiment.select, sizes.interactions) if sizes.interactions else 0
    rows, train = -(-total // machines.world_size), experiment.train
    by_example = experiment.history.length or len(experiment.context.features)
    if experiment.loader.streams(total, by_example):
        rows = min(rows, ROWS_AT_ONCE)
    known = 0
    if train.exclude_known:  # each item, and for pairs also the weight before it
        each = _ITEM + _WEIGHT * (train.loss == "binary")
        known = each * sizes.interactions + _POINTER * sizes.users
    return ROW_BYTES * rows + known


def validation_bytes(sizes: Sizes, width: int, machines: Machines) -> int:
    """Vectors that a rank holds while it ranks (`evaluation/sharded.py`).

    Its shares of the users' and of the items', and on CPU the latter's transpose.

    Args:
        sizes: ids of both sides.
        width: of a vector.
        machines: how many share them, and whether they are GPUs.
    """
    user, item = (-(-rows // machines.world_size) for rows in (sizes.users, sizes.items))
    return (user + item * (1 + (machines.device == "cpu"))) * width * _FLOAT
