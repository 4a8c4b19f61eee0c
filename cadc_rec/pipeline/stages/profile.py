"""Where a stage's time goes: a torch.profiler trace of one epoch, and its largest costs.

In: a folder. Out: ``trace-rank0.json.gz`` of each rank in it, for https://ui.perfetto.dev or
TensorBoard, and log lines. The first epoch is skipped, for it allocates and warms up; the second
is recorded, with what happens between the two (validation, where it is due). Longer recordings
hold millions of events and say the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.profiler import ProfilerActivity, profile, schedule, supported_activities

from cadc_rec.log import log

LARGEST = 10
OUTSIDE = "outside torch: Python, and NumPy in loading"


@dataclass(frozen=True)
class Cost:
    """One operation: how often it ran, and how long by itself, without what it calls."""

    name: str
    calls: int
    microseconds: float
    share: float


@contextlib.contextmanager
def profiled(
    folder: Path,
    rank: int,
    epochs: int,
    on_epoch: Callable[[dict[str, float]], object] = lambda _: None,
) -> Iterator[Callable[[dict[str, float]], object]]:
    """Record what runs within; yields a function to call with every finished epoch.

    Args:
        folder: receives the trace; made here.
        rank: names the trace; rank 0 logs the largest costs.
        epochs: that will run; a single one is recorded itself.
        on_epoch: called with every finished epoch too.
    """
    folder.mkdir(parents=True, exist_ok=True)
    trace = folder / f"trace-rank{rank}.json.gz"
    costs: list[Cost] = []

    def keep(recorded: Any) -> None:
        recorded.export_chrome_trace(str(trace))
        costs.extend(largest_costs(recorded.key_averages()))

    with profile(
        activities=sorted(supported_activities() & _WANTED, key=str),
        schedule=schedule(wait=min(1, epochs - 1), warmup=0, active=1, repeat=1),
        on_trace_ready=keep,
        acc_events=True,
    ) as recorder:

        def epoch_ended(entry: dict[str, float]) -> None:
            on_epoch(entry)
            recorder.step()

        yield epoch_ended
    if rank == 0:
        for line in lines(costs):
            log.info("%s", line)
        log.info("trace: %s", trace.resolve())


_WANTED = {ProfilerActivity.CPU, ProfilerActivity.CUDA}


def largest_costs(averages: Any, count: int = LARGEST) -> list[Cost]:
    """What took longest by itself, the longest first, with its share of the recorded time.

    Args:
        averages: `torch.profiler.profile.key_averages` of a recording.
        count: of them.
    """
    whole = [e for e in averages if e.key.startswith("ProfilerStep")]
    spent = [
        (e.key, e.count, float(e.self_cpu_time_total) + float(e.self_device_time_total))
        for e in averages
        if e not in whole
    ]
    total = sum(float(e.cpu_time_total) for e in whole)
    # Backward runs in a thread of its own while ours waits, so times add up to the recorded one.
    outside = total - sum(microseconds for _, _, microseconds in spent)
    if outside > 0:
        spent.append((OUTSIDE, len(whole), outside))
    total = max(total, sum(microseconds for _, _, microseconds in spent), 1e-9)
    spent.sort(key=lambda each: -each[2])
    return [Cost(name, calls, us, us / total) for name, calls, us in spent[:count]]


def lines(costs: list[Cost]) -> list[str]:
    """A table for people."""
    wide = max([len(cost.name) for cost in costs], default=0)
    head = f"{'operation':<{wide}}  {'calls':>8}  {'ms':>10}  {'share':>6}"
    return [head] + [
        f"{c.name:<{wide}}  {c.calls:>8,}  {c.microseconds / 1e3:>10,.1f}  {c.share:>6.1%}"
        for c in costs
    ]
