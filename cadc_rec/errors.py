"""Failures: what is raised, what the program's exit codes mean, and how a child process reports.

A process that starts others (a study its cells, a run its training workers) never reads their
words: it names a file in their environment, and the one that fails leaves its failure there.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from typing import ClassVar

FAILURE_FILE = "_CADC_REC_FAILURE"
"""Names, in a child's environment, the file that receives its failure."""


class ExitCode(IntEnum):
    """The exit codes of the command line."""

    DONE = 0
    DEFECT = 1
    """A defect of cadc-rec; for ``doctor``, a machine that cannot run the main job."""
    REFUSED = 2
    """Something the user can mend: a `CadcError`, or a wrong command line."""
    INTERRUPTED = 130
    """Ctrl-C, as in shells. Another signal ends the program with 128 plus its number."""


class CadcError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    The command line prints the message alone and ends with `ExitCode.REFUSED`; ``--debug`` adds
    the traceback. Any other exception that escapes is a defect of cadc-rec.
    """

    kind: ClassVar[str] = "refused"
    """The class's name in a failure that another process reads."""


class BusyError(CadcError):
    """Another process is making the same artifact; try again when it has ended."""

    kind: ClassVar[str] = "busy"


class SpokenError(CadcError):
    """The error that one rank prints for all; the other ranks wait until it has called `said`.

    Args:
        error: the error to print.
        said: to be called after printing; a launcher ends every rank when the first one exits.
    """

    def __init__(self, error: CadcError, said: Callable[[], None] = lambda: None) -> None:
        super().__init__(str(error))
        self.error, self.said = error, said


class DefectError(Exception):
    """A defect that another process of this program met; the message is its error."""

    kind: ClassVar[str] = "defect"


_KINDS: dict[str, type[CadcError | DefectError]] = {
    error.kind: error for error in (CadcError, BusyError, DefectError)
}


def link_to_nowhere(path: Path) -> str | None:
    """The sentence for a `path` that is not there for a broken link; None where there is none."""
    for part in (path, *path.parents):
        if part.is_symlink() and not part.exists():
            return f"{part}: is a link that leads nowhere (to {part.readlink()}); mend it."
    return None


def name_without_text(name: str) -> str | None:
    """The sentence for a file's name or argument whose bytes are no text here; None for others.

    Python keeps such bytes as lone surrogates, which no library that wants UTF-8 takes.
    """
    try:
        name.encode()
    except UnicodeEncodeError:
        return (
            f"{name!r:.200}: has bytes that are not {sys.getfilesystemencoding()}, which names "
            "have in this locale; rename it, or set LC_ALL=C.UTF-8."
        )
    return None


def failure_text(error: Exception) -> str:
    """A failure as one line of JSON, for `failure_of` in another process."""
    if isinstance(error, SpokenError):
        error = error.error
    if isinstance(error, CadcError | DefectError):
        return json.dumps({"kind": error.kind, "message": str(error)})
    message = f"{type(error).__name__}: {error}"
    return json.dumps({"kind": DefectError.kind, "message": message})


def failure_of(text: str) -> CadcError | DefectError:
    """The failure that another process wrote as `text`."""
    failure = json.loads(text)
    return _KINDS[failure["kind"]](failure["message"])


def leave_failure(error: Exception) -> bool:
    """Write a failure to the file that the parent process named.

    If several children fail, the parent reads the failure of the first.

    Returns:
        Whether the parent will find a failure.
    """
    wanted = os.environ.get(FAILURE_FILE)
    if not wanted:
        return False
    try:
        with open(wanted, "x", encoding="utf-8") as file:
            file.write(failure_text(error))
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


def tell_launcher(error: Exception, text: str) -> None:
    """Leave an error to torchrun and torchx, in the file they named, in their format.

    They show it as the job's cause; of a user's error the sentence, of a defect its traceback.
    """
    wanted = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not wanted:
        return
    more = {"timestamp": str(int(time.time()))}
    if not isinstance(error, CadcError | DefectError):
        more["py_callstack"] = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError):
        Path(wanted).write_text(
            json.dumps({"message": {"message": text, "extraInfo": more}}), "utf-8"
        )


def left_failure(path: Path) -> CadcError | DefectError | None:
    """The failure that a child left in `path`; None if it left none."""
    try:
        return failure_of(path.read_text("utf-8"))
    except (OSError, ValueError, KeyError):  # the child was killed while it wrote
        return None
