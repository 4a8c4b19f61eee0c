"""The plan of an experiment's matrix factorization and two towers, on processes that need not be.

In: an experiment, sizes, a number of processes and what memory each has. Out: an `ExperimentPlan`:
shards, memory and estimated cost of each rank, and what does not fit, with what would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cadc_rec.config import Experiment, ShardingConfig
from cadc_rec.distributed.planner import (
    DoesNotFitError,
    PlannedTable,
    TableRule,
    make_planner,
    plan_tables,
)
from cadc_rec.distributed.sharding import refuse_communication
from cadc_rec.models.history import usable_windows
from cadc_rec.models.tower import SideSpec
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.planning import memory
from cadc_rec.planning.sizes import Sizes
from cadc_rec.training.optimizers import fuse_table_optimizer
from cadc_rec.training.table_rules import table_rules

_INT8_ROW = 4  # bytes of a row's scale and shift
_MOST_PROCESSES = 512  # tried when looking for a number that fits


@dataclass(frozen=True)
class Machines:
    """The processes that are planned for.

    Attributes:
        world_size: in all.
        local_world_size: a node.
        device: ``cuda`` or ``cpu``.
        device_bytes: memory of each GPU; 0 on CPU.
        host_bytes: host memory of each process.
    """

    world_size: int
    local_world_size: int
    device: str
    device_bytes: int
    host_bytes: int

    def usable(self, reserve: float) -> int:
        """What tables and their state may fill of each process."""
        whole = self.device_bytes if self.device == "cuda" else self.host_bytes
        return int(whole * (1 - reserve))


@dataclass(frozen=True)
class RankMemory:
    """What one rank holds, in bytes: on its GPU, but for `host`; on CPU all of it is the host's."""

    rank: int
    tables: int
    host: int
    state: int
    mlps: int
    attributes: int

    @property
    def total(self) -> int:
        """On the device the model runs on."""
        return self.tables + self.state + self.mlps + self.attributes


@dataclass(frozen=True)
class ExperimentPlan:
    """What `plan_experiment` found.

    Attributes:
        tables: of the two towers; empty where no plan fits, or where there are none.
        frozen: names of the tables that never change: they have no backward pass.
        ranks: what each holds.
        validation: bytes that every rank holds while it validates, beside the above.
        pretrain: what a rank holds at most in pre-training, by what it is; None without.
        problems: a sentence for each thing that does not fit.
    """

    experiment: Experiment
    sizes: Sizes
    machines: Machines
    tables: list[PlannedTable]
    frozen: frozenset[str]
    ranks: list[RankMemory]
    validation: int
    pretrain: int | None
    problems: list[str]

    def cost(self) -> tuple[float, float]:
        """Estimated milliseconds a step of the slowest rank: forward, backward."""
        forward = [0.0] * self.machines.world_size
        backward = [0.0] * self.machines.world_size
        for table in self.tables:
            for shard in table.shards:
                forward[shard.rank] += shard.forward_ms
                if table.name not in self.frozen:
                    backward[shard.rank] += shard.backward_ms
        return max(forward, default=0.0), max(backward, default=0.0)


def plan_experiment(experiment: Experiment, sizes: Sizes, machines: Machines) -> ExperimentPlan:
    """Plan pre-training and training.

    Raises:
        CadcError: settings that the device cannot run.
    """
    refuse_communication(experiment.sharding, machines.device)
    problems: list[str] = []
    pretrain = _pretrain_bytes(experiment, sizes, machines)
    reserve = experiment.sharding.reserve
    usable = machines.usable(reserve)
    if pretrain is not None and pretrain > usable:
        width = experiment.pretrain.factors + 1
        whole = (sizes.users + sizes.items) * width * 4
        problems.append(
            f"pretrain: each process holds both tables whole ({sizes.users:,} users and "
            f"{sizes.items:,} items x {width} fp32 = {in_units(whole)}) and with the solver's "
            f"working copies {in_units(pretrain)}, more than the {in_units(usable)} it may fill; "
            "more processes do not help: it takes fewer rows, fewer pretrain.factors, or "
            f"{in_units(int(pretrain / (1 - reserve)))} of memory for each process."
        )
    tables: list[PlannedTable] = []
    frozen: frozenset[str] = frozenset()
    ranks: list[RankMemory] = []
    validation = 0
    if experiment.model.kind == "two_tower":
        module, rules, frozen = _two_towers(experiment, sizes, machines)
        try:
            tables = _plan(experiment, module, rules, machines)
            ranks = _rank_memory(experiment, sizes, module, tables, frozen, machines)
        except DoesNotFitError:
            problems.append(_what_would_fit(experiment, sizes, machines, module, frozen))
        validation = memory.validation_bytes(sizes, experiment.model.tower[-1], machines.world_size)
        problems += _beside_tables(ranks, validation, sizes, experiment, machines)
    return ExperimentPlan(
        experiment, sizes, machines, tables, frozen, ranks, validation, pretrain, problems
    )


