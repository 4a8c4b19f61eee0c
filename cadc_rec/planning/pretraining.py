"""What pre-training holds on each of the processes that are planned for.

In: settings, sizes, machines. Out: where its tables lie, the bytes of a process, and a
sentence for what does not fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cadc_rec.config.experiment import PretrainConfig
from cadc_rec.planning.memory import validation_bytes
from cadc_rec.planning.remedies import in_units
from cadc_rec.planning.sizes import Machines, Sizes
from cadc_rec.pretrain.factor_tables import Extent, block_rows, partitions

_FLOAT = 4


@dataclass(frozen=True)
class PretrainPlan:
    """Of one process.

    Attributes:
        model: ``pretrain.model``.
        tables: ``replicated`` or ``partitioned``.
        training: the most that it holds while it trains.
        validation: what it holds while the result is ranked.
        interactions: the part of `training` that grows with their number; 0 if it is not known.
        dealable: whether several processes could each hold their own rows.
    """

    model: str
    tables: str
    training: int
    validation: int
    interactions: int = 0
    dealable: bool = False

    @property
    def most(self) -> int:
        """The most that it holds at any time."""
        return max(self.training, self.validation)

    def problems(
        self, factors: int, reserve: float, sizes: Sizes, machines: Machines
    ) -> Iterator[str]:
        """A sentence where it does not fit.

        Args:
            factors: of ``[pretrain]``; a row has one element more.
            reserve: share of the memory that stays free.
            sizes: rows of both tables.
            machines: the processes.
        """
        usable = machines.usable(reserve)
        if self.most <= usable:
            return
        width = factors + 1
        needs = in_units(int(self.most / (1 - reserve)))
        if self.tables == "partitioned":
            part = "train" if self.training >= self.validation else "rank"
            yield (
                f"pretrain: each process holds up to {in_units(self.most)} to {part}, more than "
                f"the {in_units(usable)} it may fill; use more processes, fewer rows, fewer "
                f"pretrain.factors, or {needs} of memory for each process."
            )
            return
        whole = (sizes.users + sizes.items) * width * 4
        deal = "set compute.mf_tables = 'partitioned', or " if self.dealable else ""
        change = f"more processes do not help: {deal}use"
        if self.dealable and machines.world_size == 1:  # on one there is nothing to deal
            change = "use more processes,"
        yield (
            f"pretrain: each process holds both tables whole ({sizes.users:,} users and "
            f"{sizes.items:,} items x {width} fp32 = {in_units(whole)}) and with the solver's "
            f"working copies {in_units(self.most)}, more than the {in_units(usable)} it may fill; "
            f"{change} fewer rows, fewer pretrain.factors, or {needs} of memory for each process."
        )


def plan_pretraining(
    config: PretrainConfig, mf_tables: str, reserve: float, sizes: Sizes, machines: Machines
) -> PretrainPlan | None:
    """The plan of ``pretrain.model``; None where it has nothing to lay out.

    Args:
        config: the model and its width.
        mf_tables: ``compute.mf_tables``.
        reserve: share of the memory that stays free.
        sizes: rows of both tables.
        machines: the processes.
    """
    if config.model in ("none", "popularity"):
        return None
    width = config.factors + 1
    extent = Extent(sizes.users, sizes.items, width, machines.world_size)
    both = (sizes.users + sizes.items) * width * 4
    ranked = validation_bytes(sizes, width + 1, machines)
    entries = sizes.interactions // machines.world_size
    index = 4 if entries < 2**31 else 8
    if config.model == "mlp":  # replicated, with a gradient and Adam's moments
        return PretrainPlan("mlp", "replicated", 4 * both, 0)
    usable = (1 - reserve) * machines.memory
    if config.model == "als":
        # Columns and values of both orders; two arrays of products while a side is solved.
        kept = 2 * entries * (index + 2 * _FLOAT)
        training = kept + 2 * entries * _FLOAT
        if partitions(mf_tables, "squares", extent, usable):
            fetched = extent.partitioned_bytes(block_rows(machines.memory, width), copies=2)
            own = both // machines.world_size
            return PretrainPlan(
                "als", "partitioned", fetched + training, own + ranked + kept, training
            )
        held = extent.squares_bytes() + training
        return PretrainPlan(
            "als", "replicated", held, both + ranked + kept, training, dealable=True
        )
    divided = partitions(mf_tables, config.loss, extent, usable)
    kept = 2 * entries * index  # the other side's row of each interaction, in both orders
    training = kept + _drawn(config, entries, index, divided, machines)
    if divided:
        held = extent.partitioned_bytes(block_rows(machines.memory, width))
        own = 4 * both // machines.world_size
    else:
        held = extent.replicated_bytes()
        own = both + 3 * both // machines.world_size
    tables = "partitioned" if divided else "replicated"
    return PretrainPlan("mf", tables, held + training, own + ranked + kept, training, dealable=True)


def _drawn(
    config: PretrainConfig, entries: int, index: int, divided: bool, machines: Machines
) -> int:
    """What matrix factorization keeps of an epoch's negatives, or of a softmax's interactions."""
    if config.loss == "softmax":
        return 2 * entries * _FLOAT  # a one for each interaction, in both orders
    # A kernel on CUDA draws them itself, but where the rows to fetch must be known; and those of
    # the items want the users of all ranks' interactions (`pretrain/alternating.py`).
    if machines.device == "cuda" and not divided and machines.world_size == 1:
        return 0
    return entries * config.negatives * index
