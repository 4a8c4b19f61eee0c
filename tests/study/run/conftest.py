"""What the tests of a study's cells share: a study of a tiny world, its records, pretended runs."""

import json

import pytest

from cadc_rec.study.run.cells import Ended, StudyRunner

CADC, RANDOM, MF = "t.cadc.init_frozen.r10.s0", "t.random.trainable.r10.s0", "t.mf.none.r1.s0"


@pytest.fixture
def tiny_study(tiny, tmp_path):
    """tiny_study(methods, more): a study over the tiny world; `more` is TOML of its first part."""

    def to_file(methods=("cadc", "random"), more="", sets="", title="Tiny"):
        path = tmp_path / "tiny-study.toml"
        path.write_text(
            f'title = "{title}"\nseeds = [0]\nset = {{ {sets} }}\n'
            f'[datasets.t]\ntitle = "Tiny world"\nconfig = "{tiny}"\n'
            f"[[grid]]\nmethods = {json.dumps(list(methods))}\n{more}\n"
        )
        return path

    return to_file


def records(workdir):
    """The records of a work folder's study, by cell."""
    folder = workdir / "studies" / "tiny-study" / "cells"
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def written(workdir):
    """When each record was written, in nanoseconds."""
    folder = workdir / "studies" / "tiny-study" / "cells"
    return {path.stem: path.stat().st_mtime_ns for path in folder.glob("*.json")}


@pytest.fixture
def pretend(monkeypatch, finished):
    """pretend(answers): cells end in these ways; returns the list of those that were run.

    A cell without an answer of its own ends as the undisturbed run of the tiny world did.
    """

    def start(answers=None):
        ran = []

        def spawn(self, cell, environment):
            ran.append(cell.id)
            mine = (answers or {}).get(cell.id, Ended(0, finished.out))
            return mine.pop(0) if isinstance(mine, list) else mine

        monkeypatch.setattr(StudyRunner, "_spawn", spawn)
        return ran

    return start
