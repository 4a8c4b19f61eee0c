"""What updates share, and what `cadc-rec prune` removes: nothing that a kept state needs."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.data.forgotten import Forgotten, hashes_of
from cadc_rec.errors import CadcError
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.pipeline.table import STAGES
from cadc_rec.store.artifact import Draft, open_artifact, run_stage
from cadc_rec.store.atomic import empty_folder
from cadc_rec.store.pruned import freed_bytes, is_pruned, prune
from cadc_rec.updates.chain import artifacts_of, line_of, take_update, updates_of
from cadc_rec.updates.forget import Request
from cadc_rec.updates.prune import (
    _has_any,
    _has_forgotten,
    _holding,
    holders_of,
    prunable,
    remove,
    require_alone,
)
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import day_rows, item, user

BIG = bytes(range(256)) * 64


def stage(workdir, name, inputs, **files):
    def build(draft: Draft) -> None:
        for file, contents in files.items():
            (draft.path / file).write_bytes(contents)

    return run_stage(workdir, name, {}, inputs, build)


def test_a_file_that_did_not_change_is_on_the_disk_once(tmp_path):
    one = stage(tmp_path, "one", {}, same=BIG, other=BIG[::-1], small=b"few")
    two = stage(tmp_path, "two", {"before": one}, same=BIG, other=BIG + b"!", small=b"few")
    shared = {f for f in ("same", "other", "small") if os.path.samefile(one.path / f, two.path / f)}
    assert shared == {"same"}
    assert open_artifact(two.path).fingerprint == two.fingerprint
    assert freed_bytes([two.path]) == len(BIG) + 1 + len(b"few")  # what is shared stays
    prune(one.path, "for a test")
    assert (open_artifact(two.path).path / "same").read_bytes() == BIG


def test_a_file_that_was_damaged_meanwhile_is_not_shared(tmp_path):
    one = stage(tmp_path, "one", {}, same=BIG)
    (one.path / "same").write_bytes(BIG[:-1] + b"?")
    two = stage(tmp_path, "two", {"before": one}, same=BIG)
    assert (open_artifact(two.path).path / "same").read_bytes() == BIG


def test_without_links_each_has_a_copy(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    one = stage(tmp_path, "one", {}, same=BIG)
    two = stage(tmp_path, "two", {"before": one}, same=BIG)
    assert not os.path.samefile(one.path / "same", two.path / "same")
    assert (open_artifact(two.path).path / "same").read_bytes() == BIG


def test_half_removed_counts_as_pruned_and_a_run_makes_it_again(tmp_path):
    one = stage(tmp_path, "one", {}, first=BIG, second=BIG[::-1])
    (one.path / "PRUNED").write_text("2026-01-01 by a job that was killed\n")
    (one.path / "first").unlink()
    with pytest.raises(CadcError, match=r"its files were removed \(2026-01-01 by a job"):
        open_artifact(one.path)
    again = stage(tmp_path, "one", {}, first=BIG, second=BIG[::-1])
    assert again.fingerprint == one.fingerprint
    assert not is_pruned(one.path)


@pytest.fixture
def three_days(workdir, experiment, day):
    """A run and its three updates."""
    for number in (1, 2, 3):
        rows = [(user(number), item(n), 300 * number + n) for n in range(20, 30)]
        carry_on(experiment(), workdir, day([*day_rows(number), *rows], name=f"day{number}"))
    base = Pipeline(experiment(), workdir).found()
    return base, updates_of(workdir, line_of(base))


def test_prune_keeps_what_the_newest_update_needs(workdir, experiment, day, three_days):
    base, (one, two, three) = three_days
    old = {workdir / folder for update in (one, two) for folder in update.artifacts.values()}
    paths = prunable(workdir, base)
    assert set(paths) == old
    freed = freed_bytes(paths)
    before = sum(f.stat().st_size for f in workdir.rglob("*") if f.is_file())
    remove(paths, "for a test")
    marks = sum(f.stat().st_size for f in workdir.rglob("PRUNED"))
    after = sum(f.stat().st_size for f in workdir.rglob("*") if f.is_file()) - marks
    assert before - after >= freed > 0
    assert artifacts_of(workdir, three)
    assert prunable(workdir, base) == []
    with pytest.raises(CadcError, match="its files were removed"):
        take_update(Pipeline(experiment(), workdir), 1)
    four = carry_on(experiment(), workdir, day([(user(5), item(99), 2000)], name="day4")).update
    assert four.number == 4
    assert four.report["vectors_since_full_build"]["user"]["all"]["rows"] > 0


def test_the_latest_stage_is_removed_first(tmp_path, monkeypatch):
    removed = []
    into = "cadc_rec.updates.prune.prune_artifact"
    monkeypatch.setattr(into, lambda path, _: removed.append(path))
    stages = ("evaluate", "prepare", "pretrain", "select", "train", "transitions")
    remove([tmp_path / name / "0123" for name in stages], "for a test")
    order = [path.parent.name for path in removed]
    assert order == [stage for stage in reversed(STAGES) if stage in stages]
    assert (order[0], order[-1]) == ("evaluate", "prepare")


@pytest.fixture
def dataset(tmp_path):
    """A dataset of two users and an item, and a user who has no row yet."""
    folder = tmp_path / "prepare" / "0123"
    for name, ids in (("ids/user_waiting", ["w"]), ("users", ["a", "b"]), ("items", ["7"])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        column = {"users": "user_id", "items": "item_id"}.get(name, "id")
        pq.write_table(pa.table({column: ids}), folder / f"{name}.parquet")
    return folder


def asked(users=(), items=(), kind=None):
    ids = {"user": pa.array(users, pa.string()), "item": pa.array(items, kind or pa.string())}
    return Request(ids, b"k" * 32)


@pytest.mark.parametrize(
    ("whom", "holds"),
    [
        (asked(["b"]), True),
        (asked(["c"]), False),
        (asked(["w"]), True),
        (asked(["c"], [7], pa.int64()), True),  # numbers here, text there
        (asked(["c"], [8], pa.int64()), False),
    ],
)
def test_a_dataset_holds_an_id_wherever_it_stands(dataset, whom, holds):
    assert _has_any(dataset, whom) == holds


def test_bad_rows_may_hold_anybody(dataset):
    (dataset / "rejected").mkdir()
    file, rows = dataset / "rejected" / "users.parquet", pa.table({"line": [3], "row": ["c;x"]})
    for table, holds in ((rows[:0], False), (rows, True), (rows.drop_columns(["row"]), False)):
        pq.write_table(table, file)
        assert _has_any(dataset, asked(["c"])) == holds


def test_where_all_were_forgotten_too_nothing_is_held(dataset):
    hashes = {"user": frozenset(hashes_of("user", ["c"], b"k" * 32)), "item": frozenset()}
    Forgotten(Forgotten.nobody().rows, hashes).save(dataset)
    assert _has_forgotten(dataset, asked(["c"]))
    assert not _has_forgotten(dataset, asked(["c", "d"]))
    assert not _has_forgotten(dataset.parent, asked(["c"]))


def test_what_another_experiment_made_after_it_forgot_them_holds_nobody(tmp_path):
    def users(*ids):
        out = pa.BufferOutputStream()
        pq.write_table(pa.table({"user_id": ids}), out)
        return {"users.parquet": out.getvalue().to_pybytes()}

    key = b"k" * 32
    said = {side: hashes_of(side, [name], key) for side, name in (("user", "c"), ("item", "x"))}
    told = {"forgotten.json": json.dumps({"rows": {}, "hashes": said}).encode()}
    had = stage(tmp_path, "prepare", {}, **users("b", "c"))
    learned = stage(tmp_path, "pretrain", {"dataset": had}, weights=b"1")
    left = stage(tmp_path, "prepare", {"dataset_before": had}, **users("b"), **told)
    inputs = {"dataset": left, "tables_before": learned}
    stage(tmp_path, "pretrain", inputs, weights=b"2")
    # What follows without having forgotten them is made of what had them.
    other = stage(tmp_path, "prepare", {"dataset_before": had, "day": "d"}, **users("b", "d"))
    also = stage(tmp_path, "pretrain", {**inputs, "dataset": other}, weights=b"3")
    found = holders_of(tmp_path, "line", [], asked(["c"]))
    assert set(found.own) == {had.path, learned.path, also.path}
    assert found.others == []


def test_nothing_is_removed_while_another_job_is_at_work(tmp_path):
    with empty_folder(tmp_path, "updates", "line-mine"):
        require_alone(tmp_path, "mine")
        with (
            empty_folder(tmp_path, "train", "0123"),
            pytest.raises(CadcError, match=r"another job is at work there \(train-0123\)"),
        ):
            require_alone(tmp_path, "mine")
        require_alone(tmp_path, "mine")


def test_artifacts_that_hold_the_same_are_both_needed(tmp_path):
    one, two = (stage(tmp_path, "prepare", {"raw": raw}, data=BIG) for raw in ("a", "b"))
    stage(tmp_path, "prepare", {"raw": "c"}, data=BIG[::-1])
    stage(tmp_path, "pretrain", {"raw": "a"}, data=BIG)
    assert one.path != two.path
    assert _holding(tmp_path, {("prepare", one.fingerprint)}) == {one.path, two.path}


@pytest.mark.slow
def test_with_the_run_the_chain_still_goes_on(workdir, experiment, day, three_days):
    base, (*_, three) = three_days
    remove(prunable(workdir, base, with_run=True), "for a test")
    assert all(is_pruned(made.path) for made in base.values())
    assert artifacts_of(workdir, three)
    with pytest.raises(CadcError, match="the run itself was pruned; take one of its updates"):
        take_update(Pipeline(experiment(), workdir), 0)
    taken = take_update(Pipeline(experiment(), workdir))
    assert taken.update.number == 3
    four = carry_on(experiment(), workdir, day([(user(5), item(99), 2000)], name="day4")).update
    assert four.report["vectors_since_full_build"] == {}
    made = Pipeline(experiment(), workdir).run()  # and a run makes it anew, with the same bytes
    assert made["prepare"].fingerprint == base["prepare"].fingerprint


@pytest.mark.slow
def test_what_another_experiment_is_made_of_stays(workdir, experiment, three_days):
    base, _ = three_days
    other = Pipeline(experiment(train={"epochs": 1, "batch_size": 64}), workdir).run()
    paths = set(prunable(workdir, base, with_run=True))
    assert {other[s].path for s in ("prepare", "pretrain", "select")}.isdisjoint(paths)
    assert {base[s].path for s in ("train", "evaluate")} <= paths


@pytest.mark.slow
def test_the_command_shows_first_and_removes_when_told(cli, config, workdir, day):
    for number in (1, 2):
        folder = day([(user(7), item(50 + number), 300 + number)], name=f"day{number}")
        assert cli("update", config, "--new", folder, "--workdir", workdir).code == 0
    shown = cli("prune", config, "--workdir", workdir)
    assert shown.code == 0
    assert "5 artifacts" in shown.out
    assert "--yes removes their files" in shown.out
    assert not list(workdir.rglob("PRUNED"))
    assert cli("prune", config, "--workdir", workdir, "--yes").code == 0
    assert len(list(workdir.rglob("PRUNED"))) == 5
    assert "nothing to remove" in cli("prune", config, "--workdir", workdir, "--yes").out
