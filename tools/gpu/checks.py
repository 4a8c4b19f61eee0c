"""Checks of a GPU machine: each is named, timed and told, and one that fails stops no other."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable

import torch


def device() -> torch.device:
    """Where to check: ``$CHECK_DEVICE``, default ``cuda``."""
    return torch.device(os.environ.get("CHECK_DEVICE", "cuda"))


class Checks:
    """Runs checks one after another and says what came of each."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def run(self, name: str, check: Callable[[], object]) -> None:
        """Run one; a line says ``ok`` with what it returned, or ``FAIL`` with its error.

        ``$CHECK_TRACE`` adds the traceback.
        """
        started = time.perf_counter()
        try:
            told = check()
        except Exception as error:  # whatever it is, the others run
            self.failed.append(name)
            print(f"FAIL {name}: {type(error).__name__}: {str(error)[:400]}", flush=True)
            if os.environ.get("CHECK_TRACE"):
                traceback.print_exc()
        else:
            seconds = time.perf_counter() - started
            print(f"ok   {name}  {seconds:.1f} s  {'' if told is None else told}", flush=True)

    def end(self) -> None:
        """Say which failed, and end with code 1 if any did."""
        print("FAILED: " + "; ".join(self.failed) if self.failed else "all ok", flush=True)
        raise SystemExit(1 if self.failed else 0)


def seconds(work: Callable[[], object], on: torch.device, repeats: int = 20) -> float:
    """Median seconds of `work`: by events on a GPU, by the clock elsewhere."""
    times = []
    for n in range(repeats + 3):  # the first three warm up
        if on.type == "cuda":
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            work()
            ended.record()
            ended.synchronize()
            taken = begun.elapsed_time(ended) / 1000
        else:
            started = time.perf_counter()
            work()
            taken = time.perf_counter() - started
        if n >= 3:
            times.append(taken)
    return sorted(times)[len(times) // 2]
