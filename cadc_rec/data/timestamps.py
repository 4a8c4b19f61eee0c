"""Times of the configuration as whole numbers in a source's own unit."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Literal, cast

from cadc_rec.errors import CadcError

TimeUnit = Literal["", "s", "ms", "us", "ns"]
"""What a source's whole numbers count since 1970; empty where nobody says."""
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def guess_unit(least: int, greatest: int) -> TimeUnit:
    """The unit in which both are moments between 1973 and 2286; empty where there is none."""
    for unit, per_second in _PER_SECOND.items():
        if 10**8 * per_second <= least <= greatest < 10**10 * per_second:
            return cast(TimeUnit, unit)
    return ""


def parse_moment(text: str, key: str, unit: TimeUnit) -> int | None:
    """A time as the source counts it; None where the text is empty.

    Args:
        text: a whole number in that unit; or a date or datetime, UTC where it names no zone.
        key: the setting it comes from, for messages.
        unit: the source's.

    Raises:
        CadcError: neither, or a date where the source's unit is not known.
    """
    if not text:
        return None
    if _WHOLE.fullmatch(text):
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CadcError(
            f"{key} = {text!r} is no time; write a date (2024-01-31), a datetime, or a whole "
            "number in the source's unit."
        ) from None
    if not unit:
        raise CadcError(
            f"{key} = {text!r} is a date, and nobody says what the whole numbers of the "
            "interactions' times count; set data.tables.interactions.unit, or write a whole number."
        )
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    micros = (since.days * 86_400 + since.seconds) * 10**6 + since.microseconds
    return micros * _PER_SECOND[unit] // 10**6