def _pretrain_bytes(experiment: Experiment, sizes: Sizes, machines: Machines) -> int | None:
    config, world_size = experiment.pretrain, machines.world_size
    if config.model in ("none", "popularity"):
        return None
    width = config.factors + 1
    if config.model == "mf":
        return memory.factorization_bytes(sizes, width, world_size)
    both = (sizes.users + sizes.items) * width * 4
    if config.model == "mlp":  # replicated, with a gradient and Adam's moments
        return 4 * both
    return both + max(sizes.users, sizes.items) * width * 4  # ALS: the side it solves, twice


def _two_towers(
    experiment: Experiment, sizes: Sizes, machines: Machines
) -> tuple[TwoTower, dict[str, TableRule], frozenset[str]]:
    """The model of `build_model` with every table on the meta device; rules; frozen tables."""
    transition = experiment.transitions.dim if experiment.transitions.window else 0
    history = experiment.history
    model = TwoTower(
        SideSpec("user", sizes.users, sizes.user_attributes),
        SideSpec("item", sizes.items, sizes.item_attributes, transition),
        experiment.model,
        torch.device("meta"),
        usable_windows(history.windows, history.length) if history.length else (),
    )
    fuse_table_optimizer(model, experiment.train, experiment.sharding.trainable)
    rules = table_rules(model, experiment.sharding, machines.world_size)
    frozen = model.frozen_tables()
    for table in frozen.values():
        if experiment.sharding.frozen_storage == "fp16":
            table.store_as_half()
        elif experiment.sharding.frozen_storage == "int8":
            _store_as_int8(table.table)
    return model, rules, frozenset(table.name for table in frozen.values())


def _store_as_int8(collection: nn.Module) -> None:
    """Let the planner see rows of bytes, each with its scale and shift."""
    for child in collection.modules():
        if isinstance(child, nn.EmbeddingBag):
            rows, width = child.weight.shape
            bytes_of_rows = torch.empty(rows, width + _INT8_ROW, dtype=torch.uint8, device="meta")
            child.weight = nn.Parameter(bytes_of_rows, requires_grad=False)


def _plan(
    experiment: Experiment, module: TwoTower, rules: dict[str, TableRule], machines: Machines
) -> list[PlannedTable]:
    config = experiment.sharding
    caps = {"ddr_cap": machines.host_bytes}
    if machines.device == "cuda":
        caps["hbm_cap"] = machines.device_bytes

    def planner_for(stats: Any) -> Any:
        return make_planner(
            module,
            rules,
            machines.device,
            machines.world_size,
            min(machines.local_world_size, machines.world_size),
            config.batch_size or experiment.train.batch_size,
            caps,
            config.reserve,
            stats,
        )

    return plan_tables(module, planner_for, config.communication)


def _rank_memory(
    experiment: Experiment,
    sizes: Sizes,
    module: TwoTower,
    tables: list[PlannedTable],
    frozen: frozenset[str],
    machines: Machines,
) -> list[RankMemory]:
    on_gpu = machines.device == "cuda"
    trained = frozenset(table.name for table in tables) - frozen
    mlps = memory.mlp_bytes(module, experiment)
    attributes = memory.attribute_bytes(sizes)
    ranks = []
    for rank in range(machines.world_size):
        shards = [s for table in tables for s in table.shards if s.rank == rank]
        on_device, on_host = (
            sum(getattr(s, kind) for s in shards) for kind in ("device_bytes", "host_bytes")
        )
        ranks.append(
            RankMemory(
                rank=rank,
                tables=on_device if on_gpu else on_host,
                host=on_host if on_gpu else 0,
                state=memory.state_of_tables(tables, trained, experiment, rank),
                mlps=mlps,
                attributes=attributes,
            )
        )
    return ranks


def _beside_tables(
    ranks: list[RankMemory],
    validation: int,
    sizes: Sizes,
    experiment: Experiment,
    machines: Machines,
) -> Iterator[str]:
    """Sentences on what does not fit although the tables do."""
    usable = machines.usable(experiment.sharding.reserve)
    fullest = max(ranks, key=lambda rank: rank.total, default=None)
    if fullest is not None and fullest.total > usable:
        yield (
            f"train: rank {fullest.rank} holds {in_units(fullest.tables)} of tables and "
            f"{in_units(fullest.total - fullest.tables)} beside them (optimizer state and copies "
            f"of trained tables, MLPs, attributes), more than the {in_units(usable)} it may fill; "
            "set sharding.trainable = 'auto', or use more processes."
        )
    whole = machines.device_bytes if machines.device == "cuda" else machines.host_bytes
    held = validation + (fullest.total if fullest is not None else 0)
    if held > whole:
        yield (
            f"validation: each process holds the vectors of all {sizes.users:,} users and "
            f"{sizes.items:,} items, {experiment.model.tower[-1]} fp32 each, and gathers the "
            f"users' ({in_units(validation)} beside the tables), more than the "
            f"{in_units(whole)} it has; more processes do not help: it takes fewer rows or a "
            "smaller last width of model.tower."
        )


