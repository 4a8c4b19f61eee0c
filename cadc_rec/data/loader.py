"""Batches of D_sel for one rank: shuffled every epoch, negatives drawn afresh.

In: this rank's rows, how many rows every rank has, and an arrangement (`data.pair_batches`,
`data.candidates`). Out: NumPy arrays ready to become a `cadc_rec.models.pairs.Batch`.

Every rank takes the same number of steps and cuts its own rows into that many pieces, so each row
is used once an epoch, no rank waits for one that has run out, and all know how many positives a
step has over all ranks without asking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cadc_rec.data.batches import Arrangement, BatchArrays, Step
from cadc_rec.data.randomness import Purpose, bit_generator
from cadc_rec.data.shards import Examples


class Loader:
    """The order of an epoch, and how it is cut into steps.

    Args:
        examples: this rank's rows.
        rows_by_rank: number of rows of every rank.
        rank: this rank.
        batch_size: positives a step over all ranks.
        seed: of order and negatives.
        arrange: makes a step of its rows.
    """

    def __init__(
        self,
        examples: Examples,
        rows_by_rank: Sequence[int],
        rank: int,
        batch_size: int,
        seed: int,
        arrange: Arrangement,
    ) -> None:
        if rows_by_rank[rank] != len(examples):
            raise ValueError(f"rank {rank} has {len(examples)} rows, expected {rows_by_rank[rank]}")
        self.examples, self.arrange = examples, arrange
        self.rows_by_rank, self.rank, self.seed = list(rows_by_rank), rank, seed
        self.rows = sum(self.rows_by_rank)
        self.steps = max(1, -(-self.rows // batch_size))

    def epoch(self, epoch: int) -> Iterator[BatchArrays]:
        """The steps of epoch number `epoch`; the same every time it is asked for."""
        rows = len(self.examples)
        generator = bit_generator((self.seed, Purpose.EPOCH_ORDER, epoch, self.rank))
        order = np.random.Generator(generator).permutation(rows)
        for number in range(self.steps):
            start, stop = self._piece(rows, number)
            positives = sum(
                last - first for first, last in (self._piece(n, number) for n in self.rows_by_rank)
            )
            picked = order[start:stop]
            step = Step(self.seed, epoch, self.rank, number, start, picked, positives)
            yield self.arrange(step, self.examples.take(picked))

    def _piece(self, rows: int, step: int) -> tuple[int, int]:
        return rows * step // self.steps, rows * (step + 1) // self.steps
