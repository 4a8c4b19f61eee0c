"""A rotating share of long lists of cases: `.ci/run` tries one, chosen by the commit's hash.

In: ``CADC_REC_SHARES``, into how many shares the cases are divided (default 1: all of them run),
and ``CADC_REC_SHARE_SEED``, which chooses one (default: the commit that is checked out). Each share
has a case of every group, and every case is in at least one share.
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

SHARES, SEED = "CADC_REC_SHARES", "CADC_REC_SHARE_SEED"
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


@cache
def share() -> Share:
    """That of this session."""
    of = int(os.environ.get(SHARES, "1"))
    if of == 1:
        return Share(0, 1)
    seed = os.environ.get(SEED) or _commit()
    return Share(int(hashlib.sha256(seed.encode()).hexdigest(), 16) % of, of, seed)


def _commit() -> str:
    root = Path(__file__).parents[1]
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
