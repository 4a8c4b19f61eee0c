"""What a service is told counts at once, after a kill, and until a newer bundle holds it.

What is expected is what a predictor answers in this process to which the same events were told; how
that counts is tested by hand beside it.
"""

import asyncio
import json
import signal
import threading

import pytest

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.event_log import EventLog
from cadc_rec.serving.http.journal import Journal
from cadc_rec.serving.predict.events import Event
from cadc_rec.serving.predict.predictor import Predictor
from tests.serving.http.conftest import KEY
from tests.serving.http.test_reload import ask, move, reload

pytestmark = pytest.mark.slow

EVENTS = "/v2/models/recommender/events"
SETS = (
    "data.generated.users=260",
    "data.generated.interactions=3000",
    "pretrain.factors=7",
    "transitions.form=lists",
    "transitions.targets=20",
    "prior.fit=validation",
    "prior.recent=true",
)


@pytest.fixture(scope="module")
def made(tiny, spawn, tmp_path_factory):
    """One model as two bundles: of the evaluation, and of the longer log for production."""
    folder = tmp_path_factory.mktemp("recent")
    sets = [word for one in SETS for word in ("--set", one)]
    commands = [("run",)]
    for state in ("evaluation", "production"):
        commands.append(("export", "--for", state, "--out", folder / state))
    for name, *more in commands:
        with_these = ("--method", "prior", *sets, "--workdir", folder / "work")
        process = spawn(name, tiny, *more, *with_these)
        assert process.wait(300) == 0, process.said
    return folder


@pytest.fixture
def place(made, tmp_path):
    """A link to the bundle of the evaluation."""
    link = tmp_path / "current"
    link.symlink_to(made / "evaluation")
    return link


def recommended(service, user, history=None):
    inputs = [{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [user]}]
    if history is not None:
        more = {"shape": [1, len(history)], "datatype": "INT64", "data": history}
        inputs.append({"name": "history", **more})
    status, answer = ask(service, body=json.dumps({"inputs": inputs}).encode())
    assert status == 200, answer
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    return found["item_id"], found["source"]


def tell(service, *events, key=KEY):
    return ask(service, EVENTS, json.dumps({"events": list(events)}).encode(), key)


def as_json(event):
    named = {"item_id": event.item, "time": event.time, "user_id": event.user, "id": event.id}
    return {name: value for name, value in named.items() if value is not None}


def same(service, predictor, users):
    for user in users:
        items, (source,) = recommended(service, user)
        found = predictor.recommend([user], 10)
        assert items == found.lists()[0]
        assert source == ["known", "history", "popularity"][found.sources[0]]


def some(predictor):
    """Events of the next day: of nobody, of a known user, of somebody new."""
    items, (user, other) = predictor.items.ids.tolist(), predictor.users.ids.tolist()[:2]
    end = predictor.events.log_ends
    events = [Event(items[n % 7], end + 60.0 * n, id=f"e{n}") for n in range(1, 40)]
    events += [Event(items[n], end + 2400 + n, user) for n in (20, 21)]
    return [*events, Event(items[22], end + 2500, -7)], [user, other, -7]


def test_events_count_at_once_and_after_a_kill(start, place):
    service = start(place, key=KEY)
    predictor = Predictor.load(place)
    events, users = some(predictor)
    same(service, predictor, users)
    before = [recommended(service, user) for user in users]
    status, answer = tell(service, *map(as_json, events))
    assert (status, answer["taken"]) == (200, len(events))
    assert predictor.count(events).taken == len(events)
    same(service, predictor, users)
    assert [recommended(service, user) for user in users] != before
    # The same once more, by name; and what cannot be counted.
    more = [*map(as_json, events[:39]), {"item_id": -1}, {"item_id": 0, "time": 1.0}]
    assert tell(service, *more)[1] == {
        "model_name": "recommender",
        "taken": 0,
        "duplicates": 39,
        "old": 1,
        "unknown_items": 1,
    }
    same(service, predictor, users)
    service.process.send_signal(signal.SIGKILL)
    service.process.wait(60)
    with (place.parent / "current.events").open("ab") as file:
        file.write(b"0badcafe {torn")
    again = start(place, key=KEY)
    same(again, predictor, users)
    assert tell(again, as_json(events[0]))[1]["duplicates"] == 1


def test_a_newer_bundle_goes_on_with_what_it_does_not_hold(start, place, made):
    service = start(place, "--watch", "0", key=KEY)
    old, new = Predictor.load(place), Predictor.load(made / "production")
    ends = old.events.log_ends, new.events.log_ends
    assert ends[0] < ends[1]
    items, users = old.items.ids.tolist(), old.users.ids.tolist()[:3]
    held = [Event(items[1], (ends[0] + ends[1]) / 2, users[0], f"a{n}") for n in range(5)]
    held += [Event(items[2], ends[1]), Event(items[3], ends[1], users[1])]
    later = [Event(items[4 + n % 2], ends[1] + 1 + n, id=f"b{n}") for n in range(9)]
    later += [Event(items[8], ends[1] + 20, users[0]), Event(items[9], ends[1] + 21, -3)]
    assert tell(service, *map(as_json, held + later))[0] == 200
    old.count(held + later)
    same(service, old, [*users, -3])
    move(place, made / "production")
    assert reload(service)[0] == 200
    new.count(later)
    same(service, new, [*users, -3])
    kept = Journal(place.parent / "current.events", "events").news().records
    assert sorted(each["time"] for each in kept) == sorted(event.time for event in later)
    tell(service, {"item_id": items[5], "time": ends[1] + 30})
    new.count([Event(items[5], ends[1] + 30)])
    same(service, new, users)


