"""The journal of what is withheld: full, broken, with ids of other forms, and many at once."""

import asyncio
import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.serving.http import in_turn
from cadc_rec.serving.http import withheld as module
from cadc_rec.serving.http.journal import Journal
from cadc_rec.serving.http.load import Busy
from cadc_rec.serving.http.withheld import Withheld
from cadc_rec.serving.predict.ids import IdMap
from tests.serving.toy import toy


def bundle(ids, forms=(), sold_out=(), fingerprint="one"):
    """What `Withheld` needs of a predictor; `rows` are those withheld."""
    ids = np.array(ids, object if isinstance(ids[0], str) else np.int64)
    found = SimpleNamespace(
        items=IdMap("item", ids, forms),
        rows=None,
        sold_out=np.array(sold_out, np.int64),
        fingerprint=fingerprint,
    )
    found.now = found  # without items beside it
    found.withhold = lambda rows: setattr(found, "rows", sorted(rows.tolist()))
    return found


def tell(told, withhold=(), release=()):
    return asyncio.run(told.tell(withhold, release))


@pytest.fixture
def opened(tmp_path):
    made = []

    def open_one(predictor, **settings):
        made.append(Withheld(tmp_path / "journal", **settings))
        made[-1].onto(predictor)
        return made[-1]

    yield open_one
    for each in made:
        each.close()


def test_a_full_journal_takes_releases_and_then_items_again(opened, tmp_path):
    predictor = bundle([f"item-{n:040}" for n in range(100)])
    told, items = (
        opened(predictor, most_bytes=2000),
        predictor.items.ids.at(np.arange(100)).tolist(),
    )
    count = 20
    for n in range(count):  # about 90 bytes each
        assert tell(told, [items[n]]) == (n + 1, 0)
    with pytest.raises(Busy, match="is full; release some, or export a bundle without them"):
        tell(told, items[count:])
    assert predictor.rows == list(range(count))
    assert tell(told, release=[items[0]]) == (count - 1, 0)
    assert predictor.rows == list(range(1, count))
    assert tell(told, [items[50]]) == (count, 0)
    again = bundle([f"item-{n:040}" for n in range(100)])
    opened(again, most_bytes=2000)
    assert again.rows == [*range(1, count), 50], "what the disk has is what was answered"
    assert (tmp_path / "journal").stat().st_size <= 2000


def test_a_newer_bundle_with_other_forms_releases_what_an_older_one_kept(opened):
    older = bundle(["x", "y"])
    first = opened(older)
    assert tell(first, [" shoe", "shoe ", "hat"]) == (3, 3)
    newer = bundle(["x", "shoe", "hat"], ["trim"])
    told = opened(newer)
    assert newer.rows == [1, 2]
    assert tell(told, release=["shoe"]) == (1, 0)
    assert newer.rows == [2]
    fresh = bundle(["x", "shoe", "hat"], ["trim"])
    opened(fresh)
    assert fresh.rows == [2], "a restart knows it, too"


def test_a_journal_that_cannot_be_used_is_the_services_fault(opened, tmp_path, caplog):
    told = opened(bundle([1, 2]))
    with pytest.raises(CadcError, match="item ids are whole numbers") as mistake:
        tell(told, ["x"])
    assert not isinstance(mistake.value, Busy)
    Journal(tmp_path / "journal", "events").append([{"item": 1}])
    with pytest.raises(Busy, match="the service's log says why") as refused:
        tell(told, [1])
    assert refused.value.retry_after == 30
    assert "is no journal of availability" in caplog.text


def test_what_comes_at_once_takes_few_writes_and_each_is_answered(opened, monkeypatch):
    predictor = bundle(list(range(300)))
    told, free = opened(predictor), threading.Event()
    append, writes = told._journal.append, []

    def slow(records):
        writes.append(list(records))
        assert free.wait(30)
        append(records)

    monkeypatch.setattr(told._journal, "append", slow)

    async def many():
        first = asyncio.create_task(told.tell([299], []))
        while not writes:
            await asyncio.sleep(0.001)
        asked = [[n] for n in range(in_turn._MOST_WAITING - 1)]
        tasks = [asyncio.create_task(told.tell(each, [])) for each in [*asked, ["x"]]]
        await asyncio.sleep(0)
        tasks[5].cancel()
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="too many requests wait for the disk"):
            await told.tell([298], [])
        free.set()
        return [await first, *await asyncio.gather(*tasks, return_exceptions=True)]

    found = asyncio.run(many())
    assert len(writes) == 2
    assert found.pop(6).__class__ is asyncio.CancelledError
    assert "whole numbers" in str(found.pop())
    assert found == [(1, 0)] + [(255, 0)] * 254
    assert predictor.rows == [n for n in range(255) if n != 5] + [299]


def test_a_request_sees_those_before_it_in_the_same_write(opened, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WITHHELD", 2)
    predictor = bundle(list(range(5)))
    told = opened(predictor)
    found = told._told([([1, 2], []), ([3], []), ([], [1]), ([1, 3], [1]), ([4], [])])
    assert [each if isinstance(each, tuple) else type(each) for each in found] == [
        (2, 0), Busy, (2, 0), (2, 0), Busy,
    ]  # fmt: skip
    assert predictor.rows == [2, 3]


def test_what_a_bundle_has_as_sold_out_comes_back_when_it_is_told(opened):
    ids = [10, 11, 12, 13]
    predictor = bundle(ids, sold_out=[1, 3])
    told = opened(predictor)
    assert predictor.rows == [1, 3]
    assert tell(told, withhold=[10]) == (3, 0)
    assert tell(told, release=[11, 12]) == (2, 0)
    assert predictor.rows == [0, 3]
    assert tell(told, release=[11]) == (2, 0)
    again = bundle(ids, sold_out=[1, 3])  # a restart
    other = opened(again)
    assert again.rows == [0, 3]
    assert tell(other, withhold=[11]) == (3, 0)
    assert again.rows == [0, 1, 3]
    assert tell(other, release=[11, 13, 10]) == (0, 0)
    assert again.rows == []
    # A newer bundle knows anew what is sold out; the older one's releases were of it alone.
    newer = bundle([9, *ids], sold_out=[2], fingerprint="two")
    other.beside(newer)
    assert (newer.rows, again.rows) == ([2], [])
    other.settle(newer)
    assert tell(other, withhold=[11, 9]) == (2, 0)  # told of both, sold out or not
    assert newer.rows == [0, 2]
    newest = bundle([9, *ids], fingerprint="three")
    other.onto(newest)
    assert newest.rows == [0, 2]


def test_a_predictor_answers_with_what_is_back_in_store(opened):
    predictor = dataclasses.replace(toy(), sold_out=np.array([3, 8]), withheld=np.array([5]))
    assert predictor.no_answer.tolist() == [3, 5, 8]
    told = opened(predictor)
    assert predictor.no_answer.tolist() == [3, 5, 8]
    assert tell(told, release=[1003, 1005]) == (1, 0)  # 1005 is never recommended
    assert predictor.no_answer.tolist() == [5, 8]


def test_a_full_journal_keeps_what_is_back_in_store(opened, tmp_path):
    ids = list(range(100))
    predictor = bundle(ids, sold_out=[5, 7])
    told = opened(predictor, most_bytes=1500)
    tell(told, release=[5])
    for n in range(40):
        tell(told, withhold=[10 + n])
        tell(told, release=[10 + n])
    assert (tmp_path / "journal").stat().st_size <= 1500
    again = bundle(ids, sold_out=[5, 7])
    opened(again, most_bytes=1500)
    assert again.rows == predictor.rows == [7]
