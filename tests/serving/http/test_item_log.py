"""The journal of items: full, damaged, of other bundles, of several writers, asked meanwhile."""

import asyncio
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.event_log import EventLog
from cadc_rec.serving.http.item_log import ItemLog, ItemsNow
from cadc_rec.serving.http.journal import Journal
from cadc_rec.serving.http.load import Busy
from cadc_rec.serving.http.settings import ServiceSettings
from cadc_rec.serving.http.withheld import Withheld
from cadc_rec.serving.predict.attributes import TellableAttributes
from cadc_rec.serving.predict.events import Counted, Event
from cadc_rec.serving.predict.new_items import NewItemsOfBundle, PutItem
from tests.serving.toy import toy

KIND = {
    "name": "kind",
    "kind": "categorical",
    "size": 5,
    "vocabulary": [f"kind {n}" for n in range(4)],
}


def bundle(fingerprint="a", factor=1.0, **options):
    """A bundle that makes of kind n the vector of `factor` times n + 1, everywhere the same."""

    def vectors_of(attributes, count, dense):
        width = options.get("dim", 8)
        return np.outer(factor * attributes[0].values, np.ones(width)).astype(np.float32)

    tellable = TellableAttributes([KIND], [], [1])
    new = NewItemsOfBundle(tellable, None, lambda: SimpleNamespace(vectors_of=vectors_of))
    return replace(toy(**options), new_items=new, fingerprint=fingerprint * 64)


def vector(seed):
    return np.random.default_rng(seed).standard_normal(8).astype(np.float32)


def tell(log, put=(), remove=()):
    return asyncio.run(log.tell(put, remove))


@pytest.fixture
def opened(tmp_path):
    made = []

    def open_one(predictor, **settings):
        made.append(ItemLog(tmp_path / "journal", **settings))
        made[-1].onto(predictor)
        return made[-1]

    yield open_one
    for each in made:
        each.close()


def states(predictor):
    return {one: state.vector.tolist() for one, state in predictor.now.beside.states.items()}


def test_a_restart_has_what_was_told_bit_for_bit(opened):
    first = bundle()
    log = opened(first)
    put = [PutItem(2000, vector=vector(1)), PutItem(2001, {"kind": "kind 2"})]
    assert tell(log, put, [1003]) == ItemsNow(2, 0, 1)
    changed = PutItem(1004, vector=vector(2), title="x")
    assert tell(log, [changed], [2000, 5]) == ItemsNow(1, 1, 1, unknown=1)
    again = bundle()
    opened(again)
    assert states(again) == states(first) == {2001: [3.0] * 8, 1004: vector(2).tolist()}
    assert again.now.beside.removed == {1003}
    users = 100 + np.arange(20)
    wanted, found = (one.now.recommend(users, 40) for one in (first, again))
    assert wanted.lists() == found.lists()
    np.testing.assert_array_equal(wanted.scores, found.scores)


def test_another_bundle_drops_what_it_has_and_makes_vectors_anew(opened, tmp_path):
    log = opened(bundle(n_items=30))
    put = [PutItem(2000, vector=vector(1)), PutItem(2001, {"kind": "kind 0"}),
           PutItem(1040, vector=vector(2)), PutItem(1004, {"kind": "kind 1"})]  # fmt: skip
    assert tell(log, put, [1003, 1005]) == ItemsNow(3, 1, 2)
    newer = bundle("b", factor=5.0)  # it has item 1040
    log.beside(newer)
    assert states(newer) == {2000: vector(1).tolist(), 2001: [5.0] * 8}
    assert newer.now.beside.removed == {1003, 1005}
    assert tell(log, [PutItem(2002, vector=vector(3))]).new == 4, "the first decides"
    log.settle(newer)
    log.thin()
    assert set(states(newer)) == {2000, 2001, 2002}

    def kept():
        return {record["item"] for record in Journal(tmp_path / "journal", "items").news().records}

    assert kept() == {2000, 2001, 2002, 1040, 1004, 1003, 1005}, "others may serve the older one"
    newest = bundle("c")
    log.beside(newest)
    log.settle(newest)
    log.thin()
    assert kept() == {2000, 2001, 2002, 1003, 1005}
    log.beside(newer)
    log.settle(newer)
    assert tell(log, [PutItem(1040, {"kind": "kind 1"})]) == ItemsNow(3, 1, 2)


