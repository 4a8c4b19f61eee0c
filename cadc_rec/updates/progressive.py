"""Predict, then learn: how well the model before an update foresaw what came.

In: the artifacts before an update, the datasets before and after. Out: HR@K and NDCG@K of the next
item of each user who came back, ranked among all items by the model that had not seen it; how much
of the day the model knew at all; norms of the tables before and after.

(Progressive validation: Blum, Kalai and Langford, COLT 1999.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from cadc_rec.config.experiment import UpdateConfig
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.user_items import UserItems
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.store.artifact import Artifact
from cadc_rec.updates.changes import Changes
from cadc_rec.updates.served import served_ranks

_HIT_RATE = "hr@10"
_CHANCE = 1.645  # standard errors that a difference exceeds by chance once in twenty times


Sample: TypeAlias = Callable[[NDArray[np.int32]], NDArray[np.int64] | None]
"""Given each user's item, -1 for none: the users to rank, ascending; None is all who have one."""


def progressive(
    before: Mapping[str, Artifact],
    old: Dataset,
    new: Dataset,
    changes: Changes,
    ks: Sequence[int],
    sample: Sample = lambda _: None,
) -> dict[str, Any]:
    """The model before the update, on what came after it.

    A known user's next item is the first in time of those that the user had not taken before. It is
    ranked among all items that the model knew, less forgotten ones and those the user had taken by
    then, by the scores that the model serves: vectors, lists and recent popularity.

    Args:
        before: the artifacts before.
        old: their dataset.
        new: the next one.
        changes: between the two.
        ks: cut-offs, to which 10 is added.
        sample: chooses who is ranked, of the known users who came back with an item it knew.

    Returns:
        ``rows``: of what came those of a known user and a known item (``known``), and of a new one
        of either; ``users``: those who are ranked, ``of`` so many known ones who came back with an
        item the model knew; ``new_item``: those whose next item it did not know, which are in no
        metric; ``metrics``, None where there are no such users.
    """
    # A row that has another owner by now is a new user's or item's, whatever it held before.
    of_new_user = _is_new(old.n_users, new.n_users, changes.reused.get("user"))
    of_new_item = _is_new(old.n_items, new.n_items, changes.reused.get("item"))
    # Where rows are reused, a user may have come back though D_full has the same rows of it.
    held_out = np.zeros(min(old.n_users, new.n_users), bool)
    for of in ("val_item", "test_item"):
        held_out |= getattr(old, of)[: len(held_out)] != getattr(new, of)[: len(held_out)]
    mine = np.union1d(changes.users, np.flatnonzero(held_out))
    user, item = _joined(new, mine)
    before_it, taken = _joined(old, mine[~of_new_user[mine]])
    stayed = ~of_new_item[taken]
    known_pairs = before_it[stayed] * new.n_items + taken[stayed]
    came = ~np.isin(user * new.n_items + item, known_pairs)
    user, item = user[came], item[came]
    kinds = np.bincount(2 * of_new_user[user] + of_new_item[item], minlength=4).tolist()
    rows = dict(zip(("known", "new_item", "new_user", "new_both"), kinds, strict=True))
    users, first = np.unique(user[~of_new_user[user]], return_index=True)
    wanted = item[~of_new_user[user]][first].astype(np.int64)
    foreseen = np.flatnonzero(~of_new_item[wanted])
    came_back, metrics = len(foreseen), None
    next_item = np.full(old.n_users, -1, np.int32)
    next_item[users[foreseen]] = wanted[foreseen]
    chosen = sample(next_item)
    if chosen is not None:
        foreseen = np.flatnonzero(np.isin(users, chosen))
    never = old.forgotten.rows["item"].astype(np.int32)  # is served to nobody
    every_k = sorted({*ks, 10})
    if len(foreseen):
        asked = users[foreseen]
        of_each = [np.append(part, never) for part in _of_users(old, asked)]
        ranks = served_ranks(
            before, old, asked, wanted[foreseen], UserItems.of_lists(of_each), every_k[-1]
        )
        metrics = ranking_metrics(ranks, every_k)
    return {
        "rows": rows,
        "users": len(foreseen),
        "of": came_back,
        "new_item": len(wanted) - came_back,
        "metrics": metrics,
    }


