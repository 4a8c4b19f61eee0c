"""What a bundle holds, in memory: its files, read and checked against each other.

In: a `Bundle`. Out: `Contents`, or the predictor made of them. Checksums show that a file is as it
was exported. Here the files are checked against each other, so that no request fails later because
they do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.request_codes import Codes
from cadc_rec.data.transition_lists import ListedScores, TransitionLists
from cadc_rec.data.user_items import UserItems
from cadc_rec.errors import CadcError
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.predict.catalogue import ItemAttribute, attribute_of
from cadc_rec.serving.predict.events import LiveEvents
from cadc_rec.serving.predict.ids import IdMap
from cadc_rec.serving.predict.recent import RecentState
from cadc_rec.serving.predict.requests import Requests
from cadc_rec.serving.predict.retrieval import IndexSearch, Retrieval
from cadc_rec.serving.predict.top_k import Floats, ItemVectors

Newcomers = Callable[..., Floats]
"""Vectors ``[n, d]`` of histories: item rows ``[n, L]``, the latest first, -1 after the last; and,
where requests have a context, of its codes ``[n, features]``."""


@dataclass(frozen=True)
class Contents:
    """Everything that answers are made from; nothing but `events` changes after loading.

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
        attributes: of items, by name.
        titles: of items, None where one has none; empty where the data have no titles.
        untaken: how many of the items nobody took yet.
        forgotten: rows of items that were forgotten and are no answer.
        events: what was taken since the log ended.
        withheld: rows of items that the exporter left out of all answers.
        fingerprint: of the bundle.
        name: of the bundle.
    """

    users: IdMap
    items: IdMap
    user_vectors: Floats
    item_vectors: ItemVectors
    known: UserItems
    popularity: NDArray[np.int64]
    retrieval: Retrieval
    listed: ListedScores | None = None
    newcomers: Newcomers | None = None
    history_length: int = 0
    requests: Requests | None = None
    attributes: Mapping[str, ItemAttribute] = field(default_factory=dict)
    titles: Sequence[str | None] = ()
    untaken: int = 0
    forgotten: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    events: LiveEvents = field(default_factory=LiveEvents, compare=False)
    withheld: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    fingerprint: str = ""
    name: str = ""

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The contents of an open bundle.

        Raises:
            CadcError: its parts do not fit each other.
        """
        model = bundle.model()
        users, items = bundle.table(layout.USERS), bundle.table(layout.ITEMS)
        known = bundle.arrays(layout.KNOWN)
        user_vectors = bundle.arrays(layout.USER_VECTORS)["vectors"]
        vectors = bundle.arrays(layout.ITEM_VECTORS)["vectors"]
        _require_fit(bundle, model, user_vectors, vectors, known, len(users), len(items))
        untaken = int(model.get("untaken_items", 0))  # older bundles have none
        item_vectors = ItemVectors(vectors)
        taken = ItemVectors(vectors[: len(items) - untaken]) if untaken else item_vectors
        newcomers, length = _newcomers(bundle, model)
        described = bundle.json(layout.ATTRIBUTES)["item"]
        forms = model.get("normalize_ids", ())  # older bundles do not say
        forgotten = model.get("forgotten", {"users": [], "items": []})
        return cls(
            users=IdMap.of_column("user", users["user_id"], forms, forgotten["users"]),
            items=IdMap.of_column("item", items["item_id"], forms, forgotten["items"]),
            user_vectors=user_vectors,
            item_vectors=item_vectors,
            known=UserItems(known["indptr"], known["items"]),
            popularity=known["popularity"],
            retrieval=_retrieval(bundle, model, taken),
            listed=_listed(bundle, model, len(taken)),
            newcomers=newcomers,
            history_length=length,
            requests=Requests.of_bundle(bundle, model),
            attributes={entry["name"]: attribute_of(entry, items) for entry in described},
            untaken=untaken,
            forgotten=np.array(forgotten["items"], np.int64),
            events=LiveEvents(
                RecentState.of_bundle(bundle, model, len(taken)), len(items), model.get("log_ends")
            ),
            withheld=_withheld(bundle, len(items)),
            titles=items["title"].to_pylist() if "title" in items.column_names else (),
            fingerprint=bundle.fingerprint,
            name=bundle.name,
        )

    @cached_property
    def no_answer(self) -> NDArray[np.int64]:
        """Rows of items that no request is answered with, ascending; `withhold` replaces it."""
        return np.union1d(self.forgotten, self.withheld)

    def withhold(self, rows: NDArray[np.int64]) -> None:
        """Leave these items out of all answers from now on, beside those of the bundle.

        It is all that is withheld: what was named before and is not now is released.
        """
        every = np.union1d(np.union1d(self.forgotten, self.withheld), rows)
        self.__dict__["no_answer"] = every  # in one step, for requests that are being answered

    def titles_of(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Titles of item rows, of any shape; empty where a row is -1 or has no title."""
        found = np.full(rows.shape, "", dtype=object)
        if len(self.titles):
            for place in np.ndindex(rows.shape):
                if rows[place] >= 0:
                    found[place] = self.titles[int(rows[place])] or ""
        return found


def _retrieval(bundle: Bundle, model: Mapping[str, Any], items: ItemVectors) -> Retrieval:
    if model["index"]["kind"] == "exact":
        return items  # exact, and ranks close scores as evaluation does
    import faiss

    index = faiss.deserialize_index(np.frombuffer(bundle.read(layout.INDEX), np.uint8))
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


def _withheld(bundle: Bundle, n_items: int) -> NDArray[np.int64]:
    """Rows of the items that are left out of all answers.

    Raises:
        CadcError: they are no rows of the items.
    """
    if not bundle.has(layout.WITHHELD):
        return np.zeros(0, np.int64)
    rows = bundle.arrays(layout.WITHHELD)["rows"]
    if rows.ndim != 1 or (len(rows) and not (rows.min() >= 0 and rows.max() < n_items)):
        raise CadcError(f"{bundle.path}: {layout.WITHHELD} does not fit the items; export it anew.")
    return rows.astype(np.int64)


def _newcomers(bundle: Bundle, model: Mapping[str, Any]) -> tuple[Newcomers | None, int]:
    """The program that folds in a history, and how many items of it are read."""
    described = model["programs"].get("newcomer")
    if described is None:
        return None, 0
    import torch

    from cadc_rec.serving.bundle.programs import load_program

    program = load_program(bundle, "newcomer")

    with_context = any(given["name"] == "request" for given in described["inputs"])

    def vectors(history: NDArray[np.int64], *codes: Codes) -> Floats:
        given = [torch.from_numpy(history)]
        if with_context:  # others fold a history into the items' vectors, whenever it is asked for
            given += [torch.from_numpy(each.astype(np.int64)) for each in codes]
        with torch.inference_mode():
            found: Floats = program(*given).numpy()
        return found

    return vectors, int(described["inputs"][0]["shape"][1])


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
        if not np.isfinite(vectors).all():
            raise CadcError(f"{bundle.path}: a vector of the {name}s is not finite; train anew.")
