"""Similar items, scores of pairs and vectors, through Triton's clients; and the page of the API."""

import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tritonclient.utils import InferenceServerException

from tests import zygote
from tests.serving.http.test_clients import ask, client, tensor  # noqa: F401 # a fixture

SCRIPT = Path(__file__).with_name("side_questions.py")


@pytest.mark.parametrize(
    "name",
    [
        "a_long_question_keeps_no_other_one_waiting",
        "a_question_has_a_deadline",
        "a_large_answer_is_encoded_off_the_loop",
        "the_page_asks_for_similar_items_as_all_do",
        "the_page_samples_users_once_a_bundle",
    ],
)
def test_beside_recommendations(name):
    process = zygote.start([SCRIPT, name], zygote.environment(), script=True)
    assert process.wait(60) == 0, process.said


@pytest.fixture(scope="module")
def vectors(bundles):
    return {
        side: load_file(bundles[0] / f"vectors/{side}s.safetensors")["vectors"].astype(np.float64)
        for side in ("user", "item")
    }


def test_similar_items_are_those_of_the_smallest_angle(client, expected, vectors):  # noqa: F811
    asked = expected.item_ids[[3, 11]]
    found = client.infer(
        "recommender-similar", [tensor(client, "item_id", asked)], parameters={"k": 6}
    )
    unit = vectors["item"] / np.linalg.norm(vectors["item"], axis=1, keepdims=True)
    cosines = unit[[3, 11]] @ unit.T
    cosines[[0, 1], [3, 11]] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :6]
    assert found.as_numpy("item_id").tolist() == expected.item_ids[order].tolist()
    np.testing.assert_allclose(
        found.as_numpy("score"), np.take_along_axis(cosines, order, 1), rtol=1e-5
    )
    assert found.as_numpy("count").tolist() == [6, 6]


def test_pairs_have_the_score_of_the_ranking_and_unknown_ones_none(
    client,  # noqa: F811
    expected,
    vectors,
):
    users, items = [*expected.user_ids[:3], -7], [*expected.item_ids[[5, 0, 9]], 3]
    inputs = [tensor(client, "user_id", users), tensor(client, "item_id", items)]
    found = client.infer("recommender-score", inputs)
    wanted = (vectors["user"][[0, 1, 2]] * vectors["item"][[5, 0, 9]]).sum(1)
    np.testing.assert_allclose(found.as_numpy("score"), [*wanted, 0], rtol=1e-5, atol=1e-6)
    assert found.as_numpy("known").tolist() == [True, True, True, False]


def test_vectors_are_those_that_are_searched_with(client, expected, vectors):  # noqa: F811
    items = client.infer(
        "recommender-embed", [tensor(client, "item_id", [expected.item_ids[4], -7])]
    )
    assert items.as_numpy("known").tolist() == [True, False]
    np.testing.assert_array_equal(
        items.as_numpy("vector"), np.float32([vectors["item"][4], 0 * vectors["item"][4]])
    )
    history = expected.known[5][:4].tolist()
    inputs = [
        tensor(client, "user_id", [expected.user_ids[2], -7]),
        tensor(client, "history", [[-1] * 4, history]),
    ]
    users = client.infer("recommender-embed", inputs)
    np.testing.assert_array_equal(users.as_numpy("vector")[0], np.float32(vectors["user"][2]))
    answer = client.infer("recommender", inputs, parameters={"k": 5})
    scores = users.as_numpy("vector")[1].astype(np.float64) @ vectors["item"].T
    scores[np.isin(expected.item_ids, history)] = -np.inf
    best = expected.item_ids[np.argsort(-scores, kind="stable")[:5]]
    assert answer.as_numpy("item_id")[1].tolist() == best.tolist()


SIDES = ["recommender-similar", "recommender-score", "recommender-embed"]


def test_they_are_ready_and_described(client):  # noqa: F811
    for name in SIDES:
        assert client.is_model_ready(name)
        told = client.get_model_metadata(name)
        inputs = told["inputs"] if isinstance(told, dict) else told.inputs
        assert "item_id" in [one["name"] if isinstance(one, dict) else one.name for one in inputs]


def test_they_are_in_the_index(service):
    address = f"http://127.0.0.1:{service.http}/v2/repository/index"
    with urllib.request.urlopen(urllib.request.Request(address, b"", method="POST")) as answer:
        listed = json.load(answer)
    assert {one["name"] for one in listed} == {"recommender", *SIDES}


@pytest.mark.parametrize(
    ("model", "inputs", "parameters", "message"),
    [
        ("similar", {"item_id": [-7]}, {}, "no item has the id -7"),
        ("similar", {}, {}, "input 'item_id' is missing"),
        ("similar", {"item_id": [0], "user_id": [0]}, {}, "'user_id': this model takes item_id"),
        ("similar", {"item_id": [0]}, {"k": 0}, "'k' = 0 is not between 1 and 40"),
        ("similar", {"item_id": [0]}, {"filter": '{"x": [1]}'}, "items have no attribute 'x'"),
        ("similar", {"item_id": [0]}, {"max_per": "{}"}, "parameter 'max_per': this model has"),
        ("score", {"user_id": [0, 1], "item_id": [0]}, {}, "1 items for 2 users; give pairs"),
        ("score", {"user_id": [0], "item_id": [0]}, {"k": 3}, "parameter 'k': this model has"),
        ("embed", {"candidate_id": [0]}, {}, "name users in 'user_id'"),
        ("embed", {"item_id": [0], "history": [0]}, {}, "'history': this model takes item_id"),
        ("embed", {"item_id": []}, {}, "'item_id' is empty"),
        ("other", {"item_id": [0]}, {}, "Model with name recommender-other does not exist"),
    ],
)
def test_what_is_no_such_question_is_refused(client, model, inputs, parameters, message):  # noqa: F811
    tensors = [tensor(client, name, values) for name, values in inputs.items()]
    with pytest.raises(InferenceServerException, match=message):
        client.infer(f"recommender-{model}", tensors, parameters=parameters)


def test_the_recommender_refuses_their_inputs_and_outputs(service):
    user = {"name": "user_id", "shape": [1], "datatype": "INT64", "data": [0]}
    for document, message in [
        ({"inputs": [user, {**user, "name": "item_id"}]}, "'item_id': this model takes none"),
        ({"inputs": [user], "outputs": [{"name": "vector"}]}, "'vector': this model gives none"),
    ]:
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(service, "/v2/models/recommender/infer", document)
        assert refused.value.code == 400
        assert message in json.loads(refused.value.read())["error"]


def test_the_page_of_the_api_needs_nothing_from_elsewhere(service):
    page, script = ask(service, "/docs"), ask(service, "/docs.js")
    assert "/openapi.json" in script
    for text in (page, script):
        assert not re.findall(r"https?://", text)
    api = json.loads(ask(service, "/openapi.json"))
    infer = api["paths"]["/v2/models/{model_name}/infer"]["post"]
    assert "recommender-similar" in infer["parameters"][0]["schema"]["enum"]
