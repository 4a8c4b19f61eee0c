"""The one judge of all contenders: where each request's target stands among the same candidates.

In: requests, and what a contender serves for them: a finished run or update, or counts of recent
interactions. Out: a rank a request. Candidates are all items that the log held before the period,
less those that the user had taken. An item that a contender does not know is served to nobody: it
ranks behind all others. A user whom it does not know gets what its service gives one who brings a
history: see docs/serving.md. Of equal scores the target is the last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.days.clicks import HOUR, Log, Requests
from cadc_rec.data.recent_popularity import RecentPopularity, RecentScores
from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.ranking import held_out_ranks
from cadc_rec.export.finished import Finished

MISSED = np.iinfo(np.int32).max
"""The rank of a target that a contender does not know."""
_AT_ONCE = 4096  # histories

Listed = Callable[[NDArray[np.int64]], sparse.csr_array]


@dataclass(frozen=True)
class Served:
    """What a contender knows of the requests.

    Attributes:
        users: vectors ``[requests, d]``.
        items: ``[n_items, d]``.
        item_ids: original ids of these items ``[n_items]``.
        listed: scores on top of the dot products, of some requests by place.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    item_ids: NDArray[np.int64]
    listed: Listed | None


def ranks(log: Log, requests: Requests, served: Served) -> NDArray[np.int32]:
    """The rank of each request's target ``[requests]``, `MISSED` where it is unknown."""
    target = _rows(served.item_ids, requests.target)
    found = np.full(len(requests), MISSED, np.int32)
    places = np.flatnonzero(target >= 0)
    if not len(places):
        return found
    listed = served.listed
    found[places] = held_out_ranks(
        torch.from_numpy(served.users[places]),
        torch.from_numpy(served.items),
        target[places],
        _known(log, requests.taken, served.item_ids).some(places),
        listed=None if listed is None else lambda some: listed(places[some]),
    )
    return found


def of_finished(log: Log, requests: Requests, made: Finished, live: bool = False) -> Served:
    """What a run or an update serves.

    Args:
        log: whose clicks the requests are.
        requests: the requests.
        made: the run or update; its state says whether the items count that it held out.
        live: count what was taken just before up to each request, instead of up to the model's
            own end. The counts take in the whole log, also days that the model did not learn.
    """
    data = made.dataset
    item_ids, user_ids = (of().to_numpy() for of in (data.item_ids, data.user_ids))
    row = _rows(user_ids, requests.user)
    history = _known(log, requests.taken, item_ids)
    items = made.vectors("item")
    by_history = np.flatnonzero((row < 0) & (np.diff(history.indptr) > 0))
    nobody = np.flatnonzero((row < 0) & (np.diff(history.indptr) == 0))
    users = made.vectors("user")[row]  # those of row -1 are replaced
    lists = made.listed()
    length = made.newcomer_program.inputs["history"][0] if len(by_history) else 0
    if len(by_history):
        read = _latest(history.some(by_history), length).astype(np.int64)
        with torch.inference_mode():
            program = made.newcomer_program.module
            starts = range(0, len(read), _AT_ONCE)
            parts = [program(torch.from_numpy(read[n : n + _AT_ONCE])) for n in starts]
        users[by_history] = torch.cat(parts).float().numpy()
    recent = None
    if made.latest.scores is not None and live:
        users, items = users[:, :-1], items[:, :-1]  # the last element is what was taken before
        recent = _recent(log, made, item_ids)
    if len(nobody):  # the items most often taken
        taken = np.bincount(made.known.items, minlength=len(items))
        counts = taken.astype(np.float32)[:, None]
        users, items = _with_column(users, 0.0), np.concatenate([items, counts], 1)
        users[nobody] = 0.0
        users[nobody, -1] = 1.0
    padded = None
    if lists is not None:
        padded = made.log.last_items(lists.length, True)[row]
        padded[row < 0] = _latest(history.some(np.flatnonzero(row < 0)), lists.length)
    listed = _on_top(lists, padded, recent, requests.time / 1000.0, nobody)
    return Served(users, np.ascontiguousarray(items), item_ids, listed)


def of_popularity(
    log: Log, requests: Requests, moment: int, hours: int, live: bool = False
) -> Served:
    """What was taken most often in the last hours before `moment`, or before each request."""
    popularity = RecentPopularity(log.seconds, log.item, len(log.items))
    _, known = log.known(moment)
    item_ids, window = log.items, hours * HOUR / 1000.0
    if live:
        scores = RecentScores(popularity, window, 1.0)
        times = requests.time / 1000.0
        users, items = np.zeros((len(requests), 1)), np.zeros((len(item_ids), 1))
        # Items that came in the period are no candidates.
        rows = np.flatnonzero(known)
        return Served(
            users.astype(np.float32),
            items[rows].astype(np.float32),
            item_ids[rows],
            lambda some: scores.of(times[some])[:, rows],
        )
    counts = popularity.counts(np.array([moment / 1000.0]), window).toarray()[0]
    rows = np.flatnonzero(known)
    ones = np.ones((len(requests), 1), np.float32)
    return Served(ones, counts[rows].astype(np.float32)[:, None], item_ids[rows], None)


def _rows(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place of each wanted id in `ids`, -1 where it is not among them."""
    order = np.argsort(ids, kind="stable")
    place = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    return np.where(ids[order[place]] == wanted, order[place], -1)


def _known(log: Log, taken: UserItems, item_ids: NDArray[np.int64]) -> UserItems:
    """What was taken, as rows of a contender's items, less what it does not know."""
    row = _rows(item_ids, log.items)[taken.items]
    kept = np.concatenate([[0], np.cumsum(row >= 0)])
    return UserItems(kept[taken.indptr], row[row >= 0].astype(np.int32))


def _latest(histories: UserItems, length: int) -> NDArray[np.int32]:
    """The last items of each, the latest first; int32 ``[n, length]``, -1 behind them."""
    places = histories.indptr[1:, None] - 1 - np.arange(length)
    inside = places >= histories.indptr[:-1, None]
    found = np.full(places.shape, -1, np.int32)
    found[inside] = histories.items[places[inside]]
    return found


def _with_column(vectors: NDArray[np.float32], value: float) -> NDArray[np.float32]:
    column = np.full((len(vectors), 1), value, np.float32)
    return np.concatenate([vectors, column], 1)


def _recent(log: Log, made: Finished, item_ids: NDArray[np.int64]) -> RecentScores:
    """A model's own factor and window, of what the whole log counts of its items."""
    row = _rows(item_ids, log.items)[log.item]
    counted = RecentPopularity(log.seconds[row >= 0], row[row >= 0].astype(np.int32), len(item_ids))
    return RecentScores(counted, **made.artifacts["evaluate"].info["recent"])


def _on_top(
    lists: ListedScores | None,
    history: NDArray[np.int32] | None,
    recent: RecentScores | None,
    seconds: NDArray[np.float64],
    nobody: NDArray[np.int64],
) -> Listed | None:
    """The scores of lists and of recent counts, of requests by place."""
    if lists is None and recent is None:
        return None

    def listed(places: NDArray[np.int64]) -> sparse.csr_array:
        parts = []
        if lists is not None:
            assert history is not None
            parts.append(lists.of(history[places]))
        if recent is not None:
            parts.append(recent.of(seconds[places]))
        for part in parts:
            part.sort_indices()
        added = sum(parts[1:], parts[0])
        if len(nobody):  # are answered by counts alone
            rows = np.repeat(np.arange(len(places)), np.diff(added.indptr))
            added.data[np.isin(places[rows], nobody)] = 0.0
        return added

    return listed
