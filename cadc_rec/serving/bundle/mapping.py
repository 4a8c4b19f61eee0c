"""Arrays of files, read from disk as they are used, and shared by all processes that read them.

In: a safetensors file. Out: its tensors as NumPy arrays. What is not used takes no memory, and what
is used is held once, however many processes use it. Writes to an array stay with the process.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cadc_rec.errors import CadcError

_HEADER_LIMIT = 100 << 20  # bytes, as safetensors has it
_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"), "U8": np.dtype("u1"),
}  # fmt: skip


def map_tensors(file: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file.

    Raises:
        CadcError: it is none, or a tensor is of another type, or lies outside of it.
        OSError: it cannot be read.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(_HEADER_LIMIT, size - 8):
            raise CadcError(f"{file} is no safetensors file.")
        header = opened.read(length)
    found: dict[str, NDArray[Any]] = {}
    try:
        for name, entry in json.loads(header).items():
            if name == "__metadata__":
                continue
            dtype, shape = _DTYPES[entry["dtype"]], tuple(entry["shape"])
            if not all(isinstance(each, int) and each >= 0 for each in shape):
                raise ValueError
            start, stop = entry["data_offsets"]
            count = int(np.prod(shape, dtype=np.int64))
            if (
                not (0 <= start <= stop <= size - 8 - length)
                or stop - start != count * dtype.itemsize
            ):
                raise ValueError
            found[name] = _mapped(file, dtype, shape, 8 + length + start, count)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CadcError(f"{file} is no safetensors file of the types that a bundle has.") from None
    return found


def _mapped(
    file: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int, count: int
) -> NDArray[Any]:
    if not count:  # an empty part of a file cannot be mapped
        return np.zeros(shape, dtype)
    # Copied when written: so torch takes it, which knows no arrays that may not be written.
    return np.asarray(np.memmap(file, dtype, "c", offset, shape))
