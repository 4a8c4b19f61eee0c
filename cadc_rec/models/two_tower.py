"""The two-tower model: id vector and side features joined, an MLP a side, dot product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from cadc_rec.config.experiment import ModelConfig
from cadc_rec.data.load.batches import Batch
from cadc_rec.models.catalogue import Catalogue
from cadc_rec.models.history import window_means
from cadc_rec.models.id_embedding import FrozenIds
from cadc_rec.models.pairs import pair_scores
from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.sparse import products_at
from cadc_rec.models.tower import SideSpec, Tower


class TwoTower(nn.Module):
    """Users and items in one space; the score of a pair is the dot product of their vectors.

    With a history, the user tower also sees the frozen vectors of the user's last items; with
    transitions, those of what the last items lead to, and the item tower those of what leads to
    the item.

    Args:
        user: the user side.
        item: the item side.
        config: id embedding, widths.
        device: where the MLPs live.
        windows: of the history, ascending; none is no history.
        prior: what the frozen tables say of a history; see `cadc_rec.models.prior`.
        prior_factors: what its scores are multiplied by at first.
    """

    def __init__(
        self,
        user: SideSpec,
        item: SideSpec,
        config: ModelConfig,
        device: torch.device,
        windows: Sequence[int] = (),
        prior: HistoryPrior | None = None,
        prior_factors: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.windows = list(windows)
        self.prior = None if prior is None else prior.to(device)
        self.prior_dims = [config.id_dim, item.transition_dim][: len(prior_factors)]
        # Logarithms: a step of the optimizer changes a factor in proportion to itself.
        self.prior_log_factors: nn.Parameter | None = None
        if prior is not None:
            logarithms = torch.tensor(prior_factors, dtype=torch.float32).log()
            self.prior_log_factors = nn.Parameter(logarithms.to(device))
        self.context_dim = len(self.windows) * (config.id_dim + item.transition_dim)
        self.user = Tower(user, config, device, self.context_dim)
        if prior is not None:
            self.user.silence()  # so that a small sample starts from where the prior stands
        self.item = Tower(item, config, device, item.transition_dim)
        self.sources = self.targets = None
        if item.transition_dim:
            self.sources, self.targets = (
                FrozenIds(name, item.rows, item.transition_dim, device)
                for name in ("item_source", "item_target")
            )
        self.use_catalogue(Catalogue(item.rows, device))

    def use_catalogue(self, catalogue: Catalogue) -> None:
        """Let this process have a share of the items in steps that see all of them."""
        self.catalogue = catalogue
        self.item.remember(catalogue.holds)
        if self.targets is not None:
            self.targets.remembered.comes_again = catalogue.holds

    def frozen_tables(self) -> dict[str, FrozenIds]:
        """Every table that never changes, by the prefix of its entries in the state."""
        named = {
            "user.ids": self.user.ids,
            "item.ids": self.item.ids,
            "sources": self.sources,
            "targets": self.targets,
        }
        return {k: v for k, v in named.items() if isinstance(v, FrozenIds)}

    def forward(
        self, batch: Batch[torch.Tensor], context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of the batch: ``[pairs]``, or ``[rows, candidates]`` where it has no pairs.

        Each tower sees each id once; with a history the user tower sees each example.
        """
        scores = self._tower_scores(batch, context)
        if self.prior is None:
            return scores
        assert context is not None
        told = context[:, self.context_dim :].split(self.prior_dims, 1)
        factors = self._prior_factors()
        items = self.catalogue.everything if batch.whole else batch.items
        for factor, mine, theirs in zip(factors, told, self._prior_items(items), strict=True):
            # The factor goes on the products: their vectors need no gradient then.
            if batch.pattern is None:
                products = mine @ theirs.t()
            else:
                products = products_at(batch.pattern.crow, batch.pattern.col, mine, theirs)
            scores = torch.addcmul(scores.float(), factor, products.float())  # after autocast
        return scores

    def _tower_scores(self, batch: Batch[torch.Tensor], told: torch.Tensor | None) -> torch.Tensor:
        context = [] if told is None else [told[:, : self.context_dim]]
        users, fixed_users = self.user.parts(batch.users, context)
        items, fixed_items = self._item_parts(batch)
        if batch.pattern is None:
            scores = users @ items.t()
            if fixed_users is None or fixed_items is None:
                return scores
            return scores + fixed_users @ fixed_items.t()
        scores = pair_scores(users, items, batch.pattern)
        if fixed_users is None or fixed_items is None:
            return scores
        # Apart from the learned part, for no gradient flows here.
        return scores + products_at(batch.pattern.crow, batch.pattern.col, fixed_users, fixed_items)

    def _item_parts(self, batch: Batch[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Tower.parts`."""
        if not batch.whole:
            return self.item.parts(batch.items, self.lead_ins(batch.items))
        share, join = self.catalogue.share, self.catalogue.join
        learned, fixed = self.item.parts(share, self.lead_ins(share))
        return join(learned), None if fixed is None else join(fixed)

    def user_vectors(self, ids: torch.Tensor, history: torch.Tensor | None = None) -> torch.Tensor:
        """Vectors ``[n, d]`` of users ``[n]`` with histories ``[n, L]``."""
        if history is None:
            alone: torch.Tensor = self.user(ids)
            return alone
        context = self.context(history)
        vectors = [self.user(ids, [context[:, : self.context_dim]])]
        if self.prior is not None:
            told = context[:, self.context_dim :].split(self.prior_dims, 1)
            vectors += [f * v for f, v in zip(self._prior_factors(), told, strict=True)]
        return torch.cat(vectors, 1)

    def item_vectors(self, ids: torch.Tensor) -> torch.Tensor:
        """Vectors ``[n, d]`` of items ``[n]``."""
        vectors: torch.Tensor = self.item(ids, self.lead_ins(ids))
        if self.prior is None:
            return vectors
        return torch.cat([vectors, *self._prior_items(ids)], 1)

    @torch.no_grad()
    def context(self, history: torch.Tensor) -> torch.Tensor:
        """What the frozen tables tell of each row: means over windows, then the prior's vectors.

        Args:
            history: int32 ``[n, L]``, see `cadc_rec.models.history`.

        Returns:
            ``[n, context_dim + sum(prior_dims)]``; the towers read the first part.
        """
        assert isinstance(self.item.ids, FrozenIds)
        told = window_means(self.item.ids, history, self.windows)
        if self.sources is not None:
            told += window_means(self.sources, history, self.windows)
        if self.prior is not None:
            known = history >= 0
            told.append(self.prior.folded(self.item.ids.sequences(history), known))
            if self.sources is not None:
                told.append(self.prior.led(self.sources.sequences(history), known))
        return torch.cat(told, 1)

    def _prior_factors(self) -> torch.Tensor:
        assert self.prior_log_factors is not None
        return self.prior_log_factors.exp()

    def _prior_items(self, items: torch.Tensor) -> list[torch.Tensor]:
        """Frozen vectors of items that the prior's are multiplied with."""
        assert isinstance(self.item.ids, FrozenIds)
        return [self.item.ids.lookup(items), *self.lead_ins(items)]

    def lead_ins(self, items: torch.Tensor) -> list[torch.Tensor]:
        """What leads to each item: its frozen vector as a target."""
        return [] if self.targets is None else [self.targets(items)]
