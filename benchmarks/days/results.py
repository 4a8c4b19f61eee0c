"""What a study of days has measured: its cells, read again.

In: the folder of results, which may have a part of the cells. Out: metrics, ranks and seconds by
contender and day.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.evaluation.statistics import Comparison, mean_gains, paired_bootstrap

Cell = Mapping[str, Any]
KINDS = ("served", "live")


@dataclass(frozen=True)
class Results:
    """The measured cells.

    Attributes:
        folder: with their files.
        cells: by name.
        compared: by kind, of updates with rebuilds, where the ranks are not there any more.
    """

    folder: Path
    cells: Mapping[str, Cell]
    compared: Mapping[str, Comparison] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """Those of a folder."""
        files = sorted(folder.glob("*.json"))
        return cls(folder, {file.stem: json.loads(file.read_text("utf-8")) for file in files})

    @classmethod
    def recorded(cls, content: Mapping[str, Any]) -> Results:
        """Those of `record`."""
        found = {kind: _comparison(one) for kind, one in content["compared"].items()}
        return cls(Path(), content["cells"], found)

    def record(self) -> dict[str, Any]:
        """What the page needs of them, as JSON: every cell, and the comparisons over all days."""
        days = self.compared_days()
        compared = {kind: asdict(self.compare(days, kind)) for kind in KINDS} if days else {}
        cells = {name: {**cell} for name, cell in self.cells.items()}
        for cell in cells.values():
            if "report" in cell:
                day = cell["report"]["day"]["interactions"]
                cell["report"] = {"day": {"interactions": day}}
        shares = {
            "of_rebuild": self._shares(days, "update", "rebuild"),
            "of_unbounded": self._shares(days, "half", "update"),
        }
        return {"cells": cells, "compared": compared, **shares}

    def _shares(self, days: Sequence[str], of: str, whole: str) -> dict[str, dict[str, float]]:
        """What prose says of the tables: by day, metrics and seconds as shares of another's."""
        found: dict[str, dict[str, float]] = {}
        for day in days:
            pairs = {kind: [self.metric(one, day, kind) for one in (of, whole)] for kind in KINDS}
            pairs["cpu"] = [self.seconds(one, day) for one in (of, whole)]
            found[day] = {name: a / b for name, (a, b) in pairs.items() if a is not None and b}
        return found

    def compared_days(self) -> list[str]:
        """The days on which an update and a rebuild were judged, and differ."""
        others = ("update", "rebuild", "popularity")
        return [day for day in self.days()[1:] if all(self.of(other, day) for other in others)]

    def compare(self, days: Sequence[str], kind: str) -> Comparison:
        """HR@10 of updates against rebuilds of seed 0, over the requests of all days together."""
        if kind in self.compared:
            return self.compared[kind]
        gains = []
        for contender in ("update", "rebuild"):
            ranks = self.ranks(contender, days, kind)
            gains.append(mean_gains([(np.arange(len(ranks)), ranks)], "hr@10"))
        return paired_bootstrap(*gains)

    def days(self) -> list[str]:
        """The days that were judged, such as ``03``."""
        return [name[-2:] for name in self.cells if re.fullmatch(r"none-\d\d", name)]

    def of(self, contender: str, day: str) -> list[Cell]:
        """The cells of a contender on a day: of a rebuild one a seed."""
        first = f"rebuild-{day}-seed-0"
        if contender == "rebuild" or (contender == "update" and day == self.days()[0]):
            names = [name for name in self.cells if name.startswith(f"rebuild-{day}-seed-")]
            names = names if contender == "rebuild" else [first]
        else:
            names = [f"{contender}-{day}"]
        return [self.cells[name] for name in names if name in self.cells]

    def metric(
        self, contender: str, day: str, kind: str = "served", name: str = "hr@10", of: str = "all"
    ) -> float | None:
        """A metric in percent, the mean of the seeds; None where it was not measured."""
        found = [cell["metrics"][kind][of] for cell in self.of(contender, day)]
        return 100 * mean(one[name] for one in found) if found and all(found) else None

    def ranks(self, contender: str, days: Sequence[str], kind: str) -> NDArray[np.int64]:
        """The ranks of all requests of some days, of a rebuild those of seed 0."""
        last = "-seed-0" if contender == "rebuild" else ""
        every = []
        for day in days:
            with np.load(self.folder / f"{contender}-{day}{last}.npz") as kept:
                every.append(kept[kind].astype(np.int64))
        return np.concatenate(every)

    def known(self, day: str) -> float:
        """The share of users who came back whose next item the log had before, in percent."""
        cell = self.cells[f"none-{day}"]
        return 100 * float(cell["requests"]) / max(1, cell["returned"])

    def window(self) -> int:
        """The hours whose counts foresee the first judged day best, as they stood at its start."""
        reached = self.cells[f"popularity-{self.days()[0]}"]["metrics"]
        served = {name: of["all"]["ndcg@10"] for name, of in reached.items() if "served" in name}
        best = max(served, key=lambda name: served[name])
        return int(best.removeprefix("served-").removesuffix("h"))

    def seconds(self, contender: str, day: str) -> float | None:
        """CPU seconds, the mean of the seeds; None where a job was interrupted."""
        whole = [cell["cpu"] for cell in self.of(contender, day) if not cell["interrupted"]]
        return mean(whole) if whole else None


def _comparison(content: Mapping[str, Any]) -> Comparison:
    """The reverse of `asdict`, of JSON."""
    ends = {name: content[name] for name in ("interval", "relative_interval")}
    pairs = {name: tuple(pair) if pair else None for name, pair in ends.items()}
    return Comparison(**{**content, **pairs})
