"""Triton's and KServe's own clients get the offline ranking, over HTTP and gRPC."""

import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from cadc_rec.serving.predict.predictor import Predictor


@pytest.fixture(params=["http", "grpc"])
def client(request, service):
    module = getattr(__import__(f"tritonclient.{request.param}"), request.param)
    made = module.InferenceServerClient(f"127.0.0.1:{getattr(service, request.param)}")
    made.module = module
    yield made
    made.close()


def tensor(client, name, values, kind="INT64"):
    array = np.array(values, dtype=np.int64 if kind == "INT64" else object)
    made = client.module.InferInput(name, list(array.shape), kind)
    made.set_data_from_numpy(array)
    return made


def test_every_user_gets_the_offline_ranking(client, expected):
    for row, user in enumerate(expected.user_ids.tolist()):
        found = client.infer(
            "recommender", [tensor(client, "user_id", [user])], parameters={"k": 7}
        )
        assert found.as_numpy("item_id").tolist() == [expected.ranked[row, :7].tolist()]
        np.testing.assert_allclose(
            found.as_numpy("score")[0], expected.scores[row, :7], rtol=1e-6, atol=1e-6
        )
        assert found.as_numpy("source").tolist() == [b"known"]
        assert found.as_numpy("count").tolist() == [7]


def test_all_users_in_one_request_get_the_same(client, expected):
    found = client.infer("recommender", [tensor(client, "user_id", expected.user_ids)])
    assert found.as_numpy("item_id").tolist() == expected.ranked[:, :10].tolist()


def test_ids_may_come_as_text(client, expected):
    users = [str(user).encode() for user in expected.user_ids[:3]]
    found = client.infer("recommender", [tensor(client, "user_id", users, "BYTES")])
    assert found.as_numpy("item_id").tolist() == expected.ranked[:3, :10].tolist()


def test_unknown_users_get_what_is_popular_and_are_told(client, expected):
    found = client.infer("recommender", [tensor(client, "user_id", [-7])], parameters={"k": 4})
    assert found.as_numpy("item_id").tolist() == [expected.popular[:4].tolist()]
    assert found.as_numpy("source").tolist() == [b"popularity"]


def test_a_history_makes_a_newcomer_known(client, expected):
    history = expected.known[5][:4].tolist()
    inputs = [tensor(client, "user_id", [-7]), tensor(client, "history", [history])]
    found = client.infer("recommender", inputs)
    assert found.as_numpy("source").tolist() == [b"history"]
    assert not set(found.as_numpy("item_id")[0].tolist()) & set(history)


def test_outputs_are_those_asked_for(client, expected):
    outputs = [client.module.InferRequestedOutput(name) for name in ("source", "item_id")]
    found = client.infer(
        "recommender", [tensor(client, "user_id", expected.user_ids[:2])], outputs=outputs
    )
    assert found.as_numpy("score") is None
    assert found.as_numpy("item_id").tolist() == expected.ranked[:2, :10].tolist()


def test_candidates_are_the_only_items_ranked(client, expected):
    some = expected.item_ids[::3]
    inputs = [
        tensor(client, "user_id", expected.user_ids[:1]), tensor(client, "candidate_id", some)
    ]  # fmt: skip
    found = client.infer("recommender", inputs, parameters={"k": 5})
    order = [item for item in expected.ranked[0].tolist() if item in set(some.tolist())]
    best = [item for item in order if item not in set(expected.known[0].tolist())][:5]
    assert found.as_numpy("item_id")[0, : len(best)].tolist() == best


def test_each_user_may_have_candidates_of_their_own_and_rules_hold(client, expected):
    some = np.stack([expected.item_ids[:20], expected.item_ids[20:40]])
    inputs = [
        tensor(client, "user_id", expected.user_ids[:2]), tensor(client, "candidate_id", some),
        tensor(client, "block_id", expected.item_ids[[3, 23]]),
    ]  # fmt: skip
    ask = {"k": 20, "exclude_seen": False, "min_score": "-1e9", "filter": '{"not": {"genres": []}}'}
    found = client.infer("recommender", inputs, parameters=ask)
    everything = client.infer("recommender", inputs[:1], parameters={**ask, "k": 40})
    for user in range(2):
        own = set(some[user].tolist()) - set(expected.item_ids[[3, 23]].tolist())
        order = [i for i in everything.as_numpy("item_id")[user].tolist() if i in own]
        assert found.as_numpy("item_id")[user].tolist()[:19] == order
        assert found.as_numpy("count")[user] == 19


