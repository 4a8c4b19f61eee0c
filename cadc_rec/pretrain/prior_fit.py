"""The prior's factors and decays, chosen on validation by a search that takes seconds.

How much each component of the tables' score is worth differs from log to log: a hand-chosen factor
that suits films is wrong for news. So components are scored once for a sample of validation users,
for every way of reading a history that is tried, and what is kept of each user are the best
candidates of every component. All of the search runs on these: a combination takes milliseconds.

After a day the ways that were chosen stand, and their factors alone are chosen anew: of a few dozen
ways, one or two are scored.

In: tables and a dataset. Out: a `FittedPrior`. The test items are never looked at.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cadc_rec import strict_json
from cadc_rec.config.experiment import HistoryConfig, PriorConfig
from cadc_rec.config.vectors import LEAST_USERS
from cadc_rec.data.content_lists import FILE as CONTENT_FILE
from cadc_rec.data.content_lists import blended, content_lists
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose, bit_generator
from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.pretrain.component_scores import Kept, scored
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.tables_alone import TablesAlone, tables_alone

FILE = "fitted_prior.json"
_MOST_USERS = 4000
_SCORES = 1e9  # formed for the sample and each way of reading at most; bounds users
# What is tried. The first weight of a component is where the search starts.
_FOLDED = tuple(itertools.product((4.0, 8.0, 20.0), (3.0, 10.0), (0.05, 0.2)))
_DECAYS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_WEIGHTS = {
    "folded": (1.0, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.5, 3.0),
    "content": (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0, 1.3),
    "popularity": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8),
    "recent": (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
}
_NOT_OF_TOWERS = ("popularity",)  # towers learn it by themselves
_HOUR = 3600.0
_WINDOWS = (_HOUR, 3 * _HOUR, 12 * _HOUR, 72 * _HOUR)
_ROUNDS = 4


@dataclass(frozen=True)
class FittedPrior:
    """What was chosen.

    Attributes:
        alpha: confidence of a history's latest item, folded into ALS.
        half_life: of the confidences, in places.
        l2: of folding in.
        decay: of a history's places, for transitions and content.
        factors: of each component's score.
        window: of recent popularity, in seconds; 0 without.
        users: validation users it was chosen on; 0 where the settings' own values stand.
        ndcg: NDCG@10 on these, among the candidates that were kept.
        alone: NDCG@10 of each component by itself.
        without: NDCG@10 of all others, at their factors.
        towers: the same for tables that towers add to; None where it is what this one is.
        content: lists of items that are alike; None without attributes, or where they count
            nothing.
    """

    alpha: float
    half_life: float
    l2: float
    decay: float
    factors: Mapping[str, float]
    window: float = 0.0
    users: int = 0
    ndcg: float = 0.0
    alone: Mapping[str, float] = field(default_factory=dict)
    without: Mapping[str, float] = field(default_factory=dict)
    towers: FittedPrior | None = None
    content: TransitionLists | None = field(default=None, compare=False, repr=False)

    @property
    def for_towers(self) -> FittedPrior:
        """What was chosen for tables that towers add to; they learn popularity by themselves."""
        return self if self.towers is None else replace(self.towers, content=self.content)

    def as_info(self) -> dict[str, Any]:
        """All but the lists, as JSON values."""
        towers = None if self.towers is None else self.towers.as_info()
        info = asdict(replace(self, towers=None, content=None))
        del info["content"]
        return {**info, "towers": towers}

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        (folder / FILE).write_text(strict_json.dumps(self.as_info(), indent=2) + "\n", "utf-8")
        if self.content is not None:
            self.content.save(folder / CONTENT_FILE)

    @classmethod
    def open(cls, folder: Path) -> FittedPrior:
        """What `save` wrote."""
        values = json.loads((folder / FILE).read_text("utf-8"))
        towers, file = values.pop("towers", None), folder / CONTENT_FILE
        return cls(
            **values,
            towers=None if towers is None else cls(**towers),
            content=TransitionLists.open(file) if file.exists() else None,
        )

    def applied_to(self, tables: TablesAlone, config: PriorConfig) -> TablesAlone:
        """The tables' score as it was fitted; `config` gives what no fit changes."""
        chosen = {name: getattr(self, name) for name in ("alpha", "half_life", "l2", "decay")}
        tables = tables.of_prior(config.model_copy(update=chosen))
        factors, lists = dict(self.factors), tables.lists
        content = factors.pop("content", 0.0)
        if content:
            assert self.content is not None
            if lists is None:
                lists, factors["lists"] = self.content, content
            else:
                lists = blended(lists, self.content, content / factors["lists"])
        return replace(tables, lists=lists, factors=factors, window=self.window)


