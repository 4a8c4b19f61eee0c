"""Recent popularity while a service runs: how a bundle has it, and how answers are given with it.

In: what a bundle says of it, and counts. Out: scores of the items that were taken in the window, to
be added to dot products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.predict.listed import More, OnTop

if TYPE_CHECKING:
    from scipy import sparse

    from cadc_rec.serving.bundle.bundle import Bundle


@dataclass(frozen=True)
class RecentState:
    """Recent popularity as a bundle has it: factor x log(1 + count in the window).

    Attributes:
        window: seconds.
        factor: of the logarithms.
        time: of the log's interactions in its last window, ascending.
        item: rows of their items.
    """

    window: float
    factor: float
    time: NDArray[np.float64]
    item: NDArray[np.int32]

    @classmethod
    def of_bundle(cls, bundle: Bundle, model: Mapping[str, Any], n_items: int) -> Self | None:
        """That of a bundle; None where its model counts nothing recent, or it is an older one.

        Raises:
            CadcError: its parts do not fit each other.
        """
        if "recent" not in model:
            return None
        rows = bundle.arrays(layout.RECENT)
        time, item = rows["time"], rows["item"]
        fit = len(time) == len(item) and np.isfinite(time).all() and (np.diff(time) >= 0).all()
        if not fit or (len(item) and not (item.min() >= 0 and item.max() < n_items)):
            raise CadcError(f"{bundle.path}: {layout.RECENT} does not fit the items; export anew.")
        return cls(float(model["recent"]["window"]), float(model["recent"]["factor"]), time, item)

    def scored(self, items: NDArray[np.int64], counts: NDArray[np.int32]) -> RecentNow:
        """The scores of items that were taken so often in the window; of others it is 0."""
        scores = np.log1p(counts).astype(np.float32) * np.float32(self.factor)
        return RecentNow(items.astype(np.int32), scores)


@dataclass(frozen=True)
class RecentNow:
    """Scores of recent popularity at a moment.

    Attributes:
        rows: of the items that were taken in the window, ascending, int32.
        scores: of each, float32.
    """

    rows: NDArray[np.int32]
    scores: NDArray[np.float32]

    def on_top(
        self, lists: sparse.csr_array | None, factors: NDArray[np.float32], n_items: int
    ) -> OnTop:
        """These scores, beside those of lists, as an evaluation adds them up.

        Args:
            lists: ``[n, items]``, float32; None without.
            factors: of these scores, one a query ``[n]``.
            n_items: items with rows from here on are left out.
        """
        many = int(np.searchsorted(self.rows, n_items))
        return OnTop(More(self.rows[:many], self.scores[:many]), factors, lists)
