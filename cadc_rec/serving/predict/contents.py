"""What a bundle holds, in memory: its files, read and checked against each other.

In: a `Bundle`. Out: `Contents`, or the predictor made of them. Checksums show that a file is as it
was exported. Here the files are checked against each other, so that no request fails later because
they do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.programs import LazyProgram
from cadc_rec.serving.predict.attributes import UserAttributes
from cadc_rec.serving.predict.catalogue import ItemAttribute, attribute_of
from cadc_rec.serving.predict.conditions import with_few
from cadc_rec.serving.predict.events import LiveEvents
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.new_items import NOTHING, ItemsBeside, NewItemsOfBundle
from cadc_rec.serving.predict.recent import RecentState
from cadc_rec.serving.predict.requests import Newcomers, Requests, newcomers_of
from cadc_rec.serving.predict.retrieval import AlteredItems, IndexSearch, Retrieval
from cadc_rec.serving.predict.texts import Texts
from cadc_rec.serving.predict.top_k import Floats, ItemVectors, load_ahead

_BLOCK = 2**16  # vectors that are looked at at once


@dataclass(eq=False)
class Live:
    """What changes while a bundle is served; each is put in place in one step.

    Attributes:
        withheld: rows of items that no answer has for now; None: those sold out in the bundle.
        now: the bundle with the items that were put beside it; None without any.
    """

    withheld: NDArray[np.int64] | None = None
    now: Any = None


@dataclass(frozen=True)
class Contents:
    """Everything that answers are made from; nothing but `events` and `live` changes after loading.

    Attributes:
        users: their ids.
        items: their ids; those that nobody took yet come last.
        user_vectors: float32 ``[n_users, d]``.
        item_vectors: all items' vectors.
        known: what each user took, oldest first.
        popularity: int64 ``[n_items]``, how often each item was taken.
        retrieval: finds the best of the items that were taken; of all items, `item_vectors` does.
        listed: gives the scores that come on top of dot products, of the items that were taken;
            None without.
        newcomers: gives vectors to users the model has never seen; None where it cannot.
        history_length: items of a history that `newcomers` reads, the latest ones.
        requests: forms users' vectors where these depend on what a request says, its history or
            its moment; `user_vectors` are those of requests that say nothing. None where they do
            not.
        user_attributes: gives vectors to users the model has never seen by what is told of them;
            None where the model reads nothing of users.
        attributes: of items, by name.
        titles: of items, None where one has none; empty where the data have no titles.
        untaken: how many of the items nobody took yet.
        forgotten: rows of items that were forgotten and are no answer.
        events: what was taken since the log ended.
        withheld: rows of items that the exporter left out of all answers.
        live: what a service changes.
        new_items: how items are put beside the bundle's; None where it describes none.
        beside: the items that were.
        removed: rows of what was an item, and is none now.
        base: the predictor of the bundle alone; None is this one.
        sold_out: rows of items that were not available when the bundle was exported.
        programs: that are loaded when they are needed.
        fingerprint: of the bundle.
        name: of the bundle.
    """

    users: IdMap
    items: IdMap
    user_vectors: Floats
    item_vectors: ItemVectors | AlteredItems
    known: UserItems
    popularity: NDArray[np.int64]
    retrieval: Retrieval
    listed: ListedScores | None = None
    newcomers: Newcomers | None = None
    history_length: int = 0
    requests: Requests | None = None
    user_attributes: UserAttributes | None = None
    attributes: Mapping[str, ItemAttribute] = field(default_factory=dict)
    titles: Texts | Sequence[str | None] = ()
    untaken: int = 0
    forgotten: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    events: LiveEvents = field(default_factory=LiveEvents, compare=False)
    withheld: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    live: Live = field(default_factory=Live, compare=False)
    new_items: NewItemsOfBundle | None = None
    beside: ItemsBeside = NOTHING
    removed: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    base: Any = None
    sold_out: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    programs: Sequence[LazyProgram] = ()
    fingerprint: str = ""
    name: str = ""

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The contents of an open bundle.

        Raises:
            CadcError: its parts do not fit each other.
        """
        model = bundle.model()
        described = bundle.json(layout.ATTRIBUTES)["item"]
        known = bundle.arrays(layout.KNOWN)
        user_vectors = bundle.arrays(layout.USER_VECTORS)["vectors"]
        vectors = bundle.arrays(layout.ITEM_VECTORS)["vectors"]
        forms = model.get("normalize_ids", ())  # older bundles do not say
        forgotten = model.get("forgotten", {"users": [], "items": []})
        users = _ids(bundle, "user", forms, forgotten["users"])
        items = _ids(bundle, "item", forms, forgotten["items"])
        coded = bundle.table_without(layout.ITEMS, ("item_id", "title"))
        _require_fit(bundle, model, user_vectors, vectors, known, len(users), len(items))
        untaken = int(model.get("untaken_items", 0))  # older bundles have none
        item_vectors = ItemVectors(vectors)
        taken = ItemVectors(vectors[: len(items) - untaken]) if untaken else item_vectors
        newcomers, length, program = newcomers_of(bundle, model)
        requests = Requests.of_bundle(bundle, model)
        of_users = UserAttributes.of_bundle(bundle, model)
        programs = [program, *(one.program for one in (requests, of_users) if one is not None)]
        return cls(
            users=users,
            items=items,
            user_vectors=user_vectors,
            item_vectors=item_vectors,
            known=UserItems(known["indptr"], known["items"]),
            popularity=known["popularity"],
            retrieval=_retrieval(bundle, model, taken),
            listed=_listed(bundle, model, len(taken)),
            newcomers=newcomers,
            history_length=length,
            requests=requests,
            user_attributes=of_users,
            programs=[one for one in programs if isinstance(one, LazyProgram)],
            attributes={entry["name"]: attribute_of(entry, coded) for entry in described},
            untaken=untaken,
            forgotten=np.array(forgotten["items"], np.int64),
            events=LiveEvents(
                RecentState.of_bundle(bundle, model, len(taken)), len(items), model.get("log_ends")
            ),
            withheld=_withheld(bundle, len(items), "rows"),
            new_items=NewItemsOfBundle.of_bundle(bundle, model, described),
            sold_out=_withheld(bundle, len(items), "sold_out"),
            titles=_titles(bundle, len(items)),
            fingerprint=bundle.fingerprint,
            name=bundle.name,
        )

    @property
    def now(self) -> Self:
        """These contents with the items that a service has put beside the bundle by now."""
        found: Self | None = self.live.now
        return self if found is None else found

    @property
    def bundle(self) -> Self:
        """Those of the bundle alone, without the items that were put beside it."""
        found: Self | None = self.base
        return self if found is None else found

    @property
    def n_taken(self) -> int:
        """How many of the bundle's items somebody took: those with the rows below it."""
        return len(self.bundle.items) - self.untaken

    @property
    def reads_sessions(self) -> bool:
        """Whether the history of a request changes what a known user is recommended."""
        return self.requests is not None and self.requests.history_length > 0

    @property
    def no_answer(self) -> NDArray[np.int64]:
        """Rows of items that no request is answered with, ascending; `withhold` replaces it."""
        told = self.sold_out if self.live.withheld is None else self.live.withheld
        before: tuple[NDArray[np.int64], NDArray[np.int64]] | None = self.__dict__.get("_out")
        if before is not None and before[0] is told:
            return before[1]
        if self.base is None:
            every = np.unique(np.concatenate([self.forgotten, self.withheld, told]))
        else:  # the bundle's are sorted once, however often items change
            every = with_few(self.base.no_answer, np.unique(self.removed))
        self.__dict__["_out"] = told, every
        return every

    def withhold(self, rows: NDArray[np.int64]) -> None:
        """Leave these items out of all answers from now on, beside those of the bundle.

        It is all that is withheld: what was named before and is not now is released, and so is
        what was sold out.
        """
        self.live.withheld = rows  # in one step, for requests that are being answered
        assert self.no_answer is not None  # made now, and not by the next request

    def load_ahead(self) -> None:
        """Load what is otherwise loaded when it is first needed.

        Raises:
            CadcError: a program is not one of ours.
        """
        load_ahead()
        for program in self.programs:
            program.load()

    def load_libraries(self) -> None:
        """Load the libraries of what `load_ahead` loads, and keep nothing else.

        Raises:
            CadcError: a program is not one of ours.
        """
        load_ahead()
        for program in self.programs[:1]:
            program.another()

    def titles_of(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Titles of item rows, of any shape; empty where a row is -1 or has no title."""
        if self.base is not None:
            found = self.base.titles_of(np.where(rows < len(self.base.items), rows, -1))
            titled, texts = self._new_titles
            for place in np.argwhere(np.isin(rows, titled)):
                found[tuple(place)] = texts[int(rows[tuple(place)])]
            return found
        if not len(self.titles):
            return np.full(rows.shape, "", dtype=object)
        return self._texts.at(rows)

    @cached_property
    def _new_titles(self) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Rows of the items that were put with a title, and these."""
        told = [state for state in self.beside.states.values() if state.title is not None]
        rows = self.items.rows([state.item for state in told])
        texts = [state.title or "" for state in told]
        return rows, dict(zip(rows.tolist(), texts, strict=True))

    @cached_property
    def _texts(self) -> Texts:
        titles = self.titles
        return titles if isinstance(titles, Texts) else Texts.of(titles)


def _ids(bundle: Bundle, side: str, forms: Sequence[str], forgotten: Sequence[int]) -> IdMap:
    """The ids of a side."""
    file, table = {
        "user": (layout.USER_IDS, layout.USERS),
        "item": (layout.ITEM_IDS, layout.ITEMS),
    }[side]
    if bundle.has(file):
        return IdMap.of_arrays(side, bundle.arrays(file), forms, forgotten)
    column = bundle.table(table, [f"{side}_id"])[0]  # older bundles
    return IdMap.of_column(side, column, forms, forgotten)


def _titles(bundle: Bundle, n_items: int) -> Texts | Sequence[str | None]:
    """Titles of items; none where the data have none.

    Raises:
        CadcError: they do not fit the items.
    """
    if bundle.has(layout.ITEM_IDS):
        arrays = bundle.arrays(layout.ITEM_IDS)
        if "title_offsets" not in arrays:
            return ()
        texts = Texts.of_arrays(arrays, "title")
        if len(texts) != n_items or not texts.is_whole:
            raise CadcError(
                f"{bundle.path}: titles of {layout.ITEM_IDS} do not fit the items; export it anew."
            )
        return texts
    items = bundle.table(layout.ITEMS)  # older bundles
    return items["title"].to_pylist() if "title" in items.column_names else ()


def _retrieval(bundle: Bundle, model: Mapping[str, Any], items: ItemVectors) -> Retrieval:
    if model["index"]["kind"] == "exact":
        return items  # exact, and ranks close scores as evaluation does
    import faiss

    if not bundle.has(layout.INDEX):
        raise CadcError(f"{bundle.path}: this bundle has no {layout.INDEX}.")
    try:  # mapped, and so shared by processes, as far as its kind allows
        index = faiss.read_index(str(bundle.path / layout.INDEX), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise CadcError(
            f"{bundle.path / layout.INDEX}: cannot be read as an index; export the bundle anew."
        ) from error
    if index.ntotal != len(items) or index.d != items.vectors.shape[1]:
        raise CadcError(f"{bundle.path}: the index does not fit the item vectors; export it anew.")
    return IndexSearch(index, items)


def _listed(bundle: Bundle, model: Mapping[str, Any], n_items: int) -> ListedScores | None:
    """The scores on top of dot products.

    Raises:
        CadcError: the lists do not fit the items.
    """
    if "lists" not in model:  # older bundles, and models of dot products alone
        return None
    arrays = bundle.arrays(layout.LISTS)
    lists = TransitionLists(arrays["indptr"], arrays["items"], arrays["weights"])
    indptr, items, weights = lists.indptr, lists.items, lists.weights
    whole = len(indptr) == n_items + 1 and indptr[0] == 0 and (np.diff(indptr) >= 0).all()
    if not (
        whole
        and indptr[-1] == len(items) == len(weights)
        and np.isfinite(weights).all()
        and (not len(items) or (items.min() >= 0 and items.max() < n_items))
    ):
        raise CadcError(f"{bundle.path}: {layout.LISTS} does not fit the items; export it anew.")
    lists.matrix.sum_duplicates()  # the matrix is made now, and not by the first request
    return ListedScores.with_settings(lists, model["lists"])


def _withheld(bundle: Bundle, n_items: int, name: str) -> NDArray[np.int64]:
    """Rows of the items that are left out of all answers, for good or until they are released.

    Raises:
        CadcError: they are no rows of the items.
    """
    if not bundle.has(layout.WITHHELD):
        return np.zeros(0, np.int64)
    rows = bundle.arrays(layout.WITHHELD).get(name, np.zeros(0, np.int64))
    if rows.ndim != 1 or (len(rows) and not (rows.min() >= 0 and rows.max() < n_items)):
        raise CadcError(f"{bundle.path}: {layout.WITHHELD} does not fit the items; export it anew.")
    return rows.astype(np.int64)


def _require_fit(
    bundle: Bundle,
    model: Mapping[str, Any],
    user_vectors: Floats,
    item_vectors: Floats,
    known: Mapping[str, NDArray[Any]],
    n_users: int,
    n_items: int,
) -> None:
    shapes = {
        layout.USER_VECTORS: (user_vectors.shape, (n_users, model["dim"])),
        layout.ITEM_VECTORS: (item_vectors.shape, (n_items, model["dim"])),
        f"indptr of {layout.KNOWN}": (known["indptr"].shape, (n_users + 1,)),
        f"popularity of {layout.KNOWN}": (known["popularity"].shape, (n_items,)),
    }
    for name, (shape, wanted) in shapes.items():
        if shape != wanted:
            raise CadcError(
                f"{bundle.path}: {name} has shape {shape}, not {wanted}; export it anew."
            )
    indptr, items = known["indptr"], known["items"]
    if indptr[0] != 0 or indptr[-1] != len(items) or (np.diff(indptr) < 0).any():
        raise CadcError(
            f"{bundle.path}: {layout.KNOWN} is not a list of items for each user; export it anew."
        )
    n_taken = n_items - int(model.get("untaken_items", 0))
    if not 0 <= n_taken <= n_items:
        raise CadcError(
            f"{bundle.path}: {layout.MODEL} counts other items than there are; export it anew."
        )
    if len(items) and not (items.min() >= 0 and items.max() < n_taken):
        raise CadcError(
            f"{bundle.path}: {layout.KNOWN} names items that do not exist; export it anew."
        )
    for name, vectors in (("user", user_vectors), ("item", item_vectors)):
        blocks = (vectors[start : start + _BLOCK] for start in range(0, len(vectors), _BLOCK))
        if not all(np.isfinite(block).all() for block in blocks):
            raise CadcError(f"{bundle.path}: a vector of the {name}s is not finite; train anew.")
