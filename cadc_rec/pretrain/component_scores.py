"""Each component's scores of a sample of validation users, for every way of reading a history.

They are formed once for all items; what is kept of each user are the best candidates of every
component and way. A combination of components is then ranked in milliseconds, without the tables.

In: tables, users, ways. Out: `Kept`. The test items are never looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cadc_rec.config.experiment import PriorConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.recent_popularity import RecentPopularity
from cadc_rec.data.transition_lists import TransitionLists
from cadc_rec.distributed.processes import one_torch_thread
from cadc_rec.models.history import by_length
from cadc_rec.models.prior import AT_FIRST, HistoryPrior
from cadc_rec.pretrain.tables_alone import TablesAlone

if TYPE_CHECKING:
    from cadc_rec.models.known_scores import KnownScores

_BLOCK = 4_000_000  # scores held at once
_HISTORIES = 64  # read at once: their vectors stay in the processor's cache for every way
_BEST = 50  # candidates kept of every component and of some ways of reading
_K = 10
_COMPILED = 2e8  # scores from which on compiled loops save the second or two that compiling takes


@dataclass(frozen=True)
class Kept:
    """Candidates of n users, of which each component is known in every way of reading.

    Attributes:
        ends: int64 ``[n + 1]``; user u's candidates are ``ends[u]:ends[u + 1]``, and the first of
            them is the held-out item.
        values: float32 ``[all ways, candidates]``, at an even spread.
        first: of each component, the row of its first way; its other ways follow.
    """

    ends: np.ndarray
    values: np.ndarray
    first: Mapping[str, int]

    def ndcg(self, chosen: Mapping[str, int], weights: Mapping[str, float]) -> float:
        """NDCG@10 of a combination; a candidate with the target's score ranks before it."""
        total = np.zeros(self.values.shape[1], np.float32)
        for name, first in self.first.items():
            if weights[name]:
                total += np.float32(weights[name]) * self.values[first + chosen[name]]
        first_of_each = self.ends[:-1]
        no_lower = total >= np.repeat(total[first_of_each], np.diff(self.ends))
        ranks = np.add.reduceat(no_lower, first_of_each, dtype=np.int64)
        return float((1 / np.log2(ranks[ranks <= _K] + 1.0)).sum()) / len(first_of_each)


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
    history = dataset.last_items(length, False, users)
    times = np.zeros(len(users))
    if tables.log is not None:
        times = dataset.val_timestamp[users]
    block = max(1, _BLOCK // max(dataset.n_items, 1))
    lengths = list[np.ndarray]()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    spread: dict[str, np.ndarray] = {name: np.zeros(len(ways[name])) for name in names}
    known = sum(len(ways[name]) for name in ("lists", "content", "recent") if name in names)
    compiles = known * len(users) * dataset.n_items >= _COMPILED
    readers = {name: _reader(tables, content, config, name, ways[name], compiles) for name in names}
    for start in range(0, len(users), block):
        mine = slice(start, start + block)
        asked = _Asked(history[mine], times[mine])
        scores = {name: read(asked) for name, read in readers.items()}
        for name, of_ways in scores.items():
            spread[name] += [float(way.std(1, ddof=1).sum()) for way in of_ways]
        rows, columns, of_users = _candidates(scores, dataset, users[mine])
        for name, of_ways in scores.items():
            parts[name].append(np.stack([way[rows, columns] for way in of_ways]))
        lengths.append(of_users)
    factors = {}
    values, first = list[np.ndarray](), dict[str, int]()
    for name in names:
        mean = spread[name] / len(users)
        factors[name] = np.divide(AT_FIRST, mean, out=np.ones_like(mean), where=mean > 0)
        first[name] = sum(len(each) for each in values)
        values.append(np.concatenate(parts.pop(name), 1))
        values[-1] *= factors[name][:, None].astype(np.float32)
    ends = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Kept(ends, np.concatenate(values), first), factors


def _reader(
    tables: TablesAlone,
    content: TransitionLists | None,
    config: PriorConfig,
    name: str,
    ways: Sequence[Any],
    compiles: bool,
) -> Callable[[_Asked], list[np.ndarray]]:
    """A function from requests to a component's scores ``[n, n_items]`` in every way."""
    if name == "popularity":
        popularity = tables.popularity.numpy()
        return lambda asked: [np.tile(popularity, (len(asked.times), 1))]
    if name == "recent":
        log = tables.log
        assert log is not None
        if not compiles:
            return lambda asked: [_recent(log, window, asked.times) for window in ways]
        from cadc_rec.models.known_scores import RecentExamples  # by numba, slow to import

        return lambda asked: _at_every_item(
            [RecentExamples(log, window, asked.times) for window in ways], log.n_items
        )
    if name in ("lists", "content"):
        lists = tables.lists if name == "lists" else content
        assert lists is not None
        if not compiles:
            return lambda asked: [lists.scores(asked.history, way).toarray() for way in ways]
        from cadc_rec.models.known_scores import ListedExamples

        return lambda asked: _at_every_item(
            [ListedExamples(lists, decay, asked.history) for decay in ways], lists.n_items
        )
    if name == "led":
        return _of_vectors(tables, 1, [config.model_copy(update={"decay": way}) for way in ways])
    keys = ("alpha", "half_life", "l2")
    changed = [config.model_copy(update=dict(zip(keys, way, strict=True))) for way in ways]
    return _of_vectors(tables, 0, changed)


def _at_every_item(read: Sequence[KnownScores], n_items: int) -> list[np.ndarray]:
    """All scores of the same requests, read in several ways: each ``[requests, n_items]``."""
    every = torch.arange(n_items)
    return [one.of(torch.arange(one.rows), every).numpy() for one in read]


def _recent(log: RecentPopularity, window: float, times: np.ndarray) -> np.ndarray:
    """What `RecentExamples` gives at every item."""
    counts = log.counts(times, window).astype(np.float32)
    np.log1p(counts.data, out=counts.data)
    return counts.toarray()


def _of_vectors(
    tables: TablesAlone, part: int, configs: Sequence[PriorConfig]
) -> Callable[[_Asked], list[np.ndarray]]:
    """The same for one of the scores that are dot products: of ``folded``, 0, or ``led``, 1."""
    prior, rows = tables.dense.reader.prior, (tables.dense.items, tables.dense.sources)[part]
    assert prior is not None
    assert rows is not None
    read = [HistoryPrior(prior.gram, each) for each in configs]
    items = tables.dense.every_item().prior[part].t()

    def scores(asked: _Asked) -> list[np.ndarray]:
        found = [rows.weight.new_empty(len(asked.history), rows.weight.shape[1]) for _ in read]
        with one_torch_thread():  # for products so small that several would wait for each other
            for places, of_class in by_length(torch.from_numpy(asked.history)):
                for some, history in zip(
                    places.split(_HISTORIES), of_class.split(_HISTORIES), strict=True
                ):
                    vectors, known = rows.sequences(history), history >= 0
                    for vectors_of, each in zip(found, read, strict=True):
                        vectors_of[some] = (each.led if part else each.folded)(vectors, known)
        return [(each @ items).numpy() for each in found]

    return scores


def _candidates(
    scores: Mapping[str, Sequence[np.ndarray]], dataset: Dataset, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each user the held-out item, then the best that are not known to them.

    The first, the middle and the last way of each component propose theirs: ways of one component
    differ little in what is best.

    Args:
        scores: of each component, in every way; what is known to a user is set to -inf in them.
        dataset: what is known.
        users: rows of users.

    Returns:
        Rows and columns of the scores, user by user, and how many each user has.
    """
    n_items = dataset.n_items
    starts, ends = dataset.user_indptr[users], dataset.user_indptr[users + 1]
    taken = [dataset.train_item[start:end] for start, end in zip(starts, ends, strict=True)]
    row_of = torch.from_numpy(np.repeat(np.arange(len(users)), ends - starts))
    known = row_of, torch.from_numpy(np.concatenate(taken).astype(np.int64))
    marks = torch.zeros(len(users), n_items, dtype=torch.bool)
    for of_ways in scores.values():
        for way in {0, len(of_ways) // 2, len(of_ways) - 1}:
            allowed = torch.from_numpy(of_ways[way])
            allowed[known] = -torch.inf
            marks.scatter_(1, allowed.topk(min(_BEST, n_items), 1, sorted=False).indices, True)
    marks[known] = False
    wanted = marks.numpy()
    held_out = dataset.val_item[users]
    wanted[np.arange(len(users)), held_out] = False  # it stands first
    rows, columns = wanted.nonzero()
    counts = wanted.sum(1)
    ends = np.cumsum(counts)
    columns = np.insert(columns, ends - counts, held_out)
    rows = np.insert(rows, ends - counts, np.arange(len(users)))
    return rows, columns, counts + 1
