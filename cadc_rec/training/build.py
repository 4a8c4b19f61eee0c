"""From an experiment to a sharded two-tower model with its weights in place."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torchrec.distributed import DistributedModelParallel

from cadc_rec.config.experiment import ContextConfig, Experiment, HistoryConfig, ModelConfig
from cadc_rec.data.context import context_sizes
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose, normal_blocks
from cadc_rec.data.recent_popularity import RecentScores
from cadc_rec.data.sources.raw_tables import Side
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.distributed.planner import rows_are_sent
from cadc_rec.distributed.processes import Processes
from cadc_rec.distributed.rows import RowExchange, join_shares
from cadc_rec.distributed.sharding import shard_model
from cadc_rec.distributed.state import LocalTensor, load_state, local_tensors
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.sharded import tower_vectors
from cadc_rec.models.absence import ColdDropout
from cadc_rec.models.history import History
from cadc_rec.models.tower import SideSpec
from cadc_rec.models.two_tower import Catalogue, TwoTower
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior, fitted_tables
from cadc_rec.pretrain.tables_alone import TablesAlone
from cadc_rec.training.kept_reads import KeptReads
from cadc_rec.training.tables import (
    fuse_table_optimizer,
    is_frozen,
    store_frozen_tables,
    table_rules,
)

_TABLE_STD = 0.1
_FACTORS = "prior_log_factors"
_VALUES = (".features.tables.", "request.tables.")  # in names of attributes' and context's tables


@dataclass(frozen=True)
class ShardedTwoTower:
    """A two-tower model ready to run on this rank."""

    wrapped: DistributedModelParallel
    module: TwoTower
    processes: Processes
    n_users: int
    n_items: int
    tables: TablesAlone | None = None
    """What the towers add to; None without a prior."""

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

    def ahead(self) -> TwoTower | None:
        """The towers, if other processes hold trained rows of theirs; see `Trainer`."""
        trained = self.module.trained_tables()
        kinds = {kind for name, kind in self.plan().items() if name.rpartition(".")[2] in trained}
        alone = self.processes.world_size == 1
        return None if alone or kinds <= {"data_parallel"} else self.module

    def plan_in_full(self) -> dict[str, dict[str, Any]]:
        """Every table's sharding type, kernel, and shards: rank, first row and column, and size."""
        found = {}
        for collection, tables in self.wrapped.plan.plan.items():
            for table, planned in tables.items():
                shards = getattr(planned.sharding_spec, "shards", None) or []
                found[f"{collection}.{table}"] = {
                    "sharding": str(planned.sharding_type),
                    "kernel": str(planned.compute_kernel),
                    "ranks": list(planned.ranks or []),
                    "shards": [
                        {
                            "offsets": list(shard.shard_offsets),
                            "sizes": list(shard.shard_sizes),
                            "placement": str(shard.placement),
                        }
                        for shard in shards
                    ],
                }
        return found

    def user_vectors(
        self,
        history: Callable[[np.ndarray], np.ndarray] | None = None,
        sample: np.ndarray | None = None,
        request: np.ndarray | None = None,
        kept: KeptReads | None = None,
    ) -> torch.Tensor:
        """Vectors ``[share, d]`` of this rank's share of the users.

        Args:
            history: of some users, by row, what is known of each: int32 ``[n, L]``; where the model
                has one.
            sample: rows of the users, if not all are wanted; int64.
            request: int32 ``[n_users, features]``, context of each user's request, likewise.
            kept: histories of the same users, as they were read before; None keeps nothing.
        """
        self.wrapped.eval()
        device = self.processes.device
        chosen = None if sample is None else torch.from_numpy(sample).to(device)
        n_rows = self.n_users if sample is None else len(sample)
        longest = -(-n_rows // self.processes.world_size)
        kept, parts = KeptReads(0) if kept is None else kept, itertools.count()

        def embed(places: torch.Tensor) -> torch.Tensor:
            ids = places if chosen is None else chosen[places]
            rows = ids.cpu().numpy()

            def read() -> History:
                assert history is not None
                return self.module.read(torch.from_numpy(history(rows)).to(device))

            known = None if history is None else kept.of(next(parts), longest, read)
            asked = None if request is None else torch.from_numpy(request[rows]).to(device)
            return self.module.user_vectors(ids, known, asked)

        return tower_vectors(embed, n_rows, self.processes)

    def listed(self, length: int) -> ListedScores | None:
        """What lists add to the dot products; None without.

        Args:
            length: of a history.
        """
        if self.tables is None or self.tables.lists is None:
            return None
        factor = self.module.known_factor("lists")
        return ListedScores(self.tables.lists, self.tables.decay, factor, length)

    def recent(self) -> RecentScores | None:
        """What recent popularity adds to the dot products; None without."""
        recent = None if self.tables is None else self.tables.recent()
        return recent and replace(recent, factor=self.module.known_factor("recent"))

    def item_vectors(self) -> torch.Tensor:
        """Vectors ``[share, d]`` of this rank's share of the items."""
        self.wrapped.eval()
        return tower_vectors(self.module.item_vectors, self.n_items, self.processes)


def build_model(
    experiment: Experiment,
    dataset: Dataset,
    pretrained: Pretrained,
    processes: Processes,
    fitted: FittedPrior | None = None,
) -> ShardedTwoTower:
    """The experiment's model, sharded, frozen tables loaded, the rest initialized from the seed.

    Args:
        experiment: all that makes a model: seed, ``[model]``, ``[history]``, ``[prior]``,
            ``[context]``, ``[train]`` (its tables' optimizer) and ``[sharding]``.
        dataset: for sizes and attributes.
        pretrained: id tables, needed by every id embedding but ``trainable``; transition tables.
        processes: the ranks.
        fitted: the prior's fit, where it was fitted.
    """
    torch.manual_seed(experiment.seed)
    fit = None if fitted is None else fitted.for_towers
    tables = fitted_tables(experiment.prior, experiment.history, dataset, pretrained, fit)
    model = unsharded_model(
        experiment.model,
        experiment.history,
        dataset,
        pretrained,
        tables,
        processes.device,
        experiment.context,
    )
    if rate := experiment.model.cold_dropout:
        coded = dataset.user_attributes or dataset.item_attributes
        dense = dataset.user_dense or dataset.item_dense
        if not (coded or dense or experiment.history.length or experiment.context.features):
            raise CadcError(
                f"model.cold_dropout = {rate} leaves ids out, and the towers read nothing else; "
                "name attributes of users or items, or set model.cold_dropout = 0."
            )
        model.use_absence(ColdDropout(rate, experiment.seed, processes.device))
    sharding = experiment.sharding
    device = processes.device.type
    fuse_table_optimizer(model, experiment.train, sharding.trainable, device)
    store_frozen_tables(model, sharding)
    rules = table_rules(model, sharding, processes.world_size)
    torch.manual_seed(experiment.seed + processes.rank)  # dropout masks differ between ranks
    wrapped = shard_model(model, rules, processes, experiment.train.most_positives, sharding)
    sharded = ShardedTwoTower(wrapped, model, processes, dataset.n_users, dataset.n_items, tables)
    _initialize_tables(sharded, experiment.seed)
    weights = pretrained_weights(model, pretrained)
    load_state(wrapped, weights, keep=lambda name: name in weights)
    _read_rows_directly(sharded)
    if processes.world_size > 1:
        model.use_catalogue(_divided(dataset.n_items, processes))
    return sharded


def unsharded_model(
    config: ModelConfig,
    history: HistoryConfig,
    dataset: Dataset,
    pretrained: Pretrained,
    tables: TablesAlone | None,
    device: torch.device,
    context: ContextConfig | None = None,
) -> TwoTower:
    """A model with its tables on the meta device and the rest newly initialized.

    Args:
        config: the towers.
        history: what the user tower reads of a history.
        dataset: for sizes and attributes.
        pretrained: whose tables the towers read.
        tables: what the tables alone say, which the towers add to; None without a prior.
        device: where what is no table lies.
        context: what the user tower reads of the moment of a request.
    """
    transitions = pretrained.transitions
    width = 0 if transitions is None else transitions.source.shape[1]
    return TwoTower(
        SideSpec(
            "user",
            dataset.n_users,
            dataset.user_attributes,
            request={} if context is None else context_sizes(dataset, context.features),
            request_dim=0 if context is None else context.dim,
            dense=dataset.user_dense,
        ),
        SideSpec("item", dataset.n_items, dataset.item_attributes, width, dense=dataset.item_dense),
        config,
        device,
        history,
        None if tables is None else tables.dense.reader.prior,
        () if tables is None else tables.factors_of_towers(),
        known=() if tables is None else tables.known(),
    )


def _divided(n_items: int, processes: Processes) -> Catalogue:
    """Each rank's share of the items."""

    def join(vectors: torch.Tensor) -> torch.Tensor:
        return join_shares(vectors, n_items, processes)

    return Catalogue(n_items, processes.device, processes.share(n_items), join)


def _read_rows_directly(model: ShardedTwoTower) -> None:
    """Give frozen tables their rows where the plan put all of them on every rank, or runs of them.

    A cache on the GPU is known to TorchRec's collections alone, so they are asked where there is
    one.
    """
    rows = {
        local.name: local.tensor
        for local in local_tensors(model.wrapped, lambda name: is_frozen(name, model.module))
    }
    plan, processes = model.plan_in_full(), model.processes
    for prefix, table in model.module.frozen_tables().items():
        planned = plan[f"{prefix}.table.{table.name}"]
        mine = rows.get(f"{prefix}.table.embedding_bags.{table.name}.weight")
        if planned["sharding"] == "data_parallel":
            table.replica = mine
        elif _in_runs(planned, processes.world_size):
            assert mine is not None
            starts = [shard["offsets"][0] for shard in planned["shards"]]
            n = sum(shard["sizes"][0] for shard in planned["shards"])
            group = processes.device_group()
            table.exchange = RowExchange(mine, starts, n, processes.rank, group)


def _in_runs(planned: Mapping[str, Any], ranks: int) -> bool:
    """Whether each of several ranks holds a run of the rows, in their order, and sends them."""
    sent = rows_are_sent(planned["sharding"], planned["kernel"])
    everybody = ranks > 1 and planned["ranks"] == list(range(ranks))
    return sent and everybody and all(shard["sizes"][0] for shard in planned["shards"])


def pretrained_weights(model: TwoTower, pretrained: Pretrained) -> dict[str, torch.Tensor]:
    """The tables that are loaded and not initialized, by name of the state, whole.

    They hold pre-trained vectors, and vectors and numbers of users and items.
    """
    weights = {}
    for side, tower in (("user", model.user), ("item", model.item)):
        if pretrained.ids is not None and tower.ids.pretrained:
            table = getattr(pretrained.ids, side)
            entry = f"{side}.ids.table.embedding_bags.{side}.weight"
            weights[entry] = table[:, : tower.ids.table_width(table.shape[1])]
    if pretrained.transitions is not None:
        for kind in ("source", "target"):
            entry = f"{kind}s.table.embedding_bags.item_{kind}.weight"
            weights[entry] = getattr(pretrained.transitions, kind)
    for side, tower in (("user", model.user), ("item", model.item)):
        if tower.dense is not None:
            for name, weight in tower.dense.weights().items():
                weights[f"{side}.dense.tables.{name}.table.embedding_bags.{name}.weight"] = weight
    return weights


def frozen_tables_intact(model: ShardedTwoTower, pretrained: Pretrained) -> bool:
    """Whether every rank's frozen shards still hold exactly the bits they were loaded with."""
    weights = pretrained_weights(model.module, pretrained)
    changed = sum(
        not torch.equal(local.tensor.cpu(), local.of(weights[local.name]).to(local.tensor.dtype))
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
            for part, values in normal_blocks(key, rows, local.width, _TABLE_STD):
                local.tensor[part] = torch.from_numpy(values[:, columns])


def change_layers(
    model: ShardedTwoTower,
    state: Mapping[str, torch.Tensor],
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    """Replace the weights of the layers behind the tables, which are the same on every rank.

    Args:
        model: trained.
        state: a checkpoint of the same layers.
        change: given a weight there and in `model`, both on the CPU, what it is to be.
    """
    with torch.no_grad():
        for local in local_tensors(model.wrapped, model.trains):
            before = state.get(local.name)
            if ".embedding_bags." in local.name or before is None or before.dim() != 2:
                continue
            if before.shape == local.tensor.shape:
                local.tensor.copy_(change(before, local.tensor.cpu()))


def load_grown(
    model: ShardedTwoTower,
    state: Mapping[str, torch.Tensor],
    reused: Mapping[Side, np.ndarray] | None = None,
    components: Sequence[str] | None = None,
) -> None:
    """Copy a checkpoint into this rank's parts of what `model` trains.

    Rows that the checkpoint lacks: a new value of an attribute starts as the unknown value (code
    0) stands; a new user's or item's learned vector stays as it was initialized. So does the factor
    of a component that the prior's fit before did not have.

    Args:
        model: built for the grown dataset.
        state: whole tensors, of the same settings.
        reused: of ``user`` and ``item``, the rows that were another's in the checkpoint: they stay
            as they were initialized, too.
        components: of the prior, in the order of the checkpoint's factors. None: it does not say,
            and where it has as many as the model they are the same ones.

    Raises:
        CadcError: the checkpoint is of another model.
    """
    with torch.no_grad():
        for local in local_tensors(model.wrapped, model.trains):
            whole = state.get(local.name)
            if local.name == _FACTORS and whole is not None and model.tables is not None:
                _load_factors(local.tensor, whole, model.tables.of_towers(), components)
                continue
            if whole is None or whole.dim() != local.tensor.dim():
                raise _other_model(local.name)
            others = _rows_of_others(local, reused)
            own = local.tensor[:0] if others is None else local.tensor[others - local.row].clone()
            if whole.shape == local.tensor.shape:
                local.tensor.copy_(whole)
            elif whole.dim() != 2 or whole.shape[1] != local.width:
                raise _other_model(local.name)
            else:
                rows, columns = local.tensor.shape
                part = whole[:, local.column : local.column + columns]
                there = min(max(len(part) - local.row, 0), rows)
                local.tensor[:there] = part[local.row : local.row + there]
                if any(part in local.name for part in _VALUES):
                    local.tensor[there:] = part[0]
            if others is not None:
                local.tensor[others - local.row] = own


def _load_factors(
    factors: torch.Tensor,
    before: torch.Tensor,
    names: list[str],
    names_before: Sequence[str] | None,
) -> None:
    """Copy the prior's learned factors, each to that of the same component."""
    if names_before is None:
        names_before = names if len(names) == len(before) else ()
    for place, name in enumerate(names):
        if name in names_before:
            factors[place] = before[names_before.index(name)]


def _rows_of_others(
    local: LocalTensor, reused: Mapping[Side, np.ndarray] | None
) -> torch.Tensor | None:
    """This part's rows of a learned id table that had another owner; None without any."""
    table = ".embedding_bags." in local.name
    sides = [side for side in reused or {} if table and local.name.startswith(f"{side}.ids.")]
    if not reused or not sides:
        return None
    rows = reused[sides[0]]
    mine = rows[(rows >= local.row) & (rows < local.row + local.tensor.shape[0])]
    return torch.from_numpy(mine) if len(mine) else None


def _other_model(name: str) -> CadcError:
    return CadcError(
        f"the model to continue from has no {name} of this size: it was trained with other "
        "[model] settings; train again from the beginning."
    )
