"""The command of a study whose tables stand in the docs."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import study_command as module
from benchmarks.beyond import main as beyond
from benchmarks.cold import main as cold
from benchmarks.recorded.docs import Docs
from cadc_rec.errors import CadcError


@pytest.fixture
def did(monkeypatch):
    """What a command did, with studies that take no time."""
    done = []

    def reported(studies):
        done.append(("report", str(studies)))
        return SimpleNamespace(page=studies / "report" / "index.html")

    monkeypatch.setattr(
        module,
        "run_study",
        lambda *given, datasets: done.append(("run", *map(str, given), *datasets)),
    )
    monkeypatch.setattr(module, "write_report", reported)
    for of_the_process in ("set_up_logging", "keep_interrupts"):
        monkeypatch.setattr(module, of_the_process, lambda: None)
    return done


def call(main, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["command", *words])
    main()


def test_a_study_is_run_on_its_data_and_reported(did, monkeypatch, capsys):
    call(beyond, monkeypatch, "--workdir", "w", "--data-dir", "raw", "--jobs", "2")
    study = str(module.STUDIES / "beyond.toml")
    assert Path(study).is_file()
    assert did == [("run", study, "w", "raw", "2"), ("report", "w/studies")]
    assert capsys.readouterr().out.endswith("w/studies/report/index.html\n")


def test_one_of_several_studies_has_a_report_of_its_own(did, monkeypatch):
    call(beyond, monkeypatch, "--workdir", "w", "--study", "defaults", "--dataset", "beauty")
    study = str(module.STUDIES / "defaults.toml")
    assert did == [("run", study, "w", "None", "1", "beauty"), ("report", "w/studies/defaults")]


def test_cold_studies_run_on_tables_that_are_written_for_them(did, monkeypatch, tmp_path):
    def written(tables, raw):
        assert tables.is_dir()
        did.append(("tables", str(tables), str(raw)))

    monkeypatch.setattr("benchmarks.cold.write_tables", written)
    call(cold, monkeypatch, "--workdir", str(tmp_path), "--study", "features")
    tables, study = str(tmp_path / "cold"), str(module.STUDIES / "features.toml")
    assert did == [
        ("tables", tables, "None"),
        ("run", study, str(tmp_path), tables, "1"),
        ("report", str(tmp_path / "studies" / "features")),
    ]


def test_the_docs_are_written_of_what_is_measured_without_a_run(did, monkeypatch, capsys):
    def docs_of(what, docs, *given):
        did.append((what, *docs.studies, *map(str, given)))
        return [what]

    monkeypatch.setattr(Docs, "record", lambda docs, studies: docs_of("recorded", docs, studies))
    monkeypatch.setattr(Docs, "write", lambda docs: docs_of("written", docs))
    call(beyond, monkeypatch, "--workdir", "w", "--docs")
    call(beyond, monkeypatch, "--workdir", "w", "--study", "defaults", "--docs")
    assert did == [
        ("recorded", "beyond", "w/studies"),
        ("written", "beyond"),
        ("recorded", "defaults", "w/studies"),
        ("written", "defaults"),
    ]
    assert capsys.readouterr().out == 2 * "recorded\nwritten\n"


def test_what_is_refused_is_a_sentence(did, monkeypatch):
    def refuse(*given, datasets):
        raise CadcError("there is no data.")

    monkeypatch.setattr(module, "run_study", refuse)
    with pytest.raises(SystemExit, match=r"^error: there is no data\.$"):
        call(beyond, monkeypatch)
