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
from cadc_rec.pretrain.held_rows import held_rows


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
    if config.model == "mlp":
        # Its own rows with a gradient and Adam's moments; rows of a step and their gradients, as
        # they are fetched and, on average over the ranks, as many that others fetch.
        world, step = machines.world_size, config.mlp.batch_size
        pairs = step * (1 + config.mlp.negatives) // world
        looked_up = min(sizes.users, step // world) + min(sizes.items, pairs)
        fetched = 4 * looked_up * width * 4 if world > 1 else 0
        tables = "partitioned" if world > 1 else "replicated"
        return PretrainPlan("mlp", tables, 4 * both // world + fetched, 0, dealable=True)
    extents, on_gpu = (sizes.users, sizes.items), machines.device == "cuda"
    rows = held_rows(config, sizes.interactions, extents, machines.world_size, on_gpu)
    loss = "squares" if config.model == "als" else config.loss
    usable = (1 - reserve) * machines.memory - rows.training
    divided = partitions(mf_tables, loss, extent, usable)
    # Beside its own rows: what they are solved for; or a gradient and Adam's moments, to the end.
    more, left = (1, 0) if config.model == "als" else (3, 3)
    if divided:
        held = extent.partitioned_bytes(block_rows(machines.memory, width), 1 + more)
        own = both // machines.world_size
    else:
        held = extent.squares_bytes() if more == 1 else extent.replicated_bytes()
        own = both
    own += left * both // machines.world_size
    tables = "partitioned" if divided else "replicated"
    ranking = own + ranked + rows.kept
    return PretrainPlan(
        config.model, tables, held + rows.training, ranking, rows.training, dealable=True
    )
