"""Each rank's own log: JSON, a line each, beside what the terminal shows."""

import json
import logging
import os
import sys
import time
from types import SimpleNamespace

import pytest

from cadc_rec import log as log_module
from cadc_rec.log import log, note, track
from cadc_rec.pipeline import runner
from cadc_rec.pipeline.rank_log import rank_log


def lines(folder, rank):
    return [
        json.loads(line)
        for line in (folder / f"rank-{rank:05d}.jsonl").read_text().split("\n")[:-1]
    ]


@pytest.fixture
def told():
    """What other handlers get, such as the terminal's."""
    caught = []

    class Catch(logging.Handler):
        def emit(self, record):
            caught.append(record.getMessage())

    before, handler = log.level, Catch()
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    yield caught
    log.removeHandler(handler)
    log.setLevel(before)


def test_a_ranks_file_has_the_lines_of_the_log_and_its_own(tmp_path, told):
    with rank_log(tmp_path / "job", 3):
        log.info("train: made in %.1f s", 2.5)
        note("step 9", {"step": 9})
    note("nobody is there to read this", {})
    first, second = lines(tmp_path / "job", 3)
    assert (first["message"], first["rank"], first["level"]) == ("train: made in 2.5 s", 3, "info")
    assert second["step"] == 9
    assert first["seconds"] >= 0
    assert first["peak_memory_bytes"] > 10**6
    assert told == ["train: made in 2.5 s"]


def test_a_rank_that_shows_nothing_still_notes_how_fast_it_is(tmp_path, told, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with rank_log(tmp_path, 1), track("train", 100, "steps", visible=False) as ticker:
        for _ in range(30):
            now[0] += 1.0 if ticker.done < 10 else 2.0  # slower after ten steps
            ticker.advance()
    noted = lines(tmp_path, 1)
    assert [(each["done"], each["total"], each["rate"]) for each in noted] == [
        (10, 100, 1.0),
        (15, 100, 0.5),
        (20, 100, 0.5),
        (25, 100, 0.5),
        (30, 100, 0.5),
    ]
    assert told == []


def test_the_flight_record_of_a_collective_that_timed_out_is_kept_beside_the_log(
    tmp_path, monkeypatch
):
    monkeypatch.delenv("TORCH_FR_DUMP_TEMP_FILE", raising=False)
    with rank_log(tmp_path, 0):
        assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] == f"{tmp_path}/flight-recorder-rank-"
    assert "TORCH_FR_DUMP_TEMP_FILE" not in os.environ
    monkeypatch.setenv("TORCH_FR_DUMP_TEMP_FILE", "/mine/rank-")
    with rank_log(tmp_path, 0):
        assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] == "/mine/rank-"
    assert os.environ["TORCH_FR_DUMP_TEMP_FILE"] == "/mine/rank-"


def test_a_stage_is_a_span_where_opentelemetry_is_installed(tmp_path, monkeypatch):
    """A package of that name that remembers; the real one is an extra."""
    (tmp_path / "opentelemetry").mkdir()
    (tmp_path / "opentelemetry" / "__init__.py").write_text("")
    (tmp_path / "opentelemetry" / "trace.py").write_text(
        "import contextlib\n"
        "spans = []\n"
        "def get_tracer(name):\n"
        "    return Tracer()\n"
        "class Tracer:\n"
        "    @contextlib.contextmanager\n"
        "    def start_as_current_span(self, name, attributes):\n"
        "        spans.append(('begins', name, attributes))\n"
        "        yield\n"
        "        spans.append(('ends', name))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    job = SimpleNamespace(stage=SimpleNamespace(name="train"))
    with runner._span(job, 3):
        pass
    from opentelemetry.trace import spans

    described = {"cadc_rec.stage": "train", "cadc_rec.rank": 3}
    assert spans == [("begins", "train", described), ("ends", "train")]
    for name in ("opentelemetry", "opentelemetry.trace"):
        monkeypatch.delitem(sys.modules, name)


def test_the_error_that_ends_a_rank_is_its_last_line(tmp_path):
    with pytest.raises(ValueError, match="no such table"), rank_log(tmp_path, 0):
        raise ValueError("no such table")
    assert lines(tmp_path, 0)[-1]["message"] == "ValueError: no such table"
    assert log_module.rank_files == []


def test_a_folder_that_cannot_be_made_costs_the_log_alone(tmp_path, told):
    (tmp_path / "file").write_text("")
    with rank_log(tmp_path / "file" / "job", 0):
        log.info("goes on")
    assert told[1:] == ["goes on"]
    assert "this rank writes no log" in told[0]
