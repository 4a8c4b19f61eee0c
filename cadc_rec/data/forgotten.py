"""Users and items that were forgotten: their empty rows, and how their return is noticed.

In: a prepared dataset's folder. Out: which rows are empty since; whether an id of a new day is one
that was forgotten. Dense ids stay, so a row remains, without interactions and attributes, under an
id that nobody has.

The ids themselves are kept nowhere. What is kept is a keyed hash of each (BLAKE2b). The key lies in
the work folder and in no artifact or bundle: who has an artifact alone cannot try ids out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cadc_rec import strict_json
from cadc_rec.errors import CadcError
from cadc_rec.store.remote.address import Objects
from cadc_rec.store.remote.origin import origin_of

FILE = "forgotten.json"
KEY_FILE = "forget.key"
SIDES = ("user", "item")
_KEY_BYTES, _HASH_BYTES = 32, 16
_LEAST = -(2**63)  # an id that no catalogue gives


@dataclass(frozen=True)
class Forgotten:
    """Who was forgotten in a dataset, by side (``user``, ``item``).

    Attributes:
        rows: dense ids, ascending.
        hashes: of the ids, in hexadecimal.
        values: of attributes, the codes of values that nobody else had.
        key_check: what `check_of` gives for the key of the hashes; empty in older datasets.
    """

    rows: Mapping[str, NDArray[np.int64]]
    hashes: Mapping[str, frozenset[str]]
    values: Mapping[str, Mapping[str, list[int]]] = field(default_factory=dict)
    key_check: str = ""

    @classmethod
    def nobody(cls) -> Forgotten:
        """None at all."""
        rows = {side: np.zeros(0, np.int64) for side in SIDES}
        return cls(rows, dict.fromkeys(SIDES, frozenset()), {side: {} for side in SIDES})

    @classmethod
    def open(cls, dataset: Path) -> Forgotten:
        """Those of a prepared dataset; of most, nobody."""
        file = dataset / FILE
        if not file.is_file():
            return cls.nobody()
        found = json.loads(file.read_text("utf-8"))
        rows, hashes, values = (found.get(name, {}) for name in ("rows", "hashes", "values"))
        return cls(
            {side: np.array(rows.get(side, []), np.int64) for side in SIDES},
            {side: frozenset(hashes.get(side, [])) for side in SIDES},
            {side: values.get(side, {}) for side in SIDES},
            found.get("key_check", ""),
        )

    def save(self, dataset: Path) -> None:
        """Write them to a dataset's folder, where there are any."""
        if not self:
            return
        document: dict[str, Any] = {
            "rows": {side: self.rows[side].tolist() for side in SIDES},
            "hashes": {side: sorted(self.hashes[side]) for side in SIDES},
            "values": {side: dict(self.values.get(side, {})) for side in SIDES},
            "key_check": self.key_check,
        }
        (dataset / FILE).write_text(strict_json.dumps(document, indent=2) + "\n", "utf-8")

    def without_rows(self, side: str, rows: NDArray[np.int64]) -> Forgotten:
        """The same where these rows of a side have another owner by now."""
        left = np.setdiff1d(self.rows[side], rows)
        return replace(self, rows={**self.rows, side: left})

    def __bool__(self) -> bool:
        return any(self.hashes.values())

    def among(self, side: str, ids: pa.Array, key: bytes) -> NDArray[np.bool_]:
        """Which of these original ids were forgotten."""
        known = self.hashes[side]
        if not known:
            return np.zeros(len(ids), bool)
        unique = ids.dictionary_encode()
        hit = np.array([one in known for one in hashes_of(side, unique.dictionary, key)], bool)
        codes = unique.indices.to_numpy(zero_copy_only=False)
        found: NDArray[np.bool_] = hit[codes]
        return found


def hashes_of(side: str, ids: pa.Array | Iterable[Any], key: bytes) -> list[str]:
    """The keyed hash of each id, in hexadecimal."""
    values = ids.to_pylist() if isinstance(ids, pa.Array) else ids
    return [
        hashlib.blake2b(f"{side}:{value}".encode(), key=key, digest_size=_HASH_BYTES).hexdigest()
        for value in values
    ]


def check_of(key: bytes) -> str:
    """What tells two keys apart, and neither of them."""
    return hashlib.blake2b(b"check", key=key, digest_size=_HASH_BYTES).hexdigest()


def key_of(workdir: Path, known: Forgotten) -> bytes:
    """The key of a work folder's hashes.

    Args:
        workdir: the work folder.
        known: who was forgotten with it so far. A key is made for the first of them only: by
            another one nobody before would be known again.

    Raises:
        CadcError: it is missing, damaged or another one, or cannot be written.
    """
    origin, file = origin_of(workdir), workdir / KEY_FILE
    place = str(file) if origin is None else f"{origin.address}/{KEY_FILE}"
    try:
        if origin is not None:
            text = _key_in_store(origin.objects, bool(known))
        else:
            if not known and not file.exists():
                _make_key(file)
            text = file.read_text("ascii")
        key = bytes.fromhex(text.strip())
    except (OSError, ValueError):
        key = b""
    if len(key) != _KEY_BYTES:
        raise CadcError(
            f"{place}: holds no key, without which forgotten users and items would be learned "
            "again; bring the file back."
        )
    if known.key_check and check_of(key) != known.key_check:
        raise CadcError(
            f"{place}: is not the key that users and items were forgotten with, so they would be "
            "learned again; bring that file back."
        )
    return key


def _key_in_store(objects: Objects, known: bool) -> str:
    """The key's text in the store of a work folder; empty where one was made and is gone."""
    if not known:
        objects.create(KEY_FILE, f"{secrets.token_hex(_KEY_BYTES)}\n".encode())
    there = objects.get(KEY_FILE)
    return "" if there is None else there[0].decode("ascii")


def _make_key(file: Path) -> None:
    """Write a new key, whole or not at all; one that another job made meanwhile stays."""
    descriptor, name = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)  # its owner's
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "w") as out:
            out.write(secrets.token_hex(_KEY_BYTES) + "\n")
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)


def stand_ins(ids: pa.Array, rows: NDArray[np.int64]) -> pa.Array:
    """An id that nobody has, of the ids' own type, for each of these rows."""
    if pa.types.is_integer(ids.type):
        return pa.array([_LEAST + row for row in rows.tolist()], ids.type)
    word = "forgotten:"
    there = {value for value in ids.to_pylist() if value is not None and value.startswith(word)}
    taken = {f"{word}{row}" for row in rows.tolist()}
    while taken & there:  # somebody is called so
        word = f"{word}:"
        taken = {f"{word}{row}" for row in rows.tolist()}
    return pa.array([f"{word}{row}" for row in rows.tolist()], ids.type)
