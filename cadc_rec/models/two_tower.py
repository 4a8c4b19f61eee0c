"""The two-tower model: looks rows up, and has `forward.py` make vectors and scores of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from cadc_rec.config.experiment import HistoryConfig, ModelConfig
from cadc_rec.data.load.batches import Batch
from cadc_rec.models import forward
from cadc_rec.models.absence import ColdDropout
from cadc_rec.models.context import ContextEmbedding
from cadc_rec.models.forward import Scores, Vectors
from cadc_rec.models.history import History, HistoryReader, usable_windows
from cadc_rec.models.id_embedding import FrozenIds
from cadc_rec.models.jagged import one_id_each
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.summed_loss import Loss, summed_loss
from cadc_rec.models.tower import SideSpec, Tower


def _alone(vectors: torch.Tensor) -> torch.Tensor:
    return vectors


class Catalogue:
    """All items, for steps that see all of them, and the share whose vectors this process computes.

    With several processes such a step would have each of them run the item tower on the very same
    rows. Each runs it on its share instead, and the vectors are joined. What is read of the
    share's ids stays the same in every step, so it is read once. The tensors are made when the
    first such step comes.

    Args:
        n_items: how many there are.
        device: where the ids lie.
        share: the run of them whose vectors this process computes; None is all.
        join: vectors of the share to ``[n_items, d]``, those of all shares, with the gradient of
            what every process makes of them.
    """

    def __init__(
        self,
        n_items: int,
        device: torch.device,
        share: range | None = None,
        join: Callable[[torch.Tensor], torch.Tensor] = _alone,
    ) -> None:
        self.n_items, self.device, self.join = n_items, device, join
        self._share = range(n_items) if share is None else share

    @cached_property
    def everything(self) -> torch.Tensor:
        """int64 ``[n_items]``, in order; the same tensor every time."""
        return torch.arange(self.n_items, device=self.device)

    @cached_property
    def share(self) -> torch.Tensor:
        """int64, this process's; the same tensor every time."""
        if len(self._share) == self.n_items:
            return self.everything
        return self.everything[self._share.start : self._share.stop]

    def holds(self, ids: torch.Tensor) -> bool:
        """Whether `ids` is one of the two tensors itself, of which nothing changes but weights."""
        made = vars(self)
        return any(ids is made.get(name) for name in ("everything", "share"))


