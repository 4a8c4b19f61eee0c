"""A stream's batches become the updates that `cadc-rec update` makes of the same rows."""

import logging
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import BusyError, CadcError
from cadc_rec.export.withheld import Withheld
from cadc_rec.export.write import Wanted
from cadc_rec.follow.folder import FolderStream
from cadc_rec.follow.follow import Until, follow, remove_old
from cadc_rec.follow.publish import Shelf
from cadc_rec.follow.stream import Bounds, Stop
from cadc_rec.pipeline.pipeline import Pipeline
from cadc_rec.serving.bundle import layout
from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.delta import Delta, apply_delta
from cadc_rec.store.pruned import is_pruned
from cadc_rec.updates.chain import updates_of
from cadc_rec.updates.update import carry_on
from tests.updates.conftest import INTERACTIONS, day_rows, write_table
from tests.updates.test_killed_update import bytes_of

pytestmark = pytest.mark.slow


@pytest.fixture
def inbox(tmp_path):
    """Two files of a day's rows, and a folder of a day with a table of users."""
    folder, rows = tmp_path / "inbox", day_rows()
    write_table(folder / "a.parquet", rows[:18], INTERACTIONS)
    write_table(folder / "b.parquet", rows[18:], INTERACTIONS)
    write_table(folder / "c" / "interactions.parquet", [("u2", "i88", 300)], INTERACTIONS)
    users = pa.table({"user_id": ["u99"], "plan": ["pro"], "age": [22.0]})
    pq.write_table(users, folder / "c" / "users.parquet")
    return folder


@pytest.fixture
def followed(experiment, workdir):
    def run(folder, rows=None, until=None, **given):
        stream = FolderStream(folder, **given)
        until = until or Until(once=True)
        return list(follow(experiment(), workdir, stream, Bounds(rows), until))

    return run


def test_batches_are_the_updates_of_the_same_tables(inbox, followed, workdir, experiment, tmp_path):
    by_hand = tmp_path / "by-hand"
    shutil.copytree(workdir, by_hand)
    first, second, third = followed(inbox, rows=18)
    assert [one.update.number for one in (first, second, third)] == [1, 2, 3]
    assert first.update.report["progressive"]["metrics"].keys() >= {"hr@10"}
    rows = day_rows()
    for name, part in (("a", rows[:18]), ("b", rows[18:])):
        write_table(tmp_path / name / "interactions" / f"0001-{name}.parquet", part, INTERACTIONS)
        carry_on(experiment(), by_hand, tmp_path / name)
    carry_on(experiment(), by_hand, inbox / "c")
    mine, theirs = artifacts(workdir), artifacts(by_hand)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if mine[name] != theirs[name]] == []
    # A day that was taken by hand is known by its contents.
    assert carry_on(experiment(), workdir, inbox / "c").kept
    assert followed(inbox, rows=18) == []


def artifacts(workdir):
    return {k: v for k, v in bytes_of(workdir).items() if k.parts[0] != "updates"}


def csv(folder, name, *lines):
    (folder / name).write_text("".join(f"{line}\n" for line in lines))


