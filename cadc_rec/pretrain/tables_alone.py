"""What tables alone say of a history: the score of the next item, without towers or examples.

The score is a sum of components, each multiplied by a factor:

- ``folded``: the history folded into ALS (`cadc_rec.models.prior`);
- ``led``: where the last items lead, by factorized transitions; or
- ``lists``: the same by every item's best targets (`cadc_rec.data.transition_lists`);
- ``popularity``: log(1 + interactions of the item), standardized over items;
- ``recent``: log(1 + those in a window before the request), where it is asked for.

All but ``lists`` and ``recent`` are dot products. In: pre-trained tables. Out: vectors, and what
gives the sparse scores to be added to their dot products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from cadc_rec.config.experiment import HistoryConfig, PriorConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import RecentPopularity, RecentScores
from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.models.forward import PriorAlone
from cadc_rec.models.prior import AT_FIRST, HistoryPrior, even_factors
from cadc_rec.pretrain.id_tables import Pretrained

_NEXT_TO_NOTHING = 1e-3
_SAMPLE = 1000  # users whose histories set the first factors


@dataclass(frozen=True)
class TablesAlone:
    """The components of one set of tables, and their factors.

    Attributes:
        dense: ``folded``, and ``led`` where transitions are factors.
        lists: None without.
        popularity: ``[n_items]``, standardized; of training interactions.
        factors: of every component there is; one that is absent counts nothing.
        decay: of a history's places, for the lists.
        log: D_full in time, for ``recent``; None where it is not asked for.
        window: in seconds, of ``recent``.
    """

    dense: PriorAlone
    lists: TransitionLists | None
    popularity: torch.Tensor
    factors: Mapping[str, float]
    decay: float
    log: RecentPopularity | None = None
    window: float = 0.0

    def user_vectors(self, history: np.ndarray) -> torch.Tensor:
        """Vectors ``[n, d]`` of histories ``[n, L]``; a factor is on the user's side."""
        vectors = self.dense.users(torch.from_numpy(history))
        joined = vectors.joined([self.factors.get(name, 0.0) for name in self._dense_names()])
        if not self._popular:
            return joined
        return torch.cat([joined, joined.new_full((len(joined), 1), self.factors["popularity"])], 1)

    def program(self) -> nn.Module:
        """A module that gives `user_vectors`; ``torch.export`` takes it."""
        factors = [self.factors.get(name, 0.0) for name in self._dense_names()]
        old = self.dense
        sources = None if old.sources is None else old.sources.weight
        prior = old.reader.prior
        assert prior is not None
        alone = PriorAlone(prior, factors, old.items.weight, sources, old.targets)
        return WithConstant(alone, self.factors["popularity"]) if self._popular else alone

    def item_vectors(self) -> torch.Tensor:
        """Vectors ``[n_items, d]``."""
        joined = self.dense.every_item().joined()
        return torch.cat([joined, self.popularity[:, None]], 1) if self._popular else joined

    def listed(self, length: int) -> ListedScores | None:
        """The lists' part of the score; None without.

        Args:
            length: of a history.
        """
        factor = self.factors.get("lists", 0.0)
        if self.lists is None or not factor:
            return None
        return ListedScores(self.lists, self.decay, factor, length)

    def factors_of_towers(self) -> list[float]:
        """Factors of `of_towers`, in its order.

        Towers learn popularity by themselves. Their factors move in proportion to themselves, so
        one that was fitted to nothing begins with next to nothing.
        """
        return [self.factors[name] or _NEXT_TO_NOTHING for name in self.of_towers()]

    def of_towers(self) -> list[str]:
        """The components that two towers add to, in the order of `TwoTower`."""
        return [*self._dense_names(), *self.known()]

    def known(self) -> list[str]:
        """The components that are no dot products: towers add to them in this order."""
        names = [] if self.lists is None else ["lists"]
        return names if self.recent() is None else [*names, "recent"]

    def recent(self) -> RecentScores | None:
        """The recent popularity's part of the score; None without."""
        factor = self.factors.get("recent", 0.0)
        if self.log is None or not factor:
            return None
        return RecentScores(self.log, self.window, factor)

    def of_prior(self, config: PriorConfig) -> TablesAlone:
        """The same tables with other settings of how a history is read."""
        old = self.dense
        prior = HistoryPrior.of(old.items.weight, config)
        sources = None if old.sources is None else old.sources.weight
        dense = PriorAlone(prior, old.factors, old.items.weight, sources, old.targets)
        return replace(self, dense=dense, decay=config.decay)

    @property
    def _popular(self) -> bool:
        return bool(self.factors.get("popularity"))

    def _dense_names(self) -> Sequence[str]:
        return ("folded",) if self.dense.targets is None else ("folded", "led")