class TwoTower(nn.Module):
    """Users and items in one space; the score of a pair is the dot product of their vectors.

    With a history, the user tower also sees the frozen rows of the user's last items; with
    transitions, those of what the last items lead to, and the item tower those of what leads to
    the item.

    Args:
        user: the user side.
        item: the item side.
        config: id embedding, widths.
        device: where the MLPs live.
        history: length and windows of a user's history; None, or length 0, reads no history.
        prior: scores a history by the frozen tables, to be added to the score; None adds nothing.
        prior_factors: initial factors of the prior's scores, then of those in `known`.
        known: names of the scores that are added and are no dot products.
    """

    def __init__(
        self,
        user: SideSpec,
        item: SideSpec,
        config: ModelConfig,
        device: torch.device,
        history: HistoryConfig | None = None,
        prior: HistoryPrior | None = None,
        prior_factors: Sequence[float] = (),
        known: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.reader: HistoryReader | None = None
        self.known = tuple(known)
        windows: list[int] = []
        if history is not None and history.length:
            windows = usable_windows(history.windows, history.length)
            self.reader = HistoryReader(windows, None if prior is None else prior.to(device))
        # Logarithms: a step of the optimizer changes a factor in proportion to itself.
        self.prior_log_factors: nn.Parameter | None = None
        if self.with_prior:
            logarithms = torch.tensor(prior_factors, dtype=torch.float32).log()
            self.prior_log_factors = nn.Parameter(logarithms.to(device))
        frozen_dim = config.id_dim + item.transition_dim
        self.history_width = (len(windows) + self.with_prior) * frozen_dim
        """Elements that all parts of a `History` have together."""
        self.user = Tower(user, config, device, len(windows) * frozen_dim)
        if self.with_prior or config.keep == "better":
            self.user.silence()  # so that a small sample starts from where the tables stand
        self.item = Tower(item, config, device, item.transition_dim)
        self.sources = self.targets = None
        if item.transition_dim:
            self.sources, self.targets = (
                FrozenIds(name, item.rows, item.transition_dim, device)
                for name in ("item_source", "item_target")
            )
        self.request: ContextEmbedding | None = None
        if user.request:
            self.request = ContextEmbedding(user.request, user.request_dim, device)
        self.leaves_ids_out = config.cold_dropout > 0
        self.absence: ColdDropout | None = None
        self.use_catalogue(Catalogue(item.rows, device))

    @property
    def with_prior(self) -> bool:
        """Whether the prior is part of the score."""
        return self.reader is not None and self.reader.prior is not None

    def use_catalogue(self, catalogue: Catalogue) -> None:
        """Give this process a share of the items, for steps that see all of them."""
        self.catalogue = catalogue
        self.item.cache(catalogue.holds)
        if self.targets is not None:
            self.targets.cache.recurs = catalogue.holds

    def use_absence(self, absence: ColdDropout) -> None:
        """Leave out the id part of some ids in training, on sides whose towers have another."""
        self.absence = absence

    def _present(self, side: str, ids: torch.Tensor, others: bool) -> torch.Tensor | None:
        if self.absence is None or not self.training or not others:
            return None
        return self.absence.present(side, ids)

    def trained_tables(self) -> dict[str, nn.Module]:
        """The collections of ids that an optimizer trains, by the name of their one table."""
        return self.user.ids.trained_tables() | self.item.ids.trained_tables()

    def looked_up(self, batch: Batch[torch.Tensor]) -> dict[str, KeyedJaggedTensor]:
        """What a forward pass of the batch looks up in each of the `trained_tables`."""
        items = self.catalogue.share if batch.whole else batch.items
        sides = (self.user.ids, batch.users), (self.item.ids, items)
        return {
            name: one_id_each(name, ids) for side, ids in sides for name in side.trained_tables()
        }

    def take_ahead(self, rows: Mapping[str, Any]) -> None:
        """Give the next forward pass the answers of the `trained_tables`, asked for before."""
        for ids in (self.user.ids, self.item.ids):
            ids.ahead.update({name: rows[name] for name in ids.trained_tables()})

    def frozen_tables(self) -> dict[str, FrozenIds]:
        """Every table that never changes, by the prefix of its entries in the state."""
        named = {
            "user.ids": self.user.ids,
            "item.ids": self.item.ids,
            "sources": self.sources,
            "targets": self.targets,
        }
        frozen = {k: v for k, v in named.items() if isinstance(v, FrozenIds)}
        for side, tower in (("user", self.user), ("item", self.item)):
            if tower.dense is not None:
                of_side = tower.dense.of_ids().items()
                frozen |= {f"{side}.dense.tables.{name}": table for name, table in of_side}
        return frozen

    def frozen_reads(self, batch: Batch[torch.Tensor]) -> list[tuple[FrozenIds, torch.Tensor]]:
        """The frozen tables whose rows a step looks up, each with the ids, for `FrozenIds.fetched`.

        Not those that are read of histories, nor what stays the same in every step.
        """
        sides = [(batch.users, self.user)]
        sides += [] if batch.whole else [(batch.items, self.item)]
        found = []
        for ids, tower in sides:
            tables = [tower.ids, *(tower.dense.of_ids().values() if tower.dense else ())]
            tables += [] if self.targets is None or tower is self.user else [self.targets]
            found += [(table, ids) for table in tables if isinstance(table, FrozenIds)]
        return found

    def forward(
        self,
        batch: Batch[torch.Tensor],
        history: History | None = None,
        *known: Scores,
        loss: Loss | None = None,
    ) -> torch.Tensor:
        """The summed loss of the batch's scores, a scalar; without a loss the candidates' scores.

        Each tower sees each id once; with a history the user tower sees each example.

        Args:
            batch: the batch to score.
            history: the vectors of each row's history, if the model reads any.
            known: the scores that are no dot products, before their factors.
            loss: of the scores. It is formed here because all scores at once may take too much
                memory; None gives ``[pairs]``, or ``[rows, candidates]`` where there are no pairs.
        """
        users = self.users(batch.users, history)
        items = self.all_items() if batch.whole else self.items(batch.items)
        factors = self.prior_factors()
        if loss is None:
            return forward.scores(users, items, factors, batch, known).candidates
        return summed_loss(loss, users, items, factors, batch, known)

    def users(self, ids: torch.Tensor, history: History | None = None) -> Vectors:
        """Vectors of users ``[n]``, in parts."""
        rows, features = self.user.look_up(ids)
        if self.request is not None:
            assert history is not None
            assert history.request is not None
            features = self.request(history.request, features)
        others = features is not None or (history is not None and bool(history.context()))
        present = self._present("user", ids, others)
        return forward.user_vectors(self.user, rows, features, history, present)

    def items(self, ids: torch.Tensor) -> Vectors:
        """Vectors of items ``[n]``, in parts."""
        rows, features = self.item.look_up(ids)
        targets, present = self._targets(ids), self._present("item", ids, features is not None)
        return forward.item_vectors(self.item, rows, features, targets, self.with_prior, present)

    def new_items(
        self, ids: torch.Tensor, row: torch.Tensor, dense: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The learned part of items that no table has a row of, ``[n, tower[-1]]``.

        Args:
            ids: int64 ``[n]``, of the item side's attributes alone.
            row: ``[id_dim + e]``, what stands for the rows of each, of its id tables and then as
                what came after; nothing does if ids were left out in training.
            dense: ``[n, widths]``, their vectors and numbers, where the tower reads any.
        """
        parts = [] if self.item.features is None else [self.item.features(ids)]
        if self.item.dense is not None:
            parts.append(self.item.dense.layers(dense))
        features = torch.cat(parts, 1) if parts else None
        rows = row.expand(len(ids), -1)
        return forward.new_item_vectors(self.item, rows, features, self.leaves_ids_out)

    def all_items(self) -> Vectors:
        """Vectors of the whole catalogue, in parts: each process runs the tower on its share."""
        mine, join = self.items(self.catalogue.share), self.catalogue.join
        assert mine.learned is not None
        prior: tuple[torch.Tensor, ...] = ()
        if self.with_prior:  # frozen rows need no tower: every process has looked all of them up
            assert isinstance(self.item.ids, FrozenIds)
            everything = self.catalogue.everything
            frozen = self.item.ids.lookup(everything)
            prior = tuple(forward.item_prior(frozen, self._targets(everything)))
        residual = None if mine.residual is None else join(mine.residual)
        return replace(mine, learned=join(mine.learned), residual=residual, prior=prior)

    def user_vectors(
        self,
        ids: torch.Tensor,
        history: torch.Tensor | History | None = None,
        request: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Vectors ``[n, d]`` of users ``[n]``, histories ``[n, L]``, contexts ``[n, features]``.

        A history may have been read before, see `read`.
        """
        read = self.read(history) if isinstance(history, torch.Tensor) else history
        if request is not None:
            read = replace(read or History(), request=request)
        return self.users(ids, read).joined(self.prior_factors())

    def item_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, d]`` of items ``[n]``."""
        return self.items(ids).joined()

    @torch.no_grad()
    def read(self, history: torch.Tensor) -> History:
        """The vectors of histories, int32 ``[n, L]``; see `cadc_rec.models.history`."""
        assert self.reader is not None
        assert isinstance(self.item.ids, FrozenIds)
        return self.reader.read(history, self.item.ids, self.sources)

    def prior_factors(self) -> torch.Tensor | None:
        """What each of the prior's scores is multiplied by; None without a prior."""
        return None if self.prior_log_factors is None else self.prior_log_factors.exp()

    def known_factor(self, name: str) -> float:
        """What one of the scores that are no dot products is multiplied by; 0 without it."""
        factors = self.prior_factors()
        if name not in self.known or factors is None:
            return 0.0
        return float(factors.detach()[self.known.index(name) - len(self.known)])

    @torch.no_grad()
    def vector_width(self) -> int:
        """Elements of a vector: the width of the forward's output for no rows."""
        new = self.item.join.weight.new_empty
        width = self.item.feature_width
        features = new(0, width) if width else None
        targets = None if self.targets is None else new(0, self.targets.width)
        rows = new(0, self.item.id_dim)
        vectors = forward.item_vectors(self.item, rows, features, targets, self.with_prior)
        return vectors.joined().shape[1]

    def _targets(self, items: torch.Tensor) -> torch.Tensor | None:
        """What leads to each item: its frozen row as what came after."""
        return None if self.targets is None else self.targets.lookup(items)
