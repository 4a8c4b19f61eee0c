"""The self-test's requests and answers: formed in float64, by going through all items.

In: vectors, what users know, ids. Out: the contents of ``self_test.json``
(`cadc_rec.serving.bundle.self_test`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec.data.transition_lists import ListedScores
from cadc_rec.data.user_items import UserItems

REQUESTS = 100
_K = 10
_TOLERANCE = 1e-4  # float32 sums of a hundred products, in any order, are closer by far
_SEED = 0
_BLOCK = 2**12  # items whose vectors are float64 at once


def recorded_requests(
    users: np.ndarray,
    items: np.ndarray,
    known: UserItems,
    user_ids: pa.Array,
    item_ids: pa.Array,
    index: faiss.Index | None,
    listed: ListedScores | None,
    moments: tuple[NDArray[np.float64] | None, Mapping[str, Sequence[Any]]] | None = None,
    silent: NDArray[np.int64] | None = None,
    no_answer: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """`REQUESTS` users drawn evenly, or all where there are fewer, with their ten best items.

    Args:
        users: float32 ``[n_users, d]``.
        items: float32 ``[n_items, d]``.
        known: left out of the answers.
        user_ids: original ids of the users, in row order.
        item_ids: original ids of the items, in row order.
        index: an approximate one, whose recall is recorded; None where it is exact.
        listed: scores on top of the dot products.
        moments: times ``[n_users]`` of the requests that the users' vectors are of, NaN where there
            was none, and values of their columns; None where no request has a context.
        silent: rows of users who ask nothing; None: nobody.
        no_answer: rows of items that are no answer; None: none.
    """
    drawn = np.random.default_rng(_SEED).permutation(len(users))
    if silent is not None:
        drawn = drawn[~np.isin(drawn, silent)]
    drawn = drawn[:REQUESTS]
    requests, found, wanted = [], 0, 0
    for user in np.sort(drawn).tolist():
        taken = known.items[known.indptr[user] : known.indptr[user + 1]]
        scores = _scores(users[user], items)
        proposed = taken[:0]
        if listed is not None:
            more = listed.of_lists([taken[::-1]])
            scores[more.indices] += more.data
            proposed = more.indices[np.argsort(-more.data)]
        scores[taken] = -np.inf
        if no_answer is not None:
            scores[no_answer] = -np.inf
        best = np.lexsort((np.arange(len(scores)), -scores))[:_K]
        best = best[np.isfinite(scores[best])]
        requests.append(
            {
                "user": user_ids[user].as_py(),
                **_moment(moments, user),
                "items": [item_ids[int(row)].as_py() for row in best],
                "scores": scores[best].tolist(),
            }
        )
        if index is not None:
            ask = min(_K + len(taken), len(items))
            _, rows = index.search(users[user : user + 1], ask)
            every = np.unique([*rows[0][rows[0] >= 0], *proposed[:ask]]).astype(np.int64)
            # All that were proposed are scored exactly, so the best of these are the answer.
            kept = every[np.argsort(-scores[every], kind="stable")][:_K]
            found += len(set(kept.tolist()) & set(best.tolist()))
            wanted += len(best)
    recall = None if index is None else found / max(wanted, 1)
    return {"k": _K, "tolerance": _TOLERANCE, "recall": recall, "requests": requests}


def _scores(user: NDArray[np.float32], items: NDArray[np.float32]) -> NDArray[np.float64]:
    """Dot products ``[n_items]`` in float64, of which only a block of the items is at once."""
    scores, query = np.empty(len(items)), user.astype(np.float64)
    for start in range(0, len(items), _BLOCK):
        scores[start : start + _BLOCK] = items[start : start + _BLOCK].astype(np.float64) @ query
    return scores


def _moment(
    moments: tuple[NDArray[np.float64] | None, Mapping[str, Sequence[Any]]] | None, user: int
) -> dict[str, Any]:
    """What a user's request says of its moment, None where that is not known."""
    if moments is None:
        return {}
    times, columns = moments
    said: dict[str, Any] = {"context": {name: values[user] for name, values in columns.items()}}
    if times is not None:
        said["time"] = None if np.isnan(times[user]) else float(times[user])
    return said
