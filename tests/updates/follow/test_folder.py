"""Which files make up which batch, in which order, and what is refused."""

import gzip
import logging
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.follow.folder import FolderStream, rows_in
from cadc_rec.follow.stream import Bounds


def names(told):
    return [[one["name"] for one in batch.batch.taken] for batch in told]


def test_files_are_taken_in_the_natural_order_of_their_names(world):
    for number in (10, 9, 2, 100):
        world.put(f"day-{number}.csv", [f"{number},1"])
    assert names(world.run()) == [["day-2.csv"], ["day-9.csv"], ["day-10.csv"], ["day-100.csv"]]
    assert world.ledger.rows == [["2,1"], ["9,1"], ["10,1"], ["100,1"]]


def test_a_batch_is_closed_by_the_file_that_reaches_its_rows(world):
    for number, size in enumerate((2, 2, 3, 1, 1)):
        world.put(f"{number}.csv", [f"{number},{row}" for row in range(size)])
    told = world.run(rows=4)
    assert names(told) == [["0.csv", "1.csv"], ["2.csv", "3.csv"], ["4.csv"]]
    assert [batch.batch.rows for batch in told] == [4, 4, 1]


def test_without_the_end_of_a_stream_a_batch_waits_for_its_rows(world, tmp_path):
    world.put("0.csv", ["0,0", "0,1"])
    stream = FolderStream(world.inbox)
    stream.begin([])
    assert stream.gather(tmp_path / "draft", Bounds(rows=3), flush=False) is None
    assert stream.gather(tmp_path / "draft", Bounds(rows=3, minutes=1e-9), flush=False).rows == 2
    world.put("1.csv", ["1,0"])
    assert stream.gather(tmp_path / "draft", Bounds(rows=3), flush=False).rows == 3


def test_what_is_not_whole_yet_is_left_alone(world):
    world.put("whole.csv", ["1,1"])
    for name in (".hidden.csv", "_x.csv", "a.csv.tmp", "b.csv.part"):
        (world.inbox / name).write_text("user_id,item_id\n9,9\n")
    (world.inbox / "day" / "_temporary").mkdir(parents=True)  # Spark is still writing
    assert names(world.run()) == [["whole.csv"]]
    assert world.run() == []


def test_marked_files_and_folders_are_taken_once_their_mark_is_there(world):
    world.put("a.csv", ["1,1"])
    world.put("b.csv", ["2,2"])
    folder = world.inbox / "day" / "interactions"
    folder.mkdir(parents=True)
    (folder / "x.csv").write_text("user_id,item_id\n3,3\n")
    assert world.run(marked=True) == []
    (world.inbox / "b.csv.done").touch()
    (world.inbox / "day" / "_SUCCESS").touch()
    assert names(world.run(marked=True)) == [["b.csv"], ["day"]]
    assert world.ledger.rows == [["2,2"], ["3,3"]]


def test_a_folder_of_a_day_is_a_batch_of_its_own_and_keeps_its_tables(world, tmp_path):
    world.put("1.csv", ["1,1"])
    world.put("3.csv", ["3,3"])
    day = world.inbox / "2"
    (day / "interactions").mkdir(parents=True)
    (day / "interactions" / "x.csv").write_text("user_id,item_id\n2,2\n2,3\n")
    (day / "users.csv").write_text("id,plan\n2,free\n")
    (day / "_SUCCESS").touch()
    seen = {}
    update = world.ledger.update

    def noting(folder):
        seen[folder.name] = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.csv"))
        return update(folder)

    world.ledger.update = noting
    told = world.run(rows=100)
    assert names(told) == [["1.csv"], ["2"], ["3.csv"]]
    assert [batch.batch.rows for batch in told] == [1, 2, 1]
    assert told[1].batch.name.endswith("-2")
    assert seen[told[1].batch.name] == ["interactions/x.csv", "users.csv"]