def fitted_tables(
    config: PriorConfig,
    history: HistoryConfig,
    dataset: Dataset,
    pretrained: Pretrained,
    fitted: FittedPrior | None,
) -> TablesAlone | None:
    """What tables alone say, as it was fitted if it was; None without a prior."""
    tables = tables_alone(config, history, dataset, pretrained, even=fitted is None)
    return tables if tables is None or fitted is None else fitted.applied_to(tables, config)


def fit_prior(
    config: PriorConfig,
    history: HistoryConfig,
    seed: int,
    dataset: Dataset,
    pretrained: Pretrained,
    before: FittedPrior | None = None,
    newest: int = 0,
) -> FittedPrior:
    """Choose factors, confidences and decay by NDCG@10 of a sample of validation users.

    Args:
        config: where the search starts, and what stands with fewer than `LEAST_USERS` users where
            there is no earlier fit, which stands then.
        history: how long one is.
        seed: of the sample.
        dataset: D_full and the validation items.
        pretrained: the tables; ALS's, and transitions where there are any.
        before: an earlier fit, whose confidences, decay and window stand, and from whose factors
            the search goes on; None tries all.
        newest: after an earlier fit, so many users whose validation items are the newest are the
            sample, of equal times (all are, where a log has none) drawn; 0 is a sample of all.
    """
    tables = tables_alone(config, history, dataset, pretrained, even=False)
    assert tables is not None
    if before is not None and not before.users:
        before = None  # there was nothing to choose it on
    users = (
        _sampled(dataset, seed) if before is None or not newest else _newest(dataset, newest, seed)
    )
    if len(users) < LEAST_USERS:
        if before is not None:
            return _of_now(before, dataset)
        even = tables_alone(config, history, dataset, pretrained)
        assert even is not None
        return FittedPrior(config.alpha, config.half_life, config.l2, config.decay, even.factors)
    ways = _ways(config)
    if before is not None:
        ways |= _ways_of(before)
    content = None
    if config.content:
        content = content_lists(dataset.item_attributes, dataset.n_items)

    kept, spreads = scored(tables, content, config, ways, history.length, dataset, users)
    found = _found(kept, spreads, ways, config, _WEIGHTS, before)
    tried = {**_WEIGHTS, **dict.fromkeys(_NOT_OF_TOWERS, (0.0,))}
    towers = _found(kept, spreads, ways, config, tried, before and before.for_towers)
    counts = any(each.factors.get("content") for each in (found, towers))
    return replace(found, towers=towers, content=content if counts else None)


def _found(
    kept: Kept,
    spreads: Mapping[str, np.ndarray],
    ways: Mapping[str, Sequence[Any]],
    config: PriorConfig,
    tried: Mapping[str, Sequence[float]],
    before: FittedPrior | None = None,
) -> FittedPrior:
    """The best combination of ways and weights that changing one at a time leads to.

    It starts from an earlier fit's, if there is one: what is as good as before stays as it was.
    """
    names = list(kept.first)
    leads = next((name for name in ("lists", "led") if name in names), None)
    fixed = leads or "folded"  # one weight is, for only their ratios matter
    chosen = dict.fromkeys(names, 0)
    weights = {name: 1.0 if name == fixed else tried[name][0] for name in names}
    if before is not None:
        chosen = _start(before, ways, names)
        of_fit = _weights(before, spreads, chosen, fixed)
        weights |= {name: weight for name, weight in of_fit.items() if tried.get(name) != (0.0,)}
    # Content is blended with lists, so both are read at one decay.
    by_decay = [name for name in (leads, "content") if name in names]
    together = [[name] for name in names if name not in by_decay] + [by_decay]
    best = kept.ndcg(chosen, weights)
    for _ in range(_ROUNDS):
        of_round = best
        for group in filter(None, together):
            for way in range(len(ways[group[0]])):
                trial = {**chosen, **dict.fromkeys(group, way)}
                found = kept.ndcg(trial, weights)
                if found > best:
                    best, chosen = found, trial
        for name in names:
            for weight in () if name == fixed else tried[name]:
                trial_weights = {**weights, name: weight}
                found = kept.ndcg(chosen, trial_weights)
                if found > best:
                    best, weights = found, trial_weights
        if best == of_round:
            break
    alpha, half_life, l2 = ways["folded"][chosen["folded"]]
    decay = ways[by_decay[0]][chosen[by_decay[0]]] if by_decay else config.decay
    nothing = dict.fromkeys(weights, 0.0)
    return FittedPrior(
        alpha,
        half_life,
        l2,
        decay,
        {name: weights[name] * float(spreads[name][chosen[name]]) for name in weights},
        ways["recent"][chosen["recent"]] if weights.get("recent") else 0.0,
        len(kept.ends) - 1,
        best,
        {name: kept.ndcg(chosen, {**nothing, name: 1.0}) for name in weights},
        {name: kept.ndcg(chosen, {**weights, name: 0.0}) for name in weights},
    )