def test_vectors_of_another_dimension_and_other_ids_are_left_out(opened, caplog):
    log = opened(bundle())
    tell(log, [PutItem(2000, vector=vector(1)), PutItem(2001, {"kind": "kind 1"})], [1000])
    wider = bundle("b", dim=12)
    log.beside(wider)
    assert states(wider) == {2001: [2.0] * 12}
    assert "1 items of the journal are not such as this bundle takes" in caplog.text
    texts = bundle("c", text_ids=True)
    opened(texts)
    assert texts.now.beside.states == {}
    assert texts.now.recommend(["u1"], 5).lists() == texts.recommend(["u1"], 5).lists()


def test_few_items_that_a_bundle_cannot_embed_cost_few_calls(opened, caplog):
    put = [PutItem(2000 + n, {"kind": f"kind {3 if n in (7, 90) else n % 3}"}) for n in range(128)]
    tell(opened(bundle()), put)
    calls = []

    def vectors_of(attributes, count, dense):
        calls.append(count)
        if (attributes[0].values == 4).any():
            raise CadcError("it takes no kind 3.")
        return np.outer(attributes[0].values, np.ones(8)).astype(np.float32)

    stricter = bundle("b")
    stricter.new_items._load = lambda: SimpleNamespace(vectors_of=vectors_of)
    opened(stricter)
    kinds = {2000 + n: [n % 3 + 1.0] * 8 for n in range(128) if n not in (7, 90)}
    assert states(stricter) == kinds
    assert len(calls) <= 1 + 2 * 2 * 7, "all, and two halves for each halving of 128"
    assert "2 items of the journal are not such as this bundle takes" in caplog.text


def test_there_is_room_for_so_many_items_and_bytes(opened, tmp_path):
    log = opened(bundle(), most_items=3, most_bytes=3000)
    assert tell(log, [PutItem(2000 + n, vector=vector(n)) for n in range(3)]).new == 3
    with pytest.raises(Busy, match="at most 3 items are put beside a bundle"):
        tell(log, [PutItem(2003, vector=vector(3))])
    for n in range(100):  # of each item the last words count
        assert tell(log, [PutItem(2000, vector=vector(n))]).new == 3
    assert (tmp_path / "journal").stat().st_size <= 3000
    again = bundle()
    opened(again)
    assert states(again)[2000] == vector(99).tolist()
    with pytest.raises(Busy, match=r"the journal of items is full; export a bundle that has them"):
        tell(log, [PutItem(2001, vector=vector(1), title="x" * 1000),
                   PutItem(2002, vector=vector(1), title="x" * 1000),
                   PutItem(2000, vector=vector(1), title="x" * 1000)])  # fmt: skip
    assert tell(log, remove=[2000]).new == 2, "what is removed makes room"
    assert tell(log, [PutItem(2003, vector=vector(3))]).new == 3


def test_who_puts_too_much_does_not_refuse_the_removals_of_others(opened):
    predictor = bundle()
    log = opened(predictor, most_bytes=3000)
    assert tell(log, [PutItem(2000, vector=vector(1), title="x" * 800)]).new == 1
    large = [PutItem(2001 + n, vector=vector(n), title="x" * 1000) for n in range(3)]

    async def together():
        before = threading.Event()
        log._in_turn.thread.submit(before.wait)  # so they are gathered
        asked = [(large, []), ([], [1003]), ([PutItem(2009, vector=vector(9))], []), ([], [2000])]
        answers = [asyncio.create_task(log.tell(*one)) for one in asked]
        await asyncio.sleep(0)
        before.set()
        return await asyncio.gather(*answers, return_exceptions=True)

    first, second, third, fourth = asyncio.run(together())
    assert isinstance(first, Busy)
    assert "the journal of items is full" in str(first)
    assert (second, fourth) == (ItemsNow(1, 0, 1), ItemsNow(0, 0, 1))
    assert isinstance(third, Busy), "it was put together with the large one"
    again = bundle()
    opened(again)
    for one in (predictor, again):
        assert states(one) == {}
        assert one.now.beside.removed == {1003}


