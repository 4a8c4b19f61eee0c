"""The rest of the protocol: versions, configuration, statistics, compressed bodies, shutdown."""

from __future__ import annotations

import gzip
import json
import socket
import time
import urllib.error
import urllib.request
import zlib

import grpc
import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

INFER = "/v2/models/recommender/infer"
USER = {"inputs": [{"name": "user_id", "shape": [1], "datatype": "INT64", "data": [0]}]}


@pytest.fixture(params=["http", "grpc"])
def client(request, service):
    module = getattr(__import__(f"tritonclient.{request.param}"), request.param)
    made = module.InferenceServerClient(f"127.0.0.1:{getattr(service, request.param)}")
    made.module, made.told = module, {} if request.param == "http" else {"as_json": True}
    yield made
    made.close()


@pytest.fixture(scope="module")
def version(bundles):
    return json.loads((bundles[0] / "manifest.json").read_text())["fingerprint"][:12]


def user(client, users=(0,)):
    made = client.module.InferInput("user_id", [len(users)], "INT64")
    made.set_data_from_numpy(np.array(users))
    return made


def ask(service, path, body=None, **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(f"http://127.0.0.1:{service.http}{path}", body, names)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_version_is_the_bundles(client, version):
    answer = client.infer("recommender", [user(client)], model_version=version).get_response()
    told = answer["model_version"] if isinstance(answer, dict) else answer.model_version
    assert told == version
    described = client.get_model_metadata("recommender", **client.told)
    assert described["versions"] == [version]
    assert client.is_model_ready("recommender", version)
    assert client.get_model_metadata("recommender", version, **client.told) == described


def test_another_version_is_refused_by_name(client, version):
    for call in (
        lambda: client.infer("recommender", [user(client)], model_version="7"),
        lambda: client.get_model_metadata("recommender", "7"),
        lambda: client.get_model_config("recommender", "7"),
        lambda: client.get_inference_statistics("recommender", "7"),
    ):
        with pytest.raises(InferenceServerException, match=f"no version 7; .* version {version}"):
            call()


def test_the_configuration_is_tritons(client):
    config = client.get_model_config("recommender", **client.told)
    config = config.get("config", config)
    assert (config["name"], config["backend"]) == ("recommender", "cadc-rec")
    inputs = {one["name"]: one for one in config["input"]}
    assert inputs["user_id"]["data_type"] == "TYPE_INT64"
    assert [int(length) for length in inputs["history"]["dims"]] == [-1, -1]
    assert all(inputs[name]["optional"] for name in ("history", "user_id"))
    pairs = client.get_model_config("recommender-score", **client.told)
    pairs = pairs.get("config", pairs)["input"]
    assert not any(one.get("optional") for one in pairs if one["name"] in ("user_id", "item_id"))
    kinds = {one["name"]: one["data_type"] for one in config["output"]}
    assert (kinds["score"], kinds["title"]) == ("TYPE_FP32", "TYPE_STRING")


def test_statistics_count_what_was_answered(client, version):
    def told():
        (found,) = client.get_inference_statistics("recommender", **client.told)["model_stats"]
        (same,) = client.get_inference_statistics(**client.told)["model_stats"]
        assert same["inference_count"] == found["inference_count"]
        success = found["inference_stats"]["success"]
        assert found["version"] == version
        return (
            int(found["inference_count"]), int(found["execution_count"]), int(success["count"]),
            int(success["ns"]), int(found["last_inference"]),
        )  # fmt: skip

    client.infer("recommender", [user(client)])
    of_all = client.get_inference_statistics(**client.told)["model_stats"]
    assert [one["name"] for one in of_all] == ["recommender"]
    before = told()
    client.infer("recommender", [user(client, (0, 1, 2))])
    with pytest.raises(InferenceServerException):
        client.infer("recommender", [user(client)], parameters={"k": 0})
    after = told()
    assert [new - old for new, old in zip(after, before, strict=True)][:3] == [3, 1, 1]
    assert after[3] > before[3]
    assert abs(after[4] / 1000 - time.time()) < 60


def test_the_index_has_the_model(client, version):
    index = client.get_model_repository_index(**client.told)
    index = index["models"] if isinstance(index, dict) else index
    (entry,) = (each for each in index if each["name"] == "recommender")
    assert (entry["name"], entry["version"], entry["state"]) == ("recommender", version, "READY")


def test_the_index_may_be_of_those_that_are_ready(service):
    path = "/v2/repository/index"
    status, every = ask(service, path, b"")
    assert (status, len(every)) == (200, 4)
    assert ask(service, path, b'{"ready": true}') == (200, every)
    for body in (b'{"ready": 1}', b"[]", b"{"):
        status, answer = ask(service, path, body)
        assert status == 400
        assert "a request for the index" in answer["error"]


def test_the_server_tells_what_it_has(client):
    told = client.get_server_metadata(**client.told)
    assert told["name"] == "cadc-rec"
    assert {"statistics", "model_configuration", "binary_tensor_data"} <= set(told["extensions"])


def test_a_stream_is_refused_by_name(service):
    def refusals():
        with urllib.request.urlopen(f"http://127.0.0.1:{service.http}/metrics") as answer:
            (line,) = (
                line
                for line in answer.read().decode().splitlines()
                if line.startswith('cadc_rec_refusals_total{protocol="grpc",reason="invalid"}')
            )
        return float(line.split()[-1])

    before = refusals()
    with grpc.insecure_channel(f"127.0.0.1:{service.grpc}") as channel:
        stream = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        with pytest.raises(grpc.RpcError) as refusal:
            list(stream(iter([b""]), timeout=30))
    assert refusal.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert refusal.value.details() == (
        "streams are not served; ask with ModelInfer, one request at a time."
    )
    assert refusals() == before + 1


@pytest.mark.parametrize("form", ["gzip", "deflate"])
def test_compressed_bodies_are_answered_as_plain_ones(service, form, expected):
    import tritonclient.http as triton

    client = triton.InferenceServerClient(f"127.0.0.1:{service.http}")
    asked = triton.InferInput("user_id", [len(expected.user_ids)], "INT64")
    asked.set_data_from_numpy(expected.user_ids, binary_data=True)
    found = client.infer(
        "recommender", [asked], request_compression_algorithm=form,
        response_compression_algorithm=form,
    )  # fmt: skip
    client.close()
    assert found.as_numpy("item_id").tolist() == expected.ranked[:, :10].tolist()


@pytest.mark.parametrize(
    ("body", "form", "status", "says"),
    [
        (gzip.compress(bytes(100 << 20)), "gzip", 413, "the body is larger than 2097152 bytes"),
        (zlib.compress(bytes(100 << 20)), "deflate", 413, "the body is larger than 2097152"),
        (gzip.compress(b"{}")[:-4], "gzip", 400, "the body is not one whole gzip."),
        (gzip.compress(b"{}") + b"x", "gzip", 400, "the body is not one whole gzip."),
        (b"{}", "gzip", 400, "the body is not gzip, as it says."),
        (b"{}", "br", 415, "bodies are taken plain, or as Content-Encoding gzip or deflate."),
        (gzip.compress(b"{}"), "gzip, gzip", 415, "bodies are taken plain"),
    ],
    ids=range(7),
)
def test_bodies_that_inflate_too_far_or_not_at_all_are_refused(service, body, form, status, says):
    got, answer = ask(service, INFER, body, content_encoding=form)
    assert (got, says in answer["error"]) == (status, True), answer


@pytest.mark.parametrize("depth", [10, 150, 250, 5000, 200_000])
def test_json_of_any_depth_is_refused_without_a_traceback(service, version, depth):
    nest = b"[" * depth + b"1" + b"]" * depth
    objects = b'{"a":' * depth + b"1" + b"}" * depth
    head = b'{"inputs":[{"name":"user_id","shape":[1],"datatype":"INT64","data":'
    text = json.dumps(nest.decode()).encode()
    bodies = [
        nest, objects, head + nest + b"}]}",
        head + b'[0]}],"parameters":' + objects + b"}",
        head + b'[0]}],"parameters":{"filter":' + text + b"}}",
    ]  # fmt: skip
    for body in bodies:
        for path in (INFER, f"/v2/models/recommender/versions/{version}/infer"):
            status, answer = ask(service, path, body)
            assert (status, list(answer)) == (400, ["error"])
    for path in ("/v2/repository/index", "/v2/repository/models/recommender/load"):
        assert ask(service, path, nest, content_type="application/json")[0] in (200, 400, 403)


def listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionError:
        return False
    return True


def test_an_answer_under_way_is_whole_though_the_service_stops(start, bundles):
    service = start(bundles[0])
    users = {"name": "user_id", "shape": [1024], "datatype": "INT64", "data": list(range(1024))}
    body = json.dumps({"inputs": [users], "parameters": {"k": 40}}).encode()
    head = f"POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", service.http), timeout=60) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(head + body)
        got = slow.recv(1000)  # the answer has begun
        assert got.startswith(b"HTTP/1.1 200 ")
        service.process.terminate()
        end = time.monotonic() + 15
        while listens(service.http):
            assert time.monotonic() < end
            time.sleep(0.1)
        while part := slow.recv(4096):
            got += part
    assert service.stop() == 0
    chunks, rest = [], got.partition(b"\r\n\r\n")[2]
    while size := int(rest.partition(b"\r\n")[0], 16):
        rest = rest.partition(b"\r\n")[2]
        chunks.append(rest[:size])
        rest = rest[size + 2 :]
    document = json.loads(b"".join(chunks))
    assert len(document["outputs"][0]["data"]) == 1024 * 40
