"""What the reader of a delta can work out from the files it has made already.

In: the next bundle, as far as it is there. Out: rows that are nearly those of a further file, so
that only what is left of them must be sent: vectors, which the bundle's own programs give, and
tables of bytes, which are a program's table rounded.

Programs are asked in double precision. The vectors of a bundle were made in single precision, whose
last bits depend on the processor, its libraries and the size of a batch. Rounded from double they
come out alike everywhere, but for those that lie half-way between two floats; rows with such a
number are not foreseen. If one comes out otherwise all the same, the file is another one than the
manifest says, and the delta is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

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
_ERROR = 1e-13  # of sums in double precision, beside the largest number of a row
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

        def foresee(rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
            blocks = [rows[at : at + _BLOCK] for at in range(0, len(rows), _BLOCK)]
            count = int(self._model[f"{side}s"])  # programs lack items that nobody took yet
            made = [self._asked(program, given, np.minimum(b, count - 1), length) for b in blocks]
            whole = np.concatenate(made) if made else np.empty((0, int(self._model["dim"])))
            return whole.astype("<f4").view(np.uint8), rounds_alike(whole)

        return foresee

    def _asked(
        self, program: str, given: Mapping[str, Any], rows: NDArray[np.int64], length: int
    ) -> NDArray[np.float64]:
        import torch

        if program not in self._loaded:
            self._loaded[program] = load_program(self.bundle, program)
        inputs = [self._histories(rows, length) if name == "history" else rows for name in given]
        with torch.no_grad(), _double():
            vectors = self._loaded[program](*(torch.from_numpy(one) for one in inputs))
        found: NDArray[np.float64] = np.ascontiguousarray(vectors.double().numpy())
        return found

    def _histories(self, users: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """The latest items of users, int64 ``[n, length]``, the latest first, then -1."""
        indptr, items = self._known["indptr"], self._known["items"]
        back = indptr[users + 1][:, None] - 1 - np.arange(length)
        there = back >= indptr[users][:, None]
        return np.where(there, items[np.where(there, back, 0)], -1).astype(np.int64)

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
        return lambda rows: (rounded_rows(table[rows]), np.ones(len(rows), bool))

    def width_of(self, side: str) -> tuple[int, int]:
        """Rows and bytes a row of what `rounded` foresees; of a side that has it."""
        name = layout.PROGRAMS["item" if side == "item" else "query"]
        spans = floats_in(name, self.bundle.read(name))
        found = next(span for of, span in spans.items() if of.endswith(ROWS))
        return found.rows, found.width // 4 + _OVERHEAD


def rounds_alike(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows ``[n, d]`` give the same float32 numbers though their last bits were others."""
    near = rows.astype(np.float32)
    apart = np.spacing(np.abs(near)).astype(np.float64)  # to the next float
    from_middle = np.abs(np.abs(rows - near) - apart / 2)
    # Sums of numbers as large as the row's largest, in another order, in double precision.
    error = _ERROR * np.abs(rows).max(1, keepdims=True, initial=0)
    found: NDArray[np.bool_] = (np.isfinite(rows) & (from_middle > error)).all(1)
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
