"""Memory that writing many vectors and their index takes, beside the files that are mapped.

    python -m benchmarks.export_memory 250000 1000000

Generated vectors lie in a file, as an evaluation leaves them. They are written as a bundle's, an
IVF-PQ index is learned from a sample of them and filled, and a self-test is recorded. Counted is
what the process has of its own at most; the kernel takes back what is mapped when memory is short.
Each size has a process of its own.
"""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import faiss
import numpy as np
import pyarrow as pa
import typer

from cadc_rec.data.user_items import UserItems
from cadc_rec.export.index import write_index
from cadc_rec.export.recorded import recorded_requests
from cadc_rec.export.write import write_vectors
from cadc_rec.serving.bundle.mapping import map_tensors

_BLOCK = 2**16
_USERS, _TAKEN = 100, 20


def own_memory() -> int:
    """Bytes of this process that lie in no file."""
    status = Path("/proc/self/status").read_text("ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return 1024 * int(found[1])


class Peak:
    """The most that this process had of its own, beyond what it had at the start."""

    def __init__(self) -> None:
        self.before = self.most = own_memory()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, own_memory())
            time.sleep(0.02)

    @property
    def mebibytes(self) -> float:
        """So far."""
        return (self.most - self.before) / 2**20


def export(items: int, width: int) -> None:
    """Write so many vectors and their index, and print what it took."""
    faiss.omp_set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        draw = np.random.default_rng(0)
        made = np.memmap(folder / "made", np.float32, "w+", shape=(items, width))
        for start in range(0, items, _BLOCK):
            part = made[start : start + _BLOCK]
            part[:] = draw.standard_normal(part.shape, np.float32)
        made.flush()
        peak = Peak()
        write_vectors(folder / "items.safetensors", [made])
        vectors = map_tensors(folder / "items.safetensors")["vectors"]
        written = peak.mebibytes
        described = write_index(vectors, "ivf-pq", folder / "items.faiss")
        indexed = peak.mebibytes
        taken = draw.integers(0, items, _USERS * _TAKEN).astype(np.int32)
        index = faiss.read_index(str(folder / "items.faiss"), faiss.IO_FLAG_MMAP_IFC)
        recorded_requests(
            vectors[:_USERS],
            vectors,
            UserItems(np.arange(_USERS + 1) * _TAKEN, taken),
            pa.array(range(_USERS)),
            pa.array(range(items)),
            index,
            None,
        )
        print(
            f"{items:,} x {width} ({vectors.nbytes / 2**20:,.0f} MiB of vectors, "
            f"{described['lists']:,} lists): vectors written with {written:,.0f} MiB, index with "
            f"{indexed:,.0f} MiB, all with {peak.mebibytes:,.0f} MiB"
        )


def main(
    items: Annotated[list[int], typer.Argument()],
    width: Annotated[int, typer.Option()] = 64,
) -> None:
    """Measure each size."""
    context = multiprocessing.get_context("spawn")
    for size in items:
        process = context.Process(target=export, args=(size, width))
        process.start()
        process.join()


if __name__ == "__main__":
    typer.run(main)
