"""A trained model without shards: dense layers as modules, every table as one plain tensor.

In: the towers' settings and an experiment's artifacts. Out: a `TrainedModel`, what all exported
forms of the model are made from. No process group is needed: the checkpoint holds whole tensors.

Every form looks rows up in its own way (plain tensors, quantized TorchRec collections) and then
calls `UserForward` and `ItemForward`: the forward of training, with tensors for arguments, as
tracing wants them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from torch import nn

from cadc_rec.config.experiment import ContextConfig, Experiment, HistoryConfig, ModelConfig
from cadc_rec.data.context import context_sizes
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.models.dense import DenseLayers
from cadc_rec.models.features import AttributeValues
from cadc_rec.models.forward import item_vectors, user_vectors
from cadc_rec.models.id_embedding import HybridIds
from cadc_rec.models.rows import LookedUp
from cadc_rec.models.tower import Tower
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.pipeline.stages.train import CHECKPOINT
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.prior_fit import FittedPrior, fitted_tables
from cadc_rec.pretrain.tables_alone import TablesAlone
from cadc_rec.store.artifact import Artifact
from cadc_rec.training.build import pretrained_weights, unsharded_model
from cadc_rec.training.choice import TOWERS

_TRACED = 3  # rows of an example


@dataclass(frozen=True)
class Table:
    """An embedding table.

    Attributes:
        name: unique in the model, and the same as in training.
        weight: float32 ``[rows, width]``, as a lookup gives it.
        mean: whether the several values of a row are averaged; otherwise they are summed.
    """

    name: str
    weight: torch.Tensor
    mean: bool = False


@dataclass(frozen=True)
class Side:
    """The tables of users, or of items.

    Attributes:
        name: ``user`` or ``item``.
        ids: tables with a row for each id; their rows side by side are what the tower is given.
        attributes: the side's attributes, in the order of `features`.
        features: the table of each attribute's codes.
        dense: frozen tables of vectors and numbers, with a row for each id.
        layers: what the model makes of the rows of all `dense` side by side; None without any.
    """

    name: str
    ids: tuple[Table, ...]
    attributes: tuple[AttributeValues, ...]
    features: tuple[Table, ...]
    dense: tuple[Table, ...] = ()
    layers: DenseLayers | None = None

    def layers_on(self, device: torch.device) -> DenseLayers | None:
        """Its layers on `device`; a copy elsewhere, so that the model's own stay in place."""
        if self.layers is None or device.type == "cpu":
            return self.layers
        return copy.deepcopy(self.layers).to(device)

    @property
    def rows(self) -> int:
        """Number of ids."""
        return len(self.ids[0].weight)

    @property
    def id_width(self) -> int:
        """Width of all id tables together."""
        return sum(table.weight.shape[1] for table in self.ids)

    def example(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Id rows and features of a few ids, all zero."""
        width = sum(table.weight.shape[1] for table in self.features)
        width += 0 if self.layers is None else self.layers.width
        return torch.zeros(_TRACED, self.id_width), torch.zeros(_TRACED, width)


@dataclass(frozen=True)
class TrainedModel:
    """Two towers as they were when the test items were ranked.

    Attributes:
        model: its dense layers are trained; its own tables hold nothing.
        user: the tables of users.
        item: the tables of items.
        sources: of items as what came before, where the model has transitions.
        targets: of items as what came after, likewise.
        history_length: items of a history; 0 where the model has none.
        request: codes of each feature of a request's context; empty where it reads none.
        listed: scores of lists, which are added to the dot products; None without.
    """

    model: TwoTower
    user: Side
    item: Side
    sources: Table | None
    targets: Table | None
    history_length: int
    request: Mapping[str, int]
    listed: ListedScores | None = None

    @property
    def tables(self) -> list[Table]:
        """All of them."""
        sides = (self.user, self.item)
        of_sides = [t for side in sides for t in (*side.ids, *side.features, *side.dense)]
        return [*of_sides, *(t for t in (self.sources, self.targets) if t is not None)]


def with_towers(artifacts: Mapping[str, Artifact]) -> bool:
    """Whether there are towers, and they were found to add to the tables that they read."""
    train = artifacts.get("train")
    return train is not None and train.info.get("kept", TOWERS) == TOWERS


def trained_towers(
    experiment: Experiment,
    artifacts: Mapping[str, Artifact],
    dataset: Dataset,
    pretrained: Pretrained,
    listed: ListedScores | None = None,
) -> TrainedModel | None:
    """The towers of a finished experiment; None where tables are scored without any.

    Args:
        experiment: its settings.
        artifacts: by stage.
        dataset: the prepared data.
        pretrained: pre-trained vectors where there are any.
        listed: what is added to the dot products.
    """
    if not with_towers(artifacts):
        return None
    e, checkpoint, prior = experiment, artifacts["train"], artifacts.get("prior")
    fit = None if prior is None else FittedPrior.open(prior.path).for_towers
    tables = fitted_tables(e.prior, e.history, dataset, pretrained, fit)
    storage = e.sharding.frozen_storage
    return trained_model(
        e.model, e.history, storage, dataset, pretrained, tables, checkpoint, e.context, listed
    )


def trained_model(
    config: ModelConfig,
    history: HistoryConfig,
    frozen_storage: str,
    dataset: Dataset,
    pretrained: Pretrained,
    tables: TablesAlone | None,
    checkpoint: Artifact,
    context: ContextConfig,
    listed: ListedScores | None = None,
) -> TrainedModel:
    """Read the model of a train stage's artifact.

    Args:
        config: the towers.
        history: what the user tower reads of a history.
        frozen_storage: ``sharding.frozen_storage``, which rounds the frozen tables.
        dataset: sizes and attributes.
        pretrained: the vectors it was given.
        tables: what the towers add to; None without a prior.
        checkpoint: the train stage's artifact.
        context: what the user tower reads of the moment of a request.
        listed: what is added to the dot products.
    """
    device = torch.device("cpu")
    model = unsharded_model(config, history, dataset, pretrained, tables, device, context)
    state = load_file(checkpoint.path / CHECKPOINT)
    frozen = pretrained_weights(model, pretrained)
    if frozen_storage == "fp16":
        frozen = {name: weight.half().float() for name, weight in frozen.items()}
    weights = {**frozen, **state}  # a table that was trained on is in both, and the state's counts
    dense = {name: weight for name, weight in state.items() if ".embedding_bags." not in name}
    missing = model.load_state_dict(dense, strict=False).missing_keys
    assert all(".embedding_bags." in name for name in missing), missing
    model.eval().requires_grad_(False)

    def table(prefix: str, name: str, mean: bool = False) -> Table:
        return Table(name, weights[f"{prefix}.embedding_bags.{name}.weight"].float(), mean)

    def side(name: str, tower: Tower, attributes: Sequence[AttributeValues]) -> Side:
        ids = [table(f"{name}.ids.table", name)]
        if isinstance(tower.ids, HybridIds):
            ids.append(table(f"{name}.ids.free", tower.ids.free_name))
        features = [
            table(f"{name}.features.tables", f"{name}_{a.name}", a.kind == "multi")
            for a in attributes
        ]
        dense: list[Table] = []
        if tower.dense is not None:
            dense = [
                table(f"{name}.dense.tables.{each}.table", each) for each in tower.dense.tables
            ]
        layers = None if tower.dense is None else tower.dense.layers
        return Side(name, tuple(ids), tuple(attributes), tuple(features), tuple(dense), layers)

    transitions = pretrained.transitions is not None
    return TrainedModel(
        model,
        side("user", model.user, dataset.user_attributes),
        side("item", model.item, dataset.item_attributes),
        table("sources.table", "item_source") if transitions else None,
        table("targets.table", "item_target") if transitions else None,
        history.length,
        context_sizes(dataset, context.features),
        listed,
    )


class UserForward(nn.Module):
    """What was looked up of users to their vectors.

    Args:
        model: whose layers are used.
    """

    sizes: torch.Tensor

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.tower, self.reader = model.user.without_tables(), model.reader
        self.with_features = model.user.feature_width > 0
        self.with_sources = model.sources is not None
        factors = model.prior_factors()
        self.factors = None if factors is None else factors.detach()
        self.request = model.request
        if model.request is not None:
            self.register_buffer("sizes", torch.tensor(model.request.sizes))

    def on(self, device: torch.device) -> UserForward:
        """The same on `device`; a copy elsewhere, so that the model's own layers stay in place."""
        if device.type == "cpu":
            return self
        moved = copy.deepcopy(self).to(device)
        if moved.factors is not None:
            moved.factors = moved.factors.to(device)
        if moved.reader is not None and moved.reader.prior is not None:
            moved.reader = replace(moved.reader, prior=moved.reader.prior.to(device))
        return moved

    def forward(
        self,
        rows: torch.Tensor,
        features: torch.Tensor,
        items: torch.Tensor,
        sources: torch.Tensor,
        known: torch.Tensor,
        request: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Vectors ``[n, d]``.

        Args:
            rows: ``[n, id width]``, of the users' id tables; zeros for an unknown user.
            features: ``[n, width]``, of their attributes, vectors and numbers; width 0 where there
                are none.
            items: ``[n, L, dim]``, item rows of the histories, the latest first, zeros where
                they have ended; without a history L is 0.
            sources: ``[n, L, e]``, likewise as what came before; e is 0 without transitions.
            known: bool ``[n, L]``, where the histories have not ended.
            request: int64 ``[n, features]``, codes of the requests' context, where the model reads
                any; one that no training row had counts as 0, "not known".
        """
        history = None
        if self.reader is not None:
            before = LookedUp(sources) if self.with_sources else None
            history = self.reader.read(known.int() - 1, LookedUp(items), before)
        own = features if self.with_features else None
        if self.request is not None:
            assert request is not None
            learned = (request >= 0) & (request < self.sizes)
            own = self.request(torch.where(learned, request, 0), own)
        return user_vectors(self.tower, rows, own, history).joined(self.factors)

    @staticmethod
    def example(trained: TrainedModel) -> tuple[torch.Tensor, ...]:
        """Arguments of a few rows, to trace with."""
        length = trained.history_length
        dim = trained.item.ids[0].weight.shape[1] if length else 0
        before = trained.sources.weight.shape[1] if length and trained.sources else 0
        return (
            *trained.user.example(),
            torch.zeros(_TRACED, length, dim),
            torch.zeros(_TRACED, length, before),
            torch.zeros(_TRACED, length, dtype=torch.bool),
            *([torch.zeros(_TRACED, len(trained.request)).long()] if trained.request else []),
        )


class ItemForward(nn.Module):
    """What was looked up of items to their vectors.

    Args:
        model: whose layers are used.
    """

    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.tower, self.with_prior = model.item.without_tables(), model.with_prior
        self.with_features = model.item.feature_width > 0
        self.with_targets = model.targets is not None

    def on(self, device: torch.device) -> ItemForward:
        """See `UserForward`."""
        return self if device.type == "cpu" else copy.deepcopy(self).to(device)

    def forward(
        self, rows: torch.Tensor, features: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Vectors ``[n, d]``.

        Args:
            rows: ``[n, id width]``, of the items' id tables.
            features: ``[n, width]``, of their attributes, vectors and numbers; width 0 where there
                are none.
            targets: ``[n, e]``, the items as what came after; e is 0 without transitions.
        """
        after = targets if self.with_targets else None
        own = features if self.with_features else None
        return item_vectors(self.tower, rows, own, after, self.with_prior).joined()

    @staticmethod
    def example(trained: TrainedModel) -> tuple[torch.Tensor, ...]:
        """Arguments of a few rows, to trace with."""
        width = trained.targets.weight.shape[1] if trained.targets else 0
        return (*trained.item.example(), torch.zeros(_TRACED, width))
