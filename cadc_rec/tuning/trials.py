"""The record of a search: a line of JSON for each trial that ended, and the ranks it gave.

In: trials as they end. Out: ``trials.jsonl`` and ``ranks/N.parquet`` in the search's folder, from
which a later call goes on. A line is written whole, or is not read: a killed search loses at most
the trial it was at.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.evaluation.statistics import Comparison, UserGains, mean_gains, paired_bootstrap

METRIC = "ndcg@10"


@dataclass(frozen=True)
class Trial:
    """A trial that ended.

    Attributes:
        number: from 0, which has the experiment's own settings.
        settings: those that are searched, by dotted name.
        state: ``done``; ``pruned``, for it was behind the others or the time was up; ``refused``,
            for it cannot be trained.
        ndcg: NDCG@10 on validation, a fraction; None unless it is done.
        interval: 95%, of `ndcg`, over users.
        epochs: number of each validated epoch and its NDCG@10.
        seconds: spent, less what other trials had made already.
        why: a few words on what ended it early.
    """

    number: int
    settings: Mapping[str, Any]
    state: Literal["done", "pruned", "refused"]
    ndcg: float | None = None
    interval: Sequence[float] | None = None
    epochs: Sequence[Sequence[float]] = ()
    seconds: float = 0.0
    why: str = ""


class Record:
    """Trials of one search.

    Args:
        folder: the search's; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.file = folder, folder / "trials.jsonl"
        self.trials = self._read()

    def add(self, trial: Trial) -> None:
        """Keep one more."""
        with self.file.open("a", encoding="utf-8") as file:
            file.write(strict_json.dumps(asdict(trial)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.trials.append(trial)

    def ranks(self, number: int) -> Path:
        """Where a trial's ranks lie: user_id, item_id, rank of each ranked user."""
        return self.folder / "ranks" / f"{number}.parquet"

    def gains(self, number: int) -> UserGains:
        """What each ranked user adds to a trial's NDCG@10."""
        table = pq.read_table(self.ranks(number), columns=["user_id", "rank"])
        users, ranks = (table[name].to_numpy() for name in table.column_names)
        _, rows = np.unique(users, return_inverse=True)  # ids may be text
        return mean_gains([(rows, ranks)], METRIC)

    @property
    def best(self) -> Trial | None:
        """The best one that is done; of equals the first."""
        done = [trial for trial in self.trials if trial.ndcg is not None]
        return max(done, key=lambda trial: trial.ndcg or 0.0, default=None)

    def best_against_own(self) -> Comparison | None:
        """The best trial against the experiment's own settings; None where they are the best."""
        best = self.best
        if best is None or best.number == 0:
            return None
        return paired_bootstrap(self.gains(best.number), self.gains(0))

    def _read(self) -> list[Trial]:
        if not self.file.exists():
            return []
        text = self.file.read_text("utf-8", errors="replace")
        whole, _, torn = text.rpartition("\n")
        if torn:  # of a process that was killed while it wrote
            with self.file.open("r+b") as file:
                file.truncate(len(self.file.read_bytes().rpartition(b"\n")[0]) + bool(whole))
        try:
            return [Trial(**json.loads(line)) for line in whole.splitlines()]
        except (ValueError, TypeError):
            raise CadcError(
                f"{self.file}: is not what a search wrote; remove {self.folder} to begin anew."
            ) from None
