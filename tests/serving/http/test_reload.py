"""Another bundle takes the place of the first without a failed request, or is refused."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from cadc_rec.serving.bundle.bundle import Bundle
from cadc_rec.serving.bundle.delta import write_delta
from tests.serving.http.conftest import KEY, run_command

BODY = json.dumps(
    {"inputs": [{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [0]}]}
).encode()


def ask(service, path="/v2/models/recommender/infer", body=BODY, key=KEY):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    url = f"http://127.0.0.1:{service.http}{path}"
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def reload(service, key=KEY):
    return ask(service, "/v2/repository/models/recommender/load", b"{}", key)


class Load:
    """Clients that ask without a pause until they are told to end."""

    def __init__(self, service, clients=2):
        self.answers, self.going = [], True

        def client():
            while self.going:
                status, answer = ask(service)
                self.answers.append((status, answer.get("model_version")))

        self.threads = [threading.Thread(target=client) for _ in range(clients)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.going = False
        for thread in self.threads:
            thread.join()


@pytest.fixture
def place(bundles, tmp_path):
    """A link that names the first bundle."""
    link = tmp_path / "current"
    link.symlink_to(bundles[0])
    return link


def move(link, target):
    """Names another folder in one step, as a release does."""
    new = link.with_name("next")
    new.symlink_to(target)
    new.replace(link)


@pytest.mark.timeout(900)  # twenty loads of programs, a second of a core each
def test_twenty_reloads_under_load_fail_no_request(start, bundles, place):
    # On a busy machine more work may wait than is let wait by itself.
    service = start(place, "--watch", "0", "--max-wait", "10", key=KEY)
    versions = []
    with Load(service) as load:
        for turn in range(20):
            move(place, bundles[(turn + 1) % 2])
            status, answer = reload(service)
            assert status == 200, answer
            versions.append(ask(service)[1]["model_version"])
    assert len(load.answers) > 20
    assert {status for status, _ in load.answers} == {200}
    manifests = [json.loads((path / "manifest.json").read_text()) for path in bundles]
    second, first = (manifest["fingerprint"][:12] for manifest in manifests[::-1])
    assert versions == [second, first] * 10
    assert {version for _, version in load.answers} == {first, second}


def test_a_reload_over_grpc_is_answered(start, bundles, place):
    import grpc

    service = start(place, "--watch", "0", key=KEY)
    before = ask(service)[1]["model_version"]
    move(place, bundles[1])
    name = b"recommender"
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc}") as channel:
        load = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
        sent = b"\x0a" + bytes([len(name)]) + name  # field 1 of KServe's message
        answer = load(sent, metadata=[("authorization", f"Bearer {KEY}")], timeout=60)
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as refusal:
            list(stream(iter([b""]), timeout=30))
        assert refusal.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert answer == sent + b"\x10\x01"  # the name, and that it is loaded
    assert ask(service)[1]["model_version"] != before


def test_a_moved_link_is_noticed(start, bundles, place):
    service = start(place, "--watch", "0.2", key=KEY)
    service.process.send_signal(signal.SIGHUP)  # says nothing to a service without TLS
    before = ask(service)[1]["model_version"]
    move(place, bundles[1])
    service.said("loaded .* \\(")
    assert ask(service)[1]["model_version"] != before


_WATCHED = """
import asyncio, json, sys
from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.serving.http import loaded

bundles = [Path(path) for path in sys.argv[1:]]
store, let_go = {"bundle": bundles[0], "version": ("1",)}, []

def newest(address):
    assert address == "s3://bucket/live"
    if store["version"] is None:
        raise CadcError("s3://bucket/live: cannot be read.")
    return store["version"]

loaded.newest, loaded.let_go = newest, let_go.append
loaded.brought = lambda address: store["bundle"]

async def watched():
    service = loaded.Loaded("s3://bucket/live")
    first = service.predictor
    watching = asyncio.create_task(service.watch(0.05))
    store["version"] = None  # the store does not answer
    await asyncio.sleep(0.5)
    assert service.predictor is first
    store.update(bundle=bundles[1], version=("2",))
    while service.predictor is first and not watching.done():
        await asyncio.sleep(0.05)
    watching.cancel()
    return first.fingerprint, service.predictor.fingerprint

