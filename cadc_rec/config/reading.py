"""How training reads D_sel, and what its negatives are drawn from."""

from __future__ import annotations

from typing import Any, Literal

from cadc_rec.config.types import NonNegativeFloat, PositiveInt, Section


class LoaderConfig(Section):
    """How a process of the train stage reads its shards of D_sel."""

    kind: Literal["auto", "memory", "stream"] = "auto"
    """Into memory, as a whole; or row group by row group through a bounded buffer, in another
    order. `auto` streams where D_sel has more than `memory_rows`, unless rows have histories."""
    memory_rows: PositiveInt = 100_000_000
    """`auto`: rows of D_sel that all processes together hold in memory at most; each takes 16
    bytes."""
    buffer_rows: PositiveInt = 12_582_912
    """Streaming: rows that a process holds at once. The more, the better they are mixed; two thirds
    of them are read ahead."""

    def streams(self, rows: int, history: int = 0) -> bool:
        """Whether a D_sel of this many rows is streamed; `history` is the items of each."""
        large = rows > self.memory_rows and not history
        return self.kind == "stream" or (self.kind == "auto" and large)

    def settings(self, rows: int, history: int = 0) -> dict[str, Any]:
        """What decides the order of the rows, beside the seed: nothing where they are in memory."""
        return {"stream": self.buffer_rows} if self.streams(rows, history) else {}


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
