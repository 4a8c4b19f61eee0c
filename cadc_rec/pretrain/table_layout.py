"""Whether a factorization's tables are whole on every rank or dealt to them, and what either takes.

In: sizes, and the memory of a process. Out: bytes that the solver holds at most, as
`pretrain.alternating` and `pretrain.factor_tables` allocate them, and the choice.

Replicated tables are gathered once after each half-step, each row sent once: that is the least
where a rank's interactions refer to most rows. Partitioned ones fetch a row once for each block
that refers to it, so they are for tables that do not fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from cadc_rec.config.experiment import Experiment

_FLOAT = 4
_ADAM = 3  # gradient and two moments
_BLOCK_SHARE = 8  # a block of fetched rows may take this part of a process's memory


@dataclass(frozen=True)
class Extent:
    """The tables of a factorization, and how many ranks share their rows."""

    users: int
    items: int
    width: int
    world_size: int

    def _bytes(self, rows: int) -> int:
        return rows * self.width * _FLOAT

    def replicated_bytes(self) -> int:
        """The most that a rank of replicated tables holds.

        Both tables; gradient and Adam's moments of its own rows; a copy of the side that is held
        fixed, or the solved side once more, with two shares beside it, while it is gathered.
        """
        user, item = self._bytes(self.users), self._bytes(self.items)
        own = _ADAM * (user + item) // self.world_size
        larger = max(user, item)
        gathered = larger + 2 * larger // self.world_size if self.world_size > 1 else 0
        return user + item + own + max(larger, gathered)

    def partitioned_bytes(self, block: int) -> int:
        """The most that a rank of partitioned tables holds.

        Its own rows, with gradient and moments; `block` rows fetched and, on average over the
        ranks, as many sent.
        """
        own = (1 + _ADAM) * self._bytes(self.users + self.items) // self.world_size
        return own + 2 * self._bytes(min(block, max(self.users, self.items)))


def block_rows(memory: int, width: int) -> int:
    """Rows that a process with `memory` bytes may fetch at once."""
    return max(1, memory // _BLOCK_SHARE // (width * _FLOAT))


def partitions(experiment: Experiment, extent: Extent, memory: int) -> bool:
    """Whether the experiment's factorization is dealt to the ranks.

    Args:
        experiment: ``compute.mf_tables`` and the loss; a softmax needs all items.
        extent: sizes.
        memory: bytes of a process, the same on every rank.
    """
    wanted = experiment.compute.mf_tables
    if extent.world_size == 1 or experiment.pretrain.loss == "softmax" or wanted == "replicated":
        return False
    usable = (1 - experiment.sharding.reserve) * memory
    return wanted == "partitioned" or extent.replicated_bytes() > usable
