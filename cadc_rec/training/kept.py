"""Frozen vectors that training reads again every epoch, fetched once and kept at hand.

Two kinds: rows of a rank's own users in a sharded table, and the pooled vectors of its examples'
histories. A frozen table gives the same vectors every epoch, and D_sel has few users on any one
rank. Where they do not fit, they are looked up step by step: the same bits, more time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cadc_rec.config.experiment import Experiment
from cadc_rec.data.load.batches import Batch
from cadc_rec.distributed.processes import Processes
from cadc_rec.models.forward import Scores
from cadc_rec.models.history import History
from cadc_rec.models.id_embedding import FrozenIds
from cadc_rec.models.known_on_device import ListedOnDevice, on_device
from cadc_rec.models.known_scores import KnownScores, ListedExamples, RecentExamples
from cadc_rec.models.two_tower import TwoTower
from cadc_rec.pretrain.tables_alone import TablesAlone

_CACHE_SHARE = 4  # one kind may take this part of a process's memory
_ROWS = 65_536  # rows asked for at once
_HISTORIES = 1024  # examples at once: each looks dozens of vectors up


def keep_frozen_rows(
    table: object, ids: np.ndarray, processes: Processes, limit_bytes: int
) -> bool:
    """Let training read this rank's rows of a sharded frozen table from its own memory.

    All ranks must call; all keep their rows or none does, for a sharded table answers when all ask.

    Args:
        table: another kind than `FrozenIds`, or one whose rows are here already, is left alone.
        ids: all that this rank's training will look up; repetitions are no matter.
        processes: the ranks.
        limit_bytes: what the rows of the rank with most of them may take.

    Returns:
        Whether the rows are kept.
    """
    if not isinstance(table, FrozenIds) or table.replica is not None or processes.world_size == 1:
        return False
    mine = torch.from_numpy(np.unique(ids).astype(np.int64)).to(processes.device)
    most = processes.most(len(mine))
    kept = [table.lookup(mine[:0])]
    if 4 * most * kept[0].shape[1] > limit_bytes:
        return False
    kept += [table.lookup(mine[at : at + _ROWS]) for at in range(0, most, _ROWS)]
    table.keep(mine, torch.cat(kept))
    return True


@dataclass(frozen=True)
class HostReads:
    """What is read for a batch on the host, where it lies until it is copied to a GPU.

    Attributes:
        history: int32 ``[n, L]``, of its examples; None if it is not read there.
        known: scores at its candidates, None for those that are not formed there.
    """

    history: torch.Tensor | None = None
    known: tuple[Scores | None, ...] = ()

    def each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> HostReads:
        """The same with every tensor changed."""
        history = None if self.history is None else change(self.history)
        return HostReads(history, tuple(k and k.each(change) for k in self.known))


def frozen_cache(experiment: Experiment, memory: int) -> int:
    """Bytes that each kind of frozen vectors may take on a process, which has `memory` bytes."""
    return min(experiment.compute.frozen_cache_mib << 20, memory // _CACHE_SHARE)


class Histories:
    """What the histories of a rank's examples come to, for the steps of training.

    Args:
        model: sharded, frozen tables loaded; reads histories.
        history: int32 ``[rows, L]``, of this rank's examples.
        rows_by_rank: number of rows of every rank: a sharded table answers when all ranks ask, so
            all ask equally often.
        processes: the ranks.
        limit_bytes: what those of the largest rank may take; more is read step by step.
        known: scores at a step's candidates that are no dot products.
    """

    def __init__(
        self,
        model: TwoTower,
        history: np.ndarray,
        rows_by_rank: Sequence[int],
        processes: Processes,
        limit_bytes: int,
        known: Sequence[KnownScores] = (),
    ) -> None:
        self.known = known
        self.model, self.device = model, processes.device
        self._history = torch.from_numpy(history)
        self.kept: History | None = None
        longest = max(rows_by_rank)
        if 4 * longest * model.history_width > limit_bytes:
            if history.nbytes <= limit_bytes:  # else a step's are copied to the device
                self._history = self._history.to(self.device)
                for each in known:
                    if isinstance(each, ListedOnDevice):
                        each.read_from(self._history)
            return
        for start in range(0, longest, _HISTORIES):
            read = self._read(self._history[start : start + _HISTORIES])
            if self.kept is None:
                self.kept = read.each(lambda part: part.new_empty(len(history), *part.shape[1:]))
            for whole, part in zip(self.kept.parts(), read.parts(), strict=True):
                whole[start : start + _HISTORIES] = part

    @property
    def on_host(self) -> bool:
        """Whether some of `inputs` can be made of a batch on the host alone."""
        return any(isinstance(each, ListedExamples | RecentExamples) for each in self.known)

    def read_on_host(self, batch: Batch[torch.Tensor]) -> HostReads:
        """What can be read for a batch before it is copied to a GPU; no rank asks another."""
        assert batch.rows is not None  # a row of the tower is an example then
        if batch.rows.device.type != "cpu":
            return HostReads(known=(None,) * len(self.known))
        here = self.kept is None and self._history.device.type == "cpu"
        known = (
            self._scores(each, batch) if isinstance(each, ListedExamples | RecentExamples) else None
            for each in self.known
        )
        return HostReads(self._history[batch.rows] if here else None, tuple(known))

    def inputs(self, batch: Batch[torch.Tensor], read: HostReads | None = None) -> list[Any]:
        """What the model is given beside a batch: histories, and known scores.

        Args:
            batch: anywhere.
            read: what `read_on_host` read for it, if it was on the host then.
        """
        assert batch.rows is not None
        read = read or self.read_on_host(batch)
        known = [
            formed or self._scores(each, batch)
            for each, formed in zip(self.known, read.known, strict=True)
        ]
        history = self.of(batch.rows) if read.history is None else self._read(read.history)
        there = (k.each(lambda t: t.to(self.device, non_blocking=True)) for k in known)
        return [history, *there]

    @staticmethod
    def _scores(known: KnownScores, batch: Batch[torch.Tensor]) -> Scores:
        assert batch.rows is not None
        if batch.negatives is None:
            return Scores(known.of(batch.rows, batch.items))
        assert batch.labels is not None
        return known.with_own(batch.rows, batch.items, batch.negatives, batch.labels)

    def of(self, rows: torch.Tensor) -> History:
        """Those of the examples `rows`, int64 ``[n]``; all ranks ask together."""
        if self.kept is None:
            return self._read(self._history[rows.to(self._history.device)])
        here = rows.to(self.device)
        return self.kept.each(lambda part: part[here])

    def _read(self, history: torch.Tensor) -> History:
        return self.model.read(history.to(self.device))


def known_scores(
    tables: TablesAlone | None,
    history: np.ndarray,
    times: np.ndarray,
    places: np.ndarray,
    device: torch.device,
    limit_bytes: int,
) -> list[KnownScores]:
    """The scores of this rank's examples that are no dot products, in the order of the model's.

    Args:
        tables: what the towers add to.
        history: of the examples.
        times: of D_full's rows.
        places: of the examples in D_full.
        device: where they are formed,
        limit_bytes: if what each takes there is no more than this.
    """
    known: list[KnownScores] = []
    if tables is not None and tables.lists is not None:
        listed = ListedExamples(tables.lists, tables.decay, history)
        known.append(on_device(listed, device, limit_bytes))
    recent = None if tables is None else tables.recent()
    if recent is not None:
        examples = RecentExamples(recent.popularity, recent.window, times[places])
        known.append(on_device(examples, device, limit_bytes))
    return known