def _start(
    fitted: FittedPrior, ways: Mapping[str, Sequence[Any]], names: Iterable[str]
) -> dict[str, int]:
    """Of each component the way that an earlier fit chose; the first, where it is not tried."""
    of_fit = {
        "folded": (fitted.alpha, fitted.half_life, fitted.l2),
        "popularity": None,
        "recent": fitted.window,
        **dict.fromkeys(("led", "lists", "content"), fitted.decay),
    }
    return {
        name: ways[name].index(of_fit[name]) if of_fit[name] in ways[name] else 0 for name in names
    }


def _weights(
    fitted: FittedPrior,
    spreads: Mapping[str, np.ndarray],
    chosen: Mapping[str, int],
    fixed: str,
) -> dict[str, float]:
    """An earlier fit's weights at an even spread of now, of which that of `fixed` is 1."""
    found = {
        name: fitted.factors.get(name, 0.0) / float(spreads[name][way])
        for name, way in chosen.items()
    }
    return {name: weight / found[fixed] for name, weight in found.items()} if found[fixed] else {}


def _of_now(before: FittedPrior, dataset: Dataset) -> FittedPrior:
    """An earlier fit as it was chosen, its lists those of the items that there are now."""
    if before.content is None:
        return before
    return replace(before, content=content_lists(dataset.item_attributes, dataset.n_items))


def _newest(dataset: Dataset, most: int, seed: int) -> np.ndarray:
    """The users whose validation items are the newest, ascending; of equal times drawn.

    Rows are by when a user first came: in their order, users of equal times would be the newcomers.
    """
    draws = np.random.Generator(bit_generator((seed, Purpose.PRIOR_FIT)))
    having = draws.permutation(np.flatnonzero(dataset.val_item >= 0))
    in_time = np.argsort(dataset.val_timestamp[having], kind="stable")
    return np.sort(having[in_time[-most:]])


def _sampled(dataset: Dataset, seed: int) -> np.ndarray:
    """The validation users that are scored, ascending."""
    having = np.flatnonzero(dataset.val_item >= 0)
    most = int(min(_MOST_USERS, max(LEAST_USERS, _SCORES // max(dataset.n_items, 1))))
    if len(having) <= most:
        return having
    draws = np.random.Generator(bit_generator((seed, Purpose.PRIOR_FIT)))
    return np.sort(draws.choice(having, most, replace=False))


def _ways(config: PriorConfig) -> dict[str, list[Any]]:
    """The ways of reading a history that are tried for each component; the settings' own first."""
    own = (config.alpha, config.half_life, config.l2)
    decays = [config.decay, *(decay for decay in _DECAYS if decay != config.decay)]
    return {
        "folded": [own, *(way for way in _FOLDED if way != own)],
        "led": decays,
        "lists": decays,
        "content": decays,
        "popularity": [None],
        "recent": list(_WINDOWS),
    }


def _ways_of(fitted: FittedPrior) -> dict[str, list[Any]]:
    """Those that a fit chose, also for towers; of windows all, where it has none."""
    both = [fitted, *([] if fitted.towers is None else [fitted.towers])]
    decays = list(dict.fromkeys(each.decay for each in both))
    windows = list(dict.fromkeys(each.window for each in both if each.window))
    return {
        "folded": list(dict.fromkeys((each.alpha, each.half_life, each.l2) for each in both)),
        **dict.fromkeys(("led", "lists", "content"), decays),
        "recent": windows or list(_WINDOWS),
    }
