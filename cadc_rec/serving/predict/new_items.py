"""Items that come, change and go while a bundle is served.

In: items with attributes or vectors, and ids of items to remove. Out: a predictor that answers with
them, which shares with the one before all that they leave as it is. A new item has a row behind the
bundle's, and a row is never given to another item. What changes of an item of the bundle (its
vector, attributes or title) replaces what the bundle has of it; its row, and so what users took,
its popularity and its scores by lists, stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.predict.attributes import TellableAttributes
from cadc_rec.serving.predict.top_k import Floats

if TYPE_CHECKING:
    from cadc_rec.data.dataset import Attribute
    from cadc_rec.data.dense import DenseAttribute
    from cadc_rec.serving.bundle.bundle import Bundle
    from cadc_rec.serving.predict.cold_items import NewItems
    from cadc_rec.serving.predict.ids import IdMap

Id = int | str
LONGEST_ID = 1024
"""Bytes of a new item's id, and characters of its title."""
_MOST_VALUES = 100  # of one attribute
_OLDER = "this bundle is of a version that cannot embed items; export it anew, or give vectors"


@dataclass(frozen=True)
class PutItem:
    """An item that came, or what changed of one.

    Attributes:
        item: original id.
        attributes: values by attribute, None is unknown; what is not named stays as it is, and is
            unknown of a new item.
        vector: in the space of the bundle's item vectors. A new item without one gets one by its
            attributes, where the bundle can make it.
        title: None leaves it as it is.
    """

    item: Any
    attributes: Mapping[str, Any] = field(default_factory=dict)
    vector: Sequence[float] | NDArray[Any] | None = None
    title: str | None = None


@dataclass(frozen=True, eq=False)
class ItemState:
    """All that was told of an item.

    Attributes:
        item: id, as the bundle writes it.
        attributes: values, as columns have them.
        vector: float32 ``[d]``; None leaves the bundle's.
        made: whether the vector was made of the attributes.
        title: None leaves the bundle's.
    """

    item: Id
    attributes: Mapping[str, Any] = field(default_factory=dict)
    vector: Floats | None = None
    made: bool = False
    title: str | None = None


@dataclass(frozen=True)
class ItemChanges:
    """What is to change of items, checked.

    Attributes:
        put: all that is told of each of these now.
        removed: ids of items that are none from now on.
    """

    put: Sequence[ItemState] = ()
    removed: Sequence[Id] = ()


@dataclass(frozen=True)
class ItemsBeside:
    """What was told of items since a bundle was loaded.

    Attributes:
        states: of the items that were put, by id.
        removed: ids of the bundle's items that were removed.
        behind: ids of the rows behind the bundle's, whether or not they are items now.
    """

    states: Mapping[Id, ItemState] = field(default_factory=dict)
    removed: frozenset[Id] = frozenset()
    behind: tuple[Id, ...] = ()

    def after(self, changes: ItemChanges, items: IdMap) -> ItemsBeside:
        """The same after changes.

        Args:
            changes: what changes.
            items: ids of the bundle.
        """
        states, removed = dict(self.states), set(self.removed)
        named = [*(state.item for state in changes.put), *changes.removed]
        rows = dict(zip(named, items.rows(named).tolist(), strict=True))
        for state in changes.put:
            states[state.item] = state
            removed.discard(state.item)
        for item in changes.removed:
            states.pop(item, None)
            if rows[item] >= 0:
                removed.add(item)
        known = set(self.behind)
        new = [one.item for one in changes.put if rows[one.item] < 0 and one.item not in known]
        return ItemsBeside(states, frozenset(removed), (*self.behind, *dict.fromkeys(new)))


NOTHING = ItemsBeside()


