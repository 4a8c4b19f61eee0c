"""The preparation of a random table done by pandas and plain Python, from what the pages promise.

It shares no code with the package.
"""

from __future__ import annotations

import hashlib
import math
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from tests.data.prepare.random_tables import BUCKETS, HASH_CODES, INT64, Case, Value, as_text


def expected(case: Case) -> dict[str, Any] | None:
    """Counts, ids, rows and codes; None where no interaction is left."""
    as_text_ids = {side: _ids_are_text(case, side) for side in ("user", "item")}
    frame = pd.DataFrame(
        {
            "user": pd.Series(
                [_id(row[0], as_text_ids["user"]) for row in case.rows], dtype=object
            ),
            "item": pd.Series(
                [_id(row[1], as_text_ids["item"]) for row in case.rows], dtype=object
            ),
            "time": pd.Series([_time(row[2], case) for row in case.rows], dtype=object),
            "rating": pd.Series([row[3] for row in case.rows], dtype=float),
        }
    )
    frame["row"] = range(len(frame))
    counts = {"rows_read": len(frame)}
    bad = frame[["user", "item", "time"]].isna().any(axis=1) | np.isinf(frame["rating"])
    if case.min_rating is not None:
        bad |= frame["rating"].isna()
    counts["rejected"] = int(bad.sum())
    frame = frame[~bad]

    def keep(chosen: pd.DataFrame, name: str) -> pd.DataFrame:
        counts[name] = len(frame) - len(chosen)
        return chosen

    if case.min_rating is not None:
        frame = keep(frame[frame["rating"] >= case.min_rating], "below_min_rating")
    since, until = case.window
    inside = [
        (since is None or time >= since) and (until is None or time < until)
        for time in frame["time"]
    ]
    frame = keep(frame[np.array(inside, bool)], "outside_window")
    frame = frame.sort_values(["time", "row"], key=lambda column: column.astype(object))
    frame = keep(
        frame.drop_duplicates(["user", "item"], keep=case.duplicates), "duplicates_dropped"
    )
    if case.max_per_user:
        frame = keep(frame.groupby("user", sort=False).tail(case.max_per_user), "removed_by_cap")
    frame = keep(_core(frame, case.k_core), "removed_by_k_core")
    if frame.empty:
        return None
    ordered = {side: sorted(set(frame[side]), key=_key) for side in ("user", "item")}
    splits: dict[str, set[Any]] = {"train": set(), "val": set(), "test": set()}
    for user, rows in frame.groupby("user", sort=False):
        triples = [
            (user, item, time) for item, time in zip(rows["item"], rows["time"], strict=True)
        ]
        held_out = len(triples) > 2
        splits["train"] |= set(triples[:-2] if held_out else triples)
        splits["val"] |= set(triples[-2:-1] if held_out else [])
        splits["test"] |= set(triples[-1:] if held_out else [])
    return {
        "counts": {name: count for name, count in counts.items() if count},
        "user": ordered["user"],
        "item": ordered["item"],
        **splits,
        **_entities(case, ordered["item"], as_text_ids["item"]),  # with items that nobody took
    }


def _ids_are_text(case: Case, side: str) -> bool:
    """Whether the ids of a side are text: a column's type says so, or one that is not whole."""
    kind = case.user if side == "user" else case.item
    typed = case.format != "csv" or (
        side == "item" and case.entities and case.items_format != "csv"
    )
    if typed:
        return kind == "text"
    texts = [row[0 if side == "user" else 1] for row in case.rows]
    texts += [row[0] for row in case.entities] if side == "item" else []
    shown = [str(value) for value in texts if value not in (None, "")]
    return not all(_is_canonical(text) and int(text) in INT64 for text in shown)


