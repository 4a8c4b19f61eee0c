"""How long a rank's steps spend in exchange with the others: what TorchRec and DDP do, timed.

In: a wrapped model. Out: seconds so far, read between steps. Nothing is asked of a GPU.

Rows that other ranks hold are timed by the host's clock, from the call to the answer. Gradients are
timed by DistributedDataParallel itself, in some steps of many; what it measured there is taken for
all. Not timed: sending back the gradients of divided tables, which is part of the backward pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.parallel import DistributedDataParallel

_SAMPLED_ON_CPU = 10  # DDP times each tenth step; its own default is each hundredth
_FIRST_STEPS = 10  # which it times whatever the rate


class _Rows:
    seconds = 0.0


@contextmanager
def exchanging_rows() -> Iterator[None]:
    """Time what is within as an exchange of rows."""
    started = time.perf_counter()
    try:
        yield
    finally:
        _Rows.seconds += time.perf_counter() - started


class ExchangeClock:
    """Tells how long steps spent in exchange.

    Args:
        model: wrapped; parts of it may be under DistributedDataParallel.
        world_size: ranks; a rank alone exchanges nothing.
    """

    def __init__(self, model: nn.Module, world_size: int) -> None:
        self._parts: list[_Gradients] = []
        self._alone = world_size == 1
        self._rows = _Rows.seconds
        if not self._alone:
            ddp = (each for each in model.modules() if isinstance(each, DistributedDataParallel))
            self._parts = [_Gradients(each) for each in ddp]

    def since_last(self, steps: int) -> float:
        """Seconds in exchange during the last so many steps, which began at the call before."""
        before, self._rows = self._rows, _Rows.seconds
        if self._alone:
            return 0.0
        gradients = sum(part.seconds_a_step() for part in self._parts)
        return self._rows - before + gradients * steps


class _Gradients:
    """What DDP measures of a module: from the first bucket that is sent to the last that is there.

    Args:
        module: under DDP.
    """

    def __init__(self, module: DistributedDataParallel) -> None:
        self._module, self._rate = module, 100
        self._total, self._count, self._mean = 0.0, 0, 0.0
        if module.device_type == "cpu":  # timing a step costs a CPU nothing
            self._rate = _SAMPLED_ON_CPU
            module._set_ddp_runtime_logging_sample_rate(self._rate)

    def seconds_a_step(self) -> float:
        """The mean of the steps timed since the last call; that of then, where there are none.

        DDP tells the mean of all steps that it timed so far, so their number gives the sum.
        """
        told = self._module._get_ddp_logging_data()
        iteration = int(told.get("iteration", 0))
        count = min(iteration, _FIRST_STEPS)
        count += max(0, iteration // self._rate - _FIRST_STEPS // self._rate)
        total = count * float(told.get("avg_backward_comm_time", 0)) / 1e9
        if count > self._count:
            self._mean = max(0.0, (total - self._total) / (count - self._count))
            self._total, self._count = total, count
        return self._mean
