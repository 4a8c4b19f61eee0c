"""A rotating share of long lists of cases: `.ci/run` tries one, chosen by the commit's hash.

In: ``CADC_REC_ROTATE``, whether a share runs (1) or all cases (unset), and ``CADC_REC_SHARE_SEED``,
which chooses the share (default: the commit that is checked out). Each share has a case of every
group, and every case is in at least one share.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

ROTATE, SEED = "CADC_REC_ROTATE", "CADC_REC_SHARE_SEED"
LISTS = {
    "fault matrix": 4,
    "hostile requests": 25,
    "faults between machines": 5,
    "killed streams": 8,
}
"""Into how many shares each list is divided."""
Case = TypeVar("Case")


@dataclass(frozen=True)
class Share:
    """One of several.

    Attributes:
        number: which one, from 0 on.
        of: how many there are.
        seed: what chose it.
    """

    number: int
    of: int
    seed: str = ""

    def cases(self, groups: Mapping[str, Sequence[Case]]) -> list[Case]:
        """The cases that belong to it: one of every group at least."""
        chosen = []
        for place, cases in enumerate(groups.values()):
            # Groups begin at different shares, or the first one would be the longest.
            turn = (self.number + place) % self.of
            chosen += cases[turn :: self.of] or [cases[turn % len(cases)]]
        return chosen

    @property
    def whole(self) -> bool:
        """Whether it has all cases."""
        return self.of == 1

    def __str__(self) -> str:
        if self.whole:
            return "all cases"
        return (
            f"share {self.number + 1} of {self.of}, chosen by {self.seed}; `make test-all` runs all"
        )


def share(name: str) -> Share:
    """The one that runs, of the list of this name."""
    if os.environ.get(ROTATE, "") in ("", "0"):
        return Share(0, 1)
    of, seed = LISTS[name], os.environ.get(SEED) or _commit()
    return Share(int(hashlib.sha256(seed.encode()).hexdigest(), 16) % of, of, seed)


@cache
def _commit() -> str:
    root = Path(__file__).parents[1]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
