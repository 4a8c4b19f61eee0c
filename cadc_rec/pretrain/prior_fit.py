"""The prior's factors and decays, chosen on validation by a search that takes seconds.

How much each component of the tables' score is worth differs from log to log: a hand-chosen factor
that suits films is wrong for news. So components are scored once for a sample of validation users,
for every way of reading a history that is tried, and what is kept of each user are the best
candidates of every component. All of the search runs on these: a combination takes milliseconds.

In: tables and a dataset. Out: a `FittedPrior`. The test items are never looked at.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cadc_rec import strict_json
from cadc_rec.config.experiment import HistoryConfig, PriorConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.randomness import Purpose, bit_generator
from cadc_rec.data.recent_popularity import RecentScores
from cadc_rec.models.prior import AT_FIRST
from cadc_rec.pretrain.id_tables import Pretrained
from cadc_rec.pretrain.tables_alone import TablesAlone, tables_alone

FILE = "fitted_prior.json"
LEAST_USERS = 200
"""With fewer validation users, chance would choose the factors."""
_MOST_USERS = 4000
_SCORES = 1e9  # formed for the sample and each way of reading at most; bounds users
_BLOCK = 4_000_000  # scores held at once
_BEST = 50  # candidates kept of every component and way of reading
_K = 10
# What is tried. The first weight of a component is where the search starts.
_FOLDED = tuple(itertools.product((4.0, 8.0, 20.0), (3.0, 10.0), (0.05, 0.2)))
_DECAYS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_WEIGHTS = {
    "folded": (1.0, 0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.45, 0.7, 1.5, 3.0),
    "popularity": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8),
    "recent": (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
}
_NOT_OF_TOWERS = ("popularity", "recent")  # components that towers do not add to
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
        decay: of a history's places, for transitions.
        factors: of each component's score.
        window: of recent popularity, in seconds; 0 without.
        users: validation users it was chosen on; 0 where the settings' own values stand.
        ndcg: NDCG@10 on these, among the candidates that were kept.
        alone: NDCG@10 of each component by itself.
        without: NDCG@10 of all others, at their factors.
        towers: the same for tables that towers add to; None where it is what this one is.
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

    @property
    def for_towers(self) -> FittedPrior:
        """What was chosen for tables that towers add to; they learn popularity by themselves."""
        return self.towers or self

    def save(self, folder: Path) -> None:
        """Write it into `folder`."""
        (folder / FILE).write_text(strict_json.dumps(asdict(self), indent=2) + "\n", "utf-8")

    @classmethod
    def open(cls, folder: Path) -> FittedPrior:
        """What `save` wrote."""
        values = json.loads((folder / FILE).read_text("utf-8"))
        towers = values.pop("towers", None)
        return cls(**values, towers=None if towers is None else cls(**towers))

    def applied_to(self, tables: TablesAlone, config: PriorConfig) -> TablesAlone:
        """The tables' score as it was fitted; `config` gives what no fit changes."""
        chosen = {name: getattr(self, name) for name in ("alpha", "half_life", "l2", "decay")}
        tables = tables.of_prior(config.model_copy(update=chosen))
        return replace(tables, factors=dict(self.factors), window=self.window)


def fitted_tables(
    config: PriorConfig,
    history: HistoryConfig,
    dataset: Dataset,
    pretrained: Pretrained,
    fitted: FittedPrior | None,
) -> TablesAlone | None:
    """What tables alone say, as it was fitted if it was; None without a prior."""
    tables = tables_alone(config, history, dataset, pretrained)
    return tables if tables is None or fitted is None else fitted.applied_to(tables, config)


@dataclass(frozen=True)
class _Kept:
    """Candidates of n users, of which each component is known in every way of reading.

    Attributes:
        starts: ``[n]``, where each user's candidates begin; the first one is the held-out item.
        values: for each component, ``[ways, candidates]``, at an even spread.
    """

    starts: np.ndarray
    values: Mapping[str, np.ndarray]

    def ndcg(self, chosen: Mapping[str, int], weights: Mapping[str, float]) -> float:
        """NDCG@10 of a combination; a candidate with the target's score ranks before it."""
        scores = np.zeros(self.values["popularity"].shape[1], np.float32)
        for name, values in self.values.items():
            if weights[name]:
                scores += np.float32(weights[name]) * values[chosen[name]]
        lengths = np.diff(self.starts, append=len(scores))
        above = scores >= np.repeat(scores[self.starts], lengths)
        ranks = np.add.reduceat(above, self.starts, dtype=np.int64)
        return float(np.where(ranks <= _K, 1 / np.log2(ranks + 1.0), 0.0).mean())


