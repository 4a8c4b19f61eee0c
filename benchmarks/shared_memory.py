"""What a service takes of memory with one worker and with several: the sum of its processes.

    python -m benchmarks.shared_memory --rows 1000000 --workers 1 4

A generated bundle of so many users and as many items, vectors of 64, exact index, without programs.
Shared pages count once (the proportional set size, PSS). The machine need not be idle.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save

from benchmarks.serving import Running, running
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import manifest_of
from cadc_rec.serving.predict.ids import id_arrays

_DIM = 64
_TAKEN = 20  # items of each user
_ASKED = 60  # requests before memory is read
_SETTLED = 15  # seconds after them, in which what is loaded late is loaded


def generate(out: Path, rows: int) -> list[int]:
    """Write a bundle; the ids of its users."""
    draw = np.random.default_rng(0)
    users: list[int] = []
    for side, vectors, table, ids in (
        ("item", layout.ITEM_VECTORS, layout.ITEMS, layout.ITEM_IDS),
        ("user", layout.USER_VECTORS, layout.USERS, layout.USER_IDS),
    ):
        for file in (vectors, ids):
            (out / file).parent.mkdir(parents=True, exist_ok=True)
        made = draw.standard_normal((rows, _DIM), np.float32)
        (out / vectors).write_bytes(save({"vectors": made}))
        column = pa.array(draw.permutation(10 * rows)[:rows])
        pq.write_table(pa.table({f"{side}_id": column}), out / table)
        (out / ids).write_bytes(save(id_arrays(column)))
        users = column.to_pylist()
    taken = draw.integers(0, rows, _TAKEN * rows).astype(np.int32)
    known = {
        "indptr": np.arange(rows + 1) * _TAKEN,
        "items": taken,
        "popularity": np.bincount(taken, minlength=rows),
    }
    (out / layout.KNOWN).write_bytes(save(known))
    documents: dict[str, Any] = {
        layout.MODEL: {
            "users": rows, "items": rows, "dim": _DIM, "index": {"kind": "exact"}, "programs": {},
        },
        layout.ATTRIBUTES: {"user": [], "item": []},
        layout.SELF_TEST: {"requests": [], "k": 10, "tolerance": 1e-4, "recall": None},
    }  # fmt: skip
    for name, document in documents.items():
        (out / name).write_text(json.dumps(document))
    manifest = manifest_of(out, "generated", {}, {}, "2020-01-01T00:00:00Z")
    (out / layout.MANIFEST).write_text(json.dumps(manifest))
    return users


def mebibytes(service: Running, users: list[int]) -> list[int]:
    """PSS of the service and of each of its workers, after some requests."""
    for user in users[:_ASKED]:
        tensor = {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [user]}
        request = urllib.request.Request(
            f"http://127.0.0.1:{service.http}/v2/models/recommender/infer",
            json.dumps({"inputs": [tensor]}).encode(),
            {"authorization": f"Bearer {service.key}"},
        )
        urllib.request.urlopen(request).close()
    time.sleep(_SETTLED)
    children = Path(f"/proc/{service.pid}/task/{service.pid}/children").read_text("ascii").split()
    return [_pss(pid) for pid in (service.pid, *map(int, children))]


def _pss(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        users = generate(Path(folder), options.rows)
        for workers in options.workers:
            more = ("--workers", str(workers), "--max-wait", "60")
            with running(Path(folder), *more) as service:
                found = mebibytes(service, users)
            print(f"{workers} workers: {sum(found):,} MiB ({' + '.join(map(str, found))})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