def test_a_defect_of_what_follows_items_leaves_no_one_without_an_answer(opened, caplog):
    def defect():
        raise KeyError("withheld")

    log = opened(bundle(), then=defect)

    async def asked():
        return await asyncio.wait_for(log.tell([PutItem(2000, vector=vector(1))], []), 30)

    assert asyncio.run(asked()) == ItemsNow(1, 0, 0)
    assert "a defect of cadc-rec: items: 'withheld'" in caplog.text


def test_one_wrong_item_changes_nothing_and_other_requests_are_answered(opened):
    predictor = bundle()
    log = opened(predictor)

    async def three():
        put = [PutItem(2000, vector=vector(1))]
        return await asyncio.gather(
            log.tell(put, []),
            log.tell([PutItem(2001, vector=vector(2)), PutItem(2002)], []),
            log.tell([PutItem(2000, {"kind": "kind 3"})], []),
            return_exceptions=True,
        )

    first, wrong, third = asyncio.run(three())
    assert (first, third) == (ItemsNow(1, 0, 0), ItemsNow(1, 0, 0))
    assert str(wrong) == "put[1]: give a new item's attributes, or its vector."
    state = predictor.now.beside.states[2000]
    assert state.attributes == {"kind": "kind 3"}
    assert state.vector.tolist() == vector(1).tolist()


def test_logs_of_one_journal_follow_each_other(opened):
    one, other = bundle(), bundle()
    first, second = opened(one), opened(other)
    withheld = Withheld(first._journal.path.with_name("availability"))
    withheld.onto(other)
    asyncio.run(withheld.tell([2001], []))
    second._then = withheld.follow
    tell(first, [PutItem(2000, vector=vector(1)), PutItem(2001, vector=vector(2))], [1000])
    tell(second, [PutItem(2002, vector=vector(3))])
    first.follow()
    assert states(one) == states(other)
    assert 2001 in one.now.recommend([103], 50).lists()[0]
    assert 2001 not in other.now.recommend([103], 50).lists()[0], "it was withheld before it came"
    row = int(other.now.items.rows([2002])[0])
    first._journal.rewrite(first._last.values())  # so all is read anew
    tell(first, remove=[2000])
    second.follow()
    assert set(states(other)) == {2001, 2002}
    assert other.now.items.rows([2002]) == [row], "rows stay those of their items"
    withheld.close()


def test_an_event_that_is_read_before_its_item_counts_when_the_item_comes(opened, tmp_path):
    one, other = bundle(), bundle()
    first, second = opened(one), opened(other)
    tells = EventLog(tmp_path / "events", before=first.follow)
    reads = EventLog(tmp_path / "events")  # it looks for no items by itself
    tells.onto(one)
    reads.onto(other)

    def count(log, *events):
        return asyncio.run(log.take([Event(item, 1e9, user, name) for item, user, name in events]))

    def taken(predictor):
        rows = predictor.events.of([3])  # user 103
        return [] if rows is None else predictor.now.items.of_rows(rows[0]).tolist()

    tell(first, [PutItem(2000, vector=vector(1))])
    assert count(tells, (2000, 103, "a"), (2001, 103, "b")) == Counted(1, unknown=1)
    assert count(reads, (1000, 104, "c")) == Counted(1), "it reads the others' with its own"
    assert count(reads, (2000, 103, "a")) == Counted(0, duplicates=1)
    assert (taken(one), taken(other)) == ([2000], [])
    tell(second, [PutItem(2001, vector=vector(2))])
    for log in (tells, reads, tells, reads):
        log._follow()
    assert sorted(taken(one)) == sorted(taken(other)) == [2000, 2001]
    assert count(tells, (2001, 103, "b")) == Counted(0, duplicates=1)
    tell(second, [PutItem(2002, vector=vector(3))])
    assert count(tells, (2002, 103, "d")) == Counted(1), "items of others are read before"
    again = bundle()
    opened(again)
    EventLog(tmp_path / "events").onto(again)
    assert sorted(taken(again)) == sorted(taken(one)) == [2000, 2001, 2002]
    for log in (tells, reads):
        log.close()


