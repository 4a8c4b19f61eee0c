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
from cadc_rec.models.features import worth_padding
from cadc_rec.planning.sizes import Machines, PlannedAttribute, Sizes
from cadc_rec.training.batches.source import ROW_BYTES, ROWS_AT_ONCE, too_many_marks

_FLOAT = 4
_ITEM, _WEIGHT, _POINTER, _TIME = 4, 8, 8, 8
_CODE, _LENGTH, _AGE = 8, 4, 4
_ADAM = 3  # gradient and two moments, as large as the weights themselves


def trained_copies(config: TrainConfig) -> int:
    """Copies of a trained weight that training keeps: the best epoch's, the moving average."""
    return 1 + (config.average_epochs > 0)


def state_of_tables(
    tables: Iterable[PlannedTable], trained: frozenset[str], config: TrainConfig, rank: int
) -> int:
    """What is kept of a rank's parts of trained tables, beside the weights.

    A fused optimizer's state is in the planner's own figure. The moving average notes of each row
    how old it is, unless all rows change in every step.
    """
    copies = trained_copies(config)
    total = 0
    for table in tables:
        if table.name in trained:
            all_change = table.sharding == "data_parallel"
            shards = [s for s in table.shards if s.rank == rank]
            part = sum(s.rows * s.columns for s in shards)
            total += (copies + _ADAM * all_change) * part * _FLOAT
            if config.average_epochs and not all_change:
                total += sum(s.rows for s in shards) * _AGE
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
    on_gpu: bool,
) -> int:
    """A rank's copy, in host memory, of what a checkpoint holds: weights, copies, moments.

    Two moments of an element; of a row one number where the optimizer is fused on CPU.
    """
    copies, moments = 1 + trained_copies(config), _ADAM - 1
    total = (copies + moments) * (mlp_bytes(module, config) // (copies + _ADAM))
    for table in tables:
        if table.name in trained:
            divided = table.sharding != "data_parallel"
            for shard in table.shards:
                if shard.rank == rank:
                    by_row = divided and not on_gpu
                    elements = shard.rows * shard.columns
                    total += copies * elements * _FLOAT
                    total += (shard.rows if by_row else moments * elements) * _FLOAT
                    total += shard.rows * _AGE * (divided and config.average_epochs > 0)
    return total


def attribute_bytes(sizes: Sizes, device: str) -> int:
    """Attribute values, whole on every rank, as `SideFeatures` holds them there.

    A length, a start, and every code; or on a GPU codes padded to the longest row, and where rows
    differ or have several also a weight for each.
    """

    def side(ids: int, attributes: tuple[PlannedAttribute, ...]) -> int:
        if not attributes:
            return 0
        rows, values = ids * len(attributes), sum(ids * a.each for a in attributes)
        longest = max(1, *(a.longest for a in attributes))
        if device == "cuda" and worth_padding(rows, values, longest):
            one_each = longest == 1 and all(a.each == 1 for a in attributes)
            return rows * longest * (_CODE + (0 if one_each else _FLOAT))
        return rows * (_LENGTH + _POINTER) + round(values) * _CODE

    return side(sizes.users, sizes.user_attributes) + side(sizes.items, sizes.item_attributes)


def row_bytes(experiment: Experiment, sizes: Sizes, machines: Machines) -> int:
    """What makes a GPU's steps there, as `DeviceBatches` holds it; 0 where the host makes them.

    Its share of D_sel's rows, or a part of them where they are streamed; what negatives are drawn
    from; and with ``train.exclude_known`` what all users took in training, on every GPU.
    """
    if machines.device == "cpu":
        return 0
    total = wanted_rows(experiment.select, sizes.interactions) if sizes.interactions else 0
    share, train = -(-total // machines.world_size), experiment.train
    by_example = experiment.history.length or len(experiment.context.features)
    streamed = experiment.loader.streams(total, by_example)
    held = ROW_BYTES * (min(share, ROWS_AT_ONCE) if streamed else share)
    distribution, pairs = experiment.negatives.distribution, train.loss == "binary"
    if distribution == "popularity" or (pairs and train.exclude_known):
        held += _POINTER * (sizes.items + 1)  # where each item's stretch ends
    if distribution == "alive":
        held += _TIME * (2 * sizes.items + share)
    if not train.exclude_known:
        return held
    held += _ITEM * sizes.interactions + _POINTER * (sizes.users + 1)
    if pairs:  # what lies before each item, and what each user leaves to draw from
        return held + _WEIGHT * (sizes.interactions + sizes.users)
    step = -(-min(train.sized(total).batch_size, total) // machines.world_size)
    on_average = sizes.interactions / max(1, sizes.users)  # who has most is not known
    by_host = too_many_marks(
        _candidates(experiment), step, sizes.items, train.shared_negatives, on_average
    )
    return 0 if by_host else held


def _candidates(experiment: Experiment) -> str:
    """What a softmax's candidates are, as `SoftmaxBatches` calls it."""
    if experiment.train.loss == "softmax":
        return "all"
    if experiment.train.loss == "in-batch-softmax":
        return "in-batch"
    return "mixed" if experiment.negatives.distribution == "mixed" else "sampled"


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
