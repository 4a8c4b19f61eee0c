import contextlib
import io
import logging
import signal
import time
import warnings

import pytest
from rich.console import Console

from cadc_rec import log as progress
from cadc_rec.log import set_up_logging, track


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""

    class Clock:
        now = 100.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


@pytest.fixture
def lines(monkeypatch):
    """What is logged by our logger, message by message."""
    caught = []

    class Catch(logging.Handler):
        def emit(self, record):
            caught.append(record.getMessage())

    log = logging.getLogger("cadc_rec")
    before = log.handlers[:], log.level, log.propagate
    log.handlers[:] = [Catch()]
    log.setLevel(logging.INFO)
    yield caught
    log.handlers[:], log.level, log.propagate = before


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 120 columns; what was shown on it."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120, color_system=None)
    monkeypatch.setattr(progress, "console", lambda: console)
    return shown


@pytest.fixture
def no_terminal(monkeypatch):
    """Standard error that goes into a file."""
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=False)
    monkeypatch.setattr(progress, "console", lambda: console)
    return shown


def test_a_line_tells_done_rate_time_left_and_the_last_note(clock):
    with track("train", 3000, "steps") as ticker:
        ticker.advance(1000, "epoch 1")
        clock.now += 10
        ticker.advance(500)
    # 1500 steps in 10 s: 150 a second, 1500 more take 10 s
    assert ticker.line() == "train: 1,500/3,000 steps, 150.0 steps/s, 10 s left, epoch 1"


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (75.0, "study: 1/34 cells, 48.0 cells/h, 41 min left"),  # 33 x 75 s
        (30.0, "study: 1/34 cells, 2.0 cells/min, 16 min left"),  # 990 s
        (3.0, "study: 1/34 cells, 20.0 cells/min, 99 s left"),
        (1800.0, "study: 1/34 cells, 2.0 cells/h, 16.5 h left"),
    ],
)
def test_what_takes_long_is_told_in_minutes_or_hours(clock, seconds, line):
    with track("study", 34, "cells") as ticker:
        clock.now += seconds
        ticker.advance()
        assert ticker.line() == line


def test_a_total_that_is_not_known_has_no_time_left(clock):
    with track("download ml-1m.zip", 0, "bytes") as ticker:
        clock.now += 2
        ticker.advance(4096)
    assert ticker.line() == "download ml-1m.zip: 4,096 bytes, 2,048.0 bytes/s"


def test_without_a_terminal_there_is_a_plain_line_every_ten_seconds(clock, lines, no_terminal):
    with track("train", 100, "steps") as ticker:
        for _ in range(50):
            clock.now += 0.5
            ticker.advance()
    # 25 seconds: a line after 10 and one after 20
    assert lines == [
        "train: 20/100 steps, 2.0 steps/s, 40 s left",
        "train: 40/100 steps, 2.0 steps/s, 30 s left",
    ]
    assert no_terminal.getvalue() == ""


@pytest.mark.parametrize(("total", "of"), [(40, "20/40"), (0, "20/?")])
def test_on_a_terminal_there_is_a_bar_with_rate_and_note_and_no_lines(screen, lines, total, of):
    with track("train", total, "steps") as ticker:
        ticker.advance(10, "epoch 1")
        time.sleep(0.02)
        ticker.advance(10, "epoch 2")
        time.sleep(0.15)
    for part in ("train", of, "steps/s", "epoch 2"):
        assert part in screen.getvalue()
    assert lines == []


def test_other_ranks_count_and_show_nothing(screen, lines, clock):
    with track("train", 40, "steps", visible=False) as ticker:
        clock.now += 60
        ticker.advance(10)
    assert ticker.done == 10
    assert screen.getvalue() == ""
    assert lines == []


@pytest.mark.parametrize(
    ("rank", "heard"),
    [(None, ["info", "error"]), ("0", ["info", "error"]), ("1", ["error"])],
)
def test_what_goes_well_is_told_by_rank_0_alone_and_errors_by_all(
    monkeypatch, lines, no_terminal, capsys, rank, heard
):
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    set_up_logging(debug=True)
    log = logging.getLogger("cadc_rec")
    log.info("info")
    log.error("error")
    out, err = capsys.readouterr()
    assert [line.split()[-1] for line in err.splitlines()] == heard
    assert out == ""  # standard output belongs to results


def test_a_ctrl_c_that_a_library_swallowed_is_raised_at_the_next_tick(monkeypatch):
    monkeypatch.setattr(progress, "_interrupts", [])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        progress.keep_interrupts()
        with contextlib.suppress(KeyboardInterrupt):  # as a library's bare `except:` would
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(KeyboardInterrupt):
        progress.Ticker("train", 10, "steps").advance()


def test_within_a_callers_program_libraries_are_quiet_and_we_are_as_loud_as_it_wants(caplog):
    log, root = logging.getLogger("cadc_rec"), logging.getLogger()
    caplog.set_level(logging.INFO)
    before = log.level, root.level, logging.getLogger("torchrec").level
    with progress.quiet_libraries(), warnings.catch_warnings(record=True) as warned:
        logging.getLogger("torchrec.distributed.utils").warning("theirs")
        logging.info("theirs, on the root logger")
        warnings.warn("theirs", stacklevel=1)
        log.info("ours")
    assert caplog.messages == ["ours"]
    assert warned == []
    assert before == (log.level, root.level, logging.getLogger("torchrec").level)