class NewItemsOfBundle:
    """How a bundle's items are described, and how it makes a vector of attributes.

    Args:
        tellable: the attributes that may be told.
        why_not: why it cannot make vectors, as a clause; None if it can.
        load: gives what makes them; called once, when the first is made.
    """

    def __init__(
        self,
        tellable: TellableAttributes,
        why_not: str | None,
        load: Callable[[], NewItems],
    ) -> None:
        self.tellable, self.why_not = tellable, why_not
        self._load = load
        self._made: NewItems | None = None
        self._one_at_a_time = threading.Lock()

    @classmethod
    def of_bundle(
        cls, bundle: Bundle, model: Mapping[str, Any], described: Sequence[dict[str, Any]]
    ) -> Self:
        """That of a bundle.

        Args:
            bundle: the bundle.
            model: its ``model.json``.
            described: the entries of its items' attributes.
        """

        def load() -> NewItems:
            from cadc_rec.serving.predict.cold_items import NewItems

            return NewItems.of_bundle(bundle)

        dense = bundle.json(layout.DENSE)["item"] if bundle.has(layout.DENSE) else []
        made = model.get("new_items")
        widths = [] if made is None else made["codes"]
        why_not = _OLDER if made is None else None
        if not described and not dense:
            why_not = "this bundle describes no attributes of items; give a vector"
        elif model.get("method") == "popularity":
            why_not = "this model counts who took an item, and nobody took a new one; give a vector"
        tellable = TellableAttributes(described, dense, widths or [1] * len(described))
        return cls(tellable, why_not, load)

    def vectors(self, attributes: Sequence[Mapping[str, Any]]) -> Floats:
        """Vectors ``[n, d]`` of new items.

        Args:
            attributes: of each, values by attribute, as `TellableAttributes.value` gave them.

        Raises:
            CadcError: the bundle cannot make any, or a value is too large for it.
        """
        if self.why_not is not None:
            raise CadcError(f"items: {self.why_not}.")
        n = len(attributes)
        told = {name: [mine.get(name) for mine in attributes] for name in self.tellable.kinds}
        new: list[Attribute] = self.tellable.coded(told, n)
        dense: list[DenseAttribute] = self.tellable.tables(told, n)
        with self._one_at_a_time:
            if self._made is None:
                self._made = self._load()
            found: Floats = self._made.vectors_of(new, n, dense)
        return found

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Attributes of an item, as columns have them.

        Raises:
            CadcError: there is no such attribute, or a value is of the wrong type.
        """
        if not isinstance(given, Mapping):
            raise CadcError(f"attributes: give values by attribute, not {given!r:.80}.")
        found = {}
        for name, value in given.items():
            if name not in self.tellable.kinds:
                known = ", ".join(self.tellable.kinds) or "none"
                raise CadcError(f"attributes: items have no {name!r:.80}; there are: {known}.")
            found[name] = self.tellable.value(name, value)
            if self.tellable.kinds[name] == "multi" and len(found[name] or ()) > _MOST_VALUES:
                raise CadcError(
                    f"attributes: {len(found[name])} values of {name!r}; an item has "
                    f"{_MOST_VALUES} at most."
                )
        return found


def read_changes(
    put: Sequence[PutItem],
    remove: Sequence[Any],
    beside: ItemsBeside,
    items: IdMap,
    width: int,
    new_items: NewItemsOfBundle | None,
) -> ItemChanges:
    """What is asked, checked and joined with what was told before.

    Args:
        put: items that came or changed; of several with one id the later ones change the earlier.
        remove: ids of items that are to be none; an item that is in both is removed.
        beside: what was told before.
        items: ids of the bundle.
        width: of vectors.
        new_items: of the bundle; None of one that describes no items.

    Raises:
        CadcError: an item is not as described at `PutItem`; nothing is to change then.
    """
    states: dict[Id, ItemState] = {}
    unmade: list[Id] = []
    for n, told in enumerate(put):
        try:
            item = _id_of(told.item, items)
            state = _joined(
                item, told, states.get(item) or beside.states.get(item), width, new_items
            )
            new = int(items.rows([item])[0]) < 0  # to the bundle
            remakes = (new and state.vector is None) or (state.made and bool(told.attributes))
            if new and state.vector is None and not state.attributes:
                raise CadcError("give a new item's attributes, or its vector.")
            if remakes:
                if new_items is None or new_items.why_not is not None:
                    why = new_items.why_not if new_items else "this bundle describes no items"
                    raise CadcError(f"{why}.")
                state = replace(state, made=True)
                unmade.append(item)
        except CadcError as error:
            raise CadcError(f"put[{n}]: {error}") from None
        states[item] = state
    unmade = [item for item in dict.fromkeys(unmade) if states[item].made]
    if unmade:
        assert new_items is not None
        vectors = new_items.vectors([states[item].attributes for item in unmade])
        for item, vector in zip(unmade, vectors, strict=True):
            states[item] = replace(states[item], vector=vector)
    removed = []
    for n, one in enumerate(remove):
        try:
            removed.append(_id_of(one, items))
        except CadcError as error:
            raise CadcError(f"remove[{n}]: {error}") from None
    gone = set(removed)
    put_now = [state for one, state in states.items() if one not in gone]
    return ItemChanges(put_now, list(dict.fromkeys(removed)))


def _id_of(value: Any, items: IdMap) -> Id:
    found = items.in_form(value)
    if isinstance(found, str) and not 0 < len(found.encode(errors="ignore")) <= LONGEST_ID:
        found = None
    if found is None:
        raise CadcError(
            f"{value!r:.80} cannot be the id of an item: one is a number of 64 bits, or text of up "
            f"to {LONGEST_ID} bytes."
        )
    return found


def _joined(
    item: Id,
    told: PutItem,
    before: ItemState | None,
    width: int,
    new_items: NewItemsOfBundle | None,
) -> ItemState:
    """What is known of an item after what was told."""
    state = before or ItemState(item)
    if told.attributes:
        if new_items is None:
            raise CadcError("attributes: this bundle describes none of items; leave them out.")
        values = new_items.values(told.attributes)
        state = replace(state, attributes={**state.attributes, **values})
    if told.vector is not None:
        state = replace(state, vector=vector_of(told.vector, width), made=False)
    if told.title is not None:
        if not isinstance(told.title, str) or len(told.title) > LONGEST_ID:
            raise CadcError(f"a title is text of up to {LONGEST_ID} characters.")
        state = replace(state, title=told.title.encode(errors="replace").decode())
    return state


def vector_of(given: Any, width: int) -> Floats:
    """A vector of the bundle's dimension.

    Raises:
        CadcError: it is none.
    """
    if isinstance(given, str | bytes) or not isinstance(given, Sequence | np.ndarray):
        raise CadcError(f"a vector is a list of {width} numbers.")
    try:
        with np.errstate(over="ignore"):  # what is too large is refused
            found = np.asarray(given, np.float64).astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise CadcError(f"a vector is a list of {width} numbers.") from None
    if found.shape != (width,):
        size = len(found) if found.ndim == 1 else f"{found.ndim} dimensions"
        raise CadcError(f"a vector has {width} numbers in this bundle, not {size}.")
    # Longer ones would overflow the products.
    if not np.isfinite(found).all() or float(np.abs(found).max(initial=0.0)) > 1e15:
        raise CadcError("a vector's numbers are finite, and none is beyond 1e15.")
    return found
