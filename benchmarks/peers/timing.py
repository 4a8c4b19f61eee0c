"""Fair timing: contenders take turns, and only what stands in the same round is divided.

A machine's speed drifts by more than most differences worth knowing: other jobs, heat, memory that
has become fragmented. So nobody is measured five times in a row. A round runs every contender
once, each round begins with another one, and a ratio is formed within a round; the median over the
rounds is reported, with the lowest and the highest beside it.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.peers.busy import Neighbour, beside, sides
from cadc_rec.log import log


@dataclass(frozen=True)
class Work:
    """What one turn did: how many units, and in how many seconds where the clock outside lies.

    A turn that starts processes of its own, say, knows better than its caller how long the work
    itself took.
    """

    units: float
    seconds: float | None = None


@dataclass(frozen=True)
class Contender:
    """Somebody who can do the work: a name, and a function that does it once."""

    name: str
    turn: Callable[[], Work]


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of a few values."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """The median of at least one value, and how far the others lie.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to summarize")
    return Spread(float(np.median(values)), float(min(values)), float(max(values)))


def order_of_round(names: Sequence[str], number: int) -> list[str]:
    """Whose turn it is in round `number`.

    Each round starts one further and every second runs backwards, so that nobody always follows
    the same neighbour.
    """
    start = number % len(names)
    turned = [*names[start:], *names[:start]]
    return turned[::-1] if number % 2 else turned


def alternate(
    contenders: Sequence[Contender],
    repeats: int,
    warm_up: int = 1,
    at_least: float = 0.0,
    neighbour: Neighbour | None = None,
) -> dict[str, list[float]]:
    """Seconds for one unit of work, by contender, a value for each round.

    Args:
        contenders: who takes turns.
        repeats: rounds that count.
        warm_up: rounds before them that do not.
        at_least: seconds a turn takes; one that ends sooner is taken again and the mean counts,
            for a few milliseconds tell more of the machine than of the code.
        neighbour: with one, each has a second turn in every round that counts, beside it; what
            that took is kept there.

    Raises:
        ValueError: two contenders of one name, or none at all.
    """
    by_name = {contender.name: contender for contender in contenders}
    if not contenders or len(by_name) < len(contenders):
        raise ValueError("contenders need a name each, and there must be one")
    seconds: dict[str, list[float]] = {}
    for number in range(-warm_up, repeats):
        for name in order_of_round(list(by_name), number):
            if number < 0:
                one_turn(by_name[name], at_least)
                continue
            for company in sides(neighbour, number):
                with beside(company):
                    taken = one_turn(by_name[name], at_least)
                kept = seconds if company is None else company.seconds
                kept.setdefault(name, []).append(taken)
        log.info("round %d of %d done%s", number + 1, repeats, "" if number >= 0 else " (warm-up)")
    return seconds


def one_turn(contender: Contender, at_least: float = 0.0) -> float:
    """Seconds for a unit of work, in one turn that takes `at_least` so many seconds."""
    gc.collect()  # somebody else's garbage is not this one's work
    units = seconds = elapsed = 0.0
    while units == 0.0 or max(seconds, elapsed) < at_least:
        started = time.perf_counter()
        work = contender.turn()
        outside = time.perf_counter() - started
        elapsed += outside
        seconds += outside if work.seconds is None else work.seconds
        units += work.units
    return seconds / units


def times_as_fast(seconds: Mapping[str, Sequence[float]], ours: str, other: str) -> list[float]:
    """How many times as fast `ours` is as `other`, round by round."""
    return [b / a for a, b in zip(seconds[ours], seconds[other], strict=True)]