def test_so_many_events_wait_for_their_items(opened, tmp_path, monkeypatch):
    monkeypatch.setattr("cadc_rec.serving.http.event_log._MOST_UNKNOWN", 2)
    predictor = bundle()
    log = opened(predictor)
    told = EventLog(tmp_path / "events")
    told.onto(predictor)
    events = [Event(2000 + n, 1e9 + n, 103, str(n)) for n in range(3)]
    assert asyncio.run(told.take(events)).unknown == 3
    tell(log, [PutItem(2000 + n, vector=vector(n)) for n in range(3)])
    told._follow()
    rows = predictor.events.of([3])[0]
    assert rows.tolist() == predictor.now.items.rows([2002, 2001]).tolist()
    told.close()


def test_a_process_that_reloads_first_takes_nothing_from_the_others(opened):
    one, other = bundle(n_items=30), bundle(n_items=30)
    first, second = opened(one), opened(other)
    put = [PutItem(1040, vector=vector(1)), PutItem(1004, vector=vector(2))]
    tell(first, put, [1003])
    second.follow()
    before = states(other)
    assert set(before) == {1040, 1004}
    newer = bundle("b")
    first.beside(newer)
    first.settle(newer)
    first.thin()
    assert states(newer) == {}
    opened(bundle("b"))  # a process that is begun anew
    second.follow()
    assert states(other) == before
    assert other.now.beside.removed == {1003}


def test_a_damaged_journal_is_told_at_the_start_and_clients_get_no_path(opened, tmp_path, caplog):
    log = opened(bundle())
    tell(log, [PutItem(2000, vector=vector(1))])
    tell(log, [PutItem(2001, vector=vector(1))])
    body = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(body.replace(b'"item":2000', b'"item":2009'))
    with pytest.raises(CadcError, match="is damaged at byte"):
        opened(bundle())
    (tmp_path / "journal").unlink()
    (tmp_path / "journal").mkdir()
    with pytest.raises(Busy, match="the journal of items takes nothing, and the service's log"):
        tell(log, [PutItem(2002, vector=vector(1))])
    assert str(tmp_path) in caplog.text


def test_who_asks_while_items_come_and_go_gets_whole_answers(opened):
    predictor = bundle()
    log = opened(predictor)
    over, wrong, asked = threading.Event(), [], [0]

    def ask():
        while not over.is_set():
            now = predictor.now
            found = now.recommend([103, 107], 20, filter={"kind": ["kind 1"]})
            items = [one for line in found.lists() for one in line]
            rows = now.items.rows(items)
            kinds = {tuple(now.attributes["kind"].of_row(row)) for row in rows.tolist()}
            asked[0] += 1
            if (rows < 0).any() or kinds != {(2,)}:
                wrong.append((items, kinds))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(100):
        item = 2000 + n % 7
        tell(log, [PutItem(item, {"kind": f"kind {n % 3}"}, vector(n))], [2000 + (n + 3) % 7, 1001])
        tell(log, [PutItem(1001, {"kind": f"kind {n % 2}"})])
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert asked[0] > 10


def test_the_journal_lies_beside_the_others(tmp_path):
    assert ServiceSettings(tmp_path / "bundle.v1").items == tmp_path / "bundle.v1.items"
    settings = ServiceSettings("s3://bucket/live", events=tmp_path / "shop.items")
    assert settings.items == tmp_path / "shop.items.items"
    assert ServiceSettings("s3://bucket/live").items is None


def test_ids_that_came_and_went_take_rows_up_to_a_bound(opened, monkeypatch):
    monkeypatch.setattr("cadc_rec.serving.http.item_log._MOST_REMOVED", 5)
    log = opened(bundle())
    for n in range(5):
        assert tell(log, [PutItem(2000 + n, vector=vector(n))]).new == 1
        assert tell(log, remove=[2000 + n]).new == 0
    with pytest.raises(Busy, match="export a bundle that has them"):
        tell(log, [PutItem(3000, vector=vector(1))])
    assert tell(log, [PutItem(2001, vector=vector(1))]).new == 1
    again = opened(bundle())
    assert tell(again, [PutItem(3000, vector=vector(1))]).new == 2
