"""`torch.compile` around the towers, beside the towers as they are: is a training step quicker?

    python -m benchmarks.compiled [--workdir work] [--data-dir DATA] [--threads 1]
    python -m benchmarks.compiled ... --out benchmarks/recorded/compiled.json    # as METHOD-THREADS

Both train the same rows in turns. What the first epoch takes with the compiler is printed apart:
each process pays it.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.peers.ours import WITHOUT_EXTRAS, OurTraining
from benchmarks.peers.timing import Contender, alternate, spread
from benchmarks.peers.workload import Workload
from benchmarks.recorded.files import add
from cadc_rec.distributed.processes import processes


def main() -> None:
    """Print positives a second of both, and the ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workdir", type=Path, default=Path("work"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--method", default="cadc", choices=("cadc", "gold"))
    parser.add_argument("--out", type=Path, help="JSON file to add the result to")
    asked = parser.parse_args()
    work = Workload(
        asked.workdir, repeats=asked.repeats, data_dir=asked.data_dir, threads=asked.threads
    )
    experiment = work.experiment(asked.method, WITHOUT_EXTRAS)
    rows = work.steps * experiment.train.batch_size
    with processes(experiment.compute) as alone:
        plain = OurTraining(experiment, work.dataset, rows, alone)
        compiled = OurTraining(experiment, work.dataset, rows, alone)
        for tower in (compiled.model.module.user, compiled.model.module.item):
            tower.compile(dynamic=True)
        plain.turn()
        began = time.perf_counter()
        compiled.turn()
        first = time.perf_counter() - began
        print(f"the first epoch with the compiler: {first:.1f} s")
        turns = [Contender("plain", plain.turn), Contender("compiled", compiled.turn)]
        seconds = alternate(turns, work.repeats)
    for name, taken in seconds.items():
        rate = spread([1 / each for each in taken])
        print(f"{name}: {rate.median:,.0f} positives/s ({rate.low:,.0f} to {rate.high:,.0f})")
    pairs = zip(seconds["compiled"], seconds["plain"], strict=True)
    ratio = spread([compiled / plain for compiled, plain in pairs])
    print(f"time, compiled over plain: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})")
    if asked.out:
        found = {"first_epoch": first, "rounds": work.repeats, "ratio": asdict(ratio)}
        add(asked.out, f"{asked.method}-{asked.threads}", found)


if __name__ == "__main__":
    main()
