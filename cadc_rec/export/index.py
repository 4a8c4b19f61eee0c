"""A FAISS index of the items' vectors, by inner product; labels are rows.

Which kind depends on the catalogue: all items are scored while that takes well under a
millisecond; then a graph (HNSW); then, where vectors fill the memory, a compressed inverted file
(IVF-PQ), which is learned from a sample and filled block by block.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import faiss
import numpy as np

from cadc_rec.errors import CadcError

IndexKind = Literal["auto", "exact", "hnsw", "ivf-pq"]

_EXACT_UP_TO = 50_000  # items; 64 wide they are scored in a third of a millisecond
_HNSW_UP_TO = 5_000_000  # items; 64 wide they and the graph take 2.7 GB
_HNSW_LINKS = 32
_HNSW_BUILD = 200
_HNSW_SEARCH = 256
_PQ_LEAST = 9_984  # 39 vectors for each of 256 centroids, below which FAISS warns
_PQ_DIMS = 4  # elements that share a byte
_PQ_SAMPLE = 128  # vectors a list to learn lists and codes from; FAISS takes 256 where it has them
_BLOCK = 2**16  # vectors that are put in at once
_SEED = 0


def kind_for(items: int) -> IndexKind:
    """The kind of index of a catalogue of this size."""
    if items <= _EXACT_UP_TO:
        return "exact"
    return "hnsw" if items <= _HNSW_UP_TO else "ivf-pq"


def write_index(vectors: np.ndarray, kind: IndexKind, file: Path) -> dict[str, Any]:
    """Build an index and write it.

    Args:
        vectors: float32 ``[items, d]``; mapped ones are read block by block, but for HNSW.
        kind: ``auto`` chooses by the number of items.
        file: receives it.

    Returns:
        What kind it is, and with which settings.

    Raises:
        CadcError: an unknown kind, or fewer items than IVF-PQ can learn its code from.
    """
    if kind not in get_args(IndexKind):
        raise CadcError(f"--index {kind}: choose one of {', '.join(get_args(IndexKind))}.")
    chosen = kind_for(len(vectors)) if kind == "auto" else kind
    rows, width = vectors.shape
    block = _BLOCK
    described: dict[str, Any] = {"kind": chosen, "metric": "inner product"}
    index: faiss.Index
    if chosen == "exact":
        index = faiss.IndexFlatIP(width)
    elif chosen == "hnsw":
        index, block = (
            _graph(width),
            rows,
        )  # it holds them all, and is best when it gets all at once
        described |= {"links": _HNSW_LINKS, "build": _HNSW_BUILD, "search": _HNSW_SEARCH}
    else:
        index, settings = _inverted_file(rows, width)
        described |= settings
        index.train(_sample(vectors, settings["lists"] * _PQ_SAMPLE))
    for start in range(0, rows, max(1, block)):
        index.add(np.ascontiguousarray(vectors[start : start + block], np.float32))
    with file.open("wb") as opened:
        faiss.write_index(index, faiss.PyCallbackIOWriter(opened.write))
    return described


def _sample(vectors: np.ndarray, most: int) -> np.ndarray:
    """Rows that are drawn evenly, or all where there are no more."""
    if len(vectors) <= most:
        return np.ascontiguousarray(vectors, np.float32)
    drawn = np.random.default_rng(_SEED).choice(len(vectors), most, replace=False, shuffle=False)
    return np.ascontiguousarray(vectors[np.sort(drawn)], np.float32)


def _graph(width: int) -> faiss.Index:
    index = faiss.IndexHNSWFlat(width, _HNSW_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = _HNSW_BUILD, _HNSW_SEARCH
    return index


def _inverted_file(rows: int, width: int) -> tuple[faiss.Index, dict[str, Any]]:
    if rows < _PQ_LEAST:
        raise CadcError(
            f"--index ivf-pq learns its code from at least {_PQ_LEAST:,} items, and there are "
            f"{rows:,}; take exact or hnsw."
        )
    lists = max(1, min(round(4 * rows**0.5), rows // 39))
    parts = next(n for n in range(max(1, width // _PQ_DIMS), 0, -1) if width % n == 0)
    index = faiss.IndexIVFPQ(
        faiss.IndexFlatIP(width), width, lists, parts, 8, faiss.METRIC_INNER_PRODUCT
    )
    index.nprobe = max(1, lists // 16)
    return index, {"lists": lists, "probes": index.nprobe, "bytes_per_item": parts}
