"""Histories of the users of validation, read once for all validations of a training.

The tables that they are read from are frozen, and what a user did before the validation item stays.
"""

from __future__ import annotations

from collections.abc import Callable

from cadc_rec.models.history import History


class KeptReads:
    """Histories of users as the model read them, a part after the other.

    All parts are kept or none: a table whose rows lie on several ranks answers only when all of
    them ask, so what a rank leaves out must not depend on its own share.

    Args:
        most: bytes of a rank's share.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: dict[int, History] = {}

    def of(self, part: int, longest: int, read: Callable[[], History]) -> History:
        """One part of the users.

        Args:
            part: its number.
            longest: users of the rank that has the most.
            read: reads it, with all ranks.
        """
        found = self._parts.get(part)
        if found is None:
            found = read()
            each = sum(one.shape[1:].numel() * one.element_size() for one in found.parts())
            if longest * each <= self._most:
                self._parts[part] = found
        return found
