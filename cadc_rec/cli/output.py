"""Standard output, and what to end with where it fails: a reader that has gone, a full disk.

In: the process's standard output. Out: the same, with the failure of a write remembered: libraries
that print for us (typer, rich) swallow some, and what is still in the buffer fails only at the end.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any

from cadc_rec.errors import ExitCode

_CLOSED_PIPE = 128 + 13
"""What a shell says of a program that SIGPIPE ended, such as one before ``| head``."""


class _Remembering(io.FileIO):
    """Writes to a descriptor, and remembers what kept it from that."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        """See `io.FileIO`."""
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class StandardOutput:
    """Takes the place of `sys.stdout` where that is a file, a pipe or a terminal.

    Letters that its encoding lacks are written as escapes.
    """

    def __init__(self) -> None:
        self._raw: _Remembering | None = None
        self._ended: int | None = None
        given = sys.stdout
        if not isinstance(given, io.TextIOWrapper):  # it was closed, or belongs to a caller
            return
        try:
            descriptor = given.fileno()
        except io.UnsupportedOperation:  # likewise
            return
        given.flush()
        self._raw = _Remembering(descriptor, "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(self._raw),
            encoding=given.encoding,
            errors="backslashreplace",
            line_buffering=given.line_buffering,
            write_through=given.write_through,
        )

    def finish(self) -> int | None:
        """Write what is left; what to end the program with if that or an earlier write failed."""
        if self._raw is None or self._ended is not None:
            return self._ended
        with contextlib.suppress(OSError):  # remembered
            sys.stdout.flush()
        failure = self._raw.failure
        if failure is None:
            return None
        # What is still in the buffer goes nowhere: Python flushes it once more when it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._raw.fileno())
        os.close(nowhere)
        self._ended = _CLOSED_PIPE if failure.errno == errno.EPIPE else ExitCode.REFUSED
        if self._ended == ExitCode.REFUSED:
            say(f"error: standard output cannot be written ({failure.strerror}); free some space.")
        return self._ended


def say(text: str) -> None:
    """A line to standard error, if that can be written."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
