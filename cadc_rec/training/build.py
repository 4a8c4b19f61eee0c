"""From an experiment to a sharded two-tower model with its weights in place."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

import torch
from torchrec.distributed import DistributedModelParallel

from cadc_rec.config import Experiment
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose, normal_rows
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import load_state, local_tensors
from cadc_rec.evaluation.sharded import tower_vectors
from cadc_rec.models.id_embedding import HybridIds
from cadc_rec.models.two_tower import SideSpec, TwoTower
from cadc_rec.pretrain.id_tables import IdTables
from cadc_rec.training.optimizers import fuse_table_optimizer, is_frozen

_TABLE_STD = 0.1


@dataclass(frozen=True)
class ShardedTwoTower:
    """A two-tower model ready to run on this rank."""

    wrapped: DistributedModelParallel
    module: TwoTower
    processes: Processes
    n_users: int
    n_items: int

    def trains(self, name: str) -> bool:
        """Whether the state entry `name` is trained, and so belongs in a checkpoint."""
        return not is_frozen(name, self.module)

    def plan(self) -> dict[str, str]:
        """Sharding type of every table, by collection and table name."""
        return {
            f"{collection}.{table}": str(sharding.sharding_type)
            for collection, tables in self.wrapped.plan.plan.items()
            for table, sharding in tables.items()
        }

    def vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """User ``[n_users, d]`` and item ``[n_items, d]`` vectors, on every rank."""
        self.wrapped.eval()
        return (
            tower_vectors(self.module.user, self.n_users, self.processes),
            tower_vectors(self.module.item, self.n_items, self.processes),
        )


def build_model(
    experiment: Experiment, dataset: Dataset, tables: IdTables | None, processes: Processes
) -> ShardedTwoTower:
    """The experiment's model, sharded, frozen tables loaded, the rest initialized from the seed.

    Args:
        experiment: model, sharding and training settings.
        dataset: for sizes and attributes.
        tables: pre-trained vectors; needed by every id embedding but ``trainable``.
        processes: the ranks.
    """
    torch.manual_seed(experiment.seed)
    model = TwoTower(
        SideSpec("user", dataset.n_users, dataset.user_attributes),
        SideSpec("item", dataset.n_items, dataset.item_attributes),
        experiment.model,
        processes.device,
    )
    sharding = experiment.sharding
    fuse_table_optimizer(model, experiment.train, sharding.trainable)
    kinds = {}
    for side, tower in (("user", model.user), ("item", model.item)):
        frozen = sharding.frozen
        if frozen == "auto" and processes.world_size == 1:
            # Nothing to divide: the planner's choice would pay for exchanges with nobody.
            frozen = "data_parallel"
        kinds[side] = frozen if tower.ids.frozen else sharding.trainable
        if isinstance(tower.ids, HybridIds):
            kinds[tower.ids.free_name] = sharding.trainable
        if tower.features is not None:
            # A few hundred rows: copying them to every rank is cheaper than sending lookups.
            kinds.update(dict.fromkeys(tower.features.names, "data_parallel"))
    torch.manual_seed(experiment.seed + processes.rank)  # dropout masks differ between ranks
    wrapped = shard_model(model, kinds, processes, experiment.train.batch_size)
    sharded = ShardedTwoTower(wrapped, model, processes, dataset.n_users, dataset.n_items)
    _initialize_tables(sharded, experiment.seed)
    if tables is not None:
        weights = _pretrained_weights(model, tables)
        load_state(wrapped, weights, keep=lambda name: name in weights)
        _read_replicas_directly(sharded)
    return sharded


def _read_replicas_directly(model: ShardedTwoTower) -> None:
    """Give frozen id embeddings their rows, where the plan put the whole table on every rank."""
    rows = {
        local.name: local.tensor
        for local in local_tensors(model.wrapped, lambda name: is_frozen(name, model.module))
    }
    plan = model.plan()
    for side, tower in (("user", model.module.user), ("item", model.module.item)):
        if tower.ids.frozen and plan[f"{side}.ids.table.{side}"] == "data_parallel":
            tower.ids.replica = rows[f"{side}.ids.table.embedding_bags.{side}.weight"]


def _pretrained_weights(model: TwoTower, tables: IdTables) -> dict[str, torch.Tensor]:
    """The id tables that hold pre-trained vectors, by name of the state, whole."""
    return {
        f"{side}.ids.table.embedding_bags.{side}.weight": getattr(tables, side)[
            :, : tower.ids.table_width(getattr(tables, side).shape[1])
        ]
        for side, tower in (("user", model.user), ("item", model.item))
        if tower.ids.pretrained
    }


def frozen_tables_intact(model: ShardedTwoTower, tables: IdTables) -> bool:
    """Whether every rank's frozen shards still hold exactly the bits they were loaded with."""
    weights = _pretrained_weights(model.module, tables)
    changed = sum(
        not torch.equal(local.tensor.cpu(), local.of(weights[local.name]))
        for local in local_tensors(model.wrapped, lambda name: is_frozen(name, model.module))
    )
    total = torch.tensor(changed, device=model.processes.device)
    return not model.processes.all_reduce_sum(total)


def _initialize_tables(model: ShardedTwoTower, seed: int) -> None:
    """The same normal values in every learned table, whatever its sharding and number of ranks."""

    def learned(name: str) -> bool:
        return ".embedding_bags." in name and model.trains(name)

    with torch.no_grad():
        for local in local_tensors(model.wrapped, learned):
            rows = range(local.row, local.row + local.tensor.shape[0])
            columns = slice(local.column, local.column + local.tensor.shape[1])
            key = (seed, Purpose.TABLE_INITIALIZATION, crc32(local.name.encode()))
            values = normal_rows(key, rows, local.width, _TABLE_STD)
            local.tensor.copy_(torch.from_numpy(values[:, columns]))
