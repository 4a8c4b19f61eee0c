"""The two towers' tables on processes that need not exist: shards, and what each rank holds.

In: an experiment, sizes, a number of processes and what memory each has. Out: TorchRec's plan for
the very model that training would build, and bytes by rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cadc_rec.config.experiment import Experiment, ShardingConfig
from cadc_rec.distributed.planner import PlannedTable, TableRule, make_planner, plan_tables
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.tower import SideSpec
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.planning import memory
from cadc_rec.planning.sizes import Machines, Sizes
from cadc_rec.training.tables import fuse_table_optimizer, table_rules

INT8_ROW = 4  # bytes of a row's scale and shift


@dataclass(frozen=True)
class RankMemory:
    """What one rank holds, in bytes: on its GPU, but for `host`; on CPU all of it is the host's."""

    rank: int
    tables: int
    host: int
    state: int
    mlps: int
    attributes: int
    rows: int
    staged: int = 0
    """Always the host's: the copy that a checkpoint is written from."""

    @property
    def total(self) -> int:
        """On the device the model runs on."""
        return self.tables + self.state + self.mlps + self.attributes + self.rows


def two_towers(
    experiment: Experiment, sizes: Sizes, machines: Machines
) -> tuple[TwoTower, dict[str, TableRule], frozenset[str]]:
    """The model of `build_model` with every table on the meta device; rules; frozen tables."""
    transitions = experiment.transitions
    lists = bool(transitions.window) and transitions.form == "lists"
    known = ["lists"] * lists + ["recent"] * (experiment.prior.use and experiment.prior.recent)
    transition = transitions.dim if transitions.window and not lists else 0
    gram = torch.empty(experiment.model.id_dim, experiment.model.id_dim, device="meta")
    model = TwoTower(
        SideSpec("user", sizes.users, sizes.user_attributes, dense=sizes.user_dense),
        SideSpec("item", sizes.items, sizes.item_attributes, transition, dense=sizes.item_dense),
        experiment.model,
        torch.device("meta"),
        experiment.history,
        HistoryPrior(gram, experiment.prior) if experiment.prior.use else None,
        [1.0] * (1 + bool(transition) + len(known)),
        known,
    )
    kind = experiment.sharding.trainable
    fuse_table_optimizer(model, experiment.train, kind, machines.device)
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
            bytes_of_rows = torch.empty(rows, width + INT8_ROW, dtype=torch.uint8, device="meta")
            child.weight = nn.Parameter(bytes_of_rows, requires_grad=False)


def plan_towers(
    config: ShardingConfig,
    positives: int,
    module: TwoTower,
    rules: dict[str, TableRule],
    machines: Machines,
) -> list[PlannedTable]:
    """Every table's shards.

    Args:
        config: what memory a plan may fill, and how vectors travel.
        positives: of a step over all processes.
        module: its tables are on the meta device.
        rules: how each may be sharded.
        machines: the processes.

    Raises:
        DoesNotFitError: there is no plan.
        CadcError: settings that the device cannot run.
    """
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
            config.lookups(positives, machines.world_size),
            caps,
            config.reserve,
            stats,
        )

    return plan_tables(module, planner_for, config.communication)


def rank_memory(
    experiment: Experiment,
    sizes: Sizes,
    module: TwoTower,
    tables: list[PlannedTable],
    frozen: frozenset[str],
    machines: Machines,
) -> list[RankMemory]:
    """What each rank holds under a plan, beside what validation and pre-training take.

    Args:
        experiment: optimizer and averages, D_sel, and whether training is saved on its way.
        sizes: ids and attributes.
        module: the model, its tables on the meta device.
        tables: the plan's.
        frozen: names of those that never change.
        machines: the processes.
    """
    config, saves = experiment.train, experiment.checkpoint
    rows = memory.row_bytes(experiment, sizes, machines)
    on_gpu = machines.device == "cuda"
    trained = frozenset(table.name for table in tables) - frozen
    mlps = memory.mlp_bytes(module, config)
    attributes = memory.attribute_bytes(sizes, machines.device)
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
                state=memory.state_of_tables(tables, trained, config, rank),
                mlps=mlps,
                attributes=attributes,
                rows=rows,
                staged=memory.staged_bytes(tables, trained, module, config, rank, on_gpu)
                if saves.every_seconds or saves.every_epochs
                else 0,
            )
        )
    return ranks
