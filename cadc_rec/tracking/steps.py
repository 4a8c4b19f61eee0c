"""Curves over the steps of a training: of each rank, and of all of them.

In: what ranks measured of their steps (`Measured` in `training/intervals.py`, taken here by what it
tells). Out: points on a tracker. A single process has curves ``steps/...``. Of several ranks each
has curves ``rank-N/...``; ``steps/...`` are of all, a point an epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cadc_rec.tracking.tracker import Tracker

_DRAWN_RANKS = 64  # of more ranks, rank 0's curves and those of all


class Interval(Protocol):
    """An interval of one rank."""

    @property
    def step(self) -> int:
        """Steps done at its end."""

    @property
    def steps(self) -> int:
        """In it."""

    @property
    def seconds(self) -> float:
        """It took."""

    @property
    def positives(self) -> float:
        """Of this rank in it."""

    @property
    def waiting_seconds(self) -> float:
        """Waited for data."""

    @property
    def exchange_seconds(self) -> float:
        """In exchange with other ranks."""

    @property
    def loss(self) -> float:
        """This rank's part of the mean loss, summed over the steps."""

    @property
    def host_memory_bytes(self) -> int:
        """Resident."""

    @property
    def device_memory_bytes(self) -> int:
        """On the GPU; 0 without one."""


class StepCurves:
    """Draws what ranks measured.

    Args:
        tracker: of rank 0; any other rank's keeps nothing.
        alone: whether there is one rank only.
    """

    def __init__(self, tracker: Tracker, alone: bool) -> None:
        self._tracker, self._alone = tracker, alone

    def interval(self, mine: Interval) -> None:
        """An interval of this rank, which is rank 0 where anything is drawn."""
        if self._alone:
            self._draw("steps", [[mine]])
        else:
            self._draw("rank-0", [[mine]], loss=False)
        self._tracker.flush()

    def epoch(self, of_ranks: Sequence[Sequence[Interval]], slowest: int) -> None:
        """The intervals of an epoch, of every rank, and the one that the others wait for."""
        if not all(of_ranks):  # a rank that had no step
            return
        for rank, intervals in enumerate(of_ranks[:_DRAWN_RANKS]):
            if rank:
                for each in intervals:
                    self._draw(f"rank-{rank}", [[each]], loss=False)
        self._draw("steps", of_ranks)
        self._tracker.scalar("steps/slowest_rank", slowest, of_ranks[0][-1].step)
        self._tracker.flush()

    def _draw(self, group: str, of_ranks: Sequence[Sequence[Interval]], loss: bool = True) -> None:
        """A point of each curve: of some ranks over the same steps, after the last of them."""
        every = [each for intervals in of_ranks for each in intervals]
        if not every:
            return
        longest = max(sum(each.seconds for each in mine) for mine in of_ranks)
        seconds = sum(each.seconds for each in every)
        points = {
            "positives_per_second": sum(each.positives for each in every) / longest,
            "waiting_share": sum(each.waiting_seconds for each in every) / seconds,
            "exchange_share": sum(each.exchange_seconds for each in every) / seconds,
            "host_memory_bytes": max(each.host_memory_bytes for each in every),
        }
        if any(each.device_memory_bytes for each in every):
            points["device_memory_bytes"] = max(each.device_memory_bytes for each in every)
        if loss:
            steps = sum(each.steps for each in of_ranks[0])
            points["loss"] = sum(each.loss for each in every) / steps
        for name, value in points.items():
            self._tracker.scalar(f"{group}/{name}", value, every[-1].step)
