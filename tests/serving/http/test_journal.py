"""What a service was told is there again after a kill, in each process, and nowhere twice."""

import json
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.journal import Journal, JournalFullError


def _journal(path, **settings):
    return Journal(path, "events", **settings)


def test_records_are_read_in_order_and_each_once(tmp_path):
    writer, reader = _journal(tmp_path / "j"), _journal(tmp_path / "j")
    assert reader.news().records == []
    writer.append([{"n": 1}, {"n": 2}])
    assert reader.news().records == [{"n": 1}, {"n": 2}]
    writer.append([{"n": 3, "text": "é\n"}])
    news = reader.news()
    assert (news.records, news.anew) == ([{"n": 3, "text": "é\n"}], False)
    assert reader.news().records == []
    again = _journal(tmp_path / "j").news()
    assert ([record["n"] for record in again.records], again.anew) == ([1, 2, 3], True)


def test_each_line_has_its_checksum(tmp_path):
    _journal(tmp_path / "j").append([{"n": 1}])
    for line in (tmp_path / "j").read_bytes().splitlines():
        checksum, body = line.split(b" ", 1)
        assert int(checksum, 16) == zlib.crc32(body)
        json.loads(body)


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_torn_end_is_dropped_and_written_over(tmp_path, kept):
    journal = _journal(tmp_path / "j")
    journal.append([{"n": 1}])
    whole = journal.size
    journal.append([{"n": 2, "filler": "x" * 100}])
    with (tmp_path / "j").open("r+b") as file:
        file.truncate(whole + kept)
    reader = _journal(tmp_path / "j")
    assert reader.news().records == [{"n": 1}]
    _journal(tmp_path / "j").append([{"n": 3}])
    assert reader.news().records == [{"n": 3}]


def test_a_torn_first_line_is_an_empty_journal(tmp_path):
    _journal(tmp_path / "j").append([{"n": 1}])
    with (tmp_path / "j").open("r+b") as file:
        file.truncate(9)
    reader = _journal(tmp_path / "j")
    assert reader.news().records == []
    reader.append([{"n": 2}])
    assert reader.news().records == [{"n": 2}]


def test_damage_in_the_middle_is_refused(tmp_path):
    journal = _journal(tmp_path / "j")
    journal.append([{"n": 1}])
    journal.append([{"n": 2}])
    body = (tmp_path / "j").read_bytes()
    (tmp_path / "j").write_bytes(body.replace(b'"n":1', b'"n":7'))
    with pytest.raises(CadcError, match="is damaged at byte"):
        _journal(tmp_path / "j").news()


def test_a_file_of_another_kind_is_refused(tmp_path):
    Journal(tmp_path / "j", "item changes").append([{"n": 1}])
    with pytest.raises(CadcError, match="no journal of events"):
        _journal(tmp_path / "j").news()
    (tmp_path / "k").write_text("something else\n")
    with pytest.raises(CadcError, match="no journal of events"):
        _journal(tmp_path / "k").news()


def test_a_full_journal_takes_nothing_until_it_is_rewritten(tmp_path):
    journal, reader = _journal(tmp_path / "j", most_bytes=300), _journal(tmp_path / "j")
    journal.append([{"text": "x" * 150}])
    with pytest.raises(JournalFullError, match="may hold 300"):
        journal.append([{"text": "y" * 150}])
    assert [len(record["text"]) for record in reader.news().records] == [150]
    journal.rewrite([{"text": "z"}])
    news = reader.news()
    assert (news.records, news.anew) == ([{"text": "z"}], True)
    journal.append([{"text": "y" * 150}])
    assert [record["text"][0] for record in reader.news().records] == ["y"]


def test_each_rewritten_file_is_read_anew(tmp_path):
    """A file system gives the number of a removed file to a new one."""
    journal, reader = _journal(tmp_path / "j"), _journal(tmp_path / "j")
    for n in range(6):
        journal.rewrite([{"n": n}])
        if n % 2 == 0:
            news = reader.news()
            assert (news.records, news.anew) == ([{"n": n}], True)


def test_a_disk_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CadcError, match="cannot be used"):
        _journal(tmp_path / "file" / "j").append([{"n": 1}])


_WRITER = """
import sys
from pathlib import Path
from cadc_rec.serving.http.journal import Journal
journal = Journal(Path(sys.argv[1]), "events")
for n in range(100):
    journal.append([{"who": int(sys.argv[2]), "n": n}])
"""


@pytest.mark.slow
def test_processes_write_one_file(tmp_path):
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "j")]
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lambda who: subprocess.run([*command, str(who)]), range(3)))
    assert [each.returncode for each in ended] == [0, 0, 0]
    records = _journal(tmp_path / "j").news().records
    for who in range(3):
        assert [each["n"] for each in records if each["who"] == who] == list(range(100))
