"""A user's last items as vectors: means of their frozen rows, and the prior's vectors.

In: a history, int32 ``[n, L]``, the latest item first, -1 where there is none, and the frozen
tables of the items. Out: a `History`. The tables are those of the items themselves, so no id has
new parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cadc_rec.models.prior import HistoryPrior
from cadc_rec.models.rows import Rows


@dataclass(frozen=True)
class History:
    """The vectors of n histories; no part has a gradient.

    Attributes:
        means: ``[n, windows, dim]``, of the last items' rows over each window; None without
            windows.
        source_means: ``[n, windows, e]``, the same of their rows as what came before; None without
            transitions.
        folded: ``[n, dim]``, the user vector that ALS would give; None without a prior.
        led: ``[n, e]``, where the last items lead; None without a prior or transitions.
        request: int32 ``[n, features]``, codes of the moment of each request; None without any.
    """

    means: torch.Tensor | None = None
    source_means: torch.Tensor | None = None
    folded: torch.Tensor | None = None
    led: torch.Tensor | None = None
    request: torch.Tensor | None = None

    def context(self) -> list[torch.Tensor]:
        """The parts that the user tower reads besides the user's own row, each ``[n, some]``."""
        means = (self.means, self.source_means)
        return [each.flatten(1) for each in means if each is not None]

    def prior(self) -> list[torch.Tensor]:
        """The user's side of each of the prior's scores, each ``[n, some]``."""
        return [each for each in (self.folded, self.led) if each is not None]

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> History:
        """The same with `change` applied to every part, such as taking some rows."""
        return History(**{k: v if v is None else change(v) for k, v in vars(self).items()})

    def parts(self) -> list[torch.Tensor]:
        """The tensors there are, always in one order."""
        return [part for part in vars(self).values() if part is not None]

    @staticmethod
    def joined(pieces: Sequence[History]) -> History:
        """Several of them joined, one after the other."""
        names = [name for name, part in vars(pieces[0]).items() if part is not None]
        return History(**{k: torch.cat([getattr(piece, k) for piece in pieces]) for k in names})


@dataclass(frozen=True)
class HistoryReader:
    """How a history is read.

    Attributes:
        windows: windows of the means, ascending; may be empty.
        prior: adds its vectors as further parts; None adds nothing.
    """

    windows: Sequence[int] = ()
    prior: HistoryPrior | None = None

    def read(self, history: torch.Tensor, items: Rows, sources: Rows | None) -> History:
        """The vectors of histories ``[n, L]``.

        Args:
            history: the latest item first, negative where there is none.
            items: the frozen table of the items.
            sources: the items as what came before; None without transitions.
        """
        known = history >= 0

        def means(table: Rows | None) -> torch.Tensor | None:
            if table is None or not self.windows:
                return None
            return torch.stack(table.window_means(history, self.windows), 1)

        of_items, of_sources = means(items), means(sources)
        folded = led = None
        if self.prior is not None:
            folded = self.prior.folded(items.sequences(history), known)
            if sources is not None:
                led = self.prior.led(sources.sequences(history), known)
        return History(of_items, of_sources, folded, led)


def by_length(history: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Histories in classes of about equal lengths, without the places that none of a class fills.

    A class goes from one power of two to the next, so how a history is cut depends on it alone.
    Most histories of a log are short, and reading places that are empty takes as long as others.

    Args:
        history: ``[n, L]``, filled from the left, negative where there is none.

    Yields:
        The rows of a class, int64 ``[m]``, and their histories ``[m, l]``, with l at most L.
    """
    most = history.shape[1]
    last = (history >= 0) * torch.arange(1, most + 1, device=history.device)
    classes = last.amax(1).clamp_min(1).double().log2().ceil().long()
    for power in classes.unique().tolist():
        rows = (classes == power).nonzero()[:, 0]
        yield rows, history[rows, : min(2**power, most)]


def usable_windows(windows: Sequence[int], length: int) -> list[int]:
    """The windows a history of `length` can fill, and `length` itself where one is cut short.

    >>> usable_windows([1, 3, 10, 50], 20)
    [1, 3, 10, 20]
    """
    return sorted({min(window, length) for window in windows})