@dataclass(frozen=True)
class _Asked:
    """Requests: histories ``[n, L]``, and the time of each."""

    history: np.ndarray
    times: np.ndarray


def fit_prior(
    config: PriorConfig,
    history: HistoryConfig,
    seed: int,
    dataset: Dataset,
    pretrained: Pretrained,
) -> FittedPrior:
    """Choose factors, confidences and decay by NDCG@10 of a sample of validation users.

    Args:
        config: where the search starts, and what stands with fewer than `LEAST_USERS` users.
        history: how long one is.
        seed: of the sample.
        dataset: D_full and the validation items.
        pretrained: the tables; ALS's, and transitions where there are any.
    """
    tables = tables_alone(config, history, dataset, pretrained)
    assert tables is not None
    users = _sampled(dataset, seed)
    if len(users) < LEAST_USERS:
        return FittedPrior(config.alpha, config.half_life, config.l2, config.decay, tables.factors)
    ways = _ways(config)
    kept, spreads = _scored(tables, config, ways, history.length, dataset, users)
    found = _found(kept, spreads, ways, config, len(users), _WEIGHTS)
    none = {**_WEIGHTS, **dict.fromkeys(_NOT_OF_TOWERS, (0.0,))}
    return replace(found, towers=_found(kept, spreads, ways, config, len(users), none))


def _found(
    kept: _Kept,
    spreads: Mapping[str, np.ndarray],
    ways: Mapping[str, Sequence[Any]],
    config: PriorConfig,
    users: int,
    tried: Mapping[str, Sequence[float]],
) -> FittedPrior:
    """The best combination of ways and weights that changing one at a time leads to."""
    leads = next((name for name in ("lists", "led") if name in kept.values), None)
    fixed = leads or "folded"  # one weight is, for only their ratios matter
    chosen = dict.fromkeys(kept.values, 0)
    weights = {name: 1.0 if name == fixed else tried[name][0] for name in kept.values}
    best = kept.ndcg(chosen, weights)
    for _ in range(_ROUNDS):
        before = best
        for name, values in kept.values.items():
            for way in range(len(values)):
                best, chosen = _better(kept, best, {**chosen, name: way}, weights, chosen)
            for weight in () if name == fixed else tried[name]:
                trial = {**weights, name: weight}
                found = kept.ndcg(chosen, trial)
                if found > best:
                    best, weights = found, trial
        if best == before:
            break
    alpha, half_life, l2 = ways["folded"][chosen["folded"]]
    decay = config.decay if leads is None else ways[leads][chosen[leads]]
    nothing = dict.fromkeys(weights, 0.0)
    return FittedPrior(
        alpha,
        half_life,
        l2,
        decay,
        {name: weights[name] * float(spreads[name][chosen[name]]) for name in weights},
        ways["recent"][chosen["recent"]] if weights.get("recent") else 0.0,
        users,
        best,
        {name: kept.ndcg(chosen, {**nothing, name: 1.0}) for name in weights},
        {name: kept.ndcg(chosen, {**weights, name: 0.0}) for name in weights},
    )


def _better(
    kept: _Kept,
    best: float,
    trial: dict[str, int],
    weights: Mapping[str, float],
    chosen: dict[str, int],
) -> tuple[float, dict[str, int]]:
    found = kept.ndcg(trial, weights)
    return (found, trial) if found > best else (best, chosen)


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
        "popularity": [None],
        "recent": list(_WINDOWS),
    }


