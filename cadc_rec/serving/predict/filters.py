"""The filter of a request: a small expression over the attributes of items.

In: parsed JSON. Out: a `Condition`. The grammar::

    filter     {KEY: ..., ...}: all keys must hold
    KEY        an attribute, with a list of values or with tests
               "and", "or": a list of filters; "not": a filter
    tests      {TEST: ..., ...}: all must hold
    TEST       "in", "not in": a list of values; "<", "<=", ">", ">=": a number

An item without a value is in no list and no range; so "not in" and "not" let it through.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cadc_rec.errors import CadcError
from cadc_rec.serving.predict.catalogue import ItemAttribute
from cadc_rec.serving.predict.conditions import Condition, Every, Some, Without
from cadc_rec.serving.predict.numbers import BOUNDS, Bound

Filter = Mapping[str, Any]
"""See above. The plainest one, ``{attribute: [value, ...]}``, asks for items that have one of the
values, of every attribute that is named."""

DEPTH = 8
"""How deep `and`, `or` and `not` may be nested."""
TESTS = 100
"""How many lists and bounds a filter may have, or all boosts of a request together."""
VALUES = 1_000
"""How many values may stand in the lists, likewise."""
_TESTS = ("in", "not in", *BOUNDS)


@dataclass
class Room:
    """What may still be asked for.

    Attributes:
        tests: lists and bounds.
        values: in lists.
    """

    tests: int = TESTS
    values: int = VALUES

    def take(self, tests: int, values: int) -> None:
        """Ask for so many.

        Raises:
            CadcError: there are no more.
        """
        self.tests, self.values = self.tests - tests, self.values - values
        if self.tests < 0:
            raise CadcError(f"filter: at most {TESTS} lists and bounds are taken.")
        if self.values < 0:
            raise CadcError(
                f"filter: at most {VALUES:,} values are taken in its lists; give bounds, or name "
                "the items as candidates."
            )


def condition_of(
    wanted: Filter | Every,
    attributes: Mapping[str, ItemAttribute],
    n: int,
    room: Room | None = None,
) -> Every:
    """The items that a filter lets through.

    Args:
        wanted: the filter, or the condition that was made of it, which is given back.
        attributes: of items, by name.
        n: how many items there are.
        room: for lists and bounds of several filters; default: that for one.

    Raises:
        CadcError: it is not as described above, is deeper or longer than may be, or names an
            attribute or a value that no item has.
    """
    if isinstance(wanted, Every):
        return wanted
    return _Reader(attributes, n, room or Room()).filter(wanted, DEPTH)


class _Reader:
    def __init__(self, attributes: Mapping[str, ItemAttribute], n: int, room: Room) -> None:
        self.attributes, self.n, self.room = attributes, n, room

    def filter(self, wanted: Any, depth: int) -> Every:
        if not isinstance(wanted, Mapping) or not wanted:
            raise CadcError(
                f"filter: an object such as {{'genres': ['Comedy']}} is asked for, not "
                f"{wanted!r:.80}."
            )
        return Every([self._key(key, value, depth) for key, value in wanted.items()])

    def _key(self, key: str, value: Any, depth: int) -> Condition:
        if key in ("and", "or"):
            if not _is_list(value) or not value:
                raise CadcError(f"filter: give a list of filters for {key!r}, not {value!r:.80}.")
            inner = [self.filter(each, self._deeper(depth)) for each in value]
            return Every(inner) if key == "and" else Some(inner, self.n)
        if key == "not":
            return Without(self.filter(value, self._deeper(depth)), self.n)
        attribute = self.attributes.get(key)
        if attribute is None:
            known = ", ".join(sorted(self.attributes)) or "none"
            raise CadcError(f"items have no attribute {key!r:.80}; there are: {known}.")
        if isinstance(value, Mapping) and value:
            return Every(list(self._tests(key, attribute, value)))
        return attribute.one_of(self._values(key, value))

    def _tests(
        self, name: str, attribute: ItemAttribute, tests: Mapping[str, Any]
    ) -> Iterator[Condition]:
        bounds: dict[Bound, Any] = {}
        for test, value in tests.items():
            if test == "in":
                yield attribute.one_of(self._values(name, value))
            elif test == "not in":
                yield Without(attribute.one_of(self._values(name, value)), self.n)
            elif test in BOUNDS:
                self.room.take(1, 0)
                bounds[test] = value
            else:
                raise CadcError(
                    f"filter: {name} has no test {test!r:.80}; there are: {', '.join(_TESTS)}."
                )
        if bounds:
            yield attribute.within(bounds)

    def _values(self, name: str, values: Any) -> Sequence[Any]:
        if not _is_list(values):
            raise CadcError(f"filter: give a list of values for {name}, not {values!r:.80}.")
        self.room.take(1, len(values))
        found: Sequence[Any] = values
        return found

    @staticmethod
    def _deeper(depth: int) -> int:
        if not depth:
            raise CadcError(f"filter: is nested more than {DEPTH} times; write it flatter.")
        return depth - 1


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
