"""The neighbour that keeps one core busy, and what is said of contenders beside it."""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.peers import busy
from benchmarks.peers.busy import Neighbour
from benchmarks.peers.record import Busy, Entry, Figures, Ratio, Section, rate_figures
from benchmarks.peers.sections import results_path
from benchmarks.peers.tables import section_text
from benchmarks.peers.timing import Contender, Work, alternate

linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks Linux's /proc")


def state_of(process):
    """R while it computes or could, S while it waits; None once it has ended."""
    try:
        told = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state = told.rpartition(")")[2].split()[0]
    return None if state == "Z" else state


@linux
def test_the_neighbour_computes_without_a_pause_and_then_is_gone(monkeypatch):
    begun = []

    class Noted(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            begun.append(self)

    monkeypatch.setattr(busy.subprocess, "Popen", Noted)
    with Neighbour().busy():
        (process,) = begun
        seen = set()
        for _ in range(10):
            time.sleep(0.01)
            seen.add(state_of(process.pid))
        assert seen == {"R"}
    assert process.poll() is not None


@linux
def test_the_neighbour_ends_with_a_parent_that_is_killed():
    script = """
import os, subprocess
from benchmarks.peers import busy

class Told(subprocess.Popen):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        print(self.pid, flush=True)

busy.subprocess.Popen = Told
with busy.Neighbour().busy():
    os._exit(0)
"""
    # Standard output would be held open by the neighbour, had it outlived its parent.
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, timeout=60)
    neighbour = int(done.stdout)
    until = time.monotonic() + 30
    while state_of(neighbour) is not None and time.monotonic() < until:
        time.sleep(0.01)
    assert state_of(neighbour) is None


def test_contenders_have_a_turn_beside_the_neighbour_in_every_round_that_counts():
    company, turns = [], []

    class Pretended(Neighbour):
        @contextmanager
        def busy(self):
            company.append(self)
            yield
            company.pop()

    def contender(name, idle, beside):
        def turn():
            turns.append((name, bool(company)))
            return Work(2, beside if company else idle)

        return Contender(name, turn)

    neighbour = Pretended()
    seconds = alternate(
        [contender("a", 2.0, 6.0), contender("b", 4.0, 8.0)], repeats=2, neighbour=neighbour
    )
    assert seconds == {"a": [1.0, 1.0], "b": [2.0, 2.0]}
    assert neighbour.seconds == {"a": [3.0, 3.0], "b": [4.0, 4.0]}
    assert not any(beside for _, beside in turns[:2])  # the warm-up
    first, second = turns[2:6], turns[6:]
    # Of a contender's two turns in a round, the idle one comes first in every second round.
    orders = [[beside for _, beside in round_] for round_ in (first, second)]
    assert sorted(orders) == [[False, True, False, True], [True, False, True, False]]


def section(better, rounds):
    return Section(
        title="Towers",
        unit="positives/s" if better == "more" else "s",
        better=better,
        measured="2026-01-01T00:00:00Z",
        entries={n: Entry(what=n, figures=Figures.of(values)) for n, values in rounds.items()},
        ratios=[Ratio(ours="ours", other="plain", times=Figures.of([1.0, 1.0]))],
    )


@pytest.mark.parametrize("better", ["more", "less"])
def test_what_is_left_is_formed_within_rounds(better):
    # Seconds of a unit: idle 2 and 4, busy 4 and 16 (a half and a quarter is left); the other's
    # idle 1 and 1, busy 4 and 2 (a quarter and a half).
    seconds = {"ours": [2.0, 4.0], "plain": [1.0, 1.0]}
    given = seconds if better == "less" else {n: [1 / s for s in t] for n, t in seconds.items()}
    found = section(better, given).beside({"ours": [4.0, 16.0], "plain": [4.0, 2.0]}).busy
    assert found.rates["ours"].rounds == pytest.approx([0.5, 0.25])
    assert found.rates["plain"].rounds == pytest.approx([0.25, 0.5])
    (ratio,) = found.ratios
    assert ratio.times.rounds == pytest.approx([2.0, 0.5])  # 0.5 / 0.25 and 0.25 / 0.5


def test_what_keeps_too_little_is_named_and_only_if_it_is_ours():
    low, high = rate_figures([1 / 0.3]), rate_figures([1 / 0.8])
    found = Busy(
        rates={"ours": low, "ours-two": high, "plain": low},
        ratios=[
            Ratio(ours="ours", other="plain", times=low),
            Ratio(ours="ours-two", other="plain", times=high),
            Ratio(ours="ours-two", other="ours", times=low),
        ],
    )
    assert [sentence.split(" of ")[0] for sentence in found.broken()] == [
        "ours keeps 0.30",
        "ours / plain keeps 0.30",
    ]


def test_the_table_tells_what_is_left():
    told = section("less", {"ours": [2.0, 2.0], "plain": [1.0, 1.0]})
    lines = section_text(told.beside({"ours": [4.0, 4.0], "plain": [4.0, 4.0]})).splitlines()
    assert "| beside one busy core | of the idle rate | of the ratio to plain |" in lines
    assert "| ours | 0.50 (0.50 to 0.50) | 2.00 (2.00 to 2.00) |" in lines
    assert "| plain | 0.25 (0.25 to 0.25) |  |" in lines


def test_results_beside_a_busy_core_are_kept_apart(tmp_path):
    names = {results_path(tmp_path, short, busy) for short in (0, 1) for busy in (0, 1)}
    assert len(names) == 4