def _is_new(before: int, now: int, reused: NDArray[np.int64] | None) -> NDArray[np.bool_]:
    """Of each row whether the model before knew nothing of its owner."""
    found = np.arange(max(before, now)) >= before
    if reused is not None:
        found[reused] = True
    return found


def _of_users(dataset: Dataset, users: NDArray[np.int64]) -> list[NDArray[np.int32]]:
    """All items that each user took, in the order of time; the held-out ones are the last."""
    taken = UserItems(dataset.user_indptr, dataset.train_item).some(users)
    for held_out in (dataset.val_item, dataset.test_item):
        taken = taken.and_one_each(held_out[users])
    return np.split(taken.items, taken.indptr[1:-1])


def _joined(
    dataset: Dataset, users: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """The same end to end: the user and the item of each."""
    of_each = _of_users(dataset, users)
    items = np.concatenate([*of_each, np.zeros(0, np.int32)])
    return np.repeat(users, list(map(len, of_each))), items


def norms(before: torch.Tensor, after: torch.Tensor) -> dict[str, float | None]:
    """Mean lengths of a table's rows.

    Args:
        before: ``[n, d]``.
        after: ``[n + new, d]``.

    Returns:
        Of known rows ``before`` and ``after``, and of ``new`` ones; None where there are none.
    """
    n = len(before)

    def mean(rows: torch.Tensor) -> float | None:
        return float(rows.double().norm(dim=1).mean()) if len(rows) else None

    return {"before": mean(before), "after": mean(after[:n]), "new": mean(after[n:])}


def fell(config: UpdateConfig, first: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Why a rebuild is advisable: today's next items were foreseen worse than once; or nothing.

    Args:
        config: the limit.
        first: what `progressive` gave for the first update after the last full build; None where
            this is that one.
        now: what it gives for this one.
    """
    if first is None or first["metrics"] is None or now["metrics"] is None:
        return ""
    was, is_now = first["metrics"][_HIT_RATE], now["metrics"][_HIT_RATE]
    least = config.advise_hit_rate
    variance = least**2 * was * (1 - was) / first["users"] + is_now * (1 - is_now) / now["users"]
    # Users differ from day to day, so the two shares are those of two independent samples.
    if least * was - is_now <= _CHANCE * math.sqrt(variance):
        return ""
    return (
        f"HR@10 of users' next items, before they are learned, is {is_now:.2%}, and was "
        f"{was:.2%} after the last full build: below update.advise_hit_rate = {least} of it"
    )


def progressive_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What the report of an update says of it; nothing in records of before."""
    found = report.get("progressive")
    if found is None:
        return
    rows = found["rows"]
    share = rows["known"] / max(1, sum(rows.values()))
    yield (
        f"before it was learned: {share:.1%} of the new interactions were of a known user and a "
        f"known item ({rows['new_user'] + rows['new_both']:,} of new users, "
        f"{rows['new_item'] + rows['new_both']:,} of new items)"
    )
    if found["metrics"] is not None:
        reached = ", ".join(f"{k.upper()} {100 * v:.2f}%" for k, v in found["metrics"].items())
        yield f"  next items of {found['users']:,} users who came back: {reached}"
    for name, words in (("tables", "pre-trained"), ("vectors", "served")):
        for side, of_side in report["norms"][name].items():
            then, now, new = (of_side[which] for which in ("before", "after", "new"))
            line = f"mean length of {words} {side} vectors: {then:.3f} before, {now:.3f} now"
            yield line if new is None else f"{line}, {new:.3f} of new ones"
