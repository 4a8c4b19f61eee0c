"""Many texts as one array of bytes, so that they can lie in a file that processes share.

In: texts. Out: two arrays, and the texts of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_FEW = 64  # texts, up to which finding out which are the same takes longer than making them all


@dataclass(frozen=True)
class Texts:
    """Text n is ``data[offsets[n]:offsets[n + 1]]``, in UTF-8.

    Attributes:
        offsets: int64 ``[n + 1]``.
        data: uint8.
    """

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    @classmethod
    def of(cls, texts: Iterable[str | None]) -> Self:
        """Of these; None is the empty text. Lone surrogates are kept."""
        parts = [(text or "").encode("utf-8", "surrogatepass") for text in texts]
        offsets = np.zeros(len(parts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(parts), np.uint8))

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], name: str) -> Self:
        """Of what `arrays` gave, and may be mapped from a file."""
        return cls(arrays[f"{name}_offsets"], arrays[f"{name}_bytes"])

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """For a file."""
        return {f"{name}_offsets": self.offsets, f"{name}_bytes": self.data}

    @property
    def is_whole(self) -> bool:
        """Whether every text lies within the bytes."""
        offsets = self.offsets
        ends = len(offsets) and offsets[0] == 0 and offsets[-1] == len(self.data)
        return bool(ends and (np.diff(offsets) >= 0).all())

    @property
    def longest(self) -> int:
        """Bytes of the longest."""
        return int(np.diff(self.offsets).max(initial=0))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def encoded(self, row: int) -> bytes:
        """One text's bytes."""
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __getitem__(self, row: int) -> str:
        return self.encoded(row).decode("utf-8", "surrogatepass")

    def tolist(self) -> list[str]:
        """All of them."""
        return [self[row] for row in range(len(self))]

    def at(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Texts of rows of any shape, object of ``str``; empty where a row is negative."""
        if rows.size <= _FEW:
            few = [self[row] if row >= 0 else "" for row in rows.ravel().tolist()]
            found = np.array([*few, ""], dtype=object)[:-1]
            return found.reshape(rows.shape)
        some, place = np.unique(rows, return_inverse=True)
        found = np.empty(len(some), object)
        for n, row in enumerate(some.tolist()):
            found[n] = self[row] if row >= 0 else ""
        return found[place].reshape(rows.shape)
