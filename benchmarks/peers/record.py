"""The record of a measurement, as it is kept in JSON.

A section holds what took turns in one session; sections of several sessions may stand in one
report, so each carries its own time and ceilings.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmarks.peers.timing import Spread, spread, times_as_fast
from cadc_rec.errors import CadcError

SCHEMA_VERSION = 1
LEAST_RATE = 0.4
"""Of the idle rate, that every contender of ours keeps beside a busy core."""
LEAST_RATIO = 0.7
"""Of the idle ratio, that every ratio of ours to another keeps beside a busy core."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Figures(_Strict):
    """Median, lowest and highest over the rounds, and the rounds themselves."""

    median: float
    low: float
    high: float
    rounds: list[float]

    @classmethod
    def of(cls, values: list[float]) -> Figures:
        """Summarize `values`."""
        found: Spread = spread(values)
        return cls(median=found.median, low=found.low, high=found.high, rounds=list(values))


class Entry(_Strict):
    """One contender of a section."""

    what: str
    """A line that says what it does."""
    figures: Figures
    """In the section's unit."""
    ceiling: str | None = None
    """The ceiling that bounds it, by name; None where none was measured."""
    share: float | None = None
    """Of that ceiling, reached in the median round."""


class Ratio(_Strict):
    """How many times as fast `ours` is as `other`, formed within rounds."""

    ours: str
    other: str
    times: Figures


class Check(_Strict):
    """What has to hold for the ratios to compare the same work."""

    what: str
    value: float
    limit: float

    @property
    def holds(self) -> bool:
        """Whether `value` is within `limit`; NaN is not."""
        return self.value <= self.limit


class Busy(_Strict):
    """What is left while another process keeps one core busy, of what the same rounds had idle."""

    rates: dict[str, Figures]
    """Rate beside the busy core over the idle rate, by contender."""
    ratios: list[Ratio]
    """Ratio beside the busy core over the idle ratio: how much better ours keeps its rate."""

    def broken(self) -> list[str]:
        """What of ours keeps too little, a sentence each; ours against ours is no peer's matter."""
        ours = {ratio.ours for ratio in self.ratios}
        least = f"beside a busy core; at least {LEAST_RATE:g} is wanted"
        found = [
            f"{name} keeps {rate.median:.2f} of its idle rate {least}"
            for name, rate in self.rates.items()
            if name in ours and not rate.median >= LEAST_RATE
        ]
        least = f"beside a busy core; at least {LEAST_RATIO:g} is wanted"
        return found + [
            f"{ratio.ours} / {ratio.other} keeps {ratio.times.median:.2f} of its idle ratio {least}"
            for ratio in self.ratios
            if ratio.other not in ours and not ratio.times.median >= LEAST_RATIO
        ]


class Section(_Strict):
    """Contenders that took turns."""

    title: str
    unit: str
    """``positives/s`` and the like, or ``s`` where less is better."""
    better: Literal["more", "less"]
    measured: str
    """When, in UTC."""
    commit: str | None = None
    """Of the code."""
    entries: dict[str, Entry]
    ratios: list[Ratio]
    missing: dict[str, str] = Field(default_factory=dict)
    """Contenders that are not here, and why."""
    checks: list[Check] = Field(default_factory=list)
    notes: dict[str, float] = Field(default_factory=dict)
    """Further numbers of the workload, by what they are."""
    ceilings: dict[str, float] = Field(default_factory=dict)
    busy: Busy | None = None
    """Where the contenders also took turns beside a busy core; all else is of the idle turns."""

    def beside(self, busy: dict[str, list[float]]) -> Section:
        """This section and what is left of it beside a busy core.

        Args:
            busy: seconds for one unit of work there, by contender, a value for each round.
        """
        slower = {
            name: [
                there * rate if self.better == "more" else there / rate
                for there, rate in zip(busy[name], entry.figures.rounds, strict=True)
            ]
            for name, entry in self.entries.items()
        }
        rates = {name: rate_figures(times) for name, times in slower.items()}
        ratios = ratios_of(slower, [(ratio.ours, ratio.other) for ratio in self.ratios])
        return self.model_copy(update={"busy": Busy(rates=rates, ratios=ratios)})


class Machine(_Strict):
    """What it ran on."""

    processor: str
    cores: int
    memory_bytes: int
    versions: dict[str, str]


class Report(_Strict):
    """All sections measured so far on one machine with one workload."""

    schema_version: int = SCHEMA_VERSION
    machine: Machine
    workload: dict[str, str | int | float]
    short: bool
    sections: dict[str, Section]

    def ratios(self) -> dict[str, float]:
        """Median ratios by ``section: ours / other``."""
        return {
            f"{name}: {ratio.ours} / {ratio.other}": ratio.times.median
            for name, section in self.sections.items()
            for ratio in section.ratios
        }

    def broken(self) -> list[str]:
        """Checks that do not hold and what keeps too little beside a busy core, a sentence each."""
        return [
            f"{name}: {check.what} is {check.value:.3g}; at most {check.limit:.3g} is allowed"
            for name, section in self.sections.items()
            for check in section.checks
            if not check.holds
        ] + [
            f"{name}: {sentence}"
            for name, section in self.sections.items()
            if section.busy is not None
            for sentence in section.busy.broken()
        ]

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", "utf-8")

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read what `save` wrote.

        Raises:
            CadcError: it is not there, or is no report of this schema.
        """
        try:
            content = json.loads(path.read_text("utf-8"))
        except OSError as error:
            raise CadcError(f"{path}: cannot be read ({error.strerror}); measure first.") from None
        except ValueError:
            raise CadcError(f"{path}: is not JSON; measure anew.") from None
        return cls.of(content, str(path))

    @classmethod
    def of(cls, content: object, path: str) -> Report:
        """The report of JSON values.

        Raises:
            CadcError: they are none of this schema.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise CadcError(f"{path}: no report of this version ({where}); measure anew.") from None


def rate_figures(seconds: list[float]) -> Figures:
    """Units a second, of seconds a unit."""
    return Figures.of([1.0 / taken for taken in seconds])


def ratios_of(seconds: dict[str, list[float]], pairs: list[tuple[str, str]]) -> list[Ratio]:
    """The ratios of those pairs (ours, other) both of whom took part."""
    return [
        Ratio(ours=ours, other=other, times=Figures.of(times_as_fast(seconds, ours, other)))
        for ours, other in pairs
        if ours in seconds and other in seconds
    ]
