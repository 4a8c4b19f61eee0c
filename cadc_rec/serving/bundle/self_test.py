"""A bundle's self-test: recorded requests, and whether a predictor still answers them so.

In: a bundle and a function that recommends. Out: a `Verdict`. The answers were formed at export
in float64 from the bundle's vectors, by going through all items. An exact index must give the same
items, but for those whose scores differ by less than the tolerance; an approximate one must find
as large a part of them as it did at export.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle

Recommend = Callable[..., tuple[Sequence[Sequence[Any]], Sequence[Sequence[float]]]]
"""Original user ids and k to original item ids and scores, known items left out; a row a user. By
name it is given what `Predictor.recommend` calls so: ``time`` and ``context``, where requests have
them."""

_SLACK = 0.02  # of an approximate index's recall


@dataclass(frozen=True)
class Verdict:
    """What came of a self-test.

    Attributes:
        requests: how many were made.
        wrong: what differs, a sentence for each request; empty where all is well.
        recall: share of the recorded items that were found.
    """

    requests: int
    wrong: tuple[str, ...]
    recall: float

    @property
    def passed(self) -> bool:
        """Whether the bundle may be served."""
        return not self.wrong


def run_self_test(bundle: Bundle, recommend: Recommend) -> Verdict:
    """Make the recorded requests and compare the answers."""
    recorded = bundle.json(layout.SELF_TEST)
    requests, k, tolerance = recorded["requests"], recorded["k"], recorded["tolerance"]
    exact = recorded["recall"] is None
    users = [request["user"] for request in requests]
    items, scores = recommend(users, k, **_moments(requests))
    wrong, found, wanted = [], 0, 0
    for request, got, their_scores in zip(requests, items, scores, strict=True):
        problem = _difference(request, list(got), list(their_scores), tolerance, exact)
        if problem:
            wrong.append(f"user {request['user']!r}: {problem}")
        found += len(set(request["items"]) & set(got))
        wanted += len(request["items"])
    recall = found / wanted if wanted else 1.0
    if not exact and recall < recorded["recall"] - _SLACK:
        wrong.append(
            f"{recall:.1%} of the recorded items found, {recorded['recall']:.1%} at export"
        )
    return Verdict(len(requests), tuple(wrong), recall)


def _moments(requests: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the requests say of their moments."""
    said: dict[str, Any] = {}
    if requests and "time" in requests[0]:
        said["time"] = [request["time"] for request in requests]
    if requests and requests[0].get("context"):
        names = requests[0]["context"]
        said["context"] = {
            name: [request["context"][name] for request in requests] for name in names
        }
    return said


def _difference(
    request: dict[str, Any], items: list[Any], scores: list[float], tolerance: float, exact: bool
) -> str | None:
    """What is wrong with one answer."""
    expected = dict(zip(request["items"], request["scores"], strict=True))
    for item, score in zip(items, scores, strict=True):
        if item in expected and not _close(score, expected[item], tolerance):
            return f"item {item!r} scores {score!r}, recorded is {expected[item]!r}"
    if not exact:
        return None
    if len(items) != len(expected):
        return f"{len(items)} items instead of {len(expected)}"
    for place, (item, score, wanted) in enumerate(
        zip(items, scores, request["items"], strict=True)
    ):
        # Another item may stand here only where its score is as good as the same.
        if item != wanted and not _close(score, expected[wanted], tolerance):
            return f"item {item!r} instead of {wanted!r} in place {place + 1}"
    return None


def _close(score: float, recorded: float, tolerance: float) -> bool:
    return math.isclose(score, recorded, rel_tol=tolerance, abs_tol=tolerance)