def test_files_of_two_formats_are_two_batches(world):
    world.put("1.csv", ["1,1"])
    (world.inbox / "2.json").write_text('{"user_id": 2, "item_id": 2}\n')
    world.put("3.csv", ["3,3"])
    told = world.run(rows=100)
    assert names(told) == [["1.csv"], ["2.json"], ["3.csv"]]
    # A folder's .json files are no tables, so the copy is called otherwise.
    assert told[1].batch.taken[0]["spooled"] == "interactions/0001-2.jsonl"


def test_a_file_that_comes_late_is_taken_with_a_warning(world, caplog):
    world.put("day-5.csv", ["5,1"])
    world.run()
    world.put("day-4.csv", ["4,1"])
    with caplog.at_level(logging.WARNING, "cadc_rec"):
        assert names(world.run()) == [["day-4.csv"]]
    assert "day-4.csv: comes after day-5.csv, whose name stands behind it" in caplog.text


def test_the_same_bytes_under_another_name_are_left_out_once_and_for_all(world, caplog):
    world.put("a.csv", ["1,1"])
    world.run()
    shutil.copy(world.inbox / "a.csv", world.inbox / "b.csv")
    world.put("c.csv", ["2,2"])
    with caplog.at_level(logging.WARNING, "cadc_rec"):
        told = world.run(rows=10)
    assert "b.csv: holds the same bytes as a.csv, which was taken; left out" in caplog.text
    assert world.ledger.rows == [["1,1"], ["2,2"]]
    assert [one.get("left_out") for one in told[0].batch.taken] == ["the same as a.csv", None]
    assert world.run() == []


def test_two_files_of_the_same_bytes_in_one_batch_are_one(world):
    world.put("a.csv", ["1,1"])
    world.put("b.csv", ["1,1"])
    world.run(rows=10)
    assert world.ledger.rows == [["1,1"]]


def test_a_file_that_changes_after_it_was_taken_is_refused_and_a_touched_one_is_not(world):
    file = world.put("a.csv", ["1,1"])
    world.run()
    os.utime(file, (1, 1))
    assert world.run() == []
    file.write_text("user_id,item_id\n1,1\n2,2\n")
    with pytest.raises(CadcError, match=r"a\.csv: was taken before, and has changed since; put"):
        world.run()
    file.unlink()  # it may go, for its rows were learned
    assert world.run() == []


def test_a_file_that_is_written_while_it_is_copied_is_left_for_the_next_look(
    world, monkeypatch, caplog
):
    file = world.put("a.csv", ["1,1"])
    copy = shutil.copyfile

    def while_written(source, target):
        copy(source, target)
        with file.open("a") as more:
            more.write("2,2\n")

    monkeypatch.setattr(shutil, "copyfile", while_written)
    assert world.run() == []
    assert "a.csv: is still being written; rename it into place once whole" in caplog.text
    monkeypatch.setattr(shutil, "copyfile", copy)
    world.run()
    assert world.ledger.rows == [["1,1", "2,2"]]


def test_what_is_no_table_is_passed_over_with_a_word(world, caplog):
    (world.inbox / "notes.md").write_text("x")
    (world.inbox / "log.zip").write_bytes(b"PK")
    assert world.run() == []
    assert caplog.text.count("passed over") == 2


def test_a_folder_that_is_not_there_or_goes_is_one_sentence(world):
    with pytest.raises(CadcError, match="nowhere: cannot be read"):
        FolderStream(world.inbox / "nowhere")
    follower = world.follower()
    shutil.rmtree(world.inbox)
    with pytest.raises(CadcError, match="bring the folder back, or correct --from"):
        list(follower.run())


def test_a_file_that_goes_between_two_looks_and_a_long_name_do_no_harm(world, monkeypatch):
    world.put("a.csv", ["1,1"])
    copy = shutil.copyfile

    def gone(source, target):
        source.unlink()
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", gone)
    assert world.run() == []
    monkeypatch.setattr(shutil, "copyfile", copy)
    world.put("é" * 120 + ".csv", ["2,2"])
    world.run()
    assert world.ledger.rows == [["2,2"]]


