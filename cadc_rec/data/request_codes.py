"""What a request says of its moment, as the codes that the user tower reads.

In: rows of users, the times of their requests, and values of columns. Out: one code a feature, 0
where it is not known. Training rows and held-out interactions get theirs from the same functions
(`cadc_rec.data.context`). It needs NumPy alone.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError

Codes = NDArray[np.int32]
Times: TypeAlias = "float | Sequence[float | None] | NDArray[np.float64] | None"
Columns: TypeAlias = "Mapping[str, Any] | None"
UNKNOWN = 0
GAPS = 32
"""Steps of the time since the interaction before, each twice as long as the one before."""
SIZES = {"hour": 1 + 24, "weekday": 1 + 7, "gap": 1 + GAPS}
"""Codes of each feature that is made of times, code 0 included."""
_HOUR, _DAY, _MONDAY = 3600, 86_400, 3  # the first day of 1970 was a Thursday
_FIRST, _LAST = -62_135_596_800, 253_402_300_799  # the years 1 to 9999


def hour_codes(seconds: NDArray[np.float64]) -> Codes:
    """1 + the hour (UTC) of times since 1970; 0 where there is none."""
    return _known(seconds, 1 + np.floor(seconds / _HOUR) % 24)


def weekday_codes(seconds: NDArray[np.float64]) -> Codes:
    """1 + the day of the week (UTC), Monday first; 0 where there is no time."""
    return _known(seconds, 1 + (np.floor(seconds / _DAY) + _MONDAY) % 7)


def gap_codes(seconds: NDArray[np.float64]) -> Codes:
    """1 + floor(log2(1 + gap)), at most `GAPS`; 0 where nothing came before."""
    steps = np.floor(np.log2(1 + np.maximum(seconds, 0)))
    return _known(seconds, 1 + np.minimum(steps, GAPS - 1))


def _known(seconds: NDArray[np.float64], codes: NDArray[np.float64]) -> Codes:
    return np.where(np.isnan(seconds), UNKNOWN, codes).astype(np.int32)


@dataclass(frozen=True)
class RequestCodes:
    """Makes the codes of requests, for a model and what is known of its users.

    Attributes:
        features: in the order of the codes' columns.
        values: of each column that a request carries, the values of codes 1, 2, ...
        lagged: int32 ``[n_users]`` of each column that is known only afterwards: the code of the
            user's last interaction.
        last_time: ``[n_users]``, when that was, in seconds since 1970, NaN where there is none;
            None where no feature needs it.
    """

    features: tuple[str, ...]
    values: Mapping[str, Sequence[Any]]
    lagged: Mapping[str, Codes]
    last_time: NDArray[np.float64] | None

    @property
    def reads_time(self) -> bool:
        """Whether the time of a request makes any feature."""
        return any(name in SIZES for name in self.features)

    def numbers(self, column: str) -> bool:
        """Whether the values of a column of `values` are whole numbers; else they are text."""
        return all(isinstance(value, int) for value in self.values[column])

    def of(self, rows: NDArray[np.int64], time: Times = None, columns: Columns = None) -> Codes:
        """The codes ``[n, features]`` of requests.

        Args:
            rows: of the users ``[n]``, -1 for one that is not known.
            time: seconds since 1970, one number or one for each user, None or NaN where it is not
                known; default: now.
            columns: one value or a value for each user, by column; None, a column that is left out
                and a value that no training row had are "not known".

        Raises:
            CadcError: the model reads no such thing, or a value is of the wrong type or range.
        """
        seconds, asked = self._seconds(time, len(rows)), self._asked(columns, len(rows))
        codes = np.zeros((len(rows), len(self.features)), np.int32)
        for place, name in enumerate(self.features):
            if name == "hour":
                codes[:, place] = hour_codes(seconds)
            elif name == "weekday":
                codes[:, place] = weekday_codes(seconds)
            elif name == "gap":
                assert self.last_time is not None
                codes[:, place] = gap_codes(seconds - _of_known(self.last_time, rows, np.nan))
            elif name in self.lagged:
                codes[:, place] = _of_known(self.lagged[name], rows, UNKNOWN)
            elif name in asked:
                code_of = self._code_of[name]
                codes[:, place] = [code_of.get(value, UNKNOWN) for value in asked[name]]
        return codes

    def of_nothing(self, n: int) -> Codes:
        """The codes ``[n, features]`` of requests of all n users that say nothing, not even when.

        What users did last is known all the same.
        """
        when = np.full(n, np.nan) if self.reads_time else None
        return self.of(np.arange(n), when)

    def inputs(self) -> list[dict[str, Any]]:
        """What a request may say, and what is taken where it does not, as JSON values."""
        found: list[dict[str, Any]] = []
        if self.reads_time:
            found.append({"name": "time", "unit": "seconds since 1970, UTC", "default": "now"})
        for name in self.values:
            kind = "whole number" if self.numbers(name) else "text"
            found.append({"name": name, "values": kind, "default": "missing"})
        return found

    def described(self) -> dict[str, Any]:
        """All but what is known of users, as JSON values; see `of_parts`."""
        values = {name: list(values) for name, values in self.values.items()}
        return {"features": list(self.features), "values": values, "lagged": list(self.lagged)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What is known of users, by name; see `of_parts`."""
        found: dict[str, NDArray[Any]] = {f"last_{k}": codes for k, codes in self.lagged.items()}
        return found if self.last_time is None else {"time": self.last_time, **found}

    @classmethod
    def of_parts(cls, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `described` and `arrays` returned."""
        lagged = {name: arrays[f"last_{name}"] for name in described["lagged"]}
        features = tuple(described["features"])
        return cls(features, described["values"], lagged, arrays.get("time"))

    @cached_property
    def _code_of(self) -> dict[str, dict[Any, int]]:
        return {
            name: {value: code for code, value in enumerate(values, start=1)}
            for name, values in self.values.items()
        }

    def _seconds(self, time: Times, n: int) -> NDArray[np.float64]:
        if time is None:
            return np.full(n, clock.time() if self.reads_time else np.nan)
        if not self.reads_time:
            raise CadcError("time: this model reads no time of a request; leave it out.")
        given = _one_each(time, n)
        if len(given) != n:
            raise CadcError(f"time: give one number, or one for each of the {n} users.")
        for value in given:
            if _missing(value):
                continue
            if isinstance(value, bool) or not isinstance(value, Real):
                raise CadcError(f"time: give seconds since 1970 (UTC), not {value!r:.80}.")
            if not _FIRST <= float(value) <= _LAST:
                raise CadcError(
                    f"time: {value!r:.80} is not in the years 1 to 9999; give seconds since 1970 "
                    "(UTC), not milliseconds."
                )
        return np.array([np.nan if value is None else value for value in given], np.float64)

    def _asked(self, columns: Columns, n: int) -> dict[str, list[Any]]:
        """The values of each column, one a user, None where it is not known."""
        if columns is not None and not isinstance(columns, Mapping):
            raise CadcError(f"context: give the values by column, not {columns!r:.80}.")
        asked = {}
        for name, given in (columns or {}).items():
            if name in self.lagged:
                raise CadcError(
                    f"context: {name!r} is known only afterwards, so the user's last interaction "
                    "tells it; leave it out."
                )
            if name not in self.values:
                known = ", ".join(self.values) or "none"
                raise CadcError(f"context: this model reads no {name!r:.80}; there are: {known}.")
            values = _one_each(given, n)
            if len(values) != n:
                raise CadcError(
                    f"context: give one value of {name!r}, or one for each of the {n} users."
                )
            numbers = self.numbers(name)
            kind: tuple[type, ...] = (int, np.integer) if numbers else (str,)
            what = "whole numbers" if numbers else "text"
            for value in values:
                if not _missing(value) and (isinstance(value, bool) or not isinstance(value, kind)):
                    raise CadcError(f"context: values of {name!r} are {what}; got {value!r:.80}.")
            asked[name] = [None if _missing(value) else value for value in values]
        return asked


def _one_each(given: Any, n: int) -> list[Any]:
    """A value for each of n users: its own, or the one that is given."""
    if isinstance(given, np.ndarray):
        return list(given.tolist()) if given.ndim else [given.item()] * n
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return list(given)
    return [given] * n


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _of_known(values: NDArray[Any], rows: NDArray[np.int64], missing: float) -> NDArray[Any]:
    """Those of rows, and `missing` where a row is -1."""
    if not len(values):
        return np.full(len(rows), missing)
    return np.where(rows >= 0, values[rows], missing)
