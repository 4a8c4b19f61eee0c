"""Validation in training: the metrics that choose the epoch, and the ranks of the best one.

In: a sharded model and the held-out items of the users to rank. Out: metrics of each epoch; in the
end the ranks under the weights that are kept, which the evaluate stage need not form again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cadc_rec.data.context import RequestContext
from cadc_rec.data.dataset import Dataset
from cadc_rec.evaluation.metrics import ranking_metrics
from cadc_rec.evaluation.on_top import LastItems
from cadc_rec.training.scoring import Kept, Scoring, of_towers

if TYPE_CHECKING:
    from cadc_rec.training.build import ShardedTwoTower

CHECKPOINT_METRIC = "ndcg@10"  # the same rule for every method
VALIDATION_RANKS = "validation_ranks.parquet"
WRITTEN = 2**16
"""Rows of a Parquet file that are written together."""


class Validation:
    """Measures a model on validation items, each rank its share of the users.

    Args:
        model: what is measured.
        dataset: the validation items; what a user did before is its whole training history.
        history: items of it that the model is given.
        sample: rows of the users that are ranked; None for all.
        context: of the requests, where the model reads any.
        limit_bytes: what may be kept from one validation to the next, see `Kept`.
    """

    def __init__(
        self,
        model: ShardedTwoTower,
        dataset: Dataset,
        history: int,
        sample: NDArray[np.int64] | None,
        context: RequestContext | None = None,
        limit_bytes: int = 0,
    ) -> None:
        self.model, self.dataset, self.sample = model, dataset, sample
        self._known, self._context = LastItems(dataset, history), context
        self._kept = Kept(limit_bytes)
        self._score = -1.0
        self._latest: NDArray[np.int64] | None = None
        self._best: NDArray[np.int64] | None = None

    def __call__(self) -> dict[str, float]:
        """Metrics of the weights as they are now."""
        self._latest = self.ranks()
        return ranking_metrics(self._latest, (10,))

    def after_epoch(self, entry: Mapping[str, float]) -> None:
        """Keep the ranks of the best epoch, by the trainer's rule.

        Args:
            entry: of every epoch in turn; also of those before a resumed checkpoint, whose ranks
                are gone.
        """
        score = entry.get(CHECKPOINT_METRIC, -1.0)
        if score > self._score:
            self._score, self._best = score, self._latest
        self._latest = None

    def changed(self) -> None:
        """Forget the best epoch's ranks, for its weights were changed."""
        self._best = None

    def best_ranks(self) -> NDArray[np.int64]:
        """Ranks of the best epoch, int64 ``[ranked users]``; the model must have its weights."""
        return self.ranks() if self._best is None else self._best

    def ranks(self, scoring: Scoring | None = None) -> NDArray[np.int64]:
        """Ranks by the model as it is, or by another scoring; int64 ``[ranked users]``."""
        chosen = scoring or of_towers(self.model, self._known, self._context, self._kept)
        return chosen.validation_ranks(self.dataset, self.sample, self.model.processes)


def write_ranks(
    file: Path, dataset: Dataset, users: NDArray[np.int64], items: np.ndarray, ranks: np.ndarray
) -> None:
    """Write ranks with original ids: one row a user, ``[users]`` each.

    In pieces: what Parquet holds of a row until it is written is several times the row.
    """
    user_ids, item_ids = dataset.user_ids(), dataset.item_ids()
    names = ("user_id", "item_id", "rank")
    schema = pa.schema(zip(names, (user_ids.type, item_ids.type, pa.int64()), strict=True))
    with pq.ParquetWriter(file, schema) as out:
        for start in range(0, len(ranks), WRITTEN) or [0]:
            some = slice(start, start + WRITTEN)
            columns = user_ids.take(pa.array(users[some])), item_ids.take(pa.array(items[some]))
            out.write_table(pa.table([*columns, pa.array(ranks[some])], schema=schema))


def kept_ranks(checkpoint: Path, users: int) -> NDArray[np.int64] | None:
    """Validation ranks under the weights of a train artifact; None where it has none of so many.

    An update may have ranked a smaller sample than is asked for later.
    """
    file = checkpoint / VALIDATION_RANKS
    if not file.is_file():
        return None
    ranks = pq.read_table(file, columns=["rank"])["rank"].to_numpy()
    return ranks if len(ranks) == users else None
