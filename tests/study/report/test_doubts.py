"""Why runs of a set may not compare is said on its page, and nothing where all is well."""

import json

import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.study.report.doubts import doubts
from cadc_rec.study.report.report import write_report
from cadc_rec.study.report.study_data import load_studies

CPU = {"prepare": 1.0, "pretrain": 1.0, "select": 0.5, "evaluate": 1.0, "validation": 1.0}


def said_of(study):
    (loaded,) = load_studies(study.folder)
    return doubts(loaded.cells)


def add(study, seed, **content):
    """A run of 10 + 0.5 + 30 s by the clock."""
    place = ("ml-1m", "cadc", "init_frozen", 10.0, seed)
    study.add_done(*place, 60, (10.0, 0.5, 30.0), **content)


def test_a_log_that_changed_between_runs_is_said(new_study):
    study = new_study()
    data = {"config": {"data": {"k_core": 0}}}
    for seed, folder in enumerate(("/w/prepare/aa", "/elsewhere/prepare/aa", "/w/prepare/bb")):
        when = {"finished": f"2026-01-0{seed + 1}T00:00:00Z"}
        add(study, seed, artifacts={"prepare": folder}, **data, **when)
    (text,) = said_of(study)
    assert text.startswith("The data changed: 2 of these 3 runs, ml-1m-cadc-init_frozen-10-0 among")
    page = write_report(study.folder).page.read_text("utf-8")
    assert f'<p class="warning">{text[:40]}' in page


def test_ranks_of_other_users_say_which_run_is_older(new_study):
    """The log got new users after gold was run, so the two cannot be compared at all."""
    study = new_study()
    data = {"config": {"data": {"k_core": 0}}}
    for number, (method, day) in enumerate((("gold", 1), ("cadc", 2))):
        seen = {"artifacts": {"prepare": f"/w/prepare/{number}"}, "finished": f"2026-01-0{day}"}
        study.add_done("ml-1m", method, None, 10.0, 0, 60, (0.0, 0.0, 9.0), **data, **seen)
    ranks = study.folder / "ranks" / "ml-1m-cadc-none-10-0.parquet"
    pq.write_table(pq.read_table(ranks).slice(1), ranks)
    with pytest.raises(CadcError) as caught:
        write_report(study.folder)
    assert "of different users (999 and 1,000, 999 of them the same)" in str(caught.value)
    assert "data changed: remove the file of ml-1m-gold-none-10-0, and of" in str(caught.value)


@pytest.mark.parametrize("other", [{"artifacts": {"prepare": "/w/prepare/aa"}}, {}])
def test_other_settings_of_the_data_are_no_change_of_the_log(new_study, other):
    """A variant may cut a set otherwise; an older record names no folder."""
    study = new_study()
    add(study, 0, artifacts={"prepare": "/w/prepare/aa"}, config={"data": {"k_core": 0}})
    add(study, 1, **{"artifacts": {"prepare": "/w/prepare/bb"}, "config": {"data": {"k_core": 5}}})
    add(study, 2, **({"config": {"data": {"k_core": 0}}} | other))
    assert said_of(study) == ()


def test_a_machine_that_was_busy_is_said(new_study):
    """40.5 s of the clock: over 40.5, 20.25 and 8.1 s of the processor 1, 2 and 5 times as many."""
    study = new_study()
    for seed, train in enumerate((40.0, 19.75, 7.6)):
        add(study, seed, cpu_seconds=CPU | {"train": train})
    (text,) = said_of(study)
    assert "in 2 of 3 runs it counts 3.5 times the processor's seconds in the median" in text
    assert "(up to 5.0)" in text


@pytest.mark.parametrize(
    ("head", "content"),
    [
        ({"time": "cpu"}, {}),  # the times shown are the processor's
        ({}, {"cpu_seconds": None}),  # nothing is known
        ({}, {"machine": {"cpu": "Toy CPU", "device": "cuda"}}),  # a GPU works beside it
    ],
)
def test_where_the_clock_tells_nothing_of_other_work_nothing_is_said(new_study, head, content):
    study = new_study(layout="grid", **head)
    add(study, 0, **({"cpu_seconds": CPU | {"train": 7.6}} | content))
    assert said_of(study) == ()


def test_runs_of_a_moment_are_not_told_busy(new_study):
    study = new_study()
    name = study.add_done("ml-1m", "mf", None, 1.0, 0, 55, (0.3, 0.0, 0.0))
    path = study.path(name)
    cpu = dict.fromkeys(CPU, 0.0) | {"pretrain": 0.1, "train": 0.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"cpu_seconds": cpu}))
    assert said_of(study) == ()
