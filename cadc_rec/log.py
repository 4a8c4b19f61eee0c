"""What a person sees while a stage runs: a bar on a terminal, plain log lines elsewhere.

Everything goes to standard error; standard output belongs to results.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

log = logging.getLogger("cadc_rec")
rank_files: list[logging.Handler] = []
"""Those of this process, see `pipeline/rank_log.py`; they get all records, and those of `note`."""
_LOG_EVERY_SECONDS = 10.0
_TALKATIVE = ("torch", "torch.fx._symbolic_trace", "torchrec", "root")
_interrupts: list[int] = []


def note(line: str, measured: Mapping[str, Any], level: int = logging.INFO) -> None:
    """Write a line, and what was measured, to this rank's file alone."""
    for handler in rank_files:
        extra = {"measured": measured}
        handler.handle(log.makeRecord(log.name, level, "", 0, line, (), None, extra=extra))


@functools.cache
def console() -> Console:
    """Standard error. Importing rich takes a tenth of a second, so that waits for the first use."""
    from rich.console import Console

    return Console(stderr=True)


def keep_interrupts() -> None:
    """Remember a Ctrl-C beside raising it: a library's bare ``except:`` may swallow the exception.

    Leaves a process that was started deaf to it, as a shell's background jobs are, deaf.
    """

    def remember(number: int, _: object) -> None:
        _interrupts.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, remember)


class Ticker:
    """Counts the work done on one task and shows it."""

    def __init__(self, description: str, total: int, unit: str) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.before = self._done_then = 0
        self.note = ""
        self.started = self._logged = time.perf_counter()

    def advance(self, amount: int = 1, note: str | None = None) -> None:
        """Count `amount` more units; `note` is shown beside the rate until the next one."""
        if _interrupts:  # raised once already, and lost
            raise KeyboardInterrupt
        self.done += amount
        self.note = self.note if note is None else note
        self._show()

    def begin_at(self, done: int) -> None:
        """Count what was done before; it does not count in the rate."""
        self.done = self.before = self._done_then = done

    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.before) / max(time.perf_counter() - self.started, 1e-9)

    def _show(self) -> None:
        self._tell(lambda line, measured: log.info(line, extra={"measured": measured}))

    def _tell(self, tell: Callable[[str, dict[str, Any]], None]) -> None:
        """Every few seconds a line, with its numbers for the ranks' files."""
        now = time.perf_counter()
        if now - self._logged < _LOG_EVERY_SECONDS:
            return
        since, self._logged = now - self._logged, now
        measured = {
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "rate": round((self.done - self._done_then) / since, 3),  # since the last line
        }
        self._done_then = self.done
        tell(self.line(), measured)

    def line(self) -> str:
        """One plain line: done of total, rate, time left, note."""
        rate = self.rate()
        of = f"/{self.total:,}" if self.total else ""  # a download may not say how long it is
        text = f"{self.description}: {self.done:,}{of} {self.unit}, {_speed(rate, self.unit)}"
        if self.total:
            text += f", {_duration((self.total - self.done) / max(rate, 1e-9))} left"
        return f"{text}, {self.note}" if self.note else text


def _speed(rate: float, unit: str) -> str:
    """Units a second, or, where that is less than one, a minute or an hour."""
    for span, seconds in (("s", 1), ("min", 60)):
        if rate * seconds >= 1:
            return f"{rate * seconds:,.1f} {unit}/{span}"
    return f"{rate * 3600:,.1f} {unit}/h"


def _duration(seconds: float) -> str:
    """Such as ``95 s``, ``38 min`` or ``5.2 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class _BarTicker(Ticker):
    def __init__(self, description: str, total: int, unit: str, bar: Progress) -> None:
        super().__init__(description, total, unit)
        self._bar = bar
        self._task = bar.add_task(description, total=total or None, rate="", note="")

    def _show(self) -> None:
        rate = _speed(self.rate(), self.unit)
        self._bar.update(self._task, completed=self.done, rate=rate, note=self.note)
        self._tell(note)


class _Silent(Ticker):
    def _show(self) -> None:
        self._tell(note)


@contextlib.contextmanager
def track(description: str, total: int, unit: str, *, visible: bool = True) -> Iterator[Ticker]:
    """Show a task of `total` units, 0 if unknown; ``visible=False`` (other ranks) shows nothing."""
    if not visible:
        yield _Silent(description, total, unit)
    elif console().is_terminal:
        with _bar() as bar:
            yield _BarTicker(description, total, unit, bar)
    else:
        yield Ticker(description, total, unit)


def _bar() -> Progress:
    """One line of a terminal: what, how far, how fast, how long still; it goes when it is done."""
    from rich import progress

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}", style="cyan"),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}", style="dim"),
        console=console(),
        transient=True,
    )


def set_up_logging(*, debug: bool = False) -> None:
    """Send our log lines to standard error and keep libraries' talk about themselves out of it.

    Args:
        debug: let the libraries speak.
    """
    handler: logging.Handler
    if console().is_terminal:
        from rich.logging import RichHandler

        handler = RichHandler(console=console(), show_path=False, show_time=False)
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    chief = os.environ.get("RANK", "0") == "0"
    handler.setLevel(logging.INFO if chief else logging.ERROR)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    if not debug:
        _hush()


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Within, libraries' talk about themselves stays out of a caller's output, as in a notebook.

    Where `set_up_logging` has decided about that, it stays as it is.
    """
    if log.handlers:
        yield
        return
    loggers = [log, *(logging.getLogger(name) for name in _TALKATIVE)]
    before = [logger.level for logger in loggers]
    log.setLevel(log.getEffectiveLevel())  # the root logger, hushed below, decided it so far
    with warnings.catch_warnings():
        _hush()
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)


def _hush() -> None:
    """Silence warnings of DDP and TorchRec about views and shards of their own.

    They are not the user's to mend.
    """
    warnings.simplefilter("ignore")
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