BAD = {
    "a time that is none": (
        ["user_id,item_id,at", "u1,i3,oops"],
        r"bad\.csv: has no good row among its 1; the first is \S*bad\.csv, line 2: at is 'oops'",
    ),
    "another schema": (
        ["user_id,sku,at", "u1,i3,300"],
        r"bad\.csv, line 1: has no column 'item_id'",
    ),
    "another unit of time": (
        ["user_id,item_id,at", "u1,i29,1700000000000"],
        r"bad\.csv: its times are about 1700000000000, .* count different units",
    ),
    "an empty id": (["user_id,item_id,at", "u1,i3,300", ",i3,300"], r"bad\.csv, line 3: user_id"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_batch_that_cannot_be_learned_stops_the_stream_with_nothing_learned(
    kind, followed, workdir, tmp_path
):
    lines, why = BAD[kind]
    folder = tmp_path / "inbox"
    folder.mkdir()
    before = bytes_of(workdir)
    csv(folder, "bad.csv", *lines)
    with pytest.raises(CadcError, match=why) as refused:
        followed(folder)
    assert "\n" not in str(refused.value)
    assert "spool" not in str(refused.value)
    assert bytes_of(workdir) == before
    csv(folder, "bad.csv", "user_id,item_id,at", "u1,i29,300")
    csv(folder, "good.csv", "user_id,item_id,at", "u2,i28,300")
    assert len(followed(folder)) == 2


def test_ids_that_change_their_type_are_refused_where_they_are_numbers_and_text_elsewhere(
    followed, workdir, tmp_path, shop, experiment
):
    folder = tmp_path / "inbox"
    write_table(folder / "a.parquet", [(7, 3, 300), (7, 4, 301), (7, 5, 302)], INTERACTIONS)
    (told,) = followed(folder)  # the shop's ids are text, so these are "7" and "3"
    assert told.update.report["day"]["new_users"] == 1
    numbers = tmp_path / "numbers"
    rows = [(u, i, 10 * u + i) for u in range(12) for i in range(u % 3, 9)]
    write_table(numbers / "interactions.parquet", rows, INTERACTIONS)
    tables = {"interactions": {"path": str(numbers / "interactions.parquet"), "timestamp": "at"}}
    of_numbers = experiment(data={"source": "tables", "tables": tables})
    Pipeline(of_numbers, workdir).run()
    write_table(tmp_path / "texts" / "a.parquet", [("u7", 3, 300), ("8", 8, 301)], INTERACTIONS)
    before = bytes_of(workdir)
    with pytest.raises(CadcError, match=r"a\.parquet, row 1: user_id is 'u7'") as refused:
        list(
            follow(
                of_numbers, workdir, FolderStream(tmp_path / "texts"), Bounds(), Until(once=True)
            )
        )
    assert "Nothing of it was learned" in str(refused.value)
    assert bytes_of(workdir) == before


def test_a_base_that_is_gone_and_an_update_that_is_gone_are_one_sentence(inbox, followed, workdir):
    followed(inbox, rows=18)
    (inbox / "d.parquet").write_bytes((inbox / "a.parquet").read_bytes())
    write_table(inbox / "e.parquet", [("u1", "i88", 400)], INTERACTIONS)
    updates = sorted((workdir / "updates").iterdir(), key=lambda p: p.stat().st_mtime)
    moved = workdir.parent / "moved"
    updates[-1].rename(moved)
    with pytest.raises(CadcError, match="became update 3, and there are only 2"):
        followed(inbox)
    moved.rename(updates[-1])
    (run,) = (p for p in (workdir / "evaluate").iterdir() if p.name in _lines(workdir))
    run.rename(moved)
    with pytest.raises(CadcError, match="holds no finished run; make one"):
        followed(inbox)
    moved.rename(run)
    (told,) = followed(inbox)
    assert told.text == "e.parquet"


def _lines(workdir):
    return {lock.name.removesuffix(".lock") for lock in (workdir / "follow").glob("*.lock")}


def test_two_processes_do_not_follow_for_one_experiment(inbox, experiment, workdir):
    until = Until(once=True, stop=Stop())
    first = follow(experiment(), workdir, FolderStream(inbox), Bounds(), until)
    next(first)
    with pytest.raises(BusyError, match="another process follows a stream for this experiment"):
        next(follow(experiment(), workdir, FolderStream(inbox), Bounds(), until))
    assert len(list(first)) == 2


def test_each_update_is_a_bundle_with_a_delta_and_old_ones_go(
    inbox, experiment, workdir, tmp_path, caplog
):
    pytest.importorskip("faiss")
    (tmp_path / "block.txt").write_text("i3\ni88\n")
    lists = Withheld(block=tmp_path / "block.txt")
    shelf = Shelf(tmp_path / "bundles", Wanted(precisions=(), withheld=lists), keep=2)
    settings, made = experiment(), []
    stream, until = FolderStream(inbox), Until(once=True)

    def publish():
        made.append(shelf.publish(settings, workdir))

    for _ in follow(settings, workdir, stream, Bounds(), until, None, publish):
        publish()
        remove_old(settings, workdir, 2)
    run, *updates = made
    assert (run.bundle.name, run.delta) == ("update-000000", None)
    assert [one.bundle.name for one in updates] == [f"update-{n:06d}" for n in (1, 2, 3)]
    here = sorted(p.name for p in (tmp_path / "bundles").iterdir() if p.name[0] != ".")
    kept = ["update-000002", "update-000002.delta", "update-000003", "update-000003.delta"]
    assert here == ["current", *kept]
    second, third = (tmp_path / "bundles" / name for name in ("update-000002", "update-000003"))
    assert (tmp_path / "bundles" / "current").resolve() == third
    applied = apply_delta(second, Delta.open(updates[-1].delta), tmp_path / "applied")
    assert applied.fingerprint == Bundle.open(third).fingerprint
    ids = pq.read_table(third / layout.ITEMS)["item_id"].to_pylist()
    assert Bundle.open(third).arrays(layout.WITHHELD)["rows"].tolist() == sorted(
        map(ids.index, ("i3", "i88"))
    )
    assert shelf.publish(settings, workdir) is None
    done = updates_of(workdir, next(iter(_lines(workdir))))
    pruned = [is_pruned(workdir / update.artifacts["evaluate"]) for update in done]
    assert pruned == [True, False, False]
    # Killed between the bundle and the link: it goes on from what is there.
    link = tmp_path / "bundles" / "current"
    link.unlink()
    link.symlink_to("update-000002")
    again = shelf.publish(settings, workdir)
    assert (again.bundle, link.resolve()) == (third, third)
    # A damaged bundle is made anew; a base that is gone leaves no delta.
    (third / "known.safetensors").write_bytes(b"")
    shutil.rmtree(second)
    link.unlink()
    link.symlink_to("update-000002")
    with caplog.at_level(logging.WARNING, "cadc_rec"):
        again = shelf.publish(settings, workdir)
    assert again.delta is None
    assert "no delta, copy the whole bundle" in caplog.text
    assert Bundle.open(third).fingerprint == applied.fingerprint


def test_a_folder_of_other_bundles_is_refused(experiment, workdir, tmp_path):
    pytest.importorskip("faiss")
    out = tmp_path / "bundles"
    (out / "current").mkdir(parents=True)
    with pytest.raises(CadcError, match="current: is no link; give --export a folder of its own"):
        Shelf(out, Wanted())