def test_it_is_live_ready_and_described(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("recommender")
    described = client.get_model_metadata("recommender")
    inputs = described["inputs"] if isinstance(described, dict) else described.inputs
    names = [entry["name"] if isinstance(entry, dict) else entry.name for entry in inputs]
    of_users = ["attribute_segment", "attribute_age_group"]
    assert names == ["user_id", "history", "candidate_id", "block_id", *of_users]


def test_attributes_of_somebody_new_make_a_list_of_their_own(client, bundles):
    """As in this process, where the list is tested beside the tower's."""
    predictor = Predictor.load(bundles[0])
    described = {one["name"]: one["vocabulary"] for one in predictor.user_attributes.described}
    told = {name: [words[0], words[-1]] for name, words in described.items()}
    inputs = []
    for name, values in told.items():
        whole = isinstance(values[0], int)
        given = values if whole else [value.encode() for value in values]
        kind = "INT64" if whole else "BYTES"
        inputs.append(tensor(client, f"attribute_{name}", given, kind))
    found = client.infer("recommender", inputs)
    assert found.as_numpy("source").tolist() == [b"attributes"] * 2
    expected = predictor.recommend([None, None], 10, attributes=told)
    assert found.as_numpy("item_id").tolist() == expected.item_ids.tolist()
    with pytest.raises(InferenceServerException, match="no such attribute of users"):
        client.infer("recommender", [tensor(client, "attribute_color", [1])])


def test_what_cannot_be_answered_is_said_to_the_client(client):
    with pytest.raises(InferenceServerException, match="'k' = 0 is not between 1 and 40"):
        client.infer("recommender", [tensor(client, "user_id", [1])], parameters={"k": 0})
    with pytest.raises(InferenceServerException, match="Model with name other does not exist"):
        client.infer("other", [tensor(client, "user_id", [1])])


_BY_KSERVE = """
import asyncio, json, sys
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig

protocol, port, users = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])

async def answer():
    asked = InferRequest(
        "recommender", [InferInput("user_id", [len(users)], "INT64", data=users)]
    )
    if protocol == "grpc":
        client = InferenceGRPCClient(f"127.0.0.1:{port}")
        assert await client.is_server_ready()
        return await client.infer(asked)
    client, address = InferenceRESTClient(RESTConfig(protocol="v2")), f"http://127.0.0.1:{port}"
    assert await client.is_server_ready(address)
    return await client.infer(address, asked, model_name="recommender")

outputs = {output.name: output for output in asyncio.run(answer()).outputs}
print(outputs["item_id"].as_numpy().ravel().tolist())
"""


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_kserves_clients_get_the_same(service, expected, protocol):
    """In a process of their own: protobuf has no room for KServe's and Triton's messages both."""
    users = expected.user_ids[:3].tolist()
    command = [sys.executable, "-c", _BY_KSERVE, protocol, str(getattr(service, protocol))]
    done = subprocess.run([*command, json.dumps(users)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected.ranked[:3, :10].ravel().tolist()


def ask(service, path, document=None):
    data = None if document is None else json.dumps(document).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{service.http}{path}", data)
    with urllib.request.urlopen(request) as answer:
        return answer.read().decode()


def test_metrics_count_what_was_answered(service, expected):
    user = {"name": "user_id", "shape": [2], "datatype": "INT64"}
    users = expected.user_ids[:1].tolist()
    before = ask(service, "/metrics")
    ask(service, "/v2/models/recommender/infer", {"inputs": [{**user, "data": [*users, -7]}]})
    after = ask(service, "/metrics")

    def value(text, name):
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    for name, more in (
        ('cadc_rec_requests_total{outcome="answered",protocol="rest"}', 1),
        ('cadc_rec_request_seconds_count{protocol="rest"}', 1),
        ('cadc_rec_users_total{source="known"}', 1),
        ('cadc_rec_users_total{source="popularity"}', 1),
        ("cadc_rec_batch_users_sum", 2),
        ("cadc_rec_batch_requests_count", 1),
    ):
        assert value(after, name) - value(before, name) == more, name


def test_titles_come_on_demand_and_filters_are_json(service, expected):
    user = {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [-7]}
    answer = json.loads(
        ask(
            service,
            "/v2/models/recommender/infer",
            {"inputs": [user], "outputs": [{"name": "title"}], "parameters": {"k": 2}},
        )
    )
    assert [output["name"] for output in answer["outputs"]] == ["title"]
    assert answer["outputs"][0]["shape"] == [1, 2]