class WithConstant(nn.Module):
    """A history's vector, and one more element that is the same for all histories.

    It is what an element of the items' vectors counts: their popularity, or a score that does not
    depend on the history.

    Args:
        program: gives ``[n, d]`` of histories.
        constant: the element.
    """

    def __init__(self, program: nn.Module, constant: float) -> None:
        super().__init__()
        self.program, self.constant = program, constant

    def forward(self, history: torch.Tensor, request: torch.Tensor | None = None) -> torch.Tensor:
        """``[n, d + 1]`` of what the program takes: integer ``[n, L]``, the latest first.

        Args:
            history: -1 where one has ended.
            request: codes of the requests' context, where the program takes any.
        """
        vectors = self.program(history) if request is None else self.program(history, request)
        return torch.cat([vectors, torch.full_like(vectors[:, :1], self.constant)], 1)


def prior_alone(
    config: PriorConfig,
    history: HistoryConfig,
    dataset: Dataset,
    pretrained: Pretrained,
    even: bool = True,
) -> PriorAlone | None:
    """What dot products of frozen tables say of histories, at even factors; None without a prior.

    Args:
        config: confidences, regularization, decay.
        history: how long one is.
        dataset: whose first users' histories set the factors.
        pretrained: the frozen tables.
        even: False leaves the factors at 1, for who has others.
    """
    if not config.use:
        return None
    assert pretrained.ids is not None
    transitions = pretrained.transitions
    tables = () if transitions is None else (transitions.source, transitions.target)
    prior = HistoryPrior.of(pretrained.ids.item, config)
    unscaled = PriorAlone(prior, (), pretrained.ids.item, *tables)
    if not even:
        ones = [1.0] * len(unscaled.every_item().prior)
        return PriorAlone(prior, ones, pretrained.ids.item, *tables)
    users = unscaled.users(torch.from_numpy(_sample(history, dataset)))
    factors = even_factors(users.prior, unscaled.every_item().prior)
    return PriorAlone(prior, factors, pretrained.ids.item, *tables)


def tables_alone(
    config: PriorConfig,
    history: HistoryConfig,
    dataset: Dataset,
    pretrained: Pretrained,
    even: bool = True,
) -> TablesAlone | None:
    """All components, those of transitions and ALS at even factors; None without a prior.

    Args:
        config: confidences, regularization, decay.
        history: how long one is.
        dataset: whose first users' histories set the factors.
        pretrained: the frozen tables.
        even: False leaves the factors at 1, for who has others: making them even takes the scores
            of a thousand histories.
    """
    dense = prior_alone(config, history, dataset, pretrained, even)
    if dense is None:
        return None
    factors = dict(zip(("folded", "led"), dense.factors, strict=False))
    lists = pretrained.lists
    if lists is not None and not even:
        factors["lists"] = 1.0
    elif lists is not None:
        spread = lists.scores(_sample(history, dataset), config.decay).toarray().std(1, ddof=1)
        mean = float(spread.mean()) if len(spread) else 0.0
        factors["lists"] = AT_FIRST / mean if mean > 0 else 1.0
    log = None
    if config.recent:
        dataset.require_clock("prior.recent = true")
        columns = dataset.train_timestamp, dataset.train_item
        log = RecentPopularity(*columns, dataset.n_items, dataset.path.parent)
    return TablesAlone(dense, lists, _popularity(dataset), factors, config.decay, log)


def _sample(history: HistoryConfig, dataset: Dataset) -> np.ndarray:
    return dataset.last_items(history.length, False, slice(_SAMPLE))


def _popularity(dataset: Dataset) -> torch.Tensor:
    """log(1 + interactions) of every item, float32 ``[n_items]``, mean 0, deviation 1."""
    logarithms, mean, deviation = _logarithms(dataset)
    return torch.from_numpy(((logarithms - mean) / deviation).astype(np.float32))


def _logarithms(dataset: Dataset) -> tuple[np.ndarray, float, float]:
    """log(1 + interactions) of every item, their mean, and their deviation (1 where it is 0)."""
    logarithms = np.log1p(dataset.item_counts)
    return logarithms, float(logarithms.mean()), float(logarithms.std()) or 1.0
