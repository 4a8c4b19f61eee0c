"""The plan of matrix factorization and two towers, on processes that need not exist.

In: an experiment, sizes, a number of processes and what memory each has. Out: an `ExperimentPlan`:
shards, memory and estimated cost of each rank, and what does not fit, with what would.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cadc_rec.config.experiment import Experiment, ShardingConfig
from cadc_rec.distributed.planner import DoesNotFitError, PlannedTable
from cadc_rec.distributed.sharding import refuse_communication
from cadc_rec.planning import memory
from cadc_rec.planning.layout import RankMemory, plan_towers, rank_memory, two_towers
from cadc_rec.planning.pretraining import PretrainPlan, plan_pretraining
from cadc_rec.planning.remedies import in_units, what_would_fit
from cadc_rec.planning.sizes import Machines, Sizes
from cadc_rec.planning.stages import host_by_stage


@dataclass(frozen=True)
class ExperimentPlan:
    """The result of `plan_experiment`.

    Attributes:
        sharding: the settings of the plan.
        sizes: rows and attributes of both sides.
        machines: the processes.
        tables: the tables of the two towers; empty without towers, or if no plan fits.
        frozen: names of the tables that never change and have no backward pass.
        ranks: the memory of each rank.
        validation: further bytes that every rank holds while it validates.
        pretrain: the plan of pre-training; None without pre-training.
        stages: bytes of host memory by stage: see `host_by_stage`.
        problems: a sentence for each thing that does not fit.
    """

    sharding: ShardingConfig
    sizes: Sizes
    machines: Machines
    tables: list[PlannedTable]
    frozen: frozenset[str]
    ranks: list[RankMemory]
    validation: int
    pretrain: PretrainPlan | None
    stages: dict[str, int]
    problems: list[str]

    def notes(self) -> Iterator[str]:
        """What fits, and could be better."""
        kept = [table for table in self.tables if table.name in self.frozen]
        used = {shard.rank for table in kept for shard in table.shards}
        chosen = self.machines.device == "cuda" and self.sharding.frozen == "auto"
        if chosen and 0 < len(used) < self.machines.world_size:
            yield (
                f"frozen tables lie on {len(used)} of {self.machines.world_size} GPUs, which "
                "answer all of their lookups; sharding.frozen = 'row_wise' spreads them over "
                "all: compare the estimated cost of a step."
            )

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
    reserve, mf_tables = experiment.sharding.reserve, experiment.compute.mf_tables
    pretrain = plan_pretraining(experiment.pretrain, mf_tables, reserve, sizes, machines)
    if pretrain is not None:
        problems += pretrain.problems(experiment.pretrain.factors, reserve, sizes, machines)
    tables: list[PlannedTable] = []
    frozen: frozenset[str] = frozenset()
    ranks: list[RankMemory] = []
    validation, module = 0, None
    if experiment.model.kind == "two_tower":
        module, rules, frozen = two_towers(experiment, sizes, machines)
        try:
            tables = plan_towers(
                experiment.sharding, experiment.train.most_positives, module, rules, machines
            )
            ranks = rank_memory(experiment, sizes, module, tables, frozen, machines)
        except DoesNotFitError:

            def fits(sharding: ShardingConfig, machines: Machines) -> bool:
                return _fits(experiment.model_copy(update={"sharding": sharding}), sizes, machines)

            id_dim = experiment.model.id_dim
            problems.append(
                what_would_fit(experiment.sharding, id_dim, sizes, machines, frozen, fits)
            )
        width = module.vector_width()
        validation = memory.validation_bytes(sizes, width, machines)
        problems += _beside_tables(ranks, validation, width, sizes, experiment, machines)
    stages = host_by_stage(experiment, sizes, machines, pretrain, module, ranks, validation)
    return ExperimentPlan(
        experiment.sharding,
        sizes,
        machines,
        tables,
        frozen,
        ranks,
        validation,
        pretrain,
        stages,
        problems,
    )


def _fits(experiment: Experiment, sizes: Sizes, machines: Machines) -> bool:
    """Whether the towers' tables have a plan, and each rank has room for what training holds.

    The copy of a checkpoint is part of that; validation has a sentence of its own.
    """
    module, rules, frozen = two_towers(experiment, sizes, machines)
    positives, width = experiment.train.most_positives, module.vector_width()
    try:
        tables = plan_towers(experiment.sharding, positives, module, rules, machines)
    except DoesNotFitError:
        return False
    ranks = rank_memory(experiment, sizes, module, tables, frozen, machines)
    return not any(_beside_tables(ranks, 0, width, sizes, experiment, machines))


def _beside_tables(
    ranks: list[RankMemory],
    validation: int,
    width: int,
    sizes: Sizes,
    experiment: Experiment,
    machines: Machines,
) -> Iterator[str]:
    """Sentences on what does not fit although the tables do."""
    usable = machines.usable(experiment.sharding.reserve)
    fullest = max(ranks, key=lambda rank: rank.total, default=None)
    if fullest is not None and fullest.total - fullest.rows <= usable < fullest.total:
        others = in_units(fullest.total - fullest.rows)
        yield (
            f"train: rank {fullest.rank} holds {in_units(fullest.rows)} of D_sel's rows and of "
            f"what users know beside {others} of all else, more than the {in_units(usable)} it may "
            f"fill; {_fewer_rows(experiment)}use more processes."
        )
    elif fullest is not None and fullest.total > usable:
        yield (
            f"train: rank {fullest.rank} holds {in_units(fullest.tables)} of tables and "
            f"{in_units(fullest.total - fullest.tables)} besides (optimizer state and copies of "
            f"trained tables, MLPs, attributes), more than the {in_units(usable)} it may fill; "
            f"{_spread(experiment)}use more processes."
        )
    most = max(ranks, key=lambda rank: _of_host(rank, machines), default=None)
    if most is not None and most.staged and _of_host(most, machines) > machines.host_bytes:
        beside = in_units(_of_host(most, machines) - most.staged)
        yield (
            f"train: rank {most.rank} copies {in_units(most.staged)} to host memory for each "
            f"checkpoint, beside {beside} that it holds there, more than the "
            f"{in_units(machines.host_bytes)} it has; use more processes, or more host memory "
            "(--ddr), or save nothing on the way (checkpoint.every_seconds = 0, every_epochs = 0)."
        )
    held = validation + (fullest.total if fullest is not None else 0)
    if held > machines.memory:
        yield (
            f"validation: each process holds the vectors of its shares of the {sizes.users:,} "
            f"users and {sizes.items:,} items, {width} fp32 each "
            f"({in_units(validation)} besides the tables), more than the "
            f"{in_units(machines.memory)} it has; use more processes or a smaller last width of "
            "model.tower."
        )


def _of_host(rank: RankMemory, machines: Machines) -> int:
    """Bytes of host memory that a rank holds while it trains."""
    return rank.staged + (rank.host if machines.device == "cuda" else rank.total)


def _fewer_rows(experiment: Experiment) -> str:
    """What would hold fewer rows of D_sel and of what users know, and is not set yet."""
    changes = []
    by_example = experiment.history.length or len(experiment.context.features)
    if experiment.loader.kind != "stream" and not by_example:
        changes.append("loader.kind = 'stream', which holds a part of the rows at a time, or ")
    if experiment.train.exclude_known:
        changes.append("train.exclude_known = false, or ")
    return "set " + "".join(changes) if changes else ""


def _spread(experiment: Experiment) -> str:
    """What would spread trained tables, where it is not set yet."""
    set_already = experiment.sharding.trainable == "auto"
    return "" if set_already else "set sharding.trainable = 'auto', or "
