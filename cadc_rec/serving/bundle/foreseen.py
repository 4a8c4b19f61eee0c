"""What the reader of a delta can work out from the files it has made already.

In: the next bundle, as far as it is there. Out: rows that are nearly those of a further file, so
that only what is left of them must be sent: vectors, which the bundle's own programs give, tables
of bytes, which are a program's table rounded, and lists, which are counted once more.

Programs are asked in double precision. The last bits of single precision depend on the processor,
its libraries and the size of a batch. Rounded from double they come out alike everywhere, but for
those that lie half-way between two floats; these are told. If one comes out otherwise all the same,
the file is another one than the manifest says, and the delta is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.data.settled import Settled, half_way
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.arrays import floats_in
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.programs import load_program
from cadc_rec.serving.bundle.rows import Foresee

if TYPE_CHECKING:
    import torch

VECTORS = {layout.ITEM_VECTORS: "item", layout.USER_VECTORS: "user"}
"""Files of vectors, and whose they are."""
ROWS = "lookup.rows.weight"
"""A tower's table with a row an id, as the programs of `cadc_rec.export.programs` name it."""
_BLOCK = 2**13  # rows that are asked for at once
_LEVELS = np.float32(255)
_ERROR = 1e-13
"""Of sums in double precision, beside the largest number of a row."""
_ERROR_OF_FOLDS = 1e-10
"""Conjugate gradients, by which tables alone fold a history in, make errors ten thousand times as
large: 7.5e-12 was seen of MovieLens 1M's users between batches of two sizes."""
_OVERHEAD = 4  # bytes before a row of bytes: scale and least value, float16


class Foreseen:
    """The rows that can be worked out of a bundle.

    Args:
        bundle: with its manifest; the files that are asked for must be there.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._loaded: dict[str, torch.nn.Module] = {}

    @cached_property
    def _model(self) -> dict[str, Any]:
        return self.bundle.model()

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        return self.bundle.arrays(layout.KNOWN)

    def vectors(self, side: str) -> Foresee | None:
        """The function that foresees vectors of ``user`` or ``item``; None where nothing does."""
        program = "item" if side == "item" else "query"
        if not self.bundle.has(layout.PROGRAMS[program]):
            program = str(self._model.get("sessions"))  # tables alone may have histories
        if side == "item" and program != "item":
            return None
        described = self._model.get("programs", {}).get(program)
        if described is None:
            return None
        given = {one["name"]: one["shape"][1:] for one in described["inputs"]}
        if not given.keys() <= {"user", "item", "history"}:
            return None  # what a request says is not known
        length = given["history"][0] if "history" in given else 0
        share = _ERROR_OF_FOLDS if program == "newcomer" else _ERROR

        def foresee(rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            blocks = [rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)]
            count = int(self._model[f"{side}s"])  # programs lack items that nobody took yet
            made = [self._asked(program, given, np.minimum(b, count - 1), length) for b in blocks]
            whole = np.concatenate(made) if made else np.empty((0, int(self._model["dim"])))
            return whole.astype("<f4").view(np.uint8), rounds_alike(whole, share)

        return foresee

    def _asked(
        self, program: str, given: Mapping[str, Any], rows: NDArray[np.int64], length: int
    ) -> NDArray[np.float64]:
        if program not in self._loaded:
            self._loaded[program] = load_program(self.bundle, program)
        inputs = [self._histories(rows, length) if name == "history" else rows for name in given]
        return in_double(self._loaded[program], *inputs)

    def _histories(self, users: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The latest items of users, int64 ``[n, length]``, the latest first, then -1."""
        indptr, items = self._known["indptr"], self._known["items"]
        back = indptr[users + 1][:, None] - 1 - np.arange(length)
        there = back >= indptr[users][:, None]
        return np.where(there, items[np.where(there, back, 0)], -1).astype(np.int64)

    def lists(self, settled: Settled) -> bytes | None:
        """The file `layout.LISTS`, counted once more; None where nothing says how.

        Args:
            settled: rounds the numbers.

        Raises:
            ValueError: the bundle says what cannot be.
        """
        from cadc_rec.data.counted_lists import Counting, Taken
        from cadc_rec.data.dataset import coded_attribute
        from cadc_rec.data.user_items import UserItems

        if "counted" not in self._model or "held_out" not in self._known:
            return None
        counting, n_items = Counting.of_json(self._model["counted"]), int(self._model["items"])
        if not 0 <= n_items <= len(self._known["popularity"]):
            raise ValueError("items")
        known = UserItems(self._known["indptr"], self._known["items"])
        taken = Taken.of(known, self._known["held_out"], n_items)
        attributes = []
        if counting.content:
            described = self.bundle.json(layout.ATTRIBUTES)["item"]
            codes = self.bundle.table(layout.ITEMS).slice(0, n_items)
            attributes = [coded_attribute(codes[one["name"]], one) for one in described]
        found = counting.lists(taken, attributes, settled)
        return None if found is None else found.contents()

    def rounded(self, side: str) -> Foresee | None:
        """The function that foresees a tower's table of bytes; None where there is no tower."""
        name = layout.PROGRAMS["item" if side == "item" else "query"]
        if not self.bundle.has(name):
            return None
        contents = self.bundle.read(name)
        spans = floats_in(name, contents)
        found = next((span for of, span in spans.items() if of.endswith(ROWS)), None)
        if found is None:
            return None
        table = found.of(contents).view("<f4")
        width = table.shape[1] + _OVERHEAD
        return lambda rows: (rounded_rows(table[rows]), np.ones((len(rows), width), bool))

    def width_of(self, side: str) -> tuple[int, int]:
        """Rows and bytes a row of what `rounded` foresees; of a side that has it."""
        name = layout.PROGRAMS["item" if side == "item" else "query"]
        spans = floats_in(name, self.bundle.read(name))
        found = next(span for of, span in spans.items() if of.endswith(ROWS))
        return found.rows, found.width // 4 + _OVERHEAD


