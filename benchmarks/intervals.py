"""What measuring a training's steps costs: ``python -m benchmarks.intervals``.

Prints microseconds of a step and of an interval, beside a pass over nothing.
"""

import time
from collections.abc import Generator

import torch

from cadc_rec.config.experiment import ComputeConfig
from cadc_rec.distributed.processes import processes
from cadc_rec.training.intervals import Meter, Untold, Waits

STEPS, INTERVALS = 200_000, 1_000


def steps() -> Generator[int, None, None]:
    yield from range(STEPS)


def main() -> None:
    with processes(ComputeConfig(device="cpu", threads=1)) as alone:
        meter = Meter(3600.0, torch.nn.Linear(1, 1), alone, Untold())
        waits, loss = Waits(), torch.zeros(())
        meter.begin(1, 0, waits, 1.0, loss)
        started = time.perf_counter()
        for _ in steps():
            pass
        plain = time.perf_counter() - started
        started = time.perf_counter()
        for _ in waits.over(steps()):
            meter.due()
        measured = time.perf_counter() - started
        print(f"a step: {1e6 * (measured - plain) / STEPS:.2f} microseconds")
        started = time.perf_counter()
        for number in range(1, INTERVALS + 1):
            meter.cut(number, loss)
        print(f"an interval: {1e6 * (time.perf_counter() - started) / INTERVALS:.0f} microseconds")


if __name__ == "__main__":
    main()
