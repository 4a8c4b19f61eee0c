"""What a process holds beside the planner's tables, in bytes.

The planner knows the tables and what their lookups send and receive. The rest is ours: what an
optimizer and the best epoch keep of everything trained, MLPs, attributes, and the vectors that
validation ranks.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torchrec import EmbeddingBagCollection

from cadc_rec.config.experiment import TrainConfig
from cadc_rec.distributed.planner import PlannedTable
from cadc_rec.planning.sizes import Machines, PlannedAttribute, Sizes

_FLOAT = 4
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


def attribute_bytes(sizes: Sizes) -> int:
    """Attribute values, whole on every rank: a length, a start and at least one code an id."""

    def side(rows: int, attributes: tuple[PlannedAttribute, ...]) -> int:
        return rows * len(attributes) * (4 + 8 + 8)

    return side(sizes.users, sizes.user_attributes) + side(sizes.items, sizes.item_attributes)


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
