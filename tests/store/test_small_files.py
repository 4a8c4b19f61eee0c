"""Small files are written whole, whoever else writes them at the same time."""

import errno
import multiprocessing

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.store import atomic
from cadc_rec.store.atomic import write_atomically


def write_often(path, letter):
    for _ in range(40):
        write_atomically(path, letter * 10_000)


def test_processes_that_write_the_same_file_at_once_leave_one_of_their_texts(tmp_path):
    file = tmp_path / "made" / "same.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_often, args=(file, letter)) for letter in "abc"]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if file.exists():
            seen.add(file.read_text("utf-8"))
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {letter * 10_000 for letter in "abc"}
    assert [path.name for path in file.parent.iterdir()] == ["same.json"]


def test_a_full_disk_leaves_the_old_text_and_no_draft(tmp_path, monkeypatch):
    file = tmp_path / "same.json"
    write_atomically(file, "old")

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "_fsync", full)
    with pytest.raises(CadcError):
        write_atomically(file, "new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("same.json", "old")]
