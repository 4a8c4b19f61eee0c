"""Host memory and CPU time that a process takes for each row of D_full, stage by stage.

    python -m tools.row_memory SMALL LARGE

SMALL and LARGE are folders of prepared datasets of the same kind and different sizes: bytes and
nanoseconds a row are what the larger one takes more, over the rows it has more, so that what does
not grow with the rows drops out. Tables are as narrow as they can be. Memory of a process's own is
told apart from pages of mapped files, which all processes of a machine share and which the kernel
takes back when memory is short. `docs/scale.md` has the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from cadc_rec.config.experiment import (
    AlsConfig,
    ComputeConfig,
    PretrainConfig,
    SelectConfig,
    TransitionsConfig,
)
from cadc_rec.data.dataset import Dataset
from cadc_rec.data.select.build_selection import build_selections
from cadc_rec.data.user_items import AndOneEach, UserItems
from cadc_rec.distributed.processes import Processes, processes
from cadc_rec.pretrain.als import train_als
from cadc_rec.pretrain.alternating import AlternatingSolver, Interactions
from cadc_rec.pretrain.factor_tables import ReplicatedTable
from cadc_rec.pretrain.transition_matrix import transition_matrix
from cadc_rec.store.artifact import Artifact, Draft, open_artifact

_EVERY = 0.002  # seconds between two looks at the memory
_USERS = 4096  # ranked at once


def resident(kind: str) -> int:
    """Bytes of memory that this process holds: its own (``RssAnon``), or mapped (``RssFile``)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(kind):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {kind}")


def measured(work: Callable[[], object]) -> list[float]:
    """Bytes of its own at most, those held after it, mapped bytes after it, and CPU seconds."""
    before, mapped = resident("RssAnon"), resident("RssFile")
    most, done = [0], threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            most[0] = max(most[0], resident("RssAnon"))

    watcher = threading.Thread(target=look)
    watcher.start()
    started = time.process_time()
    kept = work()
    seconds = time.process_time() - started
    done.set()
    watcher.join()
    held = resident("RssAnon")
    found = [max(most[0], held) - before, held - before, resident("RssFile") - mapped, seconds]
    del kept
    return found


def of_one(folder: Path) -> dict[str, list[float]]:
    """Each step's measurements, and the number of rows."""
    artifact = open_artifact(folder)
    opened: list[Dataset] = []
    found = {"open": measured(lambda: opened.append(Dataset.open(artifact)))}
    (data,) = opened
    steps: dict[str, Callable[[], object]] = {
        "times (recent popularity, contexts, lifetimes)": lambda: data.train_timestamp,
        "transitions (window 3)": lambda: transition_matrix(data, TransitionsConfig(window=3)),
        "evaluate: items known of each user": lambda: _known(data),
        "select (uniform, a tenth)": lambda: _select(artifact),
    }
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        steps["pretrain: MF, one negative"] = lambda: _factorize(data, alone)
        steps["pretrain: ALS"] = lambda: _least_squares(data, alone)
        found |= {name: measured(step) for name, step in steps.items()}
    return {"rows": [float(len(data.train_item))], **found}


def _tables(data: Dataset, alone: Processes) -> tuple[ReplicatedTable, ReplicatedTable]:
    user, item = (torch.zeros(n, 2) for n in (data.n_users, data.n_items))
    return ReplicatedTable(user, alone), ReplicatedTable(item, alone)


def _factorize(data: Dataset, alone: Processes) -> object:
    config = PretrainConfig(model="mf", factors=1, negatives=1, epochs=1)
    bias = torch.nn.Parameter(torch.zeros(()))
    tables = _tables(data, alone)
    solver = AlternatingSolver(*tables, bias, Interactions.of(data), config, 0, alone)
    list(solver.epochs())
    return solver


def _least_squares(data: Dataset, alone: Processes) -> object:
    sweeps = train_als(*_tables(data, alone), Interactions.of(data), AlsConfig(iterations=1), 0)
    return next(sweeps), sweeps


def _known(data: Dataset) -> None:
    known = AndOneEach(UserItems(data.user_indptr, data.train_item), np.asarray(data.val_item))
    for start in range(0, data.n_users, _USERS):
        known.some(np.arange(start, min(start + _USERS, data.n_users)))


def _select(dataset: Artifact) -> None:
    with tempfile.TemporaryDirectory() as folder:
        build_selections([(SelectConfig(ratio=10, shards=8), Draft(Path(folder)))], 0, dataset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    asked = parser.parse_args().folders
    if len(asked) == 1:
        print(json.dumps(of_one(asked[0])))
        return
    small, large = (
        json.loads(
            subprocess.run(
                [sys.executable, "-m", "tools.row_memory", str(folder)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for folder in asked
    )
    rows = large["rows"][0] - small["rows"][0]
    for name in [each for each in small if each != "rows"]:
        most, held, mapped, seconds = (b - a for a, b in zip(small[name], large[name], strict=True))
        print(
            f"{name}: {most / rows:.1f} bytes a row at most, {held / rows:.1f} held, "
            f"{mapped / rows:.1f} mapped, {1e9 * seconds / rows:.0f} ns"
        )


if __name__ == "__main__":
    main()