def test_two_processes_count_what_either_is_told(start, place):
    one, other = start(place, key=KEY), start(place, key=KEY)
    predictor = Predictor.load(place)
    events, users = some(predictor)
    tell(one, *map(as_json, events[::2]))
    tell(other, *map(as_json, events[1::2]))
    predictor.count(events)
    same(other, predictor, users)
    for _ in range(100):  # the first one looks every second
        threading.Event().wait(0.1)
        if recommended(one, -7)[1] == ["history"]:
            break
    same(one, predictor, users)


def test_workers_count_what_one_of_them_is_told(start, place):
    service = start(place, "--workers", "2", key=KEY)
    predictor = Predictor.load(place)
    events, users = some(predictor)
    assert tell(service, *map(as_json, events))[1]["taken"] == len(events)
    predictor.count(events)
    for _ in range(100):
        threading.Event().wait(0.1)
        if all(recommended(service, -7)[1] == ["history"] for _ in range(8)):
            break  # whichever worker takes a connection
    for _ in range(4):
        same(service, predictor, users)


def test_clients_that_tell_at_once_lose_nothing(start, place):
    service = start(place, key=KEY)
    predictor = Predictor.load(place)
    events, users = some(predictor)
    answers = []

    def client(first):
        for event in events[first::4] * 2:  # each twice: some by name, some not
            answers.append(tell(service, as_json(event)))

    clients = [threading.Thread(target=client, args=(n,)) for n in range(4)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    assert {status for status, _ in answers} == {200}
    assert sum(answer["duplicates"] for _, answer in answers) == 39
    predictor.count(events)
    same(service, predictor, users)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "the body"),
        (b"{}", "events: field required"),
        (b'{"events": []}', "at least 1 item"),
        (b'{"events": [{}]}', "events[0].item_id"),
        (b'{"events": [{"item_id": true}]}', "events[0].item_id"),
        (b'{"events": [{"item_id": 1, "time": "now"}]}', "events[0].time"),
        (b'{"events": [{"item_id": 1, "user": 2}]}', "events[0].user"),
        (b'{"events": [{"item_id": 1, "time": 1e300}]}', "in the future"),
        (b'{"events": [{"item_id": 1, "id": ""}]}', "events[0].id"),
        (
            b'{"events": [{"item_id": 1, "user_id": "7"}, {"item_id": 1, "user_id": "Bob"}]}',
            "events[1].user_id: user ids are whole numbers in this bundle; got 'Bob'",
        ),
        (b'{"events": ' + b"[" * 100_000, "the body"),
        (json.dumps({"events": [{"item_id": 1}] * 10_001}).encode(), "at most 10000 items"),
    ],
)
def test_what_is_no_list_of_events_is_refused(told, body, named):
    service, journal = told
    status, answer = ask(service, EVENTS, body)
    assert status == 400
    assert named in answer["error"]
    assert not journal.exists()


@pytest.fixture(scope="module")
def told(made, tmp_path_factory):
    """A service with a key, and where its journal would be."""
    from tests.serving.http.conftest import Service

    folder = tmp_path_factory.mktemp("told")
    (folder / "bundle").symlink_to(made / "evaluation")
    running = Service(folder, folder / "bundle", "--events", folder / "journal", key=KEY)
    yield running, folder / "journal"
    assert running.stop() == 0
    assert "defect" not in running.log.read_text()


def test_nobody_without_the_key_tells_anything(told, start, place):
    service, journal = told
    assert tell(service, {"item_id": 1}, key="another key of no use")[0] == 401
    assert ask(service, EVENTS.replace("recommender", "other"), b"{}")[0] == 404
    assert not journal.exists()
    open_one = start(place)
    status, answer = tell(open_one, {"item_id": 1}, key=None)
    assert (status, "start the service with an API key" in answer["error"]) == (403, True)


def test_a_damaged_journal_is_told_of_at_the_start(made, tmp_path):
    journal = Journal(tmp_path / "journal", "events")
    for n in range(2):
        journal.append([{"item": n, "time": 1e9 + n, "id": str(n)}])
    body = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(body.replace(b'"item":0', b'"item":5'))
    with pytest.raises(CadcError, match="is damaged at byte"):
        EventLog(tmp_path / "journal").onto(Predictor.load(made / "evaluation"))


def test_a_full_journal_drops_its_oldest_half(made, tmp_path):
    predictor = Predictor.load(made / "evaluation")
    end, items = predictor.events.log_ends, predictor.items.ids.tolist()
    told = EventLog(tmp_path / "journal", most_bytes=20_000)
    told.onto(predictor)

    async def tell_all():
        for n in range(60):
            batch = [Event(items[n % 9], end + 1 + n + m / 10, user=10**6 + n) for m in range(9)]
            assert (await told.take(batch)).taken == 9

    asyncio.run(tell_all())
    told.close()
    assert (tmp_path / "journal").stat().st_size <= 20_000
    kept = Journal(tmp_path / "journal", "events").news().records
    assert kept[-1]["time"] == end + 60 + 0.8
    assert 40 < len(kept) < 540
    again = Predictor.load(made / "evaluation")
    EventLog(tmp_path / "journal").onto(again)  # the newest users are known after a restart
    keys = [str(10**6 + 59), str(10**6)]
    newest, oldest = again.events.of(keys)
    assert newest.tolist() == predictor.events.of(keys)[0].tolist() != []
    assert oldest.tolist() == []