def rounds_alike(rows: NDArray[np.float64], share: float = _ERROR) -> NDArray[np.bool_]:
    """Which numbers of rows ``[n, d]`` give the same float32 though their last bits were others.

    Args:
        rows: sums of numbers as large as the row's largest.
        share: how large an error may be, beside that one.
    """
    return ~half_way(rows, share * np.abs(rows).max(1, keepdims=True, initial=0))


def in_double(program: torch.nn.Module, *given: NDArray[np.int64]) -> NDArray[np.float64]:
    """What a program of single precision gives if all its arithmetic is done in double."""
    import torch

    with torch.no_grad(), _double():
        vectors = program(*(torch.from_numpy(one) for one in given))
    found: NDArray[np.float64] = np.ascontiguousarray(vectors.double().numpy())
    return found


def rounded_rows(table: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A table as fbgemm rounds it to bytes: scale and least value in float16, then the bytes.

    ``FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf`` of fbgemm, with the two numbers in front, as
    its lookups want them. A row of equal numbers may come out otherwise there.
    """
    with np.errstate(all="ignore"):
        least = table.min(1).astype("<f2")
        start = least.astype(np.float32)
        scale = ((table.max(1) - start) / _LEVELS).astype("<f2")
        per_level = np.float32(1) / np.where(scale == 0, np.float16(1), scale).astype(np.float32)
        levels = np.rint((table - start[:, None]) * per_level[:, None])
        levels = np.clip(np.nan_to_num(levels), 0, _LEVELS).astype(np.uint8)
    front = np.stack([scale, least], 1).astype("<f2").view(np.uint8)
    return np.concatenate([front, levels], 1)


def _double() -> Any:
    """A context in which all arithmetic of float32 numbers is done in double precision."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    aten = torch.ops.aten
    lookups = {aten.index.Tensor, aten.embedding.default, aten.index_select.default}

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            return value.double()
        return torch.float64 if value is torch.float32 else value

    class Double(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func not in lookups:  # a table need not be copied for a few of its rows
                args, kwargs = tree_map(widened, (args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    return Double()
