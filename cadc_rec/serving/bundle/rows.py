"""Rows of numbers, told by what they differ by from rows that the reader has.

In: the new rows, and for each an old or a foreseen one. Out: a code from which, with the latter,
the new rows come back bit for bit. Zstandard finds equal bytes and no near numbers; of the
differences it stores what is uncertain of them.

A row is *the same* as its old one; or all *zeros*; or *fresh*, of another owner than the old one,
who may be forgotten. These two tell nothing of the old one. Or it is *steps* away, each number by
a whole multiple of one power of two, as an update rounds what it learns
(`cadc_rec.updates.rounding`); or *places* away, so many floats further in the order of all floats
(bytes: modulo 256). Additions and comparisons of single numbers alone are done, which give the same
bits on every machine. Of a foreseen row single numbers may come out otherwise elsewhere: these are
told as they are.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Foresee = Callable[[NDArray[np.int64]], tuple[Bytes, NDArray[np.bool_]]]
"""The foreseen rows of these numbers, and which floats (of bytes: which) of them come out alike on
any machine, bool ``[n, floats]``."""

_SAME, _STEPS, _PLACES, _ZEROS, _FRESH = range(5)
"""States of a row. Places count from the foreseen row, or else from the old one; of a fresh one
from zeros."""
_MOST = 2**15  # steps that a number may be away
_TRIED = 64  # rows by which the size of a step is found
_NO_STEP = -128


def encode_rows(
    new: Bytes,
    old: Bytes,
    foresee: Foresee | None,
    floats: bool,
    owned: NDArray[np.int64] | None = None,
) -> bytes:
    """The code of `new`.

    Args:
        new: ``[n, width]``, the bytes of the rows.
        old: ``[m, width]``; row i is compared with row i.
        foresee: rows that are nearer to the new ones than the old are; None compares with the old.
        floats: whether they are of float32 numbers; else bytes.
        owned: numbers of rows that had another owner, in any order; they are never compared with
            the old. None: no row had.
    """
    differ = np.ones(len(new), bool)
    both = min(len(new), len(old))
    differ[:both] = (new[:both] != old[:both]).any(1)
    fresh = np.zeros(len(new), bool)
    if owned is not None:
        fresh[owned[owned < len(new)]] = True
    differ |= fresh
    empty = differ & ~new.any(1)
    rows = np.flatnonzero(differ & ~empty)
    states = np.zeros(len(new), np.uint8)
    states[empty] = _ZEROS
    states[rows] = np.where(fresh[rows], _FRESH, _PLACES)
    reference = _old_rows(rows, old)
    reference[fresh[rows]] = 0
    settled = b""
    if foresee is not None:
        foreseen, sure = foresee(rows)
        states[rows] = _PLACES
        kind = "<u4" if floats else "u1"
        reference, values = np.ascontiguousarray(foreseen).view(kind), new[rows].view(kind)
        unsure = np.flatnonzero(~sure)
        told = values.ravel()[unsure]
        reference.ravel()[unsure] = told
        reference = reference.view(np.uint8)
        gaps = np.diff(unsure, prepend=0).astype("<i8")
        settled = len(unsure).to_bytes(8, "little") + _planes(gaps) + _planes(told)
    exponent, steps = _NO_STEP, b""
    moved = states[rows] == _PLACES
    if floats and foresee is None and moved.any():
        before, after = reference[moved].view("<f4"), new[rows[moved]].view("<f4")
        exponent = _step_of(before, after)
        if exponent != _NO_STEP:
            counts, fits = _steps(before, after, exponent)
            states[rows[moved][fits]] = _STEPS
            steps = _planes(_folded(counts[fits].astype("<i2")))
    left = states[rows] != _STEPS
    if floats:
        ahead = _order(new[rows[left]]) - _order(reference[left])  # modulo 2^32
        places = _planes(_folded(ahead).ravel()[_by_size(reference[left])])
    else:
        places = (new[rows[left]] - reference[left]).tobytes()
    return exponent.to_bytes(1, "little", signed=True) + states.tobytes() + steps + places + settled


def decode_rows(
    code: bytes, rows: int, width: int, old: Bytes, foresee: Foresee | None, floats: bool
) -> Bytes:
    """The new rows, ``[rows, width]``; the other arguments are those of `encode_rows`.

    Raises:
        ValueError: the code is not one of so many rows.
    """
    states = np.frombuffer(code, np.uint8, rows, 1)
    exponent = int.from_bytes(code[:1], "little", signed=True)
    changed = np.flatnonzero((states != _SAME) & (states != _ZEROS))
    new = np.zeros((rows, width), np.uint8)
    same = np.flatnonzero(states == _SAME)
    if len(same) and same[-1] >= len(old):
        raise ValueError("a row that stays and never was")
    new[same] = old[same]
    reference = _old_rows(changed, old)
    reference[states[changed] == _FRESH] = 0
    stepped = states[changed] == _STEPS
    left = ~stepped
    at, of_steps = 1 + rows, int(stepped.sum()) * (width // 4) * 2
    of_places = int(left.sum()) * width
    settled = code[at + of_steps + of_places :]
    code = code[: at + of_steps + of_places]
    whole = len(code) == at + of_steps + of_places
    if not whole or states.max(initial=0) > _FRESH or bool(settled) != (foresee is not None):
        raise ValueError("a code of another length")
    if foresee is not None:
        reference = _with_told(foresee(changed)[0], settled, "<u4" if floats else "u1")
    if of_steps:
        counts = _unfolded(_joined(code[at : at + of_steps], "<u2"))
        before = reference[stepped].view("<f4")
        moved = _moved(before, counts.reshape(before.shape), exponent)
        new[changed[stepped]] = moved.view(np.uint8)
    if floats:
        ahead: np.ndarray = np.empty(of_places // 4, "<i4")
        ahead[_by_size(reference[left])] = _unfolded(_joined(code[at + of_steps :], "<u4"))
        new[changed[left]] = _unordered(_order(reference[left]) + ahead.reshape(-1, width // 4))
    else:
        ahead = np.frombuffer(code, np.uint8, of_places, at + of_steps).reshape(-1, width)
        new[changed[left]] = reference[left] + ahead
    return new


def _with_told(foreseen: Bytes, settled: bytes, kind: str) -> Bytes:
    """Foreseen rows, with the numbers that are told of them.

    Raises:
        ValueError: these are not numbers of such rows.
    """
    count, size = int.from_bytes(settled[:8], "little"), np.dtype(kind).itemsize
    if len(settled) != 8 + count * (8 + size):
        raise ValueError("a code of another length")
    numbers = np.ascontiguousarray(foreseen).view(kind)
    places = np.cumsum(_joined(settled[8 : 8 + 8 * count], "<i8"))
    if count and not 0 <= places.min() <= places.max() < numbers.size:
        raise ValueError("numbers that are not there")
    numbers.ravel()[places] = _joined(settled[8 + 8 * count :], kind)
    return numbers.view(np.uint8)


def _old_rows(rows: NDArray[np.int64], old: Bytes) -> Bytes:
    """The old rows of these numbers; zeros where there was no row."""
    found = np.zeros((len(rows), old.shape[1]), np.uint8)
    known = rows < len(old)
    found[known] = old[rows[known]]
    return found


def _step_of(old: NDArray[np.float32], new: NDArray[np.float32]) -> int:
    """The exponent of the largest power of two that nearly all changes are multiples of."""
    tried = np.unique(np.linspace(0, len(old) - 1, _TRIED).astype(int))
    old, new = old[tried], new[tried]
    with np.errstate(all="ignore"):
        largest = np.abs(new.astype(np.float64) - old).max()
    if not np.isfinite(largest) or not largest:
        return _NO_STEP
    high = int(np.floor(np.log2(largest)))
    for exponent in range(min(high, 100), max(high - 15, -100), -1):
        if _steps(old, new, exponent)[1].mean() > 0.5:
            return exponent
    return _NO_STEP


def _steps(
    old: NDArray[np.float32], new: NDArray[np.float32], exponent: int
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """How many steps each number is away, and the rows in which that gives all bits."""
    with np.errstate(all="ignore"):
        counts = np.rint((new.astype(np.float64) - old) / 2.0**exponent)
        near = np.abs(counts) < _MOST  # false of NaN, too
        counts[~near] = 0
        same = _moved(old, counts, exponent).view("<u4") == new.view("<u4")
    return counts, (near & same).all(1)


def _moved(old: NDArray[np.float32], counts: np.ndarray, exponent: int) -> NDArray[np.float32]:
    """`old` and so many steps; a product with a power of two is exact."""
    with np.errstate(all="ignore"):
        moved: NDArray[np.float32] = old + counts.astype(np.float32) * np.float32(2.0**exponent)
    return moved


def _order(rows: Bytes) -> NDArray[np.int32]:
    """The place of each float in the order of all, as int32 (that of the bits, one to one)."""
    bits = rows.view("<i4")
    found: NDArray[np.int32] = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return found


def _by_size(rows: Bytes) -> NDArray[np.int64]:
    """The places of floats by their exponents: an error of one size is more places of a smaller."""
    exponents = ((rows.view("<u4") >> 23) & 0xFF).astype(np.uint8)
    return np.argsort(exponents.ravel(), kind="stable")


def _unordered(places: NDArray[np.int32]) -> Bytes:
    return (places ^ ((places >> 31) & 0x7FFFFFFF)).astype("<i4").view(np.uint8)


def _folded(numbers: np.ndarray) -> np.ndarray:
    """Signed to unsigned, small ones first: 0, -1, 1, -2, 2 to 0, 1, 2, 3, 4."""
    last = 8 * numbers.itemsize - 1
    return ((numbers << 1) ^ (numbers >> last)).view(f"<u{numbers.itemsize}")


def _unfolded(numbers: np.ndarray) -> np.ndarray:
    signed = numbers.view(f"<i{numbers.itemsize}")
    return (signed >> 1) & (2 ** (8 * numbers.itemsize - 1) - 1) ^ -(signed & 1)


def _planes(numbers: np.ndarray) -> bytes:
    """All lowest bytes, then all next ones, and so on."""
    return np.ascontiguousarray(numbers).view(np.uint8).reshape(-1, numbers.itemsize).T.tobytes()


def _joined(planes: bytes, dtype: str) -> np.ndarray:
    size = np.dtype(dtype).itemsize
    whole = np.frombuffer(planes, np.uint8).reshape(size, -1).T
    return np.ascontiguousarray(whole).view(dtype).reshape(-1)
