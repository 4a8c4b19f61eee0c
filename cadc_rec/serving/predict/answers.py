"""What a predictor answers, and what each answer is based on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Source(IntEnum):
    """What an answer is based on."""

    KNOWN = 0
    """The user's own vector."""
    HISTORY = 1
    """The history that came with the request, of a user the model has never seen."""
    POPULARITY = 2
    """How often items were taken, for a user whom the model has never seen, without a history."""
    ATTRIBUTES = 3
    """Attributes that came with the request, and the history where there was one, likewise."""

    @property
    def word(self) -> str:
        """``known``, ``history``, ``popularity`` or ``attributes``."""
        return self.name.lower()


@dataclass(frozen=True)
class Recommendations:
    """Answers for n users, the best item first.

    Attributes:
        rows: int64 ``[n, k]``, -1 where a user has no more candidates.
        item_ids: original ids ``[n, k]``; 0 or the empty string there.
        scores: float64 ``[n, k]``, minus infinity there. Scores of different sources cannot be
            compared: a popularity is a count.
        sources: `Source` of each user, int8 ``[n]``.
    """

    rows: NDArray[np.int64]
    item_ids: NDArray[Any]
    scores: NDArray[np.float64]
    sources: NDArray[np.int8]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many items each user got, ``[n]``; fewer than k where no more were left."""
        counts: NDArray[np.int64] = (self.rows >= 0).sum(1)
        return counts

    def lists(self) -> list[list[Any]]:
        """Item ids of each user, without the empty places."""
        return [row[:n].tolist() for row, n in zip(self.item_ids, self.counts, strict=True)]
