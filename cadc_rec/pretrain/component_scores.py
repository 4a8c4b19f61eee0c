"""Each component's scores of a sample of validation users, for every way of reading a history.

They are formed once for all items; what is kept of each user are the best candidates of every
component and way. A combination of components is then ranked in milliseconds, without the tables.

In: tables, users, ways. Out: `Kept`. The test items are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cadc_rec.config.experiment import PriorConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import RecentScores
from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.models.prior import AT_FIRST
from cadc_rec.pretrain.tables_alone import TablesAlone

_BLOCK = 4_000_000  # scores held at once
_BEST = 50  # candidates kept of every component and way of reading
_K = 10


@dataclass(frozen=True)
class Kept:
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


def scored(
    tables: TablesAlone,
    content: TransitionLists | None,
    config: PriorConfig,
    ways: Mapping[str, Sequence[Any]],
    length: int,
    dataset: Dataset,
    users: np.ndarray,
) -> tuple[Kept, dict[str, np.ndarray]]:
    """Candidates of all users, and each component's factor to an even spread, for every way."""
    names = [name for name in ("folded", "led", "lists") if name in tables.factors]
    names += [] if content is None else ["content"]
    names += ["popularity"] if tables.log is None else ["popularity", "recent"]
    history = dataset.last_items(length, with_validation=False)[users]
    times = np.zeros(len(users))
    if tables.log is not None:
        times = dataset.val_timestamp[users]
    block = max(1, _BLOCK // max(dataset.n_items, 1))
    starts, size = list[np.ndarray](), 0
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    spread: dict[str, np.ndarray] = {name: np.zeros(len(ways[name])) for name in names}
    readers = {name: _reader(tables, content, config, name, ways[name]) for name in names}
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
    return Kept(np.concatenate(starts), values), factors


def _reader(
    tables: TablesAlone,
    content: TransitionLists | None,
    config: PriorConfig,
    name: str,
    ways: Sequence[Any],
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
    if name in ("lists", "content"):
        lists = tables.lists if name == "lists" else content
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