def _is_canonical(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and str(int(text)) == text


def _id(value: Value, is_text: bool) -> Value:
    if value is None or value == "" or value != value:
        return None
    if is_text:
        return str(value)
    if isinstance(value, float):
        return int(value) if abs(value) <= 2**53 and value == int(value) else None
    whole = int(value)
    return whole if whole in INT64 else None


def _time(value: Value, case: Case) -> Value:
    if value is None or value != value:
        return None
    if case.time == "float":
        return round(value * 10**6) if abs(value) < 9.2e12 else None
    if case.time == "timestamp":
        if case.format == "csv":
            return value  # written as whole numbers, which are kept
        return value * 10**6
    if case.time == "date":
        return (value - date(1970, 1, 1)).days * 86_400 * 10**6
    return value


def _core(frame: pd.DataFrame, k: int) -> pd.DataFrame:
    while k > 1:
        users = frame.groupby("user", sort=False)["row"].transform("size")
        items = frame.groupby("item", sort=False)["row"].transform("size")
        kept = frame[(users >= k) & (items >= k)]
        if len(kept) == len(frame):
            break
        frame = kept
    return frame


def _key(value: Value) -> Value:
    return value.encode() if isinstance(value, str) else value


def _entities(case: Case, items: list[Value], is_text: bool) -> dict[str, Any]:
    """Codes of the items' attributes, by name, and how many rows of their table are bad."""
    if not case.entities:
        return {}
    in_csv = case.items_format == "csv"
    known: dict[Value, tuple[Value, ...]] = {}
    rejected = 0
    for key, *values in case.entities:
        id_ = _id(key, is_text)
        price = values[2]
        if id_ is None or id_ in known or (price is not None and math.isinf(price)):
            rejected += 1
            continue
        known[id_] = tuple(values)
    none = (None,) * 4
    taken = len(items)
    every = [*items, *sorted(set(known) - set(items), key=_key)]  # nobody took the last ones
    rows = [known.get(item, none) for item in every]
    found: dict[str, Any] = {"rejected_items": rejected, "item": every}
    texts = [_category(row[0], case, in_csv) for row in rows]
    vocabulary = _vocabulary([{text} - {None} for text in texts], taken)
    found["kind"] = [0 if text is None else 1 + vocabulary.index(text) for text in texts]
    found["hash"] = [_hash(_category(row[1], case, True)) for row in rows]
    found["price"] = _buckets([row[2] for row in rows], taken)
    lists = [_parts(row[3], case, in_csv) for row in rows]
    vocabulary = _vocabulary(lists, taken)
    found["tags"] = [sorted(1 + vocabulary.index(part) for part in parts) for parts in lists]
    return found


def _category(value: Value, case: Case, as_text_: bool) -> Value:
    """A value as the page says that it is told apart: a whole number, or its text."""
    if value is None or value == "":
        return None
    if isinstance(value, float):
        if value != value:
            return case.nan_text or None if case.items_format == "csv" else None
        if value == 0 and case.items_format != "csv":
            value = 0.0
    if isinstance(value, int) and not isinstance(value, bool) and not as_text_:
        return value
    return as_text(value, case)


def _vocabulary(values: list[set[Value]], taken: int) -> list[Value]:
    """The values of items that were taken, in order, then those that only the others have."""
    first = set().union(*values[:taken])
    return sorted(first, key=_key) + sorted(set().union(*values[taken:]) - first, key=_key)


def _hash(value: Value) -> int:
    if value is None:
        return 0
    digest = hashlib.blake2b(value.encode(), digest_size=8).digest()
    return 1 + int.from_bytes(digest, "little") % HASH_CODES


def _buckets(values: list[Value], taken: int) -> list[int]:
    known = sorted(value for value in values[:taken] if value is not None and value == value)
    edges = sorted(set(known))
    if len(edges) > BUCKETS:
        edges = sorted({known[b * len(known) // BUCKETS] for b in range(BUCKETS)})
    return [
        0 if value is None or value != value else sum(edge <= value for edge in edges)
        for value in values
    ]


def _parts(value: Value, case: Case, in_csv: bool) -> set[str]:
    parts = []
    for part in value or []:
        if part is None:
            continue
        if part != part:
            parts.append(case.nan_text if in_csv else "")
            continue
        parts.append(as_text(part, case))
    return {part for part in parts if part}
