"""How training reads D_sel, and what its negatives are drawn from."""

from __future__ import annotations

from typing import Any, Literal

from cadc_rec.config_types import NonNegativeFloat, PositiveInt, Section


class LoaderConfig(Section):
    """How a process of the train stage reads its shards of D_sel."""

    kind: Literal["auto", "memory", "stream"] = "auto"
    """Into memory, as a whole; or row group by row group through a bounded buffer, in another
    order. `auto` streams where a process has more than `memory_rows`."""
    memory_rows: PositiveInt = 100_000_000
    """`auto`: rows that a process holds in memory at most; each takes 16 bytes."""
    buffer_rows: PositiveInt = 12_582_912
    """Streaming: rows that a process holds at once. The more, the better they are mixed; two thirds
    of them are read ahead."""

    def streams(self, rows: int) -> bool:
        """Whether a process with this many rows streams them."""
        return self.kind == "stream" or (self.kind == "auto" and rows > self.memory_rows)

    def settings(self, rows: int) -> dict[str, Any]:
        """What decides the order of the rows, beside the seed: nothing where they are in memory."""
        return {"stream": self.buffer_rows} if self.streams(rows) else {}


class NegativesConfig(Section):
    """What the negatives of training are drawn from (`binary` and `sampled-softmax`)."""

    distribution: Literal["uniform", "popularity"] = "uniform"
    """All items alike; or an item in proportion to its interactions in D_full, to the power
    `alpha`."""
    alpha: NonNegativeFloat = 0.75
    """`popularity`: 1 is the items' own frequency, 0 is uniform over those that occur."""

    def settings(self) -> dict[str, Any]:
        """What decides the negatives; nothing where they are uniform."""
        return {"negatives": self.model_dump()} if self.distribution != "uniform" else {}
