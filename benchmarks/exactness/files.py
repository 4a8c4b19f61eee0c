"""What the files of a bundle say a request must be answered with, by NumPy and SciPy alone.

In: a bundle's folder and a `Question`. Out: of each user the source, the score of every item, and
which items may be answers. It is written from docs/serving.md and shares no code with the service
but the names of the files. A vector that depends on a session is what the bundle's own program
makes of it: the forward of the model is compared with training elsewhere (tests/export); here it is
which items the program is given, and in which order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file
from scipy import sparse

from cadc_rec.serving.bundle import layout

Doubles = NDArray[np.float64]
_SIGNS = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}


@dataclass(frozen=True)
class Question:
    """A request, in words of the protocol.

    Attributes:
        users: original ids; an id that no user has is somebody new.
        k: places.
        history: of each user what was taken just now, oldest first.
        candidates: the only items, of all users or a list for each.
        block: items to leave out, likewise.
        parameters: others of the protocol's, such as ``filter``, as parsed JSON.
    """

    users: Sequence[Any]
    k: int
    history: Sequence[Sequence[Any]] | None = None
    candidates: Sequence[Any] | None = None
    block: Sequence[Any] | None = None
    parameters: Mapping[str, Any] | None = None

    def parameter(self, name: str, default: Any = None) -> Any:
        """One of the others."""
        return (self.parameters or {}).get(name, default)


@dataclass(frozen=True)
class Expected:
    """What the files say of the users of a question.

    Attributes:
        sources: what each answer is based on.
        scores: float64 ``[n, items]``, boosts included.
        may: bool ``[n, items]``, which items may be answers.
    """

    sources: list[str]
    scores: Doubles
    may: NDArray[np.bool_]


class Files:
    """A bundle's files, read by pyarrow and safetensors."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = json.loads((path / layout.MODEL).read_text())
        users, self.items = (pq.read_table(path / name) for name in (layout.USERS, layout.ITEMS))
        self.user_ids: list[Any] = users["user_id"].to_pylist()
        self.item_ids: list[Any] = self.items["item_id"].to_pylist()
        self.user_row = {id_: row for row, id_ in enumerate(self.user_ids)}
        self.item_row = {id_: row for row, id_ in enumerate(self.item_ids)}
        self.user_vectors = load_file(path / layout.USER_VECTORS)["vectors"].astype(np.float64)
        self.item_vectors = load_file(path / layout.ITEM_VECTORS)["vectors"].astype(np.float64)
        known = load_file(path / layout.KNOWN)
        self.known = np.split(known["items"].astype(np.int64), known["indptr"][1:-1])
        self.popularity = known["popularity"].astype(np.float64)
        self.n_taken = len(self.item_ids) - self.model["untaken_items"]
        self._passing: dict[str, NDArray[np.bool_]] = {}
        withheld = path / layout.WITHHELD
        self.withheld = load_file(withheld)["rows"] if withheld.exists() else np.zeros(0, np.int64)

    @cached_property
    def values(self) -> dict[str, list[set[Any]]]:
        """By attribute, the values of each item."""
        found = {}
        for one in json.loads((self.path / layout.ATTRIBUTES).read_text())["item"]:
            name, column = one["name"], f"{one['name']}:value"
            if one["kind"] == "numeric":
                numbers = self.items[column].to_pylist()
                found[name] = [set() if n is None or np.isnan(n) else {n} for n in numbers]
                continue
            codes = self.items[name].to_pylist()
            words = [None, *one["vocabulary"]]
            lists = [each if isinstance(each, list) else [each] for each in codes]
            found[name] = [{words[code] for code in each if code} for each in lists]
        return found

    @cached_property
    def lists(self) -> sparse.csr_array | None:
        """What each item leads to, float64 ``[items, items]``; None without."""
        if "lists" not in self.model:
            return None
        one = load_file(self.path / layout.LISTS)
        n = len(self.item_ids)
        indptr = np.pad(one["indptr"], (0, n + 1 - len(one["indptr"])), mode="edge")
        weights = one["weights"].astype(np.float64)
        return sparse.csr_array((weights, one["items"], indptr), shape=(n, n))

    def program(self, name: str) -> Any:
        """One of the bundle's programs."""
        return torch.export.load(self.path / layout.PROGRAMS[name]).module()

    @cached_property
    def programs(self) -> dict[str, Any]:
        """Those that form vectors of sessions, by name; loaded once."""
        return {
            name: self.program(name) for name in ("query", "newcomer")
            if name in self.model["programs"]
        }  # fmt: skip

    def expected(self, asked: Question, withheld: Sequence[Any] = ()) -> Expected:
        """What the users of a question must get.

        Args:
            asked: the question.
            withheld: ids of items that are sold out.
        """
        n, n_items = len(asked.users), len(self.item_ids)
        told = [self._rows(each) for each in asked.history or [[]] * n]
        rows = [self.user_row.get(user, -1) for user in asked.users]
        only = self._only(asked, n)
        most = n_items if only is not None else self.n_taken
        may = np.ones((n, n_items), np.bool_) if only is None else only
        may[:, most:] = False
        may[:, self.withheld] = may[:, self._rows(withheld)] = False
        for line, named in enumerate(_each(asked.block, n)):
            may[line, self._rows(named)] = False
        sources, read = [], []
        reads_sessions = self.model["sessions"] is not None
        for line, (row, session) in enumerate(zip(rows, told, strict=True)):
            mine = self.known[row].tolist() if row >= 0 else []
            if asked.parameter("exclude_seen", True):
                may[line, [*mine, *session]] = False
            now = [item for item in session if item < self.n_taken]
            if row < 0:
                sources.append("history" if now else "popularity")
                mine = now
            else:
                sources.append("known")
                if now and reads_sessions:
                    replaced = asked.parameter("history_mode") == "replace"
                    mine = now if replaced else [*mine, *now]
            read.append(_latest_first(mine))
        told_now = [bool(each) and min(each) < self.n_taken for each in told]
        vectors = self._vectors(rows, sources, read, told_now)
        scores = vectors @ self.item_vectors.T + self._listed(sources, read)
        by_count = np.array([source == "popularity" for source in sources])
        scores += self._boosts(asked) * ~by_count[:, None]
        scores[by_count] = self.popularity
        return Expected(sources, scores, may)

    def _vectors(
        self, rows: Sequence[int], sources: Sequence[str], read: list[list[int]], told: list[bool]
    ) -> Doubles:
        """A vector of each user; zeros of one without any."""
        vectors = np.where(np.array(rows)[:, None] >= 0, self.user_vectors[rows], 0.0)
        sessions = self.model["sessions"]
        known = [n for n, s in enumerate(sources) if s == "known" and told[n] and sessions]
        new = [n for n, source in enumerate(sources) if source == "history"]
        for places, name in ((known, sessions), (new, "newcomer")):
            if places:
                vectors[places] = self._formed(
                    name, [rows[n] for n in places], [read[n] for n in places]
                )
        return vectors

    def _formed(self, name: str, rows: Sequence[int], read: Sequence[Sequence[int]]) -> Doubles:
        """What a program makes of users and histories, the latest item first."""
        given = []
        for described in self.model["programs"][name]["inputs"]:
            if described["name"] == "user":
                given.append(torch.tensor(rows))
            else:
                length = described["shape"][1]
                padded = [[*each[:length], *[-1] * (length - len(each))] for each in read]
                given.append(torch.tensor(padded))
        with torch.inference_mode():
            made: Doubles = self.programs[name](*given).numpy().astype(np.float64)
        return made

    def _listed(self, sources: Sequence[str], read: Sequence[Sequence[int]]) -> Doubles | float:
        """What the lists of the items that are read add to the scores of all items."""
        if self.lists is None:
            return 0.0
        how = self.model["lists"]
        shape = len(read), len(self.item_ids)
        lines, columns, weights = list[int](), list[int](), list[float]()
        for line, each in enumerate(read):
            latest = each[: how["length"]] if sources[line] != "popularity" else []
            places = how["decay"] ** np.arange(len(latest))
            lines += [line] * len(latest)
            columns += latest
            weights += (places / places.sum()).tolist()
        by_history = sparse.csr_array((weights, (lines, columns)), shape=shape)
        found: Doubles = how["factor"] * (by_history @ self.lists).toarray()
        return found

    def _boosts(self, asked: Question) -> Doubles:
        added = np.zeros(len(self.item_ids))
        for boost in asked.parameter("boost", []):
            added += boost["add"] * self.passing(boost["filter"])
        return added

    def _only(self, asked: Question, n: int) -> NDArray[np.bool_] | None:
        """The items that filter and candidates leave, ``[n, items]``; None where neither asks."""
        wanted, named = asked.parameter("filter"), asked.candidates
        if wanted is None and named is None:
            return None
        only = np.ones((n, len(self.item_ids)), np.bool_)
        if wanted is not None:
            only &= self.passing(wanted)
        if named is not None:
            theirs = np.zeros_like(only)
            for line, each in enumerate(_each(named, n)):
                theirs[line, self._rows(each)] = True
            only &= theirs
        return only

    def passing(self, wanted: Mapping[str, Any]) -> NDArray[np.bool_]:
        """Which items a filter lets through, looked at one by one."""
        key = json.dumps(wanted)
        if key not in self._passing:
            rows = range(len(self.item_ids))
            self._passing[key] = np.array([self._passes(wanted, row) for row in rows])
        return self._passing[key]

    def _passes(self, wanted: Mapping[str, Any], row: int) -> bool:
        return all(self._holds(key, value, row) for key, value in wanted.items())

    def _holds(self, key: str, value: Any, row: int) -> bool:
        if key == "and":
            return all(self._passes(each, row) for each in value)
        if key == "or":
            return any(self._passes(each, row) for each in value)
        if key == "not":
            return not self._passes(value, row)
        mine = self.values[key][row]
        tests = value if isinstance(value, dict) else {"in": value}
        bounds = {sign: bound for sign, bound in tests.items() if sign in _SIGNS}
        if bounds and not any(
            all(_SIGNS[sign](one, bound) for sign, bound in bounds.items()) for one in mine
        ):
            return False
        within = not mine.isdisjoint(tests["in"]) if "in" in tests else True
        return within and mine.isdisjoint(tests.get("not in", ()))

    def _rows(self, ids: Sequence[Any]) -> list[int]:
        return [self.item_row[id_] for id_ in ids if id_ in self.item_row]


def _each(named: Sequence[Any] | None, n: int) -> list[Sequence[Any]]:
    """A list of ids for each of n users, of one for all or one for each."""
    if named is None:
        return [[]] * n
    of_each = bool(named) and isinstance(named[0], list)
    return list(named) if of_each else [named] * n


def _latest_first(items: Sequence[int]) -> list[int]:
    """Items, oldest first, turned around, each where it comes last."""
    return list(dict.fromkeys(reversed(items)))
