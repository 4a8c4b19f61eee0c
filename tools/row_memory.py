"""Host memory and CPU time of a process that opens D_full, by row.

    python -m tools.row_memory SMALL LARGE

SMALL and LARGE are folders of prepared datasets of the same kind and different sizes: bytes and
nanoseconds a row are what the larger one takes more, over the rows it has more, so that what does
not grow drops out. `docs/scale.md` has the figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from cadc_rec.data.dataset import Dataset
from cadc_rec.store.artifact import open_artifact

_EVERY = 0.002  # seconds between two looks at the memory


def resident() -> int:
    """Bytes of memory that this process holds now."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmRSS")


def measured(work: Callable[[], object]) -> list[float]:
    """Bytes at most, bytes held after it, and CPU seconds."""
    before, most, done = resident(), [0], threading.Event()

    def look() -> None:
        while not done.wait(_EVERY):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=look)
    watcher.start()
    started = time.process_time()
    work()
    seconds = time.process_time() - started
    done.set()
    watcher.join()
    held = resident()
    return [max(most[0], held) - before, held - before, seconds]


def of_one(folder: Path) -> dict[str, list[float]]:
    """Each step's measurements, and the number of rows."""
    artifact = open_artifact(folder)
    kept: list[Dataset] = []
    opened = measured(lambda: kept.append(Dataset.open(artifact)))
    (dataset,) = kept
    found = {
        "users and items": opened,
        "times": measured(lambda: dataset.train_timestamp),
        "users by item": measured(lambda: dataset.csr_by_item),
    }
    return {"rows": [float(len(dataset.train_item))], **found}


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
        most, held, seconds = (b - a for a, b in zip(small[name], large[name], strict=True))
        print(
            f"{name}: {most / rows:.1f} bytes a row at most, {held / rows:.1f} held, "
            f"{1e9 * seconds / rows:.0f} ns"
        )


if __name__ == "__main__":
    main()
