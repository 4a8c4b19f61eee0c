"""What measuring a training's steps costs.

    python -m benchmarks.intervals
    python -m benchmarks.intervals --out benchmarks/recorded/intervals.json    # and records it

Prints CPU microseconds of a step and of an interval, beside a pass over nothing.
"""

import argparse
import time
from collections.abc import Generator
from pathlib import Path

import torch

from benchmarks.recorded.files import small, with_commit, write_json
from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.training.intervals import Meter, Untold, Waits

STEPS, INTERVALS = 200_000, 1_000


def steps() -> Generator[int, None, None]:
    yield from range(STEPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, help="JSON file to write the results to")
    out = parser.parse_args().out
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        meter = Meter(3600.0, torch.nn.Linear(1, 1), alone, Untold())
        waits, loss = Waits(), torch.zeros(())
        meter.begin(1, 0, waits, 1.0, loss)
        started = time.process_time()
        for _ in steps():
            pass
        plain = time.process_time() - started
        started = time.process_time()
        for _ in waits.over(steps()):
            meter.due()
        measured = time.process_time() - started
        step = 1e6 * (measured - plain) / STEPS
        print(f"a step: {step:.2f} microseconds")
        started = time.process_time()
        for number in range(1, INTERVALS + 1):
            meter.cut(number, loss)
        interval = 1e6 * (time.process_time() - started) / INTERVALS
        print(f"an interval: {interval:.0f} microseconds")
    if out:
        found = {"step_microseconds": step, "interval_microseconds": interval}
        write_json(out, small(with_commit(found)))


if __name__ == "__main__":
    main()