def test_files_behind_one_that_goes_or_grows_are_taken_before_the_end(world, monkeypatch, caplog):
    first = world.put("a.csv", ["1,1"])
    for name, row in (("b.csv", "2,2"), ("c.csv", "3,3"), ("d.csv", "4,4")):
        world.put(name, [row])
    copy = shutil.copyfile

    def disturbed(source, target):
        if source.name == "a.csv":
            source.unlink()
        copy(source, target)
        if source.name == "b.csv":
            with source.open("a") as more:
                more.write("9,9\n")

    monkeypatch.setattr(shutil, "copyfile", disturbed)
    told = world.run(rows=10)
    assert not first.exists()
    assert names(told) == [["c.csv", "d.csv"]]
    assert "a.csv: went before it was taken" in caplog.text
    assert "b.csv: is still being written" in caplog.text


def test_files_behind_one_that_grows_wait_while_the_stream_goes_on(world, tmp_path, monkeypatch):
    file = world.put("a.csv", ["1,1"])
    world.put("b.csv", ["2,2"])
    copy = shutil.copyfile

    def while_written(source, target):
        copy(source, target)
        with file.open("a") as more:
            more.write("9,9\n")

    monkeypatch.setattr(shutil, "copyfile", while_written)
    stream = FolderStream(world.inbox)
    stream.begin([])
    assert stream.gather(tmp_path / "draft", Bounds(), flush=False) is None
    monkeypatch.setattr(shutil, "copyfile", copy)
    (taken,) = stream.gather(tmp_path / "draft", Bounds(), flush=False).taken
    assert taken["name"] == "a.csv"


def a_day(world, name="day"):
    folder = world.inbox / name / "interactions"
    folder.mkdir(parents=True)
    (folder / "x.csv").write_text("user_id,item_id\n3,3\n")
    return folder


def test_a_file_of_a_day_that_cannot_be_copied_is_named(world):
    folder = a_day(world)
    (folder / "y.csv").symlink_to("nowhere.csv")
    with pytest.raises(CadcError, match=r"y\.csv: cannot be copied .* with --skip day") as refused:
        world.run()
    assert str(refused.value).startswith(str(folder))
    world.run(skip=["day"])
    assert world.ledger.rows == []


def test_a_day_of_which_a_file_goes_while_it_is_copied_is_left_for_the_next_look(
    world, monkeypatch, caplog
):
    folder = a_day(world)
    (folder / "y.csv").write_text("user_id,item_id\n4,4\n")
    copy = shutil.copytree

    def gone(source, target, **given):
        (folder / "y.csv").unlink(missing_ok=True)
        raise shutil.Error([(str(folder / "y.csv"), "there", "No such file or directory")])

    monkeypatch.setattr(shutil, "copytree", gone)
    assert world.run() == []
    assert "day: is still being written" in caplog.text
    monkeypatch.setattr(shutil, "copytree", copy)
    world.run()
    assert world.ledger.rows == [["3,3"]]


def test_a_folder_without_files_is_not_there_yet(world):
    (world.inbox / "day" / "interactions").mkdir(parents=True)
    assert world.run() == []
    (world.inbox / "day" / "interactions" / "x.csv").write_text("user_id,item_id\n3,3\n")
    assert names(world.run()) == [["day"]]


def test_a_name_to_skip_need_not_be_readable(world, monkeypatch):
    world.put("a.csv", ["1,1"])
    world.put("b.csv", ["2,2"])
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "a.csv")
    with pytest.raises(CadcError, match=r"a\.csv: cannot be read; mend its rights"):
        world.run()
    world.run(skip=["a.csv"])
    assert world.ledger.rows == [["2,2"]]


def test_rows_are_counted_without_the_line_of_names(tmp_path):
    table = pa.table({"a": [1, 2, 3]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as file:
        file.write_table(table)
    with pa.ipc.new_stream(tmp_path / "b.arrow", table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "a.csv").write_text("a\n1\n2\n3")  # without a last line end
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a\n1\n2\n3\n"))
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n{"a": 2}\n{"a": 3}\n')
    for file in tmp_path.iterdir():
        assert rows_in(file, header=True) == 3, file
    assert rows_in(tmp_path / "a.csv", header=False) == 4
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")  # what is wrong is for the update to say
    assert rows_in(tmp_path / "torn.parquet", header=True) == 0