print(json.dumps([*asyncio.run(watched()), *map(str, let_go)]))
"""


def test_a_bundle_by_address_is_watched_in_its_store(bundles):
    """The store is a stand-in here; copies of real ones are tested in tests/store/remote.

    In a process of its own, for KServe's messages cannot be registered beside Triton's.
    """
    command = [sys.executable, "-c", _WATCHED, *map(str, bundles)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    manifests = [json.loads((path / "manifest.json").read_text()) for path in bundles]
    expected = [manifest["fingerprint"] for manifest in manifests]
    assert json.loads(done.stdout.splitlines()[-1]) == [*expected, str(bundles[0].resolve())]


_TOLD = """
import asyncio, json, sys, threading, time
from pathlib import Path

from cadc_rec.errors import CadcError
from cadc_rec.serving.http.event_log import EventLog
from cadc_rec.serving.http.journal import Journal
from cadc_rec.serving.http.load import Busy
from cadc_rec.serving.http.loaded import Loaded
from cadc_rec.serving.predict.events import Event
from cadc_rec.serving.predict.predictor import Predictor

first, second, journal = map(Path, sys.argv[1:])
link, found = journal.with_name("link"), {}
link.symlink_to(first)
inside, go = threading.Event(), threading.Event()

def refuse(predictor):
    predictor.events.log_ends = time.time() + 60  # such a log would hold all events so far
    raise CadcError("its program cannot be loaded.")

def wait(predictor):
    inside.set()
    assert go.wait(60)

async def told():
    log = EventLog(journal)
    service = Loaded(link, events=log)
    old = service.predictor
    items = old.items.ids.tolist()

    async def tell(n):
        assert (await log.take([Event(items[n], time.time(), -7, f"e{n}")])).taken == 1

    def counted():
        return [items[row] for row in service.predictor.events.of(["-7"])[0]]

    await tell(0)
    link.unlink()
    link.symlink_to(second)
    Predictor.load_ahead = refuse
    try:
        await service.reload()
        raise AssertionError("taken")
    except CadcError:
        found["refused"] = service.predictor is old
    await tell(1)
    found["old"] = counted() == items[1::-1]
    found["kept"] = [one["id"] for one in Journal(journal, "events").news().records]
    Predictor.load_ahead = wait
    given_up = asyncio.create_task(service.reload())
    assert await asyncio.to_thread(inside.wait, 60)
    given_up.cancel()  # a client whose deadline has come
    await asyncio.gather(given_up, return_exceptions=True)
    await tell(2)
    found["meanwhile"] = service.predictor is old and counted() == items[2::-1]
    go.set()
    while service.predictor is old:
        await asyncio.sleep(0.01)
    found["new"] = counted() == items[2::-1]
    await tell(3)
    found["after"] = counted() == items[3::-1]
    log.close()

    nowhere = EventLog(journal.with_name("no folder") / "journal")
    nowhere.onto(service.predictor)
    try:
        await nowhere.take([Event(items[4], time.time())])
    except Busy as busy:  # 503 with Retry-After; where the journal lies concerns nobody outside
        found["full"] = busy.retry_after == 30 and str(journal.parent) not in str(busy)
    nowhere.close()

asyncio.run(told())
print(json.dumps(found))
"""


def test_events_outlive_a_refused_bundle_and_a_load_that_was_given_up(bundles, tmp_path):
    command = [sys.executable, "-c", _TOLD, *map(str, bundles), str(tmp_path / "journal")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("kept") == ["e0", "e1"]
    names = ("refused", "old", "meanwhile", "new", "after", "full")
    assert found == dict.fromkeys(names, True)


_LET_GO = """
import asyncio, gc, sys, weakref
from pathlib import Path

from cadc_rec.serving.http import loaded
from cadc_rec.serving.http.item_log import ItemLog
from cadc_rec.serving.predict.new_items import PutItem
from tests.serving.toy import toy

folder = Path(sys.argv[1])
loaded.load_tested = lambda *_: (toy(), folder)
items, old = ItemLog(folder / "journal"), []
service = loaded.Loaded(folder, items=items)
gc.disable()
for put in ([], [PutItem(2000, vector=[1.0] * 8)], []):
    asyncio.run(items.tell(put, []))
    answering = service.predictor
    old += [weakref.ref(answering), weakref.ref(answering.bundle)]
    asyncio.run(service.reload())
    assert old[-1]() is not None, "an answer is given to its end"
    del answering
    assert [one for one in old if one() is not None] == []
