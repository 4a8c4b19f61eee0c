"""The share of the best ten items that an approximate index finds, and how fast it does.

    python -m benchmarks.index_recall --items 1000000

In a generated catalogue: items and queries are low-rank plus noise, as towers' vectors are; lengths
of items differ as popularity does.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import faiss
import numpy as np
import typer

from cadc_rec.export.index import IndexKind, write_index

_K = 10


def generated(items: int, queries: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of items ``[items, width]`` and of queries ``[queries, width]``, float32."""
    draw = np.random.default_rng(0)
    basis = draw.normal(size=(width // 4, width)).astype(np.float32)

    def vectors(rows: int) -> np.ndarray:
        hidden = draw.normal(size=(rows, len(basis))).astype(np.float32)
        noise = draw.normal(size=(rows, width)).astype(np.float32)
        return hidden @ basis / len(basis) ** 0.5 + 0.3 * noise

    lengths = draw.lognormal(0, 0.3, size=(items, 1)).astype(np.float32)
    return vectors(items) * lengths, vectors(queries)


def main(
    items: Annotated[int, typer.Option()] = 1_000_000,
    queries: Annotated[int, typer.Option()] = 500,
    width: Annotated[int, typer.Option()] = 64,
    kind: Annotated[IndexKind, typer.Option()] = "hnsw",
) -> None:
    """Build the index that an export would, and compare it with an exact search."""
    vectors, asked = generated(items, queries, width)
    exact = faiss.IndexFlatIP(width)
    exact.add(vectors)
    _, best = exact.search(asked, _K)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "items.faiss"
        began = time.perf_counter()
        described = write_index(vectors, kind, file)
        built = time.perf_counter() - began
        index = faiss.deserialize_index(np.fromfile(file, np.uint8))
        size = file.stat().st_size
    began = time.perf_counter()
    found = np.concatenate([index.search(query[None], _K)[1] for query in asked])
    took = (time.perf_counter() - began) / len(asked)
    recall = np.mean([len(set(a) & set(b)) / _K for a, b in zip(found, best, strict=True)])
    print(described)
    print(
        f"{items:,} items: built in {built:,.0f} s, {size / 2**20:,.0f} MiB, "
        f"recall@10 {recall:.4f}, {took * 1e6:,.0f} microseconds a query"
    )


if __name__ == "__main__":
    typer.run(main)
