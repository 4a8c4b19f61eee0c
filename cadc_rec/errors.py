"""The exceptions a user is meant to read."""

from __future__ import annotations

from collections.abc import Callable


class CadcError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do.

    The command line prints the message alone and ends with exit code 2; ``--debug`` adds the
    traceback. Anything else that escapes is a defect of ours.
    """


class SpokenError(CadcError):
    """What one rank of a job is to say for all: the others know of it and wait for `said`.

    Args:
        sentence: to be printed.
        said: to be called once it is; a launcher ends every rank when the first one exits.
    """

    def __init__(self, sentence: str, said: Callable[[], None] = lambda: None) -> None:
        super().__init__(sentence)
        self.said = said