items.close()
print(len(old))
"""


def test_the_last_answer_lets_an_old_bundle_go_with_the_items_beside_it(tmp_path):
    """The collector never comes to what was frozen, and to what is old seldom."""
    command = [sys.executable, "-c", _LET_GO, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "6"


def test_a_delta_takes_its_place_under_load_and_no_request_fails(start, bundles, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(bundles[0], here)
    delta = write_delta(*map(Bundle.open, bundles), tmp_path / "delta")
    service = start(here, "--watch", "0.2", key=KEY)
    with Load(service) as load:
        run_command("apply-delta", here, delta.path)
        service.said("loaded .* \\(")
    manifests = [json.loads((path / "manifest.json").read_text()) for path in bundles]
    first, second = (manifest["fingerprint"][:12] for manifest in manifests)
    assert ask(service)[1]["model_version"] == second
    assert {status for status, _ in load.answers} == {200}
    assert {version for _, version in load.answers} <= {first, second}


def damaged(tmp_path, bundle, how):
    copy = tmp_path / "damaged"
    shutil.copytree(bundle, copy)
    if how == "truncated":
        file = copy / "vectors" / "items.safetensors"
        file.write_bytes(file.read_bytes()[:-9])
    elif how == "altered":
        file = copy / "known.safetensors"
        contents = bytearray(file.read_bytes())
        contents[-1] ^= 1
        file.write_bytes(contents)
    elif how == "a stray pickle":
        (copy / "extra.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/pwned'\ntR.")
    elif how == "no manifest":
        (copy / "manifest.json").unlink()
    return copy


@pytest.mark.parametrize("how", ["truncated", "altered", "a stray pickle", "no manifest"])
def test_a_damaged_bundle_is_refused_and_the_old_one_goes_on(start, bundles, place, tmp_path, how):
    service = start(place, "--watch", "0", key=KEY)
    before = ask(service)
    move(place, damaged(tmp_path, bundles[1], how))
    with Load(service) as load:
        status, answer = reload(service)
    assert status == 400
    assert "The old bundle goes on answering." in answer["error"]
    assert {status for status, _ in load.answers} == {200}
    assert ask(service) == before
    move(place, bundles[1])
    assert reload(service)[0] == 200


def test_a_bundle_that_answers_otherwise_than_recorded_is_refused(start, bundles, place, tmp_path):
    from cadc_rec.serving.bundle.bundle import manifest_of

    copy = tmp_path / "liar"
    shutil.copytree(bundles[1], copy)
    recorded = json.loads((copy / "self_test.json").read_text())
    recorded["requests"][0]["scores"][0] += 1.0
    (copy / "self_test.json").write_text(json.dumps(recorded))
    old = json.loads((copy / "manifest.json").read_text())
    for name in ("manifest.json", "manifest.sig"):
        (copy / name).unlink(missing_ok=True)
    manifest = manifest_of(copy, old["name"], old["inputs"], old["versions"], old["created"])
    (copy / "manifest.json").write_text(json.dumps(manifest))
    service = start(place, "--watch", "0", key=KEY)
    before = ask(service)
    move(place, copy)
    status, answer = reload(service)
    assert status == 400
    assert "the self-test failed (1 of" in answer["error"]
    assert ask(service) == before


def test_only_who_knows_the_key_may_ask_or_reload(start, bundles):
    service = start(bundles[0], "--watch", "0", key=KEY)
    for key in (None, "wrong", KEY + "x", KEY[:-1]):
        assert ask(service, key=key)[0] == 401
        assert reload(service, key)[0] == 401
    assert ask(service)[0] == 200
    status, _ = ask(service, "/v2/health/ready", None, None)
    assert status == 200
    assert KEY not in service.log.read_text()


def test_without_a_key_nobody_reloads_over_the_network(service):
    status, answer = reload(service, None)
    assert (status, "start the service with an API key" in answer["error"]) == (403, True)


def test_a_request_in_flight_is_answered_before_the_service_ends(start, bundles):
    import socket

    service = start(bundles[0], "--watch", "0", real=True)
    with socket.create_connection(("127.0.0.1", service.http), timeout=30) as connection:
        head = (
            f"POST /v2/models/recommender/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}"
        )
        connection.sendall(head.encode() + b"\r\n\r\n" + BODY[:20])
        time.sleep(0.5)
        service.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        connection.sendall(BODY[20:])
        answer = b""
        while part := connection.recv(65536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert service.process.wait(60) == 0