def _what_would_fit(
    experiment: Experiment,
    sizes: Sizes,
    machines: Machines,
    module: TwoTower,
    frozen: frozenset[str],
) -> str:
    """One sentence: the largest table, what there is, and each change that makes a plan."""
    bits = {"fp32": 4, "fp16": 2, "int8": 1}

    def size(name: str, rows: int, width: int) -> tuple[int, str]:
        storage = experiment.sharding.frozen_storage if name in frozen else "fp32"
        row = width * bits[storage] + (_INT8_ROW if storage == "int8" else 0)
        return rows * row, f"{name} ({rows:,} x {width} {storage} = {in_units(rows * row)})"

    main = {
        name: size(name, rows, experiment.model.id_dim)
        for name, rows in (("user", sizes.users), ("item", sizes.items))
    }
    names = " and ".join(text for _, text in main.values())
    usable = machines.usable(experiment.sharding.reserve)
    changes = [
        text
        for text, changed, on in _candidates(experiment, machines, bool(frozen))
        if _fits(changed, sizes, on)
    ]
    group = "frozen" if frozen else "trainable"
    for text, changed in _spread(experiment, group, machines):
        more = _enough_processes(changed, sizes, machines)
        if more:
            changes.append(f"--world-size {more}{text}")
            break
    cure = (
        f"what would fit, each by itself: {'; '.join(changes)}."
        if changes
        else "no other storage, kernel or number of processes that was tried would fit either."
    )
    what = "GPUs" if machines.device == "cuda" else "processes"
    return (
        f"train: tables {names} have no plan on {machines.world_size} {what} that may each fill "
        f"{in_units(usable)} ({in_units(usable * machines.world_size)} in all) and "
        f"{in_units(machines.host_bytes)} of host memory; {cure}"
    )


def _candidates(
    experiment: Experiment, machines: Machines, frozen: bool
) -> Iterator[tuple[str, Experiment, Machines]]:
    """Changes of settings that may make a plan: how they are written, and what results."""
    config = experiment.sharding
    group = "frozen" if frozen else "trainable"

    for text, free in _freed(experiment, group, machines):
        yield text, free, machines
    if frozen:
        for storage in ("fp16", "int8"):
            if storage != config.frozen_storage and config.frozen_storage != "int8":
                text = f"sharding.frozen_storage = '{storage}'"
                yield text, _changed(experiment, frozen_storage=storage), machines
    if machines.device == "cuda":
        kinds = getattr(config, group)
        kind = "row_wise" if kinds in ("auto", "data_parallel") else kinds
        for kernel in ("fused_uvm_caching", "fused_uvm"):
            if getattr(config, f"{group}_kernel") != kernel:
                settings = {group: kind, f"{group}_kernel": kernel}
                text = " with ".join(f"sharding.{k} = '{v}'" for k, v in settings.items())
                yield text, _changed(experiment, **settings), machines


def _changed(experiment: Experiment, **settings: Any) -> Experiment:
    """The experiment with other ``[sharding]`` settings."""
    new: ShardingConfig = experiment.sharding.model_copy(update=settings)
    return experiment.model_copy(update={"sharding": new})


def _freed(
    experiment: Experiment, group: str, machines: Machines
) -> Iterator[tuple[str, Experiment]]:
    """The experiment with its `group` of tables laid as the planner likes, then row by row.

    The planner does not know what training keeps beside a table, and may choose one node for it.
    """
    kernel = f"{group}_kernel"
    for kind in ("auto", "row_wise") if machines.device == "cuda" else ("auto",):
        if (getattr(experiment.sharding, group), getattr(experiment.sharding, kernel)) != (
            kind,
            "auto",
        ):
            free = _changed(experiment, **{group: kind, kernel: "auto"})
            yield f"sharding.{group} = '{kind}'", free


def _spread(
    experiment: Experiment, group: str, machines: Machines
) -> Iterator[tuple[str, Experiment]]:
    """What to try on more processes: the experiment as it is, then laid otherwise."""
    if getattr(experiment.sharding, group) != "data_parallel":  # each has all of it, however many
        yield "", experiment
    # Row by row first: it is the likelier, and the other takes seconds on hundreds of processes.
    for text, free in reversed(list(_freed(experiment, group, machines))):
        yield f" with {text}", free


def _enough_processes(experiment: Experiment, sizes: Sizes, machines: Machines) -> int | None:
    """The smallest doubling of the number of processes that has a plan."""
    count = machines.world_size * 2
    while count <= _MOST_PROCESSES:
        if _fits(experiment, sizes, replace(machines, world_size=count)):
            return count
        count *= 2
    return None


def _fits(experiment: Experiment, sizes: Sizes, machines: Machines) -> bool:
    module, rules, frozen = _two_towers(experiment, sizes, machines)
    try:
        tables = _plan(experiment, module, rules, machines)
    except DoesNotFitError:
        return False
    ranks = _rank_memory(experiment, sizes, module, tables, frozen, machines)
    return max(rank.total for rank in ranks) <= machines.usable(experiment.sharding.reserve)


def in_units(size: float) -> str:
    """Bytes as people write them, in powers of 1024.

    >>> in_units(384_000_000_000)
    '357.6 GiB'
    """
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:,.0f} B" if unit == "B" else f"{size:,.1f} {unit}"
