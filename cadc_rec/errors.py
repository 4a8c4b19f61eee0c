"""The errors a user is meant to read, and how a process leaves its error for the one above it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

FAILURE_FILE = "_CADC_REC_FAILURE"
"""Environment variable: the file where a command leaves its `Failure` for whoever started it."""


class CadcError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    The command line prints the message alone and ends with exit code 2; ``--debug`` adds the
    traceback. Anything else that escapes is a defect of ours.
    """


class BusyError(CadcError):
    """Another job is making the same thing. Nothing is wrong: once it ends, the same call works."""


class SpokenError(CadcError):
    """What one rank of a job is to say for all: the others know of it and wait for `said`.

    Args:
        sentence: to be printed.
        said: to be called once it is; a launcher ends every rank when the first one exits.
    """

    def __init__(self, sentence: str, said: Callable[[], None] = lambda: None) -> None:
        super().__init__(sentence)
        self.said = said


@dataclass(frozen=True)
class Failure:
    """What ended a process.

    Attributes:
        kind: another job was making the same, the user can mend it, or a defect of ours.
        sentence: what the process printed.
    """

    kind: Literal["busy", "refused", "defect"]
    sentence: str

    @classmethod
    def of(cls, error: Exception, sentence: str) -> Failure:
        """The failure that `error` is; a rank that speaks for all does so because of another."""
        if isinstance(error, BusyError) or isinstance(error.__cause__, BusyError):
            return cls("busy", sentence)
        return cls("refused" if isinstance(error, CadcError) else "defect", sentence)

    def leave(self, path: Path) -> None:
        """Write it, unless a process below left its own: that one knew the cause first."""
        with contextlib.suppress(OSError), path.open("x", encoding="utf-8") as file:
            json.dump(asdict(self), file)

    @classmethod
    def left(cls, path: Path) -> Failure | None:
        """What was left at `path`; None where a process ended without a word, by a signal say."""
        try:
            return cls(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None
