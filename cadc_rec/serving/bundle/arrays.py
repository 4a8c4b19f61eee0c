"""Where the tables of floats lie in a bundle's file, so that a delta can compare them row by row.

In: a file's bytes. Out: the spans of its float32 matrices, by name: the tensors of a safetensors
file, the weights of a `torch.export` archive (which is a zip archive of plain, uncompressed bytes),
and the unnamed entries of a scripted module's archive. Nothing is unpickled, and bytes that cannot
be read so have no spans.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST = 4_096  # bytes; a smaller one costs little as it is
_FLOAT32 = 7  # in torch's archives
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of an entry: signature, lengths of name and extra field


@dataclass(frozen=True)
class Span:
    """Rows of equal length that follow each other in a file.

    Attributes:
        at: where they begin.
        rows: how many there are.
        width: bytes of each.
    """

    at: int
    rows: int
    width: int

    @property
    def end(self) -> int:
        """Where they end."""
        return self.at + self.rows * self.width

    def of(self, contents: bytes) -> NDArray[np.uint8]:
        """The rows, ``[rows, width]``.

        Raises:
            ValueError: the file is shorter.
        """
        whole = np.frombuffer(contents, np.uint8, self.rows * self.width, self.at)
        return whole.reshape(self.rows, self.width)


def floats_in(name: str, contents: bytes) -> dict[str, Span]:
    """The float32 matrices of a file that are worth comparing, in the order of their places.

    Args:
        name: the file's; its ending tells what it is.
        contents: its bytes.
    """
    found = {".safetensors": _in_safetensors, ".pt2": _in_program}.get(name[name.rfind(".") :])
    try:
        spans = [] if found is None else list(found(contents))
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, zipfile.BadZipFile):
        return {}
    large = [(of, span) for of, span in spans if span.rows * span.width >= _LEAST]
    return dict(sorted(large, key=lambda one: one[1].at))


def entries_of(archive: bytes) -> dict[str, tuple[int, int]]:
    """Where the uncompressed entries of a zip archive lie: place and size, by name.

    Raises:
        ValueError: an entry's header is not where the archive says.
        zipfile.BadZipFile: it is no such archive.
    """
    found = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        for entry in opened.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                continue
            mark, name, extra = _LOCAL_HEADER.unpack_from(archive, entry.header_offset)
            if mark != b"PK\x03\x04":
                raise ValueError(entry.filename)
            at = entry.header_offset + _LOCAL_HEADER.size + name + extra
            found[entry.filename] = (at, entry.file_size)
    return found


def _in_safetensors(contents: bytes) -> Iterator[tuple[str, Span]]:
    (length,) = struct.unpack_from("<Q", contents)
    header = json.loads(contents[8 : 8 + length])
    for name, entry in header.items():
        if name == "__metadata__" or entry["dtype"] != "F32" or len(entry["shape"]) != 2:
            continue
        rows, width = entry["shape"]
        yield name, Span(8 + length + entry["data_offsets"][0], rows, 4 * width)


def _in_program(contents: bytes) -> Iterator[tuple[str, Span]]:
    places = entries_of(contents)
    top = next(iter(places)).partition("/")[0]
    for kind, config in (("weights", "model_weights"), ("constants", "model_constants")):
        at, size = places[f"{top}/data/{kind}/{config}_config.json"]
        for name, entry in json.loads(contents[at : at + size])["config"].items():
            meta = entry["tensor_meta"]
            sizes, strides = ([one["as_int"] for one in meta[key]] for key in ("sizes", "strides"))
            place, held = places[f"{top}/data/{kind}/{entry['path_name']}"]
            if meta["dtype"] != _FLOAT32 or len(sizes) != 2 or strides != [sizes[1], 1]:
                continue
            if held == 4 * sizes[0] * sizes[1]:
                yield name, Span(place, sizes[0], 4 * sizes[1])
