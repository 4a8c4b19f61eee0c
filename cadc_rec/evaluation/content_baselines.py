"""What content alone says of items, without anything learned: what a tower has to be better than.

Two scores of every item, whether it was taken or not: how often items with its attribute values are
taken, the same for all users; and its mean cosine with the items that a user took, of all that is
known of both (`cadc_rec.data.content`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from cadc_rec.data.content import Content
from cadc_rec.data.user_items import UserItems

BASELINES = ("attribute_popularity", "neighbours")
_ELEMENTS = 4_000_000  # scores held at once


def attribute_popularity(
    vectors: sparse.csr_array, taken: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of each item, the mean of its values' popularity; ``[every]``.

    A value is as popular as the items with it that were taken are on average.

    Args:
        vectors: ``[every, values]``; an item has the values that are not 0. The first items are
            those of `taken`.
        taken: ``[known]``, how often each was taken.
    """
    has = sparse.csr_array(vectors, copy=True)
    has.data[:] = 1.0
    of_known = has[: len(taken)]
    mean = (of_known.T @ taken) / np.maximum(of_known.sum(0), 1.0)
    found: NDArray[np.float64] = (has @ mean) / np.maximum(has.sum(1), 1.0)
    return found


def baseline_ranks(
    content: Content,
    histories: UserItems,
    targets: NDArray[np.int32],
    excluded: UserItems,
    candidates: Mapping[str, NDArray[np.int64]],
) -> dict[str, NDArray[np.int64]]:
    """Ranks of the users' targets by both scores, of those with a target, in order of users.

    Of the candidates with a target's own score, half count as before it.

    Args:
        content: of every item.
        histories: what each user took, of the first items alone.
        targets: ``[n_users]``, -1 for none.
        excluded: what is no candidate of each user; must not hold the user's target.
        candidates: sets of items that are ranked, by name; scores are formed once for all.

    Returns:
        The ranks, by the score's name and the set's, such as ``neighbours_among_all``.
    """
    users = np.flatnonzero(targets >= 0)
    known = int(histories.items.max(initial=-1)) + 1
    taken = np.bincount(histories.items, minlength=known)
    popular = attribute_popularity(content.coded, taken)
    ranks: dict[str, list[NDArray[np.int64]]] = {
        f"{name}_{among}": [] for name in BASELINES for among in candidates
    }
    every = len(content)
    for some in _blocks(users, every):
        allowed = np.ones((len(some), every), bool)
        allowed.ravel()[excluded.some(some).flat(every)] = False
        alike = _mean_cosines(content, histories, some)
        both: list[NDArray[Any]] = [np.broadcast_to(popular, alike.shape), alike]
        for name, scores in zip(BASELINES, both, strict=True):
            own = scores[np.arange(len(some)), targets[some]][:, None]
            better, equal = (scores > own) & allowed, (scores == own) & allowed
            for among, items in candidates.items():
                above = better[:, items].sum(1)
                beside = equal[:, items].sum(1) - 1  # less the target itself
                ranks[f"{name}_{among}"].append(1 + above + beside // 2)
    return {
        name: np.concatenate(each) if each else np.zeros(0, np.int64)
        for name, each in ranks.items()
    }


def _mean_cosines(
    content: Content, histories: UserItems, users: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Of every item with the items that a user took, the mean; float32 ``[users, every]``.

    Vectors are read block by block, once for the users' means and once for the products.
    """
    row, item = histories.joined(users)
    counts = np.bincount(row, minlength=len(users))
    shape = (len(users), len(content))
    share = sparse.csr_array((1.0 / counts[row], (row, item)), shape=shape)
    coded = sparse.csr_array((len(users), content.coded.shape[1]))
    dense = np.zeros((len(users), content.width))
    for block in content.blocks(int(item.max(initial=-1)) + 1):
        values, vectors = content.rows(block)
        of_block = sparse.csr_array(share[:, block])
        coded, dense = coded + of_block @ values, dense + of_block @ vectors
    found = np.empty((len(users), len(content)), np.float32)
    for block in content.blocks():
        values, vectors = content.rows(block)
        # In float64, so that items of the same content have the same score in any block.
        found[:, block] = (coded @ values.T).toarray() + dense @ vectors.astype(np.float64).T
    return found


def _blocks(users: NDArray[np.int64], width: int) -> Iterator[NDArray[np.int64]]:
    block = max(1, _ELEMENTS // max(width, 1))
    for first in range(0, len(users), block):
        yield users[first : first + block]
