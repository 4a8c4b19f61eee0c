"""Items that a service is told of are in its answers: after a kill, in all workers, and until a
newer bundle has them."""

import json
import signal
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from benchmarks.hostile import resident_kib
from tests.serving.http.conftest import KEY, Service, run_command

pytestmark = pytest.mark.slow

PATH = "/v2/models/recommender/items"


def post(service, document, path=PATH, key=KEY):
    """The status and what the service says."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{service.http}{path}", body, headers)
    try:
        with urllib.request.urlopen(asked) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def ask(service, inputs, model="recommender", outputs=(), **parameters):
    """Outputs by name."""
    document = {
        "inputs": [
            {"name": name, "shape": [len(data)], "datatype": "INT64", "data": list(map(int, data))}
            for name, data in inputs.items()
        ],
        "parameters": parameters,
        "outputs": [{"name": name} for name in outputs],
    }
    status, answer = post(service, document, f"/v2/models/{model}/infer")
    assert status == 200, answer
    return {output["name"]: output["data"] for output in answer["outputs"]}


def best(service, user, k=10, **parameters):
    return ask(service, {"user_id": [user]}, outputs=["item_id"], k=k, **parameters)["item_id"]


@pytest.fixture(scope="module")
def world(bundles):
    """Vectors and ids of the first bundle, by its files alone."""
    import pyarrow.parquet as pq
    from safetensors.numpy import load_file

    class World:
        path = bundles[0]
        users = load_file(path / "vectors/users.safetensors")["vectors"].astype(np.float64)
        items = load_file(path / "vectors/items.safetensors")["vectors"].astype(np.float64)
        user_ids = pq.read_table(path / "users.parquet")["user_id"].to_pylist()
        item_ids = pq.read_table(path / "items.parquet")["item_id"].to_pylist()
        known = load_file(path / "known.safetensors")
        described = json.loads((path / "attributes.json").read_text())["item"]

        def taken(self, user):
            n = self.user_ids.index(user)
            rows = self.known["items"][self.known["indptr"][n] : self.known["indptr"][n + 1]]
            return {self.item_ids[row] for row in rows}

        def ranked(self, user, more=(), without=()):
            """Items, the best first, with other vectors put in place or behind."""
            vectors = dict(zip(self.item_ids, self.items, strict=True)) | dict(more)
            query = self.users[self.user_ids.index(user)]
            out = self.taken(user) | set(without)
            scores = {one: float(v @ query) for one, v in vectors.items() if one not in out}
            return sorted(scores, key=lambda one: -scores[one]), scores

    return World()


def aimed(world, user, by=3.0):
    """A vector that this user likes."""
    query = world.users[world.user_ids.index(user)]
    return (by * query / np.linalg.norm(query)).astype(np.float32)


@pytest.fixture
def place(bundles, tmp_path):
    link = tmp_path / "current"
    link.symlink_to(bundles[0])
    return link


def within(seconds, true):
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.02)
    return bool(true())


def test_items_come_change_and_go_and_survive_a_kill(start, place, world):
    service = start(place, key=KEY)
    user, other = world.user_ids[:2]
    mine, changed = aimed(world, user), aimed(world, user, 2.0)
    old = next(one for one in world.item_ids if one not in world.taken(user))
    gone = world.ranked(user)[0][0]
    told = {
        "put": [
            {"id": 900001, "vector": mine.tolist(), "title": "Just in"},
            {"id": 900002, "vector": (-mine).tolist()},
            {"id": old, "vector": changed.tolist()},
        ],
        "remove": [gone, 424242],
    }
    status, answer = post(service, told)
    assert (status, answer) == (
        200,
        {"model_name": "recommender", "new_items": 2, "changed_items": 1,
         "removed_items": 1, "unknown_items": 1},
    )  # fmt: skip
    more = {900001: mine.astype(float), 900002: -mine.astype(float), old: changed.astype(float)}

    def check(service):
        for one in (user, other):
            wanted, scores = world.ranked(one, more, [gone])
            found = ask(service, {"user_id": [one]}, outputs=["item_id", "score"], k=30)
            count = min(30, len(wanted))
            assert found["item_id"][:count] == wanted[:30]
            mine = [scores[item] for item in wanted[:30]]
            np.testing.assert_allclose(found["score"][:count], mine, rtol=1e-5)
        titles = ask(service, {"user_id": [user]}, outputs=["item_id", "title"], k=5)
        assert titles["title"][titles["item_id"].index(900001)] == "Just in"
        found = ask(service, {"item_id": [900001, gone, old]}, "recommender-embed")
        vectors = np.reshape(found["vector"], (3, -1))
        np.testing.assert_allclose(vectors[[0, 2]], [mine_, changed], rtol=1e-6)
        assert found["known"] == [True, False, True]
        pairs = {"user_id": [user, user], "item_id": [900001, gone]}
        found = ask(service, pairs, "recommender-score")
        assert found["known"] == [True, False]
        assert found["score"][0] == pytest.approx(world.ranked(user, more)[1][900001], rel=1e-5)
        like = ask(service, {"item_id": [900001]}, "recommender-similar", k=1)
        assert like["item_id"] == [old], "both look the same way"
        status, answer = post(
            service,
            {"inputs": [{"name": "item_id", "shape": [1], "datatype": "INT64", "data": [gone]}]},
            "/v2/models/recommender-similar/infer",
        )
        assert status == 400
        assert "no item has the id" in answer["error"]

    mine_ = mine
    check(service)
    service.process.send_signal(signal.SIGKILL)
    service.process.wait(30)
    again = start(place, key=KEY)
    check(again)
    explored = urllib.request.Request(
        f"http://127.0.0.1:{again.http}/explore?user={user}&k=3",
        headers={"authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(explored) as page:
        assert any(line["title"] == "Just in" for line in json.load(page)["recommended"])
    status, answer = post(again, {"remove": [900001, 900002], "put": [{"id": gone}]})
    assert (answer["new_items"], answer["removed_items"]) == (0, 0)
    assert best(again, user, 20) == world.ranked(user, {old: changed.astype(float)})[0][:20]


def test_availability_events_and_blocked_ids_take_a_new_item_as_any_other(start, place, world):
    service = start(place, key=KEY)
    user, mine = world.user_ids[0], aimed(world, world.user_ids[0])
    release = "/v2/models/recommender/availability"
    assert post(service, {"withhold": [900001]}, release)[1]["unknown_items"] == 1
    assert post(service, {"put": [{"id": 900001, "vector": mine.tolist()}]})[0] == 200
    assert 900001 not in best(service, user), "it was withheld before it came"
    assert post(service, {"release": [900001]}, release)[0] == 200
    assert best(service, user)[0] == 900001
    found = ask(service, {"user_id": [user], "block_id": [900001]}, outputs=["item_id"], k=10)
    assert found["item_id"] == world.ranked(user)[0][:10]
    found = ask(service, {"user_id": [user], "candidate_id": [900001, 7]}, outputs=["item_id"], k=1)
    assert found["item_id"] == [900001]
    event = {"events": [{"item_id": 900001, "user_id": user}]}
    assert post(service, event, "/v2/models/recommender/events")[1]["taken"] == 1
    assert best(service, user) == world.ranked(user)[0][:10], "what was taken is left out"
    service.process.send_signal(signal.SIGKILL)
    service.process.wait(30)
    again = start(place, key=KEY)
    assert best(again, user) == world.ranked(user)[0][:10]


def test_attributes_make_the_vector_that_embed_makes(start, place, world, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    values = {}
    for entry in world.described:
        word = entry["vocabulary"][0]
        values[entry["name"]] = [word] if entry["kind"] == "multi" else word
    new, out = tmp_path / "new.parquet", tmp_path / "vectors.parquet"
    rows = {"item_id": [900001], **{name: [value] for name, value in values.items()}}
    pq.write_table(pa.table(rows), new)
    run_command("embed", place, "--items", new, "--out", out)
    wanted = np.stack(pq.read_table(out)["vector"].to_numpy())
    service = start(place, key=KEY)
    status, answer = post(service, {"put": [{"id": 900001, "attributes": values}]})
    assert (status, answer["new_items"]) == (200, 1)
    found = ask(service, {"item_id": [900001]}, "recommender-embed")
    np.testing.assert_allclose([found["vector"]], wanted, rtol=1e-5)
    name, value = next((n, v) for n, v in values.items() if n != "year")
    only = {name: value if isinstance(value, list) else [value]}
    user = world.user_ids[0]
    every = best(service, user, len(world.item_ids), filter=json.dumps(only))
    assert 900001 in every
    assert set(every) - {900001, 0} <= set(world.item_ids)


def test_a_newer_bundle_drops_what_it_has(start, place, bundles, world):
    service = start(place, "--watch", "0", key=KEY)
    user, known = world.user_ids[0], world.item_ids[3]
    mine = aimed(world, user)
    told = [{"id": known, "vector": mine.tolist()}, {"id": 900001, "vector": mine.tolist()}]
    gone = next(one for one in world.item_ids if one != known)
    assert post(service, {"put": told, "remove": [gone]})[1]["changed_items"] == 1
    place.unlink()
    place.symlink_to(bundles[1])
    assert post(service, b"", "/v2/repository/models/recommender/load")[0] == 200
    found = ask(service, {"item_id": [known, 900001, gone]}, "recommender-embed")
    vectors = np.reshape(found["vector"], (3, -1))
    assert found["known"] == [True, True, False]
    assert not np.allclose(vectors[0], mine), "the newer bundle has it"
    np.testing.assert_allclose(vectors[1], mine, rtol=1e-6)
    assert post(service, {})[1] == {
        "model_name": "recommender", "new_items": 1, "changed_items": 0, "removed_items": 1,
        "unknown_items": 0,
    }  # fmt: skip
    # What the newer bundle has is kept while other processes may serve the one before.
    assert place.with_name("current.items").read_text().count('"item":') == 3


def test_workers_and_other_services_know_them_within_a_second(start, place, world):
    service = start(place, "--workers", "2", key=KEY)
    other = start(place, key=KEY)
    user, mine = world.user_ids[0], aimed(world, world.user_ids[0])
    assert post(service, {"put": [{"id": 900001, "vector": mine.tolist()}]})[0] == 200
    event = {"events": [{"item_id": 900001, "user_id": world.user_ids[1]}]}
    assert post(service, event, "/v2/models/recommender/events")[1]["unknown_items"] in (0, 1)
    # Each question comes over a connection of its own, so the workers take turns.
    every = lambda: all(best(service, user, 1) == [900001] for _ in range(12))  # noqa: E731
    assert within(10, every)
    assert within(10, lambda: best(other, user, 1) == [900001])
    assert post(other, {"remove": [900001]})[1]["new_items"] == 0
    wanted = world.ranked(user)[0][:1]
    assert within(10, lambda: all(best(service, user, 1) == wanted for _ in range(12)))


def test_there_is_room_for_so_many(start, place, world):
    service = start(place, "--max-new-items", "2", key=KEY)
    vector = [0.0] * world.items.shape[1]
    put = [{"id": 900000 + n, "vector": vector} for n in range(3)]
    status, answer = post(service, {"put": put})
    assert status == 503
    assert "at most 2 items are put beside a bundle" in answer["error"]
    assert post(service, {"put": put[:2]})[1]["new_items"] == 2
    assert post(service, {"put": put[2:]})[0] == 503
    assert post(service, {"put": put[2:], "remove": [900000]})[1]["new_items"] == 2


@pytest.fixture(scope="module")
def one(bundles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    (folder / "current").symlink_to(bundles[0])  # a journal of its own
    running = Service(folder, folder / "current", key=KEY)
    yield running
    assert running.stop() == 0
    assert "defect" not in running.log.read_text()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"put": [{"id": 900001}]}, "put[0]: give a new item's attributes, or its vector."),
        ({"put": [{"id": "x", "vector": [1.0]}]}, "item ids are whole numbers in this bundle"),
        ({"put": [{"id": 900001, "vector": [1.0]}]}, "a vector has "),
        ({"put": [{"id": 900001, "vector": ["a"]}]}, "put[0].vector[0]"),
        ({"put": [{"id": 900001, "attributes": {"colour": 1}}]}, "items have no 'colour'"),
        ({"put": [{"id": 900001, "price": 1}]}, "price: extra inputs are not permitted"),
        ({"put": [{"vector": [1.0]}]}, "put[0].id: field required"),
        ({"remove": [1.5]}, "remove[0]"),
        ({"remove": ["x"]}, "remove[0]: item ids are whole numbers in this bundle; got 'x'"),
        ({"remove": list(range(10_001))}, "at most 10000 items"),
        (b"{", "the body"),
        (
            b'{"put": [{"id": 1, "attributes": {"year": ' + b"[" * 9999 + b"]" * 9999 + b"}}]}",
            "the",
        ),
        (b'{"put": [{"id": 1' + b"0" * 400 + b', "vector": [1]}]}', "cannot be the id of an item"),
        (b'{"put": [{"id": 900001, "vector": [1e400]}]}', "put[0]"),
        (b'{"put": [{"id": 900001, "vector": [1' + b"0" * 400 + b"]}]}", "put[0]"),
    ],
)
def test_what_is_no_item_is_refused(one, document, message):
    status, answer = post(one, document)
    assert status == 400
    assert message in answer["error"]


def test_only_who_has_the_key_of_a_service_with_one_may_tell(one, start, bundles):
    assert post(one, {"remove": [1]}, key="wrong key of nobody")[0] == 401
    assert post(one, {"remove": [1]}, path="/v2/models/other/items")[0] == 404
    status, answer = post(start(bundles[1]), {"remove": [1]}, key=None)
    assert status == 403
    assert "start the service with an API key" in answer["error"]


def test_a_thousand_changes_beside_requests_that_are_all_answered(start, place, world):
    service = start(place, key=KEY)
    users = world.user_ids[:8]
    first = [best(service, user) for user in users]
    over, wrong, answered = threading.Event(), [], []

    def ask(user):
        while not over.is_set():
            try:
                answered.append(len(best(service, user, 20)))
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=ask, args=(user,)) for user in users[:2]]
    vectors = {900000 + n: aimed(world, users[n % 8]).tolist() for n in range(50)}

    def change(times):
        for n in range(times):
            put, gone = (900000 + (n + far) % 50 for far in (0, 25))
            told = {"put": [{"id": put, "vector": vectors[put]}], "remove": [gone]}
            assert post(service, told)[0] == 200

    change(100)
    for thread in threads:
        thread.start()
    before = resident_kib(service.pid)
    change(1000)
    after = resident_kib(service.pid)
    over.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert set(answered) == {20}
    assert after < 1.1 * before
    assert post(service, {"remove": list(vectors)})[1]["new_items"] == 0
    assert [best(service, user) for user in users] == first


def test_they_are_described_and_counted(one, world):
    asked = urllib.request.Request(
        f"http://127.0.0.1:{one.http}/openapi.json", headers={"authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(asked) as answer:
        document = json.load(answer)
    described = document["paths"]["/v2/models/{model_name}/items"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert set(document["components"]["schemas"][schema.rpartition("/")[2]]["properties"]) == {
        "put",
        "remove",
    }
    post(one, {"put": [{"id": 900001, "vector": [0.0] * world.items.shape[1]}], "remove": [-5]})
    asked.full_url = f"http://127.0.0.1:{one.http}/metrics"
    with urllib.request.urlopen(asked) as answer:
        text = answer.read().decode()
    assert 'cadc_rec_new_items{what="new"} 1.0' in text
    assert 'cadc_rec_item_changes_total{outcome="put"} 1.0' in text
    assert 'cadc_rec_item_changes_total{outcome="unknown_items"} 1.0' in text