def _scored(
    tables: TablesAlone,
    config: PriorConfig,
    ways: Mapping[str, Sequence[Any]],
    length: int,
    dataset: Dataset,
    users: np.ndarray,
) -> tuple[_Kept, dict[str, np.ndarray]]:
    """Candidates of all users, and each component's factor to an even spread, for every way."""
    names = [name for name in ("folded", "led", "lists") if name in tables.factors]
    names += ["popularity"] if tables.log is None else ["popularity", "recent"]
    history = dataset.last_items(length, with_validation=False)[users]
    times = np.zeros(len(users))
    if tables.log is not None:
        times = dataset.val_timestamp[users]
    block = max(1, _BLOCK // max(dataset.n_items, 1))
    starts, size = list[np.ndarray](), 0
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    spread: dict[str, np.ndarray] = {name: np.zeros(len(ways[name])) for name in names}
    readers = {name: _reader(tables, config, name, ways[name]) for name in names}
    for first in range(0, len(users), block):
        mine = users[first : first + block]
        scores = {
            name: read(_Asked(history[first : first + block], times[first : first + block]))
            for name, read in readers.items()
        }
        for name, of_ways in scores.items():
            spread[name] += [float(way.std(1, ddof=1).sum()) for way in of_ways]
        rows, columns, lengths = _candidates(scores, dataset, mine)
        for name, of_ways in scores.items():
            parts[name].append(np.stack([way[rows, columns] for way in of_ways]))
        starts.append(size + np.cumsum(lengths) - lengths)
        size += len(columns)
    factors = {}
    values = {}
    for name in names:
        mean = spread[name] / len(users)
        factors[name] = np.divide(AT_FIRST, mean, out=np.ones_like(mean), where=mean > 0)
        values[name] = np.concatenate(parts[name], 1) * factors[name][:, None].astype(np.float32)
    return _Kept(np.concatenate(starts), values), factors


def _reader(
    tables: TablesAlone, config: PriorConfig, name: str, ways: Sequence[Any]
) -> Callable[[_Asked], list[np.ndarray]]:
    """A function from requests to a component's scores ``[n, n_items]`` in every way."""
    if name == "popularity":
        popularity = tables.popularity.numpy()
        return lambda asked: [np.broadcast_to(popularity, (len(asked.times), len(popularity)))]
    if name == "recent":
        log = tables.log
        assert log is not None
        each = [RecentScores(log, window, 1.0) for window in ways]
        return lambda asked: [one.of(asked.times).toarray() for one in each]
    if name == "lists":
        lists = tables.lists
        assert lists is not None
        return lambda asked: [lists.scores(asked.history, decay).toarray() for decay in ways]
    part = ("folded", "led").index(name)
    keys = ("alpha", "half_life", "l2") if name == "folded" else ("decay",)
    read = []
    for way in ways:
        values = way if isinstance(way, tuple) else (way,)
        changed = config.model_copy(update=dict(zip(keys, values, strict=True)))
        read.append(tables.of_prior(changed).dense)
    items = tables.dense.every_item().prior[part]

    def scores(asked: _Asked) -> list[np.ndarray]:
        tensor = torch.from_numpy(asked.history)
        return [(prior.users(tensor).prior[part] @ items.t()).numpy() for prior in read]

    return scores


def _candidates(
    scores: Mapping[str, Sequence[np.ndarray]], dataset: Dataset, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each user the held-out item, then the best of every way that are not known to them.

    Returns:
        Rows and columns of the scores, user by user, and how many each user has.
    """
    n_items = dataset.n_items
    known = np.zeros((len(users), n_items), bool)
    for row, user in enumerate(users):
        taken = slice(dataset.user_indptr[user], dataset.user_indptr[user + 1])
        known[row, dataset.train_item[taken]] = True
    wanted = np.zeros((len(users), n_items), bool)
    best = min(_BEST, n_items)
    for of_ways in scores.values():
        for way in of_ways:
            allowed = np.where(known, -np.inf, way)
            top = np.argpartition(-allowed, best - 1, axis=1)[:, :best]
            np.put_along_axis(wanted, top, True, 1)
    wanted &= ~known
    held_out = dataset.val_item[users]
    wanted[np.arange(len(users)), held_out] = False  # it stands first
    rows, columns = wanted.nonzero()
    counts = wanted.sum(1)
    ends = np.cumsum(counts)
    columns = np.insert(columns, ends - counts, held_out)
    rows = np.insert(rows, ends - counts, np.arange(len(users)))
    return rows, columns, counts + 1
