"""What may be told of users and items that a bundle does not know, and the vectors of such users.

In: values by attribute, as tables of users have them, and histories. Out: a vector each, of the
user tower: what training would give a user with these attributes and no row. A value that no
training user had is unknown, as one that is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.programs import LazyProgram
from cadc_rec.serving.predict.requests import padded

if TYPE_CHECKING:
    import torch

    from cadc_rec.data.dataset import Attribute
    from cadc_rec.data.dense import DenseAttribute
    from cadc_rec.serving.bundle.bundle import Bundle

Attributes: TypeAlias = "Mapping[str, Sequence[Any]] | None"
"""By attribute, a value a user (a list of values where an attribute has several); None: unknown."""
Told: TypeAlias = "Mapping[str, list[Any]]"
_LISTS = ("multi", "vector")
_NUMBERS = ("numeric", "number")
_LARGEST = float(np.finfo(np.float32).max)
_LARGEST_NUMBER = float(np.finfo(np.float64).max)  # a whole number may be beyond it


@dataclass(frozen=True)
class TellableAttributes:
    """What may be told of users, or of items.

    Attributes:
        described: entries of the attributes, with their vocabularies.
        dense: entries of vectors and numbers.
        widths: places of each attribute's codes.
    """

    described: Sequence[dict[str, Any]]
    dense: Sequence[dict[str, Any]]
    widths: Sequence[int]
    _each: ClassVar[str] = "an item"

    @cached_property
    def kinds(self) -> dict[str, str]:
        """Of all that may be told.

        ``categorical``, ``hashed`` and ``multi`` have values; ``numeric``, ``number`` and
        ``vector`` have numbers.
        """
        found = {entry["name"]: entry["kind"] for entry in self.described}
        for entry in self.dense:
            if entry["kind"] == "vector":
                found[entry["name"]] = "vector"
            else:
                found |= {column["name"]: "number" for column in entry["columns"]}
        return found

    def takes_integers(self, name: str) -> bool:
        """Whether the values of an attribute are whole numbers; else they are text."""
        return name in self._whole

    def places(self, name: str) -> int:
        """How many values of an attribute are taken."""
        if self.kinds[name] == "vector":
            return next(int(one["width"]) for one in self.dense if one["name"] == name)
        widths = zip(self.described, self.widths, strict=True)
        return next((width for one, width in widths if one["name"] == name), 1)

    @cached_property
    def _whole(self) -> frozenset[str]:
        """The attributes whose values are whole numbers; vocabularies may be long."""
        return frozenset(
            entry["name"]
            for entry in self.described
            if entry["kind"] != "numeric"
            and entry["vocabulary"]
            and all(isinstance(word, int) for word in entry["vocabulary"])
        )

    def value(self, name: str, value: Any) -> Any:
        """A value as a column of its attribute has it; None is unknown.

        Raises:
            CadcError: it is of the wrong type.
        """
        kind = self.kinds[name]
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if kind not in _LISTS:
            return self._one(name, value)
        if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
            raise CadcError(
                f"attributes: {name!r} has a list of values {self._each}, not {value!r:.80}."
            )
        values = [self._one(name, one) for one in value]
        if kind == "vector":
            width = self.places(name)
            if len(values) != width:
                raise CadcError(f"attributes: {name!r} has {width} numbers, not {len(values)}.")
        return values

    def _one(self, name: str, value: Any) -> Any:
        kind = self.kinds[name]
        if kind in (*_NUMBERS, "vector"):
            number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
            if not number or not abs(value) <= _LARGEST_NUMBER:  # also of NaN
                raise CadcError(f"attributes: {name!r} has numbers, not {value!r:.80}.")
            if kind == "vector" and abs(value) > _LARGEST:  # its length would be infinite
                raise CadcError(f"attributes: {value!r:.80} is too large for a vector {name!r}.")
            return float(value)
        wanted: tuple[type, ...] = (int, np.integer) if self.takes_integers(name) else (str,)
        if kind == "hashed":  # of the text of whatever the column holds
            wanted = (str, int, np.integer)
        if isinstance(value, bool) or not isinstance(value, wanted):
            what = "whole numbers" if self.takes_integers(name) else "text"
            raise CadcError(f"attributes: values of {name!r} are {what}; got {value!r:.80}.")
        if isinstance(value, int | np.integer):
            whole = int(value)
            if not -(2**63) <= whole < 2**63:
                raise CadcError(f"attributes: {value!r:.80} of {name!r} is no number of 64 bits.")
            if kind != "hashed":
                return whole
        # A lone surrogate, which is no text, becomes a sign that no value has in its place.
        return str(value).encode(errors="replace").decode()

    def coded(self, told: Told, n: int) -> list[Attribute]:
        """The codes of n users or items, of each attribute; those not told are unknown."""
        from cadc_rec.data.dataset import coded_attribute

        return [
            coded_attribute(_column(entry, told.get(entry["name"], [None] * n)), entry)
            for entry in self.described
        ]

    def tables(self, told: Told, n: int) -> list[DenseAttribute]:
        """The vectors and numbers of n users or items.

        Raises:
            CadcError: a number is too large.
        """
        import pyarrow as pa

        from cadc_rec.data.dense import coded_dense

        columns = {}
        for name, kind in self.kinds.items():
            if kind in ("vector", "number"):
                type_ = pa.list_(pa.float64()) if kind == "vector" else pa.float64()
                columns[name] = pa.array(told.get(name, [None] * n), type_)
        with np.errstate(over="ignore"):  # what is too large is refused
            found = coded_dense(pa.table(columns), self.dense)
        if not all(np.isfinite(table.values).all() for table in found):
            numbers = ", ".join(name for name, kind in self.kinds.items() if kind == "number")
            raise CadcError(
                f"attributes: a number ({numbers}) is too large for the model; tell it in the unit "
                "of the training data."
            )
        return found


@dataclass(frozen=True)
class UserAttributes(TellableAttributes):
    """What a bundle reads of users.

    Attributes:
        inputs: of the program, ``history``, ``codes`` and ``dense`` in this order, and widths.
        program: gives vectors.
    """

    inputs: Mapping[str, int]
    program: Callable[..., torch.Tensor]
    _each: ClassVar[str] = "a user"

    @classmethod
    def of_bundle(cls, bundle: Bundle, model: Mapping[str, Any]) -> Self | None:
        """Those of a bundle; None where its model reads no attributes of users."""
        described = model["programs"].get("new_user")
        if described is None:
            return None
        dense = bundle.json(layout.DENSE)["user"] if bundle.has(layout.DENSE) else []
        return cls(
            bundle.json(layout.ATTRIBUTES)["user"],
            dense,
            model["new_users"]["codes"],
            {given["name"]: int(given["shape"][1]) for given in described["inputs"]},
            LazyProgram(bundle, "new_user"),
        )

    def told(self, given: Mapping[str, Sequence[Any]], n: int) -> Told:
        """The values of each attribute, None where one is unknown.

        Raises:
            CadcError: the model reads no such attribute, or a value is of the wrong type.
        """
        if not isinstance(given, Mapping):
            raise CadcError(f"attributes: give the values by attribute, not {given!r:.80}.")
        found = {}
        for name, values in given.items():
            if name not in self.kinds:
                known = ", ".join(self.kinds)
                raise CadcError(
                    f"attributes: this model reads no {name!r:.80} of users; there are: {known}."
                )
            if isinstance(values, str) or len(values) != n:
                raise CadcError(
                    f"attributes: give one value of {name!r} for each of the {n} users."
                )
            found[name] = [self.value(name, value) for value in values]
        return found

    def vectors(self, told: Told, users: Sequence[int], read: Sequence[NDArray[Any]]) -> Any:
        """Vectors ``[users, d]``, float32.

        Args:
            told: values of all users of a request.
            users: places of those whose vectors are wanted.
            read: item rows that each of them took, the latest first; may be empty.

        Raises:
            CadcError: a user has more values of an attribute than there are places for, or a number
                is too large.
        """
        import torch

        mine = {name: [values[user] for user in users] for name, values in told.items()}
        given: list[NDArray[Any]] = []
        for name, width in self.inputs.items():
            if name == "history":
                given.append(padded(list(read), width))
            elif name == "codes":
                given.append(self._codes(mine, len(users)))
            else:
                given.append(self._dense(mine, len(users)))
        with torch.inference_mode():
            return self.program(*map(torch.from_numpy, given)).float().numpy()

    def _codes(self, told: Told, n: int) -> NDArray[np.int64]:
        """Codes as the program takes them, ``[n, sum of widths]``, -1 where there are no more."""
        from cadc_rec.data.dataset import known_to_towers

        parts = []
        for attribute, width in zip(self.coded(told, n), self.widths, strict=True):
            coded = known_to_towers(attribute)
            most = int(np.diff(coded.indptr).max(initial=0))
            if most > width:
                raise CadcError(
                    f"attributes: a user has {most} values of {attribute.name!r}, and the "
                    f"model takes {width} at most; leave the least important ones out."
                )
            parts.append(padded_codes(coded, width))
        return np.concatenate(parts, 1) if parts else np.zeros((n, 0), np.int64)

    def _dense(self, told: Told, n: int) -> NDArray[np.float32]:
        """Vectors and numbers side by side."""
        from cadc_rec.data.dense import side_by_side

        rows = side_by_side(self.tables(told, n))
        assert rows is not None
        return rows


def _column(entry: Mapping[str, Any], values: list[Any]) -> Any:
    """Codes of the values of one attribute, one or a list of them a user."""
    import pyarrow as pa

    from cadc_rec.data.prepare.vocabulary import coded

    words = entry["vocabulary"]
    type_ = pa.int64() if words and isinstance(words[0], int) else pa.string()
    if entry["kind"] == "numeric":
        type_ = pa.float64()
    elif entry["kind"] == "multi":
        type_ = pa.list_(type_)
    codes, _ = coded(pa.array(values, type_), len(values), dict(entry))
    return codes


def padded_codes(attribute: Attribute, width: int) -> NDArray[np.int64]:
    """``[n, width]``: the codes of each, then -1; none has more than `width`."""
    codes = np.full((len(attribute.indptr) - 1, width), -1, np.int64)
    codes[np.arange(width) < np.diff(attribute.indptr)[:, None]] = attribute.values
    return codes
